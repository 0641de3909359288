"""The residual networks for CIFAR against their papers: sizes, blocks, recipes, and runs on made-up images."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d

from bdlbench import catalog
from bdlbench.cli import main as cli
from bdlbench.data.task import Signature
from bdlbench.datasets.cifar import Cifar10, Cifar100
from bdlbench.models import cifar_resnet, wide_resnet
from bdlbench.models.cifar_resnet import CifarResNet
from bdlbench.models.wide_resnet import WideResNet
from bdlbench.records import record as records
from bdlbench.report.tables import later_defaults
from bdlbench.runs import suites
from bdlbench.training.plan import Moment, Plan

CIFAR = {classes: Signature((3, 32, 32), classes, "categorical") for classes in (10, 100)}


@pytest.mark.parametrize(
    ("network", "classes", "options", "count"),
    [
        (WideResNet, 10, {}, 36_479_194),  # 36.5 million in Zagoruyko & Komodakis 2016
        (WideResNet, 100, {}, 36_536_884),
        (WideResNet, 10, {"dropout": 0.1}, 36_479_194),
        (CifarResNet, 10, {}, 269_722),  # .27, .46, .66, .85 and 1.7 million in He et al. 2016
        (CifarResNet, 10, {"depth": 32}, 464_154),
        (CifarResNet, 10, {"depth": 44}, 658_586),
        (CifarResNet, 10, {"depth": 56}, 853_018),
        (CifarResNet, 10, {"depth": 110}, 1_727_962),
    ],
)
def test_they_have_as_many_parameters_as_published(network: Any, classes: int, options: Any, count: int) -> None:
    with torch.device("meta"):
        made = network(CIFAR[classes], **options)
    assert sum(parameter.numel() for parameter in made.parameters()) == count


def test_a_skip_connection_of_he_takes_every_second_pixel_and_pads_channels() -> None:
    block = cifar_resnet.FreeSkipBlock(2, 4, 2).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(3, 2, 5, 7)
    out = block(x)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3]].any()


def test_a_skip_connection_of_a_wide_network_is_of_its_input_itself() -> None:
    block = wide_resnet.WideBlock(2, 4, 2, 0.0).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(3, 2, 5, 7)
    assert torch.equal(block(x), conv2d(x, block.shortcut.weight, stride=2))  # before norm and ReLU
    same = wide_resnet.WideBlock(4, 4, 1, 0.0).eval()
    torch.nn.init.zeros_(same.conv2.weight)
    assert torch.equal(same(torch.ones(1, 4, 5, 7)), torch.ones(1, 4, 5, 7))


def test_a_wide_network_drops_between_the_convolutions_of_each_block() -> None:
    plain, dropping = (WideResNet(CIFAR[10], 16, 1, 2, rate) for rate in (0.0, 0.1))
    found = [name for name, module in dropping.named_modules() if isinstance(module, torch.nn.Dropout)]
    assert found == [f"blocks.{i}.dropout" for i in range(6)]
    assert not [module for module in plain.modules() if isinstance(module, torch.nn.Dropout)]


@pytest.mark.parametrize(("name", "depth"), [("wide_resnet", 27), ("cifar_resnet", 21)])
def test_an_impossible_depth_is_one_line(name: str, depth: int, tmp_path: Path, refused: Any) -> None:
    asked = ["run", "--method", "mle", "--model", name, "--dataset", "digits", "--results", tmp_path]
    refused.command([*asked, "--set", f"{name}.depth={depth}"], f"{name}.depth={depth}")


@pytest.mark.parametrize("name", ["wide_resnet", "cifar_resnet"])
def test_inputs_that_are_no_images_are_not_supported(name: str) -> None:
    reason = catalog.build_model([catalog.choice("models", name, {})], Signature((13,), 3, "categorical")).unsupported()
    assert reason is not None
    assert "(13,)" in reason


@pytest.mark.parametrize("suite", ["cifar10", "cifar100"])
@pytest.mark.parametrize(("method", "base"), [("mle", 0.1), ("mc_dropout", 0.05)])
def test_the_step_size_is_that_of_uncertainty_baselines(suite: str, method: str, base: float) -> None:
    """Their schedule by the epoch: it rises in the first, and is multiplied by .2 after 60, 120 and 160 of 200."""
    cells = suites.build_spec(suites.read_suite(suite), suites.Overrides(device="cpu")).cells
    (cell,) = (c for c in cells if (c.method.name, c.model.name) == (method, "wide_resnet"))
    options = later_defaults("methods", cell.method) | cell.method.as_dict()
    names = ("epochs", "batch_size", "learning_rate", "decay", "warmup", "milestones", "milestone_factor", "last_batch")
    plan = Plan(**{name: options[name] for name in names})
    assert (options["optimiser"], options["momentum"]) == ("nesterov", 0.9)
    per_epoch, steps = plan.steps_per_epoch(50_000), plan.total_steps(50_000)
    assert (per_epoch, steps) == (97, 19_400)
    for epoch in range(200):
        expected = base * 512 / 128 * 0.2 ** sum(epoch >= start for start in (60, 120, 160))
        if epoch:
            assert plan.rate(Moment(epoch * per_epoch, steps)) == pytest.approx(expected)
    assert plan.rate(Moment(47, steps)) == pytest.approx(base * 512 / 128 * 48 / 97)  # theirs: 47 / 97, from 0
    assert options["weight_decay"] == pytest.approx(2 * {"mle": 2e-4, "mc_dropout": 3e-4}[method])


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up files of CIFAR in a store of their own: 12 images in each of CIFAR-10's, 100 in each of CIFAR-100's."""
    monkeypatch.setenv("BDLBENCH_DATA", str(tmp_path / "store"))
    for entry, classes, count in ((Cifar10, 10, 12), (Cifar100, 100, 100)):
        made = []
        for number, file in enumerate(entry.files):
            dice, label = np.random.default_rng(number), np.arange(count, dtype=np.uint8)[:, None] % classes
            pixels = dice.integers(0, 256, (count, 3072), dtype=np.uint8)
            content = np.hstack([label, *([label] if classes == 100 else []), pixels]).tobytes()
            path = tmp_path / "store" / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            made.append(replace(file, size=len(content), sha256=hashlib.sha256(content).hexdigest()))
        monkeypatch.setattr(entry, "files", tuple(made))


