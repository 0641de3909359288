"""Files of predictions made elsewhere: reading and checking. `docs/score.md` describes the layout."""

from __future__ import annotations

import csv
import importlib.util
import io
import re
import unicodedata
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bdlbench.core import memory
from bdlbench.core.errors import BadInput, named, one_line, unknown
from bdlbench.data.arrays import read_npz
from bdlbench.predictives.mixtures import normalised
from bdlbench.records.evaluation import SHIFT

Arrays = dict[str, NDArray[Any]]

NUMBER_BYTES = 16
"""Bytes of memory that each number of a file takes at least: as it stands there, and in float64 as it is scored."""

ENDINGS = (".npz", ".csv", ".parquet")
OF_REALS = ("mean", "sd", "variance", "target")
"""Arrays of an npz, and columns of a table, that describe Gaussians and their targets."""
KEYS = ("probs", "logits", "labels", "seeds", *OF_REALS)
"""Arrays of an npz besides `score.NAME`, those of an out-of-distribution set, `ood.SET.probs`, `ood.SET.logits` and
`ood.SET.score.NAME`, and those of a shifted test set, `shift.SET.probs`, `shift.SET.logits` and `shift.SET.labels`. The
column `set` of a table names such a set `shift.SET`."""
FILE_COLUMNS = ("label", "set", "seed", "sample", *OF_REALS)
"""Columns of a table besides `prob_0`, `prob_1`, … or `logit_0`, `logit_1`, … and `score_NAME`."""
IMPLIED = ("entropy", "mutual_information", "max_probability")
"""Scores that are computed from class probabilities; a file may not hold them."""
KEPT = (
    *("probs", "log_prob", "log_probs", "y", "running_class", "group_log_prob", "log_density", "mean", "sd", "elbo"),
    *("latent_mean", "importance_samples", "cdf", "crps"),
)
"""Names of other stored arrays, from which metrics are computed again; a score may not have such a name."""
BINARY_ROUNDING = 1e-5
"""How far a sum of probabilities accumulated in float32 may be from one: 1,000 samples averaged one by one."""
TEXT_ROUNDING = 1e-4
"""The same for a CSV file, whose digits are cut."""
HALF_PRECISION = (torch.float16, torch.bfloat16)
"""Half-precision formats. An array is taken to be in one of them if it can hold all the array's numbers exactly."""
INTEGER_COLUMNS = ("label", "seed", "sample")
"""Columns of whole numbers; they are read as text, so that no digit passes through a float."""
SCORE_NAME = r"[a-z][a-z0-9_]*"
CLASS_NUMBER = r"(0|[1-9][0-9]*)"


@dataclass(frozen=True)
class Submission:
    """The content of a file of class predictions.

    Attributes:
        log_probs: (M, R, N, C) float64 in nats.
        labels: (R, N).
        seeds: (R,), or () if the file does not name them.
        scores: (R, N) float64 by name.
        ood_log_probs: (M, R, N', C) by set.
        ood_scores: (R, N') by set and name.
        shift_log_probs: (M, R, N', C) by shifted test set.
        shift_labels: (R, N') of those shifted test sets that have examples of their own; the others have the test
            examples, shifted and in their order.
    """

    log_probs: Tensor
    labels: Tensor
    seeds: tuple[int, ...] = ()
    scores: dict[str, Tensor] = field(default_factory=dict)
    ood_log_probs: dict[str, Tensor] = field(default_factory=dict)
    ood_scores: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    shift_log_probs: dict[str, Tensor] = field(default_factory=dict)
    shift_labels: dict[str, Tensor] = field(default_factory=dict)

    @property
    def lead(self) -> tuple[int, int]:
        """M and R."""
        return self.log_probs.shape[0], self.log_probs.shape[1]


@dataclass(frozen=True)
class RealSubmission:
    """The content of a file of predictions of a real target: an equal mixture of M Gaussians for each example.

    Attributes:
        means: (M, R, N) float64, in the target's units.
        sds: Standard deviations (M, R, N) float64, positive.
        targets: (R, N) float64.
        seeds: (R,), or () if the file does not name them.
    """

    means: Tensor
    sds: Tensor
    targets: Tensor
    seeds: tuple[int, ...] = ()

    @property
    def lead(self) -> tuple[int, int]:
        """M and R."""
        return self.means.shape[0], self.means.shape[1]


