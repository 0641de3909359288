"""The options that every data set takes: sets that a person adds to it, and what else of it is predicted.

`--set mnist.ood=image_folder:FOLDER` and `--set mnist.shift=npz:FILE` add out-of-distribution inputs, or a shifted test
set with its targets, to every data set that says how raw inputs come to the scale of its training inputs (`Task.raw`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bdlbench.core.errors import BadInput, named, unknown
from bdlbench.core.foreign import shown
from bdlbench.core.options import FileKind, option, short
from bdlbench.data import arrays, given, tables
from bdlbench.data.arrays import CHANNELS, Colour
from bdlbench.data.splits import class_labels
from bdlbench.data.tables import CsvFormat, Table, is_text
from bdlbench.data.task import RawInputs, Shift, Task
from bdlbench.stats.ood_scores import AFTER_TRAINING

KINDS_OF_FILES: dict[str, FileKind] = {
    "csv": "file",
    "image_folder": "folder",
    "libsvm": "file",
    "npz": "file",
    "parquet": "file",
}
"""What can be added, by the name of the data set that reads it, and what its path names."""

TARGET_ARRAYS = ("y", "Y", "y_test", "labels", "targets")
INPUT_ARRAYS = ("x", "X", "x_test")

_Measured = tuple[Any, NDArray[Any] | None]
"""Inputs as `RawInputs.scaled` takes them, and targets (N,) as the file has them, where asked."""


@dataclass(frozen=True)
class DatasetOptions:
    """The options of every data set; sets of one's own are KIND:PATH with one of the kinds above.

    Attributes:
        calibration: The share of the training rows that no method sees, for metrics that need rows like test rows.
        joint: How many functions are drawn for likelihoods of several targets at once.
        ood_scores: Scores for out-of-distribution inputs that are made after training, joined by +.
        ood: Out-of-distribution inputs; their targets, if any, are not read.
        ood_sha256: What identifies their content.
        shift: A shifted test set with examples and targets of its own.
        shift_sha256: What identifies its content.
    """

    calibration: float = option(
        0.0,
        "share of the training rows that is kept from training, by which conformal sets of classes are calibrated",
        low=0,
        high=0.99,
        later=True,
    )
    joint: int = option(
        0, "functions that are drawn for the likelihood of several targets at once; 0: none", low=0, later=True
    )
    ood_scores: str = option(
        "none",
        f"out-of-distribution scores made after training: {', '.join(AFTER_TRAINING)}, several joined by +, or all",
        later=True,
    )
    ood: str = option("", "an out-of-distribution set of your own, as image_folder:PATH or npz:PATH", later=True)
    ood_sha256: str = option("", "the beginning of the SHA-256 of its content; it is computed", later=True)
    shift: str = option("", "a shifted test set of your own with targets, as npz:PATH or csv:PATH", later=True)
    shift_sha256: str = option("", "the beginning of the SHA-256 of its content; it is computed", later=True)


def identified(options: Mapping[str, Any], name: str) -> dict[str, str | float]:
    """Return the options that are not at their defaults, those of added sets with what identifies the content of each.

    Args:
        options: The fields of `DatasetOptions` that are given.
        name: The data set that they are added to, for messages.

    Returns:
        The same, with `ood_sha256` and `shift_sha256`; nothing for what is at its default.

    Raises:
        BadInput: A text is not KIND:PATH, or the path is not what the kind reads.
        DataUnavailable: There is nothing of that path.
    """
    found: dict[str, str | float] = {}
    if options.get("calibration"):
        found["calibration"] = float(options["calibration"])
    if options.get("joint"):
        found["joint"] = int(options["joint"])
    if asked := asked_scores(str(options.get("ood_scores", "none")), name):
        found["ood_scores"] = "+".join(asked)
    for key in ("ood", "shift"):
        text, wanted = str(options.get(key, "")), str(options.get(f"{key}_sha256", ""))
        if not text and not wanted:
            continue
        kind, path = _parsed(text, f"{name}.{key}")
        sha256 = given.identified(path, wanted, f"{name}.{key}", KINDS_OF_FILES[kind])
        found |= {key: text, f"{key}_sha256": sha256}
    return found


def asked_scores(text: str, name: str) -> tuple[str, ...]:
    """Return the names of the scores that `ood_scores` asks for, in one order; `name` is the data set, for messages.

    Raises:
        BadInput: A name is unknown.
    """
    named = {"none": (), "": (), "all": AFTER_TRAINING}.get(text, tuple(text.split("+")))
    for one in named:
        if one not in AFTER_TRAINING:
            raise unknown(f"score of {name}.ood_scores", one, [*AFTER_TRAINING, "all", "none"])
    return tuple(sorted(set(named)))


def with_added(task: Task, options: Mapping[str, Any], name: str) -> Task:
    """Add a person's sets to a task.

    Args:
        task: The task.
        options: The fields of `DatasetOptions` that are given, with what identifies the content of each.
        name: The data set, for messages.

    Returns:
        The task with an out-of-distribution set, or a shifted test set, called as the file or folder is.

    Raises:
        BadInput: The data set takes no such set, or the file is not what it should be; or what is asked for is of
            classes, and the data set has none.
        DataUnavailable: It is absent.
    """
    for key in ("calibration", "joint", "ood_scores"):
        if options.get(key) and task.signature.likelihood != "categorical":
            raise BadInput(f"{name}.{key} is for a classifier, and the likelihood here is {task.signature.likelihood}")
    for key in ("ood", "shift"):
        text, raw = str(options.get(key, "")), task.raw
        if not text:
            continue
        kind, path = _parsed(text, f"{name}.{key}")
        place = given.same(path, str(options[f"{key}_sha256"]), f"{name}.{key}")
        place = given.of_kind(place, f"{name}.{key}", KINDS_OF_FILES[kind])
        if raw is None:
            raise BadInput(f"{name}.{key}: {name} does not say how inputs come to its scale, so no set can be added")
        taken = {"test", *task.ood, *task.shifts}
        title = re.sub(r"[^\w-]+", "_", place.stem).strip("_-") or "own"
        title = f"{title}_own" if title in taken else title
        source = {place.name: given.sha256(place)}
        if key == "ood":
            x, _ = _read(kind, place, task, raw, wants_targets=False)
            task = replace(task, ood={**task.ood, title: x}, sources={**task.sources, **source})
        else:
            x, y = _read(kind, place, task, raw, wants_targets=True)
            task = replace(task, shifts={**task.shifts, title: Shift(x, y)}, sources={**task.sources, **source})
    if options.get("ood_scores") and not task.ood:
        raise BadInput(f"{name}.ood_scores: {name} has no out-of-distribution set: add one by {name}.ood")
    return task


def _parsed(text: str, where: str) -> tuple[str, str]:
    kind, colon, path = text.partition(":")
    if not (colon and path):
        raise BadInput(f"{where}={short(text)!r} cannot be read: write KIND:PATH, such as image_folder:far")
    if kind not in KINDS_OF_FILES:
        raise unknown(f"kind of set in {where}", kind, KINDS_OF_FILES)
    return kind, path


def _read(kind: str, path: Path, task: Task, raw: RawInputs, wants_targets: bool) -> tuple[Tensor, Tensor | None]:
    """Read inputs on the model's scale (N, *S) float32 and, where asked, targets (N,)."""
    where, shape = shown(path), task.signature.input_shape
    read = {"image_folder": _images, "npz": _arrays}.get(kind, _rows)
    x, targets = read(kind, path, task, raw, wants_targets)
    if not len(x):
        raise BadInput(f"{where} holds no examples")
    if not isinstance(x, Table) and tuple(x.shape[1:]) != tuple(shape):
        raise BadInput(f"{where}: an example has the shape {tuple(x.shape[1:])}, one of the data set {tuple(shape)}")
    scaled = raw.scaled(x)
    if not scaled.isfinite().all():
        raise BadInput(f"{where} holds numbers that are not finite, or too large on the scale of the training rows")
    if targets is None:
        return scaled, None
    if len(targets) != len(scaled):
        raise BadInput(f"{where}: {len(scaled):,} inputs and {len(targets):,} targets: there is one for each")
    return scaled, _targets(targets, task, raw, where)


