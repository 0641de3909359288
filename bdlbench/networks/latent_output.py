"""Outputs that own a Gaussian latent z of the input: the ELBO of Kingma & Welling 2014, and estimates of p(x)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature, shared
from bdlbench.kernels.latent import (
    bernoulli_log_prob,
    binarised,
    discretised_logistic_log_prob,
    log_importance_ratio,
    log_mean_exp,
    standard_normal_kl,
)
from bdlbench.kernels.linear import plain_product
from bdlbench.predictives.density import DensitySum, Estimate
from bdlbench.predictives.mixtures import ordered_sum
from bdlbench.protocols import Accumulator
from bdlbench.training.terms import term

GREY_LEVELS = 256
"""Grey levels of a discretised likelihood."""

ROWS_AT_ONCE = 2000
"""Decoded latents held at once. Prediction noise is drawn in these pieces, so a change of it changes results."""

RAREST = 1e-3
"""The least probability, before training, that a pixel is on, or that it is off."""

REGRET_PAIRS = 10
"""Pairs of draws z = mean ± sd · noise over which the bounds of the likelihood regret average; at least Z."""

REGRET_TOLERANCE = 0.005
"""Nats: the fit of q ends once a full step promises no more than this."""

LEAST_CURVATURE = 0.1
"""The least curvature of −log p(x, z) in a step of the likelihood regret. The N(0, I) prior alone has 1."""

LEAST_STEP = 2**-8
"""The least part of a step of the likelihood regret: an input that gains nothing by it stays where it is."""

LatentObjective = Literal["elbo", "importance_weighted"]
Decode = Callable[[Tensor], Tensor]
PixelLikelihood = Callable[[Tensor, Tensor], Tensor]
"""log p(x | raw) in nats, (…), of pixels x (…, D) and the last layer of a decoder raw (…, D · per_pixel)."""


def discretised(x: Tensor, raw: Tensor) -> Tensor:
    """Return the log-probability of grey levels under a discretised logistic for each pixel, by raw (…, 2D).

    `raw` holds means and log scales. A network starts near mean ½ and log scale −2. The log scale stays in −7 … −1 by a
    function that is nowhere flat: a hard limit would trap pixels that are always black, whose scale and mean run away
    together.
    """
    mean, log_scale = raw.chunk(2, dim=-1)
    return discretised_logistic_log_prob(x, 0.5 + 0.5 * mean, 3 * (log_scale / 3 + 0.8).tanh() - 4, GREY_LEVELS)


class Pixels(NamedTuple):
    """How pixels are modelled.

    Attributes:
        per_pixel: Numbers that the decoder returns for each pixel.
        log_prob: Their likelihood.
        blank: Maps the mean of each pixel (…, D) to the raw (…, D · per_pixel) that suits an uninformative z.
    """

    per_pixel: int
    log_prob: PixelLikelihood
    blank: Callable[[Tensor], Tensor]


def _blank_bernoulli(mean: Tensor) -> Tensor:
    return mean.clamp(RAREST, 1 - RAREST).logit()


def _blank_discretised(mean: Tensor) -> Tensor:
    """Return the mean pixel, and the scale that the network starts with."""
    return torch.cat([2 * mean - 1, torch.zeros_like(mean)], dim=-1)


PIXEL_LIKELIHOODS = {
    "bernoulli": Pixels(1, bernoulli_log_prob, _blank_bernoulli),
    "discretised": Pixels(2, discretised, _blank_discretised),
}


def blank(signature: Signature, data: Data) -> Tensor:
    """Return the start of the bias of a decoder's last layer, (1 or R, D · per_pixel): an image of mean pixels.

    Burda et al. 2016 start there too (in their code). From zero, a VAE first learns that most pixels are black, and few
    dimensions of its latent survive that phase.
    """
    x = data.x[:1] if shared(data.x) else data.x
    mean = torch.stack([row.flatten(1).mean(0) for row in x])
    return PIXEL_LIKELIHOODS[signature.likelihood].blank(mean)


def unsupported(signature: Signature) -> str | None:
    """Say why no density of the inputs fits the signature; None where one does."""
    known = signature.likelihood in PIXEL_LIKELIHOODS
    return None if known else f"it models the density of images, not a {signature.likelihood} target"


def observed(signature: Signature, x: Tensor, rng: Streams) -> Tensor:
    """Return the pixels (*lead, B, D) that are modelled: a binary draw of grey ones for a Bernoulli, else x itself."""
    x = x.flatten(x.ndim - len(signature.input_shape))
    return binarised(x, rng.bits(x.shape[-2:], x)) if signature.likelihood == "bernoulli" else x


@dataclass(frozen=True)
class Effort:
    """How much work goes into integrating out a latent.

    Attributes:
        objective: What training maximises, with `train_samples` draws of z.
        train_samples: Draws of z for each training example.
        test_samples: k, the draws of the importance-weighted log p(x).
        regret_steps: The most steps that fit q to each input alone; 0 leaves the regret out.
    """

    objective: LatentObjective
    train_samples: int
    test_samples: int
    regret_steps: int


_EFFORT_OPTIONS: dict[str, Callable[[], Any]] = {
    "objective": partial(option, "elbo", "what training maximises", choices=("elbo", "importance_weighted")),
    "train_samples": partial(option, 1, "draws of z for each training example", low=1),
    "test_samples": partial(option, 100, "k: draws of z in the importance-weighted log p(x)", low=1),
    "regret_steps": partial(option, 25, "most Newton steps of the likelihood regret; 0 leaves it out", low=0),
}


def effort_option(name: str) -> Any:
    """Return the option of a model for the field `name` of its effort."""
    return _EFFORT_OPTIONS[name]()


@dataclass(frozen=True)
class LatentOutput:
    """q(z | x) = N(mean, exp(log_sd)²) of pixels x, and p(x | z) by `decode`.

    Attributes:
        x: Pixels (*lead, B, D).
        mean: Means of q, (*lead, B, Z).
        log_sd: Logarithms of the standard deviations of q, (*lead, B, Z).
        decode: z (*lead, B′, Z) -> (*lead, B′, …).
        log_prob: The likelihood of pixels.
        rng: Streams of the latent.
        effort: How much work goes into integrating it out.
    """

    x: Tensor
    mean: Tensor
    log_sd: Tensor
    decode: Decode
    log_prob: PixelLikelihood
    rng: Streams
    effort: Effort

    def elbo(self, y: Tensor) -> Tensor:
        """Return the objective in nats, (*lead, B); the labels `y` do not matter.

        "elbo": (1/k) Σ_k log p(x | z_k) − KL(q(z | x) ‖ N(0, I)), Kingma & Welling 2014, eq. 7; "importance_weighted":
        log (1/k) Σ_k p(x, z_k) / q(z_k | x), Burda et al. 2016, eq. 8.
        """
        noise = self.rng.normal((self.effort.train_samples, *self.mean.shape[-2:]), self.mean)
        if self.effort.objective == "elbo":
            return self.bound(noise)
        return log_mean_exp(self.log_likelihood(noise) + self.log_ratio(noise))

    def bound(self, noise: Tensor) -> Tensor:
        """Return the ELBO by the draws of z that `noise` (*lead, k, B, Z) makes: (*lead, B)."""
        kl = term("local", standard_normal_kl(self.mean, self.log_sd), "KL(q(z | x) ‖ p(z))")
        return self.log_likelihood(noise).mean(-1) - kl

    def log_likelihood(self, noise: Tensor) -> Tensor:
        """Return log p(x | z) at z = mean + sd · noise: noise (*lead, k, B, Z) -> (*lead, B, k)."""
        z = self._latent(noise)
        raw = self.decode(z.flatten(-3, -2)).unflatten(-2, z.shape[-3:-1])  # (*lead, k, B, …)
        return self.log_prob(self.x.unsqueeze(-3), raw).mT.contiguous()

    def log_ratio(self, noise: Tensor) -> Tensor:
        """Return log p(z) − log q(z | x) of the same draws: (*lead, B, k)."""
        return log_importance_ratio(noise, self._latent(noise), self.log_sd.unsqueeze(-3)).mT.contiguous()

    def accumulator(self, samples: int) -> Accumulator:
        """Return an accumulator that averages densities."""
        rows = self.x.new_ones(self.mean.shape[-3])
        return DensitySum({"importance_samples": rows * self.effort.test_samples})

    def estimate(self) -> Estimate:
        """Estimate log p(x), the ELBO and the regret of each input, by `test_samples` draws of z."""
        batch, latent = self.mean.shape[-2:]
        parts = []
        for count in _pieces(self.effort.test_samples, batch):
            noise = self.rng.normal((count, batch, latent), self.mean)
            parts.append((self.log_likelihood(noise), self.log_ratio(noise)))
        likelihood, ratio = (torch.cat(part, -1) for part in zip(*parts, strict=True))  # (*lead, B, k)
        elbo = likelihood.mean(-1) - standard_normal_kl(self.mean, self.log_sd)
        regret, gain = likelihood_regret(self) if self.effort.regret_steps else (None, None)
        mean = self.mean.expand(*elbo.shape, latent)
        return Estimate(log_mean_exp(likelihood + ratio), elbo, mean, regret, gain)

    def _latent(self, noise: Tensor) -> Tensor:
        return self.mean.unsqueeze(-3) + self.log_sd.unsqueeze(-3).exp() * noise


def latent_output(
    signature: Signature, pixels: Tensor, q: Tensor, decode: Decode, rng: Streams, effort: Effort
) -> LatentOutput:
    """Return the output of an encoder's last layer q (*lead, B, 2Z): means, then log standard deviations."""
    mean, log_sd = q.chunk(2, dim=-1)
    return LatentOutput(pixels, mean, log_sd, decode, PIXEL_LIKELIHOODS[signature.likelihood].log_prob, rng, effort)


