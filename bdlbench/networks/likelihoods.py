"""Outputs that own a likelihood and no latent: what the last layer of a network means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from bdlbench.core.errors import BadInput
from bdlbench.core.layout import PerRow, by_value
from bdlbench.core.torch_private import squared_error
from bdlbench.data.task import Signature
from bdlbench.predictives.mixtures import CategoricalSum, GaussianStack
from bdlbench.protocols import Accumulator, Output


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

    def accumulator(self, samples: int) -> Accumulator:
        """Return an accumulator that averages probabilities."""
        return CategoricalSum(samples)


class Noise(NamedTuple):
    """The noise of a Gaussian target, (1 or R, 1) each.

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
    """A Gaussian for each example, on the scale the model sees: mean ([M,] R, B), and a noise that broadcasts to it."""

    mean: Tensor
    noise: Noise

    @property
    def sd(self) -> Tensor:
        """Standard deviation."""
        return self.noise.sd

    def elbo(self, y: Tensor) -> Tensor:
        """Return log N(y; mean, sd²) in nats, ([M,] R, B)."""
        square = squared_error(self.mean, y)
        return torch.addcmul(self.noise.log_peak, square, self.noise.half_precision, value=-1)

    def fisher_targets(self) -> list[tuple[Tensor, Tensor]]:
        """Return a target one sd from the mean, with weight 1. The sd is taken as given.

        The score there is 1 / sd, and its square is the Fisher information of the mean.
        """
        mean = self.mean.detach()
        return [(mean + self.sd.detach(), torch.ones_like(mean))]

    def accumulator(self, samples: int) -> Accumulator:
        """Return an accumulator that keeps the components of the mixture."""
        return GaussianStack(samples)


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


def output(signature: Signature, raw: Tensor, noise_sd: PerRow) -> Output:
    """Return the output that a signature asks for.

    Args:
        signature: What the model was built to fit.
        raw: The last layer of the network, ([M,] R, B, outputs).
        noise_sd: Standard deviation of a Gaussian target on the model's scale, a number or (R,).

    Returns:
        The output, which owns the likelihood.

    Raises:
        BadInput: The last layer has another number of outputs.
    """
    if raw.shape[-1] != signature.outputs:
        raise BadInput(f"the last layer has {raw.shape[-1]} outputs: signature.outputs = {signature.outputs} are right")
    if signature.likelihood == "categorical":
        return CategoricalOutput(raw)
    return GaussianOutput(raw.squeeze(-1), _noise(by_value(noise_sd), raw.dtype, raw.device))


@lru_cache
def _noise(sd: float | tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Noise:
    """Kept, since every step asks for it; no inference tensor, whoever asks first: training needs it too."""
    with torch.inference_mode(False):
        column = torch.as_tensor(sd, dtype=dtype, device=device).reshape(-1, 1)
        log_peak = -column.log() - 0.5 * math.log(2 * math.pi)
        return Noise(column, log_peak, 0.5 / column.square())
