"""Training code from outside as a method: what it is given, what is made of what it returns, and what is refused."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from bdlbench import catalog
from bdlbench.cli import main as cli
from bdlbench.core.errors import Diverged
from bdlbench.core.options import fields
from bdlbench.core.spec import Choice
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.networks.from_module import from_module
from bdlbench.networks.plain_module import PlainModule
from bdlbench.posteriors.trainers import Budget, from_trainer

PLUGINS = Path(__file__).parents[1] / "plugins"
SEEDS = (3, 1)


def given(make_module, train, validation, seed, budget, *, scale=2.0, times=3):
    """Hands out what it is given."""
    given.calls.append((make_module, train, validation, seed, budget, scale, times, torch.rand(3)))
    module = make_module()
    return lambda x, samples: scale * module(x).expand(samples, -1, -1)


@pytest.fixture
def calls():
    given.calls = []
    return given.calls


def fitted(small, train, rows=2, target="categorical", seeds=SEEDS, model="mlp", **options):
    one = small.model(model, outputs=1 if target == "gaussian" else 3, likelihood=target)
    data = small.data(one, rows)
    posterior = from_trainer(train)(**options).fit(one, data, Streams.of_seeds(seeds[:rows]))
    return posterior, one, data


def predicted(posterior, data, samples=4):
    return posterior.predict(data.x, samples, Streams.of_seeds(SEEDS[: data.rows]).child("predict test"))


# What a trainer is given


def test_it_gets_its_rows_data_and_options_row_by_row(small, calls):
    _, _, data = fitted(small, given, scale=torch.tensor([2.0, 5.0]), epochs=7, batch_size=11)
    assert len(calls) == 2
    for r, (_, train, validation, seed, budget, scale, times, _) in enumerate(calls):
        assert isinstance(train, TensorDataset) and validation is None
        assert torch.equal(train.tensors[0], data.x[r]) and torch.equal(train.tensors[1], data.y[r])
        assert (budget, scale, times) == (Budget(7, 11), (2.0, 5.0)[r], 3)
        assert isinstance(seed, int) and 0 <= seed < 2**31
    assert calls[0][3] != calls[1][3]


def test_its_seed_is_the_rows_and_seeds_the_generators_which_are_put_back(small, calls):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    fitted(small, given)
    fitted(small, given, rows=1, seeds=(1,))
    assert calls[1][3] == calls[2][3]  # alone as among others
    assert torch.equal(calls[1][-1], torch.rand(3, generator=torch.Generator().manual_seed(calls[1][3])))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]  # noqa: NPY002


def test_the_module_starts_where_other_methods_start_and_the_next_where_the_next_member_does(small, calls):
    def two(make_module, train, validation, seed, budget):
        first, second = make_module(), make_module()
        return lambda x, samples: torch.stack([first(x), second(x)])

    posterior, model, data = fitted(small, two)
    settings = {"deep_ensemble": {"members": 2}, "mle": {"learning_rate": 1e-30, "epochs": 1}}
    method = catalog.build_method([catalog.choice("methods", "deep_ensemble", settings)])
    ensemble = method.fit(model, data, Streams.of_seeds(SEEDS))
    for name, members in ensemble.state.items():
        torch.testing.assert_close(posterior.state[name], members[:, 0], rtol=0, atol=1e-20)
        torch.testing.assert_close(posterior.state[f"1.{name}"], members[:, 1], rtol=0, atol=1e-20)
    there = ensemble.predict(data.x, 2, Streams.of_seeds(SEEDS))
    torch.testing.assert_close(predicted(posterior, data).log_probs, there.log_probs, rtol=1e-5, atol=1e-5)


def test_validation_rows_are_held_out_as_tuning_holds_them_out(small, calls, refused):
    _, _, data = fitted(small, given, validation=0.2)
    order = Streams.of_seeds(SEEDS).child("validation").permutation(53)
    for r, (_, train, validation, *_) in enumerate(calls):
        kept = math.floor(0.8 * 53)
        assert torch.equal(train.tensors[0], data.x[r][order[r, :kept]])
        assert torch.equal(validation.tensors[1], data.y[r][order[r, kept:]])
    one = Data(data.x[:, :1], data.y[:, :1])
    with refused("validation=0.2", "1 examples"):
        from_trainer(given)(validation=0.2).fit(small.model("mlp"), one, Streams.of_seeds(SEEDS))


def test_a_budget_gives_as_many_shuffled_batches_as_it_says():
    train = TensorDataset(torch.arange(10.0)[:, None], torch.arange(10))
    torch.manual_seed(0)
    batches = list(Budget(3, 4).batches(train))
    assert len(batches) == Budget(3, 4).num_steps(train) == 6 and all(len(y) == 4 for _, y in batches)
    assert all(len({*batches[i][1].tolist(), *batches[i + 1][1].tolist()}) == 8 for i in (0, 2, 4))  # an epoch
    assert all(torch.equal(x[:, 0], y.float()) for x, y in batches)
    assert len(list(Budget(3, 4, steps=5).batches(train))) == 5
    assert [len(y) for _, y in Budget(2, 64).batches(train)] == [10, 10]


def test_a_number_is_given_as_a_column_with_the_noise_of_the_model(small):
    noises = []

    def mean_only(make_module, train, validation, seed, budget):
        module = make_module()
        assert train.tensors[1].shape == (53, 1) == module(train.tensors[0]).shape
        noises.append(make_module.noise_sd)
        return lambda x, samples: (module(x)[None, :, 0], torch.full((1, len(x)), make_module.noise_sd**2))

    posterior, model, data = fitted(small, mean_only, target="gaussian")
    assert noises == [1.0, 1.0] == [float(model.noise_sd)] * 2
    found = predicted(posterior, data)
    assert found.mean.shape == (2, 53) and torch.allclose(found.variance, torch.ones(()).double())


class Small(torch.nn.Module):
    """A stranger's module, with statistics and dropout of its own."""

    def __init__(self, width=6):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(35, width), torch.nn.BatchNorm1d(width))
        self.head = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(width, 3))

    def forward(self, x):
        return self.head(self.body(x).relu())


