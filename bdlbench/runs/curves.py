"""Metrics of the test set while training goes on, for reports: what a suite's [curves] asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from bdlbench import catalog
from bdlbench.core.spec import Curves
from bdlbench.core.streams import Streams
from bdlbench.data.task import Problem
from bdlbench.protocols import Model, Posterior
from bdlbench.records.contents import MeasuredCurves
from bdlbench.runs import scoring
from bdlbench.training.loop import Session, Watch, Watched


def watch(asked: Curves, rng: Streams, problem: Problem, model: Model, note: Callable[[str], None]) -> Watch:
    """Return what measures metrics of the test set after an epoch.

    Args:
        asked: The metrics, and after which epochs.
        rng: The root streams (R,) of the replicates; each epoch draws from streams of its own.
        problem: The data; out-of-distribution sets and shifted test sets are left out.
        model: The model.
        note: note(line) hears once of a metric that fails; its curve has a gap there, and training goes on.

    Returns:
        The watch of a session.
    """
    shown, known = replace(problem, ood={}, shifts={}, calibration=None, ood_scores=(), joint=0), catalog.metrics()
    metrics, told = {name: known[name] for name in asked.metrics}, set[str]()

    def measure(posterior: Posterior, epoch: int) -> dict[str, Tensor]:
        own = rng.child("curves").child(f"epoch {epoch}")
        evaluation = scoring.evaluate(posterior, shown, model, asked.samples, own)
        found, failed = scoring.scored(evaluation, metrics)
        for name, reason in failed.items():
            if name not in told:  # it is asked again after later epochs, as it would be by a run that resumes
                note(f"metric {name} fails after epoch {epoch}, so its curve has a gap: {reason}")
            told.add(name)
        return {name: torch.tensor(entry.numbers, dtype=torch.float64) for name, entry in found.items()}

    return Watch(asked.due, measure)


def measured(asked: Curves, spent: Session) -> MeasuredCurves | None:
    """Return what was measured in all fits of a session; epochs count on from one fit to the next.

    None where nothing was, which the session is told: the method knows its posterior at the end alone, or no metric is
    defined, or no epoch was due.
    """
    watched, before = Watched(), 0
    for fit in spent.fits:
        for t, epoch in enumerate(fit.watched.epochs):
            watched = watched.after(before + epoch, {name: rows[:, t] for name, rows in fit.watched.series.items()})
        before += fit.plan.total_epochs(fit.data.num_data)
    if not watched.epochs:
        spent.note(f"no curves: none of {', '.join(asked.metrics)} is known before training ends, or no epoch was due")
        return None
    series = {name: tuple(map(tuple, rows.tolist())) for name, rows in watched.series.items()}
    return MeasuredCurves(watched.epochs, asked.samples, series)
