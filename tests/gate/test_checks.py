"""The gate: an untouched tree passes, each kind of change is stopped by the part that is there for it."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bdlbench import api, catalog
from bdlbench.cli import main as cli
from bdlbench.core import files
from bdlbench.core.spec import Cell, Choice, Replicate
from bdlbench.gate import checks, objectives, speed
from bdlbench.records import record as records
from bdlbench.records.contents import Environment, MetricValues, Values
from bdlbench.records.reading import Source
from bdlbench.runs import lint, loading

SUITE = """
seeds = "3"
samples = 2
[[grid]]
methods = ["map", "mean_field_vi"]
models = ["logistic"]
datasets = ["wine"]
[grid.options]
map = { epochs = 2 }
mean_field_vi = { epochs = 2 }
"""

CASE = {"objective": [1.0], "gradient_norm": [2.0], "terms": {}, "temperature": {"divergence": [1.0]}, "local": {}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small suite, and the reference of this tree; what takes long is replaced by numbers."""
    folder = tmp_path_factory.mktemp("gate")
    suite = folder / "tiny.toml"
    suite.write_text(SUITE)
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        changes = api.accept(folder / "reference", suite)
    assert [line.split()[0] for line in changes] == ["added", "added", "objective", "speed"]
    return folder / "reference", suite


def quick(patch):
    patch.setattr(objectives, "measure", lambda: {"map · mlp": CASE})
    patch.setattr(speed, "ratios", lambda: {"map · mlp": 2.0})


@pytest.fixture
def at_hand(made, monkeypatch, tmp_path):
    """A copy of the reference that a test may change, and the suite."""
    quick(monkeypatch)
    shutil.copytree(made[0], tmp_path / "reference")
    return tmp_path / "reference", made[1]


def failing(reference, suite):
    """The failures of each part that failed."""
    return {section.name: section.failures for section in api.gate(reference, suite) if section.failures}


def change(path, **changes):
    """Rewrite a record with a right checksum."""
    body = json.loads(path.read_text())
    body.pop("checksum")
    for name, value in changes.items():
        body[name] = value(body[name])
    path.write_text(json.dumps({**body, "checksum": files.digest(body)}))


def test_bits_are_compared_whichever_part_is_asked_first(at_hand, tmp_path):
    """It was 0 of 0, and ok, where part (a) had not trained the cells."""
    reference, suite = at_hand
    gate = checks.Gate(reference, suite, tmp_path / "results")
    assert checks._bits(gate) == ([], ["2 of 2 cells bit-identical"])


