"""What every registered method holds to on every registered model. A new entry is covered by being registered."""

import random
from dataclasses import dataclass, field, replace

import pytest
import torch

from bdlbench import catalog
from bdlbench.core.options import fields, per_row_names
from bdlbench.core.spec import Cell, Replicate
from bdlbench.data.task import Examples, Signature, Task
from bdlbench.gate.contracts import (
    CONTRACT_TARGETS,
    SEEDS,
    alone_and_together,
    differences,
    equals_its_point,
    evaluations,
    meets_rule,
    own_methods,
    predict,
    rates,
    resumed,
    row_of,
    scored,
    some_values,
    steps_of,
    streams,
    without_dropping,
)
from bdlbench.gate.contracts import swept as swept_apart
from bdlbench.kernels import linear
from bdlbench.networks.depth_output import StoppingPredictive
from bdlbench.posteriors import draws, weights
from bdlbench.predictives.mixtures import Categorical, GaussianMixture
from bdlbench.runs import batch as run
from bdlbench.training.recipe import Recipe

METHODS, MODELS = catalog.names("methods"), catalog.names("models")

every_method = pytest.mark.parametrize("method", METHODS)
every_model = pytest.mark.parametrize("model", MODELS)
UNSEEDED = {"exact", "ols"}
"""Methods whose fit draws nothing."""
OF_CLASSES = {"active", "temperature_scaling"}
"""Methods that are of classes alone."""
CONJUGATE = {"coin", "bayesian_linear_regression"}
DROPPING_AND_SPARSE = {"mc_dropout", "gaussian_dropout", "variational_dropout", "dropconnect", "sparse_vd"}


def points(rows, num, shape, dtype=torch.float32):
    return torch.rand(rows, num, *shape, generator=torch.Generator().manual_seed(77), dtype=dtype)


# Rows


@pytest.mark.slow
@every_method
def test_a_row_has_the_same_bits_alone_after_300_steps(small, threads, method):
    data = small.classes(5, own=True)  # 53 examples of 35 inputs: no size is a multiple of four
    x = points(5, 29, (1, 5, 7))
    assert alone_and_together(small.model("mlp"), small.method(method, epochs=75), data, x) == []


@every_method
def test_a_row_has_the_same_bits_alone_where_every_loop_is_split_between_threads(small, method):
    torch.set_num_threads(2)
    model = small.model("mlp", (1, 7, 10), rows=[{"widths": "333"}])  # 23,000 weights: torch splits from 32,768 on
    data = small.classes(5, num=4 * 33, shape=(1, 7, 10), own=True)
    method = small.method(method, epochs=5, batch_size=33)
    assert alone_and_together(model, method, data, points(5, 51, (1, 7, 10))) == []


@every_method
@every_model
def test_a_row_is_the_same_alone_on_every_model(small, method, model):
    built, dense = small.suited(model), small.is_dense(model)
    torch.set_num_threads(1)
    data, x = small.data(built, 5, num=40), points(5, 19, built.signature.input_shape)
    fitting = small.method(method, epochs=10 if dense else 2)
    assert alone_and_together(built, fitting, data, x, r=1) == []  # bits of dense maps, else near enough


@pytest.mark.slow
@every_method
def test_a_row_has_the_same_bits_alone_where_some_products_go_one_by_one(small, threads, method, monkeypatch):
    monkeypatch.setattr(linear, "SMALL", 13 * 17 * 20)  # between the two layers' sizes
    data, x = small.classes(5, own=True), points(5, 29, (1, 5, 7))
    assert alone_and_together(small.model("mlp"), small.method(method, epochs=5), data, x) == []


@pytest.mark.parametrize("method", ["mle", "mean_field_vi"])
@pytest.mark.parametrize("width", [31, 34], ids=["just below", "just above"])
def test_a_row_has_the_same_bits_alone_around_the_size_where_products_go_one_by_one(small, threads, method, width):
    assert (64 * 128 * width > linear.SMALL) == (width == 34)
    model = small.model("mlp", (128,), rows=[{"widths": str(width)}])
    data = small.classes(5, num=128, shape=(128,), own=True)
    method = small.method(method, epochs=10, batch_size=64)
    assert alone_and_together(model, method, data, points(5, 65, (128,))) == []


@pytest.mark.parametrize("method", [name for name in METHODS if name not in OF_CLASSES])
def test_a_regression_row_has_the_same_bits_alone(small, method):
    data, x = small.classes(5, own=True), points(5, 29, (1, 5, 7))
    data = replace(data, y=data.y.float())
    model = small.model("mlp", outputs=1, likelihood="gaussian")
    assert alone_and_together(model, small.method(method, epochs=10), data, x) == []


