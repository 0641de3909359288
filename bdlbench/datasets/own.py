"""Data of one's own without code: csv, parquet, libsvm and npz files, and folders of images (docs/your-data.md).

A cell names a file by its name and by the SHA-256 of its content, so the folder that it lies in makes no difference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bdlbench.core.errors import BadInput, DataUnavailable, named, unknown
from bdlbench.core.foreign import shown
from bdlbench.core.options import FileKind, option
from bdlbench.data import arrays, encoding, given, tables
from bdlbench.data.arrays import Colour, Pictures, Target
from bdlbench.data.downloads import RemoteFile, array_checksum
from bdlbench.data.encoding import (
    FEWEST_ROWS,
    SPLITS_OF_OWN,
    Missing,
    TableRules,
    TargetKind,
    Unknown,
)
from bdlbench.data.splits import TEST_FRACTION, Index, checked, random_split, stratified_split
from bdlbench.data.tables import CsvFormat, Delimiter, Table
from bdlbench.data.task import Task

ArrayKind = Literal["auto", "table", "images", "sequences"]


_OPTIONS: dict[str, dict[str, Any]] = {
    "path": {"default": "", "help": "the file: absolute, or relative to here or to the store", "file": "file"},
    "folder": {"default": "", "help": "the folder: absolute, or relative to here or to the store", "file": "folder"},
    "test": {"default": "", "help": "a second file whose rows are tested; the first then trains", "file": "file"},
    "sha256": {"default": "", "help": "the beginning of the SHA-256 of its content; it is computed where not given"},
    "task": {
        "default": "auto",
        "help": "whether the target is a number or a class; auto asks where it may be either",
        "choices": get_args(TargetKind),
    },
    "test_share": {
        "default": TEST_FRACTION,
        "help": "share of the rows that are tested, at random by the number of the split; classes keep their shares",
        "low": 0,
        "high": 1,
        "open_ends": True,
    },
    "missing": {
        "default": "refused",
        "help": "what a missing number becomes: a statistic of the training rows; a category: their most frequent one",
        "choices": get_args(Missing),
    },
    "missing_indicator": {
        "default": False,
        "help": "whether a column of numbers with missing ones has a second column, 1 where it was missing",
    },
}


def own_option(name: str) -> Any:
    """Return an option that several data sets of one's own have in common, by its name in `_OPTIONS`."""
    return option(**_OPTIONS[name])


@dataclass(frozen=True)
class Columns:
    """The options that tables of one's own share."""

    path: str = own_option("path")
    path_sha256: str = own_option("sha256")
    test: str = own_option("test")
    test_sha256: str = own_option("sha256")
    target: str = option("", "the column to predict")
    task: TargetKind = own_option("task")
    split_column: str = option("", "a column that says train or test; without it the split is at random")
    test_share: float = own_option("test_share")
    drop: str = option("", "columns to leave out, joined by +")
    categorical: str = option("", "columns of numbers that are categories, joined by +")
    keep: str = option("", "columns that count the rows and are measurements nevertheless, joined by +")
    missing: Missing = own_option("missing")
    missing_indicator: bool = own_option("missing_indicator")
    unknown: Unknown = option("zeros", "what a category becomes that no training row has", choices=get_args(Unknown))
    most_categories: int = option(50, "a column of more different texts is refused", low=2)

    def rules(self) -> TableRules:
        """Return what these options say of a table."""
        names = ("target", "task", "split_column", "test_share", "missing", "missing_indicator", "unknown")
        shared = {name: getattr(self, name) for name in (*names, "most_categories", "keep")}
        return TableRules(**shared)


