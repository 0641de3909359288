"""Random streams owned by the row: a replicate draws the same numbers alone as among twenty.

A stream is a key. Its children are named (`init`, `batches`, `noise`, `predict`), and their keys are hashes of the
path, so no draw depends on how many rows there are or on what was drawn elsewhere. There is no ambient state.

On a CPU the words come from NumPy's SFC64, which takes half the time of torch's Mersenne twister.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from numpy.random import SFC64
from numpy.random.bit_generator import ISeedSequence
from torch import Tensor

from bdlbench.core.layout import ALIGNMENT
from bdlbench.core.normals import normals

DrawKind = Literal["normal", "bits"]

BLOCK, AHEAD = 1 << 14, 4
"""Numbers drawn at once for one row: BLOCK, or AHEAD times the request if that is more; a call has a fixed cost."""

LARGE = 1 << 16
"""Requests of this many numbers or more are drawn by themselves."""

_BEFORE, _SHAPE, _APART = ".before", ".shape", ".apart."


@dataclass
class _Block:
    """Numbers of one kind drawn ahead, (rows, n), and the state of each row's generator before it drew them."""

    numbers: Tensor
    before: list[Tensor]
    used: int


class Streams:
    """Independent random streams, one for each element of `lead`: (R,) in training, (M, R) for posterior samples."""

    def __init__(self, keys: Sequence[int], lead: tuple[int, ...] | None = None) -> None:
        """Make streams from keys.

        Args:
            keys: One 64-bit key for each element of `lead`.
            lead: The leading axes of what is drawn; (len(keys),) unless given.

        Raises:
            ValueError: The keys do not fill `lead`.
        """
        self.keys = tuple(keys)
        self.lead = (len(self.keys),) if lead is None else lead
        if math.prod(self.lead) != len(self.keys):
            raise ValueError(f"{len(self.keys)} keys do not fill {self.lead}")
        self._generators: dict[str, list[_Generator]] = {}
        self._blocks: dict[str, _Block] = {}
        self._apart: list[Streams] = []
        self._moves = 0

    @classmethod
    def of_seeds(cls, seeds: Sequence[int]) -> Streams:
        """Return the root streams of replicates.

        Args:
            seeds: One for each replicate.

        Returns:
            Streams (R,).
        """
        return cls([_hash(0, f"seed {seed}") for seed in seeds])

    def child(self, name: str) -> Streams:
        """Return streams of the same rows under another name, independent of these.

        Args:
            name: The name.

        Returns:
            Streams with the same leading axes.
        """
        return Streams([_hash(key, name) for key in self.keys], self.lead)

    def samples(self, first: int, count: int) -> Streams:
        """Return streams of posterior samples first … first + count − 1, keyed by (row, sample) alone.

        Args:
            first: The first sample, from 0.
            count: How many.

        Returns:
            Streams (count, R).
        """
        keys = [_hash(key, f"sample {first + m}") for m in range(count) for key in self.keys]
        return Streams(keys, (count, *self.lead))

    def members(self, count: int) -> Streams:
        """Return streams of the members of an ensemble, r0 r0 … r1 r1 …; member 0 keeps the row's own stream.

        Args:
            count: Members of each ensemble.

        Returns:
            Streams (R·count,).
        """
        return Streams([_hash(key, f"member {k}") if k else key for key in self.keys for k in range(count)])

    def apart(self) -> list[Streams]:
        """Return streams of each element of `lead` alone, for rows that compute one after the other.

        They are independent of these, the same at every call, and part of their `position`.

        Returns:
            Streams (1,), or (1, 1) of posterior samples, in the order of the keys.
        """
        if not self._apart:
            self._apart = [Streams([_hash(key, "apart")], (1,) * len(self.lead)) for key in self.keys]
        return self._apart

    def normal(self, shape: Sequence[int], like: Tensor, name: str = "") -> Tensor:
        """Draw standard normal numbers.

        Args:
            shape: The axes that follow the leading ones.
            like: A tensor whose dtype and device the result takes.
            name: The name of a sequence of its own, which continues where it was whatever else is drawn.

        Returns:
            (*lead, *shape).
        """
        return self._take("normal", shape, like.device, name).to(like.dtype)

    def bits(self, shape: Sequence[int], like: Tensor, name: str = "") -> Tensor:
        """Draw uniform int16 numbers, with all 65,536 values equally likely.

        Args:
            shape: The axes that follow the leading ones.
            like: A tensor whose device the result takes.
            name: The name of a sequence of its own, which continues where it was whatever else is drawn.

        Returns:
            (*lead, *shape) int16.
        """
        return self._take("bits", shape, like.device, name)

    def permutation(self, length: int) -> Tensor:
        """Draw a permutation of 0 … length − 1 for each row, by 32 bits of the key.

        Args:
            length: How many numbers are permuted.

        Returns:
            (*lead, length) int64, on the CPU.
        """
        rows = [torch.randperm(length, generator=torch.Generator().manual_seed(key)) for key in self.keys]
        return torch.stack(rows).view(*self.lead, length)

    def position(self) -> dict[str, Tensor]:
        """Return where the streams stand, to be given to `resume`.

        Returns:
            Tensors by name.
        """
        saved: dict[str, Tensor] = {}
        for slot, block in self._blocks.items():
            saved[f"{slot}{_BEFORE}"] = torch.stack(block.before)
            saved[f"{slot}{_SHAPE}"] = torch.tensor([block.numbers.shape[1], block.used])
        for row, one in enumerate(self._apart):
            saved |= {f"{row}{_APART}{key}": value for key, value in one.position().items()}
        return saved

    def resume(self, saved: dict[str, Tensor], device: torch.device) -> None:
        """Put the streams where `position` found them, so that the next draw is what it would have been then.

        Args:
            saved: What `position` returned.
            device: The device on which numbers will be drawn.
        """
        own = {key: value for key, value in saved.items() if _APART not in key}
        for row, one in enumerate(self.apart() if len(own) < len(saved) else []):
            here = f"{row}{_APART}"
            one.resume({key.removeprefix(here): saved[key] for key in saved if key.startswith(here)}, device)
        for slot in [key.removesuffix(_BEFORE) for key in own if key.endswith(_BEFORE)]:
            length, used = (int(n) for n in saved[f"{slot}{_SHAPE}"])
            for generator, state in zip(self._rows(slot, device), saved[f"{slot}{_BEFORE}"], strict=True):
                generator.resume(state)
            self._blocks[slot] = self._draw(slot, length, device)
            self._blocks[slot].used = used
            self._moves += 1

    def drawn(self) -> int:
        """Return a value that changes whenever numbers are drawn. It means nothing beyond this process.

        Returns:
            A value to be compared with another.
        """
        return self._moves + sum(one.drawn() for one in self._apart)

    def _take(self, kind: DrawKind, shape: Sequence[int], device: torch.device, name: str = "") -> Tensor:
        self._moves += 1
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
        """Whether the streams live long, as in training; a posterior sample draws in one pass only."""
        return len(self.lead) == 1

    def _draw(self, slot: str, length: int, device: torch.device) -> _Block:
        generators = self._rows(slot, device)
        before = [g.position() for g in generators] if self._long else []
        words = torch.cat([g.words(length) for g in generators]) if len(generators) > 1 else generators[0].words(length)
        return _Block(normals(words) if slot.startswith("normal") else words, before, 0)

    def _rows(self, slot: str, device: torch.device) -> list[_Generator]:
        if slot not in self._generators:
            make = _Cpu if device.type == "cpu" else partial(_Gpu, device)
            self._generators[slot] = [make(_hash(key, slot)) for key in self.keys]
        return self._generators[slot]


