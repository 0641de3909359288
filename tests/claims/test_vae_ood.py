"""The claim that the density of a VAE detects images of another kind, and a VAE that finds its own improbable."""

from __future__ import annotations

import pytest

SMALL = """
    seeds=3,
    grids=(replace(own.bundled.suite.grids[0], datasets=("binary_digits",)),),
    options={
        "binary_digits": {"num_train": [300]},
        "mle": {"epochs": [20], "learning_rate": [1e-2]},
        "vae": {"widths": ["32"], "latent": [4], "test_samples": [5], "regret_steps": [1]},
    },
""".replace("\n", " ")

CONTRARY = """
from dataclasses import dataclass, replace
from bdlbench.models.vae import VAE
from bdlbench.networks.latent_output import LatentOutput

class Contrary(LatentOutput):
    def estimate(self):
        found = super().estimate()
        return found._replace(log_density=-found.log_density)

@dataclass(frozen=True)
class Backwards(VAE):
    '''What it has learnt to be probable it calls improbable.'''

    def __call__(self, layer, x, rng):
        return Contrary(**vars(super().__call__(layer, x, rng)))

models = {"vae": Backwards}
"""


@pytest.mark.slow
def test_photographs_are_no_digits(verdict) -> None:
    code, out = verdict("vae_ood", SMALL)
    assert code == 0
    assert "Holds" in out


@pytest.mark.slow
def test_a_density_that_is_upside_down(verdict) -> None:
    code, out = verdict("vae_ood", SMALL, CONTRARY, ("vae",))
    assert code == 1
    assert "does not hold" in out.lower()
