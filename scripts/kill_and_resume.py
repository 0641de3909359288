"""Kill a run at random moments, resume it each time, and compare it with an uninterrupted run, byte for byte.

    python scripts/kill_and_resume.py [--kills 10] [--jobs 2] [--epochs 250] [--seed 0] [--checkpoint-every 0.2]

Four cells on digits (mle, a deep ensemble, and mean field with two priors as rows of one batch), three seeds each. The
main process gets SIGKILL; its workers must end by themselves. Six kills in ten wait until the run has written a
checkpoint and then a random while longer; two wait until a file of a record appears, to hit the moment when a batch's
records are written; two come at a random time after the start. A run that ends before its kill is compared, and the
next one starts in another folder.

After each kill every record must read, with its predictions. Half-written temporary files are planted as well, where a
kill inside a write would leave them. In the end `values` and predictions of all records must have the same bytes as
those of the uninterrupted run, and nothing else may lie in the folder.

The first new checkpoint of a fit proves that the fit continued: it holds more seconds of training than have passed
since the resumed run began with it. Prints a line for each kill. Exit code 1 if anything differs, if less than half of
the kills were inside a cell, or if no fit is proven to have continued.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bdlbench.core import files
from bdlbench.records import record as records
from bdlbench.runs import suites, work
from bdlbench.runs.batch import Settings
from bdlbench.training import checkpoints as stored

METHODS = ("mle", "mean_field_vi", "deep_ensemble")
KINDS = ("inside", "inside", "record", "inside", "any", "inside", "inside", "record", "inside", "any")
STEPS_PER_EPOCH = 1347 // 64
POLL = 0.02
WORKERS_END_WITHIN = 10.0
LATE = 0.5
"""The largest delay of a line of progress, in seconds."""
HALF = b'{"schema": 1, "cell": {"device": "cpu", "prot'


class Asked(NamedTuple):
    """The options of the run."""

    epochs: int
    jobs: int
    checkpoint_every: float

    @property
    def settings(self) -> list[str]:
        """Return NAME.OPTION=VALUES."""
        return [f"mle.epochs={self.epochs}", f"mean_field_vi.epochs={self.epochs}", "mean_field_vi.prior_sd=1.0,0.3"]

    def command(self, folder: Path) -> list[str]:
        """Return the command line."""
        chosen = [f"--method={name}" for name in METHODS]
        options = [f"--set={text}" for text in self.settings]
        where = ["--device=cpu", f"--jobs={self.jobs}", f"--checkpoint-every={self.checkpoint_every}"]
        what = ["--dataset=digits", "--seeds=3", "--samples=20"]
        return [sys.executable, "-m", "bdlbench", "run", *chosen, *what, *options, *where, f"--results={folder}"]

    def titles(self, folder: Path) -> dict[str, str]:
        """Return {name of a checkpoint: method} of the batches that `folder` still lacks."""
        overrides = suites.Overrides(METHODS, (), ("digits",), "3", 20, tuple(self.settings), "cpu")
        job = work.plan(suites.build_spec(suites.read_suite("quick"), overrides), Settings(folder))
        return {f"{batch.key}.1.safetensors": batch.cells[0].method.name for batch in job.batches}


class Saved(NamedTuple):
    """The content of a checkpoint, and the time when it was written."""

    seconds: float
    step: int
    written: int


def checkpoints(folder: Path) -> dict[str, Saved]:
    """Return all checkpoints in a results folder. A file that vanishes while it is read belongs to a finished batch."""
    found = {}
    for path in (folder / ".checkpoints").glob("[!.]*"):
        try:
            written, tensors = path.stat().st_mtime_ns, stored.read(path)
        except (FileNotFoundError, stored.Unusable):
            continue
        seconds, _, step = tensors["spent"].tolist()
        found[path.name] = Saved(seconds, int(step), written)
    return found


@dataclass
class Run:
    """A run in a process of its own."""

    asked: Asked
    folder: Path
    lines: list[str] = field(default_factory=list)
    begun: dict[str, float] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    went_on: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.before = checkpoints(self.folder)
        self.titles = self.asked.titles(self.folder)
        self.files = {path.name for path in self.folder.glob("[!.]*")}
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.asked.command(self.folder),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        """Read stderr until the last process that holds it has ended, the workers included."""
        for line in self.process.stderr:
            self.lines.append(line)
            if started := re.match(r"\[\d+/\d+\] (\w+) .* …$", line):
                self.begun[started[1]] = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.started

    @property
    def running(self) -> list[str]:
        """Return batches that have started and not ended, by the lines of progress."""
        lines = [line for line in list(self.lines) if re.match(r"\[\d+/\d+\]", line)]
        started = [line.removesuffix(" …\n") for line in lines if line.endswith(" …\n")]
        ended = {re.sub(r", [\d.]+ s\n$", "", line) for line in lines if not line.endswith(" …\n")}
        return [headline for headline in started if headline not in ended]

    def written(self) -> dict[str, Saved]:
        """Return checkpoints that this run has written."""
        return {name: saved for name, saved in checkpoints(self.folder).items() if saved != self.before.get(name)}

    def wait(self, moment: Callable[[], bool]) -> bool:
        """Wait until the moment has come; return False where the run ended before. Note which fits continued."""
        while self.process.poll() is None:
            self._note_progress()
            if moment():
                return True
            time.sleep(POLL)
        return False

    def _note_progress(self) -> None:
        """Note fits whose first new checkpoint holds more seconds of training than this run can have spent."""
        for name, saved in self.written().items():
            title, old = self.titles.get(name, ""), self.before.get(name)
            if title in self.begun and name not in self.seen:
                self.seen.add(name)
                lasted = time.monotonic() - self.begun[title] + LATE
                if old and saved.step > old.step and saved.seconds > lasted:
                    self.went_on.append(f"{title} from step {old.step}")

    def kill(self) -> float:
        """Send SIGKILL to the main process only. Return the seconds until the last worker has ended by itself."""
        killed = time.monotonic()
        self.process.send_signal(signal.SIGKILL)
        return self._gone(killed)

    def finish(self) -> int:
        """Wait for the end; return the exit code."""
        self.wait(lambda: False)
        self._gone(time.monotonic())
        return self.process.returncode

    def _gone(self, since: float) -> float:
        self.process.wait()
        self.reader.join(WORKERS_END_WITHIN)
        if self.reader.is_alive():
            os.killpg(self.process.pid, signal.SIGKILL)
            raise SystemExit(f"workers outlived the main process by {WORKERS_END_WITHIN:g} s")
        return time.monotonic() - since


class Killed(NamedTuple):
    """The outcome of one kill. running: batches that were interrupted; held: the checkpoints of this run, by method."""

    moment: str
    running: list[str]
    held: dict[str, Saved]


def attempt(run: Run, kind: str, dice: random.Random) -> Killed | None:
    """Wait for a moment of this kind, then kill. Return None where the run ended before."""
    pause = {"inside": dice.uniform(0, 1.5), "record": dice.uniform(0, 0.03), "any": dice.uniform(0, 6)}[kind]
    if not run.wait(lambda: ready(run, kind)):
        return None
    due = run.seconds + pause
    if not run.wait(lambda: run.seconds >= due):
        return None
    seconds, running = run.seconds, run.running
    lasted = run.kill()
    held = {run.titles[name]: saved for name, saved in run.written().items() if name in run.titles}
    return Killed(f"{seconds:5.2f} s after its start, workers gone {lasted:.2f} s later", running, held)


def ready(run: Run, kind: str) -> bool:
    """Tell whether the moment for this kind of kill has come."""
    if kind == "inside":
        return bool(run.written())
    return kind == "any" or any(path.name not in run.files for path in run.folder.glob("[!.]*"))


def faults_after_kill(folder: Path) -> list[str]:
    """Return records that cannot be read, and predictions that do not belong to them."""
    if not folder.is_dir():
        return []
    try:
        for record in records.read(folder):
            records.predictions(folder, record)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    return []


def plant_halves(folder: Path, names: set[str]) -> None:
    """Write the first half of a file under its temporary name, as a kill inside a write leaves it."""
    (folder / ".checkpoints").mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f".{name}.halfhalf.part").write_bytes(HALF)
    for name in checkpoints(folder):
        (folder / ".checkpoints" / f".{name}.halfhalf.part").write_bytes(HALF)


def differences(folder: Path, alone: Path) -> list[str]:
    """Return differences of two folders of records, byte for byte, and unexpected files in the first."""
    faults = []
    names, expected = {path.name for path in folder.iterdir()}, written_by(alone)
    faults += [f"{name} is missing" for name in sorted(expected - names)]
    faults += [f"{name} is left behind" for name in sorted(names - expected)]
    for name in sorted(names & expected):
        mine, other = folder / name, alone / name
        read = values if mine.suffix == ".json" else Path.read_bytes
        if read(mine) != read(other):
            faults.append(f"{name} differs")
    return faults


def written_by(folder: Path) -> set[str]:
    """Return the names of a run's records and of their predictions."""
    return {path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}


