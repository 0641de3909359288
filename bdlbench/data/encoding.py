"""A table of one's own becomes a task: its target, its split, and inputs coded and scaled by training rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bdlbench.core import memory
from bdlbench.core.errors import BadInput, named, unknown
from bdlbench.core.options import short
from bdlbench.data.classification import classification_task
from bdlbench.data.regression import regression_task
from bdlbench.data.splits import TEST_FRACTION, Index, Reals, checked, random_split, stratified_split
from bdlbench.data.tables import DATE, ColumnValues, Table, is_text, missing
from bdlbench.data.task import RawInputs, Task

TargetKind = Literal["auto", "regression", "classification"]
Missing = Literal["refused", "mean", "median", "most_frequent"]
Unknown = Literal["zeros", "refused"]

FEWEST_ROWS = 10
"""A table of fewer rows is a mistake: nothing can be learnt and tested on them."""

LARGEST = 1e100
"""Larger numbers are mistakes too, and their squares do not fit into 64 bits."""

MOST_CLASSES_UNASKED = 20
"""A target of whole numbers with at most so many values may be classes or counts, so one must say which it is."""

SPLITS_OF_OWN = "own data"
"""The name by which splits are made: the same rows have the same splits, whatever file they come from."""


@dataclass(frozen=True)
class TableRules:
    """What a data set says of its table. The fields are options of the data sets `csv` and `parquet`.

    Attributes:
        target: The column that is predicted.
        task: Whether it is a number or a class.
        split_column: The column that says train or test; "" for none.
        test_share: The share of the rows that is tested where nothing else says it.
        missing: What a missing value becomes.
        missing_indicator: Whether a column says where numbers were missing.
        unknown: What a category becomes that no training row has.
        most_categories: How many texts a column may have to be one of categories.
        keep: Columns that count the rows and are inputs nevertheless, joined by '+'.
    """

    target: str
    task: TargetKind = "auto"
    split_column: str = ""
    test_share: float = TEST_FRACTION
    missing: Missing = "refused"
    missing_indicator: bool = False
    unknown: Unknown = "zeros"
    most_categories: int = 50
    keep: str = ""


def of_table(table: Table, given: TableRules, name: str, split: int, tested: int, sources: Mapping[str, str]) -> Task:
    """Make the task of one split of a table.

    Args:
        table: All rows; the last `tested` are the test rows where it is not 0.
        given: The options of the data set.
        name: The name of the data set, for messages.
        split: The number of the split, from 0.
        tested: How many rows a file of its own gave for testing; 0 for none.
        sources: SHA-256 by name, for the record.

    Returns:
        The task. Each column of texts becomes one column for each of its categories in the training rows, 0 or 1; all
        columns are standardised by the training rows.

    Raises:
        BadInput: The table cannot be learnt from as asked; the text says which column and line, and what would be
            right.
    """
    checked(split)
    if given.target not in table.columns:
        columns = named(map(short, table.columns))
        if not given.target:
            raise BadInput(f"{name} needs the column to predict: --set {name}.target=NAME; {table.name} has {columns}")
        raise unknown(f"column of {table.name}, in {name}.target,", given.target, table.columns)
    if len(table) < FEWEST_ROWS:
        raise BadInput(f"{table.name} holds {len(table)} rows: at least {FEWEST_ROWS} are needed to train and test")
    target, inputs = table.columns[given.target], table.without([given.target])
    parts = _fixed_split(inputs, given, name, tested)
    inputs = inputs.without([given.split_column] if given.split_column else [])
    if not inputs.columns:
        raise BadInput(f"{table.name} has no column beside the target {short(given.target)}: nothing predicts it")
    labels, classes = labels_of(table, target, given, name)
    if parts is None:
        random = (len(table), SPLITS_OF_OWN, split, given.test_share)
        parts = stratified_split(labels, *random[1:]) if classes else random_split(*random)
    train, test = parts
    if not (len(train) and len(test)):
        raise BadInput(f"{table.name}: {len(train)} rows train and {len(test)} test: choose another {name}.test_share")
    where = f"{table.name}: target {short(given.target)}"
    if classes:
        refuse_absent_classes(table, labels, classes, train, where)
    elif (target[train] == target[train[0]]).all():
        raise BadInput(f"{where} is {target[train[0]]:g} in every training row: there is nothing to learn")
    encoder = fitted(inputs, train, given, name)
    encoded = encoder.encoded(inputs)
    if classes:
        task = classification_task(encoded, labels, len(classes), train, test, sources)
    else:
        task = regression_task(encoded, target, train, test, sources)
    told = replace(encoder.raw(task), target=given.target, classes=tuple(classes))
    for part, rows in ((task.train, train), (task.test, test)):
        if not part.x.isfinite().all():
            row = int(rows[int((~part.x.isfinite()).any(1).nonzero()[0])])
            raise BadInput(f"{table.name}: {table.place(row)} is too far from the training rows for 32 bits")
    facts = {
        "imputed_values": float(sum(int(missing(values).sum()) for values in inputs.columns.values())),
        "unknown_categories": float(encoder.strangers(inputs)),
    }
    return replace(task, statistics={**task.statistics, **{k: v for k, v in facts.items() if v}}, raw=told)


def _fixed_split(table: Table, given: TableRules, name: str, tested: int) -> tuple[Index, Index] | None:
    """Return the rows that a second file, or a column, says are trained on and tested; None where neither does."""
    rows = np.arange(len(table))
    if not given.split_column:
        return (rows[:-tested], rows[-tested:]) if tested else None
    if tested:
        raise BadInput(f"{name}.split_column and {name}.test both say which rows are tested: leave one out")
    if given.split_column not in table.columns:
        raise unknown(f"column of {table.name}, in {name}.split_column,", given.split_column, table.columns)
    values = table.columns[given.split_column]
    words = np.array(["" if value is None else str(value).strip().lower() for value in values])
    for row in np.flatnonzero(~np.isin(words, ("train", "test"))):
        said = (
            f"{table.name}: column {short(given.split_column)} says {short(str(values[row]))!r} in {table.place(row)}"
        )
        raise BadInput(f"{said}: it says train or test")
    return rows[words == "train"], rows[words == "test"]


def labels_of(table: Table, target: ColumnValues, given: TableRules, name: str) -> tuple[NDArray[np.int64], list[Any]]:
    """Read the classes of a target.

    Args:
        table: The table, for messages.
        target: The column that is predicted.
        given: What the data set says of it.
        name: The name of the data set, for messages.

    Returns:
        The class of each row (N,) and the sorted classes; none of either where the target is a number.

    Raises:
        BadInput: A value is missing, infinite or no class, there is one class only, or it is not said which it is.
    """
    where = f"{table.name}: target {short(given.target)}"
    absent = missing(target)
    if absent.any():
        row = int(np.flatnonzero(absent)[0])
        raise BadInput(f"{where} is missing in {table.place(row)}: leave out rows without a target")
    if not is_text(target):
        _refuse_not_finite(table, target, where)
    values, labels = np.unique(target.astype(str) if is_text(target) else target, return_inverse=True)
    whole = not is_text(target) and bool((target == np.floor(target)).all())
    kind, ask = given.task, f"--set {name}.task=classification or {name}.task=regression"
    if kind == "auto":
        if is_text(target) or (whole and len(values) <= 2):
            kind = "classification"
        elif whole and len(values) <= MOST_CLASSES_UNASKED:
            raise BadInput(f"{where} holds {len(values)} whole numbers, classes or counts: say {ask}")
        else:
            kind = "regression"
    if kind == "regression":
        if is_text(target):
            raise BadInput(f"{where} holds texts such as {short(target[0])!r} in {table.place(0)}, not numbers")
        return np.zeros(0, dtype=np.int64), []
    if not (whole or is_text(target)):
        row = int(np.flatnonzero(target != np.floor(target))[0])
        raise BadInput(
            f"{where} holds {target[row]:g} in {table.place(row)}, which is no class: {name}.task=regression"
        )
    if len(values) < 2:
        raise BadInput(f"{where} has one class only, {short(_spelt(values[0]))!r}: there is nothing to tell apart")
    if 2 * len(values) > len(target):
        raise BadInput(
            f"{where} has {len(values):,} classes in {len(target):,} rows: is it an id, or {name}.task=regression?"
        )
    return labels.astype(np.int64), list(values)


def refuse_absent_classes(
    table: Table, labels: NDArray[np.int64], classes: Sequence[Any], train: Index, where: str
) -> None:
    """Refuse classes that no training row has.

    Args:
        table: The table, for messages.
        labels: The class of each row, (N,).
        classes: The classes.
        train: The training rows.
        where: Table and column, for messages.

    Raises:
        BadInput: There is such a class.
    """
    counts = np.bincount(labels[train], minlength=len(classes))
    if (counts == 0).any():
        absent = int(np.flatnonzero(counts == 0)[0])
        row = int(np.flatnonzero(labels == absent)[0])
        said = f"class {short(_spelt(classes[absent]))!r}, as in {table.place(row)}"
        raise BadInput(f"{where} has the {said}, in test rows only")


def _spelt(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _refuse_not_finite(table: Table, values: ColumnValues, where: str) -> None:
    broken = np.flatnonzero(np.abs(values.astype(np.float64)) > LARGEST)  # NaN is a missing value, not a broken one
    if len(broken):
        row = int(broken[0])
        limit = "no number is infinite" if np.isinf(values[row]) else f"numbers go up to {LARGEST:g}"
        raise BadInput(f"{where} is {values[row]:g} in {table.place(row)}: {limit}")


# inputs


@dataclass(frozen=True)
class Encoder:
    """What training rows said of the columns of a table, to bring other rows to the same numbers.

    Attributes:
        numbers: Columns of numbers.
        texts: Columns of texts.
        impute_numbers: scikit-learn's imputer of `numbers`, or None where nothing may be missing.
        impute_texts: The same of `texts`.
        categories: scikit-learn's encoder of `texts`.
        name: The name of the data set, for messages.
    """

    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    impute_numbers: Any
    impute_texts: Any
    categories: Any
    name: str

    def encoded(self, table: Table) -> Reals:
        """Return the table as numbers (N, D).

        Raises:
            BadInput: A column is missing or of another kind, a value is missing, infinite, or no known category, and
                no rule of the data set says what becomes of it.
        """
        for column in (*self.numbers, *self.texts):
            if column not in table.columns:
                raise BadInput(f"{table.name} has no column {short(column)!r}, which the training rows have")
            if is_text(table.columns[column]) != (column in self.texts):
                kind = "text" if column in self.texts else "numbers"
                raise BadInput(f"{table.name}: column {short(column)} does not hold {kind}, as the training rows do")
        _refuse_values(table, self.impute_numbers is None and self.impute_texts is None, self.name)
        parts = [np.zeros((len(table), 0))]
        if self.numbers:
            block = np.stack([table.columns[column] for column in self.numbers], axis=1).astype(np.float64)
            parts.append(block if self.impute_numbers is None else self.impute_numbers.transform(block))
        if self.texts:
            words = np.stack([table.columns[column] for column in self.texts], axis=1)
            words = words if self.impute_texts is None else self.impute_texts.transform(words)
            if self.categories.handle_unknown == "error":
                for i, known in enumerate(self.categories.categories_):
                    for row in np.flatnonzero(~np.isin(words[:, i], known)):
                        said = f"{table.name}: column {short(self.texts[i])} holds {short(words[row, i])!r}"
                        better = f"which no training row has: --set {self.name}.unknown=zeros"
                        raise BadInput(f"{said} in {table.place(row)}, {better}")
            parts.append(self.categories.transform(words))
        return np.concatenate(parts, axis=1)

    def raw(self, task: Task) -> RawInputs:
        """Say how other tables come to the scale of a task's inputs, which are `encoded` and then standardised."""
        numbers = task.raw
        assert numbers is not None
        scaled = numbers.scaled
        return RawInputs("table", lambda table: scaled(self.encoded(table)), (*self.numbers, *self.texts))

    def strangers(self, table: Table) -> int:
        """Count the texts that no training row has."""
        if not self.texts:
            return 0
        known = dict(zip(self.texts, self.categories.categories_, strict=True))
        return sum(
            int((~np.isin(values[~missing(values)], known[column])).sum())
            for column, values in table.columns.items()
            if column in known
        )


