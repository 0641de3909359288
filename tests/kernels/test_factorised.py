"""Rows taken apart into Gaussian leaves: equal to plain autograd, row by row, to the bit alone and among others."""

from __future__ import annotations

import math

import pytest
import torch

from bdlbench.core.layout import Layout, Leaf
from bdlbench.data.task import Signature
from bdlbench.kernels import factorised as kernels
from bdlbench.kernels.kl import log_alpha, log_uniform_kl
from bdlbench.models.coin import Coin
from bdlbench.posteriors.fitting import gaussian_prior

LAYOUT = Layout({"weight": Leaf((3, 5), "weight", 5), "bias": Leaf((3,), "bias", 5), "scale": Leaf((16,), "scale", 1)})
ROWS = 3
KL_WEIGHTS = torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64)


def rows(dtype=torch.float64, seed=0, count=ROWS):
    flat = torch.randn(count, 2 * LAYOUT.width, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    mean, log_sd = flat.chunk(2, -1)
    return torch.cat([mean, 0.3 * log_sd - 1], -1)


def noise(dtype=torch.float64, count=ROWS):
    return torch.randn(count, LAYOUT.width, generator=torch.Generator().manual_seed(9), dtype=dtype)


def prior(dtype=torch.float64):
    return gaussian_prior(LAYOUT, torch.tensor([0.5, 1.0, 2.0], dtype=dtype), "fan_in", torch.zeros((), dtype=dtype))


def score(leaves, other, kl):
    """Something that depends on every leaf but the last variance in its own way."""
    first = sum((k + 1) * leaf.square().sum() for k, leaf in enumerate(leaves))
    return first + sum((leaf.exp() * (k + 2)).sum() for k, leaf in enumerate(other)) + (kl * KL_WEIGHTS.to(kl)).sum()


def closed_factorised(flat):
    mean, variance, kl = kernels.factorised(flat, LAYOUT, prior(flat.dtype))
    return score(mean.values(), list(variance.values())[:-1], kl)


def plain_factorised(flat):
    mean, log_sd = flat.chunk(2, -1)
    variance = LAYOUT.views((2 * log_sd).exp())
    return score(LAYOUT.views(mean).values(), list(variance.values())[:-1], prior(flat.dtype).kl(mean, log_sd))


def closed_sampled(flat):
    leaves, kl = kernels.sampled(flat, noise(flat.dtype), LAYOUT, prior(flat.dtype))
    return score(list(leaves.values())[:-1], [], kl)


def plain_sampled(flat):
    mean, log_sd = flat.chunk(2, -1)
    leaves = LAYOUT.views(mean + log_sd.exp() * noise(flat.dtype))
    return score(list(leaves.values())[:-1], [], prior(flat.dtype).kl(mean, log_sd))


LINEAR = ["weight"]
COUNTED = LAYOUT.fill(lambda leaf: float(leaf.role == "weight"))


def limit(dtype):
    """The thresholds of three rows, on weights alone."""
    return torch.where(COUNTED > 0, torch.tensor([[1.0], [3.0], [0.5]]), torch.inf).to(dtype)


def closed_sparse(flat):
    counted = COUNTED.to(flat)
    mean, variance, kl = kernels.sparse(flat, LAYOUT, LINEAR, counted, limit(flat.dtype))
    return score(mean.values(), variance.values(), kl)


def plain_sparse(flat):
    mean, log_variance = flat.chunk(2, -1)
    alpha = log_alpha(mean, log_variance)
    kept = (alpha < limit(flat.dtype)).to(flat)
    assert 0 < (1 - kept).sum() < COUNTED.sum()
    kl = (log_uniform_kl(alpha) * COUNTED.to(flat)).sum(-1)
    return score(LAYOUT.views(mean * kept).values(), [LAYOUT.views(log_variance.exp())["weight"]], kl)


def closed_constant(flat):
    counted = COUNTED.to(flat)
    mean, variance, kl = kernels.sparse(flat, LAYOUT, LINEAR, counted, limit(flat.dtype), constant_above=True)
    return score(mean.values(), variance.values(), kl)


def plain_constant(flat):
    mean, log_variance = flat.chunk(2, -1)
    alpha = log_alpha(mean, log_variance)
    kept = (alpha < limit(flat.dtype)).to(flat)
    kl = (torch.where(kept > 0, log_uniform_kl(alpha), 0.0) * COUNTED.to(flat)).sum(-1)
    return score(LAYOUT.views(mean * kept).values(), [LAYOUT.views(log_variance.exp())["weight"]], kl)


PAIRS = pytest.mark.parametrize(
    ("closed", "plain"),
    [
        (closed_factorised, plain_factorised),
        (closed_sampled, plain_sampled),
        (closed_sparse, plain_sparse),
        (closed_constant, plain_constant),
    ],
    ids=["factorised", "sampled", "sparse", "constant"],
)


@PAIRS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_values_and_gradients_are_plain_autograds(closed, plain, dtype, tolerance):
    flat = rows(dtype).requires_grad_()
    values = closed(flat), plain(flat)
    torch.testing.assert_close(*values, rtol=tolerance, atol=tolerance)
    gradients = [torch.autograd.grad(value, flat)[0] for value in values]
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance * 10)


@PAIRS
def test_gradcheck(closed, plain):
    assert torch.autograd.gradcheck(closed, rows().requires_grad_())


def test_the_kl_alone_has_its_gradient():
    flat = rows().requires_grad_()
    mean, log_sd = flat.chunk(2, -1)
    expected = torch.autograd.grad(prior().kl(mean, log_sd).sum(), flat)[0]
    for kl in (kernels.factorised(flat, LAYOUT, prior()).kl, kernels.sampled(flat, noise(), LAYOUT, prior()).kl):
        torch.testing.assert_close(torch.autograd.grad(kl.sum(), flat)[0], expected)


