"""Which ratios count as slower; no test here depends on how long anything takes."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from bdlbench.gate import speed
from bdlbench.gate.contracts import own_methods


def test_only_what_is_always_slower_counts():
    reference = {"elbo": 2.0, "mle": 1.0, "gone": 1.0}
    runs = iter([{"elbo": 2.7, "mle": 1.4}, {"elbo": 2.6, "mle": 1.0}, {"elbo": 2.8, "mle": 1.0}])
    assert speed.excess(reference, next(runs), 1.15, lambda: next(runs)) == {"elbo": pytest.approx(1.3)}
    assert list(runs) == []


def test_a_good_first_measurement_is_enough():
    runs = iter([{"elbo": 2.2}])
    assert speed.differences({"elbo": 2.0}, 1.15, lambda: next(runs)) == []


def test_a_ratio_that_one_side_lacks_is_a_difference():
    found = speed.differences({"elbo": 2.0, "gone": 1.0}, 1.15, lambda: {"new": 1.0, "elbo": 3.0})
    slow = "the step of elbo takes 1.50 times what it took, as a ratio to a plain torch step"
    assert found == ["gone: no such ratio any more", "new: not in the reference", slow]


@pytest.mark.slow
def test_every_method_that_minimises_is_timed_and_threads_come_back():
    torch.set_num_threads(2)
    found = speed.ratios(rounds=1)
    assert torch.get_num_threads() == 2
    composed = {"deep_ensemble", "multiswag", "active", "sequential", "temperature_scaling"}
    methods = set(own_methods()) - {"exact", "ols"} - composed
    too_large = {"hmc · mlp 784-300-100-10"}  # it refuses so many parameters
    assert found.keys() == {f"{method} · mlp {size}" for method in methods for size in speed.SIZES} - too_large
    assert all(ratio > 0 for ratio in found.values())


@pytest.mark.slow
def test_the_plain_step_trains(monkeypatch):
    """The first loss is that of an even guess; a second pass over the same batches finds each of them better known."""
    losses = []

    def heard(*args):
        losses.append(cross_entropy(*args))
        return losses[-1]

    monkeypatch.setattr(speed, "cross_entropy", heard)
    size = speed.SIZES["64-100-10"]
    x, _ = speed._examples(size)
    assert (len(x), x.shape[1]) == (speed.TIMED_STEPS * size.batch, size.features)
    steps = speed._plain(size)
    steps(), steps()
    first, second = torch.stack(losses).detach().split(speed.TIMED_STEPS)
    assert first[0].item() == pytest.approx(math.log(speed.NUM_CLASSES), abs=0.1)
    assert (second < first).all()
