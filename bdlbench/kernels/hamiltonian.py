"""Hamiltonian Monte Carlo over flat rows (R, P): every row is a chain, and all chains move at once.

A row at q with the momentum p has the energy H(q, p) = −log π(q) + ½ Σ_i v_i p_i², where v is an estimate of the
posterior variances, the diagonal of the inverse mass matrix. The leapfrog method keeps H up to an error of order ε² and
the volume exactly; accepting its end with probability min(1, e^−ΔH) keeps π (Neal 2011, §5.2 and 5.3). In warm-up the
step size ε follows dual averaging (Hoffman & Gelman 2014, §3.2), and v is learnt in windows as in Stan.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bdlbench.kernels.kl import row_sum

DIVERGENT = 1000.0
"""Nats of energy error from which a trajectory counts as divergent, as in Stan."""

GAMMA, T0, KAPPA = 0.05, 10.0, 0.75
"""Constants of dual averaging: Hoffman & Gelman 2014, §3.2.1."""


class LogDensity(Protocol):
    """The logarithm of the density that is sampled, up to a constant, and its slope."""

    def __call__(self, position: Tensor, valued: bool) -> tuple[Tensor, Tensor]:
        """Return the log density and its gradient.

        Args:
            position: Rows (R, P).
            valued: Whether the log density is read; if not, it may be anything.

        Returns:
            log π in nats, (R,) float64, and its gradient (R, P).
        """
        ...


class Phase(NamedTuple):
    """Where chains are, and how they move.

    Attributes:
        position: q, (R, P).
        momentum: p, (R, P).
        log_density: log π(q) in nats, (R,) float64.
        slope: ∇ log π(q), (R, P).
    """

    position: Tensor
    momentum: Tensor
    log_density: Tensor
    slope: Tensor


def energy(phase: Phase, variance: Tensor) -> Tensor:
    """Return H = −log π(q) + ½ Σ_i v_i p_i² of each row.

    Args:
        phase: The rows.
        variance: v, (R, P).

    Returns:
        Nats, (R,) float64.
    """
    return 0.5 * row_sum((phase.momentum.square() * variance).double()) - phase.log_density


def leapfrog(log_density: LogDensity, phase: Phase, step_size: Tensor, variance: Tensor, steps: Tensor) -> Phase:
    """Follow Hamilton's equations: p ← p + ½ ε ∇log π(q); q ← q + ε v p; p ← p + ½ ε ∇log π(q). Neal 2011, eq. 2.28.

    Args:
        log_density: What is sampled.
        phase: Where the rows start; its slope is read, its log density is not.
        step_size: ε, (R,).
        variance: v, (R, P).
        steps: How many steps each row takes, (R,) int64. A row that is done stays where it is, by steps of length 0,
            until the longest one is done.

    Returns:
        Where the rows end.
    """
    position, momentum, value, slope = phase
    length = step_size.to(position).unsqueeze(1)
    longest, shortest = int(steps.max()), int(steps.min())
    for step in range(longest):
        if step >= shortest:
            length = torch.where(step < steps, step_size, 0.0).to(position).unsqueeze(1)
        # products and sums apart: addcmul rounds the ends of a tensor, which fill no vector, in another way
        momentum = momentum + 0.5 * length * slope
        position = position + length * (variance * momentum)
        value, slope = log_density(position, step == longest - 1)
        momentum = momentum + 0.5 * length * slope
    return Phase(position, momentum, value, slope)


class Moved(NamedTuple):
    """One transition of each chain.

    Attributes:
        position: (R, P), where it was if the end of the trajectory was rejected.
        log_density: Nats, (R,) float64.
        acceptance: min(1, e^−ΔH), the probability with which the end was accepted, (R,) float64.
        divergent: Whether the energy was off by more than `DIVERGENT`, or not finite, (R,).
    """

    position: Tensor
    log_density: Tensor
    acceptance: Tensor
    divergent: Tensor


def transition(
    log_density: LogDensity, start: Phase, step_size: Tensor, variance: Tensor, steps: Tensor, uniform: Tensor
) -> Moved:
    """Move each chain along a trajectory, and accept its end or stay (Neal 2011, §5.3.2).

    Args:
        log_density: What is sampled.
        start: Where the chains are, each with a momentum that was drawn from N(0, 1 / v).
        step_size: ε, (R,).
        variance: v, (R, P).
        steps: Leapfrog steps of each row, (R,) int64.
        uniform: Uniform numbers above 0 and up to 1, (R,) float64.

    Returns:
        The chains after the transition.
    """
    end = leapfrog(log_density, start, step_size, variance, steps)
    error = energy(end, variance) - energy(start, variance)  # (R,)
    divergent = ~(error < DIVERGENT)  # NaN too
    acceptance = torch.where(divergent, 0.0, (-error).clamp(max=0.0).exp())
    accepted = uniform < acceptance
    return Moved(
        torch.where(accepted.unsqueeze(1), end.position, start.position),
        torch.where(accepted, end.log_density, start.log_density),
        acceptance,
        divergent,
    )


class StepSize(NamedTuple):
    """The state of dual averaging, (R,) float64 each.

    Attributes:
        log_step: log ε of the next trajectory.
        log_mean: The average of log ε, which is frozen after warm-up.
        error: The average of how far the acceptance is below its target.
        centre: What log ε shrinks towards.
    """

    log_step: Tensor
    log_mean: Tensor
    error: Tensor
    centre: Tensor


def restarted(log_step: Tensor) -> StepSize:
    """Begin dual averaging at a step size; it shrinks towards ten times of it, since larger steps cost less.

    Args:
        log_step: log ε, (R,) float64.

    Returns:
        The state before the first trajectory.
    """
    nothing = torch.zeros_like(log_step)
    return StepSize(log_step, nothing, nothing, log_step + math.log(10))


def adapted(state: StepSize, acceptance: Tensor, target: Tensor | float, count: int) -> StepSize:
    """Update the step size after a trajectory: Hoffman & Gelman 2014, eq. 6 with the constants of §3.2.1.

    Args:
        state: The state before it.
        acceptance: Its acceptance probability, (R,) float64.
        target: δ, the acceptance that is aimed at.
        count: t, trajectories since the restart, with this one.

    Returns:
        The state for the next trajectory.
    """
    share = 1 / (count + T0)
    error = (1 - share) * state.error + share * (target - acceptance)
    log_step = state.centre - math.sqrt(count) / GAMMA * error
    weight = count**-KAPPA
    return StepSize(log_step, weight * log_step + (1 - weight) * state.log_mean, error, state.centre)


def regularised_variance(variance: Tensor, count: int) -> Tensor:
    """Shrink an estimate of variances towards 1e-3, as Stan does: n / (n + 5) · v + 5 / (n + 5) · 1e-3.

    Args:
        variance: Variances of n draws.
        count: n.

    Returns:
        The variances that trajectories go by.
    """
    return count / (count + 5) * variance + 1e-3 * 5 / (count + 5)


def windows(warmup: int) -> list[tuple[int, int]]:
    """Return the windows of warm-up at whose ends the variances are estimated anew, as Stan lays them out.

    A start of 75 transitions and an end of 50 have the step size adapted only; windows of 25, 50, 100, … lie between,
    the last one as long as fits. Shorter warm-ups than 150 have 15 %, 75 % and 10 %, in one window; fewer than 20
    transitions have none.

    Args:
        warmup: Transitions of warm-up.

    Returns:
        (first transition, transition after the last) of each window.
    """
    if warmup < 20:
        return []
    start, end, size = (75, 50, 25) if warmup >= 150 else (int(0.15 * warmup), int(0.1 * warmup), warmup)
    found, last = [], warmup - end
    while start < last:
        stop = start + size if start + 3 * size <= last else last
        found.append((start, stop))
        start, size = stop, 2 * size
    return found


def van_der_corput(index: int) -> float:
    """Return element `index` of van der Corput's sequence in base 2.

    1/2, 1/4, 3/4, 1/8, 5/8 … fill (0, 1) evenly, and are the same for every row, so that no row waits for another's
    longer trajectory.

    Args:
        index: The number of the element, from 1.

    Returns:
        A number between 0 and 1.
    """
    digits = bin(index)[2:]
    return int(digits[::-1], 2) / (1 << len(digits))
