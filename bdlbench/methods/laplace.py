"""The Laplace approximation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, PerRow
from bdlbench.core.options import option, row_of
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.kernels.linear import product
from bdlbench.networks.layers import Point
from bdlbench.posteriors.curvature import fisher_information, point_output, prior_precision
from bdlbench.posteriors.fitting import PriorScaling, expected_log_likelihood, fit_network, prior_of, training_option
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.protocols import HasFisher, Layer, Model, Moments, OwnsPrior, Posterior
from bdlbench.training.loop import last
from bdlbench.training.recipe import Recipe

Hessian = Literal["auto", "full", "diagonal"]

FULL_LIMIT = 2000
"""Parameters up to which a full covariance is used: 32 MB a replicate, and some seconds for its inverse."""


@dataclass(frozen=True)
class Laplace(Recipe):
    """Laplace: a Gaussian at the MAP, with the inverse curvature of the log joint there as covariance (MacKay 1992).

    q(w) = N(w_MAP, Λ⁻¹), with Λ = Σ_n J_nᵀ H_n J_n + the prior's precision: the generalised Gauss-Newton matrix, which
    is positive definite everywhere, and equals the Hessian on a linear model (Immer et al. 2021, eq. 5). Predictions
    average over sampled weights as in Ritter et al. 2018, one draw for each block of examples. Training is that of MAP.
    The fact `laplace_log_evidence` is log p(D, w_MAP) + ½ P log 2π − ½ log |Λ| in nats (MacKay 1992, eq. 10).
    """

    prior_sd: PerRow = training_option("prior_sd")
    prior_scaling: PriorScaling = training_option("prior_scaling")
    hessian: Hessian = option(
        "auto", f"covariance; auto: full up to {FULL_LIMIT} parameters", choices=("auto", "full", "diagonal")
    )

    def unsupported(self, model: Model) -> str | None:
        """Refuse a model with no Fisher information, with no density of the weights, or with too many weights."""
        layout, like = Layout(model.leaves()), torch.zeros(1, 1, *model.signature.input_shape)
        if isinstance(model, OwnsPrior) and not model.prior(layout, like).of_weights:
            return "its prior is not a density of the weights, so the mode and the curvature are of different densities"
        if self.hessian == "full" and layout.num_parameters > FULL_LIMIT:
            return f"its {layout.num_parameters} parameters are too many for a full covariance: take hessian=diagonal"
        output = point_output(row_of(model, 0), layout, torch.zeros(1, layout.width), like)
        if not isinstance(output, HasFisher):
            return "its output has no Fisher information in closed form"
        if self.validation:
            return "it has no posterior before its last epoch, so none can be chosen by validation rows"
        return self.untrainable(model)

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train each row's network as MAP does, then compute the curvature of one row after another."""
        layout = Layout(model.leaves())
        data, plan = self.with_plan(model, data, rng)
        prior = prior_of(model, layout, self.prior_sd, self.prior_scaling, data.x)
        flat = last(fit_network(model, data, rng, plan, lambda flat, noise: Point(layout.views(flat)), prior)).flat
        rows = [
            row_of(self, r).around(row_of(model, r), layout, flat[r : r + 1].clone(), data.row(r))
            for r in range(data.rows)
        ]
        scale, evidence = (torch.stack(parts) for parts in zip(*rows, strict=True))
        return replace(self.posterior(model, layout, flat, scale), facts={"laplace_log_evidence": evidence})

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior:
        """Return the Gaussian around the stored mode, with its scale as it was stored."""
        layout = Layout(model.leaves())
        flat = layout.joined({name: state[f"{name}.mean"] for name in layout.leaves})
        return self.posterior(model, layout, flat, state["scale"])

    def around(self, model: Model, layout: Layout, flat: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """Return scale and log evidence of one network `flat` (1, P).

        A draw is w = flat + ε · scale, with scale (n, P), or (P,) if diagonal. With Λ = L Lᵀ the scale is L⁻¹, float64,
        with a column for each place of a padded row.
        """
        prior = prior_of(model, layout, self.prior_sd, self.prior_scaling, flat)
        diagonal = self.hessian == "diagonal" or (self.hessian == "auto" and layout.num_parameters > FULL_LIMIT)
        fisher, precision = (
            fisher_information(model, layout, flat, data, diagonal),
            prior_precision(prior, layout, flat),
        )
        if diagonal:
            scale, half_log_volume = (fisher + precision).rsqrt(), -0.5 * (fisher + precision).log().sum()
        else:
            factor = torch.linalg.cholesky(fisher + torch.diag(precision))
            identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
            scale = torch.linalg.solve_triangular(factor, identity, upper=False)
            half_log_volume = -factor.diagonal().log().sum()
        likelihood, _ = expected_log_likelihood(
            model, lambda noise: Point(layout.views(flat)), data, Streams([0]), samples=1
        )
        log_joint = likelihood + prior.log_density(flat.double())
        evidence = log_joint.squeeze(0) + half_log_volume + 0.5 * layout.num_parameters * math.log(2 * math.pi)
        padded = scale.new_zeros(*scale.shape[:-1], layout.width)
        padded[..., layout.fill(lambda leaf: 1.0).bool().to(scale.device)] = scale
        return padded, evidence

    def posterior(self, model: Model, layout: Layout, flat: Tensor, scale: Tensor) -> WeightPosterior:
        """Return rows (R, P) with the scales (R, n, P), or (R, P) of a diagonal, as a posterior."""
        narrow = scale.to(flat)
        state = {f"{name}.mean": value for name, value in layout.views(flat).items()} | {"scale": narrow}

        def draw(noise: Streams, joint: bool) -> Layer:
            if narrow.ndim == 2:
                return Point(layout.views(flat + noise.normal((layout.width,), flat) * narrow))
            epsilon = noise.normal((1, narrow.shape[1]), flat)  # (M, R, 1, n)
            return Point(layout.views(flat + product(epsilon, narrow).squeeze(-2)))

        return WeightPosterior(model, state, draw, moments=partial(self.moments, layout, flat, scale))

    def moments(self, layout: Layout, flat: Tensor, scale: Tensor) -> Moments:
        """Return the moments of rows (R, P) with the scales (R, n, P), or (R, P) of a diagonal.

        The covariance is scaleᵀ scale.
        """
        packed = layout.packed(scale)
        rows = [torch.diag(row.square()) if row.ndim == 1 else row.mT @ row for row in map(Tensor.clone, packed)]
        return Moments(layout.packed(flat).double(), torch.stack(rows), gaussian=True)


methods = {"laplace": Laplace}