def _arrays(kind: str, path: Path, task: Task, raw: RawInputs, wants_targets: bool) -> _Measured:
    """Read the arrays of an npz file."""
    where, found = shown(path), arrays.read_npz(path)
    x: Any = arrays.numbers(_array(found, INPUT_ARRAYS, where), where)
    if x.ndim < 2:
        raise BadInput(f"{where}: the inputs have shape {x.shape}: examples are (N, …)")
    if raw.kind == "pixels":
        x = _bytes(arrays.as_images(x, where), where)
    elif raw.kind == "table":
        if x.ndim != 2:
            raise BadInput(f"{where}: the inputs have shape {x.shape}: a table is (N, D)")
        x = tables.of_array(where, x)
    return x, _array(found, TARGET_ARRAYS, where) if wants_targets else None


def _rows(kind: str, path: Path, task: Task, raw: RawInputs, wants_targets: bool) -> _Measured:
    """Read a csv, parquet or libsvm file."""
    where, shape = shown(path), task.signature.input_shape
    if len(shape) != 1:
        raise BadInput(f"{where} is a table: inputs of shape {tuple(shape)} are asked for")
    if kind == "libsvm":
        ((x, y),) = tables.read_libsvm([path], len(raw.columns) or shape[0])
        return tables.of_array(where, x) if raw.kind == "table" else x, y if wants_targets else None
    if raw.read is not None and kind == "csv":
        table: Table = raw.read(path)
    else:
        table = tables.read_csv(path, CsvFormat()) if kind == "csv" else tables.read_parquet(path)
    if wants_targets and raw.target not in table.columns:
        raise unknown(f"column of {where}, the target,", raw.target or "y", table.columns)
    targets = table.columns[raw.target] if wants_targets else None
    inputs = table.without([raw.target])
    if raw.kind == "table":
        return inputs, targets
    if any(map(is_text, inputs.columns.values())):
        raise BadInput(f"{where} holds texts: this data set has numbers only")
    return np.stack(list(inputs.columns.values()), axis=1), targets


