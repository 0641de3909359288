"""Where networks start, and priors that count in the noise of the target."""

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from bdlbench.core.layout import Layout, Leaf
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.models.mlp import MLP, Logistic
from bdlbench.posteriors.fitting import initial_rows, prior_of

SIGNATURE = Signature((20,), 1, "gaussian")


def started(leaves, seeds=(0, 1, 2)):
    layout = Layout(leaves)
    return layout.views(initial_rows(layout, Streams.of_seeds(seeds), torch.zeros(1)))


@pytest.mark.parametrize("init", ["kaiming", "glorot", "small", "torch"])
def test_weights_start_from_the_distribution_that_the_option_names(init):
    """A dense map from 20 to 300 units, by Kolmogorov and Smirnov's test of 18,000 draws."""
    found = started(MLP(SIGNATURE, (300,), init=init).leaves())
    glorot, own = math.sqrt(6 / 320), 1 / math.sqrt(20)
    expected = {
        "kaiming": stats.norm(0, math.sqrt(2 / 20)),
        "glorot": stats.uniform(-glorot, 2 * glorot),
        "small": stats.norm(0, 0.01),
        "torch": stats.uniform(-own, 2 * own),
    }
    weights = found["fc1.weight"].flatten().double()
    assert stats.kstest(weights, expected[init].cdf).pvalue > 1e-3
    if init == "torch":
        assert stats.kstest(found["fc1.bias"].flatten().double(), expected[init].cdf).pvalue > 1e-3
    else:
        assert not found["fc1.bias"].any()


def test_torchs_own_start_is_that_of_its_layers():
    """The same bounds, met to 1 %, by a layer of torch."""
    theirs = torch.nn.Linear(20, 3000)
    found = started(MLP(SIGNATURE, (3000,), init="torch").leaves())
    for ours, torchs in ((found["fc1.weight"], theirs.weight), (found["fc1.bias"], theirs.bias)):
        assert ours.abs().max().item() == pytest.approx(torchs.abs().max().item(), rel=0.01)


def test_glorot_of_a_convolution_counts_the_places_that_a_weight_feeds():
    bound = math.sqrt(6 / (3 * 25 + 8 * 25))
    weight = started({"conv.weight": Leaf((8, 3, 5, 5), "weight", 75, "glorot")})["conv.weight"]
    assert bound * 0.99 < weight.abs().max() <= bound


@pytest.mark.parametrize("init", ["kaiming", "glorot", "small", "torch"])
def test_a_row_starts_alike_alone_and_among_others(init):
    leaves = MLP(SIGNATURE, (7,), init=init).leaves()
    together, alone = started(leaves), started(leaves, (1,))
    for name, value in alone.items():
        assert torch.equal(together[name][1:2], value)


def test_the_start_of_before_keeps_its_bits():
    """Pinned before there was a choice: N(0, 2 / fan_in) for weights, zero for biases."""
    layout = Layout(Logistic(SIGNATURE).leaves())
    rng = Streams.of_seeds((5,))
    noise = rng.normal((layout.width,), torch.zeros(1))
    found = initial_rows(layout, Streams.of_seeds((5,)), torch.zeros(1))
    sd = torch.zeros(layout.width)
    sd[:20] = math.sqrt(2 / 20)
    assert torch.equal(found, noise * sd)


def test_an_unknown_start_is_refused(refused):
    with refused("start", "leaf", "glorrot", "glorot"):
        Leaf((3,), "weight", 3, "glorrot")


def test_a_prior_in_units_of_the_noise_is_the_l2_penalty_of_squared_errors():
    """−log p(w) · 2 noise_sd² = |w|² / prior_sd² + const, whatever the noise: the target's scale has no say."""
    noise_sd = torch.tensor([0.5, 0.02], dtype=torch.float64)
    model = MLP(SIGNATURE, (3,), noise_sd=noise_sd)
    layout = Layout(model.leaves())
    flat = initial_rows(layout, Streams.of_seeds((0, 1)), torch.zeros(1)).double()
    prior = prior_of(model, layout, 7.0, "noise", flat)
    gap = prior.log_density(torch.zeros_like(flat)) - prior.log_density(flat)
    torch.testing.assert_close(gap * 2 * noise_sd.square(), flat.square().sum(1) / 49, rtol=1e-6, atol=0)
    plain = prior_of(replace(model, noise_sd=1.0), layout, 7.0, "none", flat)
    torch.testing.assert_close(
        plain.log_density(flat), prior_of(replace(model, noise_sd=1.0), layout, 7.0, "noise", flat).log_density(flat)
    )


def test_a_prior_in_units_of_a_noise_that_is_not_there_is_refused(refused):
    class Bare:
        signature = SIGNATURE

    layout = Layout(Logistic(SIGNATURE).leaves())
    with refused("prior_scaling=noise", "noise_sd"):
        prior_of(Bare(), layout, 1.0, "noise", torch.zeros(1))
