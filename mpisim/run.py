"""Run one experiment.

    mpiexec -n 24 python -m mpisim.run                                 # digits on 24 nodes, one node per rank
    mpiexec -n 2 python -m mpisim.run --topology ba:n=33,m=2,seed=0    # 33 nodes on two ranks
    python -m mpisim.run --topology ring:n=8 --rounds 5                # on one rank
    python -m mpisim.run --estimate 1 2 4                              # what it takes on 1, 2 and 4 ranks
    python -m mpisim.run --help                                        # every option

Exit codes: 0 complete; 2 the input is wrong (one line says what, nothing on disk is touched); 3 stopped, at a
checkpoint or before the first round: --resume goes on; 1 anything else (every rank ends, the one that failed is named).
"""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from mpisim.errors import InputError, line_of
from mpisim.libraries import prepare_libraries
from mpisim.ranks.stopping import Stopped, StopRequest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    stop = StopRequest()
    with stop.listening():  # before MPI starts: a rank that ended there would leave the others waiting for it
        comm = _start()
        from mpisim.ranks.startup import abort, stop_all

        try:
            stop.stop_at_once()
            return _run(comm, sys.argv[1:] if arguments is None else arguments, stop)
        except Stopped as reason:
            stop_all(comm, str(reason))
            return 3
        except BaseException:  # whatever it is: the other ranks would wait for this one for ever
            abort(comm)
            return 1


def _start() -> Any:
    """Start MPI; return the communicator of all ranks."""
    prepare_libraries()
    # Where ranks outnumber cores, each hop waits for a rank to wake. MPICH would add up 100 kB and more by twice as
    # many hops of half the bytes: at 24 ranks on 2 cores, rounds took a third longer.
    os.environ.setdefault("MPIR_CVAR_IALLREDUCE_INTRA_ALGORITHM", "tsp_tree")
    # First of all heavy imports: some sites' MPI must be, and ranks that wait for it should not wait for torch.
    from mpi4py import MPI

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show "–" is no reason to fail
    return MPI.COMM_WORLD


def _run(comm: Any, arguments: Sequence[str], stop: StopRequest) -> int:
    from mpisim.config import Config
    from mpisim.ranks.messages import from_rank_zero
    from mpisim.ranks.startup import check_launcher
    from mpisim.ranks.waiting import Waiting

    waiting = Waiting(timeout=Config.timeout, comm=comm)  # the options may say otherwise, once they are known
    waiting.step = "while rank 0 read the options"
    try:
        check_launcher(comm.size, os.environ)
        options = from_rank_zero(comm, waiting, lambda: _options(arguments))
        if options is None:  # --help was all
            return 0
        config = Config(**options)
        waiting.timeout = config.timeout
        if config.estimate is not None:
            return _estimate(comm, config)
        _check_no_estimate(config)
        stop.only_note()  # while torch loads, whose C++ crashes at an exception out of nowhere
        from mpisim.simulation import Simulation

        stop.stop_at_once()
        simulation = Simulation(config, comm, stop)
        path = simulation.run()
    except InputError as error:
        if comm.rank == 0:
            print(line_of(error), file=sys.stderr, flush=True)
        waiting.step = "while rank 0 said what is wrong"
        waiting.barrier(comm)
        return 2
    if comm.rank == 0 and path is not None:
        from mpisim.analysis.summary import as_text, summarize
        from mpisim.display import Display

        command = shlex.join(["python", "-m", "mpisim.report", "summary", str(path)])
        stopped = "" if simulation.complete else "\nstopped at a checkpoint: the same command with --resume goes on"
        Display(config.rounds, config.quiet).line(f"\n{as_text(summarize(path))}\nlook at it: {command}{stopped}")
    return 0 if path is None or simulation.complete else 3


def _check_no_estimate(config: Any) -> None:
    from mpisim.config import OF_ESTIMATES
    from mpisim.options import flag

    for name in OF_ESTIMATES:
        if getattr(config, name) is not None:
            raise InputError(f"{flag(name)}: is for --estimate")


def _estimate(comm: Any, config: Any) -> int:
    """Print what the run takes on some numbers of ranks; one process tells."""
    if comm.size > 1:
        raise InputError(f"--estimate: is for one process, not for {comm.size}: leave mpiexec away")
    from mpisim.estimate.of_run import estimate_run

    print(estimate_run(config)[1], flush=True)
    return 0


def _options(arguments: Sequence[str]) -> dict[str, Any] | None:
    from mpisim.arguments import parse_config

    try:
        return parse_config(arguments).as_dict()
    except SystemExit:
        return None


if __name__ == "__main__":
    code = main()

    from mpisim.ranks.startup import end

    end(code)
