"""SGLD and SGHMC against what they are on a Gaussian posterior at any step size, and step by step by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import linalg

from bdlbench import catalog
from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.methods.sghmc import SGHMC
from bdlbench.methods.sgld import SGLD
from bdlbench.posteriors.chains import Cycle, Stages, stages_of, thinned
from bdlbench.training.loop import Session, session
from bdlbench.training.plan import Plan

N, D, NOISE_SD, PRIOR_SD = 24, 3, 0.5, 0.7
NEVER_WARM = {"warm_start": 0.0, "batch_size": N}


def problem(rows):
    """The linear model, its data, the precision of its posterior and its mean."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)) @ np.array([[1, 0.5, 0], [0, 1, 0.3], [0, 0, 1]])
    design = np.column_stack([x, np.ones(N)])
    y = design @ np.array([1.0, -0.5, 0.3, 0.2]) + NOISE_SD * rng.normal(size=N)
    model = catalog.load("models", "bayesian_linear_regression")(Signature((D,), 1, "gaussian"), PRIOR_SD, NOISE_SD)
    precision = design.T @ design / NOISE_SD**2 + np.eye(D + 1) / PRIOR_SD**2
    data = Data(torch.from_numpy(x).expand(rows, N, D), torch.from_numpy(y).expand(rows, N))
    return model, data, design, precision, np.linalg.solve(precision, design.T @ y / NOISE_SD**2)


def networks_of(posterior, model):
    """The kept networks, (R, K, D + 1)."""
    layout = Layout(model.leaves())
    return layout.packed(layout.joined(posterior.state)).numpy()


def along_axes(method, temperatures, each=20):
    """The precision's eigenvalues, and for each temperature the kept networks along its axes, (n, D + 1)."""
    model, data, _, precision, mean = problem(each * len(temperatures))
    method = replace(method, temperature=torch.tensor(temperatures).double().repeat_interleave(each))
    posterior = method.fit(model, data, Streams.of_seeds(range(data.rows)))
    values, axes = np.linalg.eigh(precision)
    found = (networks_of(posterior, model) - mean) @ axes
    assert found.shape == (data.rows, method.networks, D + 1)
    return values, found.reshape(len(temperatures), -1, D + 1)


TEMPERATURES = (1.0, 0.25)


def sgld_variance(h, step, temperature):
    """From v = (1 − ε h/2)² v + ε T."""
    return temperature / (h * (1 - step * h / 4))


def sghmc_variance(h, step, temperature, friction):
    """Of w, where the state (w, v) has the covariance S = A S Aᵀ + Q."""
    move = np.array([[1 - step * h, 1 - friction], [-step * h, 1 - friction]])
    noise = 2 * friction * temperature * step * np.ones((2, 2))
    return linalg.solve_discrete_lyapunov(move, noise)[0, 0]


def assert_stationary(values, found, expected):
    """Mean 0 and the expected variances along the axes, to what so many nearly independent draws allow."""
    for drawn, variances in zip(found, expected, strict=True):
        sd = np.sqrt(variances)
        assert (np.abs(drawn.mean(0)) < 6 * sd / math.sqrt(len(drawn) / 4)).all()
        np.testing.assert_allclose(drawn.var(0) / variances, 1, atol=0.1)


@pytest.mark.slow
def test_sgld_on_a_gaussian_has_its_known_variance_at_a_large_step():
    _, _, _, precision, _ = problem(1)
    step = 2.4 / np.linalg.eigvalsh(precision).max()  # along the steepest axis 2.5 times the posterior's variance
    method = SGLD(epochs=1100, burn_in=0.1, networks=100, step_size=step * N, **NEVER_WARM)
    values, found = along_axes(method, TEMPERATURES)
    expected = [[sgld_variance(h, step, t) for h in values] for t in TEMPERATURES]
    assert expected[0][-1] * values[-1] == pytest.approx(2.5)
    assert_stationary(values, found, expected)


@pytest.mark.slow
def test_sghmc_on_a_gaussian_has_its_known_variance_at_a_large_step():
    _, _, _, precision, _ = problem(1)
    step, friction = 2.0 / np.linalg.eigvalsh(precision).max(), 0.4
    method = SGHMC(epochs=1100, burn_in=0.1, networks=100, step_size=step * N, friction=friction, **NEVER_WARM)
    values, found = along_axes(method, TEMPERATURES)
    expected = [[sghmc_variance(h, step, t, friction) for h in values] for t in TEMPERATURES]
    biased = [1 / (h * (1 - step * h / (2 * (2 - friction)))) for h in values]  # as the docstring has it
    np.testing.assert_allclose(expected[0], biased, rtol=1e-9)
    assert expected[0][-1] * values[-1] > 1.5
    assert_stationary(values, found, expected)


