"""HMC against closed forms and against NumPyro's NUTS, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from bdlbench import catalog
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.methods.hmc import HMC
from bdlbench.networks.from_module import from_module
from bdlbench.stats.chains import mean_ess

ROWS = 6
"""Replicates of one problem: chains of their own, at nearly the cost of one."""


def regression(scales=(1.0, 1.0, 1.0), num=20, dtype=torch.float32):
    """X (N, D) with columns of these scales, y (N,), and the exact posterior's mean and covariance, bias last."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(num, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0, 0, 1]])
    y = mixed @ np.array([1.0, -0.5, 0.3]) + 0.2 + 0.5 * rng.normal(size=num)
    x = mixed * np.array(scales)
    design = np.column_stack([x, np.ones(num)])
    precision = design.T @ design / 0.5**2 + np.eye(4) / 0.7**2
    covariance = np.linalg.inv(precision)
    data = Data(torch.from_numpy(x).to(dtype).expand(ROWS, -1, -1), torch.from_numpy(y).to(dtype).expand(ROWS, -1))
    return data, covariance @ design.T @ y / 0.5**2, covariance


def logistic(outputs, likelihood, dimensions, **options):
    return catalog.load("models", "logistic")(Signature((dimensions,), outputs, likelihood), **options)


def within_standard_errors(draws, expected, limit=3.0):
    """Assert that the means of quantities (K, D, Q) are within so many Monte-Carlo standard errors of (Q,)."""
    errors = draws.reshape(-1, draws.shape[2]).std(0) / np.sqrt(mean_ess(draws))
    assert (np.abs(draws.mean((0, 1)) - expected) < limit * errors).all(), (draws.mean((0, 1)) - expected) / errors


