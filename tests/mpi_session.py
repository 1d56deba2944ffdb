"""Checks that need several ranks, for ``tests/test_mpi.py`` to launch: ``mpiexec -n 3 python mpi_session.py FOLDER``.

One launch runs them all, since each rank pays its imports once. Every check is collective and gets (comm, folder); it
fails on a rank by raising. After each check the ranks tell rank 0, which writes the outcome of all to results.json.
"""

import json
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

import h5py
import mpi_copies
import mpi_exchange
import mpi_transport
import numpy as np
import torch
from mpi4py import MPI
from mpi_exchange import CPU, WAITING, in_bfloat16, rows_of
from mpi_experiments import EXPERIMENTS, SMALL, TABLE, experiment_config, register_photos, write_failing_links

from mpisim import Config, Simulation
from mpisim.briefing import brief
from mpisim.data.datasets import load_digits
from mpisim.data.partition import partition
from mpisim.errors import InputError
from mpisim.exchange.consensus import Consensus
from mpisim.exchange.metrics import MetricsGather
from mpisim.exchange.transpose import TransposedExchange
from mpisim.experiment import decide
from mpisim.graphs.generators import make_topology
from mpisim.graphs.placement import contiguous
from mpisim.graphs.strategies import STRATEGIES, mixing_matrix
from mpisim.learning.parameters import allocate_rows
from mpisim.ranks.messages import broadcast_arrays, from_rank_zero, receive_arrays, send_arrays, to_rank_zero
from mpisim.ranks.startup import find_place, usable_cores
from mpisim.ranks.stopping import StopRequest
from mpisim.rounds import Rounds

# The checks.


def check_rank_zero_tells_all(comm, folder):
    value = {"text": "ä", "numbers": [1, 2.5, None]}
    calls = []
    assert from_rank_zero(comm, WAITING, lambda: calls.append(1) or value) == value
    assert len(calls) == (comm.rank == 0)


def check_an_input_error_reaches_all(comm, folder):
    def fail():
        raise InputError("row 4 has 7 values")

    try:
        from_rank_zero(comm, WAITING, fail)
    except InputError as error:
        assert str(error) == "row 4 has 7 values"
    else:
        raise AssertionError("no error")


def check_all_tell_rank_zero(comm, folder):
    values = to_rank_zero(comm, WAITING, {"rank": comm.rank, "long": "x" * 10 ** (comm.rank + 2)})
    if comm.rank == 0:
        assert [value["rank"] for value in values] == list(range(comm.size))
        assert [len(value["long"]) for value in values] == [10 ** (rank + 2) for rank in range(comm.size)]
    else:
        assert values == []


ARRAYS = {
    "bytes": np.arange(5, dtype=np.uint8),
    "matrix": np.arange(12.0).reshape(3, 4)[:, ::2],
    "none": np.empty((0, 3), dtype=np.int64),
    "number": np.array(7),
    "text": np.array("softmax"),
    "yes": np.array([True, False]),
}


def assert_same_arrays(received, sent):
    assert list(received) == list(sent)
    for name, array in sent.items():
        assert received[name].dtype == array.dtype
        assert received[name].shape == array.shape
        np.testing.assert_array_equal(received[name], array)


def check_arrays_travel_whole(comm, folder):
    ahead, behind = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    requests = send_arrays(comm, ARRAYS, ahead)
    received = receive_arrays(comm, WAITING, behind)
    WAITING.all(requests)
    assert_same_arrays(received, ARRAYS)
    assert_same_arrays(broadcast_arrays(comm, WAITING, ARRAYS if comm.rank == 0 else None), ARRAYS)


