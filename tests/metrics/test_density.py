import dataclasses

import pytest
import torch

from bdlbench.metrics.density import ActiveUnits, metrics
from bdlbench.metrics.nll import metrics as nll
from bdlbench.predictives.density import Density
from bdlbench.protocols import Evaluation

ACTIVE, ELBO, COUNT = (metrics[name] for name in ("active_units", "negative_elbo", "importance_samples"))


def evaluation(latent=None, **changes):
    """Two rows of four inputs with one network."""
    log = torch.tensor([[[-1.0, -2.0, -3.0, -4.0], [-10.0, -20.0, -30.0, -40.0]]])
    test = Density(log, log[0] - 1, latent, None, {"importance_samples": torch.tensor([50.0, 50.0])})
    return Evaluation(dataclasses.replace(test, **changes), torch.zeros(2, 4), {}, {}, None)


def test_by_hand():
    assert nll["nll"](evaluation())[""].tolist() == [2.5, 25]
    assert ELBO(evaluation())[""].tolist() == [3.5, 26]
    assert COUNT(evaluation())[""].tolist() == [50, 50]


def test_active_units_by_hand():
    steps = torch.tensor([-0.12, 0.12, -0.12, 0.12])
    latent = torch.stack([7 + steps, 0.9 * steps, 0.8 * steps, torch.zeros(4)], dim=-1)  # 0.0144, 0.0117, 0.0092, 0
    found = ACTIVE(evaluation(torch.stack([latent, 10 * latent])))
    assert found[""].tolist() == [2, 3]
    assert ActiveUnits(threshold=0.012)(evaluation(torch.stack([latent, latent])))[""].tolist() == [1, 1]


def test_networks_trained_apart_have_no_latent_to_count():
    assert ACTIVE(evaluation()) == {}


def test_the_gain_of_a_regret_is_averaged_for_each_set_that_has_one():
    base = evaluation()
    gain = dataclasses.replace(base.test, facts={"regret_gain": torch.tensor([[1.0, 2, 3, 6], [0, 0, 0, 4]])})
    found = metrics["regret_gain"](dataclasses.replace(base, test=gain, ood={"other": gain, "without": base.test}))
    assert {name: values.tolist() for name, values in found.items()} == {"": [3, 1], "other": [3, 1]}
    assert metrics["regret_gain"](base) == {}


def test_directions_and_units():
    assert {name: (m.unit, m.better) for name, m in metrics.items()} == {
        "negative_elbo": ("nats", "lower"),
        "importance_samples": ("count", "higher"),
        "regret_gain": ("nats", "lower"),
        "active_units": ("count", "higher"),
    }


def test_float32_is_summed_in_float64(make):
    found = ELBO(make(rows=2).density(5000))[""]
    assert found.dtype == torch.float64
    elbo = make(rows=2).density(5000).test.elbo.double()
    assert found.tolist() == pytest.approx((-elbo.mean(1)).tolist(), abs=1e-12)
