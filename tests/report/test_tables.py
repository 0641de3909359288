"""What people read: rounding, bold, the columns that are shown, and the five formats."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from bdlbench import api, catalog
from bdlbench.core.spec import Cell, Choice, Replicate
from bdlbench.records.cells import Result, merge
from bdlbench.records.contents import Environment, MetricValues, Values
from bdlbench.records.record import Record
from bdlbench.report import tables, text_table, verdicts
from bdlbench.report.text_table import Field, Sheet

SEEDS = range(4)
METRICS = {
    "accuracy": ("fraction", "higher"),
    "nll": ("nats", "lower"),
    "ood_auroc[near]": ("fraction", "higher"),
    "ood_auroc[far]": ("fraction", "higher"),
    "ood_aupr[far]": ("fraction", "higher"),
    "parameters": ("count", "lower"),
}


def cell(method: str = "mle", dataset: str = "wine", **options: Any) -> Cell:
    model = Choice.of("mlp", {"widths": (50,), "noise_sd": 1.0})
    return Cell(Choice.of(method, {"epochs": 60} | options), model, Choice.of(dataset, {}), samples=3)


def record(of: Cell, failed: Sequence[int] = (), **values: Sequence[float | None]) -> Record:
    named = {name.replace("__", "[") + "]" * ("__" in name): list(v) for name, v in values.items()}
    metrics = {
        name: MetricValues(METRICS[name][0], METRICS[name][1], name, tuple(column)) for name, column in named.items()
    }
    count = len(next(iter(named.values()))) if named else 0
    costs = {"train_seconds": 12.345, "rows": float(count)} if count else {}
    failures = {Replicate(seed): "boom" for seed in failed}
    return Record(of, tuple(map(Replicate, range(count))), Values(metrics), costs, Environment(), failures)


def results(*parts: Record) -> list[Result]:
    return merge(parts)


GOOD, NEAR, FAR = [0.97, 0.98, 0.99, 0.98], [0.98, 0.97, 0.98, 0.98], [0.71, 0.70, 0.69, 0.70]
THREE = results(
    record(cell("mle"), accuracy=GOOD, nll=[0.1, 0.2, 0.3, 0.4], parameters=[17410] * 4),
    record(cell("map"), accuracy=NEAR, nll=[0.4, 0.3, 0.2, 0.1], parameters=[17410] * 4),
    record(cell("mc_dropout", rate=0.5), [9], accuracy=FAR, nll=[2.0, 2.1, 2.2, 2.1], parameters=[17410] * 4),
)


def test_cells_of_one_title_are_told_apart_by_the_options_they_differ_in() -> None:
    more = replace(cell("map", epochs=60), dataset=Choice.of("wine", {"num_train": 7}))
    found = results(*(record(one, [0]) for one in (cell("mle"), cell("map"), cell("map", epochs=9), more)))
    rest = ["map · mlp · wine, epochs 60", "map · mlp · wine, epochs 9"]
    assert tables.cell_titles(found) == ["mle · mlp · wine", *rest, "map · mlp · wine, epochs 60, dataset.num_train 7"]


@pytest.mark.parametrize(
    ("value", "error", "text", "concise"),
    [
        (0.98044, 0.00123, "0.9804 ± 0.0012", "0.9804(12)"),
        (0.98044, 0.000996, "0.9804 ± 0.0010", "0.9804(10)"),
        (0.5, 0.0994, "0.500 ± 0.099", "0.500(99)"),
        (0.5, 0.0996, "0.50 ± 0.10", "0.50(10)"),
        (12.345, 1.23, "12.3 ± 1.2", "12.3(1.2)"),
        (1234.5, 123.4, "1234 ± 123", "1234(123)"),
        (56.5271377, 4.9e-6, "56.53 ± 0", "56.53(0)"),
        (17410.0, 0.0, "17410 ± 0", "17410(0)"),
        (17410.0, math.nan, "17410", "17410"),
        (0.98, math.nan, "0.9800", "0.9800"),
        (12.345, math.nan, "12.35", "12.35"),
        (4096.7, math.nan, "4097", "4097"),
        (0.0, math.nan, "0", "0"),
        (-0.02, 0.004, "-0.0200 ± 0.0040", "-0.0200(40)"),
        (1.5e-9, math.nan, "1.5e-09", "1.5e-09"),
        (math.nan, math.nan, "not finite", "not finite"),
    ],
)
def test_number(value: float, error: float, text: str, concise: str) -> None:
    entry = tables.number(value, error)
    assert (entry.text, entry.concise) == (text, concise)


def test_terminal_is_what_it_should_look_like() -> None:
    assert tables.render(THREE, metrics=["accuracy", "nll"]).splitlines()[:8] == [
        "wine · mlp · M = 3",
        "",
        "                  accuracy ↑           nll ↓",
        "method              fraction            nats             n",
        "──────────────────────────────────────────────────────────",
        "mle         0.9800 ± 0.0041*  0.250 ± 0.065*             4",
        "map         0.9775 ± 0.0025*  0.250 ± 0.065*             4",
        "mc_dropout  0.7000 ± 0.0041   2.100 ± 0.041   4 (1 failed)",
    ]


def test_bold_on_a_terminal() -> None:
    text = tables.render(THREE, metrics=["accuracy"], color=True)
    assert "\x1b[1m0.9800 ± 0.0041\x1b[0m" in text
    assert "\x1b[1m0.9775 ± 0.0025\x1b[0m" in text
    assert "\x1b[1m0.7000" not in text
    assert "*" not in text


@pytest.mark.parametrize("width", [40, 60, 90, 150])
def test_a_table_fits_its_width(width: int) -> None:
    names = ("accuracy", "nll", "ood_auroc__near", "ood_auroc__far", "ood_aupr__far")
    wide = results(*(record(cell(m), **dict.fromkeys(names, GOOD)) for m in ("mle", "deep_ensemble")))
    text = tables.render(wide, metrics=["accuracy", "nll", "ood_auroc", "ood_aupr"], width=width)
    assert max(map(len, text.splitlines())) <= width
    assert ("0.9800 ± 0.0041" in text) == (width >= 110)
    assert ("0.9800(41)" in text) == (width < 110)
    assert text.count("deep_ensemble") == {40: 5, 60: 2}.get(width, 1)


def test_one_replicate_has_no_error() -> None:
    single = results(record(cell("mle"), nll=[0.2]), record(cell("map"), nll=[0.3]))
    text = tables.render(single)
    assert "0.2000*" in text and "0.3000" in text and "±" not in text
    assert "One replicate: no standard error, and only the best is bold." in text


def test_what_is_not_finite_or_absent() -> None:
    rows = results(record(cell("mle"), nll=[0.2, None]), record(cell("map"), accuracy=[0.5, 0.6]))
    (shown,) = tables.group(rows)
    assert [[entry.text for entry in row.entries] for row in shown.rows] == [
        ["—", "not finite"],
        ["0.550 ± 0.050", "—"],
    ]
    assert not any(entry.leads for row in shown.rows for entry in row.entries)  # no rival, no bold


def test_nothing_leads_where_all_are_the_same() -> None:
    (shown,) = tables.group(THREE, ["parameters"])
    assert {(row.entries[0].text, row.entries[0].leads) for row in shown.rows} == {("17410 ± 0", False)}


def test_default_columns_and_arrows() -> None:
    everything = {name.replace("[", "__").replace("]", ""): GOOD for name in METRICS}
    (shown,) = tables.group(results(record(cell(), **everything)))
    assert [column.heading for column in shown.columns] == [
        "accuracy ↑",
        "nll ↓",
        "ood_auroc[far] ↑",
        "ood_auroc[near] ↑",
    ]


def test_options_in_which_rows_of_a_method_differ() -> None:
    swept = [record(cell("mc_dropout", rate=rate, decay="none"), nll=GOOD) for rate in (0.1, 0.5)]
    (shown,) = tables.group(results(record(cell("mle", rate=7), nll=FAR), *swept))
    assert shown.labels == ("method", "rate")
    assert [row.labels for row in shown.rows] == [("mle", "7"), ("mc_dropout", "0.1"), ("mc_dropout", "0.5")]
    (plain,) = tables.group(THREE)
    assert plain.labels == ("method",)


def test_models_threads_and_members_get_columns() -> None:
    base = cell("deep_ensemble", member=Choice.of("mle", {"epochs": 3}))
    other = replace(base, method=Choice.of("deep_ensemble", {"epochs": 60, "member": Choice.of("map", {"epochs": 4})}))
    small = replace(base, model=Choice.of("logistic", {"epochs": 1}), threads=2)
    (shown,) = tables.group(results(*(record(c, nll=GOOD) for c in (base, other, small))))
    assert shown.labels == ("method", "model", "member", "member.epochs", "threads")
    assert shown.rows[2].labels == ("deep_ensemble", "logistic", "mle", "3", "2")
    assert shown.title == "wine · M = 3"


def test_one_table_for_each_data_set_with_its_options() -> None:
    parts = [replace(cell(), dataset=Choice.of("digits", {"num_train": n})) for n in (0, 100)]
    titles = [shown.title for shown in tables.group(results(*(record(c, nll=GOOD) for c in [cell(), *parts])))]
    assert titles == ["wine · mlp · M = 3", "digits · mlp · M = 3", "digits (num_train 100) · mlp · M = 3"]
    unknown = replace(cell(), dataset=Choice.of("of_a_plugin", {"size": 3}))
    assert tables.group(results(record(unknown, nll=GOOD)))[0].title == "of_a_plugin (size 3) · mlp · M = 3"


def test_sorted_best_first() -> None:
    def order(sort: str) -> list[str]:
        return [row.labels[0] for row in tables.group(THREE, sort=sort)[0].rows]

    assert order("") == ["mle", "map", "mc_dropout"]
    assert order("accuracy") == ["mle", "map", "mc_dropout"]
    assert order("nll")[2] == "mc_dropout"
    partly = results(record(cell("mle"), nll=GOOD), record(cell("map"), nll=NEAR, accuracy=NEAR))
    assert [row.labels[0] for row in tables.group(partly, sort="accuracy")[0].rows] == ["map", "mle"]
    assert tables.render(THREE, sort="train_seconds")


def test_unknown_metrics_name_the_nearest(refused: Any) -> None:
    for given in ({"metrics": ["acuracy"]}, {"sort": "acuracy"}):
        with refused("metric", "acuracy", "accuracy"):
            tables.render(THREE, **given)  # type: ignore[arg-type]


def test_costs_are_of_the_batch() -> None:
    again = replace(record(cell("mle"), nll=GOOD), replicates=tuple(map(Replicate, range(4, 8))))
    (shown,) = tables.group(results(record(cell("mle"), nll=GOOD), again), ["train_seconds"])
    assert shown.rows[0].entries[0].text == "12.35 + 12.35"
    text = tables.render(THREE, metrics=["train_seconds"], width=300)
    assert "train_seconds: of the batches that trained the row" in text


def test_markdown() -> None:
    lines = tables.render(THREE, "markdown", ["accuracy", "nll"]).splitlines()
    assert lines[:5] == [
        "**wine · mlp · M = 3**",
        "",
        "| method | accuracy ↑ (fraction) | nll ↓ (nats) | n |",
        "| :-- | --: | --: | --: |",
        "| mle | **0.9800 ± 0.0041** | **0.250 ± 0.065** | 4 |",
    ]
    assert lines[6] == "| mc_dropout | 0.7000 ± 0.0041 | 2.100 ± 0.041 | 4 (1 failed) |"
    assert lines[-1].startswith("Mean ± standard error over n replicates") and "Bold: no other row" in lines[-1]


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", "a|b", "**bold**", "_x_", "mc_dropout", "`code`", "a\\|b", "~~no~~", "&lt; & 1"],
)
def test_markdown_shows_names_as_they_are(name: str) -> None:
    """By a parser of its own: tables and struck-out text, as in GitHub's dialect."""
    text = tables.render(results(record(cell(name), nll=GOOD)), "markdown", ["nll"])
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    (body,) = re.findall(r"<tbody>\s*<tr>\s*(.*?)</tr>", html, re.DOTALL)
    assert next(unescape(shown) for shown in re.findall(r"<td[^>]*>(.*?)</td>", body)) == name


