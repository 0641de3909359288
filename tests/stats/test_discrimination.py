import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from bdlbench.stats.discrimination import auroc, average_precision, fpr_at_95_tpr, rank_correlation, without_blocks

KERNELS = [auroc, average_precision, fpr_at_95_tpr]


def sklearn_fpr_at_95_tpr(labels, scores):
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)  # dropped points lie on lines, not on steps
    return fpr[tpr >= 0.95].min()


ORACLES = [(auroc, roc_auc_score), (average_precision, average_precision_score), (fpr_at_95_tpr, sklearn_fpr_at_95_tpr)]

small_integers = st.lists(st.integers(-5, 5), min_size=1, max_size=40)  # many ties


def scores_of(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def by_sklearn(oracle, positive, negative):
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    return oracle(labels, torch.cat([positive, negative]).numpy())


@pytest.mark.parametrize(("kernel", "oracle"), ORACLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("num_positive", "num_negative"), [(1, 1), (19, 50), (20, 50), (21, 3), (700, 900)])
@pytest.mark.parametrize("levels", [4, 60, 10**6])
def test_the_same_as_sklearn(kernel, oracle, dtype, num_positive, num_negative, levels):
    rng = torch.Generator().manual_seed(num_positive + levels)
    positive = (torch.randint(levels, (num_positive,), generator=rng) + levels // 4).to(dtype) / levels
    negative = torch.randint(levels, (num_negative,), generator=rng).to(dtype) / levels
    ours = kernel(positive, negative)
    assert ours.dtype == torch.float64
    assert float(ours) == pytest.approx(by_sklearn(oracle, positive, negative), abs=1e-12)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(small_integers, small_integers)
def test_ties_the_same_as_sklearn(positive, negative):
    positive, negative = scores_of(positive), scores_of(negative)
    for kernel, oracle in ORACLES:
        assert float(kernel(positive, negative)) == pytest.approx(by_sklearn(oracle, positive, negative), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(small_integers, small_integers)
def test_swapping_the_classes_reflects_the_auroc(positive, negative):
    positive, negative = scores_of(positive), scores_of(negative)
    assert float(auroc(positive, negative)) == pytest.approx(1 - float(auroc(negative, positive)), abs=1e-15)


@settings(max_examples=50, deadline=None)
@given(small_integers, small_integers)
def test_only_the_order_of_scores_counts(positive, negative):
    positive, negative = scores_of(positive), scores_of(negative)
    for kernel in KERNELS:
        assert torch.equal(kernel(positive, negative), kernel(positive.exp(), negative.exp()))
        assert torch.equal(kernel(positive, negative), kernel(positive.flip(0), negative.flip(0)))


def test_auroc_by_hand():
    # pairs: 3>1, 3>2, 2>1 count 1; 2=2 counts ½; of 4
    assert float(auroc(scores_of([3, 2]), scores_of([1, 2]))) == 3.5 / 4


def test_average_precision_by_hand():
    # descending: + − +  →  precision 1 at the first positive, 2/3 at the second
    assert float(average_precision(scores_of([3, 1]), scores_of([2]))) == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)


def test_fpr_at_95_tpr_by_hand():
    positive = scores_of(range(20))  # 19 of 20 lie at 1 or above
    negative = scores_of([0.5, 1.0, 1.5, -3.0])
    assert float(fpr_at_95_tpr(positive, negative)) == 0.5  # 1.0 is level with the threshold, and called positive


@pytest.mark.parametrize("num", [1, 19, 20, 21, 40, 99, 100, 101, 1000])
def test_how_many_positives_are_95_percent(num):
    positive = torch.arange(num, dtype=torch.float64)
    share = torch.tensor([float((positive >= t).sum()) / num for t in positive])
    threshold = positive[share.double() >= 0.95 - 1e-7].max()
    assert float(fpr_at_95_tpr(positive, positive)) == float((positive >= threshold).double().mean())


@pytest.mark.parametrize(("kernel", "value"), [(auroc, 0.5), (average_precision, 0.4), (fpr_at_95_tpr, 1.0)])
def test_equal_scores_tell_nothing(kernel, value):
    assert float(kernel(torch.zeros(4), torch.zeros(6))) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize(
    ("kernel", "best", "worst"), [(auroc, 1, 0), (average_precision, 1, None), (fpr_at_95_tpr, 0, 1)]
)
def test_perfect_and_perfectly_wrong(kernel, best, worst):
    low, high = torch.arange(30.0), torch.arange(40.0) + 100
    assert kernel(high, low) == best
    if worst is not None:
        assert kernel(low, high) == worst


@pytest.mark.parametrize("kernel", KERNELS)
def test_infinite_scores_are_ranked(kernel):
    assert torch.equal(
        kernel(scores_of([math.inf, 1.0]), scores_of([-math.inf, 2.0])), kernel(scores_of([9, 1]), scores_of([-9, 2]))
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_zeros_of_either_sign_are_tied(kernel):
    assert torch.equal(kernel(scores_of([0.0, -0.0]), scores_of([-0.0, 0.0])), kernel(torch.zeros(2), torch.zeros(2)))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_in_nan_out(kernel, dtype):
    clean, dirty = torch.arange(5, dtype=dtype), torch.tensor([0.0, math.nan, 1.0], dtype=dtype)
    assert math.isnan(kernel(clean, dirty))
    assert math.isnan(kernel(dirty, clean))


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_class_alone_is_not_a_number(kernel):
    assert math.isnan(kernel(torch.empty(0), torch.ones(3)))
    assert math.isnan(kernel(torch.ones(3), torch.empty(0)))


@pytest.mark.parametrize("kernel", KERNELS)
def test_inputs_are_left_alone(kernel):
    positive, negative = scores_of([3, 1, 2]), scores_of([2, 0])
    kernel(positive, negative)
    assert positive.tolist() == [3, 1, 2]
    assert negative.tolist() == [2, 0]


@pytest.mark.parametrize(("kernel", "oracle"), ORACLES)
@pytest.mark.parametrize("positives", [True, False])
@pytest.mark.parametrize("levels", [3, 10**6])
def test_without_a_block_it_is_sklearns_of_the_rest(kernel, oracle, positives, levels):
    rng = torch.Generator().manual_seed(levels)
    scores = [torch.randint(levels, (count,), generator=rng).float() for count in (83, 61)]
    block = torch.arange(83 if positives else 61) % 7
    found = without_blocks(kernel, *scores, block, positives)
    for b in range(7):
        rest = [scores[0][block != b], scores[1]] if positives else [scores[0], scores[1][block != b]]
        assert float(found[b]) == pytest.approx(by_sklearn(oracle, *rest), abs=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_the_only_block_or_with_a_nan_nothing_is_left(kernel):
    scores = torch.tensor([1.0, 2.0])
    for positives in (True, False):
        assert without_blocks(kernel, scores, scores, torch.zeros(2, dtype=torch.int64), positives).isnan().all()
        broken = torch.tensor([1.0, math.nan])
        assert without_blocks(kernel, scores, broken, torch.arange(2), positives).isnan().all()


@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_rank_correlation_is_that_of_scipy(levels):
    rng = np.random.default_rng(levels)
    a, b = rng.integers(0, levels, (2, 200))
    b = b + a // 2
    ours = rank_correlation(torch.tensor(a), torch.tensor(b))
    assert ours.dtype == torch.float64
    assert float(ours) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_rank_correlation_of_equal_values_or_none_is_undefined():
    a = torch.arange(5.0)
    assert float(rank_correlation(a, a.exp())) == pytest.approx(1.0)
    assert float(rank_correlation(a, -a)) == pytest.approx(-1.0)
    for other in (torch.ones(5), torch.tensor([0, 1, 2, 3, math.nan])):
        assert math.isnan(rank_correlation(a, other))
        assert math.isnan(rank_correlation(other, a))