def test_an_untouched_tree_passes_and_nothing_is_to_be_accepted(at_hand, capsys):
    reference, suite = at_hand
    before = {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()}
    assert cli.main(["gate", "--reference", str(reference), "--config", str(suite)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out[:-1]] == [
        "(a) protocol and declared quantities",
        "(b) objectives at a fixed state",
        "(c) bits",
        "(d) quality",
        "(e) speed",
    ]
    assert "2 of 2 cells bit-identical" in out[2]
    assert out[-1] == "gate: passed"
    assert cli.main(["gate", "--accept", "--reference", str(reference), "--config", str(suite)]) == 0
    assert capsys.readouterr().out == "nothing changed\n"
    assert {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_the_tutorial_accepts_and_then_passes(monkeypatch, tmp_path, capsys):
    """Its commands in its order; objectives and speed, which take minutes, are numbers of this file."""
    page = (Path(__file__).parents[2] / "docs" / "tutorials" / "gate-a-pull-request.md").read_text("utf-8")
    (tmp_path / "small.toml").write_text(re.search(r'```toml title="small.toml"\n(.*?)```', page, re.DOTALL)[1])
    quick(monkeypatch)
    monkeypatch.chdir(tmp_path)
    steps = page.partition("<!-- accept -->")[2]
    accept, gate = re.findall(r"^python -m bdlbench (gate .*)$", steps, re.MULTILINE)
    (shown,) = re.findall(r"```text\n(.*?)```", steps, re.DOTALL)
    assert cli.main(shlex.split(accept)) == 0
    assert capsys.readouterr().out.startswith(shown)
    assert cli.main(shlex.split(gate)) == 0
    assert capsys.readouterr().out.splitlines()[-1] in steps.partition("last line is `")[2]


def test_results_are_kept_where_asked_for(at_hand, tmp_path):
    reference, suite = at_hand
    assert (
        cli.main(["gate", "--reference", str(reference), "--config", str(suite), "--results", str(tmp_path / "new")])
        == 0
    )
    assert len(records.read(tmp_path / "new")) == 2


def test_a_kl_that_is_too_heavy_by_one_per_cent(at_hand, monkeypatch):
    from bdlbench.kernels.elbo import negative_elbo
    from bdlbench.posteriors import fitting

    monkeypatch.setattr(fitting, "negative_elbo", lambda elbo, kl, n: negative_elbo(elbo, 1.01 * kl, n))
    found = failing(*at_hand)
    assert found["a"] == ("map · logistic · wine: effective temperature of its divergence is 1.01, was 1",)
    assert len(found["c"]) == 1 and found["c"][0].startswith("map · logistic · wine: other bits in ")


def test_statistics_of_the_test_set(at_hand, monkeypatch):
    from bdlbench.data import classification
    from bdlbench.data.splits import column_statistics, stratified_split

    bunch = __import__("sklearn.datasets").datasets.load_wine()
    test = bunch.data[stratified_split(bunch.target, "wine", 0)[1]]
    monkeypatch.setattr(classification, "column_statistics", lambda table: column_statistics(test))
    loading.forget()
    found = failing(*at_hand)
    loading.forget()
    assert found["a"][0].startswith("data set wine: its inputs are standardised by the statistics of the test data")
    assert any("statistics average_mean" in line for line in found["a"])


def test_an_objective_that_moved(at_hand, monkeypatch):
    other = {**CASE, "temperature": {"divergence": [1.01]}}
    monkeypatch.setattr(objectives, "measure", lambda: {"map · mlp": other})
    assert failing(*at_hand) == {
        "b": ("map · mlp: the factor of its divergence is 1.01/N, was 1/N: kernels/elbo.py, or what it is given",)
    }


def test_ratios_that_one_side_lacks(at_hand, monkeypatch):
    monkeypatch.setattr(speed, "ratios", lambda: {"mle · mlp": 2.6})
    assert failing(*at_hand)["e"] == ("map · mlp: no such ratio any more", "mle · mlp: not in the reference")


def test_a_step_that_is_slower(at_hand, monkeypatch):
    monkeypatch.setattr(speed, "ratios", lambda: {"map · mlp": 2.6})
    (line,) = failing(*at_hand)["e"]
    assert line == "the step of map · mlp takes 1.30 times what it took, as a ratio to a plain torch step"


def test_another_environment_is_not_held_to_bits_nor_to_close_ratios(at_hand, monkeypatch):
    reference, suite = at_hand
    for path in (reference / "tiny").glob("*.json"):
        change(path, environment=lambda e: {**e, "processor": "another"}, predictions=lambda p: p)
    stored = json.loads((reference / "speed.json").read_text())
    stored["environment"]["processor"] = "another"
    (reference / "speed.json").write_text(json.dumps(stored))
    monkeypatch.setattr(speed, "ratios", lambda: {"map · mlp": 2.6})
    sections = {section.name: section for section in api.gate(reference, suite)}
    assert not any(section.failures for section in sections.values())
    assert sections["c"].notes[0].startswith("not compared: processor: ")
    assert "another processor or torch" in sections["e"].notes[0]


def test_cells_and_definitions_that_differ_from_the_reference(at_hand, tmp_path):
    reference, suite = at_hand
    other = tmp_path / "tiny.toml"
    other.write_text(suite.read_text().replace("map = { epochs = 2 }", "map = { epochs = 3 }").replace('"3"', '"4"'))
    path = next((reference / "tiny").glob("*mean_field*.json"))

    def redefined(values):
        nll = {**values["metrics"]["nll"], "definition": "NLL(bits)"}
        return {**values, "metrics": {**values["metrics"], "nll": nll, "gone": nll}}

    change(path, values=redefined)
    lines = failing(reference, other)["a"]
    assert "tiny: map · logistic · wine: not in the reference: epochs differ" in lines
    assert "tiny: map · logistic · wine: in the reference, but no longer in the suite" in lines
    assert "tiny: mean_field_vi · logistic · wine: the reference lacks seeds 3" in lines
    assert any("metric nll: its definition is" in line and "was NLL(bits)" in line for line in lines)
    assert "tiny: mean_field_vi · logistic · wine: metric gone does not exist any more" in lines


def side(values, folder, column="nll", dataset="d"):
    """One record without predictions."""
    cell = Cell(Choice("t"), Choice("m"), Choice(dataset), 1)
    metric = MetricValues("nats", "lower", "N()", tuple(values))
    replicates = tuple(Replicate(seed) for seed in range(len(values)))
    found = records.Record(cell, replicates, Values({column: metric}), {}, Environment())
    return Source(((folder, found),))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.5, 0.6, 0.7], None),
        ([0.51, 0.61, 0.71], None),  # within the margin
        ([0.7, 0.8, 0.9], "nll is worse by 0.2 ± "),
        ([0.1, 0.6, 1.4], None),  # the interval is wide
        ([0.5, None, None], "nll is not finite for seeds 1, 2"),
        ([0.3, 0.4, 0.5], None),  # better
    ],
)
def test_a_regression_is_a_whole_interval_beyond_the_margin(values, words, tmp_path):
    found = checks.regressions(side([0.5, 0.6, 0.7], tmp_path), side(values, tmp_path))
    assert bool(found) == bool(words)
    assert words is None or found[0].startswith(f"t · m · d: {words}")


