"""Leapfrog steps, transitions and the adaptation of their size, against what is known of them."""

import math
from itertools import pairwise

import pytest
import torch
from scipy import stats

from bdlbench.kernels import hamiltonian
from bdlbench.kernels.hamiltonian import Phase, adapted, energy, leapfrog, restarted, transition, windows


def quartic(position, valued):
    """log π = −Σ (q⁴ / 4 + q² / 2), whose trajectories the leapfrog method does not follow exactly."""
    return -(position**4 / 4 + position**2 / 2).sum(1), -(position**3) - position


def normal(position, valued):
    return -0.5 * position.square().sum(1), -position


def phase(density, rows=3, width=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    position, momentum = torch.randn(2, rows, width, generator=rng, dtype=torch.float64)
    return Phase(position, momentum, *density(position, True))


def of_rows(value, rows=3, dtype=torch.float64):
    return torch.full((rows,), value, dtype=dtype)


def test_halving_the_steps_quarters_the_error_of_the_energy():
    start, variance = phase(quartic), torch.tensor([[0.5, 2.0]], dtype=torch.float64)
    errors = []
    for steps in (16, 32, 64, 128):
        end = leapfrog(quartic, start, of_rows(1.6 / steps), variance, of_rows(steps, dtype=torch.int64))
        errors.append((energy(end, variance) - energy(start, variance)).abs())
    for coarse, fine in pairwise(errors[1:]):
        torch.testing.assert_close(coarse / fine, of_rows(4.0), rtol=0.15, atol=0)


def test_with_its_momentum_turned_round_a_trajectory_leads_back():
    start, variance = phase(quartic), torch.tensor([[0.5, 2.0]], dtype=torch.float64)
    size, steps = of_rows(0.2), of_rows(25, dtype=torch.int64)
    end = leapfrog(quartic, start, size, variance, steps)
    assert (end.position - start.position).abs().max() > 0.5
    back = leapfrog(quartic, end._replace(momentum=-end.momentum), size, variance, steps)
    torch.testing.assert_close(back.position, start.position, rtol=0, atol=1e-12)
    torch.testing.assert_close(back.momentum, -start.momentum, rtol=0, atol=1e-12)


def test_a_trajectory_keeps_the_volume():
    start, variance = phase(quartic, rows=1), torch.tensor([[0.5, 2.0]], dtype=torch.float64)

    def end_of(both):
        position, momentum = both[None, :2], both[None, 2:]
        slope = -(position**3) - position
        end = leapfrog(quartic, Phase(position, momentum, slope.sum(1), slope), of_rows(0.3, 1), variance, steps)
        return torch.cat([end.position[0], end.momentum[0]])

    steps = of_rows(7, 1, torch.int64)
    jacobian = torch.autograd.functional.jacobian(end_of, torch.cat([start.position[0], start.momentum[0]]))
    assert torch.linalg.det(jacobian).item() == pytest.approx(1.0, abs=1e-10)


def test_a_row_takes_its_own_number_of_steps():
    start, variance = phase(quartic), torch.ones(3, 2, dtype=torch.float64)
    size, steps = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), torch.tensor([9, 1, 4])
    together = leapfrog(quartic, start, size, variance, steps)
    for r in range(3):
        own = Phase(*(part[r : r + 1] for part in start))
        alone = leapfrog(quartic, own, size[r : r + 1], variance[r : r + 1], steps[r : r + 1])
        assert all(torch.equal(a[r : r + 1], b) for a, b in zip(together, alone, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("corrected", [True, False])
def test_draws_of_the_density_stay_draws_of_it_and_would_not_without_rejections(corrected):
    """With ε = 1.2 the leapfrog method alone widens a standard normal to the variance 1 / (1 − ε² / 4) = 1.56."""
    rows, rng = 1000, torch.Generator().manual_seed(1)
    position = torch.randn(rows, 1, generator=rng, dtype=torch.float64)
    size, steps, variance = of_rows(1.2, rows), of_rows(3, rows, torch.int64), torch.ones(1, 1, dtype=torch.float64)
    rejected = 0.0
    for _ in range(6):
        start = Phase(position, torch.randn(rows, 1, generator=rng, dtype=torch.float64), *normal(position, True))
        uniform = torch.rand(rows, generator=rng, dtype=torch.float64)
        moved = transition(normal, start, size, variance, steps, uniform if corrected else uniform * 0)
        position, rejected = moved.position, rejected + (moved.acceptance <= uniform).double().mean().item() / 6
    assert 0.03 < rejected < 0.6
    off = (position.var().item() - 1) / math.sqrt(2 / rows)  # in standard errors
    assert abs(off) < 4 if corrected else off > 6


@pytest.mark.slow
def test_the_rank_of_what_made_the_data_is_uniform_among_draws_given_the_data():
    """Simulation-based calibration (Talts et al. 2018): w ~ logistic distribution, y | w ~ N(w, 1), not conjugate."""
    rows, draws, rng = 400, 19, torch.Generator().manual_seed(2)
    truth = torch.from_numpy(stats.logistic.rvs(size=(rows, 1), random_state=3))
    y = truth + torch.randn(rows, 1, generator=rng, dtype=torch.float64)

    def density(w, valued):
        log_prior = -w - 2 * torch.nn.functional.softplus(-w)
        return (log_prior - 0.5 * (y - w).square()).sum(1), -1 + 2 * torch.sigmoid(-w) + y - w

    position, below = y.clone(), torch.zeros(rows)
    size, steps, variance = of_rows(0.9, rows), of_rows(2, rows, torch.int64), torch.ones(1, 1, dtype=torch.float64)
    for transitions in range(10 + 4 * draws):
        momentum = torch.randn(rows, 1, generator=rng, dtype=torch.float64)
        uniform = torch.rand(rows, generator=rng, dtype=torch.float64)
        start = Phase(position, momentum, *density(position, True))
        position = transition(density, start, size, variance, steps, uniform).position
        if transitions >= 10 and transitions % 4 == 1:
            below += (position < truth)[:, 0]
    counts = torch.bincount(below.long(), minlength=draws + 1)
    assert counts.sum() == rows
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_what_leaves_the_numbers_diverges_and_stays():
    start = phase(quartic)
    steps, variance = of_rows(9, dtype=torch.int64), torch.ones(1, 2).double()
    far = transition(quartic, start, of_rows(50.0), variance, steps, of_rows(1e-9))
    assert far.divergent.all()
    assert not far.acceptance.any()
    assert torch.equal(far.position, start.position)
    assert torch.equal(far.log_density, start.log_density)


def test_dual_averaging_by_hand():
    state = restarted(torch.tensor([math.log(0.1)], dtype=torch.float64))
    state = adapted(state, torch.tensor([0.5]).double(), 0.8, 1)
    assert state.error.item() == pytest.approx(0.3 / 11)
    first = math.log(1.0) - 20 * 0.3 / 11
    assert state.log_step.item() == pytest.approx(first)
    assert state.log_mean.item() == pytest.approx(first)
    state = adapted(state, torch.tensor([1.0]).double(), 0.8, 2)
    error = 11 / 12 * 0.3 / 11 - 0.2 / 12
    assert state.error.item() == pytest.approx(error)
    second = -math.sqrt(2) * 20 * error
    assert state.log_step.item() == pytest.approx(second)
    assert state.log_mean.item() == pytest.approx(2**-0.75 * second + (1 - 2**-0.75) * first)


def test_dual_averaging_finds_the_step_of_the_acceptance_that_it_aims_at():
    target = torch.tensor([0.8, 0.6], dtype=torch.float64)
    state = restarted(torch.tensor([math.log(1e-3), math.log(5.0)], dtype=torch.float64))
    for count in range(1, 600):
        state = adapted(state, torch.exp(-state.log_step.exp()), target, count)
    torch.testing.assert_close(torch.exp(-state.log_mean.exp()), target, rtol=0, atol=0.01)


def test_windows_are_those_of_stan():
    assert windows(1000) == [(75, 100), (100, 150), (150, 250), (250, 450), (450, 950)]
    assert windows(150) == [(75, 100)]
    assert windows(100) == [(15, 90)]
    assert windows(19) == []
    for warmup in range(20, 700):
        found = windows(warmup)
        assert all(stop == start for (_, stop), (start, _) in pairwise(found))
        assert 0 < found[0][0] < found[-1][1] < warmup + 1


def test_the_lengths_of_trajectories_fill_the_interval():
    assert [hamiltonian.van_der_corput(i) for i in range(1, 8)] == [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]
