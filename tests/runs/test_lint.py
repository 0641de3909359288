"""Every fault of a protocol that the lint knows, committed once."""

from dataclasses import dataclass, replace

import pytest
import torch

from bdlbench import catalog
from bdlbench.core.options import fields
from bdlbench.core.spec import Cell, Choice, Replicate
from bdlbench.data.task import Examples, Shift, Signature, Task
from bdlbench.records.contents import Environment, ObjectiveFactors, Values
from bdlbench.records.record import Record
from bdlbench.runs import lint, suites

BUNDLED = [name for name in catalog.names("datasets") if not getattr(catalog.load("datasets", name), "files", ())]
BUNDLED = [name for name in BUNDLED if "path" not in fields(catalog.load("datasets", name))]  # these are a stranger's


def raw(shape=(4,), num=80):
    """Inputs with a mean and scale of their own in each part."""
    rng = torch.Generator().manual_seed(1)
    return [3 + 2 * torch.randn(count, *shape, generator=rng) for count in (num, num // 2)]


def task(by="train", declared=True, shape=(4,), **changes):
    """A task standardised by the statistics of one part, or of both."""
    train, test = raw(shape)
    axes = (0, *range(2, len(shape) + 1))
    whole = {"train": train, "test": test, "both": torch.cat([train, test]), "none": torch.tensor([0.0, 2.0] * 2)}[by]
    if by == "none":
        scaled = [train, test]
    else:
        mean, sd = whole.mean(axes, keepdim=True), whole.std(axes, correction=0, keepdim=True)
        scaled = [(part - mean) / sd for part in (train, test)]
    parts = [Examples(x, torch.zeros(len(x), dtype=torch.int64)) for x in scaled]
    made = Task(Signature(shape, 2, "categorical"), *parts, standardised=axes if declared else ())
    return replace(made, **changes)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_data_sets_are_clean(name):
    assert lint.of_task(name, catalog.build_dataset(catalog.choice("datasets", name, {})).load(0)) == []


@pytest.mark.parametrize("shape", [(4,), (3, 5, 5)])
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize(("by", "whose"), [("test", "the test data"), ("both", "training and test data together")])
def test_statistics_of_other_than_training_data_are_refused(by, whose, declared, shape):
    (found,) = lint.of_task("mine", task(by, declared, shape))
    assert (found.severity, found.where) == ("refused", "mine")
    assert f"its inputs are standardised by the statistics of {whose}" in found.message
    assert lint.of_task("mine", task("train", declared, shape)) == []


@pytest.mark.parametrize(("by", "severity"), [("both", "flagged"), ("test", "refused"), ("none", "refused")])
def test_statistics_of_all_rows_are_flagged_where_the_data_set_says_so_and_others_are_refused(by, severity):
    (found,) = lint.of_task("mine", task(by, standardised_on="all"))
    assert found.severity == severity
    assert ("declared to be standardised by all rows, and are not" in found.message) == (by == "none")


def test_inputs_that_are_said_to_be_standardised_and_are_not():
    (found,) = lint.of_task("mine", task("none"))
    assert "declared to be standardised by the training data, and are not" in found.message
    assert found.detail.startswith("column ")
    assert lint.of_task("mine", task("none", declared=False)) == []


def test_targets_are_standardised_by_training_data_too():
    made = task()
    y = torch.linspace(-1, 1, len(made.test.y))
    test = Examples(made.test.x, (y - y.mean()) / y.std(correction=0))
    train = Examples(made.train.x, torch.linspace(0, 5, len(made.train.y)))
    (found,) = lint.of_task("mine", replace(made, train=train, test=test, y_mean=2.0, y_sd=3.0))
    assert "its targets are standardised by the statistics of the test data" in found.message


@pytest.mark.parametrize(("part", "whose"), [("test", "the test data"), ("both", "training and test data together")])
def test_targets_that_nobody_declares_to_be_standardised_by_test_data(part, whose):
    train, test = (x[:, 0] for x in raw())
    whole = {"test": test, "both": torch.cat([train, test])}[part]
    y, by_train = ([(v - w.mean()) / w.std(correction=0) for v in (train, test)] for w in (whole, train))
    one = task()
    leaky, clean = (
        replace(one, train=Examples(one.train.x, a), test=Examples(one.test.x, b)) for a, b in (y, by_train)
    )
    assert [str(fault) for fault in lint.of_task("made", leaky)] == [
        f"refused: made: its targets are standardised by the statistics of {whose}"
    ]
    assert lint.of_task("made", clean) == []


def test_sets_that_share_examples():
    made = task()
    held = replace(made, validation=made.test)
    assert [str(f) for f in lint.of_task("mine", held)] == [
        "refused: mine: its validation data are all test data (such as example 0, from 0, which is test example 0)"
    ]
    far = replace(made, ood={"far": made.test.x[:20]})
    assert "its out-of-distribution (far) data are all test data" in str(lint.of_task("mine", far)[0])
    some = Examples(torch.cat([made.test.x[:36], made.train.x[:4]]), made.test.y)
    (found,) = lint.of_task("mine", replace(made, test=some, standardised=()))
    assert (found.severity, found.message) == ("flagged", "its test data are in part training data")
    assert found.detail == "10 %, such as example 36, from 0, which is training example 0"
    same = torch.ones(40, 4)
    constant = replace(made, train=Examples(same, made.test.y), test=Examples(same, made.test.y), standardised=())
    assert lint.of_task("coin", constant) == []


def test_a_shifted_test_set_that_was_trained_on():
    clean = task()
    mild = {"noise 1": Shift(clean.test.x)}  # a shift that changes nothing is no leak
    assert lint.of_task("mine", replace(clean, shifts=mild)) == []
    (found,) = lint.of_task("mine", replace(clean, shifts={"hospital": Shift(clean.train.x, clean.train.y)}))
    assert (found.severity, "shifted test (hospital)" in found.message) == ("refused", True)


@pytest.mark.parametrize(("shape", "place"), [((4,), "column 2, from 0,"), ((3, 5, 5), "column 2, from 0,")])
def test_what_is_not_standardised_is_named(shape, place):
    made = task(shape=shape)
    made.train.x[:, 2] += 0.5
    (found,) = lint.of_task("mine", made)
    assert found.detail == f"{place} has mean 0.5 and standard deviation 1"
    made.train.x[0, 2] = torch.nan
    (found,) = lint.of_task("mine", made)
    assert found.detail == f"{place} has mean nan and standard deviation nan"


def test_a_constant_column_that_is_not_0_is_named():
    """What a table divided by a standard deviation of rounding looks like."""
    made = task()
    made.train.x[:, 1] = 1.0
    (found,) = lint.of_task("mine", made)
    assert "test data" not in found.text
    assert found.detail == "column 1, from 0, has mean 1 and standard deviation 0"


def test_an_edited_data_set_of_the_same_name_is_checked_anew(monkeypatch):
    found = []
    for by in ("both", "train"):
        entry = dataclass(frozen=True)(type("Mine", (), {"load": lambda self, split, by=by: task(by)}))
        monkeypatch.setattr(catalog, "load", lambda kind, name, entry=entry: entry)
        monkeypatch.setattr(catalog, "load_task", lambda chosen, split, entry=entry: entry().load(split))
        found.append(len(lint.of_data(Choice("mine"), [0])))
    assert found[0] > found[1] == 0


def test_the_splits_of_a_data_set_have_one_line_for_each_fault():
    clean, made = task(), task()
    some = Examples(torch.cat([made.test.x[:36], made.train.x[:4]]), made.test.y)
    leaks = lint.of_task("mine", replace(made, test=some))
    found = lint.of_splits("mine", {0: lint.of_task("mine", clean), 2: leaks, 3: leaks})
    assert [str(f) for f in found] == [
        "flagged: mine, 2 of 3 splits, the first 2: its test data are in part training data "
        "(10 %, such as example 36, from 0, which is training example 0)"
    ]
    assert [f.where for f in lint.of_splits("mine", {2: leaks})] == ["mine, split 2"]
    assert [f.where for f in lint.of_splits("mine", {0: leaks})] == ["mine"]


def spec(seeds="3", *settings, **changes):
    suite = replace(suites.read_suite("quick"), **changes)
    return suites.build_spec(suite, suites.Overrides(("map",), ("mlp",), ("digits",), seeds, settings=settings))


def test_a_clean_spec():
    assert lint.of_spec(spec()) == []


@pytest.mark.parametrize("seeds", ["1", "2"])
def test_too_few_seeds_are_flagged(seeds):
    (found,) = lint.of_spec(spec(seeds))
    assert found.severity == "flagged"
    assert "a standard error needs at least 3 seeds" in found.message


@pytest.mark.parametrize(("selection", "words"), [("test", "test data"), ("ood", "out-of-distribution data")])
def test_selection_on_test_data_is_refused(selection, words, refused):
    (found,) = lint.of_spec(spec(selection=selection))
    assert (found.severity, words in found.message) == ("refused", True)
    with refused("suite", words.split()[0], "selection"):
        lint.refuse([found])
    with refused("value", "selection", "mine", "tests", "test"):
        suites.parse_suite('selection = "tests"\n[[grid]]\n', "mine")


def test_a_leak_of_a_published_protocol_is_said_and_runs():
    (found,) = lint.of_spec(spec(selection="test_as_published"))
    assert found.severity == "flagged"
    assert "with test rows in view, one choice for all splits: a leak of the published protocol" in found.message
    made = replace(record(), environment=Environment(selection="test_as_published"))
    assert [one.message for one in lint.of_record("cell", made)] == [found.message]
    suite = suites.build_spec(suites.read_suite("gal2016"), suites.Overrides(device="cpu"))
    assert [one.message for one in lint.of_spec(suite)] == [found.message]


def test_one_choice_for_several_splits_is_said():
    text = 'selection = "validation"\nsplits = "SPLITS"\nseeds = 3\n'
    text += '[[grid]]\nmethods = ["mle"]\nmodels = ["logistic"]\ndatasets = ["wine"]\n'

    def faults(text):
        return lint.of_spec(suites.build_spec(suites.parse_suite(text, "mine"), suites.Overrides(device="cpu")))

    (found,) = faults(text.replace("SPLITS", "each"))
    assert "chosen once for all splits, and what tests one split trains another" in found.message
    assert faults(text.replace("SPLITS", "one")) == []
    assert faults(text.replace("SPLITS", "each") + "[grid.choose]\nmle = { learning_rate = [0.1, 0.01] }\n") == []
    assert faults(text.replace("SPLITS", "each").replace("validation", "none")) == []


def test_a_sweep_invites_selection_on_test_data():
    (found,) = lint.of_spec(spec("3", "map.prior_sd=1,3"))
    assert "2 settings of prior_sd: to take the best by these columns is selection on test data" in found.message
    assert lint.refuse([found]) == [found]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("map", ["weight_decay=0.1 pulls weights beside the declared prior", "label_smoothing=0.2 trains on targets"]),
        ("mean_field_vi", ["weight_decay=0.1 pulls weights beside", "label_smoothing=0.2 trains on targets"]),
        ("mle", []),
        ("deep_ensemble", []),
    ],
)
def test_weight_decay_beside_a_prior_is_flagged_and_without_one_it_is_not(method, words):
    entry = "mle" if method == "deep_ensemble" else method
    settings = (f"{entry}.weight_decay=0.1", f"{entry}.label_smoothing=0.2")
    suite = suites.parse_suite('[[grid]]\nmethods = ["map"]\nmodels = ["mlp"]\ndatasets = ["wine"]\n', "mine")
    made = suites.build_spec(suite, suites.Overrides((method,), ("mlp",), ("wine",), "3", settings=settings))
    found = lint.of_spec(made)
    assert all(word in one.message for one, word in zip(found, words, strict=True))
    measured = {"temperature": {"divergence": 1.0} if words else {}, "ramp": {}}
    trained = replace(record(**measured), cell=made.cells[0])
    audits = tuple(replace(audit, **measured) for audit in trained.values.objective)
    trained = replace(trained, values=replace(trained.values, objective=audits))
    assert [one.message for one in lint.of_record("mine", trained)] == [one.message for one in found]
    usual = suites.build_spec(suite, suites.Overrides((method,), ("mlp",), ("wine",), "3"))
    assert lint.of_spec(usual) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("mle.momentum=0.5",), ["momentum=0.5 does nothing with optimiser=adam: sgd and nesterov alone read it"]),
        (("mle.momentum=0.5", "mle.optimiser=nesterov"), []),
        (("mle.momentum=0.9",), []),
        (("mle.milestones=30-60", "mle.decay=cosine"), ["milestones=30-60 does nothing with decay=cosine"]),
        (("mle.milestones=30-60", "mle.milestone_factor=0.5", "mle.decay=step"), []),
        (("mle.milestone_factor=0.5",), ["milestone_factor=0.5 does nothing with decay=constant"]),
    ],
)
@pytest.mark.parametrize("method", ["mle", "deep_ensemble"])
def test_an_option_that_nothing_reads_is_flagged(method, settings, words):
    suite = suites.parse_suite('[[grid]]\nmethods = ["mle"]\nmodels = ["mlp"]\ndatasets = ["wine"]\n', "mine")
    made = suites.build_spec(suite, suites.Overrides((method,), ("mlp",), ("wine",), "3", settings=settings))
    found = lint.of_spec(made)
    assert all(word in one.message for one, word in zip(found, words, strict=True))


