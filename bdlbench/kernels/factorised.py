"""Factorised Gaussian weights: flat rows are split into leaves, and their gradient is put together in one place.

A row holds P means and then P log standard deviations (or log variances). The gradient of every leaf, the chain rule
through the exponential and the gradient of the KL meet in one tensor (R, 2P), because the time of a step outside its
matrix products is spent on reading and writing memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from bdlbench.core.layout import Layout
from bdlbench.core.torch_private import apply
from bdlbench.kernels.kl import (
    add_log_uniform_kl_gradient,
    log_alpha_of_square,
    log_uniform_kl,
    positive_square,
    row_sum,
)

LeafTensors = dict[str, Tensor]


class Divergence(Protocol):
    """A KL from a factorised Gaussian, with a known gradient."""

    def kl(self, mean: Tensor, log_sd: Tensor) -> Tensor:
        """Return the KL of each row.

        Args:
            mean: Means (R, P).
            log_sd: Logarithms of the standard deviations (R, P).

        Returns:
            Nats, (R,).
        """
        ...

    def add_kl_gradient(
        self, mean: Tensor, variance: Tensor, factor: Tensor, into_mean: Tensor, into_log_sd: Tensor
    ) -> None:
        """Add `factor` times the gradient of `kl` to `into_mean` and `into_log_sd`, in place.

        Args:
            mean: Means (R, P).
            variance: Variances (R, P).
            factor: What the gradient is multiplied by, (R, 1).
            into_mean: Receives the gradient in the means, (R, P).
            into_log_sd: Receives the gradient in the log standard deviations, (R, P).
        """
        ...


class Factorised(NamedTuple):
    """Leaves {name: (R, *S)} of means and of variances, and the KL (R,) in nats."""

    mean: LeafTensors
    variance: LeafTensors
    kl: Tensor


class Sampled(NamedTuple):
    """One sample of the leaves {name: (R, *S)}, and the KL (R,) in nats."""

    leaves: LeafTensors
    kl: Tensor


def factorised(flat: Tensor, layout: Layout, divergence: Divergence, valued: bool = True) -> Factorised:
    """Split rows into means, variances exp(2 log_sd) and the KL; differentiable once.

    Args:
        flat: Rows (R, 2P): P means, then P log standard deviations.
        layout: Where each leaf lies in a row.
        divergence: The KL.
        valued: Whether the value of the KL is read; if not, it is zero and only its gradient is right.

    Returns:
        Leaves of means and variances, and the KL (R,) in nats.
    """
    kl, *leaves = apply(_Factorised, flat, layout, divergence, valued)
    count = len(layout.leaves)
    return Factorised(
        dict(zip(layout.leaves, leaves[:count], strict=True)), dict(zip(layout.leaves, leaves[count:], strict=True)), kl
    )


def sampled(flat: Tensor, noise: Tensor, layout: Layout, divergence: Divergence, valued: bool = True) -> Sampled:
    """Draw one weight sample mean + exp(log_sd) · noise and compute the KL; differentiable once.

    Blundell et al. 2015, §3.2.

    Args:
        flat: Rows (R, 2P): P means, then P log standard deviations.
        noise: Standard normal numbers (R, P).
        layout: Where each leaf lies in a row.
        divergence: The KL.
        valued: Whether the value of the KL is read; if not, it is zero and only its gradient is right.

    Returns:
        The sampled leaves, and the KL (R,) in nats.
    """
    kl, *leaves = apply(_Sampled, flat, noise, layout, divergence, valued)
    return Sampled(dict(zip(layout.leaves, leaves, strict=True)), kl)


def sparse(
    flat: Tensor,
    layout: Layout,
    linear: Sequence[str],
    counted: Tensor,
    limit: Tensor,
    valued: bool = True,
    constant_above: bool = False,
) -> Factorised:
    """Split rows into means, variances exp(log_variance) and the log-uniform KL; differentiable once.

    A mean is zero where log α is at or above its limit; its variance stays. Molchanov et al. 2017.

    Args:
        flat: Rows (R, 2P): P means, then P log variances.
        layout: Where each leaf lies in a row.
        linear: Names of the leaves that have a variance.
        counted: 1 on the weights of these leaves, else 0, (P,).
        limit: The log α from which a weight counts as pruned, (1 or R, P).
        valued: Whether the value of the KL is read; if not, it is zero and only its gradient is right.
        constant_above: Whether the KL of a weight at or above its limit is that of α → ∞, which is zero, so that it
            has no gradient there.

    Returns:
        Leaves of means and variances, and the KL (R,) in nats.
    """
    kl, *leaves = apply(_Sparse, flat, layout, linear, counted, limit, valued, constant_above)
    count = len(layout.leaves)
    variances = dict(zip(linear, leaves[count:], strict=True))
    return Factorised(dict(zip(layout.leaves, leaves[:count], strict=True)), variances, kl)


def gather(layout: Layout, grads: Sequence[Tensor | None], into: Tensor) -> None:
    """Write the gradients of leaves into one tensor, with zeros where a leaf has none.

    Args:
        layout: Where each leaf lies in a row.
        grads: Gradients (R, *S) of the leaves of one or more layouts, one layout after another.
        into: The tensor (R, …) that receives them.
    """
    (rows, _), like, pieces = into.shape, into, []
    for grad, (size, padding) in zip(grads, layout.spans * (len(grads) // len(layout.spans)), strict=True):
        pieces.append(_zeros(rows, size, like.dtype, like.device) if grad is None else grad.reshape(rows, size))
        if padding:
            pieces.append(_zeros(rows, padding, like.dtype, like.device))
    torch.cat(pieces, -1, out=into)


@lru_cache
def _zeros(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.zeros(rows, columns, dtype=dtype, device=device)


class _Factorised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, layout: Layout, divergence: Divergence, valued: bool) -> tuple[Tensor, ...]:
        mean, log_sd = flat.chunk(2, -1)
        variance = (2 * log_sd).exp_()
        kl = divergence.kl(mean, log_sd) if valued else flat.new_zeros(len(flat))
        ctx.layout, ctx.divergence = layout, divergence
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(flat, variance)
        return kl, *layout.views(mean).values(), *layout.views(variance).values()

    @staticmethod
    def backward(ctx: Any, grad_kl: Tensor | None, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        flat, variance = ctx.saved_tensors
        out = torch.empty_like(flat)
        gather(ctx.layout, grads, out)
        into_mean, into_log_sd = out.chunk(2, -1)
        into_log_sd.mul_(variance).mul_(2)
        if grad_kl is not None:
            mean = flat[:, : variance.shape[1]]
            ctx.divergence.add_kl_gradient(mean, variance, grad_kl.unsqueeze(-1), into_mean, into_log_sd)
        return out, None, None, None


class _Sampled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, flat: Tensor, noise: Tensor, layout: Layout, divergence: Divergence, valued: bool
    ) -> tuple[Tensor, ...]:
        mean, log_sd = flat.chunk(2, -1)
        sd = log_sd.exp()
        kl = divergence.kl(mean, log_sd) if valued else flat.new_zeros(len(flat))
        ctx.layout, ctx.divergence = layout, divergence
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(flat, sd, noise)
        return kl, *layout.views(torch.addcmul(mean, sd, noise)).values()

    @staticmethod
    def backward(ctx: Any, grad_kl: Tensor | None, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        flat, sd, noise = ctx.saved_tensors
        out = torch.empty_like(flat)
        into_mean, into_log_sd = out.chunk(2, -1)
        gather(ctx.layout, grads, into_mean)
        torch.mul(into_mean, noise, out=into_log_sd).mul_(sd)
        if grad_kl is not None:
            mean = flat[:, : sd.shape[1]]
            ctx.divergence.add_kl_gradient(mean, sd.square(), grad_kl.unsqueeze(-1), into_mean, into_log_sd)
        return out, None, None, None, None


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        flat: Tensor,
        layout: Layout,
        linear: Sequence[str],
        counted: Tensor,
        limit: Tensor,
        valued: bool,
        constant_above: bool,
    ) -> tuple[Tensor, ...]:
        mean, log_variance = flat.chunk(2, -1)
        variance, square = log_variance.exp(), positive_square(mean)
        alpha = log_alpha_of_square(square, log_variance)
        kept = torch.lt(alpha, limit, out=torch.empty_like(alpha))  # ten times as fast as through a tensor of bools
        charged = counted * kept if constant_above else counted  # (R, P) or (P,)
        kl = row_sum(log_uniform_kl(alpha) * charged) if valued else flat.new_zeros(len(flat))
        ctx.layout, ctx.linear = layout, linear
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(flat, variance, square, alpha, kept, charged)
        variances = layout.views(variance)
        return kl, *layout.views(mean * kept).values(), *(variances[name] for name in linear)

    @staticmethod
    def backward(ctx: Any, grad_kl: Tensor | None, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        flat, variance, square, alpha, kept, charged = ctx.saved_tensors
        out, means = torch.empty_like(flat), len(ctx.layout.leaves)
        of_variance = dict(zip(ctx.linear, grads[means:], strict=True))
        gather(ctx.layout, [*grads[:means], *map(of_variance.get, ctx.layout.leaves)], out)
        into_mean, into_log_variance = out.chunk(2, -1)
        into_mean.mul_(kept)
        into_log_variance.mul_(variance)
        if grad_kl is not None:
            weight = charged * grad_kl.unsqueeze(-1)
            mean = flat[:, : variance.shape[1]]
            add_log_uniform_kl_gradient(mean, square, variance, alpha, weight, (into_mean, into_log_variance))
        return out, None, None, None, None, None, None
