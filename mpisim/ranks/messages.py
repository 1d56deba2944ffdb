"""Small things and sets of arrays from rank to rank, without pickle: JSON text and raw buffers.

For start-up and the log. The models travel by themselves (``exchange/``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from mpisim.errors import InputError
from mpisim.ranks.waiting import Waiting

_TAG = 71


def from_rank_zero(comm: MPI.Comm, waiting: Waiting, make: Callable[[], Any]) -> Any:
    """Return on every rank what ``make`` returns on rank 0, where alone it is called.

    Parameters
    ----------
    make : function without arguments
        Its result must be what JSON can hold.

    Raises
    ------
    InputError
        On every rank, if ``make`` raised one on rank 0. Any other exception stays on rank 0, for the command to abort
        the job with.
    """
    content = b""
    error: InputError | None = None
    if comm.rank == 0:
        try:
            content = json.dumps({"value": make()}).encode()
        except InputError as raised:
            error = raised
            content = json.dumps({"error": str(raised)}).encode()
    length = np.array([len(content)], dtype=np.int64)
    waiting.broadcast(comm, length)
    buffer = np.frombuffer(bytearray(content) if comm.rank == 0 else bytearray(int(length[0])), dtype=np.uint8)
    waiting.broadcast(comm, buffer)
    if error is not None:
        raise error
    answer = json.loads(buffer.tobytes())
    if "error" in answer:
        raise InputError(answer["error"])
    return answer["value"]


def to_rank_zero(comm: MPI.Comm, waiting: Waiting, value: Any) -> list[Any]:
    """Return on rank 0 every rank's value, in the order of ranks; elsewhere an empty list."""
    content = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
    if comm.rank != 0:
        waiting.all(send_arrays(comm, {"json": content}, 0))
        return []
    others = [receive_arrays(comm, waiting, source)["json"] for source in range(1, comm.size)]
    return [value, *(json.loads(other.tobytes()) for other in others)]


def first_word(comm: MPI.Intracomm, waiting: Waiting, word: str) -> str:
    """Return on every rank what the first rank says that says anything. Collective."""
    words = to_rank_zero(comm, waiting, word)
    return str(from_rank_zero(comm, waiting, lambda: next(filter(None, words), "")))


def send_arrays(comm: MPI.Comm, arrays: dict[str, np.ndarray], destination: int) -> list[MPI.Request]:
    """Start sending named arrays to a rank, where ``receive_arrays`` takes them; the arrays stay as they are till then.

    Returns
    -------
    list of requests, which hold what they send
    """
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    described = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    header = np.frombuffer(json.dumps(described).encode(), dtype=np.uint8)
    buffers: list[np.ndarray] = [np.array([len(header)], dtype=np.int64), header, *arrays.values()]
    return [comm.Isend([_bytes(buffer), MPI.BYTE], destination, _TAG) for buffer in buffers]


def receive_arrays(comm: MPI.Comm, waiting: Waiting, source: int) -> dict[str, np.ndarray]:
    """Return the named arrays that a rank sent with ``send_arrays``."""
    length = np.empty(1, dtype=np.int64)
    waiting.all([comm.Irecv(length, source, _TAG)], owners=[source])
    header = np.empty(int(length[0]), dtype=np.uint8)
    waiting.all([comm.Irecv(header, source, _TAG)])
    arrays = {name: np.empty(shape, dtype=dtype) for name, dtype, shape in json.loads(header.tobytes())}
    waiting.all([comm.Irecv([_bytes(array), MPI.BYTE], source, _TAG) for array in arrays.values()])
    return arrays


def broadcast_arrays(comm: MPI.Comm, waiting: Waiting, arrays: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Return on every rank the named arrays of rank 0; the others pass None."""
    described = from_rank_zero(
        comm, waiting, lambda: [(name, array.dtype.str, array.shape) for name, array in (arrays or {}).items()]
    )
    received = {name: np.empty(shape, dtype=dtype) for name, dtype, shape in described}
    if comm.rank == 0 and arrays is not None:
        received = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for array in received.values():
        waiting.broadcast(comm, _bytes(array))
    return received


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)
