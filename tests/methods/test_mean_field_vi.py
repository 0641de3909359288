"""Mean-field VI: its priors against closed forms and integrals, and pruning by signal-to-noise."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from bdlbench import catalog
from bdlbench.core.layout import Layout, Leaf
from bdlbench.core.streams import Streams
from bdlbench.gate.contracts import differences, resumed, row_of, streams
from bdlbench.kernels.factorised import factorised
from bdlbench.kernels.kl import MixtureScales, normal_kl, row_sum, scale_mixture_log_density, scale_mixture_slope
from bdlbench.posteriors.estimators import ESTIMATORS
from bdlbench.posteriors.fitting import LearntPriorSd, ScaleMixture

LAYOUT = Layout({"weight": Leaf((3, 5), "weight", 5), "bias": Leaf((3,), "bias", 5)})
COUNTED = LAYOUT.fill(lambda leaf: 1.0).double()
SEEDS = (3, 1)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scales(*values):
    return MixtureScales(*(torch.tensor([[value]], dtype=torch.float64) for value in values))


PI, WIDE, NARROW = 0.25, 1.0, 0.05
BLUNDELL = scales(PI, WIDE, NARROW)


def scipy_mixture(value):
    parts = [np.log(PI) + stats.norm(0, WIDE).logpdf(value), np.log(1 - PI) + stats.norm(0, NARROW).logpdf(value)]
    return special.logsumexp(parts, 0)


def test_the_density_of_a_scale_mixture_is_scipys_and_its_slope_autograds():
    value = torch.cat([torch.tensor([[0.0, 1e-3, 0.05, 0.2, -3.0, 40.0]]).double(), numbers(1, 6)]).requires_grad_()
    density = scale_mixture_log_density(value, BLUNDELL)
    np.testing.assert_allclose(density.detach(), scipy_mixture(value.detach().numpy()), rtol=1e-12)
    expected = torch.autograd.grad(density.sum(), value)[0]
    torch.testing.assert_close(scale_mixture_slope(value, BLUNDELL).detach(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_the_mean_of_the_log_ratio_is_the_kl_by_integration():
    mean, sd, draws = 0.1, 0.2, 100_000
    q = stats.norm(mean, sd)
    exact = integrate.quad(lambda w: q.pdf(w) * (q.logpdf(w) - scipy_mixture(w)), -2, 2.2, points=[-0.1, 0, 0.1])[0]
    prior = ScaleMixture(BLUNDELL, torch.ones(1).double(), numbers(draws, 1))
    ratio = prior.kl(torch.full((draws, 1), mean).double(), torch.full((draws, 1), math.log(sd)).double())
    assert exact > 0.3
    assert ratio.mean().item() == pytest.approx(exact, abs=5 * ratio.std().item() / draws**0.5)


def test_with_two_equal_parts_the_log_ratio_is_zero_for_every_sample_of_the_prior():
    prior = ScaleMixture(scales(0.3, 0.7, 0.7), COUNTED, numbers(2, LAYOUT.width))
    log_sd = torch.full((2, LAYOUT.width), math.log(0.7), dtype=torch.float64)
    at_prior = torch.zeros_like(log_sd), log_sd
    torch.testing.assert_close(prior.kl(*at_prior), torch.zeros(2).double(), rtol=0, atol=1e-12)
    assert prior.kl(at_prior[0] + 0.1, at_prior[1]).abs().min() > 1e-3


def learnt_prior_kl(mean, log_sd):
    """½ n log (mean of μ² + σ²) − Σ log σ, over the leaves."""
    means, log_sds = LAYOUT.views(mean), LAYOUT.views(log_sd)
    total = torch.zeros(2).double()
    for name, view in means.items():
        square = (view.square() + (2 * log_sds[name]).exp()).flatten(1).mean(1)
        total = total + 0.5 * view[0].numel() * square.log() - log_sds[name].flatten(1).sum(1)
    return total


MIXTURE = ScaleMixture(BLUNDELL, COUNTED, numbers(2, LAYOUT.width, seed=5))


@pytest.mark.parametrize(("prior", "kl"), [(LearntPriorSd(LAYOUT), learnt_prior_kl), (MIXTURE, MIXTURE.kl)])
def test_the_gradient_of_a_priors_kl_in_closed_form_is_autograds(prior, kl):
    flat = numbers(2, 2 * LAYOUT.width).requires_grad_()
    found = torch.autograd.grad((factorised(flat, LAYOUT, prior).kl * torch.tensor([1.0, 2.5])).sum(), flat)[0]
    expected = torch.autograd.grad((kl(*flat.chunk(2, -1)) * torch.tensor([1.0, 2.5])).sum(), flat)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert found.abs().min(dim=-1).values.tolist() == [0, 0]  # of padding


def test_the_learnt_prior_of_each_leaf_is_the_one_with_the_smallest_kl():
    mean, log_sd = numbers(2, LAYOUT.width), numbers(2, LAYOUT.width, seed=1)
    found = LearntPriorSd(LAYOUT).kl(mean, log_sd)
    torch.testing.assert_close(found, learnt_prior_kl(mean, log_sd))
    fitted = LearntPriorSd(LAYOUT).fitted(mean, (2 * log_sd).exp()).sd
    for factor in (0.9, 1.1):
        assert (row_sum(normal_kl(mean, log_sd, factor * fitted) * COUNTED) > found + 0.01).all()


def fit(small, model="mlp", rows=2, epochs=2, **options):
    method = small.method("mean_field_vi", [{"mean_field_vi": {"initial_log_sd": -2.0, **options}}], epochs=epochs)
    return method, method.fit(small.model(model), small.classes(rows), Streams.of_seeds(SEEDS[:rows]))


def test_the_bound_is_highest_under_the_learnt_prior(small):
    """Of the same q: the rate is so small that nothing is learnt, and the noise of the bound is the same."""
    learnt, *fixed = (
        fit(small, learning_rate=1e-12, **options)[1].bound
        for options in ({"prior": "empirical_bayes"}, *({"prior_sd": sd} for sd in (0.1, 0.3, 1.0)))
    )
    for bound in fixed:
        assert (bound < learnt).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_mixture_with_one_wide_part_has_the_bound_of_its_gaussian(small, estimator):
    options = {"learning_rate": 1e-12, "bound_samples": 200, "estimator": estimator, "weight_samples": 2}
    mixed = {"prior": "scale_mixture", "wide_sd": 0.5, "narrow_sd": 0.5}
    (_, mixture), (_, gaussian) = (fit(small, **options, **given) for given in (mixed, {"prior_sd": 0.5}))
    count = Layout(small.model("mlp").leaves()).num_parameters
    # ½ Σ [ε² − (w / s)²] has an sd of about √(P / 2) at most, and the mean is over 200 samples
    assert (mixture.bound - gaussian.bound).abs().max() < 5 * (count / 200) ** 0.5
    assert (mixture.bound != gaussian.bound).all()


def test_the_priors_of_rows_are_their_own(small):
    rows = [
        {"mean_field_vi": {"prior": "scale_mixture", "mixture_weight": pi, "wide_sd": wide, "narrow_sd": narrow}}
        for pi, wide, narrow in ((0.25, 1.0, 0.01), (0.75, 0.4, 0.05))
    ]
    model, data = small.model("mlp"), small.classes(2)

    def state(options, data):
        method = small.method("mean_field_vi", options)
        posterior = method.fit(model, data, Streams.of_seeds([7] * len(options)))
        return {**posterior.state, "bound": posterior.bound}

    together = state(rows, data)
    for r in range(2):
        assert differences(row_of(together, r), state(rows[r : r + 1], small.row(data, r))) == []
    assert not torch.equal(together["bound"][0], together["bound"][1])


@pytest.mark.parametrize("prior", ["scale_mixture", "empirical_bayes"])
def test_a_fit_under_each_prior_resumes_to_the_same_bits(small, prior, tmp_path):
    method = small.method("mean_field_vi", [{"mean_field_vi": {"prior": prior}}], epochs=4)
    x = small.classes(3, 9, seed=4).x
    apart, _ = resumed(method, small.model("mlp"), small.classes(3), x, tmp_path / "checkpoint", [3, 10])
    assert apart == []


@pytest.mark.parametrize("values", [(1.0, 0.4), (0.4, 1.0), (1.0, 1.0), (0.4, 0.4)])
def test_a_later_option_at_its_default_in_some_rows_is_that_of_each_row(values):
    """A row at the default does not name such an option: the first row's names were taken for all."""
    rows = [catalog.choice("methods", "mean_field_vi", {"mean_field_vi": {"wide_sd": value}}) for value in values]
    built = catalog.build_method(rows)
    assert torch.as_tensor(built.wide_sd, dtype=torch.float64).expand(2).tolist() == list(values)


