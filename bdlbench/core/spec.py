"""What a run is asked for: frozen, hashable, and with one spelling for each meaning."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import index
from pathlib import PurePath
from typing import Any

from bdlbench.core import files, memory
from bdlbench.core.errors import BadInput, unknown
from bdlbench.core.options import Value, short
from bdlbench.core.typed import Count, Misfit, Positive, typed

ELSEWHERE = "elsewhere"
"""The device of a cell whose predictions were not made here."""


MOST_ENTRIES = 16
"""How many entries of the catalog may lie in each other as options: no method builds on more than three."""


@dataclass(frozen=True)
class Choice:
    """An entry of the catalog and ALL its options, defaults included, sorted by name."""

    name: str
    options: tuple[tuple[str, Value | Choice], ...] = ()

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any]) -> Choice:
        """Make a choice from a mapping.

        Raises:
            BadInput: The name holds characters that cannot be seen, or an option is called `name`, which would replace
                the name of the entry in a record.
        """
        if not name.isprintable():
            raise BadInput(f"the name {short(name)} holds characters that cannot be seen: choose another")
        if "name" in options:
            raise BadInput(f"{name}.name: an option cannot be called name, which is the entry's own: rename the option")
        return cls(name, tuple(sorted(options.items())))

    @classmethod
    def from_dict(cls, table: Any, where: str = "", nested: int = MOST_ENTRIES) -> Choice:
        """Take back what `as_dict` gave; a record may name entries and options that nobody here has.

        Args:
            table: The form on disk.
            where: The name of the table, for messages.
            nested: How many entries may lie in each other.

        Returns:
            The choice.

        Raises:
            Misfit: It has no name, an option is no value that options can have, or entries lie too deep in each other.
        """
        if not isinstance(table, Mapping) or not isinstance(name := table.get("name"), str):
            raise Misfit(f"{where}: expected an entry's name and its options")
        if nested == 0:
            raise Misfit(f"{where}: entries lie too deep in each other")
        options: list[tuple[str, Value | Choice]] = []
        for key in sorted(table.keys() - {"name"}):
            value, place = table[key], f"{where}.{key}"
            if isinstance(value, Mapping):
                options.append((key, cls.from_dict(value, place, nested - 1)))
                continue
            many = isinstance(value, list | tuple)
            parts = value if many else (value,)
            if not all(isinstance(part, bool | int | float | str) for part in parts):
                raise Misfit(f"{place}: expected a value, such as a number, a text or whole numbers")
            if any(isinstance(part, int) and not -(2**63) <= part < 2**63 for part in parts):
                raise Misfit(f"{place}: expected a number of 64 bits")
            options.append((key, tuple(value) if many else value))
        return cls(name, tuple(options))

    def get(self, option: str, default: Any = None) -> Any:
        """Return the value of an option, or `default` where the entry has none of this name."""
        return dict(self.options).get(option, default)

    def overlaid(self, values: Mapping[str, Value]) -> Choice:
        """Return the choice with those `values` that are of its options, by "entry.option"; nested choices alike."""
        own = {name.removeprefix(f"{self.name}."): v for name, v in values.items() if name.startswith(f"{self.name}.")}
        nested = {k: v.overlaid(values) if isinstance(v, Choice) else v for k, v in self.options}
        return Choice(self.name, tuple(sorted({**nested, **own}.items())))

    def identity(self) -> dict[str, Any]:
        """Return `as_dict` with files and folders named without the folder that they lie in.

        Where an option NAME is a path, or KIND:PATH, NAME_sha256 beside it identifies the content.
        """
        found = self.as_dict()
        for key in [key.removesuffix("_sha256") for key in found if key.endswith("_sha256")]:
            kind, colon, path = str(found.get(key, "")).rpartition(":")
            found[key] = f"{kind}{colon}{PurePath(path).name}"
        return found

    @cached_property  # a table asks each of its rows several times
    def flat(self) -> dict[str, Any]:
        """What `flatten` makes of `as_dict`."""
        return flatten(self.as_dict())

    @cached_property
    def identity_sha256(self) -> str:
        """SHA-256 of `identity`, in hex."""
        return files.digest(self.identity())

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON: {"name": …, option: value, …}, with nested choices alike."""
        plain = {k: v.as_dict() if isinstance(v, Choice) else v for k, v in self.options}
        return {"name": self.name, **{k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten {"a": {"b": 1}} to {"a.b": 1}.

    The key "name" adds nothing to a path: {"a": {"name": "x"}} becomes {"a": "x"}.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = prefix if key == "name" and prefix else f"{prefix}.{key}".lstrip(".")
        flat |= flatten(value, path) if isinstance(value, Mapping) else {path: value}
    return flat


@dataclass(frozen=True, order=True, slots=True)
class Replicate:
    """One repetition: the seed governs initialisation, batches and noise; the split, which examples are tested."""

    seed: Count
    split: Count = 0


CHOSEN = "chosen"
"""The value, in a cell, of an option that each replicate chooses by itself."""


@dataclass(frozen=True)
class Tuning:
    """What each replicate of a cell chooses by itself, by the log-likelihood of rows held out of its training rows.

    Attributes:
        options: The options that are chosen, as "entry.option".
        points: The grid, in order: a value for each of the options. Of equal scores the first point wins.
        validation: The share of a replicate's training rows that is held out.
        samples: M, posterior samples of a validation predictive.
        refit: Whether the chosen point is trained again on all training rows. If not, the result is what was trained
            on the rows that were not held out.
    """

    options: tuple[str, ...]
    points: tuple[tuple[float, ...], ...]
    validation: float
    samples: Positive
    refit: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        return {
            "options": list(self.options),
            "points": [list(point) for point in self.points],
            "validation": self.validation,
            "samples": self.samples,
            "refit": self.refit,
        }

    @property
    def words(self) -> str:
        """For people: chosen by split among 12 points of mlp.noise_sd, mc_dropout.rate on 20 % of its training rows."""
        rest = "" if self.refit else ", and not trained again on all of them"
        return (
            f"{', '.join(self.options)}: chosen by each replicate among {len(self.points)} points, on "
            f"{100 * self.validation:g} % of its training rows by {self.samples:,} samples{rest}"
        )


@dataclass(frozen=True)
class Cell:
    """Protocol × treatment × device × threads: all that decides the bits, except the replicate.

    Where there is a `tuning`, the options of method and model that it names have the value CHOSEN.
    """

    method: Choice
    model: Choice
    dataset: Choice
    samples: int
    device: str = "cpu"
    threads: int = 1
    tuning: Tuning | None = None

    @classmethod
    def from_dict(cls, table: Any) -> Cell:
        """Take back what `as_dict` gave. Raises Misfit for a table that lacks something, or has more."""
        found = typed(table, _CellTable, "cell")
        protocol, tuning = found.protocol, found.tuning
        if tuning and any(len(point) != len(tuning.options) for point in tuning.points):
            raise Misfit("cell.tuning.points: expected a value for each of the options")
        return cls(
            Choice.from_dict(found.treatment, "cell.treatment"),
            Choice.from_dict(protocol.model, "cell.protocol.model"),
            Choice.from_dict(protocol.dataset, "cell.protocol.dataset"),
            protocol.samples,
            found.device,
            found.threads,
            tuning,
        )

    def chosen_by(self, tuning: Tuning) -> Cell:
        """Return the cell whose replicates choose the options of `tuning`."""
        marks: dict[str, Value] = dict.fromkeys(tuning.options, CHOSEN)
        return replace(self, method=self.method.overlaid(marks), model=self.model.overlaid(marks), tuning=tuning)

    def at(self, point: int) -> Cell:
        """Return the cell that has the options of one point of the grid; the cell itself where nothing is chosen."""
        if self.tuning is None:
            return self
        values = dict(zip(self.tuning.options, self.tuning.points[point], strict=True))
        return replace(self, method=self.method.overlaid(values), model=self.model.overlaid(values), tuning=None)

    def protocol(self) -> dict[str, Any]:
        """Return what must agree for two cells to be comparable."""
        return {"dataset": self.dataset.identity(), "model": self.model.as_dict(), "samples": self.samples}

    def as_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        machine = {"device": self.device, "threads": self.threads}
        tuning = {} if self.tuning is None else {"tuning": self.tuning.as_dict()}
        protocol = self.protocol() | {"dataset": self.dataset.as_dict()}
        return {"protocol": protocol, "treatment": self.method.as_dict(), **machine, **tuning}

    @cached_property  # reading a folder asks each cell several times
    def key(self) -> str:
        """SHA-256 of the whole cell, in hex; the folders that data files lie in do not count."""
        return files.digest(self.as_dict() | {"protocol": self.protocol()})

    @property
    def title(self) -> str:
        """Its name for people: mle · mlp · digits."""
        return f"{self.method.name} · {self.model.name} · {self.dataset.name}"


@dataclass(frozen=True)
class _ProtocolTable:
    """The protocol of a cell on disk."""

    dataset: dict[str, Any]
    model: dict[str, Any]
    samples: Positive


@dataclass(frozen=True)
class _CellTable:
    """A cell on disk."""

    protocol: _ProtocolTable
    treatment: dict[str, Any]
    device: str
    threads: Positive
    tuning: Tuning | None = None


@dataclass(frozen=True)
class Curves:
    """Metrics of the test set that are measured while training goes on: for reports, never for a choice.

    They are no part of a cell, since they change nothing that is trained.

    Attributes:
        metrics: Names of metrics.
        every: Measure after every so many epochs, and after the last; 0 for `epochs`.
        epochs: Measure after these epochs.
        samples: Posterior samples of the predictive.
    """

    metrics: tuple[str, ...]
    every: int = 0
    epochs: tuple[int, ...] = ()
    samples: int = 10

    def due(self, epoch: int, epochs: int) -> bool:
        """Tell whether to measure after an epoch, counted from 1, of so many."""
        by_number = self.every > 0 and (epoch % self.every == 0 or epoch == epochs)
        return by_number or epoch in self.epochs

    def __str__(self) -> str:
        often = f"every {self.every} epochs" if self.every > 1 else "every epoch"
        when = often if self.every else f"after epochs {', '.join(map(str, self.epochs))}"
        return f"{', '.join(self.metrics)} {when}, by {self.samples} samples"


SELECTIONS = ("none", "training", "validation", "test", "ood", "test_as_published")
"""Which data chose the options of a suite; "none" where they are defaults or were set by hand.

"test_as_published": test rows did, in a paper whose protocol is run as it was published, leak included.
"""


@dataclass(frozen=True)
class Spec:
    """The cells, and the replicates of each.

    `selection` says which data chose their options, where a suite says so; `curves` what is measured in training.
    `searches` names the table of trials whose winners a cell's options are, and its SHA-256, by the cell's key.
    """

    cells: tuple[Cell, ...]
    replicates: tuple[Replicate, ...]
    selection: str = ""
    curves: Curves | None = None
    searches: Mapping[str, str] = field(default_factory=dict, hash=False)


SPLITS: dict[str, Callable[[int], int]] = {"one": lambda seed: 0, "each": lambda seed: seed}
"""The split that a seed is trained on: split 0 for all seeds, or the split with the seed's own number."""


REPLICATE_BYTES = 1 << 14
"""The least memory that a run needs for each replicate: the smallest cell, `exact` on the coin, takes 27 kB for one."""


def whole(name: str, value: Any) -> int:
    """Check a count that a user gave as `name`.

    Raises:
        BadInput: It is not a whole number of at most 63 bits, or it is below 1.
    """
    try:
        number = index(value)
    except TypeError:
        raise BadInput(f"{name} {short(value, repr)} is not a whole number") from None
    if isinstance(value, bool):
        raise BadInput(f"{name} {short(value, repr)} is not a whole number")
    if not 1 <= number < 2**63:
        raise BadInput(f"{name} {short(number)} is out of range: at least 1" + ", below 2^63" * (number > 1))
    return number


Seeds = str | int | Sequence[int]
"""A number of seeds, a text for `parse_seeds`, or the seeds themselves."""


def replicates(seeds: Seeds, splits: str) -> tuple[Replicate, ...]:
    """Return one replicate for each seed of `seeds`, as `parse_seeds` reads them, on the splits that `splits` names.

    Raises:
        BadInput: `splits` is another word.
    """
    if splits not in SPLITS:
        raise unknown("value of --splits", str(splits), SPLITS)
    return tuple(Replicate(seed, SPLITS[splits](seed)) for seed in parse_seeds(seeds))


def parse_seeds(given: Seeds, where: str = "--seeds") -> tuple[int, ...]:
    """Parse seeds from "5" or 5 (0 to 4), "0-9", "1,4,7" or [1, 4, 7] into ascending order.

    Args:
        given: The seeds.
        where: The option that gave them, for messages.

    Returns:
        The seeds.

    Raises:
        BadInput: They cannot be read, repeat, have more than 63 bits, or are more than memory could hold.
    """
    allowed = "give a number of seeds (5), a range (0-9) or a list (1,4,7)"
    said = f"{where} {short(given, repr)}"
    seeds: Sequence[int]
    try:
        if isinstance(given, bool) or (isinstance(given, Sequence) and any(isinstance(seed, bool) for seed in given)):
            raise TypeError
        if not isinstance(given, str):
            seeds = sorted(map(index, given)) if isinstance(given, Iterable) else range(index(given))
        elif "," in given:
            seeds = sorted(_decimal(part) for part in given.split(","))
        elif "-" in given:
            first, last = (_decimal(part) for part in given.split("-"))
            seeds = range(first, last + 1)
        else:
            seeds = range(_decimal(given))
        count = len(seeds)
    except OverflowError:  # a range longer than Python can count
        count = sys.maxsize
    except (TypeError, ValueError):
        raise BadInput(f"{said} cannot be read: {allowed}") from None
    memory.refuse(count * REPLICATE_BYTES, f"{said}, which are {count:,} replicates,")
    if not seeds or seeds[0] < 0:
        raise BadInput(f"{said} names no seed: {allowed}")
    if seeds[-1] >= 2**63:
        raise BadInput(f"{said} names a seed of more than 63 bits: {allowed}")
    if len(set(seeds)) < count:
        raise BadInput(f"{said} names a seed twice: {allowed}")
    return tuple(seeds)


def _decimal(text: str) -> int:
    """Parse decimal digits only: Python's int() also takes 1_0 and the digits of other scripts."""
    if not re.fullmatch(r"\s*-?[0-9]+\s*", text):
        raise ValueError
    return int(text)
