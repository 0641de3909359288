"""Adapters of other libraries: each gives what the library gives by hand, with the same start, batches and seed."""

import os
import warnings

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from bdlbench import catalog
from bdlbench.core.streams import Streams
from bdlbench.data.downloads import imported
from bdlbench.networks.from_module import from_module
from bdlbench.posteriors.trainers import Budget, MakeModule

SEEDS, SAMPLES = (3, 1), 6
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def library(name):
    """The library, or a skip with the reason; where $BDLBENCH_EXTRAS says that it is installed, a failure."""
    try:
        return imported(name)
    except ImportError as error:
        if os.environ.get("BDLBENCH_EXTRAS"):
            raise
        pytest.skip(f"{name} is not installed: {error}")


class Hand:
    """What a person would write for one row: its module, its data, and the seeds of training and prediction."""

    def __init__(self, model, data, seed, r, budget):
        streams = Streams.of_seeds([seed])
        self.make_module = MakeModule(model, data.row(r), streams)
        y = data.y[r] if model.signature.likelihood == "categorical" else data.y[r].unsqueeze(-1)
        self.train, self.x, self.budget = TensorDataset(data.x[r], y), data.x[r], budget
        self.training = streams.child("trainer").keys[0] % 2**31
        self.predicting = streams.child("predict test").child("block 0").keys[0] % 2**31

    def adam(self, module, loss, rate=1e-3):
        optimizer = torch.optim.Adam(module.parameters(), rate)
        for x, y in self.budget.batches(self.train):
            optimizer.zero_grad()
            loss(module(x), y).backward()
            optimizer.step()


@pytest.fixture
def beside(small):
    """beside(name, target, by_hand, **options): what the method predicts, and what by_hand(row) does, of each row."""

    def compared(name, by_hand, target="categorical", model="mlp", **options):
        one = small.model(model, outputs=1 if target == "gaussian" else 3, likelihood=target)
        data = small.data(one, 2)
        settings = {name: {"epochs": 3, "batch_size": 13, **options}}
        method = catalog.build_method([catalog.choice("methods", name, settings)])
        assert method.unsupported(one) is None
        posterior = method.fit(one, data, Streams.of_seeds(SEEDS))
        found = posterior.predict(data.x, SAMPLES, Streams.of_seeds(SEEDS).child("predict test"))
        for r, seed in enumerate(SEEDS):
            hand = Hand(one, data, seed, r, Budget(3, 13))
            with torch.random.fork_rng(), warnings.catch_warnings():
                there = by_hand(hand)
            if target == "gaussian":
                torch.testing.assert_close(found.mean[r].float(), there[0], **CLOSE)
                torch.testing.assert_close(found.variance[r].float(), there[1], **CLOSE)
            else:
                torch.testing.assert_close(found.probs[r], there.mean(0), **CLOSE)
        assert not torch.equal(
            found.arrays()[next(iter(found.arrays()))][0], found.arrays()[next(iter(found.arrays()))][1]
        )

    return compared


@pytest.mark.parametrize("weights", ["last_layer", "all"])
@pytest.mark.parametrize("hessian", ["kron", "diag"])
@pytest.mark.parametrize("link", ["probit", "mc", "weights"])
def test_laplace_torch(beside, weights, hessian, link):
    laplace = library("laplace")

    def by_hand(hand):
        torch.manual_seed(hand.training)
        module = hand.make_module()
        penalty = lambda: sum(w.square().sum() for w in module.parameters()) / 2 / 53  # noqa: E731
        hand.adam(module, lambda out, y: cross_entropy(out, y) + penalty())
        la = laplace.Laplace(
            module, "classification", subset_of_weights=weights, hessian_structure=hessian, prior_precision=1.0
        )
        la.fit(DataLoader(hand.train, batch_size=13))
        torch.manual_seed(hand.predicting)
        if link == "probit":
            return la(hand.x, pred_type="glm", link_approx="probit")[None]
        way = {"mc": "glm", "weights": "nn"}[link]
        return la.predictive_samples(hand.x, pred_type=way, n_samples=SAMPLES)

    beside("laplace_torch", by_hand, weights=weights, hessian=hessian, link=link)


