"""The summary of a log: the few figures that tell how a run ended, and where its time went."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpisim.analysis.logs import configuration, open_file
from mpisim.analysis.measures import accuracy_auc

PARTS = ("train", "test", "exchange", "mix", "log")


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes
    ----------
    accuracy, auc : of "iid" and "ood": the mean over nodes of the last round's accuracy, and of the accuracy AUC
    lowest, highest : of "iid" and "ood": the same accuracy of the worst and the best node
    seconds : of each part of the rounds: the mean over ranks
    """

    path: str
    status: str
    title: str
    num_rounds: int
    wanted_rounds: int
    accuracy: dict[str, float]
    auc: dict[str, float]
    lowest: dict[str, float]
    highest: dict[str, float]
    seconds: dict[str, float]


def summarize(path: str | Path) -> Summary:
    """Return the summary of a log, of a run that is complete or not.

    Raises
    ------
    InputError
        If it is no log.
    """
    with open_file(path) as file:
        last = {kind: file[f"{kind}_accuracy"][-1:].reshape(-1) for kind in ("iid", "ood")}
        empty = [np.nan]
        return Summary(
            path=str(path),
            status=str(file.attrs["status"]),
            title=str(file.attrs["title"]),
            num_rounds=len(file["round"]),
            wanted_rounds=int(configuration(file)["rounds"]),
            accuracy={kind: float(np.mean(last[kind] if len(last[kind]) else empty)) for kind in last},
            auc={kind: float(np.mean(accuracy_auc(file[f"{kind}_accuracy"][:]))) for kind in last},
            lowest={kind: float(np.min(last[kind] if len(last[kind]) else empty)) for kind in last},
            highest={kind: float(np.max(last[kind] if len(last[kind]) else empty)) for kind in last},
            seconds={part: float(file[f"{part}_seconds"][:].sum(axis=0).mean()) for part in PARTS},
        )


def as_text(summary: Summary) -> str:
    """Return the summary as a small table of plain text.

    Every number stands under its heading; a dash is a figure that the run does not have.
    """
    rows = [["", "accuracy", "lowest node", "highest node", "AUC"]]
    for kind in ("iid", "ood"):
        values = (summary.accuracy, summary.lowest, summary.highest, summary.auc)
        rows.append([kind.upper(), *("–" if np.isnan(value[kind]) else f"{value[kind]:.3f}" for value in values)])
    total = sum(summary.seconds.values())
    parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in summary.seconds.items())
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.append(f"{summary.num_rounds} of {summary.wanted_rounds} rounds in {total:.1f} s a rank: {parts}")
    return "\n".join(lines)