# Determinism


@every_method
@every_model
def test_twice_the_same_gives_the_same_bits_and_another_seed_others(small, method, model):
    built = small.suited(model)
    data, x = small.data(built, 2, 27), points(2, 7, built.signature.input_shape)
    first, second = (small.method(method).fit(built, data, streams((1, 2))) for _ in range(2))
    assert differences(first.state, second.state) == []
    both = [small.tensors(predict(posterior, x, (1, 2))) for posterior in (first, second)]
    assert differences(*both) == []
    apart = differences(row_of(first.state, 0), row_of(first.state, 1))
    linear_maps = [name for name, leaf in built.leaves().items() if leaf.role in ("input", "weight")]
    learnt = (*linear_maps, "predicted")  # the latter of code from outside, which may give layers other names
    assert method in UNSEEDED or not linear_maps or any(name.startswith(leaf) for name in apart for leaf in learnt)


# Options as rows


def swept():
    """(method, entry, option) for every option of a method, or of the method it builds on, that rows may differ in.

    What all recipes share, but for the rate, is swept in tests/training/test_recipe.py.
    """
    shared = fields(Recipe).keys() - {"learning_rate"}
    found = []
    for method in METHODS:
        nested = [f.default for f in fields(catalog.load("methods", method)).values() if f.metadata["entry"]]
        names = {e: sorted(per_row_names(catalog.load("methods", e)) - shared) for e in (method, *nested)}
        found += [(method, e, o) for e, own in names.items() for o in own]
    return found


@pytest.mark.parametrize(("method", "entry", "option"), swept())
def test_an_option_swept_as_rows_equals_runs_of_their_own(small, method, entry, option):
    assert swept_apart(method, entry, option, small.model("mlp"), small.classes, small.settings()) == []


@pytest.mark.parametrize(
    ("model", "option"), [(m, o) for m in MODELS for o in sorted(per_row_names(catalog.load("models", m)))]
)
def test_a_models_option_swept_as_rows_equals_runs_of_their_own(small, model, option):
    values = some_values(catalog.load("models", model), option)
    numbers_first = sorted(CONTRACT_TARGETS, key=lambda target: target[1] != "gaussian")
    data = small.data(small.suited(model, targets=numbers_first), len(values))
    x = points(len(values), 19, data.x.shape[2:])

    def fit(rows, data, x):
        built = small.suited(model, rows, numbers_first)
        posterior = small.method("map").fit(built, data, streams([7] * len(rows)))
        return {**posterior.state, **small.tensors(predict(posterior, x, [7] * len(rows)))}

    rows = [{option: value} for value in values]
    together = fit(rows, data, x)
    for r, row in enumerate(rows):
        assert differences(row_of(together, r), fit([row], small.row(data, r), x[r : r + 1].clone())) == []


# Shapes and types


@every_method
@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_device_and_dtype_follow_the_inputs(small, method, model, dtype):
    built = small.suited(model)
    data = small.data(built, 2, dtype=dtype)
    posterior = small.method(method).fit(built, data, streams((1, 2)))
    for value in posterior.state.values():
        assert value.shape[0] == 2
        assert value.dtype == dtype
        assert value.device == data.x.device
    for fact in posterior.facts.values():
        assert fact.shape == (2,)
    assert posterior.bound is None or posterior.bound.shape == (2,)
    found = predict(posterior, points(2, 19, built.signature.input_shape, dtype), (1, 2), samples=12)
    for score in found.scores.values():
        assert score.shape == (2, 19)
        assert score.isfinite().all()
    of_classes = isinstance(found, Categorical | StoppingPredictive)
    assert of_classes == (built.signature.likelihood == "categorical")
    if of_classes:
        assert_probabilities(found, (2, 19, built.signature.outputs))
    if isinstance(found, GaussianMixture):
        assert found.means.shape[1:] == found.sds.shape[1:] == (2, 19)
        assert found.means.dtype == found.sds.dtype == dtype


def assert_probabilities(found, shape):
    assert found.probs.shape == shape
    assert found.group_log_probs.shape[1:] == shape
    torch.testing.assert_close(found.probs.sum(-1), torch.ones(shape[:2]))
    torch.testing.assert_close(found.group_log_probs.exp().sum(-1), torch.ones(found.group_log_probs.shape[:3]))


# What is supported


