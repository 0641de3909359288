"""The claim that labels are worth more where the posterior is unsure, and a method that buys class by class."""

from __future__ import annotations

import pytest

SMALL = """
    seeds=4,
    options={
        "digits": {"num_train": [400]},
        "active": {"acquisition": ["bald", "entropy", "random"], "start": [40], "step": [20], "rounds": [0, 3]},
        "mc_dropout": {**own.bundled.suite.options["mc_dropout"], "steps": [200]},
        "mlp": {"widths": ["50"]},
    },
""".replace("\n", " ")

ONE_CLASS_AFTER_ANOTHER = """
from dataclasses import dataclass
import torch
from bdlbench.methods.active import Active
from bdlbench.posteriors.acquisition import highest

@dataclass(frozen=True)
class Collector(Active):
    '''Whatever its posterior says, it buys all zeros, then all ones.'''

    def fit(self, model, data, rng):
        if self.acquisition == "random":
            return super().fit(model, data, rng)
        labelled = rng.child("pool").permutation(data.num_data)[:, : self.start]
        bought = highest(-data.y.double(), labelled, self.rounds * self.step)
        return self._trained(model, data, torch.cat([labelled, bought], -1), rng)

methods = {"active": Collector}
"""


@pytest.mark.slow
def test_a_posterior_that_is_asked_does_no_harm(verdict) -> None:
    code, out = verdict("active_learning", SMALL)
    assert code == 0
    assert out.count("accuracy with labels bought by") >= 2


@pytest.mark.slow
def test_a_method_that_collects_one_class_after_another(verdict) -> None:
    code, out = verdict("active_learning", SMALL, ONE_CLASS_AFTER_ANOTHER, ("active",))
    assert code == 1
    assert "does not hold" in out.lower()
