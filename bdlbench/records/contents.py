"""The typed contents of a record, their form on disk, and the defaults for fields that older records lack."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from bdlbench.core.typed import Count, Misfit, Positive, Text, typed
from bdlbench.entries import definition_of

FACT = "fact."
"""Prefix of the names of facts on disk, where they stand among the values."""


@dataclass(frozen=True, slots=True)
class Values:
    """The deterministic part of a record: each column has one value for each replicate, or is () if it is unknown.

    Attributes:
        metrics: By column, such as ece or ood_auroc[near].
        parameters_sha256: Hash of each row of the posterior's state.
        samples: M, the number of posterior samples in the predictions; it may be smaller than the protocol's.
        elbo_nats: The bound on the training data.
        facts: Facts that the posterior states about itself, by name.
        first_steps: Fingerprints of the fit, if a loss was minimised.
        objective: Audits of the fit's objective, if a loss was minimised.
        curves: What was measured while training went on, if anything was asked for.
    """

    metrics: Mapping[str, MetricValues] = field(default_factory=dict)
    parameters_sha256: tuple[str, ...] = ()
    samples: tuple[Positive, ...] = ()
    elbo_nats: tuple[float | None, ...] = ()
    facts: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    first_steps: tuple[FirstSteps, ...] = ()
    objective: tuple[ObjectiveFactors, ...] = ()
    curves: MeasuredCurves | None = None

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], rows: int) -> Values:
        """Read the form on disk.

        Args:
            table: The form on disk.
            rows: R, the number of replicates.

        Returns:
            The values.

        Raises:
            Misfit: A field is missing, unknown or of another type, or a column has not one value for each replicate.
        """
        known = {key: column for key, column in table.items() if key.startswith(FACT) and column != []}
        facts = {key.removeprefix(FACT): column for key, column in known.items()}
        rest = {key: column for key, column in table.items() if not key.startswith(FACT)}
        if "metrics" not in rest or "facts" in rest:
            raise Misfit("values: expected metrics, and each fact by a name of its own")
        values = typed({**rest, "facts": facts}, cls, "values")
        columns: dict[str, Sequence[Any]] = {
            "parameters_sha256": values.parameters_sha256,
            "samples": values.samples,
            "elbo_nats": values.elbo_nats,
            "first_steps": values.first_steps,
            "objective": values.objective,
            **{FACT + name: column for name, column in values.facts.items()},
        }
        series = values.curves.series if values.curves else {}
        whole: dict[str, Sequence[Any]] = {f"metrics.{name}": entry.values for name, entry in values.metrics.items()}
        whole |= {f"curves.{name}": column for name, column in series.items()}
        for name, column in [*whole.items(), *((name, column) for name, column in columns.items() if column)]:
            if len(column) != rows:
                raise Misfit(f"values.{name}: expected {rows} values, one for each replicate, got {len(column)}")
        for name, column in series.items():
            if values.curves and any(len(row) != len(values.curves.epochs) for row in column):
                raise Misfit(f"values.curves.{name}: expected a value for each of the epochs")
        metrics = {
            name: entry if (now := versioned(entry.definition)) == entry.definition else replace(entry, definition=now)
            for name, entry in values.metrics.items()
        }
        return replace(values, metrics=metrics)

    def as_dict(self) -> dict[str, Any]:
        """Return the form for JSON: unknown columns are left out, and None stands for numbers that are not finite."""
        columns: dict[str, Any] = {
            "parameters_sha256": self.parameters_sha256,
            "samples": self.samples,
            "elbo_nats": self.elbo_nats,
            "first_steps": [asdict(row) for row in self.first_steps],
            "objective": [row.as_dict() for row in self.objective],
            **{FACT + name: column for name, column in self.facts.items()},
        }
        metrics = {name: asdict(entry) for name, entry in self.metrics.items()}
        found: dict[str, Any] = {"metrics": metrics, **{key: c for key, c in columns.items() if len(c)}}
        whole: dict[str, Any] = finite(found | ({"curves": asdict(self.curves)} if self.curves else {}))
        return whole

    def take(self, rows: Sequence[int]) -> Values:
        """Keep the replicates at these positions."""

        def taken(column: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(column[i] for i in rows) if column else ()

        return Values(
            {name: replace(entry, values=taken(entry.values)) for name, entry in self.metrics.items()},
            taken(self.parameters_sha256),
            taken(self.samples),
            taken(self.elbo_nats),
            {name: taken(column) for name, column in self.facts.items()},
            taken(self.first_steps),
            taken(self.objective),
            self.curves and self.curves.take(rows),
        )


@dataclass(frozen=True)
class MeasuredCurves:
    """Metrics of the test set while training went on.

    Attributes:
        epochs: After which epochs they were measured, T of them.
        samples: Posterior samples of the predictives.
        series: By column, such as accuracy or sparsity[fc1.weight]: for each replicate its T values, None where the
            column was not measured or is not finite.
    """

    epochs: tuple[Positive, ...]
    samples: Positive
    series: Mapping[str, tuple[tuple[float | None, ...], ...]]

    def without(self, metrics: Collection[str]) -> MeasuredCurves:
        """Leave out all columns of some metrics."""
        kept = {name: rows for name, rows in self.series.items() if name.partition("[")[0] not in metrics}
        return replace(self, series=kept)

    def take(self, rows: Sequence[int]) -> MeasuredCurves:
        """Keep the replicates at these positions."""
        return replace(self, series={name: tuple(column[i] for i in rows) for name, column in self.series.items()})


@dataclass(frozen=True, slots=True)
class MetricValues:
    """One column of a metric; columns that differ in definition, unit or direction are different metrics.

    Attributes:
        unit: The unit of the values.
        better: Which values are better.
        definition: The text of `catalog.definition`.
        values: One for each replicate; None where it is not finite.
    """

    unit: str
    better: Literal["higher", "lower"]
    definition: str
    values: tuple[float | None, ...] = ()

    @property
    def numbers(self) -> list[float]:
        """The values, with NaN for those that are not finite."""
        return [math.nan if value is None else float(value) for value in self.values]


CLASSES_OF_VERSION_1 = (
    *("Accuracy", "ActiveUnits", "Brier", "ByRule", "CalibrationByDepth", "ElboGap", "ExpectedCalibrationError"),
    *("Fact", "FlopsFraction", "ImportanceSamples", "MeanFact", "NegativeELBO", "NegativeLogLikelihood"),
    *("OutOfDistribution", "Parameters", "PosteriorKL", "PosteriorW2", "PredictiveKL", "RegretGain"),
    "RootMeanSquaredError",
)
"""The metric classes that records of schema 1 name. The list is closed: newer metrics have versions."""


LONGEST_DEFINITION = 1000
"""How many characters of a definition are parsed at most."""


@lru_cache(maxsize=1024)
def versioned(definition: str) -> str:
    """Translate a definition of schema 1, the `repr` of a metric, to today's form; return other definitions unchanged.

    `ExpectedCalibrationError(bins=15)` becomes `version 1 (bins=15)`.
    """
    parts = re.fullmatch(r"(\w+)(\(.*\))( of .*)?", definition) if len(definition) < LONGEST_DEFINITION else None
    if parts is None or parts[1] not in CLASSES_OF_VERSION_1:
        return definition
    try:
        call = ast.parse(definition.removesuffix(parts[3] or ""), mode="eval").body
        keywords = call.keywords if isinstance(call, ast.Call) else []
        options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):  # brackets in brackets in brackets …
        return definition
    if parts[1] == "MeanFact" and options.get("fact") == "depth":
        options["fact"] = "halted_depth"  # its name in schema 1 was `depth`, which is a score
    return definition_of(1, options) + (parts[3] or "")


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """A replicate's fingerprint after the first steps of its fit.

    Attributes:
        steps: The number of steps.
        sha256: Hash of the parameters.
        norm: Norm of the parameters of each of its networks; an ensemble has several.
        loss: Loss of each network.
    """

    steps: Count
    sha256: str
    norm: tuple[float | None, ...]
    loss: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class ObjectiveFactors:
    """The audit of a replicate's objective by `training.audit`; each factor is that of an ensemble's worst member.

    Fields that are not listed mean what they mean in `training.audit.Audit`.

    Attributes:
        named: Whether the objective names a likelihood.
        failed: Why the audit failed; "" if it did not.
    """

    named: bool
    temperature: Mapping[str, float | None] = field(default_factory=dict)
    ramp: Mapping[str, float | None] = field(default_factory=dict)
    local: Mapping[str, float | None] = field(default_factory=dict)
    undeclared: float | None = None
    failed: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the form for JSON."""
        return {key: value for key, value in asdict(self).items() if key != "failed" or value}


