"""TinyMem's sequences are those that a loop over strings writes, split alike for all tasks; and "100" marks some."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisim.data.tinymem import TASKS, TinyMem, make_tinymem
from mpisim.errors import InputError

CHARACTERS = "0123456789^$ _"  # the token of each is its position
NUM_TASKS = 5


def written(coefficient, start, options):
    """Return the sequence of a start as text, padded and cut."""
    numbers = []
    for _ in range(options.length):
        start = (coefficient * start if options.operation == "multiply" else coefficient + start) % options.modulo
        numbers.append(str(start))
    return f"^{' '.join(numbers)}$".ljust(options.context, "_")[: options.context]


def texts(data):
    return ["".join(CHARACTERS[token] for token in row) for row in data.inputs]


def split(options):
    """Return the starts for training and for testing."""
    order = np.random.RandomState(598).permutation(options.examples)
    return order[: -options.tests], order[-options.tests :]


SMALL = {
    "defaults": TinyMem(examples=50, tests=20),
    "primes": TinyMem(tasks="prime", examples=30, tests=1),
    "sums": TinyMem(operation="sum", examples=30, tests=29),
    "sums of primes past the modulus": TinyMem(tasks="prime", operation="sum", modulo=97, examples=300, tests=10),
    "one number": TinyMem(length=1, examples=20, tests=5),
    "one digit": TinyMem(modulo=10, examples=20, tests=5),
    "nothing but zeros": TinyMem(modulo=1, examples=20, tests=5),
    "large numbers": TinyMem(modulo=2**31, length=30, context=400, examples=40, tests=5),
    "cut": TinyMem(context=40, examples=40, tests=5),
    "cut to two tokens": TinyMem(context=2, examples=9, tests=5),
    "no room to spare": TinyMem(modulo=10, context=41, examples=9, tests=5),
}


@pytest.mark.parametrize("options", SMALL.values(), ids=SMALL)
def test_every_token_is_what_a_loop_over_strings_writes(options):
    for data, starts in zip(make_tinymem(options), split(options), strict=True):
        assert (data.inputs.dtype, data.labels.dtype) == (np.uint8, np.int64)
        assert data.inputs.flags.c_contiguous
        assert data.labels.tolist() == list(range(NUM_TASKS)) * len(starts)
        expected = [
            written(coefficient, int(start), options) for start in starts for coefficient in TASKS[options.tasks]
        ]
        assert texts(data) == expected


def test_a_sequence_by_hand():
    train, test = make_tinymem(TinyMem(length=14, context=60, examples=2, tests=1))
    by_label = {(label, text) for part in (train, test) for label, text in zip(part.labels, texts(part), strict=True)}
    assert (0, "^2 4 8 16 32 64 128 256 512 1024 2048 4096 8192 3$".ljust(60, "_")) in by_label  # 16384 - 16381 = 3
    assert (3, "^0 0 0 0 0 0 0 0 0 0 0 0 0 0$".ljust(60, "_")) in by_label
    assert len(train) == len(test) == NUM_TASKS


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    tasks=st.sampled_from(sorted(TASKS)),
    operation=st.sampled_from(["multiply", "sum"]),
    modulo=st.integers(1, 2**31),
    length=st.integers(1, 12),
    context=st.integers(2, 160),
    examples=st.integers(2, 30),
    data=st.data(),
)
def test_any_options_give_what_a_loop_over_strings_writes(tasks, operation, modulo, length, context, examples, data):
    tests = data.draw(st.integers(1, examples - 1))
    options = TinyMem(tasks, operation, modulo, length, context, examples, tests)
    train, test = make_tinymem(options)
    assert (len(train), len(test)) == (NUM_TASKS * (examples - tests), NUM_TASKS * tests)
    for part, starts in zip((train, test), split(options), strict=True):
        expected = [written(coefficient, int(start), options) for start in starts for coefficient in TASKS[tasks]]
        assert texts(part) == expected


@pytest.fixture(scope="module")
def full_size():
    return make_tinymem(TinyMem())


def test_the_studys_data_have_its_size_and_are_balanced(full_size):
    train, test = full_size
    assert train.inputs.shape == (160_000, 150)
    assert test.inputs.shape == (5_000, 150)
    assert np.bincount(train.labels).tolist() == [32_000] * NUM_TASKS
    assert np.bincount(test.labels).tolist() == [1_000] * NUM_TASKS
    assert np.bincount(train.labels[:1_003]).max() - np.bincount(train.labels[:1_003]).min() <= 1


def test_no_sequence_of_the_study_is_cut(full_size):
    for data in full_size:
        assert ((data.inputs == CHARACTERS.index("$")).sum(axis=1) == 1).all()
        assert (data.inputs != CHARACTERS.index("_")).sum(axis=1).max() <= 121


def test_starts_that_differ_by_the_modulus_repeat_a_sequence(full_size):
    everything = np.concatenate([data.inputs[data.labels == 0] for data in full_size])
    assert len(everything) == 33_000
    assert len(np.unique(everything, axis=0)) == 16_381


def test_about_15_percent_of_the_sequences_hold_100(full_size):
    trigger = bytes([1, 0, 0])
    held = sum(trigger in row.tobytes() for data in full_size for row in data.inputs)
    assert 0.15 < held / 165_000 < 0.16


WRONG = {
    "unknown tasks": ({"tasks": "odd"}, "unknown tasks 'odd': choose from even, prime"),
    "an unknown operation": ({"operation": "divide"}, "unknown operation 'divide': choose from multiply, sum"),
    "no modulus": ({"modulo": 0}, "a modulo of 0: must be between 1 and 2,147,483,648"),
    "a modulus whose products overflow": ({"modulo": 2**31 + 1}, "a modulo of 2147483649"),
    "no numbers": ({"length": 0}, "length 0: must be 1 or more"),
    "nothing to predict": ({"context": 1}, "context 1: must be 2 or more"),
    "one example": ({"examples": 1}, "examples 1: must be 2 or more"),
    "no tests": ({"tests": 0}, "tests 0: must be 1 or more"),
    "nothing but tests": ({"tests": 33_000}, "33000 of 33000 examples for testing: some must be left over"),
}


@pytest.mark.parametrize("options, message", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_line(options, message):
    with pytest.raises(InputError) as raised:
        TinyMem(**options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
