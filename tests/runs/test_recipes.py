"""Cells trained by a recipe: what their records hold of it, and what methods made of other methods make of it."""

from __future__ import annotations

import math

import pytest
import torch

from bdlbench import catalog
from bdlbench.core.layout import Layout
from bdlbench.gate import contracts
from bdlbench.models.resnet import ResNet
from bdlbench.posteriors.fitting import trained_elbo
from bdlbench.records import record as records
from bdlbench.runs import suites, work
from bdlbench.runs.batch import Settings
from bdlbench.training.loop import Session, session
from bdlbench.training.plan import Plan
from bdlbench.training.recipe import Recipe

RECIPE = {
    "optimiser": "nesterov",
    "learning_rate": 0.05,
    "decay": "cosine",
    "clip_norm": 1.0,
    "label_smoothing": 0.1,
    "augmentation": "RandomCrop size=5-7 padding=1",
    "validation": 0.3,
    "patience": 2,
}


def run(folder, method, dataset, **options):
    settings = tuple(f"{name}.{key}={value}" for name, table in options.items() for key, value in table.items())
    suite = suites.parse_suite(
        f'[[grid]]\nmethods = ["{method}"]\nmodels = ["mlp"]\ndatasets = ["{dataset}"]\n', "mine"
    )
    overrides = suites.Overrides((method,), ("mlp",), (dataset,), "3", 2, settings, "cpu")
    work.perform(work.prepare(work.plan(suites.build_spec(suite, overrides), Settings(folder))))
    (made,) = records.read(folder)
    return made


@pytest.mark.slow
def test_a_record_tells_the_best_epochs_and_how_many_examples_were_trained_on(tmp_path):
    options = {"epochs": 5, "validation": 0.2}
    alone = run(tmp_path / "mle", "mle", "wine", mle=options)
    assert alone.environment.examples.train == math.floor(0.8 * 133)
    assert all(1 <= epoch <= 5 for epoch in alone.values.facts["best_epoch"])
    ensemble = run(tmp_path / "ensemble", "deep_ensemble", "wine", mle=options, deep_ensemble={"members": 2})
    assert all(epoch * 2 == int(epoch * 2) for epoch in ensemble.values.facts["best_epoch"])
    assert len(ensemble.values.facts["best_epoch_log_likelihood"]) == 3
    usual = run(tmp_path / "usual", "mle", "wine", mle={"epochs": 2})
    assert usual.environment.examples.train == 133 and "best_epoch" not in usual.values.facts


@pytest.mark.slow
def test_the_bound_in_original_units_counts_the_rows_that_were_trained_on(tmp_path):
    made = run(tmp_path, "mean_field_vi", "diabetes", mean_field_vi={"epochs": 2, "validation": 0.5})
    count, sd = made.environment.examples.train, catalog.load_task(made.cell.dataset, 0).y_sd
    assert sd > 10 and count == 165
    for elbo, nats in zip(made.values.metrics["elbo"].values, made.values.elbo_nats, strict=True):
        assert elbo == pytest.approx(nats - count * math.log(sd), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deep_ensemble", "active", "sequential"])
def test_a_method_made_of_another_trains_it_by_its_recipe(name, tmp_path):
    base = {"deep_ensemble": "mle", "active": "mc_dropout", "sequential": "mean_field_vi"}[name]
    settings = contracts.quick(3)
    settings[base] = {**settings[base], **RECIPE}
    settings["active"] = {"start": 20, "step": 5, "rounds": 1, "samples": 3}
    settings["sequential"] = {"chunks": 2}
    model, built = next(contracts.models_of("mlp", {"mlp": {"widths": "6"}})), contracts.method_of(name, settings)
    data = contracts.classes(5)
    assert contracts.alone_and_together(model, built, data, contracts.classes(5, 19).x) == []
    few = contracts.classes(3)
    assert contracts.resumed(built, model, few, few.x, tmp_path / "fit", (2, 5))[0] == []


@pytest.mark.parametrize("name", ["resnet", "stopping_resnet", "lenet5"])
def test_smoothed_labels_are_a_mean_over_classes_in_every_model_of_classes(name):
    small = {"resnet": {"channels": "4", "groups": 2}, "stopping_resnet": {"channels": 4, "groups": 2, "blocks": 2}}
    model = next(contracts.models_of(name, {name: small.get(name, {})}))
    data, rng = contracts.data_for(model.signature, 2, 5), contracts.streams((0, 1))
    flat, batch = contracts.initial_network(model, data, rng), data.batch(torch.arange(5).expand(2, 5))
    found = {}
    for smoothing in (0.0, 0.25, 1.0):
        point = contracts.Point(Layout(model.leaves()).views(flat))
        plan = Plan(1, 5, 0.1, label_smoothing=smoothing)
        found[smoothing] = trained_elbo(model, point, batch, contracts.streams((0, 1)), plan)
    torch.testing.assert_close(found[0.25], 0.75 * found[0.0] + 0.25 * found[1.0])
    assert not torch.allclose(found[0.0], found[1.0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mle", "mc_dropout", "dropconnect", "mean_field_vi", "sparse_vd"])
def test_in_mixed_precision_convolutions_and_norms_have_types_that_agree(name, monkeypatch):
    """By the CPU's bfloat16, which stands for that of CUDA; without oneDNN, whose kernels for it corrupt the heap."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    model = ResNet(contracts.Signature((1, 8, 8), 3, "categorical"), (4, 8), 1, 2)
    data, plain = contracts.data_for(model.signature, 2, 26), Recipe.with_plan
    losses = []
    for mixed in (False, True):

        def with_plan(self, *given, mixed=mixed):
            data, plan = plain(self, *given)
            return data, contracts.replace(plan, mixed_precision=mixed)

        monkeypatch.setattr(Recipe, "with_plan", with_plan)
        with session(Session()) as current:
            contracts.method_of(name, contracts.quick()).fit(model, data, contracts.streams((0, 1)))
        losses.append(current.fits[0].state.loss)
    torch.testing.assert_close(*losses, rtol=0.1, atol=0.1)
