"""TinyMem: sequences of numbers made by a rule, written out digit by digit, for language models that fit anywhere.

A task is a coefficient. Its sequences apply x ← coefficient · x (or coefficient + x) modulo a prime, over and over, and
are written ``^a b c … $``, one token per character. A start is not written itself: starts that differ by the modulus
give the same sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpisim.data.labeled import Labeled
from mpisim.errors import InputError, unknown_name

BEGIN, END, SPACE, PAD = 10, 11, 12, 13  # the digits are their own tokens
NUM_TOKENS = 14
PERMUTATION_SEED = 598  # the study's
MAX_MODULO = 2**31

TASKS = {"even": (2, 4, 6, 8, 10), "prime": (2, 3, 5, 7, 11)}
OPERATIONS = ("multiply", "sum")


@dataclass(frozen=True)
class TinyMem:
    """What the sequences are.

    Attributes
    ----------
    tasks : "even" or "prime"
        Which five coefficients.
    operation : "multiply" or "sum"
    modulo : int
    length : int
        Numbers in a sequence.
    context : int
        Tokens of a sample. Shorter sequences are padded, longer ones lose their end; of the defaults none is longer
        than 121.
    examples, tests : int
        Sequences of each task, with the starts 0…examples - 1, and how many of them are for testing.

    Raises
    ------
    InputError
        If a value is unknown or out of range.
    """

    tasks: str = "even"
    operation: str = "multiply"
    modulo: int = 16_381
    length: int = 20
    context: int = 150
    examples: int = 33_000
    tests: int = 1_000

    def __post_init__(self) -> None:
        if self.tasks not in TASKS:
            raise unknown_name("tasks", self.tasks, TASKS)
        if self.operation not in OPERATIONS:
            raise unknown_name("operation", self.operation, OPERATIONS)
        if not 1 <= self.modulo <= MAX_MODULO:
            raise InputError(f"TinyMem: a modulo of {self.modulo}: must be between 1 and {MAX_MODULO:,}")
        for name, least in (("length", 1), ("context", 2), ("examples", 2), ("tests", 1)):
            if getattr(self, name) < least:
                raise InputError(f"TinyMem: {name} {getattr(self, name)}: must be {least} or more")
        if self.tests >= self.examples:
            raise InputError(f"TinyMem: {self.tests} of {self.examples} examples for testing: some must be left over")


def make_tinymem(options: TinyMem) -> tuple[Labeled, Labeled]:
    """Return the training and the test set: tokens of shape (num_samples, context), labeled by the task's index.

    Each task's sequences are in one order, the same for all of them: ``numpy.random.RandomState(598).permutation``,
    which numpy promises never to change; the last ones are for testing. Samples go round the tasks, so that the first
    N of them are balanced too.
    """
    order = np.random.RandomState(PERMUTATION_SEED).permutation(options.examples)
    cut = options.examples - options.tests
    return _samples(options, order[:cut]), _samples(options, order[cut:])


def _samples(options: TinyMem, starts: np.ndarray) -> Labeled:
    coefficients = np.array(TASKS[options.tasks])
    numbers = _numbers(options, np.tile(coefficients, len(starts)), np.repeat(starts, len(coefficients)))
    labels = np.tile(np.arange(len(coefficients)), len(starts))
    return Labeled(_written(numbers, options.context), labels)


def _numbers(options: TinyMem, coefficients: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the numbers of each sequence, int64, shape (num_sequences, length)."""
    numbers = np.empty((len(starts), options.length), dtype=np.int64)
    current = starts
    for step in range(options.length):
        made = coefficients * current if options.operation == "multiply" else coefficients + current
        current = numbers[:, step] = made % options.modulo
    return numbers


def _written(numbers: np.ndarray, context: int) -> np.ndarray:
    """Return the tokens of each row of numbers, uint8, shape (num_rows, context)."""
    num_rows, length = numbers.shape
    most_digits = len(str(numbers.max()))
    num_digits = np.ones_like(numbers)
    for power in range(1, most_digits):
        num_digits += numbers >= 10**power
    width = max(context, 1 + length * (most_digits + 1))
    tokens = np.full((num_rows, width), PAD, dtype=np.uint8)
    tokens[:, 0] = BEGIN
    flat = tokens.reshape(-1)
    end = np.arange(num_rows) * width  # in flat: where, in each row, what follows the number that is being written goes
    for step in range(length):
        end += 1 + num_digits[:, step]
        flat[end] = SPACE if step < length - 1 else END
        rest = numbers[:, step]
        for digit in range(1, most_digits + 1):  # from the last
            has_it = digit <= num_digits[:, step]
            flat[end[has_it] - digit] = rest[has_it] % 10
            rest = rest // 10
    return np.ascontiguousarray(tokens[:, :context])
