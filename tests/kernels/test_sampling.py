import math

import pytest
import torch

from bdlbench.core.streams import Streams
from bdlbench.kernels import sampling
from bdlbench.kernels.elbo import negative_elbo
from bdlbench.kernels.linear import dense

DRAWS = 40_000


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise(*shape, seed=9):
    return numbers(*shape, seed=seed)


def assert_moments(draws, mean, variance):
    """Mean and variance over the leading axis, within five standard errors of a normal sample."""
    count = len(draws)
    assert ((draws.mean(0) - mean).abs() <= 5 * (variance / count).sqrt() + 1e-12).all()
    assert ((draws.var(0) - variance).abs() <= 5 * variance * math.sqrt(2 / count) + 1e-12).all()


def test_local_reparameterisation_has_the_moments_of_weight_samples():
    x, mean, variance = numbers(1, 3, 4), numbers(1, 2, 4, seed=1), numbers(1, 2, 4, seed=2).exp()
    out_mean, out_variance = dense(x, mean), dense(x.square(), variance)
    local = sampling.perturbed(out_mean, out_variance, noise(DRAWS, 1, 3, 2))
    by_weights = dense(x, sampling.perturbed(mean, variance, noise(DRAWS, 1, 2, 4, seed=8)))
    assert_moments(local, out_mean, out_variance)
    assert_moments(by_weights, out_mean, out_variance)


def test_a_perturbation_without_variance_is_the_mean_and_has_a_finite_gradient():
    variance = torch.zeros(2, 3, requires_grad=True)
    out = sampling.perturbed(torch.ones(2, 3), variance, torch.ones(2, 3))
    torch.testing.assert_close(out, torch.ones(2, 3), rtol=0, atol=1e-7)
    (gradient,) = torch.autograd.grad(out.sum(), variance)
    assert gradient.isfinite().all()


def test_signs_are_fair_and_follow_the_dtype():
    bits = torch.arange(-32768, 32768, dtype=torch.int16)
    for dtype in (torch.float32, torch.float64):
        signs = sampling.signs(bits, torch.empty(0, dtype=dtype))
        assert signs.dtype == dtype
        assert signs.sum() == 0
        assert (signs.abs() == 1).all()


@pytest.mark.parametrize("rate", [0.0, 1e-4, 0.2, 0.5, 0.99, 1.0])
def test_over_all_bits_a_mask_drops_exactly_its_rate(rate):
    bits = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).unsqueeze(0)
    dropped = 1 - sampling.keep_mask(bits, rate, 1, torch.empty(0)).mean().item()
    assert dropped == pytest.approx(rate, abs=1.01 / 65536)
    assert rate != 0.0 or dropped == 0.0


def test_masks_meet_the_rate_of_each_row():
    rates = torch.tensor([0.0, 0.1, 0.5, 0.9], dtype=torch.float64)
    like = torch.empty(0)
    bits = Streams.of_seeds([0, 1, 2, 3]).bits((200, 100), like)
    kept = sampling.keep_mask(bits, rates, 2, like).mean((1, 2), dtype=torch.float64)
    assert ((kept - (1 - rates)).abs() <= 5 * (rates * (1 - rates) / 20_000).sqrt() + 1 / 65536).all()
    assert kept[0] == 1
    for r, rate in enumerate(rates.tolist()):
        assert torch.equal(sampling.keep_mask(bits, rates, 2, like)[r], sampling.keep_mask(bits[r], rate, 2, like))


def test_a_mask_of_samples_takes_the_rates_of_its_rows():
    bits = Streams.of_seeds([0, 1, 2]).samples(0, 5).bits((40,), torch.empty(0))
    kept = sampling.keep_mask(bits, torch.tensor([0.0, 0.999, 0.0]), 1, torch.empty(0))
    assert kept.shape == (5, 3, 40)
    assert (kept[:, [0, 2]] == 1).all()
    assert kept[:, 1].mean() < 0.1


def test_negative_elbo_is_per_example_with_the_kl_once_for_the_whole_data_set():
    elbo, divergence = numbers(3, 8), numbers(3, seed=1).exp()
    expected = -(100 / 8 * elbo.sum(-1) - divergence) / 100
    torch.testing.assert_close(negative_elbo(elbo, divergence, 100), expected)
    torch.testing.assert_close(negative_elbo(elbo, 0.0, 100), -elbo.mean(-1))
