"""Mixing matrices are what the paper defines: every entry is compared with loops over networkx's own graphs."""

import functools
from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisim.errors import InputError
from mpisim.graphs.generators import make_topology
from mpisim.graphs.mixing import NORMALIZATIONS, STRATEGIES, mixing_matrix, mixing_rule
from mpisim.graphs.topology import Topology, topology_from_edges
from mpisim.streams import Purpose, stream

SEEDS = (0, 1, 2)
PAPER: dict[str, Callable[[], nx.Graph]] = {
    f"ba:n={n},m={m},seed={seed}": functools.partial(nx.barabasi_albert_graph, n, m, seed=seed)
    for n, m in [(33, 1), (33, 2), (33, 3), (8, 2), (16, 2), (64, 2)]
    for seed in SEEDS
}
PAPER |= {
    f"ws:n={n},k=4,p=0.5,seed={seed}": functools.partial(nx.connected_watts_strogatz_graph, n, 4, 0.5, seed=seed)
    for n in (8, 16, 33)
    for seed in SEEDS
}
PAPER |= {
    f"sb:sizes=11-11-11,p_in=0.5,p_out={p},seed={seed}": functools.partial(
        nx.stochastic_block_model, [11] * 3, [[0.5, p, p], [p, 0.5, p], [p, p, 0.5]], seed=seed
    )
    for p in (0.009, 0.05, 0.09)
    for seed in SEEDS
}
CENTRALITIES = {
    "betweenness": functools.partial(nx.betweenness_centrality, normalized=True, endpoints=True),
    "closeness": nx.closeness_centrality,
    "degree": nx.degree_centrality,
    "eigenvector": functools.partial(nx.eigenvector_centrality, max_iter=20_000, tol=1e-10),
}


@functools.cache
def paper_graph(spec: str) -> nx.Graph:
    return PAPER[spec]()


@functools.cache
def paper_topology(spec: str) -> Topology:
    return make_topology(spec)


@functools.cache
def centrality(spec: str, name: str) -> dict[int, float]:
    return CENTRALITIES[name](paper_graph(spec))


def softmax(scores: dict[int, float], temperature: float) -> dict[int, float]:
    highest = max(score / temperature for score in scores.values())
    raw = {node: np.exp(score / temperature - highest) for node, score in scores.items()}
    return {node: value / sum(raw.values()) for node, value in raw.items()}


def share(scores: dict[int, float]) -> dict[int, float]:
    total = sum(scores.values())
    return {node: score / total if total else 1 / len(scores) for node, score in scores.items()}


def reference(
    graph: nx.Graph,
    strategy: str,
    normalization: str,
    score_of_node: dict[int, float],
    temperature: float = 0.1,
    answers: Callable[[int, int], bool] = lambda *_: True,
) -> np.ndarray:
    """Return W, row by row; ``score_of_node`` is what the strategy thinks of each node, where it thinks of nodes."""
    W = np.zeros((len(graph), len(graph)))
    for node in graph:
        heard = [node, *(other for other in graph[node] if answers(node, other))]
        if strategy == "none":
            weights = {node: 1.0}
        elif strategy == "scale":
            weights = {node: 1 / (1 + graph.degree[node])}
        elif strategy == "fl":
            others = [other for other in graph if not graph.has_edge(node, other) or answers(node, other)]
            weights = share(dict.fromkeys(others, 1.0))
        elif strategy == "metropolis":
            given = {other: 1 / (1 + max(graph.degree[node], graph.degree[other])) for other in graph[node]}
            given[node] = 1 - sum(given.values())
            weights = share({other: given[other] for other in heard})
        else:
            scores = {other: score_of_node[other] for other in heard}
            summed = normalization == "sum" or strategy in ("unweighted", "weighted")
            weights = share(scores) if summed else softmax(scores, temperature)
        for other, weight in weights.items():
            W[node, other] = weight
    return W


def scores_of(spec: str, strategy: str, train_samples: np.ndarray, seed: int, round: int) -> dict[int, float]:
    num_nodes = len(paper_graph(spec))
    if strategy in CENTRALITIES:
        return centrality(spec, strategy)
    scores = {
        "random": lambda: stream(seed, Purpose.RANDOM_WEIGHTS, round=round).random(num_nodes),
        "weighted": lambda: train_samples,
    }.get(strategy, lambda: np.ones(num_nodes))()
    return dict(enumerate(scores.tolist()))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("spec", PAPER)
