import math

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from bdlbench.stats.behrens_fisher import p_value
from bdlbench.stats.crossed import Difference, Side, crossed, resampled, seed_part


def pairs(count):
    return [(i, i) for i in range(count)]


def side(rows):
    rows = np.asarray(rows, dtype=float)
    return Side(rows.mean(-1), (rows,))


def anova(d):
    """MS of rows, columns and residual by sums over a data frame, cell by cell."""
    frame = pd.DataFrame([(r, s, value) for (r, s), value in np.ndenumerate(d)], columns=["r", "s", "d"])
    frame["row"] = frame.groupby("r").d.transform("mean")
    frame["column"] = frame.groupby("s").d.transform("mean")
    mean, (seeds, examples) = frame.d.mean(), d.shape
    return (
        ((frame.row - mean) ** 2).sum() / (seeds - 1),
        ((frame.column - mean) ** 2).sum() / (examples - 1),
        ((frame.d - frame.row - frame.column + mean) ** 2).sum() / ((seeds - 1) * (examples - 1)),
    )


@pytest.mark.parametrize(("seeds", "examples"), [(2, 3), (5, 40)])
def test_the_two_way_analysis_of_variance(seeds, examples):
    rng = np.random.default_rng(seeds)
    a = rng.normal(size=(seeds, examples))
    d = rng.normal(size=(seeds, 1)) + 2 * rng.normal(size=(1, examples)) + 0.5 * rng.normal(size=(seeds, examples))
    found = crossed(side(a), side(a + d), pairs(seeds))
    by_seed, by_example, residual = anova(d)
    assert found.estimate == pytest.approx(d.mean())
    assert found.standard_error**2 == pytest.approx((by_seed + by_example - residual) / (seeds * examples))
    assert found.seed == pytest.approx(by_seed / (seeds * examples))
    assert (found.seeds[0].df, found.example_df) == (seeds - 1, examples - 1)


def test_a_negative_example_part_is_nothing():
    d = np.array([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.1]])  # all of it is the seed's own pattern
    found = crossed(side(np.zeros((2, 4))), side(d), pairs(2))
    assert found.example == 0
    *_, residual = anova(d)
    assert found.seed == pytest.approx(residual / d.size)  # the larger of the two, as it is in expectation
    assert found.p_value() == pytest.approx(2 * stats.t.sf(abs(d.mean()) / math.sqrt(residual / d.size), 1), rel=1e-4)


def test_without_examples_it_is_the_paired_t_test():
    a, b = np.array([0.1, 0.3, 0.2, 0.5]), np.array([0.2, 0.5, 0.2, 0.7])
    found = crossed(Side(a), Side(b), pairs(4))
    assert found.p_value() == pytest.approx(stats.ttest_rel(b, a).pvalue, rel=1e-4)
    interval = stats.ttest_rel(b, a).confidence_interval()
    assert found.half_width() == pytest.approx((interval.high - interval.low) / 2, rel=1e-4)


def test_unpaired_replicates_are_never_pooled():
    a, b = np.array([0.1, 0.3, 0.2, 0.5]), np.array([0.4, 0.5, 0.9, 0.3])
    found = crossed(Side(a), Side(b), [])
    expected = stats.ttest_ind(b, a, equal_var=False)
    assert found.standard_error == pytest.approx((b.mean() - a.mean()) / expected.statistic)
    apart = p_value(found.estimate, [a.var(ddof=1) / 4, b.var(ddof=1) / 4], [3, 3])
    assert found.p_value() == pytest.approx(apart, rel=1e-3)
    assert found.p_value() > expected.pvalue


def test_unequal_numbers_are_kept_apart():
    a, b = np.array([0.1, 0.3, 0.2, 0.5]), np.array([0.4, 0.5, 0.9])
    found = crossed(Side(a), Side(b), [])
    expected = stats.ttest_ind(b, a, equal_var=False)
    assert found.standard_error == pytest.approx((b.mean() - a.mean()) / expected.statistic)
    apart = p_value(found.estimate, [b.var(ddof=1) / 3, a.var(ddof=1) / 4], [2, 3])
    assert found.p_value() == pytest.approx(apart, rel=0.01)
    assert found.p_value() > expected.pvalue  # whose degrees of freedom are an estimate, taken as known
    width = found.half_width(float(found.p_value()))
    assert width == pytest.approx(abs(found.estimate), rel=1e-6)  # the interval at that level just touches 0


