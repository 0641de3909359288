"""Nothing that comes from outside is executed: what SECURITY.md promises, held against the source.

What reads a hostile file is tested where it reads: tests/records/test_hostile.py, tests/test_escaping.py (HTML,
Markdown, LaTeX, formulas in CSV), tests/data/test_downloads.py (archives, redirects, sizes, checksums).
"""

from __future__ import annotations

import ast
import io
import pickle
import re
import zipfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdlbench import catalog
from bdlbench.cli import main as cli
from bdlbench.compare import margins
from bdlbench.core import files, memory
from bdlbench.core.spec import Cell, Choice, Replicate
from bdlbench.data import arrays
from bdlbench.data.downloads import RemoteFile
from bdlbench.records import record as records
from bdlbench.reproduce import papers
from bdlbench.runs import predictions_file, suites

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("bdlbench", "scripts") for path in (ROOT / folder).rglob("*.py"))

ALLOWED = {
    ("bdlbench/catalog.py", "exec"): "a file that the user names by --plugin",
    ("bdlbench/runs/processes.py", "pickle.loads"): "from the parent process, by its own pipe",
    (
        "bdlbench/runs/cluster.py",
        "pickle.loads",
    ): "a task of a Dask cluster, which pickles all that it runs (SECURITY.md)",
}
"""Where something is executed, and why that is no file from outside."""


def calls(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each call by its dotted name, with its keywords that are constants."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            given = {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
            yield ast.unparse(node.func), given


def executes(name: str, given: dict[str, Any]) -> bool:
    """Whether a call may execute what it reads."""
    module, _, last = name.rpartition(".")
    if name in ("eval", "exec", "os.system", "os.popen") or given.get("shell"):
        return True
    if module.rpartition(".")[2] in ("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"):
        return last in ("load", "loads", "open", "Unpickler")
    if last in ("read_pickle", "unsafe_load"):
        return True
    if name in ("yaml.load", "torch.load", "np.load", "numpy.load", "tar.extractall", "tree.extractall"):
        safe = {"yaml.load": False, "torch.load": given.get("weights_only") is True}
        unpacks = given.get("filter") == "data"
        return not safe.get(name, unpacks if last == "extractall" else given.get("allow_pickle") is False)
    return last in ("extractall", "extract") and given.get("filter") != "data"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("pickle.loads(x)", True),
        ("torch.load(x)", True),
        ("torch.load(x, weights_only=True)", False),
        ("np.load(x)", True),
        ("np.load(x, allow_pickle=False)", False),
        ("eval(x)", True),
        ("module.eval()", False),
        ("subprocess.run(x, shell=True)", True),
        ("subprocess.run(x)", False),
        ("archive.extractall(x)", True),
        ("tree.extractall(x, filter='data')", False),
        ("ast.literal_eval(x)", False),
        ("pd.read_pickle(x)", True),
    ],
)
def test_the_search_sees_what_executes(source: str, found: bool) -> None:
    assert [executes(*call) for call in calls(source)] == [found]


def test_nothing_from_outside_is_executed() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in SOURCES
        for name, given in calls(path.read_text("utf-8"))
        if executes(name, given)
    }
    assert found == ALLOWED.keys()


def test_downloads_have_a_checksum_and_a_safe_way_or_the_content_of_one() -> None:
    """A mirror that speaks no HTTPS is asked only for what has a SHA-256 in the code, packed or unpacked."""
    known: list[RemoteFile] = []
    for name in catalog.names("datasets"):
        known += getattr(catalog.load("datasets", name), "files", ())
    seen = {file.path: file for file in known if isinstance(file, RemoteFile)}
    for file in seen.values():
        origin = file.origin
        assert file.sha256 or origin.sha256 or (origin.md5 and all(url.startswith("https:") for url in origin.urls))
        assert all(url.startswith(("https://", "http://")) for url in origin.urls)
        assert file.sha256 or origin.sha256 or all(url.startswith("https:") for url in origin.urls), file.path
    assert len(seen) > 20


