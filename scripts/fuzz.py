"""Coverage-guided fuzzing of what reads files from outside, by atheris: records, suites and predictions for `score`.

    python -m pip install -c constraints.txt '.[fuzz]' && python scripts/fuzz.py TARGET CORPUS [-max_total_time=600 …]

CORPUS is a folder that keeps the inputs that reached new code; it is filled with seeds when it is empty. Options with
one dash are libFuzzer's. Whatever an input holds, a target gives a value, which is written and read again, or raises
BadInput in one line; anything else is a crash, whose input libFuzzer writes to the current folder. `atheris` has wheels
for Linux and macOS; docs/bad-input.md has what was found.

    python scripts/fuzz.py TARGET FILE      # an input again
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import atheris
from word_changes import words_changed

with atheris.instrument_imports(include=["bdlbench"], enable_loader_override=False):
    from bdlbench import catalog
    from bdlbench.core import files
    from bdlbench.core.errors import BadInput
    from bdlbench.core.spec import parse_seeds
    from bdlbench.records import record as records
    from bdlbench.runs import external_scores, suites
    from bdlbench.runs.external_scores import Claim
    from bdlbench.runs.suites import Overrides

ROOT = Path(__file__).parents[1]
SCRATCH = Path(tempfile.mkdtemp(prefix="bdlbench-fuzz-"))


def one_line(error: BadInput) -> None:
    """Check that a refusal is no traceback and no longer than a screen."""
    assert "Traceback" not in str(error) and len(str(error)) < 2000, str(error)


def record(content: bytes) -> None:
    """Read a record: the bytes are its JSON, whose checksum is made right where it is JSON at all."""
    try:
        body = json.loads(content)
        if isinstance(body, dict):
            body.pop("checksum", None)
            content = json.dumps({**body, "checksum": files.digest(body)}).encode()
    except (ValueError, RecursionError):
        pass  # as it is
    path = SCRATCH / "wine-mlp-mle-0123456789ab-01234567.json"
    path.write_bytes(content)
    try:
        found = records.read_one(path)
    except BadInput as error:
        assert path.name in str(error), error
        return one_line(error)
    assert Path(found.name).name == found.name and found.name.isascii()
    again = records._from_json(json.loads(json.dumps(records._to_json(found))), False)
    assert repr(replace(again, path=path)) == repr(found)


def suite(content: bytes) -> None:
    """Read a suite: the bytes are its TOML; what is read becomes cells, whose names are made."""
    path = SCRATCH / "suite.toml"
    path.write_bytes(content)
    try:
        found = suites.read_suite_file(path)
        spec = suites.build_spec(found, Overrides(seeds="2"))
    except BadInput as error:
        return one_line(error)
    for cell in spec.cells[:3]:
        assert Path(records.name_of(cell, spec.replicates)).name == records.name_of(cell, spec.replicates)


def option(content: bytes) -> None:
    """Read options of the command line: the first line is for --seeds, each other one for --set."""
    first, *lines = content.decode("utf-8", "surrogateescape").split("\n")
    for read in (
        lambda: parse_seeds(first),
        lambda: suites.build_spec(suites.read_suite("smoke"), Overrides(seeds="2", settings=tuple(lines))),
    ):
        try:
            read()
        except BadInput as error:
            one_line(error)


def predictions(content: bytes) -> None:
    """Score predictions: an npz where the bytes begin as a zip does, else a csv; they are scored."""
    npz = content.startswith(b"PK")
    path = SCRATCH / ("given.npz" if npz else "given.csv")
    path.write_bytes(content)
    for axes in ("", "RNC") if npz else ("",):
        try:
            claim = Claim("mine", "mine", own_data=True, axes=axes)
            external_scores.score(path, claim, SCRATCH / "results", fresh=True)
        except BadInput as error:
            one_line(error)


def array(content: bytes) -> None:
    """Score predictions: the bytes are one array, header and numbers, of an npz that is otherwise right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("probs.npy", content)
        archive.writestr("labels.npy", npy([0, 1]))
    predictions(stream.getvalue())


