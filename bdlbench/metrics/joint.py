"""The likelihood of several targets at once, which tells an input's noise from what a method does not know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bdlbench.data.splits import permutation
from bdlbench.protocols import TEST, Evaluation, Metric
from bdlbench.stats.joint import joint_log_likelihood
from bdlbench.stats.rows import each_row


@dataclass(frozen=True)
class JointNegativeLogLikelihood:
    """−log (1/M) Σ_m Π_t p_m(y_t | x_t) of `targets` targets t, mean over batches: polyadic sampling.

    A batch draws its targets among few test examples, its anchors, with replacement (Osband et al. 2022): with two of
    them it is dyadic. Of targets that are all different, even a good posterior gains little over its marginals. A
    target that comes again tells which function it is; so a method that spreads its probability over functions gains,
    and one that spreads it within each function does not. Each test example is the first anchor of `rounds` batches;
    the others of their anchors, and how often a batch has each, are drawn once for any set of that size. Undefined
    unless functions are asked for (`digits.joint=100`), since a record keeps no others, and for regression.

    Intervals are by the jackknife over test examples, without the batches of those that are left out. With one round
    it would say a fifth too much, with five a twentieth.
    """

    anchors: int = 2
    targets: int = 10
    rounds: int = 5

    version: ClassVar[int] = 1
    unit: ClassVar[str] = "nats"
    better: ClassVar[Literal["lower"]] = "lower"

    @property
    def summary(self) -> str:
        """One line, with the sizes."""
        return f"joint negative log-likelihood of {self.targets} targets drawn among {self.anchors} test examples"

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return {key: each_row(torch.mean, found) for key, found in self._of_batches(evaluation).items()}

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute {"": (R, blocks)} of the batches that have no example of the block; the others keep their draws."""
        if population != TEST:
            return {}
        anchors, _ = self._draw(len(block))
        which = torch.arange(int(block.max()) + 1)[:, None, None]
        touched = (block[anchors.flatten(0, 1)] == which).any(-1)  # (blocks, S·N)
        kept = (~touched).double()
        return {
            key: each_row(lambda row: kept @ row / kept.sum(1), found)
            for key, found in self._of_batches(evaluation).items()
        }

    def _of_batches(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute the joint negative log-likelihood of each batch, {"": (R, S·N)}."""
        functions = evaluation.functions  # (M, R, N)
        if functions is None:
            return {}
        anchors, counts = self._draw(evaluation.y.shape[1])

        def of_row(row: Tensor) -> Tensor:
            parts = zip(anchors, counts, strict=True)
            return torch.cat([joint_log_likelihood(row, *part) for part in parts])

        return {"": -each_row(of_row, functions.transpose(0, 1))}

    def _draw(self, num: int) -> tuple[Tensor, Tensor]:
        """Return the anchors of each batch, (S, N, κ), in S rounds, and how often it has each."""
        place = (torch.arange(num)[:, None] + torch.arange(self.anchors)) % num
        orders = [torch.from_numpy(permutation(num, "joint anchors", s)) for s in range(self.rounds)]
        picked = torch.from_numpy(permutation(self.rounds * num * self.targets, "joint targets")) % self.anchors
        counts = one_hot(picked.reshape(self.rounds, num, -1), self.anchors).sum(2)
        return torch.stack([order[place] for order in orders]), counts


metrics: dict[str, Metric] = {
    "joint_nll": JointNegativeLogLikelihood(),
    "joint_nll_polyadic": JointNegativeLogLikelihood(anchors=5, targets=50),
}