def test_what_a_method_does_not_support_it_declares_with_a_reason(small):
    declared = {(method, model): small.unsupported(method, model) for method in own_methods() for model in MODELS}
    reasons = {cell: reason for cell, reason in declared.items() if reason}
    for of_classes in OF_CLASSES:
        without = {model for method, model in reasons if method == of_classes}
        coin = {"coin"} if of_classes == "temperature_scaling" else set()  # its sides are classes
        assert without == {*CONJUGATE, "linear_regression", "vae", "conv_vae"} - coin
    reasons = {cell: reason for cell, reason in reasons.items() if cell[0] not in OF_CLASSES}
    assert all(len(reason) > 10 and "\n" not in reason for reason in reasons.values())
    assert {model for method, model in reasons if method == "exact"} == set(MODELS) - set(CONJUGATE)
    assert {model for method, model in reasons if method == "ols"} == set(MODELS) - {"linear_regression"}
    of_no_gaussian = {*DROPPING_AND_SPARSE, "laplace", "gaussian_vi", "hmc", "ivon", "ols"}
    of_maps = {"batch_ensemble", "rank1"}  # whose factors stand around a linear map
    assert {method for method, model in reasons if model == "coin"} == of_no_gaussian | of_maps
    assert {method for method, model in reasons if model == "bayesian_linear_regression"} == {"ols"}
    assert {method for method, model in reasons if model == "linear_regression"} == {"exact"}


def test_laplace_refuses_too_large_a_covariance(small):
    model = small.model("mlp", rows=[{"widths": "90"}])
    assert small.method("laplace").unsupported(model) is None
    assert "too many for a full" in small.method("laplace", [{"laplace": {"hessian": "full"}}]).unsupported(model)


# What may be seen


@dataclass(frozen=True)
class Toy:
    """A made-up problem whose test and OOD arrays may be noise."""

    noise: bool = False

    def load(self, split):
        rng = torch.Generator().manual_seed(split)
        x, y = torch.rand(60, 1, 8, 8, generator=rng), torch.randint(3, (60,), generator=rng)
        test, far = x[40:], torch.rand(15, 1, 8, 8, generator=rng)
        if self.noise:
            test, far = torch.randn(20, 1, 8, 8, generator=rng), torch.randn(15, 1, 8, 8, generator=rng)
        return Task(
            Signature((1, 8, 8), 3, "categorical"), Examples(x[:40], y[:40]), Examples(test, y[40:]), {"far": far}
        )


@dataclass(frozen=True)
class NoisyToy(Toy):
    """The same training data."""

    noise: bool = True


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setitem(catalog._plugins, "datasets", {"toy": Toy, "toy_noise": NoisyToy})


def record_of(small, method, dataset, folder):
    chosen = (
        catalog.choice("methods", method, small.settings()),
        catalog.choice("models", "mlp", {"mlp": {"widths": "17"}}),
        catalog.choice("datasets", dataset, {}),
    )
    cell = Cell(*chosen, samples=4)
    batch = run.Batch(tuple(run.Row(cell, Replicate(seed)) for seed in (0, 1)))
    (record,) = run.run_batch(batch, run.Settings(folder)).records
    return record


@pytest.mark.slow
@every_method
def test_parameters_do_not_depend_on_test_or_ood_inputs(small, toys, method, tmp_path):
    plain, noisy = (record_of(small, method, name, tmp_path) for name in ("toy", "toy_noise"))
    assert not plain.failed
    assert plain.values.parameters_sha256 == noisy.values.parameters_sha256
    assert plain.values.metrics != noisy.values.metrics


# Noise of predictions


@dataclass(frozen=True)
class Watched:
    """A model that keeps the logits of each sample as they are accumulated."""

    model: object
    seen: list = field(default_factory=list)

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, layer, x, rng):
        return WatchedOutput(self.model(layer, x, rng), self.seen)


@dataclass(frozen=True)
class WatchedOutput:
    output: object
    seen: list

    def elbo(self, y):
        return self.output.elbo(y)

    def fisher_targets(self):
        return self.output.fisher_targets()

    @property
    def logits(self):
        return self.output.logits

    def accumulator(self, samples):
        return WatchedSum(self.output.accumulator(samples), self.seen)


@dataclass(frozen=True)
class WatchedSum:
    total: object
    seen: list

    def add(self, watched):
        logits = watched.output.logits
        self.seen.append(logits if logits.ndim == 4 else logits.unsqueeze(0))
        self.total.add(watched.output)

    def finish(self):
        return self.total.finish()


def watched_fit(small, method, model="mlp"):
    watched = Watched(small.model(model))
    return watched.seen, small.method(method).fit(watched, small.classes(5), streams())


