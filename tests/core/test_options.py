import datetime as dt
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from bdlbench import catalog
from bdlbench.core import options
from bdlbench.core.errors import BadInput
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
    ("given", "message"),
    [
        ({"cuont": 1}, "unknown option of entry 'cuont': did you mean 'count'"),
        ({"signature": 1}, "unknown option of entry 'signature'"),
        ({"count": "x"}, "entry.count=x is not a whole number"),
        ({"count": 1.5}, "entry.count=1.5 is not a whole number"),
        ({"count": "1.5"}, "entry.count=1.5 is not a whole number"),
        ({"count": math.inf}, "entry.count=inf is not a whole number"),
        ({"count": True}, "entry.count=true is not a whole number"),
        ({"count": 0}, "entry.count=0 is out of range"),
        ({"rate": "half"}, "entry.rate=half is not a number"),
        ({"rate": 1.5}, r"entry.rate=1.5 is out of range: allowed \[0, 1\]"),
        ({"rate": "nan"}, "entry.rate=nan is out of range"),
        ({"scale": 0}, r"entry.scale=0.0 is out of range: allowed \(0, inf\)"),
        ({"scale": "inf"}, "entry.scale=inf is out of range"),
        ({"widths": "300-x"}, "entry.widths=300-x is not whole numbers joined by '-'"),
        ({"widths": "-7"}, "entry.widths=-7 is not whole numbers joined by '-'"),
        ({"widths": "10--20"}, "entry.widths=10--20 is not whole numbers"),
        ({"widths": "-"}, "entry.widths=- is not whole numbers"),
        ({"widths": "10-"}, "entry.widths=10- is not whole numbers"),
        ({"widths": [1.5]}, "entry.widths=1.5 is not whole numbers"),
        ({"widths": [True, 5]}, "is not whole numbers"),
        ({"widths": [-7]}, "entry.widths=-7 is out of range"),
        ({"widths": {"10": 1}}, "is not whole numbers"),
        ({"widths": "١٠"}, "is not whole numbers"),
        ({"count": 2**63}, "is not a whole number of 64 bits"),
        ({"count": 2.0**53 + 2}, "is not a whole number"),
        ({"count": "9" * 5000}, "is not a whole number"),
        ({"count": 16**6000}, "entry.count=a number of thousands of digits is not a whole number"),
        ({"count": [5]}, "entry.count=5 is not a whole number"),
        ({"count": dt.date(2020, 1, 1)}, "entry.count=2020-01-01 is not a whole number"),
        ({"rate": True}, "entry.rate=true is not a number"),
        ({"rate": "1e-999"}, "entry.rate=1e-999 is not a number of 64 bits"),
        ({"free": "1e999"}, "entry.free=1e999 is not a number of 64 bits"),
        ({"free": "inf"}, "entry.free=inf is not a finite number"),
        ({"free": -math.inf}, "entry.free=-inf is not a finite number"),
        ({"free": 10**400}, "is not a number of 64 bits"),
        ({"free": "٣"}, "is not a number"),
        ({"flag": 1}, "entry.flag=1 is not true or false"),
        ({"flag": 0.0}, "entry.flag=0.0 is not true or false"),
        ({"word": True}, "entry.word=true is not text"),
        ({"other": 5}, "entry.other=5 is not text"),
        ({"other": "m\x1b[1mle"}, "is not text on one line"),
        ({"widths": [300, 0]}, "entry.widths=300-0 is out of range"),
        ({"flag": "maybe"}, "entry.flag=maybe is not true or false"),
        ({"word": "alfa"}, "unknown value of entry.word 'alfa': did you mean 'alpha'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(given, message):
    with pytest.raises(BadInput, match=message) as caught:
        resolve(Entry, "entry", given)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


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
