"""Placement: which rank owns which node.

Contiguous blocks need no knowledge. ``mincut`` looks at who listens to whom: a row of X travels once to each rank that
listens to its node, which graph partitioning calls the communication volume, and METIS makes it small.
"""

from __future__ import annotations

import numpy as np

from mpisim.errors import InputError

SEEDS = range(8)  # of METIS, which draws: milliseconds each at 1,000 nodes, 0.2 s at 10,000
SLACK = 1.05  # how much larger than it could be the largest load of a rank may be, for fewer rows


def contiguous(num_nodes: int, num_ranks: int) -> np.ndarray:
    """Return the rank of each node: blocks of consecutive nodes, whose sizes differ by one at the most.

    With more ranks than nodes, the first ranks own one node each and the others none.

    >>> contiguous(7, 3)
    array([0, 0, 0, 1, 1, 2, 2])
    """
    num_owners = min(num_nodes, num_ranks)
    sizes = num_nodes // num_owners + (np.arange(num_owners) < num_nodes % num_owners)
    return np.repeat(np.arange(num_owners), sizes)


def mincut(indptr: np.ndarray, indices: np.ndarray, loads: np.ndarray, num_ranks: int) -> np.ndarray:
    """Return the rank of each node such that few rows travel between ranks, and ranks have about the same load.

    As many ranks own nodes as in the contiguous placement, which is taken where none has fewer rows to send.

    Parameters
    ----------
    indptr, indices : int arrays, shapes (num_nodes + 1,) and (num_entries,)
        Who listens to whom, in CSR form: node i listens to indices[indptr[i]:indptr[i + 1]], and they listen to it.
    loads : int array, shape (num_nodes,)
        The work of each node: its training samples.

    Raises
    ------
    InputError
        If pymetis is missing.

    >>> mincut(np.array([0, 1, 2, 3, 4]), np.array([2, 3, 0, 1]), np.ones(4), 2)
    array([0, 1, 0, 1])
    """
    num_nodes = len(loads)
    simple = contiguous(num_nodes, num_ranks)
    num_owners = int(simple.max()) + 1
    if num_owners in (1, num_nodes) or len(indices) == num_nodes**2:  # then all placements send as many rows
        return simple
    found = [simple]
    for partition in _partitions(indptr, indices, loads, num_owners):
        for part in (partition, _evened(partition, indptr, indices, loads, num_owners)):
            owners, first = np.unique(part, return_index=True)
            if len(owners) == num_owners:
                found.append(np.argsort(np.argsort(first))[part])  # ranks in the order of their lowest nodes
    rows = [rows_between_ranks(indptr, indices, part) for part in found]
    largest = [np.bincount(part, weights=loads).max() for part in found]
    bound = SLACK * min(load for load, num_rows in zip(largest, rows, strict=True) if num_rows <= rows[0])
    chosen = min(
        (number for number in range(len(found)) if rows[number] <= rows[0] and largest[number] <= bound),
        key=lambda number: (rows[number], largest[number], number),
    )
    return found[chosen]


def rows_between_ranks(indptr: np.ndarray, indices: np.ndarray, rank_of_node: np.ndarray) -> int:
    """Return how many rows travel in a round: each once to every other rank that owns a node which listens to it."""
    num_nodes = len(rank_of_node)
    listener = np.repeat(rank_of_node, np.diff(indptr)).astype(np.int64)
    rank, node = np.divmod(np.unique(listener * num_nodes + indices), num_nodes)
    return int((rank_of_node[node] != rank).sum())


def _partitions(indptr: np.ndarray, indices: np.ndarray, loads: np.ndarray, num_parts: int) -> list[np.ndarray]:
    """Return what METIS finds: parts of few rows to send, and of few edges cut, which balances small graphs better."""
    try:
        import pymetis
    except ImportError as error:
        raise InputError("--placement mincut: needs pymetis, which is missing: pip install pymetis") from error
    row_of = np.repeat(np.arange(len(loads)), np.diff(indptr))
    others = indices != row_of
    starts = np.concatenate([[0], np.cumsum(np.bincount(row_of[others], minlength=len(loads)))])
    graph = pymetis.CSRAdjacency(starts.astype(np.int32), indices[others].astype(np.int32))
    return [
        np.array(
            pymetis.part_graph(
                num_parts,
                graph,
                vweights=np.asarray(loads).astype(np.int32),
                recursive=objective == pymetis.ObjType.CUT,
                options=pymetis.Options(seed=seed, objtype=int(objective)),
            ).vertex_part
        )
        for objective in (pymetis.ObjType.VOL, pymetis.ObjType.CUT)
        for seed in SEEDS
    ]


def _evened(part: np.ndarray, indptr: np.ndarray, indices: np.ndarray, loads: np.ndarray, num_ranks: int) -> np.ndarray:
    """Return a partition that is nearer to equal loads, and leaves no rank empty: METIS is careless with few nodes.

    Nodes leave the fullest rank for the emptiest, first those with most neighbors there and fewest here.
    """
    part = part.copy()
    while True:
        counts, load = (np.bincount(part, weights=weights, minlength=num_ranks) for weights in (None, loads))
        full = int(np.where(counts > 1, load, -1).argmax())
        empty = int(np.where(counts > 0, load, -1).argmin())
        if load[full] <= SLACK * loads.sum() / num_ranks and counts[empty]:
            return part
        nodes = np.flatnonzero(part == full)
        nodes = nodes[(loads[nodes] + load[empty] < load[full]) | (counts[empty] == 0)]
        if counts[full] < 2 or not len(nodes):
            return part
        ranks_heard = [part[indices[indptr[node] : indptr[node + 1]]] for node in nodes]
        gains = [int((ranks == empty).sum() - (ranks == full).sum()) for ranks in ranks_heard]
        part[nodes[np.argmax(gains)]] = empty
