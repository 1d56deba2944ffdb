"""Every address has random numbers of its own: the ones that Philox, written out here, has at that counter."""

import itertools

import numpy as np
import pytest

from mpisim.streams import Purpose, stream, torch_seed

WORD = 2**64


def philox_words(key: list[int], counter: list[int]) -> list[int]:
    """Return the four words of Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c0, WORD)
        high1, low1 = divmod(0xCA5A826395121157 * c2, WORD)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % WORD, (k1 + 0xBB67AE8584CAA73B) % WORD
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(
    ("seed", "purpose", "node", "round"),
    [
        (0, Purpose.PARTITION, 0, 0),
        (7, Purpose.DATA_ORDER, 3, 40),
        (2**63 - 1, Purpose.LINKS, 99_999, 10_000),
        (2**63, Purpose.INITIAL_MODEL, 1, 0),
        (2**64 - 1, Purpose.RANDOM_WEIGHTS, 0, 1),
    ],
)
def test_the_address_is_philoxs_key_and_counter(seed: int, purpose: Purpose, node: int, round: int) -> None:
    words = stream(seed, purpose, node=node, round=round).bit_generator.random_raw(8)
    # numpy steps the counter before each block of four words.
    first, second = (philox_words([seed, int(purpose)], [block, 0, node, round]) for block in (1, 2))
    assert words.tolist() == first + second


def test_the_numbers_of_an_address_stay_the_same_in_every_version() -> None:
    np.testing.assert_allclose(
        stream(3, Purpose.LINKS, node=2, round=5).random(3), [0.20522942, 0.09430213, 0.69047836], atol=1e-8
    )
    assert torch_seed(0, Purpose.INITIAL_MODEL, node=1) == 6_324_761_670_042_863_761


def test_a_purpose_keeps_its_number() -> None:
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "PARTITION": 1,
        "OOD_SAMPLES": 2,
        "OOD_TEST": 3,
        "INITIAL_MODEL": 4,
        "DATA_ORDER": 5,
        "RANDOM_WEIGHTS": 6,
        "LINKS": 7,
        "PARTICIPATION": 8,
        "DROPOUT": 9,
        "AUGMENTATION": 10,
        "LOCAL_SPLIT": 11,
        "OOD_CHANGE": 12,
        "OOD_TEST_CHANGE": 13,
    }


def test_no_two_addresses_share_a_number() -> None:
    seeds = [0, 1, 2, 2**62, 2**62 + 1, 2**63 - 1]
    addresses = list(itertools.product(seeds, Purpose, range(6), range(6)))
    words = np.array([stream(s, p, node=n, round=r).bit_generator.random_raw(4) for s, p, n, r in addresses])
    assert np.unique(words).size == 4 * len(addresses)


def test_seeds_of_64_bits_differ_in_every_bit() -> None:
    seeds = [2**64 - 1, 2**64 - 2, 2**63, 2**63 + 1]
    assert len({stream(seed, Purpose.LINKS).bit_generator.random_raw() for seed in seeds}) == len(seeds)


def test_draws_do_not_depend_on_draws_from_other_addresses() -> None:
    alone = stream(1, Purpose.DATA_ORDER, node=2, round=3).permutation(50)
    first, second = stream(1, Purpose.DATA_ORDER, node=2, round=3), stream(1, Purpose.DATA_ORDER, node=3, round=3)
    second.random(1000)
    np.testing.assert_array_equal(first.permutation(50), alone)


@pytest.mark.parametrize("along", ["node", "round", "seed"])
def test_first_draws_of_neighboring_addresses_are_uniform_and_uncorrelated(along: str) -> None:
    count = 4000
    draws = np.array(
        [
            stream(k, Purpose.LINKS).random() if along == "seed" else stream(0, Purpose.LINKS, **{along: k}).random()
            for k in range(count)
        ]
    )
    # Independent draws stay below these bounds, of Kolmogorov and Smirnov and of the correlation, in 99.99 % of cases.
    assert np.abs(np.sort(draws) - (np.arange(count) + 0.5) / count).max() < 2.3 / count**0.5
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 4 / count**0.5


def test_torch_seeds_fit_torch_and_differ_between_addresses() -> None:
    seeds = [torch_seed(s, p, node=n) for s, p, n in itertools.product(range(3), Purpose, range(100))]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
