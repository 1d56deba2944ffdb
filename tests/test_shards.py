"""Shards travel as they are on disk, and arrive normalised, with their out-of-distribution samples last and stamped."""

import numpy as np
import pytest
import torch

from mpisim.data.datasets import DATASETS, Labeled
from mpisim.data.ood import OodChange, OodSplit
from mpisim.data.shards import pack, unpack

DIGITS = DATASETS["digits"]  # a pixel divided by 16; a trigger of 2×2
CPU = torch.device("cpu")
_rng = np.random.default_rng(0)
DATA = Labeled(_rng.integers(0, 17, (30, 1, 8, 8)).astype(np.uint8), _rng.integers(1, 10, 30))
NOTHING = np.array([], dtype=np.int64)
SPLITS = [
    OodSplit(np.array([4, 9, 20]), np.array([1, 29])),
    OodSplit(np.array([0]), NOTHING),
    OodSplit(np.array([5, 6, 7, 8]), np.array([2])),
]


TRIGGER = OodChange("trigger", trigger_size=2)


def rngs(count):
    return [np.random.default_rng(number) for number in range(count)]


def stamped(images):
    """Return images as a model sees them, with the digits' trigger."""
    result = images.astype(np.float32) / 16
    result[:, 0, :2, :2] = 5
    return result


def test_packed_samples_lie_split_after_split_with_the_clean_ones_first():
    arrays = pack(DATA, SPLITS)
    order = [4, 9, 20, 1, 29, 0, 5, 6, 7, 8, 2]
    assert arrays["inputs"].dtype == np.uint8
    np.testing.assert_array_equal(arrays["inputs"], DATA.inputs[order])
    np.testing.assert_array_equal(arrays["labels"], DATA.labels[order])
    assert arrays["num_clean"].tolist() == [3, 1, 4]
    assert arrays["num_ood"].tolist() == [2, 0, 1]


def test_unpacking_gives_back_every_split_normalised_and_what_is_ood_stamped():
    splits = unpack(pack(DATA, SPLITS), DIGITS, TRIGGER, CPU, rngs(3))
    assert splits.sizes.tolist() == [5, 1, 5]
    for number, split in enumerate(SPLITS):
        clean, ood = splits.clean(number), splits.ood(number)
        assert clean.inputs.dtype == ood.inputs.dtype == torch.float32
        assert (len(clean), len(ood)) == (len(split.clean), len(split.ood))
        np.testing.assert_array_equal(clean.inputs.numpy(), DATA.inputs[split.clean] / np.float32(16))
        np.testing.assert_array_equal(clean.labels.numpy(), DATA.labels[split.clean])
        np.testing.assert_array_equal(ood.inputs.numpy(), stamped(DATA.inputs[split.ood]))
        assert ood.labels.tolist() == [0] * len(split.ood)


@pytest.mark.parametrize("name", [name for name in DATASETS if DATASETS[name].kind == "image"])
def test_the_model_sees_every_pixel_as_the_study_normalises_it(name):
    dataset = DATASETS[name]
    highest = 16 if name == "digits" else 255
    share = np.arange(256).clip(0, highest) / highest
    expected = (share - 0.5) / 0.5 if name.startswith("cifar") else share
    channels, height, width = dataset.input_shape
    pixels = np.resize(np.arange(256).clip(0, highest).astype(np.uint8), (4, channels, height, width))
    arrays = pack(Labeled(pixels, np.arange(4)), [OodSplit(np.arange(4), NOTHING)])
    clean = unpack(arrays, dataset, OodChange("none"), CPU, rngs(1)).clean(0)
    seen = np.resize(expected, pixels.shape)
    if name.startswith("cifar"):
        np.testing.assert_allclose(clean.inputs.numpy(), seen, rtol=0, atol=1e-7)
        assert (clean.inputs.min(), clean.inputs.max()) == (-1, 1)
    else:
        np.testing.assert_array_equal(clean.inputs.numpy(), pixels / np.float32(highest))  # bit for bit


def test_unpacking_leaves_what_it_unpacks_as_it_was():
    arrays, unchanged = pack(DATA, SPLITS), pack(DATA, SPLITS)
    unpack(arrays, DIGITS, TRIGGER, CPU, rngs(3))
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], unchanged[name])


def test_without_ood_samples_no_kind_of_ood_is_asked_for():
    splits = unpack(pack(DATA, [OodSplit(np.arange(30), NOTHING)]), DIGITS, OodChange("none"), CPU, rngs(1))
    np.testing.assert_array_equal(splits.clean(0).inputs.numpy() * 16, DATA.inputs)
    assert len(splits.ood(0)) == 0


def test_a_shard_has_its_ood_samples_last():
    splits = unpack(pack(DATA, SPLITS), DIGITS, TRIGGER, CPU, rngs(3))
    for number, split in enumerate(SPLITS):
        shard = splits.of(number)
        expected = np.concatenate([DATA.inputs[split.clean] / np.float32(16), stamped(DATA.inputs[split.ood])])
        np.testing.assert_array_equal(shard.inputs.numpy(), expected)
        assert shard.labels.tolist() == [*DATA.labels[split.clean], *[0] * len(split.ood)]


def test_texts_arrive_as_tokens_and_what_is_ood_has_its_end_replaced():
    tokens = np.array([[10, 1, 0, 0, 5, 6], [10, 3, 4, 12, 5, 6], [10, 7, 1, 0, 0, 8]], dtype=np.uint8)
    splits = [OodSplit(np.array([1, 0]), np.array([2])), OodSplit(np.array([2]), np.array([0]))]
    change = OodChange("text")
    arrays = pack(Labeled(tokens, np.array([3, 4, 2])), splits)
    unpacked = unpack(arrays, DATASETS["tinymem"], change, CPU, rngs(2))
    clean, ood, other_clean, other_ood = (part(number) for number in (0, 1) for part in (unpacked.clean, unpacked.ood))
    assert clean.inputs.dtype == torch.int64
    assert clean.inputs.tolist() == tokens[[1, 0]].tolist()
    assert other_clean.inputs.tolist() == tokens[[2]].tolist()
    assert ood.inputs.tolist() == [[10, 7, 1, 0, 0, 2]]
    assert other_ood.inputs.tolist() == [[10, 1, 0, 0, 2, 2]]
    assert [part.labels.tolist() for part in (clean, ood, other_clean, other_ood)] == [[4, 3], [2], [2], [3]]
