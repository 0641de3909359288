"""The claim that the prior expresses preferences, and a prior that does not say anything."""

from __future__ import annotations

import pytest

SMALLER = """seeds=3, samples=3, options={
    **own.bundled.suite.options, "mlp": {"widths": [(5,)]},
    "mean_field_vi": {"steps": [30], "learning_rate": [1e-2]}, "map": {"steps": [30], "learning_rate": [1e-2]}}"""

SILENT = """
from dataclasses import dataclass, replace
from bdlbench.methods.map import MAP

@dataclass(frozen=True)
class Deaf(MAP):
    '''The prior that is asked for hardly changes the one that is used.'''

    def fit(self, model, data, rng):
        return MAP.fit(replace(self, prior_sd=self.prior_sd**0.01), model, data, rng)

methods = {"map": Deaf}
"""

STATEMENT = "MAP: largest minus smallest"


@pytest.mark.slow
def test_a_prior_without_a_say(verdict) -> None:
    code, out = verdict("priors", SMALLER)
    assert code in (0, 1)
    assert not any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    code, out = verdict("priors", SMALLER, SILENT, ("map",))
    assert code == 1
    assert any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    assert "does not hold" in out.lower()
