"""Mixing matrices are what the paper defines: every entry is compared with loops over networkx's own graphs."""

import dataclasses
import functools
from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpisim.errors import InputError
from mpisim.graphs.generators import make_topology
from mpisim.graphs.mixing import NORMALIZATIONS, MixingRule
from mpisim.graphs.strategies import STRATEGIES, mixing_matrix, mixing_rule
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
    "clustering": nx.clustering,
    "degree": nx.degree_centrality,
    "eigenvector": functools.partial(nx.eigenvector_centrality, max_iter=20_000, tol=1e-10),
}
SIMILARITY = [name for name, strategy in STRATEGIES.items() if strategy.similarity]
OF_TOPOLOGY = [name for name in STRATEGIES if name not in SIMILARITY]  # W is known before there are models


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
@pytest.mark.parametrize("strategy", OF_TOPOLOGY)
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
@given(topologies(), st.sampled_from(OF_TOPOLOGY), st.sampled_from(NORMALIZATIONS), st.integers(1, 5))
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
    for strategy in set(OF_TOPOLOGY) - {"fl"}:
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


@pytest.mark.parametrize("strategy", sorted(set(OF_TOPOLOGY) - {"random"}))
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
@pytest.mark.parametrize("strategy", OF_TOPOLOGY)
def test_the_weights_of_a_round_are_shared_by_those_who_answered(strategy: str, normalization: str) -> None:
    topology = failing()
    graph = topology.graph
    train_samples = np.arange(1, 25)
    for round in range(1, 11):
        works = mixing_matrix(topology, "unweighted", seed=3, round=round).toarray() > 0
        drawn = stream(3, Purpose.RANDOM_WEIGHTS, round=round).random(24)
        scores = {"random": drawn, "weighted": train_samples}.get(strategy, np.ones(24))
        score_of_node = CENTRALITIES[strategy](graph) if strategy in CENTRALITIES else dict(enumerate(scores.tolist()))
        # In federated learning nodes do not hear each other along these edges.
        expected = reference(
            graph,
            strategy,
            normalization,
            score_of_node,
            answers=lambda i, j, works=works: strategy == "fl" or works[i, j],
        )
        W = mixing_matrix(topology, strategy, train_samples, normalization=normalization, seed=3, round=round)
        np.testing.assert_allclose(W.toarray(), expected, rtol=0, atol=1e-7 if strategy == "eigenvector" else 1e-13)


def test_an_edge_works_in_the_share_of_rounds_that_its_value_says_whatever_the_others_do() -> None:
    topology = failing()
    rule = mixing_rule(topology, "unweighted", np.ones(24))
    num_rounds = 3000
    works = np.array([rule.weights(0, round, 10.0) > 0 for round in range(1, num_rounds + 1)])
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


# Inverse temperatures, as a schedule gives them, and as the least alike neighbor turns them.


@pytest.mark.parametrize("inverse", [10.0, -10.0, 0.0, 1e-9, 300.0])
@pytest.mark.parametrize("strategy", ["degree", "betweenness", "random"])
def test_the_inverse_temperature_multiplies_the_scores(strategy: str, inverse: float) -> None:
    spec = "ba:n=33,m=2,seed=0"
    rule = mixing_rule(paper_topology(spec), strategy, np.ones(33))
    W = dense(rule, rule.weights(1, 2, inverse))
    scores = np.array([score for _, score in sorted(scores_of(spec, strategy, np.ones(33), seed=1, round=2).items())])
    np.testing.assert_allclose(W, softmax_rows(paper_graph(spec), scores, np.full(33, inverse)), rtol=0, atol=1e-12)


def test_an_inverse_temperature_of_0_gives_equal_weights() -> None:
    topology = failing()
    for strategy in ("degree", "random", "closeness"):
        rule = mixing_rule(topology, strategy, np.ones(24))
        expected = mixing_matrix(topology, "unweighted", seed=4, round=6).toarray()
        np.testing.assert_array_equal(dense(rule, rule.weights(4, 6, 0.0)), expected)


def dense(rule: MixingRule, weights: np.ndarray) -> np.ndarray:
    W = np.zeros((len(rule.indptr) - 1, rule.num_nodes))
    W[np.repeat(np.arange(len(W)), np.diff(rule.indptr)), rule.indices] = weights
    return W


