"""What must be the same: a method at the edge of its range is another method."""

from dataclasses import replace

import pytest
import torch

from bdlbench import catalog
from bdlbench.core.layout import Layout
from bdlbench.core.options import fields
from bdlbench.core.streams import Streams
from bdlbench.gate.contracts import point_of
from bdlbench.kernels.linear import dense
from bdlbench.methods import mean_field_vi, sparse_vd
from bdlbench.networks.layers import Flipout, LocalNoise, Point, WeightNoise
from bdlbench.posteriors import estimators, fitting
from bdlbench.posteriors.estimators import ESTIMATORS
from bdlbench.protocols import OwnsPrior
from bdlbench.training.loop import minimise
from bdlbench.training.plan import Plan

pytestmark = pytest.mark.slow

METHODS, MODELS = catalog.names("methods"), catalog.names("models")
SINGLE = [
    name for name in METHODS if not any(f.metadata["entry"] for f in fields(catalog.load("methods", name)).values())
]
ENSEMBLES = [name for name in METHODS if {"members", "member"} <= fields(catalog.load("methods", name)).keys()]
SEEDS = (3, 1)

every_model = pytest.mark.parametrize("model", MODELS)


@pytest.fixture
def fit(small):
    """fit(model, method, options): a posterior, and what it predicts."""

    def of(model, method, options=None, epochs=3):
        if reason := small.unsupported(method, model):
            pytest.skip(reason)
        built = small.suited(model)
        data, x = small.data(built, 2), small.data(built, 2, 11, seed=9).x.round()
        data = replace(data, x=data.x.round())  # black and white: a draw of a binary image then has one outcome
        fitting_method = small.method(method, [options or {}], epochs=epochs)
        posterior = fitting_method.fit(built, data, Streams.of_seeds(SEEDS))
        predictive = posterior.predict(x, 6, Streams.of_seeds(SEEDS).child("predict test"))
        return posterior, small.tensors(predictive)

    return of


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-6, atol=1e-6)


DROPPING = {
    "mc_dropout": {"rate": 0, "input_rate": 0},
    "gaussian_dropout": {"rate": 0, "input_rate": 0},
    "dropconnect": {"rate": 0},
}


@every_model
@pytest.mark.parametrize("method", DROPPING)
@pytest.mark.parametrize("scaling", ["none", "fan_in"])
def test_dropping_nothing_is_map_with_the_same_prior(small, fit, model, method, scaling):
    prior = {"prior_sd": 0.3, "prior_scaling": scaling}
    dropping, predicted = fit(model, method, {method: {**DROPPING[method], **prior}})
    point, _ = fit(model, "map", {"map": prior})
    assert_same(dict(dropping.state), dict(point.state))
    assert_same(predicted, predicted_by_point(small, model, point.state))


@pytest.mark.parametrize("method", [name for name in METHODS if "steps" in fields(catalog.load("methods", name))])
def test_as_many_steps_as_three_epochs_have_are_three_epochs(fit, method):
    """53 examples by 13 are four steps; `epochs` is then not read."""
    in_epochs, predicted = fit("mlp", method, epochs=3)
    in_steps, again = fit("mlp", method, {method: {"steps": 12}}, epochs=50)
    assert all(torch.equal(in_steps.state[name], value) for name, value in in_epochs.state.items())
    assert all(torch.equal(again[name], value) for name, value in predicted.items())


def test_every_method_with_epochs_takes_steps_instead():
    entries = {name: fields(catalog.load("methods", name)) for name in METHODS}
    assert [name for name, own in entries.items() if "epochs" in own and "steps" not in own] == []


@pytest.mark.parametrize("model", [name for name in MODELS if not issubclass(catalog.load("models", name), OwnsPrior)])
def test_map_with_a_very_wide_prior_is_mle(fit, model):
    assert_same(dict(fit(model, "map", {"map": {"prior_sd": 1e9}})[0].state), dict(fit(model, "mle")[0].state))


def predicted_by_point(small, model, leaves):
    """What a network that is the same in every draw predicts, by the streams that `fit` predicts with."""
    built = small.suited(model)
    posterior = point_of(built, leaves)
    x = small.data(built, 2, 11, seed=9).x.round()
    return small.tensors(posterior.predict(x, 6, Streams.of_seeds(SEEDS).child("predict test")))


def predicted_at_the_mean(small, posterior, model):
    leaves = {name.removesuffix(".mean"): v for name, v in posterior.state.items() if name.endswith(".mean")}
    return predicted_by_point(small, model, leaves)


def assert_predicted(predicted, expected):
    assert predicted.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(predicted[name], value, rtol=1e-5, atol=1e-5)


