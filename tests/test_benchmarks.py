"""Every benchmark runs: one quick call each, by asv's own names. And what asv imports on old commits imports little."""

import ast
import importlib
import inspect
import itertools
import pkgutil
import sys
from pathlib import Path

import pytest

import benchmarks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PREFIXES = ("time_", "timeraw_", "peakmem_", "track_")


def found():
    """(class, method, parameters) of every benchmark."""
    modules = pkgutil.walk_packages(benchmarks.__path__, "benchmarks.")
    for module in (importlib.import_module(m.name) for m in modules):
        for name, group in inspect.getmembers(module, inspect.isclass):
            if group.__module__ == module.__name__:
                for method in (m for m in dir(group) if m.startswith(PREFIXES)):
                    for values in itertools.product(*getattr(group, "params", ())):
                        yield pytest.param(group, method, values, id=f"{module.__name__}.{name}.{method}{[*values]}")


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    quick = {"benchmarks.ratios": {"ROUNDS": 1, "SAMPLES": 2, "EPOCHS": 1}, "benchmarks.run": {"REPEATS": 1}}
    quick |= {"benchmarks.records": {"COUNT": 1000}}
    for module, values in quick.items():
        for name, value in values.items():
            monkeypatch.setattr(importlib.import_module(module), name, value)


@pytest.mark.parametrize(("group", "method", "values"), list(found()))
def test_one_call(group, method, values):
    one = group()
    if hasattr(one, "setup"):
        one.setup(*values)
    result = getattr(one, method)(*values)
    if hasattr(one, "teardown"):
        one.teardown(*values)
    if method.startswith("timeraw_"):
        compile(result, method, "exec")
    if method.startswith("track_"):
        assert 0 < result < float("inf")
        assert getattr(group, method).unit


def foreign(source):
    """What a file imports as soon as it is imported, beside the standard library and its own kind."""
    body = ast.parse(source).body
    named = [node.module or "" for node in body if isinstance(node, ast.ImportFrom)]
    named += [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    return {name.partition(".")[0] for name in named} - {"benchmarks", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda path: path.stem)
def test_importing_needs_nothing_of_the_package(path):
    """asv imports all files for every commit, also for those that lack what a benchmark wants."""
    assert foreign(path.read_text("utf-8")) == set()


def test_a_script_among_the_benchmarks_is_seen():
    assert foreign("import torch.nn\nfrom bdlbench.runs import batch as run\nimport sys\n") == {"torch", "bdlbench"}
    assert foreign("def setup():\n    import torch\n") == set()
