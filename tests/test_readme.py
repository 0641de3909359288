"""The README is a promise: its example runs as printed, and its commands parse."""

import re
import shlex
from pathlib import Path

import pytest

from bdlbench import api, catalog
from bdlbench.cli.main import main

README = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")
EXAMPLE = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "methods = {" in block)
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python -m bdlbench")
]


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.setitem(catalog._plugins, "methods", {})
    path = tmp_path / "mine.py"
    path.write_text(EXAMPLE, encoding="utf-8")
    return path


def test_the_example_is_short():
    assert len(EXAMPLE.splitlines()) <= 30


def test_the_example_runs_as_a_plugin(plugin, tmp_path):
    results = ["--results", str(tmp_path / "out"), "--jobs", "1", "--seeds", "2", "--samples", "3"]
    cell = ["--method", "last_layer_dropout", "--model", "logistic", "--dataset", "wine"]
    options = ["--set", "last_layer_dropout.rate=0.2,0.5", "--set", "last_layer_dropout.epochs=2"]
    assert main(["run", "--plugin", str(plugin), *results, *cell, *options]) == 0
    assert set(api.read(tmp_path / "out")["method"]) == {"last_layer_dropout"}
    assert len(list((tmp_path / "out").glob("*.json"))) == 2


@pytest.mark.parametrize("command", [c for c in COMMANDS if " run" in c])
def test_every_run_command_plans(command, plugin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(command)[3:], "--dry-run"]) in (0, 2 if "mnist" in command else 0)


def test_the_example_is_compared_at_equal_budgets(plugin, tmp_path, monkeypatch, capsys):
    (command,) = [c for c in COMMANDS if "--plugin" in c]
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(command)[3:], "--dataset", "digits", "--dry-run"]) == 0
    options = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    theirs = [line for line in options if line.startswith("last_layer_dropout: ")]
    ours = [line for line in options if line.startswith("mle: ")]
    assert len(theirs) == 2 and len(ours) == 1
    assert all("epochs 120" in line for line in (*theirs, *ours))
    assert "batch_size 64" in ours[0] and "Plan(self.epochs, 64," in EXAMPLE


def test_the_other_commands_are_known(capsys):
    verbs = {shlex.split(command)[3] for command in COMMANDS}
    assert verbs == {
        *("run", "list", "table", "compare", "rank", "data", "score", "report", "peers", "verify", "gate", "check"),
    }


def test_the_gate_takes_ten_lines():
    text = (Path(__file__).resolve().parents[1] / "docs" / "gate.md").read_text("utf-8")
    (block,) = re.findall(r"<!-- ten lines -->\n\n```yaml\n(.*?)```", text, re.DOTALL)
    assert len(block.splitlines()) <= 10
    named = re.search(r"OWNER/bdlbench/(\S+)@", block)[1]
    action = Path(__file__).resolve().parents[1] / named
    assert (action / "action.yml").exists() and (action / "gate.sh").exists()
