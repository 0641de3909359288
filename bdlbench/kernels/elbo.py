"""The one objective."""

from __future__ import annotations

import torch
from torch import Tensor


def negative_elbo(elbo: Tensor, kl: Tensor | float, num_data: int) -> Tensor:
    """−[mean_b elbo_b − KL / N] in nats per example: (R, B) and (R,) -> (R,).

    An unbiased estimate, from a batch, of the negative evidence lower bound divided by N = num_data.
    Graves 2011, eq. 3; Blundell et al. 2015, eq. 8, with weight 1/N on the KL of every batch.
    """
    share = 1 / elbo.shape[-1]  # of a sum, whose gradient costs a third of a mean's
    if isinstance(kl, Tensor):
        return torch.sub(kl / num_data, elbo.sum(-1), alpha=share)
    return torch.rsub(elbo.sum(-1), kl / num_data, alpha=share)
