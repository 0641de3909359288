"""Shapes and small types that every floor shares.

Axes, always in this order and by these letters: M posterior samples, R replicates, B batch, N data set, C classes,
D features, L depth. `*S` is the shape of a leaf in ONE replicate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from bdlbench.core.errors import unknown

PerRow = float | Tensor
"""A hyper-parameter that may differ between replicates: a number, or one for each row (R,)."""

Gradients = tuple[Tensor | None, Tensor | None]
"""The gradients of the input and of the weight; None where not asked for."""

Role = Literal["input", "weight", "bias", "scale", "buffer"]
"""What a leaf does: a linear map that reads the data, any other linear map, an offset, or a gain (stored minus one).

A buffer is no parameter: what a network remembers of its batches, such as the running statistics of BatchNorm.
"""

Init = Literal["kaiming", "glorot", "small", "torch"]
"""Where a leaf starts: `posteriors.fitting.initial_rows` says what each one is."""

ALIGNMENT = 16
"""Every leaf starts at a multiple of this many float32 (64 bytes), so that a vectorised loop treats every row alike."""


class LinearOp(Protocol):
    """A map linear in input and weight, with an offset for each unit or channel; the replicate axis comes first."""

    @property
    def trailing(self) -> int:
        """How many axes of the output follow R: 2 for a dense map (B, D), 4 for a convolution (B, C, H, W)."""
        ...

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Apply the map to x ([M,] R, B, …), weight ([M,] R, *S) and bias ([M,] R, C): ([M,] R, B, C, …)."""
        ...

    def output_shape(self, x: Tensor, weight: Tensor) -> tuple[int, ...]:
        """Return the axes of the output that follow R: (B, C, …)."""
        ...

    def gradients(self, grad: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool) -> Gradients:
        """Return the gradients of x and of the weight, where asked for, from that of the result; all have lead (R,)."""
        ...

    def unit_sums(self, grad: Tensor) -> Tensor:
        """Sum an output (…, B, C, …) over all axes but its units: (…, C)."""
        ...


@dataclass(frozen=True)
class Leaf:
    """A parameter array of one replicate.

    Attributes:
        shape: Its shape S.
        role: What it does: "input" (a linear map that reads the data), "weight" (any other linear map), "bias",
            "scale" (a gain, stored minus one), or "buffer" (no parameter, so that it has neither prior nor noise, and
            is changed by `training.buffers` alone). The role decides which noise it gets.
        fan_in: How many inputs feed one output unit.
        init: How it starts, as `posteriors.fitting.initial_rows` says.
    """

    shape: tuple[int, ...]
    role: Role
    fan_in: int
    init: Init = "kaiming"

    def __post_init__(self) -> None:
        """Refuse an unknown role or start with BadInput: such a leaf would never be started as what it is."""
        for what, word, known in (("role", self.role, get_args(Role)), ("start", self.init, get_args(Init))):
            if word not in known:
                raise unknown(f"{what} of a leaf", str(word), known)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Layout:
    """Where each leaf lies in the flat row of a replicate. Rows are (R, P), padded so that leaves stay aligned.

    Attributes:
        leaves: The parameter arrays of one replicate, by name.
    """

    leaves: dict[str, Leaf]

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """The size along P of each leaf, and of the padding behind it."""
        return [(leaf.size, -leaf.size % ALIGNMENT) for leaf in self.leaves.values()]

    @cached_property
    def pieces(self) -> list[int]:
        """The numbers of `spans`, one after the other."""
        return [size for span in self.spans for size in span]

    @property
    def width(self) -> int:
        """P: the length of a row, padding included."""
        return sum(self.pieces)

    @property
    def num_parameters(self) -> int:
        """The number of parameters of one replicate; neither padding nor buffers count."""
        return sum(leaf.size for leaf in self.leaves.values() if leaf.role != "buffer")

    @property
    def buffers(self) -> dict[str, slice]:
        """Where the buffers lie along P, by name."""
        ends = itertools.accumulate(size + padding for size, padding in self.spans)
        places = zip(self.leaves.items(), self.spans, ends, strict=True)
        return {
            name: slice(end - size - padding, end - padding)
            for (name, leaf), (size, padding), end in places
            if leaf.role == "buffer"
        }

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Split rows into leaves that share their memory; gradients come back as one concatenation.

        Args:
            flat: Rows (*lead, P).

        Returns:
            {name: (*lead, *S)}.
        """
        parts, lead = flat.split(self.pieces, dim=-1)[::2], flat.shape[:-1]
        return {
            name: part.view(*lead, *leaf.shape) for (name, leaf), part in zip(self.leaves.items(), parts, strict=True)
        }

    def joined(self, leaves: Mapping[str, Tensor]) -> Tensor:
        """Join leaves into rows, with zeros between them: the inverse of `views`.

        Args:
            leaves: {name: (*lead, *S)}.

        Returns:
            Rows (*lead, P).
        """
        name, leaf = next(iter(self.leaves.items()))
        lead = leaves[name].shape[: leaves[name].ndim - len(leaf.shape)]
        flat = leaves[name].new_zeros(*lead, self.width)
        for name, view in self.views(flat).items():
            view.copy_(leaves[name])
        return flat

    def packed(self, flat: Tensor) -> Tensor:
        """Return rows without their padding and buffers.

        Args:
            flat: Rows (*lead, P).

        Returns:
            (*lead, num_parameters).
        """
        parts = zip(flat.split(self.pieces, dim=-1)[::2], self.leaves.values(), strict=True)
        return torch.cat([part for part, leaf in parts if leaf.role != "buffer"], dim=-1)

    def fill(self, value: Callable[[Leaf], float], padding: float = 0.0) -> Tensor:
        """Fill one row with a number for each leaf.

        Args:
            value: The number of a leaf's elements.
            padding: The number between leaves, and of buffers.

        Returns:
            (P,) float32.
        """
        row = torch.full((self.width,), padding)
        for name, view in self.views(row).items():
            if self.leaves[name].role != "buffer":
                view.fill_(value(self.leaves[name]))
        return row


def by_value(value: PerRow) -> float | tuple[float, ...]:
    """Return the numbers themselves, as the key of a cache: a tensor as a key stands for itself, whatever is in it.

    Args:
        value: A number, or a tensor (R,).

    Returns:
        The number, or R numbers.
    """
    return value if not isinstance(value, Tensor) else tuple(value.tolist()) if value.ndim else value.item()


def per_row(value: PerRow, like: Tensor, ndim: int) -> Tensor | float:
    """Shape a hyper-parameter so that it multiplies a tensor (R, …) of `ndim` axes.

    Args:
        value: A number, or one for each row (R,).
        like: A tensor whose device and dtype the result takes.
        ndim: How many axes the tensor has.

    Returns:
        The number itself, or (R, 1, …).
    """
    if not isinstance(value, Tensor):
        return value
    return value.to(like).reshape(-1, *(1,) * (ndim - 1))
