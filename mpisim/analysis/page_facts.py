"""What the page says of a run in words: its options, where it comes from, and a short name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpisim.analysis.runs import WITHOUT_EFFECT
from mpisim.analysis.topology import ood_nodes_in_words

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
NEEDS_NO_NAME = ("strategy", "topology", "dataset", "model")


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
    first = [name for name in ALWAYS_SHOWN if name in options]
    found = {}
    for name in (*first, *(name for name in options if name not in ALWAYS_SHOWN)):
        tells = name not in WITHOUT_EFFECT
        # A tuple among the defaults is a list in the log.
        chosen = tells and name in defaults and json.dumps(options[name]) != json.dumps(defaults[name])
        found[name] = {"text": _as_text(options[name]), "first": name in first or chosen, "tells": tells}
    return found


def labels_of(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a short name of each run: the options in which it differs, or its file's name.

    Parameters
    ----------
    runs : with "options", as ``options_of`` has them, and "path"
    """
    names = dict.fromkeys(name for run in runs for name, option in run["options"].items() if option["tells"])
    texts = {name: [run["options"].get(name, {}).get("text", "–") for run in runs] for name in names}
    differing = [name for name in names if len(set(texts[name])) > 1]
    labels = [
        ", ".join(
            text if name in NEEDS_NO_NAME else f"{_spaced(name)} {text}"
            for name, text in ((name, texts[name][number]) for name in differing)
        )
        for number in range(len(runs))
    ]
    stems = [Path(run["path"]).stem for run in runs]
    return [
        label if label and labels.count(label) == 1 else ", ".join(filter(None, [label, stem]))
        for label, stem in zip(labels, stems, strict=True)
    ]


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
