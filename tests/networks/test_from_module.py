"""An `nn.Module` as a model: the equal of a hand-written loop, of our own mlp, and of each row alone."""

import dataclasses
import importlib
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from bdlbench import api, catalog
from bdlbench.cli import main as cli
from bdlbench.core.errors import BadInput
from bdlbench.core.layout import Layout
from bdlbench.core.options import fields, option, resolve
from bdlbench.core.streams import Streams
from bdlbench.data.task import Signature
from bdlbench.extend import from_module
from bdlbench.gate import contracts
from bdlbench.kernels.sampling import keep_mask
from bdlbench.methods.mle import MLE
from bdlbench.models.mlp import MLP
from bdlbench.networks import modules
from bdlbench.posteriors.statistics import with_statistics
from bdlbench.training import buffers

IMAGES, NUMBER = Signature((1, 8, 8), 3, "categorical"), Signature((5,), 1, "gaussian")


def small_cnn(width: int = 4, rate: float = 0.25, classes: int = 3):
    """A CNN with BatchNorm and Dropout."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),  # a bias before BatchNorm has no gradient but rounding
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout(rate),
        nn.Flatten(),
        nn.Linear(16 * width, classes),
    )


class Recurrent(nn.Module):
    """An LSTM over the rows of an image."""

    def __init__(self, signature):
        super().__init__()
        self.lstm = nn.LSTM(signature.input_shape[-1], 6, batch_first=True)
        self.head = nn.Linear(6, signature.outputs)

    def forward(self, x):
        return self.head(self.lstm(x[:, 0])[0][:, -1])


class Attentive(nn.Module):
    """A transformer over the rows of an image, with a class token."""

    def __init__(self, signature: Signature, rate: float = 0.1):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        block = nn.TransformerEncoderLayer(8, 2, 16, rate, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, signature.outputs)

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), -1, -1), x[:, 0]], 1)
        return self.head(self.encoder(x)[:, 0])


class RowByRow(nn.Module):
    """Reshapes with the batch behind the rows of an image, so that rows cannot share a batch."""

    def __init__(self, signature: Signature):
        super().__init__()
        self.embed, self.norm, self.drop = nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.25)
        self.head = nn.Linear(48, signature.outputs)

    def forward(self, x):
        steps = self.drop(self.norm(self.embed(x[:, 0].transpose(0, 1).reshape(-1, 8))).relu())
        return self.head(steps.view(8, len(x), 6).transpose(0, 1).flatten(1))


class OwnDropout(nn.Module):
    """Dropout that takes its masks from a stream, as the model does."""

    def __init__(self, rng, rate):
        super().__init__()
        self.rng, self.rate = rng, rate

    def forward(self, x):
        if not self.training:
            return x
        kept = keep_mask(self.rng.bits(x.shape, x, "module")[0], self.rate, 0, x)
        return x * kept / (1 - self.rate)


def adam(parameters, steps):
    return torch.optim.Adam(parameters, lr=1e-3), None


def sgd(parameters, steps):
    optimiser = torch.optim.SGD(parameters, 0.005, momentum=0.8, weight_decay=0.01, nesterov=True)
    return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)


RECIPES = {
    adam: {"learning_rate": 1e-3},
    sgd: {"learning_rate": 0.005, "optimiser": "nesterov", "momentum": 0.8, "weight_decay": 0.01, "decay": "cosine"},
}


def by_hand(make, signature, data, rng, epochs, batch_size, trained, replaced):
    """Train a module as its author would, from the same start, by the same batches and masks."""
    module = modules.made(make, rng.child("init").child("start").keys[0], signature.input_shape)
    module[replaced] = OwnDropout(rng.child("noise"), module[replaced].p)
    optimiser, schedule = trained(module.parameters(), epochs * (data.num_data // batch_size))
    for epoch in range(epochs):
        order = rng.child(f"batches {epoch}").permutation(data.num_data)[0]
        for index in order[: len(order) // batch_size * batch_size].split(batch_size):
            optimiser.zero_grad()
            functional.cross_entropy(module.train()(data.x[0, index]), data.y[0, index]).backward()
            optimiser.step()
            if schedule:
                schedule.step()
    return module.eval()


@pytest.mark.slow
@pytest.mark.parametrize("trained", RECIPES)
def test_mle_follows_a_hand_written_loop(trained):
    """200 steps of Adam, or of a recipe, with BatchNorm and Dropout: parameters, statistics and predictions."""
    data, rng = contracts.data_for(IMAGES, 1), Streams.of_seeds([3])
    model = from_module(small_cnn)(IMAGES)
    assert model.unsupported() is None
    posterior = MLE(epochs=50, batch_size=13, **RECIPES[trained]).fit(model, data, rng)
    module = by_hand(small_cnn, IMAGES, data, Streams.of_seeds([3]), 50, 13, trained, replaced=4)
    theirs = modules.values_of(module)
    assert theirs.keys() == posterior.state.keys() and len(theirs) == 7
    for name, value in posterior.state.items():
        gain = float(model.leaves()[name].role == "scale")
        torch.testing.assert_close(value[0] + gain, theirs[name], rtol=1e-5, atol=1e-5)
    moved = modules.values_of(modules.made(small_cnn, 0, IMAGES.input_shape))
    assert (theirs["1.running_mean"] - moved["1.running_mean"]).abs().max() > 0.01
    x = contracts.data_for(IMAGES, 1, 19, seed=7).x
    found = posterior.predict(x, 5, Streams.of_seeds([3])).log_prob(torch.zeros(1, 19, dtype=torch.int64))
    torch.testing.assert_close(found[0].float(), module(x[0]).log_softmax(-1)[:, 0].detach(), rtol=1e-5, atol=1e-5)


class AsMLP(nn.Module):
    """With the names of ours, since a map's masks are drawn by its name."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc2(self.fc1(x.flatten(1)).relu())


