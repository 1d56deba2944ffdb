"""Runs compared: grouped by what differs between them but the seeds, with means and intervals over seeds.

And two answers from all of them: by how much topology-aware strategies are better, and how well W alone predicts where
the OOD knowledge went.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpisim.analysis import columns
from mpisim.analysis.influence import compare_prediction
from mpisim.analysis.logs import reading
from mpisim.analysis.measures import AWARE, UNAWARE, bootstrap_interval, improvements
from mpisim.analysis.runs import Run, natural, run_of
from mpisim.decisive import DEFAULTS

FIGURES = {"iid_accuracy": "IID", "ood_accuracy": "OOD", "iid_auc": "IID AUC", "ood_auc": "OOD AUC"}
# What tells runs apart by itself. The options behind the topology and the OOD nodes are those words'.
MAIN = ("strategy", "topology", "data", "OOD nodes")
BEHIND_MAIN = {"strategy", "topology", "dataset", "ood", "ood_node", "ood_rank", "seed"}


@dataclass(frozen=True)
class Compared:
    """A run as it is compared.

    Attributes
    ----------
    settings : of each of MAIN and of each further option, in words
    rank_correlation : float
        Of the influence that W predicts and the OOD accuracy AUC, over nodes.
    """

    run: Run
    settings: Mapping[str, str]
    rank_correlation: float


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone.

    Attributes
    ----------
    settings : what tells this group from the others
    mean, low, high : of each of FIGURES: the mean over runs, and its bootstrap interval (NaN of a single run)
    rank_correlation : float
        The median over runs.
    """

    settings: dict[str, str]
    num_runs: int
    mean: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    rank_correlation: float


@dataclass(frozen=True)
class Comparison:
    """What runs say together.

    Attributes
    ----------
    shared : the settings of MAIN that are the same for all
    improvement, improvement_low, improvement_high : float
        Of the OOD accuracy AUC of topology-aware strategies over unaware ones, 1.23 is +123 %: the mean over cells (all
        that differs but strategy and seed), and its bootstrap interval.
    num_cells : int
        Cells that have strategies of both kinds.
    rank_correlation : float
        The median over runs.
    num_predicted : int
        Runs that have one.
    num_unfinished : int
        Runs that are not complete, which count as far as they have come.
    num_repeated : int
        Runs whose options, seeds too, are those of another.
    """

    groups: list[Group]
    shared: dict[str, str]
    num_runs: int
    improvement: float
    improvement_low: float
    improvement_high: float
    num_cells: int
    rank_correlation: float
    num_predicted: int
    num_unfinished: int
    num_repeated: int


def load(path: str | Path) -> Compared:
    """Return a run to compare.

    Raises
    ------
    InputError
        If it is no log.
    """
    with reading(path) as file:
        run = run_of(Path(path), file)
        correlation = compare_prediction(file).rank_correlation
    further = {name: _in_words(value) for name, value in run.options.items() if name not in BEHIND_MAIN}
    main = (run.strategy, run.family.label, run.dataset, run.placement.removeprefix("OOD at "))
    settings = dict(zip(MAIN, main, strict=True)) | {"OOD kind": str(run.option("ood"))} | further
    return Compared(run, settings, correlation)


def _in_words(value: Any) -> str:
    return value if isinstance(value, str) else columns.DASH if value is None else json.dumps(value)


def compare(runs: Sequence[Compared]) -> Comparison:
    """Return what runs say together.

    References
    ----------
    arXiv 2505.11760, whose headline is the improvement: see ``mpisim.analysis.measures.improvement``.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    differing = [name for name in names if _differs(runs, name)]
    groups = _grouped(runs, differing)
    ratios = _improvements(runs, [name for name in differing if name != "strategy"])
    low, high = bootstrap_interval(ratios)
    correlations = _known(run.rank_correlation for run in runs)
    return Comparison(
        groups=[_group(dict(zip(differing, key, strict=True)), members) for key, members in groups.items()],
        shared={name: runs[0].settings[name] for name in MAIN if runs and name not in differing},
        num_runs=len(runs),
        improvement=float(ratios.mean()) if len(ratios) else float("nan"),
        improvement_low=low,
        improvement_high=high,
        num_cells=len(ratios),
        rank_correlation=_median(correlations),
        num_predicted=len(correlations),
        num_unfinished=sum(run.run.row["status"] != "complete" for run in runs),
        num_repeated=len(runs) - len({_identity(run) for run in runs}),
    )


def _differs(runs: Sequence[Compared], name: str) -> bool:
    """Return whether runs differ in a setting, beyond what follows from their data set (its recipe) or OOD nodes."""
    found: dict[tuple[str, ...], set[str | None]] = {}
    for run in runs:
        known = () if name in MAIN else (run.settings["data"], run.settings["OOD nodes"])
        # What mpisim knows, and a run lacks, plays no part there.
        if name in run.settings or name not in DEFAULTS:
            found.setdefault(known, set()).add(run.settings.get(name))
    return any(len(values) > 1 for values in found.values())


def _grouped(runs: Sequence[Compared], names: Sequence[str]) -> dict[tuple[str, ...], list[Compared]]:
    """Return the runs by their settings of these names, in the order of those."""
    found: dict[tuple[str, ...], list[Compared]] = {}
    for run in runs:
        found.setdefault(tuple(run.settings.get(name, columns.DASH) for name in names), []).append(run)
    return {key: found[key] for key in sorted(found, key=lambda key: [natural(word) for word in key])}


def _group(settings: dict[str, str], members: Sequence[Compared]) -> Group:
    values = {name: _known(member.run.number(name) for member in members) for name in FIGURES}
    intervals = {name: bootstrap_interval(values[name]) for name in FIGURES}
    return Group(
        settings,
        len(members),
        {name: float(values[name].mean()) if len(values[name]) else float("nan") for name in FIGURES},
        {name: intervals[name][0] for name in FIGURES},
        {name: intervals[name][1] for name in FIGURES},
        _median(_known(member.rank_correlation for member in members)),
    )


def _improvements(runs: Sequence[Compared], names: Sequence[str]) -> np.ndarray:
    """Return the improvement in each cell that has strategies of both kinds: each strategy counts once in it."""
    cells = _grouped(runs, names).values()
    aware, unaware = (np.array([_ood_auc(members, strategies) for members in cells]) for strategies in (AWARE, UNAWARE))
    return improvements(aware, unaware)


def _ood_auc(members: Sequence[Compared], strategies: Sequence[str]) -> float:
    """Return the mean over strategies of their runs' mean OOD AUC; NaN where none of them has a run."""
    of_strategies = (
        _known(each.run.number("ood_auc") for each in members if each.run.strategy == strategy)
        for strategy in strategies
    )
    means = [float(values.mean()) for values in of_strategies if len(values)]
    return float(np.mean(means)) if means else float("nan")


