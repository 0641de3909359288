import hashlib

import numpy as np
import pytest
import torch
from scipy import stats

from bdlbench.core.streams import LARGE, Streams

LIKE = torch.empty(0)
SEEDS = tuple(range(20))


def draws(streams, kind="normal", shape=(1000,)):
    return getattr(streams, kind)(shape, LIKE)


def test_normal_numbers_are_standard_normal():
    numbers = draws(Streams.of_seeds([0]), shape=(40_000,)).double()[0]
    assert abs(numbers.mean()) < 5 / 200
    assert abs(numbers.var() - 1) < 5 * (2 / 40_000) ** 0.5
    assert stats.kstest(numbers.numpy(), "norm").pvalue > 1e-4


def test_bits_are_uniform_in_every_place():
    bits = draws(Streams.of_seeds([0]), "bits", (100_000,))[0]
    assert bits.dtype == torch.int16
    counts = np.bincount((bits.int() + 32768).numpy() >> 8, minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4
    low = np.bincount(bits.int().numpy() & 255, minlength=256)
    assert stats.chisquare(low).pvalue > 1e-4


@pytest.mark.parametrize("kind", ["normal", "bits"])
def test_streams_are_independent(kind):
    root = Streams.of_seeds(SEEDS)
    named = [root.child(name) for name in ("init", "batches 0", "batches 1", "noise", "predict test", "noise 1")]
    found = torch.cat([draws(s, kind) for s in (root, *named)] + [draws(root.members(2), kind)[1::2]]).double()
    correlations = torch.corrcoef(found) - torch.eye(len(found), dtype=torch.float64)
    assert correlations.abs().max() < 5.5 / 1000**0.5  # the largest of 12,720


@pytest.mark.parametrize("kind", ["normal", "bits"])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (1000,), (70_001,)])
def test_a_row_draws_the_same_alone_or_among_twenty(kind, shape):
    together, alone = Streams.of_seeds(SEEDS).child("noise"), Streams.of_seeds([13]).child("noise")
    for _ in range(3):
        values = draws(together, kind, shape)
        assert values.shape == (20, *shape)
        assert torch.equal(values[13:14], draws(alone, kind, shape))


@pytest.mark.parametrize("kind", ["normal", "bits"])
def test_samples_are_keyed_by_row_and_number(kind):
    root = Streams.of_seeds(SEEDS[:3])
    whole = draws(root.samples(0, 10), kind, (5, 3))
    assert whole.shape == (10, 3, 5, 3)
    assert torch.equal(draws(root.samples(4, 2), kind, (5, 3)), whole[4:6])
    assert torch.equal(draws(Streams.of_seeds([1]).samples(0, 10), kind, (5, 3)), whole[:, 1:2])
    assert whole.flatten(2).flatten(0, 1).unique(dim=0).shape[0] == 30


def test_consecutive_draws_of_samples_differ_and_do_not_depend_on_the_chunk():
    root = Streams.of_seeds([0, 1])
    chunked, whole = root.samples(2, 1), root.samples(0, 4)
    first, second = draws(whole, shape=(7,)), draws(whole, shape=(7,))
    assert torch.equal(draws(chunked, shape=(7,)), first[2:3])
    assert torch.equal(draws(chunked, shape=(7,)), second[2:3])
    assert not torch.equal(first, second)


def test_member_0_keeps_the_rows_own_stream():
    root = Streams.of_seeds([5, 6])
    members = root.members(3)
    assert members.lead == (6,)
    assert members.keys[::3] == root.keys
    assert len(set(members.keys)) == 6
    assert root.members(1).keys == root.keys
    assert Streams.of_seeds([6]).members(3).keys == members.keys[3:]


def test_a_child_does_not_depend_on_what_was_drawn():
    root, other = Streams.of_seeds([0]), Streams.of_seeds([0])
    draws(root)
    assert torch.equal(draws(root.child("noise")), draws(other.child("noise")))
    assert not torch.equal(draws(root.child("noise")), draws(root.child("init")))


