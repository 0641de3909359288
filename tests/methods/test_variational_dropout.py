"""Variational dropout: its limits are Gaussian dropout and sparse variational dropout, and α stays within its bound."""

import math
from dataclasses import replace

import pytest
import torch

from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Examples
from bdlbench.gate.contracts import alone_and_together
from bdlbench.gate.objectives import FixedStreams
from bdlbench.methods.gaussian_dropout import GaussianDropout
from bdlbench.methods.sparse_vd import SparseVD
from bdlbench.methods.variational_dropout import VariationalDropout
from bdlbench.training.loop import begin
from bdlbench.training.plan import Moment
from bdlbench.training.terms import listening

SEEDS = (3, 1)


def terms_of(method, model, data, flat):
    """The likelihood (R, B) and the KL (R,) of a method's objective at rows `flat`, under the same noise always."""
    (fit, *_), _ = begin(lambda: method.fit(model, data, Streams.of_seeds(SEEDS)), 1)
    with listening() as heard:
        fit.objective(flat, Examples(data.x[:, :9], data.y[:, :9]), FixedStreams((2,)), Moment(99, 100))
    return {term.kind: term.value for term in heard}


def rows(layout, seed=0):
    """Rows (2, P), their padding zero."""
    flat = torch.randn(2, layout.width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return layout.joined(layout.views(flat))


def test_with_a_fixed_alpha_it_is_gaussian_dropout(small):
    rate, data, model = 0.3, small.classes(2, dtype=torch.float64), small.model("mlp")
    layout = Layout(model.leaves())
    mean, ours = rows(layout), VariationalDropout()
    width = ours.alpha_layout(layout).width
    log_alpha = torch.full((2, width), math.log(rate / (1 - rate)), dtype=torch.float64)
    found = terms_of(ours, model, data, torch.cat([mean, log_alpha], -1))["likelihood"]
    expected = terms_of(GaussianDropout(rate=rate, input_rate=rate), model, data, mean)["likelihood"]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert found.std() > 0.1


def test_with_an_alpha_for_each_weight_it_is_sparse_variational_dropout_by_other_parameters(small):
    data, model = small.classes(2, dtype=torch.float64), small.model("mlp")
    layout = Layout(model.leaves())
    mean = rows(layout)
    ours = VariationalDropout(granularity="weight", max_alpha=1e6, approximation="sigmoid")
    alphas = ours.alpha_layout(layout)
    log_alpha = rows(alphas, seed=1)
    of_weights = dict.fromkeys(layout.leaves, torch.zeros(())) | alphas.views(log_alpha)
    spread = {name: of_weights[name].expand_as(view) for name, view in layout.views(mean).items()}
    log_variance = layout.joined(spread) + (mean.square() + 1e-16).log()
    found = terms_of(ours, model, data, torch.cat([mean, log_alpha], -1))
    expected = terms_of(SparseVD(threshold=8.0), model, data, torch.cat([mean, log_variance], -1))
    assert found.keys() == expected.keys() == {"likelihood", "divergence"}
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-7, atol=1e-7)
    assert found["divergence"].min() > 1


@pytest.mark.parametrize("approximation", ["cubic", "sigmoid"])
@pytest.mark.parametrize("granularity", ["layer", "neuron"])
def test_an_alpha_that_is_shared_counts_for_each_of_its_weights(small, granularity, approximation):
    data, model = small.classes(2, dtype=torch.float64), small.model("mlp")
    layout = Layout(model.leaves())
    mean = rows(layout)
    shared = VariationalDropout(granularity=granularity, approximation=approximation)
    single = replace(shared, granularity="weight")
    coarse, fine = (method.alpha_layout(layout) for method in (shared, single))
    log_alpha = coarse.joined({name: view - 1 for name, view in coarse.views(rows(coarse)).items()})
    spread = fine.joined({n: v.expand(2, *layout.leaves[n].shape) for n, v in coarse.views(log_alpha).items()})
    found, expected = (
        terms_of(method, model, data, torch.cat([mean, alphas], -1))
        for method, alphas in ((shared, log_alpha), (single, spread))
    )
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("granularity", ["neuron", "weight"])
def test_a_row_has_the_same_bits_alone_whatever_shares_an_alpha(small, threads, granularity):
    method = small.method("variational_dropout", [{"variational_dropout": {"granularity": granularity}}], epochs=8)
    data = small.classes(5, own=True)
    assert alone_and_together(small.model("mlp"), method, data, small.classes(5, 19, seed=4).x) == []


@pytest.mark.parametrize(
    ("granularity", "dense", "convolution"),
    [("layer", (1, 1), (1, 1, 1, 1)), ("neuron", (1, 17), (1, 2, 1, 1)), ("weight", (3, 17), (3, 2, 5, 5))],
)
def test_a_layer_a_unit_or_a_weight_has_an_alpha(small, granularity, dense, convolution):
    method = VariationalDropout(granularity=granularity)
    shapes = {
        name: {n: leaf.shape for n, leaf in method.alpha_layout(Layout(small.suited(name).leaves())).leaves.items()}
        for name in ("mlp", "lenet5")
    }
    assert list(shapes["mlp"].values())[-1] == dense
    assert [shape for shape in shapes["lenet5"].values() if len(shape) == 4][1] == convolution


@pytest.mark.slow
def test_alpha_stays_within_its_bound_in_each_row_and_can_come_back_from_it(small):
    """Labels without meaning drive α up to the bound; a target that is a sum of the inputs drives it down again."""
    bounds = [{"variational_dropout": {"max_alpha": bound, "initial_alpha": 5.0}} for bound in (0.3, 1.0)]
    method = small.method("variational_dropout", bounds, epochs=20)
    method = replace(method, learning_rate=0.02)
    noise = method.fit(small.model("mlp"), small.classes(2), Streams.of_seeds(SEEDS))
    for r, bound in enumerate((0.3, 1.0)):
        largest = max(value[r].exp().max().item() for name, value in noise.state.items() if name.endswith(".log_alpha"))
        assert largest == pytest.approx(bound, rel=1e-6)
    data = small.classes(2)
    data = replace(data, y=10 * data.x.flatten(2).sum(-1))
    model = small.model("logistic", outputs=1, likelihood="gaussian")
    signal = replace(method, epochs=80).fit(model, data, Streams.of_seeds(SEEDS))
    assert (signal.facts["alpha[fc1.weight]"] < torch.tensor([0.2, 0.6])).all()


def test_its_facts_are_the_mean_alpha_of_each_map(small):
    method = small.method("variational_dropout", [{"variational_dropout": {"granularity": "neuron"}}])
    posterior = method.fit(small.model("mlp"), small.classes(2), Streams.of_seeds(SEEDS))
    for name in ("fc1.weight", "fc2.weight"):
        mean = posterior.state[f"{name}.log_alpha"].double().exp().flatten(1).mean(1)
        torch.testing.assert_close(posterior.facts[f"alpha[{name}]"], mean, rtol=1e-6, atol=0)
    assert posterior.bound is None
