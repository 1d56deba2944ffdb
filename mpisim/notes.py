"""Notes to the plan: what a person may not expect of the options, and which of them change nothing."""

from __future__ import annotations

from mpisim.config import Config
from mpisim.data.datasets import DATASETS
from mpisim.experiment import Experiment
from mpisim.graphs.participation import participants
from mpisim.graphs.strategies import STRATEGIES
from mpisim.options import flag


def notes(experiment: Experiment) -> list[str]:
    """Return the notes, each a line."""
    config, lines = experiment.config, []
    empty = [f"node {node}" for node in experiment.ood_nodes if not len(experiment.shards[node].ood)]
    if experiment.ood_nodes and not len(experiment.test_split.ood):
        empty.append("the test set")
    if empty:
        lines.append(f"{' and '.join(empty)} got no OOD sample: too few samples can be made so; use more")
    if config.participation < 1:
        num_nodes = experiment.topology.num_nodes
        count = participants(num_nodes, config.participation, config.seed, 1).sum()
        lines.append(f"in each round {count} of {num_nodes} nodes take part, drawn anew")
    if config.link_dropout:
        lines.append(f"in each round every edge fails with probability {config.link_dropout}")
    if config.moments["epochs"] or config.moments["aggregated"]:
        trained = "after every epoch" if config.moments["epochs"] else "after training"
        moments = [trained] * config.moments["trained"] + ["after aggregation"] * config.moments["aggregated"]
        lines.append(f"models are tested {' and '.join(moments)}")
    falls_below_zero = config.schedule == "cosine" and (config.schedule_floor or 0) < 0
    if uses_temperature(config) and (config.temperature < 0 or falls_below_zero or config.schedule == "oscillate"):
        most = "lowest number drawn" if config.strategy == "random" else "least central neighbor"
        lines.append(f"where the temperature is negative, the {most} weighs most")
    return lines + [f"{flag(name)} changes nothing here: {reason}" for name, reason in without_effect(experiment)]


def uses_temperature(config: Config) -> bool:
    """Return whether the sign and course of the temperature matter to the weights."""
    strategy = STRATEGIES[config.strategy]
    return (strategy.normalization or config.normalize) == "softmax" and not strategy.similarity


def without_effect(experiment: Experiment) -> list[tuple[str, str]]:
    """Return the options that were changed from their defaults and change nothing, each with the reason."""
    config, strategy = experiment.config, STRATEGIES[experiment.config.strategy]
    softmax = (strategy.normalization or config.normalize) == "softmax"
    has_links = bool((experiment.rule.edge >= 0).any())
    reasons = {
        "temperature": (not softmax, f"{config.strategy} has no softmax"),
        "normalize": (strategy.normalization is not None, f"{config.strategy} has weights of its own"),
        "schedule": (not softmax, f"{config.strategy} has no softmax"),
        "schedule_period": (config.schedule not in ("cosine", "oscillate"), f"--schedule is {config.schedule}"),
        "schedule_multiplier": (config.schedule != "cosine", f"--schedule is {config.schedule}"),
        "schedule_floor": (config.schedule not in ("cosine", "exponential"), f"--schedule is {config.schedule}"),
        "schedule_decay": (config.schedule != "exponential", f"--schedule is {config.schedule}"),
        "data_placement_offset": (config.data_placement == "random", "--data-placement is random"),
        "ood_fraction": (config.ood in ("none", "newclass"), f"--ood is {config.ood}"),
        "trigger_position": (_without_trigger(config), f"--ood is {config.ood}, on {config.dataset}"),
        "trigger_label": (_without_trigger(config), f"--ood is {config.ood}, on {config.dataset}"),
        "momentum": (config.optimizer != "sgd", f"the optimizer is {config.optimizer}"),
        "betas": (config.optimizer == "sgd", "the optimizer is sgd"),
        "proximal": (config.no_train or not has_links, "no node trains and hears a neighbor"),
        "link_dropout": (not has_links, "no node listens along an edge"),
        "placement": (experiment.num_ranks == 1, "one rank owns all nodes"),
        "wire": (not has_links, "no node listens along an edge"),
        **{
            name: (config.dataset != "tinymem", f"the data set is {config.dataset}")
            for name in vars(config)
            if name.startswith("tinymem_")
        },
        **dict.fromkeys(
            ("epochs", "keep_optimizer_state", "shuffle", "augment", "weight_decay", "engine", "stack"),
            (config.no_train, "no node trains"),
        ),
    }
    defaults = Config()
    changed = {name for name in reasons if getattr(config, name) != getattr(defaults, name)}
    return [(name, reason) for name, (idle, reason) in reasons.items() if idle and name in changed]


def _without_trigger(config: Config) -> bool:
    return config.ood != "trigger" or DATASETS[config.dataset].kind == "text"
