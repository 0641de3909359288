"""The GPU's table on a CPU: everything that needs no CUDA is measured, and what does says so."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / "scripts" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_every_table_says_so(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([str(tmp_path)]) == 0
    text = (tmp_path / "throughput.md").read_text("utf-8")
    assert text.count("not measured") == len(gpu.HEADS)


@pytest.mark.slow
def test_the_cpu_path_fills_every_table(gpu):
    extent = gpu.Extent((8,), (1, 2), samples=2, square=32, copied=1024, epochs=1, rounds=1)
    tables = gpu.measured(torch.device("cpu"), extent)
    methods, precisions = len(gpu.PRODUCTS), len(gpu.PRECISIONS)
    assert [len(lines) for lines in tables.values()] == [
        precisions + 1,
        methods * precisions,
        methods * precisions,
        methods * 2,
        precisions,
        2,
    ]
    assert tables["Step of batch 100"][-1] == "as a CUDA graph | not measured"
    for title, lines in tables.items():
        assert {line.count("|") + 1 for line in lines} == {len(gpu.HEADS[title])}
    assert "| mle | 8 | float32 |" in gpu.document("a CPU", tables)


def test_errors_grow_as_precision_falls(gpu):
    errors = {line.split(" | ")[0]: float(line.split(" | ")[1]) for line in gpu.error_lines(torch.device("cpu"))}
    assert 0 < errors["float32"] < 1e-4 < errors["bf16"] < 1


def test_precision_is_restored(gpu):
    before = torch.get_float32_matmul_precision()
    with gpu.PRECISIONS["tf32"](torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_fractions_of_the_ceilings_by_hand(gpu):
    limit = gpu.Ceilings({"float32": 1e12}, copy=1e11)
    assert gpu.of_the_limit(1e3, 1e8, 1e7, limit, "float32") == "10.0% | 10.0%"
    assert gpu.weights((784, 300, 100, 10)) == 266_200
