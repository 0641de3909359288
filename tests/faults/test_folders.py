"""The results folder: full, read-only, gone, shared by many, and left behind by a fresh run that was killed."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bdlbench.core import files
from bdlbench.records import record as records
from bdlbench.runs.work import REPLACED
from tests.faults.conftest import Tell
from tests.faults.processes import COLLECTED, Ended, Forked, deterministic, run, small_disk, wait_until, words

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="limits and mounts of Unix")]


def mount(place: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run of three cells leaves that nothing disturbs."""
    place = tmp_path_factory.mktemp("alone")
    assert run(words(place / "out", ("mle", *COLLECTED[:2]), 20), place).code == 0
    return deterministic(place / "out")


def three(results: Path, *more: str) -> list[str]:
    return words(results, ("mle", *COLLECTED[:2]), 20, *more)


def sound(results: Path, whole: dict[str, bytes]) -> int:
    """Count the records of a folder; each has the bytes of the undisturbed run."""
    found = [one for one in records.read(results) if one.replicates] if results.is_dir() else []
    for one in found:
        records.predictions(results, one)
        assert files.canonical_json(one.values.as_dict()) in whole[f"{one.name}.json"]
    return len(found)


def refused_once(found: Ended, number: int, kept: int) -> bool:
    """Whether a run of three cells has ended in one line when the folder took no more, and trained one for nothing."""
    why = f"takes no more records: {os.strerror(number)}; {3 - kept} of 3 cells were not written"
    begun = found.err.count(" …\n")
    notes = found.err.count("bdlbench: note: ") - found.err.count("safetensors cannot be written")  # of its checkpoint
    return (found.code, why in found.line, begun, notes, found.out) == (4, True, kept + 1, 0, "")


