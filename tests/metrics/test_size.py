import dataclasses

import torch

from bdlbench.metrics.size import metrics


def stating(make, **facts):
    return dataclasses.replace(make(rows=2).classification(), facts=facts)


def test_sparsity_overall_and_by_layer(make):
    facts = {"sparsity": [0.5, 0.25], "sparsity[fc1.weight]": [1.0, 0.0], "sparsity[blocks[0].w]": [0.0, 0.5]}
    values = metrics["sparsity"](stating(make, **{k: torch.tensor(v) for k, v in facts.items()}))
    assert {key: value.tolist() for key, value in values.items()} == {
        "": [0.5, 0.25],
        "fc1.weight": [1.0, 0.0],
        "blocks[0].w": [0.0, 0.5],
    }


def test_other_facts_are_not_taken_for_it(make):
    evaluation = stating(make, sparsity_target=torch.ones(2), depth=torch.ones(2), compression=torch.tensor([4.0, 2.0]))
    assert metrics["sparsity"](evaluation) == {}
    assert metrics["compression"](evaluation)[""].tolist() == [4.0, 2.0]


def test_without_the_fact_it_is_undefined(make):
    assert metrics["sparsity"](stating(make)) == metrics["compression"](stating(make)) == {}


def test_parameters_are_counted_for_every_row(make):
    assert metrics["parameters"](make(rows=3).classification())[""].tolist() == [1234.0] * 3


def test_directions_and_units():
    assert {name: (m.unit, m.better) for name, m in metrics.items()} == {
        "sparsity": ("fraction", "higher"),
        "compression": ("×", "higher"),
        "parameters": ("count", "lower"),
    }