def _identity(compared: Compared) -> str:
    return json.dumps(compared.run.options, sort_keys=True)


def _known(values: Iterable[float]) -> np.ndarray:
    found = np.array(list(values), dtype=np.float64)
    return found[~np.isnan(found)]


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def show(comparison: Comparison) -> None:
    """Print the groups as a table, and the two answers."""
    shared = ", ".join(comparison.shared.values())
    runs, groups = columns.counted(comparison.num_runs, "run"), columns.counted(len(comparison.groups), "group")
    print(f"{runs} in {groups}{f', all of them {shared}' if shared else ''}")
    differing = list(comparison.groups[0].settings)
    headings = [*(name.replace("_", " ") for name in differing), "runs", *FIGURES.values(), "rank correlation"]
    cells = [
        [
            *group.settings.values(),
            str(group.num_runs),
            *(_with_interval(group.mean[name], group.low[name], group.high[name]) for name in FIGURES),
            columns.figure(group.rank_correlation, 2),
        ]
        for group in comparison.groups
    ]
    columns.show(headings, cells, headings[: len(differing)], spare=("IID", "OOD", "IID AUC", "rank correlation"))
    for line in _answers(comparison):
        print(line)


def _with_interval(mean: float, low: float, high: float) -> str:
    interval = "" if np.isnan(low) else f" [{columns.figure(low)}, {columns.figure(high)}]"
    return columns.figure(mean) + interval


def _percent(share: float) -> str:
    return f"{round(100 * share, 0) + 0.0:+.0f}"  # never -0


def _answers(comparison: Comparison) -> list[str]:
    """Return the lines below the table."""
    lines = ["means over the runs of a group [95 % bootstrap interval]"]
    if comparison.num_cells:
        low, high = _percent(comparison.improvement_low), _percent(comparison.improvement_high)
        interval = "" if np.isnan(comparison.improvement_low) else f" [{low}, {high}]"
        cells = f"mean of {comparison.num_cells} cells" if comparison.num_cells > 1 else "in one cell"
        lines.append(
            f"OOD AUC of topology-aware strategies ({', '.join(AWARE)}) over unaware ones ({', '.join(UNAWARE)}):"
            f" {_percent(comparison.improvement)} %{interval}, {cells}"
        )
    if comparison.num_predicted:
        lines.append(
            "influence that W alone predicts, against OOD AUC, over nodes: median rank correlation"
            f" {comparison.rank_correlation:.2f} of {columns.counted(comparison.num_predicted, 'run')}"
        )
    if comparison.num_unfinished:
        is_one = comparison.num_unfinished == 1
        they = (
            "is not complete: it counts as far as it has"
            if is_one
            else "are not complete: they count as far as they have"
        )
        lines.append(f"{comparison.num_unfinished} of the runs {they} come")
    if comparison.num_repeated:
        repeat = "repeats" if comparison.num_repeated == 1 else "repeat"
        lines.append(f"{comparison.num_repeated} of the runs {repeat} another, seed and all: intervals are too narrow")
    return lines


def as_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a row for each group, of values that CSV and JSON can hold: None for what is not known."""
    return [
        {
            **group.settings,
            "num_runs": group.num_runs,
            **{
                name + end: _or_none(values[name])
                for name in FIGURES
                for end, values in (("", group.mean), ("_low", group.low), ("_high", group.high))
            },
            "rank_correlation": _or_none(group.rank_correlation),
        }
        for group in comparison.groups
    ]


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON can hold it."""
    answers = vars(comparison) | {"groups": as_rows(comparison)}
    return {name: _or_none(value) if isinstance(value, float) else value for name, value in answers.items()}


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
