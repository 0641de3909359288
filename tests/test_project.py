"""What stands around the package: its dependencies, the tiers of its tests, its workflows."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OWN = {"bdlbench", "benchmarks", "tests", "conftest", *(path.stem for path in (ROOT / "scripts").glob("*.py"))}

BY_OTHERS: dict[str, str] = {}
"""Dependencies that nothing here imports by name, and why they are declared all the same."""

DISTRIBUTIONS = {  # of modules that are not installed wherever tests run
    "blitz": "blitz-bayesian-pytorch",
    "dask": "distributed",
    "jax": "numpyro",
    "laplace": "laplace-torch",
    "pyro": "pyro-ppl",
    "yaml": "pyyaml",
}


def named(requirements):
    """The distributions' names, normalised."""
    return {re.split(r"[\s\[<>=!~;]", one)[0].lower().replace("_", "-") for one in requirements}


def imported(*folders):
    """{distribution: a file} of what the modules of some folders import, other than Python's own and ours."""
    known = metadata.packages_distributions()
    found = {}
    for path in sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            elif isinstance(node, ast.Call) and called(node) in IMPORTERS and node.args:
                modules = [node.args[0].value] if isinstance(getattr(node.args[0], "value", None), str) else []
            for top in {module.partition(".")[0] for module in modules}:
                if top and top not in sys.stdlib_module_names and top not in OWN:
                    name = DISTRIBUTIONS.get(top) or known.get(top, [top])[0]
                    found.setdefault(name.lower().replace("_", "-"), path.relative_to(ROOT).as_posix())
    return found


IMPORTERS = {"import_module", "importorskip", "__import__"}


def called(node):
    """The last word of what is called: `f` of `f(…)` and of `a.f(…)`."""
    return getattr(node.func, "attr", None) or getattr(node.func, "id", None)


@pytest.mark.slow
def test_what_the_package_imports_is_declared_and_what_is_declared_is_imported():
    found, required = imported("bdlbench"), named(PROJECT["dependencies"])
    assert "torch" in found and "typer" in found
    optional = named(one for extra in ("peers", "dask", "parquet", "reference") for one in EXTRAS[extra])
    assert {name: where for name, where in found.items() if name not in required | optional} == {}
    assert required - found.keys() == BY_OTHERS.keys()


@pytest.mark.slow
def test_what_tests_and_scripts_import_is_declared():
    declared = named([*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)])
    found = imported("tests", "benchmarks", "scripts")
    assert "pytest" in found and "hypothesis" in found
    assert {name: where for name, where in found.items() if name not in declared} == {}


def test_the_fast_tier_has_tests_of_every_folder():
    """By what is written: a test is in it unless it, or its file, is marked."""
    count = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text("utf-8")
        left_out = re.search(r"^pytestmark = .*\b(slow|data|gpu)\b", text, re.MULTILINE)
        count.setdefault(path.parent, 0)
        for node in ast.parse(text).body:
            marks = " ".join(map(ast.unparse, getattr(node, "decorator_list", [])))
            if getattr(node, "name", "").startswith("test_") and not re.search(r"mark\.(slow|data|gpu)\b", marks):
                count[path.parent] += not left_out
    assert len(count) > 15
    assert [folder for folder, number in count.items() if number == 0] == []


def workflows():
    return sorted([*(ROOT / ".github").rglob("*.yml")])


@pytest.mark.parametrize("path", workflows(), ids=lambda path: path.stem)
def test_actions_of_others_are_named_by_the_hash_of_a_commit(path):
    uses = re.findall(r"uses:\s*(\S+)", path.read_text("utf-8"))
    assert uses or "ISSUE_TEMPLATE" in path.parts
    assert [one for one in uses if not one.startswith("./") and not re.search(r"@[0-9a-f]{40}$", one)] == []


def test_every_python_that_is_declared_is_tested():
    declared = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    tested = re.search(r"python: \[(.*)\]", (ROOT / ".github/workflows/ci.yml").read_text("utf-8"))[1]
    assert re.findall(r"3\.\d+", tested) == declared
    assert PROJECT["requires-python"] == f">={declared[0]}"
