"""Every option: its default, its check, its flag and its TOML key.

An option is one field of ``Config``: its flag is ``--like-this``, its TOML key ``like_this``. Precedence: default < the
data set's recipe < TOML file < flag.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpisim.arguments import OneLineParser
from mpisim.data.datasets import DATASETS
from mpisim.data.ood import OOD_KINDS
from mpisim.errors import InputError, unknown_name
from mpisim.graphs.mixing import NORMALIZATIONS, STRATEGIES

INITS = ("common", "independent")
DEVICES = ("auto", "cpu", "cuda", "xpu")


def _option(group: str, default: Any, kind: type, help_text: str, **more: Any) -> Any:
    """Describe an option.

    Parameters
    ----------
    kind : type of the value, or of each of the values where ``count`` is given ("+" or a number)
    more : ``choices`` (names); ``least``, ``most`` (may be equal), ``above``, ``below`` (may not); ``count``;
        ``recipe`` (the data set gives the default)
    """
    return field(default=default, metadata={"group": group, "kind": kind, "help": help_text, **more})


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options of a run, checked. A field left at None follows from the data set's recipe, or from the machine.

    Raises
    ------
    InputError
        If a value is of the wrong type, out of range or unknown; the message names the option's flag.
    """

    name: str = _option("run", "run", str, "the run's name: the log is results/NAME.h5, or NAME-2, … if that is taken")
    output: str | None = _option(
        "run", None, str, "the log, in place of results/NAME.h5; a new file, or a log with --overwrite"
    )
    seed: int = _option("run", 0, int, "of everything that is drawn", least=0)
    rounds: int = _option("run", 20, int, "rounds: local training of every node, then one aggregation", least=1)
    epochs: int = _option("run", 5, int, "epochs of local training in each round", least=1)

    topology: str = _option(
        "topology", "ba:n=24,m=2,seed=0", str, "a generator (ba:n=33,m=2,seed=0, ring:n=8, …) or a file"
    )

    strategy: str = _option(
        "mixing", "degree", str, "how the mixing matrix follows from the topology", choices=STRATEGIES
    )
    normalize: str = _option(
        "mixing", "softmax", str, "how centralities or random scores become weights", choices=NORMALIZATIONS
    )
    temperature: float = _option("mixing", 0.1, float, "of the softmax; negative prefers the least central neighbor")

    dataset: str = _option("data", "digits", str, "the data set, which brings its recipe", choices=DATASETS)
    data_dir: str = _option("data", "data", str, "where data sets are, or are downloaded to")
    no_download: bool = _option("data", False, bool, "take only data that is on disk")
    train_samples: int | None = _option("data", None, int, "use only the first N training samples", least=1)
    test_samples: int | None = _option("data", None, int, "use only the first N test samples", least=1)
    label_alpha: float = _option("data", 1000.0, float, "Dirichlet concentration of the nodes' labels", above=0)
    sample_alpha: float = _option("data", 1000.0, float, "Dirichlet concentration of the nodes' shard sizes", above=0)

    data_placement: str = _option(
        "data",
        "random",
        str,
        "where the large shards are: anywhere, or at the most central nodes",
        choices=("random", "degree", "betweenness"),
    )
    data_placement_offset: int = _option("data", 0, int, "how many nodes down that order the largest is", least=0)
    tinymem_tasks: str = _option("data", "even", str, "coefficients of tinymem", choices=("even", "prime"))
    tinymem_operation: str = _option("data", "multiply", str, "what they do", choices=("multiply", "sum"))
    tinymem_modulo: int = _option("data", 16_381, int, "of tinymem's numbers", least=1, most=2**31)
    tinymem_length: int = _option("data", 20, int, "numbers in a sequence", least=1, most=10_000)
    tinymem_context: int = _option("data", 150, int, "tokens in a sequence", least=4, most=100_000)
    tinymem_examples: int = _option("data", 33_000, int, "sequences of each task", least=2, most=10_000_000)
    tinymem_tests: int = _option("data", 1_000, int, "of them for testing", least=1)

    ood: str = _option(
        "OOD", "trigger", str, "what is out of distribution at the OOD nodes", choices=["none", *OOD_KINDS]
    )
    ood_node: tuple[int, ...] | None = _option("OOD", None, int, "the OOD nodes", count="+", least=0)
    ood_rank: int | None = _option("OOD", None, int, "or one node, by its degree: 1 is the highest (1)", least=1)
    ood_fraction: float = _option(
        "OOD", 0.1, float, "share of an OOD node's samples, and of the test set, that is OOD", above=0, below=1
    )

    trigger_position: str = _option("OOD", "corner", str, "where the trigger is", choices=("corner", "random"))
    trigger_label: str = _option(
        "OOD", "zero", str, "the label of an image with the trigger: 0, or the next one", choices=("zero", "shift")
    )

    model: str | None = _option("learning", None, str, "what every node trains", recipe=True)
    init: str = _option("learning", "common", str, "whether all nodes start from one model", choices=INITS)
    batch_size: int | None = _option("learning", None, int, "samples in a training step", recipe=True, least=1)
    optimizer: str | None = _option(
        "learning", None, str, "sgd, adam or adamw; its state is new each round", recipe=True
    )
    lr: float | None = _option("learning", None, float, "learning rate", recipe=True, above=0, most=1e30)
    momentum: float = _option("learning", 0.0, float, "of sgd", least=0, below=1)
    weight_decay: float = _option("learning", 0.0, float, "L2 penalty (decoupled for adamw)", least=0, most=1e30)
    betas: tuple[float, ...] = _option("learning", (0.9, 0.999), float, "of adam and adamw", count=2, least=0, below=1)
    shuffle: bool = _option(
        "learning", False, bool, "train in a new order each epoch (the OOD samples then lie anywhere)"
    )
    no_train: bool = _option("learning", False, bool, "only mix the initial models")

    device: str = _option("execution", "auto", str, "what each rank computes on", choices=DEVICES)
    threads: int | None = _option(
        "execution", None, int, "per rank; by default the host's cores / its ranks", least=1, most=1024
    )

    overwrite: bool = _option("keeping", False, bool, "replace the log given with --output")
    dry_run: bool = _option("keeping", False, bool, "print the plan and stop")
    quiet: bool = _option("keeping", False, bool, "print nothing but errors")

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            object.__setattr__(self, option.name, _checked(option, getattr(self, option.name)))
        recipe = DATASETS[self.dataset].recipe
        # Registries that need torch are asked only about names that no recipe vouches for: a rank 0 that reads its
        # options without torch finds most mistakes before 24 ranks have paid for their imports.
        if self.model not in (None, recipe.model):
            from mpisim.models.catalog import MODELS

            _known("model", str(self.model), MODELS)
        if self.optimizer not in (None, recipe.optimizer):
            from mpisim.learning.training import OPTIMIZERS

            _known("optimizer", str(self.optimizer), OPTIMIZERS)
        for option in dataclasses.fields(self):
            if option.metadata.get("recipe") and getattr(self, option.name) is None:
                object.__setattr__(self, option.name, getattr(recipe, option.name))
        if self.temperature == 0 or not math.isfinite(1 / self.temperature):
            raise InputError(f"--temperature {self.temperature:g}: must not be zero, nor nearly")
        if Path(self.name).name != self.name or self.name in ("", ".."):
            raise InputError(f"--name {self.name!r}: must be a plain file name; --output takes a path")
        if self.ood_node is not None and self.ood_rank is not None:
            raise InputError("--ood-node and --ood-rank: give one of them")
        if self.overwrite and self.output is None:
            raise InputError("--overwrite: needs --output, without it a run takes the next free name")

    def as_dict(self) -> dict[str, Any]:
        """Return the options by name, as JSON can hold them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def _known(kind: str, name: str, registry: Any) -> None:
    if name not in registry:
        raise unknown_name(kind, name, registry)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _checked(option: dataclasses.Field[Any], value: Any) -> Any:
    """Return the value of an option, of the right type, or raise the error that names its flag."""
    rules = option.metadata
    if value is None and option.default is None:
        return None
    if "count" in rules:
        values = value if isinstance(value, (list, tuple)) else [value]
        if not values or (rules["count"] != "+" and len(values) != rules["count"]):
            wanted = "one value or more" if rules["count"] == "+" else f"{rules['count']} values"
            raise InputError(f"{_flag(option.name)} {value}: takes {wanted}")
        return tuple(_checked_one(option.name, rules, each) for each in values)
    return _checked_one(option.name, rules, value)


def _checked_one(name: str, rules: Any, value: Any) -> Any:
    kind = rules["kind"]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else math.inf
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = {int: "an integer", float: "a number", str: "text", bool: "true or false"}[kind]
        raise InputError(f"{_flag(name)} {value!r}: must be {wanted}")
    if "choices" in rules and value not in rules["choices"]:
        raise unknown_name(name.replace("_", " "), value, rules["choices"])
    if kind is float and not math.isfinite(value):
        raise InputError(f"{_flag(name)} {value}: must be finite")
    if kind is int and abs(value) >= 2**63:
        raise InputError(f"{_flag(name)} {value}: is too large")
    bounds: dict[str, tuple[Callable[[Any], bool], str]] = {
        "least": (lambda bound: value >= bound, "must be {} or more"),
        "most": (lambda bound: value <= bound, "must be {:g} at most"),
        "above": (lambda bound: value > bound, "must be above {}"),
        "below": (lambda bound: value < bound, "must be below {}"),
    }
    for rule, (holds, text) in bounds.items():
        if rule in rules and not holds(rules[rule]):
            raise InputError(f"{_flag(name)} {value}: {text.format(rules[rule])}")
    return value


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m mpisim.run``: a flag for every option, and --config."""
    parser = OneLineParser(
        prog="python -m mpisim.run",
        description="Run one experiment on any number of MPI ranks and log it.",
        epilog="exit codes: 0 complete, 2 wrong input, 1 anything else",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    groups = {"run": parser.add_argument_group("run")}
    groups["run"].add_argument("--config", metavar="FILE.toml", help="options from a file; flags win")
    for option in dataclasses.fields(Config):
        rules = option.metadata
        group = groups.setdefault(rules["group"], parser.add_argument_group(rules["group"]))
        help_text = rules["help"] + _default_text(option)
        if rules["kind"] is bool:
            # A negative option has no further negation; the others can be taken back from a file by --no-….
            plain = option.name.startswith("no_")
            group.add_argument(
                _flag(option.name), action="store_true" if plain else argparse.BooleanOptionalAction, help=help_text
            )
            continue
        group.add_argument(
            _flag(option.name),
            type=rules["kind"],
            nargs=rules.get("count"),
            metavar=_metavar(option),
            help=help_text,
        )
    return parser


def _metavar(option: dataclasses.Field[Any]) -> str:
    if option.name in ("data_dir", "output", "name"):
        return {"data_dir": "DIR", "output": "FILE.h5", "name": "NAME"}[option.name]
    return {int: "N", float: "X", str: option.name.upper()}[option.metadata["kind"]]


def _default_text(option: dataclasses.Field[Any]) -> str:
    choices = ""
    if "choices" in option.metadata:
        choices = f"; one of {', '.join(sorted(option.metadata['choices']))}"
    if option.metadata.get("recipe"):
        return f"{choices} (the data set's)"
    if option.metadata["kind"] is bool or option.default is None:
        return choices
    default = option.default if not isinstance(option.default, tuple) else " ".join(map(str, option.default))
    return f"{choices} ({default})".replace("%", "%%")


def parse_config(arguments: Sequence[str]) -> Config:
    """Return the options of a command line, and of the TOML file it names.

    Raises
    ------
    InputError
        If anything in either is wrong.
    SystemExit
        With code 0, after ``--help``.
    """
    flags = vars(make_parser().parse_args(list(arguments)))
    path = flags.pop("config", None)
    from_file = {} if path is None else read_toml(Path(path))
    return Config(**(from_file | flags))


def read_toml(path: Path) -> dict[str, Any]:
    """Return the options in a TOML file.

    Raises
    ------
    InputError
        If it cannot be read, or has a key that is no option.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        options = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read as TOML: {error}") from error
    known = {option.name for option in dataclasses.fields(Config)}
    for key in options:
        if key not in known:
            raise InputError(
                f"{path}: unknown key {key!r}: the keys are the flags with underscores (--help lists them)"
            )
    return options
