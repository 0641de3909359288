"""A job: how often it reads its folder, and that grouping what is missing takes time in proportion to the cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bdlbench.core import files
from bdlbench.core.spec import Cell, Choice, Replicate, Spec
from bdlbench.records import record as records
from bdlbench.records.contents import Environment, Values
from bdlbench.records.record import Record
from bdlbench.runs import suites, work
from bdlbench.runs.batch import Settings, batches


@pytest.mark.slow
def test_a_job_with_nothing_to_do_reads_its_folder_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = suites.Overrides(("mle",), ("mlp",), ("digits",), "2", 2, ("mle.epochs=1",), "cpu")
    spec = suites.build_spec(suites.read_suite("quick"), asked)
    work.perform(work.prepare(work.plan(spec, Settings(tmp_path))))
    read, scanned = records.scan, []

    def counting(*given: Any, **named: Any) -> Any:
        scanned.append(given)
        return read(*given, **named)

    monkeypatch.setattr(records, "scan", counting)
    job = work.prepare(work.plan(spec, Settings(tmp_path)))
    assert job.batches == ()
    assert work.perform(job) == []
    held = work.held(job)
    assert work.findings_of(job, held.records) == work.findings_of(job, records.read(tmp_path)[:1])
    assert len(scanned) - 1 == 2  # and one in the line above
    assert [result.replicates for result in held.results] == [(Replicate(0), Replicate(1))]


def test_what_is_missing_is_found_without_asking_every_record_for_every_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    def cell(i: int) -> Cell:
        return Cell(Choice("mle", (("learning_rate", 0.1 * i),)), Choice("mlp"), Choice("digits"), 2)

    cells = tuple(map(cell, range(30)))
    made = [Record(cell(i), (Replicate(0),), Values(), {}, Environment()) for i in range(30)]
    digest, asked = files.digest, []
    monkeypatch.setattr(files, "digest", lambda value: asked.append(value) or digest(value))
    (batch,) = batches(Spec(cells, (Replicate(0), Replicate(1))), made)
    assert [row.replicate for row in batch.rows] == [Replicate(1)] * 30
    assert len(asked) == 60
