"""What is measured while training goes on: right, in the record, the same after a stop, and without any effect."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bdlbench import api, catalog
from bdlbench.cli.main import main
from bdlbench.core.spec import Cell, Curves, Replicate, Spec
from bdlbench.gate.verify import verify_folder
from bdlbench.protocols import Evaluation, Posterior
from bdlbench.records import record as records
from bdlbench.records.contents import Values
from bdlbench.records.record import Record
from bdlbench.runs import batch as run
from bdlbench.runs import provenance, suites
from bdlbench.runs.batch import Batch, Row, Settings
from bdlbench.training.loop import Session, StepsDone, Watch, Watched, session

SMALL = {"mlp": {"widths": ["4"]}, "digits": {}}
ASKED = Curves(("accuracy", "nll", "sparsity"), every=2, samples=3)


def a_batch(method: str, epochs: int = 3, seeds: tuple[int, ...] = (0, 4)) -> Batch:
    """Some replicates of a small network on digits. An ensemble's option is that of its members."""
    base = "mle" if method == "deep_ensemble" else method
    options = SMALL | {base: {"epochs": [epochs], "batch_size": [300]}}
    (chosen,) = catalog.choices("methods", method, options)
    (model,), (dataset,) = catalog.choices("models", "mlp", options), catalog.choices("datasets", "digits", options)
    cell = Cell(chosen, model, dataset, samples=3)
    return Batch(tuple(Row(cell, Replicate(seed)) for seed in seeds))


def trained(folder: Path, batch: Batch, curves: Curves | None = ASKED) -> Record:
    """The record of a batch."""
    (record,) = run.run_batch(batch, Settings(folder, curves=curves)).records
    assert not record.failed
    return record


WATCHED = (
    "mle",
    "map",
    "mc_dropout",
    "dropconnect",
    "gaussian_dropout",
    "mean_field_vi",
    "gaussian_vi",
    "sparse_vd",
    "swag",
    "snapshot",
)
WATCHED = (*WATCHED, "variational_dropout", "deep_ensemble", "batch_ensemble", "rank1")


@pytest.mark.slow
@pytest.mark.parametrize("method", WATCHED)
def test_a_curve_ends_where_the_posterior_is_and_changes_nothing(method: str, tmp_path: Path) -> None:
    """A point predicts the same at the last epoch and at the end; facts such as a sparsity are the same for any."""
    watched, plain = trained(tmp_path / "a", a_batch(method)), trained(tmp_path / "b", a_batch(method), curves=None)
    assert plain.values.curves is None
    curves = watched.values.curves
    assert curves is not None
    assert replace(watched.values, curves=None) == plain.values  # hashes of parameters and metrics, bit for bit
    assert curves.epochs == (2, 3)
    assert [len(row) for row in curves.series["accuracy"]] == [2, 2]
    certain = [*(["accuracy", "nll"] if method in ("mle", "map", "deep_ensemble") else [])]
    certain += [name for name in curves.series if name.startswith("sparsity")]
    for name in certain:
        assert [row[-1] for row in curves.series[name]] == list(watched.values.metrics[name].values)
    assert ("sparsity" in curves.series) == (method == "sparse_vd")


@pytest.mark.slow
def test_a_row_has_the_same_curve_alone_as_among_others(tmp_path: Path) -> None:
    together = trained(tmp_path / "a", a_batch("mc_dropout")).values.curves
    alone = trained(tmp_path / "b", a_batch("mc_dropout", seeds=(4,))).values.curves
    assert together is not None
    assert alone == together.take([1])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "epochs"), [("swag", (3, 4, 5, 6)), ("sgld", (5, 6)), ("sghmc", (5, 6))])
def test_a_burn_in_has_no_curve(method: str, epochs: tuple[int, ...], tmp_path: Path) -> None:
    """A chain of four epochs after two of warm start keeps networks of the last two."""
    record = trained(tmp_path, a_batch(method, epochs=6), Curves(("accuracy",), every=1, samples=1))
    assert record.values.curves is not None
    assert record.values.curves.epochs == epochs
    if method != "swag":  # its last draws are others
        assert [row[-1] for row in record.values.curves.series["accuracy"]] == list(
            record.values.metrics["accuracy"].values
        )


