"""What the page holds of each run: texts as they stand, numbers packed small.

A share (accuracy, recall) is 16 bits wide: steps of 1/65534, finer than a screen shows. Other numbers are float32
without their last bits, good to 1 in 16,384. Then zlib makes them smaller, and base64 makes them text.
"""

from __future__ import annotations

import base64
import functools
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.analysis.influence import compare_prediction
from mpisim.analysis.logs import configuration, is_aggregated, reading, score, score_curve, title_of, values_of
from mpisim.analysis.measures import accuracy_auc
from mpisim.analysis.page_facts import facts_of, fill, labels_of, options_of, provenance_of
from mpisim.analysis.topology import as_graph, degree_rank, edges_of, positions
from mpisim.decisive import telling
from mpisim.errors import InputError

if TYPE_CHECKING:
    import h5py

PARTS = ("train", "test", "exchange", "mix", "log")
SHARES = ("iid_accuracy", "ood_accuracy", "own_accuracy")
LOSSES = ("iid_loss", "ood_loss", "train_loss")
# What a page has only while there is room, the first ones first.
SPARED = ("own_accuracy", *LOSSES, "iid_recall")
CODES = {"share": "<u2", "number": "<f4", "integer": "<i4"}
FEWEST_ROUNDS = 2
NO_SHARE, MOST = 65_535, 65_534
DROPPED_BITS = 10  # of the 23 that follow the point in a float32


def packed(values: np.ndarray, kind: str) -> dict[str, Any]:
    """Return an array as JSON can hold it, small.

    Parameters
    ----------
    values : array of numbers
    kind : "share" (0 to 1, or NaN), "number" (float) or "integer" (int32)
    """
    array = np.asarray(values)
    if kind == "share":
        codes = np.where(np.isnan(array), NO_SHARE, np.rint(np.clip(np.nan_to_num(array), 0, 1) * MOST))
    elif kind == "number":
        codes = _rounded(array)
    else:
        codes = array
    return _as_text(kind, codes.astype(CODES[kind]))


def _as_text(kind: str, codes: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(codes).tobytes(), 9)).decode("ascii")
    return {"kind": kind, "shape": list(codes.shape), "data": data}