@every_model
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_mean_field_without_width_predicts_as_its_point(small, fit, model, estimator):
    narrow = {"initial_log_sd": -20, "estimator": estimator, "weight_samples": 2}
    posterior, predicted = fit(model, "mean_field_vi", {"mean_field_vi": narrow}, epochs=1)
    assert_predicted(predicted, predicted_at_the_mean(small, posterior, model))


@every_model
def test_sparse_vd_without_width_predicts_as_its_point(small, fit, model):
    narrow = {"initial_log_variance": -40, "threshold": 8}
    posterior, predicted = fit(model, "sparse_vd", {"sparse_vd": narrow}, epochs=1)
    assert_predicted(predicted, predicted_at_the_mean(small, posterior, model))


@every_model
def test_one_member_of_a_batch_ensemble_whose_factors_stay_1_is_mle(small, fit, model):
    alone, expected = fit(model, "mle")
    still = {"members": 1, "initial_sd": 0.0, "factor_rate": 0.0}
    posterior, predicted = fit(model, "batch_ensemble", {"batch_ensemble": still})
    assert_same({name: posterior.state[name] for name in alone.state}, dict(alone.state))
    assert_same(predicted, expected)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
@pytest.mark.parametrize("member", SINGLE)
def test_an_ensemble_of_one_is_its_member(fit, ensemble, member):
    alone, expected = fit("mlp", member)
    posterior, predicted = fit("mlp", ensemble, {ensemble: {"members": 1, "member": member}})
    assert posterior.state.keys() >= alone.state.keys() > set()
    assert all(torch.equal(posterior.state[name].squeeze(1), value) for name, value in alone.state.items())
    torch.testing.assert_close(predicted, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
@pytest.mark.parametrize("member", SINGLE)
def test_member_0_of_an_ensemble_is_the_method_alone_and_the_others_are_not(fit, ensemble, member):
    alone, _ = fit("mlp", member)
    posterior, _ = fit("mlp", ensemble, {ensemble: {"members": 3, "member": member}})
    for name, value in alone.state.items():
        assert posterior.state[name].shape == (2, 3, *value.shape[1:])
        assert torch.equal(posterior.state[name][:, 0], value)
    weights = next(value for name, value in posterior.state.items() if name.startswith("fc1.weight"))
    assert not torch.equal(weights[:, 1], weights[:, 0])
    assert not torch.equal(weights[:, 1], weights[:, 2])


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_an_ensemble_predicts_the_mean_of_its_members(small, fit, ensemble):
    posterior, predicted = fit("mlp", ensemble, {ensemble: {"members": 3, "member": "mle"}})
    x = small.classes(2, 11, seed=9).x.round()
    members = [
        small.model("mlp")(Point({n: v[:, k] for n, v in posterior.state.items()}), x, None).logits.softmax(-1)
        for k in range(3)
    ]
    torch.testing.assert_close(predicted["probs"], sum(members) / 3)


# Estimators


def test_local_weight_and_flipout_noise_agree_in_mean_and_variance():
    rng, draws = torch.Generator().manual_seed(0), 3000
    mean, x = torch.randn(1, 2, 3, generator=rng, dtype=torch.float64), torch.randn(1, 4, 3, generator=rng).double()
    variance = torch.rand(1, 2, 3, generator=rng, dtype=torch.float64)
    expected, spread = dense(x, mean), dense(x.square(), variance)
    for rule in (LocalNoise, WeightNoise, Flipout):
        noise = Streams.of_seeds([7]).samples(0, draws)
        out = rule({"w": mean}, {"w": variance}, noise)("w", dense, x)
        assert out.shape == (draws, 1, 4, 2)
        assert ((out.mean(0) - expected).abs() < 5 * (spread / draws).sqrt()).all()
        fourth = (out - expected).pow(4).mean(0)
        assert ((out.var(0) - spread).abs() < 5 * ((fourth - spread.square()) / draws).sqrt()).all()


def test_local_noise_is_independent_between_examples_and_weight_noise_is_shared():
    x = torch.ones(1, 2, 3)
    mean, variance = torch.zeros(1, 1, 3), torch.ones(1, 1, 3)
    noise = Streams.of_seeds([7]).samples(0, 3000)
    correlations = {}
    for rule in (LocalNoise, WeightNoise, Flipout):
        out = rule({"w": mean}, {"w": variance}, noise)("w", dense, x)[:, 0, :, 0]  # (M, 2) the same input twice
        correlations[rule] = torch.corrcoef(out.T)[0, 1].item()
    assert abs(correlations[LocalNoise]) < 5 / 3000**0.5
    assert correlations[WeightNoise] == pytest.approx(1)
    assert abs(correlations[Flipout]) < 5 / 3000**0.5


# Sparsity


@every_model
def test_dropped_weights_are_exactly_zero_and_the_facts_count_them(small, fit, model):
    posterior, _ = fit(model, "sparse_vd", {"sparse_vd": {"initial_log_variance": -4, "threshold": 1}})
    leaves = small.suited(model).leaves()
    zeros, total = torch.zeros(2), 0
    for name in [name for name, leaf in leaves.items() if leaf.role in ("input", "weight")]:
        mean, variance = posterior.state[f"{name}.mean"].flatten(1), posterior.state[f"{name}.variance"].flatten(1)
        assert torch.equal(mean == 0, variance == 0)
        dropped = (mean == 0).sum(1)
        torch.testing.assert_close(posterior.facts[f"sparsity[{name}]"], dropped.double() / mean.shape[1])
        zeros, total = zeros + dropped, total + mean.shape[1]
    assert (zeros > 0).all()
    assert (zeros < total).all()
    torch.testing.assert_close(posterior.facts["sparsity"], zeros.double() / total)
    torch.testing.assert_close(posterior.facts["compression"], total / (total - zeros.double()))


# The weight of the KL


@pytest.mark.parametrize(
    ("method", "module", "within", "kl"),
    [("mean_field_vi", mean_field_vi, estimators, "factorised"), ("sparse_vd", sparse_vd, sparse_vd, "sparse")],
)
def test_the_final_weight_of_the_kl_is_one(small, fit, monkeypatch, method, module, within, kl):
    plain_kl, plain_objective, divergences, charged = getattr(within, kl), module.negative_elbo, [], []

    def watch_kl(*args):
        found = plain_kl(*args)
        divergences.append(found.kl)
        return found

    def watch_objective(elbo, divergence, num_data):
        charged.append((divergence, num_data))
        return plain_objective(elbo, divergence, num_data)

    monkeypatch.setattr(within, kl, watch_kl)
    monkeypatch.setattr(module, "negative_elbo", watch_objective)
    fit("mlp", method)
    assert torch.equal(charged[-1][0], divergences[-1])
    assert {num_data for _, num_data in charged} == {53}


def test_sparse_vds_ramp_goes_from_zero_to_one():
    method = sparse_vd.SparseVD(ramp_start=0.25, ramp_end=torch.tensor([0.5, 0.75], dtype=torch.float64))
    assert method.ramp(0.25).tolist() == [0, 0]
    assert method.ramp(0.5).tolist() == [1, 0.5]
    assert method.ramp(1.0).tolist() == [1, 1]
    assert sparse_vd.SparseVD(ramp_start=0.0, ramp_end=0.0).ramp(0.5).item() == 1


def test_every_method_of_one_network_starts_from_the_same_weights(small):
    assert fitting.minimise is minimise
    data, model = small.classes(2), small.model("mlp")
    plan = Plan(1, 13, 1e-30)
    states = fitting.fit_network(
        model,
        data,
        Streams.of_seeds(SEEDS),
        plan,
        lambda flat, noise: Point(fitting.Layout(model.leaves()).views(flat)),
    )
    views = fitting.Layout(model.leaves()).views(next(states).flat)
    scale = views["fc1.weight"].std().item() / (2 / 35) ** 0.5
    assert scale == pytest.approx(1, abs=5 / (2 * 2 * 35 * 17) ** 0.5)
    assert (views["fc1.bias"].abs() < 1e-20).all()


MEANS = {"mc_dropout": 0.75**-0.5, "gaussian_dropout": 0.75**-0.5, "dropconnect": 0.75**0.5}


@pytest.mark.parametrize(("method", "means"), MEANS.items())
def test_the_penalty_of_dropping_is_the_divergence_from_another_prior(small, method, means):
    """With p = ¼ and prior_sd 1: E W² / s² over masks is the penalty's w² where s is `means`."""
    built, options = small.suited("bayesian_linear_regression"), {"rate": 0.25, "input_rate": 0.25}
    options = {key: value for key, value in options.items() if key in fields(catalog.load("methods", method))}
    layout = Layout(built.leaves())
    state = layout.views(torch.linspace(-1, 2, layout.width).unsqueeze(0))
    moments = small.method(method, [{method: options}]).restored(built, state).moments()
    second = moments.covariance.diagonal(dim1=-2, dim2=-1) + moments.mean.square()  # (1, P), the bias last
    weight = layout.packed(layout.joined(state)).double().square()[:, :-1]
    torch.testing.assert_close(second[:, :-1] / means**2, weight)


def test_the_options_say_that_an_equal_prior_sd_is_no_equal_prior():
    for method in DROPPING:
        assert "1 − p" in fields(catalog.load("methods", method))["prior_sd"].metadata["help"]