class Regret(NamedTuple):
    """The likelihood regret, and the gain of the last step that gained anything: nats, (*lead, B) each."""

    value: Tensor
    gain: Tensor


def likelihood_regret(output: LatentOutput) -> Regret:
    """Return max_q ELBO(x; q) − ELBO(x; q(z | x)) in nats. Larger means that the encoder serves this input worse.

    Xiao, Yan & Amit 2020, eq. 4. The maximum is over each input's own mean and log standard deviation, starting from
    the encoder's; the decoder stays. Both bounds average log p(x | z) over the same pairs of draws, whose means,
    variances and covariances are those of N(0, I), so they are exact where log p(x | z) is quadratic in z. With its
    gradient g and Hessian H there, averaged over q (Opper & Archambeau 2009), a step is

        mean ← mean + t (I − H)⁻¹ (g − mean),    log sd ← log sd − ½ t log[(1 − H_ii) sd²],

    with t = 1, halved until the input gains. An input is done when such a step promises REGRET_TOLERANCE or less, when
    a step gains nothing, or after `regret_steps` steps.
    """
    noise = _paired_noise(output)
    here = _at(output, output.mean.double(), output.log_sd.double(), noise)
    start, gain = here.bound, torch.zeros_like(here.bound)
    size = torch.ones_like(here.bound)
    for _ in range(output.effort.regret_steps):
        by_mean, by_log_sd, promised = _newton_step(here)
        moving = (promised > REGRET_TOLERANCE) & (size > LEAST_STEP)
        if not bool(moving.any()):
            break
        step = size.unsqueeze(-1)
        there = _at(output, here.mean + step * by_mean, here.log_sd + step * by_log_sd, noise)
        better = moving & (there.bound > here.bound)
        gain = torch.where(better, there.bound - here.bound, gain)
        size = torch.where(better, (2 * size).clamp_max(1.0), torch.where(moving, size / 2, size))
        here = _Place(*(_chosen(better, new, old) for new, old in zip(there, here, strict=True)))
    return Regret((here.bound - start).to(output.mean), gain.to(output.mean))


