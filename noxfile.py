"""What a change must pass, one session each: `nox` for lint, types and the fast tests, `nox -s NAME` for one.

    python -m pip install nox && nox --list

Each session makes an environment of its own under .nox/ and keeps it. `nox --no-venv --no-install -s NAME` takes the
active one, with `pip install -c constraints.txt -e '.[dev]'` done; `.ci/run` runs it so.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "types", "tests-fast"]

PINNED = ("-q", "-c", "constraints.txt")
PYTEST = ("pytest", "-q", "-n", "2", "--dist", "worksteal")  # neighbours share what a file trains: half a suite each


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, and which folder may import which."""
    session.install(*PINNED, "ruff", "import-linter")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package."""
    session.install(*PINNED, ".", "mypy", "pandas-stubs")
    session.run("mypy")


@nox.session(name="tests-fast")
def tests_fast(session: nox.Session) -> None:
    """Tests of every folder, in about a minute on two cores."""
    session.install(*PINNED, ".[test]")
    session.run(*PYTEST, "-m", "not slow and not data and not gpu", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests; those of absent data or of a GPU are skipped."""
    session.install(*PINNED, ".[test]")
    session.run(*PYTEST, *session.posargs)


@nox.session
def adapters(session: nox.Session) -> None:
    """Test the methods that are other libraries, with their page, parquet files and Dask; here none is skipped."""
    session.install(*PINNED, ".[test,dask,ivon,laplace,parquet,posteriors,torch-uncertainty]")
    here = (
        "tests/methods/test_adapters.py",
        "tests/docs",
        "tests/datasets/test_own.py",
        "tests/runs/test_cluster.py",
        "tests/runs/test_external_scores.py",
    )
    session.run(
        *PYTEST, *here, "-k", "test_adapters or adapters or parquet or test_cluster", env={"BDLBENCH_EXTRAS": "1"}
    )


@nox.session
def gate(session: nox.Session) -> None:
    """Compare the tree with results/reference: protocol, objectives, bits, quality, speed."""
    session.install(*PINNED, ".")
    session.run("python", "-m", "bdlbench", "gate", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site in build/html; a broken link is an error."""
    session.install(*PINNED, ".[docs]")
    session.run("python", "scripts/site.py")
    session.run("zensical", "build", "--clean", "--strict")


@nox.session
def security(session: nox.Session) -> None:
    """Look for unsafe code, for workflows that could be abused, and for pinned packages with known holes.

    The packages are asked for at the index's database of advisories, so this needs a network.
    """
    session.install(*PINNED, "bandit", "pip-audit", "zizmor")
    session.run("bandit", "-q", "-ll", "-r", "bdlbench", "scripts")
    session.run("zizmor", "--offline", ".github")
    # strict: a package of which the index has no advisories to tell counts as not looked at, not as sound
    session.run("pip-audit", "--strict", "--no-deps", "--disable-pip", "-r", "constraints.txt")


@nox.session
def newest(session: nox.Session) -> None:
    """All tests with the newest release of every dependency, instead of the pinned ones."""
    session.install("-q", "--upgrade", "--upgrade-strategy", "eager", ".[test]")
    session.run("python", "-m", "pip", "freeze")
    session.run(*PYTEST, *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel and the source distribution into dist/, check them, and run the wheel outside of the checkout."""
    session.install(*PINNED, "build", "twine", "virtualenv")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", "dist")
    built = sorted(Path("dist").resolve().iterdir())
    session.run("twine", "check", "--strict", *map(str, built))
    pins, fresh = Path("constraints.txt").resolve(), Path(session.create_tmp()).resolve() / "fresh"
    session.run("python", "-m", "virtualenv", "-q", "--clear", str(fresh))
    python = str(fresh / ("Scripts" if os.name == "nt" else "bin") / "python")
    (made,) = [path for path in built if path.suffix == ".whl"]
    session.run(python, "-m", "pip", "install", "-q", "-c", str(pins), str(made), external=True)
    with session.chdir(fresh):
        session.run(python, "-m", "bdlbench", "run", "smoke", "--fresh", external=True)
        session.run(python, "-m", "bdlbench", "verify", "results/local", external=True)
