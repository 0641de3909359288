"""Records held against what this tree makes of them: the same bits, rounding, or something else, and why."""

import json
import math
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch

from bdlbench import api, catalog
from bdlbench.cli import main as cli
from bdlbench.core import files
from bdlbench.core.errors import Diverged
from bdlbench.core.spec import Choice
from bdlbench.core.streams import Streams
from bdlbench.gate import verify
from bdlbench.gate.contracts import own_methods
from bdlbench.methods import mean_field_vi
from bdlbench.posteriors import fitting
from bdlbench.records import evaluation
from bdlbench.records import record as records
from bdlbench.records.arrays import row_axis
from bdlbench.records.contents import Values
from bdlbench.runs import batch as run
from bdlbench.runs import scoring
from bdlbench.training.loop import begin, last, minimise
from bdlbench.training.plan import Plan

pytestmark = pytest.mark.slow

METHODS = [name for name in own_methods() if name not in ("exact", "ols")]
WRAPPING = ("deep_ensemble", "multiswag", "active", "sequential", "temperature_scaling")
QUICK = {name: 6 for name in METHODS if name not in (*WRAPPING, "hmc")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every method on one small problem, parameters kept."""
    path = tmp_path_factory.mktemp("verified")
    spec = {"methods": METHODS, "models": ["mlp"], "datasets": ["wine"], "seeds": "3", "samples": 4}
    settings = {f"{name}.epochs": epochs for name, epochs in QUICK.items()} | {"mlp.widths": "5"}
    settings |= {
        "hmc.chains": 2,
        "hmc.warmup_draws": 8,
        "hmc.draws": 4,
        "active.start": 128,
        "active.step": 2,
        "active.rounds": 2,
        "sequential.chunks": 1,
        "temperature_scaling.held_out": 0.01,
    }  # two batches of 64, as all 133 examples are
    api.run(suite_of(tmp_path_factory), results=path, settings=settings, keep_parameters=True, **spec)
    return path


def suite_of(factory):
    path = factory.mktemp("suite") / "all.toml"
    path.write_text(f'[[grid]]\nmethods = {json.dumps(METHODS)}\nmodels = ["mlp"]\ndatasets = ["wine"]\n')
    return path


def record_of(folder, method):
    return next(r for r in records.read(folder) if r.cell.method.name == method)


def altered(record, column, **changes):
    """The record with something else in the first row of a column of values."""
    first, *rest = getattr(record.values, column)
    return replace(record, values=replace(record.values, **{column: (replace(first, **changes), *rest)}))


@pytest.mark.parametrize("method", METHODS)
def test_a_record_of_this_place_has_the_same_bits(folder, method):
    found = verify.verify(folder, record_of(folder, method))
    assert [(part.name, part.verdict) for part in found.parts] == [
        ("stored predictions", "identical"),
        ("data", "identical"),
        ("first 12 steps", "identical"),
        ("predictions", "identical"),
    ]
    assert (found.verdict, found.elsewhere, found.findings) == ("identical", (), ())


def test_the_whole_cell_has_the_same_bits(folder):
    found = verify.verify(folder, record_of(folder, "mean_field_vi"), full=True)
    assert [(part.name, part.verdict) for part in found.parts] == [
        ("stored predictions", "identical"),
        ("whole cell", "identical"),
    ]
    assert found.temperature == "T = 1"


def test_rounding_is_noise_and_more_is_not(folder):
    record = record_of(folder, "mean_field_vi")
    row = record.values.first_steps[0]
    rounded = altered(record, "first_steps", sha256="another", loss=(row.loss[0] * (1 + 1e-7),))
    assert verify.verify(folder, rounded).verdict == "noise"
    wrong = altered(record, "first_steps", sha256="another", loss=(row.loss[0] * 1.01,))
    found = verify.verify(folder, wrong)
    assert found.verdict == "different"
    assert "loss off by" in found.parts[2].detail and "rounding makes" in found.parts[2].detail
    lost = altered(record, "first_steps", sha256="another", loss=(None,))
    assert verify.verify(folder, lost).verdict == "different"


def test_a_metric_that_is_another_is_different(folder):
    record = record_of(folder, "mle")
    nll = record.values.metrics["nll"]
    worse = replace(nll, values=tuple(value + 0.1 for value in nll.values))
    values = replace(record.values, metrics={**record.values.metrics, "nll": worse})
    found = verify.verify(folder, replace(record, values=values), full=True)
    assert found.verdict == "different"
    assert any(part.name == "metrics" and "nll off by 0.1" in part.detail for part in found.parts)


def test_what_differs_here_is_named_most_likely_first(folder):
    record = record_of(folder, "mle")
    environment = replace(
        record.environment,
        packages={**record.environment.packages, "torch": "2.0.1", "scipy": "1.0"},
        commit="f" * 40,
        sources={"scikit-learn wine": "0" * 64},
        threads=2,
    )
    found = verify.verify(folder, replace(record, environment=environment, cost={**record.cost, "rows": 9.0}))
    names = [line.split(":")[0] for line in found.elsewhere]
    assert names == ["the data", "torch", "threads", "commit", "rows of its batch", "scipy"]
    assert f"torch: {metadata.version('torch')} here, was 2.0.1" in found.elsewhere
    assert (found.verdict, found.parts[1].detail) == ("different", "sources scikit-learn wine")


def test_other_threads_are_named(folder):
    found = verify.verify(folder, record_of(folder, "mle"), threads=2)
    assert found.elsewhere == ("threads: 2 here, was 1",)


def test_what_cannot_be_checked_says_why(folder):
    record = record_of(folder, "mle")
    gone = replace(record, cell=replace(record.cell, method=Choice("mlee")), predictions="")
    found = verify.verify(folder, gone)
    assert (found.verdict, found.parts[0].detail) == ("unchecked", "unknown method 'mlee': did you mean 'mle'?")
    old = replace(record, values=replace(record.values, first_steps=()))
    cheap = verify.verify(folder, old)
    assert [part.name for part in cheap.parts] == ["stored predictions", "data", "whole cell"]
    slow = verify.verify(folder, replace(old, cost={"train_seconds": 1e4}))
    assert (slow.parts[2].verdict, "--full" in slow.parts[2].detail) == ("unchecked", True)
    assert (slow.verdict, slow.checked) == (
        "unchecked",
        ("stored predictions", "data", "predictions"),
    )  # never identical by its data alone
    failed = replace(record, replicates=(), failed=dict.fromkeys(record.replicates, "boom"))
    assert (verify.verify(folder, failed).verdict, verify.verify(folder, failed).failed) == ("unchecked", 3)


def test_predictions_made_elsewhere_are_not_checked(folder):
    record = record_of(folder, "mle")
    scored = replace(record, cell=replace(record.cell, device="elsewhere"), cost={}, predictions="")
    found = verify.verify(folder, scored)
    assert [(part.name, part.verdict) for part in found.parts] == [("predictions made elsewhere", "unchecked")]


def test_an_error_in_one_record_is_a_part_of_its_check(folder, tmp_path, capsys, monkeypatch):
    for path in [*folder.glob("*-mle-*"), *folder.glob("*-map-*.json")]:  # the latter without its predictions
        shutil.copy(path, tmp_path)
    assert cli.main(["verify", "--full", str(tmp_path)]) == 4
    out = capsys.readouterr().out
    assert "not checked: map · mlp · wine (3 replicates): stored predictions" in out
    assert "is missing: the record beside it names it" in out
    assert "bit-identical: mle · mlp · wine (3 replicates): stored predictions, whole cell" in out

    def diverging(batch, steps, nudge=verify.unchanged):
        raise Diverged("the loss is not finite in any replicate")

    monkeypatch.setattr(verify, "fingerprint", diverging)
    found = verify.verify(folder, record_of(folder, "mle"))
    assert (found.verdict, found.parts[-1].detail) == ("different", "the loss is not finite in any replicate")


def test_a_nudged_twin_that_fails_shows_no_noise(folder, monkeypatch):
    record = record_of(folder, "mle")
    plain = verify.fingerprint

    def failing(batch, steps, nudge=verify.unchanged):
        if nudge is not verify.unchanged:
            raise Diverged("the twin")
        return plain(batch, steps)

    monkeypatch.setattr(verify, "fingerprint", failing)
    loss = record.values.first_steps[0].loss
    rounded = altered(record, "first_steps", sha256="another", loss=(loss[0] * (1 + 1e-7),))
    assert verify.verify(folder, rounded).verdict == "noise"
    wrong = altered(record, "first_steps", sha256="another", loss=(loss[0] * (1 + 1e-3),))
    assert verify.verify(folder, wrong).verdict == "different"


def test_verdicts_where_numbers_are_absent():
    one, off, lost = (torch.tensor([value], dtype=torch.float64) for value in (1.0, 1.5, math.nan))
    assert verify._judged("metrics", {}, {}, []).verdict == "unchecked"
    for twins in ([], [{}], [{"nll": lost}], [{"nll": torch.zeros(2, dtype=torch.float64)}]):
        assert verify._judged("metrics", {"nll": one}, {"nll": one}, twins).verdict == "noise"
        assert verify._judged("metrics", {"nll": one}, {"nll": off}, twins).verdict == "different"


def test_twins_are_asked_until_they_explain_the_difference():
    one, off = (torch.tensor([value], dtype=torch.float64) for value in (1.0, 1.5))
    asked = []

    def twins(*values):
        for value in values:
            asked.append(value)
            yield {"loss": torch.tensor([value], dtype=torch.float64)}

    assert verify._judged("steps", {"loss": one}, {"loss": off}, twins(1.5, 1.49, 1.2, 1.0)).verdict == "noise"
    assert asked == [1.5, 1.49, 1.2]  # 3 · 0.3 > 0.5
    assert verify._judged("steps", {"loss": one}, {"loss": off}, twins(1.5, 1.49, 1.4)).verdict == "different"


def test_a_statistic_is_the_same_to_rounding_and_a_checksum_exactly(folder):
    assert verify.same_statistic(0.3, 0.1 + 0.2)
    assert not verify.same_statistic(0.3, 0.3 + 1e-9)
    assert not verify.same_statistic("a", None)
    record = record_of(folder, "mle")
    rounded = {name: value * (1 + 1e-15) for name, value in record.environment.statistics.items()}
    found = verify.verify(folder, replace(record, environment=replace(record.environment, statistics=rounded)))
    assert found.parts[1] == ("data", "identical", "")


def test_parameters_that_are_not_the_records(folder):
    record = record_of(folder, "map")
    hashes = ("0" * 64, *record.values.parameters_sha256[1:])
    found = verify.verify(folder, replace(record, values=replace(record.values, parameters_sha256=hashes)))
    assert found.verdict == "different"
    assert ("kept parameters", "different") in [(part.name, part.verdict) for part in found.parts]


def test_rounding_is_relative_and_afresh_for_every_twin_and_step():
    values = torch.tensor([1e-3, 1.0, -30.0]).repeat(4, 1000)
    errors = [(verify.rounding(twin)(values, step) / values - 1) for twin, step in ((0, 0), (0, 1), (1, 0))]
    for error in errors:
        assert error.std() == pytest.approx(verify.SPREAD, rel=0.05)
    assert (torch.corrcoef(torch.stack([error.flatten() for error in errors])) - torch.eye(3)).abs().max() < 0.05
    assert torch.equal(verify.rounding(0)(torch.tensor([0.0, -0.0]), 5), torch.zeros(2))  # what is 0 stays 0
    assert torch.equal(verify.rounding(0)(torch.tensor([1, 2]), 0), torch.tensor([1, 2]))


def test_a_gradient_that_is_rounding_alone_becomes_a_step_of_another_sign(folder):
    """Adam makes a whole step of it, at an optimum for one; a difference of this kind between machines is noise."""

    def loss(flat, batch, noise, moment):
        return (flat - torch.tensor([0.1, 0.2, 0.3, 0.6])).square().sum(1)

    data = run.build(verify.batch_of(record_of(folder, "mle"))).problem.train
    rng, optimum = Streams.of_seeds([0, 1, 2]), torch.full((3, 1), 0.3)
    ends = []
    for twin in range(8):
        fits, _ = begin(lambda: last(minimise(loss, optimum, data, rng, Plan(1, 64, 0.1))), 1, verify.rounding(twin))
        ends.append(float(fits[0].state.flat[0]))
    assert {0.2, 0.4} <= {round(end, 2) for end in ends}


@pytest.mark.parametrize("method", ["map", "mean_field_vi", "mc_dropout", "dropconnect"])
def test_one_per_cent_of_a_kl_weight_is_not_rounding_and_another_machine_is(folder, method, monkeypatch):
    record = record_of(folder, method)
    batch = verify.batch_of(record)
    steps = record.values.first_steps[0].steps
    for machine in range(100, 103):  # whose gradients are rounded in another order
        there = verify.fingerprint(batch, steps, verify.rounding(machine))
        assert (
            verify.verify(folder, replace(record, values=replace(record.values, first_steps=there))).verdict == "noise"
        )
    right = fitting.negative_elbo
    for module in (fitting, mean_field_vi):
        monkeypatch.setattr(module, "negative_elbo", lambda elbo, kl, num_data: right(elbo, 1.01 * kl, num_data))
    assert verify.verify(folder, record).verdict == "different"


def test_the_fingerprint_is_of_rows_that_do_not_depend_on_each_other(folder):
    batch = verify.batch_of(record_of(folder, "sparse_vd"))
    together = verify.fingerprint(batch, 5)
    alone = verify.fingerprint(run.Batch(batch.rows[1:2]), 5)
    assert together[1:2] == alone
    assert together[0].sha256 != together[1].sha256


def test_a_fingerprint_survives_a_checkpoint(folder, tmp_path):
    from bdlbench.training.loop import Session, session

    class Stopped(Exception):
        pass

    def stop(done, total):
        if done == 11:
            raise Stopped

    batch = verify.batch_of(record_of(folder, "mean_field_vi"))
    problem, model, method = run.build(batch)

    def fit(listen, mark=4):
        with session(Session(tmp_path / "fit", 0.0, listen, mark=mark)) as current:
            method.fit(model, problem.train, Streams.of_seeds([row.replicate.seed for row in batch.rows]))
        return current

    with pytest.raises(Stopped):
        fit(stop)
    resumed = fit(lambda done, total: None)
    assert scoring.first_steps(resumed.fits, 3) == verify.fingerprint(batch, 4)


def test_where_no_twin_shows_anything_half_the_digits_are_allowed():
    """A closed form: nothing is minimised, so nothing is rounded, and one per cent is not rounding."""
    one = torch.tensor([1.0], dtype=torch.float64)
    for factor, verdict in ((1 + 1e-4, "noise"), (1.005, "different")):
        sides = {"rmse": one}, {"rmse": one * factor}
        assert verify._judged("metrics", *sides, [{"rmse": one * factor}], verify.LARGE_CHANGE).verdict == verdict
    moved = {"accuracy": one, "nll": one}, {"accuracy": one * 1.005, "nll": one}, [{"nll": one * 1.1}]
    assert verify._judged("metrics", *moved, verify.LARGE_CHANGE).verdict == "noise"


# the command


def test_verify_on_the_command_line(folder, tmp_path, capsys):
    assert cli.main(["verify", str(folder)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert f"{len(METHODS)} bit-identical" in out
    assert any(
        line.startswith("bit-identical: sparse_vd · mlp · wine (3 replicates): stored predictions, data, ")
        for line in out
    )
    assert any("T = 1 after a ramp of 20 % of training" in line for line in out)
    assert f"checked, by records: {len(METHODS)}: stored predictions, data, first 12 steps, predictions" in out
    one = next(folder.glob("wine-mlp-mle-*.json"))
    assert cli.main(["verify", str(one), "--threads", "2"]) == 0
    assert "differs from the records': threads: 2 here, was 1" in capsys.readouterr().out


def test_a_difference_ends_with_exit_code_1_and_its_reason(folder, tmp_path, capsys):
    source = next(folder.glob("wine-mlp-map-*.json"))
    body = json.loads(source.read_text())
    body.pop("checksum")
    body["values"]["first_steps"][0] |= {"sha256": "0", "loss": [9.0]}
    body["environment"]["packages"]["torch"] = "1.0"
    path = tmp_path / source.name
    path.write_text(json.dumps({**body, "checksum": files.digest(body)}))
    assert cli.main(["verify", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "DIFFERENT: map · mlp · wine (3 replicates): first 12 steps" in out
    assert f"most likely because of torch: {metadata.version('torch')} here, was 1.0" in out


def test_a_method_with_a_loop_of_its_own_is_not_called_identical_unchecked(folder, tmp_path, capsys):
    """Nothing was minimised, and a whole re-run is not cheap: exit code 4, until --full runs it."""
    source = next(folder.glob("wine-mlp-map-*.json"))
    for path in folder.glob(f"{source.stem}*"):
        shutil.copy(path, tmp_path)
    body = json.loads(source.read_text())
    body.pop("checksum")
    body["values"].pop("first_steps")
    body["cost"]["train_seconds"] = 1e4
    (tmp_path / source.name).write_text(json.dumps({**body, "checksum": files.digest(body)}))
    assert cli.main(["verify", str(tmp_path)]) == 4
    out = capsys.readouterr().out
    assert "not checked: map · mlp · wine (3 replicates): training" in out
    assert "1 not checked" in out and "bit-identical" not in out.splitlines()[-3]
    assert cli.main(["verify", "--full", str(tmp_path)]) == 0
    assert "checked, by records: 1: stored predictions, whole cell" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (None, ["no records"]),
        ("{", ["no records"]),  # no name and no content of one
        ('{"cell": {"protocol": {', ["a.json", "whole", "damaged"]),
        ('{"schema": 99}', ["a.json", "schema 99"]),
    ],
)
def test_folders_that_cannot_be_read(tmp_path, refused, content, names):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    refused.command(["verify", tmp_path], *names)
    refused.command(["verify", tmp_path / "nowhere"], tmp_path / "nowhere", "exist")
    refused.command(["verify", tmp_path, "--threads", "-1"], "--threads")


def test_failed_replicates_end_with_exit_code_4(folder, tmp_path, capsys):
    record = record_of(folder, "mle")
    records.write(
        tmp_path,
        replace(record, replicates=(), values=Values(), failed=dict.fromkeys(record.replicates, "boom")),
        {},
    )
    assert cli.main(["verify", str(tmp_path)]) == 4
    assert "not checked: mle · mlp · wine (0 replicates, 3 failed)" in capsys.readouterr().out


# what lies beside a record


def copied(folder, place, method):
    """One record in a folder of its own, with its files."""
    (source,) = folder.glob(f"wine-mlp-{method}-*.json")
    for path in [source, source.with_suffix(".safetensors"), folder / "parameters" / f"{source.stem}.safetensors"]:
        (place / path.relative_to(folder)).parent.mkdir(exist_ok=True)
        shutil.copy(path, place / path.relative_to(folder))
    return place / source.name


def one_bit(content):
    return content[:-9] + bytes([content[-9] ^ 4]) + content[-8:]


DAMAGES = {
    "a bit": one_bit,
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0",
    "another file": lambda content: b"PK" + bytes(len(content)),
    "its header": lambda content: content[:9] + b"?" + content[10:],
}


@pytest.mark.parametrize("which", ["predictions", "parameters"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_beside_a_record_is_different_and_the_other_records_are_checked(folder, tmp_path, capsys, which, damage):
    record = copied(folder, tmp_path, "map")
    copied(folder, tmp_path, "mle")
    file = record.with_suffix(".safetensors")
    file = file if which == "predictions" else tmp_path / "parameters" / file.name
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    for options in ([], ["--full"]):
        assert cli.main(["verify", str(tmp_path), *options]) == 1
        out = capsys.readouterr().out
        name = "stored predictions" if which == "predictions" else "kept parameters"
        assert f"DIFFERENT: map · mlp · wine (3 replicates): {name}" in out
        assert "bit-identical: mle · mlp · wine" in out


def test_what_is_gone_is_not_checked(folder, tmp_path, capsys):
    copied(folder, tmp_path, "map").with_suffix(".safetensors").unlink()
    assert cli.main(["verify", str(tmp_path)]) == 4
    out = capsys.readouterr().out
    assert "not checked: map · mlp · wine (3 replicates): stored predictions" in out and "is missing" in out


def rewritten(path, change):
    """The record with its checksum made right again after `change(body)`."""
    body = json.loads(path.read_text())
    body.pop("checksum")
    change(body)
    path.write_text(json.dumps({**body, "checksum": files.digest(body)}))


@pytest.mark.parametrize("metric", ["accuracy", "nll", "ece", "brier"])
def test_values_that_do_not_follow_from_the_stored_predictions_are_different(folder, tmp_path, metric):
    """As a resume from a damaged checkpoint would leave them if it were scored in another way than it is stored."""
    path = copied(folder, tmp_path, "map")

    def change(body):
        body["values"]["metrics"][metric]["values"][1] += 1e-4

    rewritten(path, change)
    (record,) = records.read(tmp_path)
    found = verify.verify(tmp_path, record)
    assert found.verdict == "different"
    assert found.parts[0].name == "stored predictions" and metric in found.parts[0].detail


def test_the_depth_of_a_stored_stopping_network_follows_from_what_is_stored():
    """A score of that name, the expected depth, lies beside it: 5 % off."""
    (path,) = (Path(__file__).parents[2] / "results" / "reference" / "quick").glob("digits-stopping_resnet-*.json")
    (record,) = records.read(path)
    kept = evaluation.read(record, records.predictions(path.parent, record))
    again = scoring.measure(kept, {"depth": catalog.metrics()["depth"]})
    assert again["depth"].values == record.values.metrics["depth"].values
    assert verify._rescored(record, records.predictions(path.parent, record)).verdict == "identical"


def test_predictions_of_other_replicates_are_different(folder, tmp_path):
    path = copied(folder, tmp_path, "map")
    (record,) = records.read(tmp_path)
    fewer = {name: value.narrow(row_axis(name), 0, 2) for name, value in records.predictions(tmp_path, record).items()}
    records.write(tmp_path, replace(record, predictions=""), fewer)
    (record,) = records.read(path)
    found = verify.verify(tmp_path, record)
    assert found.verdict == "different"
    assert "is not of 3 replicates" in found.parts[0].detail


def test_a_metric_that_is_defined_in_another_way_is_not_held_against_the_record(folder, tmp_path):
    path = copied(folder, tmp_path, "map")
    rewritten(path, lambda body: body["values"]["metrics"]["ece"].update(definition="ECE(20)", values=[0.5] * 3))
    (record,) = records.read(tmp_path)
    assert verify.verify(tmp_path, record).verdict == "identical"


PLUGIN = """
from dataclasses import dataclass
from bdlbench.records.arrays import row_axis
from bdlbench.methods.map import MAP

@dataclass(frozen=True)
class Mine(MAP):
    "MAP by another name."

class Half:
    summary, unit, better = "a half", "fraction", "lower"
    def __call__(self, evaluation):
        return {"": evaluation.test.log_prob(evaluation.y).mean(1).double() * 0 + 0.5}

methods = {"mine": Mine}
metrics = {"half": Half()}
"""


def test_the_plugin_that_is_needed_is_named(tmp_path, monkeypatch, capsys):
    plugin = tmp_path / "own.py"
    plugin.write_text(PLUGIN)
    monkeypatch.setattr(catalog, "_plugins", {kind: {} for kind in catalog.KINDS})
    spec = {"models": ["logistic"], "datasets": ["wine"], "seeds": "2", "samples": 2, "plugins": [plugin]}
    api.run(results=tmp_path / "mine", methods=["mine"], settings={"mine.epochs": 2}, **spec)
    api.run(results=tmp_path / "half", methods=["mle"], settings={"mle.epochs": 2}, **spec)
    shutil.rmtree(tmp_path / "mine" / "parameters", ignore_errors=True)
    for place in ("mine", "half"):
        assert cli.main(["verify", str(tmp_path / place)]) == 0
    monkeypatch.setattr(catalog, "_plugins", {kind: {} for kind in catalog.KINDS})
    for place, what in (("mine", "mine is not of this package"), ("half", "metric half: not checked")):
        for options in ([], ["--full"]):
            capsys.readouterr()
            assert cli.main(["verify", str(tmp_path / place), *options]) == 4
            out = capsys.readouterr().out
            assert what in out and "--plugin FILE.py" in out and "DIFFERENT" not in out


def test_whatever_an_entry_raises_the_other_records_are_checked(folder, tmp_path, monkeypatch, capsys):
    copied(folder, tmp_path, "map")
    copied(folder, tmp_path, "mle")
    plain = verify.fingerprint

    for error in (KeyError("mean"), SystemExit(3), MemoryError("no")):

        def failing(batch, steps, nudge=verify.unchanged, error=error):
            if batch.rows[0].cell.method.name == "map":
                raise error
            return plain(batch, steps, nudge)

        monkeypatch.setattr(verify, "fingerprint", failing)
        assert cli.main(["verify", str(tmp_path)]) == 1
        out = capsys.readouterr().out
        assert "bit-identical: mle · mlp · wine" in out and "test_verify.py" in out
        words = "sys.exit(3)" if isinstance(error, SystemExit) else type(error).__name__
        assert words in out