@dataclass(frozen=True)
class FileColumn:
    """One column of a table.

    Attributes:
        values: (rows,), text or numbers.
        absent: (rows,), whether the cell is empty.
    """

    values: NDArray[Any]
    absent: NDArray[np.bool_]


def read(path: Path, axes: str = "") -> Submission | RealSubmission:
    """Read and check a file.

    Args:
        path: The file.
        axes: NC, RNC, MNC or MRNC, without C for real targets; "" if the number of axes determines them.

    Returns:
        The checked content.

    Raises:
        BadInput: Something is missing, unknown, of the wrong shape, not finite, out of range or not a probability.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise BadInput(f"{path} must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    if not path.is_file():
        raise BadInput(f"{path} does not exist: give a file of predictions, laid out as docs/score.md says")
    if ending == ".npz":
        return _checked(path, _read_npz(path, axes), BINARY_ROUNDING)
    if axes:
        raise BadInput(f"--axes {axes}: only an npz has axes; the columns of {path} say what its rows are")
    if ending == ".csv":
        return _checked(path, _arrays_of(path, _read_csv(path)), TEXT_ROUNDING)
    return _checked(path, _arrays_of(path, _read_parquet(path)), BINARY_ROUNDING)


# reading


def _read_npz(path: Path, axes: str) -> Arrays:
    """Return arrays by name: `probs` and `logits` as (M, R, N, C), labels and scores unchanged."""
    arrays = read_npz(path, NUMBER_BYTES)
    for name in arrays:
        if key := _ood_key(name) or _shift_key(name):
            _check_set_name(path, key[0], name.startswith("shift."))
        elif not (name in KEYS or re.fullmatch(rf"score\.{SCORE_NAME}", name)):
            of_sets = ("ood.SET.probs", "ood.SET.logits", "shift.SET.probs", "shift.SET.logits", "shift.SET.labels")
            raise unknown(f"array in {path}", name, [*KEYS, "score.NAME", *of_sets])
    for name, value in arrays.items():
        if name.rpartition(".")[2] in ("probs", "logits"):
            arrays[name] = _with_all_axes(path, name, value, axes)
        if name in ("mean", "sd", "variance"):
            arrays[name] = _with_all_axes(path, name, value[..., None], f"{axes}C" if axes else "", "")[..., 0]
    return arrays


def _refuse_twice(path: Path, what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadInput(f"{path} has {what} {name!r} twice")
        seen.add(name)


def _check_set_name(path: Path, name: str, shifted: bool) -> None:
    """Raise BadInput for a name that looks like another: with blanks around it, invisible characters, or a second test.

    An out-of-distribution set called `test ` would otherwise take its examples out of the test set unnoticed.
    """
    if name != name.strip() or not name.isprintable():
        raise BadInput(f"{path}: set {name!r} has blanks around its name, or characters that cannot be seen")
    if not name or (name == "shifted" and shifted) or (name.startswith("shift.") and not shifted):
        told = "'shift.' begins the names of shifted test sets, and 'shifted' is their mean"
        raise BadInput(f"{path}: set {name!r}: {told}: name it otherwise")
    if unicodedata.normalize("NFKC", name).casefold() == "test":
        raise BadInput(f"{path}: set {name!r} has the name of the test set itself: write 'test', or name it otherwise")


def _ood_key(name: str) -> tuple[str, str] | None:
    """Return (set, what) of `ood.SET.probs`, `ood.SET.logits` and `ood.SET.score.NAME`; None for other names."""
    match = re.fullmatch(rf"ood\.(.+?)\.(probs|logits|score\.{SCORE_NAME})", name)
    return (match[1], match[2]) if match else None


def _shift_key(name: str) -> tuple[str, str] | None:
    """Return (set, what) of `shift.SET.probs`, `shift.SET.logits` and `shift.SET.labels`; None for other names."""
    match = re.fullmatch(r"shift\.(.+)\.(probs|logits|labels)", name)
    return (match[1], match[2]) if match else None


def _with_all_axes(path: Path, name: str, value: NDArray[Any], axes: str, last: str = "C") -> NDArray[Any]:
    """Return the array as (M, R, N, C), with M and R added where missing.

    `last` is the letter of the class axis in messages; "" if the file has no such axis.
    """

    def spelt(some: str) -> str:
        return some.removesuffix("C") + last

    shape, count = tuple(map(int, value.shape if last else value.shape[:-1])), value.ndim - (not last)
    known = {"NC": 2, "RNC": 3, "MNC": 3, "MRNC": 4}
    if axes and axes not in known:
        raise unknown("value of --axes", spelt(axes), map(spelt, known))
    if value.ndim == 3 and not axes:
        asked = f"{shape[0]} replicates or {spelt('MNC')} for {shape[0]} posterior samples"
        raise BadInput(f"{path}: {name} has {count} axes {shape}: say --axes {spelt('RNC')} for {asked}")
    axes = axes or {2: "NC", 4: "MRNC"}.get(value.ndim, "")
    if known.get(axes) != value.ndim:
        whole = "(N, C), with R, M or both in front: (M, R, N, C)" if last else "(N,), with R, M or both in front"
        wanted = f"{spelt(axes)} needs {known[axes] - (not last)}" if axes else f"give {whole}"
        raise BadInput(f"{path}: {name} has {count} axes {shape}: {wanted}")
    if axes == "MNC":
        return value[:, None]
    return value.reshape((1,) * (4 - value.ndim) + value.shape)


def _read_csv(path: Path) -> dict[str, FileColumn]:
    """Return columns by name: numbers as float64, names of sets and whole numbers as text."""
    import pandas as pd

    memory.refuse(2 * path.stat().st_size, f"{path}: its content")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("it holds zero bytes")
        header = next((row for row in csv.reader(io.StringIO(text)) if row), [])
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8: save it in that encoding") from None
    except Exception as error:
        raise BadInput(f"{path} is not a whole csv table: {one_line(error)}") from None
    _check_columns(path, header)

    def parsed(numbers: type) -> dict[str, FileColumn]:
        types = {name: str if name == "set" or name in INTEGER_COLUMNS else numbers for name in header}
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):  # rows that are too long
            frame = pd.read_csv(
                io.StringIO(text), header=0, names=header, index_col=False, dtype=types, keep_default_na=False,
                na_values=[""], low_memory=False,
            )  # fmt: skip
        return {name: FileColumn(frame[name].to_numpy(), frame[name].isna().to_numpy()) for name in header}

    try:
        return parsed(float)
    except Exception as error:
        why = one_line(error)
    try:
        words = parsed(str)
    except Exception as error:
        raise BadInput(f"{path} is not a whole csv table: {one_line(error)}") from None
    for name, column in words.items():
        for row, word in enumerate(column.values, 1) if name != "set" and name not in INTEGER_COLUMNS else ():
            if isinstance(word, str) and not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", word):
                raise BadInput(f"{path}: column {name} holds {word!r} in row {row}, not a number")
    raise BadInput(f"{path} is not a whole csv table: {why}")


def _read_parquet(path: Path) -> dict[str, FileColumn]:
    """Return columns by name, in their stored types, without an unnamed index that pandas wrote."""
    if importlib.util.find_spec("pyarrow") is None:
        raise BadInput(f"{path}: reading parquet needs pyarrow, which is absent: python -m pip install pyarrow")
    from pyarrow import parquet

    try:  # ParquetFile, not read_table: that makes columns of folders called `set=far`
        with parquet.ParquetFile(path) as file:
            told = file.metadata
            numbers = told.num_rows * told.num_columns
            memory.refuse(NUMBER_BYTES * numbers, f"{path}: {told.num_rows:,} × {told.num_columns:,} numbers")
            table = file.read()
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{path} is not a whole parquet table: {one_line(error)}") from None
    index = [name for name in table.column_names if re.fullmatch(r"__index_level_[0-9]+__", name)]
    _check_columns(path, [name for name in table.column_names if name not in index])
    return {
        name: _of_arrow(path, name, column)
        for name, column in zip(table.column_names, table.columns, strict=True)
        if name not in index
    }


def _of_arrow(path: Path, name: str, column: Any) -> FileColumn:
    """Convert a pyarrow column; nulls are absent, while NaN is a number (and not finite)."""
    import pyarrow as pa
    from pyarrow import types

    stored = column.type
    if types.is_dictionary(column.type):  # a categorical
        column = pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], column.type.value_type)
    absent = column.is_null().to_numpy()
    kind = column.type
    if types.is_decimal(kind):
        column = column.cast(pa.float64())
    if types.is_null(kind):
        values = np.zeros(len(column))
    elif types.is_string(kind) or types.is_large_string(kind):
        values = np.array(column.to_pylist(), dtype=object)
    elif types.is_integer(kind) or types.is_boolean(kind):
        values = column.fill_null(pa.scalar(0).cast(kind)).to_numpy()  # pandas would make them floats
    elif types.is_floating(kind) or types.is_decimal(kind):
        values = column.to_numpy()
    else:
        raise BadInput(f"{path}: column {name} holds {stored}, neither numbers nor text")
    return FileColumn(values, absent)


def _check_columns(path: Path, names: list[str]) -> None:
    """Raise BadInput for an unknown column, with the likely cause if there is one, or a repeated one."""
    numbered = rf"(prob|logit)_{CLASS_NUMBER}"
    for name in names:
        if name in FILE_COLUMNS or re.fullmatch(rf"{numbered}|score_{SCORE_NAME}", name):
            continue
        if not name or re.fullmatch(r"Unnamed: [0-9]+", name):
            raise BadInput(f"{path}: a column {name!r} has no name: an index? pandas leaves it out with index=False")
        if separator := next((mark for mark in ";\t|" if mark in name), ""):
            raise BadInput(f"{path}: columns are separated by {separator!r}: write commas, and points in numbers")
        if (written := re.fullmatch(r"(prob|logit)[^0-9]{0,2}0*([0-9]+)(\.0*)?", name.strip().lower())) is not None:
            raise BadInput(f"{path}: column {name!r} must be called {written[1]}_{written[2]}")
        if name.strip() in FILE_COLUMNS:
            raise BadInput(f"{path}: column {name!r} has blanks around its name")
        raise unknown(f"column in {path}", name, [*FILE_COLUMNS, "prob_0", "logit_0", "score_NAME"])
    _refuse_twice(path, "column", names)


def _arrays_of(path: Path, columns: dict[str, FileColumn]) -> Arrays:
    """Convert the rows of a table to the arrays of an npz."""
    num_rows = max((len(column.values) for column in columns.values()), default=0)
    if not num_rows:
        raise BadInput(f"{path} has no rows")
    if empty := next((name for name, column in columns.items() if column.absent.all()), ""):
        raise BadInput(f"{path}: column {empty} is empty in every row: fill it, or leave it out")
    keys = [name for name in ("sample", "seed") if name in columns]
    whole: Arrays = {name: _whole_column(path, name, columns[name]) for name in keys}
    sets = _set_column(path, columns["set"]) if "set" in columns else np.full(num_rows, "test", dtype=object)
    names = list(dict.fromkeys(sets.tolist()))
    parts = {name: _Part(path, name, columns, whole, np.flatnonzero(sets == name)) for name in names}
    first = parts.get("test")
    if first is None:
        raise BadInput(f"{path} has no row of set 'test', only of {named(map(repr, names))}")
    arrays: Arrays = {}
    for part in parts.values():
        for key in whole:
            if part.keys[key] != first.keys[key]:
                gap = sorted(set(part.keys[key]) ^ set(first.keys[key]))[0]
                raise BadInput(f"{path}: {key} {gap} is in only one of the sets 'test' and {part.name!r}")
        arrays |= part.arrays()
    return arrays


def _set_column(path: Path, column: FileColumn) -> NDArray[Any]:
    """Return the names of sets, (rows,)."""
    if column.absent.any():
        raise BadInput(f"{path}: column set is empty in row {1 + column.absent.argmax()}: write test, or a set's name")
    if column.values.dtype.kind != "O":
        raise BadInput(f"{path}: column set holds {column.values.dtype}, not names")
    for name in dict.fromkeys(column.values.tolist()):
        if name != "test":
            _check_set_name(path, name.removeprefix("shift."), name.startswith("shift."))
    return column.values


def _whole_column(path: Path, name: str, column: FileColumn, rows: NDArray[np.intp] | None = None) -> NDArray[Any]:
    """Return whole numbers (rows,), from text too: int64, or floats that are not whole, which later checks refuse."""
    values, absent = (x if rows is None else x[rows] for x in (column.values, column.absent))
    numbered = np.arange(1, 1 + len(column.values)) if rows is None else 1 + rows
    if absent.any():
        raise BadInput(f"{path}: column {name} is empty in row {numbered[absent.argmax()]}")
    if values.dtype.kind == "O":
        words = {word: _whole_word(word) for word in dict.fromkeys(values.tolist())}
        wrong = [word for word, number in words.items() if number is None]
        if wrong:
            row = numbered[values.tolist().index(wrong[0])]
            raise BadInput(f"{path}: column {name} holds {wrong[0]!r} in row {row}, not a whole number")
        values = np.array([words[word] for word in values.tolist()], dtype=np.int64)
    return values if name == "label" else _whole(path, name, values)


def _whole_word(word: str) -> int | None:
    """Return the whole number in a text (3, 3.0 or 3.0e+00); None for other text, or if int64 cannot hold it."""
    if exact := re.fullmatch(r"\s*([-+]?[0-9]{1,19})(\.0*)?\s*", word):
        number = int(exact[1])
    elif re.fullmatch(r"\s*[-+]?[0-9]\.[0-9]{1,30}[eE][-+]?[0-9]{1,2}\s*", word) and float(word).is_integer():
        number = int(float(word))
        if abs(number) > 2**53:
            return None
    else:
        return None
    return number if -(2**63) <= number < 2**63 else None


class _Part:
    """The rows of one set of a table: "test", a shifted test set, or an out-of-distribution set."""

    def __init__(
        self, path: Path, name: str, columns: dict[str, FileColumn], whole: Arrays, rows: NDArray[np.intp]
    ) -> None:
        self.path, self.name, self.columns = path, name, columns
        self.shift = name.removeprefix(SHIFT) if name.startswith(SHIFT) else ""
        self.keys = {key: np.unique(value[rows]).tolist() for key, value in whole.items()}
        order = np.lexsort([whole[key][rows] for key in ("seed", "sample") if key in whole]) if whole else slice(None)
        self.rows = rows[order]  # by sample, then seed, then as they stand in the file
        self.lead = (len(self.keys.get("sample", [0])), len(self.keys.get("seed", [0])))
        groups = np.stack([whole[key][rows] for key in whole]) if whole else np.zeros((1, len(rows)), dtype=np.int64)
        counts = np.unique(groups, axis=1, return_counts=True)[1]
        if len(counts) != self.lead[0] * self.lead[1] or len(set(counts.tolist())) > 1:
            raise BadInput(f"{path}: set {name!r} has different numbers of rows for different {' and '.join(whole)}")

    def arrays(self) -> Arrays:
        """Return the arrays by their names in an npz."""
        prefix = "" if self.name == "test" else f"shift.{self.shift}." if self.shift else f"ood.{self.name}."
        found: Arrays = {}
        for what, stem in (("probs", "prob"), ("logits", "logit")):
            columns = self._class_columns(stem)
            values = [value for column in columns if (value := self._given(column)) is not None]
            if values and len(values) < len(columns):
                gap = next(column for column in columns if self._given(column) is None)
                raise BadInput(f"{self.path}: column {gap} is empty for set {self.name!r}, other classes are not")
            if values:
                found[prefix + what] = np.stack(values, -1).reshape(*self.lead, -1, len(columns))
        for column in ("mean", "sd", "variance"):
            if column in self.columns and (value := self._given(column)) is not None:
                found[prefix + column] = value.reshape(*self.lead, -1)
        for column in self.columns:
            if column.startswith("score_") and (value := self._given(column)) is not None:
                if self.shift:
                    why = "scores are of the test set and of out-of-distribution sets"
                    raise BadInput(f"{self.path}: column {column} is not empty for set {self.name!r}: {why}")
                found[f"{prefix}score.{column.removeprefix('score_')}"] = self._same_for_samples(column, value)
        if not found:
            raise BadInput(f"{self.path}: set {self.name!r} has no predictions and no scores: its cells are empty")
        if self.shift and "label" in self.columns and not self.columns["label"].absent[self.rows].all():
            found[f"{prefix}labels"] = self._labels()
        return {**found, **self._truths()} if self.name == "test" else found

    def _labels(self) -> NDArray[Any]:
        """Return the classes of the set's rows, (R, N)."""
        return self._same_for_samples("label", _whole_column(self.path, "label", self.columns["label"], self.rows))

    def _truths(self) -> Arrays:
        """Return the test set's labels or targets, and its seeds."""
        found: Arrays = {}
        if "label" in self.columns:
            found["labels"] = self._labels()
        if "target" in self.columns and (value := self._given("target")) is not None:
            found["target"] = self._same_for_samples("target", value)
        if "seed" in self.keys:
            found["seeds"] = np.asarray(self.keys["seed"])
        return found

    def _class_columns(self, stem: str) -> list[str]:
        """Return prob_0 … prob_(C − 1) in this order."""
        given = [column for column in self.columns if re.fullmatch(rf"{stem}_{CLASS_NUMBER}", column)]
        wanted = [f"{stem}_{c}" for c in range(len(given))]
        if missing := [column for column in wanted if column not in given]:
            raise BadInput(f"{self.path}: column {missing[0]} is missing: classes are counted from 0 without a gap")
        return wanted

    def _given(self, name: str) -> NDArray[Any] | None:
        """Return the set's numbers in one column; None if all its cells are empty."""
        values, absent = self.columns[name].values[self.rows], self.columns[name].absent[self.rows]
        if absent.all():
            return None
        if absent.any():
            row = 1 + self.rows[absent.argmax()]
            raise BadInput(f"{self.path}: column {name} is empty in row {row}, of set {self.name!r}")
        if values.dtype.kind not in "fiub":
            raise BadInput(f"{self.path}: column {name} holds text, such as {values[0]!r}, not numbers")
        return values

    def _same_for_samples(self, column: str, values: NDArray[Any]) -> NDArray[Any]:
        """Reduce (rows,) to (R, N); the values must not differ between samples."""
        values = values.reshape(*self.lead, -1)
        same = (values == values[0]) | ((values != values) & (values[0] != values[0]))
        if not same.all():
            raise BadInput(
                f"{self.path}: column {column} differs between samples: rows are in another order, or it is wrong"
            )
        first: NDArray[Any] = values[0]
        return first


