"""The table says who is first in which class, over what, and who is missing."""

import csv
import io
import json

import pytest

from bdlbench.peers.show import TIMING_FORMATS, render, version
from bdlbench.peers.work import Contender, PeerRow, Timing, Work

PLAIN = Contender("plain torch", list, "default Adam")
FUSED = Contender("plain torch", list, "fused Adam")
OURS = Contender("bdlbench", list)
SLOW = Contender("plain autograd", list, differs="nothing")
OTHER = Contender("bayesian-torch", list, "Flipout", in_class=False)
GONE = Contender("Pyro", list)
SECONDS = {PLAIN: (2.0, 2.0), FUSED: (1.0, 1.0), OURS: (3.0, 3.0), SLOW: (8.0, 8.0), OTHER: (2.5, 2.5)}


def row(name="w", serial=False, timed=(SLOW, OTHER, OURS)):
    work = Work(name, "a work", PLAIN, FUSED, (SLOW, OTHER, GONE, OURS), 1, 1, serial)
    timings = [
        Timing(c, SECONDS[c]) if c in (PLAIN, FUSED, *timed) else Timing(c, failure="not installed (pyro)")
        for c in (PLAIN, FUSED, SLOW, OTHER, GONE, OURS)
    ]
    return PeerRow(work, tuple(timings))


@pytest.mark.parametrize("style", ["terminal", "markdown"])
def test_the_best_of_the_class_comes_first_then_others(style):
    text = render([[row()]], style, 1, width=150)
    names = ["bdlbench", "plain autograd", "(bayesian-torch (Flipout))", "Pyro"]
    places = [text.rindex(name) for name in names]
    assert places == sorted(places)
    assert "1.50 / 3.00" in text  # 3 s over 2 s, and over 1 s
    assert "(1.25 / 2.50)" in text
    assert "not installed (pyro)" in text
    assert "plain torch (default Adam) 2000 ms, plain torch (fused Adam) 1000 ms" in text


def test_markdown_sets_the_first_of_a_class_in_bold():
    assert "| w | **1.50 / 3.00** | 4.00 / 8.00 | (1.25 / 2.50) | — |" in render([[row()]], "markdown", 1)


@pytest.mark.parametrize("style", TIMING_FORMATS)
def test_a_row_of_which_no_contender_was_timed(style):
    text = render([[row("gone", timed=())]], style, 1, width=150)
    assert "not installed (pyro)" in text
    assert style != "markdown" or "| gone | — | — | — | — |" in text


def test_networks_at_once_are_printed_as_a_rate():
    assert "0.7× / 0.3×" in render([[row(serial=True)]], "markdown", 1)


def test_csv_and_json_keep_numbers_and_absences():
    lines = list(csv.DictReader(io.StringIO(render([[row()], [row()]], "csv", 1))))
    assert len(lines) == 12
    assert {line["table"] for line in lines} == {"1", "2"}
    ours = next(line for line in lines if line["library"] == "bdlbench")
    assert (float(ours["over_plain_median"]), float(ours["over_fastest_q3"])) == (1.5, 3.0)
    body = json.loads(render([[row()]], "json", 2))
    assert body["environment"]["threads"] == 2
    gone = next(line for line in body["lines"] if line["library"] == "Pyro")
    assert (gone["seconds"], gone["over_plain_median"], gone["failure"]) == ([], None, "not installed (pyro)")


def test_two_tables_are_both_printed():
    text = render([[row()], [row()]], "terminal", 1)
    assert "table 1 of 2" in text and "table 2 of 2" in text


def test_versions():
    assert version("plain autograd") == version("plain torch") != ""
    assert version("bdlbench") != version("plain torch")
