"""What strangers' files do wrong: said in one line with file and line, exit code 2, nothing written, nothing lost."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bdlbench import api, catalog
from bdlbench.cli import main as cli
from bdlbench.core.foreign import Broken
from bdlbench.core.spec import Cell, Replicate
from bdlbench.data.task import Examples, Signature, Task
from bdlbench.entries import check_task
from bdlbench.records import evaluation
from bdlbench.records import record as records
from bdlbench.runs import batch as run

pytestmark = pytest.mark.slow

GOOD = (Path(__file__).parent / "strangers" / "good.py").read_text()
TINY = ("--model", "logistic", "--dataset", "wine", "--seeds", "2", "--samples", "2", "--set", "mle.epochs=1")

METRIC = """
from dataclasses import dataclass
import sys, torch

@dataclass(frozen=True)
class Mine:
    summary, unit, better = "a number", "count", "lower"

    def __call__(self, evaluation):
        rows = len(evaluation.y)
        BODY

metrics = {"mine": Mine()}
"""
METHOD = """
from dataclasses import dataclass
import sys, torch
from bdlbench.methods.mle import MLE

@dataclass(frozen=True)
class Mine(MLE):
    \"\"\"Mine.\"\"\"

    def fit(self, model, data, rng):
        BODY
        return super().fit(model, data, rng)

methods = {"mine": Mine}
"""
DATASET = """
from dataclasses import dataclass
import sys, torch

@dataclass(frozen=True)
class Mine:
    \"\"\"Mine.\"\"\"

    def load(self, split):
        BODY

datasets = {"mine": Mine}
"""


@pytest.fixture(autouse=True)
def _quiet_catalog(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plugins of one test are not those of the next."""
    monkeypatch.setattr(catalog, "_plugins", {kind: {} for kind in catalog.KINDS})
    monkeypatch.setattr(catalog, "_plugin_files", {})
    monkeypatch.setattr(catalog, "_added", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("bdlbench_plugin"):
            del sys.modules[name]


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """file(source, "a/mine.py"): the path."""

    def written(source: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        return path

    return written


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bdlbench: ")]
    assert len(error) == 1
    return error[0]


# Names


def test_files_of_one_name_in_two_folders_are_two_plugins(file: Callable[..., Path], refused: Any) -> None:
    a, b = file(GOOD, "a/mine.py"), file(GOOD.replace("hidden_dropout", "other"), "b/mine.py")
    catalog.add_plugin(a)
    with refused("b/mine.py:99", "model bottleneck", "redefines"):
        catalog.add_plugin(b)
    assert "other" not in catalog.names("methods")  # nothing of the second
    renamed = GOOD.replace('"hidden_dropout"', '"other"').replace('{"bottleneck"', '{"b2"').replace('"blobs"', '"b3"')
    catalog.add_plugin(file(renamed.replace('"confidence"', '"b4"').replace("0.3", "0.4"), "b/mine.py"))
    rates = [catalog.load("methods", name)().rate for name in ("hidden_dropout", "other")]
    assert rates == [0.3, 0.4]
    assert catalog.plugin_files(["other", "hidden_dropout", "b4"]) == [a, b]


@pytest.mark.parametrize("spell", [Path, lambda path: path.parent / ".." / path.parent.name / path.name])
def test_the_same_file_given_twice_is_once(file: Callable[..., Path], spell: Callable[[Path], Path]) -> None:
    path = file("print('imported')\n" + GOOD)
    catalog.add_plugin(path)
    first = catalog.load("methods", "hidden_dropout")
    catalog.add_plugin(spell(path))
    assert catalog.load("methods", "hidden_dropout") is first


def test_a_link_to_a_file_is_that_file(file: Callable[..., Path], tmp_path: Path) -> None:
    path = file(GOOD)
    (tmp_path / "link.py").symlink_to(path)
    catalog.add_plugin(path)
    catalog.add_plugin(tmp_path / "link.py")
    assert catalog.plugin_files(["blobs"]) == [path]


def test_a_file_that_was_edited_is_read_again(file: Callable[..., Path]) -> None:
    """As in a notebook: also where the new text has the length and the second of the old; what it dropped is gone."""
    path = file(GOOD)
    catalog.add_plugin(path)
    catalog.add_plugin(file(GOOD.replace("option(0.3", "option(0.4")))
    assert catalog.load("methods", "hidden_dropout")().rate == 0.4
    catalog.add_plugin(file(GOOD.replace('{"blobs": Blobs}', "{}")))
    assert "blobs" not in catalog.names("datasets")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a b", "'a b'"),
        ("", "''"),
        ("a\nb", r"'a\nb'"),
        ("a\x1b[31m", r"'a\x1b[31m'"),
        ("a\u202eb", r"'a\u202eb'"),
        ("a|b", "'a|b'"),
        ("<b>", "'<b>'"),
        ("a,b", "'a,b'"),
        ("a$b", "'a$b'"),
        ("a[b]", "'a[b]'"),
        ("a.b", "'a.b'"),
        ("-a", "'-a'"),
        ("=1+1", "'=1+1'"),
        (3, "3"),
    ],
)
def test_a_name_that_some_reader_would_read_otherwise_is_refused(
    file: Callable[..., Path], name: Any, shown: str, refused: Any
) -> None:
    source = GOOD.replace('{"blobs": Blobs}', f"{{{name!r}: Blobs}}")
    with refused("mine.py:100", shown, "name", "dataset"):
        catalog.add_plugin(file(source))


