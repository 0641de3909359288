"""The gate: an untouched tree passes, each kind of change is stopped by the part that is there for it."""

import json
from dataclasses import replace

import pytest

from bdlbench import __main__ as cli
from bdlbench import api, catalog, files, gate, lint, objectives, records, run, speed
from bdlbench.sources import Source
from bdlbench.spec import Replicate

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
    import shutil

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
    from bdlbench.datasets import tables
    from bdlbench.splits import column_statistics, stratified_split

    bunch = __import__("sklearn.datasets").datasets.load_wine()
    test = bunch.data[stratified_split(bunch.target, "wine", 0)[1]]
    monkeypatch.setattr(tables, "column_statistics", lambda table: column_statistics(test))
    run.load_task.cache_clear()
    found = failing(*at_hand)
    run.load_task.cache_clear()
    assert found["a"][0].startswith("data set wine: its inputs are standardised by the statistics of the test data")
    assert any("statistics average_mean" in line for line in found["a"])


def test_an_objective_that_moved(at_hand, monkeypatch):
    other = {**CASE, "temperature": {"divergence": [1.01]}}
    monkeypatch.setattr(objectives, "measure", lambda: {"map · mlp": other})
    assert failing(*at_hand) == {
        "b": ("map · mlp: the factor of its divergence is 1.01/N, was 1/N: kernels/elbo.py, or what it is given",)
    }


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


def side(values, folder):
    """One record without predictions."""
    cell = {"protocol": {"dataset": {"name": "d"}, "model": {"name": "m"}, "samples": 1}, "treatment": {"name": "t"}}
    metric = {"unit": "nats", "better": "lower", "definition": "N()", "values": values}
    replicates = tuple(Replicate(seed) for seed in range(len(values)))
    found = records.Record({**cell, "device": "cpu", "threads": 1}, replicates, {"metrics": {"nll": metric}}, {}, {})
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
    found = gate.regressions(side([0.5, 0.6, 0.7], tmp_path), side(values, tmp_path))
    assert bool(found) == bool(words)
    assert words is None or found[0].startswith(f"t · m · d: {words}")


def test_one_seed_has_no_interval(tmp_path):
    found = gate.regressions(side([0.5], tmp_path), side([0.7], tmp_path))
    assert found == ["t · m · d: nll is worse by 0.2 ± 0, margin 0.02"]  # the margin of this repository


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("tiny", "does not exist"),
        ("objectives.json", "objectives.json does not exist: write the reference with gate --accept"),
        ("speed.json", "speed.json does not exist: write the reference with gate --accept"),
    ],
)
def test_a_reference_that_is_missing_or_truncated(at_hand, capsys, broken, words):
    import shutil

    reference, suite = at_hand
    command = ["gate", "--reference", str(reference), "--config", str(suite)]
    path = reference / broken
    kept = next(path.glob("*.json")) if path.is_dir() else path
    kept.write_text(kept.read_text()[:40])
    assert cli.main(command) == 2
    assert "is not" in (line := capsys.readouterr().err) and "whole" in line and line.count("\n") == 1
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert cli.main(command) == 2
    assert words in capsys.readouterr().err


def test_replicates_that_fail_are_named(at_hand, monkeypatch):
    trained = gate._trained

    def failing_once(asked):
        first, *rest = trained(asked)
        failed = {first.replicates[0]: "parameters or predictions are not finite"}
        return [replace(first, failed=failed), *rest]

    monkeypatch.setattr(gate, "_trained", failing_once)
    assert "map · logistic · wine: seed 0 failed: parameters or predictions are not finite" in failing(*at_hand)["a"]


def test_the_packages_own_suites_say_what_chose_their_options():
    from bdlbench import plan

    for name in plan.suite_names():
        spec = gate._spec(name)
        assert not [finding for finding in lint.of_spec(spec) if finding.severity == "refused"]
    assert {cell.dataset.name for cell in gate._spec("smoke").cells} <= set(catalog.names("datasets"))
