"""The score-function estimate of a gradient of E_q f in the parameters of q, known as REINFORCE, and its baselines.

∇ E_q f = E_q [f ∇ log q] = E_q [(f − b) ∇ log q] for any b that does not depend on the sample, since E_q ∇ log q = 0
(Williams 1992, theorem 1; Ranganath, Gerrish & Blei 2014, eq. 4). f is evaluated, never differentiated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bdlbench.core.torch_private import apply
from bdlbench.kernels.linear import plain_product
from bdlbench.predictives.mixtures import ordered_sum


def leave_one_out(values: Tensor) -> Tensor:
    """Return f_k − (1 / (K − 1)) Σ_{j ≠ k} f_j: each sample has the mean of the others as its baseline.

    Kool, van Hoof & Welling 2019, eq. 8. It equals (f_k − f̄) K / (K − 1).

    Args:
        values: f of each sample, (K, …), K at least 2.

    Returns:
        The advantages, (K, …).
    """
    return (values - ordered_sum(values) / len(values)) * (len(values) / (len(values) - 1))


def score_function(flat: Tensor, noise: Tensor, values: Tensor, advantages: Tensor, counted: Tensor) -> Tensor:
    """Average f over samples of factorised Gaussian weights, with the score-function estimate as its gradient.

    The gradient of the average is (1/K) Σ_k (f_k − b_k) ∇ log q(w_k) at w_k = mean + exp(log_sd) · noise_k: in a mean
    the score is noise / sd, in a log standard deviation noise² − 1. Differentiable once, in `flat` alone.

    Args:
        flat: Rows (R, 2P): P means, then P log standard deviations.
        noise: The standard normal numbers of each sample, (K, R, P).
        values: f of each sample and example, (K, R, B).
        advantages: f − b of each sample and example, (K, R, B).
        counted: 1 on weights, 0 on padding, (P,).

    Returns:
        The mean of `values` over the samples, (R, B).
    """
    result: Tensor = apply(_ScoreFunction, flat, noise, values, advantages, counted)
    return result


class _ScoreFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, noise: Tensor, values: Tensor, advantages: Tensor, counted: Tensor) -> Tensor:
        ctx.save_for_backward(flat, noise, advantages, counted)
        return ordered_sum(values) / len(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, noise, advantages, counted = ctx.saved_tensors
        noise = noise.transpose(0, 1).contiguous()  # (R, K, P)
        factors = plain_product(advantages.transpose(0, 1).contiguous(), grad.unsqueeze(-1))  # (R, K, 1)
        factors = factors.mT / noise.shape[1]  # (R, 1, K)
        out = torch.empty_like(flat)
        into_mean, into_log_sd = out.chunk(2, -1)
        sd = flat[:, noise.shape[-1] :].exp()
        torch.mul(plain_product(factors, noise).squeeze(1) / sd, counted, out=into_mean)
        torch.mul(plain_product(factors, noise.square().sub_(1)).squeeze(1), counted, out=into_log_sd)
        return out, None, None, None, None
