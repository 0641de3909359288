"""`score`: turn predictions made elsewhere into a record like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bdlbench.cli.options import PluginsOption, Replaced, add_plugins
from bdlbench.cli.terminal import screen, write


def score(  # noqa: PLR0913 - one parameter for each option of the command
    file: Annotated[Path, typer.Argument(metavar="FILE", help="predictions: .npz, .csv or .parquet")],
    method: Annotated[str, typer.Option(metavar="NAME", help="the method that made the predictions")],
    dataset: Annotated[
        str, typer.Option(metavar="NAME", help="the data set whose test set was predicted, in its order")
    ],
    own_data: Annotated[bool, typer.Option("--own-data", help="the data set is your own, not in the catalog")] = False,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="the protocol's model; only cells with the same model are compared")
    ] = "external",
    samples: Annotated[
        int | None, typer.Option(metavar="M", help="posterior samples of the protocol  [default: the file's]")
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="SEEDS", help="seeds of the replicates  [default: the file's, or 0, 1, …]")
    ] = "",
    splits: Annotated[str, typer.Option(help="one: every seed on split 0; each: seed i on split i")] = "one",
    set_: Annotated[list[str], typer.Option("--set", metavar="NAME.OPTION=VALUE", help="an option; repeatable")] = [],  # noqa: B006
    axes: Annotated[str, typer.Option(help="axes of probs in an npz: NC, RNC, MNC or MRNC")] = "",
    results: Annotated[Path, typer.Option(metavar="DIR", help="where the record goes")] = Path("results/local"),
    fresh: Annotated[bool, typer.Option("--fresh", help="replace existing replicates")] = False,
    plugin: PluginsOption = [],  # noqa: B006
    replaced: Replaced = [],  # noqa: B006
) -> None:
    """Score predictions made elsewhere by the same metrics, and keep them as a record like any other.

    An npz holds `probs` or `logits` (N, C), preceded by axes for posterior samples M and replicates R if there are any,
    and `labels` (N,), counted from 0. Optional are `ood.SET.probs` or `ood.SET.logits`, `score.NAME` with
    `ood.SET.score.NAME` (higher: more out of distribution), and `seeds` (R,). A table has a row for each example, with
    the columns `prob_0`, `prob_1`, … or `logit_0`, …, and `label`. Optional are `set` (test, or the name of an
    out-of-distribution set), `seed`, `sample` and `score_NAME`.
    """
    from bdlbench import api
    from bdlbench.report import tables
    from bdlbench.runs.external_scores import Claim

    add_plugins(plugin, replaced)
    claim = Claim(method, dataset, model, own_data, samples, seeds, splits, tuple(set_), axes)
    record = api.score(file, claim, results, fresh)
    write(tables.render(api.results_of(record), "terminal", (), "", *screen()))
    checked = "taken from the file" if own_data else f"those of {dataset}"
    print(f"{len(api.read(record)['seed'].dropna().unique())} replicates in {record}; the labels are {checked}")
