"""Files with a right checksum over a wrong content: a record, its predictions, a checkpoint.

Whatever stands in a field, a record is read, and comes back from a second writing as it was, or it is refused in one
line that names the file and the field.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bdlbench.core import files
from bdlbench.core.errors import BadInput
from bdlbench.core.spec import Cell, Choice, Replicate, Tuning
from bdlbench.records import contents
from bdlbench.records import record as records
from bdlbench.records.contents import (
    Environment,
    FirstSteps,
    MeasuredCurves,
    MetricValues,
    ObjectiveFactors,
    PredictionsFrom,
    Values,
)
from bdlbench.records.record import Record
from bdlbench.training import checkpoints

FUZZED = settings(
    max_examples=int(os.environ.get("BDLBENCH_FUZZ_EXAMPLES", "150")),
    derandomize="BDLBENCH_FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def whole() -> Record:
    """A record that has every field there is."""
    method = Choice.of("ensemble", {"member": Choice.of("mle", {"epochs": 3, "lr": 0.1}), "flag": True, "word": "a"})
    tuning = Tuning(("mlp.noise",), ((0.1,), (0.2,)), 0.2, 10)
    cell = Cell(method, Choice.of("mlp", {"widths": (9, 5)}), Choice.of("wine", {}), 3, tuning=tuning)
    values = Values(
        {"nll": MetricValues("nats", "lower", "version 1", (0.5, None))},
        ("a", "b"),
        (3, 3),
        (-1.5, None),
        {"chosen": (0.1, 0.2)},
        (FirstSteps(3, "c", (1.0,), (2.0,)), FirstSteps(3, "d", (1.0,), (None,))),
        (ObjectiveFactors(True, {"nll": 1.0}, {"kl": 0.5}, {}, None), ObjectiveFactors(False, failed="why")),
        MeasuredCurves((1, 2), 5, {"accuracy": ((0.1, 0.2), (0.3, None))}),
    )
    environment = Environment(
        python="3.11",
        packages={"bdlbench": "1"},
        sources={"wine": "abc"},
        statistics={"mean": 1.5, "levels": {"a": ["x", "y"]}},
        code={"methods mle": "0"},
        selection="none",
        search="trials.csv 0",
        instructions={"torch": "AVX2"},
        examples=contents.TestedExamples(10, 5, ("e",)),
        predictions_from=PredictionsFrom("p.npz", "f"),
    )
    failed = {Replicate(7, 1): "it diverged"}
    return Record(
        cell, (Replicate(0), Replicate(1)), values, {"rows": 2.0}, environment, failed, unscored={"ece": "why"}
    )


@pytest.fixture
def body(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("os.fsync", lambda handle: None)  # thousands of writings
    found: dict[str, Any] = json.loads(records.write(tmp_path / "whole", whole(), {}).read_text())
    del found["checksum"]
    return found


def forged(folder: Path, body: Any) -> Path:
    path = folder / "wine-mlp-mle-0123456789ab-01234567.json"
    path.write_text(json.dumps({**body, "checksum": files.digest(body)}))
    return path


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(min(len(value), 1)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def changed(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a place; `...` takes it out."""
    made = place = copy.deepcopy(body)
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return made


def read_or_refused(folder: Path, body: Any, refused: Any) -> Record | None:
    """The record, which a second writing gives back as it is, or None where it is refused by the name of the file."""
    path = forged(folder, body)
    try:
        record = records.read_one(path)
    except BadInput as error:
        refused.says(str(error), path.name)
        return None
    again = records.read_one(records.write(folder / "again", replace(record, path=Path()), {}))
    assert without_nan(again) == without_nan(record)
    assert Path(record.name).name == record.name and record.name.isascii()  # a name, not a path
    return record


def without_nan(record: Record) -> Record:
    """A record that can be compared: a cost that was not finite is null on disk."""
    return replace(record, cost={name: None if math.isnan(cost) else cost for name, cost in record.cost.items()})  # type: ignore[misc]


ODD: list[Any] = [
    *(..., None, True, -1, 0, 0.5, 2**63, 2**200, 1e308, "", "x", "x" * 300, "../../etc/passwd", "/etc/passwd"),
    *("a\nb", "\x1b[2J", "\u202e", [], {}, [[[]]], ["x"], [1, 2], {"a": 1}, {"name": "x"}, {"name": 1}),
]


def test_the_whole_record_is_read(tmp_path: Path, body: Any, refused: Any) -> None:
    assert read_or_refused(tmp_path, body, refused) == whole()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["cell", "replicates", "failed", "values", "cost", "environment", "unscored", "rest"])