class _Place(NamedTuple):
    """q of each input and what is known there, in float64.

    Attributes:
        mean: (*lead, B, Z).
        log_sd: (*lead, B, Z).
        bound: The ELBO in nats, (*lead, B).
        gradient: The gradient of log p(x | z), averaged over q, (*lead, B, Z).
        hessian: Its Hessian, averaged over q, (*lead, B, Z, Z).
    """

    mean: Tensor
    log_sd: Tensor
    bound: Tensor
    gradient: Tensor
    hessian: Tensor


def _at(output: LatentOutput, mean: Tensor, log_sd: Tensor, noise: Tensor) -> _Place:
    """Compute the bound by the draws mean ± sd · noise, (*lead, P, B, Z), a few at a time.

    Stein's identity gives the Hessian: E[∇ log p · noiseᵀ] / sd, with noise ~ N(0, I).
    """
    sd, parts = log_sd.exp(), []
    for some in noise.split(max(1, ROWS_AT_ONCE // (2 * noise.shape[-2])), dim=-3):
        signed = torch.cat([some, -some], -3)
        z = (mean.unsqueeze(-3) + sd.unsqueeze(-3) * signed).to(output.mean)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            raw = output.decode(z.flatten(-3, -2)).unflatten(-2, z.shape[-3:-1])
            values = output.log_prob(output.x.unsqueeze(-3), raw)  # (*lead, k, B)
            (slopes,) = torch.autograd.grad(values.sum(), z)
        slopes = slopes.double()
        by_draw = slopes.movedim(-3, -1), signed.movedim(-3, -2)  # (*lead, B, Z, k), (*lead, B, k, Z)
        products = plain_product(*(t.flatten(0, -3).contiguous() for t in by_draw))
        sums = [ordered_sum(t.unbind(axis)) for t, axis in ((values.detach().double(), -2), (slopes, -3))]
        parts.append((*sums, products.unflatten(0, sums[0].shape)))
    value, gradient, products = (ordered_sum(part) / (2 * noise.shape[-3]) for part in zip(*parts, strict=True))
    hessian = products / sd.unsqueeze(-2)
    bound = value - standard_normal_kl(mean, log_sd)
    mean, log_sd = (t.expand(*bound.shape, -1) for t in (mean, log_sd))
    return _Place(mean, log_sd, bound, gradient, 0.5 * (hessian + hessian.mT))


def _newton_step(here: _Place) -> tuple[Tensor, Tensor, Tensor]:
    """Return the full step of the mean and of log sd (*lead, B, Z), and the gain (*lead, B) of a quadratic bound."""
    hessian = here.hessian.nan_to_num(0.0, 0.0, 0.0)  # LAPACK refuses numbers that are not finite
    curvature = torch.eye(here.mean.shape[-1]).to(hessian) - hessian
    values, vectors = torch.linalg.eigh(curvature)
    slope = here.gradient - here.mean
    along = (vectors * slope.unsqueeze(-1)).sum(-2) / values.abs().clamp_min(LEAST_CURVATURE)
    by_mean = (vectors * along.unsqueeze(-2)).sum(-1)
    scaled = curvature.diagonal(dim1=-2, dim2=-1) * (2 * here.log_sd).exp()
    by_log_sd = -0.5 * scaled.clamp_min(0.25).log()  # sd at most doubles: a bound that is not concave has no best sd
    promised = 0.5 * (slope * by_mean).sum(-1) + 0.5 * ((1 - scaled) * by_log_sd).sum(-1)
    return by_mean, by_log_sd, promised


def _paired_noise(output: LatentOutput) -> Tensor:
    """Draw whitened normal noise (*lead, P, B, Z), P ≥ Z.

    Together with its negatives it has mean 0 and covariance I.
    """
    batch, latent = output.mean.shape[-2:]
    pairs = max(REGRET_PAIRS, latent)
    noise = output.rng.normal((pairs, batch, latent), output.mean).double().transpose(-3, -2)  # (*lead, B, P, Z)
    orthogonal, _ = torch.linalg.qr(noise)
    white: Tensor = math.sqrt(pairs) * orthogonal
    return white.transpose(-3, -2).contiguous()


def _chosen(where: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(where.reshape(*where.shape, *(1,) * (new.ndim - where.ndim)), new, old)


def _pieces(total: int, batch: int) -> list[int]:
    size = max(1, ROWS_AT_ONCE // batch)
    return [min(size, total - start) for start in range(0, total, size)]
