"""Predictions made elsewhere: other libraries' numbers, one clear line for every fault, a record like any other."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from sklearn.linear_model import LogisticRegression

from bdlbench import api, catalog
from bdlbench.cli import main as cli
from bdlbench.compare import pairs
from bdlbench.core.errors import NotComparable
from bdlbench.core.spec import Cell, Choice
from bdlbench.records import evaluation
from bdlbench.records import record as records
from bdlbench.runs import predictions_file
from bdlbench.runs.external_scores import Claim
from bdlbench.runs.loading import load_task

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "predictions-made-elsewhere.md").read_text("utf-8")
NUM, CLASSES = 45, 3


def example() -> str:
    """The tutorial's block that makes predictions."""
    return next(block for block in re.findall(r"```python[^\n]*\n(.*?)```", PAGE, re.DOTALL) if "sklearn" in block)


def made(seed: int, *lead: int, num: int = NUM, classes: int = CLASSES) -> np.ndarray:
    """(*lead, num, classes) probabilities."""
    logits = torch.randn(*lead, num, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.softmax(-1).numpy()


def wine_labels(split: int = 0) -> np.ndarray:
    return load_task(catalog.choice("datasets", "wine", {}), split).test.y.numpy()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """`saved(key=array, …)`: an npz of predictions of `wine`, with these arrays in place of the right ones."""

    def save(**arrays: Any) -> Path:
        path = tmp_path / "mine.npz"
        whole = {"probs": made(0), "labels": wine_labels(), **arrays}
        np.savez(path, **{name: value for name, value in whole.items() if value is not None})
        return path

    return save


def values(path: Path) -> dict[str, list[float]]:
    return {name: list(entry.values) for name, entry in records.read_one(path).values.metrics.items()}


# the oracle: other libraries' own functions


def test_the_tutorials_example_equals_sklearn_and_torchmetrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torchmetrics_calibration_error: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(example().splitlines()) <= 10
    exec(compile(example(), "tutorial", "exec"), {})
    lines = PAGE.replace("\\\n", "").splitlines()
    command = next(line for line in lines if line.startswith("python -m bdlbench score"))
    assert cli.main([*command.partition("#")[0].split()[3:], "--results", "out"]) == 0
    found = {name: value[0] for name, value in values(next(Path("out").glob("*.json"))).items()}
    stored = np.load(tmp_path / "sklearn.npz")
    probs, y, outside = stored["probs"], stored["labels"], stored["ood.photos.probs"]
    entropy = [-(p * np.log(p)).sum(1) for p in (probs, outside)]
    positive = np.repeat([0, 1], [len(probs), len(outside)])
    one_hot = np.eye(10)[y]
    oracle = {
        "accuracy": sklearn.metrics.accuracy_score(y, probs.argmax(1)),
        "nll": sklearn.metrics.log_loss(y, probs),
        "brier": sum(sklearn.metrics.brier_score_loss(one_hot[:, c], probs[:, c]) for c in range(10)),
        "ece": torchmetrics_calibration_error(torch.tensor(probs), torch.tensor(y), 10, n_bins=15, norm="l1").item(),
        "ood_auroc[photos]": sklearn.metrics.roc_auc_score(positive, np.concatenate(entropy)),
        "ood_aupr[photos]": sklearn.metrics.average_precision_score(positive, np.concatenate(entropy)),
        "ood_auroc_max_probability[photos]": sklearn.metrics.roc_auc_score(
            positive, -np.concatenate([probs.max(1), outside.max(1)])
        ),
    }
    assert {name: found[name] for name in oracle} == pytest.approx(oracle, abs=1e-6)


def test_a_record_sits_beside_ours(saved: Callable[..., Path], tmp_path: Path) -> None:
    """Its protocol and its data are those of a cell that was trained here, so that comparing them is allowed."""
    assert cli.main(
        ["run", "--method", "mle", "--model", "logistic", "--dataset", "wine", "--samples", "2", "--seeds", "1",
         "--set", "mle.epochs=1", "--jobs", "1", "--results", str(tmp_path / "ours")]
    ) == 0  # fmt: skip
    (ours,) = pairs.merge(records.read(tmp_path / "ours"))
    path = api.score(saved(), Claim("forest", "wine", "logistic", samples=2), tmp_path / "theirs")
    (theirs,) = pairs.merge([records.read_one(path)])
    assert theirs.cell.protocol() == ours.cell.protocol()
    assert (theirs.sources, theirs.replicates) == (ours.sources, ours.replicates)
    shared = theirs.scores.keys() & ours.scores.keys()
    assert {"accuracy", "nll", "ece", "brier"} <= shared and "parameters" not in theirs.scores
    assert {n: theirs.scores[n].definition for n in shared} == {n: ours.scores[n].definition for n in shared}
    arrays = records.predictions(tmp_path / "theirs", records.read_one(path))
    ours_too = records.predictions(tmp_path / "ours", records.read(tmp_path / "ours")[0])
    assert {n: v.shape for n, v in arrays.items()} == {n: v.shape for n, v in ours_too.items()}
    named = Claim("mle", "wine", "logistic", samples=2, settings=("mle.epochs=1", "mle.learning_rate=3e-3"))
    again = api.score(saved(), named, tmp_path / "reimplemented")
    assert records.read_one(again).cell.method.get("learning_rate") == 3e-3  # a name of the catalog: its entry


def test_a_method_of_ones_own_is_paired_with_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`compare --treatment map:sklearn_logistic`: our cell in A, scikit-learn's predictions in B, one data set."""
    ours, theirs, path = tmp_path / "ours", tmp_path / "theirs", tmp_path / "sklearn.npz"
    assert cli.main(
        ["run", "--method", "map", "--model", "logistic", "--dataset", "wine", "--samples", "2", "--seeds", "2",
         "--set", "map.epochs=1", "--jobs", "1", "--results", str(ours)]
    ) == 0  # fmt: skip
    wine = api.task("wine")
    model = LogisticRegression().fit(wine.train.x.numpy(), wine.train.y)
    np.savez(path, labels=wine.test.y, probs=model.predict_proba(wine.test.x.numpy()))
    claim = ["--method", "sklearn_logistic", "--model", "logistic", "--dataset", "wine", "--samples", "2"]
    assert cli.main(["score", str(path), *claim, "--results", str(theirs)]) == 0
    found = api.compare(ours, theirs, treatment=("map", "sklearn_logistic"))
    (pair,) = found.pairs
    assert (pair.a.title, pair.b.title) == ("map · logistic · wine", "sklearn_logistic · logistic · wine")
    assert (found.only_a, found.only_b, found.apart) == ((), (), ())
    assert "device is cpu in A and elsewhere in B" in pair.notes
    accuracy = next(finding for finding in found.findings if finding.metric == "accuracy")
    assert accuracy.mean_b == pytest.approx(model.score(wine.test.x.numpy(), wine.test.y))
    capsys.readouterr()
    assert cli.main(["compare", str(ours), str(theirs), "--treatment", "map:sklearn_logistic"]) == found.exit_code
    assert "map → sklearn_logistic" in capsys.readouterr().out


def test_comparing_with_itself_and_with_other_data(saved: Callable[..., Path], tmp_path: Path, refused: Any) -> None:
    a = api.score(saved(), Claim("mine", "toy", own_data=True), tmp_path / "a")
    b = api.score(saved(probs=made(7)), Claim("mine", "toy", own_data=True), tmp_path / "b")
    c = api.score(saved(labels=np.zeros(NUM, int)), Claim("mine", "toy", own_data=True), tmp_path / "c")
    assert len(api.compare(a, b).pairs) == 1
    with refused("mine · external · toy", "SHA-256", "labels", error=NotComparable):
        api.compare(a, c)


def test_fewer_samples_than_the_protocol_has_are_weighed_as_drawn(saved: Callable[..., Path], tmp_path: Path) -> None:
    """Thirteen samples in ten groups: three of two and seven of one, whatever M the cells beside them have."""
    path = api.score(saved(probs=made(1, 13, 1)), Claim("mine", "wine", samples=100), tmp_path / "out")
    record = records.read_one(path)
    kept = evaluation.read(record, records.predictions(tmp_path / "out", record))
    assert kept is not None and isinstance(kept.test, evaluation.Kept)
    assert (kept.test.samples, kept.test.weights) == (13, (2.0,) * 3 + (1.0,) * 7)


# the layout


def test_samples_and_replicates(saved: Callable[..., Path], tmp_path: Path) -> None:
    """PROBABILITIES are averaged over M; each replicate is a row of its own, with the seed that the file names."""
    probs = made(1, 20, 2)  # (M, R, N, C)
    path = api.score(saved(probs=probs, seeds=[4, 2]), Claim("mine", "wine"), tmp_path / "out")
    record = records.read_one(path)
    assert [replicate.seed for replicate in record.replicates] == [4, 2]
    assert record.cell.samples == 20
    mean, y = probs.mean(0), wine_labels()
    nll = [-np.log(row[np.arange(NUM), y]).mean() for row in mean]
    assert record.values.metrics["nll"].values == pytest.approx(nll, abs=1e-6)
    arrays = records.predictions(tmp_path / "out", record)
    assert arrays["test.group_log_prob"].shape == (10, 2, NUM)
    assert arrays["test.running_class"].shape == (2, NUM, 10)
    assert torch.equal(arrays["test.running_class"][..., -1], torch.tensor(mean.argmax(-1)).short())


@pytest.mark.parametrize(("axes", "shape"), [("RNC", (5, 1)), ("MNC", (1, 5))])
def test_three_axes_must_be_named(saved: Callable[..., Path], axes: str, shape: tuple[int, int], refused: Any) -> None:
    path = saved(probs=made(1, 5))
    with refused("probs", "3 axes", "(5, 45, 3)", "--axes RNC", "5 replicates", "MNC"):
        predictions_file.read(path)
    found = predictions_file.read(path, axes)
    assert found.log_probs.shape[:2][::-1] == shape


def test_logits_are_softmaxed_and_scores_kept(saved: Callable[..., Path], tmp_path: Path, refused: Any) -> None:
    probs, inside, outside = made(2), made(3)[:, 0], made(4, num=7)[:, 0]
    path = saved(
        probs=None, logits=np.log(probs) + 3,
        **{"score.energy": inside, "ood.blobs.score.energy": outside, "ood.far.logits": made(5, num=9),
           "ood.far.score.energy": outside},
    )  # fmt: skip
    with refused("ood.far.score.energy", "(7,)", "(9,)"):
        predictions_file.read(path)
    path = saved(
        probs=None, logits=np.log(probs) + 3, **{"score.energy": inside, "ood.blobs.score.energy": outside}
    )  # fmt: skip
    found = values(api.score(path, Claim("mine", "toy", own_data=True), tmp_path / "out"))
    positive = np.repeat([0, 1], [NUM, 7])
    expected = sklearn.metrics.roc_auc_score(positive, np.concatenate([inside, outside]))
    assert found["ood_auroc_energy[blobs]"] == pytest.approx([expected])
    assert "ood_auroc[blobs]" not in found
    assert found["brier"] == pytest.approx([((probs - np.eye(3)[wine_labels()]) ** 2).sum(1).mean()], abs=1e-6)


def frame(probs: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> pd.DataFrame:
    """One row for each sample, seed, set and example; probs (M, R, N, C), the first four examples are "far"."""
    labels, energy = np.append(np.full(4, np.nan), wine_labels()), np.append(outside, inside)
    rows = [
        {"sample": m, "seed": s + 3, "set": "far" if n < 4 else "test", "label": labels[n], "score_energy": energy[n]}
        | {f"prob_{c}": p for c, p in enumerate(probs[m, s, n])}
        for m in range(probs.shape[0]) for s in range(probs.shape[1]) for n in range(probs.shape[2])
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_says_the_same_as_an_npz(saved: Callable[..., Path], tmp_path: Path, ending: str) -> None:
    probs, inside, outside = made(6, 2, 2, num=NUM + 4), made(3)[:, 0], made(4, num=4)[:, 0]
    path, table = tmp_path / f"mine.{ending}", frame(probs, inside, outside)
    if ending == "csv":
        table.to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow")
        table.to_parquet(path)
    same = saved(
        probs=probs[:, :, 4:], seeds=[3, 4],
        **{"ood.far.probs": probs[:, :, :4], "score.energy": inside, "ood.far.score.energy": outside},
    )  # fmt: skip
    claim = Claim("mine", "toy", own_data=True)
    a, b = (api.score(file, claim, tmp_path / file.suffix[1:]) for file in (path, same))
    assert values(a) == values(b)
    assert records.read_one(a).replicates == records.read_one(b).replicates
    assert records.read_one(a).predictions == records.read_one(b).predictions


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    monkeypatch.setattr(predictions_file.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "mine.parquet").write_bytes(b"PAR1")
    with refused("mine.parquet", "pyarrow"):
        predictions_file.read(tmp_path / "mine.parquet")


# faults of a file: one line, exit code 2, nothing written


def spoiled(at: tuple[int, ...], value: float) -> np.ndarray:
    probs = made(0)
    probs[at] = value
    return probs


def scoring(arguments: list[str], tmp_path: Path) -> list[str]:
    """The command line that scores a file as predictions of the method `mine`."""
    return ["score", *arguments, "--method", "mine", "--results", str(tmp_path / "out")]


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({"prob": made(0)}, ["unknown", "mine.npz", "'prob'", "'probs'"]),
        ({"probs": None}, ["neither", "probs", "logits"]),
        ({"logits": made(0)}, ["both", "probs", "logits"]),
        ({"labels": None}, ["no labels"]),
        ({"labels": wine_labels()[:-1]}, ["labels", "(1, 44)", "(45,)"]),
        (
            {"labels": np.where(np.arange(NUM) == 7, 3, 0)},
            ["labels", "3", "replicate 0", "example 7", "0 … 2"],
        ),
        ({"labels": np.full(NUM, 0.5)}, ["labels", "0.5", "replicate 0", "example 0"]),
        ({"labels": np.array(["a"] * NUM)}, ["labels", "<U1"]),
        (
            {"labels": (wine_labels() + (np.arange(NUM) == 9)) % 3},
            ["1 of 45", "labels", "split 0", "wine"],
        ),
        ({"probs": made(0)[:, 0]}, ["probs", "1 axes", "(45,)"]),
        ({"probs": made(0)[:, :1]}, ["probs", "class"]),
        ({"probs": spoiled((3, 1), np.nan)}, ["probs", "nan", "sample 0", "replicate 0", "example 3", "class 1"]),
        ({"probs": spoiled((3, 1), -0.1)}, ["probs", "-0.1", "example 3", "class 1"]),
        ({"probs": 0.9 * made(0)}, ["probs", "0.9", "sample 0", "replicate 0", "example 0"]),
        ({"probs": None, "logits": spoiled((0, 0), np.inf)}, ["logits", "inf"]),
        ({"probs": made(0, classes=4)}, ["4 classes", "split 0", "wine", "3"]),
        ({"ood.far.probs": made(0, num=5, classes=4)}, ["ood.far", "4 classes", "3"]),
        ({"ood.far.probs": made(0, 2, 1, num=5)}, ["ood.far", "2 samples", "1"]),
        ({"ood.far.probs": made(0, num=5)}, ["unknown", "out-of-distribution", "wine", "'far'"]),
        ({"score.entropy": np.zeros(NUM)}, ["'entropy'", "computed"]),
        ({"score.energy": np.zeros(NUM), "ood.far.probs": made(0, num=5)}, ["'energy'", "test"]),
        ({"score.Energy": np.zeros(NUM)}, ["unknown", "'score.Energy'"]),
        ({"seeds": [1, 2]}, ["seeds", "(2,)"]),
        ({"seeds": [[3]]}, ["seeds", "(1, 1)"]),
        ({"probs": np.array([{}])}, ["mine.npz", "npz"]),
        ({"ood.test.probs": made(0, num=5)}, ["'test'", "name"]),
    ],
)
def test_faults_of_an_npz(
    saved: Callable[..., Path], arrays: dict[str, Any], names: list[str], tmp_path: Path, refused: Any
) -> None:
    refused.command(scoring([str(saved(**arrays)), "--dataset", "wine"], tmp_path), *names)


def test_an_npy_that_is_called_npz(tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "mine.npz"
    with path.open("wb") as stream:
        np.save(stream, made(0))
    refused.command(scoring([str(path), "--dataset", "wine"], tmp_path), "mine.npz", "one", "array")


def test_a_damaged_npz(tmp_path: Path, refused: Any) -> None:
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, probs=made(0), labels=wine_labels())
    content = bytearray(path.read_bytes())
    content[30 + sum(content[26:30:2])] = 0xFF  # behind the first header and its name: no block of deflate begins so
    path.write_bytes(content)
    refused.command(scoring([str(path), "--dataset", "wine"], tmp_path), "mine.npz", "npz", "-3")


def test_a_table_has_no_axes(tmp_path: Path, refused: Any) -> None:
    (tmp_path / "mine.csv").write_text(CSV)
    arguments = [str(tmp_path / "mine.csv"), "--dataset", "toy", "--own-data", "--axes", "NC"]
    refused.command(scoring(arguments, tmp_path), "--axes NC", "npz")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--dataset", "wines"], ["dataset", "wines", "wine"]),
        (["--dataset", "diabetes"], ["diabetes", "no classes"]),
        (["--dataset", "digits"], ["3 classes", "split 0", "digits", "10"]),
        (["--dataset", "wine", "--samples", "0"], ["--samples 0", "1 samples"]),
        (["--dataset", "wine", "--seeds", "3"], ["--seeds 3", "3 seeds", "1 replicates", "3-3"]),
        (["--dataset", "wine", "--splits", "all"], ["--splits 'all'"]),
        (["--dataset", "wine", "--axes", "NRC"], ["--axes 'NRC'"]),
        (["--dataset", "wine", "--axes", "RNC"], ["probs", "2 axes", "RNC", "3"]),
        (["--dataset", "wine", "--set", "mien.rate=1"], ["entry", "mien", "mine"]),
        (["--dataset", "wine", "--set", "mle.epochs=1"], ["entry", "mle", "mine"]),
        (["--dataset", "wine", "--own-data"], ["wine", "catalog"]),
        (["--dataset", "wine", "--model", " "], ["model", "names"]),
        (["--dataset", "wine", "--set", "mine.rate=1,2"], ["--set mine.rate=1,2", "2 values"]),
    ],
)
def test_faults_of_a_claim(
    saved: Callable[..., Path], arguments: list[str], names: list[str], tmp_path: Path, refused: Any
) -> None:
    refused.command(scoring([str(saved()), *arguments], tmp_path), *names)


