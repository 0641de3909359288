"""What an error repeats of what it was given has an end."""

from __future__ import annotations

from bdlbench.core.errors import LONGEST, LONGEST_LIST, named, unknown


def test_names_are_cut_where_they_are_long_or_many() -> None:
    assert named(["a", "b"]) == "a, b" and named([]) == ""
    assert named(["x" * 300, "b"]) == f"{'x' * LONGEST}…, b"
    many = named(f"column {i}" for i in range(100_000))
    assert many.startswith("column 0, column 1, ") and "100000" in many and len(many) < LONGEST_LIST + 40


def test_an_unknown_name_is_one_line_whatever_is_known() -> None:
    for name in ("y", "x" * 10_000):
        assert len(str(unknown("column", name, ["x" * 10_000, *map(str, range(10_000))]))) < 2000
    assert "'nll'" in str(unknown("metric", "nl", ["nll", "ece"]))
