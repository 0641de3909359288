import contextlib
import os
import warnings
from functools import cache

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded: threads must not spin on busy cores

import pytest
import torch

from bdlbench import catalog
from bdlbench.data.task import Signature
from bdlbench.gate import contracts


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


SHAPES, TARGETS = contracts.CONTRACT_SHAPES, contracts.CONTRACT_TARGETS


@pytest.hookimpl(tryfirst=True)  # before pytest reads -m
def pytest_collection_modifyitems(config, items):
    """Leaves out cells that an entry declares it does not support; a test over methods alone is one on the mlp.

    Of every method on every model, the fast tier has all methods on the mlp and all small models with MAP.
    """
    cells = [item for item in items if hasattr(item, "callspec")]
    left_out = {item for item in cells if unsupported(item.callspec.params)}
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=list(left_out))
    for item in cells:
        if not is_quick(item.callspec.params):
            item.add_marker(pytest.mark.slow)


def is_quick(params):
    """Whether a test of a method, a model or both is in the fast tier."""
    model, method = params.get("model", "mlp"), params.get("method")
    if model not in catalog.names("models") or model == "mlp":
        return True
    return "channels" not in SMALL.get(model, {}) and (method == "map" or method not in catalog.names("methods"))


def unsupported(params):
    """Why a test's parameters, as far as they name a method, a member or a model, are no cell; or None."""
    methods = [params[key] for key in ("method", "member") if params.get(key) in catalog.names("methods")]
    model = params.get("model", "mlp")
    if model not in catalog.names("models"):
        return None
    return next((reason for method in methods if (reason := unsupported_cell(method, model))), None)


@cache
def unsupported_cell(method, model):
    """Why the method cannot train the model in its small form, or None."""
    return Small().unsupported(method, model)


class Small:
    """Small problems, and registered entries built to fit them."""

    classes = staticmethod(contracts.classes)
    row = staticmethod(contracts.row)
    settings = staticmethod(contracts.quick)
    tensors = staticmethod(contracts.tensors)

    def method(self, name, rows=({},), **quick):
        """The method whose row r has the options rows[r], {entry: {option: value}}, over the quick ones."""
        return contracts.method_of(name, contracts.quick(**quick), rows)

    def model(self, name, shape=(1, 5, 7), outputs=3, likelihood="categorical", rows=({},)):
        """The model in its small form."""
        chosen = [catalog.choice("models", name, {name: {**SMALL.get(name, {}), **options}}) for options in rows]
        return catalog.build_model(chosen, Signature(shape, outputs, likelihood))

    def suited(self, name, rows=({},), targets=TARGETS):
        """The model in its small form for the first of some targets and image shapes that it supports, or None."""
        found = (self.model(name, shape, *target, rows) for target in targets for shape in SHAPES)
        return next((model for model in found if model.unsupported() is None), None)

    def data(self, model, rows, num=53, **options):
        """Training data that suit the model."""
        return contracts.data_for(model.signature, rows, num, **options)

    def is_dense(self, name):
        """Whether all linear maps of the model are matrices."""
        return contracts.is_dense(self.suited(name))

    def unsupported(self, method, model):
        """Why the method cannot train the model in its small form, or None."""
        built = self.suited(model)
        return self.method(method).unsupported(built) if built else "no small problem suits it"


@pytest.fixture(scope="session")
def small():
    return Small()


@pytest.fixture(scope="session")
def torchmetrics_calibration_error():
    """An independent answer; skipped where torchmetrics, or the torchvision it wants, cannot be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(ImportError):
            from bdlbench.data.downloads import import_torchvision

            import_torchvision()
        try:
            from torchmetrics.functional.classification import multiclass_calibration_error
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"torchmetrics cannot be imported: {error}")
    return multiclass_calibration_error
