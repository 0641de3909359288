import contextlib
import os
import warnings

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
    "m2": {"widths": "17", "latent_widths": "9", "latent": 3},
    "vae": {"widths": "17-9", "latent": 3, "test_samples": 7, "regret_steps": 2},
    "conv_vae": {"channels": "3-5", "hidden": 7, "latent": 3, "test_samples": 7, "regret_steps": 2},
    "lenet5": {"channels": "2-3", "hidden": "7"},
    "resnet": {"channels": "4-8", "blocks": 1, "groups": 2},
    "stopping_resnet": {"channels": 4, "blocks": 3, "groups": 2, "kernel": 3},
    "constant_resnet": {"channels": 4, "blocks": 2, "groups": 2, "kernel": 3},
}


SHAPES = ((1, 5, 7), (1, 8, 8), (1, 16, 16), (1, 28, 28))
TARGETS = ((3, "categorical"), (2, "categorical"), (1, "gaussian"), (3, "bernoulli"))


def pytest_collection_modifyitems(config, items):
    """Leaves out cells that an entry declares it does not support; a test over methods alone is one on the mlp."""
    left_out = [item for item in items if hasattr(item, "callspec") and unsupported(item.callspec.params)]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def unsupported(params):
    """Why a test's parameters, as far as they name a method, a member or a model, are no cell; or None."""
    methods = [params[key] for key in ("method", "member") if params.get(key) in catalog.names("methods")]
    model = params.get("model", "mlp")
    if model not in catalog.names("models"):
        return None
    return next((reason for method in methods if (reason := Small().unsupported(method, model))), None)


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

    def suited(self, name, rows=({},), targets=TARGETS):
        """The model in its small form for the first of some targets and image shapes that it supports, or None."""
        found = (self.model(name, shape, *target, rows) for target in targets for shape in SHAPES)
        return next((model for model in found if model.unsupported() is None), None)

    def data(self, model, rows, num=53, **options):
        """Training data that suit the model, as `classes` makes them: targets are classes or, for one number, real."""
        signature = model.signature
        data = self.classes(rows, num, signature.input_shape, max(2, signature.outputs), **options)
        return Data(data.x, data.y.to(data.x.dtype)) if signature.likelihood == "gaussian" else data

    def is_dense(self, name):
        """Whether all linear maps of the model are matrices."""
        return all(len(leaf.shape) <= 2 for leaf in self.suited(name).leaves().values())

    def unsupported(self, method, model):
        """Why the method cannot train the model in its small form, or None."""
        built = self.suited(model)
        return self.method(method).unsupported(built) if built else "no small problem suits it"

    def tensors(self, predictive):
        """All that a predictive says, by name."""
        facts = {f"fact {name}": value for name, value in predictive.facts.items()}
        return {**predictive.arrays(), **predictive.scores, **facts}


@pytest.fixture(scope="session")
def small():
    return Small()


@pytest.fixture(scope="session")
def torchmetrics_calibration_error():
    """An independent answer; skipped where torchmetrics, or the torchvision it wants, cannot be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ImportError):
            from bdlbench.store import import_torchvision

            import_torchvision()
        try:
            from torchmetrics.functional.classification import multiclass_calibration_error
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"torchmetrics cannot be imported: {error}")
    return multiclass_calibration_error
