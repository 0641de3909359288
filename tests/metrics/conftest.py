import contextlib
import warnings
from dataclasses import dataclass, replace

import pytest
import torch

from bdlbench.predictive import Categorical, GaussianMixture
from bdlbench.protocols import Evaluation


@dataclass(frozen=True)
class Make:
    """Evaluations with R rows that all differ."""

    rows: int = 3
    dtype: torch.dtype = torch.float32

    def categorical(self, seed, num, classes=4, samples=5, sharpness=2.0):
        rng = torch.Generator().manual_seed(seed)
        logits = sharpness * torch.randn(samples, self.rows, num, classes, generator=rng, dtype=self.dtype)
        probs = logits.softmax(-1)
        return Categorical(samples, probs.mean(0), probs, torch.special.entr(probs).sum(-1).mean(0))

    def targets(self, num, classes=4):
        return torch.randint(classes, (self.rows, num), generator=torch.Generator().manual_seed(9))

    def classification(self, num=101, samples=5):
        facts = {"sparsity": torch.rand(self.rows), "sparsity[fc1.weight]": torch.rand(self.rows)}
        ood = {"near": self.categorical(1, 57, samples=samples), "far": self.categorical(2, 64, 4, samples, 0.3)}
        return Evaluation(self.categorical(0, num, samples=samples), self.targets(num), ood, facts, 1234)

    def regression(self, num=101, samples=5):
        rng = torch.Generator().manual_seed(3)
        means = torch.randn(samples, self.rows, num, generator=rng, dtype=self.dtype)
        y = torch.randn(self.rows, num, generator=rng, dtype=self.dtype)
        return Evaluation(GaussianMixture(means, means.exp()), y, {}, {}, 7)


def one_row(predictive, r):
    if isinstance(predictive, GaussianMixture):
        return GaussianMixture(*(x[:, r : r + 1].contiguous() for x in (predictive.means, predictive.sds)))
    return replace(
        predictive,
        probs=predictive.probs[r : r + 1],
        group_probs=predictive.group_probs[:, r : r + 1],
        expected_entropy=predictive.expected_entropy[r : r + 1],
    )


@pytest.fixture
def make():
    """`make(rows=3, dtype=torch.float32)`: what evaluations are made with."""
    return Make


@pytest.fixture
def alone():
    """`alone(evaluation, r)`: the evaluation of row r only."""

    def of(evaluation, r):
        ood = {name: one_row(predictive, r) for name, predictive in evaluation.ood.items()}
        facts = {name: value[r : r + 1] for name, value in evaluation.facts.items()}
        test = one_row(evaluation.test, r)
        return Evaluation(test, evaluation.y[r : r + 1], ood, facts, evaluation.num_parameters)

    return of


@pytest.fixture
def certain():
    """`certain([[0, 1, …], …], classes)`: probability one for each of these classes."""

    def of(labels, classes):
        probs = torch.nn.functional.one_hot(torch.tensor(labels), classes).float()
        return Categorical(1, probs, probs.unsqueeze(0), torch.zeros(probs.shape[:2]))

    return of


@pytest.fixture(scope="session")
def torchmetrics_calibration_error():
    """An independent answer; skipped where torchmetrics, or the torchvision it wants, cannot be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ImportError):
            from bdlbench.store import import_torchvision

            import_torchvision()
        try:
            from torchmetrics.functional.classification import multiclass_calibration_error
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"torchmetrics cannot be imported: {error}")
    return multiclass_calibration_error
