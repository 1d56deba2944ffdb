"""Predicted influence is powers of W, by brute force; its limits are the study's, and chains solved by hand."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_logs import AGGREGATED, TRAINED, write_log
from scipy import sparse
from scipy.stats import spearmanr

from mpisim.analysis.influence import (
    arrival,
    compare_prediction,
    mixing_matrix,
    predicted_influence,
    rank_correlation,
    stationary_mass,
)
from mpisim.analysis.logs import reading
from mpisim.analysis.measures import accuracy_auc
from mpisim.errors import InputError
from mpisim.graphs import strategies
from mpisim.graphs.generators import make_topology

pure = settings(derandomize=True, deadline=None, max_examples=60)
BA33 = "ba:n=33,m=2,seed=0"


def chain(rows):
    return sparse.csr_array(np.array(rows, dtype=np.float64))


@st.composite
def mixing_matrices(draw):
    """Return W of some nodes who give some of the others, and always themselves, some weight."""
    num_nodes = draw(st.integers(1, 7))
    entries = st.lists(st.integers(0, 4), min_size=num_nodes**2, max_size=num_nodes**2)
    raw = np.array(draw(entries), dtype=np.float64).reshape(num_nodes, num_nodes) + np.eye(num_nodes)
    return raw / raw.sum(axis=1, keepdims=True)


@pure
@given(mixing_matrices(), st.integers(0, 12), st.data())
def test_influence_is_the_sources_columns_of_the_powers_of_w(dense, num_rounds, data):
    sources = data.draw(st.lists(st.integers(0, len(dense) - 1), max_size=3, unique=True))
    influence = predicted_influence(sparse.csr_array(dense), sources, num_rounds)
    assert influence.shape == (num_rounds + 1, len(dense))
    for round in range(num_rounds + 1):
        expected = np.linalg.matrix_power(dense, round)[:, sources].sum(axis=1)
        np.testing.assert_allclose(influence[round], expected, atol=1e-12)


def test_influence_of_all_nodes_is_all_the_weight():
    influence = predicted_influence(strategies.mixing_matrix(make_topology(BA33), "degree"), range(33), 5)
    np.testing.assert_allclose(influence, np.ones((6, 33)), rtol=1e-12)


@pytest.mark.parametrize(
    "strategy, of_rank_1, of_rank_4",
    [("unweighted", 0.096, 0.051), ("degree", 0.436, 0.011), ("betweenness", 0.411, 0.008)],
)
def test_the_stationary_masses_are_the_studys(strategy, of_rank_1, of_rank_4):
    topology = make_topology(BA33)
    mass = stationary_mass(strategies.mixing_matrix(topology, strategy))
    by_degree = mass[topology.nodes_by_degree()]
    assert mass.sum() == pytest.approx(1)
    assert (by_degree[0].round(3), by_degree[3].round(3)) == (of_rank_1, of_rank_4)


def test_unweighted_mass_is_in_proportion_to_the_neighborhoods():
    """A known result: equal weights on an undirected graph are a random walk, which stays where degrees are high."""
    topology = make_topology("ba:n=50,m=3,seed=1")
    mass = stationary_mass(strategies.mixing_matrix(topology, "unweighted"))
    np.testing.assert_allclose(mass, (topology.degrees + 1) / (topology.degrees + 1).sum(), rtol=1e-10)


def test_metropolis_weights_share_alike():
    mass = stationary_mass(strategies.mixing_matrix(make_topology("star:n=9"), "metropolis"))
    np.testing.assert_allclose(mass, 1 / 9, rtol=1e-12)


@pytest.mark.parametrize(
    "rows, mass",
    {
        "two nodes": ([[0.9, 0.1], [0.3, 0.7]], [0.75, 0.25]),
        "a period of two, which powers never settle": ([[0, 1], [1, 0]], [0.5, 0.5]),
        "one node": ([[1]], [1]),
        "nobody listens": ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [1 / 3, 1 / 3, 1 / 3]),
        "all listen to one, who does not": ([[1, 0, 0], [0.5, 0.5, 0], [0.1, 0.2, 0.7]], [1, 0, 0]),
        # Node 2 ends half with node 0 and half with node 1: (1 + 1/2)/3 each.
        "between two who do not listen": ([[1, 0, 0], [0, 1, 0], [0.25, 0.25, 0.5]], [0.5, 0.5, 0]),
        "two pairs apart": (
            [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0.9, 0.1], [0, 0, 0.3, 0.7]],
            [0.25, 0.25, 0.375, 0.125],
        ),
    }.values(),
)
def test_chains_end_as_computed_by_hand(rows, mass):
    np.testing.assert_allclose(stationary_mass(chain(rows)), mass, atol=1e-12)


@pure
@given(mixing_matrices())
def test_the_stationary_mass_is_what_high_powers_come_to(dense):
    limit = np.linalg.matrix_power(dense, 2**14).mean(axis=0)
    np.testing.assert_allclose(stationary_mass(sparse.csr_array(dense)), limit, atol=1e-6)


@pytest.mark.parametrize("strategy", ["scale", "degree-similarity"])
def test_w_whose_rows_do_not_sum_to_1_has_no_stationary_mass(tmp_path, strategy):
    with reading(write_log(tmp_path / "run.h5", strategy=strategy)) as file:
        assert np.isnan(stationary_mass(mixing_matrix(file))).all()


@pytest.mark.parametrize("strategy", ["unweighted", "degree", "metropolis", "fl", "none", "scale"])
def test_w_comes_out_of_a_log_as_it_went_in(tmp_path, strategy):
    expected = strategies.mixing_matrix(make_topology("ba:n=9,m=2"), strategy).toarray()
    path = write_log(tmp_path / "run.h5", "ba:n=9,m=2", strategy, np.zeros((1, 9)), np.zeros((1, 9)))
    with reading(path) as file:
        matrix = mixing_matrix(file)
        assert isinstance(matrix, sparse.csr_array)
        np.testing.assert_array_equal(matrix.toarray(), expected)


@pytest.mark.parametrize("name, wrong", [("link_source", 4), ("link_target", -1)])
def test_a_link_of_no_node_is_told(tmp_path, name, wrong):
    path = write_log(tmp_path / "run.h5")
    with h5py.File(path, "r+") as file:
        file[name][0] = wrong
    with (
        reading(path) as file,
        pytest.raises(InputError, match=rf"run\.h5: is a broken log: a link is of node {wrong}"),
    ):
        mixing_matrix(file)


def test_knowledge_has_arrived_when_it_stays():
    accuracy = np.array([[1.0, 0.0, 0.9, 0.0, 0.5], [1.0, 0.6, 0.1, 0.9, 0.5], [1.0, 0.7, 0.8, 0.2, 0.5]])
    np.testing.assert_array_equal(arrival(accuracy, 0.5), [1, 2, 3, np.nan, 1])
    assert np.isnan(arrival(np.empty((0, 3)))).all()
    assert np.isnan(arrival(np.full((2, 3), np.nan))).all()


@pure
@given(st.lists(st.booleans(), min_size=1, max_size=10))
def test_arrival_agrees_with_a_search_from_the_end(has):
    found = arrival(np.array(has, dtype=np.float64).reshape(-1, 1))[0]
    expected = next((first for first in range(1, len(has) + 1) if all(has[first - 1 :])), np.nan)
    np.testing.assert_equal(found, expected)


@pure
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=20))
def test_the_rank_correlation_is_pearsons_of_mean_ranks(pairs):
    def mean_ranks(values):
        ordered = sorted(values)
        return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in values]

    first, second = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        assert np.isnan(rank_correlation(first, second))
    else:
        expected = np.corrcoef(mean_ranks(first.tolist()), mean_ranks(second.tolist()))[0, 1]
        assert rank_correlation(first, second) == pytest.approx(expected)


def test_figures_that_differ_by_their_rounding_share_a_rank():
    noisy = np.array([0.3, 0.1 + 0.2, 0.5, 0.1])
    assert rank_correlation(noisy, np.array([1.0, 2.0, 3.0, 0.0])) == pytest.approx(
        spearmanr([1, 1, 2, 0], [1, 2, 3, 0]).statistic
    )


def test_nodes_without_a_figure_do_not_count():
    first = np.array([1.0, 2.0, 3.0, np.nan, np.inf])
    assert rank_correlation(first, np.array([3.0, 2.0, 1.0, 9.0, 9.0])) == pytest.approx(-1)
    assert np.isnan(rank_correlation(first, np.full(5, np.nan)))


def path_of_four(tmp_path, **given):
    """Write a log of the path 0–1–2–3 with its OOD node at the end, whose knowledge comes a node further each round."""
    ood = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.8, 0.0]]
    return write_log(tmp_path / "run.h5", iid=np.zeros((3, 4)), ood=ood, **given)


def test_a_prediction_has_what_one_computes_by_hand(tmp_path):
    with reading(path_of_four(tmp_path)) as file:
        found = compare_prediction(file)
    dense = strategies.mixing_matrix(make_topology("path:n=4"), "unweighted").toarray()
    np.testing.assert_allclose(found.influence, [np.linalg.matrix_power(dense, r)[:, 0] for r in range(4)])
    assert found.ood_nodes.tolist() == [0]
    # The models of round 1 were tested before any aggregation, those of round 3 after two.
    np.testing.assert_allclose(found.predicted, accuracy_auc(found.influence[:3]))
    np.testing.assert_allclose(found.measured, [1, 0.75, 0.2, 0])
    assert found.rank_correlation == pytest.approx(1)
    assert found.stationary == pytest.approx(2 / 10)  # neighborhoods of 2, 3, 3 and 2 nodes
    np.testing.assert_array_equal(found.distance, [0, 1, 2, 3])
    np.testing.assert_array_equal(found.arrival, [1, 2, 3, np.nan])
    assert found.arrival_correlation == pytest.approx(1)


def test_aggregated_models_have_been_through_one_aggregation_more(tmp_path):
    with reading(path_of_four(tmp_path, variables=AGGREGATED)) as file:
        found = compare_prediction(file)
    np.testing.assert_allclose(found.predicted, accuracy_auc(found.influence[1:]))


@pytest.mark.parametrize(
    "given",
    [{"ood_nodes": ()}, {"strategy": "degree-similarity"}, {"strategy": "fl", "ood_nodes": (0, 1, 2, 3)}],
    ids=["no OOD node", "W follows from the models", "W predicts the same for all"],
)
def test_where_nothing_can_be_predicted_there_is_no_correlation(tmp_path, given):
    with reading(path_of_four(tmp_path, **given)) as file:
        assert np.isnan(compare_prediction(file).rank_correlation)


def test_a_run_without_a_round_has_a_prediction_without_figures(tmp_path):
    with reading(write_log(tmp_path / "run.h5", iid=[], ood=[])) as file:
        found = compare_prediction(file)
    assert found.influence.tolist() == [[1, 0, 0, 0]]
    assert np.isnan([*found.predicted, *found.measured, *found.arrival, found.rank_correlation]).all()


@pytest.mark.parametrize("variables", [TRAINED, AGGREGATED])
def test_weights_that_follow_from_the_models_predict_nothing_even_of_one_round(tmp_path, variables):
    path = write_log(tmp_path / "run.h5", strategy="degree-similarity", ood=[[1, 0.5, 0.25, 0]], variables=variables)
    with reading(path) as file:
        found = compare_prediction(file)
    assert np.isnan(found.predicted).all()
    assert np.isnan(found.rank_correlation)
    np.testing.assert_array_equal(found.measured, [1, 0.5, 0.25, 0])
