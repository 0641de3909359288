"""Records of other code are trained again; those of the same code are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grimp
import pytest

from bdlbench import catalog
from bdlbench.cli.main import main
from bdlbench.records import record as records
from bdlbench.records.record import Record
from bdlbench.runs import provenance, suites, work
from bdlbench.runs.batch import Settings

METHOD = '''
from dataclasses import dataclass
from bdlbench.networks.layers import Point
from bdlbench.core.options import option
from bdlbench.posteriors.fitting import fit_network
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.training.loop import last
from bdlbench.training.plan import Plan
from bdlbench.core.layout import Layout, PerRow

@dataclass(frozen=True)
class Mine:
    """Maximum likelihood for two epochs."""
    learning_rate: PerRow = option(1e-2, "Adam's step size", low=0, open_ends=True)

    def unsupported(self, model):
        return None

    def fit(self, model, data, rng):
        layout, plan = Layout(model.leaves()), Plan(EPOCHS, 64, self.learning_rate)
        state = layout.views(last(fit_network(model, data, rng, plan, lambda flat, _: Point(layout.views(flat)))).flat)
        return WeightPosterior(model, state, lambda noise, joint: Point(state), deterministic=True)

methods = {"mine": Mine}
'''

METRIC = """
class Half:
    summary, unit, better = "half of the accuracy", "fraction", "higher"
    def __call__(self, evaluation):
        return {"": 0.5 * catalog_accuracy(evaluation)}

def catalog_accuracy(evaluation):
    return (evaluation.test.arrays()["probs"].argmax(-1) == evaluation.y).double().mean(1)

metrics = {"half": Half()}
"""


@pytest.fixture(autouse=True)
def own_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins of one test are unknown to the next."""
    monkeypatch.setattr(catalog, "_plugins", {kind: {} for kind in catalog.KINDS})
    monkeypatch.setattr(catalog, "_plugin_files", {})


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A method in one file, which takes a number from another in its folder."""
    (tmp_path / "plug").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "plug"))
    path = tmp_path / "plug" / "mine.py"
    path.write_text("EPOCHS = 2\n" + METHOD)
    return path


def train(results: Path, *arguments: str) -> int:
    few = ("--set", "digits.num_train=128", "--samples", "1", "--jobs", "1")
    return main(
        [
            "run",
            "--dataset",
            "digits",
            "--model",
            "logistic",
            "--seeds",
            "2",
            "--results",
            str(results),
            *few,
            *arguments,
        ]
    )


def names(results: Path) -> set[tuple[str, int]]:
    """Which files there are, and when they were written."""
    return {(path.name, path.stat().st_mtime_ns) for path in results.glob("*.json")}


def test_what_stands_apart_is_what_training_a_cell_does_not_import() -> None:
    graph = grimp.build_graph("bdlbench", cache_dir=None)
    entries = [m for kind in catalog.KINDS for m in graph.find_descendants(f"bdlbench.{kind}")]
    needed = {m for root in ("bdlbench.runs.batch", *entries) for m in (root, *graph.find_upstream_modules(root))}
    inits = {m for m in graph.modules if (provenance.PACKAGE.parent / m.replace(".", "/")).is_dir()}
    names = {m: m.removeprefix("bdlbench.").replace(".", "/") + ".py" for m in graph.modules - inits}
    assert {m for m, name in names.items() if name.startswith(provenance.APART)} == set(names) - needed


def test_an_edited_method_is_trained_again_and_the_line_says_so(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (tmp_path / "out", "--method", "mine", "--plugin", str(plugin))
    assert train(*arguments) == 0
    first = names(tmp_path / "out")
    (before,) = records.read(tmp_path / "out")
    assert train(*arguments) == 0
    assert names(tmp_path / "out") == first
    assert "none had to be trained now" in capsys.readouterr().out
    plugin.write_text("EPOCHS = 3\n" + METHOD)
    assert train(*arguments, "--dry-run") == 0
    assert names(tmp_path / "out") == first
    assert train(*arguments) == 0
    said = capsys.readouterr().out
    assert "to be trained again, since the source of method mine has changed: mine · logistic · digits" in said
    assert "2 had to be trained now" in said
    (after,) = records.read(tmp_path / "out")
    assert after.values.parameters_sha256 != before.values.parameters_sha256
    assert [p.name for p in (tmp_path / "out").iterdir() if p.is_dir()] == []


def test_a_job_hashes_an_entry_once(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever cells and records it is of. A file that is edited meanwhile made none of them."""
    hashed: list[Path] = []
    plain = provenance.source_sha256

    def counting(path: Path) -> str:
        hashed.append(path)
        found = plain(path)
        path.write_text(path.read_text() + "# edited while it trains\n")
        return found

    plugin.write_text("EPOCHS = 2\n" + METHOD)
    before = plain(plugin)
    asked = ["--method", "mine", "--model", "mlp", "--plugin", str(plugin)]
    assert train(tmp_path / "out", *asked) == 0
    hashed.clear()
    plugin.write_text("EPOCHS = 2\n" + METHOD)
    monkeypatch.setattr(provenance, "source_sha256", counting)
    assert train(tmp_path / "out", *asked, "--seeds", "3") == 0
    assert hashed == [plugin]
    found = records.read(tmp_path / "out")
    assert len(found) > 2
    assert {(record.environment.code or {})["methods mine"] for record in found} == {before}


