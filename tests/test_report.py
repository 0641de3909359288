"""The report: what it draws is what the records say, nothing is fetched, and names are text."""

from __future__ import annotations

import copy
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from bdlbench import api, catalog
from bdlbench.core.errors import BadInput
from bdlbench.core.spec import Cell, Choice, Replicate, replicates
from bdlbench.records import evaluation
from bdlbench.records import record as records
from bdlbench.records.contents import Environment, MetricValues, Values
from bdlbench.records.record import Record
from bdlbench.report import commands, evidence, page, plots, tables
from bdlbench.report.evidence import EvidenceSection
from bdlbench.runs import suites
from bdlbench.runs.external_scores import Claim

REFERENCE = Path(__file__).resolve().parents[1] / "results" / "reference" / "quick"
EVIL = '<script>alert(1)</script> "$x$'


def made(seed: int, *shape: int) -> np.ndarray:
    rng = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=rng, dtype=torch.float64)).softmax(-1).numpy()


def scored(folder: Path, method: str, seed: int, samples: int, seeds: tuple[int, ...] = (0, 1)) -> None:
    """A record of two replicates on data with an out-of-distribution set."""
    path = folder.parent / "predictions.npz"
    labels = torch.randint(3, (60,), generator=torch.Generator().manual_seed(0)).numpy()
    np.savez(path, probs=made(seed, samples, 2, 60, 3), labels=labels, **{"ood.far.probs": made(9, samples, 2, 40, 3)})
    said = "" if seeds == (0, 1) else ",".join(map(str, seeds))
    api.score(path, Claim(method, "<i>toy</i>", own_data=True, samples=12, seeds=said), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, one of them with a name that HTML, SVG and TeX might take for code."""
    path = tmp_path_factory.mktemp("report") / "records"
    scored(path, EVIL, 1, 12)
    scored(path, "mine", 2, 1)
    return path


@pytest.fixture(scope="module")
def written(folder: Path) -> Path:
    return page.write(folder, folder.parent / "out").file


@pytest.fixture(scope="module")
def section(folder: Path) -> EvidenceSection:
    (found,) = evidence.sections(evidence.gather(folder))
    return found


class Reader(HTMLParser):
    """Tags, attributes and text, as a browser would take them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


# the page


@pytest.mark.slow
def test_names_are_text_everywhere(written: Path) -> None:
    text = written.read_text()
    read = Reader(text)
    assert "<script" not in text and not {"script", "i", "iframe", "object"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert EVIL in read.text  # in the table
    assert any(EVIL in value for name, value in read.attributes if name == "aria-label")
    drawn = "".join(path.read_text() for path in (written.parent / "figures").glob("*.svg"))
    assert "<script" not in drawn
    texts = [node.text or "" for path in (written.parent / "figures").glob("*.svg")
             for node in ElementTree.parse(path).iter() if node.tag.endswith("}text")]  # fmt: skip
    assert any(EVIL[:20] in line for line in texts)
    assert any("<script>alert(1)</script>" in line for line in read.text if line not in (EVIL,))


@pytest.mark.slow
def test_the_page_needs_nothing_else(written: Path) -> None:
    read = Reader(written.read_text())
    links = [
        value for name, value in read.attributes if name in ("href", "src", "xlink:href", "srcset", "data", "action")
    ]
    assert links and all(value.startswith(("#", "data:")) for value in links)
    assert not re.findall(r"url\((?!#)", written.read_text()) and "@import" not in written.read_text()
    assert any("default-src 'none'" in value for name, value in read.attributes if name == "content")
    assert written.stat().st_size < 3_000_000


def test_it_begins_with_what_is_in_it_and_what_is_told_apart(written: Path) -> None:
    read = Reader(written.read_text())
    words = [line.strip() for line in read.text if line.strip()]
    assert words.count(f"{EVIL} and mine on <i>toy</i>") == 1  # the heading, which is no path
    sentence = next(place for place, line in enumerate(words) if line.startswith("On <i>toy</i>, "))
    assert sentence < words.index("Every seed")


def test_figures_lie_beside_it_as_svg_and_png(written: Path) -> None:
    svgs, pngs = ({path.stem for path in (written.parent / "figures").glob(f"*.{end}")} for end in ("svg", "png"))
    assert svgs == pngs and len(svgs) == written.read_text().count("<svg ")
    ids = re.findall(r'\bid="([^"]+)"', written.read_text())
    assert len(ids) == len(set(ids))


def test_every_plot_that_has_data_is_there_and_the_others_say_why(written: Path) -> None:
    text = written.read_text()
    for title in ("Every seed", "Reliability", "Accuracy against calibration", "Posterior samples", "Risk and coverage",
                  "Out-of-distribution scores", "Out-of-distribution ROC"):  # fmt: skip
        assert f"<h3>{title}</h3>" in text
    (folded,) = re.findall(r"<summary>(.*)</summary>", text)
    assert folded == "Not shown: Under shift, Sparsity by layer, Cost against quality"
    assert "Sparsity by layer: no method states its sparsity." in text
    assert "Cost against quality: fewer than two rows have measured times." in text
    assert "<h3>Sparsity by layer</h3>" not in text


def test_the_table_is_that_of_the_tables(section: EvidenceSection, written: Path) -> None:
    text = Reader(written.read_text()).text
    for row in section.table.rows:
        assert all(entry.text in text for entry in row.entries)
    (mine,) = (row.result for row in section.rows if row.method == "mine")
    half = section.standings["nll"].half_widths[mine.key]
    low, high = mine.scores["nll"].mean - half, mine.scores["nll"].mean + half
    assert f"{low:.1f} … {high:.1f}" in text  # half of it is 1.8: two digits
    assert "<strong>" in written.read_text()


def test_the_same_records_give_the_same_bytes(section: EvidenceSection, tmp_path: Path) -> None:
    def draw() -> tuple[str, bytes, bytes]:
        figure = Figure()
        figure.subplots().plot([1, 2], [3, 4])
        drawing = page.drawing(plots.Panel("a panel", "two & three", figure), "p-", tmp_path)
        return (str(drawing.svg), *((tmp_path / f"{drawing.stem}.{end}").read_bytes() for end in ("svg", "png")))

    first = draw()
    assert draw() == first
    assert 'aria-label="two &amp; three"' in first[0] and "<metadata" not in first[0]


def test_one_colour_for_each_method(folder: Path) -> None:
    colours = plots.colours_of(["b", "a", "b", *"cdefghij", "k"])
    assert len({colours[name] for name in "abcdefghij"}) == 10
    assert colours["k"] == colours["b"]  # the palette comes again


def test_regressions_densities_and_networks_that_stop(tmp_path: Path) -> None:
    for pattern in ("binary_digits-vae-*", "diabetes-*-map-*", "diabetes-*-laplace-*", "digits-stopping_resnet-*"):
        for path in REFERENCE.glob(pattern):
            shutil.copy(path, tmp_path)
    shown = {s.table.title.split()[0]: s for s in evidence.sections(evidence.gather(tmp_path), ["nll"])}
    colours = dict.fromkeys(("mle", "map", "laplace"), "C0")
    found = {name: {plot.title: plot for plot in plots.plots(s, colours)} for name, s in shown.items()}
    drawn = {name: {title for title, plot in table.items() if plot.panels} for name, table in found.items()}
    ood = {"Out-of-distribution scores", "Out-of-distribution ROC"}
    assert drawn["diabetes"] == {"Every seed", "Posterior samples", "Cost against quality"}
    assert drawn["binary_digits"] == {"Every seed", *ood}
    assert drawn["digits"] == {"Every seed", "Reliability", "Risk and coverage", *ood}
    assert all(plot.panels or plot.reason for table in found.values() for plot in table.values())
    names = [panel.name for panel in found["binary_digits"]["Out-of-distribution ROC"].panels]
    assert names == ["roc-density-photos", "roc-likelihood_regret-photos"]


def test_records_without_their_predictions(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.json"):
        shutil.copy(path, tmp_path)
    (section,) = evidence.sections(evidence.gather(tmp_path))
    assert section.notes[1].endswith("per-example predictions are not beside its record")
    titles = {plot.title for plot in plots.plots(section, {EVIL: "C0", "mine": "C1"}) if plot.panels}
    assert titles == {"Every seed", "Accuracy against calibration"}


def test_records_of_one_cell_that_differ_in_samples(tmp_path: Path) -> None:
    """The curves over samples are of the larger M; all else is of every replicate."""
    scored(tmp_path / "r", "mine", 1, 5, seeds=(2, 3))
    scored(tmp_path / "r", "mine", 2, 12, seeds=(0, 1))
    (section,) = evidence.sections(evidence.gather(tmp_path / "r"))
    (row,) = section.rows
    assert section.notes == ("mine: its records differ in M: only those of 12 samples are in the curves over samples",)
    assert (row.samples, len(row.arrays["test.probs"]), len(row.arrays["test.running_class"])) == (12, 4, 2)
    for curves, metric in ((evidence.nll_by_samples, "nll"), (evidence.accuracy_by_samples, "accuracy")):
        frame = curves([row])
        values = row.result.scores[metric].values
        whole = [values[Replicate(seed)] for seed in (0, 1)]
        assert frame[frame["samples"] == 12][metric].tolist() == pytest.approx(whole, abs=1e-6)


def test_bins_count_the_replicates_whose_predictions_are_there(tmp_path: Path, monkeypatch: Any) -> None:
    scored(tmp_path / "r", "mine", 1, 12, seeds=(0, 1))
    scored(tmp_path / "r", "mine", 2, 12, seeds=(2, 3))
    sizes = []
    kept = plots.proportion_interval
    monkeypatch.setattr(plots, "proportion_interval", lambda k, n: sizes.append(float(n.sum())) or kept(k, n))
    for expected in (60, 60):
        (section,) = evidence.sections(evidence.gather(tmp_path / "r"))
        plots.reliability(section, {"mine": "C0"})
        assert sizes.pop() == expected  # the examples of one replicate
        next((tmp_path / "r").glob("*.safetensors")).unlink()


def test_older_records_say_why_accuracy_by_samples_is_not_there(section: EvidenceSection) -> None:
    old = [row.arrays.pop("test.running_class", None) for row in section.rows]  # type: ignore[attr-defined]
    try:
        plot = plots.samples(section, plots.colours_of([EVIL, "mine"]))
        assert [panel.name for panel in plot.panels] == ["samples-nll"]
        assert "run them again" in plot.partly
    finally:
        for row, value in zip(section.rows, old, strict=True):
            if value is not None:
                row.arrays["test.running_class"] = value  # type: ignore[index]


# what is drawn is what the records say


def test_curves_end_at_the_metrics(section: EvidenceSection) -> None:
    row = next(row for row in section.rows if row.method == EVIL)
    scores = {name: list(score.values.values()) for name, score in row.result.scores.items()}
    for curves, metric in ((evidence.nll_by_samples, "nll"), (evidence.accuracy_by_samples, "accuracy")):
        frame = curves(section.rows)
        assert set(frame["label"]) == {row.label} and sorted(set(frame["samples"])) == [2, 4, *range(5, 13)]
        assert frame[frame["samples"] == 12][metric].tolist() == pytest.approx(scores[metric], abs=1e-6)
    probs, y = made(1, 12, 2, 60, 3), row.arrays["test.y"].numpy()
    first = probs[[0, 10]].mean(0)  # the first group holds samples 0 and 10
    expected = [-np.log(first[r, np.arange(60), y[r]]).mean() for r in range(2)]
    frame = evidence.nll_by_samples(section.rows)
    assert frame[frame["samples"] == 2]["nll"].tolist() == pytest.approx(expected, abs=1e-6)
    risk = evidence.risk_curves([row])
    assert risk[risk["coverage"] == 1]["risk"].tolist() == pytest.approx([1 - a for a in scores["accuracy"]])
    roc = evidence.roc_curves([row], "entropy", "far")
    area = [np.trapezoid(own["true_positive_rate"], own["false_positive_rate"]) for _, own in roc.groupby("replicate")]
    assert area == pytest.approx(scores["ood_auroc[far]"], abs=0.01)
    bins = evidence.bins_of(row)
    assert bins is not None and bins.size.sum() == 120


def test_labels_name_the_machine_only_where_they_must() -> None:
    def labels(*rows: tuple[str, ...]) -> list[str]:
        table = tables.Group(
            "toy", ("method", "rate", "device"), (), tuple(tables.TableRow(row, (), "1") for row in rows)
        )
        return evidence.labels_of(table)

    assert labels(("a", "0.1", "cpu"), ("a", "0.2", "cuda"), ("b", "", "cuda")) == ["a 0.1", "a 0.2", "b"]
    assert labels(("a", "0.1", "cpu"), ("a", "0.1", "cuda")) == ["a 0.1 cpu", "a 0.1 cuda"]


def test_samples_of_records_that_do_not_say(section: EvidenceSection) -> None:
    row = next(row for row in section.rows if row.method == EVIL)
    old = Record(row.result.cell, (), Values(), {}, Environment())
    assert evaluation.drawn(old, 0) == 1
    assert evaluation.drawn(old, 5) == 5  # an ensemble of five
    assert evaluation.drawn(old, 10) == 12  # the protocol's
    assert row.samples == 12


# the commands


def cells_asked_for(command: str) -> set[str]:
    """Keys of the cells that a run command names."""
    words = shlex.split(command)[4:]
    given: dict[str, list[str]] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        given.setdefault(name.removeprefix("--"), []).append(value)
    names = (tuple(given["method"]), tuple(given["model"]), tuple(given["dataset"]))
    asked = suites.Overrides(*names, given["seeds"][0], int(given["samples"][0]), tuple(given.get("set", ())), "cpu")
    return {cell.key for cell in suites.build_spec(suites.read_suite("quick"), asked).cells}


def record_of(cell: Cell, seeds: str = "0-1", splits: str = "one") -> Record:
    nll = MetricValues("nats", "lower", "NLL()", (0.1, 0.2))
    return Record(cell, replicates(seeds, splits), Values({"nll": nll}), {}, Environment())


@pytest.fixture
def cells() -> Callable[..., list[Cell]]:
    def of(*settings: str, methods: tuple[str, ...] = ("mle", "deep_ensemble")) -> list[Cell]:
        asked = suites.Overrides(methods, ("mlp",), ("wine",), "2", 7, settings, "cpu")
        return list(suites.build_spec(suites.read_suite("quick"), asked).cells)

    return of


def test_a_whole_suite_is_one_command() -> None:
    spec = suites.build_spec(suites.read_suite("quick"), suites.Overrides(device="cpu"))
    found = [record_of(cell) for cell in spec.cells]
    assert commands.commands(found, Path("a b"), Path("out"))[0] == (
        "python -m bdlbench run quick --seeds 0-1 --device cpu --results 'a b'"
    )


def test_a_suite_whose_replicates_no_word_names() -> None:
    """`--seeds 3`, then `--seeds 3-5 --splits each`: no command of the suite asks for both at once."""
    spec = suites.build_spec(suites.read_suite("smoke"), suites.Overrides(device="cpu"))
    found = [record_of(c, *asked) for c in spec.cells for asked in (("0-1", "one"), ("3-4", "each"))]
    *lines, _ = commands.commands(found, Path("r"), Path("out"))
    assert len(lines) == len(spec.cells) and all(line.startswith("# ") and "--splits" in line for line in lines)


@pytest.mark.parametrize(("splits", "words"), [("each", []), ("one", ["--splits", "one"])])
def test_splits_are_named_where_the_suite_has_others(splits: str, words: list[str]) -> None:
    spec = suites.build_spec(suites.read_suite("semi_supervised"), suites.Overrides(device="cpu"))
    found = [record_of(cell, "1-2", splits) for cell in spec.cells]
    line, _ = commands.commands(found, Path("r"), Path("out"))
    said = ["run", "semi_supervised", "--seeds", "1-2", *words, "--device", "cpu", "--results", "r"]
    assert shlex.split(line)[3:] == said


def test_nothing_is_written_where_the_commands_fail(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*_: Any) -> None:
        raise BadInput("as planned")

    monkeypatch.setattr(commands, "commands", refuse)
    with pytest.raises(BadInput):
        page.write(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_cells_are_asked_for_option_by_option(cells: Callable[..., list[Cell]]) -> None:
    plain, swept = cells("mlp.widths=30-20"), cells("mle.learning_rate=0.1,0.01", "deep_ensemble.members=3")
    found = [record_of(cell) for cell in (*plain, *swept)]
    *runs, last = commands.commands(found, Path("r"), Path("out"))
    assert last == "python -m bdlbench report r --out out"
    asked = [cells_asked_for(line) for line in runs]
    assert set().union(*asked) == {cell.key for cell in (*plain, *swept)}
    assert sum(map(len, asked)) == len(plain) + len(swept)
    assert len(runs) == 3  # the two learning rates of a member cannot share a command; all else is one


def test_a_plugin_is_named(tmp_path: Path, monkeypatch: Any, cells: Callable[..., list[Cell]]) -> None:
    """A cell of an entry that a file has: the command asks for it by that file."""
    for name in ("_plugins", "_plugin_files"):
        monkeypatch.setattr(catalog, name, copy.deepcopy(getattr(catalog, name)))
    plugin = tmp_path / "theirs.py"
    plugin.write_text("from bdlbench.methods.mle import MLE\nmethods = {'theirs': MLE}\n")
    (cell,) = cells(methods=("mle",))
    theirs = Cell(Choice.of("theirs", dict(cell.method.options)), cell.model, cell.dataset, cell.samples)
    lines = commands.commands([record_of(theirs)], Path("r"), Path("out"))
    assert lines[0].startswith("# ") and "--plugin" in lines[0]
    catalog.add_plugin(plugin)
    run, report = commands.commands([record_of(theirs)], Path("r"), Path("out"))
    assert cells_asked_for(run) == {theirs.key}
    for line in (run, report):
        words = shlex.split(line)
        assert words[words.index("--plugin") + 1] == str(plugin)


def test_what_no_command_gives_is_a_comment(cells: Callable[..., list[Cell]]) -> None:
    (cell,) = cells(methods=("mle",))
    strange = Cell(Choice("gone\nrm -rf /"), cell.model, cell.dataset, 7)
    older = Cell(Choice.of("mle", {"epochs": 3}), cell.model, cell.dataset, 7)
    paired = record_of(cell)
    paired = Record(paired.cell, (Replicate(0, 1), Replicate(1, 0)), paired.values, {}, Environment())
    lines = commands.commands([record_of(strange), record_of(older), paired], Path("r"), Path("out"))[:-1]
    assert len(lines) == 3 and all(line.startswith("# ") and "\n" not in line for line in lines)
    assert "not in this catalog" in lines[0] and "no command of this version" in lines[1] and "--splits" in lines[2]
    assert "mle has the new option learning_rate (0.001)" in lines[1] and "epochs" not in lines[1]


def test_an_option_of_another_version_is_named(cells: Callable[..., list[Cell]]) -> None:
    """One that is gone, or new in a method, a model, or a member of an ensemble."""
    (cell,) = cells(methods=("deep_ensemble",))
    protocol, treatment = cell.protocol(), cell.method.as_dict()
    member = {key: value for key, value in treatment["member"].items() if key != "decay"}
    model = {key: value for key, value in protocol["model"].items() if key != "widths"}
    for changed, words in (
        ({"treatment": {**treatment, "member": member}}, "mle has the new option decay (constant)"),
        ({"protocol": {**protocol, "model": model}}, "mlp has the new option widths ("),
        ({"treatment": {**treatment, "bootstrap": True}}, "'bootstrap'"),
    ):
        record = replace(record_of(cell), cell=Cell.from_dict({**cell.as_dict(), **changed}))
        (line, _) = commands.commands([record], Path("r"), Path("out"))
        assert line.startswith("# deep_ensemble · mlp · wine: ") and words in line


def test_scored_files_are_scored_again(folder: Path) -> None:
    lines = commands.commands(records.read(folder), Path("r"), Path("out"))
    assert shlex.split(lines[0]) == [
        "python", "-m", "bdlbench", "score", "predictions.npz", "--method", EVIL, "--dataset", "<i>toy</i>",
        "--own-data", "--model", "external", "--samples", "12", "--splits", "one", "--results", "r",
    ]  # fmt: skip


# the command line


def test_bad_input_is_one_line(folder: Path, tmp_path: Path, refused: Any) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for arguments, names in (
        ([str(tmp_path / "none")], ["none", "exist"]),
        ([str(tmp_path / "empty")], ["empty", "no records"]),
        ([str(folder), "--metrics", "nlll"], ["metric", "nlll", "nll"]),
        ([str(folder), "--out", str(tmp_path / "file")], [f"--out {tmp_path / 'file'}"]),
    ):
        out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
        refused.command(["report", *arguments, *out], *names)