# checking


def _checked(path: Path, arrays: Arrays, rounding: float) -> Submission | RealSubmission:
    if "mean" in arrays:
        return _checked_reals(path, arrays)
    if lone := sorted(set(arrays).intersection(OF_REALS)):
        raise BadInput(f"{path} has {lone[0]} and no mean: predictions of a real target are mean and sd, or variance")
    log_probs = _log_probabilities(path, "", arrays, rounding)
    if log_probs is None:
        raise BadInput(f"{path} has neither probs nor logits of the test set, nor mean and sd of a real target")
    rows = log_probs.shape[1]
    labels = _labels(path, "", arrays, log_probs)
    scores = {
        name.removeprefix("score."): _score(path, name, value, rows, log_probs.shape[2])
        for name, value in arrays.items()
        if name.startswith("score.")
    }
    ood_log_probs, ood_scores = {}, {}
    for name in dict.fromkeys(key[0] for key in map(_ood_key, arrays) if key):
        part = f"ood.{name}."
        outside = _log_probabilities(path, part, arrays, rounding)
        if outside is not None:
            _same_shape(path, part, outside, log_probs)
            ood_log_probs[name] = outside
        ood_scores[name] = _ood_scores(path, part, arrays, rows, None if outside is None else outside.shape[2])
        if ood_scores[name].keys() != scores.keys():
            gap = sorted(ood_scores[name].keys() ^ scores.keys())[0]
            raise BadInput(f"{path}: score {gap!r} must be given for the test set and for ood.{name}, or for neither")
    shifts, own_labels = {}, {}
    for name in dict.fromkeys(key[0] for key in map(_shift_key, arrays) if key):
        part = f"shift.{name}."
        shifted = _log_probabilities(path, part, arrays, rounding)
        if shifted is None:
            raise BadInput(f"{path} has {part}labels and no {part}probs or {part}logits: give its predictions")
        _same_shape(path, part, shifted, log_probs)
        shifts[name] = shifted
        if f"{part}labels" in arrays:
            own_labels[name] = _labels(path, part, arrays, shifted)
        elif shifted.shape[2] != log_probs.shape[2]:
            counts = f"{shifted.shape[2]} examples, the test set {log_probs.shape[2]}"
            raise BadInput(f"{path}: {part.rstrip('.')} has {counts}: give those of each test example, or {part}labels")
    seeds = _seeds(path, arrays, rows)
    return Submission(log_probs, labels, seeds, scores, ood_log_probs, ood_scores, shifts, own_labels)


