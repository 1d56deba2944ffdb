"""Keeping a run: checkpoints, and when to stop at one."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

from mpisim.config import Config
from mpisim.errors import writing
from mpisim.nodes import Nodes
from mpisim.ranks.messages import to_rank_zero
from mpisim.ranks.startup import process_age
from mpisim.ranks.stopping import StopRequest
from mpisim.ranks.waiting import Waiting
from mpisim.storage.checkpoint import Checkpoint, Shard, checkpoint_folder, commit, write_shard

# How much longer than the longest so far a round or a checkpoint may take, and what the end of a job takes besides.
SLOWER, END_SECONDS = 1.25, 5.0
# A round that is not over before the walltime though it has so much time, and as often what the longest took, is lost
# with all since the last checkpoint: whatever begins later finds one of the round before.
RISK_SECONDS, RISK_ROUNDS = 60.0, 4


class Keeping:
    """The checkpoints of one rank's nodes, and whether the run is to stop.

    Parameters
    ----------
    log_path : Path
        The log's, beside which the checkpoints lie.
    stop : StopRequest
        What signals ask for.
    """

    def __init__(
        self, config: Config, comm: MPI.Comm, waiting: Waiting, nodes: Nodes, log_path: Path, stop: StopRequest
    ):
        self.config, self.comm, self.waiting = config, comm, waiting
        self.nodes = nodes
        self.log_path = log_path
        self.stop = stop
        self._round_began = time.monotonic()
        self._longest_round = self._longest_save = 0.0

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.nodes.load_state(checkpoint.read(self.nodes.own))

    def begin_round(self) -> None:
        """Note that a round begins."""
        self._round_began = time.monotonic()

    def time_left(self) -> float:
        """Return for how many seconds the round that begins may go on: rank 0 looks at the walltime for all."""
        if self.config.walltime is None or self.comm.rank != 0:
            return math.inf
        return self.config.walltime - process_age() - END_SECONDS

    def wants_to_stop(self) -> bool:
        """Return whether this rank wants the round that runs to be the last of this job."""
        if self.config.walltime is None or self.comm.rank != 0:
            return self.stop.asked
        so_far = time.monotonic() - self._round_began
        round_seconds = SLOWER * max(self._longest_round, so_far)
        another = round_seconds + SLOWER * 2 * self._longest_save + END_SECONDS
        return self.stop.asked or process_age() + another > self.config.walltime

    def wants_to_save(self) -> bool:
        """Return whether this rank wants a checkpoint, since the next round may have to be abandoned."""
        if self.config.walltime is None or self.comm.rank != 0:
            return False
        so_far = time.monotonic() - self._round_began
        at_risk = max(RISK_SECONDS, RISK_ROUNDS * max(self._longest_round, so_far))
        return process_age() + at_risk + END_SECONDS > self.config.walltime

    def end_round(self, round: int, stops: bool, saves: bool) -> bool:
        """Note that a round is over, and write a checkpoint if one is due; return whether it was. Collective.

        Parameters
        ----------
        stops, saves : bool
            What the ranks have agreed on: that this is the last round, that there be a checkpoint of it.
        """
        self._longest_round = max(self._longest_round, time.monotonic() - self._round_began)
        every = self.config.checkpoint_every
        if not (stops or saves or round == self.config.rounds or (every and round % every == 0)):
            return False
        started = time.monotonic()
        self._save(round)
        self._longest_save = max(self._longest_save, time.monotonic() - started)
        return True

    def _save(self, round: int) -> None:
        folder = checkpoint_folder(self.log_path)
        with writing(folder):
            mine = write_shard(folder, round, self.comm.rank, self.nodes.state())
        shards = to_rank_zero(self.comm, self.waiting, mine.as_dict())
        if self.comm.rank == 0:
            found = [Shard.from_dict(shard) for shard in shards]
            num_nodes = int(np.sum([len(shard.nodes) for shard in found]))
            with writing(folder):
                commit(folder, round, found, self.config.as_dict(), num_nodes)
