"""In a notebook: results show themselves, progress stands below the cell, nothing is printed, data are one's own."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from bdlbench import api, catalog
from bdlbench.data.task import Task
from bdlbench.report import notebook
from bdlbench.runs import work

NOISE = np.random.default_rng(2)
X = NOISE.normal(size=(40, 3)).astype(np.float32)
CLASSES = np.arange(40) % 2
FRAME = pd.DataFrame(
    {
        "area": NOISE.normal(50, 9, 40),
        "city": ["Bern", "Chur"] * 20,
        "garden": [True, False] * 20,
        "price": NOISE.normal(9, 2, 40),
    }
)
SMALL: dict[str, Any] = {"model": "logistic", "samples": 2, "set": {"mle.epochs": 1}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> api.Trained:
    folder = tmp_path_factory.mktemp("trained")
    asked = {**SMALL, "set": {"mle.epochs": 1, "map.epochs": 1}}
    return api.run(method=["mle", "map"], dataset="wine", seeds=2, results=folder, **asked)


def loaded(own: api.OwnData, folder: Path) -> Task:
    (folder / own.file).write_bytes(own.content)
    return catalog.load_task(catalog.choice("datasets", own.kind, {own.kind: own.settings(folder)}), 0)


# results


def test_results_show_themselves_as_html(trained: api.Trained) -> None:
    html = trained._repr_html_()
    assert html.count("<table>") == 1
    assert html.count("<tr>") == 3
    assert "accuracy ↑" in html
    hostile = api.Trained((), ("skipped: <script>alert(1)</script>",))._repr_html_()
    assert "<script>" not in hostile
    assert "&lt;script&gt;" in hostile
    assert "no records" in api.Trained(())._repr_html_()


def test_a_wide_frame_has_a_row_for_each_replicate(trained: api.Trained, refused: Any) -> None:
    wide, long = trained.frame("wide"), trained.frame()
    assert len(wide) == 4
    assert sorted(wide["seed"]) == [0, 0, 1, 1]
    for _, row in wide.iterrows():
        same = long[(long["cell"] == row["cell"]) & (long["seed"] == row["seed"])].set_index("metric")["value"]
        assert row["accuracy"] == same["accuracy"]
        assert row["nll"] == same["nll"]
    assert "method.epochs" in wide.columns
    with refused("'tall'", "long", "wide"):
        trained.frame("tall")


@pytest.mark.slow
def test_results_draw_themselves(trained: api.Trained, refused: Any) -> None:
    figure = trained.plot(["nll"])
    assert [axis.get_xlabel() or axis.get_title() for axis in figure.axes]
    with refused("'nlll'", "nll"):
        trained.plot("nlll")
    with refused("plot"):
        api.Trained(()).plot()


# what is said


def test_nothing_is_printed_and_notes_are_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.json").write_text("{}")
    monkeypatch.setattr(work.budget, "check", lambda batch: "this takes hours")
    found = api.run(method="mle", dataset="wine", seeds=1, results=tmp_path, **SMALL)
    assert capfd.readouterr() == ("", "")
    assert "this takes hours" in found.notes
    assert "note: this takes hours" in repr(found)
    assert not logging.getLogger("bdlbench").handlers


def test_progress_is_shown_where_it_is_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    api.run(method="mle", dataset="wine", seeds=1, results=tmp_path, progress=True, **SMALL)
    out, err = capfd.readouterr()
    assert out == ""
    assert "[1/1] mle · logistic · wine" in err


PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "in-a-notebook.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own
def test_the_tutorial_runs_in_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that shows itself, progress that is replaced, and what the page says is printed, and no more."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(PAGE.parents[2]))
    (text,) = re.findall(r'^```python title="houses.py"\n(.*?)^```$', PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    sources = [f"# {part}" for part in text.split("# %% ")[1:]]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    asked = {"timeout": 600, "kernel_name": "python3", "resources": {"metadata": {"path": str(tmp_path)}}}
    nbclient.NotebookClient(book, **asked).execute()
    made, own, trained, frame, figure = (cell.outputs for cell in book.cells)
    assert made == own == figure == []
    *progress, table = trained
    assert progress
    assert all(one.output_type == "display_data" and "text/html" in one.data for one in progress)
    assert table.output_type == "execute_result"
    assert table.data["text/html"].count("<tr>") == 3
    (printed,) = frame
    assert (printed.output_type, printed.name) == ("stream", "stdout")
    shown, *_ = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    numbers = [[float(word) for word in re.findall(r"-?\d+\.?\d*", one)] for one in (printed.text, shown)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.1, abs=0.02)
    assert (tmp_path / "houses.png").stat().st_size > 1000


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A notebook's kernel, as far as it is asked; what it shows."""
    shown: list[str] = []

    def display(html: str, display_id: bool) -> Any:
        assert display_id
        shown.append(html)
        return SimpleNamespace(update=shown.append)

    shell = SimpleNamespace(kernel=object())
    fake = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(HTML=str, display=display))
    monkeypatch.setitem(sys.modules, "IPython", fake)  # type: ignore[arg-type]
    yield shown


