"""Outputs that own a likelihood and no latent: what the last layer of a network means."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import softplus

from bdlbench.core.errors import BadInput
from bdlbench.core.layout import Leaf, PerRow, by_value
from bdlbench.core.options import option
from bdlbench.core.torch_private import squared_error
from bdlbench.data.task import Signature
from bdlbench.predictives.mixtures import CategoricalSum, GaussianStack
from bdlbench.protocols import Accumulator, Layer, Output

NoiseKind = Literal["known", "learnt", "head"]
NoiseUnit = Literal["model", "original"]

_NOISE: dict[str, dict[str, Any]] = {
    "noise_sd": {
        "default": 1.0,
        "help": "standard deviation of a Gaussian target, or what a learnt one is a multiple of",
        "low": 0,
        "open_ends": True,
    },
    "noise": {
        "default": "known",
        "help": "is a Gaussian target's noise noise_sd?",
        "choices": get_args(NoiseKind),
        "later": True,
    },
    "noise_unit": {
        "default": "model",
        "help": "noise_sd counts on the model's scale, or in the target's units",
        "choices": get_args(NoiseUnit),
        "later": True,
    },
}


def noise_option(name: str) -> Any:
    """Return the option of this name that networks with a Gaussian target have in common, as a dataclass field."""
    return option(**_NOISE[name])


@dataclass(frozen=True)
class CategoricalOutput:
    """Class logits ([M,] R, B, C)."""

    logits: Tensor

    def elbo(self, y: Tensor) -> Tensor:
        """Return log p(y | x) = log softmax(logits)_y in nats, ([M,] R, B), of classes y (R, B)."""
        log_probs = self.logits.log_softmax(-1)
        index = y.expand(log_probs.shape[:-1]).unsqueeze(-1)
        return log_probs.gather(-1, index).squeeze(-1)

    def fisher_targets(self) -> list[tuple[Tensor, Tensor]]:
        """Return every class with its probability: the Fisher information of the logits is diag(p) − p pᵀ."""
        probs = self.logits.detach().softmax(-1)
        return [(torch.full_like(p, c, dtype=torch.int64), p) for c, p in enumerate(probs.unbind(-1))]

    @property
    def location(self) -> Tensor:
        """The logits."""
        return self.logits

    def moved(self, location: Tensor) -> CategoricalOutput:
        """Return the output of other logits."""
        return CategoricalOutput(location)

    def spread(self, variance: Tensor) -> CategoricalOutput:
        """Return softmax(logits / √(1 + π/8 · variance)): MacKay's (1992) probit approximation."""
        return CategoricalOutput(self.logits / (1 + math.pi / 8 * variance).sqrt())

    def accumulator(self, samples: int) -> Accumulator:
        """Return an accumulator that averages probabilities."""
        return CategoricalSum(samples)


class Noise(NamedTuple):
    """The noise of a Gaussian target, (1 or R, 1) each where it is known, ([M,] R, B or 1) where it is learnt.

    Attributes:
        sd: Standard deviation.
        log_peak: The log-density at the mean in nats.
        half_precision: ½ / sd².
    """

    sd: Tensor
    log_peak: Tensor
    half_precision: Tensor


@dataclass(frozen=True)
class GaussianOutput:
    """A Gaussian for each example, on the scale the model sees.

    Attributes:
        mean: ([M,] R, B).
        noise: Broadcasts to the mean.
        noise_is_learnt: Whether the noise depends on the parameters of the network.
    """

    mean: Tensor
    noise: Noise
    noise_is_learnt: bool = False

    @property
    def sd(self) -> Tensor:
        """Standard deviation."""
        return self.noise.sd

    def elbo(self, y: Tensor) -> Tensor:
        """Return log N(y; mean, sd²) in nats, ([M,] R, B)."""
        square = squared_error(self.mean, y)
        return torch.addcmul(self.noise.log_peak, square, self.noise.half_precision, value=-1)

    def fisher_targets(self) -> list[tuple[Tensor, Tensor]]:
        """Return targets whose weighted squared scores are the Fisher information.

        Where the noise is known, one target one sd from the mean, with weight 1: the score there is 1 / sd, and its
        square is the Fisher information of the mean. Where it is learnt, the score of (mean, log sd) is
        (z / sd, z² − 1) with z = (y − mean) / sd; the three nodes of the Gauss–Hermite rule, z = 0 and ±√3, give the
        exact expectation of its squares and its product.
        """
        mean, sd = self.mean.detach(), self.sd.detach()
        if not self.noise_is_learnt:
            return [(mean + sd, torch.ones_like(mean))]
        nodes = ((0.0, 2 / 3), (math.sqrt(3), 1 / 6), (-math.sqrt(3), 1 / 6))
        return [(mean + node * sd, torch.full_like(mean, weight)) for node, weight in nodes]

    @property
    def location(self) -> Tensor:
        """The mean, ([M,] R, B, 1)."""
        return self.mean.unsqueeze(-1)

    def moved(self, location: Tensor) -> GaussianOutput:
        """Return the output of other means, with the same noise."""
        return replace(self, mean=location.squeeze(-1))

    def spread(self, variance: Tensor) -> GaussianOutput:
        """Return the Gaussian whose variance is that of the noise and of the mean."""
        return replace(self, noise=_noise((self.sd.square() + variance.squeeze(-1)).sqrt()))

    def accumulator(self, samples: int) -> Accumulator:
        """Return an accumulator that keeps the components of the mixture."""
        return GaussianStack(samples)


