"""The checks of ``mpi_session.py`` on what carries models: the self-test, what it catches, and what follows."""

import io
import re
from contextlib import redirect_stdout

import torch
from chaos import results_of
from mpi4py import MPI
from mpi_exchange import CPU, WAITING, torch_carries
from mpi_experiments import experiment_config
from suite_device import assert_same_results

import mpisim.exchange.group
import mpisim.exchange.transport
import mpisim.simulation
from mpisim import Simulation
from mpisim.errors import InputError
from mpisim.exchange.group import check_devices
from mpisim.exchange.packed import PackedMessages
from mpisim.exchange.selftest import self_test
from mpisim.exchange.transport import WAYS, Transport, tested_transport
from mpisim.ranks.waiting import Waiting

# Of each kind of exchange, of links, of what travels: the same bits must come out whoever carries it.
CARRIED = ("everything", "failing", "fl", "fl-wire", "mincut", "similarity-wire", "wire")


class Corrupting(PackedMessages):
    """Rank 1 gets one number of a large message wrong."""

    def progress(self):
        done = super().progress()
        for parcel in self._arriving:
            if done and self.comm.rank == 1 and parcel.buffer.shape[1] == 70_000:
                parcel.buffer[0, 69_999] += 1
        return done


class Reordering(PackedMessages):
    """Rank 1 gets the two rows of each message in the wrong order."""

    def progress(self):
        done = super().progress()
        for parcel in self._arriving:
            if done and self.comm.rank == 1:
                parcel.buffer.copy_(parcel.buffer.flip(0))
        return done


class Dropping(PackedMessages):
    """Rank 1 does not send what it should."""

    def _request(self, parcel, arrives):
        if self.comm.rank == 1 and not arrives and parcel.buffer.shape[1] == 1000:
            return self.comm.Send_init([bytearray(), MPI.BYTE], MPI.PROC_NULL, self.tag)
        return super()._request(parcel, arrives)


class Stale(PackedMessages):
    """Rank 1 finds in the second round what it got in the first."""

    rounds = 0

    def start_receives(self):
        self.rounds += 1
        self.kept = [parcel.buffer.clone() for parcel in self._arriving] if self.rounds == 2 else []
        super().start_receives()

    def progress(self):
        done = super().progress()
        if done and self.comm.rank == 1:
            for parcel, kept in zip(self._arriving, self.kept, strict=False):
                parcel.buffer.copy_(kept)
        return done


class Refusing(PackedMessages):
    """MPI says that it cannot."""

    def start_sends(self):
        if self.comm.rank == 1:
            raise RuntimeError("unsupported datatype\nand more")
        super().start_sends()


FAULTS = {
    Corrupting: "1 of 140,000 numbers from rank 0 were wrong on rank 1",
    Reordering: "numbers from rank 0 were wrong on rank 1",
    Dropping: "were not done with a message within 2 s",
    Stale: "numbers from rank 0 were wrong on rank 1",
    Refusing: "rank 1: unsupported datatype",
}


def check_every_carrier_passes_the_self_test(comm, folder):
    with torch_carries(comm):
        for carry in WAYS.values():
            assert self_test(comm, WAITING, carry, CPU) == ""


def check_the_self_test_catches_a_carrier_that_is_wrong(comm, folder):
    if comm.size == 1:
        return  # nothing travels
    for carry, words in FAULTS.items():
        reason = self_test(comm, Waiting(timeout=4.0), carry, CPU)
        assert words in reason, (carry, reason)
        assert comm.allgather(reason) == [reason] * comm.size
        assert "\n" not in reason


