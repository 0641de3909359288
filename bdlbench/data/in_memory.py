"""Data that a program holds: arrays, tensors, frames and torch's data sets, as the content of a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bdlbench.core import files
from bdlbench.core.errors import BadInput, named, one_line
from bdlbench.data.given import DIGITS


@dataclass(frozen=True)
class OwnData:
    """A data set that a program holds, to be given to `run` as a data set. `api.dataset_from` makes one.

    Its content is that of a file, which `run` writes beside the records: so workers can read it, and records of it can
    be verified later.

    Attributes:
        kind: The data set that reads the file: "csv" or "npz".
        file: The name of the file, which holds the beginning of the SHA-256 of its content.
        options: Options of that data set, without the file's own.
        content: What the file holds.
    """

    kind: str
    file: str
    options: Mapping[str, Any] = field(default_factory=dict)
    content: bytes = field(default=b"", repr=False)

    def settings(self, folder: Path) -> dict[str, Any]:
        """Return all options of the data set, with the file in `folder`."""
        return {**self.options, "path": str(folder / self.file), "path_sha256": files.sha256(self.content)[:DIGITS]}


def own_data(name: str, x: Any, y: Any, test: tuple[Any, Any] | None, options: Mapping[str, Any]) -> OwnData:
    """Make a data set of what a program holds.

    Args:
        name: The beginning of the file's name.
        x: A frame, an array or tensor (N, *S), or a torch data set of pairs (input, target).
        y: Targets (N,), or the name of a column of the frame; None for a torch data set.
        test: Test inputs and targets, or None for a split at random.
        options: Options of the data set `csv` for frames, of `npz` for all else.

    Returns:
        The data set.

    Raises:
        BadInput: Something is of another type or shape.
    """
    if not str(name).isidentifier():
        raise BadInput(f"name={name!r}: letters, digits and _ only, as it is the name of a file")
    if hasattr(x, "columns") and hasattr(x, "to_numpy"):
        kind, content, told = "csv", *_of_frame(x, y, test)
    else:
        kind, content, told = "npz", _of_arrays(x, y, test), {}
    file = f"{name}-{files.sha256(content)[:8]}.{kind}"
    return OwnData(kind, file, {**told, **options}, content)


def _of_frame(frame: Any, y: Any, test: tuple[Any, Any] | None) -> tuple[bytes, dict[str, Any]]:
    """Write a frame as csv, and say how it is read: its target, its split, its categories."""
    if isinstance(y, str):
        if y not in frame.columns:
            raise BadInput(f"y={y!r} is no column of the frame, which has {named(map(str, frame.columns))}")
        parts, target = [(frame, frame[y])], y
    else:
        target = str(getattr(y, "name", None) or "y")
        if target in frame.columns:
            raise BadInput(f"y is called {target!r}, as a column of the frame is: give that name, or rename one")
        parts = [(frame, y)]
    if test is not None:
        parts.append((test[0], test[0][y] if isinstance(y, str) else test[1]))
    names = [column for column in frame.columns if column != target]
    split = "split of the program"
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*map(str, names), target, *([split] if test else [])])
    for part, (inputs, targets) in zip(("train", "test"), parts, strict=False):
        columns = [_words(inputs[name], str(name)) for name in names] + [_words(targets, target)]
        if len({len(column) for column in columns}) > 1:
            raise BadInput(f"x has {len(inputs)} rows and y {len(targets)}: there is one target for each row")
        writer.writerows([*row, *([part] if test else [])] for row in zip(*columns, strict=True))
    categories = [str(name) for name in names if str(frame[name].dtype) == "category"]
    told: dict[str, Any] = {"target": target}
    told |= {"split_column": split} if test else {}
    told |= {"categorical": "+".join(categories)} if categories else {}
    return stream.getvalue().encode(), told


def _words(column: Any, name: str) -> list[str]:
    """Write the values of a column so that the same numbers are read again."""
    if isinstance(column, Tensor):
        column = column.detach().cpu().numpy()
    if hasattr(column, "dtype") and str(column.dtype).startswith(("datetime", "timedelta", "period")):
        raise BadInput(f"column {name} holds {column.dtype}: make numbers of dates, or leave it out")
    values = column.tolist() if hasattr(column, "tolist") else list(column)
    return ["" if _is_missing(value) else _word(value) for value in values]


def _is_missing(value: Any) -> bool:
    return value is None or str(value) in ("nan", "NaT", "<NA>")


def _word(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


def _of_arrays(x: Any, y: Any, test: tuple[Any, Any] | None) -> bytes:
    parts = {"": (x, y)} if test is None else {"_train": (x, y), "_test": test}
    arrays: dict[str, NDArray[Any]] = {}
    for part, given in parts.items():
        pairs = given[1] is None and not isinstance(given[0], np.ndarray | Tensor | list | tuple)
        inputs, targets = _of_dataset(given[0]) if pairs else given
        if targets is None:
            raise BadInput("y is missing: give the targets, or a torch data set of pairs (input, target) as x")
        x_of, y_of = _array(inputs, "x"), _array(targets, "y")
        if x_of.ndim < 2 or not y_of.ndim or len(x_of) != len(y_of):
            raise BadInput(f"x has the shape {x_of.shape} and y {y_of.shape}: they are (N, …) and (N,)")
        arrays |= {f"x{part}": x_of, f"y{part}": y_of}
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def _of_dataset(pairs: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read every pair of a torch data set, each once and in order."""
    try:
        found = [pairs[i] for i in range(len(pairs))]
        return np.stack([_array(pair[0], "x") for pair in found]), np.array([_array(pair[1], "y") for pair in found])
    except (TypeError, ValueError, IndexError) as error:
        said = one_line(error)
        raise BadInput(f"x is neither an array nor a torch data set of pairs of one shape: {said}") from None


def _array(value: Any, name: str) -> NDArray[Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    try:
        found = np.asarray(value)
    except ValueError as error:  # rows of unequal length
        raise BadInput(f"{name} is no array: {one_line(error)}") from None
    if found.dtype == object and name == "y" and all(isinstance(one, str) for one in found.ravel()):
        found = found.astype(str)
    if found.dtype == object:
        raise BadInput(f"{name} holds Python objects, or rows of unequal length: give an array of numbers")
    return found
