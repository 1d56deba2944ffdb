"""What the page says of a run in words: its options, where it comes from, and a short name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpisim.analysis.runs import unusual
from mpisim.analysis.topology import ood_nodes_in_words
from mpisim.decisive import DEFAULTS, telling

if TYPE_CHECKING:
    import h5py

# Options that a reader looks for first, whatever their values.
ALWAYS_SHOWN = ("strategy", "temperature", "topology", "dataset", "model", "ood", "seed", "rounds", "epochs")
PROVENANCE = (
    "command",
    "date_created",
    "mpisim_version",
    "git_commit",
    "python_version",
    "library_versions",
    "mpi_version",
    "hosts",
    "devices",
    "threads",
    "PBS_JOBID",
    "history",
)
NEEDS_NO_NAME = ("strategy", "topology", "dataset")


def facts_of(file: h5py.File) -> list[str]:
    """Return a few words each about the topology, the OOD nodes and the ranks of a run."""
    degrees, num_ranks = file["degree"][:], len(file["rank"])
    return [
        f"{len(degrees):,} nodes, {int(degrees.sum()) // 2:,} edges",
        ood_nodes_in_words(degrees, file["is_ood"][:]),
        f"{num_ranks:,} MPI rank{'' if num_ranks == 1 else 's'}",
    ]


def options_of(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each option's value as text, and whether to show it at once (``first``) or if runs differ (``tells``)."""
    first, tells = [name for name in ALWAYS_SHOWN if name in options], telling(options)
    found = {}
    for name in (*first, *(name for name in options if name not in ALWAYS_SHOWN)):
        # A tuple among the defaults is a list in the log.
        chosen = name in tells and name in defaults and json.dumps(options[name]) != json.dumps(defaults[name])
        found[name] = {"text": _as_text(options[name]), "first": name in first or chosen, "tells": name in tells}
    return found


def fill(runs: Sequence[Mapping[str, Any]]) -> None:
    """Give runs the options that only others of them have: an older log does not know them, and the default held.

    Parameters
    ----------
    runs : with "options", as ``options_of`` has them
    """
    names = dict.fromkeys(name for run in runs for name, option in run["options"].items() if option["tells"])
    for run in runs:
        for name in names:
            if name in DEFAULTS and name not in run["options"]:
                run["options"][name] = {"text": _as_text(DEFAULTS[name]), "first": False, "tells": True}


def labels_of(paths: Sequence[str | Path], found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a short name of each run, in parts: what differs of the most important, what is unusual, or its file.

    Parameters
    ----------
    paths : of the logs
    found : of each, the options that may tell it from others
    """
    names = [name for name in NEEDS_NO_NAME if len({str(options[name]) for options in found}) > 1]
    labels = [[str(options[name]) for name in names] for options in found]
    for dataset in {str(options["dataset"]) for options in found}:
        here = [number for number, options in enumerate(found) if str(options["dataset"]) == dataset]
        odd = unusual([{**found[number], "ood": _ood_in_words(found[number])} for number in here])
        for number, words in zip(here, odd, strict=True):
            labels[number] += words
    seeds = {(str(options["topology"]), str(options["seed"])) for options in found}
    if len(seeds) > len({topology for topology, _ in seeds}):
        # Else the topology, whose own seed is most often the same, tells as much.
        for label, options in zip(labels, found, strict=True):
            label.append(f"seed {options['seed']}")
    return [
        label if label and labels.count(label) == 1 else [*label, Path(path).stem]
        for label, path in zip(labels, paths, strict=True)
    ]


def _ood_in_words(options: Mapping[str, Any]) -> str:
    """Return what is out of distribution, and where."""
    kind, nodes = str(options["ood"]), options["ood_node"]
    if kind == "none":
        return kind
    return f"{kind} at degree rank {options['ood_rank'] or 1}" if nodes is None else f"{kind} at node {_as_text(nodes)}"


def provenance_of(file: h5py.File) -> list[list[str]]:
    """Return what is known of how a log was made: names and texts."""
    found = [(name, str(file.attrs.get(name, "")).strip()) for name in PROVENANCE]
    return [[_spaced(name), _listed(text)] for name, text in found if text]


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _as_text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return " ".join(_as_text(each) for each in value)
    return str(value)


def _listed(text: str) -> str:
    """Return what stands in JSON for people; ranks that have the same are counted."""
    try:
        content = json.loads(text) if text[0] in "[{" else text
    except (ValueError, RecursionError):
        return text
    if isinstance(content, dict):
        return ", ".join(f"{name} {value}" for name, value in content.items())
    if isinstance(content, list):
        return ", ".join(f"{value} × {number}" for value, number in Counter(map(str, content)).items())
    return text
