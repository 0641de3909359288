"""Whether functions that are called repeatedly remember something between calls that no checkpoint holds."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bdlbench.core.streams import Streams
from bdlbench.core.torch_private import version

CLOSED = (type, FunctionType, MethodType, ModuleType, Tensor, Streams, random.Random)
"""Types that are not looked into: code, and objects whose change `_version` tells."""


@dataclass(frozen=True)
class Held:
    """A variable that the function at `where` uses from its surroundings, and what it held.

    Attributes:
        where: The file and line of the function.
        name: The name of the variable.
        value: Its value.
        parts: The objects in a container.
        version: Changes when a tensor is changed in place, or a generator draws.
    """

    where: str
    name: str
    value: Any
    parts: tuple[Any, ...]
    version: Any

    def same(self, now: Held) -> bool:
        """Tell whether neither the variable nor its content has changed."""
        pairs = [(self.value, now.value), *zip(self.parts, now.parts, strict=False)]
        unchanged = len(self.parts) == len(now.parts) and self.version == now.version
        return unchanged and all(before is after for before, after in pairs)


def held(function: Callable[..., object], caches: bool, depth: int = 3) -> Iterator[Held]:
    """Yield what a function uses from its surroundings, and what the functions given to it or defined beside it use.

    Without `caches`, dicts and tensors are left out: they may be caches and buffers that change no result.
    """
    plain = _plain(function)
    if plain is None or depth == 0:
        return
    for name, value in _outer(function, plain).items():
        if isinstance(value, FunctionType | MethodType | partial):
            yield from held(value, caches, depth - 1)
        inside = getattr(value, "__self__", value) if isinstance(value, BuiltinMethodType) else value  # kept.append
        own = vars(inside) if hasattr(inside, "__dict__") and not isinstance(inside, CLOSED) else {}
        for key, one in {name: inside, **{f"{name}.{attribute}": part for attribute, part in own.items()}}.items():
            hidden = caches and isinstance(one, dict | Tensor)
            yield Held(place(plain), key, one, () if hidden else _parts(one), 0 if hidden else _version(one))


def _outer(function: Callable[..., object], plain: FunctionType) -> dict[str, Any]:
    """Return by name what the function reads from its module and from functions around it.

    The arguments of a partial are part of it.
    """
    found = {name: plain.__globals__[name] for name in plain.__code__.co_names if name in plain.__globals__}
    for name, value in list(found.items()):
        if not isinstance(value, Tensor) and getattr(value, "__module__", None) not in (None, plain.__module__):
            del found[name]  # defined by another module
    for name, cell in zip(plain.__code__.co_freevars, plain.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # it has no value yet
            found[name] = None
    if isinstance(function, MethodType):
        found["self"] = function.__self__
    elif not isinstance(function, FunctionType | partial):
        found["self"] = function
    if isinstance(function, partial):
        found |= dict(zip(plain.__code__.co_varnames, function.args, strict=False)) | function.keywords
    return found


def place(function: Callable[..., object]) -> str:
    """Return the file and first line of a function."""
    plain = _plain(function)
    return f"{plain.__code__.co_filename}:{plain.__code__.co_firstlineno}" if plain else repr(function)


def _plain(function: Any) -> FunctionType | None:
    """Return the function behind a partial, a method or a callable object."""
    function = getattr(function, "func", function)
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType):
        function = vars(type(function)).get("__call__")
    return function if isinstance(function, FunctionType) else None


def _parts(value: Any) -> tuple[Any, ...]:
    if isinstance(value, dict):
        return (*value, *value.values())
    return tuple(value) if isinstance(value, list | set | deque) else ()


def _version(value: Any) -> Any:
    if isinstance(value, Tensor):
        return version(value)
    if isinstance(value, Streams):
        return value.drawn()
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    return value.getstate() if isinstance(value, random.Random) else 0
