"""Linear maps over the replicate axis, whose bits for one row do not depend on how many rows there are.

Which path is taken depends on the sizes of ONE row: small matrices go through one batched product (a lone row padded
to two, since a batch of one takes another routine), large ones through a loop of plain products. The bits of a product
on a CPU also depend on where its matrices lie in memory, so each is padded to end on a boundary.
"""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

SMALL = 1 << 20
"""Multiply-adds of one row up to which one batched product is faster than a loop of plain ones, on a CPU."""

BOUNDARY = 16
"""Bytes. MKL rounds differently where a factor or the result starts off a multiple of this; more changes nothing."""


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix products along the leading axes: a (*lead, n, k), b (*lead, k, m), broadcast -> (*lead, n, m).

    Differentiable; each row's result and gradient carry the same bits alone and among others.
    """
    lead = broadcast(a.shape[:-2], b.shape[:-2])
    if a.requires_grad or b.requires_grad:
        result: Tensor = _Product.apply(_stacked(a, lead), _stacked(b, lead))  # type: ignore[no-untyped-call]
        return result.view(*lead, *result.shape[1:])
    return _product(a, b, lead)


def broadcast(a: torch.Size, b: torch.Size) -> torch.Size:
    """`torch.broadcast_shapes`, which takes longer than a small product, asked only where the shapes differ."""
    return a if a == b else torch.broadcast_shapes(a, b)


def _product(a: Tensor, b: Tensor, lead: torch.Size) -> Tensor:
    n, k, m = a.shape[-2], a.shape[-1], b.shape[-1]
    more_rows, more_columns = _padding(n, k, m, a) if a.device.type == "cpu" else (0, 0)
    if more_rows or more_columns:
        a, b = functional.pad(a, (0, 0, 0, more_rows)), functional.pad(b, (0, more_columns))
        return _product(a, b, lead)[..., :n, :m].contiguous()
    if a.device.type == "cpu" and n * k * m > SMALL:
        a, b = a.expand(*lead, n, k), b.expand(*lead, k, m)
        rows = [a[i] @ b[i] for i in itertools.product(*map(range, lead))]
        return _together(rows).view(*lead, n, m)
    flat_a, flat_b = _stacked(a, lead), _stacked(b, lead)
    if len(flat_a) == 1:
        return torch.bmm(flat_a.expand(2, n, k), flat_b.expand(2, k, m))[:1].view(*lead, n, m)
    return torch.bmm(flat_a, flat_b).view(*lead, n, m)


def _together(rows: list[Tensor]) -> Tensor:
    """Rows on one axis in front; a lone one is not copied."""
    return torch.stack(rows) if len(rows) > 1 else rows[0].unsqueeze(0)


def _stacked(t: Tensor, lead: torch.Size) -> Tensor:
    """(…, n, k) as (prod(lead), n, k), copied only where it must be; what lies transposed stays so, for its bits."""
    if t.stride(-2) < t.stride(-1):
        return _stacked(t.mT, lead).mT
    return t.expand(*lead, *t.shape[-2:]).reshape(-1, *t.shape[-2:])


def _padding(n: int, k: int, m: int, like: Tensor) -> tuple[int, int]:
    """Rows for the first factor and columns for the second with which both, and the result, end on a boundary."""
    unit = BOUNDARY // like.element_size()
    return (-n % unit if n * k % unit or n * m % unit else 0), (-m % unit if k * m % unit else 0)


class _Product(torch.autograd.Function):
    """`_product` whose gradient takes the same paths: grad_a = g bᵀ, grad_b = aᵀ g."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return _product(a, b, a.shape[:-2])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        grad_a = product(grad, b.mT) if ctx.needs_input_grad[0] else None
        grad_b = product(a.mT, grad) if ctx.needs_input_grad[1] else None
        return grad_a, grad_b


# Looked up at every call otherwise, which takes longer than a small product.
_Product.forward.__signature__ = inspect.signature(_Product.forward)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Dense:
    """y = x Wᵀ. x (*lead, B, I), W (*lead, O, I) -> (*lead, B, O), lead broadcast."""

    trailing: int = 2

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """Apply the map."""
        return product(x, weight.mT)


dense = Dense()
