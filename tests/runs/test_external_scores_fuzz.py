"""Files that nobody meant: `score` says what is wrong in one line, or gives the values of NumPy in float64.

Short and always the same here. `BDLBENCH_FUZZ_EXAMPLES=20000 pytest -s tests/test_score_fuzz.py` looks further, and
prints how many files were accepted and refused.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from bdlbench import api
from bdlbench.core.errors import BadInput
from bdlbench.runs import external_scores, predictions_file
from bdlbench.runs.external_scores import Claim
from bdlbench.runs.scoring import measure

pytestmark = pytest.mark.slow

LONG = "BDLBENCH_FUZZ_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("BDLBENCH_FUZZ_EXAMPLES", "80"))
SEEN: Counter[str] = Counter()

Row = dict[str, str]
fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize=not LONG,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module", autouse=True)
def tally() -> Iterator[None]:
    yield
    print(f"\n{dict(SEEN)}")


# the oracle: csv, NumPy, float64


def numbers(rows: list[Row], stem: str) -> np.ndarray:
    """(N, C) of one (set, sample, seed)."""
    columns = sorted((key for key in rows[0] if key.startswith(stem)), key=lambda key: int(key.split("_")[1]))
    return np.array([[float(row[key]) for key in columns] for row in rows])


def oracle(rows: list[Row]) -> dict[str, list[Any]]:
    """Metrics by name, for each seed in ascending order; an AUROC as the range that rounding leaves it."""
    found: dict[str, list[Any]] = {"accuracy": [], "nll": [], "ece": [], "brier": []}
    sets = {row.get("set", "test"): None for row in rows}
    for seed in sorted({whole(row.get("seed", "0")) for row in rows}):
        entropy, own = {}, {}
        for name in sets:
            mine = [r for r in rows if r.get("set", "test") == name and whole(r.get("seed", "0")) == seed]
            samples = sorted({whole(r.get("sample", "0")) for r in mine})
            parts = [[r for r in mine if whole(r.get("sample", "0")) == s] for s in samples]
            first = parts[0]
            if any(key.startswith("score_") for key in first[0]):
                own[name] = np.array([float(r["score_mine"]) for r in first])
            if all(not r.get("prob_0", r.get("logit_0")) for r in first):
                continue  # an out-of-distribution set of scores alone
            with np.errstate(divide="ignore"):
                if "prob_0" in first[0]:
                    each = [np.minimum(numbers(part, "prob_"), 1.0) for part in parts]
                    logs = [np.log(probs) for probs in each]
                else:
                    logs = [log_softmax(numbers(part, "logit_"), axis=1) for part in parts]
                    each = [np.exp(log_probs) for log_probs in logs]
                probs, log_probs = sum(each) / len(parts), logsumexp(logs, axis=0) - np.log(len(parts))
            with np.errstate(divide="ignore", invalid="ignore"):
                entropy[name] = -np.where(probs > 0, probs * np.log(probs), 0.0).sum(1)
            if name == "test":
                y = np.array([whole(r["label"]) for r in first])
                top, right = probs.max(1), probs.argmax(1) == y
                picked = log_probs[np.arange(len(y)), y]
                lost = np.log(float(np.finfo(np.float32).tiny))  # a 0 is one that was lost
                picked = np.where(picked > -np.inf, picked, lost)
                bins = np.searchsorted(np.arange(1, 15) / 15, top)
                gaps = [abs((right[bins == b] - top[bins == b]).sum()) for b in range(15)]
                found["accuracy"].append(right.mean())
                found["nll"].append(-picked.mean())
                found["ece"].append(sum(gaps) / len(y))
                found["brier"].append(((probs - np.eye(probs.shape[1])[y]) ** 2).sum(1).mean())
        for name in sets:
            if name != "test" and name in entropy:
                found.setdefault(f"ood_auroc[{name}]", []).append(auroc(entropy[name], entropy["test"], 1e-12))
            if name != "test" and own:
                found.setdefault(f"ood_auroc_mine[{name}]", []).append(auroc(own[name], own["test"], 0.0))
    return found


def whole(text: str) -> int:
    return int(Fraction(text))


def auroc(outside: np.ndarray, inside: np.ndarray, blur: float) -> tuple[float, float]:
    gap = outside[:, None] - inside
    low, high = ((gap > b).mean() + ((gap > -b).mean() if b else (gap >= 0).mean()) for b in (blur, blur))
    return ((gap > blur).mean(), (gap >= -blur).mean()) if blur else (low / 2, high / 2)


def agree(found: dict[str, list[float]], rows: list[Row]) -> None:
    for name, expected in oracle(rows).items():
        for value, right in zip(found[name], expected, strict=True):
            low, high = right if isinstance(right, tuple) else (right, right)
            assert low - 1e-9 - 1e-12 * abs(low) <= value <= high + 1e-9 + 1e-12 * abs(high), (name, value, right)
    assert all(value >= 0 for value in found["nll"])


def scored(path: Path) -> dict[str, list[float]]:
    """By name; replicates in the order of their seeds' values."""
    found = predictions_file.read(path)
    order = np.argsort(found.seeds) if found.seeds else range(found.log_probs.shape[1])
    metrics = measure(external_scores.evaluate(found), external_scores._metrics(found))
    return {name: [entry.numbers[i] for i in order] for name, entry in metrics.items()}


