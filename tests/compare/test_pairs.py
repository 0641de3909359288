"""Two sides cell by cell, on small real runs: pairs, populations, what may not be compared, and the five formats."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from bdlbench import api, catalog
from bdlbench.compare import pairs as comparison
from bdlbench.compare.pairing import Pairing
from bdlbench.compare.pairs import Comparison
from bdlbench.core.errors import NotComparable
from bdlbench.core.spec import Cell, Choice, Replicate
from bdlbench.protocols import Evaluation, Metric
from bdlbench.records import evaluation, reading
from bdlbench.records import record as records
from bdlbench.records.arrays import row_axis
from bdlbench.records.contents import Environment, MetricValues, Values
from bdlbench.records.reading import Source
from bdlbench.records.record import Record
from bdlbench.report import text_table, verdicts
from bdlbench.runs.scoring import measure

SEEDS = 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods on wine, two on five splits of it, and two of a linear model."""
    folder = tmp_path_factory.mktemp("runs")
    cells: dict[str, Any] = {"models": ["logistic"], "datasets": ["wine"], "samples": 20, "seeds": str(SEEDS)}
    settings: dict[str, Any] = {f"{name}.epochs": 4 for name in ("mle", "map", "mc_dropout")}
    settings["mc_dropout.input_rate"] = 0.3
    api.run(results=folder / "wine", methods=["mle", "map", "mc_dropout"], settings=settings, **cells)
    splits: dict[str, Any] = {"models": ["logistic"], "datasets": ["wine"], "samples": 5, "seeds": "5"}
    settings = {name: value for name, value in settings.items() if "mc_dropout" not in name}
    api.run(results=folder / "splits", methods=["mle", "map"], settings=settings, splits="each", **splits)
    linear = {"models": ["bayesian_linear_regression"], "datasets": ["diabetes"], "samples": 20, "seeds": "3"}
    api.run(results=folder / "linear", methods=["exact", "laplace"], settings={"laplace.epochs": 60}, **linear)
    return folder


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs / "wine", tmp_path / "copy"))


def edited(folder: Path, change: Callable[[Record], Record], method: str = "mle") -> None:
    """Write a record of the method anew."""
    (record,) = [r for r in records.read(folder) if r.cell.method.name == method]
    arrays = records.predictions(folder, record)
    for ending in (".json", ".safetensors"):
        (folder / f"{record.name}{ending}").unlink()
    new = change(record)
    rows = len(new.replicates)
    kept = {k: v[:, :rows] if row_axis(k) else v[:rows] for k, v in arrays.items()}
    records.write(folder, replace(new, predictions=""), kept)


def finding(found: Comparison, metric: str, pair: int = 0) -> Any:
    return next(f for f in found.pairs[pair].findings if f.metric == metric)


# what the predictions tell again


@pytest.mark.parametrize("folder", ["wine", "linear"])
def test_stored_predictions_give_the_stored_metrics(runs: Path, folder: str) -> None:
    seen = set()
    for record in records.read(runs / folder):
        kept = evaluation.read(record, records.predictions(runs / folder, record))
        assert kept is not None
        for name in ("accuracy", "nll", "brier", "ece", "rmse"):
            for value in catalog.metrics()[name](kept).values():
                assert value.tolist() == pytest.approx(record.values.metrics[name].values, rel=1e-5)
                seen.add(name)
    assert seen == ({"accuracy", "nll", "brier", "ece"} if folder == "wine" else {"nll", "rmse"})


def test_contributions_average_to_the_metric(runs: Path) -> None:
    for record in records.read(runs / "wine"):
        kept = evaluation.read(record, records.predictions(runs / "wine", record))
        assert kept is not None
        for name in ("accuracy", "nll", "brier"):
            (rows,) = evaluation.by_example(catalog.metrics()[name], kept)[""].values()
            assert rows.shape == (SEEDS, 45)
            assert rows.mean(1) == pytest.approx(record.values.metrics[name].values, rel=1e-5)
        (rows,) = evaluation.by_example(catalog.metrics()["ece"], kept)[""].values()
        assert rows.shape == (SEEDS, 45)  # as many blocks as examples, up to 50


