"""Runs as they are compared: what differs between them, and which of them stand together."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.analysis import table
from mpisim.analysis.logs import configuration, is_aggregated, reading, score
from mpisim.analysis.summary import KINDS
from mpisim.analysis.topology import edges_of
from mpisim.decisive import DEFAULTS, telling
from mpisim.graphs.files import FILE_KINDS

if TYPE_CHECKING:
    import h5py

# Options that figures tell apart by other means: color, place on the axis, error bar.
SHOWN_OTHERWISE = {"dataset", "topology", "strategy", "seed", "ood_node", "ood_rank"}


@dataclass(frozen=True)
class Family:
    """Topologies that differ in their seed alone.

    Attributes
    ----------
    kind : str
        The generator, or the first word of the file's name.
    parameters : texts such as "n=33" or, in a file's name, "n33"
    """

    kind: str
    parameters: tuple[str, ...]

    @property
    def label(self) -> str:
        """The family in a few words."""
        return " ".join([self.kind, *self.parameters])

    def without_size(self) -> Family:
        """Return the family without the parameters that tell how many nodes there are."""
        kept = (text for text in self.parameters if not re.fullmatch(r"n=?\d+|sizes=.*", text))
        return Family(self.kind, tuple(kept))


@dataclass(frozen=True)
class Run:
    """A run, read at once: its log may be a longer one a moment later.

    Attributes
    ----------
    row : of ``mpisim.analysis.table``
    options : by name, those that may tell it from others
    is_aggregated : bool
        Whether its scores are those of aggregated models.
    final : of "iid" and "ood": the accuracy of each node in the last round; NaN where there is none
    edges : int64, shape (num_edges, 2)
    is_ood : bool, shape (num_nodes,)
    """

    path: Path
    row: Mapping[str, Any]
    options: Mapping[str, Any]
    is_aggregated: bool
    final: Mapping[str, np.ndarray]
    edges: np.ndarray
    is_ood: np.ndarray

    def number(self, name: str) -> float:
        """Return a figure of the row; NaN where the run does not have it."""
        value = self.row[name]
        return float("nan") if value is None else float(value)

    def option(self, name: str) -> Any:
        """Return an option; None where it plays no part, or is not known."""
        return self.options.get(name)

    @property
    def strategy(self) -> str:
        """The strategy's name."""
        return str(self.option("strategy"))

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return str(self.option("dataset"))

    @cached_property
    def family(self) -> Family:
        """The topology without its seed."""
        return family_of(str(self.option("topology")))

    @cached_property
    def placement(self) -> str:
        """Which nodes have OOD samples, in words."""
        if self.option("ood") == "none":
            return "no OOD node"
        if self.option("ood_node") is not None:
            nodes = str(self.row["ood_nodes"]).split()
            return f"OOD at node{'s' * (len(nodes) > 1)} {', '.join(nodes)}"
        return f"OOD at degree rank {self.option('ood_rank') or 1}"


def load_runs(paths: Iterable[str | Path]) -> list[Run]:
    """Return the runs of some logs, each log once.

    Raises
    ------
    InputError
        If a file is no log.
    """
    once = list({Path(path).resolve(): Path(path) for path in paths}.values())
    runs = []
    for path in once:
        with reading(path) as file:
            runs.append(run_of(path, file))
    return runs


def run_of(path: Path, file: h5py.File) -> Run:
    """Return the run of an open log.

    Raises
    ------
    InputError
        If a link of the log is one of no node.
    """
    return Run(
        path=path,
        row=table.row_of(file),
        options=telling(configuration(file)),
        is_aggregated=is_aggregated(file),
        final={kind: _last(score(file, f"{kind}_accuracy")) for kind in KINDS},
        edges=edges_of(file),
        is_ood=file["is_ood"][:] > 0,
    )


def _last(values: np.ndarray) -> np.ndarray:
    return values[-1] if len(values) else np.full(values.shape[1:], np.nan)