@pytest.mark.parametrize("name", ["größe", "swag-2", "_x", "2d"])
def test_names_of_letters_digits_and_dashes_are_fine(file: Callable[..., Path], name: str) -> None:
    catalog.add_plugin(file(GOOD.replace('{"blobs": Blobs}', f"{{{name!r}: Blobs}}")))
    assert name in catalog.names("datasets")


def test_options_go_by_the_name_so_no_two_kinds_share_one(file: Callable[..., Path], refused: Any) -> None:
    with refused("mine.py:99", "method mlp", "model", "--set mlp.OPTION"):
        catalog.add_plugin(file(GOOD.replace('"hidden_dropout"', '"mlp"')))
    with refused("mine.py:99", "method same", "model"):  # within one file too
        catalog.add_plugin(file(GOOD.replace('"hidden_dropout"', '"same"').replace('"bottleneck"', '"same"')))


def test_a_metric_is_no_cost(file: Callable[..., Path], refused: Any) -> None:
    path = file(METRIC.replace("BODY", "return {}").replace('"mine"', '"throughput"'))
    refused.command(["list", "metrics", "--plugin", path], "mine.py", "metric throughput", "cost")


# Taking the place of another


def test_a_plugin_replaces_an_entry_only_where_it_is_told_to(
    file: Callable[..., Path], tmp_path: Path, refused: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    body = "return {'': torch.full((rows,), 7.0)}"
    path = file(METRIC.replace("BODY", body).replace('"mine"', '"ece"'))
    words = ["run", "--method", "mle", *TINY, "--metrics", "ece", "--plugin", str(path)]
    names = ["mine.py:13", "metric ece", "redefines", "--replace ece"]
    refused.command([*words, "--results", tmp_path / "r"], *names)
    assert cli.main([*words, "--replace", "ece", "--results", str(tmp_path / "r")]) == 0
    assert "7 ± 0" in capsys.readouterr().out
    (record,) = records.read(tmp_path / "r")
    assert record.values.metrics["ece"].definition == "Mine() of mine.py"
    twice = ["--replace", "ece", "--replace", "nothing", "--results", tmp_path / "r"]
    refused.command([*words, *twice], "--replace nothing")
    refused.command(["list", "--replace", "ece"], "--replace ece", "--plugin")


def test_what_was_replaced_is_another_cell(file: Callable[..., Path], tmp_path: Path, refused: Any) -> None:
    """Else the numbers of one would be taken for those of the other."""
    here = catalog.choice("methods", "mle", {})
    path = file(METHOD.replace("BODY", "pass").replace('"mine"', '"mle"'))
    catalog.add_plugin(path, ["mle"])
    there = catalog.choice("methods", "mle", {})
    assert here != there and dict(there.options)[catalog.REPLACED_BY] == "mine.py"
    assert type(catalog.build_method([there])).__name__ == "Mine"
    assert catalog.recorded("methods", there) == there
    with refused("mle", "--replace mle"):
        catalog.recorded("methods", here)
    catalog.add_plugin(path)  # without the word it is the file that was added before
    assert catalog.replaced("methods", "mle") == "mine.py"
    assert [(one.path, one.replace) for one in catalog.added_plugins()] == [(path, ("mle",))]


def test_two_plugins_never_take_each_others_place(file: Callable[..., Path], refused: Any) -> None:
    catalog.add_plugin(file(GOOD, "a.py"))
    with refused("b.py:99", "method hidden_dropout", "redefines", lacks=["--replace"]):
        catalog.add_plugin(file(GOOD, "b.py"), ["hidden_dropout"])


# What an entry is


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        (
            '"hidden_dropout": HiddenDropout}',
            '"hidden_dropout": HiddenDropout()}',
            ["mine.py:99", "method hidden_dropout", "instance", "methods = {'hidden_dropout': HiddenDropout}"],
        ),
        ('{"confidence": Confidence()}', '{"confidence": Confidence}', ["metric confidence", "class"]),
        ('{"blobs": Blobs}', '{"blobs": "Blobs"}', ["dataset blobs", "instance"]),
        ("def fit(", "def fitted(", ["method hidden_dropout", "no fit"]),
        (
            "def unsupported(self, model)",
            "def unsupported(self)",
            ["method hidden_dropout", "unsupported", "1 arguments"],
        ),
        ("def __call__(self, layer, x, rng)", "def forward(self, layer, x, rng)", ["model bottleneck", "__call__"]),
        ("def load(self, split)", "def load(self)", ["dataset blobs", "load", "1 arguments"]),
        (
            "def by_example(self, evaluation)",
            "def by_example(self)",
            ["metric confidence", "by_example", "1 arguments"],
        ),
        (
            "@dataclass(frozen=True)\nclass Blobs",
            "@dataclass\nclass Blobs",
            ["dataset blobs", "@dataclass(frozen=True)"],
        ),
        (
            "    signature: Signature\n",
            "    signature: Signature = None\n    x: int = 3\n",
            ["model bottleneck", "x", "option(default, help)"],
        ),
        ("    signature: Signature\n", "", ["model bottleneck", "`signature: Signature`"]),
        ('option(0.3, "prob', 'option(1.0, "prob', ["method hidden_dropout.rate=1.0", "[0, 0.99]"]),
        ('option(0.3, "prob', 'option(torch.tensor(0.3), "prob', ["method hidden_dropout", "rate", "tensor(0.3000)"]),
        ('"probability", "higher"', '"probability", "more"', ["metric confidence", "'more'", '"higher"', '"lower"']),
        ('"probability", "higher"', '"a\\nb", "higher"', ["metric confidence", "unit", r"'a\nb'"]),
        ('"mean probability of the most probable class"', "None", ["metric confidence", "summary", "None"]),
        ('{"blobs": Blobs}', "[Blobs]", ["datasets", "list"]),
    ],
)
def test_what_is_no_entry_is_refused_when_it_is_added(
    file: Callable[..., Path], old: str, new: str, names: list[str], refused: Any
) -> None:
    assert old in GOOD
    before = {kind: catalog.names(kind) for kind in catalog.KINDS}
    source = GOOD.replace(old, new)
    with refused("mine.py", *names):
        catalog.add_plugin(file(source))
    assert before == {kind: catalog.names(kind) for kind in catalog.KINDS}


