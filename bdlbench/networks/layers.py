"""Layer rules: how each linear map of a model acts under one inference method.

Each rule is a `Layer`. Its `noise` streams have lead (R,) in training and (M, R) when posterior samples are drawn, so
the same rule serves both. A map that needs no noise stays free of the M axis and is computed once for all samples. One
sample of the weights, or one mask for a whole batch, is drawn once and kept, however often a model uses its leaf: a
rule is one draw of a network, and no frozen value.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from bdlbench.core.layout import LinearOp, PerRow, per_row
from bdlbench.core.streams import Streams
from bdlbench.core.torch_private import version
from bdlbench.kernels import sampling
from bdlbench.kernels.sampling import Factors
from bdlbench.protocols import Layer

Leaves = Mapping[str, Tensor]


class _Kept(dict[str, Tensor]):
    """What was drawn for each leaf; `rows` is what was, where rows draw one after the other."""

    rows: list[_Kept]

    def apart(self, count: int) -> list[_Kept]:
        """Return what each of `count` rows has drawn, the same at every call."""
        self.rows = getattr(self, "rows", None) or [_Kept() for _ in range(count)]
        return self.rows

    def get_or_draw(self, name: str, draw: Callable[[], Tensor]) -> Tensor:
        """Return what was drawn for the leaf; draw it at the first call."""
        if name not in self:
            self[name] = draw()
        return self[name]


Stored = TypeVar("Stored")


class Memory:
    """The results of linear maps on the input of a network before any noise, to compute them once for all samples.

    A map is identified by its operation, the memory of its tensors, and how often that was changed. All of them are
    held here, so that no other object can take their identity.
    """

    def __init__(self, source: Tensor) -> None:
        """Remember nothing yet; later, only what is made of `source`, the input, or of a view of it."""
        self._source = source
        self._made: dict[tuple[object, ...], tuple[object, Any]] = {}

    def recall(self, op: LinearOp, tensors: Sequence[Tensor | None], make: Callable[[], Stored]) -> Stored:
        """Return make(), or its result of the last time for the same operation and tensors, the input first."""
        given = [tensor for tensor in tensors if tensor is not None]
        seen = given[0].untyped_storage().data_ptr() == self._source.untyped_storage().data_ptr()
        if not seen or any(tensor.is_inference() for tensor in given):  # these do not count changes
            return make()
        operation: object = op
        try:
            hash(op)
        except TypeError:  # an unhashable operation is told by its identity
            operation = id(op)
        key = (operation, *map(_identity, tensors))
        if key not in self._made:
            self._made[key] = (op, *tensors), make()
        found: Stored = self._made[key][1]
        return found


def remembering(layer: Layer, memory: Memory) -> Layer:
    """Return the layer rule with a memory, where it can use one."""
    return replace(layer, memory=memory) if isinstance(layer, Dropout | InputNoise | LocalNoise) else layer


class NoRows(TypeError):
    """A layer rule that cannot act on one row after the other."""


def apart(layer: Layer, lead: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]) -> list[Layer]:
    """Return the layer rule of each row alone: for networks that cannot be computed together.

    What a row draws is its own: it depends on no other row, and goes on where it was at the next call.

    Args:
        layer: The rule of all rows.
        lead: How many rows they are: (R,), or (M, R).
        shapes: The shape S of each leaf in one row.

    Returns:
        Rules with lead (1,), whose leaves are (1, *S), the rows of the first sample first.

    Raises:
        NoRows: The rule is no dataclass, so that what it has for each row is not known.
    """
    if not dataclasses.is_dataclass(type(layer)):
        raise NoRows(f"{type(layer).__name__} is no dataclass, so it cannot act on one row after the other")
    count, rows = math.prod(lead), lead[-1]

    def parts(name: str, value: Any) -> Sequence[Any]:
        """Return what each row has of what belongs to a leaf: a value ([M,] R, *S), or a number ([R, …])."""
        if not isinstance(value, Tensor) or not value.ndim:
            return [value] * count
        several = value.ndim - len(shapes[name]) == 2 and value.shape[1] == rows
        found: tuple[Tensor, ...] = (value.flatten(0, 1) if several else value.expand(rows, *value.shape[1:])).split(1)
        return found * (count // len(found))

    def of_field(value: Any) -> Sequence[Any]:
        if isinstance(value, Streams):
            return value.apart() * (count // len(value.keys))
        if isinstance(value, _Kept):
            return value.apart(count)
        if isinstance(value, Mapping):
            named = {name: parts(name, one) for name, one in value.items() if name in shapes}
            return [{name: found[row] for name, found in named.items()} for row in range(count)]
        if isinstance(value, Memory):
            return [None] * count
        return apart(value, lead, shapes) if callable(getattr(value, "leaf", None)) else [value] * count

    rule: Any = layer
    made = {field.name: of_field(getattr(rule, field.name)) for field in dataclasses.fields(rule)}
    return [replace(rule, **{name: found[row] for name, found in made.items()}) for row in range(count)]


def _recalled(
    memory: Memory | None, op: LinearOp, tensors: Sequence[Tensor | None], make: Callable[[], Stored]
) -> Stored:
    return make() if memory is None else memory.recall(op, tensors, make)


def _without_noise(
    memory: Memory | None, noise: Streams, op: LinearOp, x: Tensor, weight: Tensor, offset: Tensor | None
) -> Tensor:
    """Apply a map that needs no noise, once for all samples; the result has the axes of any other sample."""
    out = _recalled(memory, op, (x, weight, offset), lambda: op(x, weight, offset))
    return out.expand(*noise.lead, *out.shape[out.ndim - op.trailing :])


def _identity(tensor: Tensor | None) -> object:
    if tensor is None:
        return None
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), version(tensor)


def _bias(layer: Layer, name: str) -> Tensor | None:
    return layer.leaf(name) if name else None


def _shape(x: Tensor, trailing: int, joint: bool) -> tuple[int, ...]:
    """Return the shape of x after R; with `joint`, one draw serves the whole batch."""
    shape = tuple(x.shape[x.ndim - trailing :])
    return (1, *shape[1:]) if joint else shape


@dataclass(frozen=True)
class Point:
    """The rule op(x, w): every leaf is used as it is.

    Attributes:
        leaves: {name: ([M,] R, *S)}.
    """

    leaves: Leaves

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        """Apply `op` with the leaves.

        Args:
            name: The leaf that is its weight.
            op: The map.
            x: Inputs ([M,] R, B, …).
            bias: The leaf that is its bias, or "".

        Returns:
            ([M,] R, B, …).
        """
        return op(x, self.leaves[name], _bias(self, bias))

    def leaf(self, name: str) -> Tensor:
        """Return the leaf itself.

        Args:
            name: The leaf.

        Returns:
            ([M,] R, *S).
        """
        return self.leaves[name]


@dataclass(frozen=True)
class RankOne:
    """The rule op(x ∘ r, w) ∘ s + b: members share w, and each has its own r, s and b. Wen, Tran & Ba 2020, eq. 5.

    A batch has the examples of one member after those of another. Of a convolution r and s are of channels.

    Attributes:
        leaves: {name: (R, *S)}, what members share.
        inputs: r of each linear map by its weight, (R, K, inputs). A leaf without one acts as a point.
        outputs: s, (R, K, outputs).
        biases: b of the maps that have one, by their weight, (R, K, outputs).
    """

    leaves: Leaves
    inputs: Leaves
    outputs: Leaves
    biases: Leaves

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        """Apply `op` between the factors.

        Args:
            name: The leaf that is its weight.
            op: The map.
            x: Inputs ([M,] R, K·B, …), those of member 0 first.
            bias: The leaf that is its bias, or "".

        Returns:
            ([M,] R, K·B, …).
        """
        if name not in self.inputs:
            return op(x, self.leaves[name], _bias(self, bias))
        axis = -op.trailing
        members: Tensor = x.unflatten(axis, (self.inputs[name].shape[1], -1))  # ([M,] R, K, B, …)
        scaled = (members * _of_member(self.inputs[name], op)).flatten(axis - 1, axis)
        out: Tensor = op(scaled, self.leaves[name]).unflatten(axis, (members.shape[axis - 1], -1))
        out = out * _of_member(self.outputs[name], op)
        if name in self.biases:
            out = out + _of_member(self.biases[name], op)
        return out.flatten(axis - 1, axis)

    def leaf(self, name: str) -> Tensor:
        """Return the leaf itself, which members share.

        Args:
            name: The leaf.

        Returns:
            (R, *S).
        """
        return self.leaves[name]


def _of_member(values: Tensor, op: LinearOp) -> Tensor:
    """Shape what each member has for each unit, (R, K, C), to act on ([M,] R, K, B, C, …)."""
    return values.unsqueeze(2).reshape(*values.shape[:2], 1, values.shape[2], *(1,) * (op.trailing - 2))


@dataclass(eq=False)
class Dropout:
    """The rule op(x · mask / (1 − p), w), with one mask for each example. Srivastava et al. 2014.

    Attributes:
        leaves: {name: (R, *S)}.
        rates: p of each leaf whose input is dropped; a leaf without a rate acts as a point.
        noise: Streams (R,) in training, (M, R) for posterior samples.
        joint: Whether one mask serves the whole batch.
        kept: Masks that were drawn for the whole batch, by leaf.
        memory: What maps made of the input of the network before any noise.
    """

    leaves: Leaves
    rates: Mapping[str, PerRow]
    noise: Streams
    joint: bool = False
    kept: _Kept = field(default_factory=_Kept)
    memory: Memory | None = None

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        """Apply `op` to the masked input.

        Args:
            name: The leaf that is its weight.
            op: The map.
            x: Inputs ([M,] R, B, …).
            bias: The leaf that is its bias, or "".

        Returns:
            ([M,] R, B, …).
        """
        rate = self.rates.get(name, 0.0)
        if isinstance(rate, float) and rate == 0:
            return _without_noise(self.memory, self.noise, op, x, self.leaves[name], _bias(self, bias))
        mask = self.kept.get_or_draw(name, lambda: self._mask(name, op, x)) if self.joint else self._mask(name, op, x)
        share = per_row(1 - rate, x, 1 + op.trailing)
        kept = (x / share) * mask if x.ndim < mask.ndim else x * (mask / share)  # the smaller tensor is divided
        return op(kept, self.leaves[name], _bias(self, bias))

    def leaf(self, name: str) -> Tensor:
        """Return the leaf itself: biases and scales are not dropped.

        Args:
            name: The leaf.

        Returns:
            (R, *S).
        """
        return self.leaves[name]

    def _mask(self, name: str, op: LinearOp, x: Tensor) -> Tensor:
        bits = self.noise.bits(_shape(x, op.trailing, self.joint), x, name)
        return sampling.keep_mask(bits, self.rates[name], op.trailing, x)


@dataclass(eq=False)
class InputNoise:
    """The rule op(x · (1 + sd · noise), w), with noise for each example and unit. Srivastava et al. 2014, §10.

    Gaussian dropout of type A in Kingma, Salimans & Welling 2015, §3.2: all weights of an input unit share its noise.

    Attributes:
        leaves: {name: (R, *S)}.
        sds: The standard deviation of the noise at the input of each leaf, a number or (R, 1, …). A leaf without one
            acts as a point. Each leaf draws from a sequence of its own.
        noise: Streams (R,) in training, (M, R) for posterior samples.
        joint: Whether one draw of the noise serves the whole batch.
        kept: Noise that was drawn for the whole batch, by leaf.
        memory: What maps made of the input of the network before any noise.
    """

    leaves: Leaves
    sds: Mapping[str, Tensor | float]
    noise: Streams
    joint: bool = False
    kept: _Kept = field(default_factory=_Kept)
    memory: Memory | None = None

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        """Apply `op` to the noisy input."""
        weight, offset = self.leaves[name], _bias(self, bias)
        if name not in self.sds:
            return _without_noise(self.memory, self.noise, op, x, weight, offset)
        if self.joint:
            return op(x * self.kept.get_or_draw(name, lambda: self._factor(name, op, x)), weight, offset)
        return op(x * self._factor(name, op, x), weight, offset)

    def leaf(self, name: str) -> Tensor:
        """Return the leaf itself: biases and scales have no noise."""
        return self.leaves[name]

    def _factor(self, name: str, op: LinearOp, x: Tensor) -> Tensor:
        noise = self.noise.normal(_shape(x, op.trailing, self.joint), x, name)
        return 1 + noise * self.sds[name]


@dataclass(eq=False)
class DropConnect:
    """The rule op(x, w · mask), with one mask of the weights for each batch or posterior sample. Wan et al. 2013.

    The mean weight is (1 − p) w. `rates` holds p of each leaf that is masked.
    """

    leaves: Leaves
    rates: Mapping[str, PerRow]
    noise: Streams
    kept: _Kept = field(default_factory=_Kept)

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        """Apply `op` with masked weights."""
        masked = name in self.rates
        weight = self.kept.get_or_draw(name, lambda: self._masked(name)) if masked else self.leaves[name]
        return op(x, weight, _bias(self, bias))

    def leaf(self, name: str) -> Tensor:
        """Return the leaf itself: biases and scales are not dropped."""
        return self.leaves[name]

    def _masked(self, name: str) -> Tensor:
        weight = self.leaves[name]
        bits = self.noise.bits(weight.shape[1:], weight)
        return weight * sampling.keep_mask(bits, self.rates[name], weight.ndim - 1, weight)


@dataclass(eq=False)
class LocalNoise:
    """The rule op(x, mean) + sqrt(op(x², variance)) · noise: Kingma, Salimans & Welling 2015.

    A bias acts as a weight of a constant input. A leaf without a variance acts as a point.

    Attributes:
        mean: {name: (R, *S)}.
        variance: {name: (R, *S)}, of the leaves that have noise.
        noise: Streams (R,) in training, (M, R) for posterior samples.
        scale: By what the noise of a leaf is multiplied, a number or (R, 1, …). Such a leaf draws from a sequence of
            its own, so that one without noise moves no other's.
        kept: Samples that were drawn for the whole batch, by leaf.
        memory: What maps made of the input of the network before any noise.
    """

    mean: Leaves
    variance: Leaves
    noise: Streams
    scale: Mapping[str, Tensor | float] = field(default_factory=dict)
    kept: _Kept = field(default_factory=_Kept)
    memory: Memory | None = None

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        """Apply `op` and add noise to the pre-activation, with the variance of the bias included."""
        if name not in self.variance:
            return _without_noise(self.memory, self.noise, op, x, self.mean[name], _bias(self, bias))
        mean = Factors(self.mean[name], self.mean[bias] if bias else None)
        variance = Factors(self.variance[name], self.variance.get(bias))
        shape, scaled = op.output_shape(x, mean.weight), name in self.scale
        noise = self.noise.normal(shape, x, name) * self.scale[name] if scaled else self.noise.normal(shape, x)
        if x.requires_grad or mean.weight.requires_grad:
            return sampling.local_noise(op, x, mean, variance, noise)
        tensors = (x, *mean, *variance)
        moments = _recalled(self.memory, op, tensors, lambda: sampling.moments(op, x, mean, variance))
        return torch.addcmul(*moments, noise)

    def leaf(self, name: str) -> Tensor:
        """Return one sample of the leaf for the batch."""
        return _sampled_leaf(self, name)


@dataclass(eq=False)
class WeightNoise:
    """The rule op(x, mean + sd · noise), with one sample of the weights for the batch. Blundell et al. 2015."""

    mean: Leaves
    variance: Leaves
    noise: Streams
    kept: _Kept = field(default_factory=_Kept)

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        """Apply `op` with sampled weights."""
        return op(x, self.leaf(name), _bias(self, bias))

    def leaf(self, name: str) -> Tensor:
        """Return one sample of the leaf."""
        return _sampled_leaf(self, name)


@dataclass(eq=False)
class Flipout:
    """One weight sample whose sign differs between examples and units. Wen et al. 2018."""

    mean: Leaves
    variance: Leaves
    noise: Streams
    kept: _Kept = field(default_factory=_Kept)

    def __call__(self, name: str, op: LinearOp, x: Tensor, bias: str = "") -> Tensor:
        """Apply `op` to x with the mean, and to sign-flipped x with the perturbation."""
        if name not in self.variance:
            return op(x, self.mean[name], _bias(self, bias))
        mean = self.mean[name]
        perturbation = self.variance[name].sqrt() * self.noise.normal(mean.shape[1:], mean)
        out = op(x, mean, _bias(self, bias))
        return out + self._signs(out, op) * op(self._signs(x, op) * x, perturbation)

    def leaf(self, name: str) -> Tensor:
        """Return one sample of the leaf for the batch."""
        return _sampled_leaf(self, name)

    def _signs(self, like: Tensor, op: LinearOp) -> Tensor:
        """Draw ±1 for each example and unit, or channel."""
        examples, units = like.shape[like.ndim - op.trailing :][:2]
        bits = self.noise.bits((examples, units), like)
        return sampling.signs(bits, like).reshape(*bits.shape, *(1,) * (op.trailing - 2))


def _sampled_leaf(rule: LocalNoise | WeightNoise | Flipout, name: str) -> Tensor:
    """Return one sample of a leaf for the batch; it is drawn at the first call."""

    def draw() -> Tensor:
        mean = rule.mean[name]
        if name not in rule.variance:
            return mean
        return sampling.perturbed(mean, rule.variance[name], rule.noise.normal(mean.shape[1:], mean))

    return rule.kept.get_or_draw(name, draw)
