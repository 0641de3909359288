"""Shapes and small types that every floor shares.

Axes, always in this order and by these letters: M posterior samples, R replicates, B batch, N data set, C classes,
D features, L depth. `*S` is the shape of a leaf in ONE replicate.
"""

from __future__ import annotations

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
"""Of the input and of the weight, where they are asked for."""

Role = Literal["input", "weight", "bias", "scale"]
"""What a leaf does: a linear map that reads the data, any other linear map, an offset, or a gain (stored minus one)."""

ALIGNMENT = 16
"""Every leaf starts at a multiple of this many float32 (64 bytes), so that a vectorised loop treats every row alike."""


class LinearOp(Protocol):
    """A map linear in both arguments, with an offset for each output unit or channel; the replicate axis in front."""

    @property
    def trailing(self) -> int:
        """How many axes of the output follow R: 2 for a dense map (B, D), 4 for a convolution (B, C, H, W)."""
        ...

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x: ([M,] R, B, …), weight: ([M,] R, *S), bias: ([M,] R, C). Returns ([M,] R, B, C, …)."""
        ...

    def output_shape(self, x: Tensor, weight: Tensor) -> tuple[int, ...]:
        """The axes of the output that follow R: (B, C, …)."""
        ...

    def gradients(self, grad: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool) -> Gradients:
        """Of x and of the weight, where asked for, from that of the result; all with the same lead (R,)."""
        ...

    def unit_sums(self, grad: Tensor) -> Tensor:
        """The output's (…, B, C, …) summed over all but its units: (…, C)."""
        ...


@dataclass(frozen=True)
class Leaf:
    """A parameter array of one replicate: its shape, its role, and how many inputs feed one output unit."""

    shape: tuple[int, ...]
    role: Role
    fan_in: int

    def __post_init__(self) -> None:
        """Raises BadInput for a role that there is not: it would never be started as what it is."""
        if self.role not in get_args(Role):
            raise unknown("role of a leaf", str(self.role), get_args(Role))

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Layout:
    """Where each leaf lies in the flat row of a replicate. Rows are (R, P), padded so that leaves stay aligned."""

    leaves: dict[str, Leaf]

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """The size along P of each leaf, and of the padding behind it."""
        return [(leaf.size, -leaf.size % ALIGNMENT) for leaf in self.leaves.values()]

    @cached_property
    def pieces(self) -> list[int]:
        """The spans, one after the other."""
        return [size for span in self.spans for size in span]

    @property
    def width(self) -> int:
        """P: the length of a row, padding included."""
        return sum(self.pieces)

    @property
    def num_parameters(self) -> int:
        """The number of parameters of one replicate, padding not counted."""
        return sum(leaf.size for leaf in self.leaves.values())

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """flat: (*lead, P) -> {name: (*lead, *S)}, sharing memory; gradients come back as one concatenation."""
        parts, lead = flat.split(self.pieces, dim=-1)[::2], flat.shape[:-1]
        return {
            name: part.view(*lead, *leaf.shape) for (name, leaf), part in zip(self.leaves.items(), parts, strict=True)
        }

    def joined(self, leaves: Mapping[str, Tensor]) -> Tensor:
        """What `views` takes apart: {name: (*lead, *S)} -> (*lead, P), with zeros between leaves."""
        name, leaf = next(iter(self.leaves.items()))
        lead = leaves[name].shape[: leaves[name].ndim - len(leaf.shape)]
        flat = leaves[name].new_zeros(*lead, self.width)
        for name, view in self.views(flat).items():
            view.copy_(leaves[name])
        return flat

    def packed(self, flat: Tensor) -> Tensor:
        """Rows without their padding: (*lead, P) -> (*lead, num_parameters)."""
        return torch.cat(flat.split(self.pieces, dim=-1)[::2], dim=-1)

    def fill(self, value: Callable[[Leaf], float], padding: float = 0.0) -> Tensor:
        """(P,) float32 with `value(leaf)` at each leaf's elements and `padding` between them."""
        row = torch.full((self.width,), padding)
        for name, view in self.views(row).items():
            view.fill_(value(self.leaves[name]))
        return row


def per_row(value: PerRow, like: Tensor, ndim: int) -> Tensor | float:
    """`value` ready to multiply a tensor (R, …) of `ndim` axes: a number stays one, (R,) becomes (R, 1, …).

    The result follows the device and dtype of `like`.
    """
    if not isinstance(value, Tensor):
        return value
    return value.to(like).reshape(-1, *(1,) * (ndim - 1))
