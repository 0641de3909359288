"""The committed gradient variances are in the published order, and their ratios within a factor of two at 10 epochs."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

import pytest

from bdlbench.records import record as records

FOLDER = Path(__file__).parents[2] / "results" / "reproductions" / "kingma2015"
LAYERS = {"top": "fc4.weight", "bottom": "fc1.weight"}


def ratios(epochs: int, leaf: str) -> dict[str, float]:
    """The geometric mean over seeds of each estimate's variance over that by local reparameterisation."""
    logs: dict[str, list[float]] = {}
    for record in records.read(FOLDER):
        if record.cell.method.get("epochs") == epochs:
            for estimate in ("none", "local", "separate", "single"):
                values = record.values.facts[f"gradient_variance_ratio[{estimate} {leaf}]"]
                logs.setdefault(estimate, []).extend(math.log(value) for value in values if value is not None)
    return {estimate: math.exp(fmean(values)) for estimate, values in logs.items()}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("epochs", [10, 100])
def test_the_estimates_are_in_the_published_order(epochs: int, layer: str) -> None:
    found = ratios(epochs, LAYERS[layer])
    assert sorted(found, key=lambda name: found[name]) == ["none", "local", "separate", "single"]


@pytest.mark.parametrize(("layer", "published"), [("top", 4.9e4 / 7.8e3), ("bottom", 8.5e2 / 1.9e2)])
def test_one_sample_for_a_batch_varies_as_many_times_as_published(layer: str, published: float) -> None:
    assert published / 2 < ratios(10, LAYERS[layer])["single"] < 2 * published
