"""The Laplace approximation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from bdlbench.core.layout import Layout, PerRow
from bdlbench.core.options import option, row_of
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.networks.layers import Point
from bdlbench.posteriors.curvature import is_factored, linear_maps, other_uses, point_output, prior_precision
from bdlbench.posteriors.fitting import PriorScaling, expected_log_likelihood, fit_network, prior_of, training_option
from bdlbench.posteriors.linearised import LinearisedPosterior
from bdlbench.posteriors.structures import STRUCTURES, Root, Structure, StructureName
from bdlbench.posteriors.weights import WeightPosterior
from bdlbench.protocols import HasFisher, HasLocation, Layer, Model, Moments, OwnsPrior, Posterior
from bdlbench.training.loop import last
from bdlbench.training.recipe import Recipe

Hessian = Literal["auto", "full", "diagonal", "kron"]
Weights = Literal["all", "last_layer"]
Link = Literal["weights", "probit", "mc"]
PriorFrom = Literal["option", "evidence"]

FULL_LIMIT = 2000
"""Parameters up to which a full covariance is used: 32 MB a replicate, and some seconds for its inverse."""

PRIOR_SDS = 1e-3, 1e3
"""Between these multiples of prior_sd the evidence's best is looked for."""


@dataclass(frozen=True)
class Laplace(Recipe):
    """Laplace: a Gaussian at the MAP, with the inverse curvature of the log joint there as covariance (MacKay 1992).

    q(w) = N(w_MAP, Λ⁻¹), with Λ = Σ_n J_nᵀ H_n J_n + the prior's precision: the generalised Gauss-Newton matrix, which
    is positive definite everywhere, and equals the Hessian on a linear model (Immer et al. 2021, eq. 5). Predictions
    average over sampled weights as in Ritter et al. 2018, one draw for each block of examples. Training is that of MAP.
    The fact `laplace_log_evidence` is log p(D, w_MAP) + ½ P log 2π − ½ log |Λ| in nats (MacKay 1992, eq. 10).

    The curvature of each leaf may be factored, G ⊗ A + the prior's precision by eigenvalues (Ritter et al. 2018; as
    Daxberger et al. 2021 have it, without damping), or diagonal. With weights=last_layer the linear map that the
    network applies last is uncertain, and all others stay at the MAP; the evidence is then of these weights. With
    link=probit or mc the network is linear around w_MAP (Immer et al. 2021), and predictions are in closed form, of
    classes by the probit approximation of each logit, or by draws. With prior_sd_from=evidence the curvature meets the
    prior whose sd makes the evidence at the same w_MAP largest (Daxberger et al. 2021), the fact `laplace_prior_sd`.
    """

    prior_sd: PerRow = training_option("prior_sd")
    prior_scaling: PriorScaling = training_option("prior_scaling")
    hessian: Hessian = option(
        "auto", f"covariance; auto: full up to {FULL_LIMIT} parameters, then diagonal", choices=get_args(Hessian)
    )
    weights: Weights = option("all", "weights that are uncertain", choices=get_args(Weights), later=True)
    link: Link = option(
        "weights",
        "how it predicts: by sampled weights, or by the linearised network, in closed form or by mc",
        choices=get_args(Link),
        later=True,
    )
    prior_sd_from: PriorFrom = option(
        "option",
        "the prior that the curvature meets: that of prior_sd, or of the highest evidence",
        choices=get_args(PriorFrom),
        later=True,
    )

    def unsupported(self, model: Model) -> str | None:
        """Refuse a model with no Fisher information, with no density of the weights, or with too many weights."""
        layout, like = Layout(model.leaves()), torch.zeros(1, 1, *model.signature.input_shape)
        if isinstance(model, OwnsPrior) and not model.prior(layout, like).of_weights:
            return "its prior is not a density of the weights, so the mode and the curvature are of different densities"
        if isinstance(model, OwnsPrior) and self.prior_sd_from == "evidence":
            return "its prior is part of it, so there is none to be found by the evidence"
        output = point_output(row_of(model, 0), layout, torch.zeros(1, layout.width), like)
        if not isinstance(output, HasFisher):
            return "its output has no Fisher information in closed form"
        maps = linear_maps(row_of(model, 0), layout, like)
        if self.weights == "last_layer" and (not maps or isinstance(model, OwnsPrior)):
            return "it has no last layer" if not maps else "its prior is of all its weights: take weights=all"
        if self.hessian == "kron" and not all(is_factored(one.op) for one in maps):
            return "it has a linear map whose curvature has no known Kronecker factors: take hessian=diagonal"
        if self.hessian == "kron" and (tied := other_uses(row_of(model, 0), layout, maps, like)):
            return f"it uses {tied[0]} in a linear map and in another way, which has no factors: take hessian=diagonal"
        part = self.part(model, layout, like)
        if self.hessian == "full" and part.num_parameters > FULL_LIMIT:
            return f"its {part.num_parameters} parameters are too many for a full covariance: take hessian=kron"
        if self.link != "weights" and not isinstance(output, HasLocation):
            return "its output is no distribution around a location, so the network cannot be linearised"
        if self.validation:
            return "it has no posterior before its last epoch, so none can be chosen by validation rows"
        return self.untrainable(model)

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train each row's network as MAP does, then compute the curvature of one row after another."""
        layout = Layout(model.leaves())
        data, plan = self.with_plan(model, data, rng)
        prior = prior_of(model, layout, self.prior_sd, self.prior_scaling, data.x)
        flat = last(fit_network(model, data, rng, plan, lambda flat, noise: Point(layout.views(flat)), prior)).flat
        part = self.part(model, layout, data.x[:1, :1])
        rows = [
            row_of(self, r).around(row_of(model, r), layout, part, flat[r : r + 1].clone(), data.row(r))
            for r in range(data.rows)
        ]
        root, facts = ({name: torch.stack([row[i][name] for row in rows]) for name in rows[0][i]} for i in range(2))
        return replace(self.posterior(model, layout, part, flat, root), facts=facts)

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior:
        """Return the Gaussian around the stored mode, with its root as it was stored."""
        layout = Layout(model.leaves())
        means = {f"{name}.mean" for name in layout.leaves}
        flat = layout.joined({name: state[f"{name}.mean"] for name in layout.leaves})
        root = {name: value for name, value in state.items() if name not in means}
        like = flat.new_zeros(1, 1, *model.signature.input_shape)
        return self.posterior(model, layout, self.part(model, layout, like), flat, root)

    def part(self, model: Model, layout: Layout, x: Tensor) -> Layout:
        """Return the layout of the uncertain leaves alone; x (1, B, …) are any inputs."""
        if self.weights == "all":
            return layout
        final = linear_maps(row_of(model, 0), layout, x)[-1]
        return Layout({name: layout.leaves[name] for name in (final.weight, final.bias) if name})

    def structure(self, part: Layout) -> Structure:
        """Return the structure of the covariance."""
        auto: StructureName = "full" if part.num_parameters <= FULL_LIMIT else "diagonal"
        return STRUCTURES[auto if self.hessian == "auto" else self.hessian]

    def around(
        self, model: Model, layout: Layout, part: Layout, flat: Tensor, data: Data
    ) -> tuple[Root, dict[str, Tensor]]:
        """Return the root of the covariance around one network `flat` (1, P), and what is known of it."""
        structure = self.structure(part)
        curvature = structure.curvature(model, layout, part, flat, data)
        mode = part.joined({name: layout.views(flat)[name] for name in part.leaves})
        likelihood, _ = expected_log_likelihood(
            model, lambda noise: Point(layout.views(flat)), data, Streams([0]), samples=1
        )

        def by_prior(sd: PerRow) -> tuple[Root, Tensor]:
            """Return the root and the log evidence under a prior of this sd."""
            prior = prior_of(model, part, sd, self.prior_scaling, mode)
            root, half_log_volume = structure.root(part, curvature, prior_precision(prior, part, mode))
            log_joint = likelihood + prior.log_density(mode.double())
            return root, log_joint.squeeze(0) + half_log_volume + 0.5 * part.num_parameters * math.log(2 * math.pi)

        sd, known = self.prior_sd, {}
        if self.prior_sd_from == "evidence":
            bounds = [math.log(self.prior_sd * factor) for factor in PRIOR_SDS]
            found = minimize_scalar(lambda log_sd: -by_prior(math.exp(log_sd))[1].item(), bounds=bounds)
            sd = math.exp(found.x)
            known["laplace_prior_sd"] = likelihood.new_tensor(sd)
        root, evidence = by_prior(sd)
        return root, {"laplace_log_evidence": evidence, **known}

    def posterior(
        self, model: Model, layout: Layout, part: Layout, flat: Tensor, root: Root
    ) -> WeightPosterior | LinearisedPosterior:
        """Return rows (R, P) with the root of the covariance, (R, …) each, as a posterior."""
        structure, narrow = self.structure(part), {name: value.to(flat) for name, value in root.items()}
        views = layout.views(flat)
        state = {f"{name}.mean": value for name, value in views.items()} | narrow
        moments = partial(self.moments, layout, part, flat, root)
        if self.link != "weights":
            return LinearisedPosterior(
                model,
                state,
                layout,
                part,
                flat,
                lambda noise: structure.draw(part, narrow, noise, flat),
                lambda r, slopes: structure.variances(
                    part, {n: value[r].clone() for n, value in narrow.items()}, slopes
                ),
                self.link == "mc",
                moments=moments,
            )
        mode = part.joined({name: views[name] for name in part.leaves})

        def draw(noise: Streams, joint: bool) -> Layer:
            return Point({**views, **part.views(mode + structure.draw(part, narrow, noise, flat))})

        return WeightPosterior(model, state, draw, moments=moments)

    def moments(self, layout: Layout, part: Layout, flat: Tensor, root: Root) -> Moments | None:
        """Return the moments of rows (R, P) with the root of the covariance; None where some weights have none."""
        if part.leaves != layout.leaves:
            return None
        structure = self.structure(part)
        rows = [
            structure.covariance(part, {name: value[r].clone() for name, value in root.items()})
            for r in range(len(flat))
        ]
        return Moments(layout.packed(flat).double(), torch.stack(rows), gaussian=True)


methods = {"laplace": Laplace}
