import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.func import jacrev, vmap

from bdlbench.kernels import latent


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def levels(*shape, count=256, seed=0):
    drawn = torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))
    return drawn.double() / (count - 1)


# Binary pixels


def test_bernoulli_log_prob_is_that_of_torch():
    x, logits = levels(3, 4, 7, count=2), 3 * numbers(3, 4, 7)
    expected = Bernoulli(logits=logits).log_prob(x).sum(-1)
    torch.testing.assert_close(latent.bernoulli_log_prob(x, logits), expected)


def test_bernoulli_log_prob_is_finite_where_the_network_is_sure():
    logits = torch.tensor([200.0, -200.0], requires_grad=True)
    value = latent.bernoulli_log_prob(torch.tensor([0.0, 1.0]), logits)
    assert value.item() == -400
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.tolist() == [-1, 1]


def test_pixels_broadcast_over_draws():
    x, logits = levels(2, 1, 5, 7, count=2), numbers(2, 6, 5, 7)
    found = latent.bernoulli_log_prob(x, logits)
    assert found.shape == (2, 6, 5)
    torch.testing.assert_close(found[:, 3], latent.bernoulli_log_prob(x[:, 0], logits[:, 3]))


def all_bits():
    return torch.arange(-(2**15), 2**15).to(torch.int16)


@pytest.mark.parametrize("grey", [0.0, 1 / 255, 0.25, 0.5, 2 / 3, 254 / 255, 1.0])
def test_binarised_is_one_as_often_as_the_pixel_is_grey(grey):
    drawn = latent.binarised(torch.tensor(grey), all_bits())
    assert drawn.dtype == torch.float32
    assert set(drawn.unique().tolist()) <= {0, 1}
    assert drawn.mean().item() == pytest.approx(grey, abs=1 / 65536)
    if grey in (0, 1):
        assert (drawn == grey).all()


def test_what_is_binary_stays_what_it_is():
    x, bits = levels(400, 9, count=2), all_bits()[:: 2**16 // 3600][:3600].view(400, 9)
    assert torch.equal(latent.binarised(x, bits), x)


# Grey pixels


def naive_discretised(x, mean, log_scale, count):
    """σ(upper) − σ(lower), bins at the ends open, in numpy."""
    half = 0.5 / (count - 1)
    upper, lower = ((x - mean + sign * half) / np.exp(log_scale) for sign in (1, -1))
    above, below = 1 / (1 + np.exp(-upper)), 1 / (1 + np.exp(-lower))
    return np.log(np.where(x > 1 - half, 1, above) - np.where(x < half, 0, below)).sum(-1)


def test_discretised_logistic_is_the_difference_of_two_sigmoids():
    x, mean, log_scale = levels(50, 9), 0.5 + 0.1 * numbers(50, 9), 0.3 * numbers(50, 9, seed=1) - 1.5
    expected = torch.from_numpy(naive_discretised(x.numpy(), mean.numpy(), log_scale.numpy(), 256))
    torch.testing.assert_close(latent.discretised_logistic_log_prob(x, mean, log_scale, 256), expected)
    narrow = latent.discretised_logistic_log_prob(x.float(), mean.float(), log_scale.float(), 256)
    torch.testing.assert_close(narrow.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("count", [2, 16, 256])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 1.0])
@pytest.mark.parametrize("mean", [-3.0, 0.0, 0.3, 1.0, 2.5])
def test_the_mass_of_all_levels_is_one(count, log_scale, mean):
    x = (torch.arange(count).double() / (count - 1)).unsqueeze(-1)
    parameters = (torch.full_like(x, value) for value in (mean, log_scale))
    log_mass = latent.discretised_logistic_log_prob(x, *parameters, count)
    assert log_mass.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_discretised_logistic_and_its_gradient_are_finite_far_away():
    means, log_scales = torch.tensor([-30.0, 0.0, 0.5, 1.0, 30.0]), torch.tensor([-7.0, 1.0])
    x, mean, log_scale = torch.cartesian_prod(torch.arange(256) / 255, means, log_scales).unbind(-1)
    mean, log_scale = mean.requires_grad_(), log_scale.requires_grad_()
    value = latent.discretised_logistic_log_prob(x, mean, log_scale, 256)
    assert value.isfinite()
    assert all(g.isfinite().all() for g in torch.autograd.grad(value, (mean, log_scale)))


