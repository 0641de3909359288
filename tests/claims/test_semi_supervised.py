"""The claim that images without a label help, and labels that are not those of their images."""

from __future__ import annotations

import pytest

SMALL = """
    seeds=3,
    grids=tuple(
        replace(grid, options={**grid.options, "mle": {**grid.options["mle"], "epochs": [6]}}) if "m2" in grid.models
        else grid
        for grid in own.bundled.suite.grids
    ),
""".replace("\n", " ")

WRONG = """
from dataclasses import dataclass, replace
from bdlbench.datasets.digits import SemiDigits

@dataclass(frozen=True)
class Mislabelled(SemiDigits):
    '''Every label is that of the next digit; an image without one stays so.'''

    def load(self, split):
        task = super().load(split)
        y = task.train.y
        return replace(task, train=replace(task.train, y=y.where(y < 0, (y + 1) % 10)))

datasets = {"semi_digits": Mislabelled}
"""


@pytest.mark.slow
def test_images_without_a_label_do_no_harm(verdict) -> None:
    code, out = verdict("semi_supervised", SMALL)
    assert code == 0
    assert out.count("accuracy of M2 with") >= 2


@pytest.mark.slow
def test_wrong_labels(verdict) -> None:
    code, out = verdict("semi_supervised", SMALL, WRONG, ("semi_digits",))
    assert code == 1
    assert "does not hold" in out.lower()