def values(path: Path) -> bytes:
    """Return the deterministic part of a record."""
    record = records.read_one(path)
    return files.canonical_json([record.values.as_dict(), record.predictions, [list(map(str, record.replicates))]])


def show(number: int, kind: str, killed: Killed, went_on: Sequence[str]) -> None:
    """Print the line of one kill."""
    held = ", ".join(f"{title} {saved.step} steps" for title, saved in killed.held.items())
    place = f"inside {len(killed.running)}" if killed.running else "outside"
    told = f"; this run had gone on with {', '.join(went_on)}" if went_on else ""
    print(f"kill {number:2} ({kind:6}) {killed.moment}: {place}; new checkpoints: {held or 'none'}{told}", flush=True)


class Tally(NamedTuple):
    """The count over all kills: kills inside a cell, fits proven to have continued, and faults."""

    inside: list[bool]
    went_on: list[str]
    faults: list[str]


def torment(asked: Asked, kills: int, dice: random.Random, place: Path, alone: Path) -> Tally:
    """Kill and resume in as many folders as all kills need."""
    tally, rounds = Tally([], [], []), 0
    while not rounds or len(tally.inside) < kills:
        rounds += 1
        folder = place / f"killed {rounds}"
        code = kill_until_it_ends(asked, kills, dice, folder, written_by(alone), tally)
        wrong = differences(folder, alone) if code == 0 else [f"the last run ended with exit code {code}"]
        print(f"run {rounds} has ended: {'; '.join(wrong) or 'the same files with the same bytes'}", flush=True)
        tally.faults.extend(wrong)
    return tally


