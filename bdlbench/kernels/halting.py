"""How many layers a network uses: a categorical z in 1 … L built from halting probabilities along the network.

    q(z = l) = h_l Π_{j<l} (1 − h_j),   h_l = σ(halting_l),   and z = L takes the rest.

Figurnov, Sobolev & Vetrov 2017 (probabilistic adaptive computation time). Depth is the last axis. Arrays with one
entry for each decision have L − 1 entries: no decision follows the last layer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bdlbench.core.layout import PerRow


def log_stopping(halting: Tensor) -> Tensor:
    """Return log q(z) from halting logits. It is finite, and its exponential sums to one.

    Args:
        halting: Halting logits (…, L − 1).

    Returns:
        Nats, (…, L).
    """
    zero = halting.new_zeros(*halting.shape[:-1], 1)
    going_on = logsigmoid(-halting).cumsum(-1)  # log P(z > l), l = 1 … L − 1
    return torch.cat([logsigmoid(halting), zero], -1) + torch.cat([zero, going_on], -1)


def margin(logits: Tensor, axis: int = -1) -> Tensor:
    """Return by how much the first class is more probable than the second, log p₁ − log p₂ ≥ 0.

    Args:
        logits: Logits or log-probabilities of the classes.
        axis: The axis of the classes.

    Returns:
        Nats, in the shape of `logits` without `axis`.
    """
    first, second = logits.topk(2, axis).values.unbind(axis)
    return first - second


def log_left(log_q: Tensor) -> Tensor:
    """Return log P(z > l) for l = 1 … L − 1.

    Args:
        log_q: log q(z) in nats, (…, L).

    Returns:
        Nats, (…, L − 1).
    """
    return log_q.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]


def halting_logits(log_q: Tensor) -> Tensor:
    """Invert `log_stopping`: logit h_l = log q(z = l) − log P(z > l).

    Args:
        log_q: log q(z) in nats, (…, L).

    Returns:
        Halting logits (…, L − 1).
    """
    return log_q[..., :-1] - log_left(log_q)


def mixed(log_q: Tensor, log_p: Tensor, weight: Tensor) -> Tensor:
    """Return log[(1 − weight) q + weight p].

    Args:
        log_q: log q in nats, (…, L).
        log_p: log p in nats, (…, L).
        weight: The share of p, between 0 and 1; broadcasts to both.

    Returns:
        Nats, (…, L).
    """
    return torch.logaddexp(torch.log1p(-weight) + log_q, weight.log() + log_p)


def log_geometric(strength: PerRow, depth: int, like: Tensor) -> Tensor:
    """Return the truncated geometric distribution log p(z), p(z = l) ∝ exp(−strength · l).

    Args:
        strength: Nats that each further layer costs, a number or (R,). 0 is uniform; the rate of the geometric
            distribution is 1 − exp(−strength).
        depth: L.
        like: A tensor whose device and dtype the result takes.

    Returns:
        Nats, (L,), or (R, L) for a strength (R,).
    """
    layers = torch.arange(depth, dtype=like.dtype, device=like.device)
    rate = torch.as_tensor(strength, dtype=like.dtype, device=like.device)
    return (-rate.unsqueeze(-1) * layers).log_softmax(-1)


def categorical_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Return KL(q ‖ p) = Σ_z q(z) (log q(z) − log p(z)).

    Args:
        log_q: log q in nats, (…, L).
        log_p: log p in nats; broadcasts to `log_q`.

    Returns:
        Nats, (…).
    """
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def mode(log_q: Tensor) -> Tensor:
    """Return the most probable z − 1; of equally probable ones the first.

    Args:
        log_q: log q(z), (…, L).

    Returns:
        Depths from 0 to L − 1, (…) int64.
    """
    return log_q.argmax(-1)


def mode_known(log_q: Tensor) -> Tensor:
    """Return the first z − 1 at which the mode is known.

    No later layer can win once the remaining probability is at most the largest so far: P(z > l) ≤ max_{j ≤ l} q(z =
    j).

    Args:
        log_q: log q(z) in nats, (…, L).

    Returns:
        Depths from 0 to L − 1, (…) int64.
    """
    known = log_left(log_q) <= log_q.cummax(-1).values[..., :-1]
    always = torch.ones_like(known[..., :1]) if known.shape[-1] else torch.ones_like(log_q, dtype=torch.bool)
    return torch.cat([known, always], -1).int().argmax(-1)


def logistic(normal: Tensor) -> Tensor:
    """Turn standard normal numbers n into standard logistic ones, logit Φ(n); exact in both tails.

    Args:
        normal: Standard normal numbers.

    Returns:
        Standard logistic numbers, in the shape of `normal`.
    """
    logit: Tensor = torch.special.log_ndtr(normal) - torch.special.log_ndtr(-normal)
    return logit


def sampled(halting: Tensor, noise: Tensor) -> Tensor:
    """Draw z − 1 by Bernoulli decisions along the network: the first decision that says stop.

    Args:
        halting: Halting logits (…, L − 1).
        noise: Standard logistic numbers (…, L − 1); halting + noise > 0 has probability σ(halting).

    Returns:
        Depths from 0 to L − 1, (…) int64.
    """
    stop = halting + noise > 0
    return torch.cat([stop, torch.ones_like(halting[..., :1], dtype=torch.bool)], -1).int().argmax(-1)


def relaxed(halting: Tensor, noise: Tensor, temperature: PerRow) -> Tensor:
    """Draw a relaxed one-hot z, with each halting decision a binary Concrete variable.

    ξ_l = σ((halting_l + noise_l) / temperature) takes the place of h_l; as temperature → 0 the result becomes the
    one-hot vector of `sampled`. Maddison et al. 2017, eq. 15.

    Args:
        halting: Halting logits (…, L − 1).
        noise: Standard logistic numbers (…, L − 1).
        temperature: A positive number, or a tensor that broadcasts to `halting`.

    Returns:
        Weights that sum to one, (…, L).
    """
    return log_stopping((halting + noise) / temperature).exp()