def test_one_seed_has_no_interval(tmp_path):
    found = checks.regressions(side([0.5], tmp_path), side([0.7], tmp_path))
    assert found == ["t · m · d: nll is worse by 0.2 ± 0, margin 0.02"]  # the margin of this repository


@pytest.mark.parametrize(
    ("broken", "names"),
    [
        ("tiny", ["tiny", "exist"]),
        ("objectives.json", ["objectives.json", "exist", "--accept"]),
        ("speed.json", ["speed.json", "exist", "--accept"]),
    ],
)
def test_a_reference_that_is_missing_or_truncated(at_hand, refused, broken, names):
    reference, suite = at_hand
    command = ["gate", "--reference", str(reference), "--config", str(suite)]
    path = reference / broken
    kept = next(path.glob("*.json")) if path.is_dir() else path
    kept.write_text(kept.read_text()[:40])
    refused.command(command, kept.name, "whole")
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused.command(command, *names)


OTHER = [
    ("speed.json", "{}"),
    ("speed.json", '{"environment": {}, "ratios": {"map": "fast"}}'),
    ("objectives.json", '{"map · mlp": {}}'),
    ("objectives.json", "[1]"),
]


@pytest.mark.parametrize(("name", "content"), OTHER)
def test_a_reference_of_another_shape(at_hand, refused, name, content):
    reference, suite = at_hand
    (reference / name).write_text(content)
    refused.command(["gate", "--reference", reference, "--config", suite], name, "whole")


