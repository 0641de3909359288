"""Early stopping on held-out rows: every row keeps the parameters of its own best epoch, and is done by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.protocols import Posterior
from bdlbench.training.optimisers import Tensors

VALIDATION_SAMPLES = 10
"""M, posterior samples of a validation predictive; a method that learns one network takes one."""


def before_the_first(flat: Tensor) -> Tensors:
    """Return the tensors, (R, …) each, that remember the best epoch, before there was one.

    Args:
        flat: Rows (R, Q).

    Returns:
        `flat` (R, Q) of the best epoch; its `score` (R,) float64 and `epoch` (R,) int64; whether a row is `done` (R,).
    """
    rows = len(flat)
    return {
        "flat": flat.clone(),
        "score": flat.new_full((rows,), -torch.inf, dtype=torch.float64),
        "epoch": flat.new_zeros(rows, dtype=torch.int64),
        "done": flat.new_zeros(rows, dtype=torch.bool),
    }


def score(posterior: Posterior, validation: Data, rng: Streams) -> Tensor:
    """Return the mean log-likelihood of the held-out rows under the predictive, in nats, (R,) float64.

    Args:
        posterior: What training would return if it ended now.
        validation: The held-out rows.
        rng: Streams (R,) of this epoch's predictions.

    Returns:
        (R,), reduced row by row.
    """
    log_prob = posterior.predict(validation.x, VALIDATION_SAMPLES, rng).log_prob(validation.y)
    return torch.stack([row.double().mean() for row in log_prob])


def after_epoch(best: Tensors, flat: Tensor, scores: Tensor, epoch: int, patience: int) -> Tensors:
    """Return what is remembered after an epoch. A row that is done remembers what it did.

    Args:
        best: What was remembered before.
        flat: Rows (R, Q) after the epoch.
        scores: Their scores (R,); a score that is no number is no improvement.
        epoch: Which epoch, counted from 1.
        patience: Epochs without an improvement after which a row is done; 0: none are too many.

    Returns:
        The tensors of `before_the_first`.
    """
    scores = torch.where(scores.isnan(), -torch.inf, scores)  # else no later epoch could be better
    better = ~best["done"] & ((scores > best["score"]) | (best["epoch"] == 0))
    when = torch.where(better, epoch, best["epoch"])
    return {
        "flat": torch.where(better.unsqueeze(1), flat, best["flat"]),
        "score": torch.where(better, scores, best["score"]),
        "epoch": when,
        "done": best["done"] | (epoch - when >= patience) if patience else best["done"],
    }
