import datetime as dt
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from bdlbench import catalog
from bdlbench.core import options
from bdlbench.core.layout import PerRow
from bdlbench.core.options import option, resolve, row_of


@dataclass(frozen=True)
class Entry:
    signature: Any = None
    count: int = option(3, "a count", low=1)
    rate: PerRow = option(0.5, "a rate", low=0, high=1)
    scale: PerRow = option(1.0, "a scale", low=0, open_ends=True)
    free: float = option(0.0, "any number")
    widths: tuple[int, ...] = option((50,), "widths", low=1)
    flag: bool = option(False, "yes or no")
    word: str = option("a", "a word", choices=("alpha", "a", "beta"))
    other: str = option("mle", "an entry", entry="methods")


@dataclass(frozen=True)
class HalfOpen:
    part: float = option(0.5, "without its upper end", low=0, high=1, open_ends="high")
    factor: float = option(0.5, "without its lower end", low=0, high=1, open_ends="low")


def test_one_end_of_a_range_may_be_excluded(refused):
    assert resolve(HalfOpen, "half", {"part": 0, "factor": 1}) == {"part": 0.0, "factor": 1.0}
    for given, name in (({"part": 1}, "[0, 1)"), ({"factor": 0}, "(0, 1]"), ({"part": -0.1}, "[0, 1)")):
        with refused(name):
            resolve(HalfOpen, "half", given)
    known = options.fields(HalfOpen)
    ends = {name: [options.is_open(known[name], end) for end in ("low", "high")] for name in known}
    assert ends == {"part": [False, True], "factor": [True, False]}


