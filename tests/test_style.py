"""What the package never does: ambient randomness, a hard-wired device, long functions, silence, a slow front door."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from bdlbench import extend

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bdlbench"
LONGEST = 50
HEAVY = ("torch", "torchvision", "numpy", "pandas", "scipy", "sklearn", "seaborn", "matplotlib")

AMBIENT = {
    "torch.manual_seed",
    "torch.seed",
    "torch.set_rng_state",
    "torch.set_default_dtype",
    "torch.set_default_device",
    "torch.set_default_tensor_type",
    "torch.random.manual_seed",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
    "random.seed",
    "random.random",
    "random.shuffle",
    "random.choice",
    "random.randint",
}
NUMPY_OBJECTS = {
    "default_rng",
    "Generator",
    "BitGenerator",
    "SeedSequence",
    "SFC64",
    "RandomState",
    "PCG64",
    "Philox",
    "MT19937",
}
DRAWS = {"torch." + name for name in ("rand", "randn", "randint", "randperm", "bernoulli", "normal", "multinomial")}
DRAWS_OF_METHODS = {
    "normal_",
    "uniform_",
    "bernoulli_",
    "exponential_",
    "random_",
    "log_normal_",
    "cauchy_",
    "geometric_",
}
DRAWS_WITHOUT_GENERATOR = {"torch.rand_like", "torch.randn_like", "torch.randint_like", "torch.poisson"}
DROPOUTS = {
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "feature_alpha_dropout",
    "feature_dropout",
}
EFFECTFUL = {"torch", "np", "numpy", "random", "logging", "warnings", "os", "sys"}

SETS_AMBIENT = {"core/torch_state.py"}
"""Files that may touch ambient state: this one puts it back."""

Guard = Callable[[str], list[str]]


def dotted(node: ast.AST) -> str:
    """`a.b.c` as it is written; what is not a plain name is left out, so that `f(x).cuda` gives `.cuda`."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def _full(name: str) -> str:
    return "numpy" + name[2:] if name.startswith("np.") else name


def _is_cuda(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.split(":")[0] in ("cuda", "mps")
    )


def _call_faults(node: ast.Call) -> Iterator[str]:
    """What is wrong with one call: draws without a generator, and devices."""
    name, keywords = _full(dotted(node.func)), {keyword.arg for keyword in node.keywords}
    method = name.rpartition(".")[2]
    from_ambient = "generator" not in keywords and (name in DRAWS or ("." in name and method in DRAWS_OF_METHODS))
    if from_ambient or name in DRAWS_WITHOUT_GENERATOR:
        yield f"{name} draws from the ambient generator"
    if name.endswith(".cuda") and name != "torch.cuda":
        yield ".cuda() names a device"
    if any(keyword.arg == "device" and _is_cuda(keyword.value) for keyword in node.keywords):
        yield "device= names a device"
    if (name == "torch.device" or name.endswith(".to")) and any(_is_cuda(arg) for arg in node.args):
        yield f"{name} names a device"


def _name_faults(name: str) -> Iterator[str]:
    """What is wrong with a name that is read, called or not, or imported."""
    head, _, last = name.rpartition(".")
    if name in AMBIENT or (head == "numpy.random" and last not in NUMPY_OBJECTS):
        yield f"{name} is ambient state"
    if last in DROPOUTS and head.rpartition(".")[2] in ("F", "functional", "torch"):
        yield f"{name} draws from the ambient generator"


def ambient(source: str) -> list[str]:
    """Uses of ambient randomness or of a device by name."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        found: list[str] = []
        if isinstance(node, ast.Call):
            found += _call_faults(node)
        if isinstance(node, ast.Attribute):
            found += _name_faults(_full(dotted(node)))
        if isinstance(node, ast.ImportFrom):
            found += [fault for alias in node.names for fault in _name_faults(f"{node.module}.{alias.name}")]
        faults += [f"line {node.lineno}: {fault}" for fault in found]
    return faults


def long_functions(source: str) -> list[str]:
    """Functions whose body, without its docstring, has more than fifty lines."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            faults += [f"line {node.lineno}: {node.name} has {lines} lines"] if lines > LONGEST else []
    return faults


