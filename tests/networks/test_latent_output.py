"""A model with a latent against what can be computed without one: closed forms and quadrature."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.kernels.latent import bernoulli_log_prob, log_mean_exp
from bdlbench.models.vae import VAE
from bdlbench.networks import latent_output
from bdlbench.networks.blocks import upsampled
from bdlbench.networks.latent_output import Effort, LatentOutput, likelihood_regret, observed, unsupported
from bdlbench.networks.layers import Point
from bdlbench.posteriors import weights
from bdlbench.posteriors.fitting import initial_rows

EFFORT = Effort("elbo", train_samples=1, test_samples=10, regret_steps=0)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def streams(*seeds):
    return Streams.of_seeds(seeds or (3, 1))


class Linear:
    """x = W z + noise, of one latent z for two rows: all is Gaussian, so p(x) and p(z | x) are known."""

    weight, noise_sd = numbers(2, 1, 4), 0.5  # (R, Z, D)

    def decode(self, z):
        return z @ self.weight

    def log_prob(self, x, raw):
        return Normal(raw, self.noise_sd, validate_args=False).log_prob(x).sum(-1)

    def log_density(self, x):
        """log p(x), (R, B)."""
        covariance = self.weight.mT @ self.weight + self.noise_sd**2 * torch.eye(4)  # (R, D, D)
        return MultivariateNormal(torch.zeros(2, 1, 4).double(), covariance.unsqueeze(1)).log_prob(x)

    def posterior(self, x):
        """Mean and log sd of p(z | x), (R, B, 1)."""
        precision = 1 + (self.weight @ self.weight.mT) / self.noise_sd**2  # (R, 1, 1)
        return x @ self.weight.mT / self.noise_sd**2 / precision, -0.5 * precision.log().expand(2, x.shape[1], 1)

    def output(self, x, mean, log_sd, effort=EFFORT, rng=None):
        return LatentOutput(x, mean, log_sd, self.decode, self.log_prob, rng or streams(), effort)


@pytest.fixture
def linear():
    return Linear()


X = numbers(2, 7, 4, seed=1)


# Bounds


def test_at_the_exact_posterior_one_draw_gives_the_density(linear):
    output = linear.output(X, *linear.posterior(X), replace(EFFORT, test_samples=1))
    torch.testing.assert_close(output.estimate().log_density, linear.log_density(X))
    weighted = replace(output, effort=replace(EFFORT, objective="importance_weighted"))
    torch.testing.assert_close(weighted.elbo(X[..., 0]), linear.log_density(X))


@pytest.mark.slow
def test_at_the_exact_posterior_the_elbo_is_the_density_on_average(linear):
    bound = linear.output(X, *linear.posterior(X))
    elbos = torch.stack([bound.elbo(X[..., 0]) for _ in range(4000)])
    error = (elbos.mean(0) - linear.log_density(X)).abs()
    assert (error < 5 * elbos.std(0) / 4000**0.5).all()


def wrong_posterior(linear):
    mean, log_sd = linear.posterior(X)
    return mean + 0.3 * numbers(2, 7, 1, seed=2), log_sd + 0.3


@pytest.mark.slow
def test_more_draws_raise_the_importance_weighted_bound_to_the_density(linear):
    truth, q = linear.log_density(X), wrong_posterior(linear)

    def average(k):
        output = linear.output(X, *q, replace(EFFORT, test_samples=k))
        return torch.stack([output.estimate().log_density for _ in range(400)]).mean(0)

    elbo = linear.output(X, *q, replace(EFFORT, test_samples=400)).estimate().elbo
    averages = [elbo, *(average(k) for k in (2, 10, 100)), truth]
    assert all((upper > lower - 0.02).all() for lower, upper in pairwise(averages))
    gaps = [(truth - value).mean().item() for value in averages]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.1
    assert abs(gaps[3]) < 0.01


def test_the_elbo_misses_the_density_by_the_kl_to_the_exact_posterior(linear):
    mean, log_sd = wrong_posterior(linear)
    exact_mean, exact_log_sd = linear.posterior(X)
    kl = torch.distributions.kl_divergence(Normal(mean, log_sd.exp()), Normal(exact_mean, exact_log_sd.exp())).sum(-1)
    found = linear.output(X, mean, log_sd, replace(EFFORT, test_samples=20_000)).estimate().elbo
    torch.testing.assert_close(linear.log_density(X) - found, kl, rtol=0.05, atol=0.02)


def test_objectives_by_hand(linear):
    q, noise = wrong_posterior(linear), streams().normal((5, 7, 1), X)
    z = q[0].unsqueeze(1) + q[1].exp().unsqueeze(1) * noise  # (R, k, B, Z)
    joint = linear.log_prob(X.unsqueeze(1), z @ linear.weight.unsqueeze(1)) + Normal(0, 1).log_prob(z).sum(-1)
    log_q = Normal(q[0].unsqueeze(1), q[1].exp().unsqueeze(1)).log_prob(z).sum(-1)
    weighted = linear.output(X, *q, Effort("importance_weighted", 5, 1, 0), streams())
    torch.testing.assert_close(weighted.elbo(X[..., 0]), log_mean_exp((joint - log_q).mT))
    plain = linear.output(X, *q, Effort("elbo", 5, 1, 0), streams())
    likelihood = linear.log_prob(X.unsqueeze(1), z @ linear.weight.unsqueeze(1)).mean(1)
    kl = torch.distributions.kl_divergence(Normal(q[0], q[1].exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(plain.elbo(X[..., 0]), likelihood - kl)


def test_few_latents_are_decoded_at_once(linear, monkeypatch):
    monkeypatch.setattr(latent_output, "ROWS_AT_ONCE", 30)
    sizes, decode = [], linear.decode
    monkeypatch.setattr(linear, "decode", lambda z: sizes.append(z.shape[-2]) or decode(z))
    output = linear.output(X, *linear.posterior(X), replace(EFFORT, test_samples=11))
    torch.testing.assert_close(output.estimate().log_density, linear.log_density(X))
    assert sizes == [28, 28, 21]  # 7 examples, 4 + 4 + 3 draws


# Likelihood regret


def test_there_is_nothing_to_regret_at_the_exact_posterior(linear):
    output = linear.output(X, *linear.posterior(X), replace(EFFORT, regret_steps=30))
    torch.testing.assert_close(likelihood_regret(output), (torch.zeros(2, 7).double(),) * 2, rtol=0, atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1.0, 4.0, 8.0])
@pytest.mark.parametrize("latent", [1, 3, 12])
def test_the_regret_reaches_the_best_q_of_a_linear_model(offset, latent):
    """x = W z + noise: the best diagonal q has the exact mean, and 1 / sd² the diagonal of the exact precision."""
    linear, weight, x = Linear(), numbers(2, latent, 20, seed=3), numbers(2, 7, 20, seed=4)
    linear.weight = weight
    precision = torch.eye(latent) + weight @ weight.mT / linear.noise_sd**2
    exact = torch.linalg.solve(precision, weight @ x.mT / linear.noise_sd**2).mT  # (R, B, Z)
    mean, log_sd = exact + offset, 0.3 * numbers(2, 7, latent, seed=5) - 1

    def bound(mean, log_sd):
        miss, variance = mean - exact, (2 * log_sd).exp()
        diagonal = precision.diagonal(dim1=1, dim2=2).unsqueeze(1)
        return log_sd.sum(-1) - 0.5 * ((miss @ precision) * miss + diagonal * variance).sum(-1)

    best = -0.5 * precision.diagonal(dim1=1, dim2=2).log().unsqueeze(1).expand(2, 7, latent)
    expected = bound(exact, best) - bound(mean, log_sd)
    found, gain = likelihood_regret(linear.output(x, mean, log_sd, replace(EFFORT, regret_steps=40)))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=latent_output.REGRET_TOLERANCE)
    assert (gain >= 0).all()
    one, _ = likelihood_regret(linear.output(x, mean, log_sd, replace(EFFORT, regret_steps=1)))
    assert (one > 0.5 * expected).all()  # a first step is a whole one


def test_an_input_that_is_done_waits_for_the_others_unchanged(linear):
    """Examples and rows are fitted apart: beside an input far off, the others end at the same bits."""
    mean, log_sd = wrong_posterior(linear)
    far = mean.clone()
    far[0, 0] += 50
    one, other = (
        likelihood_regret(linear.output(X, m, log_sd, replace(EFFORT, regret_steps=40)))[0] for m in (mean, far)
    )
    assert other[0, 0] > 100
    assert torch.equal(one[1], other[1]) and torch.equal(one[0, 1:], other[0, 1:])


def test_a_row_of_nan_has_no_regret_and_others_have_theirs(linear):
    mean, log_sd = wrong_posterior(linear)
    spoiled = mean.clone()
    spoiled[0] = math.nan
    found, _ = likelihood_regret(linear.output(X, spoiled, log_sd, replace(EFFORT, regret_steps=40)))
    whole, _ = likelihood_regret(linear.output(X, mean, log_sd, replace(EFFORT, regret_steps=40)))
    assert found[0].isnan().all() and torch.equal(found[1], whole[1])


@pytest.mark.slow
def test_the_regret_of_a_network_stands_where_a_long_gradient_ascent_ends():
    """Bernoulli pixels by a hidden layer: nothing is quadratic; Adam on the same bound is the judge."""
    hidden, pixels = numbers(1, 3, 8, seed=6), numbers(1, 8, 30, seed=7)
    decode = lambda z: (z @ hidden).tanh() @ pixels  # noqa: E731
    x = (numbers(1, 5, 30, seed=8) > 0).double()
    mean, log_sd = 2 * numbers(1, 5, 3, seed=9), torch.zeros(1, 5, 3).double()
    output = LatentOutput(x, mean, log_sd, decode, bernoulli_log_prob, streams(3), replace(EFFORT, regret_steps=60))
    found, gain = likelihood_regret(output)
    noise = latent_output._paired_noise(replace(output, rng=streams(3)))
    draws = torch.cat([noise, -noise], -3)

    def bound(mean, log_sd):
        return replace(output, mean=mean, log_sd=log_sd).bound(draws)

    q = [mean.clone().requires_grad_(), log_sd.clone().requires_grad_()]
    adam = torch.optim.Adam(q, 0.02)
    for _ in range(4000):
        adam.zero_grad()
        (-bound(*q).sum()).backward()
        adam.step()
    reached = (bound(*q) - bound(mean, log_sd)).detach()
    assert (found > reached - 0.02 * reached.clamp_min(1.0)).all()
    assert (gain < 0.5).all()


def test_no_steps_leave_the_regret_out(linear):
    assert linear.output(X, *linear.posterior(X)).estimate().regret is None
    mean, log_sd = linear.posterior(X)
    found = linear.output(X, mean + 0.3, log_sd + 0.3, replace(EFFORT, regret_steps=1)).estimate().regret
    # In a linear model one step reaches the posterior: the regret is the divergence of the shifted Gaussian from it.
    divergence = 0.5 * (0.3 / log_sd.exp()).square() + 0.5 * math.expm1(0.6) - 0.3
    torch.testing.assert_close(found, divergence.sum(-1))


def test_the_regret_leaves_no_gradient_behind(linear):
    output = linear.output(X, *linear.posterior(X), replace(EFFORT, regret_steps=2))
    with torch.no_grad():
        assert not likelihood_regret(output).value.requires_grad
        assert not torch.is_grad_enabled()


# The variational autoencoder

BINARY = Signature((1, 3, 4), 2, "bernoulli")
GREY = Signature((1, 3, 4), 2, "discretised")


def tiny(signature, **options):
    """A small network for two rows, as it starts, in float64; and images of two rows, binary or of 256 levels."""
    model = VAE(signature, **{"widths": (5,), "latent": 2, "regret_steps": 0, **options})
    layout = Layout(model.leaves())
    flat = initial_rows(layout, streams(), torch.zeros(1, dtype=torch.float64))
    layout.views(flat)["latent.weight"].mul_(0.3)  # q not far from the prior: few draws then tell the density
    x = torch.rand(2, 6, 1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return model, layout, flat, x.round() if signature is BINARY else (255 * x).round() / 255


def by_quadrature(model, layer, x, log_prob):
    """log p(x) of a model with two latents, (R, B), by the trapezoid rule on a grid."""
    axis = torch.linspace(-7, 7, 141, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)  # (G, 2)
    raw = model.decode(layer, grid.expand(2, -1, -1)).unsqueeze(1)  # (R, 1, G, ·)
    likelihood = log_prob(x.flatten(2).unsqueeze(2), raw)  # (R, B, G)
    prior = Normal(0, 1).log_prob(grid).sum(-1)
    return (likelihood + prior).logsumexp(-1) + 2 * (axis[1] - axis[0]).log()


@pytest.mark.parametrize("signature", [BINARY, GREY], ids=["binary", "grey"])
def test_the_importance_weighted_estimate_is_the_density_by_quadrature(signature):
    model, layout, flat, x = tiny(signature, test_samples=20_000)
    layer = Point(layout.views(flat))
    output = model(layer, x, streams())
    truth = by_quadrature(model, layer, x, output.log_prob)
    found = output.estimate()
    torch.testing.assert_close(found.log_density, truth, rtol=0, atol=0.2)
    assert (found.elbo < truth + 0.05).all()
    assert (found.elbo < found.log_density + 0.05).all()


@pytest.mark.slow
@pytest.mark.parametrize("signature", [BINARY, GREY], ids=["binary", "grey"])
@pytest.mark.parametrize("objective", ["elbo", "importance_weighted"])
def test_the_objective_has_the_right_gradient(signature, objective):
    model, layout, flat, x = tiny(signature, widths=(2,), latent=1, objective=objective, train_samples=3)
    y = torch.zeros(2, 6)

    def elbo(flat):
        return model(Point(layout.views(flat)), x, streams()).elbo(y).sum()

    assert torch.autograd.gradcheck(elbo, flat.requires_grad_())


def test_binary_images_are_drawn_anew_each_time_and_grey_ones_stay():
    x = torch.rand(2, 6, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    rng = streams()
    first, second = (observed(BINARY, x, rng) for _ in range(2))
    assert first.shape == (2, 6, 12)
    assert set(first.unique().tolist()) == {0, 1}
    assert not torch.equal(first, second)
    assert torch.equal(observed(BINARY, x.round(), rng), x.round().flatten(2))
    assert torch.equal(observed(GREY, x, rng), x.flatten(2))
    sampled = observed(BINARY, x, rng.samples(0, 500))  # (M, R, B, D)
    assert sampled.shape == (500, 2, 6, 12)
    error = (sampled.mean(0) - x.flatten(2)).abs()
    assert (error < 5 * (x * (1 - x) / 500).sqrt().flatten(2)).all()


@pytest.mark.parametrize("likelihood", ["categorical", "gaussian"])
def test_a_target_is_refused_with_a_reason(likelihood):
    assert f"not a {likelihood} target" in VAE(Signature((1, 3, 4), 2, likelihood)).unsupported()
    assert unsupported(BINARY) is unsupported(GREY) is None


def test_the_default_network_is_that_of_burda():
    model = VAE(Signature((1, 28, 28), 10, "bernoulli"))
    weights = [leaf.shape for leaf in model.leaves().values() if len(leaf.shape) == 2]
    assert weights == [(200, 784), (200, 200), (200, 50), (200, 200), (100, 200), (784, 200)]
    assert [name for name, leaf in model.leaves().items() if leaf.role == "input"] == ["encoder1.weight"]


# What training makes of it


def pictures(count, rows=1):
    """Binary images (R, N, 1, 5, 7) with one bright column, which one depends on the image."""
    column = torch.randint(7, (count,), generator=torch.Generator().manual_seed(0))
    x = torch.zeros(count, 1, 5, 7)
    x[torch.arange(count), ..., column] = 1
    return x.expand(rows, *x.shape)


@pytest.mark.slow
def test_images_that_the_encoder_never_saw_are_regretted_more(small):
    model = small.model("vae", likelihood="bernoulli", rows=[{"regret_steps": 60, "widths": "20", "test_samples": 50}])
    seeds = range(1, 5)
    x = pictures(300, rows=4)
    posterior = small.method("mle", [{"mle": {"learning_rate": 0.01}}], epochs=40).fit(
        model, Data(x, torch.zeros(4, 300)), streams(*seeds)
    )
    lying = torch.zeros(4, 20, 1, 5, 7)
    lying[:, :, :, 2] = 1  # a bright row
    inside, outside = (posterior.predict(z, 1, streams(*seeds)).scores for z in (x[:, :20], lying))
    assert inside["likelihood_regret"].mean() < 2
    assert outside["likelihood_regret"].mean() > inside["likelihood_regret"].mean() + 2
    assert outside["density"].mean() > inside["density"].mean() + 10


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["bernoulli", "discretised"])
@pytest.mark.parametrize("objective", ["elbo", "importance_weighted"])
@pytest.mark.parametrize("method", ["mle", "mean_field_vi", "mc_dropout"])
def test_a_row_has_the_same_bits_alone(small, threads, likelihood, objective, method):
    options = {"objective": objective, "train_samples": 6, "widths": "17", "latent": 3, "regret_steps": 3}
    model = small.model("vae", likelihood=likelihood, rows=[options])
    data, x = small.classes(5, own=True), small.classes(5, 29, own=True, seed=5).x
    seeds = (3, 1, 4, 15, 9)

    def outcome(data, x, seeds):
        posterior = small.method(method, epochs=3).fit(model, data, streams(*seeds))
        predictive = posterior.predict(x, 3, streams(*seeds).child("predict test"))
        return {**posterior.state, **small.tensors(predictive)}

    together = outcome(data, x, seeds)
    alone = outcome(small.row(data, 3), x[3:4].clone(), seeds[3:4])
    assert [name for name, value in alone.items() if not torch.equal(together[name][3:4], value)] == []


# The convolutional network


@pytest.mark.parametrize("side", [8, 28])
@pytest.mark.parametrize("likelihood", ["bernoulli", "discretised"])
def test_convolutions_lead_to_the_latent_and_back_to_every_pixel(small, side, likelihood):
    model = small.model("conv_vae", (1, side, side), likelihood=likelihood)
    layout = Layout(model.leaves())
    layer = Point(layout.views(initial_rows(layout, streams(), torch.zeros(1))))
    x = torch.rand(2, 6, 1, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = model(layer, x, streams())
    assert output.mean.shape == output.log_sd.shape == (2, 6, 3)
    if likelihood == "discretised":  # of others binary images are drawn, through which no gradient goes
        (by_pixel,) = torch.autograd.grad(output.mean.sum(), x, retain_graph=True)
        assert (by_pixel.abs().sum((0, 1)) > 0).all()
    per_pixel = 1 if likelihood == "bernoulli" else 2
    pixels, moved = (model.decode(layer, output.mean + shift) for shift in (0, 1))
    assert pixels.shape == (2, 6, per_pixel * side * side)
    assert (pixels != moved).any((0, 1)).all()
    found = output.estimate()
    assert found.log_density.shape == found.elbo.shape == found.regret.shape == (2, 6)
    assert found.log_density.isfinite().all()


def test_the_convolutional_decoder_gives_all_means_then_all_scales(small):
    model = small.model("conv_vae", (1, 8, 8), likelihood="discretised")
    layout = Layout(model.leaves())
    leaves = {name: torch.zeros(1, *leaf.shape) for name, leaf in layout.leaves.items()}
    leaves["pixels.bias"] = torch.tensor([[0.25, -1.5]])
    mean, log_scale = model.decode(Point(leaves), torch.zeros(1, 2, 3)).chunk(2, dim=-1)
    assert (mean == 0.25).all()
    assert (log_scale == -1.5).all()


def test_convolutions_refuse_what_cannot_be_halved(small):
    assert "multiples of 4" in small.model("conv_vae", (1, 6, 8), likelihood="bernoulli").unsupported()
    assert small.model("conv_vae", (1, 8, 12), likelihood="bernoulli").unsupported() is None
    assert "not a categorical target" in small.model("conv_vae", (1, 8, 8)).unsupported()


def test_upsampling_repeats_every_pixel():
    x = torch.arange(12.0).reshape(1, 1, 1, 3, 4).requires_grad_()
    doubled = upsampled(x)
    assert torch.equal(doubled, x.repeat_interleave(2, -1).repeat_interleave(2, -2))
    (gradient,) = torch.autograd.grad(doubled.sum(), x)
    assert (gradient == 4).all()


def test_no_scale_of_a_grey_pixel_is_beyond_recall():
    raw = torch.linspace(-12, 12, 50).repeat(2, 1).flatten().requires_grad_()  # 50 means, then 50 log scales
    x = torch.arange(100, 150) / 255
    (gradient,) = torch.autograd.grad(latent_output.discretised(x, raw), raw)
    assert gradient.isfinite().all()
    assert (gradient != 0).all()


# Networks drawn from a posterior


@pytest.fixture(params=["mean_field_vi", "mc_dropout", "dropconnect"])
def drawn(small, request):
    """A posterior whose draws differ, of a model whose latents are decoded in several pieces."""
    model = small.model("vae", likelihood="bernoulli")
    data = small.classes(2)
    options = {"mean_field_vi": {"initial_log_sd": -1}} if request.param == "mean_field_vi" else {}
    return small.method(request.param, [options], epochs=1).fit(model, data, streams())


def test_chunks_of_networks_do_not_matter(small, drawn, monkeypatch):
    x = small.classes(2, 29, seed=5).x
    for joint in (False, True):
        found = []
        for elements in (1, 1 << 30):
            monkeypatch.setattr(weights, "CHUNK_ELEMENTS", elements)
            found.append(small.tensors(drawn.predict(x, 5, streams(), joint)))
        assert found[0].keys() == found[1].keys() and "elbo" in found[0]
        assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def test_a_joint_draw_is_one_network_for_encoder_decoder_and_every_block(small, drawn, monkeypatch):
    monkeypatch.setattr(weights, "EXAMPLES_OF_ONE_NETWORK", 7)
    monkeypatch.setattr(latent_output, "ROWS_AT_ONCE", 14)
    x = small.classes(2, 7, seed=5).x.round()
    predictive = small.tensors(drawn.predict(torch.cat([x, x], dim=1), 3, streams(), joint=True))
    for name in ("log_density", "elbo", "latent_mean", "likelihood_regret"):
        first, second = predictive[name].split(7, dim=1)
        assert torch.equal(first, second)
