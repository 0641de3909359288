import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded: threads must not spin on busy cores

import pytest
import torch

from bdlbench import catalog
from bdlbench.data import Data, Signature
from bdlbench.options import fields


@pytest.fixture(autouse=True)
def number_of_threads_is_restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    """The test runs once on one thread and once on two."""
    torch.set_num_threads(request.param)
    return request.param


SMALL = {
    "mlp": {"widths": "17"},
    "lenet5": {"channels": "2-3", "hidden": "7"},
    "resnet": {"channels": "4-8", "blocks": 1, "groups": 2},
}


class Small:
    """Small problems, and registered entries built to fit them."""

    def classes(self, rows, num=53, shape=(1, 5, 7), classes=3, *, own=False, dtype=torch.float32, seed=0):
        """Training data (R, N, *shape); `own`: each row its own, else all rows share the same memory."""
        rng = torch.Generator().manual_seed(seed)
        count = rows if own else 1
        x = torch.rand(count, num, *shape, generator=rng, dtype=dtype)
        y = torch.randint(classes, (count, num), generator=rng)
        return Data(x, y) if own else Data(x.expand(rows, *x.shape[1:]), y.expand(rows, num))

    def row(self, data, r):
        """Row r of data, as it would lie if it were alone."""
        return Data(data.x[r : r + 1].clone(), data.y[r : r + 1].clone())

    def settings(self, epochs=2, batch_size=13):
        """Options of every method with which it is quick."""
        quick = {"epochs": epochs, "batch_size": batch_size, "members": 2}
        return {
            name: {key: value for key, value in quick.items() if key in fields(catalog.load("methods", name))}
            for name in catalog.names("methods")
        }

    def method(self, name, rows=({},), **quick):
        """The method whose row r has the options rows[r], {entry: {option: value}}, over the quick ones."""
        chosen = []
        for options in rows:
            settings = self.settings(**quick)
            for entry, table in options.items():
                settings[entry] = {**settings.get(entry, {}), **table}
            chosen.append(catalog.choice("methods", name, settings))
        return catalog.build_method(chosen)

    def model(self, name, shape=(1, 5, 7), outputs=3, likelihood="categorical", rows=({},)):
        """The model in its small form."""
        chosen = [catalog.choice("models", name, {name: {**SMALL.get(name, {}), **options}}) for options in rows]
        return catalog.build_model(chosen, Signature(shape, outputs, likelihood))

    def shape_for(self, name):
        """The first of some image shapes that the model supports, or None."""
        shapes = ((1, 5, 7), (1, 8, 8), (1, 16, 16), (1, 28, 28))
        return next((shape for shape in shapes if self.model(name, shape).unsupported() is None), None)

    def is_dense(self, name):
        """Whether all linear maps of the model are matrices."""
        return all(len(leaf.shape) <= 2 for leaf in self.model(name, self.shape_for(name)).leaves().values())

    def tensors(self, predictive):
        """All that a predictive says, by name."""
        return {**predictive.arrays(), **predictive.scores}


@pytest.fixture(scope="session")
def small():
    return Small()
