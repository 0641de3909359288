"""IVON: its update by hand and beside ivon-opt's, with the same noise, and its fixed point on a quadratic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bdlbench import catalog
from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.downloads import imported
from bdlbench.data.task import Data, Signature

N, D, NOISE, SD = 16, 3, 0.5, 0.5  # numbers whose δ float32 has
OPTIONS = {"learning_rate": 0.3, "prior_sd": SD, "initial_hessian": 0.8, "momentum": 0.6, "hessian_momentum": 0.7}
STEPS = 6


def problem():
    """X (N, D + 1) with a column of ones, y (N,)."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=(N, D)) @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0, 0, 1]]), np.ones(N)])
    return x, x @ np.array([1.0, -0.5, 0.3, 0.2]) + NOISE * rng.normal(size=N)


X, Y = problem()


def fitted(small, rows=1, **options):
    """The linear model, trained on all data at once."""
    model = catalog.load("models", "logistic")(Signature((D,), 1, "gaussian"), noise_sd=NOISE)
    x, y = torch.from_numpy(X[:, :D].copy()), torch.from_numpy(Y)
    data = Data(x.expand(rows, N, D), y.expand(rows, N))
    given = {**OPTIONS, "batch_size": N, "epochs": STEPS, **options}
    method = small.method("ivon", [{"ivon": given}])
    return method.fit(model, data, Streams.of_seeds(range(rows))), method, model, data


def noise_of(layout, draws=1):
    """The standard normal numbers of one row, (steps, draws, D + 1), weights before the bias."""
    streams = Streams.of_seeds([0]).child("noise")
    like = torch.zeros(1, dtype=torch.float64)
    drawn = [layout.packed(streams.normal((layout.width,), like))[0] for _ in range(STEPS * draws)]
    return torch.stack(drawn).unflatten(0, (STEPS, draws)).numpy()


def start(model, method, data):
    posterior = catalog.load("methods", "ivon")(
        **{**OPTIONS, "learning_rate": 1e-30, "hessian_momentum": 1.0}, batch_size=N, epochs=1
    ).fit(model, data, Streams.of_seeds([0]))
    return torch.cat([posterior.state["fc1.weight.mean"].flatten(), posterior.state["fc1.bias.mean"].flatten()]).numpy()


def vectors(posterior, part):
    state = posterior.state
    return torch.cat([state[f"fc1.weight.{part}"].flatten(1), state[f"fc1.bias.{part}"]], 1).numpy()


@pytest.mark.parametrize("draws", [1, 2])
def test_its_steps_are_those_of_the_paper_by_hand(small, draws):
    posterior, method, model, data = fitted(small, weight_samples=draws)
    epsilon = noise_of(Layout(model.leaves()), draws)
    rate, first, second, h0 = (OPTIONS[k] for k in ("learning_rate", "momentum", "hessian_momentum", "initial_hessian"))
    delta, m = 1 / (N * SD**2), start(model, method, data)
    h, v = np.full(D + 1, h0), np.zeros(D + 1)
    for t in range(STEPS):
        sigma = 1 / np.sqrt(N * (h + delta))
        w = m + sigma * epsilon[t]  # (draws, D + 1)
        slopes = (w @ X.T - Y) @ X / NOISE**2 / N
        g, sampled = slopes.mean(0), (slopes * (w - m) / sigma**2).mean(0)
        v = first * v + (1 - first) * g
        h = second * h + (1 - second) * sampled + 0.5 * (1 - second) ** 2 * (h - sampled) ** 2 / (h + delta)
        m = m - rate * (h0 + delta) * (v / (1 - first ** (t + 1)) + delta * m) / (h + delta)
    np.testing.assert_allclose(vectors(posterior, "mean")[0], m, rtol=1e-7)
    np.testing.assert_allclose(vectors(posterior, "log_sd")[0], -0.5 * np.log(N * (h + delta)), rtol=1e-7)
    assert np.abs(h / h0 - 1).min() > 1e-3


@pytest.mark.slow
def test_its_steps_are_those_of_ivon_opt_with_the_same_noise(small, monkeypatch):
    try:
        ivon = imported("ivon")
    except ImportError as error:
        pytest.skip(f"ivon-opt is not installed: {error}")
    posterior, method, model, data = fitted(small)
    epsilon = iter(torch.from_numpy(noise_of(Layout(model.leaves()))[:, 0]))
    module, at = nn.Linear(D, 1).double(), torch.from_numpy(start(model, method, data))
    module.weight.data, module.bias.data = at[:D].reshape(1, D).clone(), at[D:].clone()
    optimizer = ivon.IVON(
        module.parameters(),
        OPTIONS["learning_rate"],
        ess=N,
        weight_decay=1 / (N * SD**2),
        hess_init=OPTIONS["initial_hessian"],
        beta1=OPTIONS["momentum"],
        beta2=OPTIONS["hessian_momentum"],
    )
    monkeypatch.setattr(torch, "randn", lambda *args, **kwargs: next(epsilon))
    for _ in range(STEPS):
        with optimizer.sampled_params(train=True):
            optimizer.zero_grad()
            (((module(data.x[0]).squeeze(-1) - data.y[0]) / NOISE) ** 2).mean().div(2).backward()
        optimizer.step()
    mean = torch.cat([module.weight.flatten(), module.bias]).detach()
    np.testing.assert_allclose(vectors(posterior, "mean")[0], mean, rtol=1e-6)
    hessian = optimizer.param_groups[0]["hess"]
    np.testing.assert_allclose(
        vectors(posterior, "log_sd")[0], -0.5 * (N * (hessian + 1 / (N * SD**2))).log(), rtol=1e-6
    )


@pytest.mark.slow
def test_its_fixed_point_on_a_quadratic_is_the_exact_diagonal_precision_as_mean_fields(small):
    """So is mean_field_vi's optimum: variance 1/Λᵢᵢ around the exact mean, whose gap to the evidence is known."""
    steps = {"epochs": 4000, "learning_rate": 0.02, "decay": "linear", "momentum": 0.9, "hessian_momentum": 0.995}
    posterior, *_ = fitted(small, rows=30, bound_samples=200, **steps)
    precision = X.T @ X / NOISE**2 + np.eye(D + 1) / SD**2
    mean = np.linalg.solve(precision, X.T @ Y) / NOISE**2
    found = vectors(posterior, "mean")
    error = found.std(0, ddof=1) / np.sqrt(30)
    assert (np.abs(found.mean(0) - mean) < 5 * error + 2e-3).all() and error.max() < 0.01
    found = vectors(posterior, "log_sd")
    error = found.std(0, ddof=1) / np.sqrt(30)
    assert (np.abs(found.mean(0) + 0.5 * np.log(np.diag(precision))) < 5 * error + 0.01).all() and error.max() < 0.02
    covariance = NOISE**2 * np.eye(N) + SD**2 * X @ X.T
    evidence = -0.5 * (Y @ np.linalg.solve(covariance, Y) + np.linalg.slogdet(covariance)[1] + N * np.log(2 * np.pi))
    gap = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert posterior.bound.mean().item() == pytest.approx(evidence - gap, abs=0.03)


def test_a_prior_that_is_no_gaussian_is_refused(small):
    assert "Gaussian" in small.method("ivon").unsupported(small.suited("coin"))
    assert small.method("ivon").unsupported(small.suited("bayesian_linear_regression")) is None


def test_an_optimiser_that_it_would_not_use_is_refused(small):
    method = small.method("ivon", [{"ivon": {"optimiser": "sgd"}}])
    assert "optimiser" in method.unsupported(small.model("mlp"))
