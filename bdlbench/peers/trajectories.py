"""Leapfrog trajectories of Hamiltonian Monte Carlo over all weights of a small classifier, by everyone alike.

The log joint density has all examples and the prior N(0, 1) on every weight and bias; a step takes one gradient. All
start at the same weights with the same momenta, and the mass matrix is the identity. A test compares where they end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bdlbench import catalog
from bdlbench.core.layout import Layout
from bdlbench.data.downloads import imported
from bdlbench.data.task import Data, Signature
from bdlbench.kernels import hamiltonian
from bdlbench.kernels.hamiltonian import Phase
from bdlbench.methods.hmc import log_joint_of
from bdlbench.peers.plain import PRIOR_SD, Batches
from bdlbench.peers.work import Run
from bdlbench.posteriors.fitting import prior_of

STEP_SIZE = 1e-3


@dataclass(frozen=True)
class Chains:
    """K chains on one data set.

    Attributes:
        data: The examples, all of which enter each gradient.
        sizes: Units of each layer.
        count: K.
    """

    data: Batches
    sizes: Sequence[int]
    count: int

    def drawn(self, seed: int, scale: float) -> dict[str, Tensor]:
        """Draw a number for every weight of each chain, with this standard deviation; chain 0 is the same for any K.

        Returns:
            Leaves by the names of `mlp`: fc1.weight (K, O, I), fc1.bias (K, O), and so on.
        """
        found = {}
        for place, (inputs, outputs) in enumerate(pairwise(self.sizes), start=1):
            for name, shape in ((f"fc{place}.weight", (outputs, inputs)), (f"fc{place}.bias", (outputs,))):
                drawn = [
                    torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + 100 * place + k))
                    for k in range(self.count)
                ]
                found[name] = scale * torch.stack(drawn)
        return found

    @property
    def start(self) -> dict[str, Tensor]:
        """Where the chains start."""
        return self.drawn(0, 0.3)

    @property
    def momentum(self) -> dict[str, Tensor]:
        """The momenta that they start with."""
        return self.drawn(1, 1.0)


def log_joint(weights: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Return log p(y, w | x) of one network in plain torch: weights in order, x (N, D), y (N,); nats, ()."""
    for place, (weight, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        x = functional.linear(x.relu() if place else x, weight, bias)
    prior = sum((weight.square().sum() for weight in weights), x.new_zeros(()))
    return -functional.cross_entropy(x, y, reduction="sum") - 0.5 / PRIOR_SD**2 * prior


def plain_leapfrog(chains: Chains, steps: int) -> Run:
    """Follow the chains in turn by autograd; the run returns the weights of all."""
    x, y, starts, momenta = chains.data.x, chains.data.y, chains.start, chains.momentum

    def one(k: int) -> list[Tensor]:
        position = [value[k].clone().requires_grad_() for value in starts.values()]
        momentum = [value[k].clone() for value in momenta.values()]
        slope = torch.autograd.grad(log_joint(position, x, y), position)
        for _ in range(steps):
            with torch.no_grad():
                _add(momentum, slope, 0.5 * STEP_SIZE)
                _add(position, momentum, STEP_SIZE)
            slope = torch.autograd.grad(log_joint(position, x, y), position)
            _add(momentum, slope, 0.5 * STEP_SIZE)
        return [each.detach() for each in position]

    def run() -> dict[str, Tensor]:
        ends = zip(*(one(k) for k in range(chains.count)), strict=True)
        return {name: torch.stack(list(end)) for name, end in zip(starts, ends, strict=True)}

    return run


def _add(tensors: Sequence[Tensor], others: Sequence[Tensor], alpha: float) -> None:
    """Add to each tensor, in place, alpha times the other at its place."""
    for tensor, other in zip(tensors, others, strict=True):
        tensor.add_(other, alpha=alpha)


def our_leapfrog(chains: Chains, steps: int) -> Run:
    """Follow all chains at once by the kernel of `hmc`, as rows."""
    signature = Signature((chains.sizes[0],), chains.sizes[-1], "categorical")
    widths = "-".join(map(str, chains.sizes[1:-1]))
    model = catalog.build_model([catalog.choice("models", "mlp", {"mlp": {"widths": widths}})], signature)
    layout, drawn = Layout(model.leaves()), chains.data
    data = Data(drawn.x.expand(chains.count, *drawn.x.shape), drawn.y.expand(chains.count, *drawn.y.shape))
    log_density = log_joint_of(model, layout, prior_of(model, layout, PRIOR_SD, "none", data.x), data)
    position, momentum = layout.joined(chains.start), layout.joined(chains.momentum)
    step_size = torch.full((chains.count,), STEP_SIZE, dtype=torch.float64)
    taken = torch.full((chains.count,), steps)

    def run() -> dict[str, Tensor]:
        value, slope = log_density(position, True)
        start = Phase(position, momentum, value, slope)
        end = hamiltonian.leapfrog(log_density, start, step_size, torch.ones_like(position), taken)
        return layout.views(end.position)

    return run


def blackjax_leapfrog(chains: Chains, steps: int) -> Run:
    """Follow all chains by BlackJAX's velocity Verlet integrator, compiled."""
    jax = _jax()
    integrators, metrics = imported("blackjax.mcmc.integrators"), imported("blackjax.mcmc.metrics")

    def integrator(log_density: Callable[[Any], Any], size: int) -> Callable[[Any, Any], Any]:
        metric = metrics.default_metric(jax.numpy.ones(size))
        step = integrators.velocity_verlet(log_density, metric.kinetic_energy)

        def follow(position: Any, momentum: Any) -> Any:
            start = integrators.new_integrator_state(log_density, position, momentum)
            return jax.lax.fori_loop(0, steps, lambda _, state: step(state, STEP_SIZE), start).position

        return follow

    return _compiled(chains, integrator)


def numpyro_leapfrog(chains: Chains, steps: int) -> Run:
    """Follow all chains by NumPyro's velocity Verlet integrator, compiled."""
    jax, util = _jax(), imported("numpyro.infer.hmc_util")

    def integrator(log_density: Callable[[Any], Any], size: int) -> Callable[[Any, Any], Any]:
        mass = jax.numpy.ones(size)
        begin, step = util.velocity_verlet(lambda z: -log_density(z), util.euclidean_kinetic_energy)

        def follow(position: Any, momentum: Any) -> Any:
            start = begin(position, momentum)
            return jax.lax.fori_loop(0, steps, lambda _, state: step(STEP_SIZE, mass, state), start).z

        return follow

    return _compiled(chains, integrator)


def _jax() -> Any:
    """Import JAX, on one thread: that which calls it, whose waits for a core the clock knows.

    It reads both settings once, so this comes before what imports it.
    """
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    jax = imported("jax")
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return jax


def _compiled(chains: Chains, integrator: Callable[[Callable[[Any], Any], int], Callable[[Any, Any], Any]]) -> Run:
    """Compile a trajectory by JAX for one chain, or for all at once by `vmap`."""
    jax = _jax()
    numpy, nn = jax.numpy, jax.nn
    x, y = numpy.asarray(chains.data.x.numpy()), numpy.asarray(chains.data.y.numpy())

    def log_density(weights: Mapping[str, Any]) -> Any:
        out = x
        for place in range(1, len(chains.sizes)):
            out = nn.relu(out) if place > 1 else out
            out = out @ weights[f"fc{place}.weight"].T + weights[f"fc{place}.bias"]
        likelihood = numpy.take_along_axis(nn.log_softmax(out), y[:, None], 1).sum()
        return likelihood - 0.5 / PRIOR_SD**2 * sum((each**2).sum() for each in weights.values())

    start, momentum = (
        {name: numpy.asarray(value.numpy()) for name, value in drawn.items()}
        for drawn in (chains.start, chains.momentum)
    )
    follow = integrator(log_density, sum(value[0].numel() for value in chains.start.values()))
    if chains.count == 1:
        only = jax.jit(follow)
        one, impulse = ({name: value[0] for name, value in drawn.items()} for drawn in (start, momentum))
        return lambda: jax.block_until_ready(only(one, impulse))
    every = jax.jit(jax.vmap(follow))
    return lambda: jax.block_until_ready(every(start, momentum))