def noise_unsupported(signature: Signature, noise: NoiseKind, unit: NoiseUnit) -> str | None:
    """Say why options of a Gaussian target's noise cannot hold for a signature; None where they can."""
    if signature.likelihood != "gaussian" and (noise, unit) != ("known", "model"):
        return f"its options noise and noise_unit are for a Gaussian target, not a {signature.likelihood} one"
    return unsupported(signature)


def unsupported(signature: Signature) -> str | None:
    """Say why no plain output fits the signature.

    Args:
        signature: What the model was built to fit.

    Returns:
        The reason, or None where an output fits.
    """
    known = ("categorical", "gaussian")
    if signature.likelihood in known:
        return None
    return f"it has no {signature.likelihood} likelihood: a plain network has {' or '.join(known)}"


def noise_leaves(noise: NoiseKind) -> dict[str, Leaf]:
    """Return what the noise of a Gaussian target adds to a network's leaves: a log gain where it is learnt."""
    return {"log_gain": Leaf((1,), "scale", 1)} if noise == "learnt" else {}


def noisy_output(signature: Signature, raw: Tensor, noise_sd: PerRow, noise: NoiseKind, layer: Layer) -> Output:
    """Return the output of a last layer whose Gaussian target has known noise, learnt noise, or a head for it.

    raw: ([M,] R, B, outputs), and one more with a head.
    """
    if noise == "head":
        gain = (softplus(raw[..., 1]) + 1e-6).sqrt()  # ([M,] R, B)
        return output(signature, raw[..., :1], noise_sd, gain)
    learnt = layer.leaf("log_gain").exp() if noise == "learnt" else None  # ([M,] R, 1)
    return output(signature, raw, noise_sd, learnt)


def output(signature: Signature, raw: Tensor, noise_sd: PerRow, gain: Tensor | None = None) -> Output:
    """Return the output that a signature asks for.

    Args:
        signature: What the model was built to fit.
        raw: The last layer of the network, ([M,] R, B, outputs).
        noise_sd: Standard deviation of a Gaussian target on the model's scale, a number or (R,).
        gain: What a learnt noise multiplies it by, ([M,] R, B) or ([M,] R, 1), positive; None where it is known.

    Returns:
        The output, which owns the likelihood.

    Raises:
        BadInput: The last layer has another number of outputs.
    """
    if raw.shape[-1] != signature.outputs:
        raise BadInput(f"the last layer has {raw.shape[-1]} outputs: signature.outputs = {signature.outputs} are right")
    if signature.likelihood == "categorical":
        return CategoricalOutput(raw)
    known = _known_noise(by_value(noise_sd), raw.dtype, raw.device)
    if gain is None:
        return GaussianOutput(raw.squeeze(-1), known)
    return GaussianOutput(raw.squeeze(-1), _noise(known.sd * gain), noise_is_learnt=True)


@lru_cache
def _known_noise(sd: float | tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Noise:
    """Return a known noise. It is cached, and never an inference tensor, since every training step needs it."""
    with torch.inference_mode(False):
        return _noise(torch.as_tensor(sd, dtype=dtype, device=device).reshape(-1, 1))


def _noise(sd: Tensor) -> Noise:
    """Return the noise of this standard deviation, with the terms of the log-density that follow from it."""
    return Noise(sd, -sd.log() - 0.5 * math.log(2 * math.pi), 0.5 / sd.square())
