"""Whether what carries rows can be trusted: known rows there and back, compared, before any model travels.

Some MPIs that take device buffers have been seen to deliver wrong data without a word where several sends leave from
one allocation, and others to hang. So rows of several sizes travel that way, many at once, in both directions.
"""

from __future__ import annotations

import numpy as np
import torch
from mpi4py import MPI

from mpisim.exchange.rows import Carrier, Carry
from mpisim.ranks.messages import first_word
from mpisim.ranks.waiting import Waiting

# Columns of a row: a message of each of MPI's kinds, from what fits into a packet to what is fetched piece by piece.
SIZES = (1, 1_000, 70_000, 500_000)
ROUNDS = 2  # the second finds the first's rows in its buffers
SECONDS = 60.0  # for all messages of a round, at the most
ROWS = 2  # to each rank
PRIME = 251  # numbers below it are exact in bfloat16, too
_FIRST_TAG = 41


def partners(rank: int, size: int) -> list[int]:
    """Return the ranks that a rank sends to, which send to it too: those beside it, and those half way round.

    >>> partners(0, 8), partners(0, 2), partners(0, 1)
    ([1, 4, 7], [1], [])
    """
    steps = (1, -1, size // 2, -(size // 2))
    return sorted({(rank + step) % size for step in steps} - {rank})


def known_rows(source: int, destination: int, number: int, round: int, num_columns: int) -> torch.Tensor:
    """Return the rows of a message, float32, shape (ROWS, num_columns): no two messages have the same."""
    columns = torch.arange(num_columns)
    shift = 13 * source + 29 * destination + 37 * number + 53 * round
    return torch.stack([(columns + columns // PRIME + shift + 17 * row) % PRIME for row in range(ROWS)]).float()


class Trial:
    """Messages of rows of one size, to and from each partner: all leave from one matrix, and arrive in one.

    Parameters
    ----------
    number : int
        Of the trial, of which many go on at once.
    packs : bool
        Whether rows are named one by one, as an exchange names those of X, or are a slice of the matrix.
    """

    def __init__(self, comm: MPI.Comm, carry: Carry, device: torch.device, number: int, size: int, packs: bool):
        self.rank, self.number = comm.rank, number
        self.partners = partners(comm.rank, comm.size)
        shape = (ROWS * len(self.partners), size)
        self.outgoing, self.incoming = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        self.carrier: Carrier = carry(comm, _FIRST_TAG + number)
        for place, rank in enumerate(self.partners):
            rows = np.arange(ROWS * place, ROWS * (place + 1))
            if packs:
                self.carrier.send(self.outgoing, rank, rows)
            else:
                self.carrier.send(self.outgoing[rows[0] : rows[-1] + 1], rank)
            self.carrier.receive(self.incoming[rows[0] : rows[-1] + 1], rank)

    def receive(self) -> None:
        """Be ready for a round's rows."""
        self.incoming.fill_(-1.0)
        self.carrier.start_receives()

    def send(self, round: int) -> None:
        """Send a round's rows."""
        width = self.outgoing.shape[1]
        rows = [known_rows(self.rank, rank, self.number, round, width) for rank in self.partners]
        self.outgoing.copy_(torch.cat([*rows, self.outgoing[:0].cpu()]))
        self.carrier.start_sends()

    def fault(self, round: int) -> str:
        """Return what is wrong with the rows that have arrived; nothing if all are as they were sent."""
        width = self.incoming.shape[1]
        for place, rank in enumerate(self.partners):
            found = self.incoming[ROWS * place : ROWS * (place + 1)].cpu()
            wrong = int((found != known_rows(rank, self.rank, self.number, round, width)).sum())
            if wrong:
                return f"{wrong:,} of {found.numel():,} numbers from rank {rank} were wrong on rank {self.rank}"
        return ""


_ABANDONED: list[Trial] = []  # whose messages may be under way for ever, and so their memory must stay


def self_test(comm: MPI.Intracomm, waiting: Waiting, carry: Carry, device: torch.device) -> str:
    """Return why what carries rows cannot be trusted, the same on every rank; nothing if it can. Collective."""
    # A rank that has found a fault waits for the others' word: they must give a message up before it gives them up.
    seconds = min(SECONDS, waiting.timeout / 2)
    with waiting.together(comm):
        apart = comm.Dup()  # what a failed test leaves under way meets no other message
    trials: list[Trial] = []
    reason = ""
    for round in range(ROUNDS):
        try:
            trials = trials or [
                Trial(apart, carry, device, 2 * place + packs, size, bool(packs))
                for place, size in enumerate(SIZES)
                for packs in range(2)
            ]
            fault, late = _play(trials, round, seconds)
        except (MPI.Exception, RuntimeError, TypeError, ValueError) as error:
            fault, late = f"rank {comm.rank}: {error}".partition("\n")[0], ""
        # One rank's error may be what others wait for.
        reason = first_word(comm, waiting, fault) or first_word(comm, waiting, late)
        if reason:
            _ABANDONED.extend(trials)
            return reason
    for trial in trials:
        trial.carrier.free()
    apart.Free()
    return reason


def _play(trials: list[Trial], round: int, seconds: float) -> tuple[str, str]:
    """Let the rows of a round travel; return what is wrong with those that came here, or who has not come."""
    for trial in trials:
        trial.receive()
    for trial in trials:
        trial.send(round)
    late = list(trials)

    def done() -> bool:
        late[:] = [trial for trial in late if not trial.carrier.progress()]
        return not late

    try:
        Waiting(timeout=seconds).until(done)
    except TimeoutError:
        return (
            "",
            f"{late[0].carrier.missing()} and rank {late[0].rank} were not done with a message within {seconds:g} s",
        )
    return next(filter(None, (trial.fault(round) for trial in trials)), ""), ""
