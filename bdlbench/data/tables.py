"""Tables of one's own: columns of numbers and of texts, read from csv, parquet, libsvm files and arrays."""

from __future__ import annotations

import csv
import importlib.util
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bdlbench.core import memory
from bdlbench.core.errors import BadInput, one_line, unknown
from bdlbench.core.foreign import shown
from bdlbench.core.options import short
from bdlbench.data.splits import Reals

Delimiter = Literal["auto", "comma", "semicolon", "tab", "pipe", "blanks"]
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "blanks": ""}

MISSING = frozenset(("", "na", "n/a", "#n/a", "nan", "null", "?"))
"""What a cell without a value holds, in small letters."""

DECIMAL_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
INFINITE = re.compile(r"[-+]?inf(inity)?", re.IGNORECASE)
DATE = re.compile(
    r"[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}([T ].*)?|[0-9]{1,2}[-/.][0-9]{1,2}[-/.][0-9]{2,4}( .*)?"
    r"|[0-9]{1,2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?"
)

SNIFFED = 50
"""How many lines tell the delimiter."""

ColumnValues = NDArray[Any]
"""One column: numbers (N,) with NaN for a missing one, or texts (N,) with None."""


@dataclass(frozen=True)
class Table:
    """Columns of equal length, by name.

    Attributes:
        name: What it was read from, for messages.
        columns: float64 numbers with NaN for a missing one, or objects: texts, with None for a missing one.
        lines: The number of each row for people, (N,).
        word: What these numbers count: "line" or "row".
    """

    name: str
    columns: dict[str, ColumnValues]
    lines: NDArray[np.int64]
    word: str = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int | np.integer[Any]) -> str:
        """Return where a row stands, for messages: line 7."""
        return f"{self.word} {self.lines[row]}"

    def without(self, names: Iterable[str]) -> Table:
        """Return the table without some columns."""
        left = {name: values for name, values in self.columns.items() if name not in set(names)}
        return Table(self.name, left, self.lines, self.word)


def is_text(values: ColumnValues) -> bool:
    """Tell whether a column holds texts."""
    return values.dtype == object


def missing(values: ColumnValues) -> NDArray[np.bool_]:
    """Tell which values of a column are missing, (N,)."""
    if is_text(values):
        return np.array([value is None for value in values], dtype=bool)
    return np.isnan(values.astype(np.float64))


def of_array(name: str, array: NDArray[Any], start: int = 0) -> Table:
    """Make a table of an array of numbers; its columns are called 0, 1, ….

    Args:
        name: What it was read from, for messages.
        array: (N, D) numbers.
        start: The number of the first row, for messages.

    Returns:
        The table.
    """
    numbers = array.astype(np.float64)
    columns: dict[str, ColumnValues] = {str(i): numbers[:, i] for i in range(numbers.shape[1])}
    return Table(name, columns, np.arange(start, start + len(numbers)), "row")


# csv


@dataclass(frozen=True)
class CsvFormat:
    """How a csv file is written.

    Attributes:
        delimiter: What separates fields; "auto" finds it.
        decimal: Whether numbers have a decimal "point" or "comma".
        encoding: A name that Python knows.
        header: Whether the first line names the columns; else they are called 0, 1, ….
    """

    delimiter: Delimiter = "auto"
    decimal: Literal["point", "comma"] = "point"
    encoding: str = "utf-8"
    header: bool = True


