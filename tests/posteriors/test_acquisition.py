"""What active learning buys: closed forms, a pool whose labels have no say, random labels as a random subset."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bdlbench import catalog
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.posteriors.acquisition import BOUGHT_BY, highest
from bdlbench.predictives.mixtures import CategoricalSum
from bdlbench.training.loop import Session, session

SEEDS = (3, 1)


class Logits:
    def __init__(self, probs):
        self.logits = torch.tensor(probs, dtype=torch.float64).log()


def scores(*samples):
    """The scores of one row of examples, by the class probabilities (N, C) of each sample."""
    total = CategoricalSum(len(samples))
    for sample in samples:
        total.add(Logits([sample]))
    return total.finish().scores


def test_bald_buys_disagreement_and_entropy_all_doubt():
    """Two samples that are sure of different classes; two that agree on a coin; two that agree and are sure."""
    sure = 1 - 1e-9
    found = scores(
        [[sure, 1 - sure], [0.5, 0.5], [sure, 1 - sure], [0.9, 0.1]],
        [[1 - sure, sure], [0.5, 0.5], [sure, 1 - sure], [0.6, 0.4]],
    )
    h = lambda p: -p * math.log(p) - (1 - p) * math.log(1 - p)  # noqa: E731
    expected = [math.log(2), 0.0, 0.0, h(0.75) - (h(0.9) + h(0.6)) / 2]
    torch.testing.assert_close(
        found["mutual_information"][0].double(), torch.tensor(expected).double(), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        found["entropy"][0, :2].double(), torch.full((2,), math.log(2)).double(), rtol=0, atol=1e-6
    )
    none = torch.empty(1, 0, dtype=torch.int64)
    assert highest(found[BOUGHT_BY["bald"]], none, 2).tolist() == [[0, 3]]
    assert set(highest(found[BOUGHT_BY["entropy"]], none, 2)[0].tolist()) == {0, 1}
    assert highest(found[BOUGHT_BY["max_probability"]], none, 3)[0, 2] == 3


def test_the_highest_are_those_without_a_label_the_first_of_equal_ones():
    given = torch.tensor([[1.0, 5, 3, 3, 3], [9, 8, 7, 6, 5]])
    assert highest(given, torch.tensor([[1], [0]]), 2).tolist() == [[2, 3], [1, 2]]
    assert highest(given, torch.tensor([[2, 3], [4, 1]]), 3).tolist() == [[1, 4, 0], [0, 2, 3]]


@pytest.fixture
def fit(small):
    """fit(method, options, data): the state of a fit of the small mlp."""

    def of(name, data, **options):
        settings = {"mc_dropout": {"epochs": 3, "batch_size": 7}, "mle": {"epochs": 3}, "active": options}
        method = catalog.build_method([catalog.choice("methods", name, settings)])
        return method.fit(small.model("mlp"), data, Streams.of_seeds(SEEDS)).state

    return of


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def subset(data, index):
    some = data.batch(index)
    return Data(some.x, some.y)


@pytest.mark.parametrize("rounds", [0, 3])
def test_random_labels_are_a_random_subset(small, fit, rounds):
    data = small.classes(2)
    order = Streams.of_seeds(SEEDS).child("pool").permutation(53)
    bought = fit("active", data, acquisition="random", start=9, step=4, rounds=rounds)
    assert same(bought, fit("mc_dropout", subset(data, order[:, : 9 + 4 * rounds])))


@pytest.mark.parametrize("acquisition", ["bald", "entropy", "max_probability"])
def test_the_pool_has_no_labels_until_they_are_bought(small, fit, acquisition):
    """What is bought follows from the labels bought before; other labels are hidden without a change."""
    data = small.classes(2)
    start = Streams.of_seeds(SEEDS).child("pool").permutation(53)[:, :9]
    options = {"acquisition": acquisition, "start": 9, "step": 4}
    model = small.model("mlp")
    method = catalog.build_method(
        [catalog.choice("methods", "mc_dropout", {"mc_dropout": {"epochs": 3, "batch_size": 7}})]
    )
    streams = Streams.of_seeds(SEEDS).child("round 0")
    posterior = method.fit(model, subset(data, start), streams)
    found = posterior.predict(data.x, 20, streams.child("acquisition")).scores[BOUGHT_BY[acquisition]]
    labelled = torch.cat([start, highest(found, start, 4)], -1)
    assert same(fit("active", data, rounds=1, **options), fit("mc_dropout", subset(data, labelled)))
    hidden = torch.full_like(data.y, 2).scatter(-1, labelled, data.y.gather(-1, labelled))
    assert same(fit("active", replace(data, y=hidden), rounds=1, **options), fit("active", data, rounds=1, **options))
    assert not same(
        fit("active", replace(data, y=hidden), rounds=3, **options), fit("active", data, rounds=3, **options)
    )


def test_without_rounds_and_all_labels_it_is_its_method_in_another_order(small, fit):
    data = small.classes(2)
    order = Streams.of_seeds(SEEDS).child("pool").permutation(53)
    assert same(fit("active", data, start=53, rounds=0), fit("mc_dropout", subset(data, order)))


def test_more_labels_than_there_are_and_a_point_without_disagreement_are_refused(small, fit, refused):
    with refused("start=44", "step=5", "rounds=2", "54", "53"):
        fit("active", small.classes(2), start=44, step=5, rounds=2)
    with refused("acquisition=bald", "entropy"):
        fit("active", small.classes(2), start=9, step=5, rounds=1, method="mle")


def test_a_target_without_classes_is_not_supported(small):
    method = catalog.build_method([catalog.choice("methods", "active", {})])
    assert method.unsupported(small.model("mlp")) is None
    assert "gaussian" in method.unsupported(small.model("mlp", outputs=1, likelihood="gaussian"))


def test_a_fit_that_was_stopped_in_a_later_round_buys_the_same(small, fit, tmp_path):
    data, options, heard = small.classes(2), {"start": 21, "step": 7, "rounds": 2}, []

    def listen(done, total):
        heard.append(done)
        if len(heard) == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), session(Session(tmp_path / "checkpoint", 0.0, listen)):
        fit("active", data, **options)
    assert heard.count(heard[0]) > 1  # it was in a later fit
    with session(Session(tmp_path / "checkpoint", 0.0)) as current:
        again = fit("active", data, **options)
    assert len(current.files()) == 3
    assert same(again, fit("active", data, **options))
