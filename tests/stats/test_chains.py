"""Diagnostics of chains against ArviZ 0.23.4, whose numbers are stored, and at their ends."""

import numpy as np
import pytest

from bdlbench.stats.chains import bulk_ess, mean_ess, split_rhat


def chains(count, length, memory, apart=0.0, heavy=False):
    """Chains x' = memory · x + √(1 − memory²) e, (K, D); e by a linear congruential generator."""
    words, state = np.empty(2 * count * length), 12345
    for i in range(len(words)):
        state = (1103515245 * state + 12345) % 2**31
        words[i] = (state + 0.5) / 2**31
    u, v = words.reshape(2, count, length)
    e = np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)
    e = np.sign(e) * np.abs(e) ** 3 if heavy else e
    x = e.copy()
    for t in range(1, length):
        x[:, t] = memory * x[:, t - 1] + np.sqrt(1 - memory**2) * e[:, t]
    return x + apart * np.arange(count)[:, None]


BY_ARVIZ = [
    ((4, 250, 0.0), 1.0007117589779961, 998.0887953975565, 1001.3303955452182),
    ((4, 250, 0.9), 1.0511723649378482, 56.26947206719936, 56.325609756840464),
    ((4, 251, 0.5, 0.3), 1.0459834590451733, 96.35604200635701, 93.12157514611691),
    ((2, 100, -0.7), 1.071293504930334, 460.2059991327962, 460.2059991327962),
    ((4, 400, 0.98), 1.2267468458830815, 13.864853036426188, 13.064641449465661),
    ((4, 200, 0.3, 0.0, True), 1.0141262015567483, 369.29227193592646, 507.17543840668156),
    ((3, 37, 0.6), 1.1343307948884591, 36.31145023348897, 35.98890481937421),
]
"""How chains were made, and what az.rhat(x), az.ess(x) and az.ess(x, method="mean") say of them."""


@pytest.mark.parametrize(("made", "rhat", "bulk", "mean"), BY_ARVIZ)
def test_arviz_says_the_same(made, rhat, bulk, mean):
    draws = chains(*made)[..., None]
    assert split_rhat(draws)[0] == pytest.approx(rhat, rel=1e-9)
    assert bulk_ess(draws)[0] == pytest.approx(bulk, rel=1e-9)
    assert mean_ess(draws)[0] == pytest.approx(mean, rel=1e-9)


def test_quantities_are_judged_one_by_one():
    parts = [chains(4, 100, memory, apart) for memory, apart in ((0.0, 0.0), (0.9, 0.0), (0.2, 1.0))]
    together = np.stack(parts, -1)
    for tell in (split_rhat, bulk_ess, mean_ess):
        alone = [tell(part[..., None])[0] for part in parts]
        np.testing.assert_allclose(tell(together), alone, rtol=1e-12)


def test_what_never_changes_has_mixed_and_what_only_chains_tell_apart_has_not():
    constant, stuck = np.ones((3, 20)), np.ones((3, 20)) * np.arange(3.0)[:, None]
    draws = np.stack([constant, stuck], -1)
    assert split_rhat(draws).tolist() == [1.0, np.inf]
    assert bulk_ess(draws)[0] == 60
    assert bulk_ess(draws)[1] < 6


def test_too_few_draws_and_draws_that_are_not_finite_have_no_diagnosis():
    assert np.isnan(split_rhat(np.ones((4, 3, 1)))).all()
    draws = np.stack([chains(2, 30, 0.0), chains(2, 30, 0.0)], -1)
    draws[1, 7, 1] = np.nan
    assert np.isnan(split_rhat(draws)).tolist() == [False, True]
    assert np.isnan(bulk_ess(draws)).tolist() == [False, True]
