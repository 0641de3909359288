"""M2: its bound of log p(x, y), written out and by quadrature; labels and rows."""

from dataclasses import dataclass, field, replace

import pytest
import torch

from bdlbench import catalog
from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.networks.layers import Point

SIGNATURE = Signature((2, 3), 4, "semi_categorical")
PIXELS = 6


def build(**options):
    chosen = {"widths": "7", "latent_widths": "5-3", "latent": 2, **options}
    return catalog.build_model([catalog.choice("models", "m2", {"m2": chosen})], SIGNATURE)


def weights(model, rows=2, scale=0.7):
    layout = Layout(model.leaves())
    rng = torch.Generator().manual_seed(1)
    return layout.views(scale * torch.randn(rows, layout.width, generator=rng, dtype=torch.float64))


def pictures(rows=2, batch=5):
    rng = torch.Generator().manual_seed(2)
    return torch.rand(rows, batch, *SIGNATURE.input_shape, generator=rng, dtype=torch.float64)


@dataclass(frozen=True)
class Given:
    """Streams that give one number for every draw, and keep the shapes asked for."""

    value: float
    asked: list = field(default_factory=list)

    def normal(self, shape, like):
        self.asked.append(tuple(shape))
        return like.new_full((2, *shape), self.value)


def log_bernoulli(x, logit):
    p = 1 / (1 + (-logit).exp())
    return x * p.log() + (1 - x) * (1 - p).log()


def stacked(w, name, count, h):
    """The layers behind the first."""
    for i in range(2, count + 1):
        h = torch.relu(w[f"{name}{i}.weight"] @ h + w[f"{name}{i}.bias"])
    return h


def moments(w, x, c):
    h = torch.relu(w["encoder1.weight"] @ x + w["encoder1.offsets"][c])
    return (w["latent.weight"] @ stacked(w, "encoder", 2, h) + w["latent.bias"]).chunk(2)


def pixel_logits(w, z, c):
    h = torch.relu(w["decoder1.weight"] @ z + w["decoder1.offsets"][c])
    return w["pixels.weight"] @ stacked(w, "decoder", 2, h) + w["pixels.bias"]


def test_the_bound_of_each_class_is_the_sum_written_out():
    model, x = build(), pictures()
    leaves, noise = weights(model), 0.3
    found = model(Point(leaves), x, Given(noise)).joint()
    assert found.shape == (2, 5, 4)
    for r, b, c in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        w, pixels = {name: leaf[r] for name, leaf in leaves.items()}, x[r, b].flatten()
        mean, log_sd = moments(w, pixels, c)
        fit = log_bernoulli(pixels, pixel_logits(w, mean + log_sd.exp() * noise, c)).sum()
        kl = (0.5 * (mean**2 + (2 * log_sd).exp() - 1) - log_sd).sum()
        torch.testing.assert_close(found[r, b, c], fit - kl + torch.tensor(1 / 4, dtype=torch.float64).log())


def test_a_label_picks_its_class_and_an_absent_one_sums_over_all():
    model, x = build(alpha=3.0), pictures()
    output = model(Point(weights(model)), x, Given(-0.4))
    y = torch.tensor([[0, -1, 3, -1, 2], [-1, 1, 1, 0, -1]])
    found, joint, log_q = output.elbo(y), output.joint(), output.logits.log_softmax(-1)
    for r, b in torch.cartesian_prod(torch.arange(2), torch.arange(5)).tolist():
        c = int(y[r, b])
        over_classes = sum(log_q[r, b, k].exp() * (joint[r, b, k] - log_q[r, b, k]) for k in range(4))
        expected = joint[r, b, c] + 3 * log_q[r, b, c] if c >= 0 else over_classes
        torch.testing.assert_close(found[r, b], expected)


def test_it_stays_below_the_evidence():
    """Binary x, one latent: both E over q(z | x, y) and log p(x, y) = log p(y) ∫ p(x | z, y) p(z) dz by quadrature."""
    model, x = build(latent=1, alpha=2.0), pictures().round()
    leaves = weights(model, scale=0.3)
    grid = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    density = torch.exp(-0.5 * grid**2) / (2 * torch.pi) ** 0.5 * (grid[1] - grid[0])
    z = grid[:, None].expand(2, 4, -1, 1)
    logits = model.decode(Point(leaves), z)  # (R, C, G, D)
    fit = log_bernoulli(x.flatten(2)[:, None, :, None], logits[:, :, None]).sum(-1)  # (R, C, B, G)
    evidence = (fit.exp() @ density / 4).log().mT  # (R, B, C)
    outputs = [model(Point(leaves), x, Given(float(e))) for e in grid[::20]]
    part = torch.exp(-0.5 * grid[::20] ** 2)
    joint = sum(p * o.joint() for p, o in zip(part / part.sum(), outputs, strict=True))
    assert (joint < evidence + 1e-6).all()
    assert (evidence - joint).median() < 2  # a bound, and not an empty one
    output = replace(outputs[0], joint=lambda: joint)
    for c in range(4):
        assert (output.elbo(torch.full((2, 5), c)) <= joint[..., c]).all()
    assert (output.elbo(torch.full((2, 5), -1)) < evidence.logsumexp(-1) + 1e-6).all()


