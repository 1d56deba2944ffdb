"""The command line of a run, and options from a TOML file: mistakes are told in one line."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mpisim.config import Config
from mpisim.errors import InputError, check_readable, line_of
from mpisim.options import flag

MAX_TOML_BYTES = 16 << 20


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that raises InputError where argparse prints its usage and exits."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        # What begins with a minus is a value if it is a number: argparse forgets those with an exponent.
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")

    def error(self, message: str) -> NoReturn:
        """Raise the error of a command line."""
        raise InputError(f"{message} (--help lists the options)")


def exit_code(command: Callable[[], object]) -> int:
    """Run a command; return 0, or 2 if its input is wrong, after the one line that says so on stderr."""
    try:
        command()
    except InputError as error:
        print(line_of(error), file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m mpisim.run``: a flag for every option, and --config."""
    parser = OneLineParser(
        prog="python -m mpisim.run",
        description="Run one experiment on any number of MPI ranks and log it.",
        epilog="exit codes: 0 complete, 2 wrong input, 3 stopped, at a checkpoint or before the first round (--resume"
        " goes on), 1 anything else",
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
                flag(option.name), action="store_true" if plain else argparse.BooleanOptionalAction, help=help_text
            )
            continue
        group.add_argument(
            flag(option.name),
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
        check_readable(path, MAX_TOML_BYTES)
        options = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise InputError(f"{path}: cannot be read as TOML: {error}") from error
    known = {option.name for option in dataclasses.fields(Config)}
    for key in options:
        if key not in known:
            raise InputError(
                f"{path}: unknown key {key!r}: the keys are the flags with underscores (--help lists them)"
            )
    return options
