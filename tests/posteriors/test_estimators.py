"""Estimates of the ELBO's gradient: unbiased, with the variance that a linear model has in closed form."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Normal

from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Examples, Signature
from bdlbench.kernels.gaussian import linear_expected_log_likelihood
from bdlbench.kernels.score_function import leave_one_out
from bdlbench.models.bayesian_linear_regression import BayesianLinearRegression
from bdlbench.posteriors import estimators
from bdlbench.posteriors.estimators import ESTIMATORS, FactorisedELBO, gradient_trace
from bdlbench.protocols import Layer, Model

ROWS, DRAWS, K = 150, 60, 3
N, SIGMA = 12, 0.8
MEAN, SD = np.array([0.7, -0.4, 0.3]), np.array([0.5, 0.25, 0.35])  # two weights, and the bias
ERROR_RATE = 0.01


def linear_data() -> tuple[np.ndarray, np.ndarray]:
    """x with a column of ones (N, 3), and y (N,) that the means do not explain."""
    draw = np.random.default_rng(0)
    x = np.column_stack([draw.normal(size=(N, 2)) + 0.4, np.ones(N)])
    return x, x @ (MEAN + np.array([0.4, -0.3, 0.2])) + SIGMA * draw.normal(size=N)


X, Y = linear_data()


def likelihood(model: Model, layer: Layer, batch: Examples, noise: Streams) -> Tensor:
    return model(layer, batch.x, noise).elbo(batch.y)


def setup(samples: int = K, rows: int = ROWS) -> tuple[FactorisedELBO, Tensor, Data]:
    """Rows with one q and one data set, so that they are repetitions."""
    model = BayesianLinearRegression(Signature((2,), 1, "gaussian"), noise_sd=SIGMA)
    layout = Layout(model.leaves())
    mean, log_sd = (
        layout.joined({"fc1.weight": of[:2].reshape(1, 1, 2), "fc1.bias": of[2:].reshape(1, 1)})
        for of in (torch.from_numpy(MEAN), torch.from_numpy(SD).log())
    )
    flat = torch.cat([mean, log_sd], -1).float().repeat(rows, 1)
    prior = model.prior(layout, flat)
    x, y = (torch.from_numpy(of).float().expand(rows, *of.shape) for of in (X[:, :2], Y))
    return FactorisedELBO(partial(likelihood, model), layout, lambda noise: prior, samples), flat, Data(x, y)


def packed(layout: Layout, rows: Tensor) -> Tensor:
    """Rows (R, 2P) without padding: two weights and the bias, their means and then their log standard deviations."""
    return torch.cat([layout.packed(part) for part in rows.chunk(2, -1)], -1)


def drawn(name: str, draws: int = DRAWS) -> np.ndarray:
    """Gradients of the summed expected log-likelihood (draws · R, 6)."""
    elbo, flat, data = setup()
    noise, found = Streams.of_seeds(range(ROWS)).child(name), []
    for _ in range(draws):
        point = flat.clone().requires_grad_()
        value, _ = ESTIMATORS[name](elbo, point, Examples(data.x, data.y), noise, False)
        found.append(packed(elbo.layout, torch.autograd.grad(value.sum(), point)[0]))
    return torch.cat(found).double().numpy()


def exact() -> np.ndarray:
    """The gradient of the closed form in means and log standard deviations, (6,)."""
    mean, log_sd = torch.from_numpy(MEAN).requires_grad_(), torch.from_numpy(np.log(SD)).requires_grad_()
    value = linear_expected_log_likelihood(
        torch.from_numpy(X), torch.from_numpy(Y), SIGMA, mean, torch.diag((2 * log_sd).exp())
    )
    return torch.cat(torch.autograd.grad(value, [mean, log_sd])).numpy()


def farthest(gradients: np.ndarray) -> float:
    """The largest distance of a mean from the exact gradient, in its standard errors."""
    error = gradients.std(0, ddof=1) / len(gradients) ** 0.5
    return float(np.abs((gradients.mean(0) - exact()) / error).max())


LIMIT = stats.norm.isf(ERROR_RATE / 2 / (len(ESTIMATORS) * 2 * len(MEAN)))
"""Bonferroni: of all estimates and parameters together, one in a hundred right implementations would fail."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimate_is_unbiased(name: str) -> None:
    assert farthest(drawn(name)) < LIMIT