CSV = "label,prob_0,prob_1\n0,0.5,0.5\n1,0.1,0.9\n"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (CSV.replace("label", "lable"), ["unknown", "lable", "label"]),
        (CSV.replace("prob_1", "prob_2"), ["column prob_1", "0", "missing"]),
        (CSV.replace("0.9", ""), ["column prob_1", "empty", "row 2"]),
        (CSV.replace("0.9", "much"), ["column prob_1", "'much'", "row 2"]),
        ("", ["csv"]),
        (
            "seed," + CSV.replace("\n0", "\n0,0").replace("\n1", "\n0,1") + "1,1,0.1,0.9\n",
            ["rows", "seed"],
        ),
        ("sample,label,prob_0,prob_1\n0,0,0.5,0.5\n1,1,0.5,0.5\n", ["column label", "samples"]),
    ],
)
def test_faults_of_a_table(text: str, names: list[str], tmp_path: Path, refused: Any) -> None:
    (tmp_path / "mine.csv").write_text(text)
    refused.command(scoring([str(tmp_path / "mine.csv"), "--dataset", "toy", "--own-data"], tmp_path), *names)


@pytest.mark.parametrize(("name", "names"), [("mine.txt", ["mine.txt", ".npz"]), ("mine.npz", ["mine.npz", "exist"])])
def test_no_such_file(name: str, names: list[str], tmp_path: Path, refused: Any) -> None:
    refused.command(scoring([str(tmp_path / name), "--dataset", "wine"], tmp_path), *names)


