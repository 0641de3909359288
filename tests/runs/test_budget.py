"""What is out of all proportion is refused before anything is trained or written; what could end is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bdlbench import api, catalog
from bdlbench.core import memory
from bdlbench.runs import batch as run
from bdlbench.runs import budget, suites
from bdlbench.runs.batch import Batch


def batch(method: str, model: str, dataset: str, *settings: str, seeds: str = "1", samples: int = 1) -> Batch:
    asked = suites.Overrides((method,), (model,), (dataset,), seeds, samples, settings, device="cpu")
    (found,) = run.batches(suites.build_spec(suites.read_suite("quick"), asked), [])
    return found


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GiB."""
    monkeypatch.setattr(memory, "total_bytes", lambda: 1 << 34)


@pytest.mark.parametrize(
    ("method", "model", "dataset", "settings", "names"),
    [
        ("mle", "mlp", "digits", ["mlp.widths=1000000000"], ["75,000,000,010 weights", "1,118 GiB"]),
        ("mle", "mlp", "digits", ["mlp.widths=100000-100000"], ["weights", "GiB"]),
        ("deep_ensemble", "mlp", "digits", ["deep_ensemble.members=1000000000"], ["1,000,000,000 networks", "GiB"]),
        ("deep_ensemble", "mlp", "digits", ["deep_ensemble.members=1000000"], ["1,000,000 ×", "weights", "GiB"]),
        ("mle", "conv_vae", "binary_digits", ["conv_vae.hidden=1000000000000"], ["weights", "GiB"]),
        ("mle", "resnet", "digits", ["resnet.blocks=1000000000"], ["1,000,000,000 blocks", "GiB"]),
        ("mle", "stopping_resnet", "digits", ["stopping_resnet.blocks=1000000000"], ["1,000,000,000 layers", "GiB"]),
        ("mle", "constant_resnet", "digits", ["constant_resnet.cells=1000000"], ["weights", "GiB"]),
        ("exact", "coin", "coin_flips", ["coin_flips.num_train=1000000000000"], ["1,000,000,000,000 flips", "GiB"]),
        ("mle", "logistic", "linear", ["linear.features=1000000000000"], ["1,000,000,000,000 features", "GiB"]),
        (
            "mle",
            "mlp",
            "digits",
            ["mle.epochs=10000000000"],
            ["10,000,000,000 epochs", "210,000,000,000 steps", "48.6 days"],
        ),
        ("deep_ensemble", "mlp", "digits", ["mle.epochs=10000000000"], ["steps", "48.6 days"]),
        ("deep_ensemble", "mlp", "digits", ["mle.steps=10000000000"], ["10,000,000,000 steps", "2.3 days"]),
        (
            "mean_field_vi",
            "mlp",
            "digits",
            ["mean_field_vi.bound_samples=1000000000000"],
            ["samples = 1,000,000,000,000", "11.6 days"],
        ),
        (
            "mle",
            "vae",
            "binary_digits",
            ["vae.regret_steps=1000000000000"],
            ["steps = 1,000,000,000,000", "11.6 days"],
        ),
    ],
)
def test_out_of_all_proportion(
    method: str, model: str, dataset: str, settings: list[str], names: list[str], refused: Any
) -> None:
    with refused(*names):
        budget.check(batch(method, model, dataset, *settings))


def test_samples(monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    with refused("mc_dropout · mlp · digits", "samples = 1,000,000,000,000", "11.6 days"):
        budget.check(batch("mc_dropout", "mlp", "digits", samples=10**12))


def test_rows_count(monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    """64·100 + 100 + 100·10 + 10 weights, 4 copies of 4 bytes: 120,160 bytes for each seed."""
    monkeypatch.setattr(memory, "total_bytes", lambda: 120_160 * 7)
    settings = ["mlp.widths=100"]
    budget.check(batch("mle", "mlp", "digits", *settings, seeds="7"))
    with refused("8 ×", "7,510 weights"):
        budget.check(batch("mle", "mlp", "digits", *settings, seeds="8"))


@pytest.mark.parametrize("name", suites.suite_names())
def test_no_suite_of_the_package_is_refused_on_a_laptop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def known(dataset: Any, split: int) -> Any:
        if dataset.name not in bundled or dataset.name == "uci_folder":  # a folder of one's own
            pytest.skip("its data are not here")
        return plain(dataset, split)

    plain = budget.load_task
    bundled = [n for n in catalog.names("datasets") if not getattr(catalog.load("datasets", n), "files", ())]
    monkeypatch.setattr(budget, "load_task", known)
    for one in run.batches(suites.build_spec(suites.read_suite(name), suites.Overrides(device="cpu")), []):
        assert budget.check(one) == ""


def test_a_long_run_is_said_before_it_begins() -> None:
    one = batch("mle", "mlp", "digits", "mle.epochs=20000000")
    assert budget.check(one) == "mle · mlp · digits takes at least 2.3 hours"


def test_steps_replace_the_epochs() -> None:
    assert budget.check(batch("mle", "mlp", "digits", "mle.epochs=10000000000", "mle.steps=1000")) == ""


def test_nothing_is_written_where_a_batch_is_refused(tmp_path: Path, refused: Any) -> None:
    with refused("170,000,000,003 weights", "GiB"):
        api.run(
            "quick",
            method=["mle"],
            model=["logistic", "mlp"],
            dataset=["wine"],
            set={"mlp.widths": ["10", "10000000000"]},
            results=tmp_path / "r",
        )
    assert list(tmp_path.iterdir()) == []