def test_w_on_the_papers_graphs_is_the_definition_entry_by_entry(spec: str, strategy: str, normalization: str) -> None:
    graph, topology = paper_graph(spec), paper_topology(spec)
    train_samples = np.random.default_rng(len(spec)).integers(1, 500, size=len(graph))
    W = mixing_matrix(topology, strategy, train_samples, normalization=normalization, seed=5, round=3)
    expected = reference(graph, strategy, normalization, scores_of(spec, strategy, train_samples, seed=5, round=3))
    # Where power iteration stops depends on the last bits; the others are sums in another order.
    np.testing.assert_allclose(W.toarray(), expected, rtol=0, atol=1e-7 if strategy == "eigenvector" else 1e-13)


def test_the_papers_36_graphs_are_all_there() -> None:
    assert len(PAPER) == 36


@pytest.mark.parametrize("temperature", [-0.1, 1e-4, 0.01, 1.0, 1e6])
@pytest.mark.parametrize("strategy", ["degree", "betweenness", "random"])
def test_the_temperature_divides_the_scores(strategy: str, temperature: float) -> None:
    spec = "ba:n=33,m=2,seed=0"
    W = mixing_matrix(paper_topology(spec), strategy, temperature=temperature, seed=1, round=2)
    scores = scores_of(spec, strategy, np.ones(33), seed=1, round=2)
    expected = reference(paper_graph(spec), strategy, "softmax", scores, temperature)
    np.testing.assert_allclose(W.toarray(), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("strategy", "node", "expected"),
    [
        ("degree", 20, {3: 0.811, 4: 0.170, 20: 0.019}),
        ("betweenness", 20, {3: 0.816, 4: 0.154, 20: 0.030}),
        ("degree", 3, {3: 0.420, 0: 0.307}),
    ],
)
def test_check_values_of_the_study(strategy: str, node: int, expected: dict[int, float]) -> None:
    W = mixing_matrix(make_topology("ba:n=33,m=2,seed=0"), strategy).toarray()
    assert {other: round(float(W[node, other]), 3) for other in expected} == expected


@pytest.mark.parametrize(
    ("strategy", "rank_1", "rank_4"),
    [("unweighted", 0.096, 0.051), ("degree", 0.436, 0.011), ("betweenness", 0.411, 0.008)],
)
def test_stationary_mass_of_the_study(strategy: str, rank_1: float, rank_4: float) -> None:
    topology = make_topology("ba:n=33,m=2,seed=0")
    in_the_end = np.linalg.matrix_power(mixing_matrix(topology, strategy).toarray(), 100_000)
    first, _, _, fourth, *_ = topology.nodes_by_degree()
    assert first == 3
    assert topology.degrees[first] == 14
    assert [round(float(in_the_end[0, node]), 3) for node in (first, fourth)] == [rank_1, rank_4]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("unweighted", [[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 2, 1 / 2]]),
        ("weighted", [[1 / 3, 2 / 3, 0], [1 / 10, 2 / 10, 7 / 10], [0, 2 / 9, 7 / 9]]),
        ("fl", [[1 / 3] * 3] * 3),
        ("metropolis", [[2 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 3, 2 / 3]]),
        ("scale", [[1 / 2, 0, 0], [0, 1 / 3, 0], [0, 0, 1 / 2]]),
        ("none", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    ],
)
def test_a_path_of_three_nodes_by_hand(strategy: str, expected: list[list[float]]) -> None:
    W = mixing_matrix(make_topology("path:n=3"), strategy, np.array([1, 2, 7]))
    np.testing.assert_allclose(W.toarray(), expected, rtol=1e-15)


