import math

import pytest
import torch

from bdlbench.stats.joint import joint_log_likelihood


def test_two_functions_and_three_targets_by_hand():
    probs = torch.tensor([[0.5, 0.2], [0.1, 0.8]], dtype=torch.float64)  # (M, N)
    anchors, counts = torch.tensor([[0, 1], [1, 0], [0, 0]]), torch.tensor([[1, 2], [3, 0], [1, 1]])
    expected = [
        math.log((0.5 * 0.2**2 + 0.1 * 0.8**2) / 2),
        math.log((0.2**3 + 0.8**3) / 2),
        math.log((0.5**2 + 0.1**2) / 2),
    ]
    assert joint_log_likelihood(probs.log(), anchors, counts).tolist() == pytest.approx(expected)


def test_one_function_knows_no_more_jointly():
    log_prob = torch.tensor([[-0.3, -2.0, -1.0]])
    anchors, counts = torch.tensor([[0, 1], [2, 0]]), torch.tensor([[4, 6], [10, 0]])
    assert joint_log_likelihood(log_prob, anchors, counts).tolist() == pytest.approx([-0.3 * 4 - 2.0 * 6, -10.0])


def test_functions_that_differ_gain_where_a_target_comes_again():
    """Of the same marginal, the spread within each function cannot tell which of them it is; that between them can."""
    within, between = torch.full((2, 1), 0.5).log(), torch.tensor([[0.99], [0.01]]).log()
    once, often = (torch.tensor([[times]]) for times in (1, 10))
    anchor = torch.tensor([[0]])
    assert torch.allclose(*(joint_log_likelihood(part, anchor, once) for part in (within, between)))
    assert joint_log_likelihood(between, anchor, often) > joint_log_likelihood(within, anchor, often) + 5


def test_a_likelihood_too_small_for_a_float_is_none_too_small_for_its_logarithm():
    log_prob = torch.full((3, 1), -80.0)
    assert joint_log_likelihood(log_prob, torch.tensor([[0]]), torch.tensor([[50]])).tolist() == pytest.approx([-4000])


@pytest.mark.parametrize("functions", [8, 32])
def test_of_few_functions_the_logarithm_is_too_small_by_half_their_variance_over_their_number(functions):
    """w = p^5 with p ~ Beta(8, 8), whose moments are known: E log mean w = log E w − Var(w) / (2 M E² w) + …"""
    torch.manual_seed(0)
    log_prob = torch.distributions.Beta(8.0, 8.0).sample((functions, 60_000)).log()
    every, five = torch.arange(60_000)[:, None], torch.full((60_000, 1), 5)
    found = joint_log_likelihood(log_prob, every, five)
    first, second = (moment(8, 8, power) for power in (5, 10))
    bias = math.log(first) - float(found.mean())
    assert bias == pytest.approx((second / first**2 - 1) / (2 * functions), rel=0.15)


def moment(a, b, power):
    """E p^power of Beta(a, b)."""
    return math.exp(math.lgamma(a + power) - math.lgamma(a) + math.lgamma(a + b) - math.lgamma(a + b + power))
