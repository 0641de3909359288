"""bdlbench: a benchmark and reproducibility suite for Bayesian deep learning.

The verbs of the command line are in `bdlbench.api`: `from bdlbench.api import run, read, table, compare, rank`.
"""

from __future__ import annotations

from typing import Any

from bdlbench.core import instructions

instructions.choose()  # before torch computes anything


def __getattr__(name: str) -> Any:
    """`import bdlbench; bdlbench.api.run(…)`: the verbs are imported when they are first asked for."""
    if name == "api":
        from importlib import import_module

        return import_module("bdlbench.api")
    if name == "__version__":
        from importlib.metadata import version

        return version("bdlbench")
    raise AttributeError(f"module 'bdlbench' has no attribute {name!r}")