def test_groups_of_samples_tell_the_monte_carlo_part_of_what_they_can(runs: Path) -> None:
    by_method = {r.cell.method.name: r for r in records.read(runs / "wine")}
    record = by_method["mc_dropout"]
    kept = evaluation.read(record, records.predictions(runs / "wine", record))
    assert kept is not None
    nll = evaluation.left_out(catalog.metrics()["nll"], kept)[""]
    assert nll.shape == (10, SEEDS)
    assert nll.mean(0) == pytest.approx(record.values.metrics["nll"].values, rel=0.01)
    assert evaluation.left_out(catalog.metrics()["accuracy"], kept) == {}
    found = api.compare(runs / "wine", runs / "wine", treatment=("mle", "mc_dropout"))
    noise = finding(found, "nll")
    assert 0 < noise.monte_carlo < float(noise.difference.seed)
    assert math.isnan(finding(found, "accuracy").monte_carlo)
    assert finding(api.compare(runs / "wine", runs / "wine", treatment=("mle", "map")), "accuracy").monte_carlo == 0


def test_predictions_that_are_not_all_a_metric_saw(runs: Path, copy: Path) -> None:
    """A stored value that they do not give: the metric is compared by replicate alone, and says so."""

    def change(record: Record) -> Record:
        metrics = dict(record.values.metrics)
        metrics["nll"] = replace(metrics["nll"], values=tuple(v + 0.01 for v in metrics["nll"].numbers))
        return replace(record, values=replace(record.values, metrics=metrics))

    edited(copy, change)
    found = api.compare(runs / "wine", copy, treatment=("mle", "mle"))
    assert finding(found, "nll").population == "new seeds, these test examples"
    assert finding(found, "accuracy").population == "new seeds and new test examples"


def test_records_without_predictions(runs: Path, copy: Path) -> None:
    for path in copy.glob("*.safetensors"):
        path.unlink()
    found = api.compare(runs / "wine", copy)
    assert {f.population for f in found.findings} == {"new seeds, these test examples"}


# pairs


def test_a_folder_against_itself(runs: Path, refused: Any) -> None:
    found = api.compare(runs / "wine", runs / "wine")
    assert ({f.verdict for f in found.findings}, found.exit_code) == ({"equivalent"}, 0)
    assert len(found.pairs) == 3
    assert api.compare(runs / "wine", runs / "wine", metrics=["nll"]).pairs[0].findings[0].metric == "nll"
    with refused("metric", "nl", "nll"):
        api.compare(runs / "wine", runs / "wine", metrics=["nl"])
    with refused("train_seconds", "cost"):
        api.compare(runs / "wine", runs / "wine", metrics=["train_seconds"])


def test_the_paired_analysis_is_the_formula(runs: Path) -> None:
    """From the stored probabilities, by hand: d_rs, its three mean squares, and the difference."""
    found = finding(api.compare(runs / "wine", runs / "wine", treatment=("mle", "mc_dropout")), "nll")
    logs = {}
    for record in records.read(runs / "wine"):
        arrays = records.predictions(runs / "wine", record)
        picked = arrays["test.log_probs"].double().gather(-1, arrays["test.y"].long().unsqueeze(-1))[..., 0]
        logs[record.cell.method.name] = -picked.numpy()
    d = logs["mc_dropout"] - logs["mle"]
    seeds, examples = d.shape
    residual = d - d.mean(1, keepdims=True) - d.mean(0) + d.mean()
    mean_squares = [
        examples * d.mean(1).var(ddof=1),
        seeds * d.mean(0).var(ddof=1),
        (residual**2).sum() / (seeds - 1) / (examples - 1),
    ]
    assert found.estimate == pytest.approx(d.mean(), rel=1e-4)
    variance = (mean_squares[0] + max(0, mean_squares[1] - mean_squares[2])) / (seeds * examples)
    assert float(found.difference.standard_error) ** 2 == pytest.approx(variance, rel=1e-4)


@pytest.mark.slow
def test_replicates_without_a_partner(runs: Path, copy: Path) -> None:
    for record in records.read(copy):
        records.without(copy, record, {Replicate(3)})
    found = api.compare(runs / "wine", copy)
    assert found.pairs[0].notes == ("seed 3 of A has no partner and is compared unpaired",)
    assert (found.findings[0].replicates, found.findings[0].pairs) == ((4, 3), 3)