def test_a_module_of_the_users_own_comes_unchanged_and_starts_where_it_starts_elsewhere(small):
    seen = []

    def keeps(make_module, train, validation, seed, budget):
        seen.append(make_module())
        return lambda x, samples: seen[-1].eval()(x)[None]

    model = from_module(Small)(Signature((1, 5, 7), 3, "categorical"))
    assert from_trainer(keeps)().unsupported(model) is None
    data = small.data(model, 2)
    posterior = from_trainer(keeps)().fit(model, data, Streams.of_seeds(SEEDS))
    assert [type(one) for one in seen] == [Small, Small]
    start = model.start(data, Streams.of_seeds(SEEDS).child("init").child("start"))
    for name in ("body.1.weight", "head.1.bias"):
        assert torch.equal(posterior.state[name], start[name])
    assert not torch.equal(*posterior.state["head.1.bias"])


# What is made of what it returns


def test_probabilities_are_averaged_over_its_samples(small):
    draws = torch.randn(4, 53, 3, generator=torch.Generator().manual_seed(1))
    posterior, _, data = fitted(small, lambda make, train, validation, seed, budget: lambda x, m: draws[:m, : len(x)])
    found = predicted(posterior, data)
    assert found.samples == 4
    torch.testing.assert_close(found.probs[1], draws.softmax(-1).mean(0))


def test_each_block_of_examples_is_predicted_with_a_seed_of_its_row(small):
    seen = []

    def noisy(make_module, train, validation, seed, budget):
        def predict(x, samples):
            seen.append(len(x))
            return torch.randn(samples, len(x), 3)

        return predict

    posterior, _, data = fitted(small, noisy)
    seen.clear()
    x = data.x.repeat(1, 10, 1, 1, 1)  # 530 examples
    rng = Streams.of_seeds(SEEDS)
    first, again = posterior.predict(x, 2, rng), posterior.predict(x, 2, rng)
    assert seen == [500, 500, 30, 30] * 2
    assert torch.equal(first.log_probs, again.log_probs)
    assert not torch.equal(first.log_probs[0], first.log_probs[1])


