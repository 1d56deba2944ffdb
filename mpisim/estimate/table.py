"""Estimates for people: a line for each number of ranks, first of seconds, then of bytes."""

from __future__ import annotations

from collections.abc import Sequence

from mpisim.analysis.columns import as_text
from mpisim.estimate.model import PARTS, Estimate
from mpisim.units import plain_bytes, plain_seconds


def table(estimates: Sequence[Estimate]) -> str:
    """Return both tables: how long it takes and how many hours of a host; what travels, what stays on disk, memory."""
    times = [
        [
            f"{each.ranks:,}",
            f"{each.hosts:,}",
            *(plain_seconds(each.seconds[part]) for part in PARTS),
            plain_seconds(each.total),
            plain_hours(each.host_hours),
        ]
        for each in estimates
    ]
    sizes = [
        [
            f"{each.ranks:,}",
            plain_bytes(each.round_bytes),
            plain_bytes(each.wire_bytes),
            plain_bytes(each.log_bytes),
            plain_bytes(each.checkpoint_bytes),
            "–" if each.memory is None else plain_bytes(each.memory),
        ]
        for each in estimates
    ]
    return "\n\n".join(
        [
            as_text(["ranks", "hosts", *PARTS, "total", "host-hours"], times),
            as_text(["ranks", "sent a round", "sent", "log", "checkpoints", "memory a rank"], sizes),
        ]
    )


def plain_hours(hours: float) -> str:
    """Return hours with two digits at the least.

    >>> plain_hours(0.0123), plain_hours(12.34), plain_hours(12345.6)
    ('0.012', '12.3', '12,346')
    """
    return f"{hours:.3f}" if hours < 1 else f"{hours:,.1f}" if hours < 1000 else f"{hours:,.0f}"
