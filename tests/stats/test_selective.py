import pytest
import torch

from bdlbench.stats.selective import risk_coverage


def test_risk_coverage_by_hand():
    confidence, correct = torch.tensor([0.9, 0.5, 0.7, 0.6]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    assert risk_coverage(confidence, correct).tolist() == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])


def test_among_equals_errors_are_spread_and_their_order_does_not_matter():
    confidence = torch.tensor([0.9, 0.5, 0.5, 0.5, 0.5])
    for wrong in range(1, 5):
        correct = torch.ones(5).index_fill(0, torch.tensor([wrong]), 0)
        assert risk_coverage(confidence, correct).tolist() == pytest.approx([0, 0.25 / 2, 0.5 / 3, 0.75 / 4, 1 / 5])


def test_at_full_coverage_the_risk_is_the_error_and_a_perfect_order_is_the_best():
    rng = torch.Generator().manual_seed(0)
    confidence, correct = torch.rand(101, generator=rng), torch.randint(2, (101,), generator=rng).double()
    risk = risk_coverage(confidence, correct)
    assert float(risk[-1]) == pytest.approx(1 - float(correct.mean()))
    assert bool((risk_coverage(correct, correct) <= risk + 1e-12).all())