@pytest.mark.slow
def test_a_baseline_that_has_seen_the_sample_is_found_to_be_biased(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of ALL samples as baseline leaves (K − 1)/K of the gradient."""
    monkeypatch.setattr(estimators, "leave_one_out", lambda values: values - values.mean(0))
    assert farthest(drawn("score_leave_one_out")) > 2 * LIMIT


# Variances in closed form. With δ = s ε the log-likelihood is f = f₀ + gᵀδ − ½ δᵀAδ: a polynomial in normal numbers.

RESIDUAL = Y - X @ MEAN
A, G = X.T @ X / SIGMA**2, X.T @ RESIDUAL / SIGMA**2
F0 = -0.5 * (RESIDUAL**2).sum() / SIGMA**2 - N * np.log(SIGMA * np.sqrt(2 * np.pi))


def of_weights() -> tuple[np.ndarray, np.ndarray]:
    """Variances of g_j − (Aδ)_j and of (g_j − (Aδ)_j) δ_j: products of two normal numbers (Isserlis)."""
    spread = (A**2 * SD**2).sum(1)  # of (Aδ)_j
    return spread, G**2 * SD**2 + SD**2 * spread + np.diag(A) ** 2 * SD**4


def of_local_noise() -> tuple[np.ndarray, np.ndarray]:
    """With pre-activations x m + √v ζ, v = x² s²: Σ x_j (e − √v ζ)/σ², and Σ (e − √v ζ) s_j² x_j² ζ / (√v σ²)."""
    v = X**2 @ SD**2
    mean = (X**2 * v[:, None]).sum(0)
    log_sd = ((SD**2 * X**2) ** 2 * (RESIDUAL**2 / v + 2)[:, None]).sum(0)
    return mean / SIGMA**4, log_sd / SIGMA**4


def of_flipout() -> tuple[np.ndarray, np.ndarray]:
    """Signs make the weights' noise uncorrelated between examples; the bias has one sample for all."""
    x, s, bias = X[:, :2], SD[:2], SD[2]
    v = x**2 @ s**2
    mean = (X**2 * v[:, None]).sum(0) + X.sum(0) ** 2 * bias**2
    others = v[:, None] - x**2 * s**2
    by_weight = s**2 * ((RESIDUAL**2)[:, None] * x**2 + x**2 * others + bias**2 * x**2).sum(0)
    by_weight += 2 * s**4 * (x**2).sum(0) ** 2
    by_bias = bias**2 * (RESIDUAL.sum() ** 2 + v.sum()) + 2 * N**2 * bias**4
    return mean / SIGMA**4, np.append(by_weight, by_bias) / SIGMA**4


def second_moments(f0: float) -> tuple[np.ndarray, np.ndarray, float, float]:
    """E f² h² of the scores h = ε_j / s_j and ε_j² − 1, then E f and Var f, where f = f0 + bᵀε − ½ εᵀBε.

    By Stein's lemma, E f² ε² = E f² + E ∂²f², and ε⁴ − 2ε² + 1 = He₄ + 4 He₂ + 2 gives the fourth derivative too.
    """
    b, matrix = SD * G, A * np.outer(SD, SD)
    own, squares = np.diag(matrix), np.diag(matrix @ matrix)
    mean, variance = f0 - 0.5 * own.sum(), float(b @ b + 0.5 * squares.sum())
    second = 2 * (b**2 + squares) - 2 * own * mean  # E ∂_j² f²
    whole = mean**2 + variance
    return (whole + second) / SD**2, 6 * own**2 + 4 * second + 2 * whole, float(mean), variance


def of_score(f0: float) -> tuple[np.ndarray, np.ndarray]:
    """E f² h² − (E f h)², of one sample."""
    in_mean, in_log_sd, _, _ = second_moments(f0)
    return in_mean - exact()[:3] ** 2, in_log_sd - exact()[3:] ** 2


def of_leave_one_out() -> tuple[np.ndarray, np.ndarray]:
    """K times the variance of a sample covariance of f and h.

    That is μ₂₂/K − (K − 2)/(K(K − 1)) Cov² + Var f Var h / (K(K − 1)), with E h = 0.
    """
    _, _, mean, variance = second_moments(0.0)
    in_mean, in_log_sd, _, _ = second_moments(-mean)
    parts = zip((in_mean, in_log_sd), (1 / SD**2, 2.0), (exact()[:3], exact()[3:]), strict=True)
    first, second = (
        fourth - (K - 2) / (K - 1) * covariance**2 + variance * score / (K - 1) for fourth, score, covariance in parts
    )
    return first, second


CLOSED_FORMS = {
    "local": of_local_noise,
    "weight": of_weights,
    "flipout": of_flipout,
    "score": partial(of_score, F0),
    "score_baseline": partial(of_score, 0.0),
    "score_leave_one_out": of_leave_one_out,
}


@pytest.fixture(scope="module")
def traces() -> dict[str, Tensor]:
    elbo, flat, data = setup()
    return gradient_trace(elbo, flat, data, Streams.of_seeds(range(ROWS)), N, DRAWS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("part", ["mean", "log_sd"])
def test_the_trace_of_the_covariance_is_the_closed_form(name: str, part: str, traces: dict[str, Tensor]) -> None:
    found = traces[f"{name} {part}"]
    expected = CLOSED_FORMS[name]()[part == "log_sd"].sum() / K
    error = float(found.std() / ROWS**0.5)
    assert error < 0.1 * expected
    assert abs(float(found.mean()) - expected) < 3 * error


def test_leave_one_out_lies_between_the_plain_score_function_and_reparameterisation() -> None:
    for part in range(2):
        trace = {name: form()[part].sum() for name, form in CLOSED_FORMS.items()}
        assert trace["score"] > 2 * trace["score_leave_one_out"] > 8 * trace["weight"]
        assert trace["weight"] > trace["flipout"] > trace["local"]


def test_half_of_the_examples_stand_for_all() -> None:
    """Twice the sum of the gradients of the first half: their variance is four times as large."""
    elbo, flat, data = setup(rows=2)
    half = Data(data.x[:, : N // 2], data.y[:, : N // 2])
    few, alone = (gradient_trace(elbo, flat, of, Streams.of_seeds([1, 2]), N // 2, 3) for of in (data, half))
    for name, value in few.items():
        torch.testing.assert_close(value, 4 * alone[name])


def test_one_sample_has_no_others() -> None:
    elbo, flat, data = setup(samples=1, rows=2)
    names = gradient_trace(elbo, flat, data, Streams.of_seeds([1, 2]), N, 2)
    assert {name.split()[0] for name in names} == set(ESTIMATORS) - {"score_leave_one_out"}


def test_each_sample_is_compared_with_the_mean_of_the_others() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 2.0], [8.0, 5.0]])
    torch.testing.assert_close(leave_one_out(values), torch.tensor([[-4.5, -1.5], [-1.5, -1.5], [6.0, 3.0]]))


@pytest.mark.parametrize("name", ["score", "score_baseline", "score_leave_one_out"])
def test_on_a_network_it_is_the_score_times_the_advantage_sample_by_sample(name: str, small) -> None:  # type: ignore[no-untyped-def]
    """By torch.distributions, one sample and one row at a time."""
    model, data, width = small.model("mlp"), small.classes(2), 5
    layout = Layout(model.leaves())
    draw = torch.Generator().manual_seed(0)
    mean = layout.joined({k: torch.randn(2, *leaf.shape, generator=draw) for k, leaf in layout.leaves.items()})
    flat = torch.cat([mean, 0.1 * mean], -1)
    prior = small.method("mean_field_vi").divergence(model, layout, data.x)
    elbo = FactorisedELBO(partial(likelihood, model), layout, prior, width)
    point, noise = flat.clone().requires_grad_(), Streams.of_seeds([3, 1])
    value, _ = ESTIMATORS[name](elbo, point, Examples(data.x, data.y), noise, False)
    (found,) = torch.autograd.grad(value.mean(-1).sum(), point)

    epsilon = Streams.of_seeds([3, 1]).normal((width, layout.width), flat)  # (R, K, P)
    counted = layout.fill(lambda leaf: 1.0)

    def fitness(weights: Tensor) -> Tensor:  # (R, P) -> (R,)
        return model(estimators.Point(layout.views(weights)), data.x, noise).elbo(data.y).mean(-1)

    sd = flat[:, layout.width :].exp()
    values = torch.stack([fitness(mean + sd * epsilon[:, k]) for k in range(width)], -1)  # (R, K)
    torch.testing.assert_close(value.detach().mean(-1), values.mean(-1))
    baseline = {
        "score": torch.zeros_like(values),
        "score_baseline": fitness(mean).unsqueeze(-1).expand_as(values),
        "score_leave_one_out": (values.sum(-1, keepdim=True) - values) / (width - 1),
    }[name]
    for row in range(2):
        own = flat[row].clone().requires_grad_()
        q = Normal(own[: layout.width], own[layout.width :].exp())
        total = 0.0
        for k in range(width):
            score = (q.log_prob((mean + sd * epsilon[:, k])[row]) * counted).sum()
            total = total + (values[row, k] - baseline[row, k]) * score / width
        torch.testing.assert_close(found[row], torch.autograd.grad(total, own)[0], rtol=1e-3, atol=1e-5)
    assert (found.abs() > 0).sum() == 2 * 2 * layout.num_parameters
