"""Linear maps over the replicate axis, whose bits for one row do not depend on how many rows there are.

Which path is taken depends on the sizes of ONE row: small matrices go through one batched product (a lone row padded
to two, since a batch of one takes another routine), large ones through a loop of plain products. The bits of a product
on a CPU also depend on where its matrices lie in memory, so each is padded to end on a boundary.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

SMALL = 1 << 20
"""Multiply-adds of one row up to which one batched product is faster than a loop of plain ones, on a CPU."""

Gradients = tuple[Tensor | None, Tensor | None]
"""Of the input and of the weight, where they are asked for."""

BOUNDARY = 16
"""Bytes. MKL rounds differently where a factor or the result starts off a multiple of this; more changes nothing."""


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix products along the leading axes: a (*lead, n, k), b (*lead, k, m), broadcast -> (*lead, n, m).

    Differentiable; each row's result and gradient carry the same bits alone and among others.
    """
    if not (a.requires_grad or b.requires_grad):
        return plain_product(a, b)
    result: Tensor
    if a.ndim == b.ndim == 3 and len(a) == len(b):
        result = apply(_Product, a, b)
        return result
    lead = broadcast(a.shape[:-2], b.shape[:-2])
    result = apply(_Product, _stacked(a, lead), _stacked(b, lead))
    return result.view(*lead, *result.shape[1:])


def plain_product(a: Tensor, b: Tensor) -> Tensor:
    """`product` without a gradient."""
    if a.ndim == b.ndim == 3 and len(a) == len(b):
        return _rows_product(a, b)
    lead = broadcast(a.shape[:-2], b.shape[:-2])
    large = a.shape[-2] * a.shape[-1] * b.shape[-1] > SMALL
    if a.device.type == "cpu" and large and _padding(a, b) == (0, 0):
        return _one_by_one(a, b, lead)  # without a copy of what is broadcast
    result = _rows_product(_stacked(a, lead), _stacked(b, lead))
    return result.view(*lead, *result.shape[1:])


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """`function.apply(*args)`, without the binding of arguments that only torch.func needs: half the cost of a call."""
    if torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]


def broadcast(a: torch.Size, b: torch.Size) -> torch.Size:
    """`torch.broadcast_shapes`, which takes longer than a small product, asked only where the shapes differ."""
    return a if a == b else torch.broadcast_shapes(a, b)


def _rows_product(a: Tensor, b: Tensor) -> Tensor:
    """a (R, n, k), b (R, k, m) -> (R, n, m)."""
    n, k, m = *a.shape[1:], b.shape[-1]
    if a.device.type != "cpu":
        return torch.bmm(a, b)
    more_rows, more_columns = _padding(a, b)
    if more_rows or more_columns:
        a, b = functional.pad(a, (0, 0, 0, more_rows)), functional.pad(b, (0, more_columns))
        return _aligned_product(a, b, n * k * m > SMALL)[:, :n, :m].contiguous()
    return _aligned_product(a, b, n * k * m > SMALL)


def _aligned_product(a: Tensor, b: Tensor, large: bool) -> Tensor:
    if large:
        return _one_by_one(a, b, a.shape[:1])
    return torch.bmm(a, b) if len(a) > 1 else torch.bmm(a.expand(2, -1, -1), b.expand(2, -1, -1))[:1]


def _one_by_one(a: Tensor, b: Tensor, lead: torch.Size) -> Tensor:
    """A plain product for each row; a lone one is not copied."""
    if len(lead) == 1 and lead[0] == 1:
        return (a[0] @ b[0]).unsqueeze(0)
    a, b = a.expand(*lead, *a.shape[-2:]), b.expand(*lead, *b.shape[-2:])
    rows = [a[i] @ b[i] for i in itertools.product(*map(range, lead))]
    return torch.stack(rows).view(*lead, *rows[0].shape)


def _stacked(t: Tensor, lead: torch.Size) -> Tensor:
    """(…, n, k) as (prod(lead), n, k), copied only where it must be; what lies transposed stays so, for its bits."""
    if t.stride(-2) < t.stride(-1):
        return _stacked(t.mT, lead).mT
    return t.expand(*lead, *t.shape[-2:]).reshape(-1, *t.shape[-2:])


def _padding(a: Tensor, b: Tensor) -> tuple[int, int]:
    """Rows for a (…, n, k) and columns for b (…, k, m) with which each row of both, and of the result, is aligned.

    By sizes alone, as if rows lay side by side: a lone row does not tell where the next would lie.
    """
    (n, k), m = a.shape[-2:], b.shape[-1]
    unit = BOUNDARY // a.element_size()
    return (-n % unit if n * k % unit or n * m % unit else 0), (-m % unit if k * m % unit else 0)


class _Product(torch.autograd.Function):
    """`_rows_product` whose gradient takes the same paths: grad_a = g bᵀ, grad_b = aᵀ g."""

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
    """y = x Wᵀ. x (*lead, B, I), W (*lead, O, I) -> (*lead, B, O), lead broadcast."""

    trailing: int = 2

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """Apply the map."""
        if not (x.requires_grad or weight.requires_grad):
            return plain_product(x, weight.mT)
        if x.ndim == weight.ndim == 3 and len(x) == len(weight):
            result: Tensor = apply(_Dense, x, weight)
            return result
        return product(x, weight.mT)

    def output_shape(self, x: Tensor, weight: Tensor) -> tuple[int, ...]:
        """(B, O)."""
        return x.shape[-2], weight.shape[-2]

    def gradients(self, grad: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool) -> Gradients:
        """Of x and of the weight, in their shapes, from that of the result, where all have the same lead (R,)."""
        return product(grad, weight) if of_x else None, product(grad.mT, x) if of_weight else None


class _Dense(torch.autograd.Function):
    """x Wᵀ, whose gradient of W lies in memory as W does."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return _rows_product(x, weight.mT)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        return dense.gradients(grad, *ctx.saved_tensors, *ctx.needs_input_grad)


dense = Dense()