@pytest.mark.slow
def test_disjoint_seeds(runs: Path, tmp_path: Path) -> None:
    sides = [Path(shutil.copytree(runs / "wine", tmp_path / name)) for name in "ab"]
    for folder, gone in zip(sides, ({0, 1}, {2, 3}), strict=True):
        for record in records.read(folder):
            records.without(folder, record, {Replicate(s) for s in gone})
    found = api.compare(*sides)
    notes = "seeds 2, 3 of A have no partner and are compared unpaired"
    assert found.pairs[0].notes[0] == notes
    assert {f.pairs for f in found.findings} == {0}
    assert {f.population for f in found.findings} == {"new seeds and new test examples"}


def test_one_seed(runs: Path, copy: Path) -> None:
    for record in records.read(copy):
        records.without(copy, record, {Replicate(s) for s in (1, 2, 3)})
    found = api.compare(copy, copy, treatment=("mle", "map"))
    assert found.pairs[0].notes[0] == "one replicate in A: nothing is known of new seeds, so there is no verdict"
    assert {f.population for f in found.findings} == {"new test examples, these trained networks"}
    assert {f.verdict for f in found.findings} == {"inconclusive"}
    assert found.exit_code == 0 and replace(found, strict=True).exit_code == 1


def test_not_a_number(runs: Path, copy: Path) -> None:
    def change(record: Record) -> Record:
        metrics = dict(record.values.metrics)
        metrics["nll"] = replace(metrics["nll"], values=(None, *metrics["nll"].values[1:]))
        return replace(record, values=replace(record.values, metrics=metrics))

    edited(copy, change)
    found = api.compare(runs / "wine", copy)
    (pair,) = [p for p in found.pairs if p.notes]
    assert pair.notes == ("nll of seed 0 in B is not finite: no verdict",)
    assert next(f for f in pair.findings if f.metric == "nll").verdict == "inconclusive"
    assert found.exit_code == 4
    assert "not finite" in verdicts.render(found)
    assert api.compare(copy, copy).exit_code == 0  # A lacks it too


@pytest.mark.slow
def test_failed_replicates(runs: Path, copy: Path) -> None:
    edited(copy, lambda r: replace(r, failed={Replicate(3): "diverged"}, replicates=r.replicates[:3], values=cut(r)))
    found = api.compare(runs / "wine", copy)
    (pair,) = [p for p in found.pairs if p.notes]
    assert "seed 3 failed in B: diverged" in pair.notes
    assert found.exit_code == 4


def cut(record: Record) -> Values:
    return Values({name: replace(entry, values=entry.values[:3]) for name, entry in record.values.metrics.items()})


def test_missing_cells(runs: Path, copy: Path) -> None:
    for path in copy.glob("*-map-*"):
        path.unlink()
    found = api.compare(runs / "wine", copy)
    assert ([r.title for r in found.only_a], found.only_b, found.exit_code) == (["map · logistic · wine"], (), 4)
    assert "only in A: map · logistic · wine, map (epochs 4" in verdicts.render(found)
    assert api.compare(copy, runs / "wine").exit_code == 0  # B has more, and nothing is missing


def test_splits_with_their_own_test_examples(runs: Path) -> None:
    found = api.compare(runs / "splits", runs / "splits", treatment=("mle", "map"), metrics=["nll"])
    (nll,) = found.findings
    values = {r.cell.method.name: r.values.metrics["nll"].values for r in records.read(runs / "splits")}
    gaps = np.array(values["map"]) - np.array(values["mle"])
    assert nll.population == "new splits of this data set"
    assert float(nll.difference.standard_error) == pytest.approx(math.sqrt((1 / 5 + 45 / 133) * gaps.var(ddof=1)))


def test_splits_of_records_that_do_not_say_their_sizes(runs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs / "splits", tmp_path / "old"))
    for method in ("mle", "map"):
        edited(folder, lambda r: replace(r, environment=replace(r.environment, examples=None)), method)
    found = api.compare(folder, folder, treatment=("mle", "map"))
    assert found.pairs[0].notes == (
        "splits overlap, and these records do not say how many examples they trained on: run them again",
    )
    assert {f.verdict for f in found.findings} == {"inconclusive"}


