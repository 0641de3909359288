"""A file of the package imports its own floor or lower ones; entry files never import each other; nothing is cyclic.

The table mirrors `docs/design.md`, section Floors. A file that is in neither fails: say where it belongs first.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bdlbench"

FLOORS = (
    "instructions types normals rng clock memory torch_state foreign files spec errors options purity",
    "kernels/ stats/",  # pure functions
    "predictive density data terms records checkpoints environment",  # what is predicted, what data are, what is kept
    "protocols",  # the seams
    "layers blocks likelihoods latents stopping store submission splits training audit evaluation",  # outputs, minimise
    "posteriors/",  # sampling and chunking, shared by methods
    "models/ datasets/ methods/ metrics/",  # one file per entry
    "entries catalog",  # what an entry must be; the folder is the registry
    "plan provenance run executors suites/",  # spec -> records
    "results sources margins differences compare rank verify lint objectives speed reproduce score rescore "
    "contracts check budget",  # verdicts; what a run takes at the least
    "report sheets tables verdicts figures progress claims/",  # what people read
    "gate peers/",
    "__main__ api terminal",  # the command line, and the same verbs in Python
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
ENTRIES = FLOOR["models/"]


def room(module: str) -> str:
    """The table's word for a dotted module: `kernels/` for bdlbench.kernels.kl, `run` for bdlbench.run."""
    top = module.split(".")[1]
    return top if top in FLOOR else f"{top}/"


