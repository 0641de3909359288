"""A faulty plugin that the lint must catch: mean-field VI whose KL has a weight, which should be 1."""

from __future__ import annotations

from dataclasses import dataclass

from bdlbench.core.layout import PerRow, per_row
from bdlbench.core.options import option
from bdlbench.methods.mean_field_vi import MeanFieldVI
from bdlbench.protocols import Model, Prior


@dataclass(frozen=True)
class WeightedPrior:
    """A prior whose KL is multiplied by `weight`."""

    prior: Prior
    weight: PerRow
    of_weights: bool = False

    def log_density(self, flat, valued=True):
        return self.prior.log_density(flat, valued)

    def kl(self, mean, log_sd):
        return self.weight * self.prior.kl(mean, log_sd)

    def add_kl_gradient(self, mean, variance, factor, into_mean, into_log_sd):
        weighted = per_row(self.weight, factor, 2) * factor
        self.prior.add_kl_gradient(mean, variance, weighted, into_mean, into_log_sd)


@dataclass(frozen=True)
class WithPrior:
    """A model with this prior."""

    model: Model
    weight: PerRow
    prior_sd: float

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, layer, x, rng):
        return self.model(layer, x, rng)

    def prior(self, layout, like):
        from bdlbench.posteriors.fitting import prior_of

        return WeightedPrior(prior_of(self.model, layout, self.prior_sd, "none", like), self.weight)


@dataclass(frozen=True)
class WeightedVI:
    """Minimise −(1/N) [Σ_n E_q log p(y_n | x_n, w) − kl_weight · KL(q ‖ N(0, prior_sd²))]."""

    epochs: int = option(120, "passes over the training data", low=1)
    learning_rate: float = option(1e-3, "Adam's step size", low=0, open_ends=True)
    prior_sd: float = option(1.0, "standard deviation of the Gaussian prior", low=0, open_ends=True)
    kl_weight: PerRow = option(1.0, "what the KL is multiplied by; 1 is the ELBO", low=0)

    def unsupported(self, model):
        return None

    def fit(self, model, data, rng):
        vi = MeanFieldVI(self.epochs, learning_rate=self.learning_rate)
        return vi.fit(WithPrior(model, self.kl_weight, self.prior_sd), data, rng)


methods = {"weighted_vi": WeightedVI}
