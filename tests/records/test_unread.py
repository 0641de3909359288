"""A bad record among good ones: every command goes on with the others, names it, and ends with 4, never with 0."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bdlbench import api
from bdlbench.cli import main as cli
from bdlbench.core import files
from bdlbench.records import record as records
from bdlbench.records.record import SCHEMA, UNREAD_SHOWN

CELLS = {"method": ["exact", "map"], "model": ["coin"], "dataset": ["coin_flips"], "samples": 1, "seeds": 2}
CELLS |= {"set": {"map.epochs": 2}}
COMMAND = "run --method exact --method map --model coin --dataset coin_flips --samples 1 --seeds 2 --set map.epochs=2"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "r"
    api.run("quick", **CELLS, results=folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    (tmp_path / "r").mkdir()
    for path in made.iterdir():
        os.link(path, tmp_path / "r" / path.name)  # nothing writes into them: they are replaced
    return tmp_path / "r"


def replaced(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def cut(path: Path) -> None:
    replaced(path, path.read_bytes()[:700])


def flipped(path: Path) -> None:
    replaced(path, path.read_bytes().replace(b'"seed": 1', b'"seed": 3'))


def newer(path: Path) -> None:
    body = json.loads(path.read_text()) | {"schema": SCHEMA + 1}
    del body["checksum"]
    replaced(path, json.dumps({**body, "checksum": files.digest(body)}).encode())


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGES = [cut, flipped]
OTHERS = [newer, pipe, directory, loop, device]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [*DAMAGES, *OTHERS])
def test_every_command_goes_on_with_the_others(
    folder: Path,
    made: Path,
    damage: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (bad,) = folder.glob("*exact*.json")
    damage(bad)
    out = str(folder.parent / "page")
    for command, shown in (
        (["table", str(folder)], "map"),
        (["compare", str(folder), str(made), "--ignore-options"], "map"),
        (["compare", str(made), str(folder)], "map"),
        (["report", str(folder), "--out", out], "index.html"),
        (["verify", str(folder)], "bit-identical: map"),
    ):
        records._say.cache_clear()
        caplog.clear()
        assert cli.main(command) == 4, command
        told = capsys.readouterr()
        assert shown in told.out
        assert bad.name in caplog.text  # on stderr, where nobody has set up logging
    assert bad.name in (Path(out) / "index.html").read_text("utf-8")
    assert [r.cell.method.name for r in records.scan(folder).records] == ["map"]


@pytest.mark.slow
def test_run_trains_a_damaged_cell_again_and_keeps_the_file(folder: Path, made: Path) -> None:
    (bad,) = folder.glob("*exact*.json")
    cut(bad)
    content = bad.read_bytes()
    assert cli.main([*COMMAND.split(), "--results", str(folder), "--jobs", "1"]) == 0
    assert records.read_one(bad).values == records.read_one(made / bad.name).values
    (kept,) = (folder / ".damaged").iterdir()
    assert kept.read_bytes() == content
    assert cli.main(["table", str(folder)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("damage", OTHERS)
@pytest.mark.parametrize("fresh", [False, True])
def test_run_never_replaces_what_it_cannot_read(
    folder: Path, damage: Callable[[Path], None], fresh: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record of a newer schema is not lost to an older program; nor is what else lies in a record's place."""
    (bad,) = folder.glob("*exact*.json")
    damage(bad)
    before = os.lstat(bad)
    records._say.cache_clear()
    command = [*COMMAND.split(), "--results", str(folder), "--jobs", "1"] + ["--fresh"] * fresh
    assert cli.main(command) == 4
    assert "skipped: exact" in capsys.readouterr().out
    assert (os.lstat(bad).st_ino, os.lstat(bad).st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert records.scan(folder).unread[0].path == bad
    assert cli.main([*command, "--dry-run"]) == 0
    assert "skipped" in capsys.readouterr().out


def test_a_bad_record_of_another_cell_is_no_business_of_a_run(folder: Path) -> None:
    (bad,) = folder.glob("*exact*.json")
    newer(bad)
    done = api.run("quick", **{**CELLS, "method": ["map"]}, results=folder)
    assert len(done) == 1
    assert not done.skipped


def test_many_bad_records_have_a_line_for_the_first_and_a_number(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (good,) = folder.glob("*exact*.json")
    for k in range(UNREAD_SHOWN + 3):
        (folder / f"x-{k:012x}-{k:08x}.json").write_bytes(good.read_bytes()[:500])
    records._say.cache_clear()
    api.table(folder)
    lines = [line for line in caplog.messages if "left out" in line]
    assert len(lines) == UNREAD_SHOWN + 1
    assert "3 more" in lines[-1]


def test_a_verdict_over_a_bad_reference_is_refused(folder: Path, tmp_path: Path) -> None:
    """`gate` needs its whole reference: a part of it would pass what it does not look at."""
    (folder.parent / "smoke").mkdir()
    for path in folder.iterdir():
        path.rename(folder.parent / "smoke" / path.name)
    cut(next((folder.parent / "smoke").glob("*exact*.json")))
    assert cli.main(["gate", "--reference", str(folder.parent)]) == 2


def test_a_folder_of_nothing_but_bad_records_is_bad_input(folder: Path) -> None:
    for path in folder.glob("*.json"):
        cut(path)
    assert cli.main(["table", str(folder)]) == 2


def test_what_has_not_changed_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = records.scan(folder)
    asked: list[str] = []
    plain = records._read
    monkeypatch.setattr(records, "_read", lambda path: asked.append(path.name) or plain(path))
    assert records.scan(folder, known=first).records == first.records
    assert not asked
    (path,) = folder.glob("*exact*.json")
    replaced(path, path.read_bytes())
    assert records.scan(folder, known=first).records == first.records
    assert asked == [path.name]
