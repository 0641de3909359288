"""Ordinary least squares beside scikit-learn, beside maximum likelihood by steps, and where it is not unique."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression as Judge

from bdlbench import catalog
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.methods.mle import MLE
from bdlbench.methods.ols import OLS

ROWS, N, D = 3, 40, 4


def problem(seed=0, dtype=torch.float64):
    """Correlated inputs with means of their own, and a target that is not quite linear in them."""
    rng = np.random.default_rng(seed)
    x = 3 + rng.normal(size=(ROWS, N, D)) @ rng.normal(size=(D, D))
    y = x @ rng.normal(size=D) - 5 + 0.3 * x[..., 0] ** 2 + rng.normal(size=(ROWS, N))
    return x, y, Data(torch.from_numpy(x).to(dtype), torch.from_numpy(y).to(dtype))


def fitted(data, method=None):
    model = catalog.load("models", "linear_regression")(Signature(tuple(data.x.shape[2:]), 1, "gaussian"))
    return (method or OLS()).fit(model, data, Streams.of_seeds(range(data.rows)))


def test_weights_and_noise_are_those_of_scikit_learn():
    x, y, data = problem()
    posterior = fitted(data)
    for r in range(ROWS):
        judge = Judge().fit(x[r], y[r])
        residuals = y[r] - judge.predict(x[r])
        np.testing.assert_allclose(posterior.state["fc1.weight"][r, 0], judge.coef_, rtol=1e-10)
        np.testing.assert_allclose(posterior.state["fc1.bias"][r, 0], judge.intercept_, rtol=1e-10)
        np.testing.assert_allclose(posterior.state["log_noise_sd"][r, 0].exp(), residuals.std(), rtol=1e-10)
    predictive = posterior.predict(data.x, 5, Streams.of_seeds(range(ROWS)))
    z = residuals / residuals.std()
    expected = -0.5 * z**2 - np.log(residuals.std()) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(predictive.log_prob(data.y)[-1], expected, rtol=1e-9)


@pytest.mark.slow
def test_it_is_maximum_likelihood_which_steps_find_too():
    _, _, data = problem()
    data = Data(data.x - data.x.mean(1, keepdim=True), data.y / data.y.std(1, keepdim=True))
    by_steps = fitted(data, MLE(epochs=1500, batch_size=N, learning_rate=0.05, decay="linear"))
    for name, value in fitted(data).state.items():
        torch.testing.assert_close(value, by_steps.state[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_of_collinear_inputs_the_shortest_weights_are_taken(dtype):
    """In float32 too, where rounding makes the inputs independent: fitting that would be fitting noise."""
    x, y, _ = problem()
    twice = np.concatenate([x, x[..., :1] + 2 * x[..., 1:2]], -1)
    data = Data(torch.from_numpy(twice).to(dtype), torch.from_numpy(y).to(dtype))
    weight = fitted(data).state["fc1.weight"][:, 0].double()
    centred, middle = twice - twice.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    for r in range(ROWS):
        expected = np.linalg.lstsq(centred[r], middle[r], rcond=1e-10)[0]
        np.testing.assert_allclose(weight[r], expected, rtol=0, atol=1e-10 if dtype == torch.float64 else 1e-4)


def test_a_target_without_noise_has_that_of_its_rounding():
    x = torch.randn(1, 20, 2, generator=torch.Generator().manual_seed(0))
    data = Data(x, x @ torch.tensor([1.0, -2.0]))
    posterior = fitted(data)
    assert posterior.state["log_noise_sd"].exp().item() == pytest.approx(torch.finfo(torch.float32).eps, rel=0.9)
    assert torch.isfinite(posterior.predict(x, 1, Streams.of_seeds([0])).log_prob(data.y)).all()


def test_what_it_can_fit():
    signature = Signature((2,), 1, "gaussian")
    assert OLS().unsupported(catalog.load("models", "linear_regression")(signature)) is None
    assert "least-squares" in OLS().unsupported(catalog.load("models", "mlp")(signature))
    assert "one number" in catalog.load("models", "linear_regression")(Signature((2,), 3, "categorical")).unsupported()
