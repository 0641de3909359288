"""Find claims: every module in `claims/` names its own in a dict `claims`, and so does a file of one's own."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from bdlbench.catalog import import_file
from bdlbench.core.errors import BadInput, unknown
from bdlbench.runs.suites import Suite
from bdlbench.studies.experiment import SLIDES, Experiment


def names() -> list[str]:
    """Return the names of the package's claims, in the order of the lecture's slides."""
    return list(_own())


def load(name: str) -> dict[str, Experiment]:
    """Return the claims that a name stands for.

    Args:
        name: A claim of the package; the path of a Python file with claims of one's own; "" for all of the package.

    Returns:
        {name: claim}.

    Raises:
        BadInput: The name is unknown, with the nearest; or the file does not import, or names no claim.
    """
    if not name:
        return _own()
    if name.endswith(".py"):
        return _of_file(Path(name))
    if name not in _own():
        raise unknown("claim", name, _own())
    return {name: _own()[name]}


def of_paper_size(claims: Mapping[str, Experiment]) -> dict[str, Experiment]:
    """Return the claims that have a paper size.

    Args:
        claims: {name: claim}.

    Raises:
        BadInput: None has.
    """
    found = {name: claim for name, claim in claims.items() if claim.full}
    if not found:
        raise BadInput(f"{', '.join(claims)}: no claim here has a paper size: leave --full out")
    return found


@cache
def _own() -> dict[str, Experiment]:
    package = importlib.import_module("bdlbench.claims")
    found: dict[str, Experiment] = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        found |= importlib.import_module(f"bdlbench.claims.{module.name}").claims
    return dict(sorted(found.items(), key=lambda item: SLIDES.index(item[1].slide)))


def _of_file(path: Path) -> dict[str, Experiment]:
    if not path.is_file():
        raise BadInput(f"file of claims {path} does not exist")
    claims = getattr(import_file(path, "file of claims"), "claims", None)
    if not isinstance(claims, dict) or not claims or not all(isinstance(one, Experiment) for one in claims.values()):
        raise BadInput(f'{path} names no claim: claims = {{"name": Experiment(...)}}')
    for name, claim in claims.items():
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w-]*", name):
            raise BadInput(f"{path}: {name!r} is no name of a claim: letters, digits, _ and -, as it names a folder")
        if not all(isinstance(claim.protocol(full).suite, Suite) for full in (False, True)):
            raise BadInput(f"{path}: claim {name}: the suite of a Setup is a Suite")
    return claims
