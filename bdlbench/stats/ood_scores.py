"""Out-of-distribution scores of a trained classifier: of its logits, and of its features beside those of training rows.

A higher score claims that an input is out of distribution. Sums are in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

OF_LOGITS = ("energy", "max_logit")
OF_FEATURES = ("knn", "mahalanobis", "vim")
AFTER_TRAINING = (*OF_LOGITS, *OF_FEATURES)
"""The names of the scores that are fitted or computed after training, where a data set is asked for them."""

RIDGE = 1e-6
"""What is added to the diagonal of the scatter of features, since units that never fire have none."""

NEIGHBOURS = 50
"""Which neighbour counts: Sun et al. 2022 take 50 for CIFAR-10."""

AT_ONCE = 1 << 25
"""Distances that are held at once, 256 MiB."""


def energy(logits: Tensor) -> Tensor:
    """Return the free energy −log Σ_c e^(logit_c), with temperature 1. Liu et al. 2020, eq. 4.

    Args:
        logits: (…, C).

    Returns:
        Nats, (…) float64.
    """
    return -logits.double().logsumexp(-1)


def max_logit(logits: Tensor) -> Tensor:
    """Return the negative largest logit. Hendrycks et al. 2022.

    Args:
        logits: (…, C).

    Returns:
        Nats, (…) float64.
    """
    return -logits.double().amax(-1)


def mahalanobis(known: Tensor, y: Tensor, features: Tensor) -> Tensor:
    """Return ½ min_c (f − μ_c)ᵀ Σ⁻¹ (f − μ_c), with class means and one covariance of all classes. Lee et al. 2018.

    Σ = (Σ_n (f_n − μ_{y_n})(f_n − μ_{y_n})ᵀ + 10⁻⁶ I) / N. Nothing is added to the input, as Lee et al. also do.

    Args:
        known: Features of the training rows, (N, F).
        y: Their classes, (N,) int64. A class without a row has no mean.
        features: Features of the inputs, (n, F).

    Returns:
        (n,) float64.
    """
    known, features = known.double(), features.double()
    present, index = y.unique(return_inverse=True)
    count = torch.bincount(index).double()
    means = torch.zeros(len(present), known.shape[1], dtype=torch.float64, device=known.device)
    means = means.index_add(0, index, known) / count[:, None]  # (C, F)
    centred = known - means[index]
    scatter = centred.mT @ centred + RIDGE * torch.eye(known.shape[1], dtype=torch.float64, device=known.device)
    factor = torch.linalg.cholesky(scatter / len(known))
    gaps = (features[:, None] - means).flatten(0, 1)  # (n·C, F)
    whitened = torch.linalg.solve_triangular(factor, gaps.mT, upper=False)  # (F, n·C)
    distances: Tensor = whitened.square().sum(0).unflatten(0, (len(features), -1)).amin(1) / 2
    return distances


def nearest_neighbours(known: Tensor, features: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Return the distance to the k-th nearest training row, of features brought to length 1. Sun et al. 2022.

    Args:
        known: Features of the training rows, (N, F).
        features: Features of the inputs, (n, F).
        k: Which neighbour, from 1; the farthest where there are fewer rows.

    Returns:
        From 0 to 2, (n,) float64.
    """
    known, features = (torch.nn.functional.normalize(part.double(), dim=1) for part in (known, features))
    found = [
        torch.cdist(some, known).kthvalue(min(k, len(known)), 1).values
        for some in features.split(max(1, AT_ONCE // len(known)))
    ]
    return torch.cat(found)


def virtual_logit(
    known: Tensor, known_max_logit: Tensor, weight: Tensor, bias: Tensor, features: Tensor, energies: Tensor
) -> Tensor:
    """Return α ‖the part of f − o outside the principal space‖ + energy: virtual-logit matching. Wang et al. 2022.

    The origin o = −W⁺ b has equal logits. The principal space is that of the largest D eigenvalues of Σ_n (f_n − o)
    (f_n − o)ᵀ; D = 1,000 of more than 1,500 features, 512 of more than 512, else half of them. α is the mean of the
    largest logit of the training rows over the mean of the norm of their parts outside, 0 where they have none.

    Args:
        known: Features of the training rows, (N, F).
        known_max_logit: Their largest logits, (N,).
        weight: Weights W of the last layer, (C, F).
        bias: Its biases b, (C,).
        features: Features of the inputs, (n, F).
        energies: Their free energies in nats, (n,).

    Returns:
        Nats, (n,) float64.
    """
    size = known.shape[1]
    kept = 1000 if size > 1500 else 512 if size > 512 else size // 2
    origin = -torch.linalg.pinv(weight.double()) @ bias.double()
    known, features = known.double() - origin, features.double() - origin
    outside = torch.linalg.eigh(known.mT @ known / len(known)).eigenvectors[:, : size - kept]  # ascending eigenvalues
    norm = (known @ outside).norm(dim=1).mean()
    scale = known_max_logit.double().mean() / norm if norm > 0 else 0.0  # training rows have no part outside
    found: Tensor = scale * (features @ outside).norm(dim=1) + energies
    return found
