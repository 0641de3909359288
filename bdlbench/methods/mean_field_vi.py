"""Mean-field variational inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Examples
from bdlbench.kernels.elbo import negative_elbo
from bdlbench.kernels.factorised import factorised, sampled
from bdlbench.networks.layers import Flipout, LocalNoise, Point
from bdlbench.posteriors.fitting import (
    PriorScaling,
    expected_log_likelihood,
    initial_network,
    prior_of,
    training_option,
)
from bdlbench.posteriors.moments import factorised_moments
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.protocols import Layer, Model, Posterior, Prior
from bdlbench.training.loop import Decay, LastBatch, Moment, Plan, last, minimise
from bdlbench.training.terms import term

Estimator = Literal["local", "weight", "flipout"]
TrainedPosterior = tuple[Layer, Tensor]
"""A layer rule of rows (R, 2P), and their KL (R,) in nats."""


def _with_noise(
    rule: type[LocalNoise | Flipout], flat: Tensor, layout: Layout, prior: Prior, noise: Streams, valued: bool
) -> TrainedPosterior:
    mean, variance, kl = factorised(flat, layout, prior, valued)
    return rule(mean, variance, noise), kl


def _one_sample(flat: Tensor, layout: Layout, prior: Prior, noise: Streams, valued: bool) -> TrainedPosterior:
    leaves, kl = sampled(flat, noise.normal((layout.width,), flat), layout, prior, valued)
    return Point(leaves), kl


ESTIMATORS: dict[Estimator, type[LocalNoise | Flipout]] = {"local": LocalNoise, "flipout": Flipout}
LAYERS: dict[Estimator, Callable[[Tensor, Layout, Prior, Streams, bool], TrainedPosterior]] = {
    "local": partial(_with_noise, LocalNoise),
    "weight": _one_sample,
    "flipout": partial(_with_noise, Flipout),
}
"""How noise enters a linear map in training, with the KL."""


@dataclass(frozen=True)
class MeanFieldVI:
    """Mean-field VI: an independent Gaussian for every weight, by the reparameterised ELBO (Blundell et al. 2015).

    q(w) = Π_i N(w_i; mean_i, sd_i²). Minimises −(1/N) [Σ_n E_q log p(y_n | x_n, w) − KL(q ‖ N(0, prior_sd²))], never
    tempered. Noise by local reparameterisation (Kingma, Salimans & Welling 2015), weight samples, or Flipout.
    """

    epochs: int = training_option("epochs")
    batch_size: int = training_option("batch_size")
    learning_rate: PerRow = training_option("learning_rate")
    decay: Decay = training_option("decay")
    prior_sd: PerRow = training_option("prior_sd")
    prior_scaling: PriorScaling = training_option("prior_scaling")
    initial_log_sd: PerRow = option(-5.0, "log standard deviation of q at the start", low=-30, high=5)
    estimator: Estimator = option("local", "how noise enters a linear map", choices=tuple(LAYERS))
    bound_samples: int = option(3, "draws for the reported ELBO", low=1)
    last_batch: LastBatch = training_option("last_batch")

    def unsupported(self, model: Model) -> str | None:
        """Accept every model: each has weights."""
        return None

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train each row's Gaussian."""
        layout = Layout(model.leaves())
        prior = prior_of(model, layout, self.prior_sd, self.prior_scaling, data.x)

        def objective(flat: Tensor, batch: Examples, noise: Streams, moment: Moment) -> Tensor:
            layer, kl = LAYERS[self.estimator](flat, layout, prior, noise, moment.reported)
            elbo = term("likelihood", model(layer, batch.x, noise).elbo(batch.y))
            return negative_elbo(elbo, term("divergence", kl), data.num_data)

        plan = Plan(self.epochs, self.batch_size, self.learning_rate, self.decay, self.last_batch)
        flat = last(minimise(objective, self.initial(model, data, rng.child("init")), data, rng, plan)).flat
        return self.posterior(model, layout, flat, self.bound(model, layout, flat, prior, data, rng.child("bound")))

    def drawn(self, layout: Layout, flat: Tensor) -> Callable[[Streams, bool], Layer]:
        """Return a function that draws networks from rows (R, 2P), one for all examples where `joint`."""
        mean, log_sd = flat.chunk(2, dim=-1)
        sd = log_sd.exp()
        means, variances, rule = layout.views(mean), layout.views(sd.square()), ESTIMATORS.get(self.estimator)

        def draw(noise: Streams, joint: bool) -> Layer:
            if joint or rule is None:
                return Point(layout.views(torch.addcmul(mean, sd, noise.normal((layout.width,), mean))))
            return rule(means, variances, noise)

        return draw

    def bound(self, model: Model, layout: Layout, flat: Tensor, prior: Prior, data: Data, rng: Streams) -> Tensor:
        """Return the ELBO of all training data in nats, (R,) float64.

        It takes `bound_samples` draws of the training estimator. Local noise treats the positions of a convolution as
        independent, so there it is the ELBO of that approximation.
        """
        draw = self.drawn(layout, flat)
        expected = expected_log_likelihood(model, lambda noise: draw(noise, False), data, rng, self.bound_samples)
        mean, log_sd = flat.double().chunk(2, dim=-1)
        return expected - prior.kl(mean, log_sd)

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior:
        """Return the learnt Gaussian."""
        layout = Layout(model.leaves())
        parts = [{name: state[f"{name}.{part}"] for name in layout.leaves} for part in ("mean", "log_sd")]
        return self.posterior(model, layout, torch.cat([layout.joined(part) for part in parts], -1), None)

    def posterior(self, model: Model, layout: Layout, flat: Tensor, bound: Tensor | None) -> WeightPosterior:
        """Return rows (R, 2P) as a posterior."""
        mean, log_sd = flat.chunk(2, dim=-1)
        means, log_sds = layout.views(mean), layout.views(log_sd)
        state = {f"{k}.mean": v for k, v in means.items()} | {f"{k}.log_sd": v for k, v in log_sds.items()}
        moments = partial(factorised_moments, layout, mean, (2 * log_sd.double()).exp(), gaussian=True)
        return WeightPosterior(model, state, self.drawn(layout, flat), bound=bound, moments=moments)

    def initial(self, model: Model, data: Data, rng: Streams) -> Tensor:
        """Return initial rows (R, 2P): means as a network's weights, log standard deviations all the same."""
        mean = initial_network(model, data, rng)
        value = self.initial_log_sd
        log_sd = torch.as_tensor(value, dtype=mean.dtype, device=mean.device).reshape(-1, 1).expand_as(mean)
        return torch.cat([mean, log_sd], dim=-1)


methods = {"mean_field_vi": MeanFieldVI}
