"""Linear maps over the replicate axis. The bits of one row do not depend on how many rows there are.

The sizes of ONE row decide which path is taken. Small matrices go through one batched product; a single row is padded
to two, since a batch of one uses another routine. Large matrices go through a loop of plain products. The bits of a
product on a CPU also depend on where its matrices lie in memory, so each matrix starts on a boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bdlbench.core.layout import Gradients
from bdlbench.core.torch_private import apply, transforms_active

SMALL = 1 << 18
"""Multiply-adds of one row up to which products are batched on a CPU.

At this size a loop of plain products takes 0.6 times as long as the batched one for a single row and 1.5 times for
twenty rows; at four times this size 0.5 and 1.15 times.
"""

BOUNDARY = 16
"""Bytes. MKL rounds differently where a factor or the result does not start at a multiple of this address."""


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices along the leading axes; differentiable once.

    The result and the gradient of each row have the same bits alone as among others.

    Args:
        a: (*lead, n, k).
        b: (*lead, k, m); the leading axes broadcast.

    Returns:
        (*lead, n, m).
    """
    if not needs_gradient(a, b):
        return plain_product(a, b)
    result: Tensor
    if a.ndim == b.ndim == 3 and a.shape[0] == b.shape[0]:
        result = apply(_Product, a, b)
        return result
    lead = broadcast(a.shape[:-2], b.shape[:-2])
    result = apply(_Product, _stacked(a, lead), _stacked(b, lead))
    return result.view(*lead, *result.shape[1:])


def needs_gradient(a: Tensor, b: Tensor) -> bool:
    """Tell whether the product of `a` and `b` has to be differentiable: not inside the backward of a first derivative.

    Args:
        a: A tensor.
        b: A tensor.

    Returns:
        True where gradients are recorded and either tensor asks for one.
    """
    return torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)


def plain_product(a: Tensor, b: Tensor) -> Tensor:
    """Compute `product` without a gradient.

    Args:
        a: (*lead, n, k).
        b: (*lead, k, m); the leading axes broadcast.

    Returns:
        (*lead, n, m).
    """
    if a.ndim == b.ndim == 3 and a.shape[0] == b.shape[0]:
        return _rows_product(a, b)
    lead = broadcast(a.shape[:-2], b.shape[:-2])
    large = a.shape[-2] * a.shape[-1] * b.shape[-1] > SMALL
    if a.device.type == "cpu" and large:
        return _one_by_one(_aligned(a), _aligned(b), lead)  # does not copy the broadcast factor
    result = _rows_product(_stacked(a, lead), _stacked(b, lead))
    return result.view(*lead, *result.shape[1:])


def broadcast(a: torch.Size, b: torch.Size) -> torch.Size:
    """Return `torch.broadcast_shapes(a, b)`, calling it only where neither shape ends with the other.

    That function takes longer than a small product.

    Args:
        a: A shape.
        b: A shape.

    Returns:
        The broadcast shape.
    """
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    return longer if longer[len(longer) - len(shorter) :] == shorter else torch.broadcast_shapes(a, b)


