"""What a record holds, typed, and how each part stands on disk; with the defaults of what older records do not say."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from bdlbench.entries import definition_of

FACT = "fact."
"""How the names of facts begin on disk, among the values."""


@dataclass(frozen=True)
class Values:
    """What is deterministic of a record: each column has a value for each replicate, () where it is not known.

    metrics: by column, such as ece or ood_auroc[near]; parameters_sha256: of each row of the posterior's state;
    samples: M of the predictions, which may be fewer than the protocol's; elbo_nats: the bound on the training data;
    facts: what the posterior states of itself, by name; first_steps, objective: of the fit, where something was
    minimised.
    """

    metrics: Mapping[str, MetricValues] = field(default_factory=dict)
    parameters_sha256: tuple[str, ...] = ()
    samples: tuple[int, ...] = ()
    elbo_nats: tuple[float | None, ...] = ()
    facts: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    first_steps: tuple[FirstSteps, ...] = ()
    objective: tuple[ObjectiveFactors, ...] = ()

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Values:
        """Read what stands on disk. Raises KeyError or TypeError where something is absent or unknown."""
        rest = {key: tuple(column) for key, column in table.items() if key != "metrics" and not key.startswith(FACT)}
        steps, audits = rest.pop("first_steps", ()), rest.pop("objective", ())
        return cls(
            metrics={name: MetricValues.from_dict(entry) for name, entry in table["metrics"].items()},
            facts={key.removeprefix(FACT): tuple(v) for key, v in table.items() if key.startswith(FACT)},
            first_steps=tuple(
                FirstSteps(row["steps"], row["sha256"], tuple(row["norm"]), tuple(row["loss"])) for row in steps
            ),
            objective=tuple(ObjectiveFactors(**row) for row in audits),
            **rest,
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON: columns that are not known are left out, None stands for what is not finite."""
        columns: dict[str, Any] = {
            "parameters_sha256": self.parameters_sha256,
            "samples": self.samples,
            "elbo_nats": self.elbo_nats,
            "first_steps": [asdict(row) for row in self.first_steps],
            "objective": [row.as_dict() for row in self.objective],
            **{FACT + name: column for name, column in self.facts.items()},
        }
        metrics = {name: asdict(entry) for name, entry in self.metrics.items()}
        found: dict[str, Any] = finite({"metrics": metrics, **{key: c for key, c in columns.items() if len(c)}})
        return found

    def take(self, rows: Sequence[int]) -> Values:
        """Of these replicates alone, by their places."""

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
        )


@dataclass(frozen=True)
class MetricValues:
    """One column of metrics. values: one for each replicate, None for what is not finite.

    definition: as `catalog.definition` says it; columns of other definitions, units or directions are another metric.
    """

    unit: str
    better: Literal["higher", "lower"]
    definition: str
    values: tuple[float | None, ...] = ()

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> MetricValues:
        """Read what stands on disk."""
        return cls(table["unit"], table["better"], versioned(table["definition"]), tuple(table["values"]))

    @property
    def numbers(self) -> list[float]:
        """The values, NaN for what is not finite."""
        return [math.nan if value is None else float(value) for value in self.values]


CLASSES_OF_VERSION_1 = (
    *("Accuracy", "ActiveUnits", "Brier", "ByRule", "CalibrationByDepth", "ElboGap", "ExpectedCalibrationError"),
    *("Fact", "FlopsFraction", "ImportanceSamples", "MeanFact", "NegativeELBO", "NegativeLogLikelihood"),
    *("OutOfDistribution", "Parameters", "PosteriorKL", "PosteriorW2", "PredictiveKL", "RegretGain"),
    "RootMeanSquaredError",
)
"""bdlbench's metrics when records of schema 1 named a metric by its class. The list is closed: new ones have versions.
"""


@lru_cache(maxsize=1024)
def versioned(definition: str) -> str:
    """Say the definition of a record of schema 1, the `repr` of a metric, as today; leave others as they are.

    `ExpectedCalibrationError(bins=15)` was what is now `version 1 (bins=15)`.
    """
    parts = re.fullmatch(r"(\w+)(\(.*\))( of .*)?", definition)
    if parts is None or parts[1] not in CLASSES_OF_VERSION_1:
        return definition
    call = ast.parse(definition.removesuffix(parts[3] or ""), mode="eval").body
    keywords = call.keywords if isinstance(call, ast.Call) else []
    options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in keywords}
    if parts[1] == "MeanFact" and options["fact"] == "depth":
        options["fact"] = "halted_depth"  # as it was called then; `depth` is a score
    return definition_of(1, options) + (parts[3] or "")


@dataclass(frozen=True)
class FirstSteps:
    """A replicate's fingerprint after the first `steps` of its fit: the hash of its parameters, and of each of its
    networks (an ensemble has several) the norm of the parameters and the loss.
    """

    steps: int
    sha256: str
    norm: tuple[float | None, ...]
    loss: tuple[float | None, ...]


@dataclass(frozen=True)
class ObjectiveFactors:
    """What a replicate minimised, as `training.audit` measured it; of an ensemble the member farthest from right.

    named: whether the objective names a likelihood; failed: why the audit itself could not be had, "" where it could.
    """

    named: bool
    temperature: Mapping[str, float | None] = field(default_factory=dict)
    ramp: Mapping[str, float | None] = field(default_factory=dict)
    local: Mapping[str, float | None] = field(default_factory=dict)
    undeclared: float | None = None
    failed: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {key: value for key, value in asdict(self).items() if key != "failed" or value}


@dataclass(frozen=True)
class TestedExamples:
    """How many examples a cell was trained on and tested on, and the hashes of the inputs that were tested: one where
    all splits share them.
    """

    train: int
    test: int
    test_sha256: tuple[str, ...]


@dataclass(frozen=True)
class PredictionsFrom:
    """The file that predictions made elsewhere came in, and what was said of it on the command line."""

    file: str
    sha256: str = ""
    axes: str = ""
    seeds: str = ""
    splits: str = ""


@dataclass(frozen=True)
class Environment:
    """Where and of what a record was made.

    python to commit: as `core.environment.describe` finds them; instructions: None where a record does not say.
    sources: SHA-256 of what the data were made from; statistics: what preprocessing took from the training examples.
    code: SHA-256 of the sources that the numbers depend on, None where that is not known.
    selection: what data chose the options of the suite, "" where nothing is said.
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
    examples: TestedExamples | None = None
    predictions_from: PredictionsFrom | None = None

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Environment:
        """Read what stands on disk. Raises TypeError for what is unknown."""
        known = dict(table)
        if examples := known.pop("examples", None):
            known["examples"] = TestedExamples(examples["train"], examples["test"], tuple(examples["test_sha256"]))
        if file := known.pop("predictions_from", None):
            known["predictions_from"] = PredictionsFrom(**file)
        return cls(**known)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is not said is left out."""
        found = {key: value for key, value in asdict(self).items() if value is not None}
        if not self.selection:
            del found["selection"]
        if self.predictions_from:
            found["predictions_from"] = {key: value for key, value in asdict(self.predictions_from).items() if value}
        return found

    @property
    def machine(self) -> str:
        """For people: the GPU or the processor, and its threads."""
        if self.device not in ("", "cpu"):
            return self.device
        return f"{self.processor or 'cpu'}, {self.threads} thread{'' if self.threads == 1 else 's'}"


def finite(value: Any) -> Any:
    """JSON has no NaN: None stands for it, and for infinities."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
