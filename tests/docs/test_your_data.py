"""docs/your-data.md: its commands lead from a file to a table."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bdlbench.cli import main as cli

PAGE = Path(__file__).parents[2] / "docs" / "your-data.md"
COMMANDS = re.findall(r"^python -m bdlbench (run .*)$", PAGE.read_text("utf-8"), re.MULTILINE)
QUICK = ["--set", "mlp.widths=5", "--set", "mle.epochs=2", "--seeds", "2", "--samples", "3", "--jobs", "1"]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a stranger that the page names."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0)
    lines = ["area;rooms;city;price"]
    for i in range(40):
        lines.append(
            f"{noise.uniform(40, 200):.1f};{i % 5 or ''};{'Bern' if i % 3 else 'Chur'};{noise.uniform(1, 9):.3f}"
        )
    Path("houses.csv").write_text("\n".join(lines), "utf-8")
    for name in ("cat", "dog"):
        Path("pets", name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(noise.integers(0, 255, (9, 8, 3), dtype=np.uint8)).save(f"pets/{name}/{i}.jpg")
    letters = [f"{i % 3} 1:{noise.normal():.3f} 4:{noise.normal():.3f}" for i in range(30)]
    Path("letters.svm").write_text("\n".join(letters), "utf-8")
    np.savez("scans.npz", x=noise.integers(0, 255, (30, 6, 6), dtype=np.uint8), y=np.arange(30) % 3)
    np.savez("scanner.npz", x=noise.integers(0, 255, (30, 8, 8), dtype=np.uint8), y=np.arange(30) % 10)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(c.split()[2:5]) for c in COMMANDS])
def test_a_command_leads_from_a_file_to_a_table(command: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = [*QUICK, *(["--set", "mc_dropout.epochs=2"] if "mc_dropout" in command else [])]
    assert cli.main([*shlex.split(command), *quick]) == 0
    assert "error over n replicates" in " ".join(capsys.readouterr().out.split())
    made = list((files / "results" / "local").glob("*.json"))
    assert len(made) == command.count("--method")


def test_there_is_a_command_for_each_format() -> None:
    named = {re.search(r"--dataset (\w+)", command)[1] for command in COMMANDS}  # type: ignore[index]
    assert named == {"csv", "image_folder", "libsvm", "npz", "digits"}
