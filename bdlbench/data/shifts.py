"""Shifted images: rotated, moved, noisy, blurred or pale, at five severities, the same on every machine."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from bdlbench.core.errors import BadInput, unknown
from bdlbench.data.downloads import import_torchvision
from bdlbench.data.splits import Bytes, random_words

SHIFT_KINDS = ("rotation", "translation", "noise", "blur", "contrast")
SEVERITIES = range(1, 6)

DEGREES, PART_MOVED, NOISE_SD, BLUR_SD, CONTRAST = 15.0, 1 / 16, 0.1, 0.03, 0.15
"""What one severity adds: an angle, parts of the width, grey levels from 0 to 1, parts of the width, lost contrast."""

OPTION_HELP = "shifted test sets: none, all, or of rotation, translation, noise, blur and contrast some joined by +"


def shifted_images(images: Bytes, shifts: str, *key: str | int) -> dict[str, Bytes]:
    """Shift images in every asked way at severities 1 to 5.

    rotation: by 15, 30, …, 75 degrees counterclockwise, so that no digit becomes another one. translation: to the right
    by 1/16, …, 5/16 of the width. noise: Gaussian, with standard deviation 0.1, …, 0.5 of the grey range; an image has
    the same noise at each severity, in another strength. blur: by a Gaussian whose standard deviation is 3, …, 15 % of
    the width. contrast: 85, 70, …, 25 % of it, around the mean grey of the image. What moves in is black, and results
    are rounded to bytes: the last bit of another processor's arithmetic then seldom matters.

    Args:
        images: Grey or coloured images (N, C, H, W).
        shifts: "none", "all", or kinds joined by "+", in this order.
        *key: What fixes the noise, such as the data set's name and the split.

    Returns:
        {"rotation 1": (N, C, H, W), …}.

    Raises:
        BadInput: `shifts` cannot be read.
    """
    asked = _kinds(shifts)
    if not asked:
        return {}
    found, pixels = {}, torch.from_numpy(images).float() / 255
    noise = _standard_normal(tuple(pixels.shape), *key) if "noise" in asked else torch.zeros(())
    for kind in asked:
        for severity in SEVERITIES:
            changed = pixels + NOISE_SD * severity * noise if kind == "noise" else _shifted(kind, pixels, severity)
            found[f"{kind} {severity}"] = (changed.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return found


def _kinds(shifts: str) -> list[str]:
    """Read the option that names shifts. Each choice has one spelling, because records are found by it."""
    if shifts in ("none", "all"):
        return list(SHIFT_KINDS) if shifts == "all" else []
    asked = shifts.split("+")
    for kind in asked:
        if kind not in SHIFT_KINDS:
            raise unknown("shift", kind, ["none", "all", *SHIFT_KINDS])
    right = [kind for kind in SHIFT_KINDS if kind in asked]
    if asked != right or len(right) == len(SHIFT_KINDS):
        better = "all" if len(right) == len(SHIFT_KINDS) else "+".join(right)
        raise BadInput(f"shifts={shifts} has another spelling, by which records are found: write shifts={better}")
    return asked


def _shifted(kind: str, pixels: Tensor, severity: int) -> Tensor:
    """Shift pixels (N, C, H, W) from 0 to 1 in one way that needs no random numbers."""
    import_torchvision()
    from torchvision.transforms.v2 import InterpolationMode, functional  # slow to import

    changed: Tensor
    if kind == "rotation":
        changed = functional.rotate(pixels, DEGREES * severity, InterpolationMode.BILINEAR)
    elif kind == "translation":
        moved = [PART_MOVED * severity * pixels.shape[-1], 0]
        changed = functional.affine(pixels, 0.0, moved, 1.0, [0.0, 0.0], InterpolationMode.BILINEAR)
    elif kind == "blur":
        sd = BLUR_SD * severity * pixels.shape[-1]
        side = 2 * min(math.ceil(3 * sd), pixels.shape[-1] - 1) + 1  # more would reflect beyond the image
        changed = functional.gaussian_blur(pixels, [side, side], [sd, sd])
    else:
        changed = functional.adjust_contrast(pixels, 1 - CONTRAST * severity)
    return changed


def _standard_normal(shape: tuple[int, ...], *key: str | int) -> Tensor:
    """Return standard normal numbers fixed by `key`: the Box-Muller transform of NumPy's raw words."""
    half = -(-math.prod(shape) // 2)
    words = random_words(2 * half, *key, "noise").reshape(2, half)
    radius, turn = ((words >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53  # within (0, 1)
    radius, angle = np.sqrt(-2 * np.log(radius)), 2 * np.pi * turn
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: math.prod(shape)]
    return torch.from_numpy(normal.astype(np.float32)).reshape(shape)
