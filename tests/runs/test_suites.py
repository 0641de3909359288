import itertools
import random
import time
from dataclasses import dataclass
from typing import Any

import pytest

from bdlbench import catalog
from bdlbench.core.errors import BadInput
from bdlbench.core.options import option as option_field
from bdlbench.core.spec import Cell, Choice, Replicate, parse_seeds
from bdlbench.runs import suites
from bdlbench.runs.suites import Overrides, build_spec, parse_settings, parse_suite

SUITE = """
title = "A suite"
version = 2
seeds = "2"
samples = 7
[[grid]]
methods = ["mle", "map"]
models = ["mlp"]
datasets = ["digits"]
[options.mlp]
widths = "20"
[options.map]
prior_sd = [0.5, 2.0]
"""


def spec(text=SUITE, **overrides):
    return build_spec(parse_suite(text, "suite.toml"), Overrides(device="cpu", **overrides))


def option(cell, name):
    return dict(cell.method.options)[name]


def test_a_suite_becomes_cells_and_replicates():
    found = spec()
    assert [cell.method.name for cell in found.cells] == ["mle", "map", "map"]
    assert [option(cell, "prior_sd") for cell in found.cells[1:]] == [0.5, 2.0]
    assert {dict(cell.model.options)["widths"] for cell in found.cells} == {(20,)}
    assert {(cell.samples, cell.device, cell.threads) for cell in found.cells} == {(7, "cpu", 1)}
    assert found.replicates == (Replicate(0), Replicate(1))


def test_a_grid_has_samples_of_its_own_under_those_of_the_command_line(refused):
    text = SUITE + '[[grid]]\nmethods = ["map"]\nmodels = ["logistic"]\ndatasets = ["digits"]\nsamples = 30\n'
    assert {(cell.model.name, cell.samples) for cell in spec(text).cells} == {("mlp", 7), ("logistic", 30)}
    assert {cell.samples for cell in spec(text, samples=3).cells} == {3}
    with refused("suite.toml", "samples"):
        spec(text.replace("samples = 30", "samples = 0"))


def test_a_command_line_lies_over_the_suite():
    found = spec(methods=("map",), seeds="4,9", samples=3, threads=2, settings=("map.prior_sd=3", "mlp.widths=5-6,7"))
    assert [option(cell, "prior_sd") for cell in found.cells] == [3.0, 3.0]
    assert [dict(cell.model.options)["widths"] for cell in found.cells] == [(5, 6), (7,)]
    assert {(cell.samples, cell.threads) for cell in found.cells} == {(3, 2)}
    assert found.replicates == (Replicate(4), Replicate(9))


@pytest.mark.parametrize(("seeds", "expected"), [("3", 3), ("[4, 9]", 2)])
def test_a_suite_may_give_its_seeds_as_numbers(seeds, expected):
    assert len(spec(f"seeds = {seeds}\n" + SUITE.replace('seeds = "2"', "")).replicates) == expected


def test_seeds_share_split_0_or_take_each_their_own():
    both = (Replicate(4, 4), Replicate(9, 9))
    assert spec(seeds="4,9", splits="each").replicates == both
    assert spec("splits = 'each'\n" + SUITE, seeds="4,9").replicates == both
    assert spec("splits = 'each'\n" + SUITE, seeds="4,9", splits="one").replicates == (Replicate(4), Replicate(9))


def test_sweeps_multiply_and_equal_cells_are_one():
    found = spec(methods=("map", "map"), settings=("map.prior_sd=1,2,1.0", "map.epochs=3,4"))
    assert sorted((option(c, "prior_sd"), option(c, "epochs")) for c in found.cells) == [(1, 3), (1, 4), (2, 3), (2, 4)]


def test_members_of_an_ensemble_take_their_own_methods_options():
    found = spec(methods=("deep_ensemble",), settings=("mle.epochs=3,4", "deep_ensemble.members=2"))
    assert [dict(option(cell, "member").options)["epochs"] for cell in found.cells] == [3, 4]


TWO_GRIDS = """
[[grid]]
methods = ["mle", "map"]
models = ["mlp"]
datasets = ["digits"]

[[grid]]
methods = ["mle"]
models = ["logistic"]
datasets = ["wine", "breast_cancer"]
options.mle.epochs = 7

[options.mle]
epochs = 3
learning_rate = 0.1
"""


