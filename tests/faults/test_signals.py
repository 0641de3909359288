"""Signals: a process that is killed, stopped or interrupted at random moments, and a terminal that is lost."""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from bdlbench.records import record as records
from tests.faults.conftest import Tell
from tests.faults.processes import (
    COLLECTED,
    ROOT,
    Forked,
    deterministic,
    ended,
    environment,
    started,
    wait_until,
    words,
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")]

METHODS = ("mle", "mean_field_vi", *COLLECTED)
EPOCHS = 60
CHECKPOINT_EVERY = 0.05


def suite(results: Path) -> list[str]:
    """Five cells, three of methods that gather states, and checkpoints many times in each."""
    return words(results, METHODS, EPOCHS, f"--checkpoint-every={CHECKPOINT_EVERY}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """What a run leaves that nothing disturbs, and the seconds that it takes."""
    place = tmp_path_factory.mktemp("alone")
    process = Forked(suite(place / "out"), place)
    assert process.wait().code == 0
    return deterministic(place / "out"), time.monotonic() - process.began


@pytest.mark.parametrize(("name", "seed"), [*(("SIGKILL", seed) for seed in range(4)), ("SIGTERM", 0), ("SIGHUP", 0)])
def test_killed_at_random_moments_and_resumed_it_ends_with_the_same_bytes(
    name: str, seed: int, alone: tuple[dict[str, bytes], float], tmp_path: Path, tell: Tell, all_faults: bool
) -> None:
    number, dice = signal.Signals[name], random.Random(f"{name} {seed}")
    kills = 50 if name == "SIGKILL" and all_faults else 2
    done, rounds, repeated = 0, 0, list[float]()
    while done < kills:
        rounds += 1
        results = tmp_path / f"round {rounds}"
        while True:
            process = Forked(suite(results), tmp_path)
            if done < kills:
                time.sleep(dice.uniform(0, 0.5 * alone[1]))
            if done == kills or not process.kill(number):
                break
            done += 1
            if held := [path.stat().st_mtime for path in (results / ".checkpoints").glob("[!.]*")]:
                repeated.append(time.time() - max(held))
            if results.is_dir():  # none half-written: all that is there reads, with its predictions
                for record in records.read(results):
                    records.predictions(results, record)
        last = process.wait()
        assert last.code == 0, last.err
        assert deterministic(results) == alone[0]
    assert max(repeated, default=0) < 60
    tell(
        f"{name} at random moments (seed {seed}) of a run with swag, sghmc and snapshot",
        "the same command again, each time",
        "values and predictions have the bytes of an undisturbed run; none lost, none half-written, nothing left over",
        f"−{int(number)} of the killed ones, 0 of the last",
        f"{done} kills; {len(repeated)} inside a fit, at most {max(repeated, default=0):.1f} s after its checkpoint",
    )


def test_stopped_and_continued(alone: tuple[dict[str, bytes], float], tmp_path: Path, tell: Tell) -> None:
    dice = random.Random("stops")
    process = Forked(suite(tmp_path / "out"), tmp_path)
    for _ in range(4):
        time.sleep(dice.uniform(0, alone[1] / 5))
        if process.process.exitcode is None:
            os.kill(process.process.pid or 0, signal.SIGSTOP)
            time.sleep(dice.uniform(0, 0.3))
            os.kill(process.process.pid or 0, signal.SIGCONT)
    assert process.wait().code == 0
    assert deterministic(tmp_path / "out") == alone[0]
    tell("SIGSTOP and SIGCONT at random moments", "nothing", "it goes on; the same bytes", 0)


# Ctrl-C

PRESS_AT = """
import os, signal, sys
class Press:
    "Presses Ctrl-C when a module begins to be imported."
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Press())
sys.argv = ["bdlbench", *{words!r}]
import runpy
runpy.run_module("bdlbench", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["typer", "numpy._core._multiarray_umath", "torch", "pandas"])
def test_ctrl_c_while_a_module_is_imported(module: str, tmp_path: Path, tell: Tell) -> None:
    """NumPy's extension makes an ImportError of it, and prints its traceback itself."""
    results = tmp_path / "out"
    code = PRESS_AT.format(name=module, words=words(results))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True, env=environment())
    found = ended(process)
    assert (found.code, found.line) == (130, "interrupted"), found
    if results.exists():
        records.read(results)
    tell(f"Ctrl-C while {module} is imported", "SIGINT when its import begins", "one line", 130)


def test_ctrl_c_in_a_run(tmp_path: Path, tell: Tell) -> None:
    results = tmp_path / "out"
    process = started(words(results, ("mle",), 100_000))
    wait_until(lambda: results.is_dir() and process.stderr is not None, "the run begins")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    found = ended(process)
    assert found.code == 130 and str(results) in found.line
    tell("Ctrl-C in a run", "SIGINT while it trains", "one line, which says what is kept and how to resume", 130)


def test_a_second_ctrl_c(tmp_path: Path, tell: Tell) -> None:
    """Several of them, as fast as they can be pressed, from the first on: what the first began is not over."""
    codes = set()
    for pause in (0.0, 0.002, 0.05):
        results = tmp_path / str(pause)
        process = started([*words(results, ("mle", "map"), 100_000)[:-2], "--jobs=2", f"--results={results}"])
        wait_until(results.is_dir, "the run begins")
        for _ in range(20):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                time.sleep(pause)
        found = ended(process)
        codes.add(found.code)
        assert found.line.startswith("interrupted"), found
    assert codes == {130}
    tell("Ctrl-C twenty times in a row", "SIGINT to a run of two workers", "one line, no traceback", 130)


# The terminal


@pytest.mark.parametrize("lost", ["with SIGHUP ignored", "as it is"])
def test_the_terminal_is_lost(lost: str, tmp_path: Path, tell: Tell) -> None:
    """`nohup`, `disown` or a lost connection: a write to the terminal fails with an input/output error."""
    results = tmp_path / "out"
    ours, theirs = pty.openpty()
    ignore = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); " * (lost != "as it is")
    given = words(results, ("mle", "map", "mc_dropout"), 400)
    start = (
        f"import os, fcntl, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); {ignore}"
        f"os.execv({sys.executable!r}, {[sys.executable, '-m', 'bdlbench', *given]!r})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(), cwd=ROOT
    )
    os.close(theirs)
    os.set_blocking(ours, False)

    def first_record() -> bool:
        with suppress(BlockingIOError):
            while os.read(ours, 1 << 12):  # a terminal that nobody reads stops the process
                pass
        return any(results.glob("*.json"))

    wait_until(first_record, "the first record is written")
    os.close(ours)
    code = process.wait(60)
    if lost == "as it is":
        assert code == -signal.SIGHUP
        tell("the terminal is lost", "its other end is closed while a run trains", "as by a kill: it resumes", "−1")
        return
    assert code == 0
    assert len(records.read(results)) == 3
    tell("the terminal is lost with SIGHUP ignored", "as with nohup", "the run goes on to its end", 0)
