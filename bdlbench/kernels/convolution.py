"""Convolutions and group normalisation over the replicate axis.

On a CPU every function here stores images as (…, B, H, W, C) in memory and views them as (…, B, C, H, W): oneDNN's
convolutions are two to three times faster on that layout, and elementwise operations keep it.
`scripts/convolutions.py` measures this.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from bdlbench.core.layout import Gradients
from bdlbench.core.torch_private import apply
from bdlbench.kernels.linear import broadcast

Way = Literal["channels last", "as they lie"]

WAYS: dict[str, Way] = {"cpu": "channels last"}
"""How a loop over rows lays out its images, by device. CUDA is not measured yet: cuDNN gets images as they lie."""

CHUNK = 1 << 19
"""How many numbers a normalisation handles at once: what one pass writes is still in the cache for the next pass."""


class Geometry(NamedTuple):
    """Stride, padding and dilation along each axis of an image, and the groups of its channels."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


@dataclass(frozen=True)
class Convolution:
    """A cross-correlation along one to three axes, as torch's Conv1d, Conv2d and Conv3d have it.

    It loops over rows: on CPUs grouped convolution and im2col are slower, and a loop gives a row the same bits alone as
    among others.

    Attributes:
        geometry: Strides, paddings by zeros, dilations, and groups.
    """

    geometry: Geometry

    @property
    def trailing(self) -> int:
        """How many axes of the output follow R: (B, C, *sides)."""
        return 2 + len(self.geometry.stride)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply the map. Differentiable once, also under `torch.func`.

        Args:
            x: Signals (*lead, B, C, *sides).
            weight: Kernels (*lead, O, C / groups, *k); the leading axes broadcast with those of `x`.
            bias: Offsets (*lead, O), or None.

        Returns:
            (*lead, B, O, *sides′).
        """
        axes = self.trailing
        lead = broadcast(x.shape[:-axes], weight.shape[:-axes])
        x, weight = x.expand(*lead, *x.shape[-axes:]), weight.expand(*lead, *weight.shape[-axes:])
        if lead.numel() == 1:  # a view made outside the function may be changed in place, as `ReLU(inplace=True)` does
            alone: Tensor = apply(_Convolution, x.view(x.shape[-axes:]), weight.view(weight.shape[-axes:]), self)
            result = alone[(None,) * len(lead)]
        else:
            result = apply(_Convolution, x, weight, self)
        return result if bias is None else result + bias[(..., None, slice(None), *(None,) * (axes - 2))]

    def output_shape(self, x: Tensor, weight: Tensor) -> tuple[int, ...]:
        """Return (B, O, *sides′), the axes of the output that follow the leading ones.

        Args:
            x: Signals (*lead, B, C, *sides).
            weight: Kernels (*lead, O, C / groups, *k).

        Returns:
            The sizes.
        """
        axes, places = self.trailing, len(self.geometry.stride)
        along = zip(x.shape[-places:], weight.shape[-places:], *self.geometry[:3], strict=True)
        sides = [(side + 2 * pad - gap * (kernel - 1) - 1) // step + 1 for side, kernel, step, pad, gap in along]
        return x.shape[-axes], weight.shape[-axes], *sides

    def gradients(self, grad: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool) -> Gradients:
        """Return the gradients of the input and of the weight.

        Args:
            grad: The gradient of the result (*lead, B, O, *sides′).
            x: Signals (*lead, B, C, *sides).
            weight: Kernels (*lead, O, C / groups, *k), with the same leading axes.
            of_x: Whether the gradient of `x` is wanted.
            of_weight: Whether the gradient of `weight` is wanted.

        Returns:
            Both gradients, in the shapes of `x` and `weight`; None where not wanted.
        """
        wanted = of_x, of_weight
        found = apply(_ConvolutionGradient, grad, x, weight, self, *wanted)
        grad_x, grad_weight = (g if want else None for g, want in zip(found, wanted, strict=True))
        return grad_x, grad_weight

    def unit_sums(self, grad: Tensor) -> Tensor:
        """Sum over all axes but the leading ones and the channel.

        Args:
            grad: (*lead, B, O, *sides).

        Returns:
            (*lead, O).
        """
        return grad.sum((-self.trailing, *range(2 - self.trailing, 0)))


def Conv2d(stride: int = 1, padding: int = 0) -> Convolution:
    """Return a cross-correlation of images with square kernels over the replicate axis, for a layer rule.

    It is `op` in `layer(name, op, x, bias)`, and has the name of torch's layer.

    Args:
        stride: Step between outputs, in pixels.
        padding: Zeros added to each side, in pixels.

    Returns:
        The map.
    """
    return Convolution(Geometry((stride,) * 2, (padding,) * 2, (1, 1), 1))


def image_last(t: Tensor) -> Tensor:
    """Lay images out in memory as (…, H, W, C) where that is fast for the device; copy only where needed.

    Args:
        t: Images (…, C, H, W).

    Returns:
        The same values (…, C, H, W); `t` itself on a device without that layout.
    """
    if WAYS.get(t.device.type) != "channels last":
        return t
    *lead, c, h, w = t.shape
    dense = t.movedim(-3, -1).contiguous().view(*lead, h * w, c)
    seen: Tensor = dense.mT.unflatten(-1, (h, w))
    return seen


def select_images(t: Tensor, index: Tensor) -> Tensor:
    """Select images along their second axis, keeping their layout in memory.

    Args:
        t: Images (R, B, C, H, W).
        index: Which images, (N,) int64.

    Returns:
        (R, N, C, H, W).
    """
    if WAYS.get(t.device.type) != "channels last":
        return t.index_select(1, index)
    return t.movedim(-3, -1).index_select(1, index).movedim(-1, -3)


def _rows(lead: torch.Size) -> Iterator[tuple[int, ...]]:
    """Yield the indices of the leading axes, in order."""
    return itertools.product(*map(range, lead))


def _row(t: Tensor, i: tuple[int, ...]) -> Tensor:
    """Return row i (N, C, H, W).

    Its strides tell the layout of the channels even where an axis has one element, because oneDNN reads them.
    """
    row = t[i] if i else t
    if WAYS.get(t.device.type) != "channels last" or row.ndim != 4:
        return row
    row = row.contiguous(memory_format=torch.channels_last)
    _, c, h, w = row.shape
    return row.as_strided(row.shape, (h * w * c, 1, w * c, c))


def _empty(like: Tensor, shape: torch.Size, axes: int = 4) -> Tensor:
    """Allocate signals (*lead, N, C, *sides) of so many `axes` behind the leading ones, in the layout of the device."""
    if WAYS.get(like.device.type) != "channels last" or axes != 4:
        return like.new_empty(shape)
    *lead, c, h, w = shape
    return like.new_empty(*lead, h, w, c).movedim(-1, -3)


def _gathered(rows: Iterator[Tensor], lead: torch.Size) -> Tensor:
    """Stack rows (N, C, *sides) in order into (*lead, N, C, *sides); a single row is not copied."""
    first = next(rows)
    if lead.numel() == 1:
        return first[(None,) * len(lead)] if lead else first
    out = _empty(first, lead + first.shape, first.ndim)
    for i, row in zip(_rows(lead), itertools.chain([first], rows), strict=True):
        out[i].copy_(row)
    return out


def _in_front(t: Tensor, axis: int | None, size: int) -> Tensor:
    """Move the axis that `vmap` maps over to the front; expand `t` where it has no such axis."""
    return t.expand(size, *t.shape) if axis is None else t.movedim(axis, 0)


class _Convolution(torch.autograd.Function):
    """Convolves row by row, and so does its gradient: indexing would leave a zero-filled image for every row."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, op: Convolution) -> Tensor:
        lead, none = x.shape[: -op.trailing], (0,) * len(op.geometry.stride)
        stride, padding, dilation, groups = op.geometry
        rows = (
            torch.convolution(_row(x, i), _row(weight, i), None, stride, padding, dilation, False, none, groups)
            for i in _rows(lead)
        )
        return _gathered(rows, lead)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Convolution], output: Tensor) -> None:
        x, weight, ctx.op = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        return *ctx.op.gradients(grad, x, weight, *ctx.needs_input_grad[:2]), None

    @staticmethod
    def vmap(info: Any, axes: tuple[Any, ...], x: Tensor, weight: Tensor, op: Convolution) -> tuple[Tensor, int]:
        x, weight = _in_front(x, axes[0], info.batch_size), _in_front(weight, axes[1], info.batch_size)
        return apply(_Convolution, x, weight, op), 0