def check_a_rank_knows_its_place(comm, folder):
    place = find_place(comm, WAITING)
    assert (place.local_rank, place.local_size) == (comm.rank, comm.size)  # one host
    assert place.cores == len(usable_cores())
    assert place.threads == max(1, len(usable_cores()) // comm.size)
    assert place.owns_core == (comm.size <= len(usable_cores()))
    assert find_place(comm, WAITING, threads=3).threads == 3


def check_consensus_is_the_distance_to_the_mean(comm, folder):
    for num_nodes, num_columns in ((5, 10), (7, 70_000)):
        rank_of_node = contiguous(num_nodes, comm.size)
        own = np.flatnonzero(rank_of_node == comm.rank)
        consensus = Consensus(comm, rows_of(own, num_columns), num_nodes)
        consensus.start()
        distance = consensus.finish(WAITING)
        columns = consensus.coordinates.numpy()
        assert len(columns) == min(num_columns, 65_536) == len(np.unique(columns))
        everyone = rows_of(np.arange(num_nodes), num_columns).double().numpy()[:, columns]
        expected = np.square(everyone - everyone.mean(axis=0)).sum(axis=1)
        np.testing.assert_allclose(distance, expected[own], rtol=1e-6)
        np.save(folder / f"consensus-{num_nodes}-{comm.rank}.npy", distance)


def check_consensus_of_what_is_no_number(comm, folder):
    for bad in (float("nan"), float("inf"), 1e30):
        rows = allocate_rows(1, 8, CPU)
        rows[0, 3] = bad if comm.rank == comm.size - 1 else 0.0
        consensus = Consensus(comm, rows, comm.size)
        consensus.start()
        assert np.isposinf(consensus.finish(WAITING)).all()


def check_metrics_arrive_by_node_and_rank(comm, folder):
    rank_of_node = np.arange(7) % comm.size  # not contiguous: nodes must be put in order
    own = np.flatnonzero(rank_of_node == comm.rank)
    metrics = MetricsGather(comm, rank_of_node, 2, 3)
    for round in range(4):
        of_nodes = np.stack([own + 100.0 * round, own * 0.5], axis=1)
        gathered = metrics.gather(WAITING, of_nodes, np.full(3, comm.rank + round))
        if comm.rank == 0:
            nodes, ranks = gathered
            np.testing.assert_array_equal(nodes, np.stack([np.arange(7) + 100.0 * round, np.arange(7) * 0.5], axis=1))
            np.testing.assert_array_equal(ranks, np.repeat(np.arange(comm.size)[:, None] + round, 3, axis=1))
        else:
            assert gathered is None
    metrics.free(WAITING)


def check_shards_reach_their_nodes(comm, folder):
    config = Config(topology="ba:n=8,m=2,seed=0", output=str(folder / "unwritten.h5"), ood_node=(3,))
    experiment = decide(config, comm.size) if comm.rank == 0 else None
    briefing = brief(comm, WAITING, experiment)
    train, test = load_digits(Path(), False)
    dealt = partition(train.labels, 8, 10, sample_alpha=1000.0, label_alpha=1000.0, seed=0)
    starts = np.cumsum([0, *(briefing.shards["num_clean"] + briefing.shards["num_ood"])])
    for position, node in enumerate(briefing.plan.own):
        part = slice(starts[position], starts[position + 1])
        images, labels = briefing.shards["inputs"][part], briefing.shards["labels"][part]
        assert sorted(map(bytes, images)) == sorted(map(bytes, train.inputs[dealt[node]]))
        assert sorted(labels) == sorted(train.labels[dealt[node]])
        assert (briefing.shards["num_ood"][position] > 0) == (node == 3)
    assert sorted(map(bytes, briefing.test["inputs"])) == sorted(map(bytes, test.inputs))


def check_a_round_without_training_is_the_dense_product(comm, folder):
    """The whole round, from the briefing to the mixed X, against W @ X in float64, for every way to travel."""
    for strategy, placement, wire in (
        ("degree", "contiguous", "float32"),
        ("degree", "mincut", "bfloat16"),
        ("fl", "contiguous", "float32"),
        ("fl", "contiguous", "bfloat16"),
    ):
        config = Config(
            topology="ba:n=9,m=2,seed=0",
            strategy=strategy,
            placement=placement,
            wire=wire,
            no_train=True,
            init="independent",
            test_samples=50,
            rounds=1,
        )
        experiment = decide(config, comm.size) if comm.rank == 0 else None
        rounds = Rounds(config, comm, WAITING, brief(comm, WAITING, experiment), CPU, folder / "none.h5", StopRequest())
        transposed = isinstance(rounds.exchange, TransposedExchange)
        assert transposed == (strategy == "fl" and comm.size > (2 if wire == "float32" else 3))
        before = {int(node): row.tolist() for node, row in zip(rounds.nodes.own, rounds.parameters, strict=True)}
        everyone = comm.allgather(before)
        initial = np.array([row for _, row in sorted(item for part in everyone for item in part.items())], np.float32)
        assert len(np.unique(initial[:, 0])) == 9  # independent starts
        rounds._play_round(1)
        W = mixing_matrix(make_topology(config.topology), strategy).toarray()
        heard = (in_bfloat16(initial) if wire == "bfloat16" else initial).astype(np.float64)
        expected = W @ heard + np.diag(W)[:, None] * (initial - heard)
        np.testing.assert_allclose(rounds.parameters.numpy(), expected[rounds.nodes.own], rtol=1e-5, atol=1e-7)
        rounds._free()


def check_experiments_run(comm, folder):
    """Only runs them: the logs are compared between numbers of ranks by the test that launched this."""
    if comm.rank == 0:
        write_failing_links(folder)
    comm.Barrier()
    for name in EXPERIMENTS:
        path = Simulation(experiment_config(name, folder), comm).run()
        assert path == folder / f"{name}.h5"


def check_every_strategy_on_images_and_text(comm, folder):
    """Two rounds of each: X becomes W·X both times, with the W that follows from the topology; the log has both."""
    for dataset, options in TABLE.items():
        for strategy in STRATEGIES:
            path = folder / f"{dataset}-{strategy}.h5"
            config = Config(**(SMALL | options | {"strategy": strategy, "rounds": 2, "output": str(path)}))
            with noted_mixing() as noted:
                Simulation(config, comm).run()
            topology = make_topology(config.topology)
            rank_of_node = contiguous(topology.num_nodes, comm.size)
            everyone = comm.allgather(noted)
            assert len(noted) == 2
            for round in (1, 2):
                before, after = (
                    np.concatenate([of_rank[round - 1][moment] for of_rank in everyone]) for moment in (0, 1)
                )
                own = rank_of_node == comm.rank
                possible = [
                    after_one(topology, strategy, path, round, sign) @ before for sign in possible_signs(strategy)
                ]
                for node in np.flatnonzero(own):
                    assert any(np.allclose(after[node], each[node], rtol=1e-5, atol=1e-6) for each in possible)
            with h5py.File(path) as log:
                assert log.attrs["status"] == "complete"
                assert len(log["round"]) == 2
                assert np.isfinite(log["iid_accuracy_final"][:]).all()


def possible_signs(strategy):
    """A similarity strategy takes the softmax or its inverse, node by node; its own test knows which."""
    return (1, -1) if STRATEGIES[strategy].similarity else (1,)


def after_one(topology, strategy, path, round, sign):
    with h5py.File(path) as log:
        samples = log["train_samples"][:]
    name = strategy.removesuffix("-similarity")
    return mixing_matrix(topology, name, samples, round=round, temperature=0.1 * sign).toarray()


@contextmanager
def noted_mixing():
    """Note this rank's rows of X before and after each aggregation."""
    noted, original = [], Rounds._mix

    def mix_and_note(rounds, *others):
        before = rounds.parameters.cpu().double().numpy().copy()
        original(rounds, *others)
        noted.append((before, rounds.parameters.cpu().double().numpy().copy()))

    Rounds._mix = mix_and_note
    try:
        yield noted
    finally:
        Rounds._mix = original


def check_wrong_input_is_every_ranks_exception(comm, folder):
    for options, words in (
        ({"topology": "ba:n=3,m=5"}, "m < n"),
        ({"output": str(folder / "default.h5")}, "exists already"),
        ({"device": "xpu"}, "torch finds none here"),
    ):
        if options.get("device") == "xpu" and torch.xpu.is_available():
            continue
        try:
            Simulation(Config(**({"output": str(folder / "never.h5"), "quiet": True} | options)), comm).run()
        except InputError as error:
            assert words in str(error)
        else:
            raise AssertionError(f"no error for {options}")
    assert not (folder / "never.h5").exists()


ONLY_AT = {"every_strategy_on_images_and_text": 2}  # numbers of ranks, of checks that take long
CHECKS = {
    name.removeprefix("check_"): check
    for name, check in (vars(mpi_exchange) | globals() | vars(mpi_transport) | vars(mpi_copies)).items()
    if name.startswith("check_") and not check.__module__.startswith("mpisim.")
}


def main():
    comm, folder = MPI.COMM_WORLD, Path(sys.argv[1])
    chosen = sys.argv[2:] or [name for name in CHECKS if ONLY_AT.get(name, comm.size) == comm.size]
    torch.set_num_threads(1)
    register_photos()
    results = {}
    for name in chosen:
        failure = ""
        try:
            CHECKS[name](comm, folder)
        except BaseException:
            failure = f"rank {comm.rank}:\n{traceback.format_exc()}"
        results[name] = [text for text in comm.allgather(failure) if text]
        if comm.rank == 0:
            (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
