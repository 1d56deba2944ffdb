"""From a sweep file to its runs: crossed, chosen, completed, named and checked, before anything starts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from mpisim.config import OF_ESTIMATES, Config
from mpisim.errors import InputError
from mpisim.graphs.files import FILE_KINDS
from mpisim.graphs.generators import make_topology
from mpisim.options import flag
from mpisim.sweep.file import OPTIONS, Options, Rule, SweepFile
from mpisim.sweep.names import TEMPLATE, axis_rank, run_name, value_texts

DEFAULTS = {option.name: None if option.default is MISSING else option.default for option in fields(Config)}


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes
    ----------
    index : int
        From 0, in the order of the file.
    values : the texts of its values, by the axes of the grid
    options : those that the file gives it
    config : all options, checked
    """

    index: int
    name: str
    values: dict[str, str]
    options: Options
    config: Config

    def log(self, folder: Path) -> Path:
        """Return the path of its log."""
        return folder / f"{self.name}.h5"

    def flags(self) -> list[str]:
        """Return its options as ``mpisim.run`` takes them; those of estimates are not for it.

        A value is joined to its flag: it may begin with a minus.
        """
        found = []
        for option, value in self.options.items():
            if option in OF_ESTIMATES:
                continue
            if isinstance(value, bool):
                found += [flag(option)] if value else _denied(option)
            elif isinstance(value, list):
                found += [flag(option), *map(str, value)]
            else:
                found.append(f"{flag(option)}={value}")
        return found


def _denied(option: str) -> list[str]:
    """Return the flag that takes an option back: those that say no themselves have none, and are not given."""
    return [] if option.startswith("no_") else [f"--no-{option.replace('_', '-')}"]


def expand(file: SweepFile) -> list[Run]:
    """Return the runs of a sweep file; all their options are right, as far as that can be told before they start.

    Raises
    ------
    InputError
        If a rule is about no run, no run is left, a run's options are wrong, its topology cannot be, or two runs have
        the same name or options.
    """
    try:
        runs = list(_runs(file))
        _check_distinct(runs)
        _check_ood_nodes(runs, count_nodes(runs))
    except InputError as error:
        raise InputError(f"{file.path}: {error}") from error
    return runs


def chosen(runs: list[Run], index: int | None) -> list[Run]:
    """Return the run of a number alone, or all.

    Raises
    ------
    InputError
        If there is none of this number.
    """
    if index is None:
        return runs
    if not 0 <= index < len(runs):
        raise InputError(f"--index {index}: the sweep has the runs 0 to {len(runs) - 1}")
    return [runs[index]]


def count_nodes(runs: list[Run]) -> dict[str, int]:
    """Return how many nodes each topology has, by what specifies it; without those of files that are not there yet.

    Raises
    ------
    InputError
        If one of them cannot be made or read.
    """
    first_of: dict[str, Run] = {}
    for run in runs:
        first_of.setdefault(run.config.topology, run)
    counts = {}
    for topology, run in first_of.items():
        if Path(topology).suffix in FILE_KINDS and not Path(topology).exists():
            continue  # its runs fail and are tried again, once it is there
        try:
            counts[topology] = make_topology(topology).num_nodes
        except InputError as error:
            raise InputError(f"run {run.name}: {error}") from error
    return counts


def _check_ood_nodes(runs: list[Run], counts: dict[str, int]) -> None:
    for run in runs:
        if (num_nodes := counts.get(run.config.topology)) is not None:
            try:
                run.config.check_ood_nodes(num_nodes)
            except InputError as error:
                raise InputError(f"run {run.name}: {error}") from error


def _runs(file: SweepFile) -> Iterator[Run]:
    texts = {axis: value_texts(values) for axis, values in file.axes.items()}
    order = sorted(file.axes, key=lambda axis: axis_rank(file.axes[axis]))
    for index, (numbers, options) in enumerate(_kept(file)):
        values = {axis: texts[axis][number] for axis, number in zip(file.axes, numbers, strict=True)}
        name = run_name([values[axis] for axis in order])
        try:
            filled = _filled(options)
            yield Run(index, name, values, filled, Config(**filled))
        except InputError as error:
            raise InputError(f"run {name}: {error}") from error


def _kept(file: SweepFile) -> list[tuple[tuple[int, ...], Options]]:
    """Return the runs that no rule leaves out: the number of each axis' value, and the options."""
    numbers = itertools.product(*(range(len(values)) for values in file.axes.values()))
    crossed = [(chosen, _merged(file, chosen)) for chosen in numbers]
    hit = {rule.where: [matches(rule, options) for _, options in crossed] for rule in file.exclude + file.only}
    for rule in file.exclude + file.only:
        _check_used(rule, any(hit[rule.where]))
    kept = [
        run
        for number, run in enumerate(crossed)
        if not any(hit[rule.where][number] for rule in file.exclude)
        and (not file.only or any(hit[rule.where][number] for rule in file.only))
    ]
    if not kept:
        raise InputError("the rules leave no run of the grid")
    for rule in file.set:
        about = [options for _, options in kept if matches(rule, options)]
        _check_used(rule, bool(about))
        for options in about:
            options.update(rule.gives)
    return kept


def _merged(file: SweepFile, chosen: tuple[int, ...]) -> Options:
    options = dict(file.base)
    for values, number in zip(file.axes.values(), chosen, strict=True):
        options |= values[number]
    return options


def matches(rule: Rule, options: Options) -> bool:
    """Return whether a rule is about a run: each of its values is the run's, or a list that has it."""
    return all(_is(options.get(option, DEFAULTS[option]), wanted) for option, wanted in rule.when.items())


def _is(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, list) and any(_is(value, each) for each in wanted):
        return True
    value = list(value) if isinstance(value, tuple) else value  # the default of several numbers
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)


def _check_used(rule: Rule, used: bool) -> None:
    if not used:
        when = ", ".join(f"{option} = {value!r}" for option, value in rule.when.items())
        raise InputError(f"{rule.where} is about no run: none has {when}")


def _filled(options: Options) -> Options:
    """Return the options with the values of others put into the texts that name them."""

    def value_of(found: Any) -> str:
        option = found[1]
        if option not in OPTIONS:
            raise InputError(f"{found[0]} is no option")
        value = options.get(option, DEFAULTS[option])
        if not isinstance(value, (str, int, float)) or TEMPLATE.search(str(value)):
            raise InputError(f"{found[0]} has no value to put into a text")
        return str(value)

    return {
        option: TEMPLATE.sub(value_of, value) if isinstance(value, str) else value for option, value in options.items()
    }


def _check_distinct(runs: list[Run]) -> None:
    named: dict[str, Run] = {}
    configured: dict[Config, Run] = {}
    for run in runs:
        same_name = named.setdefault(run.name.casefold(), run)  # some file systems do not tell a from A
        same_options = configured.setdefault(run.config, run)
        if same_options is not run:
            raise InputError(f"runs {same_options.name} and {run.name} have the same options: one of them is too much")
        if same_name is not run:
            differing = [option for option in OPTIONS if _differ(same_name.config, run.config, option)]
            raise InputError(f"two runs have the name {run.name}: they differ in {', '.join(differing)} alone")


def _differ(one: Config, other: Config, option: str) -> bool:
    return bool(getattr(one, option) != getattr(other, option))