def test_accept_mends_what_cannot_be_read(at_hand):
    reference, suite = at_hand
    before = {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()}
    broken = [reference / "speed.json", reference / "objectives.json", *(reference / "tiny").iterdir()]
    for path in broken:
        path.write_text("{")
    (reference / "tiny" / "stray.json").write_text("{")
    assert [line.split()[0] for line in api.accept(reference, suite)] == ["added", "added", "objective", "speed"]
    after = {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert failing(reference, suite) == {}


def test_accept_writes_nothing_before_all_is_measured(at_hand, monkeypatch):
    reference, suite = at_hand
    before = {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()}
    monkeypatch.setattr(checks, "_changed", lambda old, new: "everything")

    def broken():
        raise ZeroDivisionError

    monkeypatch.setattr(speed, "ratios", broken)
    with pytest.raises(ZeroDivisionError):
        api.accept(reference, suite)
    assert {path: path.read_bytes() for path in reference.rglob("*") if path.is_file()} == before


def fail_at(patch, step):
    """The chosen one of all steps that touch the reference's folders raises SystemError; the list of those taken."""
    taken = []

    def counted(owner, name):
        real = getattr(owner, name)

        def touch(*args, **kwargs):
            taken.append(name)
            if len(taken) == step:
                raise SystemError(name)
            return real(*args, **kwargs)

        patch.setattr(owner, name, touch)

    for owner, name in ((Path, "mkdir"), (files, "write_atomic"), (Path, "rename"), (shutil, "rmtree")):
        counted(owner, name)
    return taken


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} if folder.exists() else None


@pytest.mark.parametrize("killed", [False, True], ids=["an error", "a kill"])
def test_old_or_new_records_are_whole_whichever_step_of_accept_fails(at_hand, tmp_path, monkeypatch, killed):
    """Between two renames the old ones lay in a temporary folder, and were lost with it where the second one failed."""
    reference, suite = at_hand
    for path in (reference / "tiny").glob("*.json"):
        change(path, environment=lambda e: {**e, "processor": "another"})
    gate = checks.Gate(reference, suite, tmp_path / "results")
    assert len(gate.made) == 2  # trained before any step fails
    shutil.copytree(reference / "tiny", tmp_path / "old")
    old, new = contents(tmp_path / "old"), contents(gate.results)
    assert old.keys() == new.keys() and old != new
    found = set()
    for step in range(1, 99):
        with monkeypatch.context() as patch:
            if killed:  # nothing of the process runs any more
                patch.setattr(checks, "_recover", lambda gate: None)
            taken = fail_at(patch, step)
            try:
                checks._replace_records(gate)
            except SystemError:
                failed = True
            else:
                failed = False
        here, aside = contents(reference / "tiny"), contents(gate.aside)
        found.add(
            "new" if here == new else "old" if here == old else "aside" if (here, aside) == (None, old) else taken[-1]
        )
        checks._recover(gate)
        assert contents(reference / "tiny") in (old, new)
        assert not gate.aside.exists() and not gate.fresh.exists()
        if not failed:
            break
        shutil.rmtree(reference / "tiny")
        shutil.copytree(tmp_path / "old", reference / "tiny")
    assert step > 7  # the folder, four files, two renames; and what is removed
    assert found == ({"old", "aside", "new"} if killed else {"old", "new"})
    assert contents(reference / "tiny") == new


def test_accept_takes_no_name_of_the_package_and_nothing_that_failed(at_hand, tmp_path, monkeypatch, refused):
    reference, suite = at_hand
    (tmp_path / "quick.toml").write_text(suite.read_text())
    with refused("quick.toml", "quick", "package"):
        api.accept(reference, tmp_path / "quick.toml")
    first, second = records.read(reference / "tiny")
    nll = replace(first.values.metrics["nll"], values=(None,))
    lost = replace(first, values=replace(first.values, metrics={"nll": nll}))
    failed = replace(first, failed={Replicate(7): "boom"})
    for broken, names in ((lost, ["metric nll", "finite"]), (failed, ["seed 7", "boom"])):
        monkeypatch.setattr(checks, "_trained", lambda asked, broken=broken: [broken, second])
        with refused("map · logistic · wine", *names):
            api.accept(reference, suite)


