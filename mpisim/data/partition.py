"""The partition: which node gets which samples, with Dirichlet skew in sizes and in labels."""

from __future__ import annotations

import numpy as np

from mpisim.errors import InputError
from mpisim.streams import Purpose, stream

MAX_ALPHA = 1e12  # far beyond any visible difference between nodes, far below what overflows


def sample_counts(
    num_samples: int, num_nodes: int, alpha: float, rng: np.random.Generator, least: int = 1
) -> np.ndarray:
    """Return how many samples each node gets: shares ~ Dirichlet(alpha), rounded to whole samples, no less than least.

    Returns
    -------
    int64, shape (num_nodes,), with the sum num_samples

    Raises
    ------
    InputError
        If there are too few samples, or alpha is out of range.
    """
    if num_nodes * least > num_samples:
        wants = "one" if least == 1 else str(least)
        raise InputError(
            f"{num_nodes} nodes but only {num_samples} training samples: every node needs at least {wants}"
        )
    exact = _dirichlet(alpha, num_nodes, rng) * num_samples
    counts: np.ndarray = np.maximum(least, np.floor(exact).astype(np.int64))
    by_remainder = np.argsort(counts - exact, kind="stable")  # whoever is owed most comes first
    lacking = num_samples - int(counts.sum())
    if lacking > 0:
        counts[by_remainder[:lacking]] += 1
    while lacking < 0:  # many nodes were raised to the least: those with most give
        givers = np.argsort(-counts, kind="stable")[: min(-lacking, int((counts > least).sum()))]
        counts[givers] -= 1
        lacking += len(givers)
    return counts


def label_shares(num_nodes: int, num_classes: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """Return the share that each label has of each node's samples, shape (num_nodes, num_classes): rows ~ Dirichlet."""
    return _dirichlet(alpha, num_classes, rng, size=num_nodes)


def _dirichlet(alpha: float, count: int, rng: np.random.Generator, size: int | None = None) -> np.ndarray:
    if not 0 < alpha <= MAX_ALPHA:
        raise InputError(f"a Dirichlet concentration of {alpha:g}: must be above 0, and {MAX_ALPHA:g} at most")
    return np.asarray(rng.dirichlet(np.full(count, alpha), size=size))


def partition(
    labels: np.ndarray,
    num_nodes: int,
    num_classes: int,
    *,
    sample_alpha: float,
    label_alpha: float,
    seed: int,
    of_each_label: int = 0,
) -> list[np.ndarray]:
    """Deal the training samples to the nodes.

    Each node has room for a number of samples (``sample_counts``) and a taste for labels (``label_shares``). Each
    sample goes to a node with room, drawn in proportion to the tastes for its label. All samples draw at once; those
    that find their node full draw again among the nodes that still have room, until all are dealt.

    Parameters
    ----------
    labels : int array, shape (num_samples,)
    sample_alpha, label_alpha : float, above 0
        The larger, the more alike the nodes; 1000 is near IID.
    of_each_label : int
        Samples of each label that occurs which every node gets before the others are dealt.

    Returns
    -------
    list of int64 arrays, one per node
        Each node's samples, ascending. Together they are every sample once.

    Raises
    ------
    InputError
        If there are too few samples, of all or of a label, or an alpha is out of range.

    References
    ----------
    arXiv 2505.11760, the appendix on data distribution.
    """
    rng = stream(seed, Purpose.PARTITION)
    present = np.unique(labels)
    room = sample_counts(len(labels), num_nodes, sample_alpha, rng, max(1, of_each_label * len(present)))
    taste = label_shares(num_nodes, num_classes, label_alpha, rng)
    node_of = np.empty(len(labels), dtype=np.int64)
    waiting = rng.permutation(len(labels))
    if of_each_label:
        waiting = _deal_evenly(labels, present, waiting, of_each_label, node_of, num_nodes)
        room -= of_each_label * len(present)
    while len(waiting):
        drawn = _draw_nodes(labels[waiting], np.where(room[:, np.newaxis] > 0, taste, 0.0), room, rng)
        # A sample's place in the queue at the node it drew: those within the node's room are in.
        order = np.argsort(drawn, kind="stable")
        first_in_queue = np.searchsorted(drawn[order], np.arange(num_nodes))
        place = np.empty(len(waiting), dtype=np.int64)
        place[order] = np.arange(len(waiting)) - first_in_queue[drawn[order]]
        taken = place < room[drawn]
        node_of[waiting[taken]] = drawn[taken]
        room -= np.bincount(drawn[taken], minlength=num_nodes)
        waiting = waiting[~taken]
    by_node = np.argsort(node_of, kind="stable")
    return np.split(by_node, np.cumsum(np.bincount(node_of, minlength=num_nodes))[:-1])


def _deal_evenly(
    labels: np.ndarray, present: np.ndarray, waiting: np.ndarray, of_each: int, node_of: np.ndarray, num_nodes: int
) -> np.ndarray:
    """Deal the first samples of each label to all nodes alike; return who still waits, in the same order."""
    dealt = np.zeros(len(labels), dtype=bool)
    for label in present:
        first = waiting[labels[waiting] == label][: num_nodes * of_each]
        if len(first) < num_nodes * of_each:
            raise InputError(
                f"{num_nodes} nodes but only {len(first)} training samples of label {label}: every node needs at least"
                f" {of_each}"
            )
        node_of[first] = np.repeat(np.arange(num_nodes), of_each)
        dealt[first] = True
    return np.asarray(waiting[~dealt[waiting]])


def _draw_nodes(labels: np.ndarray, taste: np.ndarray, room: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a node with room for each sample, drawn in proportion to the tastes for its label."""
    drawn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        wanting = np.flatnonzero(labels == label)
        upto = np.cumsum(taste[:, label])
        if not upto[-1] > 0:  # nobody with room wants this label: any node with room will do
            upto = np.cumsum((room > 0).astype(np.float64))
        reached = np.searchsorted(upto, rng.random(len(wanting)) * upto[-1], side="right")
        drawn[wanting] = np.minimum(reached, np.searchsorted(upto, upto[-1]))  # a product may round up to the sum
    return drawn


def place_by_centrality(shards: list[np.ndarray], centrality: np.ndarray, offset: int) -> list[np.ndarray]:
    """Return the shards with the largest at the most central node, the next at the next, and so on.

    Parameters
    ----------
    centrality : float array, shape (num_nodes,)
        Of equal values, the lower node comes first; of equal shards likewise.
    offset : int
        How many places the shards move on: 1 gives the largest to the second most central node.

    >>> place_by_centrality([np.array([1]), np.array([2, 3]), np.array([4, 5, 6])], np.array([0.9, 0.1, 0.5]), 0)
    [array([4, 5, 6]), array([1]), array([2, 3])]
    """
    nodes = np.argsort(-np.asarray(centrality), kind="stable")
    largest_first = np.argsort([-len(shard) for shard in shards], kind="stable")
    placed = dict(zip(np.roll(nodes, -offset).tolist(), largest_first.tolist(), strict=True))
    return [shards[placed[node]] for node in range(len(shards))]
