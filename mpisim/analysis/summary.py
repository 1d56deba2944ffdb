"""The summary of a log: the few figures that tell how a run ended, and where its time went; of many, a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.analysis import columns
from mpisim.analysis.logs import configuration, is_aggregated, is_text, reading, score, score_curve, title_of, values_of
from mpisim.analysis.measures import accuracy_auc, perplexity
from mpisim.analysis.topology import links, ood_nodes_in_words

if TYPE_CHECKING:
    import h5py

KINDS = ("iid", "ood")
PARTS = ("train", "test", "exchange", "mix", "log")
SHARES = f"% {'·'.join(PARTS)}"


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes
    ----------
    after_aggregation : bool
        Whether the scores of the rounds are those of aggregated models, because only those were tested.
    accuracy, auc : of "iid" and "ood": the mean over nodes of the last round's accuracy, and of the accuracy AUC
    lowest, highest : of "iid" and "ood": the same accuracy of the worst and the best node
    final : of "iid" and "ood": the mean over nodes of the accuracy after the last aggregation
    perplexity : of "iid" and "ood": the mean over nodes of the last round's perplexity; None where data is no text
    seconds : of each part of the rounds: the mean over ranks
    ood_nodes : the OOD nodes, and where they stand in the topology, in words
    """

    path: str
    status: str
    title: str
    num_rounds: int
    wanted_rounds: int
    after_aggregation: bool
    accuracy: dict[str, float]
    auc: dict[str, float]
    lowest: dict[str, float]
    highest: dict[str, float]
    final: dict[str, float]
    perplexity: dict[str, float] | None
    seconds: dict[str, float]
    ood_nodes: str


def summarize(path: str | Path) -> Summary:
    """Return the summary of a log, of a run that is complete or not.

    Raises
    ------
    InputError
        If it is no log, or one of its links is of no node.
    """
    with reading(path) as file:
        links(file)
        return summary_of(file)


def summary_of(file: h5py.File) -> Summary:
    """Return the summary of an open log."""
    accuracy = {kind: _last(file, f"{kind}_accuracy") for kind in KINDS}
    loss = {kind: _last(file, f"{kind}_loss") for kind in KINDS}
    return Summary(
        path=str(file.filename),
        status=str(file.attrs["status"]),
        title=title_of(file),
        num_rounds=len(file["round"]),
        wanted_rounds=int(configuration(file)["rounds"]),
        after_aggregation=is_aggregated(file),
        accuracy={kind: float(accuracy[kind].mean()) for kind in KINDS},
        auc={kind: float(accuracy_auc(score_curve(file, f"{kind}_accuracy")).mean()) for kind in KINDS},
        lowest={kind: float(accuracy[kind].min()) for kind in KINDS},
        highest={kind: float(accuracy[kind].max()) for kind in KINDS},
        final={kind: float(values_of(file, f"{kind}_accuracy_final").mean()) for kind in KINDS},
        perplexity={kind: float(perplexity(loss[kind]).mean()) for kind in KINDS} if is_text(file) else None,
        seconds={part: _mean_over_ranks(file[f"{part}_seconds"][:]) for part in PARTS},
        ood_nodes=ood_nodes_in_words(file["degree"][:], file["is_ood"][:]),
    )


def _mean_over_ranks(seconds: np.ndarray) -> float:
    """Return the sum over rounds of the mean over ranks, of those that have a figure.

    A run that was resumed on other ranks has figures of some ranks for some rounds only.
    """
    known = ~np.isnan(seconds)
    return float((np.where(known, seconds, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)).sum())


def _last(file: h5py.File, name: str) -> np.ndarray:
    """Return a score of the nodes in the last round; one NaN where there is no round."""
    values = score(file, name)[-1:].reshape(-1)
    return values if len(values) else np.array([np.nan])


def as_text(summary: Summary) -> str:
    """Return the summary as a small table of plain text.

    Every number stands under its heading; a dash is a figure that the run does not have.
    """
    figures = {
        "accuracy": summary.accuracy,
        "lowest node": summary.lowest,
        "highest node": summary.highest,
        "AUC": summary.auc,
        "aggregated": summary.final,
    }
    if summary.perplexity is not None:
        figures["perplexity"] = summary.perplexity
    cells = [[kind.upper(), *(columns.figure(values[kind]) for values in figures.values())] for kind in KINDS]
    lines = [columns.as_text(["", *figures], cells)]
    if summary.after_aggregation:
        lines.append("(in every round, of the aggregated models)")
    lines.append(f"{summary.num_rounds} of {summary.wanted_rounds} rounds in {_where_time_went(summary.seconds)}")
    lines.append(summary.ood_nodes)
    return "\n".join(lines)


def _where_time_went(seconds: Mapping[str, float]) -> str:
    parts = ", ".join(f"{part} {columns.figure(value, 1)}" for part, value in seconds.items())
    return f"{columns.figure(sum(seconds.values()), 1)} s a rank: {parts}"


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each run, and one about all of them.

    Parameters
    ----------
    rows : of ``mpisim.analysis.table``
    """
    cells = [_cells(row) for row in rows]
    columns.show(HEADINGS, cells, ("log", "strategy", "topology", "data", "status"), SPARE, paths="log")
    count = {status: sum(row["status"] == status for row in rows) for status in ("running", "interrupted")}
    parts = [columns.counted(len(rows), "run"), *(f"{number} {status}" for status, number in count.items() if number)]
    seconds = {part: float(sum(row[f"{part}_seconds"] or 0.0 for row in rows)) for part in PARTS}
    print(f"{', '.join(parts)}; {_where_time_went(seconds)}")


HEADINGS = (
    *("log", "strategy", "topology", "data", "seed", "OOD node", "degree rank"),
    *("IID", "OOD", "IID AUC", "OOD AUC", "OOD/IID %", "rounds", "seconds", SHARES, "status"),
)
SPARE = (SHARES, "OOD/IID %", "IID", "OOD", "data", "rounds", "seed", "OOD node", "seconds", "status")


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Return what the table says of a run, under each of HEADINGS."""
    return [
        *(columns.figure(row[name]) for name in ("path", "strategy", "topology", "data", "seed")),
        *(columns.figure(row[name]) for name in ("ood_nodes", "ood_degree_rank")),
        *(columns.figure(row[name]) for name in ("iid_accuracy", "ood_accuracy", "iid_auc", "ood_auc")),
        columns.figure(row["relative_difference"], 1),
        f"{row['num_rounds']}/{row['wanted_rounds']}",
        columns.figure(row["seconds"], 1),
        _shares([row[f"{part}_seconds"] for part in PARTS]),
        str(row["status"]),
    ]


def _shares(seconds: Sequence[float | None]) -> str:
    """Return how many percent of the time each part took; a dash where one is not known.

    >>> _shares([1.0, 1.0, 2.0, 0.0, 0.0]), _shares([1.0, None, 2.0, 0.0, 0.0])
    ('25·25·50·0·0', '–')
    """
    known = [each for each in seconds if each is not None]
    total = sum(known)
    if len(known) < len(seconds) or not 0 < total < float("inf"):
        return columns.DASH
    return "·".join(f"{100 * (each / total):.0f}" for each in known)
