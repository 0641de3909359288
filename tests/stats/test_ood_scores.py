import math

import numpy as np
import pytest
import torch

from bdlbench.stats import ood_scores


def numbers(num=400, size=12, classes=4, others=9):
    """Features of training rows around their class's centre, their classes, other features, and a last layer."""
    rng = np.random.default_rng(0)
    weight, bias = (
        torch.from_numpy(rng.standard_normal((classes, size))),
        torch.from_numpy(rng.standard_normal(classes)),
    )
    y, centre = (
        torch.from_numpy(rng.integers(0, classes, num)),
        torch.from_numpy(2 * rng.standard_normal((classes, size))),
    )
    known = (centre[y] + torch.from_numpy(rng.standard_normal((num, size)))).relu()
    return known, y, torch.from_numpy(2 * rng.standard_normal((others, size))).relu(), weight, bias


# pytorch-ood 0.4.0, in float64: Mahalanobis (times N, since its covariance is a sum), KNN(k=50), ViM(d=6), EnergyBased
# and MaxLogit of the first three inputs
JUDGED = {
    "mahalanobis": [45.30651833782909, 58.903995706997456, 78.21592573790053],
    "knn": [0.9159685889969503, 0.9583104161491202, 1.1171861977593514],
    "vim": [-2.451839581365954, 9.686458512913887, 5.545442070075417],
    "energy": [-11.452594462075487, -4.604429876246511, -10.786023530359419],
    "max_logit": [-11.45241851005687, -4.197978217048177, -10.785657749242024],
}


def test_pytorch_ood():
    known, y, features, weight, bias = numbers()
    of_known, logits = known @ weight.mT + bias, features @ weight.mT + bias
    found = {
        "mahalanobis": ood_scores.mahalanobis(known, y, features),
        "knn": ood_scores.nearest_neighbours(known, features),
        "vim": ood_scores.virtual_logit(known, of_known.amax(1), weight, bias, features, ood_scores.energy(logits)),
        "energy": ood_scores.energy(logits),
        "max_logit": ood_scores.max_logit(logits),
    }
    assert found.keys() == JUDGED.keys() == set(ood_scores.AFTER_TRAINING)
    for name, values in JUDGED.items():
        assert found[name][:3].tolist() == pytest.approx(values, rel=1e-9)


def test_scores_of_logits_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [-1.0, -2.0]])
    assert ood_scores.energy(logits)[0].item() == pytest.approx(-math.log(4))
    assert ood_scores.max_logit(logits).tolist() == pytest.approx([-math.log(3), 1])


def test_the_distance_to_the_nearest_class_mean_by_hand():
    # two classes around (0, 0) and (10, 0); the shared variance is 1 in x and 4 in y
    around = torch.tensor([[1.0, 2.0], [1.0, -2.0], [-1.0, 2.0], [-1.0, -2.0]])
    known, y = torch.cat([around, around + torch.tensor([10.0, 0.0])]), torch.tensor([2, 2, 2, 2, 7, 7, 7, 7])
    others = torch.tensor([[3.0, 0.0], [10.0, 4.0]])
    assert ood_scores.mahalanobis(known, y, others).tolist() == pytest.approx([9 / 2, 16 / 4 / 2], rel=1e-6)


def test_a_unit_that_never_fires_in_training_counts_and_breaks_nothing():
    known, y, features, *_ = numbers()
    dead = torch.cat([known, torch.zeros(len(known), 1)], 1)
    silent, firing = (torch.cat([features, torch.full((len(features), 1), on)], 1) for on in (0.0, 1.0))
    usual = ood_scores.mahalanobis(known, y, features)
    assert ood_scores.mahalanobis(dead, y, silent).tolist() == pytest.approx(usual.tolist())
    assert bool((ood_scores.mahalanobis(dead, y, firing) > 1e3 * usual).all())


def test_the_neighbour_that_counts_by_hand(monkeypatch):
    known = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    others = torch.tensor([[0.1, 0.0], [0.0, -3.0]])
    root = math.sqrt(2)
    expected = {1: [0, root], 2: [root, root], 3: [2, 2], 50: [2, 2]}  # directions alone, and the farthest of three
    for k, distances in expected.items():
        assert ood_scores.nearest_neighbours(known, others, k).tolist() == pytest.approx(distances, abs=1e-7)
    whole = ood_scores.nearest_neighbours(known, others, 2)
    monkeypatch.setattr(ood_scores, "AT_ONCE", 1)
    assert torch.equal(ood_scores.nearest_neighbours(known, others, 2), whole)


def test_the_virtual_logit_is_the_energy_where_training_rows_have_no_part_outside():
    """Half of the features are dead, and the last layer has no bias: there is no part outside to be scaled."""
    torch.manual_seed(0)
    known, features = (torch.relu(torch.randn(30, 8)) * (torch.arange(8) < 4) for _ in range(2))
    weight = torch.randn(3, 8)
    energy = ood_scores.energy(features @ weight.mT)
    found = ood_scores.virtual_logit(known, (known @ weight.mT).amax(1), weight, torch.zeros(3), features, energy)
    torch.testing.assert_close(found, energy.double())
