import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Normal, kl_divergence

from bdlbench.kernels import kl


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rows_of_prior", [1, 3])
def test_normal_kl_is_the_closed_form(rows_of_prior):
    mean, log_sd, prior_sd = numbers(3, 50), numbers(3, 50, seed=1), numbers(rows_of_prior, 50, seed=2).exp()
    expected = kl_divergence(Normal(mean, log_sd.exp()), Normal(torch.zeros_like(mean), prior_sd.expand(3, 50)))
    torch.testing.assert_close(kl.normal_kl(mean, log_sd, prior_sd), expected)


def test_normal_kl_is_zero_at_the_prior_and_positive_elsewhere():
    prior_sd = numbers(1, 50).exp()
    torch.testing.assert_close(kl.normal_kl(torch.zeros(1, 50), prior_sd.log(), prior_sd), torch.zeros_like(prior_sd))
    assert (kl.normal_kl(numbers(5, 50), numbers(5, 50, seed=1), prior_sd) > 0).all()


@pytest.mark.parametrize("sd", [0.3, 2.0])
def test_normal_log_density_is_scipys(sd):
    value = numbers(3, 20)
    expected = torch.from_numpy(stats.norm(0, sd).logpdf(value.numpy()))
    torch.testing.assert_close(kl.normal_log_density(value, sd), expected)
    torch.testing.assert_close(kl.normal_log_density(value, torch.full((3, 1), sd, dtype=torch.float64)), expected)


def test_row_sum_is_the_sum_and_its_bits_do_not_depend_on_the_other_rows(threads):
    values = torch.randn(5, 40_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(kl.row_sum(values), values.sum(1), rtol=1e-4, atol=1e-3)
    for r in range(5):
        assert torch.equal(kl.row_sum(values)[r : r + 1], kl.row_sum(values[r : r + 1].clone()))


def true_log_uniform_kl(alpha):
    """−½ log α + E_{ε ~ N(1, α)} log |ε|, the KL up to a constant, as an integral with its singularity split off.

    Kingma, Salimans & Welling 2015, eq. 10.
    """
    density = stats.norm(1, math.sqrt(alpha)).pdf
    width = 12 * math.sqrt(alpha) + 2

    def half(sign):
        return integrate.quad(
            lambda t: (density(sign * math.exp(t)) * math.exp(t)) * t, -60, math.log(width), limit=500
        )[0]

    return half(1) + half(-1) - 0.5 * math.log(alpha)


@pytest.mark.slow
def test_log_uniform_kl_is_the_integral_within_the_approximations_accuracy():
    log_alpha = np.linspace(-6, 6, 25)
    exact = np.array([true_log_uniform_kl(a) for a in np.exp(log_alpha)])
    far = true_log_uniform_kl(math.exp(16.0))  # the constant: E log|ε| − ½ log α, as α → ∞, is (ψ(½) + log 2)/2
    assert far == pytest.approx((-np.euler_gamma - math.log(2)) / 2, abs=1e-3)
    error = kl.log_uniform_kl(torch.from_numpy(log_alpha)).numpy() - (exact - far)
    assert np.ptp(error) / 2 < 0.009  # Molchanov et al. 2017, §4.2: of a KL that is defined up to a constant
    assert np.abs(error).max() < 0.01


@pytest.mark.slow
def test_the_cubic_kl_is_the_integral_up_to_one_and_constant_above():
    log_alpha = np.linspace(-6, 0, 25)
    far = (-np.euler_gamma - math.log(2)) / 2
    exact = np.array([true_log_uniform_kl(a) for a in np.exp(log_alpha)]) - far
    cubic = kl.cubic_log_uniform_kl(torch.from_numpy(log_alpha)).numpy()
    assert np.ptp(cubic - exact) / 2 < 0.0205  # of a KL that is defined up to a constant
    assert np.abs(cubic - exact).max() < 0.041
    by_hand = -far - 0.5 * math.log(0.5) - 1.16145124 * 0.5 + 1.50204118 * 0.25 - 0.58629921 * 0.125
    assert kl.cubic_log_uniform_kl(torch.tensor(math.log(0.5))).item() == pytest.approx(by_hand, rel=1e-6)
    above = torch.tensor([0.0, 0.5, 3.0]).double().requires_grad_()
    values = kl.cubic_log_uniform_kl(above)
    assert (values == values[0]).all()
    assert torch.autograd.grad(values.sum(), above)[0][1:].tolist() == [0, 0]


def test_log_uniform_kl_falls_to_zero():
    values = kl.log_uniform_kl(torch.linspace(-8, 40, 200, dtype=torch.float64))
    assert (values.diff() <= 0).all()
    assert values[-1].item() == pytest.approx(0, abs=1e-6)


def _mixed(width=40):
    """Means and log variances with log α inside the range, clipped below, and clipped above."""
    mean, log_variance = numbers(3, width), numbers(3, width, seed=1)
    mean[:, :3], log_variance[:, :3] = 5.0, -9.0
    mean[:, 3:6], log_variance[:, 3:6] = 1e-3, 2.0
    counted = (torch.arange(width) % 4 != 0).double()
    return mean, log_variance, counted


def test_the_log_uniform_gradient_in_closed_form_is_autograds():
    mean, log_variance, counted = _mixed()
    weight = counted * torch.tensor([[1.0], [0.0], [2.5]], dtype=torch.float64)
    leaves = mean.clone().requires_grad_(), log_variance.clone().requires_grad_()
    expected = torch.autograd.grad((kl.log_uniform_kl(kl.log_alpha(*leaves)) * weight).sum(), leaves)
    found = torch.ones_like(mean), torch.zeros_like(mean)
    square, alpha = kl.positive_square(mean), kl.log_alpha(mean, log_variance)
    kl.add_log_uniform_kl_gradient(mean, square, log_variance.exp(), alpha, weight, found)
    torch.testing.assert_close((found[0] - 1, found[1]), expected)
    assert (found[1][:, :6] == 0).all()  # where log α is clipped


def test_the_log_uniform_gradient_is_finite_for_any_weight():
    mean, log_variance = torch.tensor([[0.0, 1e-30, 1e3, 1e3]]), torch.tensor([[-60.0, 5.0, -60.0, 5.0]])
    found = torch.zeros_like(mean), torch.zeros_like(mean)
    alpha = kl.log_alpha(mean, log_variance)
    kl.add_log_uniform_kl_gradient(
        mean, kl.positive_square(mean), log_variance.exp(), alpha, torch.ones_like(mean), found
    )
    assert all(part.isfinite().all() for part in found)


def test_log_alpha_is_the_ratio_of_variance_and_square_of_the_mean_and_is_clipped():
    mean, log_variance, _ = _mixed()
    found = kl.log_alpha(mean, log_variance)
    inside = (log_variance.exp() / mean.square()).log()
    torch.testing.assert_close(found[:, 6:], inside[:, 6:].clamp(-8, 8), rtol=1e-6, atol=1e-6)
    assert (found[:, :3] == -8).all()
    assert (found[:, 3:6] == 8).all()
    assert kl.log_alpha(torch.zeros(1), torch.tensor([-50.0])).item() == pytest.approx(-50 + 36.84, abs=8)