def test_one_pair_among_many_cannot_be_told_from_none():
    a, b = Side(np.array([0.1, 0.3, 0.2])), Side(np.array([0.4, 0.5]))
    assert crossed(a, b, [(0, 0)]).standard_error == crossed(a, b, []).standard_error


def test_some_pairs_and_some_not_by_monte_carlo():
    """The stated variance is that of the estimate, where 4 of 6 and 5 replicates are pairs."""
    rng = np.random.default_rng(3)
    tables = 4000
    seed = rng.normal(size=(tables, 7, 1))
    a = seed[:, :6] + 0.3 * rng.normal(size=(tables, 6, 1)) + rng.normal(size=(tables, 6, 30))
    b = seed[:, 2:] + 0.3 * rng.normal(size=(tables, 5, 1)) + rng.normal(size=(tables, 5, 30))
    shift = rng.normal(size=(tables, 1, 30))
    found = crossed(side(a), side(b + shift), [(i + 2, i) for i in range(4)])
    assert found.estimate.std() == pytest.approx(math.sqrt((found.standard_error**2).mean()), rel=0.05)


def test_unpaired_seeds_keep_their_examples_paired():
    """Hard examples are hard for both sides, and cancel."""
    rng = np.random.default_rng(1)
    hard = 10 * rng.normal(size=(1, 50))
    a, b = hard + rng.normal(size=(3, 50)), hard + 0.1 + rng.normal(size=(4, 50))
    assert crossed(side(a), side(b), []).standard_error < 0.5


def test_one_seed_says_nothing_of_seeds():
    a, b = side(np.arange(12.0).reshape(1, 12) % 5), side(np.ones((1, 12)))
    found = crossed(a, b, pairs(1))
    assert np.isnan(found.seed) and np.isnan(found.p_value())
    assert found.example == pytest.approx((np.ones(12) - np.arange(12) % 5).var(ddof=1) / 12)
    assert np.isnan(crossed(side(np.ones((1, 3))), side(np.ones((2, 3))), [(0, 0)]).seed)


def test_two_populations_of_examples_add_up():
    rng = np.random.default_rng(2)
    rows = [rng.normal(size=(1, n)) + rng.normal(size=(4, n)) / 9 for n in (20, 30)]
    zero = Side(np.zeros(4), tuple(np.zeros_like(r) for r in rows))
    both = crossed(zero, Side(np.zeros(4), tuple(rows)), pairs(4)).example
    alone = [crossed(side(np.zeros_like(r)), side(r), pairs(4)).example for r in rows]
    assert both == pytest.approx(sum(alone))


def test_differences_that_agree_to_rounding():
    same = Side(np.array([0.1, 0.2]))
    assert crossed(same, same, pairs(2)).p_value() == 1
    apart = crossed(same, Side(same.values + 1), pairs(2))
    for nothing in (apart.p_value(), apart.half_width(), apart.equivalence_p_value(1.5)):
        assert np.isnan(nothing)  # a variance of 0 is none to test by
    assert apart.p_value(margin=1.5) == 1


def test_a_margin_moves_the_hypothesis():
    found = Difference(np.array(3.0), (seed_part(np.array(1.0), 4.0),), np.array(0.0))
    assert found.p_value(1.0) == pytest.approx(2 * stats.t.sf(2, 4), rel=1e-4)
    assert found.p_value(3.5) == pytest.approx(1)


def test_nadeau_and_bengio_by_hand():
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 5.0])  # gaps 1, 0, 2: mean 1, variance 1
    found = resampled(a, b, test_over_train=1 / 9)
    assert (found.estimate, found.seeds[0].df) == (1, 2)
    assert found.standard_error == pytest.approx(math.sqrt(1 / 3 + 1 / 9))
    assert np.isnan(resampled(a[:1], b[:1], 1 / 9).seed)
    assert np.isnan(resampled(a[:0], b[:0], 1 / 9).estimate)


def test_seeds_with_equally_many_errors_have_a_variance():
    """60 examples; A without an error, B with one for each of two seeds, on different examples."""
    right, wrong = np.ones((2, 60)), np.ones((2, 60))
    wrong[0, 3] = wrong[1, 7] = 0
    found = crossed(side(right), side(wrong), pairs(2))
    assert found.estimate == pytest.approx(-1 / 60)
    assert found.p_value() > 0.3 and found.half_width() > 0.1
    assert found.skewness == pytest.approx(1 / math.sqrt(2), rel=0.1)  # of two examples that differ alike