def test_the_line_is_that_of_the_plugin_even_for_an_entry_from_elsewhere(
    file: Callable[..., Path], refused: Any
) -> None:
    with refused("mine.py:3", "method two", "instance", "methods = {'two': MLE}"):
        catalog.add_plugin(file("from bdlbench.methods.mle import MLE\nmethods = {'one': MLE,\n 'two': MLE()}\n"))


@pytest.mark.parametrize("source", ["methods = {}", "import bdlbench.methods as methods"])
def test_a_file_that_names_nothing_is_no_plugin(file: Callable[..., Path], source: str, refused: Any) -> None:
    with refused("mine.py", "no dict", "methods", "models", "datasets", "metrics"):
        catalog.add_plugin(file(source))


# Leaving


@pytest.mark.parametrize("number", ["", "0", "3", "'done'"])
def test_leaving_when_imported_is_no_verdict(file: Callable[..., Path], number: str, refused: Any) -> None:
    path = file(f"import sys\n\nsys.exit({number})\n")
    refused.command(["list", "--plugin", path], f"sys.exit({number})", "mine.py:3")


@pytest.mark.parametrize(
    ("source", "place"), [("x = 1\ny = (\n", ":2)"), ("def f():\n  import nowhere_at_all\nf()", ":2)")]
)
def test_what_does_not_import_is_named_with_its_line(
    file: Callable[..., Path], source: str, place: str, refused: Any
) -> None:
    with refused(f"mine.py{place}", "import"):
        catalog.add_plugin(file(source))


