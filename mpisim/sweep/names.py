"""Names of runs: the values that the grid gives a run, in an order of our own, so that the file's does not matter."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from mpisim.sweep.file import OPTIONS, Options

FIRST = ("dataset", "model", "topology", "strategy")
LAST = ("seed",)
ORDER = [*FIRST, *(option for option in OPTIONS if option not in FIRST + LAST), *LAST]
BARE = {"dataset", "init", "model", "optimizer", "schedule", "strategy", "topology"}  # their values tell what they are
LONGEST = 150  # characters; a file system takes 255 bytes, and a log is first written under a longer name
DIGEST = 8
TEMPLATE = re.compile(r"\{(\w+)\}")


def value_texts(values: Sequence[Options]) -> list[str]:
    """Return what an axis of the grid adds to the names of runs, for each of its values.

    Of options that go together, as few are taken as tell the values apart, at least one.

    >>> value_texts([{"rounds": 20, "dataset": "digits"}, {"rounds": 10, "dataset": "mnist"}])
    ['digits', 'mnist']
    >>> value_texts([{"topology": "ba:n=33,m=2,seed={seed}"}, {"topology": "graphs/a ring.txt"}])
    ['ba-n33-m2', 'a-ring']
    """
    in_all = set.intersection(*(set(value) for value in values))
    options = sorted(
        {option for value in values for option in value},
        key=lambda option: (option not in in_all, option not in BARE, ORDER.index(option)),
    )
    texts = [[option_text(option, value[option]) if option in value else "" for option in options] for value in values]
    taken: list[int] = []
    for column in range(len(options)):
        if _telling(texts, [*taken, column]) > _telling(texts, taken):
            taken.append(column)
    return ["_".join(row[column] for column in taken if row[column]) for row in texts]


def _telling(texts: list[list[str]], columns: list[int]) -> int:
    """Return how much some columns tell: of how many values they say anything, and how many they tell apart."""
    rows = [tuple(row[column] for column in columns) for row in texts]
    return sum(any(row) for row in rows) + len(set(rows))


def axis_rank(values: Sequence[Options]) -> int:
    """Return where in a name an axis stands, by the first of its options."""
    return min(ORDER.index(option) for value in values for option in value)


def option_text(option: str, value: Any) -> str:
    """Return an option and its value as a part of a name.

    >>> [option_text(*each) for each in (("ood_rank", 4), ("shuffle", False), ("strategy", "fl"), ("ood_node", [3, 5]))]
    ['ood-rank4', 'no-shuffle', 'fl', 'ood-node3+5']
    """
    label = option.replace("_", "-")
    if isinstance(value, bool):
        return label if value else f"no-{label}"
    text = "+".join(map(_plain, value)) if isinstance(value, list) else _plain(value)
    if option == "topology":
        text = _topology_text(text)
    text = re.sub(r"[^A-Za-z0-9.+-]+", "-", text)
    if option in BARE:
        return text.strip("-.") or label  # no log is to be hidden, or without a name
    return f"{label}-{text}" if text[:1].isalpha() else f"{label}{text}"


def _plain(value: Any) -> str:
    """Return a value as text, without the zero of 10.0."""
    return re.sub(r"\.0$", "", repr(value)) if isinstance(value, float) else str(value)


def _topology_text(specification: str) -> str:
    """Return what a topology is called: a file by its own name, and without what comes from other options."""
    text = re.sub(rf"[-_,:]?(\w*=|[A-Za-z]*){TEMPLATE.pattern}", "", specification)
    if "/" in text or "=" not in text:
        text = re.sub(r"\.(txt|npy|edgelist|graphml)$", "", text.rpartition("/")[2])
        return text.replace("_", "-")
    return text.replace("=", "").replace("_", "")


def run_name(parts: Sequence[str]) -> str:
    """Return a run's name from its parts; of one that is too long the end is told by a checksum."""
    name = "_".join(part for part in parts if part)
    if len(name) <= LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:DIGEST]
    return f"{name[: LONGEST - DIGEST - 1]}_{digest}"
