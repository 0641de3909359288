"""The claim that data per parameter matter, and a point estimate whose loss does not depend on them."""

from __future__ import annotations

import numpy as np
import pytest

from bdlbench.claims.data_per_parameter import explained

NEVER_LEARNS = """
from dataclasses import dataclass
from bdlbench.methods.ols import OLS

@dataclass(frozen=True)
class Stubborn(OLS):
    '''It predicts zero with unit noise, so its loss grows with the weights that it leaves out, not with N.'''

    def restored(self, model, state):
        return super().restored(model, {name: 0 * value for name, value in state.items()})

methods = {"ols": Stubborn}
"""

NETWORKS = "own.bundled.suite.grids[2]"
SMALLER = (
    f"seeds=8, samples=2, grids=(*own.bundled.suite.grids[:2], replace({NETWORKS}, "
    f'options={{**{NETWORKS}.options, "mle": {{"steps": [3]}}}}))'
)

COLLAPSE = "linear model: variance of the gap explained by N / parameters"


def line(out: str, words: str) -> str:
    return next(row for row in out.splitlines() if row.startswith(words))


@pytest.mark.slow
def test_linear_models_lie_on_one_curve(verdict) -> None:
    _, out = verdict("data_per_parameter", SMALLER)
    assert line(out, COLLAPSE).endswith("shown")


@pytest.mark.slow
def test_a_loss_that_does_not_depend_on_data_per_parameter(verdict) -> None:
    code, out = verdict("data_per_parameter", SMALLER, NEVER_LEARNS, ("ols",))
    assert code == 1
    assert "does not hold" in out.lower()
    assert line(out, COLLAPSE).endswith("refuted")


def test_what_a_parabola_explains() -> None:
    by = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    curve = np.log(by) ** 2 - np.log(by)
    apart = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    exact = np.stack([curve, 2 * curve, 3 * curve], 1)
    np.testing.assert_allclose(explained(exact, by), 1)
    found = explained(np.stack([apart, apart, apart], 1), by)
    assert (found < 0.2).all()
