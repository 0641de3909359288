"""The index of a large folder: the same records as from the files, never instead of files that have changed."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from bdlbench.gate import checks, verify
from bdlbench.records import index, reading
from bdlbench.records import record as records

QUICK = Path(__file__).parents[2] / "results" / "reference" / "quick"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the records whose files are read."""
    names: list[str] = []
    plain = records._read
    monkeypatch.setattr(records, "_read", lambda path: names.append(path.name) or plain(path))
    return names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that counts as large, whose files count as settled, with an index."""
    monkeypatch.setattr(index, "LEAST", 1)
    monkeypatch.setattr(index, "SETTLED_NS", -(10**12))
    (tmp_path / "r" / "below").mkdir(parents=True)
    for k, path in enumerate(sorted(QUICK.glob("*.json"))):
        shutil.copy(path, tmp_path / "r" / ("below" if k % 3 == 0 else ".") / path.name)
    reading.read(tmp_path / "r")
    return tmp_path / "r"


def test_it_gives_the_records_of_the_files_without_reading_them(folder: Path, opened: list[str]) -> None:
    found = records.scan(folder, below=True)
    assert not opened
    plain = records.scan(folder, below=True, indexed=False)
    assert len(opened) == len(found.records) == 27
    assert found == plain
    assert [record.path for record in found.records] == [record.path for record in plain.records]
    assert [record.key for record in found.records] == [replace(record.cell).key for record in plain.records]
    for one, other in zip(found.records, plain.records, strict=True):
        assert repr(one.cell) == repr(other.cell)  # also 1, 1.0 and true, which are equal


def test_cells_of_one_data_set_share_its_options(folder: Path) -> None:
    found = [record.cell.dataset for record in records.scan(folder, below=True).records]
    assert len({id(one) for one in found}) == len({repr(one) for one in found}) < len(found)


def test_a_record_that_is_added_or_gone_costs_one_row(folder: Path, opened: list[str]) -> None:
    first, second, *_ = sorted(folder.glob("*.json"))
    first.rename(folder.parent / first.name)
    assert len(records.scan(folder, below=True).records) == 26
    assert not opened
    shutil.copy(folder.parent / first.name, first)
    second.unlink()
    assert len(records.scan(folder, below=True).records) == 26
    assert opened == [first.name]
    assert len(records.scan(folder, below=True).records) == 26
    assert opened == [first.name]


def test_it_does_not_count_for_a_file_that_has_changed(folder: Path) -> None:
    """Also where somebody puts size and time back: the time of the inode tells."""
    path = next(folder.glob("*.json"))
    before = path.stat()
    content = path.read_bytes().replace(b'"seed": 1', b'"seed": 7')
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (unread,) = records.scan(folder, below=True).unread
    assert unread.path == path


def test_a_file_that_may_still_change_is_not_indexed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    """Within a tick of the clock a file can change, and its times stay."""
    monkeypatch.setattr(index, "LEAST", 1)
    path = next(QUICK.glob("*.json"))
    shutil.copy(path, tmp_path / path.name)
    records.scan(tmp_path)
    records.scan(tmp_path)
    assert opened == [path.name] * 2
    assert not (tmp_path / index.INDEX).exists()


def changed(sql: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with sqlite3.connect(path) as base:
            base.execute(sql)
        base.close()

    return change


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for at in range(4096, len(content), 5000):
        content[at] ^= 0x21
    path.write_bytes(content)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        *(cut, flipped, directory, pipe, lambda path: path.write_text("no index"), lambda path: path.unlink()),
        changed("UPDATE form SET version = '0'"),
        changed("UPDATE record SET content = replace(CAST(content AS TEXT), '0', '1')"),
        changed("UPDATE environment SET content = '{}'"),
        changed("DROP TABLE record"),
        changed("ALTER TABLE record DROP COLUMN mtime"),
    ],
)
def test_a_damaged_index_changes_nothing(folder: Path, damage: Callable[[Path], None]) -> None:
    plain = records.scan(folder, below=True, indexed=False)
    damage(folder / index.INDEX)
    for _ in range(3):
        assert records.scan(folder, below=True) == plain


def test_a_damaged_index_is_made_anew(folder: Path, opened: list[str]) -> None:
    (folder / index.INDEX).write_text("no index")
    records.scan(folder, below=True)
    assert len(opened) == 27
    records.scan(folder, below=True)
    assert len(opened) == 27


def test_many_write_it_at_once(folder: Path, opened: list[str]) -> None:
    plain = records.scan(folder, below=True, indexed=False)
    (folder / index.INDEX).unlink()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: records.scan(folder, below=True), range(16)))
    assert all(one == plain for one in found)
    opened.clear()
    assert records.scan(folder, below=True) == plain
    assert not opened


def test_it_is_no_reason_to_fail(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked index, and one that cannot be written, are done without."""
    monkeypatch.setattr(index, "PATIENCE", 0.01)
    plain = records.scan(folder, below=True, indexed=False)
    with sqlite3.connect(folder / index.INDEX, isolation_level=None) as base:
        base.execute("BEGIN EXCLUSIVE")
        assert records.scan(folder, below=True) == plain
        base.execute("ROLLBACK")
    base.close()
    (folder / index.INDEX).unlink()
    monkeypatch.setattr(index, "_opened", lambda path, mode: (_ for _ in ()).throw(OSError("read-only")))
    assert records.scan(folder, below=True) == plain


def test_whoever_judges_the_files_reads_them(folder: Path, opened: list[str]) -> None:
    next(verify.verify_folder(folder))
    assert len(opened) == 27
    assert len(records.read(folder)) == 18
    assert len(opened) == 27 + 18


def test_the_gate_reads_its_reference_from_the_files(folder: Path, opened: list[str]) -> None:
    gate = checks.Gate(folder.parent, folder.name, folder.parent / "none")
    gate.made = []  # nothing is trained
    checks._quality(gate)
    assert len(opened) == 27


@pytest.mark.slow
def test_a_folder_of_thousands_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    """Operations are counted, not seconds: nothing is opened twice, and nothing grows with the square."""
    monkeypatch.setattr(index, "SETTLED_NS", -(10**12))
    original = next(QUICK.glob("coin_flips-coin-map*.json")).read_bytes()
    for k in range(3000):
        (tmp_path / f"copy-{k:012x}-{k:08x}.json").write_bytes(original)
    assert len(records.scan(tmp_path).records) == len(opened) == 3000
    assert len(records.scan(tmp_path).records) == len(opened) == 3000
    (tmp_path / "one more.json").write_bytes(original)
    assert len(records.scan(tmp_path).records) == len(opened) == 3001
