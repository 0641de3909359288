import numpy as np
import pytest
import torch
from scipy import stats

from bdlbench.core.normals import LEVELS, normals, slice_means

CPU = torch.device("cpu")


def draw(*shape):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(-LEVELS // 2, LEVELS // 2, shape, dtype=torch.int16, generator=rng)


def levels():
    """The means of the slices, which are kept times 0.6."""
    return slice_means(CPU).double().numpy() / 0.6


def test_the_slices_have_the_means_of_a_normal_distribution_and_its_variance():
    border = stats.norm.ppf(np.arange(LEVELS + 1) / LEVELS)
    mean = LEVELS * -np.diff(stats.norm.pdf(border))
    np.testing.assert_allclose(levels(), mean / np.sqrt(np.mean(mean**2)), rtol=2e-6, atol=1e-9)
    assert np.array_equal(levels(), -levels()[::-1])
    assert np.mean(levels() ** 2) == pytest.approx(1, abs=1e-8)


def test_a_number_is_normal_over_all_pairs_of_words():
    """The distribution over 2³² pairs, exactly, at points close enough together."""
    x = np.concatenate([np.linspace(-6.2, 6.2, 249), np.linspace(-0.01, 0.01, 41)])
    below = [np.searchsorted(levels(), (at - 0.8 * levels()) / 0.6, side="right").mean() / LEVELS for at in x]
    assert np.abs(below - stats.norm.cdf(x)).max() < 3e-7
    excess = (0.6**4 + 0.8**4) * (np.mean(levels() ** 4) - 3)
    assert -1e-4 < excess < 0


@pytest.mark.slow
def test_a_pair_of_words_is_turned():
    words = draw(3, 40)
    q = torch.from_numpy(levels())[words.to(torch.int64) % LEVELS]
    first, second = q[:, :20], q[:, 20:]
    expected = torch.cat([0.6 * first + 0.8 * second, 0.6 * second - 0.8 * first], 1)
    torch.testing.assert_close(normals(words).double(), expected, rtol=0, atol=1e-6)


def test_a_row_alone_has_the_same_bits(threads):
    words = draw(5, 40_004)
    together = normals(words)
    assert all(torch.equal(together[r : r + 1], normals(words[r : r + 1])) for r in range(5))
