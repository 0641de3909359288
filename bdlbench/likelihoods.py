"""Outputs that own a likelihood and no latent: what a network's last layer means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bdlbench.data import Signature
from bdlbench.predictive import CategoricalSum, GaussianStack
from bdlbench.protocols import Accumulator, Output
from bdlbench.types import PerRow


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


@dataclass(frozen=True)
class GaussianOutput:
    """A Gaussian for each example: mean ([M,] R, B), log_sd that broadcasts to it; on the scale the model sees."""

    mean: Tensor
    log_sd: Tensor

    @property
    def sd(self) -> Tensor:
        """Standard deviation."""
        return self.log_sd.exp()

    def elbo(self, y: Tensor) -> Tensor:
        """log N(y; mean, sd²) in nats: ([M,] R, B)."""
        return -0.5 * ((y - self.mean) / self.sd).square() - self.log_sd - 0.5 * math.log(2 * math.pi)

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
    return None if signature.likelihood in known else f"it has no {signature.likelihood} likelihood"


def output(signature: Signature, raw: Tensor, noise_sd: PerRow) -> Output:
    """The output that `signature` asks for, from a network's last layer `raw` ([M,] R, B, outputs).

    noise_sd: of a Gaussian target on the model's scale, a number or (R,).
    """
    if signature.likelihood == "categorical":
        return CategoricalOutput(raw)
    sd = torch.as_tensor(noise_sd, dtype=raw.dtype, device=raw.device)
    return GaussianOutput(raw.squeeze(-1), sd.log().reshape(-1, 1))
