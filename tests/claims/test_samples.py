"""The claim that one sample works, and a posterior of which no sample does."""

from __future__ import annotations

import pytest

SMALLER = """seeds=3, grids=tuple(
    replace(grid, samples=count) for grid, count in zip(own.bundled.suite.grids, (1, 30, 100)))"""

WIDE = """
from dataclasses import dataclass
from bdlbench.methods.mc_dropout import MCDropout

@dataclass(frozen=True)
class Blind(MCDropout):
    '''Almost everything is dropped in prediction, so that only an average sees anything.'''

    def posterior(self, model, layout, flat):
        return MCDropout(rate=0.9, input_rate=0.5).posterior(model, layout, flat)

methods = {"mc_dropout": Blind}
"""

STATEMENT = "MC dropout: accuracy"


@pytest.mark.slow
def test_a_posterior_of_which_no_sample_works(verdict) -> None:
    code, out = verdict("samples", SMALLER)
    assert code in (0, 1)
    assert not any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    code, out = verdict("samples", SMALLER, WIDE, ("mc_dropout",))
    assert code == 1
    assert any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    assert "does not hold" in out.lower()
