"""A run that is killed inside a cell goes on there, and ends with the bytes of a run that was left alone.

scripts/kill_and_resume.py does the same at many random moments.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bdlbench.core import files
from bdlbench.records import record as records
from bdlbench.runs import suites, work
from bdlbench.runs.batch import Settings
from bdlbench.training import checkpoints

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
METHODS = (("mle", "mean_field_vi"), ("mle", "sghmc"))
RECIPE = ("optimiser=adamw", "decay=cosine", "weight_decay=0.01", "validation=0.1")
SETTINGS = {
    "mle": ("mle.epochs=10",),
    "mean_field_vi": ("mean_field_vi.epochs=80", *(f"mean_field_vi.{one}" for one in RECIPE)),
    "sghmc": ("sghmc.epochs=80", "sghmc.burn_in=0", "sghmc.warm_start=0", "sghmc.networks=80"),  # a set from the start
}
SEEDS, SAMPLES = "2", 3
STEPS_PER_EPOCH = {"mle": 1347 // 64, "mean_field_vi": 1212 // 64, "sghmc": 1347 // 64}  # of which a tenth is held out
WORKERS_END_WITHIN = 20.0
NEVER = 120.0


def settings_of(methods: tuple[str, ...]) -> tuple[str, ...]:
    return ("mlp.widths=50", *(one for method in methods for one in SETTINGS[method]))


def asked(results: Path, methods: tuple[str, ...]) -> work.Job:
    """Two cells, each a batch of its own."""
    overrides = suites.Overrides(methods, ("mlp",), ("digits",), SEEDS, SAMPLES, settings_of(methods), "cpu")
    planned = work.plan(suites.build_spec(suites.read_suite("quick"), overrides), Settings(results))
    return work.prepare(planned)


@pytest.fixture(params=METHODS, ids="-".join)
def methods(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Two methods, of which the second is killed."""
    found: tuple[str, ...] = request.param
    return found


@pytest.fixture
def process(tmp_path: Path, methods: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    """The same cells, run from the command line by two workers into tmp_path/killed."""
    given = {"method": methods, "set": settings_of(methods)}
    words = [f"--{word}={value}" for word, values in given.items() for value in values]
    words += ["--model=mlp", "--dataset=digits", f"--seeds={SEEDS}", f"--samples={SAMPLES}", "--device=cpu", "--jobs=2"]
    words += ["--checkpoint-every=0.02", f"--results={tmp_path / 'killed'}"]
    command = [sys.executable, "-m", "bdlbench", "run", *words]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        yield running
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)  # workers that a fault left alive


def steps(results: Path) -> dict[str, int]:
    """{name of a checkpoint: steps that it holds}."""
    found = {}
    for path in (results / ".checkpoints").glob("[!.]*"):
        found[path.name] = int(checkpoints.read(path)["spent"][2])
    return found


def deterministic(results: Path) -> dict[str, bytes]:
    """Values and predictions of every record in a folder that holds nothing else, as bytes."""
    found = {p.name: p.read_bytes() if p.suffix == ".safetensors" else b"" for p in results.iterdir()}
    for record in records.read(results):
        found[f"{record.name}.json"] = files.canonical_json(record.values.as_dict())
    return found


def test_killed_inside_a_cell_it_goes_on_there_and_ends_with_the_same_bytes(
    tmp_path: Path, process: subprocess.Popen[str], methods: tuple[str, ...]
) -> None:
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    awaited = f"{asked(killed, methods).batches[-1].key}.1.safetensors"
    deadline = time.monotonic() + NEVER
    while not (killed / ".checkpoints" / awaited).exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()  # the main process only; its stderr ends when its workers, who hold it too, have ended
    _, told = process.communicate(timeout=WORKERS_END_WITHIN)
    assert process.returncode == -signal.SIGKILL, told
    records.read(killed)
    held = steps(killed)
    assert awaited in held

    (killed / ".digits.json.half.part").write_bytes(b'{"schema": 1, "ce')
    time.sleep(0.02)  # files are dated by a clock that ticks every few milliseconds
    job = asked(killed, methods)
    heard: dict[int, int] = {}
    work.perform(job, report=lambda event: heard.setdefault(event.batch, event.done) if event.kind == "step" else None)
    first = {f"{batch.key}.1.safetensors": heard.get(i) for i, batch in enumerate(job.batches)}
    asked_for = [batch.cells[0].method for batch in job.batches]
    whole = dict(zip(first, (STEPS_PER_EPOCH[one.name] * one.get("epochs") for one in asked_for), strict=True))
    # a fit that was killed between its last step and its record is kept, and does no step again
    assert first == {name: None if held.get(name) == whole[name] else held.get(name, 0) + 1 for name in first}
    # one that was killed between its record and the end of its checkpoint is done
    assert held.keys() <= {f"{batch.key}.1.safetensors" for batch in asked(alone, methods).batches}

    work.perform(asked(alone, methods))
    assert deterministic(killed) == deterministic(alone)
