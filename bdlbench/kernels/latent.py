"""Densities of images given a latent variable, and the importance-weighted estimate of a marginal density.

Only functions are used that round every element alike, also the last ones of a tensor, which do not fill a whole
vector (exp, log, tanh, logsigmoid): the bits of a row must not depend on where its activations lie in memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def binarised(grey: Tensor, bits: Tensor) -> Tensor:
    """Draw Bernoulli(grey) for each pixel: dynamic binarisation (Salakhutdinov & Murray 2008; Burda et al. 2016).

    Args:
        grey: Pixels from 0 to 1, (…, D).
        bits: Uniform int16 numbers (…, D).

    Returns:
        0 or 1 in the dtype of `grey`, (…, D). A grey of 0 or 1 stays; other probabilities are met to 1/65,536.
    """
    return (bits < grey * 65536 - 32768).to(grey.dtype)


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """Return log Π_d Bernoulli(x_d; σ(l_d)) = Σ_d x_d l_d + log σ(−l_d).

    Args:
        x: Pixels, 0 or 1, (…, D).
        logits: l, (…, D); broadcasts with `x`.

    Returns:
        Nats, (…).
    """
    return (x * logits + logsigmoid(-logits)).sum(-1)


def discretised_logistic_log_prob(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Return log Π_d P(x_d), where P is the mass that a logistic distribution puts on the bin of grey level x_d.

    P(x) = σ((x + ½w − mean)/s) − σ((x − ½w − mean)/s) with w = 1/(levels − 1) and s = exp(log_scale). The lowest and
    the highest bin are open to −∞ and ∞, so the masses of all levels add up to one. Salimans et al. 2017 (PixelCNN++),
    eq. 2. With upper argument a and lower argument b: log [σ(a) − σ(b)] = log σ(a) + log σ(−b) + log(1 − e^(b−a)).

    Args:
        x: Grey levels as level / (levels − 1), from 0 to 1, (…, D).
        mean: Means of the logistic, (…, D).
        log_scale: Logarithms of its scale, (…, D).
        levels: The number of grey levels.

    Returns:
        Nats, (…).
    """
    half = 0.5 / (levels - 1)
    inverse = (-log_scale).exp()
    below = logsigmoid((x - mean + half) * inverse)  # log of the mass below the bin's upper end
    above = logsigmoid((mean - x + half) * inverse)  # log of the mass above its lower end
    between = (-torch.expm1(-2 * half * inverse)).log()
    not_lowest, not_highest = (x > half).to(x.dtype), (x < 1 - half).to(x.dtype)  # every term is finite
    return (below * not_highest + above * not_lowest + between * (not_lowest * not_highest)).sum(-1)


def standard_normal_kl(mean: Tensor, log_sd: Tensor) -> Tensor:
    """Return KL(N(mean, sd²) ‖ N(0, 1)), summed over the last axis. Kingma & Welling 2014, appendix B.

    Args:
        mean: Means (…, D).
        log_sd: Logarithms of the standard deviations (…, D).

    Returns:
        Nats, (…).
    """
    return (0.5 * ((2 * log_sd).exp() + mean.square() - 1) - log_sd).sum(-1)


def log_importance_ratio(noise: Tensor, z: Tensor, log_sd: Tensor) -> Tensor:
    """Return log p(z) − log q(z | x) for z = mean + exp(log_sd) · noise and p = N(0, 1), summed over the last axis.

    Args:
        noise: Standard normal numbers (…, D).
        z: The latent sample (…, D).
        log_sd: Logarithms of the standard deviations of q, (…, D).

    Returns:
        Nats, (…).
    """
    return (0.5 * (noise.square() - z.square()) + log_sd).sum(-1)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """Return log (1/k) Σ_k exp(log_weight_k) over the last axis.

    For log_weight = log p(x, z) − log q(z | x) this is the importance-weighted bound on log p(x): Burda, Grosse &
    Salakhutdinov 2016, eq. 8.

    Args:
        log_weights: (…, k).

    Returns:
        (…), in nats.
    """
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])