@every_method
@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_chunks_of_samples_do_not_matter(small, method, model, monkeypatch):
    posterior = small.method(method).fit(small.model(model), small.classes(5), streams())
    x, found = points(5, 29, (1, 5, 7)), []
    for elements in (1, 3 * 5 * 29 * 35, 1 << 30):  # one sample at once, three, all
        monkeypatch.setattr(weights, "CHUNK_ELEMENTS", elements)
        for joint in (False, True):
            found.append(small.tensors(predict(posterior, x, samples=13, joint=joint)))
    for i in (0, 1):
        assert differences(found[i], found[i + 2]) == []
        assert differences(found[i], found[i + 4]) == []


@every_method
def test_the_first_samples_do_not_depend_on_how_many_follow(small, method):
    seen, posterior = watched_fit(small, method)
    x, outputs = points(5, 29, (1, 5, 7)), []
    for samples in (10, 20):
        seen.clear()
        predict(posterior, x, samples=samples)
        outputs.append(torch.cat(seen))
    assert torch.equal(outputs[0], outputs[1][: len(outputs[0])])
    assert all(not torch.equal(*pair) for pair in zip(outputs[1][1:], outputs[1][:-1], strict=True))


@every_method
def test_joint_samples_are_functions_of_the_input(small, method, monkeypatch):
    monkeypatch.setattr(weights, "EXAMPLES_OF_ONE_NETWORK", 7)
    monkeypatch.setattr(draws, "EXAMPLES_OF_ALL_DRAWS", 7)
    seen, posterior = watched_fit(small, method)
    x = points(5, 7, (1, 5, 7))
    x[:, 4] = x[:, 2]
    seen.clear()  # active learning has predicted its pool
    predict(posterior, torch.cat([x, x, x], dim=1), samples=6, joint=True)
    first, second, third = (torch.cat(seen[block::3]) for block in range(3))  # each (M, R, 7, C)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    torch.testing.assert_close(first[:, :, 4], first[:, :, 2])


# Resuming


@every_method
@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_a_fit_resumes_to_the_same_bits(small, method, model, tmp_path):
    built, data, method_of = small.model(model), small.classes(3), small.method(method, epochs=4)
    x, path = points(3, 19, (1, 5, 7)), tmp_path / "checkpoint"
    # Active learning fits 11, 16 and 21 examples, a batch each; sequential updating 18, 18 and 17.
    several = {"active": 4 * (11 + 13 + 13), "sequential": 4 * (13 + 13 + 13)}
    alone = (12, 12 * 13) if method == "temperature_scaling" else (16, 16 * 13)  # which trains on 47
    steps, examples = (4, several[method]) if method in several else alone
    if method == "hmc":  # 12 transitions of warm-up and 8 draws, each of all examples
        steps, examples = 20, 20 * 53
    stops = random.Random(method + model).sample(range(2, steps), 2)
    assert steps_of(lambda: method_of.fit(built, data, streams(SEEDS[:3]))) == steps
    apart, current = resumed(method_of, built, data, x, path, stops)
    assert apart == []
    assert current.examples == examples
    assert current.files() != []  # it was interrupted, and had something to resume from


@every_model
def test_every_weight_of_a_model_meets_the_methods_rule(small, model):
    built = small.suited(model)
    assert meets_rule(built, small.data(built, 2)) == []
    assert equals_its_point(built, small.data(built, 2), small.settings()) == []


@pytest.mark.parametrize("method", [name for name in METHODS if rates(catalog.load("methods", name))])
@every_model
def test_without_dropping_a_method_is_map(small, method, model):
    built = small.suited(model)
    assert without_dropping(method, built, small.data(built, 2), small.settings()) == []


@pytest.mark.parametrize("metric", catalog.names("metrics"))
def test_a_metric_is_of_each_row_by_itself_and_told_by_what_records_keep(scored_predictions, metric):
    assert scored_predictions.keys() >= {"categorical", "gaussian"}
    for given in scored_predictions.values():
        assert scored(catalog.load("metrics", metric), given) == []


@pytest.fixture(scope="module")
def scored_predictions():
    return evaluations()


# Entries


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in catalog.KINDS for name in catalog.names(kind)])
def test_an_entry_says_in_one_line_what_it_is(kind, name):
    assert len(catalog.summary(kind, name)) > 10
    assert "\n" not in catalog.summary(kind, name)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in catalog.KINDS[:3] for name in catalog.names(kind)])
def test_an_entry_is_a_frozen_dataclass_whose_options_have_help_and_a_legal_default(kind, name):
    entry = catalog.load(kind, name)
    assert entry.__dataclass_params__.frozen
    for chosen in fields(entry).values():
        assert chosen.metadata["help"]
    assert catalog.batch_key(kind, catalog.choice(kind, name, {})).name == name