def _checked_reals(path: Path, arrays: Arrays) -> RealSubmission:
    """Check the mixture of a real target; either sd or variance is given, and nothing else beside it."""
    if stray := sorted(set(arrays) - {"seeds", *OF_REALS}):
        raise BadInput(
            f"{path} has {stray[0]} beside mean: of a real target mean, sd or variance, target and seeds are read"
        )
    spread = [name for name in ("sd", "variance") if name in arrays]
    if len(spread) != 1:
        raise BadInput(f"{path} has {'both sd and variance' if spread else 'neither sd nor variance'}: give one")
    means, spreads = (_numbers(path, name, arrays[name]) for name in ("mean", spread[0]))
    if not means.numel() or spreads.shape != means.shape:
        shapes = f"{tuple(means.shape)} and {tuple(spreads.shape)}"
        raise BadInput(f"{path}: mean and {spread[0]} have shapes {shapes} (M, R, N): give both of every example")
    if bool((wrong := spreads <= 0).any()):
        at, place = _first(wrong)
        raise BadInput(f"{path}: {spread[0]} holds {spreads[at]:g} at {place}: it is positive")
    if "target" not in arrays:
        raise BadInput(f"{path} has no target: give that of every test example, in its own units")
    targets = _numbers(path, "target", arrays["target"])
    targets = _per_example(path, "target", targets, means.shape[1], means.shape[2])
    sds = spreads.sqrt() if spread[0] == "variance" else spreads
    return RealSubmission(means, sds, targets, _seeds(path, arrays, means.shape[1]))