def test_without_its_value_the_kl_is_zero_and_its_gradient_the_same():
    for found in (
        lambda flat, valued: kernels.factorised(flat, LAYOUT, prior(), valued).kl,
        lambda flat, valued: kernels.sampled(flat, noise(), LAYOUT, prior(), valued).kl,
        lambda flat, valued: kernels.sparse(flat, LAYOUT, LINEAR, COUNTED.double(), limit(flat.dtype), valued).kl,
    ):
        flat = rows().requires_grad_()
        whole, bare = found(flat, True), found(flat, False)
        assert (bare == 0).all()
        assert (whole != 0).all()
        assert torch.equal(*(torch.autograd.grad(kl.sum(), flat)[0] for kl in (whole, bare)))


def test_leaves_alone_have_no_gradient_of_the_kl():
    flat = rows().requires_grad_()
    (gradient,) = torch.autograd.grad(kernels.factorised(flat, LAYOUT, prior()).mean["bias"].sum(), flat)
    assert set(LAYOUT.views(gradient.chunk(2, -1)[0])["bias"].unique().tolist()) == {1.0}
    assert gradient.sum() == ROWS * 3


def test_a_models_own_prior_gives_the_gradient_of_its_kl():
    layout = Layout({"logit": Leaf((1,), "bias", 1)})
    own = Coin(Signature((1,), 2, "categorical"), 2.0, 3.0).prior(layout, torch.zeros((), dtype=torch.float64))
    flat = rows()[:, : 2 * layout.width].clone().requires_grad_()
    found = torch.autograd.grad(kernels.factorised(flat, layout, own).kl.sum(), flat)[0]
    expected = torch.autograd.grad(own.kl(*flat.chunk(2, -1)).sum(), flat)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("constant", "kls", "slopes"),
    # by hand, eq. 14: KL(2) = k1 (1 − σ(k2 + 2 k3)) + ½ log(1 + e⁻²), its slope −k1 k3 σ (1 − σ) − ½ / (1 + e²)
    [(False, (0.0684165, 0.0093299), (-0.0669083, -0.0093721)), (True, (0.0684165, 0.0), (-0.0669083, 0.0))],
)
def test_the_kl_above_the_threshold_goes_on_falling_or_is_constant(constant, kls, slopes):
    """Two weights of mean 1 with log α 2 and 4, below and above the threshold 3: each has its own row."""
    layout = Layout({"weight": Leaf((1,), "weight", 1)})
    flat = torch.zeros(2, 2 * layout.width, dtype=torch.float64)
    flat[:, 0], flat[:, layout.width] = 1.0, torch.tensor([2.0, 4.0])
    counted = layout.fill(lambda leaf: 1.0).double()
    flat.requires_grad_()
    found = kernels.sparse(flat, layout, ["weight"], counted, 3 * counted[None], constant_above=constant)
    assert found.kl.tolist() == pytest.approx(kls, abs=1e-6)
    assert found.mean["weight"].flatten().tolist() == [1.0, 0.0]
    assert found.variance["weight"].flatten().tolist() == pytest.approx([math.exp(2), math.exp(4)])
    (gradient,) = torch.autograd.grad(found.kl.sum(), flat)
    assert gradient[:, layout.width].tolist() == pytest.approx(slopes, abs=1e-6)
    assert gradient[:, 0].tolist() == pytest.approx(
        [-2 * slope for slope in slopes], abs=2e-6
    )  # log α = … − 2 log mean


def test_a_row_has_the_same_bits_alone():
    uniform, drawn = gaussian_prior(LAYOUT, 0.7, "none", torch.zeros(())), noise(torch.float32)

    def gradient(flat, drawn):
        flat = flat.clone().requires_grad_()
        mean, variance, kl = kernels.factorised(flat, LAYOUT, uniform)
        leaves, again = kernels.sampled(flat, drawn, LAYOUT, uniform)
        means, variances, log_uniform = kernels.sparse(flat, LAYOUT, LINEAR, COUNTED, limit(flat.dtype)[1:2])
        parts = [*(m.square() for m in (*mean.values(), *means.values())), *variance.values(), *variances.values()]
        parts += [*leaves.values(), kl, again, log_uniform]
        return torch.autograd.grad(sum(part.sum() for part in parts), flat)[0]

    flat = rows(torch.float32)
    together = gradient(flat, drawn)
    for r in range(ROWS):
        assert torch.equal(together[r : r + 1], gradient(flat[r : r + 1], drawn[r : r + 1]))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("width", [16, 80, 20_000 + 16, 100_000])
def test_wide_rows_of_sparse_weights_have_the_same_bits_alone(threads, width, constant):
    layout = Layout({"weight": Leaf((width,), "weight", 5)})
    rng = torch.Generator().manual_seed(0)
    flat = torch.randn(5, 2 * layout.width, generator=rng)
    counted, limit = torch.ones(layout.width), torch.full((1, layout.width), 1.0)

    def found(flat):
        flat = flat.clone().requires_grad_()
        mean, variance, kl = kernels.sparse(flat, layout, ["weight"], counted, limit, constant_above=constant)
        loss = mean["weight"].square().sum() + variance["weight"].sum() + kl.sum()
        return kl.detach(), torch.autograd.grad(loss, flat)[0]

    together = found(flat)
    for r in range(5):
        for value, expected in zip(together, found(flat[r : r + 1]), strict=True):
            assert torch.equal(value[r : r + 1], expected)
