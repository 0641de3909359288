"""What comes from outside, such as JSON, as typed data: what does not fit a type is named by its place."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from bdlbench.core.errors import one_line, printable

Typed = TypeVar("Typed")

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A whole number that is at least 0 and has at most 63 bits, as tensors and frames hold it."""

Positive = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
"""A whole number that is at least 1 and has at most 63 bits."""

Cost = Annotated[float, msgspec.Meta(ge=-1e100, le=1e100)]
"""Seconds, bytes and the like, whose sums a float holds."""

Text = Annotated[str, msgspec.Meta(min_length=1)]
"""A text that is not empty."""

Sha256 = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")]
"""A SHA-256 in hex, or "" for none."""

MOST_NESTED = 32
"""How deep lists and tables may lie in each other where no type says it."""


class Misfit(ValueError):
    """A value that is not of the type that it should have. Its text names the place within the value, and the type."""


def decoded(content: bytes) -> Any:
    """Decode JSON.

    Args:
        content: The text of the JSON in UTF-8.

    Returns:
        Tables, lists, texts, numbers, truth values or None. Texts are whole: without halves of a sign.

    Raises:
        Misfit: It is no JSON, is nested too deep, or holds a number that is not finite or has too many digits.
    """
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise Misfit(one_line(error)) from None


def typed(value: Any, kind: type[Typed], where: str = "") -> Typed:
    """Convert tables, lists and scalars to a dataclass, whose annotations say what is allowed.

    Args:
        value: What was decoded.
        kind: A dataclass. Its annotations may hold other dataclasses, and ranges such as `Count`.
        where: The name of the value, for messages: `values`.

    Returns:
        The dataclass, with whole numbers made real where it wants these, and lists made tuples.

    Raises:
        Misfit: A field is absent, unknown, of another type or out of range.
    """
    try:
        msgspec.convert(value, _strict(kind))  # type: ignore[arg-type] # for mypy no class is hashable
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Misfit(_told(error, value, kind, where)) from None
    except RecursionError:
        raise Misfit(f"{where or 'it'} is nested too deep") from None


@cache
def _strict(kind: Any) -> type[msgspec.Struct]:
    """Return the same fields as a type that refuses unknown ones: msgspec passes them over in a dataclass."""
    hints = get_type_hints(kind, include_extras=True)
    fields: list[Any] = []
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        fields.append((field.name, _strict_hint(hints[field.name]), *(() if required else (None,))))
    return msgspec.defstruct(kind.__name__, fields, forbid_unknown_fields=True, kw_only=True)


def _strict_hint(hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return _strict(hint)  # type: ignore[arg-type]
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated or not any(map(_has_dataclass, parts)):
        return hint
    replaced = tuple(part if part is Ellipsis else _strict_hint(part) for part in parts)
    return Union[replaced] if origin in (Union, UnionType) else origin[replaced]  # noqa: UP007


def _has_dataclass(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint) or any(map(_has_dataclass, get_args(hint)))


def _told(error: Exception, value: Any, kind: type, where: str) -> str:
    """Say what does not fit, and where: msgspec writes `[...]` for the key of a table, which is looked for here."""
    what, _, place = str(error).partition(" - at `")
    what = re.sub(r"`([^`]*)`", r"\1", what)
    steps = re.findall(r"\[\.\.\.\]|\[\d+\]|\.[^.\[\]]+", place.removesuffix("`"))
    names: list[Any] = []
    for step in steps:
        if step == "[...]":
            found: Any = value
            for name in names:
                found = found[name]
            names.append(next((key for key in found if _fails(_only(value, names, key), kind, str(error))), "?"))
        else:
            names.append(int(step[1:-1]) if step.startswith("[") else step[1:])
    path = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names)
    path = f"{where}{path}".lstrip(".")
    path = path if len(path) <= 120 else f"{path[:120]}…"
    return f"{path}: {what}" if path else what


def _only(value: Any, names: Sequence[Any], key: str) -> Any:
    """Return the value with a single key left in the table at `names`."""
    if not names:
        return {key: value[key]}
    inner = _only(value[names[0]], names[1:], key)
    return (
        {**value, names[0]: inner}
        if isinstance(value, Mapping)
        else [inner if i == names[0] else part for i, part in enumerate(value)]
    )


def _fails(value: Any, kind: type, message: str) -> bool:
    try:
        msgspec.convert(value, _strict(kind))
    except msgspec.ValidationError as error:
        return str(error) == message
    return False


def unseen(value: Any) -> Iterator[str]:
    """Yield the texts in a value, keys included, that hold characters which cannot be seen."""
    if isinstance(value, str):
        if not value.isprintable():
            yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from unseen(key)
            yield from unseen(part)
    elif isinstance(value, list):
        for part in value:
            yield from unseen(part)


def plain(value: Any, nested: int = MOST_NESTED) -> Any:
    """Return a value whose texts, keys included, can be printed on one line: other characters become escapes.

    Args:
        value: What was decoded.
        nested: How deep tables and lists may lie in each other.

    Returns:
        The value.

    Raises:
        Misfit: It is nested deeper.
    """
    if isinstance(value, str):
        return printable(value)
    if not isinstance(value, Mapping | list):
        return value
    if nested == 0:
        raise Misfit("lists and tables lie too deep in each other")
    if isinstance(value, Mapping):
        return {plain(key): plain(part, nested - 1) for key, part in value.items()}
    return [plain(part, nested - 1) for part in value]
