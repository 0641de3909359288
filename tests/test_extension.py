"""Other people's entries: a package with an entry point, and a plugin file."""

import importlib.util
import inspect
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bdlbench import catalog, extend
from bdlbench.cli import main as cli
from bdlbench.core.spec import Cell, Replicate
from bdlbench.runs import batch as run

ROOT = Path(__file__).resolve().parents[1]

METHOD = '''"""MLE with a step size that halves."""
from dataclasses import dataclass

from bdlbench.extend import Layout, PerRow, Plan, Point, WeightPosterior, fit_network, last, option


@dataclass(frozen=True)
class Theirs:
    """Somebody else's method: early stopping after two epochs."""

    learning_rate: PerRow = option(1e-2, "Adam's step size", low=0, open_ends=True)

    def unsupported(self, model):
        return None

    def fit(self, model, data, rng):
        layout, plan = Layout(model.leaves()), Plan(2, 64, self.learning_rate)
        state = layout.views(last(fit_network(model, data, rng, plan, lambda flat, _: Point(layout.views(flat)))).flat)
        return WeightPosterior(model, state, lambda noise, joint: Point(state), deterministic=True)
'''

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "theirs"
version = "1"
[project.entry-points."bdlbench.methods"]
theirs = "theirs:Theirs"
[tool.setuptools]
py-modules = ["theirs"]
"""

RUN = """
import json, sys
from pathlib import Path
from bdlbench import catalog
from bdlbench.runs import batch as run
from bdlbench.core.spec import Cell, Replicate