def test_latex_is_escaped() -> None:
    text = tables.render(THREE, "latex", ["accuracy"])
    assert r"mc\_dropout & 0.7000 $\pm$ 0.0041 & 4 (1 failed) \\" in text
    assert r"mle & \textbf{0.9800 $\pm$ 0.0041} & 4 \\" in text
    assert r"method & accuracy $\uparrow$ (fraction) & n \\" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    assert "5 \\%" in text
    assert text_table.escape_tex("a_b & 5 % of #1 {x} ~ ^ \\ $") == (
        r"a\_b \& 5 \% of \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \$"
    )
    assert text_table.escape_tex("<b> | −1 … 2") == r"\textless{}b\textgreater{} \textbar{} $-$1 \ldots{} 2"


def long(values: Mapping[str, str]) -> tuple[str, str, str, str]:
    return values["method"], values["metric"], values["seed"], values["value"]


def test_csv_keeps_full_precision() -> None:
    third = results(record(cell("mle", rate=0.1), nll=[1 / 3, None]))
    rows = list(csv.DictReader(io.StringIO(tables.render(third, "csv"))))
    assert [long(row) for row in rows] == [
        ("mle", "nll", "0", repr(1 / 3)),
        ("mle", "nll", "1", ""),
        ("mle", "rows", "", "2.0"),
        ("mle", "train_seconds", "", "12.345"),
    ]
    assert list(rows[0])[:5] == ["cell", "dataset", "model", "method", "options"]
    assert json.loads(rows[0]["options"])["method"] == {"epochs": 60, "rate": 0.1}
    assert (rows[0]["unit"], rows[0]["better"], rows[0]["split"], rows[0]["dataset"]) == ("nats", "lower", "0", "wine")
    assert len(tables.render(third, "csv", ["nll"]).splitlines()) == 3


