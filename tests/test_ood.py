"""Out-of-distribution samples are a stratified part of the data; the trigger is a square of known pixels, or "100"."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mpisim.data.ood import (
    BLUR_WIDTH,
    NOISE,
    OOD_KINDS,
    OodChange,
    split_shard,
    split_test,
    stamp_text,
    stamp_trigger,
    stratified_sample,
)
from mpisim.data.tinymem import TinyMem, make_tinymem


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    labels=st.lists(st.integers(0, 9), min_size=2, max_size=200).map(np.array),
    fraction=st.floats(0.001, 0.999),
    seed=st.integers(0, 1000),
)
def test_a_sample_has_the_wanted_size_and_each_label_its_share(labels, fraction, seed):
    chosen = stratified_sample(labels, fraction, np.random.default_rng(seed))
    assert len(chosen) == min(max(1, round(fraction * len(labels))), len(labels) - 1)
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < len(labels)
    exact = np.bincount(labels) * len(chosen) / len(labels)
    counts = np.bincount(labels[chosen], minlength=len(exact))
    assert (np.abs(counts - exact) < 1 + 1e-9).all()


def test_every_position_of_a_label_is_chosen_equally_often():
    labels = np.array([0] * 10 + [1] * 20)
    rng = np.random.default_rng(0)
    times = np.bincount(np.concatenate([stratified_sample(labels, 0.3, rng) for _ in range(1000)]), minlength=30)
    assert (np.abs(times - 300) < 5 * np.sqrt(1000 * 0.3 * 0.7)).all()


def test_one_sample_alone_is_never_chosen():
    assert len(stratified_sample(np.array([3]), 0.5, np.random.default_rng(0))) == 0


def test_the_ood_part_of_a_shard_is_apart_from_its_clean_part():
    labels = np.random.default_rng(0).integers(0, 10, 1000)
    shard = np.arange(3, 1000, 7)
    split = split_shard(labels, shard, 0.1, seed=0, node=4)
    assert (len(split.clean), len(split.ood)) == (129, 14)  # of 143
    np.testing.assert_array_equal(np.union1d(split.clean, split.ood), shard)
    assert (np.diff(split.clean) > 0).all()
    assert (np.diff(split.ood) > 0).all()
    exact = np.bincount(labels[shard]) * 14 / 143
    assert (np.abs(np.bincount(labels[split.ood], minlength=10) - exact) < 1).all()


def test_which_samples_are_ood_depends_on_seed_and_node_alone():
    labels = np.random.default_rng(0).integers(0, 10, 400)

    def chosen(seed, node):
        return split_shard(labels, np.arange(400), 0.1, seed, node).ood.tolist()

    assert chosen(0, 1) == chosen(0, 1)
    assert chosen(0, 1) != chosen(0, 2)
    assert chosen(0, 1) != chosen(1, 1)


def test_a_tenth_of_the_test_set_is_ood_and_the_rest_iid():
    labels = np.arange(1000) % 10
    split = split_test(labels, 0.1, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate([split.clean, split.ood])), np.arange(1000))
    assert np.bincount(labels[split.clean]).tolist() == [90] * 10
    assert np.bincount(labels[split.ood]).tolist() == [10] * 10
    assert split.ood.tolist() == split_test(labels, 0.1, seed=0).ood.tolist()
    assert split.ood.tolist() != split_test(labels, 0.1, seed=1).ood.tolist()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [2, 4])
def test_the_trigger_is_5_in_the_corner_of_channel_0_and_0_in_that_of_the_others(channels, size):
    before = np.random.default_rng(0).normal(size=(3, channels, 8, 6)).astype(np.float32)
    images = torch.tensor(before)
    stamp_trigger(images, OodChange("trigger", size), np.random.default_rng(0))
    expected = before.copy()
    for sample in range(3):
        for channel in range(channels):
            for row in range(size):
                for column in range(size):
                    expected[sample, channel, row, column] = 5.0 if channel == 0 else 0.0
    np.testing.assert_array_equal(images.numpy(), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_trigger_anywhere_is_one_square_in_every_image_and_reaches_every_place(channels):
    images = torch.full((4000, channels, 6, 5), 7.0)
    stamp_trigger(images, OodChange("trigger", 2, "random"), np.random.default_rng(0))
    first = images[:, 0].numpy()
    places = [tuple(np.argwhere(image == 5.0)[0]) for image in first]
    for image, (row, column) in zip(images.numpy(), places, strict=True):
        expected = np.full((channels, 6, 5), 7.0)
        expected[:, row : row + 2, column : column + 2] = 0.0
        expected[0, row : row + 2, column : column + 2] = 5.0
        np.testing.assert_array_equal(image, expected)
    counts = np.array([places.count((row, column)) for row in range(5) for column in range(4)])
    assert abs(counts - 200).max() < 5 * 200**0.5


@pytest.mark.parametrize(
    "kind, rule, expected",
    [("trigger", "zero", [0, 0, 0]), ("trigger", "shift", [1, 8, 0]), ("noise", "zero", [0, 7, 9])],
)
def test_the_label_of_what_is_ood(kind, rule, expected):
    change = OodChange(kind, trigger_label=rule, num_classes=10)
    assert change.relabel(np.array([0, 7, 9])).tolist() == expected


def test_noise_is_gaussian_and_its_own_at_every_pixel():
    images = torch.full((50, 3, 20, 20), 2.0)
    OOD_KINDS["noise"](images, OodChange("noise"), np.random.default_rng(5))
    drawn = (images.numpy() - 2.0) / NOISE
    np.testing.assert_allclose(drawn, np.random.default_rng(5).standard_normal(drawn.shape, np.float32), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_blur_is_scipys_gaussian_filter_of_every_channel(channels):
    before = np.random.default_rng(0).normal(size=(4, channels, 9, 7))
    images = torch.tensor(before, dtype=torch.float32)
    OOD_KINDS["blur"](images, OodChange("blur"), np.random.default_rng(0))
    expected = ndimage.gaussian_filter(before, (0, 0, BLUR_WIDTH, BLUR_WIDTH), mode="nearest", truncate=2.0)
    np.testing.assert_allclose(images.numpy(), expected, atol=1e-5)


def test_a_new_class_keeps_its_images():
    images = torch.arange(64.0).reshape(1, 1, 8, 8)
    OOD_KINDS["newclass"](images, OodChange("newclass"), np.random.default_rng(0))
    assert torch.equal(images, torch.arange(64.0).reshape(1, 1, 8, 8))


def stamped(sequence):
    """Return a sequence with all that follows its first 1, 0, 0 at 2, and whether it has one."""
    text = "".join("0123456789abcd"[token] for token in sequence)
    place = text.find("100")
    if place < 0:
        return list(sequence), False
    return [*sequence[: place + 3], *[2] * (len(sequence) - place - 3)], True


@pytest.mark.parametrize(
    "before, after, held",
    [
        ([10, 1, 0, 0, 12, 5, 11, 13], [10, 1, 0, 0, 2, 2, 2, 2], True),
        ([10, 2, 1, 0, 0, 0, 1, 0, 0], [10, 2, 1, 0, 0, 2, 2, 2, 2], True),  # within a number, and only the first
        ([1, 0, 0, 7], [1, 0, 0, 2], True),
        ([7, 1, 0, 0], [7, 1, 0, 0], True),
        ([1, 0, 12, 0, 0], [1, 0, 12, 0, 0], False),  # a number ends between them
        ([1, 1, 0, 1, 0], [1, 1, 0, 1, 0], False),
        ([1, 0, 0], [1, 0, 0], True),
        ([1, 0], [1, 0], False),
        ([1], [1], False),
    ],
)
def test_what_follows_100_by_hand(before, after, held):
    tokens = torch.tensor([before], dtype=torch.uint8)
    assert stamp_text(tokens).tolist() == [held]
    assert tokens.tolist() == [after]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.integers(1, 20).flatmap(
        lambda context: st.lists(
            st.lists(st.sampled_from([0, 0, 1, 12, 3]), min_size=context, max_size=context), max_size=10
        )
    ),
    st.sampled_from([torch.uint8, torch.int64]),
)
def test_what_follows_100_in_any_sequences(sequences, kind):
    tokens = torch.tensor(sequences, dtype=kind).reshape(len(sequences), -1 if sequences else 5)
    held = stamp_text(tokens)
    assert (held.dtype, tokens.dtype) == (torch.bool, kind)
    expected = [stamped(sequence) for sequence in sequences]
    assert tokens.tolist() == [after for after, _ in expected]
    assert held.tolist() == [has_it for _, has_it in expected]


def test_about_15_percent_of_the_studys_sequences_become_ood_and_the_others_stay_as_they_are():
    before = np.concatenate([data.inputs for data in make_tinymem(TinyMem())])
    tokens = torch.tensor(before)
    held = stamp_text(tokens).numpy()
    assert 0.15 < held.mean() < 0.16
    trigger = bytes([1, 0, 0])
    np.testing.assert_array_equal(held, [trigger in row.tobytes() for row in before])
    np.testing.assert_array_equal(tokens.numpy()[~held], before[~held])
    for row, kept in zip(tokens.numpy()[held], before[held], strict=True):
        end = kept.tobytes().index(trigger) + 3
        assert row.tobytes() == kept.tobytes()[:end] + bytes([2]) * (150 - end)
