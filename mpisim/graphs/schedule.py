"""Schedules: how the softmax's inverse temperature, 1 / temperature, changes from round to round.

The inverse multiplies the scores, so it passes through 0, where all of a neighborhood weighs the same, to negative
values, which prefer the lowest score. Rounds count from 1; in round 1 every schedule stands where it starts, at
1 / temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mpisim.errors import InputError, unknown_name


@dataclass(frozen=True)
class Course:
    """What a schedule is told.

    Attributes
    ----------
    start : float
        The inverse temperature of round 1.
    period : int
        Rounds until the first restart, or the first change of sign.
    multiplier : int
        How many times longer each period is than the one before.
    floor : float or None
        What the schedule comes down to; None for the schedule's own.
    decay : float
        The factor from a round to the next.
    """

    start: float
    period: int
    multiplier: int
    floor: float | None
    decay: float


def constant(course: Course, elapsed: int) -> float:  # noqa: ARG001
    """Stay."""
    return course.start


def cosine(course: Course, elapsed: int) -> float:
    """Fall along half a cosine from the start towards the floor (0), and begin again each period.

    References
    ----------
    Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, equation 5.
    """
    floor = 0.0 if course.floor is None else course.floor
    length = course.period
    while elapsed >= length:
        elapsed -= length
        length *= course.multiplier
    return floor + (course.start - floor) * (1 + math.cos(math.pi * elapsed / length)) / 2


def exponential(course: Course, elapsed: int) -> float:
    """Multiply by the decay each round, but come no nearer to 0 than the floor (1); one that starts nearer stays."""
    floor = 1.0 if course.floor is None else course.floor
    size = abs(course.start)
    return math.copysign(max(size * course.decay**elapsed, min(floor, size)), course.start)


def oscillate(course: Course, elapsed: int) -> float:
    """Change the sign each period."""
    return course.start if elapsed // course.period % 2 == 0 else -course.start


def inverse_temperature(
    schedule: str,
    round: int,
    temperature: float,
    *,
    period: int,
    multiplier: int,
    floor: float | None,
    decay: float,
) -> float:
    """Return what the scores are multiplied by in a round.

    Parameters
    ----------
    schedule : str
        A name in SCHEDULES.
    round : int
        From 1.
    temperature : float, not zero
        Of round 1.
    period : int, 1 or more
        Of ``cosine`` and ``oscillate``, in rounds.
    multiplier : int, 1 or more
        Of ``cosine``.
    floor : float or None
        Of ``cosine``, where it may be negative (None: 0), and of ``exponential``, where it is a distance from 0
        (None: 1).
    decay : float, above 0, 1 at most
        Of ``exponential``.

    Raises
    ------
    InputError
        If there is no such schedule, or a value is out of range.

    >>> inverse_temperature("oscillate", 6, 0.1, period=5, multiplier=1, floor=None, decay=0.95)
    -10.0
    """
    if schedule not in SCHEDULES:
        raise unknown_name("schedule", schedule, SCHEDULES)
    if temperature == 0 or not (math.isfinite(temperature) and math.isfinite(1 / temperature)):
        raise InputError(f"a temperature of {temperature}: it and its inverse must be finite and not zero")
    if period < 1 or multiplier < 1:
        raise InputError(f"a schedule's period of {period} and multiplier of {multiplier}: both must be 1 or more")
    if not 0 < decay <= 1:
        raise InputError(f"a schedule's decay of {decay}: must be above 0, and 1 at most")
    if floor is not None and not math.isfinite(floor):
        raise InputError(f"a schedule's floor of {floor}: must be finite")
    if schedule == "exponential" and floor is not None and floor < 0:
        raise InputError(f"a floor of {floor} for 'exponential': is a distance from 0, and must be 0 or more")
    return SCHEDULES[schedule](Course(1 / temperature, period, multiplier, floor, decay), round - 1)


SCHEDULES: dict[str, Callable[[Course, int], float]] = {
    "constant": constant,
    "cosine": cosine,
    "exponential": exponential,
    "oscillate": oscillate,
}
