"""Temperature scaling: the optimum beside scipy's and by hand, and what a temperature must leave as it is."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from bdlbench import catalog
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.gate.contracts import differences, resumed
from bdlbench.methods.temperature_scaling import HIGHEST, LOWEST, best_temperature
from bdlbench.posteriors.scaled import TEMPERATURE, ScaledPosterior

SEEDS = (3, 1)


def logits(seed, num=200, classes=4, scale=1.0):
    """Logits (n, C), and classes that are drawn from softmax(logits / scale)."""
    rng = torch.Generator().manual_seed(seed)
    found = 2 * torch.randn(num, classes, generator=rng, dtype=torch.float64)
    return found, torch.multinomial((found / scale).softmax(-1), 1, generator=rng).squeeze(-1)


def nll(scores, y):
    return torch.nn.functional.cross_entropy(scores, y).item()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_it_is_scipys_optimum(seed, scale):
    scores, y = logits(seed, scale=scale)
    judge = minimize(lambda log_t: nll(scores / math.exp(log_t[0]), y), [0.0], method="BFGS", options={"gtol": 1e-9})
    assert best_temperature(scores, y) == pytest.approx(math.exp(judge.x[0]), rel=1e-5)


@pytest.mark.parametrize(("sure", "right"), [(2.0, 0.75), (0.5, 0.9), (3.0, 0.6)])
def test_by_hand_of_two_classes(sure, right):
    """Logits (a, 0), and a share k of the first class: softmax(a / T) = k, so T = a / log(k / (1 − k))."""
    y = (torch.arange(20) >= round(20 * right)).long()
    scores = torch.tensor([sure, 0.0], dtype=torch.float64).expand(20, 2)
    assert best_temperature(scores, y) == pytest.approx(sure / math.log(right / (1 - right)), rel=1e-9)


def test_without_an_optimum_it_is_the_nearest_that_is_looked_for():
    scores, _ = logits(0)
    assert best_temperature(scores, scores.argmax(-1)) == LOWEST  # all right: the surer the better
    assert best_temperature(scores, scores.argmin(-1)) == HIGHEST  # all wrong
    assert best_temperature(torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64)) == 1.0  # all the same
    assert math.isnan(best_temperature(torch.full((5, 3), math.nan), torch.zeros(5, dtype=torch.int64)))
    certain = torch.tensor([[0.0, -math.inf]] * 4)  # a 0 counts as exp(−87.3): 79.5 would be the best for 3 of 4
    assert best_temperature(certain, torch.tensor([0, 0, 0, 1])) == HIGHEST


def test_the_held_out_likelihood_is_never_lower_than_without():
    worse = 0.0
    for seed in range(60):
        scores, y = logits(seed, num=3 + seed % 20, scale=0.2 + seed % 5)
        worse = max(worse, nll(scores / best_temperature(scores, y), y) - nll(scores, y))
    assert worse <= 1e-12


WRAPPED = ("mle", "mc_dropout", "deep_ensemble")


@pytest.fixture
def fitted(small):
    """fitted(wrapped, model, rows): the scaled posterior, the wrapped one on the same rows, and the inputs."""

    def of(wrapped, model="mlp", **options):
        built = small.suited(model)
        data = small.data(built, 2, own=True)
        method = small.method("temperature_scaling", [{"temperature_scaling": {"method": wrapped, **options}}])
        assert method.unsupported(built) is None
        posterior = method.fit(built, data, Streams.of_seeds(SEEDS))
        order = Streams.of_seeds(SEEDS).child("held out").permutation(53)
        rest, held = (data.batch(index) for index in (order[:, :47], order[:, 47:]))  # 0.1 of 53 are 6
        alone = small.method(wrapped).fit(built, Data(rest.x, rest.y), Streams.of_seeds(SEEDS))
        return posterior, alone, held

    return of


def predicted(posterior, x, samples=12):
    return posterior.predict(x, samples, Streams.of_seeds(SEEDS).child("predict test"))


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_it_is_the_method_on_the_other_rows_with_the_mean_probability_scaled(fitted, wrapped):
    posterior, alone, held = fitted(wrapped)
    assert {name: value for name, value in posterior.state.items() if name != TEMPERATURE}.keys() == alone.state.keys()
    assert all(torch.equal(posterior.state[name], value) for name, value in alone.state.items())
    scaled, plain = predicted(posterior, held.x), predicted(alone, held.x)
    temperature = posterior.state[TEMPERATURE].double().reshape(2, 1, 1)
    torch.testing.assert_close(scaled.log_probs, (plain.log_probs / temperature).log_softmax(-1))
    assert torch.equal(scaled.log_probs.argmax(-1), plain.log_probs.argmax(-1))
    groups = (plain.group_log_probs / temperature).log_softmax(-1).float()
    torch.testing.assert_close(scaled.group_log_probs, groups)
    before, after = (found.scores["mutual_information"] for found in (plain, scaled))
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(scaled.scores["entropy"], plain.scores["entropy"], rtol=1e-2)
    torch.testing.assert_close(posterior.facts["temperature"], posterior.state[TEMPERATURE].double())


def test_the_temperature_is_that_of_the_held_out_rows(fitted):
    posterior, alone, held = fitted("mle")
    probs = predicted(alone, held.x).log_probs
    expected = [best_temperature(probs[r], held.y[r]) for r in range(2)]
    np.testing.assert_allclose(posterior.state[TEMPERATURE], expected, rtol=1e-6)
    assert abs(expected[0] - expected[1]) > 1e-3


def test_the_rule_that_predicts_is_scaled_in_a_network_of_uncertain_depth(fitted):
    posterior, alone, held = fitted("map", "stopping_resnet")
    scaled, plain = predicted(posterior, held.x), predicted(alone, held.x)
    temperature = posterior.state[TEMPERATURE].double().reshape(2, 1, 1)
    torch.testing.assert_close(scaled.log_probs, (plain.log_probs / temperature).log_softmax(-1))
    assert torch.equal(scaled.full, plain.full)


def test_a_member_of_an_ensemble_has_its_own_temperature_and_swept_options(small):
    """Options that differ between rows reach the method that is wrapped, also where its rows are those of members."""
    rates, model, data = (1e-3, 3e-2), small.model("mlp"), small.classes(2)
    chosen = {"deep_ensemble": {"member": "temperature_scaling"}, "temperature_scaling": {"method": "map"}}

    def fit(rates, data, seeds):
        rows = [{**chosen, "map": {"learning_rate": rate}} for rate in rates]
        return small.method("deep_ensemble", rows).fit(model, data, Streams.of_seeds(seeds))

    together = fit(rates, data, (3, 3))
    assert together.state[TEMPERATURE].shape == (2, 2)
    for r, rate in enumerate(rates):
        alone = fit((rate,), small.row(data, r), (3,))
        assert differences({k: v[r : r + 1] for k, v in together.state.items()}, dict(alone.state)) == []
    assert not torch.equal(together.state["fc1.weight"][0], together.state["fc1.weight"][1])


def test_it_is_restored_and_resumes_to_the_same_bits(small, tmp_path):
    model, data = small.model("mlp"), small.classes(3)
    method = small.method("temperature_scaling", epochs=3)
    apart, _ = resumed(method, model, data, data.x, tmp_path / "fit", (2, 5))
    assert apart == []
    posterior = method.fit(model, data, Streams.of_seeds((3, 1, 4)))
    again = method.restored(model, posterior.state)
    assert isinstance(again, ScaledPosterior)
    left, right = (small.tensors(p.predict(data.x, 3, Streams.of_seeds((3, 1, 4)))) for p in (posterior, again))
    assert differences(left, right) == []


def test_what_has_no_classes_or_no_row_to_hold_out_is_refused(small, refused):
    method = catalog.load("methods", "temperature_scaling")
    number = small.model("mlp", outputs=1, likelihood="gaussian")
    assert "gaussian" in small.method("temperature_scaling").unsupported(number)
    few = small.method("temperature_scaling", [{"temperature_scaling": {"held_out": 0.99}}])
    with refused("temperature_scaling", "held_out=0.99", "53"):
        few.fit(small.model("mlp"), small.classes(2), Streams.of_seeds(SEEDS))
    assert method().held_out == 0.1
