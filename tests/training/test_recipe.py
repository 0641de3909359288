"""Recipes: the options of training that all methods share."""

from __future__ import annotations

import pytest
import torch

from bdlbench import catalog
from bdlbench.core.layout import Layout
from bdlbench.core.options import fields
from bdlbench.data.task import Data
from bdlbench.gate import contracts
from bdlbench.methods.mle import MLE
from bdlbench.models.mlp import MLP
from bdlbench.posteriors.fitting import trained_elbo, training_option
from bdlbench.training.loop import Session, minimise, session
from bdlbench.training.optimisers import OPTIMISERS
from bdlbench.training.plan import DECAYS, Plan
from bdlbench.training.recipe import Recipe, recipe_option

SEEDS, ROWS = contracts.SEEDS, len(contracts.SEEDS)
TRAINED = [name for name in catalog.names("methods") if issubclass(catalog.load("methods", name), Recipe)]
UNVALIDATED = {"swag", "laplace", "sgld", "sghmc", "snapshot"}
"""Methods that have no posterior before their last epoch, or one of the networks of several epochs."""

OTHERS = (
    {"warmup": 0.3, "weight_decay": 0.02},
    {"clip_norm": 0.5, "label_smoothing": 0.1},
    {"validation": 0.3, "patience": 1},
    {"augmentation": "RandomCrop size=5-7 padding=1 + RandomHorizontalFlip", "last_batch": "kept"},
    {"validation": 0.2, "weight_decay": 0.1, "augmentation": "RandomVerticalFlip", "clip_norm": 1.0},
)
RECIPES = [
    {"optimiser": optimiser, "decay": decay, "momentum": 0.8, **OTHERS[(i + j) % len(OTHERS)]}
    for i, optimiser in enumerate(OPTIMISERS)
    for j, decay in enumerate(DECAYS)
]
"""Every optimiser with every schedule and with every other part of a recipe."""


def examples(rows=ROWS, num=53):
    return contracts.classes(rows, num)


def model(rows=1):
    return next(contracts.models_of("mlp", {"mlp": {"widths": "6"}}))


def method(name="mle", rows=({},), **options):
    given = {"epochs": 3, "batch_size": 13, **options}
    return contracts.method_of(name, {name: given}, [{name: row} for row in rows])


def spelled(recipe):
    return "-".join(str(value).split(" ")[0] for value in recipe.values())


