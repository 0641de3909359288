"""The same vector instructions everywhere: before torch computes, unless --native, never where AVX2 is absent."""

import os
import subprocess
import sys

import pytest
import torch

from bdlbench.cli import main as cli
from bdlbench.core import environment, instructions

ASKED = [*instructions.LIMITS, instructions.NATIVE]
avx2 = pytest.mark.skipif(not instructions.has_avx2(), reason="the processor has no AVX2, or the system does not tell")


@pytest.fixture
def clean(monkeypatch):
    """An environment in which nothing was asked for, and what a test does to it is undone."""
    for name in ASKED:
        monkeypatch.setenv(name, "")  # so that it is put back, whoever sets or deletes it
        monkeypatch.delenv(name)
    return monkeypatch


def in_force(code, **extra):
    """What torch uses in a new process that ran `code`."""
    env = {name: value for name, value in os.environ.items() if name not in ASKED} | extra
    code = f"{code}\nimport torch\nprint(torch.backends.cpu.get_cpu_capability())"
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.slow
@avx2
def test_the_package_limits_torch_to_avx2_unless_told_otherwise():
    own = in_force("")
    assert in_force("import torch, bdlbench") == "AVX2"  # torch chooses when it first computes
    assert in_force("import bdlbench", ATEN_CPU_CAPABILITY="default") == "DEFAULT"
    assert in_force("from bdlbench.cli.main import main; main(['list', '--native', 'suites'])").endswith(own)
    worker = "import subprocess, sys, bdlbench; subprocess.run([sys.executable, '-c', 'import torch; "
    worker += "print(torch.backends.cpu.get_cpu_capability())'])"
    assert in_force(worker, BDLBENCH_NATIVE="1").split() == [own, own]


@avx2
def test_what_the_user_asks_for_stays(clean):
    clean.setenv("ATEN_CPU_CAPABILITY", "default")
    instructions.choose()
    assert instructions.asked() == {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    clean.setenv(instructions.NATIVE, "1")
    instructions.choose()
    assert instructions.asked() == {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "native"}


def test_a_processor_without_avx2_is_left_alone(clean, tmp_path):
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd sve\n")
    (tmp_path / "old").write_text("flags\t\t: fpu sse4_2 avx fma\n")
    (tmp_path / "new").write_text("model name\t: x\nflags\t\t: fpu avx fma avx2 avx512f\n")
    found = {name: instructions.has_avx2(tmp_path / name) for name in ("arm", "old", "new", "absent")}
    if sys.platform != "win32":
        assert found == {"arm": False, "old": False, "new": True, "absent": False}
    clean.setattr(instructions, "has_avx2", lambda: False)
    instructions.choose()
    assert set(instructions.asked().values()) == {"native"}


def test_a_record_says_what_was_asked_for_and_what_is_in_force(clean):
    found = environment.describe("cpu", 1)
    assert found["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert found["instructions"] == {"ATEN_CPU_CAPABILITY": "native", "ONEDNN_MAX_CPU_ISA": "native"}


def test_native_stands_before_or_after_the_command(clean, capsys):
    for words in (["--native", "list", "suites"], ["list", "suites", "--native"]):
        clean.delenv(instructions.NATIVE, raising=False)
        assert cli.main(words) == 0
        assert os.environ[instructions.NATIVE] == "1"
    assert cli.main(["--native"]) == 2