def test_what_was_learnt_outside_the_module_shows_in_the_state(small):
    def of_seed(make_module, train, validation, seed, budget):
        shift = torch.randn(3)
        return lambda x, samples: shift.expand(1, len(x), 3)

    one, other = (fitted(small, of_seed, rows=1, seeds=(seed,))[0].state for seed in (3, 1))
    assert one.keys() == other.keys() == {"predicted"}
    assert not torch.equal(one["predicted"], other["predicted"])


# What is refused


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda x, m: torch.zeros(len(x), 3), ["(16, 3)", "logits (M, 16, 3)"]),
        (lambda x, m: torch.zeros(m, len(x), 2), ["(1, 16, 2)", "logits (M, 16, 3)"]),
        (lambda x, m: torch.zeros(0, len(x), 3), ["(0, 16, 3)", "logits (M, 16, 3)"]),
        (lambda x, m: [1.0], ["list", "logits (M, 16, 3)"]),
        (lambda x, m: (torch.zeros(m, len(x)), torch.ones(m, len(x))), ["logits (M, 16, 3)"]),
        (lambda x, m: torch.zeros(m, len(x), 3).softmax(-1), ["probabilities", "logarithm"]),
        (None, ["NoneType", "predict(x, samples)"]),
    ],
)
def test_what_it_returns_is_refused_in_one_line_with_its_place(small, refused, returned, words):
    with refused("test_trainers.py:", *words):
        fitted(small, lambda make, train, validation, seed, budget: returned)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda x, m: torch.zeros(m, len(x)), ["(1, 16)", "(M, 16)"]),
        (lambda x, m: (torch.zeros(2, len(x)), torch.ones(1, len(x))), ["(2, 16)", "(1, 16)"]),
        (lambda x, m: (torch.zeros(m, len(x)), -torch.ones(m, len(x))), ["-1"]),
    ],
)
def test_of_a_number_it_must_return_means_and_variances(small, refused, returned, words):
    with refused(*words):
        fitted(small, lambda make, train, validation, seed, budget: returned, target="gaussian")


def test_a_fit_that_is_not_finite_has_diverged(small):
    with pytest.raises(Diverged):
        fitted(small, lambda make, train, validation, seed, budget: lambda x, m: torch.full((m, len(x), 3), math.nan))


def test_joint_draws_are_refused(small, calls, refused):
    posterior, _, data = fitted(small, given)
    with refused("jointly"):
        posterior.predict(data.x, 2, Streams.of_seeds(SEEDS), joint=True)
    assert posterior.moments() is None and posterior.bound is None and posterior.facts == {}


def test_a_function_with_other_arguments_is_refused(refused):
    with refused("make_module", "budget", "test_trainers.py:"):
        from_trainer(lambda module, data: None)
    with refused("rate", "default"):
        from_trainer(lambda make, train, validation, seed, budget, rate: None)
    with refused("epochs", "budget"):
        from_trainer(lambda make, train, validation, seed, budget, epochs=3: None)
    with refused("rate", "given"):
        from_trainer(given, rate=3)


def test_a_library_that_is_absent_is_named_with_the_extra_that_brings_it(small):
    reason = from_trainer(given, needs="no_such_library")().unsupported(small.model("mlp"))
    assert reason.endswith("pip install 'bdlbench[no-such-library]'")
    assert from_trainer(given, needs="torch")().unsupported(small.model("mlp")) is None


@pytest.mark.parametrize("name", ["vae", "stopping_resnet", "m2"])
def test_a_model_that_is_no_plain_module_is_refused(small, name):
    assert from_trainer(given)().unsupported(small.suited(name))


def test_keywords_are_options_and_shared_names_have_their_range():
    known = fields(
        from_trainer(lambda make, train, validation, seed, budget, *, learning_rate=0.5, nesterov=True: None)
    )
    assert list(known) == ["epochs", "batch_size", "steps", "validation", "learning_rate", "nesterov"]
    assert known["learning_rate"].default == 0.5 and known["learning_rate"].metadata["open_ends"]
    assert known["nesterov"].type == "bool" and known["learning_rate"].type == "PerRow"


# Under the harness


