"""Schedules of the inverse temperature take the values computed by hand, and the cosine is torch's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisim.errors import InputError
from mpisim.graphs.schedule import SCHEDULES, inverse_temperature


def course(schedule, num_rounds, temperature=0.1, *, period=4, multiplier=1, floor=None, decay=0.5):
    """Return the inverse temperatures of the first rounds."""
    return [
        inverse_temperature(
            schedule, round, temperature, period=period, multiplier=multiplier, floor=floor, decay=decay
        )
        for round in range(1, num_rounds + 1)
    ]


ROOT = math.sqrt(2)
BY_HAND = {
    "constant": ("constant", {}, [10, 10, 10, 10, 10, 10]),
    "constant, negative": ("constant", {"temperature": -0.5}, [-2, -2, -2]),
    # (1 + cos 0°, 45°, 90°, 135°) / 2 of the way, and again from the fifth round on.
    "cosine": ("cosine", {}, [10, 5 + 2.5 * ROOT, 5, 5 - 2.5 * ROOT, 10, 5 + 2.5 * ROOT]),
    "cosine to a floor": ("cosine", {"floor": 2, "period": 2}, [10, 6, 10, 6]),
    "cosine to a negative floor": ("cosine", {"floor": -10, "period": 2}, [10, 0, 10, 0]),
    "cosine from below": ("cosine", {"temperature": -0.1, "floor": 10, "period": 3}, [-10, -5, 5, -10]),
    "cosine with longer and longer periods": (
        "cosine",
        {"period": 1, "multiplier": 2},
        [10, 10, 5, 10, 5 + 2.5 * ROOT, 5, 5 - 2.5 * ROOT, 10],
    ),
    "cosine that always restarts": ("cosine", {"period": 1}, [10, 10, 10]),
    "exponential": ("exponential", {}, [10, 5, 2.5, 1.25, 1, 1]),
    "exponential, negative": ("exponential", {"temperature": -0.1}, [-10, -5, -2.5, -1.25, -1, -1]),
    "exponential to another floor": ("exponential", {"floor": 4}, [10, 5, 4, 4]),
    "exponential to 0": ("exponential", {"floor": 0, "temperature": 1}, [1, 0.5, 0.25, 0.125, 0.0625]),
    "exponential from below its floor": ("exponential", {"temperature": 4}, [0.25, 0.25, 0.25]),
    "exponential that does not decay": ("exponential", {"decay": 1}, [10, 10, 10]),
    "oscillate": ("oscillate", {"period": 2}, [10, 10, -10, -10, 10, 10, -10]),
    "oscillate each round": ("oscillate", {"period": 1, "temperature": -0.1}, [-10, 10, -10, 10]),
}


@pytest.mark.parametrize("schedule, options, expected", BY_HAND.values(), ids=BY_HAND)
def test_values_by_hand(schedule, options, expected):
    assert course(schedule, len(expected), **options) == pytest.approx(expected, rel=1e-14, abs=1e-14)


def test_every_schedule_has_values_by_hand():
    assert {schedule for schedule, *_ in BY_HAND.values()} == set(SCHEDULES)


@pytest.mark.parametrize("period, multiplier", [(1, 1), (5, 1), (3, 2), (1, 3), (66, 1)])
@pytest.mark.parametrize("floor", [0.0, 1.0, -5.0])
def test_cosine_is_torchs_annealing_with_warm_restarts(period, multiplier, floor):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=10.0)
    annealing = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, period, multiplier, floor)
    expected = []
    for _ in range(80):
        expected.append(annealing.get_last_lr()[0])
        optimizer.step()
        annealing.step()
    found = course("cosine", 80, period=period, multiplier=multiplier, floor=floor)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    temperature=st.floats(0.01, 100) | st.floats(-100, -0.01),
    period=st.integers(1, 100),
    multiplier=st.integers(1, 3),
    floor=st.none() | st.floats(0, 20),
    decay=st.floats(0.01, 1),
    round=st.integers(1, 10_000),
)
def test_no_schedule_leaves_the_range_between_its_start_and_its_end(
    temperature, period, multiplier, floor, decay, round
):
    options = {"period": period, "multiplier": multiplier, "floor": floor, "decay": decay}
    start = 1 / temperature
    values = {name: inverse_temperature(name, round, temperature, **options) for name in SCHEDULES}
    assert values["constant"] == start
    assert abs(values["oscillate"]) == abs(start)
    low, high = sorted([start, floor or 0.0])
    assert low - 1e-9 <= values["cosine"] <= high + 1e-9
    nearest = min(abs(start), 1.0 if floor is None else floor)
    assert nearest <= values["exponential"] * math.copysign(1, start) <= abs(start)


WRONG = {
    "an unknown schedule": (
        {"schedule": "linear"},
        "unknown schedule 'linear': choose from constant, cosine, exponential, oscillate",
    ),
    "a temperature of zero": ({"temperature": 0.0}, "a temperature of 0.0: it and its inverse must be finite"),
    "a temperature that is no number": ({"temperature": math.nan}, "a temperature of nan"),
    "a temperature without a finite inverse": ({"temperature": 1e-310}, "a temperature of 1e-310"),
    "an infinite temperature": ({"temperature": math.inf}, "a temperature of inf"),
    "no period": ({"period": 0}, "period of 0 and multiplier of 1: both must be 1 or more"),
    "no multiplier": ({"multiplier": 0}, "period of 4 and multiplier of 0"),
    "growth": ({"decay": 1.01}, "decay of 1.01: must be above 0, and 1 at most"),
    "a decay of zero": ({"decay": 0.0}, "decay of 0.0"),
    "a decay that is no number": ({"decay": math.nan}, "decay of nan"),
    "an infinite floor": ({"floor": -math.inf}, "floor of -inf: must be finite"),
    "a negative distance": (
        {"schedule": "exponential", "floor": -1.0},
        "floor of -1.0 for 'exponential': is a distance from 0",
    ),
}


@pytest.mark.parametrize("options, message", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_line(options, message):
    with pytest.raises(InputError) as raised:
        course(**({"schedule": "cosine", "num_rounds": 1} | options))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
