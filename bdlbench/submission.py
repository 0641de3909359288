"""Predictions made elsewhere, as a file holds them: read and checked. `docs/score.md` describes the layout."""

from __future__ import annotations

import importlib.util
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bdlbench.errors import BadInput, unknown

if TYPE_CHECKING:
    from pandas import DataFrame

Arrays = dict[str, NDArray[Any]]

ENDINGS = (".npz", ".csv", ".parquet")
KEYS = ("probs", "logits", "labels", "seeds")
"""Arrays of an npz beside `score.NAME`, `ood.SET.probs`, `ood.SET.logits` and `ood.SET.score.NAME`."""
COLUMNS = ("label", "set", "seed", "sample")
"""Columns of a table beside `prob_0`, `prob_1`, … or `logit_0`, `logit_1`, … and `score_NAME`."""
IMPLIED = ("entropy", "mutual_information", "max_probability")
"""Scores that class probabilities imply: nobody else may give them."""
SUM_TOLERANCE = 1e-4
"""How far the probabilities of an example may be from summing to one: rounding to float16 stays well below."""
SCORE_NAME = r"[a-z][a-z0-9_]*"


@dataclass(frozen=True)
class Submission:
    """What a file holds: probs (M, R, N, C) float64, labels (R, N), seeds (R,) where it names them.

    scores: (R, N) by name; ood_probs: (M, R, N', C) by set; ood_scores: (R, N') by set and name.
    """

    probs: Tensor
    labels: Tensor
    seeds: tuple[int, ...] = ()
    scores: dict[str, Tensor] = field(default_factory=dict)
    ood_probs: dict[str, Tensor] = field(default_factory=dict)
    ood_scores: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def read(path: Path, axes: str = "") -> Submission:
    """Read and check a file. axes: NC, RNC, MNC or MRNC; "" where their number tells (docs/score.md).

    Raises BadInput for what is missing, unknown, of another shape, not finite, out of range or not a probability.
    """
    if path.suffix not in ENDINGS:
        raise BadInput(f"{path} must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    if not path.is_file():
        raise BadInput(f"{path} does not exist: give a file of predictions, laid out as docs/score.md says")
    if axes and path.suffix != ".npz":
        raise BadInput(f"--axes {axes}: only an npz has axes; the columns of {path} say what its rows are")
    arrays = _read_npz(path, axes) if path.suffix == ".npz" else _read_table(path)
    return _checked(path, arrays)


# reading


def _read_npz(path: Path, axes: str) -> Arrays:
    """Arrays by name; `probs` and `logits` as (M, R, N, C), labels and scores as (R, N)."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise ValueError("it is one array without a name, an npy")
        with content as stored:
            arrays = {name: np.asarray(stored[name]) for name in stored.files}
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{path} is not a whole npz of plain arrays: {error}") from None
    for name in arrays:
        if not (name in KEYS or re.fullmatch(rf"score\.{SCORE_NAME}", name) or _ood_key(name)):
            raise unknown(f"array in {path}", name, [*KEYS, "score.NAME", "ood.SET.probs", "ood.SET.logits"])
    for name, value in arrays.items():
        if name.rpartition(".")[2] in ("probs", "logits"):
            arrays[name] = _with_all_axes(path, name, value, axes)
    return arrays


def _ood_key(name: str) -> tuple[str, str] | None:
    """(set, what) of `ood.SET.probs`, `ood.SET.logits` and `ood.SET.score.NAME`."""
    match = re.fullmatch(rf"ood\.(.+?)\.(probs|logits|score\.{SCORE_NAME})", name)
    return (match[1], match[2]) if match else None


def _with_all_axes(path: Path, name: str, value: NDArray[Any], axes: str) -> NDArray[Any]:
    """As (M, R, N, C), whatever of M and R it lacks."""
    shape = tuple(map(int, value.shape))
    known = {"NC": 2, "RNC": 3, "MNC": 3, "MRNC": 4}
    if axes and axes not in known:
        raise unknown("value of --axes", axes, known)
    if value.ndim == 3 and not axes:
        asked = f"{shape[0]} replicates or MNC for {shape[0]} posterior samples"
        raise BadInput(f"{path}: {name} has 3 axes {shape}: say --axes RNC for {asked}")
    axes = axes or {2: "NC", 4: "MRNC"}.get(value.ndim, "")
    if known.get(axes) != value.ndim:
        wanted = f"{axes} needs {known[axes]}" if axes else "give (N, C), with R, M or both in front: (M, R, N, C)"
        raise BadInput(f"{path}: {name} has {value.ndim} axes {shape}: {wanted}")
    if axes == "MNC":
        return value[:, None]
    return value.reshape((1,) * (4 - value.ndim) + value.shape)


def _read_table(path: Path) -> Arrays:
    """The arrays that the rows of a CSV or a parquet file are."""
    import pandas as pd

    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise BadInput(f"{path}: reading parquet needs pyarrow, which is absent: python -m pip install pyarrow")
    try:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors, pyarrow's too
        raise BadInput(f"{path} is not a whole {path.suffix[1:]} table: {error}") from None
    columns = list(map(str, frame.columns))
    for name in columns:
        if not (name in COLUMNS or re.fullmatch(rf"(prob|logit)_\d+|score_{SCORE_NAME}", name)):
            raise unknown(f"column in {path}", name, [*COLUMNS, "prob_0", "logit_0", "score_NAME"])
    sets = frame["set"].fillna("test").astype(str) if "set" in frame else pd.Series("test", index=frame.index)
    arrays: Arrays = {}
    for name, part in frame.groupby(sets, sort=False):
        arrays |= _of_set(path, str(name), part)
    return arrays


def _of_set(path: Path, name: str, part: DataFrame) -> Arrays:
    """The arrays of one set of examples: "test", or an out-of-distribution set."""
    samples, seeds = (sorted(part[key].unique()) if key in part else [0] for key in ("sample", "seed"))
    keys = [key for key in ("sample", "seed") if key in part]
    sizes = part.groupby(keys).size() if keys else None
    if sizes is not None:
        part = part.sort_values(keys, kind="stable")
        if sizes.nunique() > 1 or len(sizes) != len(samples) * len(seeds):
            raise BadInput(f"{path}: set {name!r} has not as many rows for every {' and '.join(keys)}")
    lead = (len(samples), len(seeds), -1)
    prefix = "" if name == "test" else f"ood.{name}."
    arrays: Arrays = {}
    for what, stem in (("probs", "prob"), ("logits", "logit")):
        columns = _class_columns(path, part, stem)
        if columns and not part[columns].isna().all(axis=None):
            arrays[prefix + what] = part[columns].to_numpy().reshape(*lead, len(columns))
    for column in part.columns:
        if str(column).startswith("score_"):
            values = part[column].to_numpy().reshape(lead)
            arrays[f"{prefix}score.{str(column).removeprefix('score_')}"] = _same_for_samples(path, column, values)
    if name == "test":
        if "label" in part:
            arrays["labels"] = _same_for_samples(path, "label", part["label"].to_numpy().reshape(lead))
        if "seed" in part:
            arrays["seeds"] = np.asarray(seeds)
    return arrays


def _class_columns(path: Path, part: DataFrame, stem: str) -> list[str]:
    """prob_0 … prob_(C − 1) in this order."""
    columns = [str(column) for column in part.columns if re.fullmatch(rf"{stem}_\d+", str(column))]
    wanted = [f"{stem}_{c}" for c in range(len(columns))]
    if missing := [column for column in wanted if column not in columns]:
        raise BadInput(f"{path}: column {missing[0]} is missing: classes are counted from 0 without a gap")
    return wanted


def _same_for_samples(path: Path, column: str, values: NDArray[Any]) -> NDArray[Any]:
    """(M, R, N) -> (R, N)."""
    if len(values) > 1 and not all(_equal(sample, values[0]) for sample in values[1:]):
        raise BadInput(f"{path}: column {column} differs between samples: rows are in another order, or it is wrong")
    first: NDArray[Any] = values[0]
    return first


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())


# checking


def _checked(path: Path, arrays: Arrays) -> Submission:
    probs = _probabilities(path, "", arrays)
    if probs is None:
        raise BadInput(f"{path} has neither probs nor logits of the test set")
    rows = probs.shape[1]
    labels = _labels(path, arrays, probs)
    scores = {
        name.removeprefix("score."): _score(path, name, value, rows, probs.shape[2])
        for name, value in arrays.items()
        if name.startswith("score.")
    }
    ood_probs, ood_scores = {}, {}
    for name in dict.fromkeys(key[0] for key in map(_ood_key, arrays) if key):
        part = f"ood.{name}."
        if name == "test":
            raise BadInput(f"{path}: {part}* has the name of the test set itself; name that set otherwise")
        outside = _probabilities(path, part, arrays)
        if outside is not None:
            _same_shape(path, part, outside, probs)
            ood_probs[name] = outside
        ood_scores[name] = _ood_scores(path, part, arrays, rows, None if outside is None else outside.shape[2])
        if ood_scores[name].keys() != scores.keys():
            gap = sorted(ood_scores[name].keys() ^ scores.keys())[0]
            raise BadInput(f"{path}: score {gap!r} must be given for the test set and for ood.{name}, or for neither")
    return Submission(probs, labels, _seeds(path, arrays, rows), scores, ood_probs, ood_scores)


def _probabilities(path: Path, prefix: str, arrays: Arrays) -> Tensor | None:
    """(M, R, N, C) float64 of one set, from `probs` or from `logits`; None where it has neither."""
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
        return value.softmax(-1)
    if bool((wrong := (value < 0) | (value > 1 + SUM_TOLERANCE)).any()):
        at, place = _first(wrong)
        raise BadInput(f"{path}: {name} holds {value[at]:g} at {place}: not a probability (are these logits?)")
    sums = value.sum(-1)
    if bool((wrong := (sums - 1).abs() > SUM_TOLERANCE).any()):
        at, place = _first(wrong)
        raise BadInput(f"{path}: {name} sums to {sums[at]:.6g} at {place}, not to one over the classes")
    return value


def _numbers(path: Path, name: str, value: NDArray[Any]) -> Tensor:
    """Float64; every one finite."""
    if value.dtype.kind not in "fiub":
        raise BadInput(f"{path}: {name} holds {value.dtype}, not numbers")
    numbers = torch.from_numpy(np.array(value, dtype=np.float64, order="C"))
    if bool((wrong := ~torch.isfinite(numbers)).any()):
        at, place = _first(wrong)
        raise BadInput(f"{path}: {name} holds {numbers[at]:g} at {place}")
    return numbers


def _first(wrong: Tensor) -> tuple[tuple[int, ...], str]:
    """Where the first True lies, as an index and in words: the last axes are those of (M, R, N, C) or (R, N)."""
    at = tuple(wrong.nonzero()[0].tolist())
    names = {1: ("replicate",), 2: ("replicate", "example"), 3: ("sample", "replicate", "example")}
    words = names.get(len(at), ("sample", "replicate", "example", "class"))
    return at, ", ".join(f"{word} {i}" for word, i in zip(words, at, strict=True))


def _labels(path: Path, arrays: Arrays, probs: Tensor) -> Tensor:
    """(R, N) int64 classes."""
    if "labels" not in arrays:
        raise BadInput(f"{path} has no labels: give the class of every test example, counted from 0")
    labels = _per_example(path, "labels", arrays["labels"], probs.shape[1], probs.shape[2])
    classes = probs.shape[-1]
    if bool((wrong := (labels != labels.round()) | (labels < 0) | (labels >= classes)).any()):
        at, place = _first(wrong)
        raise BadInput(f"{path}: labels holds {labels[at]:g} at {place}: classes are 0 … {classes - 1}")
    return labels.long()


def _per_example(path: Path, name: str, value: NDArray[Any], rows: int, count: int | None) -> Tensor:
    """(N,) or (R, N) -> (R, N) float64."""
    numbers = _numbers(path, name, np.atleast_2d(value))
    wanted = numbers.shape[1] if count is None else count
    if numbers.ndim != 2 or numbers.shape[0] not in (1, rows) or numbers.shape[1] != wanted:
        what = f"({wanted},) or ({rows}, {wanted})"
        raise BadInput(f"{path}: {name} has shape {tuple(map(int, value.shape))}, the probabilities want {what}")
    return numbers.expand(rows, -1).contiguous()


def _score(path: Path, name: str, value: NDArray[Any], rows: int, count: int | None) -> Tensor:
    """(R, N) float32, as they are stored."""
    word = name.rpartition("score.")[2]
    if word in (*IMPLIED, "probs", "y", "running_class", "group_log_prob"):
        raise BadInput(f"{path}: {name}: {word!r} is computed from the probabilities; give the score another name")
    return _per_example(path, name, value, rows, count).float()


def _ood_scores(path: Path, prefix: str, arrays: Arrays, rows: int, count: int | None) -> dict[str, Tensor]:
    scores = {
        name.removeprefix(f"{prefix}score."): _score(path, name, value, rows, count)
        for name, value in arrays.items()
        if name.startswith(f"{prefix}score.")
    }
    if len({value.shape for value in scores.values()}) > 1:
        raise BadInput(f"{path}: the scores of {prefix.rstrip('.')} are of differing numbers of examples")
    return scores


def _same_shape(path: Path, prefix: str, outside: Tensor, inside: Tensor) -> None:
    for axis, word in ((0, "samples"), (1, "replicates"), (3, "classes")):
        if outside.shape[axis] != inside.shape[axis]:
            gap = f"{outside.shape[axis]} {word}, the test set {inside.shape[axis]}"
            raise BadInput(f"{path}: {prefix.rstrip('.')} has {gap}")


def _seeds(path: Path, arrays: Arrays, rows: int) -> tuple[int, ...]:
    if "seeds" not in arrays:
        return ()
    numbers = _numbers(path, "seeds", np.atleast_1d(arrays["seeds"]))
    if numbers.ndim > 1:
        raise BadInput(f"{path}: seeds has shape {tuple(numbers.shape)}: give ({rows},)")
    seeds = numbers.tolist()
    if len(seeds) != rows or any(seed != int(seed) or seed < 0 for seed in seeds) or len(set(seeds)) < rows:
        raise BadInput(f"{path}: seeds holds {arrays['seeds'].tolist()}: give {rows} different whole numbers from 0 on")
    return tuple(map(int, seeds))
