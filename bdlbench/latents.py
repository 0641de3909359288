"""Outputs that own a Gaussian latent z of the input: the ELBO of Kingma & Welling 2014, and what it says of p(x)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from bdlbench.data import Data, Signature, shared
from bdlbench.density import DensitySum, Estimate
from bdlbench.kernels.latent import (
    bernoulli_log_prob,
    binarised,
    discretised_logistic_log_prob,
    log_importance_ratio,
    log_mean_exp,
    standard_normal_kl,
)
from bdlbench.options import option
from bdlbench.protocols import Accumulator
from bdlbench.rng import Streams
from bdlbench.terms import term
from bdlbench.training import DECAYS, adam_step
from bdlbench.types import ALIGNMENT

LEVELS = 256
"""Grey levels of a discretised likelihood."""

ROWS_AT_ONCE = 2000
"""Decoded latents held at once. Prediction noise is drawn in these pieces, so this is part of the definition."""

RAREST = 1e-3
"""The least probability that a pixel is thought to be on, or off, before training."""

REGRET_DRAWS = 20
"""Draws of z that both bounds of the likelihood regret share."""

REGRET_RATE = 0.2
"""Adam's step size for the likelihood regret, which falls to zero over the second half of a sweep."""

REGRET_SWEEP = 50
"""Steps of Adam between two looks at what they gained."""

REGRET_TOLERANCE = 0.005
"""The share of a regret, and nats, that one more sweep must gain for another."""

Objective = Literal["elbo", "importance_weighted"]
Decode = Callable[[Tensor], Tensor]
PixelLikelihood = Callable[[Tensor, Tensor], Tensor]
"""log p(x | raw) in nats of pixels x (…, D), from a decoder's last layer raw (…, D · per_pixel): (…)."""


def discretised(x: Tensor, raw: Tensor) -> Tensor:
    """A discretised logistic for each pixel, by mean and log scale: raw (…, 2D).

    A network starts near mean ½ and log scale −2; the latter stays in −7 … −1 by a function that is never flat: a
    hard limit would hold for good the pixels that are always black, whose scale and mean run away together.
    """
    mean, log_scale = raw.chunk(2, dim=-1)
    return discretised_logistic_log_prob(x, 0.5 + 0.5 * mean, 3 * (log_scale / 3 + 0.8).tanh() - 4, LEVELS)


class Pixels(NamedTuple):
    """How pixels are modelled: numbers a decoder gives for each, their likelihood, what suits a z that says nothing.

    blank: the mean of each pixel (…, D) -> raw (…, D · per_pixel).
    """

    per_pixel: int
    log_prob: PixelLikelihood
    blank: Callable[[Tensor], Tensor]


def _blank_bernoulli(mean: Tensor) -> Tensor:
    return mean.clamp(RAREST, 1 - RAREST).logit()


def _blank_discretised(mean: Tensor) -> Tensor:
    """The mean pixel, and the scale that the network starts with."""
    return torch.cat([2 * mean - 1, torch.zeros_like(mean)], dim=-1)


PIXELS = {
    "bernoulli": Pixels(1, bernoulli_log_prob, _blank_bernoulli),
    "discretised": Pixels(2, discretised, _blank_discretised),
}


def blank(signature: Signature, data: Data) -> Tensor:
    """Where the bias of a decoder's last layer starts, (1 or R, D · per_pixel): an image of mean pixels.

    Burda et al. 2016 start there too (in their code). From zero a VAE first learns that most pixels are black, and of
    its latent few dimensions come through that.
    """
    x = data.x[:1] if shared(data.x) else data.x
    mean = torch.stack([row.flatten(1).mean(0) for row in x])
    return PIXELS[signature.likelihood].blank(mean)


def unsupported(signature: Signature) -> str | None:
    """Why no density of the inputs fits the signature, or None."""
    known = signature.likelihood in PIXELS
    return None if known else f"it models the density of images, not a {signature.likelihood} target"