def table(content: bytes) -> None:
    """Read a table of one's own, by the data set `csv`."""
    path = SCRATCH / "table.csv"
    path.write_bytes(content)
    try:
        catalog.load_task(catalog.choice("datasets", "csv", {"csv": {"path": str(path), "target": "y"}}), 0)
    except BadInput as error:
        one_line(error)


def npy(value: object) -> bytes:
    """Return the bytes of an array in NumPy's format."""
    import numpy as np

    stream = io.BytesIO()
    np.save(stream, np.asarray(value))
    return stream.getvalue()


def npz(**arrays: object) -> bytes:
    """Return the bytes of an npz."""
    import numpy as np

    stream = io.BytesIO()
    np.savez(stream, **{name: np.asarray(value) for name, value in arrays.items()})
    return stream.getvalue()


def seeds(name: str) -> list[bytes]:
    """Return inputs that are right: what a fuzzer changes."""
    probs = [[0.25, 0.75], [0.5, 0.5]]
    known = {
        "record": [path.read_bytes() for path in sorted((ROOT / "results").rglob("*-*-*.json"))[::50]],
        "suite": [path.read_bytes() for path in sorted((ROOT / "bdlbench" / "suites").glob("*.toml"))],
        "option": [b"5", b"0-9\nmlp.widths=9-5\nmle.epochs=1,2", b"1,4,7\nmle.lr=1e-3"],
        "predictions": [
            b"label,prob_0,prob_1\n0,0.25,0.75\n1,0.5,0.5\n",
            b"label,prob_0,prob_1,set,seed,sample\n0,.25,.75,test,0,0\n1,.5,.5,test,0,0\n,.5,.5,far,0,0\n",
            b"target,mean,sd\n0.5,0.1,1\n1,2,3\n",
            npz(probs=probs, labels=[0, 1]),
            npz(logits=[probs], labels=[0, 1], **{"ood.far.probs": [probs], "score.mine": [[1.0, 2.0]]}),
            npz(mean=[0.0, 1.0], sd=[1.0, 1.0], targets=[0.5, 0.5]),
        ],
        "array": [npy(probs), npy([probs]), npy([[1, 0], [0, 1]])],
        "table": [b"a,b,y\n" + b"".join(b"%d,%d,%d\n" % (i, i * i % 7, i % 2) for i in range(12))],
    }
    return known[name]


WORDS = (
    *(
        b"",
        b"0",
        b"-1",
        b"1e999",
        b"nan",
        b"null",
        b"true",
        b'""',
        b"[]",
        b"{}",
        b"[[grid]]",
        b"name",
        b"9" * 20,
        b"1.5",
    ),
    *(b"../../x", b"/etc/passwd", b"\\u001b[2J", b"\\ud800", b"\\n", b"\x00", b"\xff", "\u202e".encode(), b"x" * 300),
    *(b"set", b"seed", b"sample", b"test", b"=1+1", b"'", b'"', b"\n", b",", b"\r\n"),
)
"""What a mutation puts in the place of a word: what a person or an attacker may write there."""


def mutated(content: bytes, most: int, seed: int) -> bytes:
    """Change whole words of a text, half of the time; else change bytes as libFuzzer does."""
    draw = random.Random(seed)
    if content.startswith((b"PK", b"\x93")) or draw.random() < 0.5:
        return bytes(atheris.Mutate(content, most))
    return words_changed(content, WORDS, draw)[:most]


TARGETS: dict[str, Callable[[bytes], None]] = {
    made.__name__: made for made in (record, suite, option, predictions, array, table)
}


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1] not in TARGETS:
        sys.exit(f"{__doc__}\nTARGET is one of: {', '.join(TARGETS)}")
    name, corpus = sys.argv[1], Path(sys.argv[2])
    warnings.simplefilter("ignore")
    if not corpus.is_file():
        corpus.mkdir(parents=True, exist_ok=True)
        if not any(corpus.iterdir()):
            for i, content in enumerate(seeds(name)):
                (corpus / f"seed-{i}").write_bytes(content)
    os.fsync = lambda handle: None  # type: ignore[assignment] # thousands of records
    atheris.Setup(
        [sys.argv[0], str(corpus), *sys.argv[3:]],
        lambda content: TARGETS[name](bytes(content)),
        custom_mutator=mutated,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
