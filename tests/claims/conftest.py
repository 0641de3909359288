"""A claim against a contradiction: the whole pipeline, with an entry of the catalog replaced, at a smaller size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from bdlbench.cli.main import main

Verdict = Callable[..., tuple[int, str]]


@pytest.fixture
def verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Verdict:
    """Run `claims` on a claim at a smaller size, and return the exit code and what was printed.

    smaller: keywords of `dataclasses.replace` for the claim's suite, as Python text; plugin: the text of a file that
    replaces entries, and their names.
    """

    def run(name: str, smaller: str = "", plugin: str = "", replace: tuple[str, ...] = ()) -> tuple[int, str]:
        file = tmp_path / "smaller.py"
        file.write_text(
            dedent(f"""
            from dataclasses import replace
            from bdlbench.studies.registry import load
            from bdlbench.studies.experiment import Setup
            own = load({name!r})[{name!r}]
            suite = replace(own.bundled.suite, {" ".join(smaller.splitlines())})
            claims = {{{name!r}: replace(own, bundled=Setup(suite, "smaller"))}}
            """),
            "utf-8",
        )
        arguments = ["claims", str(file), "--results", str(tmp_path / "claims"), "--jobs", "1"]
        if plugin:
            (tmp_path / "contradiction.py").write_text(dedent(plugin), "utf-8")
            arguments += ["--plugin", str(tmp_path / "contradiction.py"), *(f"--replace={one}" for one in replace)]
        code = main(arguments)
        out = capsys.readouterr().out
        assert (tmp_path / "claims" / name / "README.md").exists() or code == 2
        return code, out

    return run
