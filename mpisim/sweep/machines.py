"""Parsl's configurations: this machine, and one PBS allocation of Aurora or Polaris that many runs share.

Parsl's MPI executor knows the hosts of the allocation, gives each run as many as it needs, and hands its command the
``mpiexec`` that starts ranks on those. On a machine without a queue, each run at a time has a "host" of its own in a
list that names this one again and again.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpisim.errors import InputError

if TYPE_CHECKING:
    import parsl.config

HERE = "localhost"
HEARTBEAT, HEARTBEAT_LOST = 5, 30  # seconds: workers that have lost their sweep are not to stay
# Ranks on cores next to their GPU, two of a GPU's tiles on one socket; 0 and 52 are the system's.
AURORA_CORES = "1-8:9-16:17-24:25-32:33-40:41-48:53-60:61-68:69-76:77-84:85-92:93-100"


@dataclass(frozen=True)
class Machine:
    """What a machine asks of those who start ranks on it.

    Attributes
    ----------
    ranks_per_host : int, optional
        One for each device; None: as many as a run has.
    launcher_options : str
        Of its mpiexec.
    wrapper : list of str
        A command that starts the command after it, on each rank.
    environment : variables of every run
    defaults : more of them, which the job may have otherwise
    address : str
        Of a host on the network between hosts, with {host} for its name; by default the name.
    """

    ranks_per_host: int | None = None
    launcher_options: str = ""
    wrapper: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    address: str = ""


# One rank at a time opens a log, and a Lustre that was mounted without locks would refuse it.
LUSTRE = {"HDF5_USE_FILE_LOCKING": "FALSE"}
# What jobs/*.pbs give a run of their own, and why. The package is also there without them, so it is said twice;
# tests/test_jobs.py holds both equal.
MACHINES: dict[str, Machine] = {
    "aurora": Machine(
        12,
        f"--cpu-bind list:{AURORA_CORES}",
        environment=LUSTRE
        | {
            "ZE_FLAT_DEVICE_HIERARCHY": "FLAT",  # a tile is a device
            "TMPDIR": "/tmp",  # sockets want a short path
            # For oneCCL under PALS, and for libfabric to see it when torch gives memory back.
            "CCL_PROCESS_LAUNCHER": "pmix",
            "CCL_ATL_TRANSPORT": "mpi",
            "CCL_KVS_MODE": "mpi",
            "FI_MR_CACHE_MONITOR": "userfaultfd",
        },
        # Models travel from host memory, and MPICH need not look whose a buffer is; with --gpu-aware it must: 1.
        defaults={"MPIR_CVAR_ENABLE_GPU": "0"},
        address="{host}.hsn.cm.aurora.alcf.anl.gov",
    ),
    "polaris": Machine(
        4,
        "--cpu-bind depth -d 8",
        # The GPU nearest to the first cores is the last one; a rank must not see the others before Python starts.
        ["bash", "-c", 'CUDA_VISIBLE_DEVICES=$((3 - PMI_LOCAL_RANK % 4)) exec "$@"', "rank"],
        environment=LUSTRE,
    ),
    "local": Machine(),
}


def hosts_per_run(machine: str, ranks: int) -> int:
    """Return how many hosts a run needs.

    Raises
    ------
    InputError
        If its ranks do not fill them evenly.
    """
    most = MACHINES[machine].ranks_per_host or ranks
    if ranks > most and ranks % most:
        raise InputError(
            f"--ranks {ranks}: a host of {machine} takes {most}: take a multiple of it, or fewer than that"
        )
    return max(1, ranks // most)


def resources(machine: str, ranks: int) -> dict[str, Any]:
    """Return what Parsl is to give a run of some ranks."""
    num_hosts = hosts_per_run(machine, ranks)
    return {
        "num_nodes": num_hosts,
        "ranks_per_node": ranks // num_hosts,
        "num_ranks": ranks,
        "launcher_options": MACHINES[machine].launcher_options,
    }


def meeting_address(machine: str, hosts: Sequence[str]) -> str:
    """Return where the ranks of a run on some hosts meet: the first one; nothing where they find that out.

    >>> meeting_address("aurora", ["x1.site", "x2.site"]), meeting_address("aurora", ["x1.site"])
    ('x1.hsn.cm.aurora.alcf.anl.gov', '')
    """
    return MACHINES[machine].address.format(host=hosts[0].partition(".")[0]) if len(hosts) > 1 else ""


def hosts_of(machine: str, ranks: int, jobs: int | None) -> list[str]:
    """Return the hosts that the runs have, as many as runs at a time need.

    Parameters
    ----------
    jobs : int, optional
        Runs at a time; as many as the hosts are enough for, by default; on this machine 1.

    Raises
    ------
    InputError
        If there is no allocation, or it is too small for a run.
    """
    needed = hosts_per_run(machine, ranks)
    if MACHINES[machine].ranks_per_host is None:
        return [HERE] * (jobs or 1)
    path = os.environ.get("PBS_NODEFILE", "")
    try:
        lines = Path(path).read_text(encoding="utf-8").split() if path else []
    except OSError as error:
        raise InputError(f"PBS_NODEFILE {path} cannot be read: {error.strerror}") from error
    hosts = list(dict.fromkeys(lines))
    if len(hosts) < needed:
        raise InputError(
            f"--machine {machine}: a run of {ranks} rank{'s' * (ranks != 1)} needs {needed} host{'s' * (needed != 1)},"
            f" and this job has {len(hosts)}: start it within a PBS job that has {'it' if needed == 1 else 'them'}"
        )
    return hosts[: needed * min(jobs or len(hosts), len(hosts) // needed)]


def parsl_config(machine: str, folder: Path, ranks: int, jobs: int | None = None) -> parsl.config.Config:
    """Return a configuration of Parsl for runs of some ranks each.

    Parameters
    ----------
    machine : a name in MACHINES
    folder : Path
        Where Parsl keeps its own logs, and what it needs to be told.

    Raises
    ------
    InputError
        If the machine is not known, or there is no room for a run.
    """
    if machine not in MACHINES:
        raise InputError(f"--machine {machine}: choose from {', '.join(sorted(MACHINES))}")
    from parsl.config import Config
    from parsl.executors import MPIExecutor
    from parsl.launchers import SimpleLauncher
    from parsl.providers import LocalProvider

    hosts = hosts_of(machine, ranks, jobs)
    folder.mkdir(parents=True, exist_ok=True)
    host_file = folder.absolute() / f"hosts-{os.getpid()}"
    host_file.write_text("".join(f"{host}\n" for host in hosts), encoding="utf-8")
    chosen = {name: os.environ.get(name) or value for name, value in MACHINES[machine].defaults.items()}
    variables = MACHINES[machine].environment | chosen | {"PBS_NODEFILE": str(host_file)}
    executor = MPIExecutor(
        label="runs",
        address="127.0.0.1",  # its workers are here: they start the ranks elsewhere
        max_workers_per_block=len(hosts) // hosts_per_run(machine, ranks),
        mpi_launcher="mpiexec",
        heartbeat_period=HEARTBEAT,
        heartbeat_threshold=HEARTBEAT_LOST,
        provider=LocalProvider(  # within the allocation: nothing is submitted
            launcher=SimpleLauncher(),
            init_blocks=1,
            min_blocks=1,
            max_blocks=1,
            worker_init="\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
        ),
    )
    # Its broker in a session of its own: a Ctrl-C is for the sweep, and the broker has to outlive the runs it ends.
    session = "import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])"
    executor.interchange_launch_cmd = [sys.executable, "-c", session, "interchange.py"]
    return Config(executors=[executor], run_dir=str(folder), strategy="none", exit_mode="skip")
