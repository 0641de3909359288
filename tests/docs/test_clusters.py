"""The table of docs/clusters.md that says from which size on a cluster pays."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("cluster_pays", ROOT / "scripts" / "cluster_pays.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cluster_pays"] = module  # its dataclass looks up its annotations there
    spec.loader.exec_module(module)
    return module


pays = script()


def deployment(workers: int, own: int, start: float, per_batch: float) -> Any:
    return pays.Deployment("", workers, own, start, per_batch)


@pytest.mark.parametrize(
    ("given", "minutes", "cells"),
    [
        ((2, 1, 0.0, 0.0), 1.0, 2),  # one is no faster by two workers, two are
        ((2, 1, 61.0, 0.0), 1.0, 4),  # 121 s for two cells, 181 s for three or four, of 60 s each
        ((2, 2, 0.0, 0.0), 1.0, None),  # as many workers as cores
        ((2, 1, 0.0, 31.0), 1.0, None),  # the scheduler takes longer than the second worker gains
    ],
)
def test_from_which_number_of_cells_a_cluster_pays(given: Any, minutes: float, cells: int | None) -> None:
    assert pays.pays_from(deployment(*given), minutes) == cells


@pytest.mark.parametrize("minutes", pays.MINUTES)
def test_from_there_on_it_is_always_faster_and_just_before_it_is_not(minutes: float) -> None:
    for one in pays.DEPLOYMENTS:

        def is_faster(cells: int, at: Any = one) -> bool:
            there: float = pays.seconds(cells, minutes, at.workers, at.start, at.per_batch)
            return there < pays.seconds(cells, minutes, at.own, 0.0, 0.0)

        first = pays.pays_from(one, minutes)
        assert first is not None
        assert all(is_faster(cells) for cells in range(first, 4 * first + 500))
        assert first == 1 or not is_faster(first - 1)


def test_the_page_holds_the_table() -> None:
    page = (ROOT / "docs" / "clusters.md").read_text("utf-8")
    assert f"{pays.MARKS[0]}\n\n{pays.table()}\n\n{pays.MARKS[1]}" in page
