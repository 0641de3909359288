"""On the linear model with Gaussian noise everything is known in closed form."""

import numpy as np
import pytest
import torch

from bdlbench import catalog
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.methods.dropconnect import DropConnectVI
from bdlbench.methods.map import MAP
from bdlbench.methods.mc_dropout import MCDropout
from bdlbench.methods.mean_field_vi import MeanFieldVI
from bdlbench.methods.mle import MLE
from bdlbench.posteriors.estimators import ESTIMATORS

N, D, NOISE_SD, PRIOR_SD = 20, 3, 0.5, 0.7
RIDGE = (NOISE_SD / PRIOR_SD) ** 2


def problem():
    """X (N, D + 1) with a column of ones, y (N,)."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=(N, D)) @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0, 0, 1]]), np.ones(N)])
    return x, x @ np.array([1.0, -0.5, 0.3, 0.2]) + NOISE_SD * rng.normal(size=N)


X, Y = problem()
GRAM = X.T @ X
PRECISION = GRAM / NOISE_SD**2 + np.eye(D + 1) / PRIOR_SD**2  # Λ
POSTERIOR_MEAN = np.linalg.solve(PRECISION, X.T @ Y) / NOISE_SD**2


def evidence(prior_sd=PRIOR_SD):
    """log N(y; 0, σ² I + s² X Xᵀ) in nats."""
    covariance = NOISE_SD**2 * np.eye(N) + prior_sd**2 * X @ X.T
    fit = Y @ np.linalg.solve(covariance, Y)
    return -0.5 * (fit + np.linalg.slogdet(covariance)[1] + N * np.log(2 * np.pi))


def fit(method, rows=1):
    model = catalog.load("models", "logistic")(Signature((D,), 1, "gaussian"), noise_sd=NOISE_SD)
    x, y = torch.from_numpy(X[:, :D].copy()), torch.from_numpy(Y)
    data = Data(x.expand(rows, N, D), y.expand(rows, N))
    return method.fit(model, data, Streams.of_seeds(range(rows)))


def vectors(posterior, suffix=""):
    """(R, D + 1): weights and bias."""
    state = posterior.state
    return torch.cat([state[f"fc1.weight{suffix}"].flatten(1), state[f"fc1.bias{suffix}"]], 1).numpy()


@pytest.mark.slow
def test_mle_is_ordinary_least_squares():
    expected = np.linalg.lstsq(X, Y, rcond=None)[0]
    np.testing.assert_allclose(
        vectors(fit(MLE(epochs=1000, batch_size=N, learning_rate=0.05, decay="linear")))[0], expected, rtol=0, atol=1e-6
    )


def test_map_is_the_posterior_mean():
    np.testing.assert_allclose(
        vectors(fit(MAP(epochs=1000, batch_size=N, learning_rate=0.05, decay="linear", prior_sd=PRIOR_SD)))[0],
        POSTERIOR_MEAN,
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.slow
def test_map_follows_the_prior_of_each_row():
    sds = torch.tensor([PRIOR_SD, 0.1], dtype=torch.float64)
    tight = np.linalg.solve(GRAM + (NOISE_SD / 0.1) ** 2 * np.eye(D + 1), X.T @ Y)
    found = vectors(fit(MAP(epochs=1000, batch_size=N, learning_rate=0.05, decay="linear", prior_sd=sds), rows=2))
    np.testing.assert_allclose(found, [POSTERIOR_MEAN, tight], rtol=0, atol=1e-6)


def assert_mean(rows, expected, slack):
    """The rows' mean is within five of its standard errors, and `slack` for the steps' finite size."""
    error = np.abs(rows.mean(0) - expected)
    standard_error = rows.std(0, ddof=1) / np.sqrt(len(rows))
    assert standard_error.max() < 0.02
    assert (error < 5 * standard_error + slack).all(), (error, standard_error)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_is_ridge_regression_scaled_by_the_inputs(rate):
    shrinkage = np.diag(np.append(np.diag(GRAM)[:D], 0.0)) * rate / (1 - rate)  # the bias is not dropped
    expected = np.linalg.solve(GRAM + shrinkage + RIDGE * np.eye(D + 1), X.T @ Y)
    assert np.abs(expected - POSTERIOR_MEAN).max() > 0.05
    found = vectors(
        fit(
            MCDropout(
                epochs=1500, batch_size=N, learning_rate=0.01, decay="linear", input_rate=rate, prior_sd=PRIOR_SD
            ),
            rows=40,
        )
    )
    assert_mean(found, expected, slack=5e-3)


@pytest.mark.slow
def test_dropconnects_mean_weights_are_those_of_dropout():
    rate = 0.3  # on one output the two masks differ only in being shared by the batch, which a mean does not see
    shrinkage = np.diag(np.append(np.diag(GRAM)[:D], 0.0)) * rate / (1 - rate)
    ridge = RIDGE * np.diag([1 / (1 - rate) ** 2] * D + [1.0])  # the prior is on λ = mean / (1 − p)
    expected = np.linalg.solve(GRAM + shrinkage + ridge, X.T @ Y) / np.array([1 - rate] * D + [1.0])
    found = vectors(
        fit(
            DropConnectVI(epochs=1500, batch_size=N, learning_rate=0.01, decay="linear", rate=rate, prior_sd=PRIOR_SD),
            rows=40,
        )
    )
    assert_mean(found, expected, slack=1e-2)


@pytest.fixture(scope="module")
def mean_field():
    method = MeanFieldVI(
        epochs=1500,
        batch_size=N,
        learning_rate=0.02,
        decay="linear",
        prior_sd=PRIOR_SD,
        initial_log_sd=-2.0,
        bound_samples=300,
    )
    return fit(method, rows=30)


@pytest.mark.slow
def test_mean_fields_means_are_the_posterior_means(mean_field):
    assert_mean(vectors(mean_field, ".mean"), POSTERIOR_MEAN, slack=5e-3)


@pytest.mark.slow
def test_mean_fields_variances_are_the_inverse_diagonal_of_the_precision(mean_field):
    log_sd = vectors(mean_field, ".log_sd")
    assert_mean(log_sd, -0.5 * np.log(np.diag(PRECISION)), slack=5e-3)


@pytest.mark.slow
def test_a_cold_mean_field_is_that_of_examples_counted_several_times():
    temperature = 0.25
    cold = GRAM / NOISE_SD**2 / temperature + np.eye(D + 1) / PRIOR_SD**2
    mean = np.linalg.solve(cold, X.T @ Y) / NOISE_SD**2 / temperature
    options = {"epochs": 1500, "batch_size": N, "learning_rate": 0.02, "decay": "linear", "bound_samples": 300}
    method = MeanFieldVI(**options, prior_sd=PRIOR_SD, initial_log_sd=-2.0, temperature=temperature)
    found = fit(method, rows=30)
    assert_mean(vectors(found, ".mean"), mean, slack=5e-3)
    assert_mean(vectors(found, ".log_sd"), -0.5 * np.log(np.diag(cold)), slack=5e-3)
    assert np.abs(mean - POSTERIOR_MEAN).max() > 0.02
    assert found.bound.numpy().mean() < evidence() - 0.5  # the ELBO of q itself, not of the tempered target


@pytest.mark.slow
def test_mean_fields_bound_is_below_the_evidence_by_its_gap(mean_field):
    gap = 0.5 * (np.log(np.diag(PRECISION)).sum() - np.linalg.slogdet(PRECISION)[1])
    assert gap > 0.1
    bounds = mean_field.bound.numpy()
    standard_error = bounds.std(ddof=1) / np.sqrt(len(bounds))
    assert standard_error < 0.03
    assert bounds.mean() <= evidence()
    assert bounds.mean() == pytest.approx(evidence() - gap, abs=5 * standard_error + 0.02)


@pytest.mark.parametrize("prior_sd", [0.1, PRIOR_SD, 3.0])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_bound_of_any_gaussian_is_below_the_evidence(prior_sd, estimator):
    method = MeanFieldVI(
        epochs=1,
        learning_rate=1e-9,
        prior_sd=prior_sd,
        initial_log_sd=-1.5,
        estimator=estimator,
        weight_samples=2,
        bound_samples=100,
    )
    assert (fit(method, rows=10).bound.numpy() < evidence(prior_sd)).all()  # far below: the means are as initialised
