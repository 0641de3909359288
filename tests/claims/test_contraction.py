"""The claim that the posterior contracts, and data from which nothing more is learnt."""

from __future__ import annotations

import pytest

SAME = """
from dataclasses import dataclass, replace
import torch
from bdlbench.datasets.drawn import Linear

@dataclass(frozen=True)
class Silent(Linear):
    '''Inputs are zero after the first five examples, which say all that there is.'''

    def load(self, split):
        task = super().load(split)
        x = task.train.x.clone()
        x[5:] = 0
        return replace(task, train=replace(task.train, x=x))

datasets = {"linear": Silent}
"""


@pytest.mark.slow
def test_it_holds(verdict) -> None:
    code, out = verdict("contraction", "seeds=4")
    assert code == 0
    assert "Holds" in out


@pytest.mark.slow
def test_data_that_say_nothing_more(verdict) -> None:
    code, out = verdict("contraction", "seeds=4", SAME, ("linear",))
    assert code == 1
    assert "does not hold" in out.lower()
