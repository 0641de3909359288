"""Facts about a posterior with weights that are exactly zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bdlbench.core.layout import Layout


def sparsity_facts(kept: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Return `sparsity`, `sparsity[leaf]` and `compression` (R,) float64 from masks (R, *S) of the remaining weights.

    sparsity = 1 − |w ≠ 0| / |w| over the linear maps; compression = |w| / |w ≠ 0| (Molchanov et al. 2017, table 1).
    """
    counts = {name: mask.flatten(1).sum(1).double() for name, mask in kept.items()}
    sizes = {name: layout.leaves[name].size for name in kept}
    remaining, total = torch.stack(list(counts.values())).sum(0), sum(sizes.values())
    facts = {f"sparsity[{name}]": 1 - counts[name] / sizes[name] for name in kept}
    return facts | {"sparsity": 1 - remaining / total, "compression": total / remaining}
