"""Snapshot ensembles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor

from bdlbench.core.layout import Layout, PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.networks.layers import Point
from bdlbench.posteriors.ensemble import EnsemblePosterior
from bdlbench.posteriors.fitting import fit_network, training_option
from bdlbench.posteriors.kept_networks import cycle_ends, keep_networks, mixture_of_kept, restored_mixture
from bdlbench.protocols import Model, Posterior
from bdlbench.training.loop import State, last
from bdlbench.training.optimisers import Tensors, Update, optimiser_of
from bdlbench.training.plan import Decay, Moment
from bdlbench.training.recipe import Recipe


@dataclass(frozen=True)
class Snapshot(Recipe):
    """Snapshot ensemble: the mixture of one network from the end of each cycle of the learning rate.

    Huang et al. 2017. Maximum likelihood, as `mle`, but the rate starts anew in each of `cycles` cycles: after t of the
    T steps of a cycle it is learning_rate · ½ (1 + cos(π t / T)) (eq. 2), or by another `decay`. What the optimiser
    keeps, such as its momentum, goes on from cycle to cycle. Cycles begin and end with epochs. One cycle is `mle` with
    decay=cosine. The paper trains by SGD with momentum.
    """

    decay: Decay = training_option("decay", default="cosine", help="learning rate over time, in each cycle")
    cycles: int = option(5, "cycles of the learning rate, of one network each; at most one an epoch", low=1)

    def unsupported(self, model: Model) -> str | None:
        """Accept every model, since each has a likelihood; held-out rows cannot choose one epoch of several cycles."""
        if self.validation:
            return "it keeps a network of each cycle, so no single epoch can be chosen by validation rows"
        return self.untrainable(model)

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train each row's network, and keep it at the end of each cycle."""
        layout = Layout(model.leaves())
        data, plan = self.with_plan(model, data, rng)
        own, steps, total = optimiser_of(plan), plan.steps_per_epoch(data.num_data), plan.total_steps(data.num_data)
        ends = cycle_ends(0, plan.total_epochs(data.num_data), self.cycles)
        bounds = [0, *(min(end * steps, total) for end in ends)]  # in steps

        def step(
            flat: Tensor, gradient: Tensor, kept: Tensors, rate: PerRow, moment: Moment, noise: Streams
        ) -> tuple[Tensor, Tensors]:
            first, end = next(cycle for cycle in pairwise(bounds) if moment.step < cycle[1])
            within = replace(moment, step=moment.step - first, steps=end - first)
            return own.step(flat, gradient, kept, plan.rate(within), moment, noise)

        def network(flat: Tensor, noise: Streams) -> Point:
            return Point(layout.views(flat))

        def posterior(state: State) -> EnsemblePosterior | None:
            return mixture_of_kept(model, layout, state, ends)

        update, collect = Update(own.start, step), keep_networks(ends)
        final = posterior(last(fit_network(model, data, rng, plan, network, None, update, collect, posterior)))
        assert final is not None  # the last cycle ends with the last epoch
        return final

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior:
        """Return the mixture of the stored networks."""
        return restored_mixture(model, state)


methods = {"snapshot": Snapshot}