def check_a_run_falls_back_on_the_host_with_a_word(comm, folder):
    """Every rank does, though only rank 1 had wrong numbers; what passes the test is taken."""
    original, refusal = WAYS["buffers"], mpisim.exchange.transport.refusal
    mpisim.exchange.transport.refusal = lambda *_: ""
    try:
        assert tested_transport(comm, WAITING, Transport("buffers"), CPU, True, comm.size) == Transport("buffers")
        WAYS["buffers"] = Reordering
        taken = tested_transport(comm, WAITING, Transport("buffers"), CPU, True, comm.size)
        mpisim.exchange.transport.refusal = lambda *_: "MPI has no tiles" * (comm.rank == comm.size - 1)
        refused = tested_transport(comm, WAITING, Transport("buffers"), CPU, True, comm.size)
    finally:
        WAYS["buffers"], mpisim.exchange.transport.refusal = original, refusal
    words = "--gpu-aware: models travel through host memory instead: "
    assert refused == Transport("staged", f"{words}MPI has no tiles")
    if comm.size > 1:
        assert taken.way == "staged"
        assert taken.notice.startswith(words)
        assert taken.notice.endswith(" numbers from rank 0 were wrong on rank 1")


def check_a_run_whose_device_buffers_fail_takes_the_host_and_says_so(comm, folder):
    """The whole run: its log is that of one that nobody gave device buffers."""
    expected = Simulation(experiment_config("default", folder, output=str(folder / "by-host.h5")), comm).run()
    buffers, refusal = WAYS["buffers"], mpisim.exchange.transport.refusal
    choose = mpisim.simulation.choose_transport
    mpisim.exchange.transport.refusal = lambda *_: ""
    mpisim.simulation.choose_transport = lambda *_: Transport("buffers")
    WAYS["buffers"] = Reordering
    said = io.StringIO()
    try:
        config = experiment_config("default", folder, output=str(folder / "fell.h5"), gpu_aware=True, quiet=False)
        with redirect_stdout(said):
            Simulation(config, comm).run()
    finally:
        WAYS["buffers"], mpisim.exchange.transport.refusal = buffers, refusal
        mpisim.simulation.choose_transport = choose
    if comm.rank == 0:
        assert_same_results(results_of(folder / "fell.h5"), results_of(expected))
        assert ("models travel through host memory instead: " in said.getvalue()) == (comm.size > 1)


def check_ranks_that_share_a_device_are_refused_by_all(comm, folder):
    """As nccl does, but with a line, and before anything is on disk; ranks without nodes may share one."""
    original = mpisim.exchange.group.device_identity
    mpisim.exchange.group.device_identity = lambda _: "tile 0" if comm.rank in (0, comm.size - 1) else "another"
    device = torch.device("cuda:0")
    try:
        check_devices(comm, WAITING, device, comm.size - 1)
        check_devices(comm, WAITING, device, comm.size)
        assert comm.size == 1
    except InputError as error:
        assert comm.size > 1
        pattern = (
            r"--transport device: ranks 0 and (\d) share a device of \S+, which torch.distributed does not take: .*"
        )
        assert int(re.fullmatch(pattern, str(error))[1]) == comm.size - 1
    finally:
        mpisim.exchange.group.device_identity = original


def check_ranks_on_devices_of_two_kinds_are_refused_by_all(comm, folder):
    """As on a cluster where one host has lost its GPUs; each kind has a backend of its own."""
    original = mpisim.exchange.group.device_identity
    mpisim.exchange.group.device_identity = lambda device: f"{device} of rank {comm.rank}"
    device = torch.device("cuda:0" if comm.rank == 0 else "cpu")
    try:
        check_devices(comm, WAITING, device, comm.size)
        assert comm.size == 1
    except InputError as error:
        assert comm.size > 1
        pattern = r"--transport device: rank 0 computes on cuda and rank 1, on \S+, on cpu: name one --device for all.*"
        assert re.fullmatch(pattern, str(error))
    finally:
        mpisim.exchange.group.device_identity = original


def check_experiments_run_by_torch(comm, folder):
    """Only runs them: the logs are compared with those of MPI by the test that launched this."""
    for name in CARRIED:
        config = experiment_config(name, folder, transport="device", output=str(folder / f"{name}-by-torch.h5"))
        Simulation(config, comm).run()
        assert not torch.distributed.is_initialized()