def softmax_rows(graph: nx.Graph, scores: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Return W, each row with an inverse temperature of its own."""
    W = np.zeros((len(graph), len(graph)))
    for node in graph:
        logits = {other: scores[other] * inverse[node] for other in [node, *graph[node]]}
        raw = {other: np.exp(logit - max(logits.values())) for other, logit in logits.items()}
        for other in raw:
            W[node, other] = raw[other] / sum(raw.values())
    return W


@pytest.mark.parametrize("inverse", [10.0, -3.0, 0.0])
@pytest.mark.parametrize("strategy", ["degree-similarity", "betweenness-similarity"])
@pytest.mark.parametrize("spec", ["ba:n=33,m=2,seed=0", "sb:sizes=11-11-11,p_in=0.5,p_out=0.009,seed=1"])
def test_the_least_alike_neighbor_gives_the_sign_of_the_inverse_temperature(
    spec: str, strategy: str, inverse: float
) -> None:
    graph = paper_graph(spec)
    rule = mixing_rule(paper_topology(spec), strategy, np.ones(33), "sum")  # always a softmax, whatever is asked for
    scores = np.array([score for _, score in sorted(centrality(spec, strategy.removesuffix("-similarity")).items())])
    rng = np.random.default_rng(len(spec))
    signs = set()
    for round in range(1, 6):
        chosen = {node: int(rng.choice(sorted(graph[node]))) for node in range(33)}
        entries = [list(rule.indices[rule.indptr[i] : rule.indptr[i + 1]]).index(j) for i, j in chosen.items()]
        exact = scores.round(12)  # many nodes are equally central
        sign = np.array([-1 if exact[chosen[node]] < exact[node] else 1 for node in range(33)])
        W = dense(rule, rule.weights(0, round, inverse, least_alike=rule.indptr[:-1] + entries))
        np.testing.assert_allclose(W, softmax_rows(graph, scores, sign * abs(inverse)), rtol=0, atol=1e-12)
        signs |= set(sign)
    assert signs == {-1, 1}


def test_a_star_by_hand_whose_hub_flees_its_leaves_and_whose_leaves_seek_their_hub() -> None:
    # Degree centralities 1, 1/3, 1/3, 1/3; with an inverse temperature of 3 the logits are ±3 and ±1.
    rule = mixing_rule(make_topology("star:n=4"), "degree-similarity", np.ones(4))
    hub, leaf = np.exp(-3), np.exp(-1)
    expected = np.zeros((4, 4))
    expected[0] = np.array([hub, leaf, leaf, leaf]) / (hub + 3 * leaf)
    for node in (1, 2, 3):
        expected[node, [0, node]] = np.array([np.exp(3), np.exp(1)]) / (np.exp(3) + np.exp(1))
    least_alike = np.array([2, 4, 6, 8])  # entries: hub's row 0…3, then (hub, leaf) three times
    np.testing.assert_allclose(dense(rule, rule.weights(0, 1, 3.0, least_alike=least_alike)), expected, rtol=1e-14)


def test_without_neighbors_or_with_equal_scores_the_sign_is_positive() -> None:
    topology = topology_from_edges(4, np.array([(0, 1), (1, 2)]))
    rule = mixing_rule(topology, "degree-similarity", np.ones(4))
    W = dense(rule, rule.weights(0, 1, 10.0, least_alike=np.array([1, 2, 6, -1])))
    assert W[3].tolist() == [0, 0, 0, 1]
    assert W[0, 1] > W[0, 0]
    assert W[1, 0] > W[1, 1]  # its neighbor is less central
    ring = mixing_rule(make_topology("ring:n=5"), "degree-similarity", np.ones(5))
    np.testing.assert_allclose(ring.weights(0, 1, 10.0, least_alike=ring.indptr[:-1]), 1 / 3, rtol=1e-15)


def test_scores_that_differ_by_their_rounding_alone_are_equal() -> None:
    rule = mixing_rule(make_topology("path:n=4"), "betweenness-similarity", np.ones(4))
    scores = rule.scores.copy()
    scores[rule.indices == 2] = np.nextafter(scores[rule.indices == 2], 0)
    least_alike = np.array([1, 4, 6, 8])  # of node 1 it is node 2, its equal
    W = dense(rule, rule.weights(0, 1, 10.0, least_alike=least_alike))
    rounded = dense(rule, dataclasses.replace(rule, scores=scores).weights(0, 1, 10.0, least_alike=least_alike))
    assert W[1, 0] < W[1, 2]
    np.testing.assert_allclose(rounded, W, rtol=1e-12)


def test_the_sign_also_holds_in_rounds_in_which_edges_fail() -> None:
    topology = failing()
    degrees = topology.degrees / 23
    rule = mixing_rule(topology, "degree-similarity", np.ones(24))
    for round in range(1, 6):
        answers = dense(rule, rule.answering(3, round).astype(float)) > 0
        np.testing.assert_array_equal(answers, mixing_matrix(topology, "unweighted", seed=3, round=round).toarray() > 0)
        heard = nx.from_numpy_array(answers & ~np.eye(24, dtype=bool))
        first = {node: min(heard[node], default=-1) for node in heard}
        entries = [
            -1
            if j < 0
            else int(np.flatnonzero(rule.indices[rule.indptr[i] : rule.indptr[i + 1]] == j)[0] + rule.indptr[i])
            for i, j in first.items()
        ]
        sign = np.array([-1 if j >= 0 and degrees[j] < degrees[i] else 1 for i, j in first.items()])
        W = dense(rule, rule.weights(3, round, 10.0, least_alike=np.array(entries)))
        np.testing.assert_allclose(W, softmax_rows(heard, degrees, 10.0 * sign), rtol=0, atol=1e-13)


@pytest.mark.parametrize("strategy", SIMILARITY)
def test_weights_that_need_the_models_do_not_come_without_them(strategy: str) -> None:
    topology = make_topology("ring:n=5")
    with pytest.raises(InputError, match=f"^strategy '{strategy}' looks at the models: its W does not follow"):
        mixing_matrix(topology, strategy)
    with pytest.raises(ValueError, match="least_alike is missing"):
        mixing_rule(topology, strategy, np.ones(5)).weights(0, 1, 10.0)


# Rows of a rank.


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
@pytest.mark.parametrize("strategy", ["degree", "degree-similarity", "fl", "none", "random"])
def test_a_rank_computes_the_weights_of_the_whole_for_its_rows(strategy: str, data: st.DataObject) -> None:
    rule = mixing_rule(failing(), strategy, np.ones(24))
    rows = np.array(data.draw(st.lists(st.integers(0, 23), unique=True)), dtype=np.int64)
    part = rule.of_rows(rows)
    round = data.draw(st.integers(1, 100))
    unlike = (lambda held: held.indptr[1:] - 1) if rule.similarity else lambda _: None  # the last of each row
    whole = rule.weights(2, round, 10.0, least_alike=unlike(rule))
    entries = [slice(rule.indptr[row], rule.indptr[row + 1]) for row in rows]
    assert part.indices.tolist() == [int(node) for each in entries for node in rule.indices[each]]
    weights = part.weights(2, round, 10.0, least_alike=unlike(part))
    assert weights.tolist() == [float(weight) for each in entries for weight in whole[each]]
    assert np.diff(part.indptr).tolist() == [each.stop - each.start for each in entries]


# Faults.


@pytest.mark.parametrize("strategy", ["unweighted", "fl", "degree", "metropolis", "scale", "none", "random"])
def test_nodes_that_take_no_part_keep_their_models_and_are_not_heard(strategy: str) -> None:
    topology = make_topology("ba:n=12,m=2,seed=0")
    rule = mixing_rule(topology, strategy, np.ones(12))
    takes_part = np.arange(12) % 3 != 1
    everybody = dense(rule, rule.weights(0, 4, 10.0))
    W = dense(rule, rule.weights(0, 4, 10.0, takes_part=takes_part))
    for node in range(12):
        if takes_part[node]:
            expected = everybody[node] * takes_part
            if strategy not in ("scale", "none"):
                expected = expected / expected.sum()
        else:
            expected = np.eye(12)[node]
        np.testing.assert_allclose(W[node], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("strategy", ["unweighted", "fl"])
def test_links_drop_in_both_directions_in_the_share_of_rounds_that_is_asked_for(strategy: str) -> None:
    rule = mixing_rule(make_topology("ring:n=7"), strategy, np.ones(7), link_dropout=0.3)
    works = np.array([dense(rule, rule.weights(0, round, 10.0)) > 0 for round in range(1, 2001)])
    assert (works == works.transpose(0, 2, 1)).all()
    assert works[:, range(7), range(7)].all()
    linked = mixing_matrix(make_topology("ring:n=7"), strategy).toarray() > 0
    share = works.mean(axis=0)[linked & ~np.eye(7, dtype=bool)]
    assert len(share) == (42 if strategy == "fl" else 14)
    assert np.abs(share - 0.7).max() < 4.5 * (0.21 / 2000) ** 0.5


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
    names = (
        "betweenness, betweenness-similarity, closeness, clustering, degree, degree-similarity, eigenvector, fl,"
        " metropolis, none, random, scale, unweighted, weighted"
    )
    with pytest.raises(InputError, match=f"^unknown strategy 'degre': choose from {names}$"):
        mixing_matrix(make_topology("ring:n=5"), "degre")


@pytest.mark.parametrize("temperature", [0.0, np.inf, np.nan])
def test_a_temperature_without_an_inverse_is_an_input_error(temperature: float) -> None:
    with pytest.raises(InputError, match=f"^the temperature is {temperature}: must be finite and not zero$"):
        mixing_matrix(make_topology("ring:n=5"), "degree", temperature=temperature)


@pytest.mark.parametrize("inverse", [np.inf, -np.inf, np.nan])
def test_an_inverse_temperature_that_is_not_finite_is_an_input_error(inverse: float) -> None:
    rule = mixing_rule(make_topology("ring:n=5"), "degree", np.ones(5))
    with pytest.raises(InputError, match=f"^the inverse temperature is {inverse}: must be finite$"):
        rule.weights(0, 1, inverse)


def test_an_unknown_normalization_is_an_input_error_that_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown normali[sz].* 'Softmax': choose from softmax, sum"):
        mixing_matrix(make_topology("ring:n=5"), "degree", normalization="Softmax")


def test_fl_on_too_many_nodes_is_an_input_error() -> None:
    with pytest.raises(
        InputError, match=r"^strategy 'fl': 15000 nodes all listening to each other do not fit in memory"
    ):
        mixing_matrix(make_topology("path:n=15000"), "fl")