def test_what_a_plugin_imports_from_its_own_folder_counts_too(plugin: Path, tmp_path: Path) -> None:
    helper = plugin.parent / "its_number.py"
    helper.write_text("from its_inner import EPOCHS\n")
    (plugin.parent / "its_inner.py").write_text("EPOCHS = 2\n")
    plugin.write_text("def later():\n    from its_number import EPOCHS\n    return EPOCHS\nEPOCHS = later()\n" + METHOD)
    before = provenance.source_sha256(plugin)
    (plugin.parent / "not_its.py").write_text("EPOCHS = 9\n")
    assert provenance.source_sha256(plugin) == before
    (plugin.parent / "its_inner.py").write_text("EPOCHS = 3\n")
    assert provenance.source_sha256(plugin) != before


def test_an_edited_metric_is_scored_again_without_training(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = plugin.parent / "half.py"
    metric.write_text(METRIC)
    out = tmp_path / "out"
    assert train(out, "--method", "mle", "--plugin", str(metric)) == 0
    first = names(out)
    written: list[Path] = []
    write = records.write
    monkeypatch.setattr(records, "write", lambda *given: written.append(write(*given)) or written[-1])
    assert train(out, "--method", "mle") == 0  # without it, there is nothing to be wrong
    assert names(out) == first
    metric.write_text(METRIC.replace("0.5", "0.25"))
    capsys.readouterr()
    assert train(out, "--method", "mle", "--plugin", str(metric), "--dry-run") == 0
    assert names(out) == first and written == []
    assert train(out, "--method", "mle", "--plugin", str(metric)) == 0
    assert len(written) == 1
    said = capsys.readouterr().out
    assert "since its source has changed: metric half" in said and "none had to be trained now" in said
    (record,) = records.read(out)
    assert not record.unscored
    half, accuracy = (record.values.metrics[name].values for name in ("half", "accuracy"))
    assert half == pytest.approx([0.25 * value for value in accuracy])
    metric.write_text(METRIC.replace("0.5", "no_such_name"))
    assert train(out, "--method", "mle", "--plugin", str(metric)) == 4
    (record,) = records.read(out)
    assert "half" not in record.values.metrics and "NameError" in record.unscored["half"]


def test_another_bdlbench_trains_again_except_where_it_is_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert train(out, "--method", "mle", "--seeds", "3") == 0
    first = names(out)
    monkeypatch.setattr(provenance, "package_sha256", lambda: "another")
    capsys.readouterr()
    assert train(out, "--method", "mle", "--any-code") == 0
    assert names(out) == first
    assert train(out, "--method", "mle", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "bdlbench itself has changed (it was made by commit " in said
    assert "mle · logistic · digits, seeds 2; name these seeds" in said
    assert train(out, "--method", "mle", "--seeds", "3") == 0
    (record,) = records.read(out)
    assert (record.environment.code or {})["bdlbench"] == "another"
    assert train(out, "--method", "mle", "--seeds", "3") == 0
    assert "none had to be trained now" in capsys.readouterr().out


def test_the_reference_is_left_to_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("results") / "reference" / "some"
    assert train(out, "--method", "mle") == 0
    first = names(out)
    monkeypatch.setattr(provenance, "package_sha256", lambda: "another")
    assert train(out, "--method", "mle") == 0
    assert names(out) == first


def test_a_record_that_does_not_say_what_made_it_is_made_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert train(out, "--method", "mle") == 0
    (record,) = records.read(out)
    silent: Record = replace(record, environment=replace(record.environment, code=None))
    records.write(out, silent, records.predictions(out, record))
    assert train(out, "--method", "mle") == 0
    assert records.read(out)[0].environment.code is not None


def test_other_data_of_a_data_set_of_ones_own(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plugin.parent / "numbers.txt").write_text("1\n")
    plugin.write_text(DATA)
    out = tmp_path / "out"
    asked = ["run", "--method", "mle", "--dataset", "made", "--model", "logistic", "--seeds", "2", "--samples", "1"]
    asked += ["--results", str(out), "--jobs", "1", "--plugin", str(plugin)]
    monkeypatch.setenv("MADE_NUMBERS", str(plugin.parent / "numbers.txt"))
    assert main(asked) == 0
    first = names(out)
    assert main(asked) == 0
    assert names(out) == first
    (plugin.parent / "numbers.txt").write_text("2\n")
    spec = suites.build_spec(suites.read_suite("quick"), suites.Overrides(("mle",), ("logistic",), ("made",), "2", 1))
    assert [reason for _, reason in work.plan(spec, Settings(out)).outdated] == ["the data of made have changed"]


DATA = '''
import os
from dataclasses import dataclass
from pathlib import Path
import torch
from bdlbench.data.task import Examples, Signature, Task
from bdlbench.core.files import sha256

@dataclass(frozen=True)
class Made:
    """Points on a line."""
    def load(self, split):
        content = Path(os.environ["MADE_NUMBERS"]).read_bytes()
        x = torch.linspace(-1, 1, 60)[:, None] * float(content)
        train, test = (Examples(x[i::2], (x[i::2, 0] > 0).long()) for i in (0, 1))
        return Task(Signature((1,), 2, "categorical"), train, test, sources={"numbers.txt": sha256(content)})

datasets = {"made": Made}
'''


def test_other_data_in_a_folder_that_a_cell_names_by_its_path(tmp_path: Path) -> None:
    folder, out = tmp_path / "set", tmp_path / "out"
    folder.mkdir()
    files = {"data": "\n".join(f"{i} {i * i % 7}" for i in range(20)), "index_features": "0", "index_target": "1"}
    files |= {"n_splits": "1", "index_train_0": " ".join(map(str, range(15))), "index_test_0": "15 16 17 18 19"}
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text + "\n")
    asked = ["run", "--method", "mle", "--dataset", "uci_folder", "--model", "linear_regression", "--seeds", "1"]
    path = f"uci_folder.path={folder}"
    assert main([*asked, "--samples", "1", "--results", str(out), "--jobs", "1", "--set", path]) == 0
    names = (("mle",), ("linear_regression",), ("uci_folder",))
    spec = suites.build_spec(suites.read_suite("quick"), suites.Overrides(*names, "1", 1, (path,)))
    assert not work.plan(spec, Settings(out)).outdated
    (folder / "data.txt").write_text("\n".join(f"{i} {i * i % 5}" for i in range(20)) + "\n")
    assert [why for _, why in work.plan(spec, Settings(out)).outdated] == ["the data of uci_folder have changed"]