@pytest.mark.parametrize("name", ["sgld", "sghmc"])
def test_steps_on_batches_are_the_papers_formula_by_hand(name):
    """Batches of 8 of 24 examples: the gradient of their log-likelihood counts three times, that of the prior once."""
    model, data, design, _, _ = problem(2)
    layout, size, friction, temperature, trajectory = Layout(model.leaves()), 1e-3, 0.25, 0.8, []

    def listen(done, total):
        trajectory.append(current.fits[-1].state.flat.detach().clone())

    options = {"friction": friction} if name == "sghmc" else {}
    method = catalog.load("methods", name)(
        epochs=1, batch_size=8, warm_start=0.0, burn_in=0.0, step_size=size * N, temperature=temperature, **options
    )
    with session(Session(listen=listen)) as current:
        method.fit(model, data, Streams.of_seeds([3, 1]))
    order = Streams.of_seeds([3, 1]).child("batches 0").permutation(N)
    noise, momentum, w = Streams.of_seeds([3, 1]).child("noise"), np.zeros((2, D + 1)), current.fits[-1].initial
    for step in range(3):
        batch = order[:, 8 * step : 8 * step + 8].numpy()
        heat = layout.packed(noise.normal((layout.width,), w)).numpy()
        w = layout.packed(w).numpy()
        for r in range(2):
            x, y = design[batch[r]], data.y[r].numpy()[batch[r]]
            slope = w[r] / PRIOR_SD**2 - N / 8 * x.T @ (y - x @ w[r]) / NOISE_SD**2
            if name == "sgld":
                expected = w[r] - size / 2 * slope + np.sqrt(temperature * size) * heat[r]
            else:
                momentum[r] = (1 - friction) * momentum[r] - size * slope
                momentum[r] += np.sqrt(2 * friction * temperature * size) * heat[r]
                expected = w[r] + momentum[r]
            np.testing.assert_allclose(layout.packed(trajectory[step])[r], expected, rtol=1e-9)
        w = trajectory[step]


@pytest.mark.parametrize("name", ["sgld", "sghmc"])
def test_without_temperature_it_descends_to_map(name):
    model, data, _, precision, mean = problem(2)
    size = N / np.linalg.eigvalsh(precision).max()
    method = catalog.load("methods", name)(epochs=900, temperature=0.0, networks=3, step_size=size, **NEVER_WARM)
    found = networks_of(method.fit(model, data, Streams.of_seeds([0, 1])), model)
    np.testing.assert_allclose(found, np.broadcast_to(mean, (2, 3, D + 1)), rtol=0, atol=1e-6)


def test_with_a_friction_of_1_sghmc_is_sgld_at_twice_the_step():
    model, data, _, _, _ = problem(2)
    options = {"epochs": 20, "networks": 5, "temperature": 0.7, **NEVER_WARM}
    chains = SGHMC(friction=1.0, step_size=0.01, **options), SGLD(step_size=0.02, **options)
    one, other = (networks_of(chain.fit(model, data, Streams.of_seeds([0, 1])), model) for chain in chains)
    np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.parametrize("name", ["sgld", "sghmc"])
@pytest.mark.parametrize("decay", ["constant", "cosine"])
def test_the_warm_start_is_map_with_the_whole_of_its_decay(small, name, decay):
    trajectory, options = [], {"prior_sd": 0.3, "decay": decay}

    def listen(done, total):
        trajectory.append(current.fits[-1].state.flat.detach().clone())

    built, data = small.model("mlp"), small.classes(2)
    with session(Session(listen=listen)) as current:
        small.method(name, [{name: options}], epochs=8).fit(built, data, Streams.of_seeds([3, 1]))
    point = small.method("map", [{"map": options}], epochs=2).fit(built, data, Streams.of_seeds([3, 1]))
    layout = Layout(built.leaves())
    assert torch.equal(layout.joined(point.state), trajectory[2 * 4 - 1])  # a quarter of 8 epochs of 4 steps


# Schedules and stages


def a_plan(epochs=13, steps=0):
    return Plan(epochs, 10, 0.1, steps=steps)


def test_the_cyclical_schedule_by_hand():
    """13 epochs of 2 steps: one warm, and three cycles of 4 epochs, of which the last two sample."""
    chain = SGLD(epochs=13, warm_start=0.01, schedule="cyclical", cycles=3, burn_in=0.5)
    stages = stages_of(chain, a_plan(), 20)
    assert stages.cycles == [Cycle(2, 6, 10), Cycle(10, 14, 18), Cycle(18, 22, 26)]
    assert stages.kept == [4, 5, 8, 9, 12, 13]
    cosine = [0.5 * (1 + math.cos(math.pi * t / 8)) for t in range(8)]
    assert (cosine[0], cosine[4]) == (1.0, pytest.approx(0.5))
    assert [stages.factor(step) for step in range(2, 26)] == pytest.approx(cosine * 3)
    assert [stages.samples(step) for step in range(2, 26)] == ([False] * 4 + [True] * 4) * 3
    assert stages_of(replace(chain, networks=3), a_plan(), 20).kept == [5, 9, 13]  # the end of each cycle


