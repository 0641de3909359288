"""The arrays of a file of predictions: which axes they have, and what the predictions of a record cannot be."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bdlbench.core.options import short
from bdlbench.core.typed import Misfit

DTYPES = (torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""The types of stored arrays."""

AXES = {"y": 2, "log_probs": 3, "probs": 3, "log_density": 2, "mean": 2, "sd": 2, "cdf": 2, "crps": 2}
AXES |= {"group_log_prob": 3, "function_log_prob": 3, "function_log_probs": 4}
"""How many axes the arrays have from which metrics are computed."""

DENSITIES = ("log_density", "group_log_prob", "sd")
"""What tells the density of targets that are numbers; one of them lies beside these."""


def row_axis(name: str) -> int:
    """Return the replicate axis of a stored array: 1 behind the axis of groups or functions, else 0."""
    return 1 if name.endswith(("group_log_prob", "function_log_prob", "function_log_probs")) else 0


def refuse_others(arrays: Mapping[str, Tensor], rows: int) -> None:
    """Refuse arrays that cannot be the predictions of a record.

    Args:
        arrays: By name, such as test.log_probs, where the part before the last dot is a set of examples.
        rows: R, the number of replicates.

    Raises:
        Misfit: A name is none, an array is of another type or other axes, sets differ in their examples, or nothing
            tells the probability of a set's targets. The text names the array.
    """
    examples: dict[str, int] = {}
    for name, value in sorted(arrays.items()):  # their order differs between files
        where, dot, what = name.rpartition(".")
        axis, said = row_axis(name), f"array {name!r} {tuple(value.shape)}"
        if not (dot and name.isprintable()):
            raise Misfit(f"array {short(name, repr)} has no name of a set and a quantity")
        if value.dtype not in DTYPES:
            raise Misfit(f"{said} holds {value.dtype}")
        if value.ndim != AXES.get(what, max(value.ndim, axis + 2)):
            raise Misfit(f"{said} has not {AXES.get(what, axis + 2)} axes")
        if value.shape[axis] != rows:
            raise Misfit(f"{said} is not of {rows} replicates")
        if not 0 < value.shape[axis + 1] == examples.setdefault(where, value.shape[axis + 1]):
            raise Misfit(f"{said} has not as many examples as others of its set")
        if not len(value):
            raise Misfit(f"{said} is empty")
    for name in arrays:
        where, _, what = name.rpartition(".")
        if what == "y":
            _refuse_targets(arrays, where)


def _refuse_targets(arrays: Mapping[str, Tensor], where: str) -> None:
    """Raise Misfit where nothing of a set tells the probability of its targets, or a class is none."""
    y, name = arrays[f"{where}.y"], f"array {f'{where}.y'!r}"
    if y.is_floating_point():
        if not any(f"{where}.{each}" in arrays for each in DENSITIES):
            raise Misfit(f"{name} has targets, and none of {', '.join(DENSITIES)} is beside it")
        return
    if not (beside := [arrays[n] for n in (f"{where}.log_probs", f"{where}.probs") if n in arrays]):
        if f"{where}.log_density" in arrays:  # of the inputs: the classes are only known of them, not predicted
            return
        raise Misfit(f"{name} has classes, and no log_probs are beside it")
    if not 0 <= int(y.min()) <= int(y.max()) < beside[0].shape[-1]:
        raise Misfit(f"{name} holds a class that is none of {beside[0].shape[-1]}")