def drawn(posterior):
    """All draws without padding, (R·K, D, P) float64: the chains of all replicates are chains of one problem."""
    return posterior.layout.packed(posterior.draws).double().flatten(0, 1).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_moments_on_the_linear_model_are_those_of_the_closed_form(precision):
    data, mean, covariance = regression()
    method = HMC(prior_sd=0.7, warmup_draws=200, draws=400, precision=precision)
    posterior = method.fit(logistic(1, "gaussian", 3, noise_sd=0.5), data, Streams.of_seeds(range(ROWS)))
    draws = drawn(posterior)
    within_standard_errors(draws, mean)
    i, j = np.triu_indices(4)
    within_standard_errors((draws - mean)[..., i] * (draws - mean)[..., j], covariance[i, j])
    assert (posterior.facts["rhat[log_joint]"] < 1.02).all()
    assert (posterior.facts["acceptance"] - 0.85).abs().max() < 0.1  # frozen at the average, Stan's is above 0.8 too
    assert not posterior.facts["divergences"].any()
    found = posterior.moments()
    np.testing.assert_allclose(found.mean.mean(0), draws.mean((0, 1)), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_weights_of_very_different_scales_are_sampled_by_the_mass_matrix():
    """Standard deviations from 0.001 to 0.7: without a mass matrix a trajectory would take a thousand steps."""
    data, mean, covariance = regression(scales=(100.0, 1.0, 0.01))
    method = HMC(prior_sd=0.7, warmup_draws=300, draws=300)
    posterior = method.fit(logistic(1, "gaussian", 3, noise_sd=0.5), data, Streams.of_seeds(range(ROWS)))
    sds = np.sqrt(np.diag(covariance))
    assert sds.max() / sds.min() > 300
    assert posterior.facts["leapfrog_steps"].max() < 12
    draws = drawn(posterior)
    within_standard_errors(draws, mean)
    within_standard_errors((draws - mean) ** 2, sds**2)


BY_NUTS = {
    "mean": (
        [-1.21757, 0.89323, 1.21696, -0.88935, 0.10582, -0.08876],
        [0.00638, 0.00625, 0.00645, 0.00628, 0.00629, 0.00632],
    ),
    "variance": (
        [0.60579, 0.58245, 0.6036, 0.58649, 0.53244, 0.53769],
        [0.00838, 0.00839, 0.00858, 0.00852, 0.00803, 0.00803],
    ),
    "probability": ([0.92519, 0.02652, 0.91735], [0.0004, 0.00024, 0.00059]),
}
"""Of `classes`, by NumPyro 0.22.0: NUTS, four chains of 5,000 draws after 1,000, float64; each with standard errors."""


def classes():
    """Forty examples of two classes (D = 2), and three inputs to predict."""
    n = np.arange(40)
    x = np.stack([np.sin(1.3 * n), np.cos(0.7 * n) + 0.3 * np.sin(1.3 * n)], 1)
    y = (np.sin(2.1 * n) + 1.5 * x[:, 0] - x[:, 1] > 0).astype(np.int64)
    at = torch.tensor([[0.5, -1.0], [-1.5, 0.2], [2.0, 1.0]])
    train = Data(torch.from_numpy(x).float().expand(ROWS, -1, -1), torch.from_numpy(y).expand(ROWS, -1))
    return train, at.expand(ROWS, -1, -1)


@pytest.mark.slow
def test_moments_and_predictions_on_the_logistic_model_are_those_of_nuts():
    train, at = classes()
    method = HMC(warmup_draws=200, draws=500)
    posterior = method.fit(logistic(2, "categorical", 2), train, Streams.of_seeds(range(ROWS)))
    draws = drawn(posterior)

    def agree(quantities, name, limit=3.0):
        (expected, errors), ours = map(np.array, BY_NUTS[name]), quantities.reshape(-1, quantities.shape[2])
        own = ours.std(0) / np.sqrt(mean_ess(quantities))
        assert (np.abs(ours.mean(0) - expected) < limit * np.hypot(own, errors)).all()

    agree(draws, "mean")
    agree((draws - draws.mean((0, 1))) ** 2, "variance")
    logits = draws[..., :4].reshape(*draws.shape[:2], 2, 2) @ at[0].double().numpy().T + draws[..., 4:, None]
    agree(1 / (1 + np.exp(logits[:, :, 0] - logits[:, :, 1])), "probability")
    predictive = posterior.predict(at, 1, Streams.of_seeds(range(ROWS)))
    assert predictive.samples == 2000
    expected = 1 / (1 + np.exp(logits[:, :, 1] - logits[:, :, 0])).reshape(ROWS, 2000, 3)
    np.testing.assert_allclose(predictive.arrays()["probs"][..., 0], expected.mean(1), rtol=0, atol=1e-6)
    assert predictive.facts["rhat"].max() < 1.02
    assert predictive.facts["ess"].min() > 400


@pytest.mark.slow
def test_the_groups_of_a_predictive_are_stretches_of_chains():
    model = logistic(1, "gaussian", 1)
    posterior = HMC(chains=2, warmup_draws=1, draws=10, most_steps=1).fit(
        model, Data(torch.ones(1, 5, 1), torch.zeros(1, 5)), Streams([0])
    )
    x, y = torch.ones(1, 1, 1), torch.zeros(1, 1)
    means = posterior.state["fc1.weight"][0, ..., 0, 0] + posterior.state["fc1.bias"][0, ..., 0]  # (K, D)
    density = torch.distributions.Normal(means.flatten().double(), 1.0).log_prob(torch.zeros(20).double()).exp()
    found = posterior.predict(x, 1, Streams([0])).group_log_prob(y)[:, 0, 0]
    torch.testing.assert_close(found, density.view(10, 2).mean(1).log())


@pytest.mark.slow
def test_chains_in_two_modes_are_told_by_the_predictions():
    """The draws of one chain are moved far from those of the other, as if neither ever crossed."""
    model = logistic(1, "gaussian", 1)
    posterior = HMC(chains=2, warmup_draws=1, draws=20, most_steps=1).fit(
        model, Data(torch.ones(1, 5, 1), torch.zeros(1, 5)), Streams([0])
    )
    posterior.draws[0, 1] += 30.0
    told = posterior.predict(torch.ones(1, 3, 1), 1, Streams([0])).facts
    assert told["rhat"].min() > 1.5
    assert told["ess"].max() < 6


def with_dropout():
    return nn.Sequential(nn.Flatten(), nn.Linear(35, 8), nn.Dropout(0.5), nn.Linear(8, 3))


def with_batch_statistics():
    return nn.Sequential(nn.Flatten(), nn.Linear(35, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(35, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "word"), [(with_dropout, "draws"), (with_batch_statistics, "BatchNorm"), (plain, None)]
)
def test_modules_whose_training_is_no_function_of_the_weights_are_refused(made, word):
    reason = HMC().unsupported(from_module(made)(Signature((1, 5, 7), 3, "categorical")))
    assert reason is None if word is None else word in reason


@pytest.mark.parametrize(
    ("model", "word"),
    [("vae", "bernoulli"), ("m2", "bound"), ("stopping_resnet", "bound"), ("coin", "density")],
)  # fmt: skip
def test_models_without_a_density_of_the_weights_are_refused(small, model, word):
    assert word in HMC().unsupported(small.suited(model))


def test_a_network_that_is_too_large_is_refused():
    model = catalog.load("models", "mlp")(Signature((784,), 10, "categorical"), widths=(300, 100))
    assert "266610" in HMC().unsupported(model)


@pytest.mark.slow
def test_the_prior_is_that_of_other_methods():
    """A tight prior on one row of two: its weights are smaller, by the factor of the priors where data say nothing."""
    data = Data(torch.zeros(2, 4, 1), torch.zeros(2, 4))
    method = HMC(prior_sd=torch.tensor([1.0, 0.1]), warmup_draws=60, draws=100)
    draws = method.fit(logistic(1, "gaussian", 1), data, Streams([1, 2])).state["fc1.weight"]
    sds = draws.flatten(1).std(1)
    assert 0.8 < sds[0] < 1.25
    assert 0.08 < sds[1] < 0.125
    assert math.isclose(draws.mean(), 0.0, abs_tol=0.2)


def test_more_draws_than_memory_holds_are_refused_before_the_first(small, refused):
    model = small.model("mlp")
    method = small.method("hmc", [{"hmc": {"draws": 10**9, "chains": 2}}])
    with refused("draws", "memory"):
        method.fit(model, small.data(model, 1), Streams.of_seeds([0]))