# Pruning


def test_pruning_takes_the_smallest_ratios_of_each_row(small):
    data, model = small.classes(2), small.model("mlp")
    fractions = [{"mean_field_vi": {"prune": "signal_to_noise", "pruned": share}} for share in (0.25, 0.75)]
    method = small.method("mean_field_vi", fractions, epochs=4)
    whole = replace(method, prune="none").fit(model, data, Streams.of_seeds(SEEDS))
    pruned = method.fit(model, data, Streams.of_seeds(SEEDS))
    names = [name for name, leaf in model.leaves().items() if leaf.role in ("input", "weight")]

    def weights(posterior, part):
        return torch.cat([posterior.state[f"{name}.{part}"].flatten(1) for name in names], 1)

    ratio = weights(whole, "mean").abs() / weights(whole, "log_sd").exp()
    for r, share in enumerate((0.25, 0.75)):
        gone = weights(pruned, "mean")[r] == 0
        assert gone.sum() == round(share * gone.numel())
        assert ratio[r][gone].max() <= ratio[r][~gone].min()
        assert (weights(pruned, "log_sd")[r][gone].exp() == 0).all()
        assert torch.equal(weights(pruned, "mean")[r][~gone], weights(whole, "mean")[r][~gone])
        assert pruned.facts["sparsity"][r].item() == pytest.approx(gone.double().mean().item())
        assert pruned.facts["compression"][r].item() == pytest.approx(1 / (1 - share), rel=0.01)
    assert whole.facts.keys() == {"elbo_standard_error"}
    for name in model.leaves():
        if name not in names:
            assert torch.equal(pruned.state[f"{name}.mean"], whole.state[f"{name}.mean"])


