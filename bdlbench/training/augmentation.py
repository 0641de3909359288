"""Augmentation by torchvision's transforms, drawn from each row's own stream."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bdlbench.core import torch_state
from bdlbench.core.errors import BadInput, unknown
from bdlbench.core.foreign import told
from bdlbench.core.streams import Streams
from bdlbench.data.downloads import import_torchvision
from bdlbench.training.plan import Augment

Transform = Callable[[Tensor], Tensor]
"""Moves one image (C, H, W), by torch's global generator."""


def augmentation(text: str) -> Augment:
    """Return the augmentation that a text names, such as "RandomCrop size=32 padding=4 + RandomHorizontalFlip".

    Every image is moved by itself. What is drawn for a row depends on its own stream alone, so a row has the same bits
    alone and among others. torch's global generator is left as it was.

    Args:
        text: Names of `torchvision.transforms.v2`, each with its arguments as NAME=VALUE, joined by " + ". A value is a
            number, numbers joined by "-", true, false, or text.

    Returns:
        (inputs (R, B, C, H, W), streams (R,) of this batch) -> inputs of the same shape.

    Raises:
        BadInput: There is no such transform, or its arguments are not as given; or, when it is used, it changes the
            shape of an image.
    """
    transforms = _transforms(text)

    def augment(x: Tensor, rng: Streams) -> Tensor:
        moved = torch.empty_like(x)
        for row, key in enumerate(rng.keys):
            with torch_state.seeded(key):
                for i in range(x.shape[1]):
                    image: Any = x[row, i]
                    try:
                        for transform in transforms:
                            image = transform(image)
                    except Exception as error:  # such as MixUp, which mixes labels too
                        raise BadInput(f"augmentation={text}: it cannot move an image alone: {told(error)}") from None
                    if not isinstance(image, Tensor):
                        raise BadInput(
                            f"augmentation={text}: it makes a {type(image).__name__} of an image, not a tensor"
                        )
                    if image.shape != x.shape[2:]:
                        here, there = ("×".join(map(str, shape)) for shape in (x.shape[2:], image.shape))
                        raise BadInput(f"augmentation={text}: it makes {there} of an image of {here}: keep its size")
                    moved[row, i] = image
        return moved

    return augment


@lru_cache
def _transforms(text: str) -> tuple[Transform, ...]:
    """Make the transforms that a text names. Raises BadInput for one that does not exist, or cannot be made."""
    try:
        import_torchvision()
        module = importlib.import_module("torchvision.transforms.v2")
    except ImportError:
        raise BadInput(f"augmentation={text} needs torchvision: pip install torchvision") from None
    base: Any = module.Transform
    known = {name: one for name, one in vars(module).items() if isinstance(one, type) and issubclass(one, base)}
    made: list[Transform] = []
    for part in text.split("+"):
        name, *arguments = part.split() or [""]
        if name not in known:
            raise unknown("transform of torchvision", name, known)
        pairs = [argument.partition("=") for argument in arguments]
        if wrong := next((argument for argument, pair in zip(arguments, pairs, strict=True) if not pair[2]), ""):
            raise BadInput(f"augmentation={text}: {wrong} is no argument: write NAME=VALUE, such as size=32")
        try:
            made.append(known[name](**{key: _value(value) for key, _, value in pairs}))
        except Exception as error:  # torchvision's own checks raise many kinds
            raise BadInput(f"augmentation={text}: {name} does not take these arguments: {told(error)}") from None
    return tuple(made)


def _value(text: str) -> Any:
    """Return the number, the numbers joined by "-", the truth value or the text that an argument has."""
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    parts = text.split("-")
    try:
        return [float(part) if "." in part else int(part) for part in parts]
    except ValueError:
        return text
