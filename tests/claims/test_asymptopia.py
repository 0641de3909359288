"""The claim that point estimates equal full Bayes in the limit, and a point estimate that never learns."""

from __future__ import annotations

import pytest

NEVER_LEARNS = """
from dataclasses import dataclass
from bdlbench.core.layout import Layout
from bdlbench.methods.mle import MLE
from bdlbench.posteriors.point import point_posterior

@dataclass(frozen=True)
class Stubborn(MLE):
    '''All its weights are −5, whatever the data: the coin hardly shows heads.'''

    def fit(self, model, data, rng):
        found, layout = super().fit(model, data, rng), Layout(model.leaves())
        return point_posterior(model, layout, 0 * layout.joined(found.state) - 5)

methods = {"mle": Stubborn}
"""

SMALLER = " ".join(
    """
    seeds=4, samples=2,
    grids=(
        suite.grids[0],
        replace(suite.grids[1], options={**suite.grids[1].options, "digits": {"num_train": [50, 100]},
            **{name: {"steps": [3]} for name in ("mle", "map", "mc_dropout", "mean_field_vi")}}),
    )
""".replace("suite.", "own.bundled.suite.").split()
)

LIMIT = "coin, {}: NLL above exact at 1,000 flips"


def line(out: str, words: str) -> str:
    return next(row for row in out.splitlines() if row.startswith(words))


@pytest.mark.slow
def test_the_coins_limit_is_the_exact_answer(verdict) -> None:
    _, out = verdict("asymptopia", SMALLER)
    for method in ("MLE", "MAP"):
        assert line(out, LIMIT.format(method)).endswith("shown")
        assert line(out, f"coin, {method}: slope").endswith("shown")


@pytest.mark.slow
def test_a_point_estimate_that_never_learns(verdict) -> None:
    code, out = verdict("asymptopia", SMALLER, NEVER_LEARNS, ("mle",))
    assert code == 1
    assert "does not hold" in out.lower()
    assert line(out, LIMIT.format("MLE")).endswith("refuted")
    assert line(out, LIMIT.format("MAP")).endswith("shown")