def test_splits_that_share_their_test_examples_are_crossed(runs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs / "wine", tmp_path / "draws"))
    for method in ("mle", "map", "mc_dropout"):
        edited(folder, lambda r: replace(r, replicates=tuple(Replicate(x.seed, x.seed) for x in r.replicates)), method)
    found = api.compare(folder, folder, treatment=("mle", "map"))
    assert {f.population for f in found.findings} == {"new seeds and new test examples"}


def test_regression_by_the_jackknife(runs: Path) -> None:
    found = finding(api.compare(runs / "linear", runs / "linear", treatment=("exact", "laplace")), "rmse")
    assert found.population == "new seeds and new test examples"
    assert 0 < float(found.difference.standard_error) < 5


# who is paired, without any training


def cell(method: str = "mle", dataset: str = "wine", epochs: int = 1, **changes: Any) -> Cell:
    treatment = Choice.of(method, {"epochs": epochs})
    return replace(Cell(treatment, Choice.of("logistic", {}), Choice.of(dataset, {}), samples=3), **changes)


def source(*cells: Cell, definition: str = "version 1", sha: str = "abc", value: float = 0.5) -> Source:
    accuracy = MetricValues("fraction", "higher", definition, (value, 1.02 * value))
    seeds, where = (Replicate(0), Replicate(1)), Environment(sources={"wine": sha})
    made = [Record(c, seeds, Values({"accuracy": accuracy}), {}, where) for c in cells]
    return Source(tuple((Path("nowhere"), record) for record in made))


def test_a_metric_that_not_every_pair_has(runs: Path) -> None:
    both = Source(reading.read(runs / "wine").entries + reading.read(runs / "linear").entries)
    found = comparison.compare(both, both, metrics=["accuracy", "rmse"])
    assert [len(pair.findings) for pair in found.pairs] == [1] * 5


def test_the_same_threads_first() -> None:
    (pair,) = comparison.compare(source(cell()), source(cell(threads=2), cell())).pairs
    assert pair.b.cell.threads == 1
    (pair,) = comparison.compare(source(cell()), source(cell(threads=2))).pairs
    assert pair.b.cell.threads == 2
    assert pair.notes == ("threads is 1 in A and 2 in B",)


def test_ignoring_options(refused: Any) -> None:
    a, b = source(cell()), source(cell(epochs=7))
    assert comparison.compare(a, b).pairs == ()
    assert "no cell of A has a partner in B; --ignore-options" in verdicts.render(comparison.compare(a, b))
    (pair,) = comparison.compare(a, b, pairing=Pairing(ignore_options=True)).pairs
    assert pair.notes == ("epochs is 1 in A and 7 in B",)
    both = source(cell(), cell(epochs=7))
    assert len(comparison.compare(both, both, pairing=Pairing(ignore_options=True)).pairs) == 2  # equals come first
    with refused("--ignore-options", "B", "2 cells", "mle · logistic · wine", "epochs"):
        comparison.compare(a, source(cell(epochs=7), cell(epochs=8)), pairing=Pairing(ignore_options=True))


def test_across_methods(refused: Any) -> None:
    both = source(cell(), cell("map", epochs=9))
    (pair,) = comparison.compare(both, both, pairing=Pairing(("mle", "map"))).pairs
    assert (pair.a.cell.method.name, pair.b.cell.method.name) == ("mle", "map")
    swept = source(cell(), cell("map"), cell("map", epochs=9))
    with refused("--treatment", "B", "2 cells", "map · logistic · wine", "epochs", "map(epochs=1)"):
        comparison.compare(swept, swept, pairing=Pairing(("mle", "map")))
    with refused("--treatment", "method", "laplace", "mle"):
        comparison.compare(both, both, pairing=Pairing(("mle", "laplace")))


def test_across_two_settings_of_one_method(refused: Any) -> None:
    swept = source(cell("map", epochs=3), cell("map", epochs=9), cell("mle"))
    for asked, epochs in ((("map(epochs=3)", "map(epochs=9)"), 9), (("mle", "map( epochs = 3.0 )"), 3)):
        (pair,) = comparison.compare(swept, swept, pairing=Pairing(asked)).pairs
        assert dict(pair.b.cell.method.options) == {"epochs": epochs}
    strange = source(cell("mle"), cell("mine (v2)"))  # a name that has brackets of its own
    (pair,) = comparison.compare(strange, strange, pairing=Pairing(("mle", "mine (v2)"))).pairs
    assert pair.b.cell.method.name == "mine (v2)"
    for asked, held in (("map(epochs=4)", ["map(epochs=3)", "map(epochs=9)"]), ("map(rate=3)", ["map(epochs=3)"])):
        with refused("--treatment", asked, "B", *held):
            comparison.compare(swept, swept, pairing=Pairing(("mle", asked)))


