"""The package's papers: what they name exists, how many numbers they hold, and some of them as they are printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bdlbench import catalog
from bdlbench.report.tables import COSTS
from bdlbench.reproduce import papers
from bdlbench.runs import suites

COUNTS = {
    "akamaster": 5,
    "antoran": 16,
    "bayesian_benchmarks_classes": 4,
    "bdl_competition2021": 2,
    "blundell2015": 16,
    "burda2016": 30,
    "card2022": 42,
    "deepbayes2019": 4,
    "figurnov2017": 2,
    "gal2016": 32,
    "gal2016_4000": 16,
    "gal2016_4000_protein": 2,
    "gal2016_protein": 4,
    "gal2016_two_layers": 16,
    "gal2016_two_layers_protein": 2,
    "gngdb_variational_dropout": 16,
    "havasi_mnist": 9,
    "havasi_uci": 20,
    "he2016": 5,
    "izmailov2019": 1,
    "kingma2015": 28,
    "lakshminarayanan2017": 18,
    "lee2019": 4,
    "louizos2017": 2,
    "lpath": 3,
    "molchanov2017": 7,
    "molchanov2017_lenet5": 8,
    "mukhoti2018": 24,
    "mukhoti2018_bayesopt": 18,
    "mukhoti2018_ensemble": 18,
    "mukhoti2018_protein": 3,
    "mukhoti2023": 4,
    "ols": 12,
    "openood2023": 3,
    "pytorch_uncertainty_baselines": 4,
    "sparse_structured_ensembles2018": 3,
    "teerapittayanon2016": 26,
    "uncertainty_baselines_cifar10": 9,
    "uncertainty_baselines_cifar100": 9,
    "uncertainty_baselines_cifar_rest": 15,
    "uncertainty_baselines_mnist": 16,
    "uncertainty_baselines_uci": 27,
    "wu2019": 9,
    "xqding": 12,
    "zhang2020": 8,
}


def test_no_number_is_lost() -> None:
    """Which of them are left out, and why, is for the remarks of a paper to say."""
    assert {name: len(papers.read(name).rows) for name in COUNTS} == COUNTS
    assert set(COUNTS) <= set(papers.names())


@pytest.mark.parametrize("name", papers.names())
def test_what_a_paper_names_exists(name: str) -> None:
    paper = papers.read(name)
    assert paper.rows
    metrics = catalog.metrics().keys() | COSTS.keys()
    for row in paper.rows:
        assert row.dataset in catalog.names("datasets")
        assert row.treatment in ("", *catalog.names("methods"))
        assert row.model in ("", *catalog.names("models"))
        assert row.ours.metric.partition("[")[0] in metrics | {""}
        for setting, value in row.settings.items():
            entry, option = setting.split(".")
            assert entry in (row.treatment, row.model, row.dataset)
            kind = {row.treatment: "methods", row.model: "models", row.dataset: "datasets"}[entry]
            catalog.choice(kind, entry, {entry: {option: value}})  # raises for what the entry does not take


@pytest.mark.parametrize("name", [name for name in papers.names() if papers.read(name).suite])
def test_a_suite_has_the_cells_that_its_paper_names(name: str) -> None:
    paper = papers.read(name)
    spec = suites.build_spec(suites.read_suite(paper.suite), suites.Overrides())
    cells = {(cell.method.name, cell.dataset.name) for cell in spec.cells}
    assert {(row.treatment, row.dataset) for row in paper.rows if not row.cause} <= cells


@pytest.mark.parametrize("name", papers.names())
def test_no_number_is_there_twice(name: str) -> None:
    told = [(row.table, row.method, row.dataset, row.quantity) for row in papers.read(name).rows]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(
    ("name", "method", "dataset", "quantity", "printed", "count"),
    [
        ("gal2016_4000", "MC dropout", "yacht", "rmse", "0.72 ± 0.06", 20),
        ("gal2016_4000_protein", "MC dropout", "protein", "log_likelihood", "-2.87 ± 0.00", 5),
        ("gal2016_two_layers", "MC dropout", "wine_quality", "log_likelihood", "-0.9 ± 0.01", 20),
        ("mukhoti2018", "MC dropout, tuned grid", "energy", "log_likelihood", "-1.211517 ± 0.005319", 20),
        ("lakshminarayanan2017", "deep ensemble of 5", "boston", "rmse", "3.28 sd 1.00", 20),
        ("lakshminarayanan2017", "deep ensemble of 5", "protein", "moment_matched_nll", "2.83 sd 0.02", 5),
        ("wu2019", "MCVI, heteroscedastic", "yacht", "log_likelihood", "-0.68 ±? 0.03", 20),
        ("card2022", "MC dropout", "kin8nm", "rmse_times_100", "7.10 sd .26", 20),
        ("card2022", "deep ensemble", "yacht", "qice_percent", "7.22", 20),
        ("havasi_uci", "mean-field VI", "concrete", "elbo", "-3248 sd 69", 1),
        ("havasi_mnist", "mean-field VI", "fashion_mnist", "elbo", "-22830 sd 233", 1),
        ("uncertainty_baselines_mnist", "ensemble of 10", "fashion_mnist", "nll", "0.200", 1),
        ("uncertainty_baselines_mnist", "ensemble of 10", "mnist", "ece_10", "0.005", 1),
        ("uncertainty_baselines_cifar_rest", "MC dropout, 1 sample", "cifar10", "ece", "0.0241", 1),
        ("uncertainty_baselines_cifar100", "ensemble of 4", "cifar100", "accuracy_percent", "82.7", 1),
        ("uncertainty_baselines_uci", "MLE", "boston", "nll", "16.11", 1),
        ("blundell2015", "Bayes by Backprop, Gaussian, 2×400", "mnist", "error_percent", "1.82", 1),
        ("antoran", "MAP", "mnist", "log_likelihood_of_10000", "-572.90", 1),
        ("kingma2015", "single weight sample", "mnist", "gradient_variance[top layer, 10 epochs]", "4.9e4", 1),
        ("kingma2015", "no dropout noise", "mnist", "gradient_variance[bottom layer, 100 epochs]", "9.0e0", 1),
        ("burda2016", "VAE, k = 1", "binary_mnist", "negative_log_density", "86.76", 1),
        ("burda2016", "IWAE, k = 50", "binary_mnist", "active_units", "25", 1),
        ("lpath", "ELBO (VAE)", "binary_mnist", "auroc_of_negative_elbo[fashion_mnist]", "1.00", 1),
        ("molchanov2017", "dense, LeNet-300-100", "mnist", "error_percent", "1.64", 1),
        ("lee2019", "Sparse VD, LeNet-5-Caffe", "mnist", "sparsity_percent", "99.6", 1),
        ("teerapittayanon2016", "B-LeNet T=0.025", "mnist", "exit_percent[1]", "94.3", 1),
        ("zhang2020", "cSGHMC", "cifar100", "error_percent", "20.50 ±? .11", 1),
        ("izmailov2019", "SWAG", "yacht", "log_likelihood", "-0.404 ±? .418", 20),
    ],
)
def test_a_number_is_as_it_was_printed(
    name: str, method: str, dataset: str, quantity: str, printed: str, count: int
) -> None:
    rows = [r for r in papers.read(name).rows if (r.method, r.dataset, r.quantity) == (method, dataset, quantity)]
    assert [(row.printed, row.number.count) for row in rows] == [(printed, count)]


def test_a_rounded_number_keeps_the_rounding_of_its_source() -> None:
    """0.200 is known to half a thousandth, 4.9e4 to half a thousand."""
    half = {
        r.printed: r.number.half_digit
        for n in ("kingma2015", "uncertainty_baselines_mnist")
        for r in papers.read(n).rows
    }
    assert half["0.200"] == pytest.approx(0.0005)
    assert half["4.9e4"] == pytest.approx(500)


def test_every_row_of_the_papers_with_splits_has_them() -> None:
    """The mean that was printed is checked where they are read; these numbers are as their files have them."""
    named = [name for name in papers.names() if name.startswith(("gal2016", "mukhoti2018"))]
    rows = [row for name in named for row in papers.read(name).rows]
    assert len([row for row in rows if row.by_split]) == 4 * 18
    others = {(row.treatment, row.quantity) for row in rows if row.treatment == "mc_dropout" and not row.by_split}
    assert others == {("mc_dropout", "rmse_of_mean_weights")}
    (yacht,) = (r for r in papers.read("mukhoti2018").rows if (r.dataset, r.quantity) == ("yacht", "log_likelihood"))
    assert yacht.by_split[:2] == pytest.approx((-1.3110059, -1.2019443))


def test_the_readme_counts_as_the_page_does() -> None:
    """After `reproduce --page` on the committed page, the README's sentence is to be that of the page."""
    root = Path(__file__).resolve().parents[2]
    page = (root / "results" / "reproductions" / "README.md").read_text("utf-8")
    counted = re.search(r"^\d+ numbers of \d+ papers: .*$", page, re.MULTILINE)
    assert counted is not None
    assert counted[0] in " ".join((root / "README.md").read_text("utf-8").split())
