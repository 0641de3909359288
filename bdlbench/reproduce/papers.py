"""Published numbers as data: a file `published/NAME.toml` for each paper, with its rows in `published/NAME.csv`.

The TOML file says what the paper is and which suite is its protocol:

    title = "Dropout as a Bayesian approximation"
    citation = "Gal & Ghahramani 2016, ICML, Table 1"
    suite = "gal2016"
    remarks = ["One τ for all splits was found with the test sets in view: run as published."]
    exact = false           # true where the protocol leaves nothing to chance, the splits included
    rows = "gal2016.csv"    # beside it; by default the same name
    [limits]                # of a quantity, where they differ from published/limits.toml
    rmse = ["2 %", "50 %"]

A line of the CSV file is one number as it was printed: `table, method, dataset, quantity, value, spread, kind, count`
say what was published; `treatment`, `model` and `settings` ("mc_dropout.epochs=400; mlp.widths=50") which cell of the
suite is the same thing, as far as they are needed to tell it from others; or `cause` and `note` why there is none.
`source` says where the number was read. A quantity of one layer has its name behind it: `sparsity_percent[fc1.weight]`.
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from bdlbench.core.errors import BadInput, unknown
from bdlbench.stats.reproduction import SPREADS, Limits, Published, published

FOLDER = Path(__file__).parent.parent / "published"

Cause = Literal["protocol unknown", "data differ", "budget differs"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
"""Why a published number cannot be held against one of ours."""

COLUMNS = (
    *("table", "method", "dataset", "quantity", "value", "spread", "kind", "count"),
    *("treatment", "model", "settings", "cause", "note", "source"),
)


class Quantity(NamedTuple):
    """A number that papers print, as scale · metric + offset of a metric of ours."""

    metric: str
    scale: float = 1.0
    offset: float = 0.0


QUANTITIES = {
    "rmse": Quantity("rmse"),
    "log_likelihood": Quantity("nll", -1.0),
    "nll": Quantity("nll"),
    "accuracy_percent": Quantity("accuracy", 100.0),
    "error_percent": Quantity("accuracy", -100.0, 100.0),
    "ece": Quantity("ece"),
    "elbo": Quantity("elbo"),
    "qice_percent": Quantity("qice", 100.0),
    "compression": Quantity("compression"),
    "sparsity_percent": Quantity("sparsity", 100.0),
    "active_units": Quantity("active_units"),
    "negative_log_density": Quantity("nll"),
}


@dataclass(frozen=True)
class PaperRow:
    """One published number.

    treatment, model, settings: the method of our cell, and its model and options where they single it out, such as
    {"mc_dropout.epochs": "400"}; cause: why there is none, None where there is one; limits: what the margin of its
    verdict may be.
    """

    table: str
    method: str
    dataset: str
    quantity: str
    number: Published
    limits: Limits
    treatment: str
    model: str
    settings: Mapping[str, str]
    cause: Cause | None
    note: str
    source: str

    @property
    def ours(self) -> Quantity:
        """What it is of ours: the metric, of the same layer where it is of one, and how to scale it."""
        name, bracket, layer = self.quantity.partition("[")
        found = QUANTITIES[name]
        return found._replace(metric=found.metric + bracket + layer)


@dataclass(frozen=True)
class Paper:
    """A paper whose protocol is a suite. remarks: what a reader of a verdict must know, such as a leak."""

    name: str
    title: str
    citation: str
    suite: str
    rows: tuple[PaperRow, ...]
    remarks: tuple[str, ...] = ()
    exact: bool = False


def names() -> list[str]:
    """Return the names of the package's papers."""
    return sorted(file.stem for file in FOLDER.glob("*.toml") if file.name != "limits.toml")


