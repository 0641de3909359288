"""Any `nn.Module` as a model of the catalog: its own forward and start, under every method."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from bdlbench.core.errors import BadInput
from bdlbench.core.foreign import Broken, calling, written
from bdlbench.core.layout import Leaf
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.networks import modules
from bdlbench.networks.layers import Dropout, Point
from bdlbench.networks.likelihoods import (
    noise_leaves,
    noise_option,
    noise_unsupported,
    noisy_output,
)
from bdlbench.protocols import Layer, Output

OwnDropout = Literal["stays_on", "as_trained"]


def from_module(make: Callable[..., nn.Module], **options: Any) -> type:
    """Make a model of a callable that returns an `nn.Module`, for a plugin's dict `models`.

    Parameters of the callable that have a number, a text, a truth value or a tuple of whole numbers as their default
    become options of the model. One that is called `signature`, or annotated so, is given the `Signature` of the data.

    Args:
        make: The callable, or a module's class. It makes a new module at every call, with the start of its own.
        **options: For parameters whose option has a help and a range of its own, what `option` returned.

    Returns:
        The class of the model, a frozen dataclass.

    Raises:
        BadInput: The callable takes something that has no default, or an option that every model has.
    """
    if not callable(make):
        raise BadInput(f"from_module takes a callable that makes an nn.Module, not {type(make).__name__}")
    source: Any = make.func if isinstance(make, partial) else make
    name = getattr(source, "__name__", type(make).__name__)
    fields: list[Any] = [("signature", Signature)]
    asks = ""
    for parameter in inspect.signature(make).parameters.values():
        default = parameter.default
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.name == "signature" or parameter.annotation in (Signature, "Signature"):
            asks = parameter.name
        elif default is parameter.empty:
            better = "give it a default, which makes it an option, or call it signature to get the data's Signature"
            raise BadInput(f"{name} ({written(make)}): its parameter {parameter.name} has no default: {better}")
        elif parameter.name in OWN_OPTIONS:
            raise BadInput(f"{name} ({written(make)}): {parameter.name} is an option of every module: rename it")
        elif _is_option(default):
            declared = options.get(parameter.name, option(default, f"of {name}"))
            fields.append((parameter.name, type(default).__name__, declared))
    fields += [(key, *rest) for key, rest in OWN_OPTIONS.items()]
    text = (inspect.getdoc(source) or "").partition("\n")[0] or f"{name}, an nn.Module."
    members = {"made_by": staticmethod(make), "asks": asks, "__doc__": text, **MEMBERS}
    model = dataclasses.make_dataclass(name, fields, namespace=members, frozen=True)
    model.__module__ = source.__module__  # now: dataclasses would look for a module that need not be imported
    return model


OWN_OPTIONS: dict[str, tuple[Any, Any]] = {
    "noise_sd": ("PerRow", noise_option("noise_sd")),
    "noise": ("NoiseKind", noise_option("noise")),
    "noise_unit": ("NoiseUnit", noise_option("noise_unit")),
    "own_dropout": (
        "OwnDropout",
        option(
            "stays_on",
            "under mc_dropout the module's own dropout layers are the ones that stay on, and its maps are not masked; "
            "as_trained: they are off in prediction, and the method masks the maps",
            choices=get_args(OwnDropout),
        ),
    ),
}
"""Options of every module, beside those of its callable: their types and fields."""


def _is_option(default: Any) -> bool:
    whole = isinstance(default, tuple) and all(type(one) is int for one in default)
    return type(default) in (bool, int, float, str) or whole


def _skeleton(model: Any) -> modules.Skeleton:
    """Return the module of a model, whose rows can be run together. Raises Broken where it is not supported."""
    entry: Any = type(model)
    return _tried(entry, _arguments(model), model.signature)


def _arguments(model: Any) -> tuple[tuple[str, Any], ...]:
    given = {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.name not in OWN_OPTIONS}
    signature = given.pop("signature")
    return (*given.items(), *([(model.asks, signature)] if model.asks else []))


@lru_cache(maxsize=32)
def _tried(entry: Any, arguments: tuple[tuple[str, Any], ...], signature: Signature) -> modules.Skeleton:
    return modules.skeleton(partial(entry.made_by, **dict(arguments)), signature.input_shape)


def unsupported(self: Any) -> str | None:
    """Say why the module cannot be run, or not on this signature; None where it can.

    Raises:
        BadInput: The module's own code fails; its file and line are named.
    """
    if reason := noise_unsupported(self.signature, self.noise, self.noise_unit):
        return reason
    with calling(f"model {type(self).__name__}", self.made_by):
        try:
            known = _skeleton(self)
        except Broken as error:
            return str(error)
    shape = known.output_shape
    if known.returns_probabilities and self.signature.likelihood == "categorical":
        return "it returns probabilities, those of each example sum to 1: let it return logits, without the softmax"
    count = self.signature.outputs + (self.noise == "head")
    if shape == (count,) or (shape == () and count == 1):
        return None
    what = f"{count} classes" if self.signature.likelihood == "categorical" else f"{count} numbers"
    return f"it returns {shape} for each example of {self.signature.input_shape}: ({count},) is right, for {what}"


def remark(self: Any) -> str | None:
    """Say that rows run one after the other; None where they run together, as usual."""
    if not _skeleton(self).apart:
        return None
    return "its forward would notice other rows in its batch, so they run one after the other, which takes longer"


def leaves(self: Any) -> dict[str, Leaf]:
    """Return the module's parameters and statistics by their own names; gains of norms are stored minus one."""
    return {**_skeleton(self).leaves, **noise_leaves(self.noise)}