@pytest.mark.slow
def test_a_budget_in_steps_counts_its_last_epoch_though_it_is_cut_short(tmp_path: Path) -> None:
    batch = a_batch("mle")  # an epoch of digits has 4 steps
    row = batch.rows[0]
    cut = replace(row.cell.method, options=(*row.cell.method.options, ("steps", 10)))
    (record,) = run.run_batch(
        Batch((row._replace(cell=replace(row.cell, method=cut)),)), Settings(tmp_path, curves=ASKED)
    ).records
    assert record.values.curves is not None
    assert record.values.curves.epochs == (2, 3)


@pytest.mark.slow
def test_a_method_that_knows_its_posterior_only_at_the_end_says_so(tmp_path: Path) -> None:
    notes: list[str] = []
    outcome = run.run_batch(a_batch("laplace"), Settings(tmp_path, curves=ASKED), note=notes.append)
    assert outcome.records[0].values.curves is None
    assert [note for note in notes if "no curves" in note and "laplace" in note]


@pytest.mark.parametrize("stop", [3, 4, 9, 11])
def test_a_stopped_fit_goes_on_to_the_same_curve(stop: int, tmp_path: Path) -> None:
    """Within an epoch, at its end, and after: nothing is lost, misnumbered or measured twice."""
    problem, model, method = run.build(a_batch("mc_dropout"))
    heard: list[int] = []

    def measure(posterior: Posterior, epoch: int) -> dict[str, Tensor]:
        heard.append(epoch)
        found = {"norm": posterior.state["fc1.weight"].flatten(1).norm(dim=1)}
        return found | ({"late": torch.full((2,), float(epoch))} if epoch > 1 else {})

    def fit(where: Path, stop_after: int | None = None) -> Watched | None:
        watch = Watch(lambda epoch, epochs: epoch != 2, measure)
        with session(Session(where, every=0.0, stop_after=stop_after, watch=watch)) as current:
            try:
                method.fit(model, problem.train, run.Streams.of_seeds([0, 4]))
            except StepsDone:
                return None
            return current.fits[0].watched

    whole = fit(tmp_path / "whole")
    heard.clear()
    assert fit(tmp_path / "stopped", stop) is None
    again = fit(tmp_path / "stopped")
    assert whole is not None
    assert again is not None
    assert whole.epochs == again.epochs == (1, 3)
    assert heard in ([1, 3], [1, 1, 3])  # an epoch whose end was not yet written is measured again
    for name, series in whole.series.items():
        assert torch.equal(series.nan_to_num(-1), again.series[name].nan_to_num(-1))
    heard.clear()
    finished = fit(tmp_path / "whole")  # nothing is left to train
    assert heard == []
    assert finished is not None
    assert torch.equal(finished.series["norm"], whole.series["norm"])
    assert whole.series["late"].isnan().tolist() == [[True, False]] * 2
    assert whole.series["norm"].shape == (2, 2)


@pytest.mark.slow
def test_other_curves_do_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    """A checkpoint whose session was asked for another curve would lack its beginning."""
    batch, notes = a_batch("mle"), list[str]()

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    settings = Settings(tmp_path, checkpoint_every=1e-9, curves=ASKED)
    with pytest.raises(KeyboardInterrupt):
        run.run_batch(batch, settings, stop)
    more = replace(settings, curves=replace(ASKED, every=1))
    (record,) = run.run_batch(batch, more, note=notes.append).records
    assert record.values.curves is not None
    assert record.values.curves.epochs == (1, 2, 3)
    assert [note for note in notes if "set aside" in note and "the curves" in note]


