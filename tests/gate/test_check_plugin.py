"""`check`: what strangers' entries hold to. The plugins in tests/strangers are good.py, and one for each fault."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bdlbench import catalog
from bdlbench.cli import main as cli
from bdlbench.gate import check_plugin, contracts

PLUGINS = Path(__file__).parents[1] / "strangers"

FAULTS = {
    "rows_mixed": ("method clipped", "rows are mixed, or share their noise", "def fit("),
    "forgets": ("method averaged", "come again when a run resumes", "passed = ["),
    "rate_stays": ("method floored", "with rate = 0 it predicts as if it still dropped", "def fit("),
    "first_row_only": ("method decayed", "shrink is not used row by row", "def fit("),
    "rule_unmet": ("model bare", "the weight fc.weight is taken by layer.leaf", "def __call__("),
    "own_weights": ("model frozen", "does not depend on the weight fc.weight", "def __call__("),
    "batch_statistics": ("model normalised", "the model mixes rows", "def __call__("),
    "metric_of_all_rows": ("metric centred", "a replicate alone has another value of ''", "def __call__("),
    "metric_without_blocks": ("metric whole", "IndexError: index 60 is out of bounds", "sure[:, 60]"),
    "metric_three_values": ("metric one", "it returned (1,) for the key '', not (R,) = (3,)", "def __call__("),
    "random_data": ("dataset fresh", "load(0) gives another train.x each time", "def load("),
    "shapes_disagree": ("dataset short", "train.y is (39,), not (40,) as its inputs", "def load("),
}


@pytest.fixture(autouse=True)
def _quiet_catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plugins of one test are not those of the next."""
    monkeypatch.setattr(catalog, "_plugins", {kind: {} for kind in catalog.KINDS})
    yield


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    """The exit code, and the lines."""
    code = cli.main(["check", *words])
    out = capsys.readouterr()
    return code, [*out.out.splitlines(), *out.err.splitlines()]


def test_every_plugin_of_the_folder_is_one_of_these() -> None:
    assert {path.stem for path in PLUGINS.glob("*.py")} == {"good", *FAULTS}


def test_a_file_may_be_named_as_the_entries_are(capsys: pytest.CaptureFixture[str]) -> None:
    whole = checked(capsys, "--plugin", str(PLUGINS / "good.py"))
    assert checked(capsys, str(PLUGINS / "good.py")) == whole
    code, lines = checked(capsys, "confidence", str(PLUGINS / "good.py"))
    assert code == 0 and lines == whole[1][3:4]


@pytest.mark.parametrize("line", ["from bdlbench.layers import Point", "from bdlbench.data import Examples"])
def test_a_plugin_for_another_interface_hears_of_ours(line: str, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "old.py").write_text(line + "\n")
    refused.command(["check", tmp_path / "old.py"], "old.py:1", "bdlbench.extend")


def test_a_good_plugin_passes(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = checked(capsys, "--plugin", str(PLUGINS / "good.py"))
    assert code == 0
    assert [line.partition(" (")[0] for line in lines] == [
        "method hidden_dropout",
        "model bottleneck",
        "dataset blobs",
        "metric confidence",
    ]
    assert all("): holds: " in line for line in lines)
    for words in ("rows alone and together", "interrupted = uninterrupted", "without dropping it is one network"):
        assert words in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_plugin_fails_with_its_fault_file_and_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    entry, fault, answers = FAULTS[name]
    path = PLUGINS / f"{name}.py"
    code, lines = checked(capsys, "--plugin", str(path))
    assert code == 1
    first = next(line for line in lines if "FAULT" in line)
    assert first.startswith(f"{entry} (") and fault in first
    place = re.search(rf"{name}\.py:(\d+)\)", first)
    assert place and answers in path.read_text().splitlines()[int(place[1]) - 1]
    assert all(line.startswith(entry) for line in lines)


def test_names_choose_what_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    plugin = ("--plugin", str(PLUGINS / "good.py"))
    code, lines = checked(capsys, *plugin, "confidence")
    assert (code, len(lines)) == (0, 1) and lines[0].startswith("metric confidence (")
    code, lines = checked(capsys, *plugin, "confidenc")
    assert (code, len(lines)) == (2, 1) and "did you mean 'confidence'?" in lines[0]
    code, lines = checked(capsys)
    assert (code, len(lines)) == (2, 1) and "nothing to check" in lines[0]


def test_what_no_small_problem_suits_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither passed nor failed: not asked."""
    path = tmp_path / "picky.py"
    source = (PLUGINS / "good.py").read_text()
    path.write_text(source.replace("return unsupported(self.signature)", 'return "it is made for audio alone"'))
    code, lines = checked(capsys, "--plugin", str(path), "bottleneck")
    assert code == 4
    assert "not checked: no small problem suits it" in lines[0]


def test_a_model_for_its_own_data_alone_is_asked_with_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.py"
    only = 'return None if self.signature.input_shape == (2,) else "it is made for two numbers"'
    path.write_text((PLUGINS / "good.py").read_text().replace("return unsupported(self.signature)", only))
    code, lines = checked(capsys, "--plugin", str(path), "bottleneck")
    assert code == 0 and "every weight meets the method's rule" in lines[0]


@pytest.mark.parametrize("name", ["exact", "deep_ensemble", "coin", "lenet5", "coin_flips", "digits_near", "ood_auroc"])
def test_entries_of_the_catalog_pass(name: str) -> None:
    """One of each that is unlike the others; tests/test_contracts.py asks the same functions of all, on every model."""
    for kind, entry in check_plugin.chosen([name], []):
        assert [found for found in check_plugin.check(kind, entry) if found.verdict != "holds"] == []


def test_a_metric_that_changes_what_it_is_given_is_seen() -> None:
    class Spoiling:
        summary, unit, better = "x", "x", "lower"

        def __call__(self, evaluation: Any) -> Any:
            evaluation.y.zero_()
            return {"": evaluation.y.double().mean(1)}

    given = contracts.evaluations()["categorical"]
    assert any("changes the predictions" in words for words in contracts.scored(Spoiling(), given))  # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [0.0, 1e-3])
def test_a_mean_of_examples_is_the_value(shift: float) -> None:
    class Mean:
        summary, unit, better = "x", "x", "lower"

        def __call__(self, evaluation: Any) -> Any:
            return {"": self.by_example(evaluation)[""].mean(1) + shift}

        def by_example(self, evaluation: Any) -> Any:
            return {"": evaluation.test.arrays()["log_probs"].double().amax(-1)}

    found = contracts.scored(Mean(), contracts.evaluations()["categorical"])  # type: ignore[arg-type]
    assert found == ([] if not shift else ["the mean of by_example is not the value of ''"])


def test_chosen_refuses_a_name_that_nobody_has(refused: Any) -> None:
    with refused("entry", "accurac", "accuracy"):
        check_plugin.chosen(["accurac"], [])