def test_laplace_torch_of_a_number(beside):
    laplace = library("laplace")

    def by_hand(hand):
        torch.manual_seed(hand.training)
        module = hand.make_module()
        penalty = lambda: sum(w.square().sum() for w in module.parameters()) / 2 / 53  # noqa: E731
        hand.adam(module, lambda out, y: ((out - y) ** 2).mean() / 2 + penalty())
        la = laplace.Laplace(module, "regression", subset_of_weights="last_layer", hessian_structure="kron")
        la.fit(DataLoader(hand.train, batch_size=13))
        mean, variance = la(hand.x)
        return mean[:, 0], variance[:, 0, 0] + 1.0

    beside("laplace_torch", by_hand, target="gaussian")


def test_laplace_torch_refuses_what_the_library_cannot(small):
    library("laplace")
    last, whole = (catalog.load("methods", "laplace_torch")(weights=weights) for weights in ("last_layer", "all"))
    flat, deep = small.model("logistic"), small.model("resnet", (1, 8, 8))
    assert "weights=all" in last.unsupported(flat) and whole.unsupported(flat) is None
    assert last.unsupported(deep) is None and "linear maps" in whole.unsupported(deep)


@pytest.mark.parametrize("target", ["categorical", "gaussian"])
def test_ivon_opt(beside, target):
    ivon = library("ivon")

    def by_hand(hand):
        torch.manual_seed(hand.training)
        module = hand.make_module()
        optimizer = ivon.IVON(module.parameters(), lr=0.1, ess=53, weight_decay=1 / 53)
        for x, y in hand.budget.batches(hand.train):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                loss = cross_entropy(module(x), y) if target == "categorical" else ((module(x) - y) ** 2).mean() / 2
                loss.backward()
            optimizer.step()
        torch.manual_seed(hand.predicting)
        outputs = []
        for _ in range(SAMPLES):
            with optimizer.sampled_params():
                outputs.append(module(hand.x).detach())
        return answers(torch.stack(outputs), target)

    beside("ivon_opt", by_hand, target=target)


def answers(outputs, target):
    """Class probabilities (M, n, C), or mean and variance (n,) of the mixture with unit noise."""
    if target == "categorical":
        return outputs.softmax(-1)
    return outputs[..., 0].mean(0), outputs[..., 0].var(0, correction=0) + 1


def log_posterior(posteriors, module):
    """Of a batch, divided by the number of examples."""

    def of(params, batch):
        out = torch.func.functional_call(module, dict(params), batch[0])
        return -cross_entropy(out, batch[1]) + posteriors.diag_normal_log_prob(params, sd_diag=1.0) / 53, out

    return of


def test_posteriors_sghmc(beside):
    posteriors = library("posteriors")

    def by_hand(hand):
        torch.manual_seed(hand.training)
        module, networks = hand.make_module(), []
        params = {name: value.detach().clone() for name, value in module.named_parameters()}
        sghmc = posteriors.sgmcmc.sghmc.build(
            log_posterior(posteriors, module), lr=0.1, alpha=1.0, temperature=1 / 53, momenta=0.0
        )
        state = sghmc.init(params)
        for step, batch in enumerate(hand.budget.batches(hand.train), start=1):
            state, _ = sghmc.update(state, batch)
            if step in (8, 10, 12):  # of twelve steps, three of the second half
                networks.append(dict(state.params))
        return torch.stack([torch.func.functional_call(module, one, hand.x).softmax(-1).detach() for one in networks])

    beside("posteriors_sghmc", by_hand, kept=3)


