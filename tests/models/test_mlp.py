"""The noise of a Gaussian target: known, in the target's units, learnt, or an output of the network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.methods.laplace import Laplace
from bdlbench.methods.map import MAP
from bdlbench.methods.mc_dropout import MCDropout
from bdlbench.methods.mean_field_vi import MeanFieldVI
from bdlbench.methods.mle import MLE
from bdlbench.models.mlp import MLP
from bdlbench.networks.layers import Point
from bdlbench.posteriors.fitting import initial_rows

SIGNATURE = Signature((2,), 1, "gaussian")
ROWS = Streams.of_seeds((0, 1))


def data(num=200, noise=None):
    """y = x₁ + noise, of the standard deviation `noise` (R, N), or .3 and .1."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, num, 2, generator=rng)
    sd = torch.tensor([[0.3], [0.1]]) if noise is None else noise(x)
    return Data(x, x[..., 0] + sd * torch.randn(2, num, generator=rng)), sd


def output_of(model, x, leaves=None):
    layout = Layout(model.leaves())
    views = layout.views(initial_rows(layout, ROWS, x))
    return model(Point({**views, **(leaves or {})}), x, ROWS)


def test_noise_in_the_targets_units_is_brought_to_each_rows_scale():
    y_sd = torch.tensor([2.0, 5.0], dtype=torch.float64)
    model = MLP(SIGNATURE, noise_sd=3.0, noise_unit="original").with_target_sd(y_sd)
    assert model.noise_sd.tolist() == pytest.approx([1.5, 0.6], rel=1e-15)
    assert model.with_target_sd(y_sd) is model  # which is done once
    as_it_is = MLP(SIGNATURE, noise_sd=3.0)
    assert as_it_is.with_target_sd(y_sd) is as_it_is
    each = replace(model, noise_unit="original", noise_sd=torch.tensor([1.0, 10.0], dtype=torch.float64))
    assert each.with_target_sd(y_sd).noise_sd.tolist() == [0.5, 2.0]


def test_a_learnt_noise_starts_at_noise_sd_and_has_one_parameter():
    known, learnt = (MLP(SIGNATURE, noise_sd=0.7, noise=kind) for kind in ("known", "learnt"))
    assert learnt.leaves().keys() - known.leaves().keys() == {"log_gain"}
    x = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(1))
    layout = Layout(known.leaves())
    leaves = layout.views(initial_rows(layout, ROWS, x)) | {"log_gain": torch.zeros(2, 1)}
    found = [model(Point(leaves), x, ROWS).elbo(torch.zeros(2, 5)) for model in (known, learnt)]
    assert torch.equal(*found)
    assert not initial_rows(Layout(learnt.leaves()), ROWS, x)[:, -16:].any()


@pytest.mark.parametrize("kind", ["learnt", "head"])
def test_the_density_is_scipys(kind):
    model = MLP(SIGNATURE, (3,), noise_sd=torch.tensor([0.5, 2.0]), noise=kind)
    x, y = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(1)), torch.linspace(-1, 1, 10).view(2, 5)
    found = output_of(model, x, {"log_gain": torch.tensor([[0.3], [-1.0]])} if kind == "learnt" else {})
    assert found.sd.shape == (2, 1 if kind == "learnt" else 5)
    exact = stats.norm.logpdf(y, found.mean.numpy(), found.sd.expand(2, 5).numpy())
    np.testing.assert_allclose(found.elbo(y), exact, rtol=1e-5, atol=1e-5)
    if kind == "learnt":
        torch.testing.assert_close(found.sd[:, 0], torch.tensor([0.5, 2.0]) * torch.tensor([0.3, -1.0]).exp())