# what is written


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """Rows that are right: sets, seeds and samples in any order, examples in order within each."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes, samples, seeds = draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    stem = draw(st.sampled_from(["prob", "prob", "logit"]))
    scale = draw(st.sampled_from([0.1, 1.0, 30.0, 300.0]))
    sets = {"test": draw(st.integers(1, 6))}
    names = ("far", "NA", "null", "None", "nan", "a.b", "日本", "1", "true", "inf", "probs", "x,y", 'a"b')
    for name in draw(st.lists(st.sampled_from(names), unique=True, max_size=2)):
        sets[name] = draw(st.integers(1, 5))
    seed_names = draw(
        st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 12), min_size=seeds, max_size=seeds, unique=True)
    )
    has_score = draw(st.booleans())
    blocks = []
    for name, count in sets.items():
        labels, own = rng.integers(classes, size=count), rng.normal(size=(seeds, count))
        alone = name != "test" and has_score and draw(st.integers(0, 4)) == 0
        for (s, seed), m in itertools.product(enumerate(seed_names), range(samples)):
            logits = rng.normal(size=(count, classes)) * scale
            raised = np.exp(logits - logits.max(1, keepdims=True))
            values = logits if stem == "logit" else raised / raised.sum(1, keepdims=True)
            block = []
            for n in range(count):
                row = {f"{stem}_{c}": "" if alone else repr(float(values[n, c])) for c in range(classes)}
                row |= {"label": str(labels[n]) if name == "test" else "", "set": name, "seed": str(seed)}
                row["sample"] = str(7 * m)
                block.append(row | ({"score_mine": repr(float(own[s, n]))} if has_score else {}))
            blocks.append(block)
    order = draw(st.permutations(range(len(blocks))))
    gone = ["set"] * (len(sets) == 1) + ["seed"] * (seeds == 1) + ["sample"] * (samples == 1)
    dropped = {key for key in gone if draw(st.booleans())}
    rows = [row for i in order for row in blocks[i]]
    columns = draw(st.permutations([key for key in rows[0] if key not in dropped]))
    return [{key: row[key] for key in columns} for row in rows]


def as_csv(rows: list[Row], quoting: int = csv.QUOTE_MINIMAL, newline: str = "\n") -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, quoting=quoting, lineterminator=newline)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return stream.getvalue()


@fuzzed
@given(rows=tables(), data=st.data())
def test_a_right_csv_gives_the_oracles_values(tmp_path: Path, rows: list[Row], data: st.DataObject) -> None:
    text = as_csv(
        rows, data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])), data.draw(st.sampled_from(["\n", "\r\n"]))
    )
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode(data.draw(st.sampled_from(["utf-8", "utf-8-sig"]))))
    agree(scored(path), rows)
    SEEN["csv, right"] += 1


@fuzzed
@given(rows=tables(), data=st.data())
def test_a_right_parquet_gives_the_oracles_values(tmp_path: Path, rows: list[Row], data: st.DataObject) -> None:
    """Whatever types hold the columns: categorical, nullable, arrow, object, float16 where it is exact."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns: dict[str, Any] = {}
    for name in rows[0]:
        words = [row[name] for row in rows]
        if name == "set":
            column = pa.array(words, data.draw(st.sampled_from([pa.string(), pa.large_string()])))
        elif name in ("label", "seed", "sample"):
            kinds = [pa.int64(), pa.uint64(), pa.string()]
            kinds += [pa.int8(), pa.float32(), pa.float16()] if name != "seed" else []
            kind = data.draw(st.sampled_from(kinds))
            values = [None if not word else word if kind == pa.string() else int(word) for word in words]
            column = pa.array(np.float16(values)) if kind == pa.float16() and None not in values else pa.array(
                values, pa.int64() if kind == pa.float16() else kind
            )  # fmt: skip
        else:
            column = pa.array([float(word) if word else None for word in words], pa.float64())
        columns[name] = column.dictionary_encode() if data.draw(st.booleans()) else column
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    agree(scored(tmp_path / "a.parquet"), rows)
    SEEN["parquet, right"] += 1


