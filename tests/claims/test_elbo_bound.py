"""The claim that the ELBO is a lower bound, and a method that reports too much."""

from __future__ import annotations

import pytest

BOASTING = """
from dataclasses import dataclass, replace
from bdlbench.methods.mean_field_vi import MeanFieldVI

@dataclass(frozen=True)
class Boasting(MeanFieldVI):
    '''It reports ten nats more than its ELBO.'''

    def fit(self, model, data, rng):
        found = super().fit(model, data, rng)
        return replace(found, bound=found.bound + 10)

methods = {"mean_field_vi": Boasting}
"""

LIMIT = "ELBO above the evidence, in standard errors"
SHORT = """seeds=4, grids=tuple(
    replace(grid, options={name: {**given, 'epochs': [2000], 'learning_rate': [0.02]} if 'epochs' in given else given
                           for name, given in grid.options.items()})
    for grid in own.bundled.suite.grids)"""


def line(out: str, words: str) -> str:
    return next(row for row in out.splitlines() if row.startswith(words))


@pytest.mark.slow
def test_the_elbo_is_below_the_evidence_and_a_richer_family_is_nearer(verdict) -> None:
    _, out = verdict("elbo_bound", SHORT)
    assert line(out, LIMIT).endswith("shown")
    assert line(out, "KL from the posterior, diagonal above rank 1").endswith("shown")


@pytest.mark.slow
def test_a_method_that_boasts(verdict) -> None:
    code, out = verdict("elbo_bound", SHORT, BOASTING, ("mean_field_vi",))
    assert code == 1
    assert "does not hold" in out.lower()
    assert line(out, LIMIT).endswith("refuted")
