"""The page of the generated problems: what its numbers are divided by, and which error they have."""

import importlib.util
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bdlbench import api
from bdlbench.records import record as records

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("testbed_page", ROOT / "scripts" / "testbed_page.py")
assert spec and spec.loader
page: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(page)


def test_a_ratio_is_that_of_means_and_its_error_is_between_seeds() -> None:
    """Two kinds of problem, two seeds, by hand: (1 + 3 + 2 + 6) / (2 + 4 + 8 + 10)."""
    frame = pd.DataFrame({"problem": [1, 2, 1, 2], "seed": [0, 0, 1, 1], "testbed_kl": [1.0, 3.0, 2.0, 6.0]})
    frame["uniform testbed_kl"] = [2.0, 4.0, 8.0, 10.0]
    frame["testbed_kl_dyadic"] = frame["uniform testbed_kl_dyadic"] = 5.0
    found = page.of_method(frame)
    assert found["testbed_kl"] == pytest.approx((12 / 24, 1.0 / 6.0))  # seeds have means 2 and 4: ±1, over a mean of 6
    assert found["testbed_kl_dyadic"] == (1.0, 0.0)


@pytest.mark.slow
def test_the_page_tells_each_temperature_and_what_is_missing(tmp_path: Path) -> None:
    cells: dict[str, Any] = {"model": "logistic", "samples": 2, "seeds": 2, "splits": "each", "jobs": 1}
    for method, ratios in (("mle", [1, 2]), ("map", 2)):
        own = {"testbed.joint": 2, "testbed.num_test": 20, f"{method}.epochs": 1, "testbed.train_ratio": ratios}
        api.run(**cells, method=method, dataset="testbed", set=own, results=tmp_path)
    page.main(tmp_path)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert "## T = 0.1" in text
    assert "map: only 1 of 2 kinds of problem" in text
    (record, *_) = [one for one in records.read(tmp_path) if one.cell.method.name == "map"]
    (first, second) = page.rows(record)
    assert first["seed"] == 0 and second["seed"] == 1
    assert first["uniform testbed_kl_dyadic"] == pytest.approx(10 * first["uniform testbed_kl"])