def undocumented(source: str) -> list[str]:
    """The module, and its public functions, classes and their public methods, where they have no docstring."""
    tree = ast.parse(source)
    faults = ["line 1: the module"] if tree.body and ast.get_docstring(tree) is None else []
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for node in [node for scope in (tree, *classes) for node in scope.body]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            public = not node.name.startswith("_") and "overload" not in map(dotted, node.decorator_list)
            faults += [f"line {node.lineno}: {node.name}"] if public and ast.get_docstring(node) is None else []
    return faults


def without_sections(source: str) -> list[str]:
    """Public functions whose docstring lacks a section that they need, or names other arguments than they have."""
    tree, faults = ast.parse(source), []
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for node in [node for scope in (tree, *classes) for node in scope.body]:
        if not isinstance(node, ast.FunctionDef) or (node.name.startswith("_") and node.name != "__call__"):
            continue
        doc, decorators = ast.get_docstring(node) or "", {dotted(one) for one in node.decorator_list}
        if decorators & {"property", "cached_property", "overload"} or not doc:
            continue
        args, star = node.args, [("*", node.args.vararg), ("**", node.args.kwarg)]
        taken = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs) if arg.arg not in ("self", "cls")]
        taken += [mark + arg.arg for mark, arg in star if arg]
        told = re.findall(r"^    (\*{0,2}\w+): ", doc.partition("Args:\n")[2].split("\n\n")[0], re.MULTILINE)
        where = f"line {node.lineno}: {node.name}"
        faults += [f"{where}: Args tells {told}, not {taken}"] if sorted(told) != sorted(taken) else []
        silent = node.returns is None or ast.unparse(node.returns) == "None"
        says = "Returns:" in doc or "Yields:" in doc or (not taken and doc.startswith("Return "))
        faults += [] if silent or says else [f"{where}: no Returns"]
        raised = {dotted(one.exc.func) for one in ast.walk(node) if isinstance(one, ast.Raise) and _is_call(one.exc)}
        named = doc.partition("Raises:\n")[2]
        faults += [f"{where}: Raises lacks {error}" for error in sorted(raised - {"unknown"}) if error not in named]
    return faults


def _is_call(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Call)


def effects(source: str) -> list[str]:
    """Statements that act on the outside when the module is imported."""
    calls = [n.value for n in ast.parse(source).body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]
    names = [(call.lineno, dotted(call.func)) for call in calls]
    return [f"line {line}: {name}()" for line, name in names if name.split(".")[0] in EFFECTFUL]


def loaded_by(statement: str, modules: tuple[str, ...] = HEAVY) -> list[str]:
    """Which of `modules` a fresh interpreter has loaded after `statement`."""
    code = f"import sys\n{statement}\nprint(*(m for m in {modules!r} if m in sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize("guard", [ambient, long_functions, undocumented, effects])
def test_package_is_clean(guard: Guard) -> None:
    exempt = SETS_AMBIENT if guard is ambient else set()
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).as_posix() not in exempt]
    assert paths
    found = [f"{path.relative_to(ROOT)} {fault}" for path in paths for fault in guard(path.read_text("utf-8"))]
    assert found == []


def told_in_full() -> list[Path]:
    """Files whose public docstrings have a section for arguments, results and errors."""
    paths = [PACKAGE / "api.py", PACKAGE / "protocols.py"]
    return [*paths, *(path for folder in ("kernels", "stats") for path in sorted((PACKAGE / folder).glob("*.py")))]


def test_public_docstrings_have_sections() -> None:
    found = [f"{path.name} {fault}" for path in told_in_full() for fault in without_sections(path.read_text("utf-8"))]
    assert found == []


def test_what_extend_holds_has_sections() -> None:
    """Methods of its classes are told by the protocol that they implement; an option documents itself."""
    things = {name: getattr(extend, name) for name in extend.__all__}
    functions = {name: thing for name, thing in things.items() if inspect.isfunction(thing)}
    found = {name: without_sections(textwrap.dedent(inspect.getsource(thing))) for name, thing in functions.items()}
    assert {name: faults for name, faults in found.items() if faults} == {}
    data = {name: thing for name, thing in things.items() if inspect.isclass(thing) and is_dataclass(thing)}
    silent = {
        f"{name}.{field.name}"
        for name, thing in data.items()
        for field in fields(thing)
        if field.compare and "help" not in field.metadata and f"    {field.name}: " not in (inspect.getdoc(thing) or "")
    }
    assert len(functions) > 20 and len(data) > 10 and silent == set()