NAMES = [
    *("a/b", "../../x", "/etc/passwd", "..", ".", "a\\b", "C:\\x", "~", "-rf", "x" * 300, "é" * 300, "a'b\"c", "CON"),
    "$(id)",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_in_the_folder(name: str, tmp_path: Path) -> None:
    """A record's files and a page's are named after entries: by a part of the name, and hashes."""
    choice = Choice.of(name, {"option": name})
    stem = records.name_of(Cell(choice, choice, choice, 3), [Replicate(0)])
    assert re.fullmatch(r"[\w.+-]{1,200}", stem, re.ASCII) and Path(stem).name == stem
    assert records.name_of(Cell(choice, choice, Choice.of(f"{name}2", {}), 3), [Replicate(0)]) != stem


@pytest.mark.parametrize("name", ["a\nb", "a\0b", "a\x1b[2Jb", "a\u202eb", "\ud800"])
def test_a_name_of_signs_that_cannot_be_seen_is_refused(name: str, tmp_path: Path, refused: Any) -> None:
    file = tmp_path / "p.csv"
    file.write_text("label,prob_0,prob_1\n0,0.25,0.75\n1,0.5,0.5\n")
    given = ["score", file, "--model", "m", "--dataset", "d", "--own-data", "--results", tmp_path / "r"]
    refused.command([*given, "--method", name], "characters")


@pytest.mark.parametrize("words", [["table"], ["run", "--config"], ["verify"], ["report"], ["claims"], ["reproduce"]])
@pytest.mark.parametrize("name", ["x" * 300, "a\nb" * 100, "a\x1b[2Jb", "a\0b", "x/" * 3000, "\udcff"])
def test_a_path_that_is_none_is_refused_in_one_line(
    words: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words, name]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("bdlbench: ") and err.removesuffix("\n").isprintable()


class Executed:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("ending", ["npz", "csv"])
def test_a_pickle_is_not_loaded(ending: str, tmp_path: Path, refused: Any) -> None:
    witness, file = tmp_path / "witness", tmp_path / f"p.{ending}"
    content = pickle.dumps(Executed(witness))
    if ending == "npz":
        stream = io.BytesIO()
        np.save(stream, np.array([Executed(witness)], dtype=object), allow_pickle=True)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("probs.npy", stream.getvalue())
    else:
        file.write_bytes(content)
    with refused(file.name):
        predictions_file.read(file)
    assert not witness.exists()
    pickle.loads(content)
    assert witness.exists()


# sizes


def test_an_npz_is_not_unpacked_where_memory_does_not_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Any
) -> None:
    """4 MiB of zeros in a few kilobytes, of which a machine of 2 MiB does not try to hold one."""
    file = tmp_path / "p.npz"
    np.savez_compressed(file, probs=np.zeros((1 << 18, 2), np.uint8), labels=np.zeros(1 << 18, np.uint8))
    assert file.stat().st_size < 1 << 13
    assert len(arrays.read_npz(file)) == 2
    monkeypatch.setattr(memory, "total_bytes", lambda: 1 << 21)
    assert len(arrays.read_npz(file)) == 2
    with refused("p.npz", "arrays", "GiB"):
        predictions_file.read(file)  # as float64 they do not fit


@pytest.mark.parametrize(
    "text",
    ["a" + ".a" * 5000 + " = 1", "x = " + "[" * 5000 + "]" * 5000, "x = " + "[" * 20 + "]" * 20, "x = " + "9" * 5000],
    ids=["dotted keys", "brackets", "20 brackets", "digits"],
)
def test_toml_that_overwhelms(text: str, tmp_path: Path, refused: Any) -> None:
    file = tmp_path / "odd.toml"
    file.write_text(text)
    for read in (
        lambda: files.read_toml(file),
        lambda: suites.read_suite_file(file),
        lambda: papers.read(str(file)),
        lambda: margins.read(file, ["nll"]),
    ):
        with refused("odd.toml"):
            read()


def test_toml_without_an_end(tmp_path: Path, refused: Any) -> None:
    (file := tmp_path / "odd.toml").write_text("")
    with file.open("r+b") as stream:
        stream.truncate(files.LARGEST_TOML + 1)
    with refused("odd.toml", "4 MiB"):
        files.read_toml(file)
    with refused("/dev/zero"):
        files.read_toml(Path("/dev/zero"))


def test_the_suites_of_the_package_lie_within_the_limits() -> None:
    for name in suites.suite_names():
        text = (resources.files("bdlbench") / "suites" / f"{name}.toml").read_text("utf-8")
        assert len(text) < files.LARGEST_TOML / 20
        assert files.parse_toml(text, name)


def test_an_error_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["table", "no\x1b[2Jwhere\u202e"]) == 2
    assert r"no\x1b[2Jwhere\u202e" in capsys.readouterr().err
