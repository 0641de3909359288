import contextlib
import copy
import errno
import io
import os
import re
import warnings
from functools import cache
from types import SimpleNamespace

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded: threads must not spin on busy cores

import pytest
import torch

from bdlbench import catalog
from bdlbench.cli import main as cli
from bdlbench.core.errors import BAD_INPUT, BadInput
from bdlbench.data.task import Signature
from bdlbench.gate import contracts

torch.set_num_threads(1)  # half the processor time on small arrays; a test of more threads asks for them


@pytest.fixture(autouse=True)
def number_of_threads_is_restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def catalog_is_restored():
    """What a test adds or replaces by a plugin is gone after it: the tests of a process share the catalog."""
    names = ("_plugins", "_plugin_files", "_added")
    before = {name: getattr(catalog, name) for name in names}
    content = {name: {key: copy.copy(value) for key, value in table.items()} for name, table in before.items()}
    yield
    for name, table in before.items():
        table.clear()
        table.update(content[name])
        setattr(catalog, name, table)


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
    "wide_resnet": {"depth": 10, "width": 1, "channels": 2},
    "cifar_resnet": {"depth": 8, "channels": 2},
    "stopping_resnet": {"channels": 4, "blocks": 3, "groups": 2, "kernel": 3},
    "constant_resnet": {"channels": 4, "blocks": 2, "groups": 2, "kernel": 3},
}


SHAPES, TARGETS = contracts.CONTRACT_SHAPES, contracts.CONTRACT_TARGETS


COVERED = {
    "lenet5": "convolutions and dense layers, which conv_vae has; pooling has no weights",
    "resnet": "convolutions that halve the image, which conv_vae has, and norms, which stopping_resnet has",
    "constant_resnet": "a stopping_resnet whose depth is fixed",
    "wide_resnet": "convolutions without a bias and BatchNorm, in a module; tests/networks has every method on one",
    "cifar_resnet": "as wide_resnet",
}
"""Models whose kinds of layers and outputs other models have too, and why a method sees nothing new in them."""

POINT_AND_NOISE = {"map", "mean_field_vi"}
"""The methods that these models are tested with: weights as they are, and noise on every linear map."""


def pytest_addoption(parser):
    parser.addoption(
        "--every-cell",
        action="store_true",
        help="test every method on every model: without it, models that consist of what others have meet two methods",
    )
    parser.addoption("--all-faults", action="store_true", help="200 kills and twenty processes, instead of a few")
    parser.addoption("--faults-page", action="store_true", help="write what tests/faults saw into docs/faults.md")


@pytest.hookimpl(tryfirst=True)  # before pytest reads -m
def pytest_collection_modifyitems(config, items):
    """Leaves out cells that an entry declares it does not support; a test over methods alone is one on the mlp.

    Of every method on every model, the fast tier has all methods on the mlp and all small models with MAP. A method
    knows a model by its linear maps and its output alone, so a test of both needs each method on each kind of these,
    and each model with a method of either kind; `--every-cell` and the gate's objectives have the whole product.
    """
    cells = [item for item in items if hasattr(item, "callspec")]
    left_out = {item for item in cells if unsupported(item.callspec.params) or is_of_own_methods(item)}
    if not config.getoption("--every-cell"):
        left_out |= {item for item in cells if is_covered(item.callspec.params)}
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=list(left_out))
    for item in cells:
        if not is_quick(item.callspec.params):
            item.add_marker(pytest.mark.slow)


OF_EVERY_METHOD = {
    "test_a_row_is_the_same_alone_on_every_model",
    "test_twice_the_same_gives_the_same_bits_and_another_seed_others",
    "test_an_option_of_one_name_has_one_type_and_range_in_all_methods",
}
"""The tests over all methods that adapters of other libraries meet, on the mlp; they have tests of their own beside."""


def is_of_own_methods(item):
    """Whether a test asks of an adapter what only this package's own training promises."""
    method, known = item.callspec.params.get("method", item.callspec.params.get("name")), catalog.names("methods")
    if method not in known or method in contracts.own_methods():
        return False
    return item.originalname not in OF_EVERY_METHOD or item.callspec.params.get("model", "mlp") != "mlp"


