"""The likelihood of several targets at once, which tells an input's noise from what a method does not know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from bdlbench.data.splits import permutation, random_uniform
from bdlbench.predictives.mixtures import by_vectors
from bdlbench.protocols import TEST, Evaluation, Metric
from bdlbench.stats.joint import joint_log_likelihood
from bdlbench.stats.rows import each_row, row_means


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
        return row_means(self._of_batches(evaluation))

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute {"": (R, blocks)} of the batches that have no example of the block; the others keep their draws."""
        if population != TEST:
            return {}
        anchors, _ = self._draw(len(block))
        return {key: _without(found, anchors, block) for key, found in self._of_batches(evaluation).items()}

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
        anchors, picked = _batches(num, self.anchors, self.targets, self.rounds)
        return anchors, one_hot(picked, self.anchors).sum(2)


@dataclass(frozen=True)
class JointKL:
    """KL of the joint prediction of `targets` targets from that of the process that drew the data, mean over batches.

    log Π_t p(y_t | x_t) − log (1/M) Σ_m Π_t p_m(y_t | x_t), where p is the true probability and p_m that of a function
    (Osband et al. 2022, arXiv:2110.04629). Batches are those of `joint_nll`; but each target is drawn anew by the true
    class probabilities of its anchor, also where an anchor comes again, as in the authors' code. The draws are the same
    for every method. Undefined unless the data set knows these probabilities and is asked for functions
    (`testbed.joint=300`).

    Of M functions the mean is a random number, and its logarithm is too small on average, by about Var(w)/2M nats where
    w is the likelihood of a function over the mean of all. So the KL is too large by that. It is not corrected, as in
    the paper, whose M is 1,000; M is part of the protocol.
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
        return (
            f"KL of the joint prediction of {self.targets} targets among {self.anchors} test inputs from the true one"
        )

    def __call__(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute {"": (R,)}."""
        return row_means(self._of_batches(evaluation))

    def without_blocks(self, evaluation: Evaluation, population: str, block: Tensor) -> dict[str, Tensor]:
        """Compute {"": (R, blocks)} of the batches that have no example of the block; the others keep their draws."""
        if population != TEST:
            return {}
        anchors, _ = _batches(len(block), self.anchors, self.targets, self.rounds)
        return {key: _without(found, anchors, block) for key, found in self._of_batches(evaluation).items()}

    def _of_batches(self, evaluation: Evaluation) -> dict[str, Tensor]:
        """Compute the difference of the two log-likelihoods of each batch, {"": (R, S·N)}."""
        if evaluation.truth is None or evaluation.truth.functions is None:
            return {}
        true = evaluation.truth.predicted.arrays()["log_probs"].double()  # (R, N, C)
        num, classes = true.shape[1:]
        anchors, picked = _batches(num, self.anchors, self.targets, self.rounds)
        examples = anchors.gather(2, picked)  # (S, N, T)
        uniform = torch.from_numpy(random_uniform(examples.numel(), "joint classes")).reshape(examples.shape)
        columns = (anchors[..., None] * classes + torch.arange(classes)).flatten(2)  # (S, N, κ·C)

        def of_row(of_true: Tensor, functions: Tensor) -> Tensor:
            below = by_vectors(torch.exp, of_true).cumsum(-1)[:, :-1]  # (N, C − 1)
            drawn = (uniform[..., None] > below[examples]).sum(-1)  # (S, N, T)
            counts = one_hot(picked * classes + drawn, self.anchors * classes).sum(2)  # (S, N, κ·C)
            flat = functions.flatten(1)  # (M, N·C)
            parts = zip(columns, counts, strict=True)
            return torch.cat(
                [
                    joint_log_likelihood(of_true.reshape(1, -1), *part) - joint_log_likelihood(flat, *part)
                    for part in parts
                ]
            )

        return {"": each_row(of_row, true, evaluation.truth.functions.transpose(0, 1))}


def _batches(num: int, anchors: int, targets: int, rounds: int) -> tuple[Tensor, Tensor]:
    """Draw batches of targets among few of N examples, the same for every set of that size.

    Returns:
        The anchors of each batch (S, N, κ), each example the first of one batch a round; and which of them each target
        has, (S, N, T).
    """
    place = (torch.arange(num)[:, None] + torch.arange(anchors)) % num
    orders = [torch.from_numpy(permutation(num, "joint anchors", s)) for s in range(rounds)]
    picked = torch.from_numpy(permutation(rounds * num * targets, "joint targets")) % anchors
    return torch.stack([order[place] for order in orders]), picked.reshape(rounds, num, -1)


def _without(of_batches: Tensor, anchors: Tensor, block: Tensor) -> Tensor:
    """Average (R, S·N) over the batches that have no example of a block, for each block (N,): (R, blocks)."""
    which = torch.arange(int(block.max()) + 1)[:, None, None]
    touched = (block[anchors.flatten(0, 1)] == which).any(-1)  # (blocks, S·N)
    kept = (~touched).double()
    return each_row(lambda row: kept @ row / kept.sum(1), of_batches)


metrics: dict[str, Metric] = {
    "joint_nll": JointNegativeLogLikelihood(),
    "joint_nll_polyadic": JointNegativeLogLikelihood(anchors=5, targets=50),
    "testbed_kl_dyadic": JointKL(),
}
