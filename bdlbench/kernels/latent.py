"""Densities of images given a latent, and the importance-weighted estimate of a marginal density.

Only functions whose vector body and tail round alike (exp, log, tanh, logsigmoid): a row's bits must not depend on
where its activations lie in memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def binarised(grey: Tensor, bits: Tensor) -> Tensor:
    """A draw of Bernoulli(grey) for each pixel, in the dtype of `grey` (…, D), by uniform int16 `bits`.

    Dynamic binarisation (Salakhutdinov & Murray 2008; Burda et al. 2016). A grey of 0 or 1 stays what it is; others
    are met to 1/65,536.
    """
    return (bits < grey * 65536 - 32768).to(grey.dtype)


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """log Π_d Bernoulli(x_d; σ(logit_d)) in nats: x, logits (…, D), broadcast, -> (…). Σ_d x_d l_d + log σ(−l_d)."""
    return (x * logits + logsigmoid(-logits)).sum(-1)


def discretised_logistic_log_prob(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """log Π_d P(x_d) in nats, P the mass that a logistic puts on the bin of grey level x_d: (…, D) -> (…).

    P(x) = σ((x + ½w − mean)/s) − σ((x − ½w − mean)/s), with the lowest and the highest bin open to −∞ and ∞, so that
    the mass of all levels is one. x: level / (levels − 1), so 0 … 1; w = 1/(levels − 1); s = exp(log_scale).
    Salimans et al. 2017 (PixelCNN++), eq. 2. With a = upper, b = lower argument: log [σ(a) − σ(b)] =
    log σ(a) + log σ(−b) + log(1 − e^(b−a)).
    """
    half = 0.5 / (levels - 1)
    inverse = (-log_scale).exp()
    below = logsigmoid((x - mean + half) * inverse)  # log of the mass below the bin's upper end
    above = logsigmoid((mean - x + half) * inverse)  # log of the mass above its lower end
    between = (-torch.expm1(-2 * half * inverse)).log()
    not_lowest, not_highest = (x > half).to(x.dtype), (x < 1 - half).to(x.dtype)  # every term is finite
    return (below * not_highest + above * not_lowest + between * (not_lowest * not_highest)).sum(-1)


def standard_normal_kl(mean: Tensor, log_sd: Tensor) -> Tensor:
    """KL(N(mean, sd²) ‖ N(0, 1)) in nats, summed over the last axis. Kingma & Welling 2014, appendix B."""
    return (0.5 * ((2 * log_sd).exp() + mean.square() - 1) - log_sd).sum(-1)


def log_importance_ratio(noise: Tensor, z: Tensor, log_sd: Tensor) -> Tensor:
    """log p(z) − log q(z | x) in nats, z = mean + exp(log_sd) · noise, p = N(0, 1): summed over the last axis."""
    return (0.5 * (noise.square() - z.square()) + log_sd).sum(-1)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """log (1/k) Σ_k exp(log_weight_k) over the last axis: (…, k) -> (…).

    Of log p(x, z) − log q(z | x) this is the importance-weighted bound on log p(x): Burda, Grosse & Salakhutdinov 2016,
    eq. 8.
    """
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])