class _ConvolutionGradient(torch.autograd.Function):
    """Gradients of x and weight; an empty tensor for one that is not wanted."""

    @staticmethod
    def forward(grad: Tensor, x: Tensor, weight: Tensor, op: Convolution, *wanted: bool) -> tuple[Tensor, Tensor]:
        lead = x.shape[: -op.trailing]
        grad_x = _empty(x, x.shape, op.trailing) if wanted[0] and lead.numel() > 1 else x.new_empty(0)
        grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
        for i in _rows(lead):
            part_x, part_weight = _gradients(_row(grad, i), _row(x, i), _row(weight, i), op, *wanted)
            if wanted[1]:
                grad_weight[i].copy_(part_weight)
            if wanted[0] and lead.numel() == 1:
                grad_x = part_x[(None,) * len(lead)]
            elif wanted[0]:
                grad_x[i].copy_(part_x)
        return grad_x, grad_weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        raise NotImplementedError("a convolution's gradient cannot be differentiated again")

    @staticmethod
    def vmap(
        info: Any,
        axes: tuple[Any, ...],
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        op: Convolution,
        *wanted: bool,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int | None, int]]:
        tensors = (_in_front(t, axis, info.batch_size) for t, axis in zip((grad, x, weight), axes[:3], strict=True))
        out = apply(_ConvolutionGradient, *tensors, op, *wanted)
        return out, (0 if wanted[0] else None, 0)


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, op: Convolution, want_x: bool, want_weight: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and weight of one row."""
    (*sizes, groups), none = op.geometry, (0,) * len(op.geometry.stride)
    mask = [want_x, want_weight, False]
    x, weight = x.to(grad.dtype), weight.to(grad.dtype)  # under autocast they may have been kept in float32
    backward, of_weight = torch.ops.aten.convolution_backward, None
    if want_weight and _overruns(x, weight, op):
        down, across = op.geometry.stride
        seen = x[..., ::down, ::across]
        seen, one, only = seen.contiguous(memory_format=torch.channels_last), (1, 1), [False, True, False]
        of_weight = backward(grad, seen, weight, None, one, none, one, False, none, groups, only)[1]
        mask[1] = False
        if not want_x:
            return x.new_empty(0), of_weight
    parts = backward(grad, x, weight, None, *sizes, False, none, groups, mask)
    return parts[0], parts[1] if of_weight is None else of_weight


def _overruns(x: Tensor, weight: Tensor, op: Convolution) -> bool:
    """Tell whether oneDNN's gradient of the weight writes beyond its memory.

    Seen with its AVX2 code in torch 2.13: a 1×1 map with a stride, of fewer than eight channels. The pixels that such a
    map reads are those of every stride alone, on which it is a map without a stride.
    """
    geometry = op.geometry
    small = x.device.type == "cpu" and x.ndim == 4 and weight.shape[1] < 8 and weight.shape[2:].numel() == 1
    return small and max(geometry.stride) > 1 and not any(geometry.padding)


EPSILON = 1e-5
"""Added to a group's variance, as in torch."""


