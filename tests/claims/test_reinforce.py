"""The claim that REINFORCE has too much variance, and a world in which it has that of reparametrisation."""

from __future__ import annotations

import pytest

SMALLER = """seeds=3, grids=tuple(replace(grid, options={entry: {name: {
    "features": values[:3], "widths": values[:1], "steps": values[:2], "learning_rate": values[-1:],
    "weight_samples": [5] if values == [10] else values,
    }.get(name, values) for name, values in table.items()} for entry, table in grid.options.items()})
    for grid in own.bundled.suite.grids)"""

ALIKE = """
from dataclasses import dataclass, replace
from bdlbench.methods.mean_field_vi import MeanFieldVI

@dataclass(frozen=True)
class Alike(MeanFieldVI):
    '''Whatever score is asked for, training is by reparametrised weights, and Flipout is measured.'''

    def fit(self, model, data, rng):
        estimator = "weight" if "score" in self.estimator else self.estimator
        found = MeanFieldVI.fit(replace(self, estimator=estimator), model, data, rng)
        facts = dict(found.facts)
        for name in facts:
            for score in ("score_leave_one_out", "score_baseline", "score"):
                facts[name] = facts[name.replace(f" {score} ", " flipout ")]
        return replace(found, facts=facts)

methods = {"mean_field_vi": Alike}
"""


def line(out: str, words: str) -> str:
    return next(row for row in out.splitlines() if words in row)


@pytest.mark.slow
def test_the_score_function_varies_more(verdict) -> None:
    code, out = verdict("reinforce", SMALLER)
    assert code == 0, out
    for words in ("variance in means, plain over best score", "plain over reparametrised, against log σ"):
        assert line(out, words).endswith("shown")


@pytest.mark.slow
def test_a_score_function_that_varies_as_little(verdict) -> None:
    code, out = verdict("reinforce", SMALLER, ALIKE, ("mean_field_vi",))
    assert code == 1
    assert "does not hold" in out.lower()
    assert line(out, "100 weights: log₁₀ of variance in means, best score over").endswith("refuted")
    assert line(out, "plain over reparametrised, against log σ").endswith("refuted")