@pytest.mark.parametrize("recipe", RECIPES, ids=spelled)
def test_a_row_trained_by_a_recipe_has_the_same_bits_alone(recipe):
    assert contracts.alone_and_together(model(), method(**recipe), examples(), examples(num=19).x) == []


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=spelled)
def test_a_recipe_resumes_to_the_same_bits_from_the_middle_of_an_epoch(recipe, tmp_path):
    data = examples(3)
    steps = contracts.steps_of(lambda: method(**recipe).fit(model(), data, contracts.streams(SEEDS[:3])))
    stops = (1, steps // 2, steps - 1)
    differ, _ = contracts.resumed(method(**recipe), model(), data, data.x, tmp_path / "fit", stops)
    assert differ == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("recipe", [RECIPES[12], RECIPES[14], RECIPES[6]], ids=spelled)
def test_every_method_is_trained_by_any_recipe_row_by_row_and_resumes(name, recipe, tmp_path):
    """The chosen ones have each part of a recipe at least once."""
    if name in UNVALIDATED:
        recipe = {key: value for key, value in recipe.items() if key not in ("validation", "patience")}
    data, built = examples(), method(name, **recipe)
    assert contracts.alone_and_together(model(), built, data, examples(num=19).x) == []
    assert contracts.resumed(built, model(), examples(3), data.x[:3], tmp_path / "fit", (2, 5))[0] == []


SWEPT = {
    "momentum": (0.9, 0.0, 0.5),
    "weight_decay": (0.1, 0.0, 0.01),
    "warmup": (0.5, 0.0, 1.0),
    "milestone_factor": (0.1, 1.0, 0.5),
    "clip_norm": (0.1, 0.0, 0.5),
    "label_smoothing": (0.1, 0.0, 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("option", SWEPT)
@pytest.mark.parametrize("name", TRAINED)
def test_an_option_swept_as_rows_trains_each_row_as_its_value_alone(name, option):
    shared = {"decay": "step", "optimiser": "sgd", "learning_rate": 0.1}
    together = method(name, [{option: value} for value in SWEPT[option]], **shared)
    x, seeds, found = examples(num=19).x, (7, 7, 7), []
    for r, value in enumerate(SWEPT[option]):
        alone = method(name, **shared, **{option: value})
        rows = []
        for built, n in ((together, 3), (alone, 1)):
            posterior = built.fit(model(), examples(n), contracts.streams(seeds[:n]))
            rows.append(contracts.tensors(contracts.predict(posterior, x[:n], seeds[:n])))
        assert contracts.differences(contracts.row_of(rows[0], r), rows[1]) == []
        found.append(rows[1])
    assert contracts.differences(found[0], found[1]) != []  # the option does something


def by_hand(seed, steps, make, **options):
    """A network of torch, trained by a plain loop from the start and on the batches of a row."""
    built, data, rng = model(), examples(1), contracts.streams([seed])
    plain = method(epochs=1, learning_rate=1e-30).fit(built, data, rng)
    leaves = {name: value[0].clone().requires_grad_() for name, value in plain.state.items()}
    optimiser, schedule, smoothing, limit = make(list(leaves.values()))
    x, y = data.x[0].flatten(1), data.y[0]
    batches = [
        batch
        for epoch in range(steps // 4)
        for batch in rng.child(f"batches {epoch}").permutation(53)[0, :52].split(13)
    ]
    for index in batches:
        hidden = (x[index] @ leaves["fc1.weight"].T + leaves["fc1.bias"]).relu()
        logits = hidden @ leaves["fc2.weight"].T + leaves["fc2.bias"]
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, y[index], label_smoothing=smoothing).backward()
        if limit:
            torch.nn.utils.clip_grad_norm_(list(leaves.values()), limit)
        optimiser.step()
        schedule.step()
    return {name: value.detach() for name, value in leaves.items()}


def sgd_by_hand(parameters):
    optimiser = torch.optim.SGD(parameters, 0.1, momentum=0.8, weight_decay=0.01, nesterov=True)
    return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 52), 0.1, 0.5


def adamw_by_hand(parameters):
    optimiser = torch.optim.AdamW(parameters, 0.01, weight_decay=0.1)
    return optimiser, torch.optim.lr_scheduler.MultiStepLR(optimiser, [26, 39], 0.1), 0.0, 0.0


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (
            sgd_by_hand,
            {
                "optimiser": "nesterov",
                "learning_rate": 0.1,
                "momentum": 0.8,
                "weight_decay": 0.01,
                "decay": "cosine",
                "label_smoothing": 0.1,
                "clip_norm": 0.5,
            },
        ),
        (adamw_by_hand, {"optimiser": "adamw", "learning_rate": 0.01, "weight_decay": 0.1, "decay": "step"}),
    ],
)
def test_mle_by_a_recipe_is_a_plain_loop_of_torch(make, options):
    trained = method(epochs=13, **options).fit(model(), examples(3), contracts.streams(SEEDS[:3]))
    for r in range(3):
        for name, value in by_hand(SEEDS[r], 52, make).items():
            torch.testing.assert_close(trained.state[name][r], value, rtol=1e-5, atol=1e-5)


# Validation rows


def test_held_out_rows_are_a_share_of_each_rows_own_and_are_never_trained_on():
    data = Data(torch.arange(53.0).view(1, 53, 1).expand(3, 53, 1), torch.arange(53).expand(3, 53))
    built = MLP(contracts.Signature((1,), 53, "categorical"), (2,))
    rest, plan = MLE(validation=0.2).with_plan(built, data, contracts.streams(SEEDS[:3]))
    assert rest.y.shape == (3, 42) and plan.validation.y.shape == (3, 11)
    for r in range(3):
        assert sorted([*rest.y[r].tolist(), *plan.validation.y[r].tolist()]) == list(range(53))
        assert torch.equal(rest.x[r, :, 0], rest.y[r].float())
        own, alone = MLE(validation=0.2).with_plan(built, data.row(r), contracts.streams([SEEDS[r]]))
        assert torch.equal(own.y[0], rest.y[r]) and torch.equal(alone.validation.y[0], plan.validation.y[r])
    assert len({tuple(row) for row in plan.validation.y.tolist()}) == 3
    same, plan = MLE().with_plan(built, data, contracts.streams(SEEDS[:3]))
    assert same is data and plan.validation is None


def noise_labels(rows=3):
    """Targets that have nothing to do with inputs: every epoch after some first ones makes predictions worse."""
    return contracts.classes(rows, 60, own=True)


def trained_for(epochs, **options):
    return method(epochs=epochs, learning_rate=0.05, validation=0.3, **options)


def test_the_network_is_that_of_each_rows_best_epoch_and_training_ends_when_all_rows_are_done():
    data, built = noise_labels(), model()
    with session(Session()) as current:
        found = trained_for(30, patience=3).fit(built, data, contracts.streams(SEEDS[:3]))
    fit = current.fits[0]
    epochs = fit.state.best["epoch"].tolist()
    assert fit.state.best["done"].all() and fit.state.step < fit.steps
    assert fit.state.epoch == max([*(epoch + 3 for epoch in epochs), 7])  # not before the fingerprint at 20 steps
    for r, epoch in enumerate(epochs):
        stopped = trained_for(epoch, decay="constant").fit(built, contracts.row(data, r), contracts.streams([SEEDS[r]]))
        for name, value in found.state.items():
            assert torch.equal(value[r : r + 1], stopped.state[name])