def _log_probabilities(path: Path, prefix: str, arrays: Arrays, rounding: float) -> Tensor | None:
    """Return log probabilities (M, R, N, C) float64 of one set, from `probs` or `logits`; None if it has neither.

    A sum may differ from one by the rounding of its C terms: each term is off by half a step of its format, up to 2·eps
    in total for a coarse format, and float32 rounds when it adds them up. Probabilities that rounding lifts above one
    are set to one, so that no NLL is negative.
    """
    found = [what for what in ("probs", "logits") if prefix + what in arrays]
    if not found:
        return None
    if len(found) > 1:
        raise BadInput(f"{path} has both {prefix}probs and {prefix}logits: give one")
    name = prefix + found[0]
    value = _numbers(path, name, arrays[name])
    if value.shape[-1] < 2 or not value.numel():
        raise BadInput(f"{path}: {name} has shape {tuple(value.shape)} (M, R, N, C): give every class of every example")
    if found[0] == "logits":
        return normalised(value)[0]
    if bool((wrong := (value < 0) | (value > 1 + BINARY_ROUNDING)).any()):
        at, place = _first(wrong)
        raise BadInput(f"{path}: {name} holds {value[at]:.9g} at {place}: not a probability (are these logits?)")
    sums = value.sum(-1)
    coarse = [torch.finfo(dtype).eps for dtype in HALF_PRECISION if torch.equal(value.to(dtype).double(), value)]
    tolerance = max(rounding, 2 * max(coarse, default=0.0)) + value.shape[-1] * torch.finfo(torch.float32).eps / 2
    if bool((wrong := (sums - 1).abs() > tolerance).any()):
        at, place = _first(wrong)
        raise BadInput(f"{path}: {name} sums to {sums[at]:.9g} at {place}, not to one within {tolerance:.2g}")
    return value.clamp_max(1.0).log()