def predicted(small, posterior, x):
    """By networks that serve all examples, so that what depends on the biases alone is the same for each example."""
    return small.tensors(posterior.predict(x, 4, streams(SEEDS).child("p"), joint=True))


@pytest.mark.parametrize("share", [0.0, 0.99999])  # which rounds to every weight
def test_pruning_nothing_is_the_whole_network_and_pruning_all_leaves_the_biases(small, share):
    method, pruned = fit(small, prune="signal_to_noise", pruned=share)
    whole = replace(method, prune="none").fit(small.model("mlp"), small.classes(2), Streams.of_seeds(SEEDS))
    x = small.classes(2, 9, seed=4).x
    found, expected = (predicted(small, p, x) for p in (pruned, whole))
    if share == 0:
        assert differences(found, expected) == []
    else:
        assert pruned.facts["sparsity"].tolist() == [1, 1]
        torch.testing.assert_close(found["probs"][:, :1].expand(2, 9, 3).std(1), torch.zeros(2, 3))
    again = method.restored(small.model("mlp"), pruned.state)
    assert differences(predicted(small, again, x), found) == []
    assert torch.equal(again.facts["sparsity"], pruned.facts["sparsity"])


def test_a_model_without_linear_maps_has_nothing_to_prune(small):
    method = small.method("mean_field_vi", [{"mean_field_vi": {"prune": "signal_to_noise"}}])
    assert "no linear map" in method.unsupported(small.suited("coin"))
    assert small.method("mean_field_vi").unsupported(small.suited("coin")) is None


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["gaussian", "scale_mixture"])
def test_the_bounds_standard_error_is_how_much_repeated_bounds_differ(small, prior):
    """Of one trained q, 60 bounds of 20 draws each, by other streams."""
    model = small.model("mlp")
    options = {"prior": prior, "initial_log_sd": -1.0, "bound_samples": 20}
    method = small.method("mean_field_vi", [{"mean_field_vi": options}])
    data, layout = small.classes(2), Layout(model.leaves())
    rng = Streams.of_seeds(SEEDS)
    flat, prior_at = method.initial(model, data, rng), method.divergence(model, layout, data.x)
    found = [method.bound(model, layout, flat, prior_at, data, rng.child(f"bound {k}")) for k in range(60)]
    spread = torch.stack([bound for bound, _ in found]).std(0)
    told = torch.stack([facts["elbo_standard_error"] for _, facts in found]).square().mean(0).sqrt()
    assert (told / spread).tolist() == pytest.approx([1, 1], abs=0.35)  # 5 standard errors of an sd of 60 numbers


