"""The table of runs: a row for each log, with what tells the runs apart and how they ended; as CSV and JSON too."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.analysis.logs import configuration, reading
from mpisim.analysis.measures import relative_difference
from mpisim.analysis.summary import KINDS, PARTS, summary_of
from mpisim.analysis.topology import degree_rank, edges_of, modularity_of_edges

if TYPE_CHECKING:
    import h5py

Row = dict[str, str | float | int | None]

COLUMNS = (
    *("path", "title", "status", "data", "model", "strategy", "temperature"),
    *("topology", "num_nodes", "num_edges", "total_degree", "modularity"),
    *("ood_nodes", "ood_degree", "ood_degree_rank", "seed", "num_rounds", "wanted_rounds"),
    *("iid_accuracy", "ood_accuracy", "iid_auc", "ood_auc", "relative_difference"),
    *("seconds", *(f"{part}_seconds" for part in PARTS)),
)


def rows(paths: Iterable[str | Path]) -> list[Row]:
    """Return the row of each log, one of which is open at a time.

    Raises
    ------
    InputError
        If one of the files is no log.
    """
    return [row(path) for path in paths]


def row(path: str | Path) -> Row:
    """Return the row of a log, of a run that is complete or not: a value for each of COLUMNS.

    Raises
    ------
    InputError
        If it is no log.
    """
    with reading(path) as file:
        return row_of(file)


def row_of(file: h5py.File) -> Row:
    """Return the row of an open log: a value for each of COLUMNS, None where the run has none.

    ``iid_accuracy`` and ``ood_accuracy`` are means over nodes in the last round, ``…_auc`` means over nodes of the
    accuracy AUC; ``…_seconds`` are sums over rounds of means over ranks, and ``seconds`` is their sum. Of several OOD
    nodes, ``ood_degree`` and ``ood_degree_rank`` are those of the one with the highest degree; ``ood_nodes`` has all.

    Raises
    ------
    InputError
        If a link of the log is one of no node.
    """
    summary, config = summary_of(file), configuration(file)
    degrees, ood_nodes = file["degree"][:], np.flatnonzero(file["is_ood"][:])
    num_edges = int(degrees.sum()) // 2
    edges = edges_of(file)
    # The links tell nothing of the topology where nobody listens, or all listen to all, and its file is gone.
    whole = len(edges) == num_edges
    accuracy, auc = summary.accuracy, summary.auc
    found: dict[str, Any] = {
        "path": summary.path,
        "title": summary.title,
        "status": summary.status,
        "data": config.get("dataset"),
        **{name: config.get(name) for name in ("model", "strategy", "temperature", "topology", "seed")},
        "num_nodes": len(degrees),
        "num_edges": num_edges,
        "total_degree": int(degrees.sum()),
        "modularity": modularity_of_edges(len(degrees), edges) if whole else None,
        "ood_nodes": " ".join(map(str, ood_nodes)) if len(ood_nodes) else None,
        "ood_degree": int(degrees[ood_nodes].max()) if len(ood_nodes) else None,
        "ood_degree_rank": int(degree_rank(degrees)[ood_nodes].min()) if len(ood_nodes) else None,
        "num_rounds": summary.num_rounds,
        "wanted_rounds": summary.wanted_rounds,
        **{f"{kind}_accuracy": accuracy[kind] for kind in KINDS},
        **{f"{kind}_auc": auc[kind] for kind in KINDS},
        "relative_difference": float(relative_difference(auc["iid"], auc["ood"])),
        "seconds": sum(summary.seconds.values()),
        **{f"{part}_seconds": seconds for part, seconds in summary.seconds.items()},
    }
    return {name: _known(found[name]) for name in COLUMNS}


def _known(value: Any) -> str | float | int | None:
    """Return a value that JSON can hold; None for one that is no number."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return json.dumps(value)


def as_csv(found: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> str:
    """Return rows as CSV with a line of headings, for spreadsheets and data frames; an unknown value is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def as_json(content: Any) -> str:
    """Return rows, or what else is made of plain values, as JSON; an unknown value is null."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