def group_norm(x: Tensor, gain: Tensor, offset: Tensor, groups: int, rectified: bool = False) -> Tensor:
    """Normalise each group of channels: (x − mean) / √(variance + ε) · gain + offset, then a ReLU where `rectified`.

    Mean and variance are those of one example and one group of C / groups channels, so nothing mixes rows.
    Differentiable once, also under `torch.func`. Wu & He 2018.

    Args:
        x: Images (*lead, B, C, H, W).
        gain: Factors (*lead, C).
        offset: Offsets (*lead, C); the leading axes of all three broadcast.
        groups: How many groups the channels form; divides C.
        rectified: Whether a ReLU follows.

    Returns:
        (*lead, B, C, H, W).
    """
    lead = broadcast(broadcast(x.shape[:-4], gain.shape[:-1]), offset.shape[:-1])
    x, gain, offset = (t.expand(*lead, *t.shape[-n:]) for t, n in ((x, 4), (gain, 1), (offset, 1)))
    if WAYS.get(x.device.type) != "channels last":
        normal = functional.group_norm(x.reshape(-1, *x.shape[-3:]), groups).view_as(x)
        out = normal * gain[..., None, :, None, None] + offset[..., None, :, None, None]
        return out.relu() if rectified else out
    out, *_ = apply(_GroupNorm, image_last(x), gain, offset, groups, rectified)
    result: Tensor = out
    return result


def _flat(t: Tensor) -> Tensor:
    """View images (*lead, B, C, H, W) as (N, H·W, C)."""
    return t.movedim(-3, -1).reshape(-1, t.shape[-2] * t.shape[-1], t.shape[-3])


def _per_example(t: Tensor, examples: int) -> Tensor:
    """Repeat the values of each channel (*lead, C) for every example: (N, C)."""
    return t.unsqueeze(-2).expand(*t.shape[:-1], examples, t.shape[-1]).reshape(-1, t.shape[-1])