def test_decay_under_a_prior_that_no_option_declares_is_seen_in_the_record():
    """The log-uniform prior of sparse VD has no option: its KL is measured."""
    cell = Cell(Choice.of("sparse_vd", {"weight_decay": 0.1}), Choice("mlp"), Choice("wine"), 1)
    (found,) = lint.of_record("mine", replace(record(), cell=cell))
    assert "weight_decay=0.1 pulls weights beside the declared prior" in found.message


def record(**audit):
    clean = {"temperature": {"divergence": 1.0}, "ramp": {"divergence": 0.0}, "local": {}, "undeclared": 0.0}
    audits = [{**clean, "named": True}, {**clean, "named": True, **audit}]
    cell = Cell(Choice("mle"), Choice("mlp"), Choice("wine"), 1)
    return Record(
        cell,
        (Replicate(0), Replicate(1)),
        Values(objective=tuple(ObjectiveFactors(**row) for row in audits)),
        {},
        Environment(),
    )


@pytest.mark.parametrize(
    ("audit", "words"),
    [
        ({}, []),
        ({"temperature": {"divergence": 0.1}}, ["the final factor of its divergence is 0.1/N, not 1/N"]),
        ({"temperature": {"divergence": None}}, ["is unknown, not 1/N"]),
        (
            {"temperature": {"divergence": 0.5}, "ramp": {"divergence": 1.0}},
            ["is 0.5/N, not 1/N: that is the effective temperature; it ramps for 100 % of training"],
        ),
        ({"local": {"KL(z)": 0.5}}, ["the latent's KL(z) has a factor of 0.5 in an example's ELBO, not 1"]),
        ({"undeclared": 0.02}, ["a penalty beside its declared prior, such as L2 (2 % of the gradient)"]),
        ({"undeclared": 0.02, "temperature": {}, "ramp": {}}, ["a penalty that no prior declares, such as L2"]),
        ({"named": False}, ["its objective names no term"]),
    ],
)
def test_objectives(audit, words):
    found = lint.of_record("mine", record(**audit))
    assert [f.severity for f in found] == ["flagged"] * len(words)
    assert all(word in f.message for f, word in zip(found, words, strict=True))


def test_the_temperature_in_words():
    assert lint.temperature(record()) == "T = 1"
    assert lint.temperature(record(ramp={"divergence": 0.1})) == "T = 1 after a ramp of 10 % of training"
    assert lint.temperature(record(temperature={"divergence": 0.5})) == "T = 0.5 … 1"
    assert lint.factors(record(temperature={"divergence": 0.5}))["effective temperature of its divergence"] == 0.5


def test_a_temperature_of_zero_and_rows_of_different_names():
    assert lint.temperature(record(temperature={"divergence": 0.0})) == "T = 0 … 1"
    other = record(temperature={"other": 1.0}, ramp={})
    assert lint.temperature(other) == "T = 1, T = 1"
    assert lint.of_record("mine", other) == []
    (found,) = lint.of_record("mine", record(temperature={"other": 0.5}, ramp={}))
    assert "the final factor of its other is 0.5/N" in found.message