def kill_until_it_ends(
    asked: Asked, kills: int, dice: random.Random, folder: Path, names: set[str], tally: Tally
) -> int:
    """Kill and resume in one folder until a run finishes; return its exit code."""
    while True:
        run, number = Run(asked, folder), len(tally.inside)
        kind = KINDS[number % len(KINDS)]
        killed = attempt(run, kind, dice) if number < kills else None
        code = None if killed else run.finish()
        tally.went_on.extend(run.went_on)
        if killed is None:
            print("".join(f"the last run went on with {fit}\n" for fit in run.went_on), end="")
            return code
        tally.inside.append(bool(killed.running))
        show(number + 1, kind, killed, run.went_on)
        tally.faults.extend(faults_after_kill(folder))
        plant_halves(folder, names)


def main() -> int:
    """Run all kills; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--checkpoint-every", type=float, default=0.2)
    given = parser.parse_args()
    asked = Asked(given.epochs, given.jobs, given.checkpoint_every)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        run = Run(asked, place / "alone")
        if code := run.finish():
            raise SystemExit(f"the run that was left alone ended with exit code {code}: {''.join(run.lines)}")
        print(f"left alone: {run.seconds:.1f} s, {given.epochs * STEPS_PER_EPOCH} steps in each cell", flush=True)
        tally = torment(asked, given.kills, random.Random(given.seed), place, place / "alone")
    inside, went_on = sum(tally.inside), len(tally.went_on)
    good = not tally.faults and 2 * inside >= given.kills and went_on > 0
    print(f"{given.kills} kills, {inside} inside a cell; {went_on} fits proven to have gone on inside a cell")
    print("values and predictions are the same, byte for byte" if not tally.faults else "\n".join(tally.faults))
    print("verdict: holds" if good else "verdict: DOES NOT HOLD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
