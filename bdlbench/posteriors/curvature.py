"""The curvature of a log joint density around one replicate's weights."""

from __future__ import annotations

import torch
from torch import Tensor

from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.networks.layers import Point
from bdlbench.protocols import HasFisher, Model, Output, Prior

BLOCK = 64
"""Examples whose gradients are held at once; a change of it changes bits."""


def point_output(model: Model, layout: Layout, flat: Tensor, x: Tensor) -> Output:
    """Return the output of the networks `flat` (R, P) on x (R, B, …), where the output has no latent.

    Nothing is drawn: the streams are those of one posterior sample, so that the network predicts and does not train.
    """
    return model(Point(layout.views(flat)), x, Streams([0] * len(x), (1, len(x))))


def fisher_information(model: Model, layout: Layout, flat: Tensor, data: Data, diagonal: bool) -> Tensor:
    """Return Σ_n E ∇log p(y | x_n) ∇log p(y | x_n)ᵀ of the one network `flat` (1, P).

    This is the generalised Gauss-Newton matrix Σ_n J_nᵀ H_n J_n for likelihoods that are exponential families of the
    network's output (Martens 2020, §9.2); on a linear model it is the Hessian. Each example is a row of its own, so the
    replicate axis gives the gradient of every example. Returns float64 (P, P), or its diagonal (P,), without padding.

    Raises:
        TypeError: The output has no known Fisher information.
    """
    size = layout.num_parameters
    total = flat.new_zeros((size,) if diagonal else (size, size), dtype=torch.float64)
    for start in range(0, data.num_data, BLOCK):
        x = data.x[0, start : start + BLOCK].unsqueeze(1).clone()  # (B, 1, …)
        rows = flat.expand(len(x), -1).clone().requires_grad_()
        output = point_output(model, layout, rows, x)
        if not isinstance(output, HasFisher):
            raise TypeError(f"{type(output).__name__} has no Fisher information")
        for target, weight in output.fisher_targets():
            (gradient,) = torch.autograd.grad(output.elbo(target).sum(), rows, retain_graph=True)
            scaled = layout.packed(gradient).double() * weight.double().sqrt()  # (B, P)
            total += scaled.square().sum(0) if diagonal else scaled.mT @ scaled
    return total


def prior_precision(prior: Prior, layout: Layout, flat: Tensor) -> Tensor:
    """Return −∂² log p / ∂w² of a factorised prior at the one network `flat` (1, P), float64, (P,) without padding."""
    at = flat.detach().double().clone().requires_grad_()
    (slope,) = torch.autograd.grad(prior.log_density(at).sum(), at, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), at)
    return -layout.packed(curvature).squeeze(0)
