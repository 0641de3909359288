"""Options that each replicate chooses on rows held out of its own training rows: the right ones, and by these alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from bdlbench import api
from bdlbench.core.spec import Cell
from bdlbench.core.streams import Streams
from bdlbench.data.validation import hold_out
from bdlbench.gate.verify import verify
from bdlbench.records import record as records
from bdlbench.records.record import Record
from bdlbench.runs import batch as run
from bdlbench.runs import budget, scoring, suites
from bdlbench.runs.choosing import Choices, best_of, choose
from bdlbench.training import loop

SUITE = """
title = "A grid by split"
seeds = "2"
splits = "each"
samples = 3
[[grid]]
methods = ["mle"]
models = ["logistic"]
datasets = ["uci_folder"]
[grid.options]
mle = { epochs = 40, batch_size = 8, learning_rate = 0.05 }
[grid.choose]
validation = 0.25
refit = REFIT
logistic = { noise_sd = [10.0, 1.0, 0.1] }
"""

TRAIN, TEST = 30, 5
SPLITS = 2


def table(test_rows: float = 0.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Two splits with rows of their own: the target is a linear function of the inputs in split 0, and noise in 1.

    `test_rows` is added to every number of the test rows.
    """
    rng = np.random.default_rng(7)
    x, noise = rng.normal(2, 3, (2 * (TRAIN + TEST), 3)), rng.normal(5, 4, 2 * (TRAIN + TEST))
    y = np.concatenate([(x @ [1.0, -2.0, 0.5] + 4)[: TRAIN + TEST], noise[TRAIN + TEST :]])
    found = np.column_stack([x, y])
    for split in range(SPLITS):
        found[split * (TRAIN + TEST) + TRAIN : (split + 1) * (TRAIN + TEST)] += test_rows
    return found


def folder(where: Path, test_rows: float = 0.0) -> Path:
    where.mkdir()
    np.savetxt(where / "data.txt", table(test_rows))
    np.savetxt(where / "index_features.txt", [0, 1, 2], fmt="%d")
    np.savetxt(where / "index_target.txt", [3], fmt="%d")
    np.savetxt(where / "n_splits.txt", [SPLITS], fmt="%d")
    for split in range(SPLITS):
        rows = np.arange(split * (TRAIN + TEST), (split + 1) * (TRAIN + TEST))
        np.savetxt(where / f"index_train_{split}.txt", rows[:TRAIN], fmt="%d")
        np.savetxt(where / f"index_test_{split}.txt", rows[TRAIN:], fmt="%d")
    return where


def trained(tmp_path: Path, name: str, data: Path, refit: bool = True, **options: Any) -> Record:
    config = tmp_path / f"{name}.toml"
    config.write_text(SUITE.replace("REFIT", str(refit).lower()))
    results = tmp_path / name
    api.run(config=config, set={"uci_folder": {"path": str(data)}}, results=results, jobs=1, **options)
    assert not (results / run.CHECKPOINTS).exists()
    (record,) = records.read(results)
    return record


def scores(record: Record) -> torch.Tensor:
    columns = [record.values.facts[f"validation_log_likelihood[{i}]"] for i in range(3)]
    return torch.tensor(columns, dtype=torch.float64).T


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("sets") / "mine")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Record:
    return trained(tmp_path_factory.mktemp("tuned"), "tuned", data)


def test_each_split_chooses_the_point_that_is_right_for_it(tuned: Record) -> None:
    """A linear target leaves little noise: .1 of its sd. A target that is noise leaves all of it: 1."""
    assert tuned.values.facts["chosen"] == (2.0, 1.0)
    assert tuned.values.facts["chosen[logistic.noise_sd]"] == (0.1, 1.0)
    assert scores(tuned).argmax(1).tolist() == [2, 1]
    assert tuned.environment.selection == "validation"
    assert dict(tuned.cell.model.options)["noise_sd"] == "chosen"
    assert tuned.cost["selection_seconds"] > 0
    assert tuned.seconds is not None
    assert tuned.seconds > tuned.cost["selection_seconds"]