class _Generator(Protocol):
    """Uniform words of one row."""

    def words(self, count: int) -> Tensor:
        """Draw at least `count` int16 numbers, as whole words of 64 bits: (1, n)."""
        ...

    def position(self) -> Tensor:
        """Return where the generator stands."""
        ...

    def resume(self, position: Tensor) -> None:
        """Put the generator back to a position."""
        ...


class _Cpu:
    """NumPy's SFC64: NumPy promises never to change the raw words of a bit generator."""

    def __init__(self, key: int) -> None:
        self._source: Any = SFC64(cast(Any, _Seed(key)))

    def words(self, count: int) -> Tensor:
        return torch.from_numpy(self._source.random_raw(-(-count // 4)).view(np.int16)).unsqueeze(0)

    def position(self) -> Tensor:
        return torch.from_numpy(self._source.state["state"]["state"].view(np.int64))

    def resume(self, position: Tensor) -> None:
        state = {"state": position.numpy().view(np.uint64)}
        self._source.state = {"bit_generator": "SFC64", "state": state, "has_uint32": 0, "uinteger": 0}


class _Gpu:
    def __init__(self, device: torch.device, key: int) -> None:
        self._source = torch.Generator(device).manual_seed(key)

    def words(self, count: int) -> Tensor:
        out = torch.empty(1, -(-count // 4), dtype=torch.int64, device=self._source.device)
        return out.random_(-(2**63), None, generator=self._source).view(torch.int16)

    def position(self) -> Tensor:
        return self._source.get_state()

    def resume(self, position: Tensor) -> None:
        self._source.set_state(position.clone())


@dataclass(frozen=True)
class _Seed(ISeedSequence):
    """The words that a bit generator starts from: a hash of the key, four times as fast as NumPy's `SeedSequence`."""

    key: int

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        size = n_words * np.dtype(dtype).itemsize
        return np.frombuffer(blake2b(self.key.to_bytes(8, "little"), digest_size=size).digest(), dtype)


def _hash(key: int, name: str) -> int:
    digest = blake2b(f"{key}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # a signed seed
