"""Published numbers as data: a file `published/NAME.toml` for each paper, with its rows in `published/NAME.csv`.

The TOML file says what the paper is and which suite is its protocol; a paper without a suite is one that nobody has
written yet, and its rows are "not run":

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
suite is the same thing, as far as they are needed to tell it from others; or `cause` why there is none. `note` says
more in a few words, `source` where the number was read. `kind` is unknown where a source does not say which spread its
± is; a `count` of 1 also stands where it does not say how many runs a mean is over. What a quantity is of stands behind
it in brackets: `sparsity_percent[fc1.weight]`.

Where the source has the values of single splits, `NAME.splits.csv` beside the rows holds them: `table, method, dataset,
quantity` of a row, `values` by split from 0, separated by blanks, and their `source`. They are paired with ours.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from bdlbench.core.errors import BadInput, one_line, unknown
from bdlbench.core.files import read_toml
from bdlbench.stats.reproduction import SPREADS, Limits, Published, Spread, published

FOLDER = Path(__file__).parent.parent / "published"

SPREAD_SIGNS = {"standard error": "±", "standard deviation": "sd", "none": "", "unknown": "±?"}
"""How a spread is printed, by its kind; one of unknown kind says nothing of how much runs vary, so counts as none."""

Cause = Literal["protocol unknown", "data differ", "budget differs"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
"""Why a published number cannot be held against one of ours."""

SPLIT_COLUMNS = ("table", "method", "dataset", "quantity", "values", "source")

COLUMNS = (
    *("table", "method", "dataset", "quantity", "value", "spread", "kind", "count"),
    *("treatment", "model", "settings", "cause", "note", "source"),
)


class Quantity(NamedTuple):
    """A number that papers print, as scale · metric + offset of a metric of ours; "" where none of ours measures it."""

    metric: str
    scale: float = 1.0
    offset: float = 0.0


QUANTITIES = {
    "rmse": Quantity("rmse"),
    "rmse_times_100": Quantity("rmse", 100.0),
    "rmse_of_mean_weights": Quantity(""),
    "log_likelihood": Quantity("nll", -1.0),
    "log_likelihood_of_10000": Quantity("nll", -10_000.0),
    "nll": Quantity("nll"),
    "moment_matched_nll": Quantity("moment_matched_nll"),
    "accuracy": Quantity("accuracy"),
    "accuracy_percent": Quantity("accuracy", 100.0),
    "error_percent": Quantity("accuracy", -100.0, 100.0),
    "ece": Quantity("ece"),
    "ece_10": Quantity("ece_10"),
    "ece_percent": Quantity("ece", 100.0),
    "elbo": Quantity("elbo"),
    "qice_percent": Quantity("qice", 100.0),
    "compression": Quantity("compression"),
    "memory_compression": Quantity(""),
    "sparsity_percent": Quantity("sparsity", 100.0),
    "active_units": Quantity("active_units"),
    "negative_log_density": Quantity("nll"),
    "auroc_of_negative_elbo": Quantity("ood_auroc_negative_elbo"),
    "auroc_of_likelihood_regret": Quantity("ood_auroc_likelihood_regret"),
    "auroc_of_max_probability_percent": Quantity("ood_auroc_max_probability", 100.0),
    "flops": Quantity("flops"),
    "exit_percent": Quantity(""),
    "milliseconds": Quantity(""),
    "gradient_variance": Quantity("gradient_variance"),
    "gradient_variance_ratio": Quantity("gradient_variance_ratio"),
    "agreement_with_hmc": Quantity(""),
    "total_variation_to_hmc": Quantity(""),
}


@dataclass(frozen=True)
class PaperRow:
    """One published number.

    treatment, model, settings: the method of our cell, and its model and options where they single it out, such as
    {"mc_dropout.epochs": "400"}; cause: why there is none, None where there is one; limits: what the margin of its
    verdict may be; printed: the mean and what stands behind its ±, digit for digit; by_split: published values of
    single splits, from 0, () where there are none.
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
    printed: str
    by_split: tuple[float, ...] = ()

    @property
    def ours(self) -> Quantity:
        """What it is of ours: the metric, of the same layer or set where it is of one, and how to scale it."""
        name, bracket, layer = self.quantity.partition("[")
        found = QUANTITIES[name]
        return found._replace(metric=found.metric and found.metric + bracket + layer)


