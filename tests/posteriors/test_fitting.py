"""What methods share when they fit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
import torch

from bdlbench import catalog
from bdlbench.core import options
from bdlbench.core.layout import Layout
from bdlbench.core.streams import Streams
from bdlbench.data.task import Data, Signature
from bdlbench.models.mlp import MLP
from bdlbench.networks.layers import Point
from bdlbench.posteriors.fitting import fit_network, gaussian_prior, training_option
from bdlbench.training.loop import last
from bdlbench.training.plan import Plan

SHARED = ("epochs", "batch_size", "learning_rate", "decay", "prior_sd", "prior_scaling")


@pytest.mark.parametrize("name", catalog.names("methods"))
def test_an_option_of_one_name_has_one_type_and_range_in_all_methods(name):
    """But for SWAG, which needs an epoch after its burn-in, and whose decay came later; and but for help.

    Where a step is no step of Adam, such as a natural gradient's, `tune` searches its size between other numbers.
    """
    known = {key: training_option(key) for key in SHARED}
    for key, field in options.fields(catalog.load("methods", name)).items():
        if key in known:
            differs = {part for part, value in known[key].metadata.items() if field.metadata[part] != value}
            own = {("swag", "epochs"): "low", ("swag", "decay"): "later"}
            own |= {(other, "learning_rate"): "search" for other in ("ivon", "ivon_opt", "posteriors_sghmc")}
            assert differs <= {"help", own.get((name, key), "help")}, key


def test_what_a_method_changes_of_an_option_is_changed_there_alone():
    @dataclass(frozen=True)
    class Mine:
        epochs: int = training_option("epochs", default=7, help="rounds")
        rate: float = 0.1

    @dataclass(frozen=True)
    class Other:
        epochs: int = training_option("epochs")

    assert (Mine().epochs, Other().epochs) == (7, 60)
    assert [f.metadata.get("help") for f in dataclasses.fields(Mine)] == ["rounds", None]
    assert options.resolve(Other, "other", {"epochs": "3"}) == {"epochs": 3}
    with pytest.raises(KeyError):
        training_option("epoch")


class Counted:
    """A prior with a length, 0."""

    of_weights = True

    def __init__(self, prior):
        self.prior = prior

    def __len__(self):
        return 0

    def log_density(self, flat, valued=True):
        return self.prior.log_density(flat, valued)


def test_a_prior_of_length_0_counts():
    model = MLP(Signature((3,), 2, "categorical"), (4,))
    x = torch.randn(1, 20, 3, generator=torch.Generator().manual_seed(0))
    data, layout = Data(x, (x[..., 0] > 0).long()), Layout(model.leaves())
    prior = gaussian_prior(layout, 0.1, "none", x)

    def rule(flat, noise):
        return Point(layout.views(flat))

    found = []
    for one in (prior, Counted(prior), None):
        found.append(last(fit_network(model, data, Streams.of_seeds([0]), Plan(2, 10, 0.1), rule, one)).flat)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
