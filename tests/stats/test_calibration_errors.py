import math

import numpy as np
import pytest
import torch

from bdlbench.stats import calibration_errors
from bdlbench.stats.calibration import expected_calibration_error, top_class

KERNELS = {
    "adaptive": calibration_errors.adaptive_calibration_error,
    "smooth": calibration_errors.smooth_calibration_error,
    "rms": calibration_errors.rms_calibration_error,
    "debiased": lambda *given: calibration_errors.rms_calibration_error(*given, debiased=True),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


def draw(num, classes, sharpness, seed):
    """Probabilities, and classes drawn from less sharp ones: an overconfident classifier."""
    rng = np.random.default_rng(seed)
    probs = torch.from_numpy(sharpness * rng.standard_normal((num, classes))).softmax(-1)
    true = probs.sqrt() / probs.sqrt().sum(1, keepdim=True)
    y = (rng.random((num, 1)) > true.cumsum(1).numpy()).sum(1).clip(0, classes - 1)
    return probs, torch.from_numpy(y)


def whole(kernel, confidence, correct, **options):
    kept = torch.ones(1, len(confidence), dtype=torch.bool)
    return float(kernel(torch.as_tensor(confidence), torch.as_tensor(correct), kept, **options)[0])


def test_adaptive_bins_hold_equally_many_examples():
    # two bins of three: 0.1, 0.2, 0.3 of which one is right, and 0.4, 0.8, 0.9 of which two are
    confidence = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.4, 0.3], dtype=torch.float64)
    correct = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    found = whole(KERNELS["adaptive"], confidence, correct, bins=2)
    assert found == pytest.approx((abs(1 - 0.6) + abs(2 - 2.1)) / 6, abs=1e-15)


def test_the_order_of_equally_confident_examples_does_not_matter():
    same, correct = torch.full((4,), 0.5, dtype=torch.float64), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert whole(KERNELS["adaptive"], same, correct, bins=2) == 0  # and 0.5 where the right ones stand first


def test_adaptive_of_one_bin_is_the_gap_of_means():
    confidence, correct = top_class(*draw(100, 4, 2.0, 3))
    found = whole(KERNELS["adaptive"], confidence, correct, bins=1)
    assert found == pytest.approx(abs(float((correct - confidence).mean())), abs=1e-14)


def test_rms_by_hand():
    # (0, 0.5] holds 0.3 (right) and 0.5 (wrong); (0.5, 1] holds 0.9 (right), 0.7 (wrong) and 0.8 (right)
    confidence = torch.tensor([0.3, 0.5, 0.9, 0.7, 0.8], dtype=torch.float64)
    correct = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    low, high = (0.5 - 0.4) ** 2, (2 / 3 - 0.8) ** 2
    found = whole(KERNELS["rms"], confidence, correct, bins=2)
    assert found == pytest.approx(math.sqrt(2 / 5 * low + 3 / 5 * high), abs=1e-15)
    assert whole(KERNELS["rms"], confidence, correct, bins=2, debiased=True) == 0  # less than chance alone adds


@pytest.mark.parametrize(("gap", "expected"), [(0.0, 0.0), (0.1, 0.01)])
def test_the_square_of_the_debiased_error_has_no_bias(gap, expected):
    """Of samples of 40 in one bin: the plain square is too large by the variance of the accuracy."""
    rng = np.random.default_rng(1)
    confidence = torch.full((40,), 0.7, dtype=torch.float64)
    right = torch.from_numpy(rng.random((4000, 40)) < 0.7 - gap).double()
    accuracy = right.mean(1)
    plain = np.array([whole(KERNELS["rms"], confidence, row) ** 2 for row in right[:500]])
    assert plain == pytest.approx(((accuracy[:500] - 0.7) ** 2).numpy(), abs=1e-14)
    # the debiased square before its root, which is cut at 0, can only be seen where it is above 0
    debiased = (accuracy - 0.7) ** 2 - accuracy * (1 - accuracy) / 39
    shown = np.array([whole(KERNELS["debiased"], confidence, row) ** 2 for row in right[:500]])
    assert shown == pytest.approx(debiased[:500].clamp_min(0).numpy(), abs=1e-14)
    error = float(debiased.std()) / math.sqrt(len(debiased))
    assert abs(float(debiased.mean()) - expected) < 4 * error
    assert float(((accuracy - 0.7) ** 2).mean()) - expected > 10 * error