def test_accept_of_another_environment_alone(at_hand):
    reference, suite = at_hand
    for path in (reference / "tiny").glob("*.json"):
        change(path, environment=lambda e: {**e, "processor": "another"})
    (line,) = api.accept(reference, suite)
    assert line.startswith("processor: ") and line.endswith("another in the reference")
    assert "2 of 2 cells bit-identical" in api.gate(reference, suite)[2].notes


def test_old_records_in_the_results_folder_do_not_count(at_hand, tmp_path):
    reference, suite = at_hand
    shutil.copytree(reference / "tiny", tmp_path / "new")
    for path in (tmp_path / "new").glob("*.json"):  # as if other seeds had been run: far worse
        body = json.loads(path.read_text())
        nll = {**body["values"]["metrics"]["nll"], "values": [9.0, 9.1, 9.2]}
        metrics = {**body["values"]["metrics"], "nll": nll}
        moved = [{"seed": seed, "split": 0} for seed in (7, 8, 9)]
        change(path, values=lambda v, m=metrics: {**v, "metrics": m}, replicates=lambda r, m=moved: m)
        path.rename(path.with_name("old-" + path.name))
    found = api.gate(reference, suite, tmp_path / "new")
    assert not any(section.failures for section in found)


def test_what_the_lint_flags_is_a_note(at_hand, monkeypatch):
    monkeypatch.setattr(
        lint, "of_spec", lambda spec: [lint.Fault("flagged", "x", "few"), lint.Fault("refused", "x", "bad")]
    )
    monkeypatch.setattr(lint, "of_record", lambda title, record: [lint.Fault("flagged", title, "hot")])
    section = api.gate(*at_hand)[0]
    assert section.failures == ("tiny: bad",)
    assert set(section.notes) == {"flagged: tiny: few"} | {
        f"flagged: {name} · logistic · wine: hot" for name in ("map", "mean_field_vi")
    }


def test_margins_of_the_project_choose_what_is_compared(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("[tool.bdlbench.gate.margins]\nood_auroc = 0.05\n")
    monkeypatch.chdir(tmp_path)
    sides = [side([0.5, 0.5, 0.5], tmp_path, "ood_auroc[far]"), side([0.75, 0.75, 0.75], tmp_path, "ood_auroc[far]")]
    (line,) = checks.regressions(*sides)
    assert line.startswith("t · m · d: ood_auroc[far] is worse by 0.25 ± ") and line.endswith("margin 0.05")
    (tmp_path / "pyproject.toml").write_text("")
    assert checks.regressions(*sides) == []
    other = Source((*sides[1].entries, *side([0.5] * 3, tmp_path, "nll", "only here").entries))
    assert checks.regressions(side([0.1] * 3, tmp_path, "nll"), other) == []


def test_predictions_that_cannot_be_read_are_a_failure(at_hand):
    reference, suite = at_hand
    next((reference / "tiny").glob("*.safetensors")).write_text("altered")
    (line,) = failing(reference, suite)["d"]
    assert line.startswith("not comparable: ") and "is not the file that its record names" in line


def test_replicates_that_fail_are_named(at_hand, monkeypatch):
    trained = checks._trained

    def failing_once(asked):
        first, *rest = trained(asked)
        failed = {first.replicates[0]: "parameters or predictions are not finite"}
        return [replace(first, failed=failed), *rest]

    monkeypatch.setattr(checks, "_trained", failing_once)
    assert "map · logistic · wine: seed 0 failed: parameters or predictions are not finite" in failing(*at_hand)["a"]


def test_the_packages_own_suites_say_what_chose_their_options():
    from bdlbench.runs import suites

    for name in suites.suite_names():
        spec = checks._spec(name)
        assert not [finding for finding in lint.of_spec(spec) if finding.severity == "refused"]
    assert {cell.dataset.name for cell in checks._spec("smoke").cells} <= set(catalog.names("datasets"))
