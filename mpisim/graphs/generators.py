"""Topologies from a specification: a file, or a generator such as ``ba:n=24,m=2,seed=0``.

The generators are networkx's own, with networkx's own seeds; what they make is the same graph everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisim.errors import InputError
from mpisim.graphs.files import FILE_KINDS, read_topology
from mpisim.graphs.topology import MAX_ENTRIES, Topology, topology_from_edges

if TYPE_CHECKING:
    import networkx

MAX_EDGES = 20_000_000  # of networkx's graphs, which take half a kilobyte for each


@dataclass(frozen=True)
class Generator:
    """A family of graphs: how to make one, and the types and defaults of its parameters."""

    make: Callable[..., networkx.Graph]
    parameters: dict[str, type]
    num_nodes: Callable[[dict[str, Any]], int] = lambda given: int(given["n"])
    defaults: dict[str, Any] = field(default_factory=lambda: {"seed": 0})


def _torus(nx: Any, n: int) -> networkx.Graph:
    rows = next(divisor for divisor in range(int(n**0.5), 0, -1) if n % divisor == 0)
    if rows < 3:
        raise ValueError("n must be rows × columns with at least 3 of each")
    return nx.grid_2d_graph(rows, n // rows, periodic=True)


def _hypercube(nx: Any, n: int) -> networkx.Graph:
    if n & (n - 1):
        raise ValueError("n must be a power of 2")
    return nx.hypercube_graph(n.bit_length() - 1)


def _exponential(nx: Any, n: int) -> networkx.Graph:
    return nx.circulant_graph(n, [2**power for power in range((n - 1).bit_length())])


def _blocks(nx: Any, sizes: str, p_in: float, p_out: float, seed: int) -> networkx.Graph:
    block_sizes = _block_sizes(sizes)
    probabilities = np.full((len(block_sizes),) * 2, p_out)
    np.fill_diagonal(probabilities, p_in)
    return nx.stochastic_block_model(block_sizes, probabilities.tolist(), seed=seed)


def _block_sizes(sizes: str) -> list[int]:
    parsed = [int(size) for size in sizes.split("-")]
    if min(parsed) < 1:
        raise ValueError("every block needs at least one node")
    return parsed


GENERATORS: dict[str, Generator] = {
    "ba": Generator(
        lambda nx, n, m, seed: nx.barabasi_albert_graph(n, m, seed=seed), {"n": int, "m": int, "seed": int}
    ),
    "complete": Generator(lambda nx, n: nx.complete_graph(n), {"n": int}),
    "er": Generator(lambda nx, n, p, seed: nx.erdos_renyi_graph(n, p, seed=seed), {"n": int, "p": float, "seed": int}),
    "exponential": Generator(_exponential, {"n": int}),
    "hypercube": Generator(_hypercube, {"n": int}),
    "path": Generator(lambda nx, n: nx.path_graph(n), {"n": int}),
    "powerlaw": Generator(
        lambda nx, n, m, p, seed: nx.powerlaw_cluster_graph(n, m, p, seed=seed),
        {"n": int, "m": int, "p": float, "seed": int},
    ),
    "regular": Generator(
        lambda nx, n, k, seed: nx.random_regular_graph(k, n, seed=seed), {"n": int, "k": int, "seed": int}
    ),
    "ring": Generator(lambda nx, n: nx.cycle_graph(n), {"n": int}),
    "sb": Generator(
        _blocks,
        {"sizes": str, "p_in": float, "p_out": float, "seed": int},
        num_nodes=lambda given: sum(_block_sizes(given["sizes"])),
    ),
    "star": Generator(lambda nx, n: nx.star_graph(n - 1), {"n": int}),
    "torus": Generator(_torus, {"n": int}),
    "ws": Generator(
        lambda nx, n, k, p, seed: nx.connected_watts_strogatz_graph(n, k, p, seed=seed),
        {"n": int, "k": int, "p": float, "seed": int},
    ),
}
DENSE_GENERATORS = {"complete", "er"}  # their number of edges grows with n²


def make_topology(spec: str) -> Topology:
    """Return the topology of a specification: a generator's or a file's.

    Raises
    ------
    InputError
        If the specification names no generator and no file, or what it names cannot be made or read.

    >>> make_topology("ring:n=5").degrees
    array([2, 2, 2, 2, 2])
    """
    if Path(spec).suffix in FILE_KINDS:
        return read_topology(Path(spec))
    name, _, parameters = spec.partition(":")
    if name not in GENERATORS:
        kinds = ", ".join(sorted(FILE_KINDS))
        raise InputError(
            f"unknown topology {spec!r}: give a file ({kinds}) or a generator: {', '.join(sorted(GENERATORS))}"
        )
    return _generate(spec, name, parameters)


def _generate(spec: str, name: str, text: str) -> Topology:
    import networkx as nx

    generator = GENERATORS[name]
    given = _parse_parameters(spec, text, generator)
    try:
        num_nodes = generator.num_nodes(given)
        _check(name, num_nodes, given)
        graph = generator.make(nx, **given)
    except (ValueError, TypeError, nx.NetworkXException) as error:
        raise InputError(f"topology {spec!r}: {error}") from error
    graph = nx.convert_node_labels_to_integers(graph, ordering="sorted")
    return topology_from_edges(num_nodes, np.array(graph.edges(), dtype=np.int64), source=spec)


def _check(name: str, num_nodes: int, given: dict[str, Any]) -> None:
    if num_nodes < 1:
        raise ValueError("a topology needs at least one node")
    if num_nodes > MAX_ENTRIES or (name in DENSE_GENERATORS and num_nodes**2 > MAX_ENTRIES):
        raise ValueError("too many nodes to hold in memory")
    if num_nodes * max(1, given.get("m", 1), given.get("k", 2) // 2) > MAX_EDGES:
        raise ValueError("too many edges to hold in memory")
    if given.get("seed", 0) < 0:
        raise ValueError("the seed must be 0 or more")
    for key, value in given.items():
        if isinstance(value, float) and not 0 <= value <= 1:
            raise ValueError(f"{key}={value:g} must be a probability, from 0 to 1")


def _parse_parameters(spec: str, text: str, generator: Generator) -> dict[str, Any]:
    takes = ", ".join(f"{key}=" for key in generator.parameters)
    given: dict[str, Any] = {key: value for key, value in generator.defaults.items() if key in generator.parameters}
    seen = set()
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key in seen:
            raise InputError(f"topology {spec!r}: {key}= is given twice")
        seen.add(key)
        if key not in generator.parameters:
            raise InputError(f"topology {spec!r}: unknown parameter {key!r}: it takes {takes}")
        kind = generator.parameters[key]
        try:
            given[key] = kind(value)
        except ValueError as error:
            wanted = {int: "an integer", float: "a number"}.get(kind, "text")
            raise InputError(f"topology {spec!r}: {key}={value!r} is not {wanted}") from error
    missing = [key for key in generator.parameters if key not in given]
    if missing:
        raise InputError(f"topology {spec!r}: {missing[0]}= is missing: it takes {takes}")
    return given
