"""The objective that every variational method minimises."""

from __future__ import annotations

import torch
from torch import Tensor


def negative_elbo(elbo: Tensor, kl: Tensor | float, num_data: int) -> Tensor:
    """Return −[mean_b elbo_b − KL / N], an unbiased estimate from a batch of the negative ELBO divided by N.

    Graves 2011, eq. 3; Blundell et al. 2015, eq. 8, with weight 1/N on the KL of every batch.

    Args:
        elbo: Each example's contribution to the ELBO in nats, (R, B).
        kl: KL of the weights from their prior in nats, (R,), or a number.
        num_data: N, the number of training examples of one replicate.

    Returns:
        Nats per example, (R,).
    """
    share = 1 / elbo.shape[-1]  # times a sum: its gradient costs a third of that of a mean
    if isinstance(kl, Tensor):
        return torch.sub(kl / num_data, elbo.sum(-1), alpha=share)
    return torch.rsub(elbo.sum(-1), kl / num_data, alpha=share)
