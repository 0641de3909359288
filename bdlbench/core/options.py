"""Options of a registered entry: the fields of its frozen dataclass, with help, range and choices.

A field annotated `PerRow` may differ between replicates of one batch; another value of any other field makes another
cell.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar

from bdlbench.core.errors import LONGEST, BadInput, unknown

FileKind = Literal["file", "folder"]

Ends = bool | Literal["low", "high"]
"""Which ends of a range are excluded: both, neither, or the one that is named."""

Value = bool | int | float | str | tuple[int, ...]


def option(
    default: Any,
    help: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_ends: Ends = False,
    choices: Sequence[str] = (),
    entry: str = "",
    later: bool = False,
    file: FileKind | None = None,
    search: tuple[float, float] | None = None,
) -> Any:
    """Declare a dataclass field that documents itself.

    Args:
        default: A bool, number, text or tuple of whole numbers. Its type is the type of the option.
        help: What it means, on one line.
        low: The least value.
        high: The largest value.
        open_ends: Whether `low` and `high` themselves are excluded; "low" or "high" where only that end is.
        choices: The texts that are allowed; any where empty.
        entry: A kind of the catalog, such as "methods". The option then names an entry of that kind, and the field
            holds the built entry.
        later: Whether the option came after records were made. At its default it is then no part of a cell, so that
            those records are still found.
        file: "file" or "folder" where the text is a path. A cell then names it without the folder that it lies in, and
            by its content, which the option NAME_sha256 beside it identifies.
        search: Between which numbers `tune` searches, the least first: evenly in the logarithm where both are above 0,
            else evenly. None leaves the option as it is.

    Returns:
        The field.

    Raises:
        ValueError: `search` is no range.
    """
    if search is not None and not search[0] < search[1]:
        raise ValueError(f"search={search} is no range: write search=(LEAST, LARGEST)")
    metadata = {
        "help": help,
        "low": low,
        "high": high,
        "open_ends": open_ends,
        "choices": tuple(choices),
        "entry": entry,
        "later": later,
        "file": file,
        "search": search,
    }
    return dataclasses.field(default=default, metadata=metadata)


@cache
def fields(entry: type) -> Mapping[str, dataclasses.Field[Any]]:
    """Return the options of an entry by name: every field made with `option`, those by keyword only at the end."""
    return {f.name: f for f in sorted(dataclasses.fields(entry), key=lambda f: bool(f.kw_only)) if "help" in f.metadata}


def per_row_names(entry: type) -> set[str]:
    """Return the names of the options that may differ between replicates of one batch."""
    marks = ("PerRow", "Tensor")  # as the source writes it, or as it is evaluated where annotations are not postponed
    return {name for name, f in fields(entry).items() if any(mark in str(f.type) for mark in marks)}


def searched(entry: type) -> dict[str, tuple[float, float]]:
    """Return the options of an entry that `tune` searches, each with its range: that part of it which the option takes.

    One that is declared again with another kind of default, such as a whole number, is not searched.
    """
    found: dict[str, tuple[float, float]] = {}
    for name, field in fields(entry).items():
        if field.metadata["search"] and isinstance(field.default, float):
            least, largest = field.metadata["search"]
            least, largest = max(least, field.metadata["low"]), min(largest, field.metadata["high"])
            if least < largest:
                found[name] = (least, largest)
    return found


def resolve(entry: type, name: str, given: Mapping[str, Any]) -> dict[str, Value]:
    """Return all options of `entry`, with `given` laid over the defaults, each parsed and checked.

    Raises:
        BadInput: An option is unknown (the nearest is named), has the wrong type, or is out of range.
    """
    known = fields(entry)
    for key in given:
        if key not in known:
            raise unknown(f"option of {name}", key, known)
    return {key: _checked(f, f"{name}.{key}", given.get(key, f.default)) for key, f in known.items()}


def _checked(field: dataclasses.Field[Any], where: str, raw: Any) -> Value:
    value = _parsed(field.default, where, raw)
    low, high = field.metadata["low"], field.metadata["high"]
    without_low, without_high = is_open(field, "low"), is_open(field, "high")
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (str, bool)):
            continue
        above, below = number > low if without_low else number >= low, number < high if without_high else number <= high
        if not (above and below):
            raise BadInput(f"{where}={short(value)} is out of range: allowed {allowed(field)}")
        if not math.isfinite(number):
            raise BadInput(f"{where}={short(value)} is not a finite number, and no record can hold another")
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise unknown(f"value of {where}", str(value), choices)
    return value


def is_open(field: dataclasses.Field[Any], end: Literal["low", "high"]) -> bool:
    """Tell whether an end of an option's range is excluded."""
    return field.metadata["open_ends"] in (True, end)