def cells_of_two_grids(**overrides):
    found = build_spec(parse_suite(TWO_GRIDS, "two.toml"), Overrides(device="cpu", **overrides)).cells
    return [(cell.method.name, cell.model.name, cell.dataset.name) for cell in found], found


def test_options_of_a_grid_hold_in_it_alone_and_give_way_to_the_command_line():
    _, cells = cells_of_two_grids(methods=("mle",))
    assert [dict(cell.method.options)["epochs"] for cell in cells] == [3, 7, 7]
    assert {dict(cell.method.options)["learning_rate"] for cell in cells} == {0.1}
    _, cells = cells_of_two_grids(methods=("mle",), settings=("mle.epochs=5",))
    assert {dict(cell.method.options)["epochs"] for cell in cells} == {5}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"datasets": ("wine",)}, [("mle", "logistic", "wine")]),
        ({"methods": ("map",)}, [("map", "mlp", "digits")]),
        (
            {"models": ("mlp",), "methods": ("mle", "mc_dropout")},
            [("mle", "mlp", "digits"), ("mc_dropout", "mlp", "digits")],
        ),
        ({"models": ("lenet5",), "methods": ("mle",)}, [("mle", "lenet5", "digits")]),
        ({"models": ("mlp",), "datasets": ("wine",), "methods": ("map",)}, [("map", "mlp", "wine")]),
    ],
)
def test_names_narrow_the_grids_and_new_ones_join_one(overrides, expected):
    assert cells_of_two_grids(**overrides)[0] == expected


def names_of(cell):
    return cell.method.name, cell.model.name, cell.dataset.name


@pytest.mark.parametrize("suite", suites.suite_names())
def test_whatever_is_named_is_planned_in_every_combination_and_nothing_else(suite):
    """Over the whole catalog: subsets of methods × models × data sets, each kind named or left to the suite."""
    dice, read = random.Random(suite), suites.read_suite(suite)
    for kinds in itertools.product((False, True), repeat=3):
        for _ in range(4):
            subsets = [
                tuple(dice.sample(catalog.names(kind), dice.randint(1, 4))) if named else ()
                for kind, named in zip(suites.CELL_KINDS, kinds, strict=True)
            ]
            cells = build_spec(read, Overrides(*subsets, device="cpu")).cells
            found = {tuple(n for n, named in zip(names_of(cell), kinds, strict=True) if named) for cell in cells}
            assert found == set(itertools.product(*(names for names in subsets if names)))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"methods": ("mle", "laplace"), "datasets": ("digits",)}, "mle mlp digits, laplace mlp digits"),
        ({"methods": ("exact", "map"), "datasets": ("linear",)}, "exact mlp linear, map mlp linear"),
        # what no grid has goes where its data set, then its model is: not to the first grid, which has neither
        ({"methods": ("sparse_vd",), "datasets": ("coin_flips",)}, "sparse_vd coin coin_flips"),
        ({"methods": ("map",), "models": ("vae",)}, "map vae binary_digits"),
        ({"models": ("vae", "coin"), "methods": ("exact",)}, "exact vae binary_digits, exact coin coin_flips"),
        ({"models": ("lenet5", "vae"), "datasets": ("wine",), "methods": ("mle",)}, "mle lenet5 wine, mle vae wine"),
        ({"datasets": ("wine", "diabetes"), "methods": ("laplace",)},
         "laplace mlp wine, laplace bayesian_linear_regression diabetes"),
    ],
)  # fmt: skip
def test_a_name_of_another_grid_is_not_dropped(overrides, expected):
    cells = build_spec(suites.read_suite("quick"), Overrides(device="cpu", **overrides)).cells
    assert {names_of(cell) for cell in cells} == {tuple(words.split()) for words in expected.split(", ")}


def chosen(suite, *names, **overrides):
    """The options of a method, model and data set that are named: {kind: {option: value}}."""
    (cell,) = build_spec(suites.read_suite(suite), Overrides(*((n,) for n in names), device="cpu", **overrides)).cells
    return {kind: dict(getattr(cell, kind).options) for kind in ("method", "model", "dataset")}