@pytest.mark.slow
def test_a_metric_that_fails_ends_no_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(evaluation: object) -> dict[str, Tensor]:
        raise ValueError("no")

    known = catalog.metrics()
    broken = type("Broken", (), {"summary": "", "unit": "", "better": "lower", "__call__": lambda s, e: raises(e)})()
    monkeypatch.setattr(catalog, "metrics", lambda: {**known, "nll": broken})
    notes: list[str] = []
    (record,) = run.run_batch(a_batch("mle"), Settings(tmp_path, curves=ASKED), note=notes.append).records
    assert record.values.curves is not None
    assert "nll" not in record.values.curves.series
    assert len([note for note in notes if "metric nll" in note and "epoch" in note]) == 1


@pytest.mark.slow
def test_a_metric_that_fails_once_leaves_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was stopped after it asks the metric again, so a run that was not does too."""
    known, calls = catalog.metrics(), list[object]()

    class Once:
        summary, unit, better = "", "", "lower"

        def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
            calls.append(evaluation)
            if len(calls) == 1:
                raise ValueError("no")
            return known["nll"](evaluation)

    monkeypatch.setattr(catalog, "metrics", lambda: {**known, "nll": Once()})
    (record,) = run.run_batch(a_batch("mle"), Settings(tmp_path, curves=ASKED)).records
    assert record.values.curves is not None
    assert record.values.curves.epochs == (2, 3)
    assert [[value is None for value in row] for row in record.values.curves.series["nll"]] == [[True, False]] * 2


@pytest.mark.parametrize("fails", ["posterior", "measure"])
def test_an_error_ends_the_curve_and_not_the_fit(fails: str) -> None:
    """Such as a prediction that runs out of memory."""
    problem, model, method = run.build(a_batch("mle"))
    notes: list[str] = []

    def broken(epoch: int) -> None:
        if epoch == 2:
            raise MemoryError("too large")

    def measure(posterior: Posterior, epoch: int) -> dict[str, Tensor]:
        if fails == "measure":
            broken(epoch)
        return {"epoch": torch.full((2,), float(epoch))}

    def whole(posterior: Posterior) -> Posterior:
        if fails == "posterior":
            broken(len(current.fits[0].watched.epochs) + 1)
        return posterior

    watch = Watch(lambda epoch, epochs: True, measure)
    with session(Session(watch=watch, whole=whole, note=notes.append)) as current:
        posterior = method.fit(model, problem.train, run.Streams.of_seeds([0, 4]))
    assert current.fits[0].watched.epochs == (1,)
    assert current.fits[0].state is not None
    assert current.fits[0].state.step == current.fits[0].steps
    assert len(notes) == 1
    assert "epoch 2: MemoryError" in notes[0]
    alone = method.fit(model, problem.train, run.Streams.of_seeds([0, 4]))
    assert all(torch.equal(value, alone.state[name]) for name, value in posterior.state.items())


@pytest.mark.slow
def test_the_curve_of_an_edited_metric_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be measured again without training, and a number of old code is none of the new."""
    batch = a_batch("mle")
    code = provenance.code_of(batch.rows[0].cell)
    then, now = ({**code, "metrics nll": sha} for sha in ("then", "now"))
    settings = Settings(tmp_path, curves=ASKED, code={batch.rows[0].cell.key: then})
    (record,) = run.run_batch(batch, settings).records
    spec = Spec((record.cell,), record.replicates)
    (same,), outdated = provenance.held_against([record], spec, {record.key: then})
    assert same == record
    assert not outdated
    (kept,), _ = provenance.held_against([record], spec, {record.key: now})
    assert kept.values.curves is not None
    assert kept.values.curves.series.keys() == {"accuracy"}


@pytest.mark.slow
def test_a_record_keeps_its_curves_and_old_records_have_none(tmp_path: Path) -> None:
    record = trained(tmp_path, a_batch("sparse_vd"))
    assert record.values.curves is not None
    table = json.loads(json.dumps(record.values.as_dict()))
    assert Values.from_dict(table, 2) == record.values
    table["curves"]["series"]["nll"][1][0] = None
    assert Values.from_dict(table, 2).take([1]).as_dict()["curves"]["series"]["nll"][0][0] is None
    del table["curves"]
    assert Values.from_dict(table, 2).curves is None
    records.without(tmp_path, record, {Replicate(0)})
    (left,) = records.read(tmp_path)
    assert left.values.curves == record.values.curves.take([1])


