"""Write the paper's graphs, a few samples of every file kind, and the README of this folder.

    python topologies/make.py

Every call writes the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np

from mpisim.graphs.generators import make_topology
from mpisim.graphs.strategies import mixing_matrix
from mpisim.graphs.topology import Topology, topology_from_edges

STRATEGIES = ("unweighted", "degree", "betweenness")
TEMPERATURE = 0.1
SAMPLES = {
    "complete-n8.npy": "complete:n=8",
    "exponential-n16.npy": "exponential:n=16",
    "hypercube-n16.txt": "hypercube:n=16",
    "path-n5.edgelist": "path:n=5",
    "ring-n8.txt": "ring:n=8",
    "star-n9.graphml": "star:n=9",
    "torus-n16.edgelist": "torus:n=16",
}

README = """\
# Topologies

The graphs of the paper (arXiv 2505.11760) and a few samples. `python topologies/make.py` wrote all of them, and this
file.

    mpiexec -n 24 python -m mpisim.run --topology topologies/paper/ba-n33-m2-seed0.txt --ood-rank 1
    mpiexec -n 24 python -m mpisim.run --topology ba:n=33,m=2,seed=0 --ood-rank 1

Both lines run on the same graph: `--topology` takes a file or a generator.

## Files

The suffix tells the kind of a file.

| suffix | what it holds | sample |
|---|---|---|
| `.txt` | the adjacency matrix, a line for each row, values separated by spaces or commas; `#` starts a comment \
| [ring-n8.txt](samples/ring-n8.txt) |
| `.npy` | the same matrix, written with `numpy.save` | [complete-n8.npy](samples/complete-n8.npy) |
| `.edgelist` | a line for each edge: `0 1`; a node without edges is written `7 7`; `#` starts a comment \
| [path-n5.edgelist](samples/path-n5.edgelist) |
| `.graphml` | GraphML, as networkx, igraph and Gephi write it | [star-n9.graphml](samples/star-n9.graphml) |

A graph is undirected: a matrix must be symmetric. Nodes are numbered 0, 1, 2, … without a gap. What a file says about
an edge from a node to itself is not used: every node always listens to itself.

A value between 0 and 1 is an edge that can fail: the probability that it works in a round, drawn anew for every round
and once for both directions. It is the entry of the matrix, the third word of a line in an edge list
([failing-links-n6.edgelist](samples/failing-links-n6.edgelist)), or in GraphML the edge attribute `probability`, or
else `weight`. Edges without a value never fail.

## Generators

`name:parameter=value,…`; all parameters but `seed`, which is 0 by default, must be given. One seed makes the same graph
on every machine.

| example | graph |
|---|---|
| `ba:n=33,m=2,seed=0` | Barabási–Albert: nodes join one by one, each with m edges, more often to nodes of high degree |
| `powerlaw:n=33,m=2,p=0.3,seed=0` | Holme–Kim: the same, but an edge closes a triangle with probability p |
| `ws:n=33,k=4,p=0.5,seed=0` | Watts–Strogatz, connected: a ring with edges to the k nearest, each rewired with \
probability p |
| `sb:sizes=11-11-11,p_in=0.5,p_out=0.05,seed=0` | stochastic blocks: an edge with probability p_in inside a block and \
p_out between blocks |
| `er:n=24,p=0.2,seed=0` | Erdős–Rényi: every edge with probability p |
| `regular:n=24,k=3,seed=0` | random, with k edges at every node |
| `ring:n=8` | every node linked to the next, the last to the first |
| `path:n=5` | a ring with one edge left out |
| `star:n=9` | node 0 linked to all others |
| `complete:n=8` | every node linked to all others |
| `torus:n=16` | rows × columns, as close to a square as n allows, both closed to rings |
| `hypercube:n=16` | n = 2^d nodes with d edges each |
| `exponential:n=16` | node i linked to i ± 1, i ± 2, i ± 4, … (modulo n) |

## What the graphs are like

- *degrees*: the lowest and the highest number of neighbors.
- *modularity*: of the communities that `networkx.community.greedy_modularity_communities` finds.
- *diameter*: the longest of the shortest paths; - where the graph is not connected.
- *spectral gap*: 1 − the second largest absolute eigenvalue of the mixing matrix W under `unweighted`, where W[i, j] is
  the weight node i gives node j's model. The larger it is, the faster nodes that only mix come to agree; 0 where they
  never do.
- *highest degrees*: the four nodes that `--ood-rank 1` to `--ood-rank 4` pick; of equal degrees, the lower number
  comes first.
- *unweighted*, *degree*, *betweenness*: the stationary mass of those four nodes under that strategy, at
  temperature 0.1. It is the share a node's model has in what all nodes agree on in the end, if they only mix: the left
  Perron vector of W. Where the graph is not connected, each part agrees on its own, and its mass is its share of the
  nodes; this is where mixing leads from an equal mass for all.

An edge that can fail counts as one that never does.

### `paper/`

{paper}

### `samples/`

{samples}
"""


def paper_graphs() -> dict[str, Topology]:
    """Return the paper's 12 topologies, each with three seeds, by file name."""
    specs = {f"ba-n{n}-m{m}": f"ba:n={n},m={m}" for n, m in [(33, 1), (33, 2), (33, 3), (8, 2), (16, 2), (64, 2)]}
    specs |= {f"ws-n{n}-k4-p0.5": f"ws:n={n},k=4,p=0.5" for n in (8, 16, 33)}
    specs |= {f"sb-3x11-pout{p}": f"sb:sizes=11-11-11,p_in=0.5,p_out={p}" for p in ("0.009", "0.05", "0.09")}
    return {
        f"{name}-seed{seed}.txt": make_topology(f"{spec},seed={seed}")
        for name, spec in specs.items()
        for seed in (0, 1, 2)
    }