def defaults(kind, name):
    return dict(catalog.choice(kind, name, {}).options)


@pytest.mark.parametrize(
    ("suite", "names"),
    [
        ("quick", ("mc_dropout", "lenet5", "mnist")),
        ("quick", ("mle", "mlp", "wine")),
        ("quick", ("map", "logistic", "digits")),
        ("quick", ("deep_ensemble", "lenet5", "mnist")),
        ("stopping", ("map", "mlp", "mnist")),
        ("smoke", ("mle", "logistic", "digits")),
    ],
)
def test_options_of_a_suite_hold_in_no_other_cell(suite, names):
    found = chosen(suite, *names)
    for kind, name in zip(suites.CELL_KINDS, names, strict=True):
        assert found[kind.removesuffix("s")] == defaults(kind, name)


def test_a_method_that_joins_a_grid_shares_its_protocol_and_has_its_own_defaults():
    tuned = chosen("quick", "mle", "mlp", "digits")
    joined = chosen("quick", "laplace", "mlp", "digits")
    assert (tuned["method"]["epochs"], tuned["model"]["widths"]) == (120, (100,))
    assert joined == {**tuned, "method": defaults("methods", "laplace")}
    assert chosen("smoke", "map", "vae", "binary_digits")["dataset"] == {"num_train": 400}
    assert chosen("quick", "laplace", "mlp", "digits", settings=("laplace.epochs=7",))["method"]["epochs"] == 7


def test_what_chose_a_suites_options_chose_none_of_other_cells():
    text = 'selection = "validation"\n' + SUITE
    assert spec(text).selection == spec(text, methods=("mle", "laplace")).selection == "validation"
    assert spec(text, methods=("laplace",)).selection == ""
    assert spec(text, datasets=("wine",)).selection == ""


def test_options_hold_in_every_cell_of_a_grid_that_leaves_models_to_the_command_line():
    text = TWO_GRIDS.replace('models = ["mlp"]', "")
    (cell,) = build_spec(parse_suite(text, "mine"), Overrides(("mle",), ("lenet5",), ("digits",), device="cpu")).cells
    assert dict(cell.method.options)["epochs"] == 3


@pytest.mark.parametrize(("values", "others"), [(5, 7), (3, 2)])
def test_a_sweep_multiplies_the_cells_of_its_own_entry_alone(values, others):
    """Five values for each of seven methods were 5^7 combinations for every entry."""
    listed = ",".join(str(1 + i) for i in range(values))
    methods = ("mle", "map", "mc_dropout", "dropconnect", "mean_field_vi", "sparse_vd", "laplace")[:others]
    began = time.monotonic()
    settings = tuple(f"{name}.epochs={listed}" for name in methods)
    text = SUITE.replace("[0.5, 2.0]", "2.0")
    cells = spec(text, methods=methods, models=("mlp", "logistic"), settings=settings).cells
    assert len(cells) == values * others * 2
    assert time.monotonic() - began < 2


def test_a_sweep_of_a_member_multiplies_its_ensemble_alone():
    swept = ("mle.epochs=1,2", "map.epochs=3,4,5", "deep_ensemble.member=mle,map")
    cells = spec(methods=("deep_ensemble", "mle"), settings=swept).cells
    members = [dict(cell.method.options)["member"] for cell in cells if cell.method.name == "deep_ensemble"]
    found = [(member.name, dict(member.options)["epochs"]) for member in members]
    assert found == [("mle", 1), ("mle", 2), ("map", 3), ("map", 4), ("map", 5)]
    assert len(cells) == 5 + 2


@dataclass(frozen=True)
class Nests:
    member: Any = option_field("deep_ensemble", "what it builds on", entry="methods")


@pytest.mark.parametrize(
    ("methods", "settings"),
    [("deep_ensemble", ("deep_ensemble.member=deep_ensemble",)), ("nests", ("deep_ensemble.member=nests",))],
)
def test_entries_that_build_on_themselves_are_refused(methods, settings, monkeypatch, refused):
    monkeypatch.setitem(catalog._plugins, "methods", {"nests": Nests})
    with refused(methods, "deep_ensemble", "nest"):
        spec(methods=(methods,), settings=settings)


