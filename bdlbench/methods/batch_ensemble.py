"""Batch ensembles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from bdlbench.core.layout import PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Examples
from bdlbench.kernels.elbo import negative_elbo
from bdlbench.posteriors.ensemble import EnsemblePosterior, mixture_of_points
from bdlbench.posteriors.fitting import initial_network, trained_elbo
from bdlbench.posteriors.rank_one import SharedNetwork, shared_network, unshareable
from bdlbench.predictives.mixtures import ordered_sum
from bdlbench.protocols import Model
from bdlbench.training.loop import State, last, minimise
from bdlbench.training.plan import Moment
from bdlbench.training.recipe import Recipe
from bdlbench.training.terms import term


@dataclass(frozen=True)
class BatchEnsemble(Recipe):
    """Batch ensemble: K networks that share their weights up to two vectors a layer (Wen, Tran & Ba 2020).

    Member k has the weights W ∘ (s_k r_kᵀ) of each linear map, of a convolution by channels, and its own biases. All
    else, such as the gains of a normalisation, is shared. Minimises −(1/(N K)) Σ_n Σ_k log p(y_n | x_n, W, r_k, s_k,
    b_k), each batch repeated for every member, as in the authors' code; BatchNorm sees the repeated batch. Predictions
    average the probabilities of the members. r and s start from N(1, initial_sd²), take `factor_rate` times the step of
    the weights, and have no weight decay. One member whose r and s stay 1 is `mle`.
    """

    members: int = option(4, "networks in the ensemble", low=1)
    initial_sd: PerRow = option(0.5, "sd of r and s around 1 at the start", low=0, search=(0.05, 1.0))
    factor_rate: PerRow = option(0.5, "steps of r and s, in steps of the weights", low=0, search=(0.05, 1.0))

    def unsupported(self, model: Model) -> str | None:
        """Refuse a model whose linear maps the members could not share."""
        return self.untrainable(model) or unshareable(model)

    def fit(self, model: Model, data: Data, rng: Streams) -> EnsemblePosterior:
        """Train the members of each row together."""
        data, plan = self.with_plan(model, data, rng)
        shared = shared_network(model, self.members)

        def objective(flat: Tensor, batch: Examples, noise: Streams, moment: Moment) -> Tensor:
            elbo = trained_elbo(model, shared.rule(flat), shared.of_members(batch), noise, plan)  # (R, K·B)
            mean = ordered_sum(elbo.unflatten(1, (self.members, -1)).unbind(1)) / self.members  # (R, B)
            return negative_elbo(term("likelihood", mean), 0.0, data.num_data)

        def posterior(state: State) -> EnsemblePosterior:
            return _mixture(model, shared, state.flat)

        start = rng.child("init")
        initial = shared.start(initial_network(model, data, start), start.child("factors"), self.initial_sd)
        update = shared.update(plan, self.factor_rate)
        return posterior(last(minimise(objective, initial, data, rng, plan, update, posterior=posterior)))

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> EnsemblePosterior:
        """Return the mixture of the stored members."""
        shared = shared_network(model, self.members)
        return _mixture(model, shared, shared.flat(state))


def _mixture(model: Model, shared: SharedNetwork, flat: Tensor) -> EnsemblePosterior:
    """Return the equal mixture of the members of rows (R, P + Q)."""
    return replace(mixture_of_points(model, shared.layout, shared.networks(flat)), shared=shared.state(flat))


methods = {"batch_ensemble": BatchEnsemble}