@pytest.mark.parametrize(
    ("body", "jobs"),
    [("sys.exit(0)", "1"), ("sys.exit(3)", "2"), ("raise SystemExit", "1"), ("raise ValueError('boom')", "1")],
)
def test_leaving_in_fit_is_a_failure_of_that_cell(
    file: Callable[..., Path], tmp_path: Path, body: str, jobs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "run",
        "--method",
        "mine",
        "--method",
        "mle",
        *TINY,
        "--jobs",
        jobs,
        "--plugin",
        str(file(METHOD.replace("BODY", body))),
    ]
    assert cli.main([*words, "--results", str(tmp_path / "r")]) == 4
    out = capsys.readouterr().out
    assert "failed: mine · logistic · wine, seed 0; seed 1: " in out and "(mine.py:11)" in out
    assert {record.cell.method.name: len(record.replicates) for record in records.read(tmp_path / "r")} == {
        "mine": 0,
        "mle": 2,
    }


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit(3)", "it calls sys.exit(3)"),
        ("sys.exit(0)", "it calls sys.exit(0)"),
        ("return {}['mean']", "KeyError: 'mean'"),
        ("return None", "load returned a NoneType, not a Task"),
        ("raise FileNotFoundError('data.csv')", "FileNotFoundError: data.csv"),
    ],
)
def test_what_goes_wrong_in_load_is_bad_input_with_its_line(
    file: Callable[..., Path], tmp_path: Path, body: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, results = file(DATASET.replace("BODY", body)), tmp_path / "r"
    asked = [
        "run",
        "--method",
        "mle",
        "--model",
        "logistic",
        "--dataset",
        "mine",
        "--seeds",
        "2",
        "--plugin",
        str(path),
    ]
    assert cli.main([*asked, "--results", str(results)]) == 2
    line = one_line(capsys)
    assert "data set mine (" in line and words in line
    assert f"mine.py:{5 if body == 'return None' else 10})" in line
    assert not results.exists() or not list(results.iterdir())


@pytest.mark.parametrize("body", ["sys.exit(0)", "raise ValueError('boom')"])
def test_a_method_that_fails_when_it_is_verified_is_named(
    file: Callable[..., Path], tmp_path: Path, body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It trained once: that it does not now is a difference, with its file and line, not another's verdict."""
    results, path = tmp_path / "r", file(METHOD.replace("BODY", "pass"))
    words = ["run", "--method", "mine", *TINY[:-2], "--set", "mine.epochs=1", "--plugin", str(path)]
    assert cli.main([*words, "--results", str(results)]) == 0
    file(METHOD.replace("BODY", body))
    capsys.readouterr()
    assert cli.main(["verify", str(results), "--plugin", str(path)]) == 1
    out = capsys.readouterr().out
    assert "DIFFERENT" in out and "method mine (" in out and "mine.py:11)" in out


def test_no_exit_of_others_is_a_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever else it happens: an internal error, not the number."""
    for error in (SystemExit(1), SystemExit(0), type("Odd", (BaseException,), {})("x")):

        def leaving(*args: Any, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(catalog, "names", leaving)
        assert cli.main(["list", "methods"]) == 70
        assert "internal error: " in one_line(capsys)


# What comes back


VALUES = {
    "return {'': torch.zeros(3)}": "it returned (3,) for the key '', not (R,) = (2,)",
    "return {'': torch.zeros(1)}": "it returned (1,) for the key '', not (R,) = (2,)",
    "return {'': torch.tensor(0.0)}": "it returned () for the key '', not (R,) = (2,)",
    "return {'': torch.zeros(rows, dtype=torch.int64)}": "it returned torch.int64 for the key '', not floating-point",
    "return {'': torch.zeros(rows, dtype=torch.bool)}": "it returned torch.bool",
    "return {'': [0.0] * rows}": "it returned a list for the key '', not a tensor",
    "return {'a[b]': torch.zeros(rows)}": "it returned the key 'a[b]'",
    "return {3: torch.zeros(rows)}": "it returned the key 3",
    "return torch.zeros(rows)": "it returned a Tensor, not a dict",
    "return None": "it returned a NoneType, not a dict",
    "sys.exit(3)": "it calls sys.exit(3)",
    "return {'': evaluation.nothing}": "AttributeError: 'Evaluation' object has no attribute 'nothing'",
}


@pytest.mark.parametrize("body", VALUES)
def test_a_metric_that_gives_what_is_none_is_named_with_its_line(
    file: Callable[..., Path], tmp_path: Path, body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It costs its own column alone: what was trained is recorded with the other metrics, and the run is incomplete."""
    path, results = file(METRIC.replace("BODY", body)), tmp_path / "r"
    assert cli.main(["run", "--method", "mle", *TINY, "--plugin", str(path), "--results", str(results)]) == 4
    line = one_line(capsys)
    assert re.search(r"metric mine fails: .* \(mine\.py:(6|5|11)\)", line) and VALUES[body] in line
    (record,) = records.read(results)
    assert len(record.values.metrics["accuracy"].values) == 2 and "mine" not in record.values.metrics


def test_what_was_trained_is_not_lost_by_a_metric(file: Callable[..., Path], tmp_path: Path) -> None:
    """The checkpoint stays, and with the metric mended the same command goes on from it, to the same bits."""
    words = ["run", "--method", "mle", *TINY[:-2], "--set", "mle.epochs=3", "--checkpoint-every", "1e-9"]
    assert cli.main([*words, "--results", str(tmp_path / "whole")]) == 0
    words += ["--results", str(tmp_path / "r"), "--plugin", str(file(METRIC.replace("BODY", "return 3")))]
    assert cli.main(words) == 4
    assert list((tmp_path / "r" / run.CHECKPOINTS).glob("*.safetensors"))
    file(METRIC.replace("BODY", "return {'': torch.zeros(rows)}"))
    assert cli.main(words) == 0
    (whole,), (again,) = (records.read(tmp_path / name) for name in ("whole", "r"))
    assert whole.values.parameters_sha256 == again.values.parameters_sha256


def test_workers_have_the_same_entries(file: Callable[..., Path], tmp_path: Path) -> None:
    """Two of one file name, and one in another's place: what the parent has, workers have."""
    a = file(METHOD.replace("BODY", "pass").replace('"mine"', '"mle"'), "a/mine.py")
    b = file(METHOD.replace("BODY", "pass"), "b/mine.py")
    words = [
        "run",
        "--method",
        "mle",
        "--method",
        "mine",
        *TINY[:-2],
        "--set",
        "mle.epochs=1",
        "--set",
        "mine.epochs=1",
    ]
    words += ["--plugin", str(a), "--plugin", str(b), "--replace", "mle", "--jobs", "2"]
    assert cli.main([*words, "--results", str(tmp_path / "r")]) == 0
    found = {r.cell.method.name: r.cell.method.get("replaced_by") for r in records.read(tmp_path / "r")}
    assert found == {"mle": "mine.py", "mine": None}


def test_a_plugin_that_does_not_import_in_a_worker_is_bad_input(
    file: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    top = "import multiprocessing\nif multiprocessing.parent_process() is not None:\n    1 / 0\n"
    path = file(top + METHOD.replace("BODY", "pass"))
    words = ["run", "--method", "mle", "--method", "mine", *TINY, "--set", "mine.epochs=1", "--plugin", str(path)]
    assert cli.main([*words, "--jobs", "2", "--results", str(tmp_path / "r")]) == 2
    error = capfd.readouterr().err
    assert "ZeroDivisionError" in error and "mine.py:3)" in error
    assert "Traceback" not in error and not list((tmp_path / "r").glob("*.json"))


def test_nan_is_a_value(file: Callable[..., Path], tmp_path: Path) -> None:
    path, results = file(METRIC.replace("BODY", "return {'': torch.full((rows,), torch.nan)}")), tmp_path / "r"
    assert cli.main(["run", "--method", "mle", *TINY, "--plugin", str(path), "--results", str(results)]) == 0
    (record,) = records.read(results)
    assert len(record.values.metrics["mine"].values) == 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    assert cli.main(["run", "--method", "mle", *TINY, "--results", str(place)]) == 0
    return place


FEW = [
    ("if count < 45: raise ValueError('too few')", "ValueError: too few"),
    ("if count < 45: sys.exit(3)", "it calls sys.exit(3)"),
    ("if count < 45: return {'': torch.zeros(3)}", "it returned (3,) for the key '', not (R,) = (2,)"),
    ("if count < 45: return {}", "returns no value of the key ''"),
]


@pytest.mark.parametrize(("body", "words"), FEW)
def test_a_metric_that_fails_without_some_examples_is_bad_input(
    file: Callable[..., Path], trained: Path, body: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "count = evaluation.y.shape[1]", body, "return {'': evaluation.y.double().mean(1)}"
    path = file(METRIC.replace("BODY", "\n        ".join(lines)))
    assert cli.main(["compare", str(trained), str(trained), "--metrics", "mine", "--plugin", str(path)]) == 2
    line = one_line(capsys)
    assert re.search(r"metric mine \(\S*mine\.py:\d+\): ", line) and words in line


def test_a_metric_that_looks_up_probabilities_is_compared(file: Callable[..., Path], tmp_path: Path) -> None:
    """Groups of posterior samples have none: it is not known without them, and that is all."""
    words = ["run", "--method", "mc_dropout", *TINY[:-2], "--set", "mc_dropout.epochs=1", "--samples", "12"]
    assert cli.main([*words, "--results", str(tmp_path / "r")]) == 0
    path = file(METRIC.replace("BODY", "return {'': evaluation.test.arrays()['probs'].double().amax(-1).mean(1)}"))
    found = api.compare(tmp_path / "r", tmp_path / "r", metrics=["mine"], plugins=[path])
    assert [finding.metric for finding in found.findings] == ["mine"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", "fit returned a NoneType without state"),
        ("return model", "fit returned a Logistic without state"),
        (
            "from dataclasses import replace as r; p = super().fit(model, data, rng); return r(p, state={})",
            "state is empty",
        ),
        (
            "from dataclasses import replace as r; p = super().fit(model, data, rng); "
            "return r(p, bound=torch.zeros(3))",
            "the posterior's bound is (3,), not (2,) for 2 replicates",
        ),
        (
            "from dataclasses import replace as r; p = super().fit(model, data, rng); "
            "return r(p, facts={'a': torch.zeros(2, 2)})",
            "the posterior's facts['a'] is (2, 2), not (2,)",
        ),
        (
            "from dataclasses import replace as r; p = super().fit(model, data, rng); "
            "return r(p, state={k: v[:1] for k, v in p.state.items()})",
            "the posterior's state['fc1.weight'] is (1, 3, 13), not (2, …)",
        ),
    ],
)
def test_what_is_no_posterior_is_bad_input(
    file: Callable[..., Path], tmp_path: Path, body: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(METHOD.replace("BODY", body))
    words_of = ["run", "--method", "mine", *TINY[:-2], "--set", "mine.epochs=1", "--plugin", str(path)]
    assert cli.main([*words_of, "--results", str(tmp_path / "r")]) == 2
    line = one_line(capsys)
    assert "method mine (" in line and "mine.py:6)" in line and words in line
    assert not list((tmp_path / "r").glob("*.json"))


X, Y = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
TWO = Signature((2,), 2, "categorical")


@pytest.mark.parametrize(
    ("task", "names"),
    [
        (Task(TWO, Examples(X, Y[:3]), Examples(X, Y)), ["train.y", "(3,)", "(4,)"]),
        (Task(TWO, Examples(X, Y), Examples(X[:, :1], Y)), ["test.x", "(4, 1)", "(N, 2)"]),
        (Task(TWO, Examples(X[:0], Y[:0]), Examples(X, Y)), ["train.x", "(0, 2)", "(N, 2)"]),
        (Task(TWO, Examples(X.double(), Y), Examples(X, Y)), ["train.x", "torch.float64", "torch.float32"]),
        (Task(TWO, Examples(X, Y.float()), Examples(X, Y)), ["train.y", "torch.float32", "torch.int64"]),
        (Task(TWO, Examples(X, Y + 1), Examples(X, Y)), ["train.y", "1 to 2", "0"]),
        (Task(TWO, Examples(X, Y), Examples(X, Y - 1)), ["test.y", "-1 to 0", "0"]),
        (Task(TWO, Examples(X / 0, Y), Examples(X, Y)), ["train.x", "finite"]),
        (Task(TWO, Examples(X, Y), Examples(X, Y), {"test": X}), ["'test'"]),
        (Task(TWO, Examples(X, Y), Examples(X, Y), truth={"log_probs": X[:, :1].double()}), ["truth", "(4, 2)"]),
        (Task(TWO, Examples(X, Y), Examples(X, Y), truth={"log_probs": X}), ["truth", "float64"]),
        (Task(TWO, Examples(X, Y), Examples(X, Y), truth={"probs": X.double()}), ["truth", "log_probs"]),
        (Task(TWO, Examples(X, Y), Examples(X, Y), {"a,b": X}), ["'a,b'"]),
        (Task(TWO, Examples(X, Y), Examples(X, Y), {"far": X[0]}), ["ood['far']", "(2,)"]),
        (Task(TWO, Examples(X, Y), Examples(X, Y), validation=Examples(X, Y[:1])), ["validation.y", "(1,)"]),
        (
            Task(Signature((2,), 1, "gaussian"), Examples(X, Y), Examples(X, Y)),
            ["train.y", "torch.int64", "torch.float32"],
        ),
    ],
)
def test_a_task_whose_parts_do_not_agree_is_refused(task: Task, names: list[str], refused: Any) -> None:
    with refused(*names, error=Broken):
        check_task(task)


def test_every_data_set_at_hand_passes() -> None:
    for name in ("digits", "wine", "diabetes", "coin_flips", "digits_near", "binary_digits"):
        check_task(catalog.load_task(catalog.choice("datasets", name, {}), 0))


# What is set for the whole process


SETTERS = [
    "torch.set_default_dtype(torch.float64)",
    "torch.set_grad_enabled(False)",
    "torch.set_default_device('meta')",
    "torch.set_num_threads(torch.get_num_threads() + 1)",
    "torch.use_deterministic_algorithms(True)",
    "torch.set_flush_denormal(True)",
    "torch.manual_seed(0)",
]


@pytest.mark.parametrize("where", ["import", "fit"])
@pytest.mark.parametrize("setter", SETTERS)
def test_what_a_plugin_sets_does_not_change_other_cells(
    file: Callable[..., Path], tmp_path: Path, setter: str, where: str
) -> None:
    top = METHOD.replace("BODY", "pass").replace("@dataclass", f"{setter}\n\n@dataclass", 1)
    source = top if where == "import" else METHOD.replace("BODY", setter)
    catalog.add_plugin(file(source))

    def trained(name: str, folder: str) -> Any:
        chosen = [catalog.choice("methods", name, {name: {"epochs": 1}})]
        chosen += [catalog.choice("models", "logistic", {}), catalog.choice("datasets", "wine", {})]
        batch = run.Batch((run.Row(Cell(*chosen, samples=2), Replicate(0)),))
        return run.run_batch(batch, run.Settings(tmp_path / folder)).records

    before = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_default_device()
    (first,) = trained("mle", "a")
    trained("mine", "b")
    (again,) = trained("mle", "c")
    assert first.values == again.values and not first.failed
    now = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_default_device()
    assert now == before


def test_what_a_metric_sets_is_put_back(file: Callable[..., Path], trained: Path) -> None:
    body = "torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False)"
    body += "; return {'': evaluation.y.double().mean(1)}"
    catalog.add_plugin(file(METRIC.replace("BODY", body)))
    api.table(trained, ["mine"])
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
    assert evaluation.KEY.fullmatch("fc1.weight")
