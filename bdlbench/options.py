"""Options of a registered entry: the fields of its frozen dataclass, with help, range and choices.

A field annotated `PerRow` may differ between replicates of one batch; any other field makes another cell.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from bdlbench.errors import BadInput, unknown

Value = bool | int | float | str | tuple[int, ...]


def option(
    default: Any,
    help: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_ends: bool = False,
    choices: Sequence[str] = (),
    entry: str = "",
) -> Any:
    """A dataclass field that documents itself. `open_ends` excludes `low` and `high` themselves.

    entry: a kind of the catalog; the option then names an entry of that kind, and the field holds the built entry.
    """
    metadata = {"help": help, "low": low, "high": high, "open_ends": open_ends, "choices": tuple(choices), "entry": entry}
    return dataclasses.field(default=default, metadata=metadata)


def fields(entry: type) -> dict[str, dataclasses.Field[Any]]:
    """The options of an entry, by name: every field made with `option`."""
    return {f.name: f for f in dataclasses.fields(entry) if "help" in f.metadata}


def per_row_names(entry: type) -> set[str]:
    """Names of the options that may differ between replicates of one batch."""
    return {name for name, f in fields(entry).items() if "PerRow" in str(f.type)}


def resolve(entry: type, name: str, given: Mapping[str, Any]) -> dict[str, Value]:
    """All options of `entry` with `given` laid over the defaults, each parsed and checked.

    Raises BadInput for an unknown option (with the nearest), a wrong type, or a value out of range.
    """
    known = fields(entry)
    for key in given:
        if key not in known:
            raise unknown(f"option of {name}", key, known)
    return {key: _checked(f, f"{name}.{key}", given.get(key, f.default)) for key, f in known.items()}


def _checked(field: dataclasses.Field[Any], where: str, raw: Any) -> Value:
    value = _parsed(field.default, where, raw)
    low, high, open_ends = (field.metadata[k] for k in ("low", "high", "open_ends"))
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, str) or isinstance(number, bool):
            continue
        inside = low < number < high if open_ends else low <= number <= high
        if not inside:
            left, right = "()" if open_ends else "[]"
            raise BadInput(f"{where}={_spell(value)} is out of range: allowed {left}{low:g}, {high:g}{right}")
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise unknown(f"value of {where}", str(value), choices)
    return value


def _parsed(default: Any, where: str, raw: Any) -> Value:
    """`raw` (text, or a TOML value) as the type of the option's default."""
    try:
        if isinstance(default, bool):
            return _boolean(raw)
        if isinstance(default, int):
            if isinstance(raw, float) and raw != int(raw):
                raise ValueError
            return int(raw)
        if isinstance(default, float):
            return float(raw)
        if isinstance(default, tuple):
            parts = raw.split("-") if isinstance(raw, str) else raw
            return tuple(int(part) for part in parts if part != "")
    except (TypeError, ValueError):
        raise BadInput(f"{where}={_spell(raw)} is not {_kind(default)}") from None
    return str(raw)


def _boolean(raw: Any) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    if str(raw).lower() not in words:
        raise ValueError
    return words[str(raw).lower()]


def _kind(default: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", tuple: "whole numbers joined by '-'"}
    return kinds[type(default)]


def _spell(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


Entry = TypeVar("Entry")


def repeat_rows(entry: Entry, times: int) -> Entry:
    """`entry` with each per-replicate option (R,) repeated to (R·times,): r0 r0 … r1 r1 …"""
    values = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry)}  # type: ignore[arg-type]
    rows = {name: value.repeat_interleave(times) for name, value in values.items() if hasattr(value, "repeat_interleave")}
    return dataclasses.replace(entry, **rows)  # type: ignore[type-var]