@pytest.mark.slow
def test_a_frame_has_a_row_for_each_epoch(tmp_path: Path) -> None:
    record = trained(tmp_path, a_batch("mle"))
    assert record.values.curves is not None
    frame = api.curves(tmp_path)
    one = frame[(frame.metric == "accuracy") & (frame.seed == 4)]
    assert one.epoch.tolist() == [2, 3]
    assert one.value.tolist() == list(record.values.curves.series["accuracy"][1])
    assert one["method.epochs"].tolist() == [3, 3]


@pytest.mark.slow
def test_verify_measures_the_curves_again(tmp_path: Path) -> None:
    record = trained(tmp_path, a_batch("mc_dropout"))
    (check,) = verify_folder(tmp_path, full=True)
    assert check.verdict == "identical"
    curves = record.values.curves
    assert curves is not None
    wrong = replace(curves, series=curves.series | {"nll": tuple((1.0, math.pi) for _ in record.replicates)})
    records.write(
        tmp_path, replace(record, values=replace(record.values, curves=wrong)), records.predictions(tmp_path, record)
    )
    (check,) = verify_folder(tmp_path, full=True)
    assert check.verdict == "different"


SUITE = """
[[grid]]
methods = ["mle"]
models = ["mlp"]
datasets = ["digits"]
[curves]
"""


def test_a_suite_asks_for_curves_and_its_cells_stay_what_they_are() -> None:
    plain = suites.build_spec(suites.parse_suite(SUITE.replace("[curves]", ""), "x"), suites.Overrides())
    text = SUITE + 'metrics = ["accuracy"]\nevery = 10\nsamples = 5'
    spec = suites.build_spec(suites.parse_suite(text, "x"), suites.Overrides())
    assert spec.curves == Curves(("accuracy",), 10, (), 5)
    assert spec.cells == plain.cells
    assert plain.curves is None
    due = [epoch for epoch in range(1, 26) if spec.curves.due(epoch, 25)]
    assert due == [10, 20, 25]
    at = suites.parse_suite(SUITE + 'metrics = "nll"\nepochs = [3, 1]', "x").curves
    assert at is not None
    assert [epoch for epoch in range(1, 26) if at.due(epoch, 25)] == [1, 3]


@pytest.mark.slow
def test_a_run_says_which_cells_have_no_curves_and_measures_them_if_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Curves are no part of a cell, so a record of before stands as it is."""
    plain, config, out = tmp_path / "plain.toml", tmp_path / "curves.toml", tmp_path / "out"
    few = SUITE.replace("[curves]", "[options.mle]\nepochs = 2\n")
    plain.write_text(few)
    config.write_text(few + '[curves]\nmetrics = ["accuracy"]\nevery = 1\n')

    def called(file: Path, *more: str) -> str:
        assert main(["run", "--config", str(file), "--seeds", "1", "--results", str(out), *more]) == 0
        return capsys.readouterr().out

    called(plain)
    said = called(config)
    assert "without curves" in said
    assert "--fresh" in said
    assert "none had to be trained now" in said
    assert "accuracy every epoch, by 10 samples" in called(config, "--dry-run")
    assert "without curves" not in called(config, "--fresh")
    assert "without curves" not in called(config)
    assert sorted(api.curves(out).epoch) == [1, 2]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("every = 2", "metrics"),
        ('metrics = ["accuracy"]', "every"),
        ('metrics = ["accuracy"]\nevery = 2\nepochs = [1]', "every"),
        ('metrics = ["accuracy"]\nevery = 0', "every"),
        ('metrics = ["accuracy"]\nepochs = [0]', "epochs"),
        ('metrics = ["acuracy"]\nevery = 1', "accuracy"),
        ('metrics = ["accuracy"]\nevry = 1', "evry"),
        ('metrics = ["accuracy"]\nevery = 1\nsamples = 1.5', "samples"),
    ],
)
def test_curves_that_cannot_be_read(text: str, named: str, refused: Any) -> None:
    with refused(named):
        suites.build_spec(suites.parse_suite(SUITE + text, "x"), suites.Overrides())
