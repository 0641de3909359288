"""Outputs that own a likelihood and no latent: what a network's last layer means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from bdlbench.core.errors import BadInput
from bdlbench.core.layout import PerRow
from bdlbench.core.torch_private import squared_error
from bdlbench.data.task import Signature
from bdlbench.predictives.mixtures import CategoricalSum, GaussianStack
from bdlbench.protocols import Accumulator, Output


@dataclass(frozen=True)
class CategoricalOutput:
    """Class logits ([M,] R, B, C)."""

    logits: Tensor

    def elbo(self, y: Tensor) -> Tensor:
        """log p(y | x) = log softmax(logits)_y in nats: ([M,] R, B), of classes y (R, B)."""
        log_probs = self.logits.log_softmax(-1)
        index = y.expand(log_probs.shape[:-1]).unsqueeze(-1)
        return log_probs.gather(-1, index).squeeze(-1)

    def fisher_targets(self) -> list[tuple[Tensor, Tensor]]:
        """Every class, with its probability: the Fisher information of the logits is diag(p) − p pᵀ."""
        probs = self.logits.detach().softmax(-1)
        return [(torch.full_like(p, c, dtype=torch.int64), p) for c, p in enumerate(probs.unbind(-1))]

    def accumulator(self, samples: int) -> Accumulator:
        """Averages probabilities."""
        return CategoricalSum(samples)


class Noise(NamedTuple):
    """Standard deviation of a Gaussian target, the log density at its mean in nats, and ½ / sd²: (1 or R, 1) each."""

    sd: Tensor
    log_peak: Tensor
    half_precision: Tensor


@dataclass(frozen=True)
class GaussianOutput:
    """A Gaussian for each example: mean ([M,] R, B), and a noise that broadcasts to it; on the scale the model sees."""

    mean: Tensor
    noise: Noise

    @property
    def sd(self) -> Tensor:
        """Standard deviation."""
        return self.noise.sd

    def elbo(self, y: Tensor) -> Tensor:
        """log N(y; mean, sd²) in nats: ([M,] R, B)."""
        square = squared_error(self.mean, y)
        return torch.addcmul(self.noise.log_peak, square, self.noise.half_precision, value=-1)

    def fisher_targets(self) -> list[tuple[Tensor, Tensor]]:
        """One sd from the mean: there the score is 1 / sd, whose square is the Fisher information of the mean.

        The sd is taken as given.
        """
        mean = self.mean.detach()
        return [(mean + self.sd.detach(), torch.ones_like(mean))]

    def accumulator(self, samples: int) -> Accumulator:
        """Keeps the mixture's components."""
        return GaussianStack(samples)


def unsupported(signature: Signature) -> str | None:
    """Why no plain output fits the signature, or None."""
    known = ("categorical", "gaussian")
    if signature.likelihood in known:
        return None
    return f"it has no {signature.likelihood} likelihood: a plain network has {' or '.join(known)}"


def output(signature: Signature, raw: Tensor, noise_sd: PerRow) -> Output:
    """The output that `signature` asks for, from a network's last layer `raw` ([M,] R, B, outputs).

    noise_sd: of a Gaussian target on the model's scale, a number or (R,). Raises BadInput for other numbers of outputs.
    """
    if raw.shape[-1] != signature.outputs:
        raise BadInput(f"the last layer has {raw.shape[-1]} outputs: signature.outputs = {signature.outputs} are right")
    if signature.likelihood == "categorical":
        return CategoricalOutput(raw)
    return GaussianOutput(raw.squeeze(-1), _noise(noise_sd, raw.dtype, raw.device))


@lru_cache
def _noise(sd: PerRow, dtype: torch.dtype, device: torch.device) -> Noise:
    """Kept, since every step asks for it; no inference tensor, whoever asks first: training needs it too."""
    with torch.inference_mode(False):
        column = torch.as_tensor(sd, dtype=dtype, device=device).reshape(-1, 1)
        log_peak = -column.log() - 0.5 * math.log(2 * math.pi)
        return Noise(column, log_peak, 0.5 / column.square())
