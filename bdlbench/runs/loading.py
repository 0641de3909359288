"""The data sets of a run: each split is loaded once, and a record keeps facts of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from bdlbench import catalog
from bdlbench.core.spec import Choice
from bdlbench.data import downloads
from bdlbench.data.task import Task


def load_task(dataset: Choice, split: int) -> Task:
    """Load one split of a data set; the last two are cached. Raises BadInput if it is unavailable as asked."""
    return _load_task(catalog.load("datasets", dataset.name), dataset, split)


@lru_cache(maxsize=2)
def _load_task(entry: type, dataset: Choice, split: int) -> Task:
    """Cache by the class too: an edited plugin has another class of the same name."""
    return catalog.load_task(dataset, split)


def fetch(dataset: Choice) -> None:
    """Have the files at hand that a data set declares for download. Raises DataUnavailable where they cannot be had."""
    downloads.fetch(_files(dataset), dataset.name)


def is_at_hand(dataset: Choice) -> bool:
    """Tell whether all files are here that a data set declares for download."""
    return all(state in downloads.AT_HAND for _, state in downloads.status(_files(dataset)))


def _files(dataset: Choice) -> Sequence[downloads.RemoteFile]:
    declared: Sequence[downloads.RemoteFile] = getattr(catalog.load("datasets", dataset.name), "files", ())
    return declared


def forget() -> None:
    """Empty the cache, where the tensors of a split, or its files, may have changed."""
    _load_task.cache_clear()


def data_facts(dataset: Choice, splits: Iterable[int]) -> dict[str, Any]:
    """Return the SHA-256 of splits' source files, and what preprocessing computed from their training examples.

    {"sources": {…}, "statistics": {…}}. A fact that differs from split 0's has the split in its name; any other has its
    plain name. Records of different splits therefore agree in what all splits share.
    """
    asked = sorted(set(splits))
    first = load_task(dataset, 0) if asked else None
    found: dict[str, dict[str, Any]] = {"sources": {}, "statistics": {}}
    for split in asked:
        task = load_task(dataset, split)
        for what, table in found.items():
            shared = getattr(first, what)
            for name, value in getattr(task, what).items():
                varies = name in shared and shared[name] != value
                table[f"{name} (split {split})" if varies else name] = value
    return found