NASTY = [
    *("", " ", "nan", "NaN", "inf", "-inf", "NA", "None", "null", "1e999", "-0.0", "-1e-12", "1.00009", "0,5", "1_0"),
    *(
        "٣",
        "0x1",
        "1e-400",
        "99999999999999999999",
        "9223372036854775808",
        "3.0",
        "1.5",
        "1e0",
        "test",
        "test ",
        "Test",
    ),
    *("\ufefftest", "te\u200bst", "a\nb", "\t", "=1", "\x00", "-1", "True", "0", "1", "2"),
]
HEADERS = [
    *("", "Unnamed: 0", " prob_1", "prob_1 ", "prob_01", "prob_1.0", "prob_1.1", "Prob_1", "prob_١", "prob_-1"),
    *("logit_0", "logit_1", "label", "labels", "set", "seed", "seed.1", "score_mine", "score_Mine", "score_entropy"),
    *("prob_9", "score_y", "score_log_prob", "prob_99999999999999999999999"),
]


@fuzzed
@given(rows=tables(), data=st.data())
def test_a_spoiled_csv_is_refused_or_means_what_it_says(tmp_path: Path, rows: list[Row], data: st.DataObject) -> None:
    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    for _ in range(data.draw(st.integers(1, 3))):
        i = data.draw(st.integers(0, len(table) - 1))
        j = data.draw(st.integers(0, max(0, len(table[i]) - 1)))
        kind = data.draw(st.sampled_from(["cell", "cell", "cell", "header", "less", "more", "gone", "twice", "column"]))
        if kind == "cell" and i and table[i]:
            table[i][j] = data.draw(st.sampled_from(NASTY) | st.text(max_size=4))
        elif kind == "header" and table[0]:
            table[0][j % len(table[0])] = data.draw(st.sampled_from(HEADERS) | st.text(max_size=6))
        elif kind == "less":
            table[i] = table[i][:-1]
        elif kind == "more":
            table[i] = [*table[i], data.draw(st.sampled_from(["", "0", "x"]))]
        elif kind == "gone" and i:
            del table[i]
        elif kind == "twice":
            table.append(list(table[i]))
        elif kind == "column":
            table = [[cell for k, cell in enumerate(line) if k != j] for line in table]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n", delimiter=data.draw(st.sampled_from(",,,,,,;\t"))).writerows(table)
    content = stream.getvalue().encode(data.draw(st.sampled_from(["utf-8"] * 6 + ["utf-16", "utf-7"])), "surrogatepass")
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    try:
        found = scored(path)
    except BadInput as error:
        assert "\n" not in str(error)
        SEEN["csv, spoiled: refused"] += 1
        return
    SEEN["csv, spoiled: accepted"] += 1
    read = [row for row in csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline="")) if row]
    width = len(read[0])
    assert not any(any(row[width:]) for row in read)  # a comma at the end of a row says nothing
    agree(found, [dict(zip(read[0], [*row, *[""] * width], strict=False)) for row in read[1:]])


