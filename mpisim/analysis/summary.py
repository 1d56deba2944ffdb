"""The summary of a log: the few figures that tell how a run ended, and where its time went."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpisim.analysis.logs import configuration, open_file, score, score_curve
from mpisim.analysis.measures import accuracy_auc, perplexity

if TYPE_CHECKING:
    import h5py

KINDS = ("iid", "ood")
PARTS = ("train", "test", "exchange", "mix", "log")


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


def summarize(path: str | Path) -> Summary:
    """Return the summary of a log, of a run that is complete or not.

    Raises
    ------
    InputError
        If it is no log.
    """
    with open_file(path) as file:
        accuracy = {kind: _last(file, f"{kind}_accuracy") for kind in KINDS}
        is_text = file.attrs["data_kind"] == "text"
        return Summary(
            path=str(path),
            status=str(file.attrs["status"]),
            title=str(file.attrs["title"]),
            num_rounds=len(file["round"]),
            wanted_rounds=int(configuration(file)["rounds"]),
            after_aggregation="iid_accuracy" not in file,
            accuracy={kind: float(accuracy[kind].mean()) for kind in KINDS},
            auc={kind: float(accuracy_auc(score_curve(file, f"{kind}_accuracy")).mean()) for kind in KINDS},
            lowest={kind: float(accuracy[kind].min()) for kind in KINDS},
            highest={kind: float(accuracy[kind].max()) for kind in KINDS},
            final={kind: float(file[f"{kind}_accuracy_final"][:].mean()) for kind in KINDS},
            perplexity={kind: float(perplexity(_last(file, f"{kind}_loss")).mean()) for kind in KINDS}
            if is_text
            else None,
            # A run that was resumed on other ranks has figures of some ranks for some rounds only.
            seconds={part: float(np.nanmean(file[f"{part}_seconds"][:], axis=1).sum()) for part in PARTS},
        )


def _last(file: h5py.File, name: str) -> np.ndarray:
    """Return a score of the nodes in the last round; one NaN where there is no round."""
    values = score(file, name)[-1:].reshape(-1)
    return values if len(values) else np.array([np.nan])


def as_text(summary: Summary) -> str:
    """Return the summary as a small table of plain text.

    Every number stands under its heading; a dash is a figure that the run does not have.
    """
    columns = {
        "accuracy": summary.accuracy,
        "lowest node": summary.lowest,
        "highest node": summary.highest,
        "AUC": summary.auc,
        "aggregated": summary.final,
    }
    if summary.perplexity is not None:
        columns["perplexity"] = summary.perplexity
    rows = [["", *columns]]
    for kind in KINDS:
        figures = [values[kind] for values in columns.values()]
        rows.append([kind.upper(), *("–" if np.isnan(figure) else f"{figure:.3f}" for figure in figures)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    if summary.after_aggregation:
        lines.append("(in every round, of the aggregated models)")
    total = sum(summary.seconds.values())
    parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in summary.seconds.items())
    lines.append(f"{summary.num_rounds} of {summary.wanted_rounds} rounds in {total:.1f} s a rank: {parts}")
    return "\n".join(lines)
