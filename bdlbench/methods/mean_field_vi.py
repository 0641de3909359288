"""Mean-field variational inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from bdlbench.core.errors import BadInput
from bdlbench.core.layout import Layout, PerRow, per_row
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Examples
from bdlbench.kernels.elbo import negative_elbo
from bdlbench.kernels.kl import MixtureScales
from bdlbench.networks.layers import Flipout, LocalNoise, Point
from bdlbench.posteriors.estimators import ESTIMATORS, DivergenceAt, Estimator, FactorisedELBO, gradient_trace
from bdlbench.posteriors.fitting import (
    NO_NOISE,
    LearntPriorSd,
    PriorScaling,
    ScaleMixture,
    equal_log_sd,
    expected_log_likelihood,
    initial_network,
    is_linear,
    prior_of,
    trained_elbo,
    training_option,
)
from bdlbench.posteriors.moments import factorised_moments
from bdlbench.posteriors.sparsity import sparsity_facts
from bdlbench.posteriors.updating import Continued, factorised_prior
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.predictives.mixtures import ordered_sum
from bdlbench.protocols import HasSpread, Layer, Model, OwnsPrior, Posterior
from bdlbench.training.loop import State, last, minimise
from bdlbench.training.plan import Moment
from bdlbench.training.recipe import Recipe
from bdlbench.training.terms import term

PriorShape = Literal["gaussian", "empirical_bayes", "scale_mixture"]
Pruning = Literal["none", "signal_to_noise"]

RULES: Mapping[Estimator, type[LocalNoise | Flipout]] = {"local": LocalNoise, "flipout": Flipout}
"""How examples are predicted where each has noise of its own; after any other estimator the weights are drawn."""


@dataclass(frozen=True)
class MeanFieldVI(Recipe):
    """Mean-field VI: an independent Gaussian for every weight, by the reparameterised ELBO (Blundell et al. 2015).

    q(w) = Π_i N(w_i; mean_i, sd_i²). Minimises −(1/N) [Σ_n E_q log p(y_n | x_n, w) − T · KL(q ‖ N(0, prior_sd²))], with
    temperature T = 1 unless it is set. Below 1 the posterior is cold: it is that of every example counted 1/T times
    (Wenzel et al. 2020, §2.3). The reported ELBO of q is that of T = 1. Noise by local
    reparameterisation (Kingma, Salimans & Welling 2015), weight samples, or Flipout; or a gradient by the score
    function (REINFORCE), plain, less the value at the means, or less the mean of the other samples.

    With prior=empirical_bayes each leaf has the prior N(0, s²) whose s² = mean of (mean_i² + sd_i²) over the leaf makes
    the KL smallest, at every step. With prior=scale_mixture it is π N(0, wide_sd²) + (1 − π) N(0, narrow_sd²), and the
    KL is the log ratio at one sample of the weights (Blundell et al. 2015, §3.3); wide_sd and narrow_sd are by default
    the largest of its grids. Then prior_sd and prior_scaling have no say, nor has any of them where a model owns its
    prior. With prune=signal_to_noise the fraction `pruned` of the weights of linear maps whose |mean| / sd is smallest
    is zero after training (§5.1 there); the reported ELBO is that of q before pruning.

    A step averages over `weight_samples` draws. With `gradient_draws` the facts hold, at the start and at the end, the
    trace of the covariance of every estimator's gradient at so many samples, from the first `batch_size` examples.
    """

    prior_sd: PerRow = training_option("prior_sd")
    prior_scaling: PriorScaling = training_option("prior_scaling")
    initial_log_sd: PerRow = option(
        -5.0, "log standard deviation of q at the start", low=-30, high=5, search=(-8.0, -1.0)
    )
    estimator: Estimator = option("local", "how noise enters a linear map", choices=tuple(ESTIMATORS))
    bound_samples: int = option(3, "draws for the reported ELBO", low=1)
    prior: PriorShape = option("gaussian", "the prior of each parameter", choices=get_args(PriorShape), later=True)
    mixture_weight: PerRow = option(
        0.5, "π of the wide part of prior=scale_mixture", low=0, high=1, open_ends=True, later=True
    )
    wide_sd: PerRow = option(1.0, "sd of the wide part of prior=scale_mixture", low=0, open_ends=True, later=True)
    narrow_sd: PerRow = option(
        0.0025, "sd of the narrow part of prior=scale_mixture", low=0, open_ends=True, later=True
    )
    prune: Pruning = option("none", "which weights are zero after training", choices=get_args(Pruning), later=True)
    pruned: PerRow = option(
        0.5, "fraction of the weights of linear maps that prune takes", low=0, high=1, open_ends="high", later=True
    )
    temperature: PerRow = option(1.0, "T, by which the KL is multiplied", low=0, open_ends=True, later=True)
    weight_samples: int = option(1, "K, samples of the weights in a step", low=1, later=True)
    gradient_draws: int = option(
        0, "draws of each estimator's gradient that measure how much it varies, 2 or more; 0: none", low=0, later=True
    )

    def unsupported(self, model: Model) -> str | None:
        """Refuse to prune a model without linear maps, and to compare one sample or one gradient with itself."""
        if self.estimator == "score_leave_one_out" and self.weight_samples < 2:
            return "score_leave_one_out takes the mean of the other samples as baseline: set weight_samples=2 or more"
        if self.gradient_draws == 1:
            return "one draw of a gradient does not tell how much it varies: set gradient_draws=2 or more, or 0"
        nothing = self.prune != "none" and not any(is_linear(leaf) for leaf in model.leaves().values())
        return "it has no linear map to prune" if nothing else self.untrainable(model)

    def fit(self, model: Model, data: Data, rng: Streams) -> WeightPosterior:
        """Train each row's Gaussian."""
        layout = Layout(model.leaves())
        data, plan = self.with_plan(model, data, rng)
        prior = self.divergence(model, layout, data.x)
        estimated = FactorisedELBO(
            lambda layer, batch, noise: trained_elbo(model, layer, batch, noise, plan),
            layout,
            prior,
            self.weight_samples,
        )

        def objective(flat: Tensor, batch: Examples, noise: Streams, moment: Moment) -> Tensor:
            likelihood, kl = ESTIMATORS[self.estimator](estimated, flat, batch, noise, moment.reported)
            likelihood, kl = term("likelihood", likelihood), term("divergence", kl)
            return negative_elbo(likelihood, kl * per_row(self.temperature, kl, 1), data.num_data)

        initial = self.initial(model, data, rng.child("init"))

        def posterior(state: State, bound: Tensor | None = None) -> WeightPosterior:
            return self.posterior(model, layout, self.without_noisy_weights(layout, state.flat), bound)

        final = last(minimise(objective, initial, data, rng, plan, posterior=posterior))
        bound, error = self.bound(model, layout, final.flat, prior, data, rng.child("bound"))
        found = posterior(final, bound)
        facts = {**found.facts, **error}
        for point, flat in {"start": initial, "end": final.flat}.items() if self.gradient_draws else ():
            own = rng.child(f"gradients {point}")
            measured = gradient_trace(estimated, flat, data, own, self.batch_size, self.gradient_draws)
            facts |= {f"gradient_trace[{point} {name}]": value for name, value in measured.items()}
        return replace(found, facts=facts)

    def updated(self, model: Model, posterior: Posterior, data: Data, rng: Streams) -> Posterior:
        """Train on further data from the learnt Gaussian, which is the prior.

        There is no bound: under a prior that is itself an approximation, the parts do not add up to one of all data.

        Raises:
            BadInput: Weights were pruned: they have no spread.
        """
        if self.prune != "none":
            raise BadInput(f"mean_field_vi: prune={self.prune} leaves weights without a spread, so it is no prior")
        layout = Layout(model.leaves())
        means, log_sds = ({k: posterior.state[f"{k}.{part}"] for k in layout.leaves} for part in ("mean", "log_sd"))
        continued = Continued(model, factorised_prior(layout, means, log_sds), means, log_sds)
        return replace(self.fit(continued, data, rng), model=model, bound=None, facts={})

    def divergence(self, model: Model, layout: Layout, like: Tensor) -> DivergenceAt:
        """Return the KL from the model's own prior where it has one, else from the one that the options name."""
        if self.prior == "gaussian" or isinstance(model, OwnsPrior):
            prior = prior_of(model, layout, self.prior_sd, self.prior_scaling, like)
            return lambda epsilon: prior
        if self.prior == "empirical_bayes":
            return lambda epsilon: LearntPriorSd(layout)
        given = (self.mixture_weight, self.wide_sd, self.narrow_sd)
        scales = MixtureScales(*(torch.as_tensor(value).to(like).reshape(-1, 1) for value in given))
        counted = layout.fill(lambda leaf: 1.0).to(like)
        return lambda epsilon: ScaleMixture(scales, counted, epsilon())

    def without_noisy_weights(self, layout: Layout, flat: Tensor) -> Tensor:
        """Return rows (R, 2P) in which the weights that `prune` names are zero, and their noise too."""
        if self.prune == "none":
            return flat
        mean, log_sd = flat.chunk(2, dim=-1)
        linear = layout.fill(lambda leaf: float(is_linear(leaf))).to(flat)
        log_ratio = torch.where(linear > 0, mean.abs().log() - log_sd, torch.inf)
        rank = log_ratio.argsort(dim=-1, stable=True).argsort(-1)  # (R, P), 0 for the smallest
        fraction = torch.as_tensor(self.pruned, dtype=torch.float64).reshape(-1, 1)
        gone = rank < (fraction * linear.sum().double().cpu()).round().to(rank)
        return torch.cat([mean.masked_fill(gone, 0.0), log_sd.masked_fill(gone, NO_NOISE)], -1)

    def drawn(self, layout: Layout, flat: Tensor) -> Callable[[Streams, bool], Layer]:
        """Return a function that draws networks from rows (R, 2P), one for all examples where `joint`."""
        mean, log_sd = flat.chunk(2, dim=-1)
        sd = log_sd.exp()
        means, variances, rule = layout.views(mean), layout.views(sd.square()), RULES.get(self.estimator)
        for name in layout.buffers:
            del variances[name]

        def draw(noise: Streams, joint: bool) -> Layer:
            if joint or rule is None:
                return Point(layout.views(torch.addcmul(mean, sd, noise.normal((layout.width,), mean))))
            return rule(means, variances, noise)

        return draw

    def bound(
        self, model: Model, layout: Layout, flat: Tensor, prior: DivergenceAt, data: Data, rng: Streams
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the ELBO of all training data in nats, (R,) float64, and its standard error as a fact.

        It takes `bound_samples` draws of the training estimator; one draw does not tell its error. Local noise treats
        the positions of a convolution as independent, so there it is the ELBO of that approximation.
        """
        draw, count = self.drawn(layout, flat), self.bound_samples
        expected, draws = expected_log_likelihood(model, lambda noise: draw(noise, False), data, rng, count)
        mean, log_sd = flat.double().chunk(2, dim=-1)

        def kl(sample: int) -> Tensor:
            noise = rng.child(f"prior {sample}")
            return prior(lambda: noise.normal((layout.width,), mean)).kl(mean, log_sd)

        divergences = torch.stack([kl(sample) for sample in range(count if self.prior == "scale_mixture" else 1)])
        bound = expected - ordered_sum(divergences) / len(divergences)
        if count == 1:
            return bound, {}
        variance = ordered_sum((draws - divergences - bound).square()) / (count - 1)  # (R,)
        return bound, {"elbo_standard_error": (variance / count).sqrt()}

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
        whole = self.prune == "none"
        moments = partial(factorised_moments, layout, mean, (2 * log_sd.double()).exp(), gaussian=whole)
        kept = {name: view > NO_NOISE for name, view in log_sds.items() if is_linear(layout.leaves[name])}
        facts = {} if whole else sparsity_facts(kept, layout)
        return WeightPosterior(model, state, self.drawn(layout, flat), facts=facts, bound=bound, moments=moments)

    def initial(self, model: Model, data: Data, rng: Streams) -> Tensor:
        """Return initial rows (R, 2P): means as a network's weights, log standard deviations all the same.

        Of a model that `HasSpread` they start where it says.
        """
        mean = initial_network(model, data, rng)
        layout = Layout(model.leaves())
        log_sd = equal_log_sd(layout, self.initial_log_sd, mean)
        if isinstance(model, HasSpread):
            log_sd = log_sd.clone()
            for name, known in model.start_log_sd().items():
                layout.views(log_sd)[name].copy_(known)
        return torch.cat([mean, log_sd], dim=-1)


methods = {"mean_field_vi": MeanFieldVI}
