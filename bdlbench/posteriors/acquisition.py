"""Which unlabelled examples to have labelled next: those that a posterior's scores are highest for."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Acquisition = Literal["bald", "entropy", "max_probability", "random"]

BOUGHT_BY: dict[Acquisition, str | None] = {
    "bald": "mutual_information",
    "entropy": "entropy",
    "max_probability": "max_probability",
    "random": None,
}
"""The score of a predictive, higher where it is less sure, that each acquisition buys by; None reads none.

"bald": H[E p(y | x, w)] − E H[p(y | x, w)], what the label says of the weights (Houlsby et al. 2011; Gal et al. 2017).
"""


def highest(scores: Tensor, labelled: Tensor, count: int) -> Tensor:
    """Return the examples of the highest scores among those that have no label; the first of equal ones.

    Args:
        scores: (R, N).
        labelled: Indices of the examples that have one, (R, K) int64.
        count: How many to return; at most N − K.

    Returns:
        Indices (R, count) int64, the highest score first.
    """
    open_to_buy = scores.double().scatter(-1, labelled, -torch.inf)
    return open_to_buy.argsort(dim=-1, descending=True, stable=True)[..., :count]
