"""The coin of the lecture: Beta prior, Bernoulli flips, everything in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from bdlbench.core.layout import Layout, Leaf, PerRow
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.kernels import beta
from bdlbench.kernels.kl import row_sum
from bdlbench.networks.likelihoods import CategoricalOutput
from bdlbench.predictives.mixtures import Categorical
from bdlbench.protocols import Layer, Moments, Output


@dataclass(frozen=True)
class Coin:
    """A coin of unknown bias: y ~ Bernoulli(π), π ~ Beta(alpha, beta), whatever the input (the lecture's example).

    Its one parameter is the logit of π. The prior is a density of π, so that under the uniform prior MAP equals MLE, k
    / N. The posterior is Beta(alpha + k, beta + N − k), its predictive (alpha + k) / (alpha + beta + N).
    """

    signature: Signature
    alpha: PerRow = option(1.0, "heads of the Beta prior; 1 and 1 are the uniform one", low=0, open_ends=True)
    beta: PerRow = option(1.0, "tails of the Beta prior", low=0, open_ends=True)

    def unsupported(self) -> str | None:
        """Refuse targets other than two classes."""
        fits = self.signature.likelihood == "categorical" and self.signature.outputs == 2
        return None if fits else "a coin has two sides: it fits two classes"

    def leaves(self) -> dict[str, Leaf]:
        """Return `logit`: log π / (1 − π) of class 1."""
        return {"logit": Leaf((1,), "bias", 1)}

    def __call__(self, layer: Layer, x: Tensor, rng: Streams) -> Output:
        """Compute the output of x ([M,] R, B, *input_shape), whose values do not matter."""
        logit = layer.leaf("logit").unsqueeze(-1)  # ([M,] R, 1, 1)
        batch = x.shape[x.ndim - len(self.signature.input_shape) - 1]
        return CategoricalOutput(torch.cat([torch.zeros_like(logit), logit], -1).expand(*logit.shape[:-2], batch, 2))

    def prior(self, layout: Layout, like: Tensor) -> BetaPrior:
        """Return Beta(alpha, beta) on π."""
        counted = layout.fill(lambda leaf: 1.0).to(like.device)
        return BetaPrior(_column(self.alpha).to(like), _column(self.beta).to(like), counted)

    def exact(self, data: Data) -> BetaPosterior:
        """Return Beta(alpha + heads, beta + tails)."""
        heads = data.y.double().sum(1)
        before = [_column(value).squeeze(1).to(heads).expand(data.rows) for value in (self.alpha, self.beta)]
        return BetaPosterior(before[0], before[1], heads, data.num_data - heads, data.x.dtype)

    def exact_update(self, posterior: BetaPosterior, data: Data) -> BetaPosterior:
        """Return Beta(alpha + heads, beta + tails) of earlier and further flips."""
        further = self.exact(data)
        return replace(posterior, heads=posterior.heads + further.heads, tails=posterior.tails + further.tails)


@dataclass(frozen=True)
class BetaPrior:
    """Beta(alpha, beta) on π = sigmoid(logit).

    Attributes:
        alpha: (1 or R, 1).
        beta: (1 or R, 1).
        counted: 1 on the logit, 0 on padding, (P,).
        of_weights: False: the density is that of π, not of the logit.
    """

    alpha: Tensor
    beta: Tensor
    counted: Tensor
    of_weights: ClassVar[bool] = False

    def log_density(self, flat: Tensor, valued: bool = True) -> Tensor:
        """Return the log-density of π, not of the logit, at rows of logits (R, P): (R,) nats."""
        return (beta.beta_log_density(flat, self.alpha, self.beta) * self.counted).sum(-1)

    def kl(self, mean: Tensor, log_sd: Tensor) -> Tensor:
        """Return KL(logit ~ N(mean, sd²) ‖ π ~ Beta(alpha, beta)) of rows (R, P): (R,) nats."""
        return row_sum(beta.normal_beta_kl(mean, log_sd, self.alpha, self.beta) * self.counted)

    def add_kl_gradient(
        self, mean: Tensor, variance: Tensor, factor: Tensor, into_mean: Tensor, into_log_sd: Tensor
    ) -> None:
        """Add the gradient of `kl`, computed by autograd."""
        there = mean.detach().requires_grad_(), (0.5 * variance.log()).requires_grad_()
        with torch.enable_grad():
            total = (beta.normal_beta_kl(*there, self.alpha, self.beta) * self.counted).sum()
            of_mean, of_log_sd = torch.autograd.grad(total, there)
        into_mean.addcmul_(of_mean, factor)
        into_log_sd.addcmul_(of_log_sd, factor)


@dataclass(frozen=True)
class BetaPosterior:
    """Beta(alpha + heads, beta + tails), (R,) float64 each; `dtype` is the type of the state."""

    alpha: Tensor
    beta: Tensor
    heads: Tensor
    tails: Tensor
    dtype: torch.dtype
    facts: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The two parameters of the posterior, (R,) each."""
        return {"alpha": (self.alpha + self.heads).to(self.dtype), "beta": (self.beta + self.tails).to(self.dtype)}

    @property
    def log_evidence(self) -> Tensor:
        """log p(y) = log B(alpha + heads, beta + tails) − log B(alpha, beta) of the flips in order, (R,) nats."""
        after = beta.log_beta(self.alpha + self.heads, self.beta + self.tails)
        return after - beta.log_beta(self.alpha, self.beta)

    @property
    def bound(self) -> Tensor:
        """The ELBO, (R,) nats: E_q log p(y | π) − KL(q ‖ prior), computed as such; here it is the evidence."""
        after = self.alpha + self.heads, self.beta + self.tails
        mean_log, mean_log_rest = beta.beta_mean_logs(*after)
        expected = self.heads * mean_log + self.tails * mean_log_rest
        return expected - beta.beta_kl(*after, self.alpha, self.beta)

    def moments(self) -> Moments:
        """Return the moments of the logit, which is not Gaussian."""
        mean, variance = beta.beta_logit_moments(self.alpha + self.heads, self.beta + self.tails)
        return Moments(mean[:, None], variance[:, None, None])

    def kl(self, other: Moments) -> Tensor:
        """Return KL(the Gaussian `other` of the logit ‖ this posterior), (R,) nats."""
        mean, log_sd = other.mean, 0.5 * other.covariance.squeeze(-1).log()  # (R, 1)
        after = (self.alpha + self.heads).unsqueeze(1), (self.beta + self.tails).unsqueeze(1)
        return beta.normal_beta_kl(mean, log_sd, *after).squeeze(1)

    def measured(self, x: Tensor, rng: Streams) -> Mapping[str, Tensor]:
        """Return {}: nothing is timed."""
        return {}

    def predict(self, x: Tensor, samples: int, rng: Streams, joint: bool = False) -> Categorical:
        """Predict heads with (alpha + heads) / (alpha + beta + N), in closed form, whatever `samples` says."""
        heads, tails = self.alpha + self.heads, self.beta + self.tails
        pi = torch.stack([tails, heads], -1) / (heads + tails).unsqueeze(-1)  # (R, 2)
        log_probs = pi.double().log().unsqueeze(1).expand(*x.shape[:2], 2).contiguous()  # (R, N, 2)
        entropy = self._expected_entropy(heads, tails).double().unsqueeze(1).expand(x.shape[:2]).contiguous()
        return Categorical(1, log_probs, log_probs.float().unsqueeze(0), entropy)

    @staticmethod
    def _expected_entropy(heads: Tensor, tails: Tensor) -> Tensor:
        """Return −E [π log π + (1 − π) log(1 − π)], (R,) nats.

        E π log π = E π · E log π under the Beta with one head more.
        """
        total = heads + tails
        one_more_heads, _ = beta.beta_mean_logs(heads + 1, tails)
        _, one_more_tails = beta.beta_mean_logs(heads, tails + 1)
        return -(heads / total * one_more_heads + tails / total * one_more_tails)


def _column(value: PerRow) -> Tensor:
    """Return (1 or R, 1) float64."""
    return torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1)


models = {"coin": Coin}
