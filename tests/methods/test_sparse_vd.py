"""Sparse variational dropout by the recipe of its authors' code: what its options change."""

import pytest
import torch

from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.methods.sparse_vd import SparseVD
from bdlbench.networks.layers import Point
from bdlbench.training.loop import begin
from bdlbench.training.plan import Moment

SEEDS = (3, 1)
TRAINED = {"epochs": 4, "batch_size": 16, "initial_log_variance": -4.0, "threshold": 1.0}


def test_a_weight_far_above_the_threshold_is_driven_on_by_the_falling_kl_alone(small):
    data, model = small.classes(2), small.model("mlp")
    layout = Layout(model.leaves())
    gradients = {}
    for kind in ("falling", "constant"):
        method = SparseVD(kl_above_threshold=kind)
        (fit, *_), _ = begin(lambda method=method: method.fit(model, data, Streams.of_seeds(SEEDS)), 1)
        flat = torch.full((2, 2 * layout.width), 0.5)
        flat[:, layout.width :] = 4.0 + torch.tensor(0.25).log()  # log α = 4 everywhere
        flat.requires_grad_()
        batch = data.batch(torch.arange(9).expand(2, 9))
        loss = fit.objective(flat, batch, Streams.of_seeds(SEEDS), Moment(99, 100))
        (gradients[kind],) = torch.autograd.grad(loss.sum(), flat)
    means = {kind: layout.views(gradient[:, : layout.width]) for kind, gradient in gradients.items()}
    for name in ("fc1.weight", "fc2.weight"):
        assert not means["constant"][name].any()  # its mean is zero in training, and its KL is constant
        # −2 · slope / mean / N with the slope −0.0093721 of eq. 14 at log α = 4
        expected = torch.full_like(means["falling"][name], 2 * 0.0093721 / 0.5 / data.num_data)
        torch.testing.assert_close(means["falling"][name], expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("noise", "dropped"),
    [("kept", ()), ("dropped_in_convolutions", ("conv",)), ("dropped", ("conv", "fc"))],
)
def test_above_the_threshold_the_noise_is_kept_or_dropped(small, noise, dropped):
    """A third of the weights is above: without their noise, and with a constant KL, nothing depends on them."""
    model = small.model("lenet5", (1, 16, 16))
    layout, data = Layout(model.leaves()), small.data(model, 2)
    method = SparseVD(kl_above_threshold="constant", noise_above_threshold=noise)
    (fit, *_), _ = begin(lambda: method.fit(model, data, Streams.of_seeds(SEEDS)), 1)
    above = torch.arange(layout.width) % 3 == 0
    mean = torch.full((2, layout.width), 0.5)
    flat = torch.cat([mean, torch.where(above, 4.0, -2.0) + mean.square().log()], -1).requires_grad_()
    loss = fit.objective(flat, data.batch(torch.arange(9).expand(2, 9)), Streams.of_seeds(SEEDS), Moment(99, 100))
    (gradient,) = torch.autograd.grad(loss.sum(), flat)
    of_mean, of_variance = (layout.views(part) for part in gradient.chunk(2, -1))
    where = layout.views(above.expand(2, -1))
    for name in ("conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"):
        assert not of_mean[name][where[name]].any()
        assert of_mean[name][~where[name]].any()
        assert of_variance[name][~where[name]].all()
        assert (not of_variance[name][where[name]].any()) == name.startswith(dropped)


def test_prediction_by_means_is_that_of_the_weights_that_are_left(small):
    data, model = small.classes(2), small.model("mlp")
    by_samples, by_means = (
        SparseVD(**TRAINED, predict_by=how).fit(model, data, Streams.of_seeds(SEEDS)) for how in ("samples", "means")
    )
    assert all(torch.equal(by_means.state[name], value) for name, value in by_samples.state.items())
    means = {name.removesuffix(".mean"): v for name, v in by_means.state.items() if name.endswith(".mean")}
    assert (means["fc1.weight"] == 0).any()
    noise = Streams.of_seeds((5, 6))
    found = by_means.predict(data.x, 7, noise)
    expected = model(Point(means), data.x, noise).logits.log_softmax(-1)  # (R, N, C)
    assert found.samples == 1
    assert torch.equal(by_means.predict(data.x, 1, Streams.of_seeds((9, 9))).log_prob(data.y), found.log_prob(data.y))
    labelled = expected.gather(-1, data.y.unsqueeze(-1)).squeeze(-1).double()
    torch.testing.assert_close(found.log_prob(data.y).double(), labelled, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(by_samples.predict(data.x, 7, noise).log_prob(data.y), found.log_prob(data.y), atol=1e-3)
    assert by_means.facts.keys() == by_samples.facts.keys()


def test_with_all_weights_those_above_the_threshold_predict_too(small):
    data, model = small.classes(2), small.model("mlp")
    remaining, whole = (
        SparseVD(**TRAINED, predicting=kind).fit(model, data, Streams.of_seeds(SEEDS)) for kind in ("remaining", "all")
    )
    gone = remaining.state["fc1.weight.mean"] == 0
    assert gone.any()
    for part in ("mean", "variance"):
        name = f"fc1.weight.{part}"
        assert whole.state[name][gone].all()
        assert torch.equal(whole.state[name][~gone], remaining.state[name][~gone])
    alpha = whole.state["fc1.weight.variance"] / whole.state["fc1.weight.mean"].square()
    assert torch.equal(alpha.log() >= TRAINED["threshold"], gone)
    assert torch.equal(whole.facts["sparsity"], remaining.facts["sparsity"])
    variances = [posterior.moments().covariance.diagonal(dim1=-2, dim2=-1) for posterior in (whole, remaining)]
    assert (variances[0] >= variances[1]).all()
    assert (variances[0] > variances[1]).any()


@pytest.mark.parametrize("how", ["samples", "means"])
def test_restored_weights_predict_as_before(small, how):
    data, model = small.classes(2), small.model("mlp")
    method = SparseVD(**TRAINED, predict_by=how)
    posterior = method.fit(model, data, Streams.of_seeds(SEEDS))
    found = [
        p.predict(data.x, 3, Streams.of_seeds((5, 6))) for p in (posterior, method.restored(model, posterior.state))
    ]
    assert torch.equal(*(p.log_prob(data.y) for p in found))
    assert {p.samples for p in found} == {3 if how == "samples" else 1}
