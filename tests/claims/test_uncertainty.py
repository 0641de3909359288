"""The claim that Bayesian networks provide uncertainty, and a posterior that is far too sure."""

from __future__ import annotations

import pytest

SMALLER = """seeds=3, grids=(replace(own.bundled.suite.grids[0], methods=("mle", "mean_field_vi")),),
    options={**own.bundled.suite.options, "mle": {"epochs": [20], "learning_rate": [3e-3]},
    "mean_field_vi": {"epochs": [20], "learning_rate": [3e-3]}}"""

SURE = """
import dataclasses
from dataclasses import dataclass
from bdlbench.methods.mean_field_vi import MeanFieldVI


class Sure:
    '''A posterior whose predictions are sharpened: p becomes p to the twelfth, normalised.'''

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def predict(self, x, samples, rng, joint=False):
        found = self.inner.predict(x, samples, rng, joint)
        return dataclasses.replace(found, log_probs=(12 * found.log_probs).log_softmax(-1))


@dataclass(frozen=True)
class TooSure(MeanFieldVI):
    '''Mean-field VI that is far too sure.'''

    def fit(self, model, data, rng):
        return Sure(super().fit(model, data, rng))

methods = {"mean_field_vi": TooSure}
"""

STATEMENT = "mean-field VI: log ratio of ECE under shift"


@pytest.mark.slow
def test_a_posterior_that_is_too_sure(verdict) -> None:
    code, out = verdict("uncertainty", SMALLER)
    assert code in (0, 1)
    assert not any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    code, out = verdict("uncertainty", SMALLER, SURE, ("mean_field_vi",))
    assert code == 1
    assert any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    assert "does not hold" in out.lower()
