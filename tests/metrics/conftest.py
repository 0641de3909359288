from dataclasses import dataclass, fields, replace

import pytest
import torch

from bdlbench.data.task import Data, Signature
from bdlbench.models.bayesian_linear_regression import BayesianLinearRegression
from bdlbench.predictives.density import Density
from bdlbench.predictives.mixtures import Categorical, GaussianMixture, with_probs
from bdlbench.protocols import Calibration, Evaluation, Moments, Reference, Truth
from bdlbench.records.evaluation import Kept
from bdlbench.stats.ood_scores import AFTER_TRAINING


@dataclass(frozen=True)
class Make:
    """Evaluations with R rows that all differ."""

    rows: int = 3
    dtype: torch.dtype = torch.float32

    def categorical(self, seed, num, classes=4, samples=5, sharpness=2.0):
        rng = torch.Generator().manual_seed(seed)
        logits = sharpness * torch.randn(samples, self.rows, num, classes, generator=rng, dtype=self.dtype)
        probs = logits.softmax(-1)
        entropy = torch.special.entr(probs).sum(-1).mean(0)
        scores = {name: torch.randn(self.rows, num, generator=rng).double() for name in AFTER_TRAINING}
        return Categorical(samples, probs.mean(0).log(), probs.log(), entropy, own_scores=scores, dtype=self.dtype)

    def targets(self, num, classes=4):
        return torch.randint(classes, (self.rows, num), generator=torch.Generator().manual_seed(9))

    def classification(self, num=101, samples=5):
        facts = {"sparsity": torch.rand(self.rows), "sparsity[fc1.weight]": torch.rand(self.rows)}
        ood = {"near": self.categorical(1, 57, samples=samples), "far": self.categorical(2, 64, 4, samples, 0.3)}
        held = Calibration(self.categorical(5, 33, samples=samples), self.targets(33))
        test = self.categorical(0, num, samples=samples)
        functions = -torch.rand(samples, self.rows, num, generator=torch.Generator().manual_seed(6), dtype=self.dtype)
        seen = Evaluation(test, self.targets(num), ood, facts, 1234)
        rng = torch.Generator().manual_seed(7)
        true = torch.randn(self.rows, num, 4, generator=rng, dtype=torch.float64).log_softmax(-1)
        of_classes = torch.randn(samples, self.rows, num, 4, generator=rng, dtype=self.dtype).log_softmax(-1)
        truth = Truth(Kept(1, with_probs({"log_probs": true})), of_classes)
        return replace(seen, calibration=held, functions=functions, truth=truth)

    def regression(self, num=101, samples=5):
        rng = torch.Generator().manual_seed(3)
        means = torch.randn(samples, self.rows, num, generator=rng, dtype=self.dtype)
        y = torch.randn(self.rows, num, generator=rng, dtype=self.dtype)
        return Evaluation(GaussianMixture(means, means.exp()), y, {}, {}, 7)

    def density(self, num=101, samples=5):
        """A model of the inputs' density; two sets out of distribution, one of them the more probable."""
        ood = {"near": self._density(1, 57, samples), "simple": self._density(2, 64, samples, higher=3.0)}
        return Evaluation(self._density(0, num, samples), self.targets(num), ood, {}, 7)

    def _density(self, seed, num, samples, higher=0.0):
        rng = torch.Generator().manual_seed(seed)
        log = torch.randn(samples, self.rows, num, generator=rng, dtype=self.dtype) + higher - 90
        regret = torch.rand(self.rows, num, generator=rng, dtype=self.dtype)
        sd = torch.tensor([1.0, 0.3, 0.03, 0.0], dtype=self.dtype)  # of the latent's four dimensions
        latent = 5 + sd * torch.randn(self.rows, num, 4, generator=rng, dtype=self.dtype)
        facts = {"importance_samples": torch.full((self.rows,), 50.0, dtype=self.dtype)}
        facts["regret_gain"] = regret / 100
        return Density(log, log.mean(0) - 1, latent, regret + higher, facts)

    def conjugate(self, num=101, samples=5):
        """A method on Bayesian linear regression, beside the exact posterior."""
        model = BayesianLinearRegression(Signature((3,), 1, "gaussian"), prior_sd=0.7, noise_sd=0.5)
        rng = torch.Generator().manual_seed(4)
        x, y = torch.randn(self.rows, 20, 3, generator=rng), torch.randn(self.rows, 20, generator=rng)
        exact = model.exact(Data(x.to(self.dtype), y.to(self.dtype)))
        variance = exact.covariance.diagonal(dim1=1, dim2=2) + torch.rand(self.rows, 4, generator=rng)
        moments = Moments(exact.mean + 0.1, torch.diag_embed(variance), gaussian=True)
        x = torch.randn(self.rows, num, 3, generator=rng).to(self.dtype)
        reference = Reference(exact, exact.predict(x, 1, None))
        regression = self.regression(num, samples)
        return replace(regression, bound=exact.bound - 1, moments=moments, reference=reference)


def one_row(predictive, r):
    if isinstance(predictive, GaussianMixture):
        return GaussianMixture(*(x[:, r : r + 1].contiguous() for x in (predictive.means, predictive.sds)))
    if isinstance(predictive, Density):
        of_rows = [x[r : r + 1].clone() for x in (predictive.elbo, predictive.latent_mean, predictive.regret)]
        facts = {name: value[r : r + 1] for name, value in predictive.facts.items()}
        return Density(predictive.log_densities[:, r : r + 1].contiguous(), *of_rows, facts)
    return replace(
        predictive,
        log_probs=predictive.log_probs[r : r + 1],
        group_log_probs=predictive.group_log_probs[:, r : r + 1],
        expected_entropy=predictive.expected_entropy[r : r + 1],
        own_scores={name: value[r : r + 1] for name, value in predictive.own_scores.items()},
    )


def tensors_of_row(entry, r):
    tensors = {f.name: value for f in fields(entry) if isinstance(value := getattr(entry, f.name), torch.Tensor)}
    return replace(entry, **{name: value[r : r + 1].clone() for name, value in tensors.items()})


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
        held = evaluation.calibration
        held = held and Calibration(one_row(held.predicted, r), held.y[r : r + 1])
        row = Evaluation(test, evaluation.y[r : r + 1], ood, facts, evaluation.num_parameters, calibration=held)
        if evaluation.functions is not None:
            row = replace(row, functions=evaluation.functions[:, r : r + 1])
        if (known := evaluation.truth) is not None:
            true = {name: value[r : r + 1].clone() for name, value in known.predicted.arrays().items()}
            row = replace(row, truth=Truth(Kept(1, true), known.functions[:, r : r + 1]))
        if evaluation.reference is None:
            return row
        reference = Reference(tensors_of_row(evaluation.reference.posterior, r), one_row(evaluation.reference.test, r))
        bound, moments = evaluation.bound[r : r + 1], tensors_of_row(evaluation.moments, r)
        return replace(row, bound=bound, moments=moments, reference=reference)

    return of


@pytest.fixture
def certain():
    """`certain([[0, 1, …], …], classes)`: probability one for each of these classes."""

    def of(labels, classes):
        log_probs = torch.nn.functional.one_hot(torch.tensor(labels), classes).double().log()
        return Categorical(1, log_probs, log_probs.unsqueeze(0).float(), torch.zeros(log_probs.shape[:2]))

    return of