@pytest.mark.slow
@pytest.mark.parametrize("name", catalog.names("methods"))
def test_a_module_is_our_own_mlp(name):
    """Every method learns and predicts the same of both, from the same start."""
    made = from_module(AsMLP)
    same = dataclasses.make_dataclass("Same", [], bases=(made,), frozen=True, namespace={"start": lambda *_: {}})
    ours, theirs = MLP(IMAGES, widths=(6,)), same(IMAGES)
    method = contracts.method_of(name, contracts.quick())
    if reason := method.unsupported(ours):
        assert method.unsupported(theirs) == reason
        return
    data = contracts.data_for(IMAGES, 2)
    x, y = contracts.data_for(IMAGES, 2, 19, seed=7).x, torch.ones(2, 19, dtype=torch.int64)
    found = []
    for model in (ours, theirs):
        posterior = method.fit(model, data, contracts.streams((3, 1)))
        predictive = contracts.predict(posterior, x, (3, 1))
        found.append((list(posterior.state.values()), predictive.log_prob(y)))
    (mine, log_prob), (others, their_log_prob) = found
    for one, other in zip(mine, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_prob, their_log_prob, rtol=1e-5, atol=1e-5)


ALONE = (
    "mle",
    "mc_dropout",
    "gaussian_dropout",
    "dropconnect",
    "mean_field_vi",
    "sparse_vd",
    "swag",
    "sghmc",
    "snapshot",
    "laplace",
    "batch_ensemble",
    "rank1",
)


