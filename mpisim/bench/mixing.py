"""Mixing: one aggregation of a rank's rows against torch.add, in this process and on one thread.

Two yardsticks, both made of passes ``torch.add(a, b, alpha=w, out=a)`` over whole rows:

- *a pass for each term*: rows × terms passes, what one would write without blocks. The bytes counted are those of the
  rows that are read as terms, rows · terms · columns · 4, and are the same for both. Beside them each pass of torch.add
  reads and writes the row it adds to, while ``mix`` keeps sums in the cache and writes each row once.
- *as many bytes*: so many passes as move the bytes that mixing cannot do without if no row stays in the cache: every
  term is read and every mixture written, rows · (terms + 1) · columns · 4. A pass moves 3 · columns · 4: it reads two
  rows and writes one. So this is near what memory allows, and below what can be reached where terms are few.
"""

from __future__ import annotations

import argparse
import itertools
import math

from mpisim.bench.timing import SECONDS, Comparison, Report, alternate, at_least_one, timed
from mpisim.errors import InputError
from mpisim.units import plain_bytes

HELP = "one aggregation against torch.add over the same bytes"
OURS, BY_TERM, BY_BYTES = "mixing", "a pass for each term", "as many bytes"
TARGET = 1.3
COLUMNS = 5_076_998  # of MNIST's perceptron
FLOAT_BYTES = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add this bench's options."""
    parser.add_argument("--columns", type=at_least_one, default=COLUMNS, metavar="N", help=f"of a row ({COLUMNS})")
    parser.add_argument("--rows", type=at_least_one, default=8, metavar="N", help="that are mixed (8)")
    parser.add_argument("--terms", type=at_least_one, default=5, metavar="N", help="of each mixture (5)")


def measure(options: argparse.Namespace) -> Report:
    """Run the bench."""
    import numpy as np
    import torch

    from mpisim.exchange.mixing import mix
    from mpisim.learning.parameters import allocate_rows

    rows, terms, columns = options.rows, options.terms, options.columns
    num_remote = math.ceil(rows / 2)
    if terms > rows + num_remote:
        raise InputError(f"--terms {terms}: {rows} own and {num_remote} received rows are fewer: take more --rows")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cpu = torch.device("cpu")
        parameters, remote, sums = (allocate_rows(count, columns, cpu) for count in (rows, num_remote, rows))
        parameters.normal_()
        remote.normal_()
        # Each row mixes itself with rows that are spread evenly over its rank's and the received ones.
        steps = np.arange(terms) * (rows + num_remote) // terms
        positions = np.sort((np.arange(rows)[:, None] + steps) % (rows + num_remote), axis=1)
        weights = np.full(positions.size, 1 / terms)

        def ours() -> None:
            mix(parameters, remote, np.arange(rows + 1) * terms, positions.ravel(), weights)

        everything = [*parameters, *remote]
        pairs = [
            (sums[row], everything[term])
            for row, term in zip(np.repeat(np.arange(rows), terms), positions.flat, strict=True)
        ]
        num_passes = math.ceil(rows * (terms + 1) / 3)

        def add(count: int) -> None:
            for row, term in itertools.islice(itertools.cycle(pairs), count):
                torch.add(row, term, alpha=1 / terms, out=row)

        contenders = {
            BY_TERM: timed(lambda: add(len(pairs))),
            OURS: timed(ours),
            BY_BYTES: timed(lambda: add(num_passes)),
        }
        for contender in contenders.values():  # the first time touches memory
            contender()
        series = alternate(contenders, options.repeats, "mixing")
    finally:
        torch.set_num_threads(threads)
    mixed = series[OURS][SECONDS]
    of_terms, moved = (rows * count * columns * FLOAT_BYTES for count in (terms, terms + 1))
    return Report(
        "torch.add",
        OURS,
        [
            Comparison(BY_TERM, series[BY_TERM][SECONDS], mixed, TARGET),
            Comparison(BY_BYTES, series[BY_BYTES][SECONDS], mixed),
        ],
        [
            f"{rows} mixtures of {terms} rows of {columns:,} columns, on one thread:"
            f" {plain_bytes(of_terms)} of terms, {plain_bytes(moved)} with the mixtures"
        ],
    )
