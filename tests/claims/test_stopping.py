"""The claim that a network learns when to stop, and one that stops early where an image is difficult."""

from __future__ import annotations

import pytest

SMALL = """
    seeds=3,
    options={
        **own.bundled.suite.options,
        "digits": {"num_train": [400]},
        "map": {"epochs": [4], "learning_rate": [1e-2], "batch_size": [32]},
        "stopping_resnet": {**own.bundled.suite.options["stopping_resnet"], "strength": [0.03]},
        "constant_resnet": {"blocks": [1, 4], "kernel": [3]},
    },
""".replace("\n", " ")

CONTRARY = """
from dataclasses import dataclass, replace
from bdlbench.kernels.halting import margin
from bdlbench.models.stopping_resnet import StoppingResNet

@dataclass(frozen=True)
class Contrary(StoppingResNet):
    '''It stops at once where two classes are close, and goes on where it is sure.'''

    def __call__(self, layer, x, rng):
        output = super().__call__(layer, x, rng)
        sure = margin(output.exit_logits.detach(), -2)[..., :-1]
        return replace(output, halting=10 * (1 - sure) + 0 * output.halting)

models = {"stopping_resnet": Contrary}
"""


@pytest.mark.slow
def test_depth_follows_difficulty(verdict) -> None:
    code, out = verdict("stopping", SMALL)
    lines = [line for line in out.splitlines() if line.startswith("rank correlation")]
    assert code in (0, 1)
    assert len(lines) == 2
    assert "shown" in lines[1]


@pytest.mark.slow
def test_a_network_that_stops_where_it_is_unsure(verdict) -> None:
    code, out = verdict("stopping", SMALL, CONTRARY, ("stopping_resnet",))
    assert code == 1
    assert "does not hold" in out.lower()
    assert "rank correlation" in next(line for line in out.splitlines() if "refutes" in line)
