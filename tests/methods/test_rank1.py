"""Rank-1 networks: the objective by hand, the limit in which they are MAP, and the moments of their weights."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from bdlbench import catalog
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Examples, Signature
from bdlbench.posteriors.rank_one import shared_network
from bdlbench.training.loop import Session, session
from bdlbench.training.plan import Moment

MEMBERS, SEED, PRIOR_SD, FACTOR_SD = 3, 5, 0.7, 0.2


@pytest.fixture(scope="module")
def problem():
    rng = torch.Generator().manual_seed(3)
    x, y = torch.randn(12, 5, generator=rng), torch.randint(3, (12,), generator=rng)
    return catalog.load("models", "mlp")(Signature((5,), 3, "categorical"), widths=(6,)), Data(x[None], y[None])


def fitted(small, problem, **options):
    given = {"members": MEMBERS, "prior_sd": PRIOR_SD, "factor_prior_sd": FACTOR_SD, **options}
    method = small.method("rank1", [{"rank1": given}], epochs=3, batch_size=6)
    with session(Session()) as current:
        posterior = method.fit(*problem, Streams.of_seeds([SEED]))
    return current.fits[0], posterior


def test_the_objective_and_its_gradient_by_hand(small, problem):
    """The mean over components of the NLL at a draw and of the KL, and the prior of what has no spread, once."""
    model, data = problem
    fit, _ = fitted(small, problem)
    shared = shared_network(model, MEMBERS)
    flat = (
        fit.state.flat + 0.1 * torch.randn(fit.state.flat.shape, generator=torch.Generator().manual_seed(1))
    ).double()
    batch = Examples(data.x[:, :6].double(), data.y[:, :6])
    epsilon = shared.factors.views(Streams([7]).normal((shared.factors.width,), flat))
    ours = flat.clone().requires_grad_()
    loss = fit.objective(ours, batch, Streams([7]), Moment(0, 1, reported=True))

    theirs = flat.clone().requires_grad_()
    point, log_sd = theirs[:, : shared.width], shared.factors.views(theirs[:, shared.width :])
    rule = shared.rule(point)
    nll = kl = log_prior = 0.0
    for k in range(MEMBERS):
        hidden = batch.x[0]
        for i, (name, (inputs, outputs)) in enumerate(shared.sizes.items()):
            factors = {}
            for end, mean, size in (("inputs", rule.inputs, inputs), ("outputs", rule.outputs, outputs)):
                q = Normal(mean[name][0, k], log_sd[f"{name}.{end}"][0, k].exp())
                factors[end] = q.mean + q.stddev * epsilon[f"{name}.{end}"][0, k]
                kl = kl + kl_divergence(q, Normal(torch.ones(size).double(), FACTOR_SD)).sum() / MEMBERS
            hidden = ((hidden.relu() if i else hidden) * factors["inputs"]) @ rule.leaves[name][0].mT
            hidden = hidden * factors["outputs"] + rule.biases[name][0, k]
            log_prior = log_prior + Normal(0.0, PRIOR_SD).log_prob(rule.biases[name][0, k]).sum() / MEMBERS
        nll = nll + functional.cross_entropy(hidden, batch.y[0]) / MEMBERS
    for name in shared.sizes:
        log_prior = log_prior + Normal(0.0, PRIOR_SD).log_prob(rule.leaves[name]).sum()
    expected = nll + (kl - log_prior) / data.num_data
    torch.testing.assert_close(loss[0], expected, rtol=1e-6, atol=0)  # the priors' numbers are float32
    (mine,), (hand,) = (torch.autograd.grad(of.sum(), at) for of, at in ((loss, ours), (expected, theirs)))
    torch.testing.assert_close(mine, hand, rtol=1e-6, atol=1e-8)


def test_one_component_without_a_spread_is_map(small, problem):
    still = {"members": 1, "initial_sd": 0.0, "initial_log_sd": -30.0, "factor_rate": 0.0}
    _, found = fitted(small, problem, **still)
    method = small.method("map", [{"map": {"prior_sd": PRIOR_SD}}], epochs=3, batch_size=6)
    alone = method.fit(*problem, Streams.of_seeds([SEED]))
    for name, value in alone.state.items():
        torch.testing.assert_close(found.state[name], value, rtol=1e-5, atol=1e-6)
    x = problem[1].x
    left, right = (one.predict(x, 1, Streams.of_seeds([1])).arrays()["probs"] for one in (found, alone))
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_moments_are_those_of_draws(small, problem):
    _, posterior = fitted(small, problem, initial_log_sd=-1.0)
    told, layout = posterior.moments(), shared_network(problem[0], MEMBERS).layout
    count = 20_000
    rule = posterior.rows.draw(Streams.of_seeds([2]).members(MEMBERS).samples(0, count), True)
    whole = {name: rule.leaf(name).expand(count, MEMBERS, *leaf.shape) for name, leaf in layout.leaves.items()}
    drawn = layout.packed(layout.joined(whole)).flatten(0, 1).double()  # members are equally many
    apart = drawn - told.mean[0]
    error = apart.std(0) / (count * MEMBERS) ** 0.5
    assert (apart.mean(0).abs() < 5 * error + 1e-6).all()
    sampled = apart.mT @ apart / len(apart)
    scale = told.covariance[0].diagonal().sqrt()
    assert ((sampled - told.covariance[0]).abs() < 0.05 * scale.outer(scale) + 1e-7).all()
    assert scale.min() >= 0 < scale.max()


def test_components_have_their_own_spread_and_share_the_weights(small, problem):
    _, posterior = fitted(small, problem)
    name = next(iter(shared_network(problem[0], MEMBERS).sizes))
    assert posterior.state[name].shape == (1, 6, 5)
    assert posterior.state[f"{name}.inputs.log_sd"].shape == (1, MEMBERS, 5)
    assert posterior.bound is None
    seeds = Streams.of_seeds([1])
    few, many = (posterior.predict(problem[1].x, samples, seeds).samples for samples in (1, 12))
    assert (few, many) == (MEMBERS, 12)  # at least one draw of each
