"""Shards travel as they are on disk, and arrive normalised, with their out-of-distribution samples last and stamped."""

import numpy as np
import pytest
import torch

from mpisim.data.datasets import DATASETS, Images
from mpisim.data.ood import OodSplit
from mpisim.data.shards import joined, pack, unpack

DIGITS = DATASETS["digits"]  # a pixel divided by 16; a trigger of 2×2
CPU = torch.device("cpu")
_rng = np.random.default_rng(0)
DATA = Images(_rng.integers(0, 17, (30, 1, 8, 8)).astype(np.uint8), _rng.integers(1, 10, 30))
NOTHING = np.array([], dtype=np.int64)
SPLITS = [
    OodSplit(np.array([4, 9, 20]), np.array([1, 29])),
    OodSplit(np.array([0]), NOTHING),
    OodSplit(np.array([5, 6, 7, 8]), np.array([2])),
]


def stamped(images):
    """Return images as a model sees them, with the digits' trigger."""
    result = images.astype(np.float32) / 16
    result[:, 0, :2, :2] = 5
    return result


def test_packed_samples_lie_split_after_split_with_the_clean_ones_first():
    arrays = pack(DATA, SPLITS)
    order = [4, 9, 20, 1, 29, 0, 5, 6, 7, 8, 2]
    assert arrays["images"].dtype == np.uint8
    np.testing.assert_array_equal(arrays["images"], DATA.images[order])
    np.testing.assert_array_equal(arrays["labels"], DATA.labels[order])
    assert arrays["num_clean"].tolist() == [3, 1, 4]
    assert arrays["num_ood"].tolist() == [2, 0, 1]


def test_unpacking_gives_back_every_split_normalised_and_what_is_ood_stamped():
    parts = unpack(pack(DATA, SPLITS), DIGITS, "trigger", CPU)
    assert len(parts) == len(SPLITS)
    for (clean, ood), split in zip(parts, SPLITS, strict=True):
        assert clean.inputs.dtype == ood.inputs.dtype == torch.float32
        assert (len(clean), len(ood)) == (len(split.clean), len(split.ood))
        np.testing.assert_array_equal(clean.inputs.numpy(), DATA.images[split.clean] / np.float32(16))
        np.testing.assert_array_equal(clean.labels.numpy(), DATA.labels[split.clean])
        np.testing.assert_array_equal(ood.inputs.numpy(), stamped(DATA.images[split.ood]))
        assert ood.labels.tolist() == [0] * len(split.ood)


def test_unpacking_leaves_what_it_unpacks_as_it_was():
    arrays, unchanged = pack(DATA, SPLITS), pack(DATA, SPLITS)
    unpack(arrays, DIGITS, "trigger", CPU)
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], unchanged[name])


def test_without_ood_samples_no_kind_of_ood_is_asked_for():
    [(clean, ood)] = unpack(pack(DATA, [OodSplit(np.arange(30), NOTHING)]), DIGITS, "none", CPU)
    np.testing.assert_array_equal(clean.inputs.numpy() * 16, DATA.images)
    assert len(ood) == 0


@pytest.mark.parametrize("split", SPLITS)
def test_a_joined_shard_has_its_ood_samples_last(split):
    [parts] = unpack(pack(DATA, [split]), DIGITS, "trigger", CPU)
    shard = joined(*parts)
    expected = np.concatenate([DATA.images[split.clean] / np.float32(16), stamped(DATA.images[split.ood])])
    np.testing.assert_array_equal(shard.inputs.numpy(), expected)
    assert shard.labels.tolist() == [*DATA.labels[split.clean], *[0] * len(split.ood)]
