"""A specification makes the very graph that networkx makes with that seed, or the one that is written out here."""

import itertools
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from mpisim.errors import InputError
from mpisim.graphs.generators import GENERATORS, make_topology

NETWORKX: dict[str, Callable[[], nx.Graph]] = {
    "ba:n=33,m=2,seed=0": lambda: nx.barabasi_albert_graph(33, 2, seed=0),
    "ba:n=8,m=3,seed=7": lambda: nx.barabasi_albert_graph(8, 3, seed=7),
    "er:n=24,p=0.2,seed=5": lambda: nx.erdos_renyi_graph(24, 0.2, seed=5),
    "powerlaw:n=33,m=2,p=0.3,seed=1": lambda: nx.powerlaw_cluster_graph(33, 2, 0.3, seed=1),
    "regular:n=24,k=3,seed=2": lambda: nx.random_regular_graph(3, 24, seed=2),
    "sb:sizes=11-11-11,p_in=0.5,p_out=0.05,seed=1": lambda: nx.stochastic_block_model(
        [11] * 3, [[0.5 if row == column else 0.05 for column in range(3)] for row in range(3)], seed=1
    ),
    "sb:sizes=3-9,p_in=0.9,p_out=0.1,seed=4": lambda: nx.stochastic_block_model(
        [3, 9], [[0.9, 0.1], [0.1, 0.9]], seed=4
    ),
    "ws:n=33,k=4,p=0.5,seed=0": lambda: nx.connected_watts_strogatz_graph(33, 4, 0.5, seed=0),
    "ws:n=12,k=2,p=0.3,seed=9": lambda: nx.connected_watts_strogatz_graph(12, 2, 0.3, seed=9),
}
WHO_IS_LINKED: dict[str, Callable[[int, int, int], bool]] = {
    "ring": lambda i, j, n: abs(i - j) in (1, n - 1),
    "path": lambda i, j, _: abs(i - j) == 1,
    "star": lambda i, j, _: 0 in (i, j),
    "complete": lambda *_: True,
    "hypercube": lambda i, j, _: (i ^ j).bit_count() == 1,
    "exponential": lambda i, j, n: any(step % n in ((i - j) % n, (j - i) % n) for step in (1, 2, 4, 8, 16) if step < n),
}


@pytest.mark.parametrize("spec", NETWORKX)
def test_random_graphs_are_networkxs_own(spec: str) -> None:
    graph = NETWORKX[spec]()
    expected = nx.to_numpy_array(graph, nodelist=range(len(graph)), weight=None)
    np.testing.assert_array_equal(make_topology(spec).adjacency.toarray(), expected)


@pytest.mark.parametrize(
    ("name", "num_nodes"),
    [
        *itertools.product(["ring", "path", "star", "complete", "exponential"], [1, 2, 3, 8, 13]),
        *itertools.product(["hypercube"], [1, 2, 4, 8, 16]),
    ],
)
def test_regular_shapes_link_the_nodes_that_their_definition_says(name: str, num_nodes: int) -> None:
    expected = [
        [float(i != j and WHO_IS_LINKED[name](i, j, num_nodes)) for j in range(num_nodes)] for i in range(num_nodes)
    ]
    assert make_topology(f"{name}:n={num_nodes}").adjacency.toarray().tolist() == expected


@pytest.mark.parametrize(("num_nodes", "rows", "columns"), [(9, 3, 3), (12, 3, 4), (16, 4, 4), (30, 5, 6), (21, 3, 7)])
def test_a_torus_is_as_square_as_its_size_allows(num_nodes: int, rows: int, columns: int) -> None:
    expected = np.zeros((num_nodes, num_nodes))
    for row, column in itertools.product(range(rows), range(columns)):
        for down, right in [(0, 1), (1, 0)]:
            first, second = row * columns + column, (row + down) % rows * columns + (column + right) % columns
            expected[first, second] = expected[second, first] = 1
    np.testing.assert_array_equal(make_topology(f"torus:n={num_nodes}").adjacency.toarray(), expected)