def _numbers(path: Path, name: str, value: NDArray[Any]) -> Tensor:
    """Convert to float64; all numbers must be finite."""
    if value.dtype.kind not in "fiub":
        raise BadInput(f"{path}: {name} holds {value.dtype}, not numbers")
    with np.errstate(over="ignore"):  # a large float128 becomes infinite and is refused
        numbers = torch.from_numpy(np.array(value, dtype=np.float64, order="C"))
    if bool((wrong := ~torch.isfinite(numbers)).any()):
        at, place = _first(wrong)
        raise BadInput(f"{path}: {name} holds {numbers[at]:g} at {place}")
    return numbers


def _first(wrong: Tensor) -> tuple[tuple[int, ...], str]:
    """Return the index of the first True, also in words; its last axes are those of (M, R, N, C) or (R, N)."""
    at = tuple(wrong.nonzero()[0].tolist())
    names = {1: ("replicate",), 2: ("replicate", "example"), 3: ("sample", "replicate", "example")}
    words = names.get(len(at), ("sample", "replicate", "example", "class"))
    return at, ", ".join(f"{word} {i}" for word, i in zip(words, at, strict=True))


def _labels(path: Path, prefix: str, arrays: Arrays, probs: Tensor) -> Tensor:
    """Return classes (R, N) of the test set or of a shifted one, int64."""
    name = f"{prefix}labels"
    if name not in arrays:
        raise BadInput(f"{path} has no labels: give the class of every test example, counted from 0")
    whole = _whole(path, name, np.atleast_2d(arrays[name]))
    labels = _per_example(path, name, torch.from_numpy(whole), probs.shape[1], probs.shape[2])
    classes = probs.shape[-1]
    if bool((wrong := (labels < 0) | (labels >= classes)).any()):
        at, place = _first(wrong)
        raise BadInput(f"{path}: {name} holds {labels[at]} at {place}: classes are 0 … {classes - 1}")
    return labels


