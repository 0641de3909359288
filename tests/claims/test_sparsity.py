"""The claim that redundant weights are zeroed, and a rule that zeroes what is needed."""

from __future__ import annotations

import pytest

SMALLER = """seeds=3, samples=3, options={**own.bundled.suite.options, "digits": {"num_train": [200]},
    "sparse_vd": {"epochs": [20], "learning_rate": [3e-2], "predicting": ["remaining", "all"]}}"""

GREEDY = """
from dataclasses import dataclass
from bdlbench.methods.sparse_vd import SparseVD

@dataclass(frozen=True)
class Inverted(SparseVD):
    '''After training, the weights with the LEAST noise are zeroed.'''

    def dropped(self, alpha):
        return alpha < alpha.median(-1, keepdim=True).values

methods = {"sparse_vd": Inverted}
"""

STATEMENT = "accuracy after minus before removal, width 200"


@pytest.mark.slow
def test_weights_that_matter_are_removed(verdict) -> None:
    code, out = verdict("sparsity", SMALLER)
    assert code in (0, 1)
    assert not any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    code, out = verdict("sparsity", SMALLER, GREEDY, ("sparse_vd",))
    assert code == 1
    assert any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    assert "does not hold" in out.lower()
