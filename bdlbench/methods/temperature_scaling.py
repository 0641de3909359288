"""Temperature scaling: the predictions of another classifier, made as sure as held-out rows say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import log_softmax
from torch import Tensor

from bdlbench.core.errors import BadInput
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.posteriors.scaled import TEMPERATURE, ScaledPosterior, of_classes
from bdlbench.protocols import Method, Model, Posterior, Restores
from bdlbench.training.loop import watched_as

LOWEST, HIGHEST = 0.05, 20.0
"""Between these a temperature is looked for: where every held-out row is right, no temperature above 0 is the best."""


@dataclass(frozen=True)
class TemperatureScaling:
    """Temperature scaling: softmax(log p / T) of another method's predictive p, T by held-out rows (Guo et al. 2017).

    A share of each row's training examples is held out by a stream of its own, and the method is trained on the others
    with the streams that it has alone. T, between 0.05 and 20, is what makes the mean log-likelihood of the held-out
    rows largest; that is concave in 1/T. What is scaled is the logarithm of the mean probability over samples or
    members (Ashukha et al. 2020), not the logits of each. So the most probable class stays the same, and so does the
    mutual information, which is of the samples. The ELBO, where there is one, is of the method alone. The fact
    `temperature` is T.
    """

    method: Method | Any = option("mle", "method whose predictions are scaled; its own options apply", entry="methods")
    held_out: float = option(
        0.1, "share of the training rows that the temperature is fitted on", low=0, high=1, open_ends=True
    )
    samples: int = option(20, "posterior samples behind the predictions that it is fitted on", low=1)

    def unsupported(self, model: Model) -> str | None:
        """Say why the method cannot train this model, or why its predictions have no temperature; None where it can."""
        if model.signature.likelihood != "categorical":
            return f"a temperature is of probabilities of classes, which a {model.signature.likelihood} target lacks"
        reason: str | None = self.method.unsupported(model)
        return reason

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train the method on some rows, and fit the temperature on the others.

        Raises:
            BadInput: No row is left on one side, or the predictions have no classes.
        """
        count = data.num_data
        kept = math.floor(round((1 - self.held_out) * count, 9))
        if not 0 < kept < count:
            share = f"held_out={self.held_out:g} of {count} training rows"
            raise BadInput(f"temperature_scaling: {share} leaves none on one side: choose another share")
        order = rng.child("held out").permutation(count).to(data.x.device)  # (R, N)
        rest, held = (data.batch(index.contiguous()) for index in (order[:, :kept], order[:, kept:]))
        scaled = partial(self._scaled, held=Data(held.x, held.y), rng=rng.child("temperature"))
        with watched_as(scaled):
            return scaled(self.method.fit(model, Data(rest.x, rest.y), rng))

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior | None:
        """Rebuild the method's posterior, where it can, and scale it as before."""
        own = {name: value for name, value in state.items() if name != TEMPERATURE}
        found = self.method.restored(model, own) if isinstance(self.method, Restores) else None
        return None if found is None else ScaledPosterior(found, state[TEMPERATURE])

    def _scaled(self, posterior: Posterior, held: Data, rng: Streams) -> ScaledPosterior:
        """Return the posterior with the temperature of each row that suits the held-out rows."""
        log_probs = of_classes(posterior.predict(held.x, self.samples, rng)).log_probs
        found = [best_temperature(log_prob, y) for log_prob, y in zip(log_probs, held.y, strict=True)]
        return ScaledPosterior(posterior, held.x.new_tensor(found))


def best_temperature(log_probs: Tensor, y: Tensor) -> float:
    """Return the T between 0.05 and 20 that makes Σ_n log softmax(log_probs_n / T)_{y_n} largest.

    The sum is concave in β = 1/T, and its slope −Σ_n [E_β log p_n − log p_{n, y_n}] falls, so a root of the slope is
    the only optimum. A probability of 0 counts as the smallest normal float32, as in `log_prob`.

    Args:
        log_probs: Log-probabilities, or logits, in nats, (N, C).
        y: Classes, (N,) int64.

    Returns:
        The temperature; 1 where all are equally good, and NaN where a probability is.
    """
    tiny = math.log(torch.finfo(torch.float32).tiny)
    scores = log_probs.double().masked_fill(log_probs == -math.inf, tiny).cpu().numpy().copy()  # (N, C)
    right = scores[np.arange(len(scores)), y.cpu().numpy()]  # (N,)

    def fall(beta: float) -> float:
        """Return how fast the mean log-likelihood falls as β grows."""
        probs = np.exp(log_softmax(beta * scores, -1))
        return float(((probs * scores).sum(-1) - right).mean())

    here = fall(1.0)
    if here == 0 or math.isnan(here):
        return 1.0 if here == 0 else math.nan
    if fall(1 / HIGHEST) >= 0:
        return HIGHEST
    if fall(1 / LOWEST) <= 0:
        return LOWEST
    return float(1 / brentq(fall, 1 / HIGHEST, 1 / LOWEST, xtol=1e-12))


methods = {"temperature_scaling": TemperatureScaling}