def start(self: Any, data: Data, rng: Streams) -> dict[str, Tensor]:
    """Start each row as the module's own code does, seeded by the row's stream."""
    known, make = _skeleton(self), partial(self.made_by, **dict(_arguments(self)))
    with calling(f"model {type(self).__name__}", self.made_by):
        rows = [modules.values_of(modules.made(make, key, self.signature.input_shape)) for key in rng.keys]
    return {
        name: torch.stack([row[name] - float(leaf.role == "scale") for row in rows]).to(data.x)
        for name, leaf in known.leaves.items()
    }


def module(self: Any, rng: Streams) -> nn.Module:
    """Make the module anew, where `start` starts the row of streams rng (1,)."""
    with calling(f"model {type(self).__name__}", self.made_by):
        make = partial(self.made_by, **dict(_arguments(self)))
        return modules.made(make, rng.keys[0], self.signature.input_shape)


def with_target_sd(self: Any, y_sd: Tensor) -> Any:
    """Bring a noise in the target's units to the model's scale, of y / y_sd, y_sd (R,)."""
    if self.noise_unit == "model":
        return self
    return dataclasses.replace(self, noise_sd=self.noise_sd / y_sd, noise_unit="model")


def call(self: Any, layer: Layer, x: Tensor, rng: Streams) -> Output:
    """Compute the output of x ([M,] R, B, *input_shape)."""
    known = _skeleton(self)
    stays_on = self.own_dropout == "stays_on" and known.drops and isinstance(layer, Dropout)
    rule = layer
    if stays_on and isinstance(layer, Dropout):
        rule = getattr(layer, "around", lambda point: point)(Point(layer.leaves))  # whoever watches goes on watching
    raw = modules.run(known, rule, x, rng, stays_on)
    if not known.output_shape:
        raw = raw.unsqueeze(-1)
    return noisy_output(self.signature, raw, self.noise_sd, self.noise, rule)


def statistics(self: Any, layer: Layer, x: Tensor) -> dict[str, Tensor]:
    """Compute BatchNorm's statistics anew of the inputs x (R, B, *input_shape), by the names of its buffers."""
    return modules.statistics(_skeleton(self), layer, x)


MEMBERS: dict[str, Any] = {
    "unsupported": unsupported,
    "remark": remark,
    "leaves": leaves,
    "start": start,
    "statistics": statistics,
    "module": module,
    "with_target_sd": with_target_sd,
    "__call__": call,
}