settings = {"digits": {"num_train": 256}, "theirs": {"learning_rate": 0.02}}
names = {"methods": "theirs", "models": "mlp", "datasets": "digits"}
cell = Cell(*(catalog.choice(kind, name, settings) for kind, name in names.items()), samples=1)
batch = run.Batch(tuple(run.Row(cell, Replicate(seed)) for seed in (0, 1)))
(record,) = run.run_batch(batch, run.Settings(Path(sys.argv[1]))).records
values = record.values.metrics["accuracy"].values
print(json.dumps([catalog.summary("methods", "theirs"), values]))
"""


def test_a_method_is_at_most_thirty_lines():
    assert len(METHOD.splitlines()) <= 30


@pytest.mark.slow
def test_an_installed_package_adds_a_method(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "theirs.py").write_text(METHOD)
    install = [
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        "--target",
        str(target),
    ]
    command = [sys.executable, "-m", "pip", "install", "-q", *install, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), str(ROOT)])}
    command = [sys.executable, "-c", RUN, str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    summary, accuracies = json.loads(done.stdout)
    assert summary == "Somebody else's method: early stopping after two epochs."
    assert len(accuracies) == 2
    assert min(accuracies) > 0.3


PLUGIN = (
    METHOD
    + '''

import torch

from bdlbench.data.task import Examples, Signature, Task
from bdlbench.models.mlp import MLP


@dataclass(frozen=True)
class Wide(MLP):
    """Their model."""


@dataclass(frozen=True)
class Blobs:
    """Their data set: two far blobs."""

    num: int = option(40, "examples", low=2)

    def load(self, split):
        rng = torch.Generator().manual_seed(split)
        y = torch.arange(self.num) % 2
        x = torch.randn(self.num, 2, generator=rng) + 6 * y[:, None] - 3
        return Task(Signature((2,), 2, "categorical"), Examples(x, y), Examples(x, y), {"far": 50 * x})


@dataclass(frozen=True)
class Rows:
    """Their metric."""

    summary: str = "how many examples were scored"
    unit: str = "count"
    better: str = "higher"

    def __call__(self, evaluation):
        return {"": torch.full((len(evaluation.y),), float(evaluation.y.shape[1]), dtype=torch.float64)}


methods, models, datasets, metrics = {"theirs": Theirs}, {"wide": Wide}, {"blobs": Blobs}, {"rows": Rows()}
'''
)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """plugin(source): the path of a file, whose entries are forgotten after the test."""
    monkeypatch.setattr(catalog, "_plugins", {kind: dict(entries) for kind, entries in catalog._plugins.items()})
    monkeypatch.setattr(catalog, "_plugin_files", dict(catalog._plugin_files))
    monkeypatch.setattr(catalog, "_added", dict(catalog._added))
    before = set(sys.modules)

    def written(source, name="mine.py"):
        path = tmp_path / name
        path.write_text(source)
        return path

    yield written
    for name in set(sys.modules) - before:
        if name.startswith("bdlbench_plugin"):
            del sys.modules[name]


def test_a_plugin_adds_entries_of_every_kind(plugin, tmp_path):
    catalog.add_plugin(plugin(PLUGIN))
    names = {"methods": "theirs", "models": "wide", "datasets": "blobs", "metrics": "rows"}
    for kind, name in names.items():
        assert name in catalog.names(kind)
        assert catalog.summary(kind, name)
    chosen = [
        catalog.choice(kind, names[kind], {"wide": {"widths": "8"}}) for kind in ("methods", "models", "datasets")
    ]
    cell = Cell(*chosen, samples=1)
    batch = run.Batch((run.Row(cell, Replicate(0)),))
    (record,) = run.run_batch(batch, run.Settings(tmp_path / "results")).records
    assert not record.failed
    assert record.values.metrics["rows"].values == (40.0,)


def test_adding_the_same_plugin_twice_is_one(plugin):
    path = plugin(PLUGIN)
    catalog.add_plugin(path)
    before = {kind: catalog.names(kind) for kind in catalog.KINDS}
    catalog.add_plugin(path)
    assert before == {kind: catalog.names(kind) for kind in catalog.KINDS}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("x = 1", ["no dict", "methods", "models", "datasets", "metrics"]),
        ("methods = ['mle']", ["no dict", "methods"]),
        ("def f(:", ["SyntaxError", "mine.py:1"]),
        ("import nothing_of_this_name", ["ModuleNotFoundError", "nothing_of_this_name"]),
        ("1 / 0", ["ZeroDivisionError", "mine.py:1"]),
        ("class A:\n    pass\nmethods = {'mle': A}", ["method mle", "redefines"]),
        ("class A:\n    pass\nmetrics = {'ece': A()}", ["metric ece", "redefines"]),
    ],
)
def test_what_a_plugin_has_wrong_is_said_in_one_line(plugin, source, names, refused):
    before = {kind: catalog.names(kind) for kind in catalog.KINDS}
    with refused("plugin", *names):
        catalog.add_plugin(plugin(source))
    assert before == {kind: catalog.names(kind) for kind in catalog.KINDS}


def test_a_plugin_that_is_half_wrong_adds_nothing(plugin, refused):
    source = PLUGIN + "datasets['digits'] = Blobs\n"
    with refused("dataset digits", "redefines"):
        catalog.add_plugin(plugin(source))
    assert "theirs" not in catalog.names("methods")


def test_a_file_that_is_absent_or_not_python_is_refused(plugin, tmp_path, refused):
    with refused("absent.py", "exist"):
        catalog.add_plugin(tmp_path / "absent.py")
    with refused(tmp_path, "folder"):
        catalog.add_plugin(tmp_path)
    with refused("mine.txt", "Python"):
        catalog.add_plugin(plugin("methods = {}", "mine.txt"))


def test_two_plugins_cannot_share_a_name(plugin, refused):
    catalog.add_plugin(plugin(PLUGIN))
    with refused("second.py:3", "method theirs", "redefines"):
        catalog.add_plugin(plugin("class A:\n    pass\nmethods = {'theirs': A}", "second.py"))


def test_the_catalog_names_the_nearest_for_an_unknown_entry(refused):
    for kind in catalog.KINDS:
        name = catalog.names(kind)[0]
        with refused("unknown", kind[:-1], f"{name}x", name):
            catalog.load(kind, name + "x")


def test_every_entry_lies_in_the_folder_of_its_kind():
    for kind in catalog.KINDS:
        for name in catalog.names(kind):
            entry = catalog.load(kind, name)
            module = inspect.getmodule(entry if inspect.isclass(entry) else type(entry))
            assert module.__name__.startswith(f"bdlbench.{kind}.")


PAGE = ROOT / "docs" / "plugins.md"
EXAMPLES = ROOT / "tests" / "plugins" / "three_entries.py"
TINY = ["--set", "map.epochs=2", "--seeds", "2", "--samples", "1", "--jobs", "1"]


@pytest.fixture
def alone(monkeypatch):
    """Plugins of one test are unknown to the next."""
    monkeypatch.setattr(catalog, "_plugins", {kind: {} for kind in catalog.KINDS})


def test_the_page_shows_the_entries_that_are_tested_and_all_that_extend_holds():
    assert EXAMPLES.read_text("utf-8") in PAGE.read_text("utf-8")
    spec = importlib.util.spec_from_file_location("extend_table", ROOT / "scripts" / "extend_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.table() in PAGE.read_text("utf-8")
    assert all(name in extend.__all__ for name in vars(extend) if name[0] not in "_a" and name != "extend")


@pytest.mark.parametrize(("name", "page"), [("information_dropout", "methods.md"), ("location", "plugins.md")])
def test_other_entries_of_the_pages_are_those_tested(name, page):
    assert (EXAMPLES.parent / f"{name}.py").read_text("utf-8") in (ROOT / "docs" / page).read_text("utf-8")


def plugin_module(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES.parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_noise_of_the_page_has_mean_one_and_the_variance_of_a_log_normal():
    layer = plugin_module("information_dropout").LogNormalNoise
    x, w, widths = torch.ones(2, 20_000, 1), torch.ones(2, 1, 1), torch.tensor([0.3, 0.6])
    y = layer({"w": w}, widths, extend.Streams.of_seeds([1, 2]), False)("w", extend.dense, x)
    right = (widths**2).exp() - 1
    assert y.mean((1, 2)).tolist() == pytest.approx([1, 1], abs=0.02)
    assert y.var((1, 2)).tolist() == pytest.approx(right.tolist(), rel=0.06)


def test_the_closed_form_of_the_page_is_that_of_quadrature():
    model = plugin_module("location").Location(extend.Signature((2,), 1, "gaussian"), torch.tensor([0.7, 1.2]), 0.9)
    x, y = torch.zeros(2, 5, 2), torch.tensor([[0.3, 1.1, 0.7, -0.2, 0.9], [2.0, -1.0, 0.4, 0.1, 0.5]])
    exact = model.exact(extend.Data(x, y))
    theta = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    for r, noise_sd in enumerate(torch.tensor([0.7, 1.2]).tolist()):
        log_p = torch.distributions.Normal(0, 0.9).log_prob(theta)
        log_p = log_p + torch.distributions.Normal(theta[:, None], noise_sd).log_prob(y[r].double()).sum(1)
        evidence = float(torch.trapezoid(log_p.exp(), theta))
        density = log_p.exp() / evidence
        mean = float(torch.trapezoid(density * theta, theta))
        variance = float(torch.trapezoid(density * (theta - mean) ** 2, theta))
        predictive = torch.distributions.Normal(theta, noise_sd).log_prob(torch.tensor(1.5, dtype=torch.float64)).exp()
        asked = exact.predict(x[:, :1], 1, None).log_prob(torch.full((2, 1), 1.5))[r, 0]
        other = extend.Moments(exact.mean[:, None] + 0.1, 0.5 * exact.variance[:, None, None], gaussian=True)
        q = torch.distributions.Normal(float(other.mean[r, 0]), float(other.covariance[r, 0, 0]) ** 0.5)
        log_q = q.log_prob(theta)
        kl = float(torch.trapezoid(log_q.exp() * (log_q - density.clamp_min(1e-300).log()), theta))
        assert float(exact.log_evidence[r]) == pytest.approx(math.log(evidence), abs=1e-7)
        assert (float(exact.mean[r]), float(exact.variance[r])) == pytest.approx((mean, variance), abs=1e-7)
        assert float(asked) == pytest.approx(math.log(float(torch.trapezoid(density * predictive, theta))), abs=1e-5)
        assert float(exact.kl(other)[r]) == pytest.approx(kl, abs=1e-6)


@pytest.mark.slow
def test_other_entries_of_the_pages_hold_and_one_whose_masks_are_not_kept_does_not(tmp_path, alone, capsys):
    for name in ("information_dropout", "location"):
        assert cli.main(["check", "--plugin", str(EXAMPLES.parent / f"{name}.py")]) == 0
    source = (EXAMPLES.parent / "information_dropout.py").read_text("utf-8")
    assert "            if self.joint:" in source
    forgets = tmp_path / "forgets.py"
    forgets.write_text(
        source.replace("            if self.joint:", "            if False:").replace('"info', '"no_info')
    )
    assert cli.main(["check", "--plugin", str(forgets)]) == 1
    assert "a joint sample" in capsys.readouterr().out


def test_the_entries_of_the_page_hold_and_run(tmp_path, alone, capsys):
    asked = ["--plugin", str(EXAMPLES)]
    assert cli.main(["check", *asked]) == 0
    where = ["--method", "map", "--model", "skip_mlp", "--dataset", "clouds", "--results", str(tmp_path)]
    assert cli.main(["run", *asked, *where, *TINY, "--metrics", "nll,nll_q90"]) == 0
    assert "nll_q90" in capsys.readouterr().out


def test_a_run_scores_a_new_metric_on_records_that_are_older_than_it(tmp_path, alone, capsys):
    where = ["run", "--method", "map", "--model", "logistic", "--dataset", "wine", "--results", str(tmp_path), *TINY]
    assert cli.main(where) == 0
    capsys.readouterr()
    assert cli.main([*where, "--plugin", str(EXAMPLES), "--metrics", "nll,nll_q90"]) == 0
    out = capsys.readouterr().out
    assert "nll_q90" in out and "none had to be trained now" in out


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('width, "input")', 'width, "inptu")', "unknown role of a leaf 'inptu': did you mean 'input'?"),
        ("(width, self.signature.outputs,", "(width, self.signature.outputs + 1,", "the last layer has 4 outputs"),
        ("h = h + layer(", "h = 1 * layer(", ""),
        ("sources={", "validation=Examples(scaled(x[test] * float('nan')), None), sources={", "mine.py:"),
        (
            "column_statistics(x[train])",
            "column_statistics(x[train] * [[1, float('nan')]])",
            "column 1 of the training",
        ),
    ],
)
def test_a_beginners_mistake_is_one_line_with_its_file(tmp_path, alone, capsys, old, new, words):
    """A misspelt role was never started as a weight, and an output too many took part of the probability."""
    path = tmp_path / "mine.py"
    source = EXAMPLES.read_text("utf-8")
    assert old in source
    path.write_text(source.replace(old, new), "utf-8")
    where = ["--method", "map", "--model", "skip_mlp", "--dataset", "clouds", "--results", str(tmp_path / "out")]
    code = cli.main(["run", "--plugin", str(path), *where, *TINY])
    said = "".join(capsys.readouterr())
    assert (code == 0) == (not words)
    assert words in said and (not words or "mine.py:" in said)