@pytest.mark.slow
def test_the_result_is_what_the_chosen_options_alone_train(tuned: Record, tmp_path: Path, data: Path) -> None:
    plain = suites.build_spec(
        suites.parse_suite(SUITE.partition("[grid.choose]")[0], "plain"),
        suites.Overrides(
            device="cpu", settings={"uci_folder": {"path": [str(data)]}, "logistic": {"noise_sd": [0.1, 1.0]}}
        ),
    )
    assert {cell.key for cell in plain.cells} == {tuned.cell.at(2).key, tuned.cell.at(1).key}
    hashes = {}
    for one in run.batches(plain, []):
        for record in run.run_batch(one, run.Settings(tmp_path)).records:
            hashes[dict(record.cell.model.options)["noise_sd"]] = record.values.parameters_sha256
    assert tuned.values.parameters_sha256 == (hashes[0.1][0], hashes[1.0][1])


@pytest.mark.slow
def test_without_refit_the_result_is_the_network_that_was_compared(tmp_path: Path, data: Path, tuned: Record) -> None:
    found = trained(tmp_path, "kept", data, refit=False)
    assert torch.equal(scores(found), scores(tuned))
    assert found.values.parameters_sha256 != tuned.values.parameters_sha256
    assert found.environment.examples is not None
    assert tuned.environment.examples is not None
    assert (found.environment.examples.train, tuned.environment.examples.train) == (22, 30)
    assert found.environment.examples.test_sha256 == tuned.environment.examples.test_sha256
    (one,) = run.batches(suites.build_spec(suites.read_suite_file(tmp_path / "kept.toml"), overrides(data)), [])
    built = run.build(replace(one, points=(2, 1)))
    posterior = built.method.fit(built.model, built.problem.train, Streams.of_seeds([0, 1]))
    assert tuple(scoring.row_hashes(posterior.state)) == found.values.parameters_sha256
    x, y = (getattr(built.problem.train, name).double() for name in ("x", "y"))
    torch.testing.assert_close(x.mean(1), torch.zeros(2, 3, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.var(1, correction=0), torch.ones(2, 3, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(y.var(1, correction=0), torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)
    whole = table()
    for split in range(SPLITS):  # in original units, each row of the training part is one of the split's training rows
        own = y[split] * built.problem.y_sd[split] + built.problem.y_mean[split]
        rows = whole[split * (TRAIN + TEST) : split * (TRAIN + TEST) + TRAIN, 3]
        assert np.abs(own.numpy()[:, None] - rows).min(1).max() < 1e-5
        test = built.problem.test.y[split].double() * built.problem.y_sd[split] + built.problem.y_mean[split]
        start = split * (TRAIN + TEST) + TRAIN
        torch.testing.assert_close(test, torch.from_numpy(whole[start : start + TEST, 3]), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_test_rows_have_no_say(tmp_path: Path, tuned: Record) -> None:
    found = trained(tmp_path, "moved", folder(tmp_path / "other", test_rows=1000.0))
    assert found.values.facts == tuned.values.facts
    assert found.values.parameters_sha256 == tuned.values.parameters_sha256
    assert found.values.metrics["rmse"].values != tuned.values.metrics["rmse"].values


@pytest.mark.slow
def test_a_replicate_chooses_the_same_alone(tmp_path: Path, data: Path, tuned: Record) -> None:
    alone = trained(tmp_path, "alone", data, seeds=[1])
    assert alone.values == tuned.values.take([1])


@pytest.mark.slow
def test_the_scores_are_those_of_each_point_trained_alone_by_the_formula(tuned: Record, data: Path) -> None:
    """log N(y; w·x + b, noise_sd²) of the held-out rows, less log of the target's sd: nats in original units."""
    suite = suites.parse_suite(SUITE.replace("REFIT", "false"), "mine.toml")
    (one,) = run.batches(suites.build_spec(suite, overrides(data)), [])
    _, held = hold_out(run.build(one).problem, [0, 1], 0.25)
    for point, noise in enumerate((10.0, 1.0, 0.1)):
        problem, model, method = run.build(replace(one, points=(point, point)))
        state = method.fit(model, problem.train, Streams.of_seeds([0, 1])).state
        x, y, weight, bias = (v.double().numpy() for v in (held.x, held.y, state["fc1.weight"], state["fc1.bias"]))
        mean = np.einsum("rnd,rd->rn", x, weight[:, 0]) + bias
        found = stats.norm.logpdf(y, mean, noise).mean(1) - np.log(problem.y_sd.numpy())
        np.testing.assert_allclose(scores(tuned)[:, point].numpy(), found, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [30, 80 + 30])  # of 80 steps of the choice, then 120 of the fit
def test_a_run_resumes_inside_the_choice_and_after_it(stop: int, tmp_path: Path, data: Path, tuned: Record) -> None:
    suite = suites.parse_suite(SUITE.replace("REFIT", "true"), "mine.toml")
    (one,) = run.batches(suites.build_spec(suite, overrides(data)), [])
    settings = run.Settings(tmp_path, checkpoint_every=1e-9)
    steps = 0

    def listen(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        if steps == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run_batch(one, settings, listen)
    left = {path.name.removeprefix(one.key) for path in (tmp_path / run.CHECKPOINTS).iterdir()}
    assert left == {".choice.1.safetensors"} | ({".1.safetensors"} if stop > 80 else set())
    (found,) = run.run_batch(one, settings, listen).records
    assert steps == 80 + 120 + 1  # the step at which it was stopped is done again
    assert found.values == tuned.values
    assert not list((tmp_path / run.CHECKPOINTS).iterdir())


@pytest.mark.slow
def test_the_time_of_a_choice_is_no_time_of_the_fit_that_is_resumed_after_it(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = run.batches(suites.build_spec(suites.parse_suite(SUITE.replace("REFIT", "true"), ""), overrides(data)), [])
    clock, passed, steps = run.now, [0.0], [0]
    for module in (run, loop):
        monkeypatch.setattr(module, "now", lambda: clock() + passed[0])

    def slowly(*arguments: Any) -> Choices:
        found = choose(*arguments)
        passed[0] += 1000.0
        return found

    def listen(done: int, total: int) -> None:
        steps[0] += 1
        if steps[0] == 80 + 30:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "choose", slowly)
    settings = run.Settings(tmp_path, checkpoint_every=1e-9)
    with pytest.raises(KeyboardInterrupt):
        run.run_batch(one, settings, listen)
    (found,) = run.run_batch(one, settings, listen).records
    assert found.cost["train_seconds"] < 900


@pytest.mark.slow
def test_verify_trains_what_was_chosen(tuned: Record) -> None:
    for full in (False, True):
        found = verify(tuned.path.parent, tuned, full)
        assert found.verdict == "identical"
        assert ("whole cell" if full else "first 20 steps") in found.checked


def overrides(data: Path, **given: Any) -> suites.Overrides:
    settings = {"uci_folder": {"path": [str(data)]}, **given}
    return suites.Overrides(device="cpu", settings=settings)


def test_a_cell_with_a_choice_is_another_one_and_comes_back_from_its_record(tuned: Record) -> None:
    cell = tuned.cell
    assert cell.tuning is not None
    assert Cell.from_dict(json.loads(json.dumps(cell.as_dict()))) == cell
    assert len({cell.key, *(cell.at(i).key for i in range(3))}) == 4
    assert "tuning" not in cell.at(0).as_dict()
    assert "25 %" in cell.tuning.words


def test_ties_go_to_the_first_point_and_what_is_not_finite_loses() -> None:
    nan = float("nan")
    assert best_of(torch.tensor([[1.0, 2.0, 2.0], [nan, -5.0, -7.0], [nan, nan, nan]])) == (1, 1, 0)


def test_a_replicate_without_a_finite_score_fails_and_the_others_do_not(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took the first point, and nothing said so."""

    def diverged(*arguments: Any) -> Choices:
        found = choose(*arguments)
        scores = found.scores.clone()
        scores[0] = torch.tensor([float("nan"), -torch.inf, torch.inf])
        return found._replace(scores=scores, points=best_of(scores))

    monkeypatch.setattr(run, "choose", diverged)
    record = trained(tmp_path, "diverged", data)
    assert {one.seed: reason for one, reason in record.failed.items()} == {0: run.UNDECIDED}
    assert [one.seed for one in record.replicates] == [1]
    assert record.values.facts["chosen"] == (1.0,)


def test_nested_options_can_be_chosen_and_those_of_other_entries_do_not_concern_a_cell() -> None:
    text = (
        SUITE.replace("REFIT", "true")
        .replace('["mle"]', '["deep_ensemble", "exact"]')
        .replace("logistic = {", "mle = { learning_rate = [0.1, 0.01, 0.2] }\nlogistic = {")
    )
    ensemble, _ = suites.build_spec(suites.parse_suite(text, "s"), suites.Overrides(device="cpu")).cells
    assert ensemble.tuning is not None
    assert ensemble.tuning.options == ("mle.learning_rate", "logistic.noise_sd")
    assert dict(dict(ensemble.at(1).method.options)["member"].options)["learning_rate"] == 0.01  # type: ignore[union-attr, arg-type]


def test_a_choice_counts_all_its_rows(data: Path, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    suite = suites.parse_suite(SUITE.replace("REFIT", "true"), "mine.toml")
    (one,) = run.batches(suites.build_spec(suite, overrides(data)), [])
    monkeypatch.setattr(budget.memory, "total_bytes", lambda: 1)
    with refused("6"):  # two replicates, three points
        budget.check(one)


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("0.1] }", "0.1] }\nmle = { learning_rate = [0.1] }", ["logistic.noise_sd", "3", "mle.learning_rate", "1"]),
        ("logistic = { noise_sd = [10.0, 1.0, 0.1] }", "", ["mine.toml", "[grid.choose]"]),
        ("0.25", "1.5", ["mine.toml", "validation", "1.5"]),
        ("refit = REFIT", "refit = 2", ["mine.toml", "refit", "2"]),
        ("refit = REFIT", "samples = 0", ["mine.toml", "samples", "0"]),
        ("0.1] }", "0.1] }\nmle = { epochs = [1, 2, 3] }", ["mle.epochs"]),
        ("0.1] }", "0.1] }\nmpl = { widths = [1, 2, 3] }", ["mpl", "mlp"]),
        ("1.0, 0.1]", "1.0, -0.1]", ["logistic.noise_sd", "-0.1"]),
        ("logistic = { noise_sd", "map = { prior_sd", ["map.prior_sd", "mle · logistic · uci_folder"]),
        ('title = "A grid by split"', 'selection = "test"', ["mine.toml", "selection", "test"]),
    ],
)
def test_a_suite_that_cannot_choose(old: str, new: str, names: list[str], refused: Any) -> None:
    assert old in SUITE
    with refused(*names):
        suites.build_spec(
            suites.parse_suite(SUITE.replace(old, new).replace("REFIT", "true"), "mine.toml"),
            suites.Overrides(device="cpu"),
        )


def test_what_is_chosen_cannot_be_set(data: Path, refused: Any) -> None:
    suite = suites.parse_suite(SUITE.replace("REFIT", "true"), "mine.toml")
    with refused("--set", "logistic.noise_sd"):
        suites.build_spec(suite, overrides(data, logistic={"noise_sd": [0.5]}))


def test_no_row_is_left_to_train_on(data: Path, refused: Any) -> None:
    suite = suites.parse_suite(SUITE.replace("REFIT", "true").replace("0.25", "0.99"), "mine.toml")
    (one,) = run.batches(suites.build_spec(suite, overrides(data)), [])
    with refused("validation", "0.99", "30"):
        run.run_batch(one, run.Settings(data.parent / "none"))
