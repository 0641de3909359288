import math

import pytest
import torch
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from bdlbench.stats.calibration import (
    brier_score,
    calibration_error_without_blocks,
    expected_calibration_error,
    proportion_interval,
    reliability,
    top_class,
)


def draw(num, classes, seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    probs = (3 * torch.randn(num, classes, generator=rng, dtype=torch.float64)).softmax(-1)
    return probs.to(dtype), torch.randint(classes, (num,), generator=rng)


def test_top_class_by_hand():
    probs = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.4, 0.4, 0.2]])
    confidence, correct = top_class(probs, torch.tensor([1, 0, 1]))
    assert torch.equal(confidence, torch.tensor([0.5, 0.4, 0.4]))
    assert correct.tolist() == [1.0, 1.0, 0.0]  # of equal probabilities the first


def test_top_class_of_nan_is_nan():
    probs = torch.tensor([[0.2, math.nan], [0.3, 0.7]])
    _, correct = top_class(probs, torch.tensor([1, 1]))  # argmax picks the NaN, and would call it right
    assert math.isnan(correct[0])
    assert correct[1] == 1


def test_calibration_error_by_hand():
    # two bins: (0, 0.5] holds 0.3 (right) and 0.5 (wrong); (0.5, 1] holds 0.9 (right), 0.7 (wrong)
    confidence = torch.tensor([0.3, 0.5, 0.9, 0.7], dtype=torch.float64)
    correct = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    expected = 0.5 * abs(0.5 - 0.4) + 0.5 * abs(0.5 - 0.8)
    assert float(expected_calibration_error(confidence, correct, bins=2)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("edge", range(1, 15))
def test_bins_are_closed_on_the_right(edge, dtype):
    # gaps of opposite sign cancel in one bin and add up in two
    at = torch.tensor(edge / 15, dtype=torch.float64).to(dtype)
    below, above = at - 0.01, at + 0.01
    correct = torch.tensor([0.0, 1.0], dtype=torch.float64)
    same = expected_calibration_error(torch.stack([below, at]), correct)
    assert float(same) == pytest.approx(abs(1 - float(below) - float(at)) / 2, abs=1e-12)
    other = expected_calibration_error(torch.stack([at, above]), correct)
    assert float(other) == pytest.approx((float(at) + 1 - float(above)) / 2, abs=1e-12)


def test_confidence_one_and_rounding_beyond_it_lie_in_the_last_bin():
    confidence = torch.tensor([1.0, 0.95, 1.0000001])
    correct = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    expected = abs(float((correct - confidence.double()).sum())) / 3
    assert float(expected_calibration_error(confidence, correct)) == pytest.approx(expected, abs=1e-15)


def test_perfect_calibration_is_zero():
    confidence = torch.full((4,), 0.75, dtype=torch.float64)
    assert expected_calibration_error(confidence, torch.tensor([1.0, 1.0, 1.0, 0.0])) == 0


def test_calibration_error_equals_the_mean_form_of_the_paper():
    probs, y = draw(2000, 5)
    confidence, correct = top_class(probs, y)
    total = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            total += float(inside.double().mean() * (correct[inside].mean() - confidence[inside].mean()).abs())
    assert float(expected_calibration_error(confidence, correct)) == pytest.approx(total, abs=1e-14)


@pytest.mark.parametrize("classes", [2, 7])
def test_brier_is_sklearn(classes):
    probs, y = draw(500, classes)
    theirs = brier_score_loss(y.numpy(), probs.numpy(), labels=list(range(classes)), scale_by_half=False)
    assert float(brier_score(probs, y)) == pytest.approx(theirs, abs=1e-14)


def test_brier_by_hand():
    probs, y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]]), torch.tensor([0, 1, 0])
    assert float(brier_score(probs, y)) == pytest.approx((0 + 2 + 0.5) / 3, abs=1e-15)


@pytest.mark.parametrize("kernel", [brier_score, lambda p, y: expected_calibration_error(*top_class(p, y))])
def test_nan_in_nan_out(kernel):
    probs, y = draw(50, 3, dtype=torch.float32)
    probs[7, 1] = math.nan
    assert math.isnan(kernel(probs, y))


def test_of_no_examples_nothing_is_known():
    empty = torch.empty(0)
    assert math.isnan(expected_calibration_error(empty, empty))
    assert math.isnan(brier_score(torch.empty(0, 3), torch.empty(0, dtype=torch.int64)))


def test_a_reliability_diagram_holds_the_calibration_error():
    probs, y = draw(500, 4, seed=3)
    confidence, correct = top_class(probs, y)
    found = reliability(confidence, correct, bins=7)
    gaps = (found.size / 500 * (found.accuracy - found.confidence).abs()).nan_to_num()
    assert float(gaps.sum()) == pytest.approx(float(expected_calibration_error(confidence, correct, bins=7)), abs=1e-14)
    full = found.size > 0
    accuracy, mean = calibration_curve(correct.numpy(), confidence.numpy(), n_bins=7)
    torch.testing.assert_close(found.accuracy[full], torch.from_numpy(accuracy))
    torch.testing.assert_close(found.confidence[full], torch.from_numpy(mean))
    assert found.size.sum() == 500 and bool(found.accuracy[~full].isnan().all())


def test_proportion_interval_is_jeffreys():
    low, high = proportion_interval(torch.tensor([0.0, 3.0, 10.0, 2.5]), torch.tensor([10.0, 10.0, 10.0, 9.5]))
    assert (float(low[0]), float(high[2])) == (0.0, 1.0)
    assert float(high[0]) == pytest.approx(stats.beta(0.5, 10.5).ppf(0.975))
    assert low[1:].tolist() == pytest.approx([stats.beta(k + 0.5, n - k + 0.5).ppf(0.025) for k, n in
                                              ((3, 10), (10, 10), (2.5, 9.5))])  # fmt: skip
    assert (low[1], high[1]) == (pytest.approx(0.0927, abs=1e-4), pytest.approx(0.6058, abs=1e-4))


def test_without_a_block_it_is_the_calibration_error_of_the_rest():
    confidence, correct = top_class(*draw(103, 4, seed=5, dtype=torch.float32))
    block = torch.arange(103) % 9
    found = calibration_error_without_blocks(confidence, correct, block, bins=6)
    rest = [expected_calibration_error(confidence[block != b], correct[block != b], bins=6) for b in range(9)]
    torch.testing.assert_close(found, torch.stack(rest), rtol=0, atol=1e-14)
    confidence[3] = math.nan
    assert calibration_error_without_blocks(confidence, correct, block).isnan().all()
