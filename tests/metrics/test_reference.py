"""Distances from a reference's predictive, by hand."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from bdlbench.metrics.chains import metrics as of_chains
from bdlbench.metrics.reference import metrics

NOTHING = {"agreement": {}, "total_variation": {}, "predictive_w2": {}}


def beside(evaluation, **arrays):
    """The evaluation with a reference that predicts these arrays."""
    return dataclasses.replace(evaluation, gold=SimpleNamespace(arrays=lambda: arrays))


def values(evaluation):
    return {name: metric(evaluation) for name, metric in metrics.items()}


def test_without_a_reference_nothing_is_defined(make):
    for evaluation in (make().classification(), make().regression(), make().density()):
        assert values(evaluation) == NOTHING


def test_classes_by_hand(make):
    evaluation = make(rows=1).classification(num=2)
    ours = torch.tensor([[[0.6, 0.3, 0.1, 0.0], [0.25, 0.5, 0.25, 0.0]]])
    test = SimpleNamespace(arrays=lambda: {"probs": ours})
    theirs = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.5, 0.25, 0.25, 0.0]]])
    found = values(beside(dataclasses.replace(evaluation, test=test), probs=theirs))
    assert found["agreement"][""].tolist() == [0.5]  # of equal classes the first one counts
    assert found["total_variation"][""].tolist() == pytest.approx([(0.2 + 0.25) / 2], abs=1e-7)
    assert found["predictive_w2"] == {}


def test_numbers_by_hand(make):
    evaluation = make(rows=1).regression(num=2)
    test = SimpleNamespace(arrays=lambda: {"mean": torch.tensor([[1.0, 2.0]]), "sd": torch.tensor([[1.0, 2.0]])})
    reference = {"mean": torch.tensor([[4.0, 2.0]]), "sd": torch.tensor([[5.0, 1.0]])}
    found = values(beside(dataclasses.replace(evaluation, test=test), **reference))
    assert found["predictive_w2"][""].tolist() == [(5.0 + 1.0) / 2]
    assert found["agreement"] == found["total_variation"] == {}


def test_a_predictive_agrees_with_itself(make):
    evaluation = make().classification()
    found = values(dataclasses.replace(evaluation, gold=evaluation.test))
    assert found["agreement"][""].tolist() == [1.0] * 3
    assert found["total_variation"][""].tolist() == [0.0] * 3
    evaluation = make().regression()
    assert values(dataclasses.replace(evaluation, gold=evaluation.test))["predictive_w2"][""].tolist() == [0.0] * 3


def test_diagnoses_of_chains_are_those_of_the_worst_example(make):
    evaluation = make(rows=2).classification(num=2)
    rhat, ess = torch.tensor([[1.0, 1.2], [1.1, 1.0]]), torch.tensor([[50.0, 20.0], [10.0, 90.0]])
    facts = {"rhat[log_joint]": torch.tensor([1.01, 1.02]), "divergences": torch.tensor([0.0, 3.0])}
    test = dataclasses.replace(evaluation.test, facts={"rhat": rhat, "ess": ess})
    seen = dataclasses.replace(evaluation, test=test, facts=facts)
    found = {name: metric(seen) for name, metric in of_chains.items()}
    torch.testing.assert_close(found["rhat"]["predictions"], torch.tensor([1.2, 1.1]).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found["rhat"]["log_joint"], torch.tensor([1.01, 1.02]).double(), rtol=1e-6, atol=0)
    assert found["ess"]["predictions"].tolist() == [20.0, 10.0]
    assert found["divergences"][""].tolist() == [0.0, 3.0]
    assert found["acceptance"] == {}
    assert all(metric(evaluation) == {} for metric in of_chains.values())