def test_one_draw_does_not_tell_the_bounds_standard_error(small):
    assert "elbo_standard_error" not in fit(small, bound_samples=1)[1].facts


# Estimators of the gradient

SAMPLED = [name for name in ESTIMATORS if name != "local"]


@pytest.mark.parametrize("estimator", SAMPLED)
@pytest.mark.parametrize("model", ["mlp", "conv_vae", "stopping_resnet"])
def test_a_fit_by_each_estimator_resumes_to_the_same_bits(small, model, estimator, tmp_path):
    options = {"estimator": estimator, "weight_samples": 2, "initial_log_sd": -3.0}
    method = small.method("mean_field_vi", [{"mean_field_vi": options}], epochs=2)
    built = small.suited(model)
    data = small.data(built, 2, 11)
    apart, _ = resumed(method, built, data, data.x[:, :5], tmp_path / "checkpoint", [1])
    assert apart == []


@pytest.mark.parametrize("estimator", SAMPLED)
def test_a_row_is_trained_and_measured_alone_as_among_others(small, estimator):
    options = {"estimator": estimator, "weight_samples": 3, "gradient_draws": 2}
    method = small.method("mean_field_vi", [{"mean_field_vi": options}], epochs=2)
    data, model = small.classes(3), small.model("mlp")

    def found(data, seeds):
        posterior = method.fit(model, data, Streams.of_seeds(seeds))
        return {**posterior.state, **posterior.facts}

    together = found(data, [3, 1, 7])
    assert differences(row_of(together, 1), found(data.row(1), [1])) == []
    assert sum(name.startswith("gradient_trace[") for name in together) == 2 * 2 * len(ESTIMATORS)


def test_what_is_measured_of_gradients_changes_nothing_that_is_learnt(small):
    (_, plain), (_, asked) = (fit(small, weight_samples=2, gradient_draws=draws) for draws in (0, 2))
    assert differences(plain.state, asked.state) == []
    assert torch.equal(plain.bound, asked.bound)
    assert not any(name.startswith("gradient") for name in plain.facts)


def test_nothing_is_compared_with_itself(small):
    def refusal(**options):
        method = small.method("mean_field_vi", [{"mean_field_vi": options}])
        return method.unsupported(small.model("mlp"))

    assert "weight_samples=2" in refusal(estimator="score_leave_one_out")
    assert "gradient_draws=2" in refusal(gradient_draws=1)
    assert refusal(estimator="score_leave_one_out", weight_samples=2, gradient_draws=2) is None


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_sees_smoothed_targets(small, estimator):
    """Label smoothing that is almost nothing changes almost nothing; a half moves the trained weights."""

    def means(**options):
        posterior = fit(small, estimator=estimator, weight_samples=2, **options)[1]
        return torch.cat([v.flatten() for k, v in posterior.state.items() if k.endswith(".mean")])

    plain, hardly, half = (means(label_smoothing=share) for share in (0.0, 1e-6, 0.5))
    assert (plain - hardly).abs().max() < 0.1 * (plain - half).abs().max()
