"""Distances from the process that drew the data: the truth itself, a uniform prediction, coins, logistic regression."""

import math
from dataclasses import replace

import pytest
import torch

from bdlbench.metrics import joint, truth
from bdlbench.predictives.mixtures import GaussianMixture
from bdlbench.protocols import Evaluation, Truth
from bdlbench.records.evaluation import Kept

KL, ORACLE, ENTROPY = (truth.metrics[name] for name in ("testbed_kl", "oracle_nll", "oracle_entropy"))
DYADIC = joint.metrics["testbed_kl_dyadic"]


def evaluation(true, predicted, functions=None, y=None):
    """True and predicted class probabilities (R, N, C), functions (M, R, N, C)."""
    known = Truth(Kept(1, {"log_probs": true.log()}), None if functions is None else functions.log())
    y = torch.zeros(true.shape[:2], dtype=torch.int64) if y is None else y
    return Evaluation(Kept(1, {"log_probs": predicted.log()}), y, {}, {}, None, truth=known)


def drawn(rows=3, num=40, classes=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(rows, num, classes, generator=rng, dtype=torch.float64).mul(2).softmax(-1)


def test_the_true_function_has_no_distance():
    true = drawn()
    seen = evaluation(true, true, true[None].expand(4, *true.shape))
    assert KL(seen)[""].tolist() == [0.0] * 3
    assert DYADIC(seen)[""].tolist() == pytest.approx([0.0] * 3, abs=1e-12)


def test_a_uniform_prediction_lacks_the_entropy_for_each_target():
    """log C − H by the closed form; of ten targets, ten times that, within what the drawn targets vary."""
    true = drawn(rows=4, num=100)
    uniform = torch.full_like(true, 1 / 3)
    seen = evaluation(true, uniform, uniform[None])
    lacking = math.log(3) - torch.special.entr(true).sum(-1).mean(1)
    torch.testing.assert_close(KL(seen)[""], lacking, rtol=1e-12, atol=0)
    torch.testing.assert_close(ENTROPY(seen)[""], math.log(3) - lacking, rtol=1e-12, atol=0)
    spread = (true * (true.log() + torch.special.entr(true).sum(-1, keepdim=True)).square()).sum(-1).mean(1)
    error = (
        10 * 10 * spread / (5 * 400)
    ).sqrt()  # at most: the targets of a batch are independent, its anchors are not
    assert ((DYADIC(seen)[""] - 10 * lacking).abs() < 4 * error).all()


def test_two_classes_by_hand():
    true, predicted = (
        torch.tensor([[[0.8, 0.2], [0.5, 0.5]]]).double(),
        torch.tensor([[[0.5, 0.5], [0.9, 0.1]]]).double(),
    )
    one = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    two = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    seen = evaluation(true, predicted, y=torch.tensor([[1, 0]]))
    assert KL.by_example(seen)[""].tolist() == [pytest.approx([one, two])]
    assert KL(seen)[""].item() == pytest.approx((one + two) / 2)
    assert ORACLE.by_example(seen)[""].tolist() == [pytest.approx([-math.log(0.2), -math.log(0.5)])]


def test_a_class_that_cannot_be_adds_nothing_and_one_that_was_excluded_costs_what_it_costs_in_nll():
    true, predicted = (
        torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]).double(),
        torch.tensor([[[0.5, 0.5], [1.0, 0.0]]]).double(),
    )
    first, second = KL.by_example(evaluation(true, predicted))[""][0].tolist()
    assert first == pytest.approx(math.log(2))
    assert second == pytest.approx(math.log(0.5) - 0.5 * math.log(torch.finfo(torch.float32).tiny))


def coins(rows, samples, num=2, seed=0):
    """Coins of a Beta(2, 2), and functions that are draws of this prior, the same at every input: exact Bayes."""
    rng = torch.distributions.Beta(torch.tensor(2.0).double(), torch.tensor(2.0).double())
    torch.manual_seed(seed)
    heads, guesses = rng.sample((rows,)), rng.sample((samples, rows))
    pair = lambda p: torch.stack([1 - p, p], -1).unsqueeze(-2).expand(*p.shape, num, 2)  # noqa: E731
    return evaluation(pair(heads), pair(guesses).mean(0), pair(guesses))


@pytest.mark.slow
def test_exact_bayes_on_coins_has_the_beta_binomials_distance():
    """E log p^k (1 − p)^(T−k) − log B(2 + k, 2 + T − k) / B(2, 2), by the Beta-binomial distribution of k."""
    targets = 10
    k = torch.arange(targets + 1).double()
    log_beta = lambda a, b: torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)  # noqa: E731
    two = torch.tensor(2.0).double()
    log_joint = log_beta(2 + k, 2 + targets - k) - log_beta(two, two)  # of one sequence with k heads
    choose = torch.lgamma(torch.tensor(targets + 1.0).double()) - torch.lgamma(k + 1) - torch.lgamma(targets - k + 1)
    probability = (choose + log_joint).exp()  # of k
    assert float(probability.sum()) == pytest.approx(1)
    entropy_of_coin = -(torch.digamma(two + 1) - torch.digamma(2 * two + 1))  # E H(p) = −2 E p log p, of Beta(2, 2)
    expected = float(-targets * entropy_of_coin - (probability * log_joint).sum())
    found = DYADIC(coins(rows=600, samples=500))[""]
    assert float(found.mean()) == pytest.approx(expected, abs=4 * float(found.std()) / 600**0.5)
    assert expected > 0.5  # and the test can tell


@pytest.mark.slow
def test_logistic_regression_by_maximum_likelihood_lacks_half_a_nat_for_each_weight_and_example():
    """KL → d / 2n for n examples and d weights (Wilks), on average over data sets."""
    rng = torch.Generator().manual_seed(2)
    rows, n, d = 300, 1500, 3
    x = torch.randn(rows, n, d, generator=rng, dtype=torch.float64)
    weights = torch.randn(rows, d, 1, generator=rng, dtype=torch.float64) * 0.7
    y = torch.bernoulli((x @ weights).sigmoid(), generator=rng)
    found = torch.zeros_like(weights)
    for _ in range(8):  # Newton's method
        p = (x @ found).sigmoid()
        found = found + torch.linalg.solve(x.mT @ (p * (1 - p) * x), x.mT @ (y - p))
    test = torch.randn(rows, 400, d, generator=rng, dtype=torch.float64)

    def classes(w):
        logits = test @ w
        return torch.cat([-logits, logits], -1).mul(0.5).softmax(-1)

    values = 2 * n * KL(evaluation(classes(weights), classes(found)))[""]
    assert float(values.mean()) == pytest.approx(d, abs=4 * float(values.std()) / rows**0.5)


def test_the_oracle_of_a_real_target_is_its_density():
    mean, sd = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[1.0, 2.0]]).double()
    test = GaussianMixture(mean[None].float(), sd[None].float())
    y = torch.tensor([[0.5, 0.0]]).double()
    seen = Evaluation(test, y, {}, {}, None, truth=Truth(Kept(1, {"mean": mean, "sd": sd})))
    density = torch.distributions.Normal(mean, sd).log_prob(y)
    torch.testing.assert_close(ORACLE(seen)[""], -density.mean(1))
    assert KL(seen) == ENTROPY(seen) == DYADIC(seen) == {}


def test_undefined_where_nothing_is_known(make):
    for seen in (replace(make().classification(), truth=None), make().regression(), make().density()):
        assert all(metric(seen) == {} for metric in (KL, ORACLE, ENTROPY, DYADIC))