def test_every_entry_can_be_planned():
    for kind in suites.CELL_KINDS:
        names = tuple(catalog.names(kind))
        cells = spec(**{kind: names}).cells
        assert {getattr(cell, kind.removesuffix("s")).name for cell in cells} == set(names)


@pytest.mark.parametrize("name", suites.suite_names())
def test_every_suite_of_the_package_can_be_planned(name):
    suite = suites.read_suite(name)
    assert suite.version >= 1
    assert suite.title
    assert build_spec(suite, Overrides(device="cpu")).cells


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"methods": ("mlee",)}, ["method", "mlee", "mle"]),
        ({"models": ("mpl",)}, ["model", "mpl", "mlp"]),
        ({"datasets": ("digit",)}, ["dataset", "digit", "digits"]),
        ({"seeds": "a"}, ["--seeds 'a'", "read"]),
        ({"splits": "eahc"}, ["value", "--splits 'eahc'", "each"]),
        ({"samples": 0}, ["--samples 0", "1"]),
        ({"samples": -3}, ["--samples -3", "1"]),
        ({"samples": 2.5}, ["--samples 2.5", "whole"]),
        ({"samples": True}, ["--samples True", "whole"]),
        ({"threads": "2"}, ["--threads '2'", "whole"]),
        ({"seeds": [0, 0]}, ["--seeds [0, 0]", "twice"]),
        ({"seeds": []}, ["--seeds []", "no"]),
        ({"seeds": 0}, ["--seeds 0", "no"]),
        ({"seeds": 1.5}, ["--seeds 1.5", "read"]),
        ({"seeds": [0.5]}, ["--seeds [0.5]", "read"]),
        ({"seeds": True}, ["--seeds True", "read"]),
        ({"threads": 0}, ["--threads 0", "1"]),
        ({"settings": ("map.prior_sd=-1",)}, ["map.prior_sd=-1.0", "(0, inf)"]),
        ({"settings": ("map.prior=1",)}, ["option", "map", "prior", "prior_sd"]),
        ({"settings": ("mapp.prior_sd=1",)}, ["entry", "mapp", "map"]),
        ({"settings": ("map.epochs=2.5",)}, ["map.epochs=2.5", "whole"]),
        ({"settings": ("sparse_vd.epochs=2",)}, ["--set sparse_vd", "map", "mle", "mlp", "digits"]),
        ({"settings": ("map.prior_sd",)}, ["'map.prior_sd'", "NAME.OPTION=VALUE"]),
        ({"settings": ("prior_sd=1",)}, ["'prior_sd=1'", "NAME.OPTION=VALUE"]),
        ({"settings": ("map.=1",)}, ["'map.=1'", "NAME.OPTION=VALUE"]),
        ({"settings": ("map.prior_sd=",)}, ["'map.prior_sd='", "NAME.OPTION=VALUE"]),
    ],
)
def test_what_a_command_line_has_wrong_is_said_in_one_line(overrides, names, refused):
    with refused(*names):
        spec(**overrides)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("title = ", ["suite.toml", "TOML", "line 1"]),
        ("\n[[grid]\n", ["suite.toml", "TOML", "line 2"]),
        ("sead = 3\n" + SUITE, ["key", "suite.toml", "sead", "seeds"]),
        (SUITE.replace("models", "model"), ["key", "suite.toml", "model", "models"]),
        ("title = 'x'", ["suite.toml", "[[grid]]", "no"]),
        ("grid = []", ["suite.toml", "[[grid]]", "no"]),
        ("grid = [3]", ["[[grid]]", "table"]),
        ("samples = 'many'\n" + SUITE.replace("samples = 7", ""), ["samples = 'many'", "whole"]),
        ("samples = true\n" + SUITE.replace("samples = 7", ""), ["samples = True", "whole"]),
        ("seeds = 1.5\n" + SUITE.replace('seeds = "2"', ""), ["seeds = 1.5", "suite.toml", "read"]),
        ("version = 1.5\n" + SUITE.replace("version = 2", ""), ["version = 1.5", "whole"]),
        ("options = 3\n[[grid]]\n", ["suite.toml", "options", "tables"]),
        ("[[grid]]\nmethods=['mle']\n[options]\nmlp = 3\n", ["suite.toml", "options", "tables"]),
        ("[[grid]]\nmethods=['mle']\ndatasets=['digits']", ["suite.toml", "no models", "--model"]),
        (SUITE + "[options.mel]\nepochs = 1", ["suite.toml", "mel"]),
        (SUITE + "[options.mle]\nepochs = inf", ["suite.toml", "mle.epochs"]),
        (SUITE + "[curves]\nmetrics = ['nlll']\nevery = 1", ["suite.toml", "[curves]", "nlll", "nll"]),
        ("[[grid]]\nmethods=['mlee']\nmodels=['mlp']\ndatasets=['digits']", ["suite.toml", "mlee", "mle"]),
    ],
)
def test_what_a_suite_has_wrong_is_said_in_one_line(text, names, refused):
    with refused(*names):
        spec(text)


