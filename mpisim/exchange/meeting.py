"""Where processes of torch.distributed are to find rank 0, if MASTER_ADDR and MASTER_PORT say so.

They may be meant for another run: runs of a sweep inherit them, and a job's first host is not that of each of its runs.
Ranks that go by them would wait for ever, or meet another run's.
"""

from __future__ import annotations

import errno
import os
import socket

from mpisim.errors import InputError

LAST_PORT = 65_535


def meeting_point() -> tuple[str, int]:
    """Return the address and the port at which the others are to find this rank.

    Returns
    -------
    An address of this host, or nothing where none is given; a port that nobody has, 0 for any that is free.

    Raises
    ------
    InputError
        If the address is another host's, or the port cannot be had.
    """
    address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT") or "0"
    here = socket.gethostname()
    if not (port.isascii() and port.isdecimal() and int(port) <= LAST_PORT):
        raise InputError(f"--transport device: MASTER_PORT={port}: must be up to {LAST_PORT}, 0 for any that is free")
    failures = _failures_to_bind(address, int(port))
    if None in failures:
        return address, int(port)
    for failure in failures:
        if failure in (errno.EADDRINUSE, errno.EACCES):
            why = os.strerror(failure)
            raise InputError(
                f"--transport device: MASTER_PORT={port}: {why}, on {here}: unset it, for any that is free"
            )
    raise InputError(
        f"--transport device: MASTER_ADDR={address} is no address of {here}, where rank 0 is: unset it, or name {here}"
    )


def _failures_to_bind(address: str, port: int) -> list[int | None]:
    """Return, for each form that an address has, the number of the error if this host does not have it, else None."""
    try:
        found = socket.getaddrinfo(address or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:  # nobody has this name
        return []
    failures: list[int | None] = []
    for family, kind, protocol, _, where in found:
        try:
            with socket.socket(family, kind, protocol) as bound:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a run that has ended is not in the way
                bound.bind(where)
                failures.append(None)
        except OSError as error:
            failures.append(error.errno or errno.EADDRNOTAVAIL)
    return failures
