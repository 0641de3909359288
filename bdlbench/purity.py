"""Whether functions that are called again and again remember something between calls, where no checkpoint has it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Held:
    """A variable that the function at `where` takes from around it, and what it held.

    parts: the objects in a container; version: how often a tensor had been changed in place.
    """

    where: str
    name: str
    value: Any
    parts: tuple[Any, ...]
    version: int

    def same(self, now: Held) -> bool:
        """Whether neither the variable nor what is in it has changed."""
        pairs = [(self.value, now.value), *zip(self.parts, now.parts, strict=False)]
        unchanged = len(self.parts) == len(now.parts) and self.version == now.version
        return unchanged and all(before is after for before, after in pairs)


def held(function: Callable[..., object], caches: bool, depth: int = 3) -> Iterator[Held]:
    """What a function takes from around it, and what those functions take that it is given or that lie beside it.

    caches: what is in dicts and tensors is left out, since they may be caches and buffers that change no result.
    """
    plain = _plain(function)
    if plain is None or depth == 0:
        return
    for name, value in _outer(function, plain).items():
        inside = getattr(value, "__self__", value) if isinstance(value, BuiltinMethodType) else value  # kept.append
        if isinstance(value, FunctionType | MethodType | partial):
            yield from held(value, caches, depth - 1)
        hidden = caches and isinstance(inside, dict | Tensor)
        version = inside._version if isinstance(inside, Tensor) and not hidden else 0
        yield Held(place(plain), name, inside, () if hidden else _parts(inside), version)


def _outer(function: Callable[..., object], plain: FunctionType) -> dict[str, Any]:
    """By name: what the function reads of its module, of the functions around it, and the arguments of a partial."""
    found = {name: plain.__globals__[name] for name in plain.__code__.co_names if name in plain.__globals__}
    for name, value in list(found.items()):
        if not isinstance(value, Tensor) and getattr(value, "__module__", None) not in (None, plain.__module__):
            del found[name]  # what other modules define is theirs
    for name, cell in zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # nothing was assigned to it yet
            found[name] = None
    if isinstance(function, partial):
        found |= dict(zip(plain.__code__.co_varnames, function.args, strict=False)) | function.keywords
    return found


def place(function: Callable[..., object]) -> str:
    """Where a function stands: its file and first line."""
    plain = _plain(function)
    return f"{plain.__code__.co_filename}:{plain.__code__.co_firstlineno}" if plain else repr(function)


def _plain(function: Any) -> FunctionType | None:
    """The function behind a partial, a method or a callable object."""
    function = getattr(function, "func", function)
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType):
        function = vars(type(function)).get("__call__")
    return function if isinstance(function, FunctionType) else None


def _parts(value: Any) -> tuple[Any, ...]:
    if isinstance(value, dict):
        return (*value, *value.values())
    return tuple(value) if isinstance(value, list | set | deque) else ()