@pytest.mark.parametrize("spec", PAPER)
def test_metropolis_is_doubly_stochastic_and_symmetric(spec: str) -> None:
    W = mixing_matrix(paper_topology(spec), "metropolis").toarray()
    np.testing.assert_allclose(W.sum(axis=0), 1, rtol=1e-14)
    np.testing.assert_allclose(W.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(W, W.T, rtol=0, atol=1e-15)
    assert W.min() >= 0


# All graphs: in parts, with nodes that are alone, with edges that can fail.


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    num_nodes = draw(st.integers(1, 9))
    pairs = [(first, second) for first in range(num_nodes) for second in range(first)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    values = draw(st.lists(st.sampled_from([0.3, 0.7, 1.0]), min_size=len(edges), max_size=len(edges)))
    return topology_from_edges(num_nodes, np.array(edges, dtype=np.int64), np.array(values))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(topologies(), st.sampled_from(sorted(STRATEGIES)), st.sampled_from(NORMALIZATIONS), st.integers(1, 5))
def test_rows_sum_to_1_and_lie_in_the_neighborhoods(
    topology: Topology, strategy: str, normalization: str, round: int
) -> None:
    before = topology.adjacency.toarray()
    W = mixing_matrix(topology, strategy, normalization=normalization, round=round).toarray()
    outside = (before == 0) & ~np.eye(len(before), dtype=bool)
    expected = 1 / (1 + topology.degrees) if strategy == "scale" else np.ones(len(before))
    np.testing.assert_allclose(W.sum(axis=1), expected, rtol=1e-14)
    assert (W >= 0).all()
    assert strategy == "fl" or not W[outside].any()
    np.testing.assert_array_equal(topology.adjacency.toarray(), before)


def test_a_node_that_is_alone_keeps_its_model() -> None:
    topology = topology_from_edges(4, np.array([(0, 1), (1, 2)]))
    for strategy in set(STRATEGIES) - {"fl"}:
        for normalization in NORMALIZATIONS:  # its betweenness is 0: it must not divide by that
            W = mixing_matrix(topology, strategy, normalization=normalization).toarray()
            assert W[3].tolist() == [0, 0, 0, 1], strategy


# Random scores.


def test_all_who_listen_to_a_node_read_the_same_random_score() -> None:
    topology = make_topology("ba:n=33,m=2,seed=0")
    W = mixing_matrix(topology, "random", temperature=0.1, seed=4, round=9).toarray()
    listened = topology.adjacency.toarray() > 0
    # The logarithm of W[i, j] / W[i, i] is (u_j - u_i) / temperature: known for every edge, from both of its ends.
    difference = np.where(listened, 0.1 * np.log(np.where(listened, W, 1) / W.diagonal()[:, None]), 0)
    np.testing.assert_allclose(difference, -difference.T, atol=1e-12)
    u = np.zeros(33)
    for parent, node in nx.bfs_edges(topology.graph, 0):
        u[node] = u[parent] + difference[parent, node]
    np.testing.assert_allclose(difference[listened], (u[None, :] - u[:, None])[listened], atol=1e-12)
    assert 0.5 < np.ptp(u) < 1


def test_random_scores_are_uniform_between_0_and_1() -> None:
    # Node 0 of a star listens to all; under "sum" its row is the scores, but for a factor.
    W = mixing_matrix(make_topology("star:n=20000"), "random", normalization="sum")
    row = W.data[: W.indptr[1]]
    scores = np.sort(row) / row.max()
    assert np.abs(scores - (np.arange(20_000) + 0.5) / 20_000).max() < 2.3 / 20_000**0.5


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_random_scores_are_drawn_anew_each_round_and_again_from_the_same_seed(normalization: str) -> None:
    topology = make_topology("ba:n=33,m=2,seed=0")

    def entries(seed: int, round: int) -> np.ndarray:
        return mixing_matrix(topology, "random", normalization=normalization, seed=seed, round=round).data

    drawn = [entries(seed, round) for seed in (0, 1, 2) for round in (1, 2, 3)]
    np.testing.assert_array_equal(entries(2, 3), drawn[-1])
    for first in range(len(drawn)):
        for second in range(first):
            assert not np.isclose(drawn[first], drawn[second], rtol=1e-6).any()


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"random"}))
def test_other_strategies_do_not_change_with_round_or_seed(strategy: str) -> None:
    topology = make_topology("ba:n=33,m=2,seed=0")
    first, second = (mixing_matrix(topology, strategy, seed=seed, round=round) for seed, round in [(0, 1), (7, 30)])
    np.testing.assert_array_equal(first.toarray(), second.toarray())


# Links that fail.


def failing(seed: int = 0) -> Topology:
    """Return a graph with edges of all kinds: sure ones, likely ones, unlikely ones."""
    graph = nx.gnm_random_graph(24, 60, seed=seed)
    values = np.random.default_rng(seed).choice([0.1, 0.5, 0.9, 1.0], size=60)
    return topology_from_edges(24, np.array(graph.edges), values)


def test_both_directions_of_an_edge_fail_together() -> None:
    topology = failing()
    sure = topology.adjacency.toarray() == 1
    for round in range(1, 101):
        works = mixing_matrix(topology, "unweighted", round=round).toarray() > 0
        np.testing.assert_array_equal(works, works.T)
        assert works[sure].all()
        assert works.diagonal().all()


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_weights_of_a_round_are_shared_by_those_who_answered(strategy: str, normalization: str) -> None:
    topology = failing()
    graph = topology.graph
    train_samples = np.arange(1, 25)
    for round in range(1, 11):
        works = mixing_matrix(topology, "unweighted", seed=3, round=round).toarray() > 0
        drawn = stream(3, Purpose.RANDOM_WEIGHTS, round=round).random(24)
        scores = {"random": drawn, "weighted": train_samples}.get(strategy, np.ones(24))
        score_of_node = CENTRALITIES[strategy](graph) if strategy in CENTRALITIES else dict(enumerate(scores.tolist()))
        expected = reference(
            graph, strategy, normalization, score_of_node, answers=lambda i, j, works=works: works[i, j]
        )
        W = mixing_matrix(topology, strategy, train_samples, normalization=normalization, seed=3, round=round)
        np.testing.assert_allclose(W.toarray(), expected, rtol=0, atol=1e-7 if strategy == "eigenvector" else 1e-13)