def test_suites_are_found_by_name_or_file(tmp_path, refused):
    with refused("suite", "quik", "quick"):
        suites.read_suite("quik")
    with refused("suite", "absent.toml", "exist"):
        suites.read_suite_file(tmp_path / "absent.toml")
    (tmp_path / "mine.toml").write_text(SUITE)
    assert suites.read_suite_file(tmp_path / "mine.toml").title == "A suite"
    (tmp_path / "latin.toml").write_bytes(b'title = "\xe9"')
    with refused("latin.toml", "utf-8"):
        suites.read_suite_file(tmp_path / "latin.toml")


def test_devices(refused):
    assert suites.resolve_device("cpu") == "cpu"
    assert suites.resolve_device("auto") in ("cpu", "cuda")
    with refused("device", "gpu"):
        suites.resolve_device("gpu")


def test_cuda_is_refused_where_it_is_absent(monkeypatch, refused):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with refused("--device cuda", "no CUDA"):
        suites.resolve_device("cuda")
    assert suites.resolve_device("auto") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert suites.resolve_device("auto") == suites.resolve_device("cuda") == "cuda"


def test_settings_are_read_and_split():
    assert parse_settings(["mle.epochs=1, 2", "mle.batch_size=3", "mlp.widths=3-4"]) == {
        "mle": {"epochs": ["1", "2"], "batch_size": ["3"]},
        "mlp": {"widths": ["3-4"]},
    }


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("3", (0, 1, 2)),
        ("0-2", (0, 1, 2)),
        ("4-4", (4,)),
        ("7,1,4", (1, 4, 7)),
        ("9,", None),
        (3, (0, 1, 2)),
        ([7, 1], (1, 7)),
        ([5], (5,)),
        (range(2, 4), (2, 3)),
    ],
)
def test_seeds(text, seeds):
    if seeds is None:
        with pytest.raises(BadInput):
            parse_seeds(text)
    else:
        assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a", "read"),
        ("1-2-3", "read"),
        ("1.5", "read"),
        ("", "read"),
        ("0", "no"),
        ("5-2", "no"),
        ("-1", "read"),
        ("-1,2", "no"),
        ("1,1", "twice"),
    ],
)
def test_seeds_that_make_no_sense_are_refused_with_what_would(text, word, refused):
    with refused(f"--seeds '{text}'", word, "(5)", "(0-9)", "(1,4,7)"):
        parse_seeds(text)


def test_a_cells_key_names_all_that_decides_the_bits():
    one, two = Choice.of("a", {"x": 1, "y": 2}), Choice.of("a", {"y": 2, "x": 1})
    assert one == two
    cell = Cell(one, one, one, 3)
    assert cell.key == Cell(two, two, two, 3).key
    others = [
        Cell(Choice.of("a", {"x": 1, "y": 3}), one, one, 3),
        Cell(one, Choice("b"), one, 3),
        Cell(one, one, Choice("b"), 3),
        Cell(one, one, one, 4),
        Cell(one, one, one, 3, "cuda"),
        Cell(one, one, one, 3, threads=2),
    ]
    assert len({cell.key, *(other.key for other in others)}) == 7
    assert cell.title == "a · a · a"
