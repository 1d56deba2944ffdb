"""What needs several ranks: each check of mpi_session.py at 1, 2 and 3 ranks, and the same bits at 1, 2, 3 and 5."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import h5py
import mpi_experiments
import mpi_session
import mpi_transport
import numpy as np
import pytest
from chaos import results_of
from suite_device import ROUNDING, assert_same_results

SESSION = Path(mpi_session.__file__)
SIZES = (1, 2, 3)


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    """Run the session at a number of ranks, once; return its folder and each check's failures."""

    @cache
    def run(size, *checks):
        folder = tmp_path_factory.mktemp(f"ranks-{size}-")
        finished = subprocess.run(
            ["mpiexec", "-n", str(size), sys.executable, SESSION, folder, *checks],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return folder, json.loads((folder / "results.json").read_text())

    return run


@pytest.mark.parametrize(
    "check, size",
    [(check, size) for check in mpi_session.CHECKS for size in SIZES if mpi_session.ONLY_AT.get(check, size) == size],
)
def test_check(launch, check, size):
    _, results = launch(size)
    assert not results[check], "\n".join(results[check])


@pytest.mark.parametrize("experiment", mpi_session.EXPERIMENTS)
def test_any_number_of_ranks_gives_the_same_bits(launch, experiment):
    folders = [launch(1)[0], launch(2)[0], launch(3)[0], launch(5, "experiments_run")[0]]
    first, *others = [results_of(folder / f"{experiment}.h5") for folder in folders]
    assert first["status"] == "complete"
    assert first["iid_accuracy"].shape[0] == 5
    trained = first["train_loss"][first["participated"] == 1]
    assert len(np.unique(trained)) == trained.size > 0  # the nodes did train, each on its own
    assert np.isnan(first["train_loss"][first["participated"] == 0]).all()
    for other in others:
        assert_same_results(other, first, mpi_experiments.ROUGHER.get(experiment, ROUNDING))


def test_consensus_has_the_same_bits_at_any_number_of_ranks(launch):
    for num_nodes in (5, 7):
        whole = [
            np.concatenate([np.load(folder / f"consensus-{num_nodes}-{rank}.npy") for rank in range(size)])
            for size, folder in ((size, launch(size)[0]) for size in SIZES)
        ]
        np.testing.assert_array_equal(whole[1], whole[0])
        np.testing.assert_array_equal(whole[2], whole[0])


def test_links_fail_and_the_log_shows_it(launch):
    """In the first round W gives nothing along the edges that failed, about half of them, and all to who answered."""
    folder, _ = launch(1)
    with h5py.File(folder / "failing.h5") as log:
        source, target, weight = (log[f"link_{part}"][:] for part in ("source", "target", "weight"))
    lost = (weight == 0) & (source != target)
    assert 0 < lost.sum() < len(weight) - 7
    np.testing.assert_allclose(np.bincount(target, weights=weight), 1)
    pairs = set(zip(source[lost], target[lost], strict=True))
    assert pairs == {(second, first) for first, second in pairs}


def bytes_sent(folder, experiment):
    with h5py.File(folder / f"{experiment}.h5") as log:
        sent = log["bytes_sent"][:]
    assert (sent == sent[0]).all()  # in every round
    return sent[0].tolist()


def test_the_proximal_term_sends_every_row_twice_and_bfloat16_halves_rows(launch):
    """A ring of seven with chords on three ranks, of nodes 0–2, 3–4 and 5–6: who hears whom is counted by hand."""
    folder, _ = launch(3)
    row = 17_226 * 4
    # Nodes 0, 1, 2 are all heard by rank 1 and by rank 2; 3 and 4 by rank 0 and by rank 2; 5 and 6 by rank 0 and 1.
    assert bytes_sent(folder, "wire") == [6 * row // 2, 4 * row // 2, 4 * row // 2]
    assert bytes_sent(folder, "everything") == [2 * 6 * row, 2 * 4 * row, 2 * 4 * row]


def test_federated_learning_sends_columns_there_and_mixtures_back(launch):
    """Two of six rows on each of three ranks: the last has the last 89 of 270 blocks of columns, and 10 columns."""
    folder, _ = launch(3)
    widths = np.array([90 * 64, 90 * 64, 89 * 64 + 10])
    assert bytes_sent(folder, "fl") == (2 * (17_226 - widths) * 4 + 4 * widths * 4).tolist()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("experiment", mpi_transport.CARRIED)
def test_torch_carries_models_to_the_same_bits(launch, experiment, size):
    folder, _ = launch(size)
    expected, found = (results_of(folder / f"{name}.h5") for name in (experiment, f"{experiment}-by-torch"))
    assert_same_results(found, expected)
    assert bytes_sent(folder, experiment) == bytes_sent(folder, f"{experiment}-by-torch")


@pytest.mark.parametrize("size", [2, 3])
def test_another_placement_changes_messages_and_no_result(launch, size):
    folder, _ = launch(size)
    expected, found = results_of(folder / "default.h5"), results_of(folder / "mincut.h5")
    assert_same_results(found, expected)
    with h5py.File(folder / "default.h5") as blocks, h5py.File(folder / "mincut.h5") as cut:
        assert (blocks["rank_of_node"][:] != cut["rank_of_node"][:]).any()
    assert sum(bytes_sent(folder, "mincut")) < sum(bytes_sent(folder, "default"))


def test_rounding_to_bfloat16_shows_in_the_results(launch):
    folder, _ = launch(1)
    whole, rounded = results_of(folder / "failing.h5"), results_of(folder / "wire.h5")
    first, second = ({"train_loss": each["train_loss"][0]} for each in (whole, rounded))
    assert_same_results(second, first)  # the first round starts alike
    assert (rounded["train_loss"][1] != whole["train_loss"][1]).all()
    np.testing.assert_allclose(rounded["train_loss"], whole["train_loss"], rtol=0.05)


def test_a_fraction_of_the_nodes_takes_part_and_the_temperature_follows_its_schedule(launch):
    with h5py.File(launch(1)[0] / "everything.h5") as log:
        np.testing.assert_array_equal(log["participated"][:].sum(axis=1), 4)  # of seven, 0.7
        angle = np.pi * np.arange(5) / 5
        np.testing.assert_allclose(log["temperature"][:], 1 / (10 * (1 + np.cos(angle)) / 2), rtol=1e-12)
        weight, target = log["link_weight"][:], log["link_target"][:]
        out = log["participated"][0] == 0
        np.testing.assert_allclose(np.bincount(target, weights=weight), 1)
        own = log["link_source"][:] == target
        assert (weight[own & out[target]] == 1).all()
        assert (weight[~own & out[log["link_source"][:]]] == 0).all()