def test_json_names_failures() -> None:
    content = json.loads(tables.render(THREE, "json", ["nll"]))
    assert len(content["values"]) == 12
    assert content["values"][0]["value"] == 0.1
    assert content["values"][0]["options"]["model"] == {"noise_sd": 1.0, "widths": [50]}
    assert [(row["method"], row["seed"], row["reason"]) for row in content["failed"]] == [("mc_dropout", 9, "boom")]


def test_summary_rows() -> None:
    rows = {(row["method"], row["metric"]): row for row in tables.summary_rows(THREE)}
    assert rows["mle", "accuracy"]["mean"] == pytest.approx(0.98)
    assert rows["map", "accuracy"]["leads"] and not rows["mc_dropout", "accuracy"]["leads"]
    assert (rows["mc_dropout", "nll"]["n"], rows["mc_dropout", "nll"]["failed"]) == (4, 1)


ALONE = {"accuracy": [0.9, 0.8]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (({"epochs": 60}, {"epochs": 60}), ""),
        (({"epochs": 60}, {"epochs": 120}), "epochs 60 of mle; 120 of map"),
        (({"batch_size": 10}, {"batch_size": 64}), "batch_size 10 of mle; 64 of map"),
        (
            ({"epochs": 60, "batch_size": 10}, {"epochs": 70, "batch_size": 64}),
            "epochs 60 of mle; 70 of map, batch_size",
        ),
        (({"steps": 100}, {"steps": 200}), "epochs as 100 steps of mle; as 200 steps of map"),
        (({"epochs": 60, "steps": 100}, {"epochs": 60}), "epochs as 100 steps of mle; 60 of map"),
        (({"epochs": 60, "steps": 100}, {"epochs": 7, "steps": 100}), ""),
        (({"member": Choice.of("mle", {"epochs": 30})}, {"epochs": 60}), "epochs 60, 30 of mle; 60 of map"),
        (({"rate": 0.1}, {"rate": 0.2}), ""),
        (({"rate": 0.1}, {"batch_size": 3}), ""),  # who has no such option has no such budget
    ],
)
def test_a_table_says_where_budgets_differ(options: tuple[Any, Any], words: str) -> None:
    found = results(*(record(cell(name, **one), **ALONE) for name, one in zip(("mle", "map"), options, strict=True)))
    for style in ("terminal", "markdown", "latex"):
        text = " ".join(tables.render(found, style, width=1000).replace("\\_", "_").split())  # type: ignore[arg-type]
        assert ("Budgets differ on mlp and wine: " in text) == bool(words)
        assert words in text


