"""The variance of gradient estimates: closed forms on a linear model, and what a method keeps of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.methods.variational_dropout import VariationalDropout
from bdlbench.models.mlp import Logistic
from bdlbench.networks.layers import Leaves
from bdlbench.posteriors.gradient_variance import ESTIMATES, gradient_variance

ROWS, PAIRS, N, B, S, SD = 150, 8, 40, 10, 0.7, 0.6
"""S² is α, SD the standard deviation of the target."""

THETA = np.array([0.8, -0.5])


@pytest.fixture(scope="module")
def examples() -> tuple[np.ndarray, np.ndarray]:
    """x (N, 2) and y (N,), with a residual that the model does not explain."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(N, 2)) + 0.3
    return x, x @ (THETA + 0.2) + draw.normal(size=N)


@pytest.fixture(scope="module")
def measured(examples: tuple[np.ndarray, np.ndarray]) -> dict[str, Tensor]:
    """Each row has the same data and parameters, and random numbers of its own: so many repetitions."""
    x, y = (torch.from_numpy(each).float().expand(ROWS, *each.shape) for each in examples)
    model = Logistic(Signature((2,), 1, "gaussian"), noise_sd=SD)
    layout = Layout(model.leaves())
    flat = layout.joined(
        {"fc1.weight": torch.from_numpy(THETA).float().reshape(1, 1, 2), "fc1.bias": torch.zeros(1, 1)}
    )

    def unpack(flat: Tensor) -> tuple[Leaves, Leaves]:
        means = layout.views(flat)
        return means, {"fc1.weight": S**2 * means["fc1.weight"].square()}

    rng = Streams.of_seeds(range(ROWS))
    return gradient_variance(model, layout, unpack, flat.repeat(ROWS, 1), Data(x, y), rng, B, PAIRS)


def between(values: np.ndarray) -> np.ndarray:
    """The variance between the means of disjoint batches, of values by example (N, 2)."""
    return values.var(0, ddof=1) / B


