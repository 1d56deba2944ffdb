"""Durations and numbers of bytes as people say them."""

from __future__ import annotations

import math


def plain_seconds(seconds: float) -> str:
    """Return a duration for people; a question mark where it is not known.

    >>> plain_seconds(0.25), plain_seconds(75), plain_seconds(4000), plain_seconds(float("nan"))
    ('0.2 s', '1 min 15 s', '1 h 06 min', '?')
    """
    if math.isnan(seconds):
        return "?"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def plain_bytes(count: float) -> str:
    """Return a number of bytes for people.

    >>> plain_bytes(0), plain_bytes(70_000), plain_bytes(3 * 2**30)
    ('0 B', '68.4 KiB', '3.0 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