# The latent


def test_the_kl_from_the_standard_normal_is_that_of_torch():
    mean, log_sd = numbers(3, 5, 4), numbers(3, 5, 4, seed=1)
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(
        latent.standard_normal_kl(mean, log_sd), kl_divergence(Normal(mean, log_sd.exp()), prior).sum(-1)
    )
    assert latent.standard_normal_kl(torch.zeros(4), torch.zeros(4)).item() == 0


def test_the_importance_ratio_is_that_of_two_densities():
    mean, log_sd, noise = numbers(5, 4), numbers(5, 4, seed=1), numbers(6, 5, 4, seed=2)
    z = mean + log_sd.exp() * noise
    q, prior = Normal(mean, log_sd.exp()), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = (prior.log_prob(z) - q.log_prob(z)).sum(-1)
    torch.testing.assert_close(latent.log_importance_ratio(noise, z, log_sd), expected)


def test_the_kl_is_minus_the_mean_log_ratio():
    mean, log_sd, draws = numbers(5, 4), 0.3 * numbers(5, 4, seed=1), 20_000
    noise = numbers(draws, 5, 4, seed=2)
    ratio = latent.log_importance_ratio(noise, mean + log_sd.exp() * noise, log_sd)  # (draws, 5)
    error = (ratio.mean(0) + latent.standard_normal_kl(mean, log_sd)).abs()
    assert (error < 5 * ratio.std(0) / math.sqrt(draws)).all()


def test_log_mean_exp_does_not_overflow():
    weights = torch.tensor([[-1000.0, -1000.0], [900.0, -900.0]])
    torch.testing.assert_close(latent.log_mean_exp(weights), torch.tensor([-1000.0, 900 - math.log(2)]))
    values = numbers(7, 11)
    torch.testing.assert_close(latent.log_mean_exp(values), values.exp().mean(-1).log())


@pytest.mark.parametrize(
    "kernel",
    [
        lambda x, a, b: latent.bernoulli_log_prob(x.round(), a),
        lambda x, a, b: latent.discretised_logistic_log_prob((x * 255).round() / 255, a, b - 2, 256),
        lambda x, a, b: latent.standard_normal_kl(a, b),
        lambda x, a, b: latent.log_importance_ratio(x, a + b.exp() * x, b),
    ],
)
def test_kernels_have_right_gradients_also_under_functional_transforms(kernel):
    x, a, b = levels(3, 5), numbers(3, 5).requires_grad_(), numbers(3, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: kernel(x, a, b), (a, b))
    by_row = torch.stack([kernel(*row) for row in zip(x, a, b, strict=True)])
    torch.testing.assert_close(vmap(kernel)(x, a, b), by_row)
    jacobian = vmap(jacrev(kernel, argnums=1))(x, a, b)
    (gradient,) = torch.autograd.grad(kernel(x, a, b).sum(), a)
    torch.testing.assert_close(jacobian, gradient)


@pytest.mark.parametrize("size", [1, 3, 35, 784, 1001])
@pytest.mark.parametrize("name", ["bernoulli", "discretised", "kl", "ratio", "log_mean_exp"])
def test_a_row_has_the_same_bits_alone(threads, name, size):
    x = levels(5, 13, size, count=2).float()
    a, b = numbers(5, 13, size, dtype=torch.float32), numbers(5, 13, size, seed=1, dtype=torch.float32)
    kernel = {
        "bernoulli": lambda x, a, b: latent.bernoulli_log_prob(x, a),
        "discretised": lambda x, a, b: latent.discretised_logistic_log_prob(x, 0.5 + a, b - 2, 256),
        "kl": lambda x, a, b: latent.standard_normal_kl(a, b),
        "ratio": latent.log_importance_ratio,
        "log_mean_exp": lambda x, a, b: latent.log_mean_exp(a),
    }[name]
    together = kernel(x, a, b)
    for r in range(5):
        alone = kernel(*(t[r : r + 1].clone() for t in (x, a, b)))
        assert torch.equal(together[r : r + 1], alone)