def test_no_error_on_either_side_leaves_wilsons_bound():
    """Nothing discordant among N: 0 of N, whose interval by Wilson is c²/(N + c²), by Clopper and Pearson nearly so."""
    same = side(np.ones((2, 50)))
    found = crossed(same, same, pairs(2))
    assert found.p_value() == 1
    wilson = stats.binomtest(0, 50).proportion_ci(method="wilson").high
    exact = stats.binomtest(0, 50).proportion_ci(method="exact").high
    assert found.half_width() == pytest.approx(wilson, rel=0.06)  # t of 49 for the normal
    assert found.half_width() == pytest.approx(exact, rel=0.06)
    assert found.equivalence_p_value(0.01) > 0.3
    many = side(np.ones((2, 2000)))
    assert crossed(many, many, pairs(2)).equivalence_p_value(0.01) < 1e-4


def test_the_interval_of_zeros_and_ones_is_what_the_tests_do_not_refuse():
    rng = np.random.default_rng(5)
    a, b = ((rng.random((3, 400)) < rate).astype(float) for rate in (0.99, 0.98))
    found = crossed(side(a), side(b), pairs(3))
    assert found.binary == 400
    edge = float(abs(found.estimate) + found.half_width())
    assert found.equivalence_p_value(edge) == pytest.approx(0.05, rel=0.02)
    assert crossed(side(a), side(b + 0.1), pairs(3)).binary == 0


@pytest.mark.parametrize(("a", "b"), [([20.0, 20.0], [21.0, 21.0]), ([4.0, 4.0, 4.0], [5.0, 5.0, 5.0])])
def test_counts_that_agree_by_chance(a, b):
    """Two neighbouring whole numbers in equal shares give k equal gaps of 1 with chance 2·4⁻ᵏ."""
    count = len(a)
    paired = crossed(Side(np.array(a)), Side(np.array(b)), pairs(count))
    assert paired.p_value() == pytest.approx(2 * stats.t.sf(2 * math.sqrt(count), count - 1), rel=1e-4)
    assert crossed(Side(np.array(a)), Side(np.array(b)), []).p_value() > 0.05


def test_the_parts_are_those_of_a_mixed_model():
    """Restricted maximum likelihood of y = μ + a_r + b_s + ε, by scipy's optimiser: Patterson & Thompson 1971."""
    rng = np.random.default_rng(11)
    seeds, examples = 4, 15
    d = 0.4 + rng.normal(size=(seeds, 1)) + 1.5 * rng.normal(size=(1, examples)) + rng.normal(size=(seeds, examples))
    one, whole = np.ones((d.size, 1)), np.ones
    by_seed = np.kron(np.eye(seeds), whole((examples, examples)))
    by_example = np.kron(whole((seeds, seeds)), np.eye(examples))

    def deviance(log_variances):
        s, e, r = np.exp(log_variances)
        covariance = s * by_seed + e * by_example + r * np.eye(d.size)
        inverse = np.linalg.inv(covariance)
        information = (one.T @ inverse @ one).item()
        gap = d.reshape(-1, 1) - (one.T @ inverse @ d.reshape(-1, 1)).item() / information
        return np.linalg.slogdet(covariance)[1] + math.log(information) + (gap.T @ inverse @ gap).item()

    fit = optimize.minimize(deviance, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    s, e, r = np.exp(fit.x)
    found = crossed(side(np.zeros_like(d)), side(d), pairs(seeds))
    assert found.seed == pytest.approx((s + r / examples) / seeds, rel=1e-4)
    assert found.example == pytest.approx(e / examples, rel=1e-4)


def test_the_least_p_is_never_above_p():
    """Normal tails, or the t of the only part that is not 0, bound the mixture from below, and nearly enough."""
    rng = np.random.default_rng(0)
    estimate = rng.normal(size=2000) * np.exp(rng.normal(size=2000) * 2)
    one, other = (np.exp(3 * rng.normal(size=2000)) * (rng.random(2000) < 0.7) for _ in range(2))
    for df, example_df in [(1, 1), (1, 9), (2, 999), (9, 1), (30, 30)]:
        found = Difference(estimate, (seed_part(one, df),), other, example_df)
        least, p = found.least_p_value(), found.p_value()
        assert (np.isnan(least) == np.isnan(p)).all()
        assert (least <= p)[~np.isnan(p)].all()
        alone = (other == 0) & (one > 0)
        near = alone & (p > 1e-6)
        assert np.allclose(
            least[near], stats.t.sf(np.abs(estimate[near] / np.sqrt(one[near])), df)
        )  # half of two sides
        assert (least > 0.49 * p)[near].all()