def _rows_product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply a (R, n, k) by b (R, k, m): (R, n, m)."""
    if a.device.type != "cpu":
        return torch.bmm(a, b)
    (n, k), m = a.shape[1:], b.shape[-1]
    a, b = _aligned(a), _aligned(b)
    if n * k * m > SMALL:
        return _one_by_one(a, b, a.shape[:1])
    unit = BOUNDARY // a.element_size()
    if n * m % unit and n % unit:  # align each row's result too; by size, so that a single row does the same
        return _batched(_longer(a, -n % unit), b)[:, :n]
    return _batched(a, b)


def _batched(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b) if a.shape[0] > 1 else torch.bmm(a.expand(2, -1, -1), b.expand(2, -1, -1))[:1]


def _one_by_one(a: Tensor, b: Tensor, lead: torch.Size) -> Tensor:
    """Return a plain product for each row, written in place if its place is on a boundary.

    A single row is not copied.
    """
    if a.ndim == b.ndim == 3 and lead.numel() == 1:
        return torch.mm(a[0], b[0]).unsqueeze(0)
    shape = (*lead, a.shape[-2], b.shape[-1])
    pairs = list(zip(_matrices(a.expand(*lead, *a.shape[-2:])), _matrices(b.expand(*lead, *b.shape[-2:])), strict=True))
    off = shape[-2] * shape[-1] % (BOUNDARY // a.element_size())
    if off or transforms_active():
        return torch.stack([torch.mm(*pair) for pair in pairs]).view(shape)
    out = a.new_empty(shape)
    for pair, into in zip(pairs, _matrices(out), strict=True):
        torch.mm(*pair, out=into)
    return out


def _matrices(t: Tensor) -> list[Tensor]:
    """List the matrices of (*lead, n, k), in order."""
    return [t] if t.ndim == 2 else [matrix for part in t.unbind() for matrix in _matrices(part)]


def _stacked(t: Tensor, lead: torch.Size) -> Tensor:
    """Reshape (…, n, k) to (prod(lead), n, k), copying only where needed.

    A transposed matrix stays transposed in memory: its layout decides the bits of a product.
    """
    if t.stride(-2) < t.stride(-1):
        return _stacked(t.mT, lead).mT
    return t.expand(*lead, *t.shape[-2:]).reshape(-1, *t.shape[-2:])


def _aligned(t: Tensor) -> Tensor:
    """Return t (…, n, k) with each matrix dense and on a boundary of memory; other matrices are copied, sizes stay."""
    if t.ndim == 3 and t.is_contiguous() and t.stride(0) % BOUNDARY == 0 == t.storage_offset() % BOUNDARY:
        return t  # the usual case first, by a stricter test than is needed
    unit, (rows, columns), (*lead, down, across) = BOUNDARY // t.element_size(), t.shape[-2:], t.stride()
    dense = (across == 1 and down == columns) or (down == 1 and across == rows)
    off = [stride for stride, size in zip(lead, t.shape, strict=False) if size > 1 and stride % unit]
    if dense and not off and t.storage_offset() % unit == 0:
        return t
    if down < across:
        return _aligned(t.mT).mT
    return _longer(t, -rows % unit)[..., :rows, :]


def _longer(t: Tensor, more: int) -> Tensor:
    """Copy t (…, n, k) with rows of zeros appended: (…, n + more, k). A transposed matrix stays so in memory."""
    if t.stride(-2) < t.stride(-1):
        return functional.pad(t.mT, (0, more)).mT
    return functional.pad(t, (0, 0, 0, more)) if more else t.clone(memory_format=torch.contiguous_format)


class _Product(torch.autograd.Function):
    """`_rows_product` with a gradient that takes the same paths: grad_a = g bᵀ, grad_b = aᵀ g."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return _rows_product(a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        grad_a = product(grad, b.mT) if ctx.needs_input_grad[0] else None
        grad_b = product(a.mT, grad) if ctx.needs_input_grad[1] else None
        return grad_a, grad_b


@dataclass(frozen=True)
class Dense:
    """The dense map y = x Wᵀ + b over the replicate axis.

    Attributes:
        trailing: How many axes of the output follow R: (B, O).
    """

    trailing: int = 2

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply the map.

        Args:
            x: Inputs (*lead, B, I).
            weight: W, (*lead, O, I); the leading axes broadcast.
            bias: b, (*lead, O), or None.

        Returns:
            (*lead, B, O).
        """
        if x.ndim == weight.ndim == 3 and x.shape[0] == weight.shape[0] and needs_gradient(x, weight):
            result: Tensor = apply(_Dense, x, weight, bias)
            return result
        out = product(x, weight.mT)
        if bias is None:
            return out
        derived = needs_gradient(out, bias) or transforms_active()
        fits = out.shape[:-2] == bias.shape[:-1] and not derived
        return out.add_(bias.unsqueeze(-2)) if fits else out + bias.unsqueeze(-2)

    def output_shape(self, x: Tensor, weight: Tensor) -> tuple[int, ...]:
        """Return (B, O), the axes of the output that follow the leading ones.

        Args:
            x: Inputs (*lead, B, I).
            weight: W, (*lead, O, I).

        Returns:
            The two sizes.
        """
        return x.shape[-2], weight.shape[-2]

    def gradients(self, grad: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool) -> Gradients:
        """Return the gradients of the input and of the weight.

        Args:
            grad: The gradient of the result (R, B, O).
            x: Inputs (R, B, I).
            weight: W, (R, O, I).
            of_x: Whether the gradient of `x` is wanted.
            of_weight: Whether the gradient of `weight` is wanted.

        Returns:
            Both gradients, in the shapes of `x` and `weight`; None where not wanted.
        """
        return product(grad, weight) if of_x else None, product(grad.mT, x) if of_weight else None

    def unit_sums(self, grad: Tensor) -> Tensor:
        """Sum over all axes but the leading ones and the unit.

        Args:
            grad: (*lead, B, O).

        Returns:
            (*lead, O).
        """
        return grad.sum(-2)


class _Dense(torch.autograd.Function):
    """x Wᵀ + b, with a gradient of W that lies in memory as W does."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = _rows_product(x, weight.mT)
        if bias is None:
            return out
        bias = bias.unsqueeze(-2)  # it may have an axis that vmap added while the others have none
        return out + bias if transforms_active() else out.add_(bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (of_x, of_weight, of_bias) = ctx.saved_tensors, ctx.needs_input_grad
        found = dense.gradients(grad, x, weight, of_x, of_weight)
        return *found, dense.unit_sums(grad) if of_bias else None


dense = Dense()
"""The dense map y = x Wᵀ + b, for `layer(name, dense, x, bias)`: x ([M,] R, B, I), W ([M,] R, O, I), b ([M,] R, O)."""