def _refuse_values(table: Table, lacking: bool, name: str) -> None:
    """Refuse numbers that are infinite or huge and, where asked, missing values."""
    for column, values in table.columns.items():
        if not is_text(values):
            _refuse_not_finite(table, values, f"{table.name}: column {short(column)}")
        absent = missing(values)
        if lacking and absent.any():
            row = int(np.flatnonzero(absent)[0])
            count = f"{int(absent.sum()):,} of its {len(table):,} values are"
            told = f"column {short(column)} has no value in {table.place(row)} ({count} missing)"
            better = f"--set {name}.missing=median, or leave the rows or the column out"
            raise BadInput(f"{table.name}: {told}: {better}")


def fitted(table: Table, train: Index, given: TableRules, name: str) -> Encoder:
    """Fit the encoder of a table's inputs to its training rows.

    Args:
        table: All rows, inputs only.
        train: The training rows.
        given: The options of the data set.
        name: The name of the data set, for messages.

    Returns:
        The encoder.

    Raises:
        BadInput: A column has no value in the training rows, counts the rows, holds dates, or has too many texts.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    width = 0
    _refuse_values(table, False, name)
    for column, values in table.columns.items():
        where = f"{table.name}: column {short(column)}"
        known = values[~missing(values)]
        if missing(values[train]).all():
            raise BadInput(f"{where} has no value in any training row: --set {name}.drop={column}")
        if not is_text(values):
            counts = len(known) == len(values) and (np.diff(values) == 1).all() and values[0] in (0, 1)
            if counts and column not in given.keep.split("+"):
                better = f"--set {name}.drop={column!r}, or {name}.keep={column!r} if it is a measurement"
                raise BadInput(f"{where} counts the rows, so it is an id: {better}")
            width += 1
            continue
        distinct = len(set(known))
        if all(DATE.fullmatch(word) for word in known):
            example = short(known[0])
            raise BadInput(
                f"{where} holds dates such as {example!r}: make numbers of them, or --set {name}.drop={column}"
            )
        if distinct > given.most_categories or (distinct == len(known) and distinct > 2):
            said = f"{where} holds {distinct:,} different texts in {len(values):,} rows"
            better = f"--set {name}.drop={column}, or more of {name}.most_categories if they are categories"
            raise BadInput(f"{said}, as an id or a free text does: {better}")
        width += distinct
    _refuse_values(table, given.missing == "refused", name)
    memory.refuse(8 * len(table) * width, f"{table.name}: {len(table):,} rows of {width:,} columns")
    numbers = tuple(column for column, values in table.columns.items() if not is_text(values))
    texts = tuple(column for column, values in table.columns.items() if is_text(values))
    impute_numbers = impute_texts = categories = None
    if given.missing != "refused":
        if numbers:
            block = np.stack([table.columns[column][train] for column in numbers], axis=1).astype(np.float64)
            impute_numbers = SimpleImputer(strategy=given.missing, add_indicator=given.missing_indicator).fit(block)
        impute_texts = SimpleImputer(strategy="most_frequent", missing_values=None)
    if texts:
        words = np.stack([table.columns[column][train] for column in texts], axis=1)
        words = words if impute_texts is None else impute_texts.fit_transform(words)
        rule = "ignore" if given.unknown == "zeros" else "error"
        categories = OneHotEncoder(handle_unknown=rule, sparse_output=False, dtype=np.float64).fit(words)
    return Encoder(numbers, texts, impute_numbers, impute_texts, categories, name)
