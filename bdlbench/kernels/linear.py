"""Linear maps over the replicate axis, whose bits for one row do not depend on how many rows there are.

Which path is taken depends on the sizes of ONE row: small matrices go through one batched product (a lone row padded
to two, since a batch of one takes another routine), large ones through a loop of plain products. The bits of a product
on a CPU also depend on where its matrices lie in memory, so each starts on a boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bdlbench.core.layout import Gradients

SMALL = 1 << 18
"""Multiply-adds of one row up to which products are batched, on a CPU. At this size a loop of plain ones takes 0.6
times as long for a lone row and 1.5 times for twenty, at four times this size 0.5 and 1.15 times."""

BOUNDARY = 16
"""Bytes. MKL rounds differently where a factor or the result starts off a multiple of this; more changes nothing."""


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix products along the leading axes: a (*lead, n, k), b (*lead, k, m), broadcast -> (*lead, n, m).

    Differentiable, backward only; each row's result and gradient carry the same bits alone and among others.
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
    """Whether what is made of them has to be differentiable: not in the backward of a first derivative."""
    return torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)


def plain_product(a: Tensor, b: Tensor) -> Tensor:
    """`product` without a gradient."""
    if a.ndim == b.ndim == 3 and a.shape[0] == b.shape[0]:
        return _rows_product(a, b)
    lead = broadcast(a.shape[:-2], b.shape[:-2])
    large = a.shape[-2] * a.shape[-1] * b.shape[-1] > SMALL
    if a.device.type == "cpu" and large:
        return _one_by_one(_aligned(a), _aligned(b), lead)  # without a copy of what is broadcast
    result = _rows_product(_stacked(a, lead), _stacked(b, lead))
    return result.view(*lead, *result.shape[1:])


def apply(function: type[torch.autograd.Function], *args: Any) -> Any:
    """`function.apply(*args)`, without the binding of arguments that only torch.func needs: half the cost of a call."""
    if torch._C._are_functorch_transforms_active():
        return function.apply(*args)
    return super(torch.autograd.Function, function).apply(*args)  # type: ignore[misc]


def broadcast(a: torch.Size, b: torch.Size) -> torch.Size:
    """`torch.broadcast_shapes`, which takes longer than a small product, asked only where neither ends on the other."""
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    return longer if longer[len(longer) - len(shorter) :] == shorter else torch.broadcast_shapes(a, b)


def _rows_product(a: Tensor, b: Tensor) -> Tensor:
    """a (R, n, k), b (R, k, m) -> (R, n, m)."""
    if a.device.type != "cpu":
        return torch.bmm(a, b)
    (n, k), m = a.shape[1:], b.shape[-1]
    a, b = _aligned(a), _aligned(b)
    if n * k * m > SMALL:
        return _one_by_one(a, b, a.shape[:1])
    unit = BOUNDARY // a.element_size()
    if n * m % unit and n % unit:  # each row's result is to be aligned too; by sizes, since a lone row must do the same
        return _batched(_longer(a, -n % unit), b)[:, :n]
    return _batched(a, b)


def _batched(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b) if a.shape[0] > 1 else torch.bmm(a.expand(2, -1, -1), b.expand(2, -1, -1))[:1]


def _one_by_one(a: Tensor, b: Tensor, lead: torch.Size) -> Tensor:
    """A plain product for each row, written where it belongs if that is on a boundary; a lone one is not copied."""
    if a.ndim == b.ndim == 3 and lead.numel() == 1:
        return torch.mm(a[0], b[0]).unsqueeze(0)
    shape = (*lead, a.shape[-2], b.shape[-1])
    pairs = list(zip(_matrices(a.expand(*lead, *a.shape[-2:])), _matrices(b.expand(*lead, *b.shape[-2:])), strict=True))
    off = shape[-2] * shape[-1] % (BOUNDARY // a.element_size())
    if off or torch._C._are_functorch_transforms_active():
        return torch.stack([torch.mm(*pair) for pair in pairs]).view(shape)
    out = a.new_empty(shape)
    for pair, into in zip(pairs, _matrices(out), strict=True):
        torch.mm(*pair, out=into)
    return out


def _matrices(t: Tensor) -> list[Tensor]:
    """(*lead, n, k) as matrices, in order."""
    return [t] if t.ndim == 2 else [matrix for part in t.unbind() for matrix in _matrices(part)]


def _stacked(t: Tensor, lead: torch.Size) -> Tensor:
    """(…, n, k) as (prod(lead), n, k), copied only where it must be; what lies transposed stays so, for its bits."""
    if t.stride(-2) < t.stride(-1):
        return _stacked(t.mT, lead).mT
    return t.expand(*lead, *t.shape[-2:]).reshape(-1, *t.shape[-2:])


def _aligned(t: Tensor) -> Tensor:
    """t (…, n, k) with each matrix dense and on a boundary of memory, copied where it is not; sizes stay."""
    if t.ndim == 3 and t.is_contiguous() and t.stride(0) % BOUNDARY == 0 == t.storage_offset() % BOUNDARY:
        return t  # the usual case, asked first, and of more numbers than it takes
    unit, (rows, columns), (*lead, down, across) = BOUNDARY // t.element_size(), t.shape[-2:], t.stride()
    dense = (across == 1 and down == columns) or (down == 1 and across == rows)
    off = [stride for stride, size in zip(lead, t.shape, strict=False) if size > 1 and stride % unit]
    if dense and not off and t.storage_offset() % unit == 0:
        return t
    if down < across:
        return _aligned(t.mT).mT
    return _longer(t, -rows % unit)[..., :rows, :]


def _longer(t: Tensor, more: int) -> Tensor:
    """A copy of t (…, n, k) with rows of zeros behind it: (…, n + more, k); what lies transposed stays so."""
    if t.stride(-2) < t.stride(-1):
        return functional.pad(t.mT, (0, more)).mT
    return functional.pad(t, (0, 0, 0, more)) if more else t.clone(memory_format=torch.contiguous_format)


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
    """y = x Wᵀ + b. x (*lead, B, I), W (*lead, O, I), b (*lead, O) -> (*lead, B, O), lead broadcast."""

    trailing: int = 2

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply the map."""
        if x.ndim == weight.ndim == 3 and x.shape[0] == weight.shape[0] and needs_gradient(x, weight):
            result: Tensor = apply(_Dense, x, weight, bias)
            return result
        out = product(x, weight.mT)
        if bias is None:
            return out
        derived = needs_gradient(out, bias) or torch._C._are_functorch_transforms_active()
        fits = out.shape[:-2] == bias.shape[:-1] and not derived
        return out.add_(bias.unsqueeze(-2)) if fits else out + bias.unsqueeze(-2)

    def output_shape(self, x: Tensor, weight: Tensor) -> tuple[int, ...]:
        """(B, O)."""
        return x.shape[-2], weight.shape[-2]

    def gradients(self, grad: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool) -> Gradients:
        """Of x and of the weight, in their shapes, from that of the result, where all have the same lead (R,)."""
        return product(grad, weight) if of_x else None, product(grad.mT, x) if of_weight else None

    def unit_sums(self, grad: Tensor) -> Tensor:
        """(*lead, B, O) -> (*lead, O)."""
        return grad.sum(-2)


class _Dense(torch.autograd.Function):
    """x Wᵀ + b, whose gradient of W lies in memory as W does."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = _rows_product(x, weight.mT)
        if bias is None:
            return out
        bias = bias.unsqueeze(-2)  # alone it may have an axis of vmap's
        return out + bias if torch._C._are_functorch_transforms_active() else out.add_(bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (of_x, of_weight, of_bias) = ctx.saved_tensors, ctx.needs_input_grad
        found = dense.gradients(grad, x, weight, of_x, of_weight)
        return *found, dense.unit_sums(grad) if of_bias else None


dense = Dense()