def test_budgets_are_those_of_one_data_set_and_model() -> None:
    """Two data sets with budgets of their own, and a sweep of epochs that every method has, are no unfairness."""
    sets = [record(cell(m, d, epochs=e), **ALONE) for d, e in (("wine", 1), ("digits", 2)) for m in ("mle", "map")]
    assert not list(tables.budgets(results(*sets)))
    swept = [record(cell(m, epochs=e), **ALONE) for m in ("mle", "map") for e in (1, 2)]
    assert not list(tables.budgets(results(*swept)))
    (line,) = tables.budgets(results(*swept[:3]))
    assert line == "Budgets differ on mlp and wine: epochs 1, 2 of mle; 1 of map."


def whole(method: str, **options: Any) -> Cell:
    """A cell that has every option of its method."""
    return replace(cell(), method=catalog.choice("methods", method, {method: options}))


def test_defaults_are_asked_for_once_however_many_rows_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    plain = catalog.choice
    monkeypatch.setattr(catalog, "choice", lambda kind, name, own: asked.append(name) or plain(kind, name, own))
    found = [cell("map", dataset, epochs=60 + k) for dataset in ("wine", "yacht") for k in range(20)]
    (*_, line) = tables.not_the_defaults(results(*(record(one, **ALONE) for one in found)))
    assert "on yacht" in line
    assert asked == ["map", "map"]


