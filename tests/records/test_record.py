"""What lies on disk after a run: whole or refused, merged by replicate, never lost by taking something out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bdlbench.core import files
from bdlbench.core.spec import Cell, Choice, Replicate
from bdlbench.records import record as records
from bdlbench.records.contents import Environment, MetricValues, Values
from bdlbench.records.record import Record

CELL = Cell(Choice.of("mle", {"epochs": 1}), Choice.of("logistic", {}), Choice.of("wine", {}), samples=3)


def record(seeds: Iterable[int], failed: Iterable[int] = (), add: float = 0.0) -> Record:
    seeds = list(seeds)
    nll = MetricValues("nats", "lower", "NLL()", tuple(seed + add for seed in seeds))
    return Record(
        cell=CELL,
        replicates=tuple(map(Replicate, seeds)),
        values=Values({"nll": nll}, tuple(f"hash {seed}" for seed in seeds)),
        cost={"train_seconds": 1.5, "rows": float(len(seeds))},
        environment=Environment(sources={"wine": "abc"}),
        failed={Replicate(seed): "boom" for seed in failed},
    )


def arrays(seeds: Iterable[int]) -> dict[str, torch.Tensor]:
    rows = torch.tensor(list(seeds), dtype=torch.float32)  # (R,)
    return {"test.entropy": rows[:, None].expand(-1, 4), "test.group_log_prob": rows[None, :, None].expand(10, -1, 4)}


def write(folder: Path, seeds: Iterable[int], failed: Iterable[int] = (), add: float = 0.0) -> Record:
    seeds = list(seeds)
    return records.read_one(records.write(folder, record(seeds, failed, add), arrays(seeds) if seeds else {}))


def forge(path: Path, **changes: object) -> None:
    """Change fields and make the checksum right again."""
    body = json.loads(path.read_text()) | changes
    del body["checksum"]
    path.write_text(json.dumps({**body, "checksum": files.digest(body)}))


def values(folder: Path) -> dict[int, float]:
    return {
        replicate.seed: value
        for found in records.read(folder)
        for replicate, value in zip(found.replicates, found.values.metrics["nll"].values, strict=True)
    }


def test_round_trip(tmp_path: Path) -> None:
    written = write(tmp_path, [0, 3], failed=[1])
    assert records.read(tmp_path) == [written]
    assert replace(written, predictions="") == record([0, 3], failed=[1])
    read = records.predictions(tmp_path, written)
    assert all(torch.equal(read[name], value) for name, value in arrays([0, 3]).items())
    assert {path.name for path in tmp_path.iterdir()} == {f"{written.name}.json", f"{written.name}.safetensors"}
    assert written.name == records.name_of(CELL, map(Replicate, [3, 1, 0]))


def test_full_precision_and_no_nan(tmp_path: Path) -> None:
    nll = MetricValues("nats", "lower", "NLL()", (1 / 3, float("nan"), float("inf")))
    third = replace(record([0, 1, 2]), values=Values({"nll": nll}))
    path = records.write(tmp_path, third, {})
    assert records.read_one(path).values.metrics["nll"].values == (1 / 3, None, None)
    assert "NaN" not in path.read_text()


def test_the_same_record_is_the_same_bytes(tmp_path: Path) -> None:
    paths = [records.write(tmp_path / name, record([0, 1]), arrays([0, 1])) for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    sides = [path.with_suffix(".safetensors").read_bytes() for path in paths]
    assert sides[0] == sides[1]


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"schema": "x"}', '{"schema": 1}', "\x00"])
def test_what_is_not_whole_is_refused(tmp_path: Path, content: str, refused: Any) -> None:
    path = tmp_path / "wine-mlp-mle-0123456789ab-01234567.json"
    path.write_text(content)
    with refused(path.name, "whole", "damaged", lacks=["remove", "delete"]):
        records.read(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"schema": 1}', "\x00", "[" * 100_000, '{"a": 1e999}'])
def test_what_is_no_record_is_passed_over_in_one_line(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture, refused: Any
) -> None:
    written = write(tmp_path, [0])
    for name in ("notes.json", "objectives.json", "speed.json", "z.json"):
        (tmp_path / name).write_text(content)
    (tmp_path / "folder.json").mkdir()
    assert records.read(tmp_path) == records.read(tmp_path) == [written]
    (line,) = caplog.messages
    names = "notes.json, objectives.json, speed.json and 1 more"
    assert line == f"bdlbench: passed over in {tmp_path}, not records: {names}"
    with refused("notes.json", "whole", "`run`", lacks=["damaged"]):
        records.read(tmp_path / "notes.json")


def test_a_copy_that_was_cut_short_is_no_note(tmp_path: Path, refused: Any) -> None:
    written = write(tmp_path, [0])
    text = (tmp_path / f"{written.name}.json").read_text()
    (tmp_path / "a copy.json").write_text(text[: len(text) // 2])
    with refused("a copy.json", "whole", "damaged"):
        records.read(tmp_path)


def test_a_record_that_was_renamed_is_still_one(tmp_path: Path) -> None:
    written = write(tmp_path, [0, 1])
    for ending in (".json", ".safetensors"):
        (tmp_path / f"{written.name}{ending}").rename(tmp_path / f"mine{ending}")
    (found,) = records.read(tmp_path)
    assert (found, found.path) == (written, tmp_path / "mine.json")
    assert torch.equal(records.predictions(tmp_path, found)["test.entropy"], arrays([0, 1])["test.entropy"])
    records.without(tmp_path, found, {Replicate(0)})
    assert values(tmp_path) == {1: 1.0}
    assert {path.name for path in tmp_path.iterdir()} == {"mine.json", "mine.safetensors"}


def test_what_may_not_be_read_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    written = write(tmp_path, [0])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", deny)
        with refused(f"{written.name}.json", "Permission denied"):
            records.read(tmp_path)
        with refused(f"{written.name}.safetensors", "Permission denied"):
            records.predictions(tmp_path, written)
    monkeypatch.setattr("os.scandir", deny)
    with refused(tmp_path, "Permission denied"):
        records.read(tmp_path)


def deny(path: object) -> bytes:
    raise PermissionError(13, "Permission denied", str(path))


def test_a_checksum_does_not_make_a_record(tmp_path: Path, refused: Any) -> None:
    path = tmp_path / f"{write(tmp_path, [0]).name}.json"
    forge(path, replicates=[{"sed": 1}])
    with refused(path.name, "whole"):
        records.read(tmp_path)


@pytest.mark.parametrize("name", ["x" * 200, "\u4e00" * 40, "\U0001f600" * 40, "a/b\\c:d", "é" * 300])
def test_the_name_of_a_file_fits_every_system(tmp_path: Path, name: str) -> None:
    odd = Cell(Choice.of(name, {}), Choice.of(name, {}), Choice.of(name, {}), samples=3)
    path = records.write(tmp_path, replace(record([0]), cell=odd), arrays([0]))
    assert path.name.isascii()
    assert len(path.with_suffix(".safetensors").name) + len("..12345678.part") < 255
    assert records.read_one(path).cell.method.name == name


def test_truncated_at_any_place(tmp_path: Path, refused: Any) -> None:
    path = tmp_path / f"{write(tmp_path, [0]).name}.json"
    whole = path.read_text()
    for end in range(0, len(whole.rstrip()), 97):
        path.write_text(whole[:end])
        with refused(path.name, "whole"):
            records.read(tmp_path)


def test_altered(tmp_path: Path, refused: Any) -> None:
    path = tmp_path / f"{write(tmp_path, [7]).name}.json"
    path.write_text(path.read_text().replace("7.0", "6.0"))
    with refused(path.name, "altered", "checksum"):
        records.read(tmp_path)


def test_newer_schema(tmp_path: Path, refused: Any) -> None:
    forge(tmp_path / f"{write(tmp_path, [0]).name}.json", schema=records.SCHEMA + 1)
    with refused(f"schema {records.SCHEMA + 1}", records.SCHEMA):
        records.read(tmp_path)


def test_predictions_are_checked(tmp_path: Path, refused: Any) -> None:
    written = write(tmp_path, [0])
    side = tmp_path / f"{written.name}.safetensors"
    side.write_bytes(side.read_bytes()[:-1] + b"\x01")
    with refused(side.name, "checksum"):
        records.predictions(tmp_path, written)
    side.unlink()
    with refused(side.name, "missing"):
        records.predictions(tmp_path, written)
    assert records.predictions(tmp_path, record([0])) == {}


def test_conflicts_are_refused_and_agreement_is_not(tmp_path: Path, refused: Any) -> None:
    write(tmp_path, [0, 1])
    write(tmp_path, [1, 2])
    assert values(tmp_path) == {0: 0.0, 1: 1.0, 2: 2.0}
    write(tmp_path, [2, 3], add=0.5)
    with refused("seed 2", "split 0", "`run --fresh`"):
        records.read(tmp_path)


def test_a_conflict_names_both_files(tmp_path: Path, refused: Any) -> None:
    one = write(tmp_path, [0, 1])
    copy = tmp_path / "copy.json"
    copy.write_bytes((tmp_path / f"{one.name}.json").read_bytes())
    assert values(tmp_path) == {0: 0.0, 1: 1.0}  # equal: no conflict
    changed = json.loads(copy.read_text())["values"]
    changed["metrics"]["nll"]["values"] = [0.5, 1.0]
    forge(copy, values=changed)
    with refused("copy.json", f"{one.name}.json", "seed 0", "split 0"):
        records.read(tmp_path)
    both = records.read(tmp_path, conflicting=True)
    with refused("copy.json", f"{one.name}.json", "seed 0"):
        records.refuse_conflicts(both, {(one.key, Replicate(1))})
    records.refuse_conflicts(both, {(one.key, Replicate(0))})
    for found in both:
        records.without(tmp_path, found, {Replicate(0)})
    assert values(tmp_path) == {1: 1.0}


def test_missing_folder(tmp_path: Path, refused: Any) -> None:
    with refused(tmp_path / "nowhere", "exist"):
        records.read(tmp_path / "nowhere")


def test_done_counts_values_only(tmp_path: Path) -> None:
    found = [write(tmp_path, [0, 2], failed=[1])]
    assert records.done(found) == {CELL.key: {Replicate(0), Replicate(2)}}
    assert records.done([write(tmp_path, [], failed=[1])]) == {}


def test_without_keeps_the_rest(tmp_path: Path) -> None:
    old = write(tmp_path, [0, 1, 2, 3], failed=[4, 5])
    records.without(tmp_path, old, {Replicate(0), Replicate(2), Replicate(4)})
    (left,) = records.read(tmp_path)
    assert (values(tmp_path), left.failed) == ({1: 1.0, 3: 3.0}, {Replicate(5): "boom"})
    assert left.values.parameters_sha256 == ("hash 1", "hash 3")
    read = records.predictions(tmp_path, left)
    assert read["test.entropy"][:, 0].tolist() == [1, 3]
    assert read["test.group_log_prob"][9, :, 0].tolist() == [1, 3]
    assert len(list(tmp_path.iterdir())) == 2


def test_without_all_or_nothing(tmp_path: Path) -> None:
    old = write(tmp_path, [0, 1])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    records.without(tmp_path, old, {Replicate(9), Replicate(0, split=1)})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    records.without(tmp_path, old, {Replicate(0), Replicate(1), Replicate(2)})
    assert list(tmp_path.iterdir()) == []


def test_without_leaves_failures_alone(tmp_path: Path) -> None:
    records.without(tmp_path, write(tmp_path, [], failed=[0, 1]), {Replicate(1)})
    (left,) = records.read(tmp_path)
    assert (left.replicates, left.failed) == ((), {Replicate(0): "boom"})


def parameters(seeds: Iterable[int]) -> dict[str, torch.Tensor]:
    rows = torch.tensor(list(seeds), dtype=torch.float32)  # (R,)
    return {"fc1.weight": rows[:, None, None].expand(-1, 3, 2), "fc1.bias": rows[:, None].double().expand(-1, 3)}


def test_parameters_are_kept_and_read_back(tmp_path: Path) -> None:
    written = write(tmp_path, [0, 3])
    path = records.write_parameters(tmp_path, written, parameters([0, 3]))
    assert path == tmp_path / "parameters" / f"{written.name}.safetensors"
    read = records.parameters(tmp_path, written)
    assert read.keys() == parameters([]).keys()
    for name, value in parameters([0, 3]).items():
        assert torch.equal(read[name], value)
        assert read[name].dtype == value.dtype
    assert records.read(tmp_path) == [written]  # not taken for a record


def test_parameters_that_were_not_kept_are_named(tmp_path: Path, refused: Any) -> None:
    with refused("parameters/", ".safetensors", "--keep-parameters"):
        records.parameters(tmp_path, write(tmp_path, [0]))


def test_parameters_go_and_stay_with_their_replicates(tmp_path: Path) -> None:
    old = write(tmp_path, [0, 1, 2])
    records.write_parameters(tmp_path, old, parameters([0, 1, 2]))
    records.without(tmp_path, old, {Replicate(1)})
    (left,) = records.read(tmp_path)
    assert all(torch.equal(v, parameters([0, 2])[name]) for name, v in records.parameters(tmp_path, left).items())
    records.without(tmp_path, left, {Replicate(0), Replicate(2)})
    assert list((tmp_path / "parameters").iterdir()) == []


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "results").rglob("*-*-*.json")), ids=lambda path: path.name
)
def test_the_cell_of_every_committed_record_keeps_its_hash(path: Path) -> None:
    """Typed cells are those on disk, to the byte: names of files and of cells are hashes of them."""
    on_disk = json.loads(path.read_text("utf-8"))["cell"]
    record = records.read_one(path)
    assert files.canonical_json(record.cell.as_dict()) == files.canonical_json(on_disk)
    assert record.name[:-9] in path.name