@pytest.mark.parametrize("samples", [None, 2])
def test_streams_apart_are_those_of_each_row_alone(samples):
    """The same alone as among others, not those of the rows together, and they go on at the next call."""
    seeds, lead = (3, 4), (1,) if samples is None else (1, 1)
    roots = [Streams.of_seeds(some) for some in (seeds, seeds[1:])]
    both, one = (root if samples is None else root.samples(0, samples) for root in roots)
    for _ in range(2):
        numbers = [draws(own) for own in both.apart()]
        assert len(numbers) == 2 * (samples or 1) and numbers[0].shape[: len(lead)] == lead
        assert torch.equal(draws(one.apart()[0]), numbers[1])
        assert not torch.equal(numbers[0], numbers[1])
    assert not torch.equal(draws(both).flatten()[: numbers[0].numel()], numbers[0].flatten())


def test_streams_apart_are_part_of_a_position():
    whole, resumed = Streams.of_seeds([3, 4]), Streams.of_seeds([3, 4])
    before = whole.drawn()
    draws(whole)
    for i in range(3):
        draws(whole.apart()[i % 2])
    assert whole.drawn() != before
    resumed.resume(whole.position(), torch.device("cpu"))
    assert torch.equal(draws(whole), draws(resumed))
    for one, other in zip(whole.apart(), resumed.apart(), strict=True):
        assert torch.equal(draws(one), draws(other))


@pytest.mark.parametrize("before", [0, 1, 5, 70])
def test_a_resumed_stream_goes_on_exactly(before):
    kinds = [("normal", (1003,)), ("bits", (17, 61)), ("normal", (3,)), ("bits", (5,))]
    whole = Streams.of_seeds([3, 4])
    for i in range(before):
        draws(whole, *kinds[i % 4])
    resumed = Streams.of_seeds([3, 4])
    resumed.resume(whole.position(), torch.device("cpu"))
    for i in range(before, before + 80):  # past the end of the block drawn ahead
        assert torch.equal(draws(whole, *kinds[i % 4]), draws(resumed, *kinds[i % 4]))


def test_a_position_is_not_moved_by_what_is_drawn_later():
    streams = Streams.of_seeds([3])
    draws(streams)
    saved = streams.position()
    expected = draws(streams)
    draws(streams, shape=(100_000,))
    other = Streams.of_seeds([3])
    other.resume(saved, torch.device("cpu"))
    assert torch.equal(draws(other), expected)


def test_permutations_are_each_rows_own_and_fair():
    orders = Streams.of_seeds(range(600)).permutation(5)
    assert torch.equal(orders.sort(1).values, torch.arange(5).expand(600, 5))
    for place in range(5):
        assert stats.chisquare(torch.bincount(orders[:, place], minlength=5)).pvalue > 1e-5
    assert torch.equal(orders[41:42], Streams.of_seeds([41]).permutation(5))


def test_dtype_follows_and_float64_numbers_are_the_float32_ones():
    numbers = [Streams.of_seeds([0]).normal((5,), torch.empty(0, dtype=d)) for d in (torch.float32, torch.float64)]
    assert [n.dtype for n in numbers] == [torch.float32, torch.float64]
    assert torch.equal(numbers[0].double(), numbers[1])


def test_keys_must_fill_the_leading_axes(refused):
    with refused("5 keys", error=ValueError):
        Streams([1, 2, 3, 4, 5], (2, 3))


def test_the_numbers_of_a_seed_never_change():
    """Records name seeds: were these numbers to move, old records could not be reproduced."""
    root = Streams.of_seeds([0])
    assert root.keys == (238946491711796835,)
    assert root.child("init").keys == (4298101944477113356,)
    assert root.samples(3, 1).keys == (6411431352920371205,)
    assert root.members(2).keys == (238946491711796835, 1940807703866121092)
    assert hashlib.sha256(draws(root, "bits").numpy().tobytes()).hexdigest()[:16] == "230192ed33403f5e"
    assert root.permutation(5).tolist() == [[4, 0, 1, 2, 3]]


def test_what_was_drawn_shows_though_memory_is_used_again():
    """Large requests leave no block: the next one often lies where the one before last did."""
    streams, seen = Streams.of_seeds([0]), set()
    for _ in range(200):
        streams.normal((LARGE,), torch.zeros(1))
        seen.add(streams.drawn())
    assert len(seen) == 200
    again = Streams.of_seeds([0])
    before = again.drawn()
    again.resume(streams.position(), torch.device("cpu"))
    assert again.drawn() != before


def test_streams_without_axes_have_one_key():
    assert Streams([3], ()).normal((2,), torch.zeros(1)).shape == (2,)