@pytest.mark.slow
@pytest.mark.parametrize("make", [small_cnn, Recurrent, Attentive, RowByRow])
@pytest.mark.parametrize("name", ALONE)
def test_three_rows_are_each_alone(make, name):
    model = from_module(make)(IMAGES)
    method = contracts.method_of(name, contracts.quick())
    if make is RowByRow and name in ("batch_ensemble", "rank1"):  # its rows are no longer in the order of the examples
        assert "embed.weight" in (method.unsupported(model) or "")
        return
    assert method.unsupported(model) is None
    data, x = contracts.data_for(IMAGES, 3, 27), contracts.data_for(IMAGES, 3, 11, seed=7).x
    posterior = method.fit(model, data, contracts.streams((3, 1, 4)))
    together = contracts.everything(posterior, contracts.predict(posterior, x, (3, 1, 4)), torch.ones(3, 11).long())
    apart = []
    for r in (0, 2):
        alone = method.fit(model, contracts.row(data, r), contracts.streams(((3, 1, 4)[r],)))
        single = contracts.predict(alone, x[r : r + 1].clone(), ((3, 1, 4)[r],))
        found = contracts.everything(alone, single, torch.ones(1, 11).long())
        apart += contracts.differences(contracts.row_of(together, r), found, near=True)
    assert apart == []


@pytest.mark.slow
@pytest.mark.parametrize("make", [small_cnn, RowByRow])
@pytest.mark.parametrize("name", ["mle", "mc_dropout", "mean_field_vi", "sghmc"])
def test_a_stopped_fit_resumes_to_the_same_bits(name, make, tmp_path):
    """Statistics of BatchNorm and the stream of the module's dropout are in the checkpoint."""
    model, data = from_module(make)(IMAGES), contracts.data_for(IMAGES, 2)
    method = contracts.method_of(name, contracts.quick())
    apart, session = contracts.resumed(method, model, data, data.x[:, :9], tmp_path / "fit", (1, 3, 6))
    assert apart == [] and session.calls == 1


@pytest.mark.slow
@pytest.mark.parametrize("make", [small_cnn, Attentive, RowByRow])
def test_a_restored_posterior_predicts_the_same(make):
    model, data = from_module(make)(IMAGES), contracts.data_for(IMAGES, 2)
    for name in ("mle", "mc_dropout", "mean_field_vi"):
        method = contracts.method_of(name, contracts.quick())
        posterior = method.fit(model, data, contracts.streams((3, 1)))
        assert contracts.restored(method, model, posterior, data.x[:, :9], (3, 1)) == []