def test_a_fit_that_ended_early_is_taken_from_its_checkpoint(tmp_path):
    data, built = noise_labels(), model()
    steps, found = [], []
    for _ in range(2):
        with session(Session(tmp_path / "fit", 0.0, lambda done, total: steps.append(done))):
            found.append(trained_for(30, patience=3).fit(built, data, contracts.streams(SEEDS[:3])))
        steps.append("again")
    assert steps[-1] == "again" and steps[-2] == "again"  # no step was taken anew
    assert contracts.differences(found[0].state, found[1].state) == []


# What cannot be trained is refused


@pytest.mark.parametrize("name", TRAINED)
def test_what_a_recipe_cannot_train_is_said_in_one_line(name):
    numbers = next(contracts.models_of("mlp", others=[contracts.Signature((4,), 1, "gaussian")]))
    flat = MLP(contracts.Signature((4,), 1, "gaussian"), (3,))
    assert "classes" in method(name, label_smoothing=0.1).unsupported(flat)
    assert "(C, H, W)" in method(name, augmentation="RandomVerticalFlip").unsupported(flat)
    assert method(name, label_smoothing=0.0).unsupported(numbers) is None
    if name in UNVALIDATED:
        assert "validation" in method(name, validation=0.1).unsupported(numbers)


def test_mixed_precision_is_refused_on_the_cpu_and_patience_without_held_out_rows(refused):
    with refused("mixed_precision", "CUDA"):
        method(mixed_precision=True).fit(model(), examples(1), contracts.streams([0]))
    with refused("patience", "validation"):
        method(patience=3)
    with refused("validation", "53"):
        method(validation=0.99).fit(model(), examples(1), contracts.streams([0]))
    with refused("RandomVerticalFlip"):
        method(augmentation="RandomVerticalFlap")
    with refused("validation"):
        minimise(lambda flat, *_: flat.sum(-1), *nothing_to_predict())


def nothing_to_predict():
    """Arguments of a fit whose plan has validation rows, without a posterior that could predict them."""
    data = examples(1)
    return torch.zeros(1, 16), data, contracts.streams([0]), Plan(1, 13, 0.1, validation=data)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_in_mixed_precision_a_step_is_near_that_in_float32(name, monkeypatch):
    """Autocast by bfloat16 on the CPU stands for the one on CUDA: types must agree wherever maps meet."""
    plain, found = method(name).with_plan, []
    for mixed in (False, True):
        built = method(name)
        monkeypatch.setattr(
            Recipe,
            "with_plan",
            lambda self, *given, mixed=mixed: (given[1], contracts.replace(plain(*given)[1], mixed_precision=mixed)),
        )
        with session(Session()) as current:
            built.fit(model(), examples(2), contracts.streams(SEEDS[:2]))
        found.append(current.fits[0].state)
    assert not torch.equal(found[0].flat, found[1].flat) and found[1].flat.dtype == torch.float32
    torch.testing.assert_close(found[0].loss, found[1].loss, rtol=0.05, atol=0.05)


# Label smoothing


def test_label_smoothing_is_the_cross_entropy_from_the_smoothed_target():
    built, data = model(), examples(2)
    plan, rng = Plan(1, 13, 0.1, label_smoothing=torch.tensor([0.3, 0.0]).double()), contracts.streams(SEEDS[:2])
    flat = contracts.initial_network(built, data, rng)
    point, batch = contracts.Point(Layout(built.leaves()).views(flat)), data.batch(torch.arange(13).expand(2, 13))
    found = trained_elbo(built, point, batch, rng, plan)
    logits = built(point, batch.x, rng).logits
    for r, smoothing in enumerate((0.3, 0.0)):
        wanted = torch.nn.functional.cross_entropy(logits[r], batch.y[r], label_smoothing=smoothing, reduction="none")
        torch.testing.assert_close(-found[r], wanted)


# Options


def test_an_option_of_a_recipe_came_later_but_for_those_that_records_have():
    before = {"epochs", "batch_size", "learning_rate", "decay"}
    assert {name for name, field in fields(Recipe).items() if not field.metadata["later"]} == before


def test_a_methods_own_options_come_before_those_of_the_recipe():
    names = list(fields(catalog.load("methods", "mc_dropout")))
    assert names.index("rate") < names.index("epochs") < names.index("optimiser")


def test_an_option_of_a_recipe_is_had_by_its_name():
    assert recipe_option("epochs", default=7).default == training_option("epochs", default=7).default == 7
    with pytest.raises(KeyError):
        recipe_option("epoch")
