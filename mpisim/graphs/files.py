"""Topologies from files: adjacency matrices (``.txt``, ``.npy``), edge lists and GraphML.

Nothing in a file is ever executed, and nothing large is taken into memory on the word of a header.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError

import numpy as np

from mpisim.errors import InputError, check_readable
from mpisim.graphs.topology import MAX_ENTRIES, Topology, topology_from_edges

LONGEST_NUMBER = 18  # digits
MAX_BYTES = 4 << 30  # of a file


def read_topology(path: Path) -> Topology:
    """Return the topology in a file; the suffix tells its kind (see FILE_KINDS).

    Raises
    ------
    InputError
        If there is no such file, or it holds no topology: not square, not symmetric, empty, values outside [0, 1].
    """
    try:
        check_readable(path, MAX_BYTES)
        return FILE_KINDS[path.suffix](path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such topology file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _from_matrix(path: Path, matrix: np.ndarray) -> Topology:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"{path}: has the shape {matrix.shape}: an adjacency matrix must be square")
    if matrix.size == 0:
        raise InputError(f"{path}: is empty: an adjacency matrix needs at least one row")
    wrong = ~((matrix >= 0) & (matrix <= 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            f"{path}: row {row + 1}, column {column + 1} is {matrix[row, column]:.15g}:"
            " an edge's value is its probability, from 0 (no edge) to 1"
        )
    if not np.array_equal(matrix, matrix.T):
        row, column = np.argwhere(matrix != matrix.T)[0]
        raise InputError(
            f"{path}: is not symmetric: row {row + 1}, column {column + 1} is {matrix[row, column]:g},"
            f" but row {column + 1}, column {row + 1} is {matrix[column, row]:g}"
        )
    edges = np.argwhere(matrix > 0)
    return topology_from_edges(len(matrix), edges, matrix[edges[:, 0], edges[:, 1]], str(path))


def _read_matrix_text(path: Path) -> Topology:
    rows: list[list[float]] = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            words = line.split("#")[0].replace(",", " ").split()
            if not words:
                continue
            try:
                rows.append([float(word) for word in words])
            except ValueError as error:
                raise InputError(f"{path}: line {number}: {error}") from error
            if len(rows[-1]) != len(rows[0]):
                raise InputError(
                    f"{path}: row {len(rows)} has {_count(rows[-1])}, row 1 has {_count(rows[0])}:"
                    " an adjacency matrix must be square"
                )
    return _from_matrix(path, np.array(rows, dtype=np.float64).reshape(len(rows), -1 if rows else 0))


def _count(row: list[float]) -> str:
    return f"{len(row)} value{'' if len(row) == 1 else 's'}"


def _read_matrix_npy(path: Path) -> Topology:
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":  # numpy would look for other formats, pickle among them
            raise InputError(f"{path}: holds no plain numpy array: write it with numpy.save")
    try:
        with np.errstate(over="ignore"):  # the size that a broken header promises
            matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, TypeError, OverflowError, SyntaxError, TokenError) as error:
        raise InputError(f"{path}: holds no plain numpy array: {_first_line(error)}") from error
    if matrix.size > MAX_ENTRIES:
        raise InputError(f"{path}: has the shape {matrix.shape}: too large for a dense matrix, use an .edgelist")
    if matrix.dtype.kind not in "biuf":
        raise InputError(f"{path}: holds {matrix.dtype}: an adjacency matrix holds numbers")
    return _from_matrix(path, np.array(matrix, dtype=np.float64))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _read_edgelist(path: Path) -> Topology:
    edges: list[tuple[int, int]] = []
    probabilities: list[float] = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            words = line.split("#")[0].replace("{}", "").split()
            if not words:
                continue
            try:
                first, second, *values = words
                edges.append((int(first), int(second)))
                [probability] = map(float, values or ["1"])
                probabilities.append(probability)
            except ValueError as error:
                raise InputError(
                    f"{path}: line {number}: {error}: an edge is two node numbers and, if it can fail, its probability"
                ) from error
    return _from_labeled_edges(path, sorted({node for edge in edges for node in edge}), edges, probabilities)


def _read_graphml(path: Path) -> Topology:
    from xml.etree.ElementTree import ParseError

    import networkx as nx

    # A document type can define entities that expand to gigabytes. No GraphML writer makes one.
    if b"<!DOCTYPE" in path.read_bytes().replace(b"\0", b""):  # UTF-16 has a zero byte beside each letter
        raise InputError(f"{path}: has a DOCTYPE: remove it, GraphML needs none")
    try:
        graph = nx.read_graphml(path)
    except (ParseError, nx.NetworkXException, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: holds no GraphML graph: {_first_line(error)}") from error
    if graph.is_directed():
        raise InputError(f"{path}: is a directed graph: a topology is undirected (edgedefault='undirected')")
    names = list(graph.nodes)
    if all(str(name).isdecimal() for name in names):
        longest = max((len(str(name)) for name in names), default=0)
        if longest > LONGEST_NUMBER:
            raise InputError(f"{path}: the number of a node has {longest} digits: too large")
        if len({int(name) for name in names}) < len(names):
            raise InputError(f"{path}: two of its nodes have the same number")
        graph = nx.relabel_nodes(graph, {name: int(name) for name in names})
    else:
        graph = nx.convert_node_labels_to_integers(graph)
    values = []
    for first, second, attributes in graph.edges(data=True):
        value = attributes.get("probability", attributes.get("weight", 1.0))
        try:
            values.append(float(value))
        except (ValueError, OverflowError) as error:
            raise InputError(f"{path}: the edge {first}–{second} has the value {value!r}: not a number") from error
    edges = [(int(edge[0]), int(edge[1])) for edge in graph.edges()]
    return _from_labeled_edges(path, sorted(graph.nodes), edges, values)


def _from_labeled_edges(
    path: Path, nodes: list[int], edges: list[tuple[int, int]], probabilities: list[float]
) -> Topology:
    if not nodes:
        raise InputError(f"{path}: is empty: a topology needs at least one node")
    gap = next((number for number, node in enumerate(nodes) if number != node), None)
    if gap is not None:
        wrong = f"{nodes[0]} is negative" if nodes[0] < 0 else f"{gap} is missing"
        raise InputError(
            f"{path}: its nodes are {nodes[0]}…{nodes[-1]}, but {wrong}: number them 0…{len(nodes) - 1} without a gap"
        )
    return topology_from_edges(len(nodes), np.array(edges, dtype=np.int64), np.array(probabilities), str(path))


FILE_KINDS: dict[str, Callable[[Path], Topology]] = {
    ".edgelist": _read_edgelist,
    ".graphml": _read_graphml,
    ".npy": _read_matrix_npy,
    ".txt": _read_matrix_text,
}