def _images(kind: str, path: Path, task: Task, raw: RawInputs, wants_targets: bool) -> _Measured:
    """Read a folder of images in the size and colour of the data set, with the names of their folders."""
    shape = task.signature.input_shape
    colour = next((colour for colour, channels in CHANNELS.items() if shape[:1] == (channels,)), None)
    if raw.kind != "pixels" or colour is None:
        raise BadInput(f"{shown(path)} holds images: inputs of shape {tuple(shape)} are asked for")
    size: tuple[int, int] = (shape[1], shape[2])
    picked: Colour = colour
    if not wants_targets:
        files = list(given.images_of(path).values())
        if not files:
            raise BadInput(f"{shown(path)} holds no images")
        return arrays.decoded(files, size, picked), None
    read = arrays.read_classes(path, size, picked)
    return read.pixels, np.array(read.classes, dtype=object)[read.labels]


def _array(found: Mapping[str, NDArray[Any]], names: tuple[str, ...], where: str) -> NDArray[Any]:
    name = next((name for name in names if name in found), None)
    if name is None:
        held = named(sorted(found)) or "none"
        raise BadInput(f"{where} has no array {' or '.join(names)}; it has {held}")
    return found[name]


def _bytes(images: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Return images as bytes: as they are, or rounded from numbers between 0 and 1."""
    if images.dtype == np.uint8:
        return images
    if not (images.size and np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise BadInput(f"{where}: pixels are bytes, or numbers from 0 to 1")
    return (images.astype(np.float64) * 255).round().astype(np.uint8)


def _targets(targets: NDArray[Any], task: Task, raw: RawInputs, where: str) -> Tensor:
    """Return targets (N,) as the model has them: int64 classes, or float32 on its scale."""
    if task.signature.likelihood == "gaussian":
        if targets.dtype.kind not in "biuf" or not np.isfinite(targets).all() or targets.ndim != 1:
            raise BadInput(f"{where}: targets are numbers (N,), all of them finite")
        return torch.from_numpy((targets.astype(np.float64) - task.y_mean) / task.y_sd).to(torch.float32)
    known = [_named(value) for value in (raw.classes or range(task.signature.outputs))]
    places = {name: i for i, name in enumerate(known)}
    names = [_named(value) for value in targets.reshape(-1).tolist()]
    for row, name in enumerate(names):
        if name not in places:
            told = f"{', '.join(known[:10])}{', …' if len(known) > 10 else ''}"
            raise BadInput(f"{where}: example {row}, from 0, has the class {short(name)!r}; the data set has {told}")
    return class_labels(np.array([places[name] for name in names], dtype=np.int64))


def _named(value: Any) -> str:
    """Write a class: 3 for 3.0."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