def is_quick(params):
    """Whether a test of a method, a model or both is in the fast tier."""
    model, method = params.get("model", "mlp"), params.get("method")
    if model not in catalog.names("models") or model == "mlp":
        return True
    return "channels" not in SMALL.get(model, {}) and (method == "map" or method not in catalog.names("methods"))


def is_covered(params):
    """Whether a test of a method and a model asks nothing that another test does not ask."""
    method = params.get("method")
    return params.get("model") in COVERED and method in catalog.names("methods") and method not in POINT_AND_NOISE


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


class Refused:
    """Asserts that something is refused: by which error, with which exit code, in one line that names what is wrong.

    A name is an option, a value, an entry, a file, a line, or the one word that tells two refusals apart. It must stand
    in the message as a whole: 3 does not stand in 13, nor `ece` in `ece_sweep`. Two plain words in a row are prose,
    which may be written better at any time, and are no name, but for a kind and its name (`metric ece`, `no metric`).
    """

    KINDS = frozenset(
        ("argument", "column", "data", "dataset", "metric", "method", "model", "no", "option", "plugin", "row", "suite")
    )

    def __init__(self, folder):
        self.folder = folder

    @contextlib.contextmanager
    def __call__(self, *names, error=BadInput, lacks=()):
        """The block raises exactly this error; `text` of what is bound has the message afterwards."""
        said = SimpleNamespace(text="")
        with pytest.raises(error) as caught:
            yield said
        said.text = str(caught.value)
        assert caught.type is error, f"{caught.type.__name__} is another refusal than {error.__name__}: {said.text}"
        self.says(said.text, *names, lacks=lacks)

    def command(self, words, *names, code=BAD_INPUT, lacks=()):
        """The command line ends with this exit code, prints one line, which is returned, and writes nothing."""
        before, out, err = self.stored(), io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ended = cli.main([str(word) for word in words])
        assert (ended, out.getvalue()) == (code, ""), f"{ended}: {out.getvalue()}{err.getvalue()}"
        assert self.stored() == before, "what was refused has written something"
        return self.line(err.getvalue(), *names, lacks=lacks)

    def line(self, err, *names, lacks=()):
        """What was printed to stderr is one line with these names, which is returned without the program's name."""
        program, _, text = err.removesuffix("\n").partition(": ")
        assert program == "bdlbench" and err.endswith("\n"), err
        self.says(text, *names, lacks=lacks)
        return text

    def says(self, text, *names, lacks=()):
        """The text is one line that has all of some names, and none of others."""
        assert text.isprintable() and "Traceback" not in text, f"not one line: {text!r}"
        assert names, "say which name the message must have"
        for name in map(str, names):
            assert not self.is_prose(name), f"{name!r} is wording, not a name"
            assert is_named(name, text), f"{name!r} is not named in: {text}"
        assert [name for name in map(str, lacks) if is_named(name, text)] == [], text

    @classmethod
    def is_prose(cls, name):
        """Whether two plain words follow each other: no numbers, no names of code, files or options, nothing quoted."""
        pairs = re.findall(r"(?<![\w/.'`=-])([A-Za-z]?[a-z]+) (?=[a-z]+(?![\w.'`=(\[/-]))", name)
        return name not in OF_THE_SYSTEM and any(kind not in cls.KINDS for kind in pairs)

    def stored(self):
        """Of each file below the test's folder, its size and when it was written."""
        found = {path: path.lstat() for path in self.folder.rglob("*")}
        return {str(path): (stat.st_size if path.is_file() else 0, stat.st_mtime_ns) for path, stat in found.items()}


OF_THE_SYSTEM = {os.strerror(code) for code in errno.errorcode}
"""Such as `Permission denied`: not our wording."""


def is_named(name, text):
    """Whether the name stands in the text as a whole, and is not a part of a longer name or number."""
    before = r"(?<!\w)" + (r"(?<!\d[.,])" if name[0].isdigit() else "") if re.match(r"\w", name) else ""
    after = r"(?!\w)" + (r"(?![.,]\d)" if name[-1].isdigit() else "") if re.search(r"\w$", name) else ""
    return re.search(before + re.escape(name) + after, text) is not None


@pytest.fixture
def refused(tmp_path):
    return Refused(tmp_path)


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
