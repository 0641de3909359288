import math

import pytest
import torch

from bdlbench.kernels import halting


def logits(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loop(halts):
    """q(z) of one example as its definition says, in plain numbers."""
    left, q = 1.0, []
    for logit in halts.tolist():
        h = 1 / (1 + math.exp(-logit))
        q.append(left * h)
        left *= 1 - h
    return [*q, left]


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_q_is_the_definition_and_sums_to_one(depth):
    halts = logits(3, 5, depth - 1)
    q = halting.log_stopping(halts).exp()
    expected = torch.tensor([[by_loop(example) for example in row] for row in halts], dtype=torch.float64)
    torch.testing.assert_close(q, expected)
    torch.testing.assert_close(q.sum(-1), torch.ones(3, 5, dtype=torch.float64))


def test_a_worked_case():
    q = halting.log_stopping(torch.tensor([0.0, math.log(3.0)])).exp()  # h = ½, ¾
    torch.testing.assert_close(q, torch.tensor([0.5, 0.375, 0.125]))


def test_extreme_logits_stay_finite_and_differentiable():
    halts = torch.tensor([[200.0, -200.0, 0.0], [-300.0, -300.0, -300.0]], requires_grad=True)
    log_q = halting.log_stopping(halts)
    assert log_q.isfinite().all()
    torch.testing.assert_close(log_q.exp().sum(-1), torch.ones(2))
    (gradient,) = torch.autograd.grad((log_q.exp() * log_q).sum(), halts)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_halting_logits_are_those_that_gave_q(depth):
    halts = logits(3, 5, depth - 1)
    torch.testing.assert_close(halting.halting_logits(halting.log_stopping(halts)), halts)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_mixture_is_one_of_probabilities(weight):
    log_q, log_p = halting.log_stopping(logits(3, 5)), halting.log_geometric(0.5, 6, logits(1))
    mixture = halting.mixed(log_q, log_p, torch.tensor(weight, dtype=torch.float64)).exp()
    torch.testing.assert_close(mixture, (1 - weight) * log_q.exp() + weight * log_p.exp())


@pytest.mark.parametrize("strength", [0.0, 0.3, 2.0])
def test_the_prior_is_a_geometric_cut_at_the_last_layer(strength):
    p = halting.log_geometric(strength, 5, torch.zeros((), dtype=torch.float64)).exp()
    weights = [math.exp(-strength * layer) for layer in range(1, 6)]
    assert p.tolist() == pytest.approx([w / sum(weights) for w in weights], abs=1e-14)


def test_a_strength_for_each_row_gives_the_priors_of_each():
    like = torch.zeros((), dtype=torch.float64)
    rows = halting.log_geometric(torch.tensor([0.0, 0.7], dtype=torch.float64), 4, like)
    assert rows.shape == (2, 4)
    for row, strength in zip(rows, (0.0, 0.7), strict=True):
        assert torch.equal(row, halting.log_geometric(strength, 4, like))


def test_kl_is_zero_at_the_prior_and_else_that_of_torch():
    log_q, log_p = halting.log_stopping(logits(4, 5)), halting.log_geometric(0.5, 6, logits(1))
    torch.testing.assert_close(halting.categorical_kl(log_p, log_p), torch.zeros((), dtype=torch.float64))
    categorical = torch.distributions.Categorical
    expected = torch.distributions.kl_divergence(categorical(logits=log_q), categorical(logits=log_p))
    torch.testing.assert_close(halting.categorical_kl(log_q, log_p), expected)


def test_the_margin_is_the_log_odds_of_the_first_class_against_the_second():
    values = logits(3, 5, 7)
    probs = values.softmax(-1).sort(-1, descending=True).values
    torch.testing.assert_close(halting.margin(values), (probs[..., 0] / probs[..., 1]).log())
    assert torch.equal(halting.margin(values.transpose(1, 2), 1), halting.margin(values))


def test_the_mode_is_the_first_of_equal_ones():
    q = torch.tensor([[0.25, 0.25, 0.5], [0.4, 0.4, 0.2], [0.2, 0.4, 0.4]])
    assert halting.mode(q.log()).tolist() == [2, 0, 1]


def test_where_the_mode_is_known_worked():
    q = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.3, 0.1, 0.6], [0.3, 0.45, 0.25]])
    assert halting.mode_known(q.log()).tolist() == [0, 1, 2, 1]
    assert halting.mode_known(torch.zeros(3, 1)).tolist() == [0, 0, 0]


def test_where_the_mode_is_known_nothing_later_can_change_it_and_before_that_something_can():
    log_q = halting.log_stopping(logits(500, 5, scale=1.0))
    known, mode = halting.mode_known(log_q), halting.mode(log_q)
    assert (mode <= known).all()
    assert len(set(known.tolist())) > 3
    for example, at in zip(log_q, known.tolist(), strict=True):
        q = example.exp()
        for stop in range(len(q) - 1):  # all that is left could fall on the next layer
            rest = torch.cat([q[: stop + 1], q[stop + 1 :].sum().reshape(1)])
            assert (int(rest.argmax()) != int(q[: stop + 1].argmax())) == (stop < at)


def test_logistic_noise_has_the_logistic_quantiles():
    normal = torch.linspace(-8, 8, 33, dtype=torch.float64)
    torch.testing.assert_close(halting.logistic(normal).sigmoid(), torch.special.ndtr(normal))
    assert halting.logistic(torch.tensor([-30.0, 30.0])).isfinite().all()


def test_sampled_depths_have_the_probabilities_of_q():
    halts, draws = logits(5), 40_000
    noise = halting.logistic(logits(draws, 5, seed=1, scale=1.0))
    frequency = torch.bincount(halting.sampled(halts.expand(draws, 5), noise), minlength=6) / draws
    q = halting.log_stopping(halts).exp()
    assert ((frequency - q).abs() <= 5 * (q * (1 - q) / draws).sqrt()).all()


def test_relaxed_depths_are_a_distribution_and_one_hot_when_cold():
    halts, noise = logits(50, 5), halting.logistic(logits(50, 5, seed=1, scale=1.0))
    warm = halting.relaxed(halts, noise, 0.7)
    torch.testing.assert_close(warm.sum(-1), torch.ones(50, dtype=torch.float64))
    cold = halting.relaxed(halts, noise, 1e-6)
    expected = torch.nn.functional.one_hot(halting.sampled(halts, noise), 6).double()
    torch.testing.assert_close(cold, expected)


def test_gradients():
    halts = logits(2, 4).requires_grad_()
    noise, log_p = halting.logistic(logits(2, 4, seed=1)), halting.log_geometric(0.4, 5, halts.detach())
    assert torch.autograd.gradcheck(lambda h: halting.categorical_kl(halting.log_stopping(h), log_p), halts)
    assert torch.autograd.gradcheck(lambda h: halting.relaxed(h, noise, 0.5), halts)
