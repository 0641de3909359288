"""The commit that a record names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bdlbench.core import environment


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree with one commit, which stands for the package's own."""
    (tmp_path / "bdlbench" / "core").mkdir(parents=True)
    source = tmp_path / "bdlbench" / "core" / "environment.py"
    source.write_text("one\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(environment, "__file__", str(source))
    return tmp_path


def test_it_says_where_the_tree_was_edited(tree: Path) -> None:
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tree, capture_output=True, text=True, check=True)
    commit = asked.stdout.strip()
    (tree / "note.txt").write_text("not part of the tree")
    assert environment._commit.__wrapped__() == commit
    (tree / "bdlbench" / "core" / "environment.py").write_text("two\n")
    assert environment._commit.__wrapped__() == f"{commit}+changes"


def test_it_never_locks_the_index(tree: Path) -> None:
    """A run that is killed while git holds the lock would leave it behind, and nobody could commit."""
    source, index = tree / "bdlbench" / "core" / "environment.py", tree / ".git" / "index"
    os.utime(source, (1, 1))  # git would like to note that it is unchanged
    os.utime(index, (2, 2))
    assert not environment._commit.__wrapped__().endswith("+changes")
    assert index.stat().st_mtime == 2


def test_an_installed_package_names_none(tree: Path) -> None:
    (tree / ".git").rename(tree / "git")
    assert environment._commit.__wrapped__() == ""
