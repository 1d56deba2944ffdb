"""One of two ranks whose models all travel to the other and back through host memory, while they are tested.

The exchange, the nodes and their order are those of a round: see ``rounds.py``, steps 1 and 3 to 5.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from mpisim.bench.drawn import CASES, drawn_nodes
from mpisim.bench.timing import SECONDS, Figures, timed
from mpisim.config import Config
from mpisim.exchange.neighborhood import ExchangePlan, NeighborhoodExchange, connect
from mpisim.exchange.transport import Transport
from mpisim.learning.device import synchronize
from mpisim.ranks.waiting import Waiting

Named = Callable[[str], AbstractContextManager[Any]]


class StagedRound:
    """One of two ranks: its nodes, and the messages that take all their models to the other rank and back.

    Parameters
    ----------
    comm : communicator of two ranks
    num_nodes : int
        Of each rank.
    num_tests : int
        Images that each model is tested on.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        waiting: Waiting,
        device: torch.device,
        model: str,
        num_nodes: int,
        num_tests: int,
    ):
        self._comm, self._waiting, self._device = comm, waiting, device
        own, theirs = (rank * num_nodes + np.arange(num_nodes) for rank in (comm.rank, 1 - comm.rank))
        others = np.full(num_nodes, 1 - comm.rank)
        plan = ExchangePlan(own, theirs, others, own, others)
        config = Config(dataset=CASES[model], init="independent", ood="none")
        self.nodes = drawn_nodes(config, own, device, 1, num_tests)
        self._graph = connect(comm, waiting, plan.received_from, plan.sent_to)
        carry = Transport("staged").carry
        self.exchange = NeighborhoodExchange(self._graph, plan, self.nodes.parameters, carry)
        self.bytes_sent = plan.bytes_sent(self.nodes.parameters.shape[1])

    def test(self) -> None:
        """Test all models."""
        self.nodes.test(between=lambda: None)

    def travel(self) -> None:
        """Let all models travel."""
        self.exchange.send()
        self.exchange.wait(self._waiting)

    def round(self, named: Named = lambda _: nullcontext()) -> None:
        """Do both as a round does; ``named`` marks its parts for a trace."""
        with named("send"):
            self.exchange.send()
        with named("test"):
            self.nodes.test(between=self.exchange.progress)
        with named("wait"):
            self.exchange.wait(self._waiting)

    def begin(self, travels: bool = True) -> None:
        """Wait until both devices have nothing left to do and, if models are to travel, both ranks expect them."""
        if travels:
            self.exchange.post()
        synchronize(self._device)
        self._waiting.barrier(self._comm)

    def together(self, work: Callable[[], None], travels: bool = True) -> Callable[[], Figures]:
        """Return a contender whose time counts from when both ranks are there, and is the longer of theirs."""

        def finished() -> None:
            work()
            synchronize(self._device)

        def contender() -> Figures:
            self.begin(travels)
            longest = np.array([timed(finished)()[SECONDS]])
            self._waiting.all([self._comm.Iallreduce(MPI.IN_PLACE, longest, op=MPI.MAX)])
            return {SECONDS: float(longest[0])}

        return contender

    def check(self) -> None:
        """Find out whether the other rank's models are here, bit for bit, by the sums of their bits as integers."""
        sums = self.nodes.parameters.view(torch.int32).sum(dim=1).cpu().numpy()
        theirs, here = np.empty_like(sums), self.exchange.remote.view(torch.int32).sum(dim=1).cpu().numpy()
        other = 1 - self._comm.rank
        self._waiting.all([self._comm.Irecv(theirs, other), self._comm.Isend(sums, other)])
        if not np.array_equal(here, theirs):
            raise RuntimeError("what arrived is not what was sent")

    def free(self) -> None:
        """Give what was set up back."""
        self.exchange.free()
        self._graph.Free()