@dataclass(frozen=True)
class Csv(Columns):
    """A table of one's own in a csv file: regression or classification, with categories and missing values.

    Split: at random, a quarter for testing, fixed by its number, with classes in proportion; or by a second file, or by
    a column that says train or test. Numbers stay, truth values are numbers in parquet and texts in csv, each column of
    texts becomes one column of 0 and 1 for each of its categories in the training rows (scikit-learn's OneHotEncoder);
    all columns, and a real target, are standardised by the TRAINING rows. Missing values are refused, or imputed from
    the training rows by scikit-learn's SimpleImputer. Classes are in the order of their names. No OOD set but `ood`.
    """

    delimiter: Delimiter = option("auto", "what separates fields", choices=get_args(Delimiter))
    decimal: Literal["point", "comma"] = option("point", "the decimal mark of numbers", choices=("point", "comma"))
    encoding: str = option("utf-8", "how the text is encoded, as Python calls it")
    header: bool = option(True, "whether the first line names the columns; else they are called 0, 1, …")

    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Load one split, any number from 0.

        Raises:
            BadInput: The file is not what it should be; the text says where, and what would be right.
            DataUnavailable: It is absent.
        """
        form = CsvFormat(self.delimiter, self.decimal, self.encoding, self.header)

        def read(path: Path) -> Table:
            return tables.read_csv(path, form, self.drop, self.categorical)

        return _of_tables("csv", self, read, split)


@dataclass(frozen=True)
class Parquet(Columns):
    """A table of one's own in a parquet file, such as those of OpenML: regression or classification.

    It needs pyarrow. Split, preprocessing and options as for `csv`; dictionaries are categories, truth values 0 and 1.
    """

    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Load one split, any number from 0.

        Raises:
            BadInput: The file is not what it should be; the text says where, and what would be right.
            DataUnavailable: It is absent.
        """
        return _of_tables("parquet", self, lambda path: tables.read_parquet(path, self.drop, self.categorical), split)


@dataclass(frozen=True)
class Libsvm:
    """A table of one's own in a libsvm file (TARGET COLUMN:VALUE …), read by scikit-learn: absent values are 0.

    Split at random, as for `csv`, or by a second file; columns, and a real target, are standardised by the TRAINING
    rows. Classes are in the order of their numbers.
    """

    path: str = own_option("path")
    path_sha256: str = own_option("sha256")
    test: str = own_option("test")
    test_sha256: str = own_option("sha256")
    task: TargetKind = own_option("task")
    test_share: float = own_option("test_share")

    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Load one split, any number from 0.

        Raises:
            BadInput: The file is not what it should be; the text says where, and what would be right.
            DataUnavailable: It is absent.
        """
        paths = _files("libsvm", self)
        parts = tables.read_libsvm(list(paths.values()))
        read = [
            _with_target(tables.of_array(shown(path), x), "y", y)
            for path, (x, y) in zip(paths.values(), parts, strict=True)
        ]
        rules = TableRules("y", self.task, test_share=self.test_share)
        return _joined("libsvm", rules, read, paths, split)


@dataclass(frozen=True)
class Npz:
    """Arrays of one's own in an npz file: a table, images or sequences, with classes or numbers as targets.

    Arrays: inputs `x` (or `X`) and targets `y`, and `x_test`, `y_test` where the split is fixed (`x_train`, `y_train`
    beside them); other names by options. Nothing is unpickled. Inputs (N, D) are a table, as for `csv`; (N, H, W) bytes
    and four axes are images, standardised by channel; (N, L, D) are sequences, standardised by feature, where `kind`
    says so. All statistics are of the TRAINING examples. Split at random, as for `csv`, where no test arrays say it.
    """

    path: str = own_option("path")
    path_sha256: str = own_option("sha256")
    inputs: str = option("", "the array of inputs; x, X, x_train or X_train where it is not said")
    target: str = option("", "the array of targets; y, Y, y_train, labels or targets where it is not said")
    test_inputs: str = option("", "the array of test inputs; x_test or X_test where it is not said")
    test_target: str = option("", "the array of test targets; y_test where it is not said")
    kind: ArrayKind = option("auto", "what the inputs are", choices=get_args(ArrayKind))
    task: TargetKind = own_option("task")
    test_share: float = own_option("test_share")
    missing: Missing = own_option("missing")
    missing_indicator: bool = own_option("missing_indicator")

    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Load one split, any number from 0.

        Raises:
            BadInput: The file is not what it should be; the text says which array, and what would be right.
            DataUnavailable: It is absent.
        """
        paths = _files("npz", self)
        (path,) = paths.values()
        where, found = shown(path), arrays.read_npz(path)
        x = _array(found, self.inputs, ("x", "X", "x_train", "X_train"), "inputs", where)
        y = _array(found, self.target, ("y", "Y", "y_train", "Y_train", "labels", "targets"), "target", where)
        tested = 0
        of_test = [(self.test_inputs, ("x_test", "X_test")), (self.test_target, ("y_test", "Y_test"))]
        if any(name or any(usual in found for usual in usually) for name, usually in of_test):
            test_x, test_y = (
                _array(found, name, usually, f"test_{what}", where)
                for (name, usually), what in zip(of_test, ("inputs", "target"), strict=True)
            )
            tested = len(test_y)
            if test_x.shape[1:] != x.shape[1:] or test_x.dtype.kind != x.dtype.kind:
                raise BadInput(
                    f"{where}: test inputs are {test_x.shape} {test_x.dtype}, inputs {x.shape} {x.dtype}: one example "
                    "of both has one shape and type"
                )
            _refuse_lengths(test_x, test_y, "test ", where)
            x, y = np.concatenate([x, test_x]), np.concatenate([y, test_y])
        _refuse_lengths(x, y, "", where)
        rules = TableRules(
            "y", self.task, test_share=self.test_share, missing=self.missing,
            missing_indicator=self.missing_indicator,
        )  # fmt: skip
        sources = _sources(paths)
        kind = _kind(self.kind, x, where)
        if kind == "table":
            table = _with_target(tables.of_array(where, x), "y", y)
            return encoding.of_table(table, rules, "npz", split, tested, sources)
        target = _target(Table(where, {}, np.arange(len(y)), "row"), y, rules, "npz")
        parts = _parts(target, split, self.test_share, tested, where)
        if kind == "images":
            x = arrays.as_images(x, f"{where}: the inputs")
        return arrays.array_task(x, (0, 2, 3) if kind == "images" else (0, 1), target, parts, sources, where)


