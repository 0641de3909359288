"""README and documentation are a promise: the example runs as printed, commands parse, links and numbers hold."""

import importlib.util
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from bdlbench import api, catalog
from bdlbench.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [README, *((ROOT / "docs" / name).read_text("utf-8") for name in ("command-line.md", "score.md"))]
TEXTS += [path.read_text("utf-8") for path in PAGES if path.parent.name == "results"]
EXAMPLE = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "methods = {" in block)
COMMANDS = [
    line.partition("#")[0].strip()
    for text in TEXTS
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python -m bdlbench")
]
COMMANDS += [
    f"python -m bdlbench {words}" for words in re.findall(r"^\| [^|]+ \| `([^`]+)` \|$", TEXTS[1], re.MULTILINE)
]


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.setitem(catalog._plugins, "methods", {})
    path = tmp_path / "mine.py"
    path.write_text(EXAMPLE, encoding="utf-8")
    return path


def test_the_readme_and_its_example_are_short():
    assert len(README.splitlines()) <= 150
    assert len(EXAMPLE.splitlines()) <= 25
    assert len(re.findall(r"^(?:from|import) bdlbench", EXAMPLE, re.MULTILINE)) == 1
    assert EXAMPLE in (ROOT / "docs" / "tutorials" / "add-a-method.md").read_text("utf-8")


@pytest.mark.slow
def test_the_five_lines_of_python_run(tmp_path, monkeypatch, capsys):
    (lines,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "methods = {" not in block]
    monkeypatch.chdir(tmp_path)
    assert len(lines.splitlines()) <= 5
    exec(compile(lines, "README", "exec"), {})
    assert "mle → mc_dropout" in capsys.readouterr().out


def test_the_example_runs_as_a_plugin(plugin, tmp_path):
    results = ["--results", str(tmp_path / "out"), "--jobs", "1", "--seeds", "2", "--samples", "3"]
    cell = ["--method", "last_layer_dropout", "--model", "logistic", "--dataset", "wine"]
    options = ["--set", "last_layer_dropout.rate=0.2,0.5", "--set", "last_layer_dropout.epochs=2"]
    assert main(["run", "--plugin", str(plugin), *results, *cell, *options]) == 0
    assert set(api.read(tmp_path / "out")["method"]) == {"last_layer_dropout"}
    assert len(list((tmp_path / "out").glob("*.json"))) == 2


@pytest.mark.parametrize("command", [c for c in COMMANDS if " run" in c])
def test_every_run_command_plans(command, plugin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(command)[3:], "--dry-run"]) == 0


def test_the_example_is_compared_at_equal_budgets(plugin, tmp_path, monkeypatch, capsys):
    (command,) = [c for c in COMMANDS if "--plugin" in c]
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(command)[3:], "--dataset", "digits", "--dry-run"]) == 0
    options = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    theirs = [line for line in options if line.startswith("last_layer_dropout: ")]
    ours = [line for line in options if line.startswith("mle: ")]
    assert len(theirs) == 2 and len(ours) == 1
    assert all("epochs 120" in line for line in (*theirs, *ours))
    assert "batch_size 64" in ours[0] and "Plan(self.epochs, 64," in EXAMPLE


def test_the_other_commands_are_known(capsys):
    verbs = {shlex.split(command)[3] for command in COMMANDS}
    assert verbs == {
        *("run", "list", "table", "compare", "rank", "data", "score", "report", "peers", "verify", "gate", "check"),
        "claims",
        "reproduce",
    }


def test_the_gate_takes_ten_lines():
    text = (ROOT / "docs" / "gate.md").read_text("utf-8")
    (block,) = re.findall(r"<!-- ten lines -->\n\n```yaml\n(.*?)```", text, re.DOTALL)
    assert len(block.splitlines()) <= 10
    named = re.search(r"OWNER/bdlbench/(\S+)@", block)[1]
    action = ROOT / named
    assert (action / "action.yml").exists() and (action / "gate.sh").exists()


@pytest.mark.slow
def test_links_lead_somewhere():
    """Files and headings, as a reader on GitHub follows them; links to other sites are not asked."""
    found = 0
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *PAGES, *(ROOT / "results").rglob("*.md")]:
        for target in links(page.read_text("utf-8")):
            path, _, heading = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{page}: {target}"
            assert not heading or heading in headings(file.read_text("utf-8")), f"{page}: {target}"
            found += 1
    assert found > 50


@pytest.mark.slow
def test_files_and_names_of_the_package_that_pages_name_exist():
    """`runs/work.py`, `training.minimise`: pages outlive what they speak of."""
    package, found = ROOT / "bdlbench", 0
    for page in [ROOT / "README.md", *PAGES]:
        text = page.read_text("utf-8")
        for name in re.findall(r"`([\w/]+/\w+\.py)`", text):
            assert (ROOT / name).exists() or (package / name).exists(), f"{page}: {name}"
            found += 1
        for module, name in re.findall(r"`((?:[a-z]+\.)*[a-z_]+)\.([A-Za-z_]+)(?:\([^`]*\))?`", text):
            folder, _, rest = module.removeprefix("bdlbench.").partition(".")
            if (package / folder).is_dir() and name not in ("py", "toml", "txt"):
                sources = list((package / folder).glob(f"{rest.replace('.', '/') or '*'}.py"))
                defined = any(
                    re.search(rf"^(?:(?:def|class) )?{name}\b", s.read_text("utf-8"), re.MULTILINE) for s in sources
                )
                assert defined or (package / folder / f"{name}.py").exists(), f"{page}: {module}.{name}"
                found += 1
    assert found > 15


