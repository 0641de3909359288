"""What is asked for: frozen, hashable, and the same text for the same thing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from bdlbench import files
from bdlbench.errors import BadInput, unknown
from bdlbench.options import Value

ELSEWHERE = "elsewhere"
"""The device of a cell whose predictions were not made here."""


@dataclass(frozen=True)
class Choice:
    """An entry of the catalog and ALL its options, defaults included, sorted by name."""

    name: str
    options: tuple[tuple[str, Value | Choice], ...] = ()

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any]) -> Choice:
        """From a mapping."""
        return cls(name, tuple(sorted(options.items())))

    def as_dict(self) -> dict[str, Any]:
        """For JSON: {"name": …, option: value, …}, nested choices alike."""
        plain = {k: v.as_dict() if isinstance(v, Choice) else v for k, v in self.options}
        return {"name": self.name, **{k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}}


@dataclass(frozen=True, order=True)
class Replicate:
    """One repetition: the seed governs initialisation, batches and noise; the split, which examples are tested."""

    seed: int
    split: int = 0


@dataclass(frozen=True)
class Cell:
    """Protocol × treatment × device × threads: all that decides the bits, but for the replicate."""

    method: Choice
    model: Choice
    dataset: Choice
    samples: int
    device: str = "cpu"
    threads: int = 1

    def protocol(self) -> dict[str, Any]:
        """What must agree for two cells to be comparable."""
        return {"dataset": self.dataset.as_dict(), "model": self.model.as_dict(), "samples": self.samples}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        machine = {"device": self.device, "threads": self.threads}
        return {"protocol": self.protocol(), "treatment": self.method.as_dict(), **machine}

    @property
    def key(self) -> str:
        """SHA-256 of all of it, in hex."""
        return files.digest(self.as_dict())

    @property
    def title(self) -> str:
        """For people: mle · mlp · digits."""
        return f"{self.method.name} · {self.model.name} · {self.dataset.name}"


SELECTIONS = ("none", "training", "validation", "test", "ood")
"""What data chose the options of a suite; none where they are defaults or were set by hand."""


@dataclass(frozen=True)
class Spec:
    """The cells and the replicates of each. selection: what data chose their options, where a suite says so."""

    cells: tuple[Cell, ...]
    replicates: tuple[Replicate, ...]
    selection: str = ""


SPLITS: dict[str, Callable[[int], int]] = {"one": lambda seed: 0, "each": lambda seed: seed}
"""Which split a seed is trained on: all on split 0, or each on the split of its own number."""


def whole(name: str, value: Any) -> int:
    """A count that a user gave as `name`. Raises BadInput where it is no whole number, or below 1."""
    try:
        number = index(value)
    except TypeError:
        raise BadInput(f"{name} {value!r} is not a whole number") from None
    if isinstance(value, bool):
        raise BadInput(f"{name} {value!r} is not a whole number")
    if number < 1:
        raise BadInput(f"{name} {number} is out of range: at least 1")
    return number


Seeds = str | int | Sequence[int]
"""A number of seeds, a text for `parse_seeds`, or the seeds themselves."""


def replicates(seeds: Seeds, splits: str) -> tuple[Replicate, ...]:
    """One for each seed of `seeds`, as `parse_seeds` reads them, on the splits that `splits` names.

    Raises BadInput for another word.
    """
    if splits not in SPLITS:
        raise unknown("value of --splits", str(splits), SPLITS)
    return tuple(Replicate(seed, SPLITS[splits](seed)) for seed in parse_seeds(seeds))


def parse_seeds(given: Seeds) -> tuple[int, ...]:
    """Seeds from "5" or 5 (0 to 4), "0-9", "1,4,7" or [1, 4, 7]. Raises BadInput for anything else, and for repeats."""
    allowed = "give a number of seeds (5), a range (0-9) or a list (1,4,7)"
    try:
        if not isinstance(given, str):
            if isinstance(given, bool):
                raise TypeError
            seeds = [index(seed) for seed in given] if isinstance(given, Iterable) else list(range(index(given)))
        elif "," in given:
            seeds = [int(part) for part in given.split(",")]
        elif "-" in given:
            first, last = (int(part) for part in given.split("-"))
            seeds = list(range(first, last + 1))
        else:
            seeds = list(range(int(given)))
    except (TypeError, ValueError):
        raise BadInput(f"--seeds {given!r} cannot be read: {allowed}") from None
    if not seeds or min(seeds) < 0:
        raise BadInput(f"--seeds {given!r} names no seed: {allowed}")
    if len(set(seeds)) < len(seeds):
        raise BadInput(f"--seeds {given!r} names a seed twice: {allowed}")
    return tuple(sorted(seeds))
