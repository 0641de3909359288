"""The claim that a posterior is a useful prior, and an update that forgets its prior."""

from __future__ import annotations

import pytest

SMALLER = """seeds=8, samples=3, options={"mlp": {"widths": [(5,)]}}, grids=tuple(
    replace(grid, options={**grid.options, **{name: {**grid.options.get(name, {}), "steps": [12]}
                                              for name in ("mle", "mean_field_vi")}})
    for grid in own.bundled.suite.grids)"""

FORGETFUL = """
from dataclasses import dataclass
from bdlbench.methods.exact import Exact

@dataclass(frozen=True)
class Forgetful(Exact):
    '''Further data are taken for all data.'''

    def updated(self, model, posterior, data, rng):
        return self.fit(model, data, rng)

methods = {"exact": Forgetful}
"""

STATEMENT = "linear model: KL"


@pytest.mark.slow
def test_an_update_that_forgets_its_prior(verdict) -> None:
    _, out = verdict("sequential", SMALLER)
    assert any(STATEMENT in line and "shown" in line for line in out.splitlines())
    code, out = verdict("sequential", SMALLER, FORGETFUL, ("exact",))
    assert code == 1
    assert any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    assert "does not hold" in out.lower()
