"""Logs of runs that never were: a topology, a strategy's W and the accuracies that a test gives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mpisim.graphs.generators import make_topology
from mpisim.graphs.strategies import STRATEGIES, mixing_matrix, mixing_rule
from mpisim.storage.log import Log
from mpisim.storage.variables import FINAL_VARIABLES, Variable, logged_variables

PARTS = ("train", "test", "exchange", "mix", "log")
NUM_LABELS, NUM_EPOCHS = 4, 2
TRAINED = logged_variables(trained=True, aggregated=False, epochs=False)
AGGREGATED = logged_variables(trained=False, aggregated=True, epochs=False)


def write_log(
    path: Path,
    topology: str = "path:n=4",
    strategy: str = "unweighted",
    iid: Any = ((0.5,) * 4,),
    ood: Any = ((0.5,) * 4,),
    ood_nodes: Sequence[int] = (0,),
    status: str = "complete",
    variables: Mapping[str, Variable] = TRAINED,
    seconds: Mapping[str, float] = MappingProxyType({}),
    **options: Any,
) -> Path:
    """Write the log of a run with these accuracies, each of shape (num_rounds, num_nodes); return its path.

    Parameters
    ----------
    seconds : of each of PARTS, in every round, on both ranks
    options : in place of, or beside, those that a log has anyway
    """
    graph, config = make_topology(topology), _options(topology, strategy, len(iid), options)
    static = _static(graph, strategy, ood_nodes)
    sizes = {
        "node": graph.num_nodes,
        "rank": 2,
        "link": len(static["link_target"]),
        "label": NUM_LABELS,
        "epoch": NUM_EPOCHS,
    }
    title = f"{strategy} on {topology}, {config['dataset']}, seed {config['seed']}"
    attributes = {"title": title, "config": json.dumps(config), "data_kind": "image"}
    log = Log.create(path, sizes, static, attributes, variables=dict(variables))
    grown = {name: variable for name, variable in variables.items() if variable.dims[0] == "round"}
    for number, (iid_accuracy, ood_accuracy) in enumerate(zip(iid, ood, strict=True), start=1):
        values: dict[str, Any] = {
            name: np.zeros([sizes[dim] for dim in variable.dims[1:]]) for name, variable in grown.items()
        }
        given: dict[str, Any] = {f"{part}_seconds": np.full(2, value) for part, value in seconds.items()}
        for name, accuracy in (("iid_accuracy", iid_accuracy), ("ood_accuracy", ood_accuracy)):
            given |= {name: accuracy, f"{name}_aggregated": accuracy}
            given[f"{name}_by_epoch"] = np.tile(accuracy, (NUM_EPOCHS, 1))
        log.append(number, values | {name: value for name, value in given.items() if name in values})
    log.set_status(status)
    return path


def _options(topology: str, strategy: str, rounds: int, given: Mapping[str, Any]) -> dict[str, Any]:
    varied = {"topology": topology, "strategy": strategy, "rounds": rounds, "seed": 0}
    usual = {"temperature": 0.1, "dataset": "digits", "model": "mlp-small", "lr": 0.1, "name": "run", "output": None}
    return varied | usual | {"ood": "trigger", "ood_node": None, "ood_rank": None} | dict(given)


def _static(graph: Any, strategy: str, ood_nodes: Sequence[int]) -> dict[str, np.ndarray]:
    num_nodes = graph.num_nodes
    rule = mixing_rule(graph, strategy, np.ones(num_nodes))
    unknown = STRATEGIES[strategy].similarity
    weights = np.full(len(rule.indices), np.nan) if unknown else mixing_matrix(graph, strategy).data
    return {
        "degree": graph.degrees,
        "betweenness": np.full(num_nodes, np.nan),
        "train_samples": np.ones(num_nodes),
        "is_ood": np.isin(np.arange(num_nodes), ood_nodes),
        "rank_of_node": np.arange(num_nodes) * 2 // num_nodes,
        "label_counts": np.ones((num_nodes, NUM_LABELS)),
        "link_target": np.repeat(np.arange(num_nodes), np.diff(rule.indptr)),
        "link_source": rule.indices,
        "link_weight": weights,
        **{name: np.full(num_nodes, np.nan) for name in FINAL_VARIABLES},
    }
