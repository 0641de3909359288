"""A suite in parts, and folders brought together."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bdlbench.cli import main as cli
from bdlbench.records import record as records
from bdlbench.records.record import Record
from bdlbench.runs import shards, suites
from bdlbench.runs.batch import batches

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_are_disjoint_and_are_all(count: int) -> None:
    spec = suites.build_spec(
        suites.read_suite("quick"), suites.Overrides(device="cpu", settings=("map.prior_sd=.1,1",))
    )
    parts = [shards.part_of(spec, f"{i}/{count}") for i in range(1, count + 1)]
    assert sorted(cell.key for part in parts for cell in part.cells) == sorted(cell.key for cell in spec.cells)
    whole = {batch for part in parts for batch in batches(part, ())}
    assert whole == set(batches(spec, ()))  # what can be trained together stays together
    assert {k: v for part in parts for k, v in part.searches.items()} == dict(spec.searches)
    sizes = [len(batches(part, ())) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", "1/ 2", "9" * 400 + "/1"])
def test_no_other_part_is_one(shard: str, refused: Any) -> None:
    refused.command(["run", "--shard", shard, "--dry-run"], "--shard")


def test_a_part_of_nothing_is_refused(refused: Any) -> None:
    chosen = ["--method", "mle", "--model", "logistic", "--dataset", "wine"]
    refused.command(["run", *chosen, "--shard", "2/2", "--dry-run"], "--shard 2/2", "1")


def trained(folder: Path, *more: str) -> int:
    chosen = ["--method=mle", "--method=map", "--model=logistic", "--dataset=wine", "--samples=2", "--device=cpu"]
    quick = ["--set=mle.epochs=2", "--set=map.epochs=2", "--jobs=1", f"--results={folder}"]
    return cli.main(["run", *chosen, *quick, *more])


def content(folder: Path) -> dict[str, Any]:
    return {record.name: (record.values, record.predictions) for record in records.read(folder)}


def test_parts_merged_are_the_whole_and_conflicts_are_named(tmp_path: Path, capsys: Any, refused: Any) -> None:
    a, b, whole, into = (tmp_path / name for name in ("a", "b", "whole", "into"))
    assert trained(a, "--shard=1/2", "--seeds=2", "--keep-parameters") == 0
    assert trained(b, "--shard=2/2", "--seeds=2") == 0
    assert trained(whole, "--seeds=2") == 0
    capsys.readouterr()
    assert cli.main(["merge", str(a), str(b), "--results", str(into)]) == 0
    assert "2 records copied" in capsys.readouterr().out
    assert content(into) == content(whole)
    (kept,) = (into / "parameters").iterdir()
    assert kept.read_bytes() == (a / "parameters" / kept.name).read_bytes()
    before = {path.name: path.read_bytes() for path in into.glob("*.*")}
    assert cli.main(["merge", str(whole), "--results", str(into)]) == 0  # again, at another cost
    assert "0 records copied" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in into.glob("*.*")} == before

    other = tmp_path / "other"
    shutil.copytree(whole, other)
    (record, *_) = records.read(other)
    (other / f"{record.name}.json").unlink()
    moved = replace(record.values, parameters_sha256=("0" * 64, *record.values.parameters_sha256[1:]))
    records.write(other, replace(record, values=moved), records.predictions(other, record))
    refused.command(["merge", str(other), "--results", str(into)], f"{record.name}.json", "seed 0, split 0")
    assert {path.name: path.read_bytes() for path in into.glob("*.*")} == before


def test_a_failure_gives_way_to_values(tmp_path: Path) -> None:
    good, bad, into = (tmp_path / name for name in ("good", "bad", "into"))
    assert trained(good, "--seeds=1") == 0
    (record, other) = records.read(good)
    failed = {replicate: "killed" for replicate in record.replicates}
    records.write(bad, replace(record, replicates=(), failed=failed, predictions="", values=type(record.values)()), {})
    assert shards.merge([bad, good], into) == shards.Merged(2, 0, 1)
    assert content(into) == content(good)
    assert isinstance(other, Record)