def read_csv(path: Path, form: CsvFormat, drop: str = "", categorical: str = "", options: str = "csv") -> Table:
    """Read a csv file.

    Args:
        path: The file.
        form: How it is written.
        drop: Columns that are left out, joined by '+'.
        categorical: Columns whose values stay texts, though they may be numbers, joined by '+'.
        options: The name of the data set whose options messages advise.

    Returns:
        The table. A column is of numbers where all its values are.

    Raises:
        BadInput: It is not a whole csv file, a line has another number of fields, two columns have one name, or a
            column mixes numbers and texts, or holds dates or infinite numbers.
    """
    name, named = shown(path), (("drop", drop), ("categorical", categorical))
    text = _decoded(path, form.encoding, options)
    delimiter = form.delimiter if form.delimiter != "auto" else _delimiter(text)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for line, fields in _records(text, delimiter):
            rows.append([field.strip() for field in fields])
            lines.append(line)
    except csv.Error as error:
        raise BadInput(f"{name} is no whole csv file: {error}") from None
    if not rows:
        raise BadInput(f"{name} holds no lines but empty ones")
    header = rows[0] if form.header else [str(i) for i in range(len(rows[0]))]
    body, at = (rows[1:], lines[1:]) if form.header else (rows, lines)
    _refuse_bad_header(name, header, form, options)
    for line, row in zip(at, body, strict=True):
        if len(row) != len(header):
            hint = "" if form.delimiter != "auto" else f" (by {options}.delimiter={delimiter}, as found)"
            raise BadInput(f"{name}: line {line} has {len(row)} fields, the first line {len(header)}{hint}")
    header = [title or f"Unnamed: {i}" for i, title in enumerate(header)]  # as pandas calls an index
    left_out, as_text = (_asked(text, header, name, f"{options}.{key}") for key, text in named)
    table = Table(name, {}, np.array(at, dtype=np.int64))
    columns = list(zip(*body, strict=True)) if body else [()] * len(header)
    found = {
        title: _typed(table, title, values, form, title in as_text, options)
        for title, values in zip(header, columns, strict=True)
        if title not in left_out
    }
    return Table(name, found, table.lines)


def _decoded(path: Path, encoding: str, options: str) -> str:
    name = shown(path)
    memory.refuse(2 * path.stat().st_size, f"{name}: its content")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror}") from None
    kinds = {
        b"\x1f\x8b": "is compressed by gzip: unpack it",
        b"PK\x03\x04": "is a zip archive or an Excel workbook: save its table as csv",
        b"\xd0\xcf\x11\xe0": "is an Excel workbook: save its table as csv",
        b"PAR1": "is a parquet file: --dataset parquet",
        b"\x93NUMPY": "is an array of NumPy: save it by np.savez, and take --dataset npz",
    }
    for magic, what in kinds.items():
        if raw.startswith(magic):
            raise BadInput(f"{name} {what}")
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise BadInput(f"{name} is text in UTF-16: --set {options}.encoding=utf-16")
        encoding = "utf-8-sig"  # a byte order mark, as Excel writes one, is no part of the first name
    try:
        text = raw.decode(encoding)
    except LookupError:
        raise BadInput(f"{options}.encoding={short(encoding)} is no encoding that Python knows") from None
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        told = encoding.removesuffix("-sig")
        better = f"save it in UTF-8, or say --set {options}.encoding=latin-1, or another"
        raise BadInput(f"{name} is not text in {told}: byte {error.start:,}, in line {line}; {better}") from None
    except ValueError as error:
        raise BadInput(f"{name} is not text in {short(encoding)}: {one_line(error)}") from None
    if "\0" in text:
        raise BadInput(f"{name} holds zero bytes, so it is no text file")
    return text


