"""M2's objective against sums written out, and against the evidence."""

import torch

from bdlbench.kernels.semi_supervised import partly_labelled_bound


def made_up(rows=2, batch=6, classes=4):
    rng = torch.Generator().manual_seed(0)
    joint, logits = (torch.randn(rows, batch, classes, generator=rng, dtype=torch.float64) * 3 for _ in range(2))
    y = torch.randint(-1, classes, (rows, batch), generator=rng)
    y[:, 0], y[:, 1] = -1, classes - 1
    return joint, logits, y


def test_it_is_the_sum_written_out():
    joint, logits, y = made_up()
    weight = torch.tensor([0.5, 7.0], dtype=torch.float64)
    found = partly_labelled_bound(joint, logits, y, weight)
    for r, b in torch.cartesian_prod(torch.arange(2), torch.arange(6)).tolist():
        q = torch.exp(logits[r, b]) / torch.exp(logits[r, b]).sum()
        c = int(y[r, b])
        if c >= 0:
            expected = joint[r, b, c] + weight[r] * q[c].log()
        else:
            expected = sum(q[k] * joint[r, b, k] - q[k] * q[k].log() for k in range(4))
        torch.testing.assert_close(found[r, b], expected)


def test_without_a_label_it_bounds_the_evidence_and_meets_it_at_the_posterior():
    joint, logits, y = made_up()
    y = torch.full_like(y, -1)
    evidence = joint.logsumexp(-1)
    assert (partly_labelled_bound(joint, logits, y, 1.0) < evidence).all()
    torch.testing.assert_close(partly_labelled_bound(joint, joint, y, 1.0), evidence)  # q(y | x) ∝ p(x, y)


def test_a_posterior_sample_axis_goes_in_front():
    joint, logits, y = made_up()
    many = partly_labelled_bound(joint.expand(3, 2, 6, 4), logits.expand(3, 2, 6, 4), y, 2.0)
    assert torch.equal(many, partly_labelled_bound(joint, logits, y, 2.0).expand(3, 2, 6))


def test_an_absent_label_leaves_no_trace_of_the_weight():
    joint, logits, y = made_up()
    logits.requires_grad_()
    gradients = []
    for weight in (0.0, 1e6):
        bound = partly_labelled_bound(joint, logits, torch.full_like(y, -1), weight)
        gradients.append(torch.autograd.grad(bound.sum(), logits)[0])
    assert torch.equal(*gradients)
    assert gradients[0].isfinite().all()