def test_options_that_are_not_the_defaults_are_told_but_for_columns() -> None:
    found = [whole("mle", epochs=60), whole("map", epochs=7, prior_sd=2.0), whole("map", epochs=7, prior_sd=3.0)]
    assert list(tables.not_the_defaults(results(*(record(one, **ALONE) for one in found)))) == [
        "Not the defaults, on wine: map (epochs 7).",
        "The defaults of columns, on wine: prior_sd 1.0 of map.",
    ]
    assert not list(tables.not_the_defaults(results(record(cell("of_a_stranger", epochs=3), **ALONE))))
    nested = replace(whole("deep_ensemble"), method=catalog.choice("methods", "deep_ensemble", {"mle": {"epochs": 9}}))
    (line,) = tables.not_the_defaults(results(record(nested, **ALONE)))
    assert line == "Not the defaults, on wine: deep_ensemble (member.epochs 9)."


def test_an_option_that_came_later_shows_its_default_in_rows_that_lack_it() -> None:
    def chosen(kind: Any, name: str, **options: Any) -> Choice:
        return catalog.choice(kind, name, {name: options})

    ours = [chosen("methods", "mean_field_vi", prior=prior) for prior in PRIORS]
    wine, mlp = chosen("datasets", "wine"), chosen("models", "mlp")
    cells = [Cell(method, mlp, wine, samples=3) for method in (*ours, chosen("methods", "mle"))]
    rows = results(*(record(one, accuracy=GOOD) for one in cells))
    assert ours[0].get("prior") is None
    assert tables.labels(rows)["prior"] == {0: "gaussian (default)", 1: "empirical_bayes"}
    assert list(tables.labels(rows[:1])) == ["method"]
    frame = api._frame(tables.summary_rows(rows, ["accuracy"]))
    assert frame["method.prior"].fillna("").tolist() == ["gaussian", "empirical_bayes", ""]
    assert "prior gaussian," in tables.all_options("methods", ours[0])
    assert "prior empirical_bayes (default gaussian)" in tables.all_options("methods", ours[1])


def test_an_option_that_came_later_is_told_where_it_is_not_the_default() -> None:
    told = [
        list(tables.not_the_defaults(results(record(whole("map", **options), **ALONE))))
        for options in ({"last_batch": "kept"}, {"last_batch": "dropped"})
    ]
    assert told == [["Not the defaults, on wine: map (last_batch kept)."], []]
    nested = catalog.choice("methods", "deep_ensemble", {"mle": {"last_batch": "kept"}})
    (line,) = tables.not_the_defaults(results(record(replace(cell(), method=nested), **ALONE)))
    assert line == "Not the defaults, on wine: deep_ensemble (member.last_batch kept)."
    settings = {"deep_ensemble": {"member": "sparse_vd"}, "sparse_vd": {"predict_by": "means"}}
    nested = catalog.choice("methods", "deep_ensemble", settings)  # of a member's own defaults nothing is told
    (line,) = tables.not_the_defaults(results(record(replace(cell(), method=nested), **ALONE)))
    assert line == "Not the defaults, on wine: deep_ensemble (member sparse_vd, member.predict_by means)."


def test_a_nested_option_that_came_later_shows_its_default_too() -> None:
    settings = [{"deep_ensemble": {"member": "mean_field_vi"}, "mean_field_vi": {"prior": p}} for p in PRIORS]
    wine, mlp = (catalog.choice(kind, name, {}) for kind, name in (("datasets", "wine"), ("models", "mlp")))
    cells = [Cell(catalog.choice("methods", "deep_ensemble", one), mlp, wine, samples=3) for one in settings]
    shown = tables.labels(results(*(record(one, accuracy=GOOD) for one in cells)))
    assert shown["member.prior"] == {0: "gaussian (default)", 1: "empirical_bayes"}


PRIORS = ("gaussian", "empirical_bayes")