def family_of(topology: str) -> Family:
    """Return the family of a topology's specification, or of its file.

    >>> family_of("ba:n=33,m=2,seed=0")
    Family(kind='ba', parameters=('n=33', 'm=2'))
    >>> family_of("topologies/paper/ba-n33-m2-seed0.txt")
    Family(kind='ba', parameters=('n33', 'm2'))
    """
    if Path(topology).suffix in FILE_KINDS:
        kind, *words = Path(topology).stem.split("-")
    else:
        kind, _, text = topology.partition(":")
        words = [word for word in text.split(",") if word]
    return Family(kind, tuple(word for word in words if not re.fullmatch(r"seed=?\d+", word)))


def natural(text: str) -> list[tuple[float, str]]:
    """Return a key that sorts the numbers in texts as numbers.

    >>> sorted(["n=16", "n=8", "m"], key=natural)
    ['m', 'n=8', 'n=16']
    """
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(float(part), "") if index % 2 else (0.0, part) for index, part in enumerate(parts)]


def settings(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs by setting: the data set, and the options in which runs on that data set differ.

    What most of these runs have in common is not told, nor are options that stand elsewhere in a figure.
    """
    found: dict[str, list[Run]] = {}
    for dataset in {run.dataset: None for run in runs}:
        here = [run for run in runs if run.dataset == dataset]
        for run, odd in zip(here, unusual([run.options for run in here]), strict=True):
            found.setdefault(", ".join([dataset, *odd]), []).append(run)
    return {label: found[label] for label in sorted(found, key=natural)}


def unusual(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return of each run, in words, the options that more than half of the runs have otherwise.

    Parameters
    ----------
    found : of each run, the options by name

    >>> unusual([{"lr": 0.1}, {"lr": 0.1}, {"lr": 0.5}])
    [[], [], ['lr 0.5']]
    """
    told: list[list[str]] = [[] for _ in found]
    for name in sorted({name for options in found for name in options} - SHOWN_OTHERWISE):
        # What mpisim knows, and a run lacks, plays no part there.
        having = [number for number, options in enumerate(found) if name in options or name not in DEFAULTS]
        values = [json.dumps(found[number].get(name)) for number in having]
        usual = _usual(values)
        for number, value in zip(having, values, strict=True):
            if value != usual:
                told[number].append(_in_words(name, found[number].get(name)))
    return told


def _usual(values: list[str]) -> str | None:
    """Return the value of more than half of the runs; None where there is none."""
    value, count = Counter(values).most_common(1)[0]
    return value if 2 * count > len(values) else None


def _in_words(name: str, value: Any) -> str:
    """Return an option in words.

    >>> _in_words("batch_size", 16), _in_words("shuffle", False), _in_words("local_split", [0.7, 0.2, 0.1])
    ('batch size 16', 'no shuffle', 'local split 0.7 0.2 0.1')
    """
    words = re.sub(r"\bood\b", "OOD", name.replace("_", " "))
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if value is None:
        return f"{words} by default"
    values = value if isinstance(value, list) else [value]
    return " ".join([words, *map(_short, values)])


def _short(value: Any) -> str:
    """Return a value as text, a float without zeros that say nothing."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if not isinstance(value, float) or float(text) == value else str(value)


def best_placed(runs: Sequence[Run]) -> tuple[str, list[Run]]:
    """Return the placement of the OOD samples at the nodes of highest degree, and the runs that have it.

    Of runs at degree ranks 1 to 4 these are those at rank 1, where the paper compares strategies.
    """
    ranks: dict[str, list[float]] = {}
    for run in runs:
        ranks.setdefault(run.placement, []).append(run.number("ood_degree_rank"))
    mean = {placement: np.mean(values) for placement, values in ranks.items()}
    best = min(
        mean, key=lambda placement: (np.inf if np.isnan(mean[placement]) else mean[placement], natural(placement))
    )
    return best, [run for run in runs if run.placement == best]


def unfinished(runs: Sequence[Run]) -> str:
    """Return a line on runs that are not complete; nothing where all are."""
    count = sum(run.row["status"] != "complete" for run in runs)
    return (
        f"{count} of {len(runs)} runs not complete: as far as {'it is' if count == 1 else 'they are'}" if count else ""
    )