def links(text):
    for token in MarkdownIt().parse(text):
        for child in token.children or ():
            target = child.attrs.get("href") or child.attrs.get("src")
            if target and not re.match(r"[a-z]+:", target):
                yield target


def headings(text):
    """As GitHub and the site name them."""
    tokens = MarkdownIt().parse(text)
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_a_dead_link_is_seen():
    assert list(links("[a](b.md#c) ![d](e.png) [f](https://g.h) `[i](j)`\n\n```\n[k](l)\n```\n")) == ["b.md#c", "e.png"]
    assert headings("# The `same` bits, on other machines\n") == ["the-same-bits-on-other-machines"]


@pytest.mark.slow
def test_tables_are_those_of_the_records():
    """As `python scripts/results_tables.py` writes them."""
    spec = importlib.util.spec_from_file_location("results_tables", ROOT / "scripts" / "results_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tables = module.tables()
    assert tables
    for (file, mark), table in tables.items():
        assert f"<!-- {mark} -->\n\n{table}\n\n<!-- end -->" in (ROOT / file).read_text("utf-8"), f"{file}: {mark}"


def mean(frame, metric, **cell):
    """Mean and standard error over the replicates of one cell."""
    rows = frame[frame.metric == metric]
    for column, value in cell.items():
        rows = rows[rows[column] == value]
    assert rows.cell.nunique() == 1
    return rows.value.mean(), rows.value.sem()


@pytest.mark.slow
def test_what_is_read_from_quick_is_so():
    """The sentences over the tables name numbers: each is that of the records."""
    text = " ".join((ROOT / "docs" / "results" / "quick.md").read_text("utf-8").split())
    frame = api.read(ROOT / "results" / "reference" / "quick")
    never, stops = (
        mean(frame, "accuracy", dataset="digits", model=name) for name in ("constant_resnet", "stopping_resnet")
    )
    assert "({:.3f} ± {:.3f} and {:.3f} ± {:.3f})".format(*stops, *never) in text
    assert f"uses {mean(frame, 'flops_fraction', model='stopping_resnet')[0]:.0%}".replace("%", " %") in text
    photos = {
        (data, method): mean(frame, "ood_auroc[photos]", dataset=data, method=method, model="mlp")
        for data in ("digits", "digits_near")
        for method in frame[(frame.dataset == data) & (frame.model == "mlp")].method.unique()
    }
    errors = [photos["digits", method][1] for method in ("sparse_vd", "mle")]
    assert "have errors of {:.2f} and {:.2f}".format(*errors) in text
    far = {method: value for (data, method), (value, _) in photos.items() if data == "digits_near" and value > 0.97}
    near = {method: mean(frame, "ood_auroc[near]", dataset="digits_near", method=method)[0] for method in far}
    assert len(far) == 5 and all(near[method] < far[method] for method in far) and "five methods with" in text
    sparse = {
        metric: mean(frame, metric, dataset="digits", method="sparse_vd")[0] for metric in ("sparsity", "accuracy")
    }
    assert f"drops {sparse['sparsity']:.0%}".replace("%", " %") in text and "less than a point of accuracy" in text
    assert 0 < mean(frame, "accuracy", dataset="digits", method="mle")[0] - sparse["accuracy"] < 0.01
    linear = frame[(frame.dataset == "diabetes") & (frame.metric == "predictive_kl")].groupby("method").value.mean()
    assert linear.drop("exact").idxmin() == "laplace"


@pytest.mark.slow
def test_what_is_read_from_mnist_is_so():
    text = " ".join((ROOT / "docs" / "results" / "mnist.md").read_text("utf-8").split())
    frame = api.read(ROOT / "results" / "reference" / "mnist")
    error = {}
    for method in ("mle", "sparse_vd", "mean_field_vi"):
        value, spread = mean(frame, "accuracy", method=method)
        error[method] = f"{100 - 100 * value:.2f} ± {100 * spread:.2f} %"
    assert f"errs on {error['mle']}" in text and f"at {error['sparse_vd']} error" in text
    assert f"{100 - 100 * mean(frame, 'accuracy', method='mean_field_vi')[0]:.1f} % error here" in text
    kept = 1 / (1 - mean(frame, "sparsity", method="sparse_vd")[0])
    assert f"one weight in {kept:.0f} " in text
    best = frame[frame.metric.str.fullmatch(r"ood_auroc\[.*\]")].groupby(["metric", "method"]).value.mean().unstack()
    assert set(best.idxmax(axis=1)) == {"mean_field_vi"}
    nll = {method: mean(frame, "nll", method=method)[0] for method in frame.method.unique()}
    assert sorted(nll, key=nll.__getitem__)[-2:] == ["mle", "mean_field_vi"]
    assert abs(nll["mc_dropout"] - nll["deep_ensemble"]) < 0.005
