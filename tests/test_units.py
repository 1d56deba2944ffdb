"""Durations and bytes are told in the units of people."""

import pytest

from mpisim.units import plain_bytes, plain_seconds


@pytest.mark.parametrize(
    "seconds, text",
    [
        (float("nan"), "?"),
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (10.2, "10 s"),
        (59.4, "59 s"),
        (59.7, "1 min 00 s"),
        (60, "1 min 00 s"),
        (61.6, "1 min 02 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (3660, "1 h 01 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_a_duration_is_told_in_the_units_of_people(seconds, text):
    assert plain_seconds(seconds) == text


@pytest.mark.parametrize(
    "count, text",
    [
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (3 * 2**42, "12.0 TiB"),
    ],
)
def test_bytes_are_told_in_binary_units(count, text):
    assert plain_bytes(count) == text