@dataclass(frozen=True)
class ImageFolder:
    """Images of one's own in folders, one for each class, read by torchvision's `ImageFolder`.

    PATH/CLASS/IMAGE, or PATH/train/CLASS/IMAGE beside PATH/test (or val, where there is no test). Without these the
    split is at random, a quarter for testing, with classes in proportion. Each image is resized to size × size pixels
    (bilinearly, whatever its shape was), colours to grey where asked. Preprocessing: (pixel/255 − mean)/sd for each
    channel, with the numbers of the TRAINING images. Classes are in the order of their folders' names. JPEG files are
    decoded by Pillow, so another version of it may differ in the last bit: the SHA-256 of the pixels is kept.
    """

    path: str = own_option("folder")
    path_sha256: str = own_option("sha256")
    size: int = option(32, "height and width in pixels; 0 where all images have one size already", low=0, high=4096)
    colour: Colour = option("rgb", "rgb or grey", choices=get_args(Colour))
    test_share: float = own_option("test_share")

    files: ClassVar[tuple[RemoteFile, ...]] = ()

    def load(self, split: int) -> Task:
        """Load one split, any number from 0.

        Raises:
            BadInput: The folder or an image is not what it should be; the text says which, and what would be right.
            DataUnavailable: The folder is absent.
        """
        checked(split)
        paths = _files("image_folder", self, "folder")
        (folder,) = paths.values()
        whole = given.sha256(folder)
        names = arrays.class_folders(folder)
        fixed = {"train": "train"} if "train" in names else {}
        if fixed:
            others = [name for name in ("test", "val", "valid", "validation") if name in names]
            if stray := [name for name in names if name not in ("train", *others)] or not others:
                what = "and test" if stray is True else f"and {stray[0]}, which is none of its parts"
                raise BadInput(f"{shown(folder)} holds train {what}: a fixed split has train and test, and perhaps val")
            fixed |= dict(zip(("test", "validation"), others, strict=False))
        read = {
            part: _pictures(folder / name if name else folder, whole, self.size, self.colour)
            for part, name in (fixed or {"": ""}).items()
        }
        first = next(iter(read.values()))
        for part, found in read.items():
            if found.classes != first.classes:
                odd = sorted(set(found.classes) ^ set(first.classes))[0]
                raise BadInput(f"{shown(folder)}: the class folder {odd!r} is in one of train and {part} only")
        if len(first.classes) < 2:
            raise BadInput(f"{shown(folder)} has one class only, {first.classes[0]!r}: there is nothing to tell apart")
        if len({found.pixels.shape[1:] for found in read.values()}) > 1:
            raise BadInput(f"{shown(folder)}: images of train and test have other sizes: say image_folder.size")
        pixels = np.concatenate([found.pixels for found in read.values()])
        target = Target(np.concatenate([found.labels for found in read.values()]), first.classes)
        if fixed:
            ends = np.cumsum([len(found.labels) for found in read.values()])
            parts: dict[str, Index] = {
                part: np.arange(end - len(found.labels), end)
                for (part, found), end in zip(read.items(), ends, strict=True)
            }
        else:
            parts = _parts(target, split, self.test_share, 0, shown(folder))
        sources = {folder.name: whole, f"{folder.name}, pixels": array_checksum(pixels)}
        return arrays.array_task(pixels, (0, 2, 3), target, parts, sources, shown(folder))


