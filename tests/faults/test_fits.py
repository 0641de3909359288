"""What goes wrong in a fit, or with what is kept of it: checkpoints, memory, numbers, the clock, the environment."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bdlbench.records import record as records
from bdlbench.training import checkpoints, optimisers
from tests.faults.conftest import Tell
from tests.faults.processes import Forked, deterministic, ended, environment, run, started, wait_until, words

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of Unix")]

EPOCHS = 400


def long_fit(results: Path) -> list[str]:
    """One cell, of a method that gathers states, with many checkpoints."""
    return words(results, ("swag",), EPOCHS, "--checkpoint-every=0.02")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the long fit leaves that nothing disturbs."""
    place = tmp_path_factory.mktemp("alone")
    assert run(long_fit(place / "out"), place).code == 0
    return deterministic(place / "out")


def killed_inside(place: Path) -> Path:
    """Kill the long fit when it has a checkpoint; return that."""
    process = Forked(long_fit(place / "out"), place)
    held = place / "out" / ".checkpoints"
    wait_until(lambda: any(held.glob("[!.]*")), "a checkpoint")
    assert process.kill(signal.SIGKILL)
    (file,) = held.glob("[!.]*")
    return file


def newer(content: bytes) -> bytes:
    """The checkpoint as a later version would write it: its checksum is right."""
    line, _, body = content.partition(b"\n")
    head = {**json.loads(line), "schema": checkpoints.CHECKPOINT_SCHEMA + 1}
    del head["sha256"]
    return checkpoints.files.canonical_json({**head, "sha256": checkpoints._checksum(head, body)}) + b"\n" + body


def flipped(content: bytes) -> bytes:
    """One bit, at a random place."""
    place = random.Random("flip").randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "bit-flipped": flipped,
    "newer": newer,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_is_damaged(damage: str, alone: dict[str, bytes], tmp_path: Path, tell: Tell) -> None:
    file = killed_inside(tmp_path)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    found = run(long_fit(tmp_path / "out"), tmp_path)
    assert found.code == 0 and file.name + checkpoints.ASIDE in found.err
    assert deterministic(tmp_path / "out") == alone
    tell(
        f"a checkpoint is {damage}",
        "of a run that was killed inside a fit; then the same command",
        "a note; the checkpoint is set aside, the fit begins again, the same bytes",
        0,
    )


def test_the_clock_is_set_back(alone: dict[str, bytes], tmp_path: Path, tell: Tell) -> None:
    """By a day: all files that a killed run left, whole or half-written, are dated after now."""
    file = killed_inside(tmp_path)
    (tmp_path / "out" / ".x.json.half.part").write_bytes(b"{")
    (file.parent / f".{file.name}.half.part").write_bytes(b"{")
    tomorrow = time.time() + 86_400
    for path in (tmp_path / "out").rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    found = run(long_fit(tmp_path / "out"), tmp_path, inject=clock_set_back)
    assert found.code == 0 and checkpoints.ASIDE not in found.err
    assert deterministic(tmp_path / "out") == alone
    tell(
        "the clock is set back by a day",
        "after a kill inside a fit: all files are dated tomorrow, and `time.time` tells yesterday",
        "it resumes to the same bytes, and half-written files are removed",
        0,
    )


def clock_set_back() -> None:
    """Replace the clock by one of yesterday; what measures time here is monotonic."""
    plain = time.time
    time.time = lambda: plain() - 86_400


# memory and numbers

METHOD = """
from dataclasses import dataclass
import torch
from bdlbench.methods.mle import MLE


@dataclass(frozen=True)
class Hungry(MLE):
    "Maximum likelihood that wants 64 GiB."

    def fit(self, model, data, rng):
        torch.ones(1 << 34)
        return super().fit(model, data, rng)


methods = {"hungry": Hungry}
"""


def test_memory_runs_out_in_one_cell(tmp_path: Path, tell: Tell) -> None:
    results, plugin = tmp_path / "out", tmp_path / "hungry.py"
    plugin.write_text(METHOD)
    given = words(results, ("mle", "hungry", "map"), 2, f"--plugin={plugin}")
    found = run(given, tmp_path, inject=little_memory)
    assert found.code == 4 and "failed: hungry" in found.out, found
    assert {one.cell.method.name for one in records.read(results) if one.replicates} == {"mle", "map"}
    tell(
        "memory runs out in one cell",
        "RLIMIT_AS of 2 GiB above what the process has; one of three methods asks torch for 64 GiB",
        "that cell fails with its reason, the others are done",
        4,
    )


def little_memory() -> None:
    """Limit the address space to 2 GiB more than now."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + (2 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def nan_at_a_random_step() -> None:
    """Make a weight of the first replicate NaN at a step that a die tells."""
    plain, step = optimisers.adam_step, random.Random("nan").randrange(5, 40)

    def spoilt(*arguments: Any) -> None:
        plain(*arguments)
        if arguments[4] == step:
            arguments[0][0, 0] = float("nan")

    optimisers.adam_step = spoilt


def test_a_number_becomes_nan_at_a_random_step(tmp_path: Path, tell: Tell) -> None:
    results = tmp_path / "out"
    given = words(results, ("mle", "map"), 20)
    assert run(words(tmp_path / "alone", ("mle", "map"), 20), tmp_path).code == 0
    found = run(given, tmp_path, inject=nan_at_a_random_step)
    assert found.code == 4, found
    made, whole = ({one.key: one for one in records.read(place)} for place in (results, tmp_path / "alone"))
    for key, one in made.items():
        assert [each.seed for each in one.failed] == [0]
        assert one.values == whole[key].values.take([1])
    last = run(given, tmp_path)
    assert last.code == 0, last
    for one in records.read(results):
        for i, replicate in enumerate(one.replicates):
            assert one.values.take([i]) == whole[one.key].values.take([whole[one.key].replicates.index(replicate)])
    tell(
        "a weight of one replicate becomes NaN",
        "at a random step; then the same command without it",
        "that replicate fails, the other has the bytes that it has alone; the next run makes the first",
        "4, then 0",
    )


# environments

ENVIRONMENTS = {
    "-OO": {"PYTHONOPTIMIZE": "2"},
    "no HOME": {"HOME": None},
    "another time zone": {"TZ": "Pacific/Kiritimati"},
    "OMP_NUM_THREADS=7": {"OMP_NUM_THREADS": "7"},
    "OMP_NUM_THREADS=nonsense": {"OMP_NUM_THREADS": "nonsense"},
    "LC_ALL=C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}

TOGETHER = (("-OO", "no HOME", "another time zone", "OMP_NUM_THREADS=7"), ("OMP_NUM_THREADS=nonsense", "LC_ALL=C"))
"""Those that one process has at once: each process imports torch anew, which takes seconds."""


def test_odd_environments(tmp_path: Path, tell: Tell) -> None:
    assert {name for names in TOGETHER for name in names} == set(ENVIRONMENTS)
    assert run(words(tmp_path / "alone"), tmp_path).code == 0
    whole = deterministic(tmp_path / "alone")
    for i, names in enumerate(TOGETHER):
        changes = {variable: value for name in names for variable, value in ENVIRONMENTS[name].items()}
        found = ended(started(words(tmp_path / str(i)), env=environment(**changes)))
        assert found.code == 0, (names, found)
        assert deterministic(tmp_path / str(i)) == whole, names
    tell("odd environments", ", ".join(f"`{name}`" for name in ENVIRONMENTS), "the same bytes", 0)
