from itertools import permutations

import pytest
import torch
from sklearn.metrics import roc_auc_score

from bdlbench.stats import selective
from bdlbench.stats.selective import risk_coverage


def whole(statistic, *args):
    """The statistic of all examples."""
    (value,) = statistic(*args[:2], torch.ones(1, len(args[0]), dtype=torch.bool), *args[2:])
    return float(value)


def aurc(confidence, correct):
    return whole(selective.aurc, confidence, correct)


def augrc(confidence, correct):
    return whole(selective.augrc, confidence, correct)


def accuracy_at_coverage(confidence, correct, coverage):
    return whole(selective.accuracy_at_coverage, confidence, correct, coverage)


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


def test_areas_by_hand():
    """Most confident first: right, wrong, right, wrong. Error rates 0, 1/2, 1/3, 2/4; errors over N 0, 1, 1 and 2/4."""
    confidence, correct = torch.tensor([0.9, 0.5, 0.7, 0.6]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    assert aurc(confidence, correct) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert augrc(confidence, correct) == pytest.approx((0 + 1 / 8 + 2 / 8 + 3 / 8) / 4)  # four trapezoids


def test_equals_count_as_the_mean_over_their_orders():
    confidence = torch.tensor([0.9, 0.6, 0.6, 0.6, 0.2])
    correct = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    for area in (aurc, augrc):
        orders = [torch.tensor([0, *order, 4]) for order in permutations((1, 2, 3))]
        untied = [area(torch.arange(5, 0, -1), correct[order]) for order in orders]
        assert area(confidence, correct) == pytest.approx(sum(untied) / len(untied))


@pytest.mark.parametrize("levels", [3, 1000])
def test_augrc_is_the_closed_form_of_the_auroc_of_right_against_wrong(levels):
    """Traub et al. 2024: (1 − AUROC) a (1 − a) + (1 − a)² / 2, by another library's AUROC, with few and many ties."""
    rng = torch.Generator().manual_seed(levels)
    confidence = torch.randint(levels, (211,), generator=rng).double() / levels
    correct = (torch.rand(211, generator=rng) < 0.3 + 0.6 * confidence).double()
    right = float(correct.mean())
    ranking = float(roc_auc_score(correct.numpy(), confidence.numpy()))
    expected = (1 - ranking) * right * (1 - right) + (1 - right) ** 2 / 2
    assert augrc(confidence, correct) == pytest.approx(expected, abs=1e-12)


def test_areas_without_knowledge_and_with_perfect_knowledge():
    correct = torch.tensor([1.0, 0.0] * 50)
    same = torch.full((100,), 0.7)
    assert aurc(same, correct) == pytest.approx(0.5)
    assert augrc(same, correct) == pytest.approx(0.25)
    assert aurc(correct, correct) == pytest.approx(sum(k / (50 + k) for k in range(1, 51)) / 100)
    assert augrc(correct, correct) == pytest.approx(0.125)  # half the error rate, squared


def test_accuracy_at_a_coverage_by_hand():
    confidence = torch.linspace(0, 1, 10)
    correct = torch.ones(10).index_fill(0, torch.tensor([0, 9]), 0)  # the least and the most confident are wrong
    assert accuracy_at_coverage(confidence, correct, 0.9) == pytest.approx(8 / 9)
    assert accuracy_at_coverage(confidence, correct, 1.0) == pytest.approx(8 / 10)
    assert accuracy_at_coverage(confidence, correct, 0.85) == pytest.approx(8 / 9)  # at least 8.5: nine
    assert accuracy_at_coverage(confidence, correct, 0.05) == pytest.approx(0)
    tied = torch.tensor([0.9] * 5 + [0.5] * 5)  # nine answered: all of the first five, four of the equal others
    assert accuracy_at_coverage(tied, torch.tensor([1.0] * 5 + [1, 1, 1, 1, 0]), 0.9) == pytest.approx(8.2 / 9)
    seventy = torch.arange(70)
    assert accuracy_at_coverage(seventy, (seventy >= 7).double(), 0.9) == 1  # 0.9 · 70 is 63.00000000000001