@lru_cache(maxsize=3)
def _pictures(folder: Path, whole: str, size: int, colour: Colour) -> Pictures:
    """Decode once for all splits; `whole`, the SHA-256 of the content, tells when a folder has changed."""
    return arrays.read_classes(folder, (size, size) if size else None, colour)


def _files(name: str, entry: Any, kind: FileKind = "file") -> dict[str, Path]:
    """Return the files, or the folder, that an entry names, by option, with the content that the cell asks for."""
    if not entry.path:
        raise DataUnavailable(f"{name} needs a {kind}: --set {name}.path={kind.upper()} (docs/your-data.md)")
    found = {}
    for key in ("path", "test"):
        if text := getattr(entry, key, ""):
            place = given.same(text, getattr(entry, f"{key}_sha256"), f"{name}.{key}")
            found[key] = given.of_kind(place, f"{name}.{key}", kind)
    return found


def _sources(paths: dict[str, Path]) -> dict[str, str]:
    names = [path.name if key == "path" else f"{path.name} (test)" for key, path in paths.items()]
    return {name: given.sha256(path) for name, path in zip(names, paths.values(), strict=True)}


def _of_tables(name: str, entry: Columns, read: Any, split: int) -> Task:
    paths = _files(name, entry)
    task = _joined(name, entry.rules(), [read(path) for path in paths.values()], paths, split)
    assert task.raw is not None
    return replace(task, raw=replace(task.raw, read=read))


def _joined(name: str, rules: TableRules, read: list[Table], paths: dict[str, Path], split: int) -> Task:
    """Make the task of a table, or of a training and a test table."""
    tested = len(read[1]) if len(read) > 1 else 0
    if len(read) > 1 and not tested:
        raise BadInput(f"{read[1].name} has no rows to test")
    whole = tables.joined(*read) if len(read) > 1 else read[0]
    return encoding.of_table(whole, rules, name, split, tested, _sources(paths))


def _with_target(table: Table, name: str, y: NDArray[Any]) -> Table:
    texts = y.dtype.kind in "US"
    return Table(table.name, {**table.columns, name: _texts(y) if texts else y.astype(np.float64)}, table.lines, "row")