def test_the_disk_is_full_in_the_middle(alone: dict[str, bytes], tmp_path: Path, tell: Tell) -> None:
    """The first record and its predictions have room, the others do not."""
    assert run(words(tmp_path / "probe", ("mle",), 20), tmp_path).code == 0
    room = sum(path.stat().st_size for path in (tmp_path / "probe").glob("*.*"))
    with small_disk(tmp_path / "disk", f"{2 * room // 1024 + 40}k") as disk:
        (disk / "ballast").write_bytes(b"0" * (room // 2 + 20_000))
        first = run(three(disk / "out"), tmp_path)
        kept = sound(disk / "out", alone)
        assert 1 <= kept < 3
        assert refused_once(first, errno.ENOSPC, kept)
        (disk / "ballast").unlink()
        mount(disk, "size=20m")
        last = run(three(disk / "out"), tmp_path)
        assert last.code == 0, last
        assert deterministic(disk / "out") == alone
    tell(
        "the disk is full in the middle",
        "a tmpfs that holds the first record; then it is made larger, and the same command runs again",
        "one line; no further cell is trained; the records before it are whole; the next run completes",
        "4, then 0",
        f"{kept} of 3 records were kept",
    )


def test_the_disk_is_full_before_the_start(tmp_path: Path, tell: Tell) -> None:
    with small_disk(tmp_path / "disk", "16k") as disk:
        (disk / "ballast").write_bytes(b"0" * 4096)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            (disk / "more").write_bytes(b"0" * 65536)
        found = run(three(disk / "out"), tmp_path)
        assert found.code == 2 and str(disk / "out") in found.line
    tell("the disk is full before the start", "a tmpfs without room", "one line; nothing is trained", 2)


def test_files_may_not_grow(alone: dict[str, bytes], tmp_path: Path, tell: Tell) -> None:
    """A quota: every file larger than a limit is refused, so no record is written, and no checkpoint."""
    results = tmp_path / "out"
    found = run(three(results), tmp_path, {resource.RLIMIT_FSIZE: 4096})
    assert found.code == 4
    failed = [line for line in found.out.splitlines() if os.strerror(errno.EFBIG) in line]
    assert len(failed) == 3 and all(line.startswith("failed: ") for line in failed), found
    assert "missing: " not in found.out  # that they have failed is small enough to be written
    assert sound(results, alone) == 0
    assert run(three(results), tmp_path).code == 0
    assert deterministic(results) == alone
    tell(
        "files may not grow over 4 KiB",
        "RLIMIT_FSIZE, then again without it",
        "a line for each cell; the next run completes",
        "4, then 0",
    )


def test_the_folder_turns_read_only(alone: dict[str, bytes], tmp_path: Path, tell: Tell) -> None:
    with small_disk(tmp_path / "disk", "20m") as disk:
        process = Forked(three(disk / "out"), tmp_path)
        wait_until(lambda: any((disk / "out").glob("*.json")), "the first record")
        mount(disk, "ro")
        first = process.wait()
        kept = sound(disk / "out", alone)
        refused = run(three(disk / "out"), tmp_path)
        table = run(["table", str(disk / "out")], tmp_path)
        mount(disk, "rw")
        last = run(three(disk / "out"), tmp_path)
        assert (kept == 3 and first.code == 0) or refused_once(first, errno.EROFS, kept), first
        assert refused.code == 2 and str(disk / "out") in refused.line
        assert table.code == 0
        assert last.code == 0 and deterministic(disk / "out") == alone
    tell(
        "the folder turns read-only",
        "a file system is mounted read-only after the first record; then `run` and `table` again; then it is writable",
        "one line; what is written stays and can be read; `run` refuses the folder in one line, then completes it",
        "4, then 2, then 0",
    )


def test_the_folder_vanishes(alone: dict[str, bytes], tmp_path: Path, tell: Tell) -> None:
    results = tmp_path / "out"
    process = Forked(three(results), tmp_path)
    wait_until(lambda: any(results.glob("*.json")), "the first record")
    shutil.rmtree(results, ignore_errors=True)
    first = process.wait()
    kept = sound(results, alone)
    assert first.code == (0 if kept == 3 else 4), first
    assert first.out.count("missing: ") == (kept < 3)
    assert kept == 3 or f"missing: {3 - kept} of 3 cells" in first.out
    assert run(three(results), tmp_path).code == 0
    assert deterministic(results) == alone
    tell(
        "the folder vanishes",
        "it is removed after the first record; then the same command runs again",
        "it is made again; one line names what is missing, and the next run completes it",
        "4, then 0",
    )


@pytest.mark.parametrize("ways", ["missing", "fresh"])
def test_several_runs_into_one_folder(
    ways: str, alone: dict[str, bytes], tmp_path: Path, tell: Tell, all_faults: bool
) -> None:
    count = 20 if all_faults else 4
    results = tmp_path / "out"
    if ways == "fresh":
        assert run(three(results), tmp_path).code == 0
        count //= 2
    processes = [Forked(three(results, *["--fresh"] * (ways == "fresh")), tmp_path) for _ in range(count)]
    found = [process.wait() for process in processes]
    assert {one.code for one in found} <= {0, 4}, [one.err for one in found]
    if ways == "missing":
        assert {one.code for one in found} == {0}, [one.err + one.out for one in found if one.code]
    last = run(three(results), tmp_path)
    assert last.code == 0
    assert deterministic(results) == alone
    tell(
        f"several runs into one folder{', each --fresh' * (ways == 'fresh')}",
        "all start at once with the same command",
        "every cell is there once, with the bytes of an undisturbed run; nothing is lost, nothing left over",
        0 if ways == "missing" else "0 or 4, then 0",
        f"{count} processes",
    )


def test_a_fresh_run_is_killed_and_resumed_without_fresh(alone: dict[str, bytes], tmp_path: Path, tell: Tell) -> None:
    """At random moments, and while records are set aside; nothing is lost at any time, and nothing stays."""
    dice, results = random.Random("fresh"), tmp_path / "out"
    assert run(three(results), tmp_path).code == 0
    moments = ["set aside", "set aside", "any", "any"]
    for moment in moments:
        process = Forked(three(results, "--fresh"), tmp_path)
        if moment == "set aside":
            wait_until((results / REPLACED).is_dir, "records are set aside")
            time.sleep(dice.uniform(0, 0.02))
        else:
            time.sleep(dice.uniform(0.5, 2))
        process.kill(9)
        there = [*results.glob("*.json"), *(results / REPLACED).glob("*.json")]
        assert {path.name for path in there} >= {name for name in alone if name.endswith(".json")}
        last = run(three(results), tmp_path)
        assert last.code == 0, last
        assert deterministic(results) == alone
    tell(
        "a run with --fresh is killed",
        "SIGKILL while records are set aside or trained; then the same command without --fresh",
        "old records are there until new ones are; then no copy is left over",
        "−9, then 0",
        f"{len(moments)} kills",
    )
