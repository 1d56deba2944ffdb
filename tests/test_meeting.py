"""Where the ranks of a run that torch.distributed carries meet: only at an address of rank 0's host and a free port."""

import re
import socket

import pytest

from mpisim.errors import InputError
from mpisim.exchange.meeting import meeting_point
from mpisim.run import main

ELSEWHERE = "192.0.2.1"  # an address for documents, which no host has
HERE = re.escape(socket.gethostname())


@pytest.fixture
def told(monkeypatch):
    """Return a function that sets what is said of the address and of the port."""

    def say(address=None, port=None):
        for name, value in (("MASTER_ADDR", address), ("MASTER_PORT", port)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return say


@pytest.fixture
def taken_port():
    """Return a port at which another run's rank 0 is."""
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize("address, expected", [(None, ""), ("", ""), ("127.0.0.1", "127.0.0.1"), ("localhost",) * 2])
def test_an_address_of_this_host_is_taken_as_it_is_written(told, address, expected):
    told(address)
    assert meeting_point() == (expected, 0)
    port = free_port()
    told(address, str(port))
    assert meeting_point() == (expected, port)


def test_the_port_of_a_run_that_has_ended_can_be_had_again(told):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            connection, _ = server.accept()
            connection.close()  # this side first: the system keeps the port for a while
    told("127.0.0.1", str(port))
    assert meeting_point() == ("127.0.0.1", port)


@pytest.mark.parametrize("address", [ELSEWHERE, "no.such.host.invalid"])
def test_an_address_that_is_not_rank_zeros_is_refused(told, address):
    told(address)
    line = (
        f"--transport device: MASTER_ADDR={re.escape(address)} is no address of {HERE}, where rank 0 is:"
        f" unset it, or name {HERE}"
    )
    with pytest.raises(InputError, match=f"^{line}$"):
        meeting_point()


@pytest.mark.parametrize("address", [None, "127.0.0.1"])
def test_a_port_that_another_run_has_is_refused(told, taken_port, address):
    told(address, str(taken_port))
    line = rf"^--transport device: MASTER_PORT={taken_port}: Address already in use, on {HERE}: unset it, .*"
    with pytest.raises(InputError, match=line):
        meeting_point()


@pytest.mark.parametrize("port", ["a", "-1", "65536", "1.5"])
def test_what_is_no_port_is_refused(told, port):
    told(None, port)
    with pytest.raises(InputError, match=rf"MASTER_PORT={re.escape(port)}: must be up to 65535, 0 for any"):
        meeting_point()


def test_a_run_told_to_meet_elsewhere_ends_with_one_line_and_leaves_no_trace(told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told(ELSEWHERE)
    assert main(["--topology", "ring:n=3", "--transport", "device"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(rf"mpisim: --transport device: MASTER_ADDR={ELSEWHERE} is no address .*\n", said.err)
    assert list(tmp_path.iterdir()) == []
    assert main(["--topology", "ring:n=3", "--transport", "mpi", "--dry-run"]) == 0  # which meets nowhere
