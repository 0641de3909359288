"""SWAG by hand, by definition along its trajectory, and at the ends of its options."""

import math

import numpy as np
import pytest
import torch

from bdlbench import catalog
from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.methods.swag import SWAG
from bdlbench.training.loop import Session, session
from bdlbench.training.plan import Moment

SEEDS = (3, 1)


def fitted(small, method, model="mlp", rows=2, **options):
    """The posterior, the fit, and the rows (R, P) after each step."""
    trajectory = []

    def listen(done, total):
        trajectory.append(current.fits[-1].state.flat.detach().clone())

    built = small.model(model)
    with session(Session(listen=listen)) as current:
        posterior = small.method(method, [{method: options}], **EPOCHS).fit(
            built, small.classes(rows), Streams.of_seeds(SEEDS[:rows])
        )
    return posterior, current.fits[-1], trajectory


EPOCHS = {"epochs": 12, "batch_size": 13}
STEPS = 4  # an epoch: 53 examples by 13


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"collect_from": 0.5, "rank": 3}, [6, 7, 8, 9, 10, 11, 12]),
        ({"collect_from": 0.5, "rank": 20}, [6, 7, 8, 9, 10, 11, 12]),
        ({"collect_from": 0.25, "rank": 2, "every": 4}, [3, 7, 11]),
        ({"collect_from": 0.0, "rank": 4, "every": 5}, [1, 6, 11]),
        ({"collect_from": 0.9, "rank": 4}, [11, 12]),
        ({"collect_from": 0.5, "rank": 0}, [6, 7, 8, 9, 10, 11, 12]),
        ({"collect_from": 0.5, "rank": 1}, [6, 7, 8, 9, 10, 11, 12]),
        ({"collect_from": 1.0}, [12]),
    ],
)
def test_the_moments_are_those_of_the_trajectory_by_definition(small, options, epochs):
    posterior, _, trajectory = fitted(small, "swag", collect_rate=0.3, **options)
    layout = Layout(small.model("mlp").leaves())
    w = np.stack([trajectory[STEPS * epoch - 1].double().numpy() for epoch in epochs])  # (n, R, P)
    mean, variance = w.mean(0), (w**2).mean(0) - w.mean(0) ** 2
    deviations = np.stack([w[i] - w[: i + 1].mean(0) for i in range(len(w))], 1)  # (R, n, P)
    kept = min(options.get("rank", 20), len(epochs) - 1)
    kept = kept if kept > 1 else 0
    found = {
        part: layout.joined({k: posterior.state[f"{k}.{part}"] for k in layout.leaves}) for part in ("mean", "variance")
    }
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found["variance"], variance, rtol=1e-3, atol=1e-9)
    assert posterior.state["deviations"].shape == (2, kept, layout.width)
    np.testing.assert_allclose(posterior.state["deviations"], deviations[:, len(w) - kept :], rtol=1e-3, atol=1e-6)