def sample_graphs() -> dict[str, Topology]:
    """Return the samples by file name."""
    return {name: make_topology(spec) for name, spec in SAMPLES.items()} | {
        "failing-links-n6.edgelist": failing_links()
    }


def failing_links() -> Topology:
    """Return two triangles; of the two edges between them, one works in half of the rounds, the other in a tenth."""
    edges = np.array([(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5), (2, 3), (1, 4)])
    return topology_from_edges(6, edges, np.array([1, 1, 1, 1, 1, 1, 0.5, 0.1]), "two triangles, links that can fail")


def write_text(path: Path, topology: Topology) -> None:
    """Write the adjacency matrix as text."""
    rows = [" ".join(f"{value:g}" for value in row) for row in topology.adjacency.toarray()]
    path.write_text("\n".join([f"# {topology.source}", *rows, ""]), encoding="utf-8")


def write_npy(path: Path, topology: Topology) -> None:
    """Write the adjacency matrix in numpy's format; a byte for each entry, as no edge of ours fails."""
    np.save(path, topology.adjacency.toarray().astype(np.uint8))


def write_edgelist(path: Path, topology: Topology) -> None:
    """Write an edge a line; the value only where the edge can fail."""
    edges = [
        f"{first} {second}" + (f" {value:g}" if value < 1 else "")
        for first, second, value in topology.graph.edges(data="probability")
    ]
    path.write_text("\n".join([f"# {topology.source}", *edges, ""]), encoding="utf-8")


def write_graphml(path: Path, topology: Topology) -> None:
    """Write GraphML; by hand, as networkx writes it differently where lxml is installed."""
    nodes = [f'    <node id="{node}"/>' for node in range(topology.num_nodes)]
    edges = [f'    <edge source="{first}" target="{second}"/>' for first, second in topology.graph.edges]
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">',
        '  <graph edgedefault="undirected">',
        *nodes,
        *edges,
        "  </graph>",
        "</graphml>",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, Topology], None]] = {
    ".edgelist": write_edgelist,
    ".graphml": write_graphml,
    ".npy": write_npy,
    ".txt": write_text,
}


def spectral_gap(W: np.ndarray) -> float:
    """Return 1 - the second largest absolute eigenvalue."""
    return float(1 - np.sort(np.abs(np.linalg.eigvals(W)))[-2])


def stationary_mass(topology: Topology, W: np.ndarray) -> np.ndarray:
    """Return the limit of uniform · W^k: in each component its left Perron vector, times its share of the nodes."""
    mass = np.zeros(len(W))
    for component in nx.connected_components(topology.graph):
        nodes = sorted(component)
        # mass · (W - 1) = 0: any one of these equations follows from the others and gives way to the mass' sum.
        equations = (W[np.ix_(nodes, nodes)] - np.eye(len(nodes))).T
        equations[-1] = 1
        mass[nodes] = np.linalg.solve(equations, np.eye(len(nodes))[-1] * len(nodes) / len(W))
    return mass


def figure(value: float) -> str:
    """Return three digits. The last bits, which differ between machines, must not decide what a tie is rounded to."""
    return f"{round(value, 9) + 0.0:.3f}"


def table_row(name: str, topology: Topology) -> str:
    """Return a graph's row of the README."""
    topology = dataclasses.replace(topology, adjacency=(topology.adjacency > 0).astype(np.float64))
    graph, highest = topology.graph, topology.nodes_by_degree()[:4]
    W = {name: mixing_matrix(topology, name, temperature=TEMPERATURE).toarray() for name in STRATEGIES}
    communities = nx.community.greedy_modularity_communities(graph)
    cells = [
        f"[{Path(name).stem}]({name})",
        topology.num_nodes,
        topology.num_edges,
        f"{topology.degrees.min()}–{topology.degrees.max()}",
        figure(nx.community.modularity(graph, communities)),
        nx.diameter(graph) if topology.num_components == 1 else "-",
        figure(spectral_gap(W["unweighted"])),
        " ".join(map(str, highest)),
        *(" ".join(map(figure, stationary_mass(topology, W[name])[highest])) for name in STRATEGIES),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def table(folder: str, graphs: dict[str, Topology]) -> str:
    """Return the README's table of a folder."""
    heads = ["graph", "nodes", "edges", "degrees", "modularity", "diameter", "spectral gap", "highest degrees"]
    rows = [table_row(f"{folder}/{name}", topology) for name, topology in graphs.items()]
    return "\n".join([f"| {' | '.join([*heads, *STRATEGIES])} |", "|---" * (len(heads) + len(STRATEGIES)) + "|", *rows])


def main(folder: Path) -> None:
    """Write ``paper/``, ``samples/`` and ``README.md`` to a folder."""
    tables = {}
    for name, graphs in {"paper": paper_graphs(), "samples": sample_graphs()}.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file, topology in graphs.items():
            path = folder / name / file
            WRITERS[path.suffix](path, topology)
        tables[name] = table(name, graphs)
    (folder / "README.md").write_text(README.format(**tables), encoding="utf-8")


if __name__ == "__main__":
    main(Path(__file__).parent)