def test_a_head_has_an_sd_for_each_input_as_in_the_paper():
    model = MLP(SIGNATURE, (3,), noise="head")
    layout = Layout(model.leaves())
    leaves = layout.views(initial_rows(layout, ROWS, torch.zeros(1)))
    x = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(1))
    hidden = torch.relu(x @ leaves["fc1.weight"].mT + leaves["fc1.bias"][:, None])
    raw = hidden @ leaves["fc2.weight"].mT + leaves["fc2.bias"][:, None]  # (R, B, 2)
    found = model(Point(leaves), x, ROWS)
    torch.testing.assert_close(found.mean, raw[..., 0])
    torch.testing.assert_close(found.sd, ((1 + raw[..., 1].exp()).log() + 1e-6).sqrt())


@pytest.mark.parametrize("kind", ["learnt", "head"])
def test_the_fisher_targets_give_the_information_of_mean_and_log_sd(kind):
    """1 / sd² and 2, and nothing between them: by the scores at the nodes."""
    model = MLP(SIGNATURE, (3,), noise_sd=0.4, noise=kind)
    found = output_of(model, torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(1)))
    information = torch.zeros(3, 2, 5)
    for y, weight in found.fisher_targets():
        z = (y - found.mean) / found.sd
        of_mean, of_log_sd = z / found.sd, z.square() - 1
        information += weight * torch.stack([of_mean.square(), of_log_sd.square(), of_mean * of_log_sd])
    assert torch.allclose(information[0], (1 / found.sd.square()).expand(2, 5), rtol=1e-5)
    assert torch.allclose(information[1], torch.tensor(2.0), rtol=1e-5)
    assert torch.allclose(information[2], torch.tensor(0.0), atol=1e-4)


def test_maximum_likelihood_learns_the_noise_of_each_row():
    training, sd = data()
    model = MLP(SIGNATURE, (), noise="learnt")
    posterior = MLE(epochs=300, batch_size=200, learning_rate=0.05).fit(model, training, ROWS)
    design = torch.cat([training.x, torch.ones(2, 200, 1)], -1)
    residual = training.y - (design @ torch.linalg.lstsq(design, training.y[..., None]).solution)[..., 0]
    expected = residual.square().mean(1).sqrt()  # the maximum of the likelihood
    found = posterior.state["log_gain"][:, 0].exp()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(found, sd[:, 0], rtol=0.15, atol=0)


@pytest.mark.slow
def test_a_head_learns_where_the_noise_is_large():
    training, _ = data(1000, lambda x: torch.where(x[..., 1] > 0, 0.5, 0.1))
    model = MLP(SIGNATURE, (20,), noise="head")
    posterior = MLE(epochs=150, batch_size=100, learning_rate=0.01).fit(model, training, ROWS)
    x = torch.tensor([[0.0, 1.0], [0.0, -1.0]]).expand(2, 2, 2)
    found = posterior.predict(x, 1, ROWS).variance.sqrt()
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.1]] * 2, dtype=torch.float64), rtol=0.35, atol=0)


@pytest.mark.parametrize("kind", ["learnt", "head"])
@pytest.mark.parametrize("method", [MAP, MCDropout, MeanFieldVI, Laplace])
def test_a_row_is_the_same_alone_and_among_others_and_sds_are_of_their_sample(kind, method):
    training, _ = data(40)
    model = MLP(SIGNATURE, (4,), noise_sd=0.5, noise=kind)
    fit = method(epochs=2, batch_size=16).fit
    together, alone = fit(model, training, ROWS), fit(model, training.row(1), Streams.of_seeds((1,)))
    x = training.x[:, :7]
    found, one = together.predict(x, 12, ROWS), alone.predict(x[1:], 12, Streams.of_seeds((1,)))
    for ours, theirs in zip(found.components(), one.components(), strict=True):
        assert ours.shape[1:] == (2, 7)
        assert torch.equal(ours[:, 1:], theirs)
    assert torch.isfinite(found.log_prob(training.y[:, :7])).all()


def test_noise_options_are_for_gaussian_targets():
    for options in ({"noise": "head"}, {"noise": "learnt"}, {"noise_unit": "original"}):
        assert "noise" in MLP(Signature((2,), 3, "categorical"), **options).unsupported()
        assert MLP(SIGNATURE, **options).unsupported() is None