def _whole(path: Path, name: str, value: NDArray[Any]) -> NDArray[np.int64]:
    """Convert to int64, exactly. Raises BadInput for floats that are not whole, or too large to be exact."""
    if value.dtype.kind in "iub":
        if value.size and int(value.max()) >= 2**63:
            raise BadInput(f"{path}: {name} holds {value.max()}: whole numbers are below 2^63")
        return value.astype(np.int64)
    numbers = _numbers(path, name, value)
    exact = 2.0 ** (min(np.finfo(value.dtype).nmant, 52) + 1)
    if bool((wrong := (numbers != numbers.round()) | (numbers.abs() > exact)).any()):
        at, place = _first(wrong)
        what = f"not a whole number, or not exact in {value.dtype}"
        raise BadInput(f"{path}: {name} holds {numbers[at]:.17g} at {place}: {what}")
    whole: NDArray[np.int64] = numbers.long().numpy()
    return whole


def _per_example(path: Path, name: str, value: Tensor, rows: int, count: int | None) -> Tensor:
    """Expand (N,) or (R, N) to (R, N)."""
    table = value.unsqueeze(0) if value.ndim == 1 else value
    wanted = count if count is not None else table.shape[-1] if table.ndim == 2 else "N"
    if table.ndim != 2 or table.shape[0] not in (1, rows) or table.shape[1] != wanted or not table.numel():
        what = f"({wanted},) or ({rows}, {wanted})" if wanted else "at least one example"
        raise BadInput(f"{path}: {name} has shape {tuple(value.shape)}, the predictions need {what}")
    return table.expand(rows, -1).contiguous()


