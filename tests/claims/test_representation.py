"""The claim that a latent is useful for representation, and an encoder whose posterior means say nothing."""

from __future__ import annotations

import pytest

SMALLER = """seeds=3, options={
    "mle": {"epochs": [20], "learning_rate": [1e-2], "decay": ["linear"]},
    "vae": {"widths": ["32"], "latent": [2, 4, 8, 16], "test_samples": [1], "regret_steps": [0]},
    "binary_digits": {"num_train": [640]}}"""

SILENT = """
from dataclasses import dataclass
from bdlbench.models.vae import VAE

@dataclass(frozen=True)
class Blind(VAE):
    '''It encodes a blank image, whatever it is shown.'''

    def __call__(self, layer, x, rng):
        return super().__call__(layer, 0 * x, rng)

models = {"vae": Blind}
"""

STATEMENT = "accuracy on 8 posterior means less that on 8"


@pytest.mark.slow
def test_an_encoder_that_sees_nothing(verdict) -> None:
    _, out = verdict("representation", SMALLER)
    assert not any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    code, out = verdict("representation", SMALLER, SILENT, ("vae",))
    assert code == 1
    assert any(STATEMENT in line and "refuted" in line for line in out.splitlines())
    assert "does not hold" in out.lower()
