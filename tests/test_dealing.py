"""Dealing: the nodes' shards and the test sets are what the options say, and every sample is somewhere once."""

import numpy as np
import pytest

from mpisim.config import Config
from mpisim.data.partition import partition
from mpisim.dealing import choose_ood_nodes, deal, load, ood_change
from mpisim.errors import InputError
from mpisim.graphs.generators import make_topology

SMALL_TEXT = {"dataset": "tinymem", "tinymem_examples": 400, "tinymem_tests": 100, "tinymem_context": 60}


def dealt(**options):
    config = Config(**options)
    topology = make_topology(config.topology)
    train, test = load(config)
    ood_nodes = choose_ood_nodes(config, topology)
    result = deal(config, topology, ood_nodes, train, test)
    shards, test_split = result.shards, result.test_split
    assert [len(own) for own in result.own_tests] == [0] * topology.num_nodes
    everyone = np.concatenate([part for shard in shards for part in (shard.clean, shard.ood)])
    assert sorted(everyone) == list(range(len(train)))
    assert sorted(np.concatenate([test_split.clean, test_split.ood])) == list(range(len(test)))
    return shards, test_split, train, test, ood_nodes


@pytest.mark.parametrize("kind", ["trigger", "noise", "blur"])
def test_a_tenth_of_an_ood_nodes_shard_and_of_the_test_set_is_ood(kind):
    shards, test_split, _, test, ood_nodes = dealt(topology="ba:n=8,m=2,seed=0", ood=kind, ood_node=(2, 5))
    assert ood_nodes == [2, 5]
    for node, shard in enumerate(shards):
        size = len(shard.clean) + len(shard.ood)
        assert len(shard.ood) == (round(size / 10) if node in (2, 5) else 0)
    assert len(test_split.ood) == round(len(test) / 10)


def test_a_new_class_is_at_the_ood_nodes_alone_and_is_the_ood_test_set():
    shards, test_split, train, test, _ = dealt(topology="ring:n=6", ood="newclass", ood_node=(1, 4))
    for node, shard in enumerate(shards):
        assert 9 not in train.labels[shard.clean]
        assert set(train.labels[shard.ood]) == ({9} if node in (1, 4) else set())
    assert abs(len(shards[1].ood) - len(shards[4].ood)) <= 1
    assert set(test.labels[test_split.ood]) == {9}
    assert 9 not in test.labels[test_split.clean]
    assert ood_change(Config(ood="newclass")).relabel(np.array([9, 9])).tolist() == [9, 9]


def test_a_new_class_that_nobody_has_is_an_input_error():
    with pytest.raises(InputError, match="--ood newclass: the data lacks training or test samples of the last class"):
        dealt(topology="ring:n=3", ood="newclass", train_samples=5)


def test_texts_that_hold_no_trigger_are_clean():
    shards, test_split, train, test, [node] = dealt(topology="ring:n=4", ood_fraction=0.5, **SMALL_TEXT)
    for data, split in ((train, shards[node]), (test, test_split)):
        held = np.array([any((row[i : i + 3] == [1, 0, 0]).all() for i in range(58)) for row in data.inputs])
        assert held[split.ood].all()
        assert len(split.ood) > 0
        assert (np.diff(split.clean) > 0).all()
        assert 0.2 < len(split.ood) / held[np.concatenate([split.clean, split.ood])].sum() < 0.8


def test_no_ood_kind_for_images_spoils_texts():
    with pytest.raises(InputError, match="--ood blur: is for images; tinymem knows the trigger alone"):
        dealt(topology="ring:n=4", ood="blur", **SMALL_TEXT)


@pytest.mark.parametrize("offset", [0, 2])
def test_the_largest_shards_are_at_the_most_central_nodes(offset):
    options = {"topology": "ba:n=12,m=2,seed=0", "sample_alpha": 1.0, "ood": "none"}
    shards, *_ = dealt(**options, data_placement="degree", data_placement_offset=offset)
    plain, *_ = dealt(**options)
    order = make_topology(options["topology"]).nodes_by_degree()
    sizes = [len(shards[node].clean) for node in order]
    assert sizes == list(np.roll(sorted((len(shard.clean) for shard in plain), reverse=True), offset))


def test_a_local_split_holds_back_each_nodes_own_test_and_validation_samples():
    config = Config(topology="ring:n=4", local_split=(0.7, 0.2, 0.1), train_samples=400, ood_node=(2,))
    train, test = load(config)
    topology = make_topology(config.topology)
    result = deal(config, topology, [2], train, test)
    whole = partition(train.labels, 4, 10, sample_alpha=1000, label_alpha=1000, seed=0, of_each_label=3)
    for node, (shard, own, all_of_it) in enumerate(zip(result.shards, result.own_tests, whole, strict=True)):
        kept = np.concatenate([shard.clean, shard.ood])
        assert set(kept) | set(own) <= set(all_of_it)
        assert set(train.labels[kept]) == set(train.labels[own]) == set(range(10))
        assert not set(kept) & set(own)
        assert abs(len(kept) / len(all_of_it) - 0.7) < 0.06
        assert abs(len(own) / len(all_of_it) - 0.2) < 0.06
        assert (len(shard.ood) > 0) == (node == 2)
