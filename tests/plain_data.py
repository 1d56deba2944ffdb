"""Who trains on what, written down plainly for ``plain_experiment.py``: shards, OOD samples, augmented batches.

Who is dealt which samples, and which of them are to be OOD, is the simulator's own: that has tests of its own.
"""

from pathlib import Path

import numpy as np
import torch
from plain_weights import CENTRALITIES
from scipy.ndimage import gaussian_filter

from mpisim.data.datasets import load_digits
from mpisim.data.local_split import split_locally
from mpisim.data.ood import split_shard, split_test
from mpisim.data.partition import partition
from mpisim.data.tinymem import TinyMem, make_tinymem
from mpisim.streams import Purpose, stream

NUM_TRAIN, NUM_TEST = 260, 100
TINYMEM = TinyMem(modulo=110, context=32, examples=36, tests=12)  # of each of five tasks
TOKENS = "0123456789^$ _"
NOTHING = np.array([], dtype=int)


def deal(case, graph, ood_nodes):
    """Return each node's inputs, labels and whether they are OOD; and the tests: IID, OOD, and each node's own."""
    data, test = make_tinymem(TINYMEM) if case.text else load_digits(Path(), False)
    if not case.text:
        data, test = data.take(np.arange(NUM_TRAIN)), test.take(np.arange(NUM_TEST))
    common = np.flatnonzero((data.labels != 9) | (case.ood != "newclass"))
    dealt = partition(
        data.labels[common],
        len(graph),
        case.num_labels,
        sample_alpha=case.sample_alpha,
        label_alpha=case.label_alpha,
        seed=case.seed,
        of_each_label=0 if case.local_split is None else 3,  # one for each part
    )
    dealt = [common[samples] for samples in placed(case, graph, dealt)]
    own_tests = [NOTHING for _ in graph]
    if case.local_split is not None:
        splits = [split_locally(data.labels, dealt[node], case.local_split, case.seed, node) for node in graph]
        dealt, own_tests = [split.train for split in splits], [split.test for split in splits]

    parts = {node: (dealt[node], NOTHING) for node in graph}
    test_parts = np.arange(len(test)), NOTHING
    if case.ood == "newclass":
        shares = np.array_split(np.flatnonzero(data.labels == 9), len(ood_nodes))
        parts |= {node: (dealt[node], share) for node, share in zip(ood_nodes, shares, strict=True)}
        test_parts = np.flatnonzero(test.labels != 9), np.flatnonzero(test.labels == 9)
    elif case.ood != "none":
        for node in ood_nodes:
            split = split_shard(data.labels, dealt[node], case.ood_fraction, case.seed, node)
            parts[node] = able(case, data, split.clean, split.ood)
        split = split_test(test.labels, case.ood_fraction, case.seed)
        test_parts = able(case, test, split.clean, split.ood)

    shards = []
    for node, (clean, ood) in parts.items():
        inputs, labels = tensors(case, data, clean)
        rng = stream(case.seed, Purpose.OOD_CHANGE, node=node)
        ood_inputs, ood_labels = changed(case, *tensors(case, data, ood), rng)
        is_ood = [False] * len(labels) + [True] * len(ood_labels)
        shards.append((torch.cat([inputs, ood_inputs]), torch.cat([labels, ood_labels]), is_ood))
    ood_test = changed(case, *tensors(case, test, test_parts[1]), stream(case.seed, Purpose.OOD_TEST_CHANGE))
    own = [tensors(case, data, samples) for samples in own_tests]
    return shards, {"iid": tensors(case, test, test_parts[0]), "ood": ood_test, "own": own}


def placed(case, graph, shards):
    """Return the shards in the order of their nodes: the largest goes to the most central node, or some places on."""
    if case.placement is None:
        return shards
    centrality, offset = CENTRALITIES[case.placement[0]](graph), case.placement[1]
    nodes = sorted(graph, key=lambda node: (-centrality[node], node))
    of_node = {}
    for place, shard in enumerate(sorted(shards, key=len, reverse=True)):
        of_node[nodes[(place + offset) % len(nodes)]] = shard
    return [of_node[node] for node in sorted(graph)]


def tensors(case, data, samples):
    inputs = torch.tensor(data.inputs[samples], dtype=torch.int64 if case.text else torch.float32)
    return inputs if case.text else inputs / 16, torch.tensor(data.labels[samples])


def able(case, data, clean, ood):
    """Return positions of clean and OOD samples, the texts that have no "100" back among the clean ones."""
    without = [sample for sample in ood if case.text and "100" not in written(data.inputs[sample])]
    clean = sorted([*clean, *without])
    return np.array(clean), np.array([sample for sample in ood if sample not in without], dtype=int)


def written(tokens):
    return "".join(TOKENS[token] for token in tokens)


def changed(case, inputs, labels, rng):
    """Return samples as they are out of distribution."""
    inputs = inputs.clone()
    if case.text:
        for tokens in inputs:
            tokens[written(tokens).index("100") + 3 :] = 2
    elif case.ood == "noise":
        inputs += 0.5 * torch.from_numpy(rng.standard_normal(tuple(inputs.shape), dtype=np.float32))
    elif case.ood == "blur":
        for image in inputs:
            image[0] = torch.from_numpy(gaussian_filter(image[0].numpy(), sigma=1, radius=2, mode="nearest"))
    elif case.ood == "trigger":
        anywhere = case.trigger_position == "random"
        tops, lefts = (rng.integers(0, 7, len(inputs)) if anywhere else [0] * len(inputs) for _ in range(2))
        for image, top, left in zip(inputs, tops, lefts, strict=True):
            image[0, top : top + 2, left : left + 2] = 5.0
        labels = (labels + 1) % 10 if case.trigger_label == "shift" else torch.zeros_like(labels)
    return inputs, labels


def moved(images, is_ood, rng):
    """Return a batch whose images are cut out of ones with 4 more black pixels on each side; some are then flipped."""
    down, right = rng.integers(0, 9, size=(2, len(images)))
    flips = rng.random(len(images)) < 0.5
    batch = images.clone()
    for image, stays, top, left, flip in zip(batch, is_ood, down, right, flips, strict=True):
        if not stays:
            canvas = torch.zeros(1, 16, 16)
            canvas[:, 4:12, 4:12] = image
            window = canvas[:, top : top + 8, left : left + 8]
            image[:] = window.flip(2) if flip else window
    return batch
