"""Everyone follows the same trajectory: they end at the same weights."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from bdlbench.peers import trajectories
from bdlbench.peers.plain import Batches
from bdlbench.peers.trajectories import Chains, plain_leapfrog

SIZES = (5, 4, 3)


def chains(count):
    return Chains(Batches(20, 1, SIZES[0], SIZES[-1]), SIZES, count)


def absent(module):
    return pytest.mark.skipif(find_spec(module) is None, reason=f"needs {module}: pip install 'bdlbench[peers]'")


@pytest.mark.parametrize(
    "follow",
    [
        "our_leapfrog",
        pytest.param("blackjax_leapfrog", marks=absent("blackjax")),
        pytest.param("numpyro_leapfrog", marks=absent("numpyro")),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_all_end_where_plain_autograd_does(monkeypatch, follow, count):
    monkeypatch.setattr(trajectories, "STEP_SIZE", 0.05)  # far enough that a wrong force would show
    expected = plain_leapfrog(chains(count), 15)()
    assert max(float((expected[name] - chains(count).start[name]).abs().max()) for name in expected) > 0.3
    found = getattr(trajectories, follow)(chains(count), 15)()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        end = found[name] if isinstance(found[name], torch.Tensor) else torch.from_numpy(np.array(found[name]))
        ours = end.reshape(value.shape)
        torch.testing.assert_close(ours.detach(), value, atol=2e-5, rtol=1e-4)


def test_a_chain_is_the_same_alone_and_among_others():
    for one, many in zip(chains(1).start.values(), chains(3).start.values(), strict=True):
        assert torch.equal(one[0], many[0])
        assert not torch.equal(many[0], many[1])


def test_the_log_joint_is_that_of_a_softmax_and_a_normal_prior():
    one = chains(1)
    weights = [value[0] for value in one.start.values()]
    hidden = (one.data.x @ weights[0].T + weights[1]).clamp_min(0)
    logits = hidden @ weights[2].T + weights[3]
    likelihood = sum(
        float(row[y] - row.logsumexp(0)) for row, y in zip(logits.double(), one.data.y.tolist(), strict=True)
    )
    prior = -0.5 * sum(float(weight.double().square().sum()) for weight in weights)
    assert float(trajectories.log_joint(weights, one.data.x, one.data.y)) == pytest.approx(likelihood + prior, rel=1e-5)
