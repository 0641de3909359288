"""Sequential updating: the posterior of each chunk of the data is the prior of the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from bdlbench.core.errors import BadInput
from bdlbench.core.options import option
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data
from bdlbench.protocols import Model, Posterior, Restores, Updates

Order = Literal["random", "by_class"]


@dataclass(frozen=True)
class Sequential:
    """Sequential updating: data arrive in chunks, and the posterior of each is the prior of the next.

    p(w | D_1 … D_k) ∝ p(D_k | w) p(w | D_1 … D_{k−1}). With base=exact the order and the number of chunks change
    nothing. With mean_field_vi each prior is the Gaussian that was learnt last (Nguyen et al. 2018, eq. 3 f.), and with
    mle or map, which have no spread to hand on, training goes on from the last weights on the newest chunk alone.

    Each chunk is trained on by the base's whole budget. With order=random the chunks of each row are drawn; with
    by_class they are cut from the examples sorted by their class. One chunk is the base itself.
    """

    base: Updates | Any = option("mean_field_vi", "method of each chunk; its own options apply", entry="methods")
    chunks: int = option(10, "parts of equal size that the training data arrive in", low=1)
    order: Order = option("random", "which examples a chunk has", choices=get_args(Order))

    def unsupported(self, model: Model) -> str | None:
        """Say why the base cannot train this model or update its posterior; None where it can."""
        if not isinstance(self.base, Updates):
            return f"a posterior of {type(self.base).__name__} cannot be the prior of further data"
        if self.order == "by_class" and model.signature.likelihood != "categorical":
            return f"it has no classes to sort by, but a {model.signature.likelihood} target"
        reason: str | None = self.base.unsupported(model)
        return reason

    def fit(self, model: Model, data: Data, rng: Streams) -> Posterior:
        """Train on the first chunk, and update by each other.

        Raises:
            BadInput: There are fewer examples than chunks, or the base's posterior of this model cannot be updated.
        """
        if self.chunks > data.num_data:
            raise BadInput(f"sequential: chunks={self.chunks} are more than the {data.num_data} training examples")
        if self.chunks == 1:
            alone: Posterior = self.base.fit(model, data, rng)
            return alone
        order = rng.child("chunks").permutation(data.num_data).to(data.x.device)  # (R, N)
        if self.order == "by_class":
            order = order.gather(-1, data.y.gather(-1, order).argsort(dim=-1, stable=True))
        first, *later = (data.batch(part) for part in order.tensor_split(self.chunks, dim=-1))
        posterior: Posterior = self.base.fit(model, Data(first.x, first.y), rng.child("chunk 0"))
        for k, chunk in enumerate(later, start=1):
            streams = rng.child(f"chunk {k}")
            posterior = self.base.updated(model, posterior, Data(chunk.x, chunk.y), streams)
        return posterior

    def restored(self, model: Model, state: Mapping[str, Tensor]) -> Posterior | None:
        """Rebuild the last posterior, where the base can."""
        return self.base.restored(model, state) if isinstance(self.base, Restores) else None


methods = {"sequential": Sequential}
