import math

import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import root_mean_squared_error

from bdlbench.metrics import nll, rmse
from bdlbench.predictives.mixtures import GaussianMixture
from bdlbench.protocols import Evaluation

RMSE, NLL = rmse.metrics["rmse"], nll.metrics["nll"]


def test_rmse_by_hand():
    means = torch.tensor([[[0.0, 1.0]], [[2.0, 3.0]]])  # (M, R, N), mean 1 and 2
    evaluation = Evaluation(GaussianMixture(means, torch.ones_like(means)), torch.tensor([[4.0, 6.0]]), {}, {}, 0)
    assert float(RMSE(evaluation)[""]) == pytest.approx(math.sqrt((9 + 16) / 2), abs=1e-15)
    assert (RMSE.better, RMSE.unit) == ("lower", "target units")


def test_rmse_is_sklearn(make):
    evaluation = make(rows=3, dtype=torch.float64).regression()
    theirs = [root_mean_squared_error(evaluation.y[r], evaluation.test.mean[r]) for r in range(3)]
    assert RMSE(evaluation)[""].tolist() == pytest.approx(theirs, abs=1e-14)


def test_nll_is_scipy(make):
    evaluation = make(rows=3, dtype=torch.float64).regression()
    density = norm.pdf(evaluation.y.numpy(), evaluation.test.means.numpy(), evaluation.test.sds.numpy()).mean(0)
    theirs = -torch.from_numpy(density).log().mean(-1)
    torch.testing.assert_close(NLL(evaluation)[""], theirs, rtol=0, atol=1e-12)


def test_rmse_is_undefined_for_classes(make):
    assert RMSE(make().classification()) == {}


def test_float32_is_summed_in_float64(make):
    evaluation = make(rows=2).regression(num=5000)
    log_prob, error = evaluation.test.log_prob(evaluation.y), evaluation.y.double() - evaluation.test.mean.double()
    nll_exact = [-math.fsum(row) / 5000 for row in log_prob.tolist()]
    rmse_exact = [math.sqrt(math.fsum(e * e for e in row) / 5000) for row in error.tolist()]
    assert NLL(evaluation)[""].tolist() == pytest.approx(nll_exact, rel=1e-13)
    assert RMSE(evaluation)[""].tolist() == pytest.approx(rmse_exact, rel=1e-13)
