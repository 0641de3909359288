from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bdlbench.compare import margins

METRICS = ["nll", "ood_auroc", "accuracy"]


def test_nearest_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.bdlbench.gate.margins]\nnll = 0.02\n'ood_auroc[near]' = 1\n")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    found = margins.read(None, METRICS)
    assert found == {"nll": 0.02, "ood_auroc[near]": 1.0}
    assert [margins.of(found, c) for c in ("nll", "nll[x]", "ood_auroc[near]", "ood_auroc[far]")] == [0.02, 0.02, 1, 0]
    (inner / "pyproject.toml").write_text("[project]\n")
    assert margins.read(None, METRICS) == {}


def test_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text("[margins]\naccuracy = 0.01\n")
    assert margins.read(path, METRICS) == {"accuracy": 0.01}
    path.write_text("[tool.bdlbench.gate.margins]\naccuracy = 0.02\n")
    assert margins.read(path, METRICS) == {"accuracy": 0.02}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[margins]\nnl = 1\n", ["metric", "nl", "nll"]),
        ("[margins]\nnll = -1\n", ["nll", "-1", "0"]),
        ("[margins]\nnll = 'a'\n", ["nll", "'a'"]),
        ("[margins]\nnll = true\n", ["nll", "true"]),
        ("[margins]\nnll = nan\n", ["nll", "nan"]),
        ("margins = 3\n", ["margins", "table"]),
        ("nll = 1\n", ["[margins]", "no"]),
        ("[margins\n", ["TOML", "line 1", "column 9"]),
        ("tool.bdlbench = 3\n", ["bdlbench", "[tool.bdlbench.gate.margins]"]),
    ],
)
def test_refused(tmp_path: Path, text: str, names: list[str], refused: Any) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text)
    with refused("m.toml", *names):
        margins.read(path, METRICS)


def test_a_metric_that_only_records_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    path = tmp_path / "m.toml"
    path.write_text("[margins]\nood_auroc_energy = 0.05\n'ood_auroc_energy[near]' = 0.1\n")
    right = {"ood_auroc_energy": 0.05, "ood_auroc_energy[near]": 0.1}
    assert margins.read(path, [*METRICS, "ood_auroc_energy[near]", "ood_auroc_energy[far]"]) == right
    with refused("metric", "ood_auroc_energy", "ood_auroc"):
        margins.read(path, METRICS)
    (tmp_path / "pyproject.toml").write_text("[tool.bdlbench.gate.margins]\nood_auroc_energy = 0.05\n")
    monkeypatch.chdir(tmp_path)
    assert margins.read(None, METRICS) == {"ood_auroc_energy": 0.05}


@pytest.mark.parametrize("number", ["inf", "1" + "0" * 400, "0x1" + "0" * 5000])
def test_a_margin_is_a_finite_number(tmp_path: Path, number: str, refused: Any) -> None:
    path = tmp_path / "m.toml"
    path.write_text(f"[margins]\nnll = {number}\n")
    with refused("m.toml", "nll", "0", "margin") as caught:
        margins.read(path, METRICS)
    assert len(caught.text) < 300


def test_brackets_without_end(tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "m.toml"
    path.write_text(f"margins = {'[' * 100_000}")
    with refused("m.toml", "recursion"):
        margins.read(path, METRICS)


def test_a_file_that_is_not_there(tmp_path: Path, refused: Any) -> None:
    with refused("none.toml", "No such file or directory"):
        margins.read(tmp_path / "none.toml", METRICS)