def module_name(path: Path, root: Path = ROOT) -> str:
    """The dotted name of a file: a package's `__init__.py` goes by the package's name."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_package(package: Path = PACKAGE) -> dict[str, str]:
    """The source of every file, by dotted module name."""
    return {module_name(path, package.parent): path.read_text("utf-8") for path in sorted(package.rglob("*.py"))}


def _base(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """What stands between `from` and `import`, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    kept = parts[: len(parts) - node.level + is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _named(node: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that one node imports, `from a import b` as a.b, and `import_module("a.b")` as a.b."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _base(node, module, is_package)
        yield from (f"{base}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__"):
            yield str(node.args[0].value)


def imports(module: str, sources: Mapping[str, str]) -> dict[str, int]:
    """What `module` imports of the package, anywhere in the file, with the line: the longest name that is a file."""
    is_package = any(other.startswith(f"{module}.") for other in sources)
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(sources[module])):
        for name in _named(node, module, is_package):
            parts = name.split(".")
            if parts[0] != "bdlbench" or (parts[-1].startswith("__") and parts[-1] != "__main__"):
                continue
            known = [n for i in range(len(parts), 1, -1) if (n := ".".join(parts[:i])) in sources]
            folder = [] if known or len(parts) < 2 or f"{parts[1]}/" not in FLOOR else [".".join(parts[:2])]
            found.setdefault((known or folder or ["bdlbench"])[0], getattr(node, "lineno", 0))
    found.pop(module, None)
    return found


def unplaced(sources: Mapping[str, str]) -> list[str]:
    """Modules that the table does not know."""
    return [m for m in sources if m != "bdlbench" and room(m) not in FLOOR]


def climbing(sources: Mapping[str, str]) -> list[str]:
    """Imports of a higher floor, of another entry, or of the package's front door, which stands above all floors."""
    wrong = []
    for module in sources:
        if module == "bdlbench" or room(module) not in FLOOR:
            continue
        own = FLOOR[room(module)]
        for target, line in imports(module, sources).items():
            where = f"{module}:{line} imports {target}"
            if target == "bdlbench":
                wrong.append(f"{where}: the front door, or nothing that exists")
            elif room(target) not in FLOOR or FLOOR[room(target)] > own:
                wrong.append(f"{where}: floor {own} may not see floor {FLOOR.get(room(target), '?')}")
            elif own == FLOOR[room(target)] == ENTRIES:
                wrong.append(f"{where}: entry files never import each other")
    return wrong


def cycle(sources: Mapping[str, str]) -> list[str]:
    """The first circle of imports, as the modules along it; [] where there is none."""
    edges = {m: [t for t in imports(m, sources) if t in sources] for m in sources if m != "bdlbench"}
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done or module not in edges:
            return []
        for target in edges[module]:
            if circle := visit(target, [*trail, module]):
                return circle
        done.add(module)
        return []

    return next((circle for module in edges if (circle := visit(module, []))), [])


def eager(source: str) -> list[int]:
    """Lines of the front door that import the package when it is imported: not in a function, not for types alone.

    Only `instructions` may be: it must speak before torch computes, and imports nothing heavy.
    """
    lines = []
    for node in ast.parse(source).body:
        for part in [node] if isinstance(node, ast.Import | ast.ImportFrom) else []:
            names = _named(part, "bdlbench", True)
            own = (name for name in names if name.split(".")[0] == "bdlbench" and name != "bdlbench.instructions")
            lines += [part.lineno for _ in own][:1]
    return lines


def busy_init(source: str) -> bool:
    """Whether an inner `__init__.py` holds more than a docstring."""
    body = ast.parse(source).body
    return len(body) > 1 or (len(body) == 1 and ast.get_docstring(ast.Module(body, [])) is None)


def documented_floors(text: str) -> dict[str, int]:
    """The names of design.md's block of floors: a number, two spaces, names, and after two spaces more the words."""
    block = re.search(r"^## Floors.*?\n((?:\s*\n|    .*\n)+)", text, re.MULTILINE | re.DOTALL)
    assert block, "docs/design.md has no section 'Floors' with an indented block"
    rows = re.findall(r"^    (\d+)\s+(\S+(?: \S+)*)", block.group(1), re.MULTILINE)
    return {name: int(floor) for floor, names in rows for name in names.split()}


def test_every_file_has_a_floor() -> None:
    assert unplaced(read_package()) == []


def test_nothing_climbs() -> None:
    assert climbing(read_package()) == []


def test_no_cycles() -> None:
    assert cycle(read_package()) == []


def test_init_files_do_nothing() -> None:
    inits = [path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    assert [str(path.relative_to(ROOT)) for path in inits if busy_init(path.read_text("utf-8"))] == []
    front_door = PACKAGE / "__init__.py"
    assert not front_door.exists() or eager(front_door.read_text("utf-8")) == []


def test_table_mirrors_the_design() -> None:
    documented = documented_floors((ROOT / "docs" / "design.md").read_text("utf-8"))
    assert documented
    assert {name: FLOOR.get(name) for name in documented} == documented


# Every guard is tripped once.

GOOD = {
    "bdlbench": "def run():\n    from bdlbench.run import run\n",
    "bdlbench.types": "",
    "bdlbench.kernels.kl": "from bdlbench.types import Leaf\n",
    "bdlbench.methods.map": "import torch\nfrom bdlbench.kernels import kl\nfrom bdlbench import __version__\n",
    "bdlbench.models.mlp": "from ..types import Leaf\n",
    "bdlbench.run": "import bdlbench.catalog\nfrom bdlbench import types\n",
    "bdlbench.catalog": "from bdlbench import methods\n",
}


def test_a_good_package_passes() -> None:
    assert (unplaced(GOOD), climbing(GOOD), cycle(GOOD)) == ([], [], [])


@pytest.mark.parametrize(
    "bad",
    [
        "from bdlbench.run import run",
        "from bdlbench import run",
        "import bdlbench.run as r",
        "from ..run import run",
        "from .. import run",
        "def f():\n    from bdlbench.run import run",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bdlbench.run import run",
        "import importlib\nimportlib.import_module('bdlbench.run')",
        "from bdlbench import models",
        "from bdlbench.models import mlp",
        "from bdlbench.models.mlp import MLP",
        "from bdlbench import read",
        "from bdlbench.nowhere import x",
    ],
)
def test_climbing_is_seen(bad: str) -> None:
    assert len(climbing({**GOOD, "bdlbench.methods.bad": bad})) == 1


def test_other_guards_are_tripped() -> None:
    assert unplaced({**GOOD, "bdlbench.helpers": ""}) == ["bdlbench.helpers"]
    loop = {"bdlbench.rank": "from bdlbench.score import a", "bdlbench.score": "def f():\n    import bdlbench.rank"}
    assert cycle({**GOOD, **loop}) == ["bdlbench.rank", "bdlbench.score", "bdlbench.rank"]
    assert eager("import sys\nfrom bdlbench.run import run\n") == [2]
    assert eager("from .run import run\n") == [1]
    assert [busy_init(s) for s in ("", '"""Words."""\n', "import os\n", '"""Words."""\nX = 1\n')] == [0, 0, 1, 1]
    assert documented_floors("## Floors (why)\n\n    0  types rng     words\n    12 __main__\n\nText\n") == {
        "types": 0,
        "rng": 0,
        "__main__": 12,
    }
    with pytest.raises(AssertionError, match="no section"):
        documented_floors("# nothing\n")
