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
