"""One option: how it is described, and how its value is checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import field
from typing import Any

from mpisim.errors import InputError, unknown_name


def option(group: str, default: Any, kind: type, help_text: str, **more: Any) -> Any:
    """Describe an option.

    Parameters
    ----------
    kind : type of the value, or of each of the values where ``count`` is given ("+" or a number)
    more : ``choices`` (names); ``least``, ``most`` (may be equal), ``above``, ``below`` (may not); ``count``;
        ``recipe`` (the data set gives the default)
    """
    return field(default=default, metadata={"group": group, "kind": kind, "help": help_text, **more})


def check_known(kind: str, name: str, registry: Any) -> None:
    """Raise the error of an unknown name, if a registry does not have it."""
    if name not in registry:
        raise unknown_name(kind, name, registry)


def flag(name: str) -> str:
    """Return the flag of an option."""
    return "--" + name.replace("_", "-")


def checked(described: dataclasses.Field[Any], value: Any) -> Any:
    """Return the value of an option, of the right type, or raise the error that names its flag."""
    rules = described.metadata
    if value is None and described.default is None:
        return None
    if "count" in rules:
        values = value if isinstance(value, (list, tuple)) else [value]
        if not values or (rules["count"] != "+" and len(values) != rules["count"]):
            wanted = "one value or more" if rules["count"] == "+" else f"{rules['count']} values"
            raise InputError(f"{flag(described.name)} {value}: takes {wanted}")
        return tuple(_checked_one(described.name, rules, each) for each in values)
    return _checked_one(described.name, rules, value)


def _checked_one(name: str, rules: Any, value: Any) -> Any:
    kind = rules["kind"]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else math.inf
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = {int: "an integer", float: "a number", str: "text", bool: "true or false"}[kind]
        raise InputError(f"{flag(name)} {value!r}: must be {wanted}")
    if kind is str and "\0" in value:
        raise InputError(f"{flag(name)} {value!r}: must not contain a null byte")
    if "choices" in rules and value not in rules["choices"]:
        raise unknown_name(name.replace("_", " "), value, rules["choices"])
    if kind is float and not math.isfinite(value):
        raise InputError(f"{flag(name)} {value}: must be finite")
    if kind is int and abs(value) >= 2**63:
        raise InputError(f"{flag(name)} {value}: is too large")
    bounds: dict[str, tuple[Callable[[Any], bool], str]] = {
        "least": (lambda bound: value >= bound, "must be {} or more"),
        "most": (lambda bound: value <= bound, "must be {:,} at most"),
        "above": (lambda bound: value > bound, "must be above {}"),
        "below": (lambda bound: value < bound, "must be below {}"),
    }
    for rule, (holds, text) in bounds.items():
        if rule in rules and not holds(rules[rule]):
            raise InputError(f"{flag(name)} {value}: {text.format(rules[rule])}")
    return value
