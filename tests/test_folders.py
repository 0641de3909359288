"""Folders as people keep them: with notes, copies and subfolders, read like a git revision, and healed by --fresh."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdlbench import api
from bdlbench.cli import main as cli
from bdlbench.core import files
from bdlbench.records import reading, record
from bdlbench.runs.external_scores import Claim

COIN = {"method": ["exact"], "model": ["coin"], "dataset": ["coin_flips"], "samples": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    api.run("quick", **COIN, seeds="2", results=tmp_path / "r")
    return tmp_path / "r"


def alter(source: Path, target: Path) -> None:
    """A record with other values and a right checksum."""
    body = json.loads(source.read_text())
    del body["checksum"]
    body["values"]["metrics"]["nll"]["values"][0] += 1.0
    target.write_text(json.dumps({**body, "checksum": files.digest(body)}))


def test_fresh_heals_a_folder_whose_records_disagree(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (original,) = folder.glob("*.json")
    before, copy = record.read_one(original), folder / "a copy.json"
    alter(original, copy)
    command = ["run", "--method", "exact", "--model", "coin", "--dataset", "coin_flips", "--samples", "1"]
    command += ["--seeds", "2", "--results", str(folder), "--jobs", "1"]
    assert cli.main(command) == cli.main(["table", str(folder)]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert str(copy) in line
        assert str(original) in line
        assert "run --fresh" in line
    assert cli.main([*command, "--fresh"]) == cli.main(["table", str(folder)]) == cli.main(command) == 0
    (after,) = record.read(folder)
    assert (after.values, after.replicates) == (before.values, before.replicates)
    assert not copy.exists()


def test_fresh_refuses_a_conflict_that_it_would_not_mend(folder: Path, refused: Any) -> None:
    (original,) = folder.glob("*.json")
    alter(original, folder / "a copy.json")
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    with refused("a copy.json", original.name, "seed 0", "split 0", "`run --fresh`"):
        api.run("quick", **COIN, seeds="1,3", results=folder, fresh=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept


def test_a_folder_and_a_revision_are_read_alike(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refused: Any
) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(folder, repository / "results" / "deep" / "er")
    hidden = repository / "results" / ".replaced"
    shutil.copytree(folder, hidden)
    (original,) = hidden.glob("*.json")
    alter(original, hidden / "old.json")
    for place in (repository / "results", repository / "results" / "deep" / "er"):
        (place / "objectives.json").write_text('{"mle": [1.0]}')
    monkeypatch.chdir(repository)
    for command in (["init", "-q"], ["add", "-f", "."], ["commit", "-qm", "x"]):
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *command], check=True)
    here = reading.read(Path("results"))
    with reading.opened("HEAD") as there:
        assert there.records == here.records == tuple(record.read(folder))
        assert there.predictions(there.records[0]).keys() == here.predictions(here.records[0]).keys() != set()
    assert len(caplog.messages) == 2
    assert all("not records: objectives.json, objectives.json" in line for line in caplog.messages)
    assert cli.main(["compare", "HEAD", "results"]) == 0
    (damaged,) = Path("results/deep/er").glob("*-*.json")
    damaged.write_text("{")
    subprocess.run(["git", *who, "commit", "-qam", "y"], check=True)
    place = "deep/er/" + damaged.name
    with refused(f"HEAD/results/{place}", "whole"), reading.opened("HEAD"):
        pass
    with refused(f"results/{place}", "whole"):
        reading.read(Path("results"))


@pytest.mark.parametrize(("tested", "outside", "samples"), [(1, 0, 1), (1, 1, 20), (5, 1, 20), (1, 5, 2)])
def test_one_example_and_three_seeds_give_no_warning_and_no_verdict(
    tmp_path: Path, tested: int, outside: int, samples: int
) -> None:
    """Warnings are errors here. One example shows no spread: there is nothing to hold a difference against."""
    rng = np.random.default_rng(0)
    for method in ("one", "two"):
        arrays = {"probs": rng.dirichlet(np.ones(3), (samples, 3, tested)), "labels": np.zeros(tested, dtype=int)}
        if outside:
            arrays["ood.far.probs"] = rng.dirichlet(np.ones(3), (samples, 3, outside))
        np.savez(tmp_path / f"{method}.npz", **arrays)
        claim = Claim(method, "mine", own_data=True, axes="MRNC")
        api.score(tmp_path / f"{method}.npz", claim, tmp_path / "r")
    assert len(api.table(tmp_path / "r")) >= 6
    found = api.compare(tmp_path / "r", tmp_path / "r", treatment=("one", "two"))
    (nll,) = [finding for finding in found.findings if finding.metric == "nll"]
    assert (nll.verdict == "inconclusive") or tested > 1
    assert cli.main(["table", str(tmp_path / "r"), "--interval"]) == 0


def test_a_report_of_subfolders_finds_their_predictions(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "above" / "below")
    page = api.report(tmp_path / "above", tmp_path / "page")
    assert "not beside" not in page.read_text("utf-8")
    assert [check.verdict for check in api.verify(tmp_path / "above")] == ["identical"]
