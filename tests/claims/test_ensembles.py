"""The claim that a Bayesian network is an ensemble, and members that are all alike."""

from __future__ import annotations

import pytest

SMALLER = """seeds=3, options={**own.bundled.suite.options, "digits": {"num_train": [100]},
    "mle": {"steps": [200]}, "mean_field_vi": {"steps": [200]}}"""

NOISE = """
from dataclasses import dataclass
from bdlbench.methods.mean_field_vi import MeanFieldVI

@dataclass(frozen=True)
class Untrained(MeanFieldVI):
    '''Weights as they start: an ensemble that has learnt nothing.'''

    def fit(self, model, data, rng):
        return MeanFieldVI(epochs=1, learning_rate=1e-9).fit(model, data, rng)

methods = {"mean_field_vi": Untrained}
"""

STATEMENT = "NLL of mean-field VI minus one network"


@pytest.mark.slow
def test_a_posterior_that_has_learnt_nothing(verdict) -> None:
    code, out = verdict("ensembles", SMALLER)
    assert code in (0, 1)
    assert not any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    code, out = verdict("ensembles", SMALLER, NOISE, ("mean_field_vi",))
    assert code == 1
    assert any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    assert "does not hold" in out.lower()