def long_prose(text: str) -> list[str]:
    """Lines of a document over 120 characters, but for tables, images, code and what a script writes."""
    written = re.sub(r"^<!-- (?!\w+ reading)[^\n]* -->$.*?^<!-- end.*?-->$", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks = re.split(r"^```.*$", written, flags=re.MULTILINE)[::2]
    lines = [line for block in blocks for line in block.splitlines() if not line.startswith(("|", "    ", "!["))]
    return [line for line in lines if len(line) > 120]


def test_pages_fit_a_screen() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "results").rglob("README.md")]
    found = {str(page.relative_to(ROOT)): long_prose(page.read_text("utf-8")) for page in pages}
    assert {page: lines for page, lines in found.items() if lines} == {}
    assert len(found) > 25
    assert long_prose("x" * 120 + f"\n| {'x' * 120}\n```\n{'y' * 121}\n```\n" + "z" * 121) == ["z" * 121]
    written = f"<!-- table -->\n{'x' * 121}\n<!-- end -->\n<!-- a reading -->\n{'z' * 121}\n<!-- end -->"
    assert long_prose(written) == ["z" * 121]


def public_names(source: str) -> set[str]:
    """Upper-case names that a module defines at its top level."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {node.name} if isinstance(node, ast.ClassDef) else set()
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if name[0].isupper()}


def defined_twice(sources: dict[str, str]) -> list[str]:
    """Names with more than one meaning, and where they stand."""
    places: dict[str, list[str]] = {}
    for file, source in sources.items():
        for name in public_names(source):
            places.setdefault(name, []).append(file)
    return [f"{name}: {', '.join(files)}" for name, files in sorted(places.items()) if len(files) > 1]


def test_a_name_has_one_meaning() -> None:
    """But for the constants of a claim, whose file nobody imports."""
    files = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "claims")
    assert defined_twice({str(p.relative_to(ROOT)): p.read_text("utf-8") for p in files}) == []
    assert defined_twice({"a": "X = 1\nx = 2", "b": "class X: ...\nx = 3", "c": "Y: int = 1"}) == ["X: a, b"]


OUR_ERRORS = {"BadInput", "BenchError", "Broken", "DataUnavailable", "Diverged", "NotComparable"}


def worded(source: str, is_prose: Callable[[str], bool]) -> list[str]:
    """Places where a test holds the wording of an error: in `match=`, or in `... in` what was raised or printed."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and dotted(node.func) in ("pytest.raises", "raises"):
            wanted = [keyword.value for keyword in node.keywords if keyword.arg == "match"]
            ours = {dotted(arg).rpartition(".")[2] for arg in node.args[:1]} & OUR_ERRORS
            faults += [f"line {node.lineno}: match= of our {name}: use refused" for name in ours if wanted]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            said = {getattr(part, "attr", getattr(part, "id", "")) for part in ast.walk(node.comparators[0])}
            wanted = [node.left] if said & {"err", "error", "stderr", "caught"} else []
        else:
            continue
        texts = [part.value for one in wanted for part in ast.walk(one) if isinstance(part, ast.Constant)]
        faults += [f"line {node.lineno}: {text!r} is wording" for text in texts if is_prose(str(text))]
    return faults