def closed_forms(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The variance of each estimate, mean over both weights.

    With the residual e = y − θx, a weight θ(1 + sε) and the sum L = Σ_k θ_k x_k ε_k, the gradient in θ_j is
    x_j (1 + s ε_j)(e − s L) / σ², and by local noise ζ of standard deviation d = s √Σ θ_k² x_k² it is
    (x_j + s² θ_j x_j² ζ / d)(e − d ζ) / σ²: moments of polynomials in standard normal numbers.
    """
    e, t = y - x @ THETA, ((THETA * x) ** 2).sum(1)  # (N,)
    none = x * e[:, None]  # (N, 2)
    mean = none - S**2 * THETA * x**2
    d = S * np.sqrt(t)[:, None]
    slope = S**2 * THETA * x**2 / d
    local = (slope * e[:, None] - x * d) ** 2 + 2 * (slope * d) ** 2
    own = (THETA * x) ** 2
    linear = e[:, None] ** 2 - 2 * e[:, None] * THETA * x + t[:, None]
    separate = x**2 * (S**2 * linear + S**4 * (t[:, None] + own))
    draw, single = np.random.default_rng(1), np.zeros(2)
    for _ in range(repeats := 4000):  # of the batch: given it, the moments are exact
        chosen = draw.permutation(N)[:B]
        a, q = none[chosen].mean(0), x[chosen].T @ x[chosen] / B
        total, one = ((THETA * q) ** 2).sum(1), THETA * np.diag(q)
        single += (S**2 * (a**2 - 2 * a * one + total) + S**4 * (total + one**2)) / repeats
    found = {
        "none": between(none),
        "local": between(mean) + local.mean(0) / B,
        "separate": between(mean) + separate.mean(0) / B,
        "single": between(mean) + single,
    }
    return {name: float(value.mean()) * N**2 / SD**4 for name, value in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("estimate", ESTIMATES)
def test_on_a_linear_model_it_is_the_closed_form(
    estimate: str, examples: tuple[np.ndarray, np.ndarray], measured: dict[str, Tensor]
) -> None:
    """They are far apart: 1 to 9."""
    values = measured[f"gradient_variance[{estimate} fc1.weight]"]
    error = values.std() / ROWS**0.5
    expected = closed_forms(*examples)
    assert error < 0.06 * values.mean()
    assert abs(float(values.mean()) - expected[estimate]) < 3 * float(error)
    assert expected["none"] * 1.2 < expected["local"] < expected["separate"] / 1.05 < expected["single"] / 1.5


@pytest.mark.slow
def test_the_error_of_a_ratio_is_how_much_it_varies(measured: dict[str, Tensor]) -> None:
    for estimate in ("separate", "single", "none"):
        ratio, error = (measured[f"gradient_variance_ratio{of}[{estimate} fc1.weight]"] for of in ("", "_error"))
        assert 0.7 < float(error.square().mean().sqrt() / ratio.std()) < 1.6
    assert measured["gradient_variance_ratio[local fc1.weight]"].eq(1).all()


METHOD = VariationalDropout(epochs=2, batch_size=16, initial_alpha=0.8)


@pytest.mark.slow
def test_what_is_measured_changes_nothing_that_is_learnt(small) -> None:  # type: ignore[no-untyped-def]
    data, model = small.classes(2), small.model("mlp")
    plain, asked = (
        replace(METHOD, gradient_pairs=pairs).fit(model, data, Streams.of_seeds([3, 1])) for pairs in (0, 2)
    )
    assert all(torch.equal(value, asked.state[name]) for name, value in plain.state.items())
    assert not [name for name in plain.facts if name.startswith("gradient")]
    ratios = [name for name in asked.facts if name.startswith("gradient_variance_ratio[")]
    linear = sum(name.endswith(".weight") for name in model.leaves())
    assert len(ratios) == 4 * linear
    assert all((asked.facts[name] > 0).all() for name in ratios)


@pytest.mark.slow
def test_a_row_is_measured_alone_as_among_others(small) -> None:  # type: ignore[no-untyped-def]
    data, model = small.classes(2), small.model("mlp")
    method = replace(METHOD, gradient_pairs=2)
    together = method.fit(model, data, Streams.of_seeds([3, 1])).facts
    alone = method.fit(model, data.row(1), Streams.of_seeds([1])).facts
    for name, value in together.items():
        torch.testing.assert_close(value[1:], alone[name], rtol=1e-4, atol=0)


@pytest.mark.slow
def test_weights_drawn_for_each_example_do_not_depend_on_how_many_are_held_at_once(monkeypatch, small) -> None:  # type: ignore[no-untyped-def]
    """How many are held depends on R, and each example has a stream of its own. Without noise all estimates are one."""
    data, model = small.classes(2), small.model("mlp")
    layout = Layout(model.leaves())

    def unpack(flat: Tensor) -> tuple[Leaves, Leaves]:
        means = layout.views(flat)
        return means, {name: torch.zeros_like(means[name]) for name in means if name.endswith(".weight")}

    draw = torch.Generator().manual_seed(0)
    flat = layout.joined({k: torch.randn(2, *leaf.shape, generator=draw) for k, leaf in layout.leaves.items()})

    def noisy(flat: Tensor) -> tuple[Leaves, Leaves]:
        means, nothing = unpack(flat)
        return means, {name: torch.full_like(value, 0.3) for name, value in nothing.items()}

    found = []
    for elements in (1, 5 * layout.width, 1 << 22):
        monkeypatch.setattr("bdlbench.posteriors.gradient_variance.WEIGHTS_AT_ONCE", elements)
        facts = gradient_variance(model, layout, unpack, flat, data, Streams.of_seeds([3, 1]), 7, 2)
        for name, value in facts.items():
            if name.startswith("gradient_variance_ratio["):
                torch.testing.assert_close(value, torch.ones(2).double(), rtol=1e-3, atol=1e-3)
        found.append(gradient_variance(model, layout, noisy, flat, data, Streams.of_seeds([3, 1]), 7, 2))
    for name, value in found[0].items():
        for other in found[1:]:
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=0)