def observed(signature: Signature, x: Tensor, rng: Streams) -> Tensor:
    """The pixels (*lead, B, D) that are modelled: a binary draw of grey ones for a Bernoulli, x itself otherwise."""
    x = x.flatten(x.ndim - len(signature.input_shape))
    return binarised(x, rng.bits(x.shape[-2:], x)) if signature.likelihood == "bernoulli" else x


@dataclass(frozen=True)
class Effort:
    """How hard a latent is integrated out.

    objective: what training maximises, with `train_samples` draws of z; test_samples: k of the importance-weighted
    log p(x); regret_steps: the most of Adam, to fit q to each input alone, 0 leaves the regret out.
    """

    objective: Objective
    train_samples: int
    test_samples: int
    regret_steps: int


_EFFORT_OPTIONS: dict[str, Callable[[], Any]] = {
    "objective": partial(option, "elbo", "what training maximises", choices=("elbo", "importance_weighted")),
    "train_samples": partial(option, 1, "draws of z for each training example", low=1),
    "test_samples": partial(option, 100, "k: draws of z in the importance-weighted log p(x)", low=1),
    "regret_steps": partial(option, 200, "the most steps of the likelihood regret; 0 leaves it out", low=0),
}


def effort_option(name: str) -> Any:
    """The option of a model for the field `name` of its effort."""
    return _EFFORT_OPTIONS[name]()


@dataclass(frozen=True)
class LatentOutput:
    """q(z | x) = N(mean, exp(log_sd)²) of pixels x, and p(x | z) by `decode`.

    x (*lead, B, D), mean and log_sd (*lead, B, Z), decode: z (*lead, B', Z) -> (*lead, B', …).
    """

    x: Tensor
    mean: Tensor
    log_sd: Tensor
    decode: Decode
    log_prob: PixelLikelihood
    rng: Streams
    effort: Effort

    def elbo(self, y: Tensor) -> Tensor:
        """The objective in nats, (*lead, B), whatever the labels y are.

        "elbo": (1/k) Σ_k log p(x | z_k) − KL(q(z | x) ‖ N(0, I)), Kingma & Welling 2014, eq. 7; "importance_weighted":
        log (1/k) Σ_k p(x, z_k) / q(z_k | x), Burda et al. 2016, eq. 8.
        """
        noise = self.rng.normal((self.effort.train_samples, *self.mean.shape[-2:]), self.mean)
        if self.effort.objective == "elbo":
            return self.bound(noise)
        return log_mean_exp(self.log_likelihood(noise) + self.log_ratio(noise))

    def bound(self, noise: Tensor) -> Tensor:
        """The ELBO by the draws of z that `noise` (*lead, k, B, Z) makes: (*lead, B)."""
        kl = term("local", standard_normal_kl(self.mean, self.log_sd), "KL(q(z | x) ‖ p(z))")
        return self.log_likelihood(noise).mean(-1) - kl

    def log_likelihood(self, noise: Tensor) -> Tensor:
        """log p(x | z), z = mean + sd · noise: noise (*lead, k, B, Z) -> (*lead, B, k)."""
        z = self._latent(noise)
        raw = self.decode(z.flatten(-3, -2)).unflatten(-2, z.shape[-3:-1])  # (*lead, k, B, …)
        return self.log_prob(self.x.unsqueeze(-3), raw).mT.contiguous()

    def log_ratio(self, noise: Tensor) -> Tensor:
        """log p(z) − log q(z | x) of the same draws: (*lead, B, k)."""
        return log_importance_ratio(noise, self._latent(noise), self.log_sd.unsqueeze(-3)).mT.contiguous()

    def accumulator(self, samples: int) -> Accumulator:
        """Averages densities."""
        rows = self.x.new_ones(self.mean.shape[-3])
        return DensitySum({"importance_samples": rows * self.effort.test_samples})

    def estimate(self) -> Estimate:
        """log p(x), the ELBO and the regret of each input, by `test_samples` draws of z."""
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
    """The output of an encoder's last layer q (*lead, B, 2Z): means, then log standard deviations."""
    mean, log_sd = q.chunk(2, dim=-1)
    return LatentOutput(pixels, mean, log_sd, decode, PIXELS[signature.likelihood].log_prob, rng, effort)


