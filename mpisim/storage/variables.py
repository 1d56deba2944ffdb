"""The variables of a log: what each means, and which of them a run has."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Variable:
    """A variable of the log: its dimensions, type, unit and meaning."""

    dims: tuple[str, ...]
    dtype: str
    units: str
    long_name: str


ROUND_NODE, ROUND_RANK = ("round", "node"), ("round", "rank")
AGGREGATED, BY_EPOCH, FINAL = "_aggregated", "_by_epoch", "_final"

# What a test of a model finds.
SCORES: dict[str, Variable] = {
    "iid_accuracy": Variable(ROUND_NODE, "f8", "1", "accuracy on the clean test set"),
    "ood_accuracy": Variable(ROUND_NODE, "f8", "1", "accuracy on the out-of-distribution test set"),
    "own_accuracy": Variable(ROUND_NODE, "f8", "1", "accuracy on the node's own test samples (--local-split)"),
    "iid_loss": Variable(ROUND_NODE, "f8", "nat", "mean cross-entropy on the clean test set"),
    "ood_loss": Variable(ROUND_NODE, "f8", "nat", "mean cross-entropy on the out-of-distribution test set"),
    "iid_recall": Variable(("round", "node", "label"), "f8", "1", "share of the clean test samples of a label found"),
}
WITHOUT_RECALL = [name for name in SCORES if name != "iid_recall"]


def _scores(suffix: str, dims: tuple[str, ...] | None, when: str) -> dict[str, Variable]:
    names = list(SCORES) if dims is None else WITHOUT_RECALL
    return {
        name + suffix: replace(
            SCORES[name], dims=dims or SCORES[name].dims, long_name=f"{SCORES[name].long_name}, {when}"
        )
        for name in names
    }


TRAINED_SCORES = _scores("", None, "before aggregation")
AGGREGATED_SCORES = _scores(AGGREGATED, None, "after aggregation")
EPOCH_SCORES = _scores(BY_EPOCH, ("round", "epoch", "node"), "after each epoch of local training")
FINAL_SCORES = _scores(FINAL, ("node",), "after the last aggregation; NaN until the run is complete")

FINAL_VARIABLES = (*FINAL_SCORES, "peak_memory")  # NaN until the run is complete
ROUND_SCORES = TRAINED_SCORES | AGGREGATED_SCORES | EPOCH_SCORES

VARIABLES: dict[str, Variable] = {
    **ROUND_SCORES,
    **FINAL_SCORES,
    "train_loss": Variable(ROUND_NODE, "f8", "nat", "mean cross-entropy of the round's training steps"),
    "consensus_distance": Variable(
        ("round",),
        "f8",
        "1",
        "mean over nodes of the squared L2 distance to the mean model, over at most 65536 fixed coordinates,"
        " before aggregation",
    ),
    "temperature": Variable(("round",), "f8", "1", "temperature of the softmax that makes the mixing weights"),
    "participated": Variable(ROUND_NODE, "i1", "1", "1 if the node took part in the round"),
    "train_seconds": Variable(ROUND_RANK, "f8", "s", "time in local training"),
    "test_seconds": Variable(ROUND_RANK, "f8", "s", "time in tests, while messages travel"),
    "exchange_seconds": Variable(ROUND_RANK, "f8", "s", "time in sending models and waiting for them"),
    "mix_seconds": Variable(ROUND_RANK, "f8", "s", "time in aggregation"),
    "log_seconds": Variable(
        ROUND_RANK,
        "f8",
        "s",
        "time in handing in results and, on rank 0, waiting for them and writing the round before to the log",
    ),
    "bytes_sent": Variable(ROUND_RANK, "i8", "byte", "model state sent to other ranks"),
    "peak_memory": Variable(("rank",), "f8", "byte", "most memory that the rank had, resident; NaN until complete"),
    "degree": Variable(("node",), "i8", "1", "number of neighbors"),
    "betweenness": Variable(("node",), "f8", "1", "betweenness centrality, normalised, endpoints counted"),
    "train_samples": Variable(("node",), "i8", "1", "number of training samples"),
    "is_ood": Variable(("node",), "i1", "1", "1 if the node's shard holds out-of-distribution samples"),
    "rank_of_node": Variable(("node",), "i8", "1", "rank that owns the node"),
    "label_counts": Variable(("node", "label"), "i8", "1", "training samples of each label, as they are trained on"),
    "link_target": Variable(("link",), "i8", "1", "node that listens"),
    "link_source": Variable(("link",), "i8", "1", "node that is listened to"),
    "link_weight": Variable(("link",), "f8", "1", "mixing weight W[target, source] of the first round"),
}

DIMENSIONS = {
    "round": "round, from 1",
    "epoch": "epoch of local training within a round, from 1",
    "node": "node of the topology",
    "rank": "MPI rank that owns nodes",
    "link": "entry of the mixing matrix",
    "label": "class label",
}
FROM_ONE = ("round", "epoch")


def logged_variables(*, trained: bool, aggregated: bool, epochs: bool) -> dict[str, Variable]:
    """Return the variables of a run's log: all but the scores of moments at which it does not test its models."""
    tested = {**(TRAINED_SCORES if trained else {}), **(AGGREGATED_SCORES if aggregated else {})}
    tested |= EPOCH_SCORES if epochs else {}
    return {name: variable for name, variable in VARIABLES.items() if name in tested or name not in ROUND_SCORES}