def test_whatever_stands_in_a_field(part: str, tmp_path: Path, body: Any, refused: Any) -> None:
    ends = {"read": 0, "refused": 0}
    rest = ("schema", "predictions")
    for path in places(body):
        if path[0] == part or (part == "rest" and path[0] in rest):
            for value in ODD:
                found = read_or_refused(tmp_path, changed(body, path, value), refused)
                ends["read" if found else "refused"] += 1
    assert ends["refused"] > ends["read"] * (part not in ("cost", "environment", "unscored"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=5), parts, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@FUZZED
@given(data=st.data())
def test_whatever_json_stands_in_some_fields(data: st.DataObject, tmp_path: Path, body: Any, refused: Any) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        known = list(places(body))
        path = data.draw(st.sampled_from(known))
        body = changed(body, path, data.draw(JSON | st.just(...)))
        if not isinstance(body, dict) or not body:
            return
    read_or_refused(tmp_path, body, refused)


@pytest.mark.parametrize(
    ("path", "value", "names"),
    [
        (("replicates", 0, "seed"), "x", ["replicates[0].seed", "int", "str"]),
        (("replicates", 0, "seed"), -1, ["replicates[0].seed", ">= 0"]),
        (("replicates", 1), {"seed": 0, "split": 0}, ["replicates", "once"]),
        (("replicates", 1, "spilt"), 3, ["replicates[1]", "spilt"]),
        (("failed", 0, "reason"), None, ["failed[0].reason"]),
        (("values", "metrics", "nll"), [1], ["values.metrics.nll", "object", "array"]),
        (("values", "metrics", "nll", "better"), "sideways", ["values.metrics.nll.better"]),
        (("values", "metrics", "nll", "values"), [1.0], ["values.metrics.nll", "2", "1"]),
        (("values", "metrics", "nll", "values", 1), "x", ["values.metrics.nll.values[1]", "float", "str"]),
        (("values", "metrics"), ..., ["metrics"]),
        (("values", "colour"), [1], ["values", "colour"]),
        (("values", "facts"), {}, ["values", "fact"]),
        (("values", "fact.chosen"), [0.1], ["values.fact.chosen", "2", "1"]),
        (("values", "curves", "series", "accuracy", 0), [0.1], ["values.curves.accuracy", "epochs"]),
        (("values", "samples", 0), 0, ["values.samples[0]", ">= 1"]),
        (("cost", "rows"), "many", ["cost.rows", "float", "str"]),
        (("environment", "examples", "train"), -1, ["environment.examples.train"]),
        (("environment", "colour"), "red", ["environment", "colour"]),
        (("cell", "threads"), 0, ["cell.threads", ">= 1"]),
        (("cell", "treatment", "name"), 3, ["cell.treatment", "name"]),
        (("cell", "treatment", "member", "lr"), None, ["cell.treatment.member.lr"]),
        (("cell", "treatment", "member", "epochs"), 2**64, ["cell.treatment.member.epochs", "64 bits"]),
        (("cell", "protocol", "model", "widths"), [[9]], ["cell.protocol.model.widths"]),
        (("cell", "tuning", "points", 0), [], ["cell.tuning.points", "options"]),
        (("cell", "protocol", "model", "name"), "a\x1b[2J", [r"'a\x1b[2J'"]),
        (("predictions",), "../../elsewhere", ["predictions"]),
        (("schema",), 1.5, ["schema", "int", "float"]),
        (("colour",), "red", ["colour"]),
    ],
)
def test_what_does_not_fit_is_named(
    path: tuple[Any, ...], value: Any, names: list[str], tmp_path: Path, body: Any, refused: Any
) -> None:
    file = forged(tmp_path, changed(body, path, value))
    with refused(file.name, "whole", *names):
        records.read_one(file)


def test_text_that_cannot_be_seen_becomes_escapes(tmp_path: Path, body: Any) -> None:
    body = changed(body, ("failed", 0, "reason"), "\x1b[2Jgone\n")
    body = changed(body, ("environment", "processor"), "a\u202eb")
    found = records.read_one(forged(tmp_path, body))
    assert found.failed[Replicate(7, 1)] == r"\x1b[2Jgone\n"
    assert found.environment.processor == r"a\u202eb"


NESTED = {"lists": "[" * 200_000, "tables": '{"a":' * 200_000, "digits": '{"schema": ' + "9" * 5000 + "}"}


@pytest.mark.parametrize("kind", NESTED)
def test_what_overwhelms_a_reader_of_json(kind: str, tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "wine-mlp-mle-0123456789ab-01234567.json"
    path.write_text(NESTED[kind])
    with refused(path.name, "whole"):
        records.read_one(path)


def test_options_and_facts_that_lie_too_deep(tmp_path: Path, body: Any, refused: Any) -> None:
    entries: dict[str, Any] = {"name": "x"}
    lists: list[Any] = []
    for _ in range(200):
        entries, lists = {"name": "x", "of": entries}, [lists]
    for path, value in ((("cell", "treatment"), entries), (("environment", "statistics", "mean"), lists)):
        file = forged(tmp_path, changed(body, path, value))
        with refused(file.name, "deep"):
            records.read_one(file)


def test_a_record_of_more_bytes_than_any_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    path = records.write(tmp_path, whole(), {})
    size = path.stat().st_size
    os.truncate(path, records.LARGEST_RECORD + 1)  # a hole: it takes no space
    with refused(path.name, "64 MiB"):
        records.read_one(path)
    (tmp_path / "other.json").write_bytes(b"")
    os.truncate(tmp_path / "other.json", 1 << 40)
    path.unlink()
    assert records.read(tmp_path) == []
    monkeypatch.setattr(records, "LARGEST_RECORD", size - 1)  # what is written can be read
    with refused(path.name, "seeds"):
        records.write(tmp_path, whole(), {})


def of_two(**arrays: torch.Tensor) -> dict[str, torch.Tensor]:
    """Predictions of two replicates of four examples in three classes, with other arrays in their place."""
    log_probs = torch.full((2, 4, 3), 1 / 3).log()
    return {"test.y": torch.zeros(2, 4, dtype=torch.int16), "test.log_probs": log_probs} | arrays


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("test.log_probs", torch.zeros(3, 4, 3)),
        ("test.z", torch.zeros(2, 5)),
        ("test.log_probs", torch.zeros(2, 4)),
        ("test.y", torch.zeros(2, 4, 1)),
        ("test.y", torch.zeros(())),
        ("test.y", torch.zeros(2, 4, dtype=torch.complex64)),
        ("test.y", torch.full((2, 4), 3, dtype=torch.int16)),
        ("test.y", torch.full((2, 4), -1, dtype=torch.int16)),
        ("test.entropy", torch.zeros(2)),
        ("test.group_log_prob", torch.zeros(2, 4)),
        ("test.group_log_prob", torch.zeros(10, 3, 4)),
        ("ood.far.entropy", torch.zeros(2, 0)),
        ("entropy", torch.zeros(2, 4)),
        ("ood.a\nb.entropy", torch.zeros(2, 4)),
    ],
)
def test_predictions_with_a_right_checksum(name: str, array: torch.Tensor, tmp_path: Path, refused: Any) -> None:
    sound = records.read_one(records.write(tmp_path / "sound", whole(), of_two()))
    assert set(records.predictions(tmp_path / "sound", sound)) == {"test.y", "test.log_probs"}
    wrong = records.read_one(records.write(tmp_path / "wrong", whole(), of_two(**{name: array})))
    with refused(f"{wrong.name}.safetensors", repr(name), "--fresh"):
        records.predictions(tmp_path / "wrong", wrong)