def test_grey_pixels_are_the_mean_over_binary_draws_with_the_networks_inputs_held():
    model, x = build(), pictures(batch=1)
    layer = Point(weights(model))
    z = torch.zeros(2, 4, 1, 2, dtype=torch.float64)
    logits = model.decode(layer, z)  # (R, C, 1, D)
    binary = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * PIXELS)  # (2⁶, D)
    grey = x.flatten(2)  # (R, 1, D)
    chance = torch.where(binary.bool(), grey, 1 - grey).prod(-1)  # (R, 2⁶)
    each = log_bernoulli(binary, logits).sum(-1)  # (R, C, 2⁶)
    found = log_bernoulli(grey[:, None], logits).sum(-1)[..., 0]
    torch.testing.assert_close(found, (each * chance[:, None]).sum(-1))


def test_one_draw_of_z_serves_all_classes_and_prediction_draws_none():
    model, x = build(), pictures()
    rng = Given(0.1)
    output = model(Point(weights(model)), x, rng)
    total = output.accumulator(1)
    total.add(output)
    torch.testing.assert_close(total.finish().probs, output.logits.softmax(-1).float())
    assert rng.asked == []
    output.elbo(torch.zeros(2, 5, dtype=torch.int64))
    assert rng.asked == [(5, 2)]


def test_the_classifier_is_the_mlp():
    model, x = build(), pictures()
    leaves = weights(model)
    mlp = catalog.build_model(
        [catalog.choice("models", "mlp", {"mlp": {"widths": "7"}})], replace(SIGNATURE, likelihood="categorical")
    )
    names = {"fc1": "classifier1", "fc2": "classes"}
    its = {f"{a}.{part}": leaves[f"{b}.{part}"] for a, b in names.items() for part in ("weight", "bias")}
    rng = Streams.of_seeds([0, 1])
    assert torch.equal(mlp(Point(its), x, rng).logits, model(Point(leaves), x, rng).logits)
    assert {k: v.shape for k, v in mlp.leaves().items()} == {k: v.shape[1:] for k, v in its.items()}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mle", "mean_field_vi", "mc_dropout"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0], ids=["all labelled", "half", "none labelled"])
def test_a_row_with_absent_labels_has_the_same_bits_alone(small, method, share):
    model, seeds = small.model("m2", likelihood="semi_categorical"), (3, 1, 4)
    data = small.classes(3, own=True)
    absent = torch.rand(data.y.shape, generator=torch.Generator().manual_seed(9)) < share
    data = replace(data, y=data.y.masked_fill(absent, -1))
    fitting, x = small.method(method, epochs=8), torch.rand(3, 19, 1, 5, 7, generator=torch.Generator().manual_seed(5))
    together = fitting.fit(model, data, Streams.of_seeds(seeds))
    predicted = small.tensors(together.predict(x, 3, Streams.of_seeds(seeds)))
    for r, seed in enumerate(seeds):
        alone = fitting.fit(model, small.row(data, r), Streams.of_seeds([seed]))
        for name, value in alone.state.items():
            assert torch.equal(value, together.state[name][r : r + 1]), name
        for name, value in small.tensors(alone.predict(x[r : r + 1].clone(), 3, Streams.of_seeds([seed]))).items():
            assert torch.equal(value, predicted[name][r : r + 1]), name


NOT_OF_IMAGES = {
    "coin": "a coin has two sides",
    "bayesian_linear_regression": "linear regression fits one number",
    "linear_regression": "fits one number",
}


def test_other_targets_are_refused_and_absent_labels_by_other_models():
    for likelihood in ("gaussian", "bernoulli", "discretised"):
        model = catalog.build_model([catalog.choice("models", "m2", {})], replace(SIGNATURE, likelihood=likelihood))
        assert model.unsupported() == f"it has no {likelihood} likelihood"
    for name in set(catalog.names("models")) - {"m2"}:
        model = catalog.build_model([catalog.choice("models", name, {})], replace(SIGNATURE, input_shape=(1, 28, 28)))
        reason = model.unsupported()
        assert "semi_categorical" in reason or (name in NOT_OF_IMAGES and NOT_OF_IMAGES[name] in reason), (name, reason)
