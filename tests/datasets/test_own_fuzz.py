"""Whatever stands in a file of one's own: it becomes a valid task, or is refused in one line."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdlbench import catalog
from bdlbench.core.errors import BadInput
from bdlbench.entries import check_task

ODD = [
    *",;\t|\"'\n\r\0.+-٣é\ufeff\u2028\x0b",
    "NA",
    "nan",
    "inf",
    "1e400",
    "0x10",
    "1_0",
    "2020-01-01",
    "\n\n",
    ",,,",
    '""',
]


def attempt(name: str, options: dict[str, Any], split: int) -> str:
    try:
        check_task(catalog.load_task(catalog.choice("datasets", name, {name: options}), split))
    except BadInput as error:
        assert str(error).isprintable(), repr(str(error))
        return "refused"
    return "read"


def changed(text: str, draw: random.Random) -> str:
    """The text with a few characters replaced, removed, repeated or put in, or with its end cut off."""
    letters = list(text)
    for _ in range(draw.randint(1, 3)):
        i = draw.randrange(len(letters))
        kind = draw.choice(["replaced", "removed", "put in", "repeated", "cut"] if i > 300 else ["replaced", "put in"])
        if kind == "replaced":
            letters[i] = draw.choice(ODD)
        elif kind == "removed":
            del letters[i : i + draw.randint(1, 30)]
        elif kind == "put in":
            letters[i:i] = draw.choice(ODD)
        elif kind == "repeated":
            letters[i:i] = letters[i - 40 : i]
        else:
            letters = letters[:i]
    return "".join(letters)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_changed_table_is_read_or_refused(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw, ends = random.Random(seed), Counter[str]()
    lines = [
        f"{draw.uniform(0, 9):.2f},{draw.randint(0, 3)},{draw.choice('uvw')},{draw.uniform(0, 5):.3f}"
        for _ in range(40)
    ]
    whole = "\n".join(["a,b,c,y", *lines]) + "\n"
    for _ in range(100):
        Path("t.csv").write_text(changed(whole, draw) if draw.random() < 0.9 else whole, "utf-8", newline="")
        options = {
            "path": "t.csv",
            "target": draw.choice("yyyyca"),
            "missing": draw.choice(["refused", "mean", "median"]),
        }
        options |= {"categorical": draw.choice(["", "b"]), "missing_indicator": draw.choice([True, False])}
        ends[attempt("csv", options, draw.randint(0, 3))] += 1
    assert min(ends["read"], ends["refused"]) > 9, ends


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_changed_arrays_are_read_or_refused(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw, noise, ends = random.Random(seed), np.random.default_rng(seed), Counter[str]()
    shapes = [(30, 3), (30, 8, 8), (30, 1, 8, 8), (30, 4, 4, 3), (30, 13), (30,), (0, 3), (30, 0), ()]
    types = [np.uint8, np.float32, np.float64, np.float16, np.int64, np.bool_, np.longdouble, np.complex64]
    for _ in range(100):
        x = noise.integers(0, 200, draw.choice(shapes)).astype(draw.choice(types))
        y = draw.choice(
            [noise.integers(0, 2, 30), noise.normal(size=30), np.array(list("abc"))[noise.integers(0, 3, 30)]]
        )
        if x.dtype.kind == "f" and x.size and draw.random() < 0.3:
            x.reshape(-1)[0] = draw.choice([np.nan, np.inf, 6e4])
        np.savez("t.npz", x=x, y=y)
        if draw.random() < 0.2:
            content = bytearray(Path("t.npz").read_bytes())
            content[draw.randrange(len(content))] = draw.randrange(256)
            Path("t.npz").write_bytes(content)
        kind = draw.choice(["auto", "auto", "images", "sequences"])
        ends[attempt("npz", {"path": "t.npz", "kind": kind, "missing": draw.choice(["refused", "mean"])}, 0)] += 1
        attempt("wine", {"ood": "npz:t.npz"}, 0)
    assert min(ends["read"], ends["refused"]) > 9, ends