def _delimiter(text: str) -> str:
    """Find what separates the fields: what cuts the first lines into equally many fields, and the most."""
    widths: dict[str, list[int]] = {}
    for name in DELIMITERS:
        try:
            widths[name] = [len(fields) for _, (_, fields) in zip(range(SNIFFED), _records(text, name), strict=False)]
        except csv.Error:
            continue
    even = {name: found[0] for name, found in widths.items() if found and len(set(found)) == 1 and found[0] > 1}
    marks = {name: width for name, width in even.items() if name != "blanks"} or even
    if marks:
        return max(marks, key=lambda name: marks[name])
    first = {name: found[0] for name, found in widths.items() if found and name != "blanks"}
    return max(first, key=lambda name: first[name], default="comma")


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line that is not empty, with its fields. Raises csv.Error."""
    if delimiter == "blanks":
        for number, line in enumerate(text.splitlines(), 1):
            if fields := line.split():
                yield number, fields
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=DELIMITERS[delimiter], strict=True)
    for fields in reader:
        if fields:
            yield reader.line_num, fields


def _refuse_bad_header(name: str, header: Sequence[str], form: CsvFormat, options: str) -> None:
    if len(header) < 2:
        raise BadInput(
            f"{name} has one column, {short(header[0])!r}: a table has inputs and a target; if it has more, "
            f"say what separates them: --set {options}.delimiter=semicolon"
        )
    seen: set[str] = set()
    for title in header:
        if title in seen:
            raise BadInput(f"{name} has two columns {short(title)!r}: give each a name of its own")
        seen.add(title)
        if not title.isprintable():
            raise BadInput(f"{name}: the column {title!r} has characters that cannot be seen in its name")
    if form.header and all(DECIMAL_NUMBER.fullmatch(title.replace(",", ".")) or not title for title in header):
        raise BadInput(f"{name}: its first line holds numbers, not names: --set {options}.header=false")


def _typed(
    table: Table, title: str, texts: Sequence[str], form: CsvFormat, as_text: bool, options: str
) -> ColumnValues:
    """Return a column as numbers, or as texts where none, or few, of its values are numbers."""
    absent = [text.lower() in MISSING for text in texts]
    if not as_text:
        points = [text.replace(",", ".") for text in texts] if form.decimal == "comma" else texts
        known = [i for i, gone in enumerate(absent) if not gone]
        wrong = [i for i in known if not DECIMAL_NUMBER.fullmatch(points[i])]
        infinite = [i for i in wrong if INFINITE.fullmatch(points[i])]
        where = f"{table.name}: column {short(title)}"
        if len(wrong) == len(infinite) and infinite:
            raise BadInput(f"{where} holds {texts[infinite[0]]} in {table.place(infinite[0])}: no number is infinite")
        if not wrong:
            return np.array([np.nan if gone else float(p) for p, gone in zip(points, absent, strict=True)])
        if 2 * len(wrong) <= len(known):
            first = texts[wrong[0]]
            better = "mend it, or leave it empty"
            if form.decimal == "point" and DECIMAL_NUMBER.fullmatch(first.replace(",", ".")):
                better = f"--set {options}.decimal=comma, or leave out what groups thousands"
            elif DATE.fullmatch(first):
                better = f"make numbers of dates, or --set {options}.drop={title}"
            better += f"; if its values are categories: --set {options}.categorical={title}"
            raise BadInput(
                f"{where} holds {short(first)!r} in {table.place(wrong[0])}, and numbers elsewhere: {better}"
            )
        if form.decimal == "point" and all(DECIMAL_NUMBER.fullmatch(texts[i].replace(",", ".", 1)) for i in known):
            raise BadInput(f"{where} holds {short(texts[wrong[0]])!r}: --set {options}.decimal=comma")
    return np.array([None if gone else text for text, gone in zip(texts, absent, strict=True)], dtype=object)


# parquet


def read_parquet(path: Path, drop: str = "", categorical: str = "", options: str = "parquet") -> Table:
    """Read a parquet file, such as those of OpenML.

    Args:
        path: The file.
        drop: Columns that are left out, joined by '+'.
        categorical: Columns of numbers whose values are categories, joined by '+'.
        options: The name of the data set whose options messages advise.

    Returns:
        The table: truth values as 0 and 1, dictionaries and texts as texts.

    Raises:
        BadInput: pyarrow is absent, the file is not whole, two columns have one name, or a column has another type.
    """
    name = shown(path)
    if importlib.util.find_spec("pyarrow") is None:
        raise BadInput(f"{name}: reading parquet needs pyarrow, which is absent: python -m pip install pyarrow")
    from pyarrow import parquet

    try:  # ParquetFile, not read_table: that makes columns of folders called `set=far`
        with parquet.ParquetFile(path) as file:
            told = file.metadata
            memory.refuse(8 * told.num_rows * told.num_columns, f"{name}: {told.num_rows:,} × {told.num_columns:,}")
            read = file.read()
    except BadInput:
        raise
    except Exception as error:  # for foreign bytes pyarrow raises errors of many types
        raise BadInput(f"{name} is not a whole parquet file: {one_line(error)}") from None
    header = [title for title in read.column_names if not re.fullmatch(r"__index_level_[0-9]+__", title)]  # of pandas
    if twice := [title for title in header if header.count(title) > 1]:
        raise BadInput(f"{name} has two columns {short(twice[0])!r}: give each a name of its own")
    named = (("drop", drop), ("categorical", categorical))
    left_out, as_text = (_asked(text, header, name, f"{options}.{key}") for key, text in named)
    columns = {
        title: _of_arrow(f"{name}: column {short(title)}", read.column(title), title in as_text, f"{options}.drop")
        for title in header
        if title not in left_out
    }
    return Table(name, columns, np.arange(read.num_rows), "row")


def _of_arrow(where: str, column: Any, as_text: bool, drop: str) -> ColumnValues:
    import pyarrow as pa
    from pyarrow import types

    stored = column.type
    if types.is_dictionary(stored):  # a categorical
        column = pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], stored.value_type)
        as_text = True
    kind = column.type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        words = [None if word is None or word.strip().lower() in MISSING else word for word in column.to_pylist()]
        return np.array(words, dtype=object)
    if types.is_null(kind):
        return np.full(len(column), np.nan)
    if types.is_temporal(kind):
        raise BadInput(f"{where} holds dates or times ({stored}): make numbers of them, or leave it out by {drop}")
    if not (types.is_integer(kind) or types.is_boolean(kind) or types.is_floating(kind) or types.is_decimal(kind)):
        raise BadInput(f"{where} holds {stored}, neither numbers nor text: leave it out by {drop}")
    if as_text:
        return np.array([None if value is None else str(value) for value in column.to_pylist()], dtype=object)
    numbers = column.cast(pa.float64(), safe=False) if not types.is_boolean(kind) else column.cast(pa.uint8())
    values = np.array([np.nan if v is None else v for v in numbers.to_pylist()], dtype=np.float64)
    return values


# libsvm


def read_libsvm(paths: Sequence[Path], columns: int | None = None) -> list[tuple[Reals, Reals]]:
    """Read libsvm files, all with equally many columns.

    Args:
        paths: The files.
        columns: D; the largest that a file names where it is not said.

    Returns:
        For each the inputs (N, D) and the targets (N,).

    Raises:
        BadInput: A file is none, or its columns do not fit into memory.
    """
    from contextlib import ExitStack

    from sklearn.datasets import load_svmlight_files

    names = " and ".join(map(shown, paths))
    try:
        with ExitStack() as opened:  # opened here: by a path that ends in .gz scikit-learn would unpack without bound
            found = load_svmlight_files([opened.enter_context(path.open("rb")) for path in paths], n_features=columns)
    except Exception as error:
        raise BadInput(f"{names} is no libsvm file (TARGET COLUMN:VALUE …): {one_line(error)}") from None
    parts: list[tuple[Reals, Reals]] = []
    for x, y in zip(found[::2], found[1::2], strict=True):
        memory.refuse(8 * x.shape[0] * x.shape[1], f"{names}: {x.shape[0]:,} rows of {x.shape[1]:,} columns")
        parts.append((x.toarray(), np.asarray(y, dtype=np.float64)))
    return parts


def joined(first: Table, second: Table) -> Table:
    """Return the rows of two tables, the second below the first, with the columns of the first in its order.

    Raises:
        BadInput: A column is missing in one, or holds numbers in one and texts in the other.
    """
    for one, other in ((first, second), (second, first)):
        if lacking := [name for name in one.columns if name not in other.columns]:
            raise BadInput(f"{other.name} has no column {short(lacking[0])!r}, which {one.name} has")
    columns: dict[str, ColumnValues] = {}
    for name in first.columns:
        parts = [table.columns[name] for table in (first, second)]
        if is_text(parts[0]) != is_text(parts[1]):
            if not any(missing(part).all() for part in parts):
                kinds = ["text" if is_text(part) else "numbers" for part in parts]
                told = f"{kinds[0]} in {first.name} and {kinds[1]} in {second.name}"
                raise BadInput(f"column {short(name)} is {told}: mend it, or leave it out")
            kept = next((part for part in parts if not missing(part).all()), parts[0])
            empty = np.full(max(map(len, parts)), None if is_text(kept) else np.nan, dtype=kept.dtype)
            parts = [empty[: len(part)] if missing(part).all() else part for part in parts]
        columns[name] = np.concatenate(parts)
    return Table(first.name, columns, np.concatenate([first.lines, second.lines]), first.word)


def _asked(text: str, header: Sequence[str], name: str, option: str) -> tuple[str, ...]:
    """Return the columns that an option names, joined by '+'; a text that is a column's own name is that column."""
    asked = (text,) if text in header else tuple(part.strip() for part in text.split("+") if part.strip())
    for title in asked:
        if title not in header:
            raise unknown(f"column of {name}, in {option},", title, header)
    return asked