def test_blocks_are_blocks_of_consecutive_nodes() -> None:
    adjacency = make_topology("sb:sizes=2-3,p_in=1,p_out=0").adjacency.toarray()
    assert adjacency.tolist() == [
        [0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 1, 1],
        [0, 0, 1, 0, 1],
        [0, 0, 1, 1, 0],
    ]


def test_every_generator_is_shown_to_make_the_right_graph() -> None:
    shown = {spec.partition(":")[0] for spec in NETWORKX} | set(WHO_IS_LINKED) | {"torus"}
    assert shown == set(GENERATORS)


def test_the_seed_is_0_by_default_and_parameters_come_in_any_order() -> None:
    expected = nx.to_numpy_array(nx.barabasi_albert_graph(20, 2, seed=0), weight=None)
    for spec in ("ba:n=20,m=2", "ba:m=2,n=20", "ba:seed=0,m=2,n=20"):
        np.testing.assert_array_equal(make_topology(spec).adjacency.toarray(), expected)


def test_another_seed_makes_another_graph() -> None:
    graphs = {make_topology(f"ba:n=20,m=2,seed={seed}").adjacency.toarray().tobytes() for seed in range(10)}
    assert len(graphs) == 10


def test_the_specification_is_kept_as_the_source() -> None:
    assert make_topology("ring:n=5").source == "ring:n=5"


def test_a_specification_with_a_files_suffix_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "ring:n=3.txt"
    path.write_text("0 1\n1 0\n")
    topology = make_topology(str(path))
    assert topology.adjacency.toarray().tolist() == [[0, 1], [1, 0]]
    assert topology.source == str(path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rung:n=5", r"unknown topology 'rung:n=5': give a file \(\.edgelist, .*\) or a generator: ba, complete, er, "),
        ("", "unknown topology ''"),
        ("graph.gml", r"unknown topology 'graph.gml': give a file \(\.edgelist, \.graphml, \.npy, \.txt\)"),
        ("ba", "topology 'ba': n= is missing: it takes n=, m=, seed="),
        ("ba:n=5", "topology 'ba:n=5': m= is missing: it takes n=, m=, seed="),
        ("ba:n=5,m=2,q=3", "unknown parameter 'q': it takes n=, m=, seed="),
        ("ring:n=5,seed=3", "unknown parameter 'seed': it takes n="),
        ("ring:n=five", "n='five' is not an integer"),
        ("ring:n=5.0", "n='5.0' is not an integer"),
        ("ring:n", "n='' is not an integer"),
        ("er:n=5,p=often", "p='often' is not a number"),
        ("ring:n=0", "topology 'ring:n=0': a topology needs at least one node"),
        ("star:n=0", "a topology needs at least one node"),
        ("path:n=-4", "a topology needs at least one node"),
        ("ring:n=1000000000000", "too many nodes to hold in memory"),
        ("complete:n=100000", "too many nodes to hold in memory"),
        ("er:n=20000,p=0.1", "too many nodes to hold in memory"),
        ("ba:n=5,m=2,seed=-1", "the seed must be 0 or more"),
        ("ba:n=3,m=3", "topology 'ba:n=3,m=3': .*m >= 1 and m < n"),
        ("regular:n=5,k=3", "must be even"),
        ("ws:n=3,k=4,p=0.5", "choose smaller k or larger n"),
        ("ws:n=8,k=1,p=1", "Maximum number of tries exceeded"),
        ("powerlaw:n=8,m=2,p=5", "p=5 must be a probability"),
        ("torus:n=10", "n must be rows × columns with at least 3 of each"),
        ("torus:n=8", "n must be rows × columns with at least 3 of each"),
        ("hypercube:n=6", "n must be a power of 2"),
        ("sb:sizes=3-0,p_in=0.5,p_out=0.1", "every block needs at least one node"),
        ("sb:sizes=3-x,p_in=0.5,p_out=0.1", "invalid literal for int.*'x'"),
        ("sb:sizes=3-3,p_in=1.5,p_out=0.1", r"p_in=1.5 must be a probability"),
    ],
)
def test_a_wrong_specification_is_an_input_error_that_quotes_it(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_topology(spec)
    assert repr(spec) in str(caught.value)
    assert "\n" not in str(caught.value)
