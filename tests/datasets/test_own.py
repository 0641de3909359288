"""Data of one's own: what a file becomes, what is refused in one line, and what a cell says of a file."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bdlbench import catalog
from bdlbench.core.errors import DataUnavailable
from bdlbench.core.spec import Cell, Choice
from bdlbench.data import given
from bdlbench.data.splits import random_split
from bdlbench.data.task import Task
from bdlbench.records import record
from bdlbench.runs import lint

NOISE = np.random.default_rng(0)
Lines = list[str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BDLBENCH_DATA", str(tmp_path / "store"))


def load(name: str, split: int = 0, **options: Any) -> Task:
    return catalog.load_task(catalog.choice("datasets", name, {name: options}), split)


def houses(rows: int = 40) -> Lines:
    """area, rooms, city, price: a regression with a category; two rooms and one city are missing."""
    made = ["area,rooms,city,price"]
    for i in range(rows):
        rooms = "" if i in (3, 30) else str(1 + i % 4)
        city = "" if i == 5 else ("Bern", "Chur", "Genf")[i % 3]
        made.append(f"{50 + 7 * i % 90}.5,{rooms},{city},{100_000 + 977 * i}")
    return made


def plain_city() -> Lines:
    """area and city."""
    return ["area,city", *(f"{i * 7 % 31}.5,{('Bern', 'Chur')[i % 2]}" for i in range(20))]


def plain(rows: int = 40) -> Lines:
    """a, b, y without missing values."""
    return ["a,b,y", *(f"{i * 7 % 31}.5,{i * 5 % 23}.25,{i * 3 % 17}.125" for i in range(rows))]


def write(lines: Lines, name: str = "t.csv", **how: Any) -> str:
    Path(name).write_text("\n".join(lines) + "\n", **how)
    return name


def images(folder: str, classes: dict[str, int], size: tuple[int, int] = (9, 7)) -> str:
    for i, (title, count) in enumerate(classes.items()):
        place = Path(folder) / title
        place.mkdir(parents=True)
        for k in range(count):
            pixels = np.random.default_rng(100 * i + k).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{k}.png")
    return folder


def rows(task: Task) -> torch.Tensor:
    return torch.cat([task.train.x, task.test.x])


# what a table becomes


@pytest.mark.slow
def test_a_table_is_coded_and_scaled_by_its_training_rows() -> None:
    """By hand: numbers, with the training median for what is missing; 0 and 1 for each city; all standardised."""
    path = write(houses())
    task = load("csv", path=path, target="price", missing="median")
    raw = [line.split(",") for line in houses()[1:]]
    train, test = random_split(40, "own data", 0)
    area = np.array([float(r[0]) for r in raw])
    rooms = np.array([float(r[1]) if r[1] else np.nan for r in raw])
    rooms = np.where(np.isnan(rooms), np.nanmedian(rooms[train]), rooms)
    city = np.array([r[2] for r in raw])
    names, counts = np.unique([c for c in city[train] if c], return_counts=True)
    city = np.where(city == "", names[counts.argmax()], city)
    coded = np.stack([area, rooms, *(city == name for name in ("Bern", "Chur", "Genf"))], axis=1).astype(float)
    scaled = (coded - coded[train].mean(0)) / coded[train].std(0)
    np.testing.assert_allclose(task.train.x, scaled[train], atol=1e-6)
    np.testing.assert_allclose(task.test.x, scaled[test], atol=1e-6)
    price = np.array([float(r[3]) for r in raw])
    assert task.y_mean == pytest.approx(price[train].mean())
    np.testing.assert_allclose(task.test.y * task.y_sd + task.y_mean, price[test], rtol=1e-6)
    assert task.signature.likelihood == "gaussian"
    assert task.statistics["imputed_values"] == 3
    assert task.sources == {"t.csv": given.sha256(Path(path))}
    assert not [fault for fault in lint.of_task("csv", task) if fault.severity == "refused"]


def test_rows_of_a_few_categories_are_alike_without_a_leak() -> None:
    """32 kinds of rows, of which most test rows recur in training: flagged. A copy of training rows is refused."""
    made = NOISE.integers(0, 4, (60, 3))
    lines = ["a,b,c,y", *(f"{'uvwx'[a]},{'klmn'[b]},{'pq'[c % 2]},{('no', 'yes')[a % 2]}" for a, b, c in made)]
    task = load("csv", path=write(lines), target="y")
    assert [fault.severity for fault in lint.of_task("csv", task)] == ["flagged"]
    write(plain(), "train.csv")
    write(plain()[:11], "test.csv")
    copied = load("csv", path="train.csv", test="test.csv", target="y")
    assert [fault.severity for fault in lint.of_task("csv", copied)] == ["refused"]


def test_an_indicator_says_what_was_missing() -> None:
    task = load("csv", path=write(houses()), target="price", missing="mean", missing_indicator=True)
    assert task.signature.input_shape == (6,)


def test_test_rows_say_nothing_of_the_scale_of_inputs() -> None:
    """Another test row leaves every training input as it was."""
    lines = plain()
    _, test = random_split(40, "own data", 0)
    before = load("csv", path=write(lines), target="y")
    lines[1 + test[0]] = "5000,-300,9000"
    after = load("csv", path=write(lines), target="y")
    assert torch.equal(before.train.x, after.train.x)
    assert torch.equal(before.train.y, after.train.y)
    assert not torch.equal(before.test.x, after.test.x)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        (lambda text: text.replace(",", ";").replace(".", ","), {"decimal": "comma"}),
        (lambda text: text.replace(",", "\t"), {}),
        (lambda text: text.replace(",", "|"), {"delimiter": "pipe"}),
        (lambda text: text.replace(",", "   "), {}),
        (lambda text: text.replace("\n", "\r\n"), {}),
        (lambda text: "\ufeff" + text, {}),
        (lambda text: text.replace("\n", "\n\n"), {}),
        (lambda text: text.replace(",", " , "), {}),
        (lambda text: text.partition("\n")[2], {"header": False, "target": "2"}),
    ],
)
def test_the_same_table_in_another_form_is_the_same_data(form: Callable[[str], str], options: dict[str, Any]) -> None:
    text = "\n".join(plain()) + "\n"
    Path("a.csv").write_text(text)
    Path("b.csv").write_bytes(form(text).encode())
    one, other = load("csv", path="a.csv", target="y"), load("csv", path="b.csv", **{"target": "y", **options})
    assert torch.equal(rows(one), rows(other))
    assert torch.equal(one.train.y, other.train.y)


def test_encodings() -> None:
    lines = [line.replace("Bern", "Zürich") for line in houses()]
    one = load("csv", path=write(lines, encoding="utf-8"), target="price", missing="mean")
    other = load(
        "csv", path=write(lines, "l.csv", encoding="latin-1"), target="price", missing="mean", encoding="latin-1"
    )
    assert torch.equal(rows(one), rows(other))


def test_quoted_fields_hold_delimiters_and_lines() -> None:
    lines = ["a,b,y", *(f'"x, {i % 2}\nz",{i},{i * i}.5' for i in range(1, 41))]
    task = load("csv", path=write(lines), target="y", keep="b")
    assert task.signature.input_shape == (3,)


def test_texts_are_classes_in_the_order_of_their_names() -> None:
    lines = ["a,kind", *(f"{i}.5,{('b', 'a', 'c')[i % 3]}" for i in range(60))]
    task = load("csv", path=write(lines), target="kind")
    assert (task.signature.outputs, task.signature.likelihood) == (3, "categorical")
    measured = (task.test.x[:, 0] * 60).argsort()  # a is i + .5, so its order is that of the rows
    assert len(measured) == 15
    assert task.train.y.bincount().tolist() == [15, 15, 15]
    numbers = load("csv", path=write([line.replace("b", "5") for line in lines]), target="kind")
    assert numbers.signature.outputs == 3


def test_splits_are_of_a_share_and_stratified() -> None:
    lines = ["a,kind", *(f"{i}.5,{'rare' if i % 10 == 0 else 'usual'}" for i in range(100))]
    task = load("csv", 3, path=write(lines), target="kind", test_share=0.3)
    assert len(task.test.y) == 30
    assert task.test.y.bincount().tolist() == [3, 27]
    other = load("csv", 4, path="t.csv", target="kind", test_share=0.3)
    assert not torch.equal(task.test.x, other.test.x)


def test_a_second_file_or_a_column_says_what_is_tested() -> None:
    lines = plain()
    whole = [lines[0] + ",part", *(f"{line},{'Test' if i >= 30 else 'train'}" for i, line in enumerate(lines[1:]))]
    write(lines[:31], "train.csv")
    turned = [",".join(reversed(line.split(","))) for line in [lines[0], *lines[31:]]]
    write(turned, "test.csv")
    by_file = load("csv", path="train.csv", test="test.csv", target="y")
    by_column = load("csv", path=write(whole), split_column="part", target="y")
    assert by_file.test.x.shape == (10, 2)
    assert torch.equal(by_file.train.x, by_column.train.x)
    assert torch.equal(by_file.test.x, by_column.test.x)
    assert set(by_file.sources) == {"train.csv", "test.csv (test)"}


def test_a_category_that_no_training_row_has_is_zeros_or_refused(refused: Any) -> None:
    write(["c,y", *(f"{'ab'[i % 2]},{i}.5" for i in range(20))], "train.csv")
    write(["c,y", "z,1.5", "a,2.5"], "test.csv")
    task = load("csv", path="train.csv", test="test.csv", target="y")
    assert task.statistics["unknown_categories"] == 1
    assert task.test.x.tolist() == [[-1, -1], [1, -1]]  # ten rows of each in training: (0 − ½)/½ and (1 − ½)/½
    with refused("train.csv", "column c", "'z'", "csv.unknown=zeros"):
        load("csv", path="train.csv", test="test.csv", target="y", unknown="refused")


# what is refused

BAD_TABLES: dict[str, tuple[Lines, dict[str, Any], list[str]]] = {
    "no target": (plain(), {}, ["csv.target", "a, b, y"]),
    "no such target": (plain(), {"target": "z"}, ["'z'", "t.csv"]),
    "one class": (["a,y", *(f"{i}.5,yes" for i in range(20))], {"target": "y"}, ["'yes'"]),
    "classes or counts": (["a,y", *(f"{i}.5,{i % 5}" for i in range(20))], {"target": "y"}, ["5 whole", "csv.task"]),
    "fractions as classes": (plain(), {"target": "y", "task": "classification"}, ["no class", "line 2"]),
    "texts as numbers": (
        plain_city(),
        {"target": "city", "task": "regression"},
        ["city", "'Bern'", "line 2"],
    ),
    "an id as target": (["a,y", *(f"{i}.5,n{i}" for i in range(20))], {"target": "y"}, ["20 classes", "id"]),
    "a constant target": (["a,y", *(f"{i}.5,3.5" for i in range(20))], {"target": "y"}, ["y", "3.5"]),
    "non-numeric": ([*plain(), "oops,1,2"], {"target": "y"}, ["column a", "'oops'", "line 42"]),
    "a mixed date": ([*plain(), "2020-01-01,1,2"], {"target": "y"}, ["column a", "dates", "csv.drop=a"]),
    "thousands": ([*plain(), '"1,000",1,2'], {"target": "y"}, ["column a", "'1,000'", "thousands"]),
    "underscores": ([*plain(), "1_000,1,2"], {"target": "y"}, ["column a", "'1_000'"]),
    "infinite": ([*plain(), "-inf,1,2"], {"target": "y"}, ["column a", "-inf", "line 42"]),
    "beyond 64 bits": ([*plain(), "1e999,1,2"], {"target": "y"}, ["column a", "inf", "line 42"]),
    "too large": ([*plain(), "1e300,1,2"], {"target": "y"}, ["column a", "1e+300", "line 42"]),
    "an infinite target": ([*plain(), "1,1,inf"], {"target": "y"}, ["y", "inf", "line 42"]),
    "missing": (houses(), {"target": "price"}, ["rooms", "line 5", "2", "40", "csv.missing=median"]),
    "a missing category": (houses(), {"target": "price", "drop": "rooms"}, ["city", "line 7", "csv.missing"]),
    "a missing target": ([*plain(), "1,2,"], {"target": "y", "missing": "mean"}, ["y", "line 42"]),
    "nothing in a column": (
        ["a,b,y", *(f"{i}.5,,{i}.5" for i in range(20))],
        {"target": "y", "missing": "mean"},
        ["column b", "csv.drop=b"],
    ),
    "three rows": (plain(3), {"target": "y"}, ["3 rows", "10"]),
    "a header alone": (plain(0), {"target": "y"}, ["0 rows", "10"]),
    "two equal names": (["a,a,y", "1,2,3"], {"target": "y"}, ["'a'"]),
    "ragged": ([*plain(), "1,2"], {"target": "y"}, ["line 42", "2 fields", "3"]),
    "too long a line": ([*plain(), "1,2,3,4"], {"target": "y"}, ["line 42", "4 fields"]),
    "no header": (plain()[1:], {"target": "y"}, ["csv.header=false"]),
    "one column": (["y", *map(str, range(20))], {"target": "y"}, ["'y'", "csv.delimiter=semicolon"]),
    "only the target": (["a,y", *(f"{i}.5,{i}.5" for i in range(20))], {"target": "y", "drop": "a"}, ["beside", "y"]),
    "no such column to drop": (plain(), {"target": "y", "drop": "a+x"}, ["'x'", "csv.drop"]),
    "no such category": (plain(), {"target": "y", "categorical": "x"}, ["'x'", "csv.categorical"]),
    "an id": (["id,a,y", *(f"{i},{i * 7 % 5}.5,{i}.5" for i in range(20))], {"target": "y"}, ["id", "csv.drop"]),
    "an index of pandas": ([",a,y", *(f"{i},{i}.25,{i}.5" for i in range(20))], {"target": "y"}, ["Unnamed: 0"]),
    "ids of text": (["a,b,y", *(f"u{i},{i}.5,{i}.5" for i in range(20))], {"target": "y"}, ["a", "20", "csv.drop=a"]),
    "dates": (["a,b,y", *(f"2020-01-{1 + i % 9},{i}.5,{i}.5" for i in range(20))], {"target": "y"}, ["a", "dates"]),
    "decimal commas": (
        ["a;y", *(f"{i},5;{i},25" for i in range(20))],
        {"target": "y"},
        ["column a", "'0,5'", "csv.decimal=comma"],
    ),
    "an open quote": ([*plain(), '"1,2,3'], {"target": "y"}, ["t.csv"]),
    "a split column of other words": (
        ["a,p,y", *(f"{i}.5,{'train' if i else 'dev'},{i}.5" for i in range(20))],
        {"target": "y", "split_column": "p"},
        ["column p", "'dev'", "line 2"],
    ),
    "nothing to test": (
        ["a,p,y", *(f"{i}.5,train,{i}.5" for i in range(20))],
        {"target": "y", "split_column": "p"},
        ["20", "0", "csv.test_share"],
    ),
    "a class in test rows only": (
        ["a,p,y", *(f"{i}.5,{'train' if i < 15 else 'test'},{'ab'[i % 2] if i < 15 else 'c'}" for i in range(20))],
        {"target": "y", "split_column": "p"},
        ["'c'", "line 17"],
    ),
    "an unknown encoding": (plain(), {"target": "y", "encoding": "nonsense"}, ["csv.encoding=nonsense"]),
    "no text encoding": (plain(), {"target": "y", "encoding": "hex"}, ["csv.encoding=hex"]),
    "no SHA-256": (plain(), {"target": "y", "path_sha256": "zz"}, ["csv.path_sha256=zz"]),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_is_refused_in_one_line(name: str, refused: Any) -> None:
    lines, options, told = BAD_TABLES[name]
    with refused(*told):
        load("csv", path=write(lines), **options)


BAD_FILES: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["empty"]),
    "empty lines": (b"\n\n\n", ["lines"]),
    "Latin-1": ("a,y\nZürich,1\n".encode("latin-1"), ["UTF-8", "line 2", "latin-1"]),
    "UTF-16": ("\ufeffa,y\n1,2\n".encode("utf-16-le"), ["UTF-16", "csv.encoding"]),
    "zero bytes": (b"a,y\n1\0,2\n", ["text"]),
    "gzip": (b"\x1f\x8b\x08\x00", ["gzip"]),
    "Excel": (b"PK\x03\x04 workbook", ["Excel"]),
    "parquet": (b"PAR1", ["parquet"]),
    "a field beyond bounds": (b"a,y\n" + b"x" * 200_000 + b",1\n", ["limit"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_line(name: str, refused: Any) -> None:
    content, told = BAD_FILES[name]
    Path("t.csv").write_bytes(content)
    with refused("t.csv", *told):
        load("csv", path="t.csv", target="y")


def test_a_path_that_is_no_file_is_refused(tmp_path: Path, refused: Any) -> None:
    with refused("csv.path=nowhere.csv", str(tmp_path / "store"), error=DataUnavailable):
        load("csv", path="nowhere.csv", target="y")
    Path("folder").mkdir()
    with refused("csv.path=folder"):
        load("csv", path="folder", target="y")
    os.mkfifo("pipe")
    with refused("csv.path=pipe", "regular"):
        load("csv", path="pipe", target="y")
    with refused("csv.path", error=DataUnavailable):
        load("csv", path="x" * 5000, target="y")
    with refused("csv", "csv.path=FILE", error=DataUnavailable):
        load("csv", target="y")
    with refused("image_folder.path=t.csv"):
        load("image_folder", path=write(plain()))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["csv.path=nowhere.csv", "csv.target=y"], ["nowhere.csv"]),
        (["csv.path=t.csv"], ["csv.target=NAME"]),
        (["csv.path=t.csv", "csv.target=z"], ["'z'"]),
        (["csv.path=.", "csv.target=y"], ["csv.path=."]),
        (["csv.path=t.csv", "csv.target=y", "csv.task=regresion"], ["regresion", "regression"]),
        (["csv.path=t.csv", "csv.target=y", "csv.test_share=1"], ["csv.test_share=1.0"]),
        ([], ["csv.path=FILE"]),
    ],
)
def test_a_command_with_a_bad_file_writes_nothing(settings: Lines, told: Lines, refused: Any) -> None:
    write(plain())
    given = [word for setting in settings for word in ("--set", setting)]
    refused.command(["run", "--dataset", "csv", "--model", "mlp", "--method", "mle", *given], *told)


# libsvm


def svm(lines: Lines, name: str = "t.svm") -> str:
    return write(lines, name)


def test_a_libsvm_file() -> None:
    lines = [f"{'+1' if i % 2 else '-1'} 1:{i}.5 3:{i * 7 % 5}  # comment" for i in range(40)]
    task = load("libsvm", path=svm(lines))
    assert task.signature.input_shape == (3,)
    assert task.signature.outputs == 2
    assert len(task.test.y) == 10
    assert not (task.train.x[:, 1] != 0).any()  # a column that is nowhere said is constant
    regression = load("libsvm", path=svm([f"{i}.25 1:{i * 3 % 11}.5" for i in range(40)]))
    assert regression.signature.likelihood == "gaussian"


def test_libsvm_files_of_train_and_test_have_the_same_columns() -> None:
    svm([f"{i % 2} 1:{i}.5 2:{i * 3 % 7}" for i in range(20)], "train.svm")
    svm(["1 1:2.5", "0 1:3.5"], "test.svm")
    task = load("libsvm", path="train.svm", test="test.svm")
    assert task.train.x.shape == (20, 2)
    assert task.test.x.shape == (2, 2)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["this is text"], ["libsvm"]),
        ([f"1 {i}:1" for i in range(20, 0, -1)] + ["1 3:1 2:1"], ["libsvm"]),
        ([f"1,2 1:{i}" for i in range(20)], ["libsvm"]),
        (["1 1:2", "0 1:3", "1 1:1"], ["3 rows"]),
        ([f"{i % 2} 1:{i} 2147483000:1" for i in range(20_000)], ["GiB"]),
        ([f"{i % 2} 1:nan" for i in range(20)], ["column 0"]),
        ([f"1 1:{i}" for i in range(20)], ["'1'"]),
        ([f"{i % 2} 1:inf" for i in range(20)], ["column 0", "inf"]),
    ],
)
def test_a_bad_libsvm_file_is_refused_in_one_line(lines: Lines, told: Lines, refused: Any) -> None:
    with refused("t.svm", *told):
        load("libsvm", path=svm(lines))


# npz


def npz(name: str = "t.npz", **arrays: Any) -> str:
    np.savez(name, **arrays)
    return name


TABLE = NOISE.normal(size=(40, 3))
CLASSES = np.arange(40) % 2
BYTES = NOISE.integers(0, 255, (40, 5, 6), dtype=np.uint8)


@pytest.mark.slow
def test_arrays_become_a_table_images_or_sequences() -> None:
    table = load("npz", path=npz(x=TABLE, y=TABLE @ [1.0, 2, 3]))
    assert (table.signature.input_shape, table.signature.likelihood) == ((3,), "gaussian")
    grey = load("npz", path=npz(X=BYTES, labels=CLASSES))
    assert grey.signature.input_shape == (1, 5, 6)
    assert grey.train.x.mean().abs() < 1e-6
    colour = NOISE.integers(0, 255, (40, 5, 6, 3), dtype=np.uint8)
    last = load("npz", path=npz(x=colour, y=CLASSES))
    first = load("npz", path=npz(x=colour.transpose(0, 3, 1, 2), y=CLASSES))
    assert last.signature.input_shape == (3, 5, 6)
    assert torch.equal(last.train.x, first.train.x)
    real = load("npz", path=npz(x=colour / 255, y=CLASSES))
    torch.testing.assert_close(real.train.x, last.train.x, atol=1e-5, rtol=0)
    sequences = load("npz", path=npz(x=NOISE.normal(size=(40, 7, 2)), y=CLASSES), kind="sequences")
    assert sequences.signature.input_shape == (7, 2)
    assert sequences.train.x.mean((0, 1)).abs().max() < 1e-6
    aged = load("npz", path=npz(x=BYTES, y=NOISE.normal(size=40)))
    assert (aged.signature.likelihood, aged.signature.outputs) == ("gaussian", 1)
    for task in (table, grey, last, real, sequences, aged):
        assert not [fault for fault in lint.of_task("npz", task) if fault.severity == "refused"]


def test_arrays_of_other_names_and_fixed_test_arrays() -> None:
    words = np.array(["cat", "dog"])[CLASSES]
    task = load("npz", path=npz(pictures=BYTES, kinds=words), inputs="pictures", target="kinds")
    assert task.signature.outputs == 2
    fixed = load("npz", path=npz(x_train=TABLE[:30], y_train=CLASSES[:30], x_test=TABLE[30:], y_test=CLASSES[30:]))
    assert fixed.test.y.tolist() == CLASSES[30:].tolist()
    assert torch.equal(fixed.train.x, load("npz", 5, path="t.npz").train.x)
    column = load("npz", path=npz(x=TABLE, y=CLASSES[:, None]))
    assert torch.equal(column.test.y, load("npz", path=npz(x=TABLE, y=CLASSES)).test.y)
    gaps = np.where(NOISE.random(TABLE.shape) < 0.1, np.nan, TABLE)
    assert load("npz", path=npz(x=gaps, y=CLASSES), missing="mean").train.x.isfinite().all()


BAD_ARRAYS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "no inputs": ({"a": TABLE, "y": CLASSES}, {}, ["x", "a, y", "npz.inputs=NAME"]),
    "no target": ({"x": TABLE}, {}, ["y", "npz.target=NAME"]),
    "no such array": ({"x": TABLE, "y": CLASSES}, {"inputs": "xx"}, ["'xx'", "npz.inputs"]),
    "other lengths": ({"x": TABLE, "y": CLASSES[:7]}, {}, ["40", "7"]),
    "one axis": ({"x": TABLE[:, 0], "y": CLASSES}, {}, ["(40,)", "(N, D)"]),
    "five axes": ({"x": np.zeros((40, 2, 2, 2, 2)), "y": CLASSES}, {}, ["(40, 2, 2, 2, 2)"]),
    "images or sequences": ({"x": BYTES / 255, "y": CLASSES}, {}, ["npz.kind"]),
    "no images": ({"x": TABLE, "y": CLASSES}, {"kind": "images"}, ["(40, 3)", "images"]),
    "one-hot": ({"x": TABLE, "y": np.eye(2)[CLASSES]}, {}, ["(40, 2)", "argmax"]),
    "pickled": ({"x": np.array([{}] * 40, dtype=object), "y": CLASSES}, {}, ["x", "Python"]),
    "complex": ({"x": TABLE * 1j, "y": CLASSES}, {}, ["x", "complex128"]),
    "texts": ({"x": TABLE.astype(str), "y": CLASSES}, {}, ["x", "<U32"]),
    "dates": ({"x": TABLE, "y": np.arange(40).astype("M8[D]")}, {}, ["y"]),
    "one class": ({"x": TABLE, "y": 0 * CLASSES}, {}, ["target", "'0'"]),
    "a class of one": ({"x": BYTES, "y": np.arange(40)}, {"task": "classification"}, ["40 classes"]),
    "three": ({"x": TABLE[:3], "y": CLASSES[:3]}, {}, ["3 rows"]),
    "three images": ({"x": BYTES[:4], "y": CLASSES[:4]}, {}, ["4 examples"]),
    "empty": ({"x": TABLE[:0], "y": CLASSES[:0]}, {}, ["(0, 3)"]),
    "no columns": ({"x": TABLE[:, :0], "y": CLASSES}, {}, ["(40, 0)"]),
    "missing": ({"x": np.where(TABLE > 2, np.nan, TABLE), "y": CLASSES}, {}, ["column", "npz.missing"]),
    "a NaN in images": ({"x": np.full((40, 2, 3), np.nan), "y": CLASSES}, {"kind": "images"}, ["t.npz"]),
    "a NaN target": ({"x": TABLE, "y": np.full(40, np.nan)}, {}, ["target", "row 0"]),
    "a test array alone": ({"x": TABLE, "y": CLASSES, "x_test": TABLE}, {}, ["y_test"]),
    "other test inputs": ({"x": TABLE, "y": CLASSES, "x_test": BYTES, "y_test": CLASSES}, {}, ["(40, 5, 6)"]),
    "images that do not vary": ({"x": 0 * BYTES, "y": CLASSES}, {}, ["t.npz"]),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays_are_refused_in_one_line(name: str, refused: Any) -> None:
    arrays, options, told = BAD_ARRAYS[name]
    with refused(*told):
        load("npz", path=npz(**arrays), **options)


def member(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


def test_npz_files_that_are_none_or_unpack_without_bound_are_refused(refused: Any) -> None:
    Path("t.npz").write_bytes(b"no zip")
    with refused("t.npz", "npz"):
        load("npz", path="t.npz")
    np.save("one.npy", TABLE)
    with refused("one.npy", "npy", "np.savez"):
        load("npz", path="one.npy")
    whole = member(np.zeros((40, 2)))
    lie = whole.replace(b"(40, 2)", b"(9" + b"9" * 12 + b", 2)")[: len(whole)]
    for content, told in ((lie, "x"), (whole[:-50], "x"), (whole[:20], "npz"), (b"abc", "npz")):
        with zipfile.ZipFile("t.npz", "w") as archive:
            archive.writestr("x.npy", content)
            archive.writestr("y.npy", member(CLASSES))
        with refused("t.npz", told):
            load("npz", path="t.npz")
    header = member(np.zeros((1, 2)))[:128].replace(b"(1, 2), }            ", b"(10000000000000, 2), ")
    with zipfile.ZipFile("bomb.npz", "w") as archive:
        archive.writestr("x.npy", header)
    with refused("bomb.npz"):
        load("npz", path="bomb.npz")


# images


@pytest.mark.slow
def test_a_folder_of_images(tmp_path: Path) -> None:
    folder = images("pets", {"cat": 12, "dog": 8})
    task = load("image_folder", path=folder, size=6)
    assert task.signature.input_shape == (3, 6, 6)
    assert task.signature.outputs == 2
    assert task.test.y.bincount().tolist() == [3, 2]
    assert task.train.x.mean((0, 2, 3)).abs().max() < 1e-5
    own = load("image_folder", path=folder, size=0)
    assert own.signature.input_shape == (3, 7, 9)
    grey = load("image_folder", path=folder, size=6, colour="grey")
    assert grey.signature.input_shape == (1, 6, 6)
    assert not lint.of_task("image_folder", task)


def test_pixels_are_those_of_the_files() -> None:
    folder = images("pets", {"cat": 12, "dog": 8})
    task = load("image_folder", path=folder, size=0)
    mean = torch.tensor([task.statistics[f"pixel_mean[{c}]"] for c in range(3)])[:, None, None]
    sd = torch.tensor([task.statistics[f"pixel_sd[{c}]"] for c in range(3)])[:, None, None]
    found = {tuple(((x * sd + mean) * 255).round().flatten().int().tolist()) for x in rows(task)}
    files = [np.asarray(Image.open(path)).transpose(2, 0, 1) for path in Path("pets").rglob("*.png")]
    assert found == {tuple(pixels.flatten().tolist()) for pixels in files}


def test_folders_of_train_and_test_are_a_fixed_split() -> None:
    images("pets/train", {"cat": 12, "dog": 8})
    images("pets/test", {"cat": 2, "dog": 3})
    images("pets/.hidden", {"x": 1})
    (Path("pets/train/cat") / ".DS_Store").write_bytes(b"x")
    task = load("image_folder", 3, path="pets", size=4)
    assert (len(task.train.y), task.test.y.tolist()) == (20, [0, 0, 1, 1, 1])
    images("pets/val", {"cat": 1, "dog": 1})
    task = load("image_folder", path="pets", size=4)
    assert task.validation is not None
    assert task.validation.y.tolist() == [0, 1]


@pytest.mark.slow
def test_bad_folders_of_images_are_refused_in_one_line(refused: Any) -> None:
    Path("empty").mkdir()
    with refused("empty"):
        load("image_folder", path="empty")
    Path("flat").mkdir()
    Image.new("RGB", (3, 3)).save("flat/a.png")
    with refused("flat", "images"):
        load("image_folder", path="flat")
    images("one", {"cat": 12})
    with refused("one", "'cat'"):
        load("image_folder", path="one")
    images("few", {"cat": 3, "dog": 2})
    with refused("few", "5 examples"):
        load("image_folder", path="few")
    folder = Path(images("pets", {"cat": 12, "dog": 8}))
    (folder / "eel").mkdir()
    (folder / "eel" / "notes.txt").write_text("no image")
    with refused("pets", "'eel'"):
        load("image_folder", path="pets")
    bad = folder / "eel" / "a.png"
    whole = (folder / "cat" / "0.png").read_bytes()
    post_script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"  # Pillow would start Ghostscript
    for content in (b"", b"no image", whole[:60], whole[: len(whole) // 2], post_script):
        bad.write_bytes(content)
        with refused("a.png"):
            load("image_folder", path="pets")
    Image.new("L", (9_000, 9_000)).save(bad)
    with refused("a.png", "9,000×9,000"):
        load("image_folder", path="pets")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(bad)
    with refused("a.png", "8 bits"):
        load("image_folder", path="pets")
    bad.unlink()
    os.mkfifo(bad)
    with refused("a.png", "regular"):
        load("image_folder", path="pets")
    bad.unlink()
    Image.new("RGB", (9, 8)).save(bad)
    with refused("a.png", "9×8", "image_folder.size"):
        load("image_folder", path="pets", size=0)
    images("parts/train", {"cat": 12, "dog": 8})
    with refused("parts", "train", "test"):
        load("image_folder", path="parts")
    images("parts/test", {"cat": 12, "cow": 8})
    with refused("parts", "'cow'"):
        load("image_folder", path="parts")


# what a cell says of a file


def cell(path: str, **options: Any) -> Cell:
    dataset = catalog.choice("datasets", "csv", {"csv": {"path": path, "target": "y", **options}})
    return Cell(Choice("map"), Choice("mlp"), dataset, 1)


def test_a_cell_names_a_file_by_its_name_and_content(tmp_path: Path) -> None:
    Path("sub").mkdir()
    Path("store").mkdir()
    one = cell(write(plain()))
    elsewhere = [cell(write(plain(), "sub/t.csv")), cell(str(tmp_path / "t.csv")), cell(write(plain(), "store/t.csv"))]
    assert {c.key for c in (one, *elsewhere)} == {one.key}
    assert one.protocol() == elsewhere[0].protocol()
    assert elsewhere[0].dataset.get("path") == "sub/t.csv"  # the record says where it lay
    assert Cell.from_dict(elsewhere[0].as_dict()).key == one.key
    assert cell(write(plain(), "u.csv")).key != one.key
    assert cell(write(plain(41))).key != one.key


def test_a_recorded_file_is_found_by_name_and_content(refused: Any) -> None:
    Path("sub").mkdir()
    then = Cell.from_dict(cell(write(plain(), "sub/t.csv")).as_dict()).dataset
    os.rename("sub/t.csv", "t.csv")
    recorded = catalog.recorded("datasets", then)
    assert torch.equal(catalog.load_task(recorded, 0).train.x, load("csv", path="t.csv", target="y").train.x)
    write(plain(41))
    with refused("sub/t.csv", str(then.get("path_sha256")), error=DataUnavailable):
        catalog.load_task(recorded, 0)
    os.remove("t.csv")
    with refused("sub/t.csv", "t.csv", error=DataUnavailable):
        catalog.load_task(recorded, 0)


def test_a_folder_is_known_by_its_images() -> None:
    images("pets", {"cat": 2, "dog": 2})
    before = given.content(Path("pets"))
    (Path("pets") / "README.txt").write_text("x")
    (Path("pets") / ".hidden.png").write_text("x")
    assert given.content(Path("pets")) == before
    os.rename("pets/cat/0.png", "pets/cat/00.png")
    assert given.content(Path("pets")) != before


def test_every_other_cell_has_the_key_it_had() -> None:
    """Pinned: the key of a cell of the suite quick, as committed records have it."""
    path = next(Path(__file__).parents[2].joinpath("results/reference/quick").glob("*.json"))
    found = record.read_one(path)
    assert found.cell.key[:12] in path.name


def test_parquet_is_as_csv(refused: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    words = ["Bern", "Chur"] * 20
    table = pa.table(
        {
            "a": pa.array([None if i == 3 else i * 7 % 31 + 0.5 for i in range(40)]),
            "b": pa.array([i % 3 == 0 for i in range(40)]),
            "c": pa.array(words).dictionary_encode(),
            "n": pa.array([1 + i % 2 for i in range(40)], pa.int32()),
            "y": pa.array([i * 3 % 17 + 0.125 for i in range(40)], pa.float32()),
            "t": pa.array([0] * 40, pa.timestamp("ms")),
        }
    )
    parquet.write_table(table, "t.parquet")
    lines = ["a,b,c,n,y"]
    for i in range(40):
        lines.append(
            f"{'' if i == 3 else i * 7 % 31 + 0.5},{int(i % 3 == 0)},{words[i]},{1 + i % 2},{i * 3 % 17 + 0.125}"
        )
    how: dict[str, Any] = {"target": "y", "missing": "mean", "categorical": "n"}
    one = load("csv", path=write(lines), **how)
    other = load("parquet", path="t.parquet", drop="t", **how)
    assert torch.equal(rows(one), rows(other))
    with refused("column t", "dates", "parquet.drop"):
        load("parquet", path="t.parquet", **how)
    Path("bad.parquet").write_bytes(b"PAR1 no")
    with refused("bad.parquet", "parquet"):
        load("parquet", path="bad.parquet", target="y")


def test_parquet_without_pyarrow_says_what_to_install(monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    Path("t.parquet").write_bytes(b"PAR1")
    with refused("t.parquet", "pyarrow"):
        load("parquet", path="t.parquet", target="y")