@dataclass(frozen=True)
class Paper:
    """A paper. suite: its protocol, "" where there is none yet; remarks: what a reader must know, such as a leak."""

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
    told = read_toml(file)
    wrong = sorted(told.keys() - {"title", "citation", "suite", "remarks", "exact", "rows", "limits"})
    if wrong:
        raise BadInput(f"{file}: {wrong[0]} is no key of a paper")
    told = {"suite": "", **told}
    missing = [key for key in ("title", "citation", "suite") if not isinstance(told.get(key), str)]
    if missing:
        raise BadInput(f"{file}: {missing[0]} is missing, or is no text")
    limits, remarks, exact = told.get("limits", {}), told.get("remarks", []), told.get("exact", False)
    beside = told.get("rows", f"{file.stem}.csv")
    if not isinstance(limits, dict) or not all(isinstance(bounds, list) for bounds in limits.values()):
        raise BadInput(
            f"{file}: [limits] are lists of two numbers by quantity, the smaller first: rmse = [0.01, '50 %']"
        )
    if other := sorted(limits.keys() - QUANTITIES.keys()):
        raise BadInput(f"{file}: [limits]: {unknown('quantity', other[0], QUANTITIES)}")
    if not isinstance(remarks, list) or not all(isinstance(remark, str) for remark in remarks):
        raise BadInput(f"{file}: remarks are a list of texts")
    if not isinstance(exact, bool):
        raise BadInput(f"{file}: exact is true or false")
    if not isinstance(beside, str):
        raise BadInput(f"{file}: rows is the name of a CSV file beside it")
    rows = tuple(_rows(file.parent / beside, read_toml(FOLDER / "limits.toml") | limits))
    if not rows:
        raise BadInput(f"{file.parent / beside} holds no row")
    suite = str(file.parent / told["suite"]) if told["suite"].endswith(".toml") else told["suite"]
    return Paper(file.stem, told["title"], told["citation"], suite, rows, tuple(remarks), exact)


def _rows(file: Path, limits: Mapping[str, Any]) -> Iterator[PaperRow]:
    beside = file.with_suffix(".splits.csv")
    by_split = dict(_splits(beside)) if beside.exists() else {}
    for number, line in _lines(file, COLUMNS):
        try:
            row = _row(line, limits)
            yield _with_splits(row, by_split.pop((row.table, row.method, row.dataset, row.quantity), ()))
        except ValueError as error:
            raise BadInput(f"{file}: line {number}: {one_line(error)}") from None
    if by_split:
        raise BadInput(f"{beside}: {', '.join(next(iter(by_split)))} is no row of {file.name}")


def _lines(file: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines of a CSV file with their numbers. Raises BadInput where it has other columns."""
    try:
        lines = list(csv.DictReader(file.read_text("utf-8").splitlines(), strict=True))
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise BadInput(f"{file} is not CSV: {one_line(error)}") from None
    for number, line in enumerate(lines, 2):
        if set(line) != set(columns) or None in line.values():
            raise BadInput(f"{file}: line {number}: the columns are {', '.join(columns)}")
        yield number, line


def _splits(file: Path) -> Iterator[tuple[tuple[str, ...], tuple[float, ...]]]:
    """Yield table, method, dataset and quantity of a row, with its values by split."""
    for number, line in _lines(file, SPLIT_COLUMNS):
        try:
            values = tuple(map(float, line["values"].split()))
        except ValueError as error:
            raise BadInput(f"{file}: line {number}: {one_line(error)}") from None
        if not line["source"] or not values or not all(map(math.isfinite, values)):
            raise BadInput(f"{file}: line {number}: it needs finite values, one for each split, and their source")
        yield tuple(line[key] for key in SPLIT_COLUMNS[:4]), values


def _with_splits(row: PaperRow, values: tuple[float, ...]) -> PaperRow:
    """Return the row with its values by split. Raises ValueError where they are not what its mean is of."""
    if not values:
        return row
    if len(values) != row.number.count:
        raise ValueError(f"its mean is over {row.number.count} splits, and {len(values)} values are published")
    mean, half = math.fsum(values) / len(values), row.number.half_digit * (1 + 1e-6)
    if abs(mean - row.number.value) > half:
        raise ValueError(f"its values by split have the mean {mean:.6g}, not {row.number.value:g}")
    return replace(row, by_split=values)


def _row(line: Mapping[str, str], limits: Mapping[str, Any]) -> PaperRow:
    """Read a row. Raises ValueError for what is wrong in it."""
    quantity = line["quantity"]
    if quantity.partition("[")[0] not in QUANTITIES:
        raise ValueError(f"no quantity {quantity}: there are {', '.join(QUANTITIES)}")
    cause = next((known for known in CAUSES if known == line["cause"]), None)
    if line["cause"] and not cause:
        raise ValueError(f"no cause {line['cause']}: there are {', '.join(CAUSES)}")
    sign = SPREAD_SIGNS.get(line["kind"] or "none")
    if sign is None:
        raise ValueError(f"no kind of spread {line['kind']}: there are {', '.join(SPREAD_SIGNS)}")
    if bool(cause) == bool(line["treatment"]):
        raise ValueError("a row has either a treatment or a cause why there is none")
    if not line["source"]:
        raise ValueError("the source is missing")
    kind: Spread = next((known for known in SPREADS if known == line["kind"]), "none")
    used = "" if line["kind"] == "unknown" else line["spread"]
    number = published(line["value"], int(line["count"]), used, kind)
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
        printed=" ".join(filter(None, (line["value"], sign, line["spread"]))),
    )


def _bound(given: Any, value: float) -> float:
    """Return a bound: a number, or a part of the published value ("5 %")."""
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