def test_a_cell_of_an_older_version_is_marked() -> None:
    """It lacks an option: the row says so, and so does the note where there is no other row to tell it from."""
    new = whole("map", epochs=60)
    old = replace(new, method=replace(new.method, options=tuple(o for o in new.method.options if o[0] != "decay")))
    shown = tables.group(results(record(old, **ALONE), record(new, **ALONE)))[0]
    assert [dict(zip(shown.labels, row.labels, strict=True))["decay"] for row in shown.rows] == ["—", "constant"]
    (line,) = tables.not_the_defaults(results(record(old, **ALONE)))
    assert line == "Not the defaults, on wine: map (made before it had decay)."


def test_the_defaults_of_an_ensembles_member_are_not_spelled() -> None:
    ensemble = catalog.choice("methods", "deep_ensemble", {"mle": {"epochs": 9}})
    assert tables.spelled("methods", ensemble) == "deep_ensemble (member.epochs 9)"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_replicate_examples_per_second", (100 * 1 + 10 * 9) / 10),  # 190 examples in 10 s, not 110 per second
        ("predict_sample_examples_per_second", (5 * 2 + 50 * 8) / 10),
        ("peak_memory_bytes", 7e6),
        ("train_seconds", 10.0),
        ("rows", 5.0),
        ("unheard_of_seconds", math.nan),
    ],
)
def test_costs_of_two_batches_as_one(name, value):
    first = {"train_seconds": 1.0, "predict_seconds": 2.0, "rows": 2.0, "peak_memory_bytes": 7e6}
    first |= {"train_replicate_examples_per_second": 100.0, "predict_sample_examples_per_second": 5.0}
    second = {"train_seconds": 9.0, "predict_seconds": 8.0, "rows": 3.0, "peak_memory_bytes": 4e6}
    second |= {"train_replicate_examples_per_second": 10.0, "predict_sample_examples_per_second": 50.0}
    assert tables._over_batches([first, second], name) == pytest.approx(value, nan_ok=True)
    assert math.isnan(tables._over_batches([], name))


def test_sorting_by_a_rate_does_not_add_rates_up():
    """Two batches at 60 are slower than one at 100, though they add up to 120."""
    rate = {"train_replicate_examples_per_second": 60.0, "train_seconds": 1.0}
    slow, fast = record(cell("mle"), nll=GOOD), record(cell("map"), nll=GOOD)
    (one,) = results(replace(fast, cost=rate | {"train_replicate_examples_per_second": 100.0}))
    (two,) = results(replace(slow, cost=rate))
    two = replace(two, costs=(*two.costs, *two.costs))
    ranked = tables._sorted([two, one], "throughput")
    assert [result.title for result in ranked] == [one.title, two.title]


@pytest.mark.slow
def test_a_comparison_and_a_ranking_fit_their_width() -> None:
    """They are spread over as few tables as fit; a number beside the words of its row may be wider."""
    quick = Path(__file__).parents[2] / "results" / "reference" / "quick"
    compared, ranked = api.compare(quick, quick, metrics=["nll", "rmse"]), api.rank(quick, "nll", ["mle", "map"])
    tables_at = {}
    for width in (20, 60, 100, 200):
        text = verdicts.render(compared, width=width) + verdicts.render_ranking(ranked, width=width)
        lines = [line for line in text.splitlines() if " · " not in line]  # titles are not broken
        assert max(map(len, lines)) <= max(width, 60)
        tables_at[width] = sum(line.startswith("──") for line in lines)
    assert tables_at[20] > tables_at[60] > tables_at[100] > tables_at[200]


def test_a_table_is_laid_out_by_hand() -> None:
    """Words to the left, numbers to the right, headings end on one line; a sign of two columns counts as two."""
    rows = ((Field("漢字"), Field("1.5", bold=True), Field("x")), (Field("map"), Field("22"), Field("—")))
    shown = Sheet("title", ("method", "a\nlong one", "n"), rows, repeated=1)
    lines = text_table.terminal(shown, False).splitlines()
    assert lines == [
        "title",
        "",
        "               a",
        "method  long one  n",
        "─" * 19,
        "漢字        1.5*  x",
        "map           22  —",
    ]
    assert "\x1b[1m1.5\x1b[0m" in text_table.terminal(shown, True)
    assert text_table.terminal(replace(shown, rows=()), False).count("\n") == 5


def test_a_table_of_thousands_of_rows_does_not_go_through_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich takes a millisecond for a row: only the lines below a table are its business."""
    from rich.console import Console

    asked: list[object] = []
    monkeypatch.setattr(Console, "print", lambda self, part, **options: asked.append(part))
    text = tables.render(THREE, metrics=["accuracy"], width=100)
    assert len(text.splitlines()) > 3
    assert all(isinstance(part, str) for part in asked)
