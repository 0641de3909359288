"""The linear probe: against scikit-learn, on what is and is not there to be read, and without a latent."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from bdlbench.data.splits import permutation
from bdlbench.metrics.representation import FOLDS, PENALTY, metrics

PROBE = metrics["linear_probe"]
N = 43


def given(make, latent, inputs, labels):
    evaluation = make(rows=2).density(N)
    test = dataclasses.replace(evaluation.test, latent_mean=latent)
    return dataclasses.replace(evaluation, test=test, y=labels, inputs=inputs)


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (2, N), generator=generator)
    inputs = torch.randn(2, N, 1, 3, 4, generator=generator) + labels[..., None, None, None] * torch.eye(3, 4)
    inputs[..., 0, 0] = 0.5  # a pixel that never changes
    return torch.randn(2, N, 2, generator=generator), inputs, labels


def by_scikit_learn(features, labels, components=0):
    fold, right = permutation(N, "linear_probe") % FOLDS, 0
    for k in range(FOLDS):
        learn, test = features[fold != k], features[fold == k]
        if components:
            pca = PCA(components, svd_solver="full").fit(learn)
            learn, test = pca.transform(learn), pca.transform(test)
        scale = StandardScaler().fit(learn)
        ridge = Ridge(PENALTY * len(learn)).fit(scale.transform(learn), np.eye(3)[labels[fold != k]])
        right += (ridge.predict(scale.transform(test)).argmax(1) == labels[fold == k]).sum()
    return right / N


def test_it_is_scikit_learns(make, drawn):
    latent, inputs, labels = drawn
    found = PROBE(given(make, latent, inputs, labels))
    for r in range(2):
        pixels, y = inputs[r].flatten(1).double().numpy(), labels[r].numpy()
        assert found["latent"][r].item() == pytest.approx(by_scikit_learn(latent[r].double().numpy(), y))
        assert found["pixels"][r].item() == pytest.approx(by_scikit_learn(pixels, y))
        assert found["components"][r].item() == pytest.approx(by_scikit_learn(pixels, y, components=2))


def test_a_latent_that_is_the_class_is_read_and_noise_is_not(make, drawn):
    noise, inputs, labels = drawn
    told = torch.nn.functional.one_hot(labels).float()
    by_turns = (torch.arange(N) % FOLDS).expand(2, -1)  # folds by place would hold whole classes out
    turned = torch.nn.functional.one_hot(by_turns).float()
    assert PROBE(given(make, turned, inputs, by_turns))["latent"].tolist() == [1.0, 1.0]
    assert PROBE(given(make, told, inputs, labels))["latent"].tolist() == [1.0, 1.0]
    assert (PROBE(given(make, noise, inputs, labels))["latent"] < 0.6).all()


def test_without_a_latent_inputs_or_classes_it_is_undefined(make, drawn):
    latent, inputs, labels = drawn
    assert PROBE(given(make, None, inputs, labels)) == {}
    assert PROBE(given(make, latent, None, labels)) == {}
    assert PROBE(given(make, latent, inputs, labels.float())) == {}