def test_statistics_are_of_the_whole_batch_under_the_drawn_network():
    """Two networks of each row: mean and variance of each channel are those of the first layer's outputs."""
    model, x = from_module(small_cnn)(IMAGES), contracts.data_for(IMAGES, 2).x
    starts = [model.start(contracts.data_for(IMAGES, 2), Streams.of_seeds(seeds)) for seeds in ((3, 1), (4, 5))]
    leaves = {name: torch.stack([one[name] for one in starts]) for name in starts[0]}  # (M, R, *S)
    found = with_statistics(model, leaves, x)
    for m in range(2):
        for r in range(2):
            out = functional.conv2d(x[r], leaves["0.weight"][m, r], padding=1).movedim(1, 0).flatten(1)
            torch.testing.assert_close(found["1.running_mean"][m, r], out.mean(1), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(found["1.running_var"][m, r], out.var(1), rtol=1e-4, atol=1e-6)
    assert found["0.weight"] is leaves["0.weight"]


def test_a_module_whose_rows_run_apart_says_so():
    assert "one after the other" in from_module(RowByRow)(IMAGES).remark()
    assert from_module(small_cnn)(IMAGES).remark() is None


def test_its_own_dropout_stays_on_for_mc_dropout():
    data = contracts.data_for(IMAGES, 1)
    spread = {}
    for own in ("stays_on", "as_trained"):
        model = from_module(small_cnn)(IMAGES, own_dropout=own)
        for rates in (0.0, 0.5):
            settings = {**contracts.quick(), "mc_dropout": {"epochs": 1, "rate": rates, "input_rate": 0.0}}
            posterior = contracts.method_of("mc_dropout", settings).fit(model, data, Streams.of_seeds([3]))
            log_probs = posterior.predict(data.x, 6, Streams.of_seeds([5])).group_log_prob(data.y)
            spread[own, rates] = float(log_probs.std(0).max())
    assert spread["stays_on", 0.0] > 1e-3 and spread["stays_on", 0.0] == spread["stays_on", 0.5]
    assert spread["as_trained", 0.0] == 0 and spread["as_trained", 0.5] > 1e-3


@pytest.mark.parametrize("estimator", ["weight", "flipout", "score_leave_one_out"])
def test_every_estimator_of_variational_inference_trains_it(estimator):
    model, data = from_module(small_cnn)(IMAGES), contracts.data_for(IMAGES, 2)
    settings = {**contracts.quick(), "mean_field_vi": {"epochs": 1, "estimator": estimator}}
    if estimator.startswith("score"):
        settings["mean_field_vi"]["weight_samples"] = 3
    posterior = contracts.method_of("mean_field_vi", settings).fit(model, data, contracts.streams((3, 1)))
    assert posterior.state["1.running_mean.mean"].abs().max() > 0.001
    assert posterior.predict(data.x, 4, contracts.streams((3, 1))).log_prob(data.y).isfinite().all()


def test_statistics_have_neither_prior_nor_noise():
    """The ELBO does not see them, a draw does not move them, and they do not count as parameters."""
    model, data = from_module(small_cnn)(IMAGES), contracts.data_for(IMAGES, 2)
    layout = Layout(model.leaves())
    size = sum(one.numel() for one in small_cnn().parameters())
    assert layout.num_parameters == size == layout.packed(torch.zeros(2, layout.width)).shape[1]
    assert {name for name, leaf in model.leaves().items() if leaf.role == "buffer"} == layout.buffers.keys()
    assert layout.fill(lambda leaf: 1.0).sum() == size
    posterior = contracts.method_of("mean_field_vi", contracts.quick()).fit(model, data, contracts.streams((3, 1)))
    draw = posterior.draw(Streams.of_seeds([0, 1]).samples(0, 3), True)
    for name in layout.buffers:
        mean = posterior.state[f"{name}.mean"]
        torch.testing.assert_close(draw.leaf(name), mean.expand(3, *mean.shape), rtol=0, atol=0)
        assert mean.abs().max() > 0.01
    weight = posterior.state["6.weight.mean"]
    assert not torch.allclose(draw.leaf("6.weight")[0], weight, atol=1e-4)


def partly_frozen():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 3))
    net[1].requires_grad_(False)
    return net


def test_what_is_frozen_stays_where_it_is():
    """Under weight decay, which every optimiser lays on whole rows, and under a prior and noise."""
    model, data = from_module(partly_frozen)(IMAGES), contracts.data_for(IMAGES, 2)
    start = model.start(data, contracts.streams((3, 1)).child("init").child("start"))
    for name, key in (("mle", "1.weight"), ("map", "1.weight"), ("mean_field_vi", "1.weight.mean")):
        settings = {**contracts.quick(), name: {"epochs": 2, "weight_decay": 0.5}}
        found = contracts.method_of(name, settings).fit(model, data, contracts.streams((3, 1))).state[key]
        torch.testing.assert_close(found, start["1.weight"], rtol=0, atol=0)


def test_each_row_starts_as_its_own_code_does():
    model, rng = from_module(small_cnn)(IMAGES), Streams.of_seeds([3, 1])
    state = torch.get_rng_state()
    found = model.start(contracts.data_for(IMAGES, 2), rng)
    assert torch.equal(state, torch.get_rng_state())
    for row, key in enumerate(rng.keys):
        torch.manual_seed(key % 2**32)
        own = modules.values_of(small_cnn())
        for name, value in found.items():
            assert torch.equal(value[row] + float(name == "1.weight"), own[name])
    torch.set_rng_state(state)


def regression(width: int = 6, noise_outputs: int = 1):
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, noise_outputs))