class Regret(NamedTuple):
    """Likelihood regret, and what its last sweep of steps gained: nats, (*lead, B) each."""

    value: Tensor
    gain: Tensor


def likelihood_regret(output: LatentOutput) -> Regret:
    """max_q ELBO(x; q) − ELBO(x; q(z | x)) in nats: Xiao, Yan & Amit 2020, eq. 4.

    The maximum is over each input's own mean and log standard deviation, from the encoder's; the decoder stays. Sweeps
    of REGRET_SWEEP steps of Adam, each started anew with steps that fall to zero, go on until `regret_steps` are done
    or no input gains more than the REGRET_TOLERANCE share of its regret, or as many nats. An input that gains no more
    stays as it is, and the best q that it had counts. Bounds before and after share REGRET_DRAWS draws of z; each step
    has a pair ±ε of its own. Larger = the encoder serves this input worse.
    """
    shape = output.mean.shape[-2:]
    noise = _pairs(output, REGRET_DRAWS)
    before = best = output.bound(noise)
    flat = _as_rows(output.mean.expand(*before.shape, shape[-1]), output.log_sd.expand(*before.shape, shape[-1]))
    gain, going = torch.zeros_like(before), torch.ones_like(before, dtype=torch.bool)
    left = output.effort.regret_steps
    while left and going.any():
        steps = min(left, REGRET_SWEEP)
        left -= steps
        moved = _swept(output, flat, steps)
        bound = _with_q(output, moved).bound(noise)
        won = bound - best
        flat = torch.where(_each_number(going & (won > 0), flat, shape[-1]), moved, flat)
        gain = torch.where(going, won.clamp(min=0), gain)
        best = torch.where(going, torch.maximum(bound, best), best)
        going = going & (won > REGRET_TOLERANCE * (1 + best - before))
    return Regret(best - before, gain)


def _swept(output: LatentOutput, flat: Tensor, steps: int) -> Tensor:
    """The rows after so many steps of Adam."""
    moments = torch.zeros_like(flat), torch.zeros_like(flat)
    flat = flat.clone()
    for step in range(1, steps + 1):
        with torch.enable_grad():
            loss = -_with_q(output, flat.requires_grad_()).bound(_pairs(output, 2)).sum()
            (gradient,) = torch.autograd.grad(loss, flat)
        flat = flat.detach()
        adam_step(flat, gradient, *moments, step, REGRET_RATE, DECAYS["second_half"]((step - 1) / steps))
    return flat


def _pairs(output: LatentOutput, draws: int) -> Tensor:
    """Noise (*lead, draws, B, Z) in pairs ±ε: an error of the mean, however large, adds no variance to the bound."""
    half = output.rng.normal((draws // 2, *output.mean.shape[-2:]), output.mean)
    return torch.cat([half, -half], -3)


def _each_number(chosen: Tensor, flat: Tensor, latent: int) -> Tensor:
    """Which numbers of the rows `flat` belong to the chosen inputs (*lead, B)."""
    numbers = chosen.unsqueeze(-1).expand(*chosen.shape, latent)
    return _as_rows(numbers, numbers)


def _as_rows(mean: Tensor, log_sd: Tensor) -> Tensor:
    """Mean and log sd of q, (*lead, B, Z) each, as rows (prod(lead), Q) as `adam_step` wants them: padded."""
    flat = torch.stack([mean, log_sd], -3).flatten(-3).flatten(0, -2)
    return pad(flat, (0, -flat.shape[-1] % ALIGNMENT))


def _with_q(output: LatentOutput, flat: Tensor) -> LatentOutput:
    """The output whose q(z | x) are these rows."""
    batch, latent = output.mean.shape[-2:]
    q = flat[:, : 2 * batch * latent].view(*output.rng.lead, 2, batch, latent)
    return replace(output, mean=q.select(-3, 0), log_sd=q.select(-3, 1))


def _pieces(total: int, batch: int) -> list[int]:
    size = max(1, ROWS_AT_ONCE // batch)
    return [min(size, total - start) for start in range(0, total, size)]