def test_a_shared_protocol_without_a_pair() -> None:
    found = comparison.compare(source(cell()), source(cell("map")))
    assert (found.pairs, len(found.only_a), len(found.only_b), found.exit_code) == ((), 1, 1, 4)


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (cell(samples=9), ["samples", "3", "in A", "9", "in B"]),
        (cell(dataset="digits"), ["dataset", "wine", "in A", "digits", "in B"]),
        (cell(model=Choice.of("mlp", {"widths": (5,)})), ["model", "logistic", "in A", "mlp", "in B"]),
        (cell(model=Choice.of("logistic", {"noise_sd": 2.0})), ["model.noise_sd", "absent", "in A", "2.0", "in B"]),
    ],
)
def test_protocols_that_differ(other: Cell, names: list[str], refused: Any) -> None:
    with refused(*names, error=NotComparable) as said:
        comparison.compare(source(cell()), source(other))
    places = [said.text.index(f" {name}") for name in names]
    assert places == sorted(places)
    assert NotComparable.exit_code == 3


def test_one_protocol_of_several_differs() -> None:
    ours, theirs = source(cell(), cell(dataset="digits")), source(cell(), cell(dataset="digits", samples=9))
    found = comparison.compare(ours, theirs)
    assert found.apart == ("mle · logistic · digits: samples is 3 in A and 9 in B",)
    assert found.exit_code == 3
    assert "not comparable, the protocols differ: mle · logistic · digits: samples is 3" in verdicts.render(found)


def test_data_and_metrics_that_differ(refused: Any) -> None:
    with refused("mle · logistic · wine", "SHA-256", error=NotComparable):
        comparison.compare(source(cell()), source(cell(), sha="xyz"))
    with refused("mle · logistic · wine", "metric accuracy", "version 1", "version 2", error=NotComparable):
        comparison.compare(source(cell()), source(cell(), definition="version 2"))


def test_exit_codes() -> None:
    better = comparison.compare(source(cell()), source(cell(), value=0.7))
    assert ([f.verdict for f in better.findings], better.exit_code) == (["better"], 0)
    worse = comparison.compare(source(cell()), source(cell(), value=0.3))
    assert ([f.verdict for f in worse.findings], worse.exit_code) == (["worse"], 1)
    within = comparison.compare(source(cell()), source(cell(), value=0.3), {"accuracy": 0.3})
    assert ([f.verdict for f in within.findings], within.exit_code) == (["equivalent"], 0)


# formats


@pytest.fixture(scope="module")
def shown(runs: Path) -> Comparison:
    return api.compare(runs / "wine", runs / "wine", treatment=("mle", "mc_dropout"), margins={"nll": 0.5})


def test_terminal(shown: Comparison) -> None:
    text = verdicts.render(shown, width=130)
    assert "mle → mc_dropout  accuracy ↑ (fraction)" in text
    assert re.search(r"mle → mc_dropout  accuracy ↑ +0\.", verdicts.render(shown, width=60))
    assert "Intervals are for new seeds and new test examples." in text
    assert "3 tests, Holm-corrected at 5 %." in text
    assert max(map(len, text.splitlines())) <= 130
    assert "\x1b[1m" in verdicts.render(shown, color=True)


def test_markdown_has_no_line_out_of_shape(shown: Comparison) -> None:
    text = verdicts.render(shown, "markdown")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") - line.count("\\|") for line in rows} == {9, 11}
    assert text.count("<details>") == text.count("</details>") == 1


def test_markup_in_a_name_is_text() -> None:
    evil = source(cell("<script>alert(1)</script>|x"))
    found = comparison.compare(evil, evil)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|x" in verdicts.render(found, "markdown")
    assert "<script>" not in verdicts.render(found, "markdown")


