"""What an option means: each one's log is that of an experiment written down plainly, by both engines."""

from functools import cache, partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from plain_experiment import ADAM, NUM_ROUNDS, TEXT, Case, assert_is_logged, experiment, logged, text_model
from torch import nn

from mpisim.graphs.strategies import STRATEGIES
from mpisim.models.catalog import MODELS, Model

UNRELIABLE = "0 1 0.5\n0 2 0.5\n0 3\n1 2 0.7\n1 4 0.5\n2 5 0.5\n3 5 0.6\n"  # node 0 is the first of three hubs
ENGINES = ["--engine sequential", "--engine batched --stack 4"]
MOMENTS = "--evaluate-at both --evaluate-every epoch"


class CountingBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose count of batches can be told from its output."""

    def forward(self, images):
        return super().forward(images) * (1 + self.num_batches_tracked / 50)


def noisy_model():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        CountingBatchNorm(4),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(256, 32),
        nn.Dropout(0.5),
        nn.Linear(32, 10),
    )


CASES = {
    # What the optimizer remembers, and what pulls at it.
    "momentum kept": Case(
        flags="--momentum 0.9 --lr 0.02 --keep-optimizer-state",
        optimizer=partial(torch.optim.SGD, lr=0.02, momentum=0.9),
        keep_optimizer_state=True,
    ),
    "momentum not kept": Case(
        flags="--momentum 0.9 --lr 0.02", optimizer=partial(torch.optim.SGD, lr=0.02, momentum=0.9)
    ),
    "moments of adam kept, and of nodes that sit out": Case(
        flags="--optimizer adam --lr 0.005 --keep-optimizer-state --participation 0.7 --sample-alpha 2",
        optimizer=ADAM,
        keep_optimizer_state=True,
        participation=0.7,
        sample_alpha=2.0,
    ),
    "adamw": Case(
        flags="--optimizer adamw --lr 0.005 --weight-decay 0.1 --betas 0.8 0.95",
        optimizer=partial(torch.optim.AdamW, lr=0.005, weight_decay=0.1, betas=(0.8, 0.95)),
    ),
    "pulled by neighbors": Case(flags="--proximal 0.1 --sample-alpha 2", proximal=0.1, sample_alpha=2.0),
    "pulled by the neighbors that answer": Case(
        flags="--proximal 0.1 --link-dropout 0.3 --strategy unweighted --init independent",
        proximal=0.1,
        link_dropout=0.3,
        strategy="unweighted",
        one_start=False,
    ),
    "pulled by the neighbors that take part": Case(
        flags="--proximal 0.3 --participation 0.5 --momentum 0.5 --lr 0.05",
        proximal=0.3,
        participation=0.5,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.5),
    ),
    # Who takes part, whom they hear, and with what weight.
    "half take part, on a cosine": Case(
        flags="--participation 0.5 --schedule cosine --schedule-floor -5 --schedule-period 3 --sample-alpha 2 "
        + MOMENTS,
        participation=0.5,
        sample_alpha=2.0,
        inverse=(10.0, 6.25, -1.25),
        aggregated=True,
        epochs=True,
    ),
    "cosine that restarts": Case(
        flags="--schedule cosine --schedule-period 2 --strategy betweenness",
        strategy="betweenness",
        inverse=(10, 5, 10),
    ),
    "exponential": Case(
        flags="--schedule exponential --schedule-decay 0.5 --schedule-floor 3", inverse=(10.0, 5.0, 3.0)
    ),
    "oscillate, random weights": Case(
        flags="--schedule oscillate --schedule-period 1 --temperature 0.2 --strategy random",
        strategy="random",
        inverse=(5.0, -5.0, 5.0),
    ),
    "the least central first": Case(flags="--temperature -0.2", inverse=(-5.0, -5.0, -5.0)),
    "in proportion to betweenness": Case(
        flags="--strategy betweenness --normalize sum --shuffle", strategy="betweenness", normalize="sum", shuffle=True
    ),
    "metropolis over unreliable links": Case(
        flags="--topology unreliable.edgelist --strategy metropolis",
        topology="unreliable.edgelist",
        ood_nodes=(0,),
        strategy="metropolis",
    ),
    "random weights over unreliable links": Case(
        flags="--topology unreliable.edgelist --strategy random --link-dropout 0.2 --seed 5",
        topology="unreliable.edgelist",
        ood_nodes=(0,),
        strategy="random",
        link_dropout=0.2,
        seed=5,
    ),
    "degree-similarity": Case(
        flags="--strategy degree-similarity --init independent", strategy="degree-similarity", one_start=False
    ),
    "betweenness-similarity of those who answer": Case(
        flags="--strategy betweenness-similarity --init independent --temperature -0.1 --link-dropout 0.3",
        strategy="betweenness-similarity",
        one_start=False,
        inverse=(-10.0,) * NUM_ROUNDS,
        link_dropout=0.3,
    ),
    "fl over links that fail": Case(flags="--strategy fl --link-dropout 0.3", strategy="fl", link_dropout=0.3),
    "shrunk models": Case(flags="--strategy scale --participation 0.7", strategy="scale", participation=0.7),
    "nobody heard": Case(flags="--strategy none", strategy="none"),
    # What is trained on.
    "augmented": Case(flags="--augment --ood-fraction 0.4", augment=True, ood_fraction=0.4),
    "augmented and shuffled": Case(
        flags="--augment --shuffle --sample-alpha 3", augment=True, shuffle=True, sample_alpha=3.0
    ),
    "triggers anywhere, labels shifted, two OOD nodes": Case(
        flags="--trigger-position random --trigger-label shift --ood-node 4 1 --ood-fraction 0.3",
        trigger_position="random",
        trigger_label="shift",
        ood_nodes=(1, 4),
        ood_fraction=0.3,
    ),
    "noise at two nodes": Case(flags="--ood noise --ood-node 0 5", ood="noise", ood_nodes=(0, 5)),
    "blur at the second hub": Case(flags="--ood blur --ood-rank 2", ood="blur", ood_nodes=(0,)),
    "a new class at two nodes": Case(flags="--ood newclass --ood-node 1 2", ood="newclass", ood_nodes=(1, 2)),
    "large shards near the hub": Case(
        flags="--data-placement degree --data-placement-offset 1 --sample-alpha 1",
        placement=("degree", 1),
        sample_alpha=1.0,
    ),
    "the largest shard in the middle": Case(
        flags="--data-placement betweenness --sample-alpha 1 --label-alpha 1 --strategy weighted",
        placement=("betweenness", 0),
        sample_alpha=1.0,
        label_alpha=1.0,
        strategy="weighted",
    ),
    # Models whose training draws numbers, and that have more than parameters.
    "dropout and BatchNorm": Case(
        # On a GPU dropout draws from the GPU's generators, other numbers.
        flags=f"--device cpu --model noisy --participation 0.7 --label-alpha 2 --sample-alpha 3 {MOMENTS}",
        model=noisy_model,
        participation=0.7,
        label_alpha=2.0,
        sample_alpha=3.0,
        aggregated=True,
        epochs=True,
    ),
}
TEXTS = Case(
    flags=f"{TEXT} --ood-fraction 0.8 --optimizer sgd --lr 0.02 --batch-size 8 --evaluate-every epoch",
    model=text_model,
    batch_size=8,
    optimizer=partial(torch.optim.SGD, lr=0.02),
    ood_fraction=0.8,
    epochs=True,
)
# Without training, W is all that there is to see.
UNTRAINED = {
    strategy: Case(
        flags=f"--strategy {strategy} --init independent --no-train --participation 0.9",
        strategy=strategy,
        one_start=False,
        no_train=True,
        participation=0.9,
    )
    for strategy in STRATEGIES
}


@cache
def expected(case: Case):
    return experiment(case)


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODELS, "noisy", Model(lambda *_: noisy_model(), lambda _: True, "anything"))
    Path("unreliable.edgelist").write_text(UNRELIABLE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES)
def test_an_option_means_what_the_plain_experiment_says(case, engine):
    assert_is_logged(expected(CASES[case]), logged(f"{CASES[case].flags} {engine}"), CASES[case])


# Of a stack's attention torch says that it computes it node by node on a CPU.
@pytest.mark.parametrize("engine", ENGINES)
def test_texts_are_learned_token_by_token(engine, monkeypatch):
    # At a kink of ReLU a rounding decides where a step goes, and GPT-2 comes near many: take a smooth function instead.
    monkeypatch.setattr("mpisim.models.language.F.relu", F.gelu)
    assert_is_logged(expected(TEXTS), logged(f"{TEXTS.flags} {engine}"), TEXTS)


@pytest.mark.parametrize("strategy", UNTRAINED)
def test_initial_models_mix_as_the_strategy_says(strategy):
    assert_is_logged(expected(UNTRAINED[strategy]), logged(UNTRAINED[strategy].flags), UNTRAINED[strategy])