def test_predictions_without_a_density(tmp_path: Path, refused: Any) -> None:
    arrays = {"test.y": torch.zeros(2, 4), "test.mean": torch.zeros(2, 4)}
    wrong = records.read_one(records.write(tmp_path, whole(), arrays))
    with refused(f"{wrong.name}.safetensors", "sd"):
        records.predictions(tmp_path, wrong)


def test_predictions_that_are_none(tmp_path: Path, body: Any, refused: Any) -> None:
    content = b"\xff" * 100
    file = forged(tmp_path, {**body, "predictions": files.sha256(content)})
    file.with_suffix(".safetensors").write_bytes(content)
    with refused(f"{file.stem}.safetensors", "--fresh"):
        records.predictions(tmp_path, records.read_one(file))


@pytest.mark.parametrize(
    ("head", "content"),
    [
        ({"schema": 2, "depends": []}, {}),
        ({"schema": 2, "depends": {"a": 1}}, {}),
        ({"schema": "2", "depends": {}}, {}),
        ({"schema": 2, "depends": {}, "more": 1}, {}),
        ({"schema": 2}, {}),
    ],
)
def test_a_checkpoint_with_a_right_checksum(head: Any, content: dict[str, torch.Tensor], tmp_path: Path) -> None:
    made = safetensors.torch.save(content)
    sha256 = files.sha256(files.canonical_json(head) + b"\n" + made)
    path = tmp_path / "a.1.safetensors"
    path.write_bytes(files.canonical_json({**head, "sha256": sha256}) + b"\n" + made)
    with pytest.raises(checkpoints.Unusable):
        checkpoints.read(path, {})


@pytest.mark.parametrize("line", [b"[" * 200_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff", b""])
def test_a_checkpoint_whose_head_is_none(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.1.safetensors"
    path.write_bytes(line + b"\n")
    with pytest.raises(checkpoints.Unusable):
        checkpoints.read(path, {})
