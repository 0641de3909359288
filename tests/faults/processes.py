"""Commands in processes of their own, to be killed, stopped and starved.

`forked` starts from a process that has imported the package already, which takes a tenth of the time of `started`, the
real command line. Both are the same command in a process that signals reach.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest

from bdlbench.core import files
from bdlbench.records import record as records

ROOT = Path(__file__).resolve().parents[2]
NEVER = 120.0
"""Seconds after which a test gives up waiting."""

PRELOADED = (
    *("bdlbench.cli.main", "bdlbench.report.tables", "bdlbench.runs.work", "bdlbench.runs.progress"),
    *("pandas", "rich.progress", "rich.table", "scipy.stats", "sklearn.datasets"),
    *(
        f"bdlbench.{kind}.{path.stem}"
        for kind in ("methods", "models", "metrics", "datasets")
        for path in (ROOT / "bdlbench" / kind).glob("[!_]*.py")
    ),
)
"""What a command imports sooner or later."""

COLLECTED = ("swag", "sghmc", "snapshot")
"""Methods that gather states while they train."""


WINE = ("--model=logistic", "--dataset=wine")
COIN = ("--model=coin", "--dataset=coin_flips")
"""What imports no scikit-learn, a third of the time of a process that starts."""


def words(
    results: Path, methods: Sequence[str] = ("mle",), epochs: int = 2, *more: str, on: Sequence[str] = WINE
) -> list[str]:
    """The words of a small run: each method is a cell of two seeds."""
    chosen = [word for name in methods for word in (f"--method={name}", f"--set={name}.epochs={epochs}")]
    cell = [*on, "--seeds=2", "--samples=2", "--device=cpu", "--jobs=1"]
    return ["run", *chosen, *cell, f"--results={results}", *more]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The line of an error: nothing else may be on stderr but progress and notes."""
        told = [line for line in self.err.splitlines() if not line.startswith(("[", "bdlbench: note: "))]
        assert len(told) == 1 and told[0].startswith("bdlbench: ") and "Traceback" not in told[0], self.err
        return told[0].removeprefix("bdlbench: ")


def environment(**changes: str | None) -> dict[str, str]:
    """The environment of a command; None removes a variable."""
    found = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}
    return {name: value for name, value in found.items() if value is not None}


def started(given: Sequence[str], **options: object) -> subprocess.Popen[str]:
    """Start `python -m bdlbench`."""
    given = [sys.executable, "-m", "bdlbench", *given]
    asked = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment(), **options}
    return subprocess.Popen(given, **asked)  # type: ignore[call-overload,no-any-return]


def ended(process: subprocess.Popen[str]) -> Ended:
    """Wait for the end of a command."""
    try:
        out, err = process.communicate(timeout=NEVER)
    finally:
        process.kill()
    return Ended(process.returncode, out or "", err or "")


class Forked:
    """A command in a process that has imported everything; stdout and stderr go to files beside its folder.

    `limits` are resources of the process, and `inject` is called in it before the command.
    """

    def __init__(
        self,
        given: Sequence[str],
        place: Path,
        limits: Mapping[int, int] | None = None,
        inject: Callable[[], None] | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*PRELOADED, __name__])
        number = len(list(place.glob("*.out")))
        self.out, self.err = place / f"{number}.out", place / f"{number}.err"
        for path in (self.out, self.err):  # the process may be killed before it opens them
            path.touch()
        arguments = (list(given), self.out, self.err, dict(limits or {}), inject)
        self.process: BaseProcess = context.Process(target=_command, args=arguments)
        self.process.start()
        self.began = time.monotonic()

    def wait(self) -> Ended:
        self.process.join(NEVER)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"it has not ended: {self.err.read_text()}")
        return Ended(self.process.exitcode, self.out.read_text(), self.err.read_text())

    def kill(self, number: int) -> bool:
        """Send a signal; return whether it ended the process, False where that had ended by itself."""
        if self.process.exitcode is None and self.process.pid is not None:
            os.kill(self.process.pid, number)
        return self.wait().code == -number


def _command(given: list[str], out: Path, err: Path, limits: dict[int, int], inject: Callable[[], None] | None) -> None:
    os.setsid()
    for number, path in ((1, out), (2, err)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))
    import torch

    from bdlbench.cli.main import main

    torch.set_num_threads(1)
    if inject:
        inject()
    code = main(given)
    sys.stdout.flush()
    os._exit(code)


def run(
    given: Sequence[str],
    place: Path,
    limits: Mapping[int, int] | None = None,
    inject: Callable[[], None] | None = None,
) -> Ended:
    """Run a command in a forked process to its end."""
    return Forked(given, place, limits, inject).wait()


def wait_until(moment: Callable[[], bool], what: str) -> None:
    """Wait until a moment has come."""
    deadline = time.monotonic() + NEVER
    while not moment():
        assert time.monotonic() < deadline, f"not within {NEVER:g} s: {what}"
        time.sleep(0.005)


def deterministic(results: Path) -> dict[str, bytes]:
    """Values and predictions of every record of a folder, as bytes; asserts that nothing else lies there."""
    found = {}
    for record in records.read(results):
        found[f"{record.name}.json"] = files.canonical_json(
            [record.values.as_dict(), [list(map(str, record.replicates))], len(record.failed)]
        )
        found[f"{record.name}.safetensors"] = (results / f"{record.name}.safetensors").read_bytes()
        records.predictions(results, record)
    there = {path.name for path in results.iterdir()}
    assert there == set(found), f"left behind: {sorted(there - set(found))}, lost: {sorted(set(found) - there)}"
    return found


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of its own in memory."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