@cache
def _averaging(channels: int, groups: int, dtype: torch.dtype) -> Tensor:
    """Return the (C, C) matrix that replaces each channel by the mean of its group.

    A small product costs less than a reduction.
    """
    with torch.inference_mode(False):
        one = torch.ones(channels // groups, channels // groups, dtype=dtype)
        averaging: Tensor = torch.block_diag(*[one / len(one)] * groups)
        return averaging


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same few examples of each tensor in turn; the size of the first tensor sets how many."""
    count = max(1, CHUNK // max(1, tensors[0][:1].numel()))
    return zip(*(t.split(count) for t in tensors), strict=True)


class _GroupNorm(torch.autograd.Function):
    """Works in passes over (N, H·W, C), which suit that memory layout, unlike torch's own kernel."""

    @staticmethod
    def forward(x: Tensor, gain: Tensor, offset: Tensor, groups: int, rectified: bool) -> tuple[Tensor, Tensor, Tensor]:
        flat, averaging = _flat(x), _averaging(x.shape[-3], groups, x.dtype)
        gains, offsets = (_per_example(t, x.shape[-4]) for t in (gain, offset))
        out, mean, rate = torch.empty_like(flat), torch.empty_like(gains), torch.empty_like(gains)
        for part, to, m, r, by, plus in _chunks(flat, out, mean, rate, gains, offsets):
            torch.matmul(part.mean(1), averaging, out=m)
            torch.sub(part, m.unsqueeze(1), out=to)
            torch.matmul((to * to).mean(1), averaging, out=r)
            r.add_(EPSILON).rsqrt_()
            torch.addcmul(plus.unsqueeze(1), to, (by * r).unsqueeze(1), out=to)
            if rectified:
                to.relu_()
        *lead, c, h, w = x.shape
        return out.view(*lead, h, w, c).movedim(-1, -3), mean, rate

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, gain, _, ctx.groups, ctx.rectified = inputs
        out, mean, rate = output
        ctx.mark_non_differentiable(mean, rate)
        ctx.save_for_backward(x, gain, out, mean, rate)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        of_inputs = apply(_GroupNormGradient, grad, *ctx.saved_tensors, ctx.groups, ctx.rectified)
        return *of_inputs, None, None

    @staticmethod
    def vmap(info: Any, axes: tuple[Any, ...], *inputs: Any) -> tuple[Any, tuple[int, int, int]]:
        tensors = (_in_front(t, axis, info.batch_size) for t, axis in zip(inputs[:3], axes[:3], strict=True))
        out, mean, rate = apply(_GroupNorm, *tensors, *inputs[3:])
        split = (info.batch_size, -1)
        return (out, mean.unflatten(0, split), rate.unflatten(0, split)), (0, 0, 0)


class _GroupNormGradient(torch.autograd.Function):
    """The gradient of `_GroupNorm` for x: r (ḡ − mean ḡ − z · mean(ḡ z)), means over the group.

    z is the normalised x, r the reciprocal standard deviation, ḡ = gain · grad.
    """

    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, gain: Tensor, out: Tensor, mean: Tensor, rate: Tensor, groups: int, rectified: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        flat, averaging = _flat(x), _averaging(x.shape[-3], groups, x.dtype)
        averaging = averaging / flat.shape[1]
        back, by = torch.empty_like(flat), _per_example(gain, x.shape[-4]) * rate
        sums, products = torch.empty_like(by), torch.empty_like(by)
        for part, given, seen, to, b, m, r, s, p in _chunks(
            flat, _flat(grad), _flat(out), back, by, mean, rate, sums, products
        ):
            up = torch.ops.aten.threshold_backward(given, seen, 0) if rectified else given
            torch.sum(up, 1, out=s)
            torch.sum(torch.mul(up, part, out=to), 1, out=p)
            p.addcmul_(m, s, value=-1).mul_(r)  # Σ grad · z
            pull = torch.matmul(p * b, averaging).mul_(r)
            push = (m * pull).sub_(torch.matmul(s * b, averaging))
            torch.addcmul(push.unsqueeze(1), part, pull.unsqueeze(1), value=-1, out=to).addcmul_(up, b.unsqueeze(1))
        *lead, c, h, w = x.shape
        of_gain, of_offset = (t.view(*gain.shape[:-1], x.shape[-4], c).sum(-2) for t in (products, sums))
        return back.view(*lead, h, w, c).movedim(-1, -3), of_gain, of_offset

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        raise NotImplementedError("a normalisation's gradient cannot be differentiated again")

    @staticmethod
    def vmap(info: Any, axes: tuple[Any, ...], *inputs: Any) -> tuple[Any, tuple[int, int, int]]:
        tensors = [_in_front(t, axis, info.batch_size) for t, axis in zip(inputs[:6], axes[:6], strict=True)]
        tensors[4:] = (t.flatten(0, 1) for t in tensors[4:])
        return apply(_GroupNormGradient, *tensors, *inputs[6:]), (0, 0, 0)
