"""What the ranks of the bench of devices find out, and tell as soon as they know: devices, ways between them, runs.

mpiexec -n 2 python -m mpisim.bench.examination --folder logs    # what the command starts; prints JSON
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mpisim.arguments import OneLineParser
from mpisim.bench.timing import at_least_one
from mpisim.bench.twins import compare_runs
from mpisim.bench.ways import NAMES, WAYS, try_way
from mpisim.config import DEVICES, Config
from mpisim.errors import InputError, line_of
from mpisim.libraries import prepare_libraries

if TYPE_CHECKING:
    import torch
    from mpi4py import MPI

    from mpisim.ranks.waiting import Waiting

COLUMNS = 5_076_998  # of MNIST's perceptron: 20 MB a row


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that the ranks get from the command."""
    parser.add_argument("--device", choices=DEVICES, default="auto", help="what each rank computes on (auto)")
    parser.add_argument("--columns", type=at_least_one, default=COLUMNS, metavar="N", help=f"of a row ({COLUMNS})")
    parser.add_argument("--rows", type=at_least_one, default=3, metavar="N", help="each way (3)")
    parser.add_argument(
        "--timeout", type=at_least_one, default=120, metavar="SECONDS", help="without a sign of another rank (120)"
    )


def examine(comm: MPI.Intracomm, options: argparse.Namespace) -> dict[str, Any] | None:
    """Return on rank 0 what all ranks found. Collective.

    Returns
    -------
    places : of each rank, its host and device
    kind : of the devices
    faults : of each way, why it cannot be trusted, or nothing; one rank alone tries none
    seconds : of each way, those of its turns
    differences : of what was compared, how far each result differs

    Raises
    ------
    InputError
        On every rank, if one has no device of the kind wanted, or they are of several kinds.
    """
    from mpisim.ranks.startup import check_launcher
    from mpisim.ranks.waiting import Waiting

    check_launcher(comm.size, os.environ)
    tell = partial(_tell, comm)
    waiting = Waiting(timeout=options.timeout, comm=comm)
    device, places = _find_devices(comm, waiting, options.device)
    faults: dict[str, str] = {}
    seconds: dict[str, list[float]] = {}
    for way in WAYS[device.type] if comm.size > 1 else ():
        waiting.step = f"while this way was tried: {NAMES[way]}"
        tell(f"{NAMES[way]}: is tried")
        faults[way], seconds[way] = try_way(comm, waiting, way, device, options, tell)
    differences = compare_runs(comm, device.type, faults, options, tell)
    if comm.rank != 0:
        return None
    return {"places": places, "kind": device.type, "faults": faults, "seconds": seconds, "differences": differences}


def _tell(comm: MPI.Comm, line: str) -> None:
    """Let people know at once: what comes next may never end."""
    if comm.rank == 0:
        print(f"devices: {line}", file=sys.stderr, flush=True)


def _find_devices(comm: MPI.Intracomm, waiting: Waiting, wanted: str) -> tuple[torch.device, list[dict[str, str]]]:
    """Return this rank's device and, on rank 0, where every rank is. Collective."""
    import torch

    from mpisim.learning.device import choose_device, device_name
    from mpisim.ranks.messages import from_rank_zero, to_rank_zero
    from mpisim.ranks.startup import find_place

    waiting.step = "while each rank looked for its place and device"
    place = find_place(comm, waiting)
    torch.set_num_threads(place.threads)
    device, error = torch.device("cpu"), ""
    try:
        device = choose_device(wanted, place.local_rank)
    except InputError as refused:
        error = str(refused)
    mine = {"host": place.host, "device": error or device_name(device), "kind": device.type, "error": error}
    found = to_rank_zero(comm, waiting, mine)

    def check() -> None:
        for rank, each in enumerate(found):
            _tell(comm, of_place(rank, each))
        for rank, each in enumerate(found):
            if each["error"]:
                raise InputError(f"{each['error']} (rank {rank} on {each['host']})")
            if each["kind"] != found[0]["kind"]:
                raise InputError(
                    f"rank 0 computes on {found[0]['kind']} and rank {rank}, on {each['host']}, on {each['kind']}: name"
                    " one --device for all, or leave that host out"
                )

    from_rank_zero(comm, waiting, check)
    return device, [{name: each[name] for name in ("host", "device")} for each in found]


def of_place(rank: int, place: dict[str, str]) -> str:
    """Return where a rank is, as a person says it."""
    return f"rank {rank}  {place['host']}  {place['device']}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run on one of the ranks; return the exit code."""
    prepare_libraries()
    from mpi4py import MPI

    from mpisim.ranks.startup import abort
    from mpisim.ranks.waiting import Waiting

    parser = OneLineParser(prog=f"mpiexec -n 2 python -m {__spec__.name}", description="Ranks examine their devices.")
    add_options(parser)
    parser.add_argument("--folder", required=True, help="where the runs' logs come to lie, and stay")
    parser.add_argument("--repeats", type=at_least_one, default=5, metavar="N", help="turns of each way (5)")
    comm = MPI.COMM_WORLD
    try:
        found = examine(comm, parser.parse_args(arguments))
    except InputError as error:  # on every rank
        if comm.rank == 0:
            print(line_of(error), flush=True)  # to the command, which says it; people see standard error
        Waiting(timeout=Config.timeout).barrier(comm)  # a rank that ended now would take the others along
        return 2
    except Exception:
        abort(comm)
        raise
    if found is not None:
        print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    code = main()

    from mpisim.ranks.startup import end

    end(code)