def test_posteriors_refuses_batch_norm(small):
    library("posteriors")

    def normed():
        layers = torch.nn.Flatten(), torch.nn.Linear(35, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3)
        return torch.nn.Sequential(*layers)

    model = from_module(normed)(small.model("mlp").signature)
    for name in ("posteriors_sghmc", "posteriors_vi"):
        assert "BatchNorm" in catalog.load("methods", name)().unsupported(model)
        assert catalog.load("methods", name)().unsupported(small.model("mlp")) is None


def test_posteriors_vi(beside):
    posteriors, torchopt = library("posteriors"), library("torchopt")

    def by_hand(hand):
        torch.manual_seed(hand.training)
        module = hand.make_module()
        params = {name: value.detach().clone() for name, value in module.named_parameters()}
        vi = posteriors.vi.diag.build(
            log_posterior(posteriors, module), torchopt.adam(lr=1e-3), temperature=1 / 53, init_log_sds=-3.0
        )
        state = vi.init(params)
        for batch in hand.budget.batches(hand.train):
            state, _ = vi.update(state, batch)
        torch.manual_seed(hand.predicting)
        draws = [posteriors.vi.diag.sample(state) for _ in range(SAMPLES)]
        return torch.stack(
            [torch.func.functional_call(module, dict(one), hand.x).softmax(-1) for one in draws]
        ).detach()

    beside("posteriors_vi", by_hand)


@pytest.mark.parametrize("target", ["categorical", "gaussian"])
def test_torch_uncertainty_batch(beside, target):
    methods = library("torch_uncertainty.methods")

    def by_hand(hand):
        torch.manual_seed(hand.training)
        module = methods.batch_ensemble(hand.make_module(), 4, repeat_training_inputs=True, convert_layers=True)
        if target == "categorical":
            hand.adam(module, lambda out, y: cross_entropy(out, y.repeat(4)))
        else:
            hand.adam(module, lambda out, y: ((out - y.repeat(4, 1)) ** 2).mean() / 2)
        return answers(module.eval()(hand.x).unflatten(0, (4, -1)).detach(), target)

    beside("torch_uncertainty_batch", by_hand, target=target)


def test_torch_uncertainty_packed(beside):
    layers = library("torch_uncertainty.layers")

    def by_hand(hand):
        torch.manual_seed(hand.training)
        hand.make_module()
        pack = {"alpha": 2, "num_estimators": 2, "gamma": 1}
        module = torch.nn.Sequential(
            torch.nn.Flatten(),
            layers.PackedLinear(35, 17, first=True, **pack),
            torch.nn.ReLU(),
            layers.PackedLinear(17, 3, last=True, **pack),
        )
        hand.adam(module, lambda out, y: cross_entropy(out, y.repeat(2)))
        return module.eval()(hand.x).unflatten(0, (2, -1)).softmax(-1).detach()

    beside("torch_uncertainty_packed", by_hand, members=2)


def test_torch_uncertainty_refuses_what_the_library_cannot(small):
    library("torch_uncertainty.layers")
    batch, packed = (catalog.load("methods", f"torch_uncertainty_{name}")() for name in ("batch", "packed"))
    assert "members · gamma = 4" in packed.unsupported(small.model("mlp")) and not batch.unsupported(small.model("mlp"))
    assert packed.unsupported(small.model("resnet", (1, 8, 8))) and batch.unsupported(small.model("resnet", (1, 8, 8)))
    assert not packed.unsupported(small.model("lenet5", (1, 28, 28), rows=({"channels": "2-4", "hidden": 6},)))


def test_each_adapter_has_at_most_thirty_lines():
    import ast
    import inspect

    for name in catalog.names("methods"):
        entry = catalog.load("methods", name)
        if getattr(entry, "row_by_row", False):
            (tree,) = ast.parse(inspect.getsource(entry.made_by)).body
            assert tree.end_lineno - tree.lineno + 1 <= 30, name
