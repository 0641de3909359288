"""Which reference is put beside a record, and what a table then has."""

import math
from dataclasses import replace

import pytest

from bdlbench import api
from bdlbench.cli import main as cli
from bdlbench.records import evaluation, reading
from bdlbench.records import record as records
from bdlbench.runs.references import RHAT, References, asked_for, found_in

pytestmark = pytest.mark.slow


def run(folder, *words):
    given = ["--model", "logistic", "--dataset", "wine", "--jobs", "1", "--results", str(folder)]
    assert cli.main(["run", *words, *given]) == 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of references, and one of records."""
    base = tmp_path_factory.mktemp("references")
    short = ["--set", "hmc.warmup_draws=60", "--set", "hmc.draws=100", "--seeds", "77-77"]
    run(base / "references", "--method", "hmc", *short)
    run(base / "records", "--method", "map", "--method", "mle", "--seeds", "2", "--set", "map.prior_sd=1,3")
    return base / "references", base / "records"


def with_rhat(folder, value):
    """Write the reference again with another R-hat."""
    (record,) = reading.read(folder).records
    entry = record.values.metrics[RHAT]
    metrics = {**record.values.metrics, RHAT: replace(entry, values=(value,) * len(record.replicates))}
    records.write(folder, replace(record, values=replace(record.values, metrics=metrics)), {})


def beside(folders):
    """The records that have a reference beside them, in words: method and prior."""
    references, source = found_in(folders[0]), reading.read(folders[1])
    found = []
    for record in source.records:
        kept = evaluation.read(record, source.predictions(record))
        if references.beside(record, kept).gold is not None:
            found.append((record.cell.method.name, record.cell.method.get("prior_sd")))
    return sorted(found, key=str)


def test_a_record_of_the_same_prior_or_of_none_has_the_reference_beside_it(folders, capsys):
    assert beside(folders) == [("map", 1.0), ("mle", None)]
    assert cli.main(["table", str(folders[1]), "--references", str(folders[0]), "--format", "csv"]) == 0
    told = capsys.readouterr().out
    rows = [line for line in told.splitlines() if ",total_variation," in line]
    assert len(rows) == 4  # of map at prior_sd 1 and of mle, two seeds each
    assert cli.main(["table", str(folders[1]), "--format", "csv"]) == 0
    assert "total_variation" not in capsys.readouterr().out


def test_every_verb_that_shows_records_reads_the_references_that_are_named(folders, tmp_path, capsys, refused):
    named, shown = ["--references", str(folders[0])], str(folders[1])
    assert cli.main(["report", shown, "--out", str(tmp_path), *named]) == 0
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "total_variation" in page
    assert f"--out {tmp_path} --references {folders[0]}" in page  # the command that makes it again
    found = api.table(shown, "total_variation", references=folders[0])
    assert set(found["method"]) == {"map", "mle"}
    asked = ["--treatment", "map(prior_sd=1):mle", "--metrics", "total_variation", "--format", "csv"]
    cli.main(["compare", shown, shown, *asked, *named])
    assert "total_variation" in capsys.readouterr().out
    for verb in (["compare", shown, shown], ["rank", shown], ["report", shown], ["table", shown]):
        assert cli.main([*verb, "--references", str(tmp_path / "absent")]) == 2
        assert "--references" in capsys.readouterr().err
    with refused("references", "3", "path"):
        api.compare(shown, shown, references=3)


def test_a_distance_from_a_reference_varies_with_the_test_inputs_too(folders):
    """Their contributions were asked of predictions without the reference, so its interval was of seeds alone."""
    found = api.compare(
        folders[1], folders[1], metrics="total_variation", treatment="map(prior_sd=1):mle", references=folders[0]
    )
    (row,) = found.rows()
    assert "new test examples" in row["population"]


def test_chains_that_have_not_mixed_are_no_reference(folders, tmp_path):
    place = tmp_path / "copy"
    place.mkdir()
    for file in folders[0].iterdir():
        if file.is_file():
            (place / file.name).write_bytes(file.read_bytes())
    with_rhat(place, 1.2)
    found = found_in(place)
    assert found.source.entries == ()
    assert "1.200" in found.refused[0]
    assert beside((place, folders[1])) == []


def test_a_record_whose_training_rows_depend_on_its_seed_has_no_reference(folders, tmp_path):
    given = ["--set", "wine.calibration=0.3"]
    short = ["--set", "hmc.warmup_draws=60", "--set", "hmc.draws=100", "--seeds", "77-77"]
    run(tmp_path / "references", "--method", "hmc", *short, *given)
    run(tmp_path / "records", "--method", "map", *given, "--seeds", "1")
    with_rhat(tmp_path / "references", 1.0)
    assert len(found_in(tmp_path / "references").source.records) == 1
    assert beside((tmp_path / "references", tmp_path / "records")) == []


def test_a_record_of_some_of_the_reference_s_splits_has_it_beside_it(tmp_path):
    short = ["--set", "hmc.warmup_draws=60", "--set", "hmc.draws=100", "--seeds", "2", "--splits", "each"]
    run(tmp_path / "references", "--method", "hmc", *short)
    with_rhat(tmp_path / "references", 1.0)
    run(tmp_path / "records", "--method", "mle", "--seeds", "1-1", "--splits", "each")
    assert beside((tmp_path / "references", tmp_path / "records")) == [("mle", None)]


def test_a_replicate_without_an_r_hat_serves_no_more_than_one_with_a_large_one(folders, tmp_path):
    run(tmp_path / "two", "--method", "hmc", "--set", "hmc.warmup_draws=60", "--set", "hmc.draws=100", "--seeds", "2")
    (record,) = reading.read(tmp_path / "two").records
    entry = record.values.metrics[RHAT]
    metrics = {**record.values.metrics, RHAT: replace(entry, values=(1.0, math.nan))}
    records.write(tmp_path / "two", replace(record, values=replace(record.values, metrics=metrics)), {})
    assert found_in(tmp_path / "two").source.entries == ()


def test_a_folder_that_is_named_must_hold_a_sampler_s_record(folders, refused):
    with refused("--references", str(folders[1]), "hmc"):
        asked_for(folders[1])


def test_a_folder_that_is_named_must_exist(tmp_path, refused):
    with refused("--references", tmp_path / "absent"):
        asked_for(tmp_path / "absent")
    assert found_in(tmp_path / "absent") == References()
