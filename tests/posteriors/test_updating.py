"""Updating a posterior by further data: closed forms, one chunk as the base itself, and what cannot be updated."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from bdlbench import catalog
from bdlbench.core.layout import Layout, Leaf
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.gate.contracts import resumed
from bdlbench.kernels import gaussian
from bdlbench.kernels.factorised import factorised
from bdlbench.models.bayesian_linear_regression import BayesianLinearRegression
from bdlbench.models.coin import Coin
from bdlbench.posteriors.fitting import gaussian_prior
from bdlbench.posteriors.updating import factorised_prior

SEEDS = (3, 1)
LAYOUT = Layout({"weight": Leaf((3, 5), "weight", 5), "bias": Leaf((3,), "bias", 5)})


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def leaves(seed):
    return {"weight": numbers(2, 3, 5, seed=seed), "bias": numbers(2, 3, seed=seed + 1)}


# The prior


def test_the_prior_has_the_kl_and_the_density_of_torchs_normals():
    means, log_sds = leaves(2), leaves(4)
    prior = factorised_prior(LAYOUT, means, log_sds)
    own_means, own_log_sds = leaves(6), leaves(8)
    mean, log_sd = LAYOUT.joined(own_means), LAYOUT.joined(own_log_sds)

    def summed(value_of):
        return sum(value_of(name).flatten(1).sum(1) for name in LAYOUT.leaves)

    before = {name: Normal(means[name], log_sds[name].exp()) for name in means}
    expected = summed(lambda name: kl_divergence(Normal(own_means[name], own_log_sds[name].exp()), before[name]))
    torch.testing.assert_close(prior.kl(mean, log_sd), expected)
    torch.testing.assert_close(prior.log_density(mean), summed(lambda name: before[name].log_prob(own_means[name])))
    assert prior.kl(LAYOUT.joined(means), LAYOUT.joined(log_sds)).abs().max() < 1e-12


def test_around_zero_it_is_the_gaussian_prior():
    zero, sd = leaves(2), math.log(0.7)
    prior = factorised_prior(
        LAYOUT, {k: 0 * v for k, v in zero.items()}, {k: torch.full_like(v, sd) for k, v in zero.items()}
    )
    mean, log_sd = LAYOUT.joined(leaves(6)), LAYOUT.joined(leaves(8))
    plain = gaussian_prior(LAYOUT, 0.7, "none", mean)
    torch.testing.assert_close(prior.kl(mean, log_sd), plain.kl(mean, log_sd), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(prior.log_density(mean), plain.log_density(mean), rtol=1e-6, atol=1e-6)


def test_the_gradient_of_its_kl_in_closed_form_is_autograds():
    prior = factorised_prior(LAYOUT, leaves(2), leaves(4))
    flat = numbers(2, 2 * LAYOUT.width).requires_grad_()
    weight = torch.tensor([1.0, 2.5])
    found = torch.autograd.grad((factorised(flat, LAYOUT, prior).kl * weight).sum(), flat)[0]
    expected = torch.autograd.grad((prior.kl(*flat.chunk(2, -1)) * weight).sum(), flat)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert found.abs().min(dim=-1).values.tolist() == [0, 0]  # of padding


# Conjugate models


def test_a_density_given_earlier_data_is_that_of_torchs_multivariate_normal():
    x, y, mean, root = numbers(7, 3), numbers(7, seed=1), numbers(3, seed=2), numbers(3, 3, seed=3)
    covariance = root @ root.mT + torch.eye(3).double()
    marginal = torch.distributions.MultivariateNormal(x @ mean, x @ covariance @ x.mT + 0.49 * torch.eye(7).double())
    torch.testing.assert_close(gaussian.linear_density(x, y, 0.7, mean, covariance), marginal.log_prob(y))


def linear(rows=2, num=53):
    """Two rows of own data, of four inputs and noise 0.5."""
    x = numbers(rows, num, 4, seed=5).float()
    y = (x @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.3 + 0.5 * numbers(rows, num, seed=6).float()).float()
    model = BayesianLinearRegression(Signature((4,), 1, "gaussian"), noise_sd=0.5)
    return model, Data(x, y)


def method_of(name, **settings):
    return catalog.build_method([catalog.choice("methods", name, settings)])


@pytest.mark.parametrize("chunks", [2, 10, 53])
def test_the_linear_model_in_chunks_is_the_linear_model_at_once(chunks):
    model, data = linear()
    found = method_of("sequential", sequential={"base": "exact", "chunks": chunks}).fit(
        model, data, Streams.of_seeds(SEEDS)
    )
    once = model.exact(data)
    for name in ("mean", "covariance", "log_evidence", "bound"):
        torch.testing.assert_close(getattr(found, name), getattr(once, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", ["random", "by_class"])
def test_the_coin_in_chunks_is_the_coin_at_once(small, order):
    model = Coin(Signature((2,), 2, "categorical"), alpha=2.0, beta=0.5)
    data = Data(numbers(2, 41, 2).float(), (numbers(2, 41, seed=1) > 0.4).long())
    found = method_of("sequential", sequential={"base": "exact", "chunks": 7, "order": order}).fit(
        model, data, Streams.of_seeds(SEEDS)
    )
    once = model.exact(data)
    for name in ("state", "log_evidence", "bound"):
        torch.testing.assert_close(getattr(found, name), getattr(once, name))


@pytest.mark.slow
def test_mean_field_in_chunks_of_an_orthogonal_design_is_the_closed_form():
    """Each chunk says of every weight by itself, so that a mean-field posterior is exact after each."""
    chunks, sd = 3, 0.5
    order = Streams.of_seeds(SEEDS).child("chunks").permutation(24)
    hadamard = torch.tensor([[1.0, 1], [1, -1]])
    block = torch.kron(torch.kron(hadamard, hadamard), hadamard)[:, 1:5]  # (8, 4), orthogonal to a column of ones too
    x = torch.zeros(2, 24, 4).scatter(1, order[..., None].expand(-1, -1, 4), block.repeat(3, 1).expand(2, -1, -1))
    y = x @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.3 + sd * numbers(2, 24, seed=6).float()
    model = BayesianLinearRegression(Signature((4,), 1, "gaussian"), noise_sd=sd)
    settings = {
        "sequential": {"chunks": chunks},
        "mean_field_vi": {"steps": 800, "learning_rate": 0.03, "decay": "linear", "initial_log_sd": -1.0},
    }
    found = method_of("sequential", **settings).fit(model, Data(x, y), Streams.of_seeds(SEEDS)).moments()
    exact = model.exact(Data(x, y))
    apart = (found.mean - exact.mean).abs() / exact.covariance.diagonal(dim1=1, dim2=2).sqrt()
    assert apart.max() < 0.15  # of a standard deviation; what a step size that falls to zero leaves of the noise
    torch.testing.assert_close(found.covariance, exact.covariance, rtol=0.03, atol=1e-3)


# The method


def state(name, model, data, seeds=SEEDS, **settings):
    return method_of(name, **settings).fit(model, data, Streams.of_seeds(seeds)).state


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


QUICK = {name: {"epochs": 3, "batch_size": 7} for name in ("mle", "map", "mean_field_vi")}


@pytest.mark.parametrize("base", ["mle", "map", "mean_field_vi"])
def test_one_chunk_is_the_base_itself(small, base):
    model, data = small.model("mlp"), small.classes(2)
    found = method_of("sequential", **QUICK, sequential={"base": base, "chunks": 1}).fit(
        model, data, Streams.of_seeds(SEEDS)
    )
    alone = method_of(base, **QUICK).fit(model, data, Streams.of_seeds(SEEDS))
    assert same(found.state, alone.state)
    assert found.bound is None if alone.bound is None else torch.equal(found.bound, alone.bound)


@pytest.mark.parametrize("base", ["mle", "map", "mean_field_vi"])
@pytest.mark.parametrize("order", ["random", "by_class"])
def test_each_chunk_goes_on_from_the_last(small, base, order):
    """By hand: what is handed on is where training starts, and of mean field the prior too."""
    model, data = small.model("mlp"), small.classes(2)
    drawn = Streams.of_seeds(SEEDS).child("chunks").permutation(53)
    if order == "by_class":
        drawn = torch.stack(
            [
                torch.tensor(sorted(row.tolist(), key=y.tolist().__getitem__))
                for row, y in zip(drawn, data.y, strict=True)
            ]
        )
    first, second = (data.batch(part) for part in (drawn[:, :27], drawn[:, 27:]))
    method, streams = method_of(base, **QUICK), Streams.of_seeds(SEEDS)
    once = method.fit(model, Data(first.x, first.y), streams.child("chunk 0"))
    twice = method.updated(model, once, Data(second.x, second.y), streams.child("chunk 1"))
    found = state("sequential", model, data, **QUICK, sequential={"base": base, "chunks": 2, "order": order})
    assert same(found, twice.state)
    if order == "by_class":
        assert (first.y.max(1).values <= second.y.min(1).values).all()


@pytest.mark.parametrize("base", ["mle", "map", "mean_field_vi"])
def test_an_update_that_learns_nothing_changes_nothing(small, base):
    """The step size is so small that a start other than the last posterior would be seen."""
    model, data = small.model("mlp"), small.classes(2)
    method = method_of(base, **QUICK)
    posterior = method.fit(model, data, Streams.of_seeds(SEEDS))
    still = replace(method, learning_rate=1e-12)
    found = still.updated(model, posterior, data, Streams.of_seeds(SEEDS))
    for name, value in posterior.state.items():
        torch.testing.assert_close(found.state[name], value, rtol=0, atol=1e-6)
    assert found.model is model
    assert found.bound is None


def test_what_has_no_spread_or_no_update_is_refused(small, refused):
    model, data = small.model("mlp"), small.classes(2)
    with refused("chunks=54", "53"):
        state("sequential", model, data, sequential={"chunks": 54})
    with refused("prune=signal_to_noise"):
        state(
            "sequential",
            model,
            data,
            sequential={"chunks": 2},
            mean_field_vi={"prune": "signal_to_noise", "epochs": 1},
        )
    assert method_of("sequential").unsupported(model) is None
    assert "MCDropout" in method_of("sequential", sequential={"base": "mc_dropout"}).unsupported(model)
    assert "closed-form" in method_of("sequential", sequential={"base": "exact"}).unsupported(model)
    of_numbers = small.model("mlp", outputs=1, likelihood="gaussian")
    assert method_of("sequential").unsupported(of_numbers) is None
    assert "gaussian" in method_of("sequential", sequential={"order": "by_class"}).unsupported(of_numbers)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["map", "mean_field_vi"])
def test_a_fit_that_was_stopped_in_a_later_chunk_resumes_to_the_same_bits(small, base, tmp_path):
    method = method_of("sequential", **QUICK, sequential={"base": base, "chunks": 3})
    x = small.classes(3, 9, seed=4).x
    apart, current = resumed(method, small.model("mlp"), small.classes(3), x, tmp_path / "checkpoint", [3, 10])
    assert apart == []
    assert len(current.files()) == 3