def test_a_regression_has_the_noise_of_mlp():
    data = contracts.data_for(NUMBER, 2)
    layer_free = {"known": 1, "learnt": 1, "head": 2}
    for noise, outputs in layer_free.items():
        model = from_module(regression)(NUMBER, noise_outputs=outputs, noise=noise, noise_sd=0.3)
        assert model.unsupported() is None
        assert ("log_gain" in model.leaves()) == (noise == "learnt")
        posterior = contracts.method_of("mle", contracts.quick()).fit(model, data, contracts.streams((3, 1)))
        assert posterior.predict(data.x, 1, contracts.streams((3, 1))).log_prob(data.y).isfinite().all()
    assert "head" in from_module(regression).__dataclass_fields__["noise"].metadata["choices"]
    assert from_module(regression)(NUMBER, noise_outputs=2).unsupported() is not None
    flat = from_module(lambda: nn.Sequential(nn.Linear(5, 1), nn.Flatten(0)))(NUMBER)
    assert flat.unsupported() is None
    assert flat(
        contracts.Point(flat.start(data, contracts.streams((3, 1)))), data.x, contracts.streams((3, 1))
    ).mean.shape
    scaled = from_module(regression)(NUMBER, noise_unit="original", noise_sd=3.0).with_target_sd(
        torch.tensor([2.0, 6.0])
    )
    assert scaled.noise_sd.tolist() == [1.5, 0.5] and scaled.noise_unit == "model"


@pytest.mark.parametrize("last, refused", [(nn.Softmax, True), (nn.LogSoftmax, False), (nn.Tanh, False)])
def test_probabilities_are_no_logits(last, refused):
    """Their cross-entropy would be that of a second softmax, which trains, badly and without a word."""

    def make_ending():
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(IMAGES.outputs), last(*[-1][: last is not nn.Tanh]))

    reason = from_module(make_ending)(IMAGES).unsupported()
    assert ("probabilities" in reason) if refused else reason is None


def test_options_are_those_of_the_callable(refused):
    entry = from_module(small_cnn)
    told = {field.name: field.default for field in dataclasses.fields(entry)}
    assert list(told)[:4] == ["signature", "width", "rate", "classes"] and told["width"] == 4
    assert entry.__doc__ == small_cnn.__doc__ and entry.__module__ == small_cnn.__module__
    assert entry(IMAGES, width=2).leaves()["0.weight"].shape == (2, 1, 3, 3)
    assert entry(IMAGES, classes=4).unsupported() is not None

    own = from_module(small_cnn, width=option(4, "channels of the convolution", low=2))
    assert fields(own)["width"].metadata["help"] == "channels of the convolution"
    with refused("mine.width=1", "[2, inf]"):
        resolve(own, "mine", {"width": "1"})

    def without_default(width):
        return nn.Linear(5, width)

    def taken(noise_sd=1.0):
        return nn.Linear(5, 1)

    for wrong, name in ((without_default, "width"), (taken, "noise_sd"), (3, "callable")):
        with pytest.raises(BadInput) as caught:
            from_module(wrong)
        assert name in str(caught.value)


def test_a_class_of_no_imported_module_is_a_model():
    """Such as one that a server, a notebook or `exec` made: its module need not be in sys.modules."""
    namespace = {"__name__": "of_no_file", "nn": nn}
    exec("class Net(nn.Module):\n    def __init__(self, width=3):\n        super().__init__()", namespace)
    made = from_module(namespace["Net"])
    assert made.__module__ == "of_no_file" and made(NUMBER).width == 3


def test_new_values_of_buffers_are_heard_in_a_step_alone():
    buffers.remember(3, torch.ones(2, 1))
    with buffers.remembering() as heard:
        buffers.remember(3, torch.zeros(2, 1))
        buffers.remember(3, torch.ones(2, 1, requires_grad=True))
    assert list(heard) == [3] and heard[3].sum() == 2 and not heard[3].requires_grad


