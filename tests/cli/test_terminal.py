"""Terminals, pipes and systems that lack something: a sign, a reader, a module of Unix."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bdlbench import api
from bdlbench.cli import main as cli
from bdlbench.cli import terminal
from bdlbench.core import clock

ROOT = Path(__file__).resolve().parents[2]
SIGNS = "nll ↓ 0.5 ± 0.1 · − × ∞ … 方法 \udc80"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("records")
    tiny = {"model": ["coin"], "dataset": ["coin_flips"], "samples": 1, "seeds": "3"}
    api.run("quick", **tiny, method=["exact"], results=place)
    return place


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("cp1252", "nll v 0.5 ± 0.1 · - × inf … ?? ?"),
        ("ascii", "nll v 0.5 +/- 0.1 . - x inf ... ?? ?"),
        ("latin-1", "nll v 0.5 ± 0.1 · - × inf ... ?? ?"),
        ("utf-8", "nll ↓ 0.5 ± 0.1 · − × ∞ … 方法 ?"),
    ],
)
def test_a_sign_that_the_encoding_lacks(encoding: str, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with terminal.forgiving():
        print(SIGNS, end="")
    assert content.getvalue().decode(encoding) == written
    assert (sys.stdout, stream.errors) == (stream, "strict")


@pytest.mark.slow
@pytest.mark.parametrize("style", ["csv", "json", "terminal", "markdown", "latex"])
def test_tables_in_another_encoding(folder: Path, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="ascii"))
    assert cli.main(["table", str(folder), "--format", style]) == 0
    text = content.getvalue().decode("utf-8" if style in ("csv", "json") else "ascii")
    assert "exact" in text


def closed_pipe(monkeypatch: pytest.MonkeyPatch) -> io.TextIOWrapper:
    """A stdout whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


@pytest.mark.parametrize("verdict", [0, 1])
def test_a_reader_who_leaves_is_no_verdict(
    folder: Path, verdict: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The code is what it is without a pipe: of a comparison 0 or 1, of what does not exist 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bdlbench.compare.pairs.Comparison.exit_code", verdict)
    commands = [["compare", str(folder), str(folder)], ["table", str(folder)], ["list"]]
    commands += [["table", "nowhere"], ["--help"], ["list", "methods", "--options"]]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.StringIO())
        codes = [cli.main(command) for command in commands]
    assert codes == [verdict, 0, 0, 2, 0, 0]
    for command, code in zip(commands, codes, strict=True):
        with monkeypatch.context() as patch, closed_pipe(patch):
            assert cli.main(command) == code


def test_training_goes_on_when_its_reader_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["run", "--method", "exact", "--model", "coin", "--dataset", "coin_flips", "--samples", "1"]
    with closed_pipe(monkeypatch):
        assert cli.main([*command, "--seeds", "2", "--jobs", "1", "--results", str(tmp_path)]) == 0
    assert len(api.read(tmp_path)["seed"].dropna().unique()) == 2


def test_a_closed_stdout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["table", str(folder)]) == 0
    assert cli.main(["table", "nowhere"]) == 2
    assert (sys.stdout, sys.stderr) == (None, None)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_no_verdict() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "bdlbench", "list"], stdout=full, stderr=subprocess.PIPE, cwd=ROOT, check=False
        )
    assert ended.returncode == 4
    assert b"stdout" in ended.stderr and b"No space left" in ended.stderr
    assert ended.stderr.count(b"\n") == 1


@pytest.mark.slow
def test_real_pipes_and_encodings(folder: Path) -> None:
    where = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bdlbench", "table", str(folder)]
    ended = subprocess.run(command, env=where, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"nll v" in ended.stdout
    ended = subprocess.run([*command[:3], "list", "suites"], env=where, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.slow
def test_every_module_can_be_imported_where_unix_modules_are_absent() -> None:
    """As on Windows: no resource, fcntl, pwd, grp or termios. Entries are imported by the catalog."""
    names = [str(path.relative_to(ROOT))[:-3].replace("/", ".") for path in (ROOT / "bdlbench").glob("*.py")]
    names = [name.removesuffix(".__init__") for name in names]
    code = f"""
import sys
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
import importlib
for name in {names}:
    importlib.import_module(name)
from bdlbench import catalog
from bdlbench.core import clock
import torch
assert all(catalog.names(kind) for kind in catalog.KINDS)
clock.peak_memory_bytes(torch.device("cpu"))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_memory_that_nobody_counts_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(Path, "read_text", lambda *_: (_ for _ in ()).throw(FileNotFoundError()))
    assert clock.peak_memory_bytes(torch.device("cpu")) is None
    monkeypatch.undo()
    monkeypatch.setattr("bdlbench.runs.batch.peak_memory_bytes", lambda device: None)
    tiny = {"model": ["coin"], "dataset": ["coin_flips"], "samples": 1, "seeds": "3"}
    (record,) = api.run("quick", **tiny, method=["exact"], results=tmp_path)
    assert "peak_memory_bytes" not in record.cost