@fuzzed
@given(data=st.data())
def test_any_bytes_are_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes altered, cut or put in, of each kind of file."""
    ending = data.draw(
        st.sampled_from([".csv", ".npz", *[".parquet"] * (importlib.util.find_spec("pyarrow") is not None)])
    )
    path = tmp_path / f"a{ending}"
    if ending == ".npz":
        np.savez(path, probs=np.full((3, 2), 0.5), labels=np.array([0, 1, 1]))
    elif ending == ".csv":
        path.write_text("label,prob_0,prob_1\n0,0.5,0.5\n1,0.5,0.5\n")
    else:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table({"label": [0, 1], "prob_0": [0.5, 0.5], "prob_1": [0.5, 0.5]}), path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.sampled_from([0, 1, 1, 1, 8, 10**6]))] = data.draw(st.binary(max_size=2))
    path.write_bytes(content)
    try:
        scored(path)
        SEEN[f"{ending}, bytes: accepted"] += 1
    except BadInput as error:
        assert "\n" not in str(error)
        SEEN[f"{ending}, bytes: refused"] += 1


DTYPES = ["f2", "f4", "f8", ">f4", "g", "i1", "u8", "?", "c8", "U3", "S2", "M8[s]"]


@fuzzed
@given(data=st.data())
def test_an_npz_of_any_dtype_and_shape(tmp_path: Path, data: st.DataObject) -> None:
    """Accepted: the oracle's values of the numbers as they are stored, float16 too. Else one line."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    sizes = st.sampled_from([2, 3, 5, 4, 2, 3, 5, 4, 1, 0])
    num, classes, seeds = data.draw(sizes), data.draw(sizes), data.draw(st.integers(1, 3))
    logits = rng.normal(size=(1, seeds, num, classes)) * data.draw(st.sampled_from([0.0, 1.0, 9.0]))
    raised = np.exp(logits)
    dtype = data.draw(st.sampled_from([*["f2", "f4", "f8"] * 4, *DTYPES]))
    probs = (raised / raised.sum(-1, keepdims=True)).astype(dtype)
    labels = rng.integers(max(1, classes), size=num).astype(
        data.draw(st.sampled_from([*["i8", "u8", "f2", "i2"] * 6, *DTYPES]))
    )
    names = rng.permutation(9)[:seeds].astype(data.draw(st.sampled_from([*["i8", "u8", "f4", "i2"] * 6, *DTYPES])))
    own, outside = rng.normal(size=num) * 1e-9 + 1, rng.normal(size=data.draw(sizes)) * 1e-9 + 1
    arrays: dict[str, Any] = {"probs": probs, "labels": labels, "seeds": names}
    arrays |= {"score.mine": own, "ood.far.score.mine": outside}
    if probs.size and data.draw(st.integers(0, 3)) == 0:
        at = tuple(rng.integers(size) for size in probs.shape)
        with contextlib.suppress(OverflowError, ValueError, TypeError), np.errstate(all="ignore"):
            probs[at] = data.draw(st.sampled_from([np.nan, np.inf, -1e-9, 1.00009, -0.0, 1e300, 0.25]))
    if (gone := data.draw(st.sampled_from([*arrays, *[""] * 9]))) in arrays:
        del arrays[gone]
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    try:
        found = scored(path)
    except BadInput as error:
        assert "\n" not in str(error)
        SEEN[f"npz {dtype}: refused"] += 1
        return
    SEEN[f"npz {dtype}: accepted"] += 1
    order = np.argsort(names.astype(float)) if "seeds" in arrays else range(seeds)
    rows = []
    for s, r in enumerate(order):
        mine = {"seed": str(s), "set": "test"}
        rows += [
            mine | {f"prob_{c}": repr(float(probs[0, r, n, c])) for c in range(classes)}
            | {"label": str(int(labels[n])), "score_mine": repr(float(own[n]))}
            for n in range(num)
        ]  # fmt: skip
        rows += [mine | {"set": "far", "prob_0": "", "label": "", "score_mine": repr(float(x))} for x in outside]
    if not {"score.mine", "ood.far.score.mine"} <= arrays.keys():
        rows = [{k: v for k, v in row.items() if k != "score_mine"} for row in rows if row["set"] == "test"]
    agree(found, rows)


@fuzzed
@given(text=st.text(max_size=12) | st.from_regex(r"[-+]?[0-9]{0,20}[.eE]?[-+]?[0-9]{0,9}", fullmatch=True))
def test_values_of_others_are_text_or_whole_numbers_in_full(text: str) -> None:
    value = external_scores._typed(text)
    if isinstance(value, str):
        assert value == text
    elif isinstance(value, int):
        assert str(value) == text.removeprefix("+").replace("-0", "0") or str(value) == text
    else:
        assert value == float(text) and np.isfinite(value)
        assert value != 0 or not re.search("[1-9]", re.split("[eE]", text)[0])


@fuzzed
@given(
    option=st.sampled_from(["m.a", "m.b", "m.name", "m.\x07", "mlp.widths", "m", "m."])
    | st.text(max_size=5).map("m.{}".format),
    value=st.sampled_from(["1", "980e663509", "inf", "nan", "-1e400", "7" * 5000]) | st.text(max_size=8),
    seeds=st.sampled_from(["", "3,1", "1,3", "0-1", "2", "0-999999999", "9" * 30, "-", "1,1", "1,٣"])
    | st.text("0123456789,- ", max_size=6),
)
def test_no_claim_ends_in_anything_but_one_line(tmp_path: Path, option: str, value: str, seeds: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, probs=np.full((1, 2, 3, 2), 0.5), labels=[0, 1, 1])
    claim = Claim("m", "toy", "mlp", own_data=True, seeds=seeds, settings=(f"{option}={value}",))
    try:
        api.score(path, claim, tmp_path / "out", fresh=True)
        SEEN["claims: accepted"] += 1
    except BadInput as error:
        assert "\n" not in str(error)
        SEEN["claims: refused"] += 1