def test_defaults_are_all_there_and_only_options_are():
    assert resolve(Entry, "entry", {}) == {
        "count": 3,
        "rate": 0.5,
        "scale": 1.0,
        "free": 0.0,
        "widths": (50,),
        "flag": False,
        "word": "a",
        "other": "mle",
    }
    assert options.per_row_names(Entry) == {"rate", "scale"}


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("count", "7", 7),
        ("count", 7.0, 7),
        ("rate", "1e-3", 1e-3),
        ("rate", 0, 0.0),
        ("rate", 1, 1.0),
        ("free", "-3", -3.0),
        ("widths", "300-100", (300, 100)),
        ("widths", [300, 100], (300, 100)),
        ("widths", "", ()),
        ("widths", "10", (10,)),
        ("widths", 10, (10,)),
        ("widths", [10.0, 20], (10, 20)),
        ("widths", [], ()),
        ("count", "1_000", 1000),
        ("count", 2**63 - 1, 2**63 - 1),
        ("count", 2.0**53, 2**53),
        ("free", "-0.1e-3", -0.0001),
        ("free", "0e5", 0.0),
        ("flag", "True", True),
        ("flag", "0", False),
        ("flag", True, True),
        ("word", "beta", "beta"),
        ("other", "map", "map"),
    ],
)
def test_text_and_toml_values_are_read_as_the_type_of_the_default(name, raw, value):
    found = resolve(Entry, "entry", {name: raw})[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"cuont": 1}, ["option", "entry", "cuont", "count"]),
        ({"signature": 1}, ["unknown", "entry", "signature"]),
        ({"count": "x"}, ["entry.count=x", "whole"]),
        ({"count": 1.5}, ["entry.count=1.5", "whole"]),
        ({"count": "1.5"}, ["entry.count=1.5", "whole"]),
        ({"count": math.inf}, ["entry.count=inf", "whole"]),
        ({"count": True}, ["entry.count=true", "whole"]),
        ({"count": 0}, ["entry.count=0", "[1, inf]"]),
        ({"rate": "half"}, ["entry.rate=half", "number"]),
        ({"rate": 1.5}, ["entry.rate=1.5", "[0, 1]"]),
        ({"rate": "nan"}, ["entry.rate=nan", "[0, 1]"]),
        ({"scale": 0}, ["entry.scale=0.0", "(0, inf)"]),
        ({"scale": "inf"}, ["entry.scale=inf", "(0, inf)"]),
        ({"widths": "300-x"}, ["entry.widths=300-x", "'-'", "whole"]),
        ({"widths": "-7"}, ["entry.widths=-7", "'-'", "whole"]),
        ({"widths": "10--20"}, ["entry.widths=10--20", "whole"]),
        ({"widths": "-"}, ["entry.widths=-", "whole"]),
        ({"widths": "10-"}, ["entry.widths=10-", "whole"]),
        ({"widths": [1.5]}, ["entry.widths=1.5", "whole"]),
        ({"widths": [True, 5]}, ["entry.widths=True-5", "whole"]),
        ({"widths": [-7]}, ["entry.widths=-7", "[1, inf]"]),
        ({"widths": {"10": 1}}, ["entry.widths={'10': 1}", "whole"]),
        ({"widths": "١٠"}, ["entry.widths=١٠", "whole"]),
        ({"count": 2**63}, ["entry.count=9223372036854775808", "whole", "64 bits"]),
        ({"count": 2.0**53 + 2}, ["entry.count=9007199254740994.0", "whole"]),
        ({"count": "9" * 5000}, [f"entry.count={'9' * 60}…", "whole"]),
        ({"count": 16**6000}, ["entry.count=", "thousands", "whole"]),
        ({"count": [5]}, ["entry.count=5", "whole"]),
        ({"count": dt.date(2020, 1, 1)}, ["entry.count=2020-01-01", "whole"]),
        ({"rate": True}, ["entry.rate=true", "number"]),
        ({"rate": "1e-999"}, ["entry.rate=1e-999", "64 bits"]),
        ({"free": "1e999"}, ["entry.free=1e999", "64 bits"]),
        ({"free": "inf"}, ["entry.free=inf", "finite"]),
        ({"free": -math.inf}, ["entry.free=-inf", "finite"]),
        ({"free": 10**400}, [f"entry.free=1{'0' * 59}…", "64 bits"]),
        ({"free": "٣"}, ["entry.free=٣", "64 bits"]),
        ({"flag": 1}, ["entry.flag=1", "false"]),
        ({"flag": 0.0}, ["entry.flag=0.0", "false"]),
        ({"word": True}, ["entry.word=true", "text"]),
        ({"other": 5}, ["entry.other=5", "text"]),
        ({"other": "m\x1b[1mle"}, [r"entry.other='m\x1b[1mle'", "text"]),
        ({"widths": [300, 0]}, ["entry.widths=300-0", "[1, inf]"]),
        ({"flag": "maybe"}, ["entry.flag=maybe", "false"]),
        ({"word": "alfa"}, ["value", "entry.word", "alfa", "alpha"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(given, names, refused):
    with refused(*names):
        resolve(Entry, "entry", given)


def test_rows_are_repeated_for_members_and_numbers_are_not():
    entry = Entry(rate=torch.tensor([0.1, 0.2]), scale=2.0)
    repeated = options.repeat_rows(entry, 3)
    torch.testing.assert_close(repeated.rate, torch.tensor([0.1, 0.1, 0.1, 0.2, 0.2, 0.2]))
    assert repeated.scale == 2.0
    assert repeated.widths == (50,)


def test_one_replicates_options_are_numbers():
    method = catalog.load("methods", "map")(prior_sd=torch.tensor([0.5, 2.0], dtype=torch.float64), epochs=7)
    alone = row_of(method, 1)
    assert (alone.prior_sd, alone.epochs, alone.learning_rate) == (2.0, 7, method.learning_rate)
    assert row_of(alone, 0) == alone


def test_an_option_that_came_later_is_no_part_of_a_cell_at_its_default():
    """The keys of records from before it stay what they were; a value of its own is another cell."""
    before = catalog.choice("methods", "mle", {})
    assert "last_batch" not in dict(before.options)
    assert catalog.choice("methods", "mle", {"mle": {"last_batch": "dropped"}}) == before
    kept = catalog.choice("methods", "mle", {"mle": {"last_batch": "kept"}})
    assert dict(kept.options) == {**dict(before.options), "last_batch": "kept"}
    assert catalog.recorded("methods", kept) == kept
    assert catalog.build_method([before]).last_batch == "dropped"
    assert catalog.build_method([kept, kept]).last_batch == "kept"
    assert catalog.batch_key("methods", before) != catalog.batch_key("methods", kept)
