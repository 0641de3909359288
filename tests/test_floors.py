"""Folders are floors: `[tool.importlinter]` in pyproject.toml says which rests on which, and is tripped here."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bdlbench"


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """What the contracts say of a copy of the package."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    command, place = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(tree)}
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, env=place, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its contracts, to be spoilt."""
    shutil.copytree(PACKAGE, tmp_path / "bdlbench", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_nothing_climbs(copy: Path) -> None:
    done = lint(copy)
    assert "2 kept, 0 broken" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("kernels/kl.py", "from bdlbench.networks.layers import Point"),
        ("core/spec.py", "def late():\n    from bdlbench.runs import batch"),
        ("methods/map.py", "from bdlbench.methods.mle import MLE"),
        ("methods/map.py", "from bdlbench.catalog import names"),
        ("new_room/nothing.py", "import math"),
    ],
)
def test_an_import_upwards_and_a_folder_without_a_floor_are_seen(copy: Path, file: str, line: str) -> None:
    path = copy / "bdlbench" / file
    path.parent.mkdir(exist_ok=True)
    (path.parent / "__init__.py").touch()
    with path.open("a", encoding="utf-8") as stream:
        stream.write(f"\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout or "exhaustive" in done.stdout + done.stderr


def busy_init(source: str) -> bool:
    """Whether an inner `__init__.py` holds more than a docstring."""
    body = ast.parse(source).body
    return len(body) > 1 or (len(body) == 1 and ast.get_docstring(ast.Module(body, [])) is None)


def test_init_files_do_nothing() -> None:
    inits = [path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    assert [str(path.relative_to(ROOT)) for path in inits if busy_init(path.read_text("utf-8"))] == []
    assert [busy_init(s) for s in ("", '"""Words."""\n', "import os\n", '"""Words."""\nX = 1\n')] == [0, 0, 1, 1]


def test_the_front_door_imports_nothing_heavy() -> None:
    """`instructions` must speak before torch computes; all else waits until it is asked for."""
    code = (
        "import sys, bdlbench; print(*sorted(m for m in sys.modules if m.startswith(('bdlbench.', 'torch', 'numpy'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["bdlbench.core", "bdlbench.core.instructions"]


def test_the_design_draws_the_tree() -> None:
    """As `python scripts/tree.py docs/design.md` writes it."""
    spec = importlib.util.spec_from_file_location("tree", ROOT / "scripts" / "tree.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    assert module.tree() in text
    assert max(map(len, module.tree().splitlines())) <= 120