def read(name: str) -> Paper:
    """Read a paper.

    Args:
        name: of the package's papers, see `names`; or the path of a file of one's own, NAME.toml, whose suite may be a
            file too, named as seen from there.

    Returns:
        The paper with all its rows.

    Raises:
        BadInput: for another name, with the nearest; for files that cannot be read, with file and line.
    """
    own = name.endswith(".toml")
    if not own and name not in names():
        raise unknown("paper", name, names())
    file = Path(name) if own else FOLDER / f"{name}.toml"
    told = _table(file)
    wrong = sorted(told.keys() - {"title", "citation", "suite", "remarks", "exact", "rows", "limits"})
    if wrong:
        raise BadInput(f"{file}: {wrong[0]} is no key of a paper")
    missing = [key for key in ("title", "citation", "suite") if not isinstance(told.get(key), str)]
    if missing:
        raise BadInput(f"{file}: {missing[0]} is missing, or is no text")
    limits = _table(FOLDER / "limits.toml") | told.get("limits", {})
    rows = tuple(_rows(file.parent / told.get("rows", f"{file.stem}.csv"), limits))
    suite = str(file.parent / told["suite"]) if told["suite"].endswith(".toml") else told["suite"]
    remarks, exact = tuple(told.get("remarks", ())), bool(told.get("exact", False))
    return Paper(file.stem, told["title"], told["citation"], suite, rows, remarks, exact)


def _table(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is not TOML: {error}") from None


def _rows(file: Path, limits: Mapping[str, Any]) -> Iterator[PaperRow]:
    try:
        lines = list(csv.DictReader(file.read_text("utf-8").splitlines(), strict=True))
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise BadInput(f"{file} is not CSV: {error}") from None
    for number, line in enumerate(lines, 2):
        if set(line) != set(COLUMNS) or None in line.values():
            raise BadInput(f"{file}: line {number}: the columns are {', '.join(COLUMNS)}")
        try:
            yield _row(line, limits)
        except ValueError as error:
            raise BadInput(f"{file}: line {number}: {error}") from None


def _row(line: Mapping[str, str], limits: Mapping[str, Any]) -> PaperRow:
    """Raises ValueError for what is wrong in it."""
    quantity = line["quantity"]
    if quantity.partition("[")[0] not in QUANTITIES:
        raise ValueError(f"no quantity {quantity}: there are {', '.join(QUANTITIES)}")
    cause = next((known for known in CAUSES if known == line["cause"]), None)
    if line["cause"] and not cause:
        raise ValueError(f"no cause {line['cause']}: there are {', '.join(CAUSES)}")
    kind = next((known for known in SPREADS if known == (line["kind"] or "none")), None)
    if kind is None:
        raise ValueError(f"no kind of spread {line['kind']}: there are {', '.join(SPREADS)}")
    if bool(cause) == bool(line["treatment"]):
        raise ValueError("a row has either a treatment or a cause why there is none")
    if not line["source"]:
        raise ValueError("the source is missing")
    number = published(line["value"], int(line["count"]), line["spread"], kind)
    bounds = [_bound(bound, number.value) for bound in limits.get(quantity.partition("[")[0], ())]
    if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1]:
        raise ValueError(f"no limits of {quantity}: two numbers, the smaller first, in limits.toml or under [limits]")
    return PaperRow(
        table=line["table"],
        method=line["method"],
        dataset=line["dataset"],
        quantity=quantity,
        number=number,
        limits=Limits(bounds[0], bounds[1]),
        treatment=line["treatment"],
        model=line["model"],
        settings=_settings(line["settings"]),
        cause=cause,
        note=line["note"],
        source=line["source"],
    )


def _bound(given: Any, value: float) -> float:
    """A number, or a part of the published value: "5 %"."""
    if isinstance(given, str) and given.endswith("%"):
        return float(given.removesuffix("%")) / 100 * abs(value)
    return float(given) if isinstance(given, int | float) and math.isfinite(given) else math.nan


def _settings(text: str) -> dict[str, str]:
    settings = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, sign, value = part.partition("=")
        if not (sign and name.count(".") == 1):
            raise ValueError(f"{part} is no setting: write ENTRY.OPTION=VALUE")
        settings[name.strip()] = value.strip()
    return settings