def test_csv_and_json_keep_everything(shown: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(verdicts.render(shown, "csv"))))
    body = json.loads(verdicts.render(shown, "json"))
    nll = finding(shown, "nll")
    for row in (rows[1], body["findings"][1]):
        assert (row["metric"], row["verdict"], row["population"]) == ("nll", nll.verdict, nll.population)
        assert float(row["difference"]) == nll.estimate
        assert float(row["high"]) - float(row["low"]) == pytest.approx(2 * nll.interval)
        assert float(row["corrected_p"]) == nll.corrected_p
        assert float(row["monte_carlo_variance"]) == nll.monte_carlo
    assert body["exit_code"] == shown.exit_code
    assert rows[0]["monte_carlo_variance"] == "" and body["findings"][0]["monte_carlo_variance"] is None


def test_latex(shown: Comparison) -> None:
    text = verdicts.render(shown, "latex")
    assert r"mle $\rightarrow$ mc\_dropout & accuracy $\uparrow$ (fraction) &" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{tabular}") == 1
    assert all(ord(char) < 128 for char in text), "a sign that LaTeX may lack"


def test_a_bracket_after_the_end_of_a_row() -> None:
    sheet = text_table.Sheet(
        "t", ("a", "b"), ((text_table.Field("x"), text_table.Field("y")), (text_table.Field("[1]"),) * 2), 1
    )
    assert "  {[1]} & {[1]} \\\\" in text_table.latex(sheet, "c")


# sources


