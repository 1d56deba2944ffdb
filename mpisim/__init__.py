"""Decentralized learning on MPI ranks: how knowledge spreads over a topology.

From a shell: ``mpiexec -n 24 python -m mpisim.run``. From Python:

    from mpi4py import MPI
    from mpisim import Config, Simulation, open_log, open_logs

    Simulation(Config(topology="ring:n=8", rounds=5), MPI.COMM_WORLD).run()
    log = open_log("results/run.h5")
    runs = open_logs(["results/run.h5", "results/run-2.h5"])

The four names load on first use: ``import mpisim`` alone stays cheap, and reading a log needs neither MPI nor torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpisim.analysis.logs import open_log, open_logs
    from mpisim.config import Config
    from mpisim.simulation import Simulation

__version__ = "0.1.0"
__all__ = ["Config", "Simulation", "__version__", "open_log", "open_logs"]


def __getattr__(name: str) -> Any:
    if name == "Config":
        from mpisim.config import Config

        return Config
    if name == "Simulation":
        from mpisim.libraries import keep_torch_from_compiling

        keep_torch_from_compiling()
        from mpisim.simulation import Simulation

        return Simulation
    if name in ("open_log", "open_logs"):
        from mpisim.analysis import logs

        return getattr(logs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
