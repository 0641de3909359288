import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import root_mean_squared_error

from bdlbench.metrics import crps, intervals, nll, rmse
from bdlbench.predictives.mixtures import GaussianMixture
from bdlbench.protocols import Evaluation
from bdlbench.stats.intervals import in_quantile_bins, mean_gap

MOMENTS = nll.metrics["moment_matched_nll"]
RMSE, NLL, CRPS = rmse.metrics["rmse"], nll.metrics["nll"], crps.metrics["crps"]
COVERAGE, CALIBRATION, QICE, SHARPNESS = intervals.metrics.values()


def one_gaussian():
    """37 targets and a Gaussian for each."""
    mean, sd = np.linspace(-1, 1, 37), np.linspace(0.3, 2, 37)
    parts = (torch.from_numpy(part).view(1, 1, -1) for part in (mean, sd))
    return Evaluation(GaussianMixture(*parts), torch.from_numpy(np.sin(np.arange(37) * 1.7) * 2)[None], {}, {}, 0)


def test_rmse_by_hand():
    means = torch.tensor([[[0.0, 1.0]], [[2.0, 3.0]]])  # (M, R, N), mean 1 and 2
    evaluation = Evaluation(GaussianMixture(means, torch.ones_like(means)), torch.tensor([[4.0, 6.0]]), {}, {}, None)
    assert float(RMSE(evaluation)[""]) == pytest.approx(math.sqrt((9 + 16) / 2), abs=1e-15)
    assert (RMSE.better, RMSE.unit) == ("lower", "target units")


def test_rmse_is_sklearn(make):
    evaluation = make(rows=3, dtype=torch.float64).regression()
    theirs = [root_mean_squared_error(evaluation.y[r], evaluation.test.mean[r]) for r in range(3)]
    assert RMSE(evaluation)[""].tolist() == pytest.approx(theirs, abs=1e-14)


def test_nll_is_scipy(make):
    evaluation = make(rows=3, dtype=torch.float64).regression()
    density = norm.pdf(evaluation.y.numpy(), evaluation.test.means.numpy(), evaluation.test.sds.numpy()).mean(0)
    theirs = -torch.from_numpy(density).log().mean(-1)
    torch.testing.assert_close(NLL(evaluation)[""], theirs, rtol=0, atol=1e-12)


def test_the_moment_matched_nll_by_hand():
    """Means 0 and 4, variances 1 and 9: mean 2, variance 5 within and 4 between, so 9; the target is 5."""
    means, sds = torch.tensor([0.0, 4.0]).double().view(2, 1, 1), torch.tensor([1.0, 3.0]).double().view(2, 1, 1)
    evaluation = Evaluation(GaussianMixture(means, sds), torch.tensor([[5.0]]).double(), {}, {}, None)
    expected = 0.5 * math.log(2 * math.pi * 9) + 0.5 * (5 - 2) ** 2 / 9
    assert MOMENTS(evaluation)[""].item() == pytest.approx(expected, abs=1e-14)
    assert NLL(evaluation)[""].item() == pytest.approx(
        -math.log(0.5 * norm.pdf(5, 0, 1) + 0.5 * norm.pdf(5, 4, 3)), abs=1e-14
    )


def test_the_moment_matched_nll_of_one_gaussian_is_its_nll():
    assert MOMENTS(one_gaussian())[""].item() == pytest.approx(NLL(one_gaussian())[""].item(), abs=1e-14)


def test_what_needs_numbers_is_undefined_for_classes(make):
    for metric in (RMSE, MOMENTS, CRPS, COVERAGE, CALIBRATION, QICE, SHARPNESS):
        assert metric(make().classification()) == metric(make().density()) == {}


def test_calibration_is_that_of_the_uncertainty_toolbox():
    """Version .1.1 on the same numbers: mean_absolute_calibration_error, sharpness, get_proportion_in_interval(.9)."""
    evaluation = one_gaussian()
    assert CALIBRATION(evaluation)[""].item() == pytest.approx(0.1777723177723178, abs=1e-12)
    assert SHARPNESS(evaluation)[""].item() == pytest.approx(1.2556723151216493, abs=1e-12)
    assert COVERAGE(evaluation)["90"].item() == pytest.approx(0.9 - 0.7027027027027027, abs=1e-12)


@pytest.mark.slow
def test_intervals_and_quantile_bins_are_those_of_a_large_sample(make):
    """Of each example 200,000 draws from its mixture: their quantiles hold the target as the distribution says."""
    evaluation = make(rows=2, dtype=torch.float64).regression(num=60)
    means, sds = evaluation.test.components()
    rng = np.random.default_rng(0)
    for r in range(2):
        which = rng.integers(0, 5, (200_000, 60))
        draws = rng.normal(means[:, r].numpy()[which, np.arange(60)], sds[:, r].numpy()[which, np.arange(60)])
        y = evaluation.y[r].numpy()
        assert np.allclose((draws <= y).mean(0), evaluation.test.cdf(evaluation.y)[r], atol=0.006)
        for percent in (50, 90, 95):
            low, high = np.percentile(draws, [50 - percent / 2, 50 + percent / 2], axis=0)
            held = ((low <= y) & (y <= high)).mean()
            assert COVERAGE(evaluation)[str(percent)][r].item() == pytest.approx(abs(held - percent / 100), abs=1 / 60)
        inner = np.percentile(draws, np.arange(10, 100, 10), axis=0)  # CARD's bins: those at the ends are open
        counts = np.bincount((y > inner).sum(0), minlength=10)
        expected = np.abs(counts / 60 - 0.1).mean()
        assert QICE(evaluation)[""][r].item() == pytest.approx(expected, abs=3 / 600)  # a target on a border


def test_quantile_bins_by_hand():
    """u = .05, .1, .11, .95: two targets in the first tenth, one in the second, one in the last."""
    below = torch.tensor([0.05, 0.1, 0.11, 0.95], dtype=torch.float64)
    inside = in_quantile_bins(below, 10)
    assert inside.sum(1).tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    expected = (0.4 + 0.15 + 0.15 + 7 * 0.1) / 10
    assert mean_gap(inside, torch.full((10,), 0.1, dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-12)
    assert in_quantile_bins(torch.tensor([0.0, 1.0]), 10).sum(1).tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_the_crps_of_a_point_far_surer_than_it_is_wrong_is_its_absolute_error():
    means = torch.tensor([[[0.0, 3.0]]], dtype=torch.float64)
    evaluation = Evaluation(GaussianMixture(means, torch.full_like(means, 1e-6)), torch.tensor([[2.0, 2.5]]), {}, {}, 0)
    assert CRPS.by_example(evaluation)[""].tolist()[0] == pytest.approx([2.0, 0.5], abs=1e-6)
    assert CRPS(evaluation)[""].item() == pytest.approx(1.25, abs=1e-6)


def test_float32_is_summed_in_float64(make):
    evaluation = make(rows=2).regression(num=5000)
    log_prob, error = evaluation.test.log_prob(evaluation.y), evaluation.y.double() - evaluation.test.mean.double()
    nll_exact = [-math.fsum(row) / 5000 for row in log_prob.tolist()]
    rmse_exact = [math.sqrt(math.fsum(e * e for e in row) / 5000) for row in error.tolist()]
    assert NLL(evaluation)[""].tolist() == pytest.approx(nll_exact, rel=1e-13)
    assert RMSE(evaluation)[""].tolist() == pytest.approx(rmse_exact, rel=1e-13)
