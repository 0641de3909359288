import dataclasses
import math

import pytest
import torch
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from bdlbench.metrics import accuracy, brier, ece, nll
from bdlbench.protocols import Evaluation

ACCURACY, NLL, ECE, BRIER = (
    accuracy.metrics["accuracy"],
    nll.metrics["nll"],
    ece.metrics["ece"],
    brier.metrics["brier"],
)


def evaluation_of(predictive, y):
    return Evaluation(predictive, torch.tensor(y), {}, {}, None)


def test_directions_and_units():
    assert [(m.unit, m.better) for m in (ACCURACY, NLL, ECE, BRIER)] == [
        ("fraction", "higher"),
        ("nats", "lower"),
        ("fraction", "lower"),
        ("probability²", "lower"),
    ]


def test_certain_and_right(certain):
    evaluation = evaluation_of(certain([[0, 2, 1]], 3), [[0, 2, 1]])
    assert [float(m(evaluation)[""]) for m in (ACCURACY, NLL, ECE, BRIER)] == [1, 0, 0, 0]
    assert math.copysign(1, NLL(evaluation)[""]) == 1  # a table shows 0, never −0


def test_certain_and_half_right(certain):
    evaluation = evaluation_of(certain([[0, 1], [1, 1]], 3), [[0, 2], [1, 1]])
    assert ACCURACY(evaluation)[""].tolist() == [0.5, 1.0]
    assert ECE(evaluation)[""].tolist() == [0.5, 0.0]
    assert BRIER(evaluation)[""].tolist() == [1.0, 0.0]
    assert NLL(evaluation)[""].isfinite().all()  # a probability of 0 is one that was lost


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize(
    ("metric", "oracle"),
    [
        (ACCURACY, lambda y, p: accuracy_score(y, p.argmax(-1))),
        (NLL, lambda y, p: log_loss(y, p, labels=range(4))),
        (BRIER, lambda y, p: brier_score_loss(y, p, labels=range(4), scale_by_half=False)),
    ],
    ids=["accuracy", "nll", "brier"],
)
def test_the_same_as_sklearn(metric, oracle, dtype, tolerance, make):
    evaluation = make(rows=3, dtype=dtype).classification()
    probs = evaluation.test.probs.double()
    probs = probs / probs.sum(-1, keepdim=True)  # sklearn warns of what float32 rounds
    theirs = [oracle(evaluation.y[r].numpy(), probs[r].numpy()) for r in range(3)]
    assert metric(evaluation)[""].tolist() == pytest.approx(theirs, abs=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ece_is_torchmetrics_away_from_the_edges(torchmetrics_calibration_error, make, dtype):
    evaluation = make(rows=3, dtype=dtype).classification(num=1000)
    theirs = [
        float(torchmetrics_calibration_error(p, y, num_classes=4, n_bins=15, norm="l1"))
        for p, y in zip(evaluation.test.probs, evaluation.y, strict=True)
    ]
    assert ECE(evaluation)[""].tolist() == pytest.approx(theirs, abs=1e-6)  # torchmetrics sums in float32


def test_torchmetrics_gives_confidence_one_its_own_bin(torchmetrics_calibration_error, make):
    # the documented difference: the gaps −1 and +0.05 cancel within our last bin, and add up in their two
    probs, y = torch.tensor([[[1.0, 0.0], [0.95, 0.05]]]), torch.tensor([[1, 0]])
    test = dataclasses.replace(make(rows=1).categorical(0, 2, classes=2), log_probs=probs.log())
    theirs = torchmetrics_calibration_error(probs[0], y[0], num_classes=2, n_bins=15, norm="l1")
    assert float(theirs) == pytest.approx((1 + 0.05) / 2, abs=1e-6)
    assert float(ECE(evaluation_of(test, y.tolist()))[""]) == pytest.approx((1 - 0.05) / 2, abs=1e-6)


def test_one_bin_is_the_gap_of_the_means(make):
    evaluation = make(rows=2).classification()
    gap = ACCURACY(evaluation)[""] - evaluation.test.probs.amax(-1).double().mean(-1)
    torch.testing.assert_close(ece.ExpectedCalibrationError(bins=1)(evaluation)[""], gap.abs(), rtol=0, atol=1e-14)
