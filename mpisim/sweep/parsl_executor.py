"""Runs by Parsl: side by side on the hosts of one allocation, or on this machine."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import shutil
import subprocess
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

from mpisim.errors import InputError
from mpisim.sweep.executors import Orders
from mpisim.sweep.expansion import Run
from mpisim.sweep.launch import Ended, environment_among_others, launch, take_share_of_cores
from mpisim.sweep.machines import MACHINES, hosts_of, hosts_per_run, meeting_address, parsl_config, resources

SCRIPTS = ("interchange.py", "process_worker_pool.py")  # that Parsl starts
take_share_once = functools.cache(take_share_of_cores)  # a worker carries out many runs


def perform(
    command: list[str],
    machine: str,
    told: str,
    parsl_resource_specification: dict[str, Any] | None = None,  # noqa: ARG001 (Parsl reads it)
) -> Ended:
    """Run a command on the ranks that Parsl has chosen. Within one of Parsl's workers.

    Parameters
    ----------
    machine : a name in ``machines.MACHINES``
    told : path of the file that names the signal to send, once it is there
    """
    if MACHINES[machine].ranks_per_host is None:  # the workers divide this machine's cores among them
        take_share_once(int(os.environ["PARSL_WORKER_RANK"]), int(os.environ["PARSL_WORKER_COUNT"]))

    def wanted_signal() -> int | None:
        try:
            return int(Path(told).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):  # not there, or only half of it
            return None

    launcher = shlex.split(os.environ["PARSL_MPI_PREFIX"])
    address = meeting_address(machine, os.environ["PARSL_MPI_NODELIST"].split(","))
    return launch([*launcher, *MACHINES[machine].wrapper, *command], wanted_signal, environment_among_others(address))


class ParslExecutor:
    """Runs carried out by workers of Parsl, beside the sweep's own process.

    Parameters
    ----------
    machine : a name in ``machines.MACHINES``
    jobs : int, optional
        Runs at a time; as many as the allocation is enough for, by default; on this machine 1.

    Raises
    ------
    InputError
        If Parsl is missing, or there is no room for a run.
    """

    def __init__(self, orders: Orders, machine: str = "local", jobs: int | None = None):
        try:
            import parsl  # noqa: F401 (it is only found out whether it is there)
        except ModuleNotFoundError as error:
            raise InputError("--executor parsl needs Parsl: pip install 'mpisim[sweep]'") from error
        for script in (*SCRIPTS, "mpiexec"):
            if shutil.which(script) is None:
                raise InputError(f"{script} is not on PATH: activate the environment that has it")
        self.orders, self.machine, self.jobs = orders, machine, jobs
        self.slots = len(hosts_of(machine, orders.ranks, jobs)) // hosts_per_run(machine, orders.ranks)
        self._folder = orders.folder / "parsl"
        self._told = self._folder.absolute() / f"signal-{os.getpid()}"

    def __enter__(self) -> ParslExecutor:
        import parsl

        kernel = parsl.load(parsl_config(self.machine, self._folder, self.orders.ranks, self.jobs))
        self._kernel, self._perform = kernel, parsl.python_app(perform, data_flow_kernel=kernel)
        # If this process is killed, its end of the pipe closes, and the guard ends Parsl's broker, which would wait for
        # ever; the workers miss it and end too. Runs that are under way go on.
        executor: Any = kernel.executors["runs"]
        broker = executor.interchange_proc.pid
        self._guard = subprocess.Popen(
            ["sh", "-c", 'cat; kill "$0" 2>/dev/null', str(broker)], stdin=subprocess.PIPE, start_new_session=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kernel.cleanup()
        self._guard.kill()
        self._guard.communicate()
        for path in (self._told, self._folder / f"hosts-{os.getpid()}"):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def submit(self, run: Run) -> Future[Ended]:
        """Start a run."""
        future: Future[Ended] = self._perform(
            self.orders.command(run),
            self.machine,
            str(self._told),
            parsl_resource_specification=resources(self.machine, self.orders.ranks),
        )
        return future

    def tell(self, number: int) -> None:
        """Send a signal to all runs that are under way."""
        self._told.write_text(str(number), encoding="ascii")
