"""W written down plainly, for ``plain_experiment.py``: who takes part, whom a node hears, and how much that weighs."""

import math
from functools import partial

import networkx as nx
import numpy as np

from mpisim.streams import Purpose, stream

CENTRALITIES = {
    "degree": nx.degree_centrality,
    "betweenness": partial(nx.betweenness_centrality, normalized=True, endpoints=True),
    "closeness": nx.closeness_centrality,
    "clustering": nx.clustering,
    "eigenvector": partial(nx.eigenvector_centrality, max_iter=20_000, tol=1e-10),
}


def takes_part(case, num_nodes, round):
    count = max(1, math.floor(case.participation * num_nodes))
    drawn = stream(case.seed, Purpose.PARTICIPATION, round=round).permutation(num_nodes)[:count]
    return [node in drawn for node in range(num_nodes)]


def linked(case, graph):
    """Return the graph of those who listen to each other under a strategy."""
    if case.strategy == "fl":
        return nx.complete_graph(len(graph))
    return nx.empty_graph(len(graph)) if case.strategy in ("scale", "none") else graph


def hears(case, graph, round):
    """Return whose models each node has in a round: its own, and those that come over a link that works."""
    graph, part = linked(case, graph), takes_part(case, len(graph), round)
    edges = sorted((min(edge), max(edge)) for edge in graph.edges)
    drawn = stream(case.seed, Purpose.LINKS, round=round).random(len(edges))
    heard = {node: {node} for node in graph}
    for (low, high), number in zip(edges, drawn, strict=True):
        works = graph.edges[low, high].get("probability", 1.0) * (1 - case.link_dropout)
        if number < works and part[low] and part[high]:
            heard[low].add(high)
            heard[high].add(low)
    return heard


def mixing_matrix(case, graph, sizes, round, models):
    """Return W of a round; ``models`` are the trained ones, each a list of its layers' tensors."""
    W = np.zeros((len(graph), len(graph)))
    scores = node_scores(case, graph, sizes, round)
    for node, heard in hears(case, graph, round).items():
        if not takes_part(case, len(graph), round)[node] or case.strategy == "none":
            W[node, node] = 1
        elif case.strategy == "scale":
            W[node, node] = 1 / (1 + graph.degree(node))
        else:
            coefficient = case.inverse[round - 1]
            if case.strategy.endswith("similarity"):
                coefficient = signed(abs(coefficient), node, heard, scores, models)
            if case.strategy == "metropolis":
                raw = {other: metropolis(graph, node, other) for other in heard}
            elif case.normalize == "sum" or case.strategy in ("unweighted", "weighted", "fl"):
                raw = {other: scores[other] for other in heard}
            else:
                raw = {other: math.exp(scores[other] * coefficient) for other in heard}
            for other in heard:
                W[node, other] = raw[other] / sum(raw.values())
    return W


def node_scores(case, graph, sizes, round):
    if case.strategy == "weighted":
        return sizes
    if case.strategy == "random":
        return stream(case.seed, Purpose.RANDOM_WEIGHTS, round=round).random(len(graph))
    centrality = CENTRALITIES.get(case.strategy.removesuffix("-similarity"), lambda graph: dict.fromkeys(graph, 1.0))
    return [centrality(graph)[node] for node in sorted(graph)]


def metropolis(graph, node, other):
    if other == node:
        return 1 - sum(metropolis(graph, node, neighbor) for neighbor in graph[node])
    return 1 / (1 + max(graph.degree(node), graph.degree(other)))


def signed(coefficient, node, heard, scores, models):
    """Return a coefficient, negative if the neighbor whose model is least alike has a lower score than the node."""
    neighbors = sorted(heard - {node})
    if not neighbors:
        return coefficient
    least = min(neighbors, key=lambda other: alike(models[node], models[other]))
    lower = scores[least] < scores[node] and not math.isclose(scores[least], scores[node])
    return -coefficient if lower else coefficient


def alike(model, other):
    """Return the mean over layers of the mean cosine between the same rows of two models."""
    layers = []
    for matrix, same in zip(model, other, strict=True):
        rows = [
            np.atleast_2d(tensor.double().numpy()).reshape(len(tensor) if tensor.dim() > 1 else 1, -1)
            for tensor in (matrix, same)
        ]
        layers.append(np.mean([a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(*rows, strict=True)]))
    return np.mean(layers)
