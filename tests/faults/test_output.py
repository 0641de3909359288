"""Stdout, stderr and files that cannot be written; no result depends on who reads it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bdlbench.records import record as records
from tests.faults.conftest import Tell
from tests.faults.processes import COIN, NEVER, ROOT, ended, environment, run, small_disk, started, words

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="shells and mounts of Unix")]

TWO = ("mle", "map")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of three methods."""
    place = tmp_path_factory.mktemp("records")
    assert run(words(place / "out", (*TWO, "mc_dropout"), 2), place).code == 0
    return place / "out"


def shell(command: str, *given: str) -> subprocess.CompletedProcess[str]:
    """Run `bdlbench` in a shell, in the place of $B."""
    command = command.replace("$B", f'"{sys.executable}" -m bdlbench "$@"')
    return subprocess.run(
        ["bash", "-c", command, "bash", *given],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=NEVER,
        check=False,
    )


def two_workers(results: Path) -> list[str]:
    return [*words(results, TWO, on=COIN)[:-2], "--jobs=2", f"--results={results}"]


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_streams_that_are_closed(closed: str, tmp_path: Path, tell: Tell) -> None:
    """Two workers: they inherit what is closed. No file may get the number of a closed stream."""
    results = tmp_path / "out"
    found = shell(f"$B {closed}", *two_workers(results))
    assert (found.returncode, found.stderr.count("Traceback")) == (0, 0), found
    assert len(records.read(results)) == 2
    name = {">&-": "stdout is", "2>&-": "stderr is"}.get(closed, "stdin, stdout and stderr are")
    tell(f"{name} closed", f"`run --jobs 2 {closed}`", "the run goes on to its end", 0)


def test_stderr_on_a_full_disk(tmp_path: Path, tell: Tell) -> None:
    results = tmp_path / "out"
    found = shell("$B 2>/dev/full", *two_workers(results))
    assert found.returncode == 0 and "map" in found.stdout
    tell("stderr on a full disk", "`run 2>/dev/full`", "the run goes on to its end", 0)


def test_stdout_on_a_full_disk(folder: Path, tell: Tell) -> None:
    found = shell("$B >/dev/full", "table", str(folder))
    assert found.returncode == 4
    assert found.stderr.startswith("bdlbench: stdout") and os.strerror(errno.ENOSPC) in found.stderr
    assert found.stderr.count("\n") == 1
    tell("stdout on a full disk", "`table >/dev/full`", "one line", 4)


@pytest.mark.parametrize("command", ["verify", "table"])
def test_the_reader_leaves(command: str, folder: Path, tell: Tell) -> None:
    """Its code is that of its result: 1 would be a negative verdict."""
    found = shell("$B | head -1; exit ${PIPESTATUS[0]}", command, str(folder))
    assert (found.returncode, found.stdout.count("\n"), found.stderr) == (0, 1, "")
    tell(f"the reader of `{command}` leaves", f"`{command}`, into `head -1`", "the exit code of its result", 0)


WRITES = {
    "table --figure": ("table", "{folder}", "--metrics=nll", "--figure={place}/a.png"),
    "table --figure, a PDF": ("table", "{folder}", "--metrics=nll", "--figure={place}/new/a.pdf"),
    "report --out": ("report", "{folder}", "--out={place}/report"),
    "report --out, longer than a name may be": ("report", "{folder}", "--out={place}/" + "n" * 300),
    "run --results, longer than a name may be": ("run", "--results={place}/" + "n" * 300),
    "table, of a name that is too long": ("table", "{place}/" + "n" * 300),
    "compare, of a name that is too long": ("compare", "{folder}", "{place}/" + "n" * 300),
}


@pytest.mark.parametrize("disk", ["full", "read-only"])
def test_files_that_cannot_be_written(disk: str, folder: Path, tmp_path: Path, tell: Tell) -> None:
    with small_disk(tmp_path / "disk", "16k") as place:
        if disk == "full":
            (place / "ballast").write_bytes(b"0" * 12_288)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        for what, given in WRITES.items():
            found = run([word.format(folder=folder, place=place) for word in given], tmp_path)
            assert found.code == 2 and str(place) in found.line, (what, found)
    tell(
        f"a disk that is {disk}", f"{', '.join(f'`{one}`' for one in WRITES)}", "one line each, which names the file", 2
    )


def test_a_store_that_cannot_be_written(tmp_path: Path, tell: Tell) -> None:
    """Data sets would be downloaded into it."""
    (tmp_path / "file").touch()
    for place in ("/proc/nowhere", str(tmp_path / "file" / "store"), "/" + "n" * 300):
        found = ended(started(["data", "mnist"], env=environment(BDLBENCH_DATA=place)))
        assert found.code == 2 and place[:40] in found.line, found
    tell("the store of data sets cannot be written", "`BDLBENCH_DATA` in a file, in /proc, of 300 signs", "one line", 2)
