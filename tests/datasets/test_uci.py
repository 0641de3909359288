"""The UCI regression sets: published splits, standardisation by training rows, sets of one's own, and what leaks."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdlbench import catalog
from bdlbench.core.errors import DataUnavailable
from bdlbench.data import downloads
from bdlbench.data.task import Task, stack
from bdlbench.datasets import diabetes, uci
from bdlbench.runs import lint

SETS = {name: entry for name, entry in uci.datasets.items() if entry.files}
NUM_SPLITS = {name: 5 if name == "protein" else 20 for name in SETS}


def declared(entry: Any, folder: Path, content: str) -> Any:
    """The declaration of the set's file with `content` in its place."""
    (file,) = entry.files
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return (replace(file, size=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest()),)


def table(rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(3).normal(5, 3, (rows, columns)).round(3)


def as_text(values: np.ndarray[Any, Any]) -> str:
    return "\n".join(" ".join(str(value) for value in np.atleast_1d(row)) for row in values) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of one's own: 30 rows, inputs in columns 1 and 3, the target in column 0, three splits."""
    made = tmp_path / "mine"
    made.mkdir()
    order = np.random.default_rng(0).permutation(30)
    files = {"data": table(30, 4), "index_features": np.array([3, 1]), "index_target": np.array([0])}
    for split in range(3):
        files |= {f"index_train_{split}": np.roll(order, split)[:25], f"index_test_{split}": np.roll(order, split)[25:]}
    for name, values in {**files, "n_splits": np.array([3])}.items():
        (made / f"{name}.txt").write_text(as_text(values))
    return made


def test_published_splits_are_the_same_on_every_machine(refused: Any) -> None:
    """Pinned: the beginnings of the first index files of yacht, as they are published."""
    assert [part.tolist()[:4] for part in uci.published_split(308, 0)] == [[73, 304, 228, 238], [121, 115, 286, 216]]
    generator = np.random.RandomState(1)
    for split in range(3):
        order = generator.permutation(20)
        train, test = uci.published_split(20, split)
        assert [*train, *test] == order.tolist()
        assert len(train) == 18
    with refused("split -1"):
        uci.published_split(20, -1)


def test_shuffled_splits_are_the_same_on_every_machine() -> None:
    """Pinned: what np.random.seed(0); np.random.shuffle(np.arange(10)) gives in every NumPy."""
    assert [part.tolist() for part in uci.shuffled_split(10, 0)] == [[2, 8, 4, 9, 1, 6, 7, 3, 0], [5]]
    assert [part.tolist() for part in uci.shuffled_split(10, 0, 0.8)] == [[2, 8, 4, 9, 1, 6, 7, 3], [0, 5]]


@pytest.mark.data
@pytest.mark.parametrize("name", SETS)
def test_the_published_splits_are_those_of_the_index_files(name: str) -> None:
    (file,) = SETS[name].files
    path = downloads.root() / file.path
    if not path.is_file() or not path.with_name("index_train_0.txt").is_file():
        pytest.skip(f"{name} is not in the store with its index files: set BDLBENCH_DATA")
    values = np.loadtxt(path)
    features = np.loadtxt(path.with_name("index_features.txt")).astype(int)
    target = int(np.loadtxt(path.with_name("index_target.txt")))
    for split in range(NUM_SPLITS[name]):
        train, test = (np.loadtxt(path.with_name(f"index_{part}_{split}.txt")) for part in ("train", "test"))
        found = uci.published_split(len(values), split)
        assert [part.tolist() for part in found] == [train.tolist(), test.tolist()]
    task = SETS[name]().load(1)
    train, test = uci.published_split(len(values), 1)
    back = task.test.y.double() * task.y_sd + task.y_mean
    np.testing.assert_allclose(back.numpy(), values[test, target], rtol=1e-5, atol=1e-5)
    mean, sd = values[train][:, features].mean(0), values[train][:, features].std(0)
    np.testing.assert_allclose(task.test.x.numpy(), (values[test][:, features] - mean) / sd, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SETS)
def test_a_set_from_a_made_up_table(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    """Columns, splits and standardisation, with no data at hand."""
    monkeypatch.setenv("BDLBENCH_DATA", str(tmp_path))
    doc = SETS[name].__doc__
    features = int(doc.partition("Input (")[2].partition(",")[0])
    values = table(40, features + 2)
    monkeypatch.setattr(SETS[name], "files", declared(SETS[name], tmp_path, as_text(values)))
    last = NUM_SPLITS[name] - 1
    task = SETS[name]().load(last)
    train, test = uci.published_split(40, last)
    assert task.signature.input_shape == (features,)
    assert task.signature.likelihood == "gaussian"
    assert task.y_mean == pytest.approx(values[train, features].mean(), rel=1e-12)
    assert task.y_sd == pytest.approx(values[train, features].std(), rel=1e-12)
    back = task.train.y.double() * task.y_sd + task.y_mean
    np.testing.assert_allclose(back.numpy(), values[train, features], rtol=1e-5)
    assert lint.of_task(name, task) == []
    assert len(task.test.y) == len(test) == 4
    assert task.sources == downloads.sources(SETS[name].files)
    for beyond in (last + 1, -1):
        with refused(f"split {beyond}"):
            SETS[name]().load(beyond)


@pytest.mark.parametrize("name", SETS)
def test_a_set_with_shuffled_splits_standardised_on_all_rows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    """The protocol of bayesian_benchmarks, and what the lint says of its leak."""
    monkeypatch.setenv("BDLBENCH_DATA", str(tmp_path))
    features = int(SETS[name].__doc__.partition("Input (")[2].partition(",")[0])
    values = table(45, features + 1)
    monkeypatch.setattr(SETS[name], "files", declared(SETS[name], tmp_path, as_text(values)))
    task = SETS[name](splits="shuffled", standardised_on="all").load(33)  # one more than the published ones
    order = np.arange(45)
    np.random.RandomState(33).shuffle(order)
    scaled = ((values - values.mean(0)) / values.std(0))[order]
    np.testing.assert_allclose(task.train.x.numpy(), scaled[:40, :features], rtol=1e-4, atol=1e-6)  # 40.5 is cut
    np.testing.assert_allclose(task.test.x.numpy(), scaled[40:, :features], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(task.test.y.numpy(), scaled[40:, features], rtol=1e-4, atol=1e-6)
    assert task.y_sd == pytest.approx(values[:, features].std(), rel=1e-12)
    faults = lint.of_task(name, task)
    assert {(fault.severity, fault.message) for fault in faults} == {
        ("flagged", f"its {what} are standardised by the statistics of training and test data together")
        for what in ("inputs", "targets")
    }
    for beyond in (2**32, -1):
        with refused(f"split {beyond}"):
            SETS[name](splits="shuffled").load(beyond)
    assert lint.of_task(name, SETS[name](splits="shuffled").load(33)) == []
    fewer = SETS[name](splits="shuffled_80").load(33)
    assert len(fewer.train.y) == 36
    back = fewer.test.y.double() * fewer.y_sd + fewer.y_mean
    np.testing.assert_allclose(back.numpy(), values[order[36:], features], rtol=1e-5, atol=1e-5)
    assert fewer.y_sd == pytest.approx(values[order[:36], features].std(), rel=1e-12)


def test_the_options_of_a_set_are_no_part_of_todays_cells() -> None:
    assert not catalog.choice("datasets", "boston", {}).options
    assert dict(catalog.choice("datasets", "yacht", {"yacht": {"splits": "shuffled"}}).options) == {
        "splits": "shuffled"
    }


@pytest.mark.data
def test_boston_is_misread_as_by_a_reader_of_fixed_widths() -> None:
    """pandas.read_fwf takes the columns' widths from the first 100 rows, where no such number has two digits."""
    pandas = pytest.importorskip("pandas")
    (file,) = uci.Boston.files
    path = downloads.root() / file.path
    if not path.is_file():
        pytest.skip("boston is not in the store: set BDLBENCH_DATA")
    found = pandas.read_fwf(path, header=None).to_numpy()
    whole, cut = (uci.Boston(standardised_on="all", misread=misread).load(0) for misread in (False, True))
    train, test = uci.published_split(506, 0)
    for part, rows in ((cut.train, train), (cut.test, test)):
        expected = (found - found.mean(0)) / found.std(0)
        np.testing.assert_allclose(part.x.numpy(), expected[rows, :13], rtol=1e-5, atol=1e-6)
    changed = (whole.train.x != cut.train.x).any(0)
    assert changed.nonzero().flatten().tolist() == [0, 7, 8]


def test_index_files_that_are_not_the_published_splits_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    monkeypatch.setenv("BDLBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(uci.Yacht, "files", declared(uci.Yacht, tmp_path, as_text(table(40, 7))))
    _, test = uci.published_split(40, 0)
    beside = downloads.root() / "uci/yacht/index_test_0.txt"
    beside.write_text(as_text(test))
    uci.Yacht().load(0)
    beside.write_text(as_text(test[::-1]))
    with refused("index_test_0.txt", "split 0", "yacht"):
        uci.Yacht().load(0)


def test_an_absent_table_is_named_with_its_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    monkeypatch.setenv("BDLBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(downloads, "_writable", lambda _: False)
    (file,) = uci.Naval.files
    with refused(file.path, f"(SHA-256 {file.sha256})", error=DataUnavailable):
        uci.Naval().load(0)


def same(a: Task, b: Task) -> bool:
    pairs = ((a.train.x, b.train.x), (a.train.y, b.train.y), (a.test.x, b.test.x), (a.test.y, b.test.y))
    return all(torch.equal(u, v) for u, v in pairs)


def test_a_folder_of_ones_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = uci.UciFolder(str(folder)).load(2)
    values, rows = np.loadtxt(folder / "data.txt"), np.loadtxt(folder / "index_test_2.txt").astype(int)
    np.testing.assert_allclose(task.test.y.double() * task.y_sd + task.y_mean, values[rows, 0], rtol=1e-5)
    assert task.train.x.shape == (25, 2)
    assert len(task.sources) == 5
    monkeypatch.setenv("BDLBENCH_DATA", str(folder.parent))
    assert same(task, uci.UciFolder("mine").load(2))
    assert not same(task, uci.UciFolder("mine").load(1))


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("data", "1 2 3\n1 2\n", ["data.txt", "text", "columns"]),
        ("data", "1;2;3\n", ["data.txt", "text", "1;2;3"]),
        ("data", "", ["data.txt", "(0, 1)", "2 axes"]),
        ("data", as_text(np.where(np.arange(120).reshape(30, 4) == 1, np.nan, 1.5)), ["column 1", "nan", "row 15"]),
        ("index_features", "4\n", ["index_features.txt", "4", "columns", "data.txt", "0 to 3"]),
        ("index_features", "1\n1\n", ["index_features.txt", "columns", "data.txt", "twice"]),
        ("index_features", "0\n", ["index_target.txt", "column", "index_features.txt"]),
        ("index_target", "0\n2\n", ["index_target.txt", "column", "index_features.txt"]),
        ("index_train_0", "1.5\n", ["index_train_0.txt", "1.5", "0 to 29"]),
        ("index_test_0", "-1\n", ["index_test_0.txt", "-1", "0 to 29"]),
        ("n_splits", "0.5\n", ["n_splits.txt", "0.5"]),
        ("n_splits", "0\n", ["n_splits.txt", "0", "splits"]),
    ],
)
def test_a_broken_folder_is_refused_by_its_file(
    folder: Path, name: str, text: str, names: list[str], refused: Any
) -> None:
    (folder / f"{name}.txt").write_text(text)
    with refused(*names):
        uci.UciFolder(str(folder)).load(0)


def test_a_row_in_training_and_test_is_refused(folder: Path, refused: Any) -> None:
    train = np.loadtxt(folder / "index_train_0.txt").astype(int)
    (folder / "index_test_0.txt").write_text(f"{train[3]}\n")
    with refused("index_test_0.txt", "1 rows", "index_train_0.txt", train[3]):
        uci.UciFolder(str(folder)).load(0)


def test_a_folder_without_a_file_or_a_split(folder: Path, tmp_path: Path, refused: Any) -> None:
    with refused("mine", "split 3", "--seeds 3"):
        uci.UciFolder(str(folder)).load(3)
    (folder / "index_test_1.txt").unlink()
    with refused("index_test_1.txt", "exist", error=DataUnavailable):
        uci.UciFolder(str(folder)).load(1)
    with refused(f"uci_folder.path={tmp_path / 'none'}", error=DataUnavailable):
        uci.UciFolder(str(tmp_path / "none")).load(0)
    with refused("uci_folder.path=FOLDER", error=DataUnavailable):
        uci.UciFolder().load(0)


def test_splits_of_different_sizes_are_no_rows_of_one_batch(folder: Path, refused: Any) -> None:
    (folder / "index_train_1.txt").write_text(as_text(np.loadtxt(folder / "index_train_1.txt")[:20]))
    tasks = [uci.UciFolder(str(folder)).load(split) for split in (0, 1)]
    with refused("20 to 25", "splits"):
        stack(tasks, (0, 1))


def test_rows_that_recur_are_a_finding_of_the_lint(folder: Path) -> None:
    values = np.loadtxt(folder / "data.txt")
    train, test = (np.loadtxt(folder / f"index_{part}_0.txt").astype(int) for part in ("train", "test"))
    assert lint.of_task("mine", uci.UciFolder(str(folder)).load(0)) == []
    values[test[0]] = values[train[4]]
    (folder / "data.txt").write_text(as_text(values))
    (found,) = lint.of_task("mine", uci.UciFolder(str(folder)).load(0))
    assert (found.severity, found.message) == ("flagged", "its test data are in part training data")
    assert found.detail == "20 %, such as example 0, from 0, which is training example 4"


def test_diabetes_is_what_it_always_was() -> None:
    """Pinned before its standardisation was shared: a change of these numbers is a change of its protocol."""
    task = diabetes.Diabetes().load(3)
    content = b"".join(part.numpy().tobytes() for part in (task.train.x, task.train.y, task.test.x, task.test.y))
    assert hashlib.sha256(content).hexdigest() == "6c1fec547f60c5300e19e1cd12acdb0a42164626b05053cdb3d63c359e574aba"


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "splits"),
    [("wine_quality", 20), ("concrete", 19), ("power", 6), ("yacht", 0), ("energy", 0), ("boston", 0)],
)
def test_the_lint_says_in_which_splits_rows_recur(name: str, splits: int) -> None:
    (file,) = SETS[name].files
    if not (downloads.root() / file.path).is_file():
        pytest.skip(f"{name} is not in the store: set BDLBENCH_DATA")
    found = {split: lint.of_task(name, SETS[name]().load(split)) for split in range(20)}
    assert sum(map(bool, found.values())) == splits
    for fault in lint.of_splits(name, found):
        assert (fault.severity, fault.message) == ("flagged", "its test data are in part training data")