def commit(folder: Path) -> None:
    """All of a folder as the one commit of a new repository."""
    name = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "reference"]):
        subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_revision_whose_records_conflict(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    def change(record: Record) -> Record:
        metrics = dict(record.values.metrics)
        metrics["nll"] = replace(metrics["nll"], values=tuple(v + 1 for v in metrics["nll"].numbers))
        return replace(record, values=replace(record.values, metrics=metrics))

    for name in ("one", "two"):
        shutil.copytree(runs / "wine", tmp_path / "results" / name)
    commit(tmp_path)
    monkeypatch.chdir(tmp_path)
    with reading.opened("HEAD") as whole:
        assert len(whole.records) == 6  # the same values twice are no conflict
    edited(tmp_path / "results" / "two", change)
    shutil.rmtree(tmp_path / ".git")
    commit(tmp_path)
    with refused("HEAD/results/one", "HEAD/results/two", "seed 0", "split 0"), reading.opened("HEAD"):
        pass


def test_a_revision(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    kept = tmp_path / "results" / "reference"
    shutil.copytree(runs / "wine", kept / "wine")
    (kept / "speed.json").write_text("{}")
    commit(tmp_path)
    shutil.rmtree(kept)
    monkeypatch.chdir(tmp_path)
    assert {f.verdict for f in api.compare("HEAD", runs / "wine").findings} == {"equivalent"}
    assert len(api.compare("HEAD:results/reference/wine", "HEAD").pairs) == 3
    for name, names in (
        ("HEAD:nothing", ["HEAD:nothing", "revision"]),
        ("HEED", ["HEED", "exist", "git"]),
        ("--help", ["--help", "exist", "git"]),
    ):
        with refused(*names), reading.opened(name):
            pass


def test_one_record_is_a_side(runs: Path) -> None:
    path = next((runs / "wine").glob("*-mle-*.json"))
    found = api.compare(path, runs / "wine")
    assert (len(found.pairs), found.findings[0].population) == (1, "new seeds and new test examples")


def test_jackknifing_works_on_one_thread_and_gives_the_others_back(runs: Path) -> None:
    folder, seen = runs / "wine", []
    record = records.read(folder)[0]
    kept = evaluation.read(record, records.predictions(folder, record))

    class Watched:
        def __call__(self, whole: Evaluation) -> dict[str, torch.Tensor]:
            seen.append(torch.get_num_threads())
            return {"": whole.y.double().mean(1)}

    torch.set_num_threads(2)
    assert evaluation.by_example(cast(Metric, Watched()), kept)
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


# what a metric uses, and what one side lacks


def predicted(folder: Path, ood: dict[str, int], seeds: int = 5, method: str = "mle", sharpness: float = 3.0) -> Path:
    """A record of random class probabilities with a score of each OOD set; the same for the same arguments."""
    rng = torch.Generator().manual_seed(1)
    logits, noise = torch.randn(60, 4, generator=rng), torch.randn(seeds, 60, 4, generator=rng)
    y = (logits + torch.randn(60, 4, generator=rng)).argmax(-1).expand(seeds, 60)
    probs = (sharpness * logits + 0.2 * noise).softmax(-1)  # (R, 60, 4)
    arrays = {"test.probs": probs, "test.y": y.to(torch.int16), "test.entropy": torch.special.entr(probs).sum(-1)}
    for name, size in ood.items():
        rng = torch.Generator().manual_seed(len(name))
        arrays[f"ood.{name}.entropy"] = torch.rand(seeds, 200, generator=rng)[:, :size] * 0.5 * sharpness
    replicates = tuple(Replicate(s) for s in range(seeds))
    made = Record(cell(method), replicates, Values(), {}, Environment())
    kept = evaluation.read(made, arrays)
    assert kept is not None
    known = {name: catalog.metrics()[name] for name in ("accuracy", "ece", "ood_auroc")}
    records.write(folder, replace(made, values=Values(measure(kept, known))), arrays)
    return folder


def test_an_interval_does_not_depend_on_what_its_metric_does_not_use(tmp_path: Path) -> None:
    without = predicted(tmp_path / "without", {}, sharpness=2)
    sides = predicted(tmp_path / "a", {"near": 70}), predicted(tmp_path / "b", {"near": 70, "far": 40}, sharpness=2)
    pairs = [api.compare(a, b) for a, b in (sides, (sides[0], without), (without, without))]
    for metric in ("ece", "accuracy"):
        assert finding(pairs[0], metric).difference == finding(pairs[1], metric).difference
        assert float(finding(pairs[0], metric).difference.example) > 0
    assert finding(pairs[0], "ood_auroc[near]").population == "new seeds and new test examples"


@pytest.mark.parametrize("sizes", [(70, 40), (70, 80)])  # 80 examples have as many blocks as 70
def test_ood_sets_of_other_sizes_are_unpaired_samples(tmp_path: Path, sizes: tuple[int, int]) -> None:
    sides = [
        predicted(tmp_path / str(size), {"near": size}, seeds=1, sharpness=sharp)
        for size, sharp in zip(sizes, (3, 2), strict=True)
    ]
    found = api.compare(*sides, metrics=["ood_auroc"])
    assert [note for note in found.pairs[0].notes if "near" in note] == [
        f"near has {sizes[0]} examples in A and {sizes[1]} in B: they are compared unpaired"
    ]
    parts = []
    for folder in sides:
        (record,) = records.read(folder)
        kept = evaluation.read(record, records.predictions(folder, record))
        assert kept is not None
        parts.append(evaluation.by_example(catalog.metrics()["ood_auroc"], kept)["near"])
    variance = [rows["near"][0].var(ddof=1) / rows["near"].shape[1] for rows in parts]
    paired = (parts[1]["test"] - parts[0]["test"])[0]
    expected = sum(variance) + paired.var(ddof=1) / len(paired)
    assert float(finding(found, "ood_auroc[near]").difference.example) == pytest.approx(expected, rel=1e-9)


def test_what_an_unknown_metric_uses_is_seen(tmp_path: Path) -> None:
    folder = predicted(tmp_path, {"near": 70, "far": 40})
    (record,) = records.read(folder)
    kept = evaluation.read(record, records.predictions(folder, record))
    assert kept is not None

    class OfAll:
        def __call__(self, whole: Evaluation) -> dict[str, torch.Tensor]:
            mean = {name: cast(Any, part).scores["entropy"].double().mean(1) for name, part in whole.ood.items()}
            if whole.y[0, 0] < 0:
                raise IndexError("no such class")
            return {**mean, "most": torch.stack([*mean.values()]).amax(0), "none": torch.zeros(5).double()}

    metric = cast(Metric, OfAll())
    assert evaluation.using(metric, kept, "near") == ["near", "most"]
    assert evaluation.using(metric, kept, "far") == ["far", "most"]
    assert evaluation.using(metric, kept, "test") == ["far", "near", "most", "none"]  # it raises: it has looked
    assert list(evaluation.by_example(metric, kept)["most"]) == ["test", "far", "near"]


@pytest.mark.slow
def test_what_b_lacks_counts(tmp_path: Path) -> None:
    whole = predicted(tmp_path / "whole", {"near": 70, "far": 70})
    for name, other in (
        ("ood_auroc[far]", predicted(tmp_path / "set", {"near": 70})),
        ("ood_auroc[near]", predicted(tmp_path / "sets", {})),
    ):
        found = api.compare(whole, other)
        assert (found.pairs[0].missing[-1], found.exit_code) == (name, 4)
        assert f"{name} is in A alone" in verdicts.render(found)
        assert api.compare(other, whole).exit_code == 0
        assert api.compare(whole, other, metrics=["ece"]).exit_code == 0  # not what was asked
    few = predicted(tmp_path / "few", {"near": 70, "far": 70}, seeds=2)
    found = api.compare(whole, few, metrics=["ece"])
    assert [finding.verdict for finding in found.findings].count("worse") == 0
    assert found.findings and found.exit_code == 4


def test_a_changed_option_is_named() -> None:
    found = comparison.compare(source(cell(), cell("map")), source(cell(epochs=7), cell("map")))
    assert found.options == ("mle · logistic · wine: epochs is 1 in A and 7 in B",)
    assert found.exit_code == 4
    shown = verdicts.render(found)
    assert "epochs is 1 in A and 7 in B" in shown and "--ignore-options" in shown


def test_the_same_predictions_are_no_test(tmp_path: Path) -> None:
    for folder, sharpness in (("a", 3.0), ("b", 2.0)):
        predicted(tmp_path / folder, {}, sharpness=sharpness)
        predicted(tmp_path / folder, {}, method="map")
        predicted(tmp_path / f"{folder} alone", {}, sharpness=sharpness)
    found, alone = api.compare(tmp_path / "a", tmp_path / "b"), api.compare(tmp_path / "a alone", tmp_path / "b alone")
    same = [f for f in found.findings if f.identical]
    assert [(f.metric, f.verdict, f.testable) for f in same] == [
        ("accuracy", "equivalent", False),
        ("ece", "equivalent", False),
    ]
    tested = [f for f in found.findings if not f.identical]
    assert [(f.corrected_p, f.detectable) for f in tested] == [(f.corrected_p, f.detectable) for f in alone.findings]
    (path,) = (tmp_path / "b").glob("*-map-*.safetensors")
    path.unlink()
    assert not any(f.identical for f in api.compare(tmp_path / "a", tmp_path / "b").findings)  # nobody can tell


def test_that_margins_are_0_is_said_once(runs: Path) -> None:
    for margins, times in (({}, 1), ({"nll": 0.1}, 0)):
        found = api.compare(runs / "wine", runs / "wine", margins=margins, treatment=("mle", "map"))
        assert verdicts.render(found).count("no margin is given") == times


REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "quick"


@pytest.mark.parametrize("metric", ["depth", "flops", "flops_fraction"])
def test_how_deep_a_stored_network_goes_is_known_by_example(metric: str, tmp_path: Path) -> None:
    """Of a record of schema 1 of a network of uncertain depth, beside one that goes deeper for some examples."""
    (path,) = REFERENCE.glob("digits-stopping_resnet-*.json")
    record = records.read_one(path)
    arrays = records.predictions(path.parent, record)
    kept = evaluation.read(record, arrays)
    assert kept is not None
    again = measure(kept, {metric: catalog.metrics()[metric]})[metric]
    assert again.values == pytest.approx(record.values.metrics[metric].values, rel=1e-12)
    deeper = torch.where(torch.arange(450) < 100, 1.5, 1.0)
    changed = {name: arrays[f"test.{name}"] * deeper for name in ("halted_depth", "flops")}
    ratio = {name: changed[name].double().mean(1) / arrays[f"test.{name}"].double().mean(1) for name in changed}
    metrics = {
        name: replace(entry, values=tuple((ratio[array] * torch.tensor(entry.numbers)).tolist()))
        for name, array in (("depth", "halted_depth"), ("flops", "flops"), ("flops_fraction", "flops"))
        for entry in [record.values.metrics[name]]
    }
    other = replace(record, values=replace(record.values, metrics=record.values.metrics | metrics))
    records.write(tmp_path, other, arrays | {f"test.{name}": value for name, value in changed.items()})
    (found,) = api.compare(path, tmp_path, metrics=[metric]).findings
    assert found.population == "new seeds and new test examples"
    assert float(found.difference.example) > 0