def _texts(y: NDArray[Any]) -> NDArray[np.object_]:
    words = [word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in y.tolist()]
    return np.array([word or None for word in words], dtype=object)


def _target(table: Table, y: NDArray[Any], rules: TableRules, name: str) -> Target:
    values = _texts(y) if y.dtype.kind in "US" else y.astype(np.float64)
    labels, classes = encoding.labels_of(table, values, rules, name)
    return Target(labels if classes else values, tuple(classes))


def _parts(target: Target, split: int, share: float, tested: int, where: str) -> dict[str, Index]:
    """Return the rows of a split: the last `tested` where a file fixes it, else at random with classes in shares."""
    checked(split)
    count = len(target.values)
    if count < FEWEST_ROWS:
        raise BadInput(f"{where} holds {count} examples: at least {FEWEST_ROWS} are needed to train and test")
    if tested:
        train, test = np.arange(count - tested), np.arange(count - tested, count)
    elif target.classes:
        train, test = stratified_split(target.values, SPLITS_OF_OWN, split, share)
    else:
        train, test = random_split(count, SPLITS_OF_OWN, split, share)
    if not (len(train) and len(test)):
        raise BadInput(f"{where}: {len(train)} examples train and {len(test)} test: choose another test_share")
    if target.classes and len(np.unique(target.values[train])) < target.classes:
        raise BadInput(f"{where}: a class has no training example: choose another test_share, or leave it out")
    return {"train": train, "test": test}


def _array(found: dict[str, NDArray[Any]], asked: str, usual: tuple[str, ...], what: str, where: str) -> NDArray[Any]:
    """Return the array of an npz that is asked for, or the one of a usual name."""
    name = asked or next((name for name in usual if name in found), "")
    if name not in found:
        if asked:
            raise unknown(f"array in {where}, in npz.{what},", asked, found)
        held = named(sorted(found)) or "none"
        raise BadInput(f"{where} has no array {' or '.join(usual)}; it has {held}: --set npz.{what}=NAME")
    array = found[name]
    if "target" not in what:
        return arrays.numbers(array, f"{where}: array {name}")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        raise BadInput(
            f"{where}: array {name} has shape {array.shape}: of one-hot classes take argmax; a target is (N,)"
        )
    if array.ndim != 1:
        raise BadInput(f"{where}: array {name} has shape {array.shape}: a target is (N,)")
    return array if array.dtype.kind in "US" else arrays.numbers(array, f"{where}: array {name}")


def _refuse_lengths(x: NDArray[Any], y: NDArray[Any], part: str, where: str) -> None:
    if x.ndim < 2 or 0 in x.shape:
        raise BadInput(f"{where}: the {part}inputs have shape {x.shape}: a table is (N, D), images (N, H, W) or more")
    if len(x) != len(y):
        raise BadInput(f"{where}: {len(x):,} {part}inputs and {len(y):,} {part}targets: there is one for each")


def _kind(asked: ArrayKind, x: NDArray[Any], where: str) -> ArrayKind:
    """Say what inputs are: by their axes, where it is not said."""
    axes = {"table": (2,), "images": (3, 4), "sequences": (3,)}
    if asked == "auto":
        if x.ndim == 3 and x.dtype != np.uint8:
            raise BadInput(f"{where}: inputs {x.shape} may be images (N, H, W) or sequences (N, L, D): say npz.kind")
        found: dict[int, ArrayKind] = {2: "table", 3: "images", 4: "images"}
        if x.ndim not in found:
            raise BadInput(f"{where}: inputs {x.shape}: a table has 2 axes, sequences 3, images 3 or 4")
        return found[x.ndim]
    if x.ndim not in axes[asked]:
        told = " or ".join(map(str, axes[asked]))
        raise BadInput(f"{where}: inputs {x.shape} are no {asked}: these have {told} axes")
    return asked


datasets = {"csv": Csv, "image_folder": ImageFolder, "libsvm": Libsvm, "npz": Npz, "parquet": Parquet}
