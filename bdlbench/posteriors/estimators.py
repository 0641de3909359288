"""Estimates of the ELBO of factorised Gaussian weights and of its gradient: one function for each, of one form.

All of them are unbiased and have the KL in closed form where there is one; they differ in how the gradient of the
expected log-likelihood is estimated from K samples of the weights, and so in its variance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.core.torch_private import sum_gradient
from bdlbench.data.task import Data, Examples
from bdlbench.kernels.factorised import Divergence, factorised, sampled
from bdlbench.kernels.score_function import leave_one_out, score_function
from bdlbench.networks.layers import Flipout, LocalNoise, Point
from bdlbench.predictives.mixtures import ordered_sum
from bdlbench.protocols import Layer

Estimator = Literal["local", "weight", "flipout", "score", "score_baseline", "score_leave_one_out"]

DivergenceAt = Callable[[Callable[[], Tensor]], Divergence]
"""Returns the KL, given a function that draws the standard normal numbers (R, P) of a weight sample if they are asked
for."""


@dataclass(frozen=True)
class FactorisedELBO:
    """What is estimated: the ELBO of a model whose weights are independent Gaussians.

    Attributes:
        likelihood: likelihood(layer, batch, noise) returns what a network makes of each example, ([M,] R, B) nats.
        layout: Where each leaf lies in the means, and in the log standard deviations, of a row (R, 2P).
        divergence: The KL from the prior.
        samples: K, how many samples of the weights an estimate takes.
    """

    likelihood: Callable[[Layer, Examples, Streams], Tensor]
    layout: Layout
    divergence: DivergenceAt
    samples: int = 1


ELBOEstimate = Callable[[FactorisedELBO, Tensor, Examples, Streams, bool], tuple[Tensor, Tensor]]
"""(what is estimated, rows (R, 2P), a batch, noise, whether the KL's value is read) -> the expected log-likelihood of
each example (R, B) and the KL (R,), in nats: each with an estimate of its gradient as its gradient."""


def _with_noise(
    rule: type[LocalNoise | Flipout], elbo: FactorisedELBO, flat: Tensor, batch: Examples, noise: Streams, valued: bool
) -> tuple[Tensor, Tensor]:
    """Estimate by a rule that draws its own noise: Kingma, Salimans & Welling 2015, §2.2; Wen et al. 2018, §3."""
    width = elbo.layout.width
    divergence = elbo.divergence(lambda: noise.normal((width,), flat, "prior"))
    mean, variance, kl = factorised(flat, elbo.layout, divergence, valued)
    for name in elbo.layout.buffers:
        del variance[name]
    return elbo.likelihood(rule(mean, variance, noise), batch, noise), kl


def _by_weights(
    elbo: FactorisedELBO, flat: Tensor, batch: Examples, noise: Streams, valued: bool
) -> tuple[Tensor, Tensor]:
    """Estimate by the gradient through one sample of the weights: Kingma & Welling 2014, §2.4; Blundell et al. 2015."""
    epsilon = noise.normal((elbo.layout.width,), flat)
    leaves, kl = sampled(flat, epsilon, elbo.layout, elbo.divergence(lambda: epsilon), valued)
    return elbo.likelihood(Point(leaves), batch, noise), kl


def _averaged(
    once: ELBOEstimate, elbo: FactorisedELBO, flat: Tensor, batch: Examples, noise: Streams, valued: bool
) -> tuple[Tensor, Tensor]:
    """Average an estimate over K draws."""
    if elbo.samples == 1:
        return once(elbo, flat, batch, noise, valued)
    draws = [once(elbo, flat, batch, noise, valued) for _ in range(elbo.samples)]
    likelihood, kl = (ordered_sum(parts) / elbo.samples for parts in zip(*draws, strict=True))
    return likelihood, kl


def _by_score(
    baseline: Literal["none", "mean", "others"],
    elbo: FactorisedELBO,
    flat: Tensor,
    batch: Examples,
    noise: Streams,
    valued: bool,
) -> tuple[Tensor, Tensor]:
    """Estimate by log-likelihoods alone: nothing is differentiated through the model.

    The baseline is nothing, the log-likelihood at the mean of q (as in Gu et al. 2016, MuProp, without its slope), or
    the mean of the other samples.
    """
    layout, count = elbo.layout, elbo.samples
    divergence = elbo.divergence(lambda: noise.normal((layout.width,), flat, "prior"))
    kl = factorised(flat, layout, divergence, valued).kl
    counted = layout.fill(lambda leaf: 1.0).to(flat)
    epsilon = noise.normal((count, layout.width), flat).transpose(0, 1).contiguous()  # (K, R, P)
    with torch.no_grad():
        mean, log_sd = flat.chunk(2, -1)

        def log_likelihood(weights: Tensor) -> Tensor:  # (…, R, P) -> (…, R, B)
            return elbo.likelihood(Point(layout.views(weights)), batch, noise)

        values = log_likelihood(torch.addcmul(mean, log_sd.exp(), epsilon))
        if baseline == "others":
            advantages = leave_one_out(values)
        else:
            advantages = values if baseline == "none" else values - log_likelihood(mean)
    return score_function(flat, epsilon, values, advantages, counted), kl


ESTIMATORS: Mapping[Estimator, ELBOEstimate] = {
    "local": partial(_averaged, partial(_with_noise, LocalNoise)),
    "weight": partial(_averaged, _by_weights),
    "flipout": partial(_averaged, partial(_with_noise, Flipout)),
    "score": partial(_by_score, "none"),
    "score_baseline": partial(_by_score, "mean"),
    "score_leave_one_out": partial(_by_score, "others"),
}
"""Reparameterisation: of pre-activations, of the weights, and of the weights with signs that differ between examples.
Score function: plain, less the value at the mean of q, and less the mean of the other samples."""


def gradient_trace(
    elbo: FactorisedELBO, flat: Tensor, data: Data, rng: Streams, batch_size: int, draws: int
) -> dict[str, Tensor]:
    """Measure how much each estimate of the gradient of the expected log-likelihood varies with the noise of q.

    All draws see the same examples, so what batches add is left out. Every estimate takes K samples of the weights; the
    mean of the other samples is no baseline where K is 1, and is left out there.

    Args:
        elbo: What is estimated, with K.
        flat: Rows (R, 2P) at which the gradient is taken.
        data: The training data; the first `batch_size` examples stand for all N.
        rng: Streams (R,); each estimate draws from a child of its own name.
        batch_size: B.
        draws: How many estimates are drawn, at least 2.

    Returns:
        By name, (R,) float64 each: `score mean` is the trace of the covariance of the gradient of Σ_n E_q log p(y_n |
        x_n, w) in the means by the estimate `score`, in nats² per squared unit of a weight; `score log_sd` that in the
        log standard deviations, in nats².
    """
    size = min(batch_size, data.num_data)
    batch = data.batch(torch.arange(size, device=data.x.device).expand(data.rows, size).contiguous())
    found: dict[str, Tensor] = {}
    for name, estimate in ESTIMATORS.items():
        if name == "score_leave_one_out" and elbo.samples == 1:
            continue
        noise = rng.child(name)
        total, squares = (torch.zeros_like(flat, dtype=torch.float64) for _ in range(2))
        for _ in range(draws):
            point = flat.detach().clone().requires_grad_()
            likelihood, _ = estimate(elbo, point, batch, noise, False)
            gradient = sum_gradient(likelihood.mean(-1), point).double() * data.num_data
            total += gradient
            squares += gradient.square()
        variance = (squares - total.square() / draws) / (draws - 1)  # (R, 2P)
        for part, values in zip(("mean", "log_sd"), variance.chunk(2, -1), strict=True):
            found[f"{name} {part}"] = torch.stack([row.sum() for row in values])
    return found
