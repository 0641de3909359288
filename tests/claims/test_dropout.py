"""The claim that dropout is approximate inference, and Gaussian noise that is not the binary one's relaxation."""

from __future__ import annotations

import pytest

SMALLER = """seeds=3, samples=3, options={"mlp": {"widths": [(20,)]}}, grids=(
    *(replace(grid, options={k: {**v, "epochs": [8]} for k, v in grid.options.items()})
      for grid in own.bundled.suite.grids[:3]),
    replace(own.bundled.suite.grids[3], options={k: {**v, "steps": [200]} if k != "linear" else v
      for k, v in own.bundled.suite.grids[3].options.items()}))"""

LOUD = """
from dataclasses import dataclass, replace
from bdlbench.methods.gaussian_dropout import GaussianDropout

@dataclass(frozen=True)
class Loud(GaussianDropout):
    '''The variance of the noise is a hundred times α.'''

    def drawn(self, layout, flat):
        alpha = 100 * self.rate / (1 - self.rate)
        return GaussianDropout.drawn(replace(self, rate=alpha / (1 + alpha)), layout, flat)

methods = {"gaussian_dropout": Loud}
"""

STATEMENT = "NLL of binary minus Gaussian noise, rate 0.5"


@pytest.mark.slow
def test_noise_that_is_not_the_relaxation(verdict) -> None:
    code, out = verdict("dropout", SMALLER)
    assert code in (0, 1)
    assert not any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    code, out = verdict("dropout", SMALLER, LOUD, ("gaussian_dropout",))
    assert code == 1
    assert any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    assert "does not hold" in out.lower()