def test_the_polynomial_schedule_is_welling_and_tehs():
    stages = Stages("polynomial", 0.01, [Cycle(0, 0, 1000)], [])
    b = 1000 / (0.01 ** (-1 / 0.55) - 1)
    a = 0.3 * b**0.55
    for t in (0, 1, 10, 500, 999):
        assert 0.3 * stages.factor(t) == pytest.approx(a * (b + t) ** -0.55, rel=1e-12)
    assert stages.factor(0) == 1
    assert stages.factor(999) == pytest.approx(0.01, rel=1e-2)


def test_networks_of_a_polynomial_schedule_are_kept_at_equal_sums_of_step_sizes():
    chain = SGLD(epochs=400, warm_start=0.0, burn_in=0.25, schedule="polynomial", networks=5)
    stages = stages_of(chain, a_plan(400), 20)
    sums = np.cumsum([stages.factor(2 * epoch - 1) for epoch in range(101, 401)])
    nearest = [101 + int(np.searchsorted(sums, sums[-1] * k / 5 - 1e-9)) for k in range(1, 6)]
    assert stages.kept == nearest
    assert np.diff(stages.kept).min() < np.diff(stages.kept).max() - 10


def test_a_constant_schedule_keeps_networks_at_equal_distances_after_the_burn_in():
    chain = SGLD(epochs=13, warm_start=0.01, networks=3)
    stages = stages_of(chain, a_plan(), 20)
    assert (stages.cycles, stages.kept) == ([Cycle(2, 14, 26)], [9, 11, 13])
    assert {stages.factor(step) for step in range(2, 26)} == {1.0}
    assert all(stages.samples(step) for step in range(2, 26))
    assert stages_of(replace(chain, networks=50), a_plan(), 20).kept == [8, 9, 10, 11, 12, 13]


@pytest.mark.parametrize("schedule", ["constant", "polynomial", "cyclical"])
@pytest.mark.parametrize("warm_start", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("burn_in", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_at_the_ends_of_its_options_the_last_network_is_kept(schedule, warm_start, burn_in, epochs):
    chain = SGLD(epochs=epochs, warm_start=warm_start, burn_in=burn_in, schedule=schedule, cycles=3, networks=4)
    for plan in (a_plan(epochs), a_plan(steps=2 * epochs - 1)):  # the last epoch is cut short
        stages = stages_of(chain, plan, 20)
        assert stages.kept[-1] == epochs
        assert stages.kept == sorted(set(stages.kept))
        assert stages.cycles[-1].end == plan.total_steps(20)
        assert [one.end for one in stages.cycles[:-1]] == [one.first for one in stages.cycles[1:]]
        for step in range(stages.first_step, stages.cycles[-1].end):
            assert 0 < stages.factor(step) <= 1


def test_thinning_by_hand():
    assert thinned([3, 4, 5, 6], [1.0] * 4, 2) == [4, 6]
    assert thinned([3, 4, 5, 6], [1.0] * 4, 4) == thinned([3, 4, 5, 6], [1.0] * 4, 9) == [3, 4, 5, 6]
    assert thinned([3, 4, 5, 6], [3.0, 1.0, 1.0, 1.0], 2) == [3, 6]
    assert thinned(list(range(1, 2001)), [0.1] * 2000, 7)[-1] == 2000


def test_the_exploration_of_a_cycle_has_no_noise(small):
    """It is the chain without temperature, until its first sampling step."""
    options = {"schedule": "cyclical", "cycles": 2, "warm_start": 0.0, "burn_in": 0.5}
    trajectories = []
    for temperature in (1.0, 0.0):
        trajectory = []

        def listen(done, total, trajectory=trajectory):
            trajectory.append(current.fits[-1].state.flat.detach().clone())

        method = small.method("sghmc", [{"sghmc": {**options, "temperature": temperature}}], epochs=8)
        with session(Session(listen=listen)) as current:
            method.fit(small.model("mlp"), small.classes(2), Streams.of_seeds([3, 1]))
        trajectories.append(trajectory)
    same = [torch.equal(one, other) for one, other in zip(*trajectories, strict=True)]
    assert same == [True] * 8 + [False] * 24  # two epochs of 4 steps explore


@pytest.mark.parametrize(("share", "epochs", "warm"), [(0.07, 100, 7), (0.55, 100, 55), (0.28, 25, 7), (0.281, 25, 8)])
def test_the_warm_start_ends_with_the_epoch_of_its_share(share, epochs, warm):
    stages = stages_of(SGLD(epochs=epochs, warm_start=share), Plan(epochs, 10, 1e-3), 20)
    assert stages.first_step == 2 * warm


@pytest.mark.parametrize("name", ["sgld", "sghmc"])
@pytest.mark.parametrize("option", ["weight_decay", "clip_norm"])
def test_what_would_change_the_posterior_is_refused(small, name, option):
    method = small.method(name, [{name: {option: 0.5}}])
    assert option in method.unsupported(small.model("mlp"))
    assert small.method(name).unsupported(small.model("mlp")) is None