def _rounded(values: np.ndarray) -> np.ndarray:
    """Return float32 whose last bits are 0, rounded to the nearest."""
    with np.errstate(over="ignore"):
        single = values.astype("<f4")
    bits, unit = single.view("<u4"), np.uint32(1 << DROPPED_BITS)
    # NaN and infinity are bits that must stay.
    return np.where(np.isfinite(single), (bits + unit // 2) // unit * unit, bits).astype("<u4").view("<f4")


def page_data(
    paths: Sequence[str | Path], budget: int, defaults: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return what the page holds of each run.

    Parameters
    ----------
    budget : bytes
        That all runs may take together. What goes beyond is left out, and a run's ``left_out`` names it; if that is not
        enough, the scores are those of some rounds only, a run's ``rounds``.
    defaults : of the options, by name
        An option of another value is shown at once. Without them, only the most important are.

    Raises
    ------
    InputError
        If one of the files is no log, or a broken one, or the runs are too large for the budget all the same.
    """
    runs = [_run(path, defaults or {}) for path in paths]
    fill(runs)
    for run, parts in zip(runs, labels_of(paths, [run.pop("telling") for run in runs]), strict=True):
        run |= {"label": ", ".join(parts), "parts": parts}
    spared = [{name: run["scores"].pop(name) for name in SPARED if name in run["scores"]} for run in runs]
    for run, arrays in zip(runs, spared, strict=True):
        run["left_out"] = list(arrays)
    left = budget - len(as_json(runs))
    if left < 0:
        return _thinned(runs, budget)
    for name in SPARED:
        for run, arrays in zip(runs, spared, strict=True):
            if name not in arrays:
                continue
            still_out = [each for each in run["left_out"] if each != name]
            saved = len(json.dumps(run["left_out"])) - len(json.dumps(still_out))
            size = len(json.dumps({name: arrays[name]})) - saved
            if size <= left:
                run["scores"][name], run["left_out"] = arrays[name], still_out
                left -= size
    return runs


def as_json(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return runs as JSON that may stand in a script element: "<" is the only way out of one, and is not in it."""
    return json.dumps(runs, allow_nan=False).replace("<", "\\u003c")


def _thinned(runs: Sequence[dict[str, Any]], budget: int) -> list[dict[str, Any]]:
    """Return runs with the scores of as many rounds as the budget has room for, as far apart as rounds can be.

    Raises
    ------
    InputError
        If there is no room for the scores of two rounds.
    """
    size, most = len(as_json(runs)), max(len(run["rounds"]) for run in runs)
    of_scores = len(json.dumps([run["scores"] for run in runs]))
    while True:
        # As if all rounds were as large; where they are not, once more.
        most = max(min(most - 1, int(most * (budget - size + of_scores) / of_scores)), FEWEST_ROUNDS)
        found = [_of_rounds(run, most) for run in runs]
        size, of_scores = len(as_json(found)), len(json.dumps([run["scores"] for run in found]))
        if size <= budget:
            return found
        if most == FEWEST_ROUNDS:
            fit = int(np.searchsorted(np.cumsum([len(as_json([run])) for run in found]), budget, side="right"))
            raise InputError(
                f"the data of {len(runs)} logs takes {size:,} bytes, a page has room for {budget:,}: of these logs the"
                f" first {fit} fit: give fewer, or take compare or figures"
            )


def _of_rounds(run: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Return a run with the scores of so many of its rounds, the first and the last among them."""
    num_rounds = len(run["rounds"])
    rows = np.unique(np.linspace(0, num_rounds - 1, min(most, num_rounds)).round().astype(np.int64))
    scores = {name: _rows_of(array, rows) for name, array in run["scores"].items()}
    return {**run, "scores": scores, "rounds": [run["rounds"][row] for row in rows]}


def _rows_of(array: Mapping[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Return some rows of a packed array."""
    codes = np.frombuffer(zlib.decompress(base64.b64decode(array["data"])), dtype=CODES[array["kind"]])
    codes = codes.reshape(array["shape"])[rows]
    return _as_text(array["kind"], codes)


def _run(path: str | Path, defaults: Mapping[str, Any]) -> dict[str, Any]:
    with reading(path) as file:
        return {
            "path": str(path),
            "title": title_of(file),
            "status": str(file.attrs["status"]),
            "num_rounds": len(file["round"]),
            "rounds": list(range(1, len(file["round"]) + 1)),
            "wanted_rounds": configuration(file)["rounds"],
            "num_labels": len(file["label"]) if "label" in file else 0,
            "after_aggregation": is_aggregated(file),
            "facts": facts_of(file),
            "nodes": _nodes(file),
            "scores": _scores(file),
            "left_out": [],
            "prediction": _prediction(file),
            "seconds": _seconds(file),
            "options": options_of(configuration(file), defaults),
            "telling": telling(configuration(file)),
            "provenance": provenance_of(file),
        }


def _scores(file: h5py.File) -> dict[str, Any]:
    """Return what nodes can be colored by: of shape (num_rounds, num_nodes), the recall with labels in front."""
    values = {name: score(file, name) for name in (*SHARES, "iid_loss", "ood_loss")}
    values["train_loss"] = values_of(file, "train_loss")
    found = {
        name: packed(array, "share" if name in SHARES else "number")
        for name, array in values.items()
        if not np.isnan(array).all() or name == "iid_accuracy"
    }
    recall = score(file, "iid_recall")
    if not np.isnan(recall).all():
        found["iid_recall"] = packed(np.moveaxis(recall, 2, 0), "share")
    return found


def _nodes(file: h5py.File) -> dict[str, Any]:
    edges = edges_of(file)
    return {
        "position": packed(_positions(len(file["degree"]), edges.tobytes()).T, "share"),
        "links": packed(edges.T, "integer"),
        "is_ood": packed(file["is_ood"][:], "integer"),
        "degree": packed(file["degree"][:], "integer"),
        "degree_rank": packed(degree_rank(file["degree"][:]), "integer"),
        "samples": packed(values_of(file, "train_samples"), "integer" if "train_samples" in file else "number"),
        "rank": packed(values_of(file, "rank_of_node"), "integer" if "rank_of_node" in file else "number"),
        "iid_auc": packed(accuracy_auc(score_curve(file, "iid_accuracy")), "share"),
    }


@functools.lru_cache(maxsize=16)
def _positions(num_nodes: int, edges: bytes) -> np.ndarray:
    """Return where to draw the nodes, found once for each graph: runs that are compared share one."""
    return positions(as_graph(num_nodes, np.frombuffer(edges, dtype=np.int64).reshape(-1, 2)))


def _prediction(file: h5py.File) -> dict[str, Any]:
    found = compare_prediction(file)
    return {
        "predicted": packed(found.predicted, "number"),
        "measured": packed(found.measured, "share"),
        "distance": packed(found.distance, "number"),
        "arrival": packed(found.arrival, "number"),
        "rank_correlation": None if np.isnan(found.rank_correlation) else found.rank_correlation,
    }


def _seconds(file: h5py.File) -> dict[str, Any]:
    """Return the seconds of each part: the mean over ranks of each round, and the sum over rounds of each rank."""
    seconds = np.stack([file[f"{part}_seconds"][:] for part in PARTS])
    # A run that was resumed on other ranks has figures of some ranks for some rounds only.
    known = np.maximum((~np.isnan(seconds)).sum(axis=2), 1)
    return {
        "by_round": packed(np.nansum(seconds, axis=2) / known, "number"),
        "by_rank": packed(np.nansum(seconds, axis=1), "number"),
    }