def test_what_is_there_is_replaced_only_when_asked(saved: Callable[..., Path], tmp_path: Path, refused: Any) -> None:
    claim = Claim("mine", "wine", settings=("mine.rate=0.5", "mine.kind=big", "mine.depth=3"))
    first = api.score(saved(), claim, tmp_path / "out")
    treatment = records.read_one(first).cell.method.as_dict()
    assert treatment == {"name": "mine", "rate": 0.5, "kind": "big", "depth": 3}
    with refused(tmp_path / "out", "seeds 0", "--fresh"):
        api.score(saved(probs=made(9)), claim, tmp_path / "out")
    before = values(first)["nll"]
    again = api.score(saved(probs=made(9)), claim, tmp_path / "out", fresh=True)
    assert again == first and values(again)["nll"] != before


def test_what_is_replaced_goes_after_the_new_record_is_there(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails loses nothing; one that is done leaves every replicate in one record."""
    claim, out = Claim("mine", "wine"), tmp_path / "out"
    api.score(saved(probs=made(1, 1, 3), seeds=[0, 1, 2]), claim, out)
    new = saved(probs=made(2, 1, 2), seeds=[1, 2])
    with monkeypatch.context() as patched:
        patched.setattr(records, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            api.score(new, claim, out, fresh=True)
    assert [[r.seed for r in record.replicates] for record in records.read(out)] == [[0, 1, 2]]
    path = api.score(new, claim, out, fresh=True)
    assert sorted(r.seed for record in records.read(out) for r in record.replicates) == [0, 1, 2]
    again = api.score(new, claim, out, fresh=True)  # the same name: written over, not taken out
    assert again == path and path.exists() and len(records.read(out)) == 2


def test_the_environment_has_the_threads_of_the_cell(saved: Callable[..., Path], tmp_path: Path) -> None:
    torch.set_num_threads(2)
    record = records.read_one(api.score(saved(), Claim("mine", "wine"), tmp_path / "out"))
    assert record.environment.threads == record.cell.threads == 1


def test_splits_have_their_own_labels(saved: Callable[..., Path], tmp_path: Path, refused: Any) -> None:
    digits = catalog.choice("datasets", "digits", {})
    labels = np.stack([load_task(digits, split).test.y.numpy() for split in (0, 1)])
    path = saved(probs=made(0, 1, 2, num=450, classes=10), labels=labels)
    record = records.read_one(api.score(path, Claim("mine", "digits", splits="each"), tmp_path / "out"))
    assert [(r.seed, r.split) for r in record.replicates] == [(0, 0), (1, 1)]
    with refused("labels", "split 0", "digits", "example 1"):
        api.score(path, Claim("mine", "digits"), tmp_path / "other")


def test_a_name_that_no_file_can_have(saved: Callable[..., Path], tmp_path: Path) -> None:
    path = api.score(saved(), Claim("../<script>alert(1)</script>", "wine"), tmp_path / "out")
    assert path.parent == tmp_path / "out" and path.name.startswith("wine-external-.._")
    assert records.read(tmp_path / "out")[0].cell.method.name == "../<script>alert(1)</script>"
    cell = Cell(Choice.of("mle", {}), Choice.of("mlp", {}), Choice.of("wine", {}), 1)
    assert records.name_of(cell, ()).startswith("wine-mlp-mle-")


# kinds of faults that were silent, each with siblings


def test_seeds_are_the_rows_that_they_are_named_for(saved: Callable[..., Path], tmp_path: Path, refused: Any) -> None:
    """`--seeds 7,3`: row 0 is seed 7; a range counts up."""
    path = saved(probs=made(1, 1, 2))
    record = records.read_one(api.score(path, Claim("mine", "wine", seeds="7,3"), tmp_path / "out"))
    assert [replicate.seed for replicate in record.replicates] == [7, 3]
    nll = [-np.log(row[np.arange(NUM), wine_labels()]).mean() for row in made(1, 2)]
    assert record.values.metrics["nll"].values == pytest.approx(nll, rel=1e-12)
    record = records.read_one(api.score(path, Claim("mine", "wine", seeds="3-4"), tmp_path / "range"))
    assert [replicate.seed for replicate in record.replicates] == [3, 4]
    with refused("--seeds 0-999999999", "1000000000 seeds", "2 replicates"):
        api.score(path, Claim("mine", "wine", seeds="0-999999999"), tmp_path / "out")


def as_file(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    (tmp_path / "mine.csv").write_bytes(text.encode(encoding))
    return tmp_path / "mine.csv"


TWO = "seed,sample,set,label,prob_0,prob_1\n"


def test_rows_of_a_table_are_matched_by_the_names_of_seed_and_sample(tmp_path: Path, refused: Any) -> None:
    rows = ["9,0,test,0,0.75,0.25", "9,0,far,,0.9,0.1", "4,0,test,0,0.25,0.75", "4,0,far,,0.2,0.8"]
    found = predictions_file.read(as_file(tmp_path, TWO + "\n".join(rows)))
    assert found.seeds == (4, 9)
    assert found.log_probs[0, :, 0, 0].exp().tolist() == pytest.approx([0.25, 0.75])
    assert found.ood_log_probs["far"][0, :, 0, 0].exp().tolist() == pytest.approx([0.2, 0.9])
    for key, row in (("seed 4", "5,0,far,,0.2,0.8"), ("seed 4", ""), ("sample 0", "4,1,far,,0.2,0.8")):
        wrong = [*rows[:3], row] if key != "sample 0" else ["4,0,test,0,0.25,0.75", row]
        with refused("mine.csv", key, "'test'", "'far'"):
            predictions_file.read(as_file(tmp_path, TWO + "\n".join(wrong)))


@pytest.mark.parametrize("column", ["score_mine", "logit_0", "seed", "label", "set"])
def test_a_column_that_is_empty_in_every_row_is_not_left_out(tmp_path: Path, column: str, refused: Any) -> None:
    text = f"{CSV.replace('label', 'label' if column != 'label' else 'seed')}".replace("\n", ",\n")
    path = as_file(tmp_path, text.replace("prob_1,", f"prob_1,{column}", 1))
    with refused("mine.csv", f"column {column}", "empty"):
        predictions_file.read(path)


def test_words_for_nothing_name_sets(tmp_path: Path) -> None:
    names = ["NA", "null", "None", "nan", "N/A", "true", "1"]
    rows = "".join(f"{name},,0.5,0.5\n" for name in names)
    found = predictions_file.read(as_file(tmp_path, f"set,label,prob_0,prob_1\ntest,1,0.5,0.5\n{rows}"))
    assert list(found.ood_log_probs) == names


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("far,,nan,0.5", "nan"),
        ("far,,,", "'far'"),
        ("far,,0.5,", "prob_1"),
        ("far,,NA,0.5", "'NA'"),
        (",,0.5,0.5", "row 2"),
        ("test ,1,0.5,0.5", "'test '"),
        ("Test,1,0.5,0.5", "'Test'"),
        ("te\u200bst,1,0.5,0.5", r"'te\u200bst'"),
        ("far\u00a0,1,0.5,0.5", r"'far\xa0'"),
        ("test,,0.5,0.5", "label"),
        ("test,NA,0.5,0.5", "'NA'"),
        ("test,1,0.5,0.5,0.1", "csv"),
        ("test,1,-1e-12,1", "-1e-12"),
        ("test,1,1.00009,0", "1.00009"),
        ("test,1,1e999,0", "inf"),
        ("test,99999999999999999999,0.5,0.5", "99999999999999999999"),
        ("test,1.5,0.5,0.5", "'1.5'"),
    ],
)
def test_what_is_absent_undefined_or_looks_like_something_else(
    row: str, name: str, tmp_path: Path, refused: Any
) -> None:
    path = as_file(tmp_path, f"set,label,prob_0,prob_1\ntest,1,0.5,0.5\n{row}\n")
    refused.command(scoring([str(path), "--dataset", "toy", "--own-data"], tmp_path), name)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("label;prob_0;prob_1", "';'"),
        ("label\tprob_0\tprob_1", "t'"),
        (",prob_0,prob_1", "index=False"),
        ("Unnamed: 0,prob_0,prob_1", "index=False"),
        ("label,prob_0, prob_1", "prob_1"),
        ("label,prob_0,prob_01", "prob_1"),
        ("label,prob_0,prob_1.0", "called prob_1"),
        ("label,prob_0,Prob1", "called prob_1"),
        ("label,prob_0,prob_0", "'prob_0' twice"),
        ("label ,prob_0,prob_1", "'label '"),
    ],
)
def test_a_header_says_its_own_fault(header: str, name: str, tmp_path: Path, refused: Any) -> None:
    path = as_file(tmp_path, CSV.replace("label,prob_0,prob_1", header))
    refused.command(scoring([str(path), "--dataset", "toy", "--own-data"], tmp_path), name)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path, refused: Any) -> None:
    assert predictions_file.read(as_file(tmp_path, CSV, "utf-8-sig")).labels.tolist() == [[0, 1]]
    path = as_file(tmp_path, CSV, "utf-16")
    refused.command(scoring([str(path), "--dataset", "toy", "--own-data"], tmp_path), "UTF-8")
    path = as_file(tmp_path, "set,label,prob_0,prob_1\ntest,1,0.5,0.5\n", "utf-8")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\n\xe9,,0.5,0.5\n", 1))
    refused.command(scoring([str(path), "--dataset", "toy", "--own-data"], tmp_path), "UTF-8")
    refused.command(scoring([str(as_file(tmp_path, "label,prob_0,prob_1\n")), "--dataset", "toy"], tmp_path), "no rows")


@pytest.mark.parametrize("widened", [False, True], ids=["as it is", "widened"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("classes", [2, 10, 10_000])
def test_what_rounding_does_to_softmax_is_accepted(
    saved: Callable[..., Path], dtype: torch.dtype, classes: int, widened: bool
) -> None:
    for logits in (torch.randn(NUM, classes, generator=torch.Generator().manual_seed(0)), torch.zeros(NUM, classes)):
        probs = logits.softmax(-1).to(dtype)
        stored = probs.float() if widened or dtype == torch.bfloat16 else probs
        found = predictions_file.read(saved(probs=stored.numpy(), labels=np.zeros(NUM))).log_probs[0, 0]
        assert torch.equal(found, probs.double().log())


def test_no_probability_is_over_one(saved: Callable[..., Path], tmp_path: Path, refused: Any) -> None:
    """What accumulated rounding lifts over one counts as one; what is farther from a distribution is refused."""
    sure = np.eye(3)[wine_labels()]
    path = api.score(saved(probs=sure * (1 + 2e-7)), Claim("mine", "wine"), tmp_path / "out")
    assert values(path)["nll"] == [0.0]
    for wrong in (sure * 1.00009, sure * 0.9999, sure - 1e-9):
        with refused("probs", "sample 0", "replicate 0", "example 0"):
            predictions_file.read(saved(probs=wrong))


def test_scores_of_ones_own_keep_their_digits(saved: Callable[..., Path], tmp_path: Path) -> None:
    """They differ in the tenth digit; records keep what was scored."""
    inside, outside = 1 + 1e-9 * np.arange(NUM), 1 + 1e-9 * np.arange(40, 50)
    path = saved(**{"score.mine": inside, "ood.far.score.mine": outside})
    record = api.score(path, Claim("mine", "toy", own_data=True), tmp_path / "out")
    expected = sklearn.metrics.roc_auc_score(np.repeat([0, 1], [NUM, 10]), np.concatenate([inside, outside]))
    assert values(record)["ood_auroc_mine[far]"] == [expected]
    arrays = records.predictions(tmp_path / "out", records.read_one(record))
    assert np.array_equal(arrays["test.mine"].numpy()[0], inside)


@pytest.mark.parametrize("where", ["npz", "csv"])
def test_whole_numbers_are_exact(saved: Callable[..., Path], tmp_path: Path, where: str, refused: Any) -> None:
    big = 2**53 + 1
    if where == "csv":
        path = as_file(tmp_path, f"seed,label,prob_0,prob_1\n{big},1.0,0.5,0.5\n{big - 1},0,0.5,0.5\n")
    else:
        path = saved(probs=made(0, 1, 2), seeds=np.array([big - 1, big], np.uint64))
    assert predictions_file.read(path).seeds == (big - 1, big)
    for seeds in (np.array([2.0**53 + 2]), np.array([2.0**25], np.float32), np.array([2**63], np.uint64)):
        with refused("mine.npz", "seeds"):
            predictions_file.read(saved(seeds=seeds))


@pytest.mark.parametrize("kind", ["category", "nullable", "arrow", "object", "bool", "float16"])
def test_types_of_a_parquet_file(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("pyarrow")
    table = pd.DataFrame({"set": ["test", "test", "NA"], "seed": [3] * 3, "prob_0": [1.0, 0.0, 0.0]})
    table["prob_1"] = 1 - table["prob_0"]
    table["label"] = pd.array([1, 0, None], "Int64")
    stored = {
        "category": lambda: table.astype({"set": "category", "seed": "category", "prob_0": "category"}),
        "nullable": table.convert_dtypes,
        "arrow": lambda: table.convert_dtypes(dtype_backend="pyarrow"),
        "object": lambda: table.astype(object),
        "bool": lambda: table.astype({"prob_0": bool, "prob_1": bool}),
        "float16": lambda: table.astype({"prob_0": np.float16, "seed": np.float32}),
    }[kind]()
    folder = tmp_path / "set=far"  # no column comes from the name of a folder
    folder.mkdir()
    stored.set_index(np.array([5, 1, 7])).to_parquet(folder / "mine.parquet")
    found = predictions_file.read(folder / "mine.parquet")
    assert (found.seeds, found.labels.tolist()) == ((3,), [[1, 0]])
    assert found.log_probs.exp().round().tolist() == [[[[1, 0], [0, 1]]]] and found.ood_log_probs[
        "NA"
    ].exp().round().tolist() == [[[[0, 1]]]]


@pytest.mark.parametrize(
    ("text", "value"),
    [("980e663509", "980e663509"), ("1e-999", "1e-999"), ("inf", "inf"), ("nan", "nan"), ("007", "007"), ("1_0", "1_0"),
     ("9" * 5000, "9" * 5000), ("-3", -3), ("1e3", 1000.0), (".5", 0.5), ("0e5", 0.0), ("0x1", "0x1"), ("٣", "٣")],
)  # fmt: skip
def test_options_of_other_methods_are_text_unless_numbers_in_full(
    saved: Callable[..., Path], tmp_path: Path, text: str, value: Any
) -> None:
    path = api.score(saved(), Claim("m", "wine", settings=(f"m.commit={text}",)), tmp_path / "out")
    assert records.read_one(path).cell.method == Choice.of("m", {"commit": value})


@pytest.mark.parametrize("setting", ["mine.name=zzz", "mlp.widths=1e999", "mine.a=\x07", "mlp.dropout=nan"])
def test_an_option_that_no_record_can_hold(
    saved: Callable[..., Path], setting: str, tmp_path: Path, refused: Any
) -> None:
    arguments = ["--dataset", "wine", "--model", "mlp", "--set", setting]
    refused.command(scoring([str(saved()), *arguments], tmp_path), setting.partition(".")[0])


@pytest.mark.parametrize("value", ["inf", "nan", "1e999", "9" * 400])
def test_an_option_of_ours_is_a_finite_number(
    saved: Callable[..., Path], tmp_path: Path, value: str, refused: Any
) -> None:
    with refused(f"mle.learning_rate={value[:60]}"):
        api.score(saved(), Claim("mle", "wine", settings=(f"mle.learning_rate={value}",)), tmp_path / "out")


@pytest.mark.parametrize(
    ("arrays", "name"),
    [
        ({"score.mine": np.zeros(NUM), "ood.far.score.mine": np.zeros(0)}, "ood.far.score.mine"),
        ({"score.mine": np.zeros(NUM), "ood.far.score.mine": np.zeros((1, 0))}, "ood.far.score.mine"),
        ({"score.mine": np.zeros(NUM), "ood.far.score.mine": np.float64(1)}, "ood.far.score.mine"),
        ({"probs": np.zeros((0, 3)), "labels": np.zeros(0)}, "probs"),
        ({"probs": np.zeros((NUM, 0))}, "probs"),
        ({"seeds": np.zeros(0, int)}, "seeds"),
        ({"score.mean": np.zeros(NUM)}, "'mean'"),
        ({"ood.far .probs": made(0, num=5)}, "'far '"),
    ],
)
def test_what_holds_nothing_and_names_that_are_taken(
    saved: Callable[..., Path], arrays: dict[str, Any], name: str, tmp_path: Path, refused: Any
) -> None:
    refused.command(scoring([str(saved(**arrays)), "--dataset", "toy", "--own-data"], tmp_path), name)


def test_a_hundred_thousand_classes(tmp_path: Path) -> None:
    """Labels over 32,767 are stored as they are."""
    classes, probs = 100_000, np.full((1, 2, 2, 100_000), 1e-5)
    path = tmp_path / "many.npz"
    np.savez(path, probs=probs.swapaxes(0, 1), labels=[99_999, 5])
    out = api.score(path, Claim("mine", "toy", own_data=True), tmp_path / "out")
    arrays = records.predictions(tmp_path / "out", records.read_one(out))
    assert arrays["test.y"].tolist() == [[99_999, 5]] and arrays["test.running_class"].dtype == torch.int16
    assert values(out)["nll"] == pytest.approx([np.log(classes)])


# shifted test sets

DIGITS = catalog.choice("datasets", "digits", {"digits": {"shifts": "rotation"}})
ROTATIONS = (1, 2, 3, 4, 5)


def of_digits(**arrays: Any) -> dict[str, Any]:
    """Arrays of an npz for digits with its five rotations, with these in place of the right ones."""
    y = load_task(DIGITS, 0).test.y.numpy()
    logits = torch.nn.functional.one_hot(torch.from_numpy(y), 10).numpy() * 4.0
    sets = {f"shift.rotation {s}.probs": made(s, num=len(y), classes=10) for s in ROTATIONS}
    return {"logits": logits, "labels": y, **sets, **arrays}


ROTATED = ["--dataset", "digits", "--set", "digits.shifts=rotation"]


def test_shifted_test_sets_are_scored_as_the_test_set_is_and_count_its_examples_once(tmp_path: Path) -> None:
    arrays = of_digits()
    np.savez(tmp_path / "mine.npz", **arrays)
    record = api.score(
        tmp_path / "mine.npz", method="mine", dataset="digits", set=["digits.shifts=rotation"], results=tmp_path
    )
    found, y = values(record), arrays["labels"]
    for severity in ROTATIONS:
        probs = arrays[f"shift.rotation {severity}.probs"]
        right = np.log(probs[np.arange(len(y)), y])
        assert found[f"nll[rotation {severity}]"] == pytest.approx([-right.mean()])
        assert found[f"accuracy[rotation {severity}]"] == pytest.approx([(probs.argmax(-1) == y).mean()])
        alone = {"probs": probs, "labels": y}
        np.savez(tmp_path / "alone.npz", **alone)
        again = values(
            api.score(tmp_path / "alone.npz", method="alone", dataset="digits", results=tmp_path / "alone", fresh=True)
        )
        assert found[f"ece[rotation {severity}]"] == again["ece"]
    assert found["nll[rotation]"] == pytest.approx([np.mean([found[f"nll[rotation {s}]"][0] for s in ROTATIONS])])
    stored = evaluation.read(records.read_one(record), records.predictions(tmp_path, records.read_one(record)))
    assert stored is not None
    assert {name: shift.of_test for name, shift in stored.shifts.items()} == {
        f"rotation {severity}": True for severity in ROTATIONS
    }


def test_a_shifted_set_of_ones_own_has_labels_of_its_own(saved: Callable[..., Path], tmp_path: Path) -> None:
    y, fog = np.array([0, 1, 2, 2]), {f"fog {severity}": made(6 + severity) for severity in (1, 2)}
    own = {"shift.elsewhere.probs": made(5, num=4), "shift.elsewhere.labels": y}
    path = saved(**own, **{f"shift.{name}.logits": np.log(probs) for name, probs in fog.items()})
    asked = [str(path), "--method", "mine", "--dataset", "vintage", "--own-data", "--results", str(tmp_path / "npz")]
    assert cli.main(["score", *asked]) == 0
    found = values(next((tmp_path / "npz").glob("*.json")))
    right = np.log(made(5, num=4)[np.arange(4), y])
    assert found["nll[elsewhere]"] == pytest.approx([-right.mean()])
    mean = np.mean([found[f"nll[{name}]"][0] for name in fog])
    assert found["nll[fog]"] == pytest.approx([mean])
    columns = [f"prob_{c}" for c in range(CLASSES)]
    parts = [("test", made(0), wine_labels()), ("shift.elsewhere", made(5, num=4), y)]
    parts += [(f"shift.{name}", probs, None) for name, probs in fog.items()]
    frames = [pd.DataFrame(probs, columns=columns).assign(set=name, label=labels) for name, probs, labels in parts]
    pd.concat(frames).to_csv(tmp_path / "mine.csv", index=False)
    asked = [str(tmp_path / "mine.csv"), *asked[1:-1], str(tmp_path / "csv")]
    assert cli.main(["score", *asked]) == 0
    same = values(next((tmp_path / "csv").glob("*.json")))
    assert same.keys() == found.keys()
    assert all(same[name] == pytest.approx(value, rel=1e-6) for name, value in found.items())


@pytest.mark.parametrize(
    ("changed", "dataset", "names"),
    [
        ({"shift.rotation 9.probs": made(1, num=450, classes=10)}, ROTATED, ["rotation 9"]),
        ({}, ["--dataset", "digits"], ["rotation 1", "digits.shifts=all"]),
        ({"shift.rotation 1.probs": made(1, num=449, classes=10)}, ROTATED, ["shift.rotation 1", "449", "450"]),
        ({"shift.rotation 1.probs": made(1, num=450, classes=9)}, ROTATED, ["shift.rotation 1", "9", "10"]),
        ({"shift.rotation 1.probs": made(1, num=450, classes=10) * 0.5}, ROTATED, ["shift.rotation 1.probs", "0.5"]),
        ({"shift.rotation 1.labels": np.zeros(450, int)}, ROTATED, ["shift.rotation 1.labels"]),
        ({"shift.far.labels": np.zeros(3, int)}, ROTATED, ["shift.far.labels", "shift.far.probs"]),
        ({"shift.shifted.probs": made(1, num=450, classes=10)}, ROTATED, ["'shifted'"]),
        ({"ood.shift.far.probs": made(1, num=450, classes=10)}, ROTATED, ["'shift.far'"]),
        ({"shift.test .probs": made(1, num=450, classes=10)}, ROTATED, ["'test '"]),
        ({"shift.rotation 1.score.mine": np.zeros(450)}, ROTATED, ["shift.rotation 1.score.mine"]),
        (
            {"shift.far.probs": made(1, num=3, classes=10)},
            ["--dataset", "own", "--own-data"],
            ["shift.far", "3", "450"],
        ),
        (
            {"shift.far.probs": made(1, num=3, classes=10), "shift.far.labels": np.array([0, 1, 10])},
            ["--dataset", "own", "--own-data"],
            ["shift.far.labels", "10"],
        ),
    ],
)
def test_faults_of_shifted_test_sets(
    changed: dict[str, Any], dataset: list[str], names: list[str], tmp_path: Path, refused: Any
) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **of_digits(**changed))
    refused.command(["score", path, "--method", "mine", *dataset, "--results", tmp_path / "out"], *names)


def test_a_file_with_some_shifts_of_a_data_set_is_refused_since_means_are_over_all(
    tmp_path: Path, refused: Any
) -> None:
    arrays = of_digits()
    del arrays["shift.rotation 4.probs"]
    np.savez(tmp_path / "mine.npz", **arrays)
    refused.command(
        ["score", tmp_path / "mine.npz", "--method", "mine", *ROTATED, "--results", tmp_path / "out"], "rotation 4"
    )


@pytest.mark.parametrize("name", ["shift.", "shift.test", "shift.shifted"])
def test_names_of_a_table_that_would_be_other_sets(name: str, tmp_path: Path, refused: Any) -> None:
    text = f"prob_0,prob_1,label,set\n1,0,0,test\n0,1,1,test\n1,0,,{name}\n0,1,,{name}\n"
    (tmp_path / "mine.csv").write_text(text)
    words = ["--method", "mine", "--dataset", "own", "--own-data", "--results", tmp_path / "out"]
    refused.command(["score", tmp_path / "mine.csv", *words], name.removeprefix("shift.") or "shift.")


def test_scores_of_a_shifted_set_of_a_table_are_refused(tmp_path: Path, refused: Any) -> None:
    text = "prob_0,prob_1,label,set,score_mine\n1,0,0,test,1\n0,1,1,test,2\n1,0,,shift.fog,3\n0,1,,shift.fog,4\n"
    (tmp_path / "mine.csv").write_text(text, "utf-8")
    words = ["--method", "mine", "--dataset", "own", "--own-data", "--results", tmp_path / "out"]
    refused.command(["score", tmp_path / "mine.csv", *words], "score_mine", "'shift.fog'")
