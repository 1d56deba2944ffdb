"""The checks of ``mpi_session.py`` on copies between host and device, counted from the first round to the last.

The device is the one of ``other_device.py``; models travel by way of the host, as from any device that MPI cannot read.
"""

from collections import Counter
from contextlib import nullcontext

import numpy as np
import torch
from mpi_exchange import CPU, WAITING
from other_device import DEVICE, Crossing, OtherDevice

from mpisim import Config
from mpisim.briefing import brief
from mpisim.exchange.transport import HOST, Transport
from mpisim.exchange.transpose import TransposedExchange
from mpisim.experiment import decide
from mpisim.ranks.stopping import StopRequest
from mpisim.rounds import Rounds

NUM_NODES, NUM_COLUMNS, NUM_LABELS, NUM_ROUNDS = 6, 17_226, 10, 2  # a ring of small perceptrons on the digits
ONE_BY_ONE, STACKED = {"engine": "sequential"}, {"engine": "batched"}
CASES = {
    "rows": ONE_BY_ONE,
    "rows-stacked": STACKED,
    "columns": STACKED | {"strategy": "fl"},
    "tested-twice": ONE_BY_ONE | {"evaluate_at": "both"},
    "alike": ONE_BY_ONE | {"strategy": "degree-similarity", "wire": "bfloat16"},
    "pulled": STACKED | {"proximal": 0.1},
}


def play(comm, path, options, device, transport):
    """Play all rounds; return what each copied, this rank's part in them, and its models at the end."""
    config = Config(
        topology=f"ring:n={NUM_NODES}",
        rounds=NUM_ROUNDS,
        epochs=2,
        train_samples=200,
        test_samples=60,
        checkpoint_every=1,
        output=str(path),
        **options,
    )
    experiment = decide(config, comm.size) if comm.rank == 0 else None
    briefing = brief(comm, WAITING, experiment)
    with OtherDevice() if device == DEVICE else nullcontext() as there:
        rounds = Rounds(config, comm, WAITING, briefing, device, path, StopRequest(), transport)
        if there is not None:
            there.take()
        assert rounds.play(1)
        copies = [] if there is None else there.take()
        models = rounds.nodes.state()["rows"]
    return copies, rounds, models


def messages(rounds, wire):
    """Return the copies of an exchange of models: on a ring, ranks hear of their first and last nodes' neighbors."""
    comm, num_own = rounds._comm, len(rounds.nodes.own)
    if comm.size == 1:
        return Counter()
    if isinstance(rounds.exchange, TransposedExchange):
        assert comm.size == 3
        widths = [90 * 64, 90 * 64, 89 * 64 + 10]  # of 270 blocks of columns
        own = widths.pop(comm.rank)
        # Two own nodes' columns leave for each other rank, and come back mixed; the four others' are mixed here.
        return Counter(
            Crossing(to_host, torch.float32, width, aside=True)
            for to_host in (True, False)
            for width in [*widths, *widths, own, own, own, own]
        )
    all_travel = rounds.config.strategy == "fl"
    num_rows = num_own if all_travel else 2
    return Counter({Crossing(to_host, wire, NUM_COLUMNS, aside=True): num_rows for to_host in (True, False)})


def trained(rounds):
    """Return the copies of all rounds that training makes: losses; for stacks, once, which batches come when."""
    num_own, sizes = len(rounds.nodes.own), rounds.nodes.training.shards.sizes
    steps = 2 * -(-sizes // 16)  # two epochs, batches of 16
    if rounds.config.engine == "sequential":
        return Counter(Crossing(True, torch.float64, int(count)) for count in steps for _ in range(NUM_ROUNDS))
    copies = Counter({Crossing(True, torch.float64, num_own): NUM_ROUNDS})
    copies += Counter([Crossing(False, torch.int64, num_own), Crossing(False, torch.int64, num_own * int(steps.max()))])
    if rounds.config.proximal:  # in each round which nodes are in the stack, and how many neighbors each has
        copies += Counter({Crossing(False, torch.int64, num_own): 2 * NUM_ROUNDS})
    return copies


def tested(rounds):
    """Return the copies of a test of all models on both test sets: losses, and by label samples and correct answers."""
    num_own = len(rounds.nodes.own)
    if rounds.config.engine == "sequential":
        return Counter(
            {Crossing(True, torch.int64, NUM_LABELS): 4 * num_own, Crossing(True, torch.float64, 1): 2 * num_own}
        )
    sizes = [NUM_LABELS, num_own * NUM_LABELS, num_own]
    return Counter(Crossing(True, torch.float64, size) for size in sizes * 2)


def times(number, copies):
    return Counter({copy: number * count for copy, count in copies.items()})


def expected_copies(rounds):
    """Return all copies of the rounds, and of the test after them."""
    config, num_own = rounds.config, len(rounds.nodes.own)
    each_round = times(2 if config.proximal else 1, messages(rounds, rounds.wire))
    each_round += times(2 if config.evaluate_at == "both" else 1, tested(rounds))
    each_round += Counter(
        [
            # The consensus distance: the rank's part of the mean model, the mean model, and how far each node is.
            Crossing(True, torch.int64, NUM_COLUMNS + 1),
            Crossing(False, torch.float64, NUM_COLUMNS),
            Crossing(True, torch.float64, num_own),
        ]
    )
    each_round += Counter({Crossing(True, torch.float32, NUM_COLUMNS): num_own})  # the checkpoint
    if config.strategy == "degree-similarity":  # a number for each edge of the ring that one of its nodes is on
        num_edges = NUM_NODES if num_own == NUM_NODES else num_own + 1
        each_round += Counter([Crossing(True, torch.float64, num_edges)])
    return times(NUM_ROUNDS, each_round) + trained(rounds) + tested(rounds)


def check_only_messages_figures_and_checkpoints_leave_a_device(comm, folder):
    """And nothing but messages and the mean model comes to it; the models are those of the host, but for rounding."""
    for name, options in CASES.items():
        copies, rounds, models = play(comm, folder / f"copies-{name}.h5", options, DEVICE, Transport("staged"))
        assert Counter(copies) == expected_copies(rounds), (name, Counter(copies), expected_copies(rounds))
        _, _, expected = play(comm, folder / f"no-copies-{name}.h5", options, CPU, HOST)
        np.testing.assert_allclose(models, expected, rtol=1e-4, atol=1e-5, err_msg=name)


def check_a_copy_too_many_is_counted(comm, folder):
    """One look at a number while models are mixed, trained or tested shows, on the rank that takes it."""
    original = Rounds._mix

    def look(rounds, *others):
        original(rounds, *others)
        if comm.rank == comm.size - 1:
            rounds.parameters[0, 0].item()

    Rounds._mix = look
    try:
        copies, rounds, _ = play(comm, folder / "copies-looked.h5", ONE_BY_ONE, DEVICE, Transport("staged"))
    finally:
        Rounds._mix = original
    looks = Counter({Crossing(True, torch.float32, 1): NUM_ROUNDS if comm.rank == comm.size - 1 else 0})
    assert Counter(copies) - expected_copies(rounds) == +looks
