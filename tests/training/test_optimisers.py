"""Optimisers against torch's, row by row."""

from __future__ import annotations

import pytest
import torch

from bdlbench.core.streams import Streams
from bdlbench.training.optimisers import OPTIMISERS, clipped, optimiser_of, with_decay
from bdlbench.training.plan import DECAYS, Moment, Plan

STEPS = 50
TORCHS = {
    "adam": lambda row, rate, momentum, decay: torch.optim.Adam([row], rate, weight_decay=decay),
    "adamw": lambda row, rate, momentum, decay: torch.optim.AdamW([row], rate, weight_decay=decay),
    "sgd": lambda row, rate, momentum, decay: torch.optim.SGD([row], rate, momentum=momentum, weight_decay=decay),
    "nesterov": lambda row, rate, momentum, decay: torch.optim.SGD(
        [row], rate, momentum=momentum, weight_decay=decay, nesterov=True
    ),
}


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slope(flat):
    return (3 * flat - 0.3).sin()


def trained(plan, flat, steps=STEPS):
    own, noise = optimiser_of(plan), Streams.of_seeds(range(len(flat)))
    flat, kept = flat.clone(), own.start(flat)
    for step in range(steps):
        moment = Moment(step, steps)
        flat, kept = own.step(flat, slope(flat), kept, plan.rate(moment), moment, noise)
    return flat


def wide(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimiser_is_torchs(name, decay):
    flat, rate = numbers(3, 48), 0.01
    found = trained(Plan(1, 1, rate, optimiser=name, momentum=0.8, weight_decay=decay), flat)
    for r in range(3):
        row = flat[r].clone().requires_grad_()
        optimiser = TORCHS[name](row, rate, 0.8, decay)
        for _ in range(STEPS):
            row.grad = slope(row.detach())
            optimiser.step()
        torch.testing.assert_close(found[r], row.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_rows_of_their_own_options_have_the_bits_of_each_alone(name):
    flat = numbers(3, 48)
    options = {
        "learning_rate": wide(0.01, 0.1, 1e-3),
        "momentum": wide(0.9, 0.0, 0.5),
        "weight_decay": wide(0.1, 0.0, 1e-3),
        "warmup": wide(0.5, 0.0, 0.1),
        "milestone_factor": wide(0.1, 0.3, 1.0),
    }
    together = trained(Plan(1, 1, optimiser=name, decay="step", milestones=(20, 50, 70), **options), flat)
    for r in range(3):
        mine = {key: value[r].item() for key, value in options.items()}
        alone = trained(Plan(1, 1, optimiser=name, decay="step", milestones=(20, 50, 70), **mine), flat[r : r + 1])
        assert torch.equal(together[r : r + 1], alone)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_weight_decay_reaches_the_weights_of_the_network_alone(name):
    """A row may hold more than weights, such as log standard deviations, which must not be pulled towards 0."""
    flat = numbers(2, 32)
    origin = torch.tensor([0.0] * 8 + [-1.0] * 4 + [torch.nan] * 4)
    plans = (Plan(1, 1, 0.01, optimiser=name, weight_decay=w, origin=origin) for w in (0.0, 0.5))
    plain, decayed = (trained(plan, flat) for plan in plans)
    assert torch.equal(plain[:, 12:], decayed[:, 12:])
    assert (plain[:, :12] != decayed[:, :12]).all()
    pulled = with_decay(flat, torch.zeros_like(flat), Plan(1, 1, 0.1, weight_decay=0.5, origin=origin))
    torch.testing.assert_close(pulled[:, :12], 0.5 * (flat[:, :12] - origin[:12]))


def test_a_row_without_decay_has_its_gradient_among_rows_that_decay():
    flat, gradient = torch.tensor([[torch.inf, 1.0], [2.0, 1.0]]), torch.tensor([[1.0, -0.0], [1.0, 1.0]])
    found = with_decay(flat, gradient, Plan(1, 1, 0.1, weight_decay=wide(0.0, 0.5)))
    assert torch.equal(found, torch.tensor([[1.0, -0.0], [2.0, 1.5]]))


def test_a_gradient_is_clipped_by_its_own_rows_norm_as_torchs():
    gradient, limit = numbers(3, 48) * torch.tensor([[0.01], [1.0], [100.0]]), 2.0
    found = clipped(gradient, limit)
    for r in range(3):
        row = torch.zeros(48, requires_grad=True)
        row.grad = gradient[r].clone()
        torch.nn.utils.clip_grad_norm_([row], limit)
        torch.testing.assert_close(found[r], row.grad)
        assert torch.equal(found[r], clipped(gradient[r : r + 1], limit)[0])
    assert found[1:].norm(dim=1) == pytest.approx([2.0, 2.0], rel=1e-5)
    assert torch.equal(found[0], gradient[0]) and clipped(gradient, 0.0) is gradient
    mixed = clipped(gradient, wide(0.0, 1.0, 0.0))
    assert torch.equal(mixed[::2], gradient[::2]) and mixed[1].norm().item() == pytest.approx(1.0, rel=1e-5)


def torchs_rates(schedule, steps):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.2)
    scheduler, rates = schedule(optimiser), []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("options", "schedule"),
    [
        ({"decay": "cosine"}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40)),
        ({"decay": "linear"}, lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.0, 40)),
        (
            {"decay": "step", "milestones": (30, 80), "milestone_factor": 0.2},
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [12, 32], 0.2),
        ),
        ({"warmup": 0.25}, lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 9)),
    ],
)
def test_a_schedule_is_torchs(options, schedule):
    plan = Plan(1, 1, 0.2, **options)
    assert [plan.rate(Moment(step, 40)) for step in range(40)] == pytest.approx(torchs_rates(schedule, 40))


@pytest.mark.parametrize("decay", DECAYS)
def test_a_schedule_with_a_warm_up_is_the_product_of_both_and_positive_at_every_step(decay):
    for step in range(40):
        rates = [Plan(1, 1, 1.0, decay, warmup=w).rate(Moment(step, 40)) for w in (0.0, 0.25)]
        assert rates[1] == pytest.approx(rates[0] * min(1.0, (step + 1) / 10))
        assert rates[1] > 0