def test_an_edge_works_in_the_share_of_rounds_that_its_value_says_whatever_the_others_do() -> None:
    topology = failing()
    rule = mixing_rule(topology, "unweighted", np.ones(24))
    num_rounds = 3000
    works = np.array([rule.weights(0, round, 0.1) > 0 for round in range(1, num_rounds + 1)])
    rows = np.repeat(np.arange(24), np.diff(rule.indptr))
    probability = (topology.adjacency.toarray() + np.eye(24))[rows, rule.indices]
    deviation = np.sqrt(probability * (1 - probability) / num_rounds)
    assert (np.abs(works.mean(axis=0) - probability) <= 4.5 * deviation).all()
    once = (rows < rule.indices) & (probability < 1)
    correlation = np.corrcoef(works[:, once].T) - np.eye(once.sum())
    assert np.abs(correlation).max() < 4.5 / num_rounds**0.5
    again = works[1:, once] * 1.0 - probability[once]
    before = works[:-1, once] * 1.0 - probability[once]
    assert np.abs((again * before).mean(axis=0) / (probability * (1 - probability))[once]).max() < 4.5 / num_rounds**0.5


def test_which_edges_fail_follows_from_seed_and_round() -> None:
    topology = failing()
    patterns = {
        (seed, round): (mixing_matrix(topology, "degree", seed=seed, round=round).toarray() > 0).tobytes()
        for seed in (0, 1, 2)
        for round in (1, 2, 3)
    }
    assert len(set(patterns.values())) == 9
    for (seed, round), pattern in patterns.items():
        unweighted = mixing_matrix(topology, "unweighted", seed=seed, round=round).toarray() > 0
        assert unweighted.tobytes() == pattern


# Rows of a rank.


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
@pytest.mark.parametrize("strategy", ["degree", "fl", "none", "random"])
def test_a_rank_computes_the_weights_of_the_whole_for_its_rows(strategy: str, data: st.DataObject) -> None:
    rule = mixing_rule(failing(), strategy, np.ones(24))
    rows = np.array(data.draw(st.lists(st.integers(0, 23), unique=True)), dtype=np.int64)
    part = rule.of_rows(rows)
    round = data.draw(st.integers(1, 100))
    whole = rule.weights(2, round, 0.1)
    entries = [slice(rule.indptr[row], rule.indptr[row + 1]) for row in rows]
    assert part.indices.tolist() == [int(node) for each in entries for node in rule.indices[each]]
    assert part.weights(2, round, 0.1).tolist() == [float(weight) for each in entries for weight in whole[each]]
    assert np.diff(part.indptr).tolist() == [each.stop - each.start for each in entries]


# Large graphs.


@pytest.fixture(scope="module")
def large_ring() -> Topology:
    return make_topology("ring:n=100000")


@pytest.mark.parametrize("strategy", ["unweighted", "degree", "metropolis", "weighted"])
def test_a_ring_of_100_000_nodes_has_three_equal_weights_a_row(large_ring: Topology, strategy: str) -> None:
    W = mixing_matrix(large_ring, strategy)
    assert W.nnz == 300_000
    assert W.shape == (100_000, 100_000)
    np.testing.assert_allclose(W.data, 1 / 3, rtol=1e-14)
    node = np.arange(100_000)
    neighborhood = np.sort(np.stack([(node - 1) % 100_000, node, (node + 1) % 100_000], axis=1), axis=1)
    np.testing.assert_array_equal(W.indices.reshape(-1, 3), neighborhood)


def test_a_large_ring_with_random_scores_has_rows_that_sum_to_1(large_ring: Topology) -> None:
    W = mixing_matrix(large_ring, "random")
    assert W.nnz == 300_000
    np.testing.assert_allclose(W.sum(axis=1), 1, rtol=1e-14)


# What is wrong.


def test_an_unknown_strategy_is_an_input_error_that_lists_the_known() -> None:
    names = "betweenness, closeness, degree, eigenvector, fl, metropolis, none, random, scale, unweighted, weighted"
    with pytest.raises(InputError, match=f"^unknown strategy 'degre': choose from {names}$"):
        mixing_matrix(make_topology("ring:n=5"), "degre")


def test_an_unknown_normalization_is_an_input_error_that_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown normali[sz].* 'Softmax': choose from softmax, sum"):
        mixing_matrix(make_topology("ring:n=5"), "degree", normalization="Softmax")


def test_fl_on_too_many_nodes_is_an_input_error() -> None:
    with pytest.raises(
        InputError, match=r"^strategy 'fl': 15000 nodes all listening to each other do not fit in memory"
    ):
        mixing_matrix(make_topology("path:n=15000"), "fl")