@pytest.fixture
def plain_loop():
    catalog.add_plugin(PLUGINS / "early_stopped.py")


def test_a_plain_loop_follows_the_same_loop_by_hand(small, plain_loop):
    model = small.model("mlp")
    data = small.data(model, 1)
    method = catalog.build_method([catalog.choice("methods", "early_stopped", {"early_stopped": {"epochs": 3}})])
    posterior = method.fit(model, data, Streams.of_seeds([3]))
    start = catalog.build_method([catalog.choice("methods", "mle", {"mle": {"epochs": 1, "learning_rate": 1e-30}})])
    module = PlainModule(model, {k: v[0] for k, v in start.fit(model, data, Streams.of_seeds([3])).state.items()})
    optimizer = torch.optim.SGD(module.parameters(), 0.1, 0.9)
    with torch.random.fork_rng():
        torch.manual_seed(Streams.of_seeds([3]).child("trainer").keys[0] % 2**31)
        order = torch.randperm(53)  # one batch an epoch: 64 are more than there are
        for _ in range(3):
            optimizer.zero_grad()
            cross_entropy(module(data.x[0]), data.y[0]).backward()
            optimizer.step()
    assert sorted(order.tolist()) == list(range(53))
    for name, value in module.state_dict().items():
        torch.testing.assert_close(posterior.state[name][0], value, rtol=1e-5, atol=1e-6)


def records_of(folder):
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}


RUN = ["run", "--plugin", str(PLUGINS / "early_stopped.py"), "--method", "early_stopped", "--model", "mlp"]
RUN += ["--dataset", "wine", "--samples", "2", "--set", "early_stopped.epochs=2", "--jobs", "1"]


@pytest.mark.slow
def test_each_replicate_is_a_record_and_none_is_trained_twice(tmp_path, capsys):
    words = [*RUN, "--results", str(tmp_path)]
    assert cli.main([*words, "--seeds", "2"]) == 0
    first = records_of(tmp_path)
    assert sorted(r["replicates"][0]["seed"] for r in first.values()) == [0, 1]
    for one in first.values():
        assert one["cost"]["rows"] == 1 and one["cost"]["peak_memory_bytes"] > 0 and one["cost"]["train_seconds"] > 0
        assert {"accuracy", "nll", "ece"} <= one["values"]["metrics"].keys()
    assert cli.main([*words, "--seeds", "3"]) == 0
    again = records_of(tmp_path)
    assert len(again) == 3 and all(again[name] == one for name, one in first.items())
    capsys.readouterr()
    assert cli.main(["verify", str(tmp_path), "--plugin", str(PLUGINS / "early_stopped.py")]) == 0


@pytest.mark.slow
def test_it_passes_check(capsys):
    assert cli.main(["check", "--plugin", str(PLUGINS / "early_stopped.py")]) == 0
    assert "method early_stopped" in capsys.readouterr().out


@pytest.mark.slow
def test_check_names_a_trainer_that_remembers_something_of_its_own(tmp_path, capsys):
    source = (PLUGINS / "early_stopped.py").read_text()
    body = "rows = iter(range(10**6))\n\n\ndef early_stopped"
    source = source.replace("def early_stopped", body, 1)
    (tmp_path / "mine.py").write_text(source.replace("module.eval()(x)", "(1 + next(rows)) * module.eval()(x)"))
    assert cli.main(["check", "--plugin", str(tmp_path / "mine.py")]) == 1
    out = capsys.readouterr().out
    assert "the same seeds give a different" in out and "mine.py:13" in out


def test_an_ensemble_of_a_trainer_trains_each_member_and_its_rows_stay_apart(small, plain_loop):
    settings = {"deep_ensemble": {"members": 2, "member": "early_stopped"}, "early_stopped": {"epochs": 1}}
    chosen = catalog.choice("methods", "deep_ensemble", settings)
    assert catalog.is_row_by_row(chosen) and not catalog.is_row_by_row(Choice.of("mle", {}))
    model = small.model("mlp")
    data = small.data(model, 2)
    posterior = catalog.build_method([chosen]).fit(model, Data(data.x, data.y), Streams.of_seeds(SEEDS))
    assert predicted(posterior, data).samples == 2