class Scripted:
    """Streams whose normal numbers are given, in the order in which they are asked for."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def normal(self, shape, like):
        return self.numbers.pop(0).reshape(1, 1, *shape)


def by_hand(columns):
    """One row of two weights and a bias, each with its own place of 16."""
    model = catalog.load("models", "logistic")(Signature((2,), 1, "gaussian"))
    layout = Layout(model.leaves())
    at = [int(i) for i in layout.fill(lambda leaf: 1.0).nonzero().flatten()]

    def row(*values):
        flat = torch.zeros(layout.width)
        flat[at] = torch.tensor(values, dtype=flat.dtype)
        return flat

    deviations = torch.stack([row(1, 0, 2), row(0, 3, -1), row(2, 2, 0)])[:columns].unsqueeze(0)
    posterior = SWAG().posterior(model, layout, row(1, 2, 3)[None], row(8, 18, 2)[None], deviations)
    return posterior, row


def test_a_draw_is_the_papers_formula_by_hand():
    posterior, row = by_hand(3)
    drawn = posterior.draw(Scripted(row(1.0, -1.0, 2.0), torch.tensor([2.0, 0.0, -1.0])), False).leaves
    # mean + √(8, 18, 2)/√2 · (1, −1, 2) + (2 · (1, 0, 2) − (2, 2, 0)) / √(2 · 2) = mean + (2, −3, 2) + (0, −1, 2)
    assert [round(v, 5) for name in drawn for v in drawn[name].flatten().tolist()] == [3.0, -2.0, 7.0]
    expected = torch.tensor([[4 + 5 / 4, 1.0, 0.5], [1.0, 9 + 13 / 4, -0.75], [0.5, -0.75, 1 + 5 / 4]])
    torch.testing.assert_close(posterior.moments().covariance[0], expected.double())


def test_without_deviations_a_draw_has_the_whole_variance():
    posterior, row = by_hand(0)
    drawn = posterior.draw(Scripted(row(1.0, -1.0, 2.0)), False).leaves
    expected = [1 + math.sqrt(8), 2 - math.sqrt(18), 3 + 2 * math.sqrt(2)]
    assert [v for name in drawn for v in drawn[name].flatten().tolist()] == pytest.approx(expected)
    torch.testing.assert_close(posterior.moments().covariance[0], torch.diag(torch.tensor([8.0, 18.0, 2.0])).double())


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 5])
def test_samples_have_the_covariance_of_the_moments(small, rank):
    posterior, _, _ = fitted(small, "swag", collect_rate=0.3, rank=rank)
    layout, draws = Layout(small.model("mlp").leaves()), 4000
    leaves = posterior.draw(Streams.of_seeds(SEEDS).samples(0, draws), False).leaves
    w = layout.packed(layout.joined(leaves))[:, 0, :60].double()  # (M, 60) of row 0
    expected = posterior.moments().covariance[0, :60, :60]
    sd = expected.diagonal().sqrt()
    found = torch.cov(w.T) / sd.outer(sd)
    torch.testing.assert_close(found, expected / sd.outer(sd), rtol=0, atol=8 / draws**0.5)


def test_where_nothing_moves_it_is_map_at_the_end_of_the_burn_in(small):
    found, _, _ = fitted(small, "swag", collect_rate=0.0, collect_from=0.5, prior_sd=0.3)
    point = small.method("map", [{"map": {"prior_sd": 0.3}}], epochs=6, batch_size=13).fit(
        small.model("mlp"), small.classes(2), Streams.of_seeds(SEEDS)
    )
    for name, value in point.state.items():
        assert torch.equal(found.state[f"{name}.mean"], value)
        assert (found.state[f"{name}.variance"] == 0).all()
    assert found.state["deviations"].shape[1] == 6
    assert (found.state["deviations"] == 0).all()
    x = small.classes(2, 11, seed=9).x
    predicted = [small.tensors(p.predict(x, 6, Streams.of_seeds(SEEDS))) for p in (found, point)]
    torch.testing.assert_close(predicted[0]["probs"], predicted[1]["probs"], rtol=1e-6, atol=1e-6)


def test_after_the_burn_in_a_step_is_sgds(small):
    rates = [{"swag": {"collect_rate": rate, "collect_from": 0.5}} for rate in (0.1, 0.3)]
    trajectory, data = [], small.classes(2)

    def listen(done, total):
        trajectory.append(current.fits[-1].state.flat.detach().clone())

    with session(Session(listen=listen)) as current:
        small.method("swag", rates, epochs=8, batch_size=53).fit(small.model("mlp"), data, Streams.of_seeds(SEEDS))
    fit = current.fits[-1]
    before = trajectory[5].clone().requires_grad_()
    fit.objective(before, data, None, Moment(6, 8)).sum().backward()
    moved = trajectory[6] - trajectory[5]
    expected = -torch.tensor([[0.1], [0.3]]) * before.grad
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_on_the_linear_model_the_mean_is_near_the_exact_one_and_batches_make_the_variance():
    """Also where SGD sees 10 of 40 examples at a time; a larger rate makes a wider posterior."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 40, 2, generator=rng).double()
    y = x @ torch.tensor([1.0, -0.5]).double() + 0.5 * torch.randn(1, 40, generator=rng).double()
    model = catalog.load("models", "bayesian_linear_regression")(Signature((2,), 1, "gaussian"), 0.7, 0.5)
    data = Data(x.expand(2, -1, -1), y.expand(2, -1))
    method = SWAG(epochs=400, batch_size=10, learning_rate=0.05, collect_rate=torch.tensor([0.01, 0.04]).double())
    moments = method.fit(model, data, Streams.of_seeds([0, 0])).moments()
    spread = moments.covariance.diagonal(dim1=1, dim2=2).sqrt()  # (R, P)
    assert (spread > 1e-4).all()
    assert (spread[1] > 1.5 * spread[0]).all()
    assert ((moments.mean - model.exact(data).mean).abs() < spread).all()


def test_what_was_kept_predicts_what_it_predicted(small):
    for rank in (0, 4):
        found, _, _ = fitted(small, "swag", collect_rate=0.3, rank=rank)
        x, model = small.classes(2, 11, seed=9).x, small.model("mlp")
        again = small.method("swag").restored(model, found.state)
        for joint in (False, True):
            one, other = (small.tensors(p.predict(x, 6, Streams.of_seeds(SEEDS), joint)) for p in (found, again))
            assert one.keys() == other.keys() and "log_probs" in one
            assert all(torch.equal(one[name], other[name]) for name in one)
