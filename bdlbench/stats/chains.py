"""Whether chains have mixed, and how many independent draws they are worth.

The formulas are those of Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021, which Stan and ArviZ compute too. Draws
are (K, D, Q): K chains of D draws of Q quantities.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, special

Draws = NDArray[np.float64]


def split_rhat(draws: Draws) -> Draws:
    """Compute the rank-normalised split R-hat: the larger one of the draws and of their distances from the median.

    It is near 1 where all halves of all chains have one distribution (Vehtari et al. 2021, eq. 4 and §4.2). A quantity
    that is the same in every draw has 1; one that no chain changes, though chains differ, has infinity.

    Args:
        draws: (K, D, Q).

    Returns:
        (Q,); NaN where a draw is not finite, or with fewer than four draws in a chain.
    """
    if draws.shape[1] < 4:
        return np.full(draws.shape[2], np.nan)
    halves = _split(draws)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    larger = np.maximum(_rhat(_rank_normalised(halves)), _rhat(_rank_normalised(folded)))
    constant = (draws == draws[:1, :1]).all((0, 1))
    return np.where(np.isfinite(draws).all((0, 1)), np.where(constant, 1.0, larger), np.nan)


def bulk_ess(draws: Draws) -> Draws:
    """Compute the effective sample size of the rank-normalised draws of split chains (Vehtari et al. 2021, §4.3).

    Autocorrelations are summed by Geyer's initial monotone sequence (Geyer 1992). A quantity that is the same in every
    draw has as many as there are draws.

    Args:
        draws: (K, D, Q).

    Returns:
        (Q,), at most K·D·log10(K·D); NaN where a draw is not finite, or with fewer than four draws in a chain.
    """
    if draws.shape[1] < 4:
        return np.full(draws.shape[2], np.nan)
    found = _ess(_rank_normalised(_split(draws)))
    constant = (draws == draws[:1, :1]).all((0, 1))
    return np.where(np.isfinite(draws).all((0, 1)), np.where(constant, draws.shape[0] * draws.shape[1], found), np.nan)


def mean_ess(draws: Draws) -> Draws:
    """Compute the effective sample size of the mean of each quantity, by which its standard error is sd / √ESS.

    Args:
        draws: (K, D, Q).

    Returns:
        (Q,), as `bulk_ess`, of the draws themselves.
    """
    return _ess(_split(draws))


def _split(draws: Draws) -> Draws:
    """Cut each chain (K, D, Q) into halves (2K, D // 2, Q); the middle draw of an odd number is left out."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def _rank_normalised(draws: Draws) -> Draws:
    """Replace draws by normal quantiles of their ranks among all chains (Vehtari et al. 2021, eq. 14)."""
    chains, length, count = draws.shape
    from scipy import stats  # takes half a second to import, and only chains need it

    ranks = stats.rankdata(draws.reshape(chains * length, count), axis=0)
    normal: Draws = special.ndtri((ranks - 3 / 8) / (chains * length + 1 / 4))
    return normal.reshape(draws.shape)


def _rhat(draws: Draws) -> Draws:
    """Compute √(V̂ / W) of chains as they are (Vehtari et al. 2021, eq. 1 to 4)."""
    length = draws.shape[1]
    between = length * draws.mean(1).var(0, ddof=1)
    within = draws.var(1, ddof=1).mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(between == within, 1.0, between / within)  # both 0: nothing moves, and nothing differs
    return np.asarray(np.sqrt((ratio + length - 1) / length))


def _ess(draws: Draws) -> Draws:
    """Compute the effective sample size of chains as they are (Vehtari et al. 2021, eq. 10 to 13)."""
    chains, length, count = draws.shape
    centred = draws - draws.mean(1, keepdims=True)
    padded = fft.next_fast_len(2 * length, real=True)
    spectrum = np.abs(fft.rfft(centred, padded, axis=1)) ** 2
    covariance = fft.irfft(spectrum, padded, axis=1)[:, :length] / length  # (K, D, Q), biased
    mean_variance = covariance[:, 0].mean(0) * length / (length - 1)
    total = mean_variance * (length - 1) / length
    if chains > 1:
        total = total + draws.mean(1).var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = 1 - (mean_variance - covariance.mean(0)) / total  # (D, Q)
    correlation[0] = 1.0
    # sums of pairs ρ(2t) + ρ(2t + 1), as long as they are positive, made to fall
    pairs = correlation[: length // 2 * 2].reshape(length // 2, 2, count).sum(1)
    last = max(1, (length - 3) // 2)  # ArviZ and Stan leave out the noisiest lags
    alive = np.logical_and.accumulate(pairs[:last] > 0, axis=0)
    monotone = np.minimum.accumulate(pairs[:last], axis=0)
    summed = np.where(alive, monotone, 0.0).sum(0)
    following = np.minimum(2 * alive.sum(0), length - 1)  # the even lag of the next pair still counts if positive
    tail = np.maximum(np.take_along_axis(correlation, following[None], 0)[0], 0)
    time = np.maximum(-1 + 2 * summed + tail, 1 / np.log10(chains * length))
    return np.asarray(chains * length / time)