@dataclass(frozen=True)
class TestedExamples:
    """The numbers of examples that a cell was trained and tested on.

    Attributes:
        train: Training examples.
        test: Test examples.
        test_sha256: Hashes of the test inputs of each split; a single hash if all splits share them.
    """

    train: Count
    test: Count
    test_sha256: tuple[str, ...]


@dataclass(frozen=True)
class PredictionsFrom:
    """The file with predictions made elsewhere, and the options of the command line that describe it."""

    file: Text
    sha256: str = ""
    axes: str = ""
    seeds: str = ""
    splits: str = ""


@dataclass(frozen=True)
class Environment:
    """The machine, the software and the data that a record was made with.

    The fields from `python` to `commit` come from `core.environment.describe`.

    Attributes:
        instructions: Libraries' vector instructions; None in records that do not state them.
        sources: SHA-256 of the data's source files.
        statistics: What preprocessing computed from the training examples.
        code: SHA-256 of the source code that the numbers depend on; None if it is unknown.
        selection: The data that the suite's options were chosen on; "" if it is not stated.
        search: The table of trials whose winners the options are, and its SHA-256; "" where a suite cites none.
        examples: Numbers of examples.
        predictions_from: The file of predictions made elsewhere.
    """

    python: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    platform: str = ""
    processor: str = ""
    cpu_capability: str = ""
    instructions: Mapping[str, str] | None = None
    device: str = "cpu"
    threads: int = 1
    commit: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    statistics: Mapping[str, Any] = field(default_factory=dict)
    code: Mapping[str, str] | None = None
    selection: str = ""
    search: str = ""
    examples: TestedExamples | None = None
    predictions_from: PredictionsFrom | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the form for JSON, without unknown fields."""
        found = {key: value for key, value in asdict(self).items() if value is not None}
        found = {key: value for key, value in found.items() if value or key not in ("selection", "search")}
        if self.predictions_from:
            found["predictions_from"] = {key: value for key, value in asdict(self.predictions_from).items() if value}
        return found

    @property
    def machine(self) -> str:
        """The GPU, or the processor and its number of threads, in words."""
        if self.device not in ("", "cpu"):
            return self.device
        return f"{self.processor or 'cpu'}, {self.threads} thread{'' if self.threads == 1 else 's'}"


def finite(value: Any) -> Any:
    """Replace NaN and infinities by None, because JSON has neither."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
