"""Every option: its default, its check, its flag and its TOML key.

An option is one field of ``Config``: its flag is ``--like-this``, its TOML key ``like_this``. Precedence: default < the
data set's recipe < TOML file < flag.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpisim.data.datasets import DATASETS
from mpisim.data.ood import OOD_KINDS
from mpisim.errors import InputError
from mpisim.graphs.mixing import NORMALIZATIONS
from mpisim.graphs.schedule import SCHEDULES
from mpisim.graphs.strategies import STRATEGIES
from mpisim.options import check_known, checked, option

INITS = ("common", "independent")
SMALLEST_TEMPERATURE = 1e-30
DEVICES = ("auto", "cpu", "cuda", "xpu")
PLACEMENTS = ("contiguous", "mincut")
WIRES = ("float32", "bfloat16")
TRANSPORTS = ("mpi", "device")
OF_ESTIMATES = ("ranks_per_host", "latency", "bandwidth")  # options that tell an estimate of the machine


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options of a run, checked. A field left at None follows from the data set's recipe, or from the machine.

    Raises
    ------
    InputError
        If a value is of the wrong type, out of range or unknown; the message names the option's flag.
    """

    name: str = option("run", "run", str, "the run's name: the log is results/NAME.h5, or NAME-2, … if that is taken")
    output: str | None = option(
        "run", None, str, "the log, in place of results/NAME.h5; a new file, or a log with --overwrite"
    )
    seed: int = option("run", 0, int, "of everything that is drawn", least=0)
    rounds: int = option("run", 20, int, "rounds: local training of every node, then one aggregation", least=1)
    epochs: int = option("run", 5, int, "epochs of local training in each round", least=1)

    topology: str = option(
        "topology", "ba:n=24,m=2,seed=0", str, "a generator (ba:n=33,m=2,seed=0, ring:n=8, …) or a file"
    )
    placement: str = option(
        "topology", "contiguous", str, "a rank's nodes: consecutive, or such that few models travel", choices=PLACEMENTS
    )

    strategy: str = option(
        "mixing", "degree", str, "how the mixing matrix follows from the topology", choices=STRATEGIES
    )
    normalize: str = option(
        "mixing", "softmax", str, "how centralities or random scores become weights", choices=NORMALIZATIONS
    )
    temperature: float = option("mixing", 0.1, float, "of the softmax; negative prefers the least central neighbor")

    schedule: str = option("mixing", "constant", str, "how 1 / temperature changes over the rounds", choices=SCHEDULES)
    schedule_period: int = option("mixing", 5, int, "rounds until cosine restarts, or oscillate turns", least=1)
    schedule_multiplier: int = option("mixing", 1, int, "how much longer each period of cosine is", least=1)
    schedule_floor: float | None = option(
        "mixing",
        None,
        float,
        "what 1 / temperature falls to: 0 for cosine, 1 for exponential",
        least=-1e30,
        most=1e30,
    )
    schedule_decay: float = option("mixing", 0.95, float, "factor per round of exponential", above=0, most=1)

    dataset: str = option("data", "digits", str, "the data set, which brings its recipe", choices=DATASETS)
    data_dir: str = option("data", "data", str, "where data sets are, or are downloaded to")
    no_download: bool = option("data", False, bool, "take only data that is on disk")
    train_samples: int | None = option("data", None, int, "use only the first N training samples", least=1)
    test_samples: int | None = option("data", None, int, "use only the first N test samples", least=1)
    label_alpha: float = option("data", 1000.0, float, "Dirichlet concentration of the nodes' labels", above=0)
    sample_alpha: float = option("data", 1000.0, float, "Dirichlet concentration of the nodes' shard sizes", above=0)

    local_split: tuple[float, ...] | None = option(
        "data",
        None,
        float,
        "shares of a node's samples for training, its own test, and validation (held back): 0.7 0.2 0.1",
        count=3,
        above=0,
        below=1,
    )
    augment: bool = option("data", False, bool, "crop and flip training images at random (not the OOD ones)")
    data_placement: str = option(
        "data",
        "random",
        str,
        "where the large shards are: anywhere, or at the most central nodes",
        choices=("random", "degree", "betweenness"),
    )
    data_placement_offset: int = option("data", 0, int, "how many nodes down that order the largest is", least=0)
    tinymem_tasks: str = option("data", "even", str, "coefficients of tinymem", choices=("even", "prime"))
    tinymem_operation: str = option("data", "multiply", str, "what they do", choices=("multiply", "sum"))
    tinymem_modulo: int = option("data", 16_381, int, "of tinymem's numbers", least=1, most=2**31)
    tinymem_length: int = option("data", 20, int, "numbers in a sequence", least=1, most=10_000)
    tinymem_context: int = option("data", 150, int, "tokens in a sequence", least=4, most=100_000)
    tinymem_examples: int = option("data", 33_000, int, "sequences of each task", least=2, most=10_000_000)
    tinymem_tests: int = option("data", 1_000, int, "of them for testing", least=1)

    ood: str = option(
        "OOD", "trigger", str, "what is out of distribution at the OOD nodes", choices=["none", *OOD_KINDS]
    )
    ood_node: tuple[int, ...] | None = option("OOD", None, int, "the OOD nodes", count="+", least=0)
    ood_rank: int | None = option("OOD", None, int, "or one node, by its degree: 1 is the highest (1)", least=1)
    ood_fraction: float = option(
        "OOD", 0.1, float, "share of an OOD node's samples, and of the test set, that is OOD", above=0, below=1
    )

    trigger_position: str = option("OOD", "corner", str, "where the trigger is", choices=("corner", "random"))
    trigger_label: str = option(
        "OOD", "zero", str, "the label of an image with the trigger: 0, or the next one", choices=("zero", "shift")
    )

    model: str | None = option("learning", None, str, "what every node trains", recipe=True)
    init: str = option("learning", "common", str, "whether all nodes start from one model", choices=INITS)
    batch_size: int | None = option("learning", None, int, "samples in a training step", recipe=True, least=1)
    optimizer: str | None = option(
        "learning", None, str, "sgd, adam or adamw; its state is new each round", recipe=True
    )
    lr: float | None = option("learning", None, float, "learning rate", recipe=True, above=0, most=1e30)
    momentum: float = option("learning", 0.0, float, "of sgd", least=0, below=1)
    weight_decay: float = option("learning", 0.0, float, "L2 penalty (decoupled for adamw)", least=0, most=1e30)
    betas: tuple[float, ...] = option("learning", (0.9, 0.999), float, "of adam and adamw", count=2, least=0, below=1)
    keep_optimizer_state: bool = option("learning", False, bool, "from round to round, in place of a new one")
    proximal: float = option(
        "learning",
        0.0,
        float,
        "strength of the pull towards the neighbors' models, as the round begins",
        least=0,
        most=1e30,
    )
    shuffle: bool = option(
        "learning", False, bool, "train in a new order each epoch (the OOD samples then lie anywhere)"
    )
    no_train: bool = option("learning", False, bool, "only mix the initial models")

    participation: float = option(
        "faults", 1.0, float, "share of the nodes that train and mix in a round", above=0, most=1
    )
    link_dropout: float = option("faults", 0.0, float, "probability that an edge fails in a round", least=0, below=1)

    device: str = option("execution", "auto", str, "what each rank computes on", choices=DEVICES)
    engine: str = option(
        "execution",
        "auto",
        str,
        "whether nodes train one by one or stacked; auto takes what is fast",
        choices=("auto", "sequential", "batched"),
    )
    stack: int | None = option("execution", None, int, "nodes in a stack, at the most", least=1, most=65_536)
    wire: str = option(
        "execution", "float32", str, "what neighbors' models are rounded to: bfloat16 is half the bytes", choices=WIRES
    )
    transport: str = option(
        "execution", "mpi", str, "what carries models: MPI, or torch.distributed between devices", choices=TRANSPORTS
    )
    gpu_aware: bool = option("execution", False, bool, "give MPI device memory, once it has passed a test")
    precision: str = option("execution", "float32", str, "of the factors of products; else float32", choices=WIRES)
    deterministic: bool = option("execution", False, bool, "compute the same bits each time, on a GPU too")
    threads: int | None = option(
        "execution", None, int, "per rank; by default the host's cores / its ranks", least=1, most=1024
    )

    evaluate_at: str = option(
        "measurements",
        "trained",
        str,
        "which models are tested: trained ones, before they are aggregated, or aggregated ones",
        choices=("trained", "aggregated", "both"),
    )
    evaluate_every: str = option(
        "measurements", "round", str, "test trained models after each round, or each epoch", choices=("round", "epoch")
    )

    checkpoint_every: int = option(
        "keeping", 5, int, "rounds from one checkpoint to the next; 0 for the end alone", least=0
    )
    resume: bool = option("keeping", False, bool, "go on with the run of the log; begin it if there is none")
    walltime: float | None = option(
        "keeping", None, float, "seconds that the job may take: it stops at a checkpoint before", above=0
    )
    timeout: float = option(
        "keeping",
        1800.0,
        float,
        "seconds without a sign of another rank until the job ends; rank 0 gives none while it downloads data",
        above=0,
    )
    stop_on_nan: bool = option("keeping", False, bool, "end the job when a loss is no number")
    overwrite: bool = option("keeping", False, bool, "replace the log given with --output")
    dry_run: bool = option("keeping", False, bool, "print the plan and stop")
    quiet: bool = option("keeping", False, bool, "print nothing but errors")

    estimate: tuple[int, ...] | None = option(
        "estimate", None, int, "print what the run takes on these numbers of ranks, and stop", count="+", least=1
    )
    ranks_per_host: int | None = option(
        "estimate", None, int, "of another machine, where each has cores of its own (all on this one)", least=1
    )
    latency: float | None = option(
        "estimate", None, float, "of a message between two ranks, in µs (measured here)", above=0, most=1e9
    )
    bandwidth: float | None = option(
        "estimate", None, float, "between two ranks, in GB/s each way (measured here)", above=0, most=1e9
    )

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            object.__setattr__(self, each.name, checked(each, getattr(self, each.name)))
        recipe = DATASETS[self.dataset].recipe
        # Registries that need torch are asked only about names that no recipe vouches for: a rank 0 that reads its
        # options without torch finds most mistakes before 24 ranks have paid for their imports.
        if self.model not in (None, recipe.model):
            from mpisim.models.catalog import MODELS

            check_known("model", str(self.model), MODELS)
        if self.optimizer not in (None, recipe.optimizer):
            from mpisim.learning.optimizers import OPTIMIZERS

            check_known("optimizer", str(self.optimizer), OPTIMIZERS)
        for each in dataclasses.fields(self):
            if each.metadata.get("recipe") and getattr(self, each.name) is None:
                object.__setattr__(self, each.name, getattr(recipe, each.name))
        if abs(self.temperature) < SMALLEST_TEMPERATURE:
            raise InputError(f"--temperature {self.temperature:g}: must not be zero, nor nearly")
        if Path(self.name).name != self.name or self.name in ("", ".."):
            raise InputError(f"--name {self.name!r}: must be a plain file name; --output takes a path")
        if self.ood_node is not None and self.ood_rank is not None:
            raise InputError("--ood-node and --ood-rank: give one of them")
        if self.schedule == "exponential" and (self.schedule_floor or 0) < 0:
            raise InputError(f"--schedule-floor {self.schedule_floor:g}: of exponential must be 0 or more")
        if self.augment and DATASETS[self.dataset].kind != "image":
            raise InputError(f"--augment: is for images, not for {self.dataset}")
        if self.local_split is not None and abs(sum(self.local_split) - 1) > 1e-9:
            raise InputError(f"--local-split {' '.join(map(str, self.local_split))}: the shares must add up to 1")
        if self.evaluate_every == "epoch" and self.evaluate_at == "aggregated":
            raise InputError("--evaluate-every epoch: tests trained models: take --evaluate-at trained, or both")
        if self.stack is not None and self.engine == "sequential":
            raise InputError("--stack: is for --engine batched, or auto")
        if self.dry_run and self.estimate is not None:
            raise InputError("--dry-run and --estimate: give one of them")
        if self.gpu_aware and self.transport == "device":
            raise InputError("--gpu-aware: is for --transport mpi")
        if self.overwrite and self.resume:
            raise InputError("--overwrite and --resume: give one of them")
        if self.overwrite and self.output is None:
            raise InputError("--overwrite: needs --output, without it a run takes the next free name")

    def check_ood_nodes(self, num_nodes: int) -> None:
        """Raise the InputError of OOD nodes that a topology of so many nodes does not have."""
        if self.ood == "none":
            if self.ood_node is not None or self.ood_rank is not None:
                raise InputError("--ood-node and --ood-rank: no node is out of distribution with --ood none")
        elif (self.ood_rank or 1) > num_nodes:
            raise InputError(f"--ood-rank {self.ood_rank}: {self.topology} has {num_nodes} nodes")
        for node in self.ood_node or ():
            if node >= num_nodes:
                raise InputError(f"--ood-node {node}: {self.topology} has the nodes 0…{num_nodes - 1}")

    @property
    def exchanges(self) -> int:
        """How many times models travel in a round: the proximal term needs the neighbors' before training too."""
        return 2 if self.proximal and not self.no_train else 1

    @property
    def moments(self) -> dict[str, bool]:
        """At which moments of a round models are tested, by name: trained, aggregated, epochs."""
        return {
            "trained": self.evaluate_at != "aggregated",
            "aggregated": self.evaluate_at != "trained",
            "epochs": self.evaluate_every == "epoch",
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the options by name, as JSON can hold them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
