"""Methods that collect states, and samplers, stopped anywhere: they end with the bits of a run that was left alone."""

import random
from pathlib import Path

import pytest

from bdlbench import catalog
from bdlbench.core import files
from bdlbench.records import record as records
from bdlbench.runs import batch as run
from bdlbench.runs import suites

ROOT = Path(__file__).resolve().parent
SETTINGS = {
    "swag_diagonal": ("swag_diagonal.epochs=20", "swag_diagonal.average=12"),
    "csghmc": ("csghmc.cycles=4",),
    "swag": ("swag.epochs=24", "swag.rank=4", "swag.every=2", "swag.batch_size=50"),
    "multiswag": ("multiswag.members=2", "swag.epochs=24", "swag.rank=4", "swag.every=2", "swag.batch_size=50"),
    "snapshot": ("snapshot.epochs=24", "snapshot.cycles=5"),
    "sgld": ("sgld.epochs=24", "sgld.networks=7", "sgld.schedule=polynomial"),
    "sghmc": ("sghmc.epochs=24", "sghmc.networks=7", "sghmc.schedule=cyclical", "sghmc.cycles=3"),
}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Entries of plugins are forgotten after the test."""
    monkeypatch.setattr(catalog, "_plugins", {kind: dict(entries) for kind, entries in catalog._plugins.items()})


def batch_of(method, settings):
    overrides = suites.Overrides((method,), ("mlp",), ("wine",), "2", 5, ("mlp.widths=7", *settings), "cpu")
    (batch,) = run.batches(suites.build_spec(suites.read_suite("quick"), overrides), ())
    return batch


def stopped_at(stop, heard):
    def listen(done, total):
        heard.append((done, total))
        if done == stop:
            raise KeyboardInterrupt

    return listen


def kept_of(folder, outcome):
    """Values and predictions as bytes."""
    (record,) = outcome.records
    assert record.failed == {}
    arrays = records.predictions(folder, record)
    return files.canonical_json(record.values.as_dict()), {k: v.numpy().tobytes() for k, v in arrays.items()}


@pytest.mark.slow
@pytest.mark.parametrize("method", SETTINGS)
def test_interrupted_at_twenty_steps_it_ends_with_the_same_bits(method, tmp_path):
    if method not in catalog.names("methods"):
        catalog.add_plugin(ROOT / "plugins" / f"{method}.py")
    batch, heard = batch_of(method, SETTINGS[method]), []
    alone = kept_of(tmp_path / "alone", run.run_batch(batch, run.Settings(tmp_path / "alone"), stopped_at(0, heard)))
    total = len(heard)
    assert heard == [(step, total) for step in range(1, total + 1)]  # progress, from the first step to the last
    stopped = run.Settings(tmp_path / "stopped", checkpoint_every=0.0)
    for stop in sorted(random.Random(method).sample(range(2, total + 1), 20)):
        heard = []
        with pytest.raises(KeyboardInterrupt):
            run.run_batch(batch, stopped, stopped_at(stop, heard))
        assert heard[-1] == (stop, total)
    heard = []
    outcome = run.run_batch(batch, stopped, stopped_at(0, heard))
    assert heard[0] == (stop, total)  # it went on where it was
    assert kept_of(tmp_path / "stopped", outcome) == alone
    (record,) = outcome.records
    assert [row.steps for row in record.values.first_steps] == [20, 20]
    assert record.cost["train_examples_per_second"] > 0


NAIVE = '''"""The mean of the weights over epochs, gathered beside the loop."""
from dataclasses import dataclass
from functools import reduce

import torch

from bdlbench.networks.layers import Point
from bdlbench.posteriors.fitting import fit_network
from bdlbench.posteriors.point import point_posterior
from bdlbench.training.loop import last, minimise
from bdlbench.training.plan import Plan
from bdlbench.core.layout import Layout


@dataclass(frozen=True)
class Naive:
    """The mean of the weights over epochs."""

    def unsupported(self, model):
        return None

    def fit(self, model, data, rng):
        layout = Layout(model.leaves())
        states = fit_network(model, data, rng, Plan(4, 64, 1e-3), lambda flat, noise: Point(layout.views(flat)))
        kept = []
        HERE
        return point_posterior(model, layout, flat)


methods = {"naive": Naive}
'''
WAYS = {
    "a loop": "for state in states: kept.append(state.flat.detach().clone())\n        flat = sum(kept) / len(kept)",
    "a comprehension": "flat = torch.stack([state.flat.detach().clone() for state in states]).mean(0)",
    "a sum": "flat = sum(state.flat.detach() / 4 for state in states)",
    "a list": "flat = list(states)[-1].flat",
    "the first": "flat = next(states).flat",
    "a reduction": "flat = reduce(lambda a, b: b, states).flat",
    "the last of a generator": "flat = last(kept.append(state) or state for state in states).flat",
    "the last of a map": "flat = last(map(lambda state: kept.append(state) or state, states)).flat",
}


@pytest.mark.parametrize("way", WAYS)
def test_states_taken_one_by_one_are_refused_where_a_run_may_be_resumed(way, tmp_path, refused):
    path, results = tmp_path / "naive.py", tmp_path / "results"
    path.write_text(NAIVE.replace("HERE", WAYS[way]), encoding="utf-8")
    catalog.add_plugin(path)
    line = 1 + NAIVE.split("HERE")[0].count("\n")
    with refused(f"{path}:{line}", "collect="):
        run.run_batch(batch_of("naive", ()), run.Settings(results))
    assert not list(results.rglob("*"))


@pytest.mark.parametrize("name", ["swag_diagonal", "csghmc", "early_stopped"])
def test_the_examples_of_the_documentation_are_these_plugins_and_short(name):
    text = (ROOT.parent / "docs" / "methods.md").read_text("utf-8")
    source = (ROOT / "plugins" / f"{name}.py").read_text("utf-8")
    assert f"<!-- {name} -->\n\n```python\n{source}```\n" in text
    assert len(source.splitlines()) <= 40
