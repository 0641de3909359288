"""The CRPS of a Gaussian mixture against its definition, its closed forms, and other libraries' numbers."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from bdlbench.predictives import proper_scores
from bdlbench.predictives.proper_scores import mixture_crps


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_gaussian_is_gneiting_and_rafterys_closed_form():
    """Gneiting & Raftery 2007, eq. 21: sd · [z (2Φ(z) − 1) + 2φ(z) − 1/√π]."""
    mean, sd, y = numbers(1, 9), numbers(1, 9, seed=1).exp(), 3 * numbers(9, seed=2)
    z = ((y - mean) / sd)[0].numpy()
    expected = sd[0].numpy() * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
    np.testing.assert_allclose(mixture_crps(mean, sd, y), expected, rtol=1e-13)


@pytest.mark.parametrize("samples", [2, 5, 80])
def test_a_mixture_is_the_integral_of_its_definition(samples):
    means, sds, y = 2 * numbers(samples, 3), numbers(samples, 3, seed=1).exp(), 3 * numbers(3, seed=2)
    found = mixture_crps(means, sds, y)
    for n in range(3):

        def cdf(z, n=n):
            return stats.norm.cdf(z, means[:, n], sds[:, n]).mean()

        own = float(y[n])
        below = integrate.quad(lambda z, f=cdf: f(z) ** 2, -60, own, limit=500, points=[-5.0])[0]
        above = integrate.quad(lambda z, f=cdf: (1 - f(z)) ** 2, own, 60, limit=500, points=[5.0])[0]
        assert found[n].item() == pytest.approx(below + above, rel=1e-6)


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_the_rule_for_many_samples_is_the_sum_over_pairs(monkeypatch, spread):
    means, sds, y = spread * numbers(700, 4), (0.2 * numbers(700, 4, seed=1)).exp(), spread * numbers(4, seed=2)
    by_nodes = mixture_crps(means, sds, y)
    monkeypatch.setattr(proper_scores, "STEP", 1e-9)  # as many nodes as never
    np.testing.assert_allclose(by_nodes, mixture_crps(means, sds, y), rtol=1e-10)


def test_samples_without_a_width_are_the_empirical_crps():
    """mean |y − m| − ½ mean |m − m'|, which scoringrules 0.10 (`crps_ensemble`) and properscoring .1 print."""
    means = torch.tensor([[1.0], [2.0], [4.0], [0.5]], dtype=torch.float64)
    found = mixture_crps(means, torch.full_like(means, 1e-9), torch.tensor([1.5], dtype=torch.float64))
    assert found.item() == pytest.approx(0.40625, abs=1e-8)


def test_units_and_location_go_through():
    means, sds, y = numbers(40, 5), numbers(40, 5, seed=1).exp(), numbers(5, seed=2)
    np.testing.assert_allclose(
        mixture_crps(7 * means + 3, 7 * sds, 7 * y + 3), 7 * mixture_crps(means, sds, y), rtol=1e-12
    )


def test_an_example_scores_the_same_whatever_is_held_at_once(monkeypatch):
    means, sds, y = numbers(300, 12), numbers(300, 12, seed=1).exp(), numbers(12, seed=2)
    whole = mixture_crps(means, sds, y)
    monkeypatch.setattr(proper_scores, "ELEMENTS", 900)
    np.testing.assert_allclose(mixture_crps(means, sds, y), whole, rtol=1e-11)


@pytest.mark.parametrize(("samples", "broken"), [(5, math.nan), (3000, math.nan), (3000, math.inf)])
def test_what_is_not_finite_scores_nan_and_takes_no_longer(samples, broken):
    means = numbers(samples, 2)
    means[3, 1] = broken
    found = mixture_crps(means, torch.ones_like(means), torch.zeros(2, dtype=torch.float64))
    assert torch.isfinite(found).tolist() == [True, False]


def test_a_mixture_scores_as_scoringrules_says():
    """crps_mixnorm of scoringrules 0.10, three examples of a mixture of 50; its other three agree to 4e-16 too."""
    rng = np.random.default_rng(0)
    means, sds, y = rng.normal(size=(50, 6)), np.exp(rng.normal(size=(50, 6))), rng.normal(size=6)
    found = mixture_crps(*map(torch.from_numpy, (means, sds, y)))
    np.testing.assert_allclose(found[:3], [0.69731406, 1.10666202, 0.41667006], atol=5e-9)