def _score(path: Path, name: str, value: NDArray[Any], rows: int, count: int | None) -> Tensor:
    """Return a score (R, N), float64."""
    word = name.rpartition("score.")[2]
    if word in (*IMPLIED, *KEPT):
        raise BadInput(f"{path}: {name}: {word!r} is computed from the probabilities; give the score another name")
    return _per_example(path, name, _numbers(path, name, value), rows, count)


def _ood_scores(path: Path, prefix: str, arrays: Arrays, rows: int, count: int | None) -> dict[str, Tensor]:
    scores = {
        name.removeprefix(f"{prefix}score."): _score(path, name, value, rows, count)
        for name, value in arrays.items()
        if name.startswith(f"{prefix}score.")
    }
    if len({value.shape for value in scores.values()}) > 1:
        raise BadInput(f"{path}: the scores of {prefix.rstrip('.')} have different numbers of examples")
    return scores


def _same_shape(path: Path, prefix: str, outside: Tensor, inside: Tensor) -> None:
    for axis, word in ((0, "samples"), (1, "replicates"), (3, "classes")):
        if outside.shape[axis] != inside.shape[axis]:
            gap = f"{outside.shape[axis]} {word}, the test set {inside.shape[axis]}"
            raise BadInput(f"{path}: {prefix.rstrip('.')} has {gap}")


def _seeds(path: Path, arrays: Arrays, rows: int) -> tuple[int, ...]:
    if "seeds" not in arrays:
        return ()
    seeds = np.atleast_1d(_whole(path, "seeds", arrays["seeds"]))
    if seeds.shape != (rows,):
        raise BadInput(
            f"{path}: seeds has shape {seeds.shape}: give {rows} different whole numbers from 0 on, ({rows},)"
        )
    if (seeds < 0).any() or len(set(seeds.tolist())) < rows:
        raise BadInput(f"{path}: seeds holds {seeds.tolist()[:9]}: give {rows} different whole numbers from 0 on")
    return tuple(seeds.tolist())