def allowed(field: dataclasses.Field[Any]) -> str:
    """Say for people what an option takes: a range, the choices, or the kind of value."""
    low, high = field.metadata["low"], field.metadata["high"]
    if field.metadata["choices"]:
        return " or ".join(field.metadata["choices"])
    if field.metadata["entry"]:
        return f"one of the {field.metadata['entry']}"
    if isinstance(field.default, str | bool) or (low, high) == (-math.inf, math.inf):
        return _kind(field.default)
    return f"{'[('[is_open(field, 'low')]}{low:g}, {high:g}{'])'[is_open(field, 'high')]}"


def _parsed(default: Any, where: str, raw: Any) -> Value:
    """Convert `raw` (text, or a value of TOML or JSON) to the type of the option's default, or raise BadInput.

    A truth value is not taken for a number, nor a number for a truth value, though Python would do so.
    """
    try:
        if isinstance(default, bool):
            return _truth(raw)
        if isinstance(default, int):
            return _whole(raw)
        if isinstance(default, float):
            return _real(raw)
        if isinstance(default, tuple):
            if isinstance(raw, str):
                raw = raw.strip().split("-") if raw.strip() else ()
            return tuple(_whole(part) for part in (raw if isinstance(raw, list | tuple) else [raw]))
        return _text(raw)
    except (TypeError, ValueError, OverflowError):
        raise BadInput(f"{where}={short(raw)} is not {_kind(default)}") from None


def _truth(raw: Any) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    if not isinstance(raw, bool | str) or str(raw).lower() not in words:
        raise ValueError
    return words[str(raw).lower()]


def _whole(raw: Any) -> int:
    """Convert to a whole number of 64 bits, which tensors, records and frames can hold. A float must be exact."""
    if isinstance(raw, str):
        raw = int(raw) if re.fullmatch(r"[-+]?[0-9]+(_[0-9]+)*", raw.strip()) else math.nan
    if isinstance(raw, bool) or not isinstance(raw, int | float) or raw != int(raw):
        raise ValueError
    if not -(2**63) <= raw < 2**63 or (isinstance(raw, float) and abs(raw) > 2**53):
        raise ValueError
    return int(raw)


def _real(raw: Any) -> float:
    """Convert to the nearest number of 64 bits; refuse 1e-999 and 1e999, which would become 0 and infinite."""
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise ValueError
    if isinstance(raw, str) and not raw.isascii():
        raise ValueError
    number = float(raw)
    if isinstance(raw, str) and re.match(r"[\s+-]*[0-9._]*[1-9]", raw) and (number == 0 or math.isinf(number)):
        raise ValueError
    return number


def _text(raw: Any) -> str:
    if not (isinstance(raw, str) and raw.isprintable()):
        raise ValueError
    return raw


def _kind(default: Any) -> str:
    kinds: dict[type, str] = {
        bool: "true or false",
        int: "a whole number of 64 bits",
        float: "a number of 64 bits",
        tuple: "whole numbers joined by '-'",
    }
    kinds[str] = "text on one line"
    return kinds[type(default)]


def spell(value: Any) -> str:
    """Write a value as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "-".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def short(value: Any, write: Callable[[Any], str] = spell) -> str:
    """Write a value for a message: as the command line takes it, or by `write`, cut where it is long."""
    try:
        text = write(value)
    except ValueError:  # more digits than Python writes
        return "a number of thousands of digits"
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


EntryType = TypeVar("EntryType")


def repeat_rows(entry: EntryType, times: int) -> EntryType:
    """Repeat each per-replicate option (R,) of an entry to (R·times,), in the order r0 r0 … r1 r1 … of `Data.repeat`.

    So are those of the entries that it builds on.

    Args:
        entry: A frozen dataclass with options.
        times: How often.

    Returns:
        A copy of the entry.
    """
    values = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry)}  # type: ignore[arg-type]
    rows = {
        name: value.repeat_interleave(times) for name, value in values.items() if hasattr(value, "repeat_interleave")
    }
    below = {name: repeat_rows(values[name], times) for name in _nested(entry)}
    return dataclasses.replace(entry, **rows, **below)  # type: ignore[type-var]


def row_of(entry: EntryType, row: int) -> EntryType:
    """Return `entry` for one replicate: each per-replicate option (R,) becomes its element `row`, a number."""
    values = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry)}  # type: ignore[arg-type]
    rows = {name: value[row].item() for name, value in values.items() if hasattr(value, "repeat_interleave")}
    below = {name: row_of(values[name], row) for name in _nested(entry)}
    return dataclasses.replace(entry, **rows, **below)  # type: ignore[type-var]


def _nested(entry: Any) -> list[str]:
    """Name the options of an entry that hold another entry, built."""
    known = fields(type(entry))  # type: ignore[arg-type] # for mypy no class is hashable
    return [name for name, f in known.items() if f.metadata["entry"] and dataclasses.is_dataclass(getattr(entry, name))]
