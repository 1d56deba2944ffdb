"""A sweep file: options that all runs have, lists that are crossed, and rules about what comes of it.

    [base]                                     # options of every run: the flags of mpisim.run, with underscores
    rounds = 40
    topology = "ba:n=33,m=2,seed={seed}"       # a text may name another option

    [grid]                                     # every value with every other; the last list changes fastest
    strategy = ["fl", "degree"]
    ood_rank = [1, 2, 3, 4]
    seed = [0, 1, 2]
    start = [                                  # options that go together, under a name of one's own
        { init = "common" },
        { init = "independent", rounds = 60 },
    ]

    [[exclude]]                                # runs that all of this is true of are left out; a list: any of it
    strategy = "fl"
    ood_rank = [2, 3, 4]

    [[only]]                                   # if there are such rules, a run stays that one of them is true of
    seed = [0, 1]

    [[set]]                                    # options that follow from others; of two rules the later one wins
    when = { strategy = "degree" }
    temperature = 0.2

Rules read options as they are written here; one that the file does not give has its default. An option of the grid
goes before the same one of the base.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpisim.config import Config
from mpisim.errors import InputError

OPTIONS = [option.name for option in dataclasses.fields(Config)]
OF_THE_SWEEP = ("name", "output", "resume", "overwrite", "dry_run", "estimate", "quiet")
PARTS = ("base", "grid", "exclude", "only", "set")

Options = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """One of the rules: where it stands, which runs it is about and, of ``[[set]]``, what it gives them."""

    where: str
    when: Options
    gives: Options


@dataclass(frozen=True)
class SweepFile:
    """What a sweep file says.

    Attributes
    ----------
    base : options of every run
    axes : of the grid: the options of each of its values, by the axis' name
    exclude, only, set : the rules, in their order
    """

    path: Path
    base: Options
    axes: dict[str, list[Options]]
    exclude: list[Rule]
    only: list[Rule]
    set: list[Rule]


def read_sweep(path: Path) -> SweepFile:
    """Return what a sweep file says.

    Raises
    ------
    InputError
        If it cannot be read, or has a key or a form that a sweep file does not have.
    """
    try:
        return _checked(path, _parsed(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _parsed(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("no such file") from error
    except (OSError, ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise InputError(f"cannot be read as TOML: {error}") from error


def _checked(path: Path, content: dict[str, Any]) -> SweepFile:
    for key in content:
        if key not in PARTS:
            raise InputError(f"unknown key {key!r}: a sweep file has [base], [grid], [[exclude]], [[only]] and [[set]]")
    base = _table("[base]", content.get("base", {}))
    check_options("[base]", base)
    axes = {name: _axis(name, values) for name, values in _table("[grid]", content.get("grid", {})).items()}
    if not axes:
        raise InputError("[grid] has no lists: there is nothing to cross")
    owner: dict[str, str] = {}
    for axis, values in axes.items():
        for option in {option for value in values for option in value}:
            if owner.setdefault(option, axis) != axis:
                raise InputError(f"[grid]: {option} is in {owner[option]} and in {axis}: a run can have it once")
    rules = {part: _rules(part, content.get(part, []), owner) for part in ("exclude", "only", "set")}
    return SweepFile(path, base, axes, rules["exclude"], rules["only"], rules["set"])


def _table(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a table, not {value!r}")
    return value


def _axis(name: str, values: Any) -> list[Options]:
    """Return the options of each value of an axis: a list for one option, or tables of options that go together."""
    where = f"[grid]: {name}"
    if not isinstance(values, list):
        raise InputError(f"{where} must be a list, not {values!r}: what all runs have stands in [base]")
    if not values:
        raise InputError(f"{where} is an empty list: no run would come of it")
    if not any(isinstance(value, dict) for value in values):
        check_options("[grid]", {name: values})
        return [{name: value} for value in values]
    for value in values:
        if not isinstance(value, dict) or not value:
            raise InputError(f"{where}: {value!r} is no table of options, unlike others of the list")
        check_options(where, value)
    return values


def _rules(part: str, tables: Any, axis_of: Mapping[str, str]) -> list[Rule]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{part} must be tables under [[{part}]]")
    rules = []
    for number, table in enumerate(tables, start=1):
        where = f"[[{part}]] {number}"
        when, gives = table, {}
        if part == "set":
            gives = {option: value for option, value in table.items() if option != "when"}
            when = _table(f"{where}: when", table.get("when", {}))
            if not gives:
                raise InputError(f"{where} gives no option")
            for option in gives:
                if option in axis_of:
                    raise InputError(f"{where}: {option} is in [grid], whose values name the runs: it stays as it is")
        if not when:
            missing = "when = { ... }" if part == "set" else "options"
            raise InputError(f"{where} lacks {missing}: it must say which runs it is about")
        check_options(where, when)
        check_options(where, gives)
        rules.append(Rule(where, when, gives))
    return rules


def check_options(where: str, options: Mapping[str, Any]) -> None:
    """Raise the error of options that are none, or are not the file's to give."""
    for option in options:
        if option in OF_THE_SWEEP:
            raise InputError(f"{where}: {option} is for the sweep itself to give to its runs: leave it out")
        if option not in OPTIONS:
            raise InputError(
                f"{where}: unknown option {option!r}: options are the flags of mpisim.run, with underscores"
                " (python -m mpisim.run --help lists them)"
            )