def test_a_notebook_shows_progress_below_the_cell(
    tmp_path: Path, kernel: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert notebook.in_notebook()
    asked: dict[str, Any] = {"method": ["mle", "map"], "dataset": "wine", "seeds": 1, "results": tmp_path, **SMALL}
    asked["set"] = {"mle.epochs": 1, "map.epochs": 1}
    api.run(**asked)
    assert "0 %" in kernel[0]
    assert any("[2/2] map · logistic · wine" in line for line in kernel)
    assert kernel[-1] == '<progress value="1.0" max="1"></progress> 100 %'
    assert capfd.readouterr() == ("", "")
    count = len(kernel)
    api.run(**asked)  # nothing to do
    api.run(**{**asked, "fresh": True, "progress": False})
    assert len(kernel) == count


def test_this_process_is_no_notebook() -> None:
    assert not notebook.in_notebook()


# data that a program holds


def test_arrays_tensors_and_torchs_data_sets_are_the_same_data(tmp_path: Path) -> None:
    tensors = (torch.tensor(X), torch.tensor(CLASSES))
    made = [
        api.dataset_from(X, CLASSES),
        api.dataset_from(*tensors),
        api.dataset_from(TensorDataset(*tensors)),
        api.dataset_from(X.tolist(), CLASSES.tolist()),
    ]
    first, *others = (loaded(own, tmp_path) for own in made)
    assert first.signature.outputs == 2
    for other in others:
        torch.testing.assert_close(other.train.x, first.train.x)
        assert torch.equal(other.train.y, first.train.y)
    assert made[0].file == api.dataset_from(X.copy(), CLASSES.copy()).file
    fixed = loaded(api.dataset_from(X[:30], CLASSES[:30], test=(X[30:], CLASSES[30:])), tmp_path)
    assert fixed.test.y.tolist() == CLASSES[30:].tolist()
    words = loaded(api.dataset_from(X, np.array(["no", "yes"], dtype=object)[CLASSES]), tmp_path)
    assert torch.equal(words.train.y, first.train.y)


def test_a_frame_is_read_to_the_last_bit(tmp_path: Path) -> None:
    task = loaded(api.dataset_from(FRAME, "price"), tmp_path)
    assert task.signature.input_shape == (4,)
    y = torch.cat([task.train.y, task.test.y]).double() * task.y_sd + task.y_mean
    np.testing.assert_allclose(np.sort(y), np.sort(FRAME["price"]), rtol=1e-6)
    apart = loaded(api.dataset_from(FRAME.drop(columns="price"), FRAME["price"]), tmp_path)
    assert torch.equal(apart.train.x, task.train.x)
    fixed = loaded(api.dataset_from(FRAME[:30], "price", test=(FRAME[30:], None)), tmp_path)
    assert len(fixed.test.y) == 10
    gaps = FRAME.copy()
    gaps.loc[3, "area"] = np.nan
    assert loaded(api.dataset_from(gaps, "price", missing="mean"), tmp_path).train.x.isfinite().all()
    coded = FRAME.assign(code=pd.Categorical([7, 8, 9, 7] * 10))
    assert loaded(api.dataset_from(coded, "price"), tmp_path).signature.input_shape == (7,)


def test_a_run_of_ones_own_data_lies_beside_its_records(tmp_path: Path) -> None:
    own = api.dataset_from(X, CLASSES, name="scans")
    found = api.run(method="mle", dataset=own, seeds=2, results=tmp_path / "r", **SMALL)
    assert [p.name for p in (tmp_path / "r" / "data").iterdir()] == [own.file]
    assert found[0].cell.dataset.get("path") == str(tmp_path / "r" / "data" / own.file)
    again = api.run(method="mle", dataset=[own], seeds=2, results=tmp_path / "r", **SMALL)
    assert [record.name for record in again] == [record.name for record in found]
    assert {check.verdict for check in api.verify(tmp_path / "r")} == {"identical"}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: api.dataset_from(X), ["y"]),
        (lambda: api.dataset_from(3, CLASSES), ["x"]),
        (lambda: api.dataset_from([[1, 2], [3]], [0, 1]), ["x"]),
        (lambda: api.dataset_from(iter([]), None), ["x"]),
        (lambda: api.dataset_from(FRAME, "prize"), ["'prize'", "price"]),
        (lambda: api.dataset_from(FRAME, FRAME["price"]), ["'price'"]),
        (lambda: api.dataset_from(FRAME, CLASSES[:7]), ["40", "7"]),
        (lambda: api.dataset_from(FRAME.assign(t=pd.Timestamp("2020-01-01")), "price"), ["column t"]),
        (lambda: api.dataset_from(X, CLASSES, name="../a"), ["'../a'"]),
        (lambda: api.dataset_from(X, CLASSES, mising="mean"), ["'mising'", "missing"]),
        (lambda: api.dataset_from(X, CLASSES, missing="men"), ["npz.missing"]),
    ],
)
def test_data_that_are_none_are_refused_in_one_line(make: Any, told: list[str], refused: Any) -> None:
    with refused(*told):
        make()


def test_what_a_run_refuses_leaves_no_file(tmp_path: Path, refused: Any) -> None:
    one_class = api.dataset_from(X, 0 * CLASSES)
    for asked in ({"dataset": one_class}, {"dataset": api.dataset_from(X, CLASSES), "seeds": "x"}):
        with refused(*(["'0'"] if "seeds" not in asked else ["--seeds 'x'"])):
            api.run(method="mle", results=tmp_path / "r", **{"seeds": 1, **SMALL, **asked})
    assert not list(tmp_path.iterdir())
    both = [api.dataset_from(X, CLASSES), api.dataset_from(X, CLASSES, name="b")]
    with refused("dataset"):
        api.run(method="mle", dataset=both, results=tmp_path / "r", **SMALL)
