"""Random streams owned by the row: a replicate draws the same numbers alone or among twenty.

A stream is a key; children are named (`init`, `batches`, `noise`, `predict`) and their keys are hashes of the path, so
no draw depends on how many rows there are or on what was drawn elsewhere. There is no ambient state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import torch
from torch import Tensor

from bdlbench.types import ALIGNMENT

Kind = Literal["normal", "bits"]

BLOCK, AHEAD = 1 << 14, 4
"""Numbers drawn at once for one row: at least so many, or so many times what is asked; filling must outweigh asking."""

LARGE = 1 << 16
"""Requests of this many numbers and more are drawn by themselves."""


@dataclass
class _Block:
    """Numbers of one kind drawn ahead, (rows, n), and how each row's generator stood before it drew them."""

    numbers: Tensor
    before: list[Tensor]
    used: int


class Streams:
    """One independent stream for each element of `lead`: (R,) in training, (M, R) when posterior samples are drawn."""

    def __init__(self, keys: Sequence[int], lead: tuple[int, ...] | None = None) -> None:
        """keys: one 64-bit key for each element of `lead`, which is (len(keys),) unless given."""
        self.keys = tuple(keys)
        self.lead = lead or (len(self.keys),)
        if math.prod(self.lead) != len(self.keys):
            raise ValueError(f"{len(self.keys)} keys do not fill {self.lead}")
        self._generators: dict[str, list[torch.Generator]] = {}
        self._blocks: dict[str, _Block] = {}

    @classmethod
    def of_seeds(cls, seeds: Sequence[int]) -> Streams:
        """The root streams of replicates with these seeds."""
        return cls([_hash(0, f"seed {seed}") for seed in seeds])

    def child(self, name: str) -> Streams:
        """Streams of the same rows under another name, independent of these."""
        return Streams([_hash(key, name) for key in self.keys], self.lead)

    def samples(self, first: int, count: int) -> Streams:
        """Streams (count, R) of posterior samples first … first + count − 1, keyed by (row, sample) alone."""
        keys = [_hash(key, f"sample {first + m}") for m in range(count) for key in self.keys]
        return Streams(keys, (count, *self.lead))

    def members(self, count: int) -> Streams:
        """Streams (R·count,) of an ensemble's members, r0 r0 … r1 r1 …; member 0 keeps the row's own stream."""
        return Streams([_hash(key, f"member {k}") if k else key for key in self.keys for k in range(count)])

    def normal(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal numbers (*lead, *shape), in the dtype and on the device of `like`."""
        return self._take("normal", shape, like.device).to(like.dtype)

    def bits(self, shape: Sequence[int], like: Tensor, name: str = "") -> Tensor:
        """Uniform int16 numbers (*lead, *shape), all 65,536 values equally likely, on the device of `like`.

        name: of a sequence of its own, which goes on where it was whatever else is drawn.
        """
        return self._take("bits", shape, like.device, name)

    def permutation(self, length: int) -> Tensor:
        """A permutation of 0 … length − 1 for each row, int64 (*lead, length), on the CPU."""
        rows = [torch.randperm(length, generator=_generator(key, torch.device("cpu"))) for key in self.keys]
        return torch.stack(rows).view(*self.lead, length)

    def position(self) -> dict[str, Tensor]:
        """Where the streams stand, to be given to `resume`."""
        saved: dict[str, Tensor] = {}
        for slot, block in self._blocks.items():
            saved[f"{slot}{_BEFORE}"] = torch.stack(block.before)
            saved[f"{slot}{_SHAPE}"] = torch.tensor([block.numbers.shape[1], block.used])
        return saved

    def resume(self, saved: dict[str, Tensor], device: torch.device) -> None:
        """Put the streams where `position` found them: what is drawn next is what would have been drawn next."""
        for slot in [key.removesuffix(_BEFORE) for key in saved if key.endswith(_BEFORE)]:
            length, used = (int(n) for n in saved[f"{slot}{_SHAPE}"])
            for generator, state in zip(self._rows(slot, device), saved[f"{slot}{_BEFORE}"], strict=True):
                generator.set_state(state.clone())
            self._blocks[slot] = self._draw(slot, length, device)
            self._blocks[slot].used = used

    def _take(self, kind: Kind, shape: Sequence[int], device: torch.device, name: str = "") -> Tensor:
        slot, count = f"{kind} {name}" if name else kind, math.prod(shape)
        block = self._blocks.get(slot)
        if block is None or block.used + count > block.numbers.shape[1]:
            ahead = self._long and count < LARGE
            block = self._blocks[slot] = self._draw(slot, max(BLOCK, AHEAD * count) if ahead else count, device)
        taken = block.numbers[:, block.used : block.used + count]
        block.used += count + -count % ALIGNMENT
        return taken.view(*self.lead, *shape)

    @property
    def _long(self) -> bool:
        """Training draws again and again from R streams; a posterior sample's stream lives for one pass."""
        return len(self.lead) == 1

    def _draw(self, slot: str, length: int, device: torch.device) -> _Block:
        generators = self._rows(slot, device)
        before = [g.get_state() for g in generators] if self._long else []
        return _Block(_KINDS[slot.partition(" ")[0]](generators, length, device), before, 0)

    def _rows(self, slot: str, device: torch.device) -> list[torch.Generator]:
        if slot not in self._generators:
            self._generators[slot] = [_generator(_hash(key, slot), device) for key in self.keys]
        return self._generators[slot]


def _generator(key: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(key)


def _normals(generators: list[torch.Generator], length: int, device: torch.device) -> Tensor:
    out = torch.empty(len(generators), length, device=device)
    for row, generator in zip(out, generators, strict=True):
        row.normal_(generator=generator)
    return out


def _bits(generators: list[torch.Generator], length: int, device: torch.device) -> Tensor:
    """Four int16 from each 64-bit integer: a quarter of the generator's work."""
    out = torch.empty(len(generators), -(-length // 4), dtype=torch.int64, device=device)
    for row, generator in zip(out, generators, strict=True):
        row.random_(-(2**63), None, generator=generator)
    return out.view(torch.int16)


_BEFORE, _SHAPE = ".before", ".shape"

_KINDS: dict[str, Callable[[list[torch.Generator], int, torch.device], Tensor]] = {"normal": _normals, "bits": _bits}


def _hash(key: int, name: str) -> int:
    digest = blake2b(f"{key}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # a signed seed; a CPU generator counts 32 bits of it