def test_no_test_holds_the_wording_of_an_error(refused: Any) -> None:
    """So that a message may be worded better at any time; the fixture refuses wording among the names it is given."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    sources = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in paths}
    assert len(paths) > 80
    assert [f"{file} {fault}" for file, text in sources.items() for fault in worded(text, refused.is_prose)] == []
    assert len(worded("with pytest.raises(BadInput, match='rate'): f()", refused.is_prose)) == 1
    assert len(worded("with pytest.raises(ValueError, match='is too large'): f()", refused.is_prose)) == 1
    assert len(worded("assert 'is out of range' in capsys.readouterr().err", refused.is_prose)) == 1
    assert len(worded("assert f'{x} is missing here' in str(caught.value)", refused.is_prose)) == 1
    assert worded("assert '--rate 0' in capsys.readouterr().err", refused.is_prose) == []
    assert worded("with pytest.raises(ValueError, match='zip'): f()", refused.is_prose) == []


def test_front_door_is_light() -> None:
    assert loaded_by("import bdlbench.__main__") == []


# Every guard is tripped once.


@pytest.mark.parametrize(
    "bad",
    [
        "torch.manual_seed(0)",
        "seed = torch.manual_seed",
        "from torch import manual_seed",
        "torch.cuda.manual_seed_all(0)",
        "np.random.seed(0)",
        "numpy.random.normal(size=3)",
        "from numpy.random import rand",
        "random.seed(0)",
        "F.dropout(x, 0.5)",
        "torch.nn.functional.dropout2d(x)",
        "from torch.nn.functional import dropout",
        "torch.randn(3)",
        "torch.randn_like(x)",
        "x.normal_()",
        "f(x).bernoulli_(0.5)",
        "x.cuda()",
        "f(x).cuda()",
        'torch.zeros(3, device="cuda")',
        'torch.zeros(3, device="cuda:1")',
        'torch.device("cuda")',
        'x.to("cuda")',
        "torch.set_default_dtype(d)",
    ],
)
def test_ambient_is_seen(bad: str) -> None:
    assert len(ambient(f"def f(x):\n    {bad}\n")) == 1


@pytest.mark.parametrize(
    "good",
    [
        "torch.randn(3, generator=g)",
        "x.normal_(generator=g)",
        "np.random.default_rng(0).normal()",
        "np.random.RandomState(1)",
        "torch.cuda.synchronize()",
        'x.device.type == "cuda"',
        "x.to(y.device)",
        "self.dropout(x)",
        "kernels.dropout(x, mask)",
    ],
)
def test_explicit_is_fine(good: str) -> None:
    assert ambient(good) == []


def _function(lines: int) -> str:
    return 'def f():\n    """Words.\n\n    More words.\n    """\n' + "    x = 1\n" * lines


def test_other_guards_are_tripped() -> None:
    assert long_functions(_function(LONGEST)) == []
    assert long_functions(_function(LONGEST + 1)) == ["line 1: f has 51 lines"]
    silent = "def f(): ...\ndef _g(): ...\nclass C:\n    def h(self): ...\n    def __len__(self): ...\n"
    assert undocumented(silent) == ["line 1: the module", "line 1: f", "line 3: C", "line 4: h"]
    assert undocumented("") == []
    told = 'def f(x, *y):\n    """Do.\n\n    Args:\n        x: One.\n    """\n    raise ValueError()\ndef _g(x): ...\n'
    assert without_sections(told) == [
        "line 1: f: Args tells ['x'], not ['x', '*y']",
        "line 1: f: Raises lacks ValueError",
    ]
    assert without_sections('def f() -> int:\n    """Do."""\n') == ["line 1: f: no Returns"]
    assert without_sections('def f() -> int:\n    """Return one."""\n') == []
    assert effects('"""Words."""\nimport torch\ntorch.set_num_threads(1)\napp.add_typer(x)\n') == [
        "line 3: torch.set_num_threads()"
    ]
    assert loaded_by("import json", ("json", "torch")) == ["json"]
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        loaded_by("1 / 0")


HELD_BY_RECORDS = {"cell", "values", "environment", "cost", "protocol", "treatment"}
"""Attributes of a record that were tables of text once."""


def untyped(source: str) -> list[str]:
    """Look-ups by a text, of what a record holds: `record.cell["x"]`, `record.values.get("x")`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        table: ast.AST = ast.Constant(None)
        asked: list[ast.expr] = []
        if isinstance(node, ast.Subscript):
            table, asked = node.value, [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            table, asked = node.func.value, node.args[:1]
        if not any(isinstance(key, ast.Constant) and isinstance(key.value, str) for key in asked):
            continue
        while isinstance(table, ast.Subscript):
            table = table.value
        if isinstance(table, ast.Attribute) and table.attr in HELD_BY_RECORDS:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_only_records_know_the_names_on_disk() -> None:
    """Outside records/ what a record holds has types, so that a misspelt name fails before anything runs."""
    files = [path for folder in ("bdlbench", "scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    outside = [path for path in files if PACKAGE / "records" not in path.parents]
    assert len(outside) > 100
    assert {str(path): found for path in outside if (found := untyped(path.read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    "line", ['r.cell["protocol"]["samples"]', 'r.environment.get("code", {})', 'r.values["metrics"]["nll"]']
)
def test_a_look_up_by_text_is_found(line: str) -> None:
    assert untyped(line)