def integral(confidence, correct, sigma, points=1001):
    """∫ |1/N Σ gap_n K_σ(t, f_n)| dt with the kernel's mirror images written out."""
    t = np.linspace(0, 1, points)[:, None]
    kernel = np.zeros((points, len(confidence)))
    for turn in range(-1, 2):
        for image in (confidence, -confidence):
            kernel += np.exp(-((t - 2 * turn - image) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
    return np.trapezoid(np.abs(kernel @ (correct - confidence)) / len(confidence), dx=1 / (points - 1))


@pytest.mark.parametrize("case", [(300, 4, 1.0, 0), (200, 3, 3.0, 1), (150, 10, 6.0, 2)])
def test_the_smooth_error_is_the_width_at_which_it_is_the_width(case):
    confidence, correct = top_class(*draw(*case))
    found = whole(KERNELS["smooth"], confidence, correct)
    assert integral(confidence.numpy(), correct.numpy(), found) == pytest.approx(found, abs=1e-4)


def test_the_smooth_error_of_perfect_and_of_hopeless_predictions():
    sure = torch.ones(20, dtype=torch.float64)
    assert whole(KERNELS["smooth"], sure, sure) == 0
    assert whole(KERNELS["smooth"], sure, 0 * sure) == pytest.approx(1, abs=1e-6)
    slightly = torch.full((1000,), 0.999, dtype=torch.float64)  # narrower than the narrowest kernel
    assert whole(KERNELS["smooth"], slightly, torch.ones(1000).double()) == pytest.approx(0.001, abs=1e-6)


# relplot 1.0.3 (by the authors of smooth ECE) on a mesh of 20,000 points; netcal 1.4.0, ECE(15, equal_intervals=False)
JUDGED = {(300, 4, 1.0, 0): (0.12509003915741865, 0.14305841987737966)}
JUDGED_ADAPTIVE = {
    (900, 3, 3.0, 1): 0.15719967592742312,
    (450, 10, 6.0, 2): 0.16927238781760573,
}


def test_the_authors_code_and_netcal():
    for case, (smooth, adaptive) in JUDGED.items():
        confidence, correct = top_class(*draw(*case))
        assert whole(KERNELS["smooth"], confidence, correct) == pytest.approx(smooth, abs=1e-6)
        assert whole(KERNELS["adaptive"], confidence, correct) == pytest.approx(adaptive, abs=1e-14)
    for case, adaptive in JUDGED_ADAPTIVE.items():
        assert whole(KERNELS["adaptive"], *top_class(*draw(*case))) == pytest.approx(adaptive, abs=1e-14)


def test_torchmetrics(torchmetrics_calibration_error):
    from torchmetrics.functional.classification import binary_calibration_error
    from torchmetrics.functional.classification.calibration_error import _ce_compute

    probs, y = draw(501, 5, 2.0, 4)
    confidence, correct = top_class(probs, y)
    bounds = torch.linspace(0, 1, 16, dtype=torch.float64)
    for debiased in (False, True):
        theirs = float(_ce_compute(confidence, correct, bounds, "l2", debias=debiased))
        assert whole(KERNELS["rms"], confidence, correct, debiased=debiased) == pytest.approx(theirs, abs=1e-12)
    theirs = [
        float(binary_calibration_error(p.contiguous(), (y == c).long(), n_bins=15, norm="l1"))
        for c, p in enumerate(probs.unbind(1))
    ]
    ours = float(calibration_errors.classwise_calibration_error(probs, y))
    assert ours == pytest.approx(sum(theirs) / 5, abs=1e-6)


def test_classwise_by_hand():
    probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], dtype=torch.float64)
    y = torch.tensor([0, 1, 1])
    # of class 0, (0.5, 1] holds 0.9 (it is) and 0.6 (it is not), (0, 0.5] holds 0.2; class 1 mirrors it
    expected = (abs(1 - 1.5) + abs(0 - 0.2)) / 3
    assert float(calibration_errors.classwise_calibration_error(probs, y, bins=2)) == pytest.approx(expected)


def test_classwise_sees_what_the_top_class_hides():
    probs = torch.tensor([[0.6, 0.4, 0.0]] * 10, dtype=torch.float64)
    y = torch.tensor([0] * 6 + [2] * 4)
    assert float(expected_calibration_error(*top_class(probs, y))) == pytest.approx(0)
    assert float(calibration_errors.classwise_calibration_error(probs, y)) == pytest.approx((0.4 + 0.4) / 3)


def test_classwise_without_blocks_is_the_error_of_the_rest():
    probs, y = draw(103, 4, 2.0, 5)
    block = torch.arange(103) % 9
    found = calibration_errors.classwise_without_blocks(probs, y, block, bins=6)
    rest = [
        float(calibration_errors.classwise_calibration_error(probs[block != b], y[block != b], 6)) for b in range(9)
    ]
    assert found.tolist() == pytest.approx(rest, abs=1e-14)


@every_kernel
def test_a_selection_is_as_good_as_the_examples_alone(kernel):
    confidence, correct = top_class(*draw(120, 4, 2.0, 6))
    confidence = (confidence * 20).round() / 20  # with ties
    kept = torch.arange(120) % 5 != torch.arange(5)[:, None]
    found = kernel(confidence, correct, kept)
    alone = [whole(kernel, confidence[row], correct[row]) for row in kept]
    assert found.tolist() == pytest.approx(alone, abs=1e-10)


@every_kernel
def test_nan_is_nan(kernel):
    confidence, correct = top_class(*draw(30, 3, 2.0, 7))
    confidence[4], correct[4] = math.nan, math.nan
    assert math.isnan(whole(kernel, confidence, correct))