@pytest.mark.slow
@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(("suite", "cells"), [("cifar10", 5), ("cifar100", 5)])
def test_the_suites_for_a_gpu_train_for_two_steps_on_made_up_images(suite: str, cells: int, tmp_path: Path) -> None:
    small = {"wide_resnet": {"depth": 10, "width": 1, "channels": 2}, "cifar_resnet": {"channels": 2}}
    quick: dict[str, dict[str, Any]] = {
        "mle": {"steps": 2},
        "mc_dropout": {"steps": 2},
        "deep_ensemble": {"members": 2},
    }
    settings = [f"--set={name}.{key}={value}" for name, own in {**quick, **small}.items() for key, value in own.items()]
    folder = tmp_path / "results"
    words = [
        "run",
        suite,
        "--seeds",
        "1",
        "--samples",
        "2",
        "--device",
        "cpu",
        "--jobs",
        "1",
        "--results",
        str(folder),
        *settings,
    ]
    assert cli.main(words) == 0
    made = records.read(folder)
    assert len({record.key for record in made}) == cells
    for record in made:
        assert {"accuracy", "nll", "ece", "ood_auroc[uniform]"} <= record.values.metrics.keys()
        assert all(np.isfinite(record.values.metrics["nll"].numbers))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_absent_set_is_one_line_and_nothing_is_trained(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    (tmp_path / "store").mkdir(mode=0o555)
    monkeypatch.setenv("BDLBENCH_DATA", str(tmp_path / "store"))
    asked = ["run", "--method", "mle", "--model", "cifar_resnet", "--dataset", name, "--results", tmp_path / "results"]
    refused.command([*asked, "--device", "cpu"], name, "absent")
