"""Gather the pages of the documentation site: `docs/`, pages generated from the code, and pages beside the records.

    python scripts/site.py && zensical build --clean --strict      # the site: build/html

A link that the site cannot follow is an error, and so is a page that `mkdocs.yml` does not name or that does not exist.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build" / "site"
CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def main() -> None:
    """Write `build/site` from nothing."""
    shutil.rmtree(PAGES, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "docs", "results", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    sources = {source: target for source in listed.stdout.splitlines() if (target := on_the_site(source))}
    for source, target in sources.items():
        (PAGES / target).parent.mkdir(parents=True, exist_ok=True)
        if target.endswith(".md"):
            text = relinked((ROOT / source).read_text("utf-8"), source, sources)
            if not re.search("^# ", text, re.MULTILINE):  # a table that a script wrote
                text = f"# `{source}`\n\n{text}"
            if "\n## " not in text:  # nothing to list beside it: its tables get that room
                text = f"---\nhide: [toc]\n---\n{text}"
            (PAGES / target).write_text(text, "utf-8")
        else:
            shutil.copyfile(ROOT / source, PAGES / target)
    reference = PAGES / "reference"
    reference.mkdir()
    (reference / "command-line.md").write_text(command_line(), "utf-8")
    for name in ("extend", "api", "protocols", "kernels", "stats"):
        (reference / f"{name}.md").write_text(public(f"bdlbench.{name}"), "utf-8")
    check_the_navigation()


def on_the_site(source: str) -> str:
    """Return the place of a repository's file on the site, or "" where it has none."""
    path = PurePosixPath(source)
    if source in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"):
        return source.lower()
    if path.parts[0] == "docs":
        return str(path.relative_to("docs"))
    if path.parts[0] == "results" and path.suffix in (".md", ".png"):
        return str(PurePosixPath("records", *path.parts[1:-1], path.name.replace("README", "index")))
    return ""


def relinked(text: str, source: str, sources: dict[str, str]) -> str:
    """Return the text with its links, which are valid in the repository, as they are valid on the site."""
    here = PurePosixPath(source).parent

    def moved(link: re.Match[str]) -> str:
        file = os.path.normpath(here / link[1])
        target = "index.md" if file == "README.md" else sources.get(file)
        if target is None:
            raise SystemExit(f"{source}: the site has no {file}, which a link asks for")
        return os.path.relpath(target, PurePosixPath(sources[source]).parent)

    parts = CODE.split(text)  # code is at odd places
    return "".join(part if place % 2 else LINK.sub(moved, part) for place, part in enumerate(parts))


def command_line() -> str:
    """Return every command with its arguments and options, from the application itself."""
    command = [sys.executable, "-m", "typer", "bdlbench.cli.main", "utils", "docs", "--name", "python -m bdlbench"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    text = text.replace("# `python -m bdlbench`", "# Command line", 1)
    for name, about in re.findall(r"^## `python -m bdlbench (\S+)`\n\n(.+?)\n\n", text, re.MULTILINE | re.DOTALL):
        sentence = re.split(r"(?<=[.?])\s", about, maxsplit=1)[0]  # which the list of commands cuts off
        text = re.sub(
            rf"^(\* `{name}`: ).*$", lambda found, all=sentence: found[1] + all, text, count=1, flags=re.MULTILINE
        )
    return text


def public(name: str) -> str:
    """Return the page of a module, or of each module of a folder; mkdocstrings reads the docstrings."""
    module = importlib.import_module(name)
    title = f"# `{name}`\n\n"
    if hasattr(module, "__path__"):
        inside = sorted(found.name for found in pkgutil.iter_modules(module.__path__))
        constants = '    options: { filters: ["!^_", "!^[A-Z_]+$"] }'
        return title + "\n".join(f"::: {name}.{file}\n{constants}\n" for file in inside)
    options: dict[str, object] = {"show_root_heading": False, "show_root_toc_entry": False}
    if hasattr(module, "__all__"):
        options["members"] = module.__all__
    return title + f"::: {name}\n    options: {json.dumps(options)}\n"


def check_the_navigation() -> None:
    """Exit with an error unless `mkdocs.yml` names every page; pages beside the records may be linked only."""
    named = set(_leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]))
    there = {path.relative_to(PAGES).as_posix() for path in PAGES.rglob("*.md")}
    for page in sorted(named - there):
        raise SystemExit(f"mkdocs.yml: names {page}, which does not exist")
    for page in sorted(there - named):
        if not page.startswith("records/"):
            raise SystemExit(f"mkdocs.yml: does not name {page}")


def _leaves(nav: list[dict[str, object]] | object) -> Iterator[str]:
    if isinstance(nav, list):
        for entry in nav:
            yield from _leaves(next(iter(entry.values())))
    else:
        yield str(nav)


if __name__ == "__main__":
    main()