NETS = '''
from torch import nn
from bdlbench.extend import from_module

def make_cnn(signature, width: int = 2):
    """Two layers."""
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.LazyLinear(signature.outputs))

def wrong():
    return nn.Linear(3, 10)

class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.head = nn.Linear(8, 2), nn.Linear(16, 10)

    def forward(self, x):
        rows = self.rows(x[:, 0].transpose(0, 1).reshape(-1, 8)).view(8, len(x), 2)
        return self.head(rows.transpose(0, 1).flatten(1))

models = {"my_cnn": from_module(make_cnn)}
'''
RUN = ["run", "--method", "mle", "--dataset", "digits", "--seeds", "2", "--set", "mle.epochs=1", "--results", "out"]


@pytest.mark.slow
def test_a_module_runs_from_the_command_line(tmp_path, monkeypatch, capsys):
    """By a module's name and by a file; its source is in the record; options sweep; verified to the same bits."""
    (tmp_path / "somebodys_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    by_name = ["--module", "somebodys_nets:make_cnn"]
    try:
        assert cli.main([*RUN, *by_name, "--set", "make_cnn.width=2,3"]) == 0
        assert "2 trained" not in capsys.readouterr().out
        texts = [path.read_text() for path in (tmp_path / "out").glob("*.json")]
        assert len(texts) == 2 and all('"models make_cnn"' in text for text in texts)
        assert cli.main(["verify", "out", *by_name]) == 0
        assert cli.main([*RUN, *by_name, "--set", "make_cnn.width=2,3"]) == 0
        assert " none had to be trained" in capsys.readouterr().out
        assert cli.main([*RUN, "--plugin", "somebodys_nets.py", "--model", "my_cnn"]) == 0
        capsys.readouterr()
        assert cli.main([*RUN, "--module", "somebodys_nets.py:Turned"]) == 0
        assert capsys.readouterr().err.count("one after the other") == 1
        for place, named, code in (
            ("somebodys_nets.py:wrong", "somebodys_nets.py", 2),
            ("somebodys_nets:absent", "absent", 2),
            ("nowhere:absent", "nowhere", 2),
            ("make_cnn", "make_cnn", 2),
        ):
            assert cli.main([*RUN, "--module", place]) == code
            error = capsys.readouterr().err
            assert named in error and error.count("\n") == 1
    finally:
        forget("make_cnn", "wrong", "Turned", "my_cnn")


@pytest.mark.slow
def test_a_program_gives_its_modules_as_they_are(tmp_path, monkeypatch, refused):
    """A function of a file runs as its place does, several beside each other; one of no file is refused in one line."""
    (file := tmp_path / "my_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    nets = importlib.import_module(file.stem)
    kept = {"method": "mle", "dataset": "digits", "seeds": 1, "set": ["mle.epochs=1"], "results": tmp_path / "out"}

    def made_inside():
        return nets.make_cnn()

    namespace = {"__name__": "of_no_file", "nn": nn}
    exec("class Net(nn.Module): pass", namespace)
    try:
        (held,) = api.run(module=nets.make_cnn, **kept).records
        (again,) = api.run(module="my_nets.py:make_cnn", **kept).records
        assert held.values == again.values and held.cell.model.name == "make_cnn"
        wrongs = (
            (made_inside, "made_inside"),
            (namespace["Net"], "Net"),
            ([nets.make_cnn, made_inside], "nets.py"),
            (3, 3),
        )
        for wrong, named in wrongs:
            with pytest.raises(BadInput) as raised:
                api.run(module=wrong, **kept)
            refused.says(str(raised.value), "module", named)
    finally:
        sys.modules.pop("my_nets")
        forget("make_cnn")


def forget(*names):
    """Take modules that were registered out of the catalog again."""
    for name in names:
        catalog._plugins["models"].pop(name, None)
        catalog._modules.pop(name, None)
