"""How many layers a network uses: a categorical z in 1 … L built from halting probabilities along the network.

    q(z = l) = h_l Π_{j<l} (1 − h_j),   h_l = σ(halting_l),   and z = L takes what is left.

Figurnov, Sobolev & Vetrov 2017 (probabilistic adaptive computation time). Depth is the last axis: what belongs to a
decision has L − 1 entries, since after the last layer there is none to take.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bdlbench.core.layout import PerRow


def log_stopping(halting: Tensor) -> Tensor:
    """log q(z) in nats from halting logits: (…, L − 1) -> (…, L). Finite, and exp of it sums to one."""
    zero = halting.new_zeros(*halting.shape[:-1], 1)
    going_on = logsigmoid(-halting).cumsum(-1)  # log P(z > l), l = 1 … L − 1
    return torch.cat([logsigmoid(halting), zero], -1) + torch.cat([zero, going_on], -1)


def margin(logits: Tensor, axis: int = -1) -> Tensor:
    """How much more probable the first class is than the second, log p₁ − log p₂ ≥ 0 in nats, over `axis`."""
    first, second = logits.topk(2, axis).values.unbind(axis)
    return first - second


def log_left(log_q: Tensor) -> Tensor:
    """log P(z > l) in nats, l = 1 … L − 1: (…, L) -> (…, L − 1)."""
    return log_q.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]


def halting_logits(log_q: Tensor) -> Tensor:
    """The inverse of `log_stopping`, logit h_l = log q(z = l) − log P(z > l): (…, L) -> (…, L − 1)."""
    return log_q[..., :-1] - log_left(log_q)


def mixed(log_q: Tensor, log_p: Tensor, weight: Tensor) -> Tensor:
    """log of (1 − weight) q + weight p, (…, L) each; weight between 0 and 1, what broadcasts to them."""
    return torch.logaddexp(torch.log1p(-weight) + log_q, weight.log() + log_p)


def log_geometric(strength: PerRow, depth: int, like: Tensor) -> Tensor:
    """The truncated geometric log p(z), p(z = l) ∝ exp(−strength · l), in nats: (L,), or (R, L) of a strength (R,).

    strength: nats that each further layer costs; 0 is uniform, the geometric's own rate is 1 − exp(−strength).
    """
    layers = torch.arange(depth, dtype=like.dtype, device=like.device)
    rate = torch.as_tensor(strength, dtype=like.dtype, device=like.device)
    return (-rate.unsqueeze(-1) * layers).log_softmax(-1)


def categorical_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q ‖ p) = Σ_z q(z) (log q(z) − log p(z)) in nats: (…, L) and what broadcasts to it -> (…)."""
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def mode(log_q: Tensor) -> Tensor:
    """The most probable z − 1, of equal ones the first: (…, L) -> (…) int64, 0 … L − 1."""
    return log_q.argmax(-1)


def mode_known(log_q: Tensor) -> Tensor:
    """The first z − 1 at which the mode is known: (…, L) -> (…) int64, 0 … L − 1.

    No later layer can win once what is left is no more than the largest so far: P(z > l) ≤ max_{j ≤ l} q(z = j).
    """
    known = log_left(log_q) <= log_q.cummax(-1).values[..., :-1]
    always = torch.ones_like(known[..., :1]) if known.shape[-1] else torch.ones_like(log_q, dtype=torch.bool)
    return torch.cat([known, always], -1).int().argmax(-1)


def logistic(normal: Tensor) -> Tensor:
    """Standard logistic numbers from standard normal ones: logit Φ(n), exact in both tails."""
    logit: Tensor = torch.special.log_ndtr(normal) - torch.special.log_ndtr(-normal)
    return logit


def sampled(halting: Tensor, noise: Tensor) -> Tensor:
    """z − 1 by Bernoulli draws along the network, the first that says stop: (…, L − 1) -> (…) int64, 0 … L − 1.

    noise: standard logistic; halting + noise > 0 has probability σ(halting).
    """
    stop = halting + noise > 0
    return torch.cat([stop, torch.ones_like(halting[..., :1], dtype=torch.bool)], -1).int().argmax(-1)


def relaxed(halting: Tensor, noise: Tensor, temperature: PerRow) -> Tensor:
    """A relaxed one-hot z, (…, L − 1) -> (…, L): each halting decision as a binary Concrete variable.

    ξ_l = σ((halting_l + noise_l) / temperature) in the place of h_l; one-hot as `sampled` when temperature → 0.
    Maddison et al. 2017, eq. 15. noise: standard logistic; temperature: what broadcasts to halting.
    """
    return log_stopping((halting + noise) / temperature).exp()
