"""The command line: ``neglog fit``, ``predict``, ``compare``, ``posterior``, ``models``.

Results go to stdout, all remarks to stderr. Exit codes: 0 for a result, 1 for a fit that did
not converge, 2 for a request that cannot be met, with one line that gives the reason, 130 for an interrupt.
"""

from __future__ import annotations

import os
import sys
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neglog.cli import options, output
from neglog.cli.options import (
    CheckpointFile,
    Data,
    DropMissing,
    Exposure,
    Formulas,
    FormulaText,
    Json,
    ListingCommand,
    ModelName,
    Offset,
    Settings,
    Tau,
    Trials,
    Weights,
)
from neglog.cli.output import print_json, print_tables, reporting, say_dropped, say_written, shows_progress
from neglog.cli.wording import in_options
from neglog.errors import DataError
from neglog.usage import Command, say

if TYPE_CHECKING:  # Everything else is imported where it is used, or `neglog --help` would wait for torch.
    import pandas as pd

    from neglog.selection import Compared

app = typer.Typer(
    name="neglog",
    cls=options.ListingCommands,
    help="Every regression loss is the negative log of a likelihood: fit it, question it, compare it.",
    epilog="Exit codes: 0 a result; 1 a fit that did not converge; 2 a request that cannot be met.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class _Response(Enum):
    """The kind of models that are compared."""

    DISCRETE = "discrete"
    CONTINUOUS = "continuous"


class _Method(Enum):
    """How draws of the posterior are made."""

    NUTS = "nuts"
    LAPLACE = "laplace"
    VI = "vi"


def run() -> None:
    """Run the command line."""
    try:
        with reporting():
            app(prog_name="neglog")
    except typer.Exit as end:
        _leave(end.exit_code)


def _leave(code: int) -> None:
    """End the process; output that cannot be written to stdout is discarded."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(code)


def _version(requested: bool) -> None:
    if requested:
        from neglog import __version__

        with reporting():  # or typer would exit with code 1 where stdout is closed
            typer.echo(f"neglog {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(cls=ListingCommand)
def fit(
    data: Data,
    formula: FormulaText,
    model: ModelName,
    others: Formulas = None,
    map: Annotated[
        bool, typer.Option("--map", help="Maximum a posteriori, with the model's priors.")
    ] = False,
    weights: Weights = None,
    exposure: Exposure = None,
    trials: Trials = None,
    offset: Offset = None,
    tau: Tau = None,
    settings: Settings = None,
    cov_type: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Of the standard errors: observed, expected, opg, sandwich, HC0, HC1, HC2, HC3, cluster, "
            "bootstrap, iid or kernel. [default: observed, and cluster with --groups]",
        ),
    ] = None,
    groups: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Clusters of rows, for the standard errors.")
    ] = None,
    level: Annotated[float, typer.Option(help="The level of the intervals.")] = 0.95,
    drop_missing: DropMissing = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save the fit here, for `neglog predict`.")
    ] = None,
    checkpoint: CheckpointFile = None,
    as_json: Json = False,
) -> None:
    """Fit one model and print its estimates."""
    options.check_level(level)
    with reporting():
        from neglog.cli import inputs
        from neglog.models.names import check_name

        check_name(model)
        if out is not None:
            inputs.check_place("--out", out)
        rows = inputs.row_columns(
            weights=weights, exposure=exposure, trials=trials, offset=offset, groups=groups
        )
        table = inputs.table_of(data, formula, rows)
        from neglog import export, map_estimate, mle, reports, summary
        from neglog.cli import requests
        from neglog.comparison import loss_of, model_named

        chosen = requests.configured(model_named(model), requests.settings_of(settings, tau))
        kind = requests.cov_type_of(cov_type, groups)
        if out is not None:
            export.check_folder(out)
        result = (map_estimate if map else mle)(
            chosen,
            requests.formulas_of(chosen, formula, others),
            table,
            drop_missing=drop_missing,
            progress=shows_progress(as_json),
            checkpoint=checkpoint,
            **rows,
        )
        design, dropped = requests.learned_of(result)
        say_dropped(dropped, len(table))
        estimates = summary(result, cov_type=kind, level=level)
        if out is not None:
            export.save(result, out)
        loss = loss_of(model, design.others) + (" plus a penalty, minus the log of the priors" if map else "")
        if as_json:
            request = {"data": str(data), "formula": formula, "also": others or [], "model": model, **rows}
            more = {"method": "map" if map else "mle", "dropped": dropped}
            kinds = {"saved": output.path_text(out), "level": level, "cov_type": estimates.attrs["cov_type"]}
            print_json(reports.fit_json(result, estimates, loss, **request, **more, **kinds))
        else:
            print_tables(reports.estimates_table(estimates, level), "", reports.fit_table(result, loss))
            say_written("saved in", out)
    if not result.converged:
        raise typer.Exit(1)


@app.command(cls=Command)
def predict(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `neglog fit --out` made.", show_default=False)
    ],
    data: Data,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write here instead of to stdout.")] = None,
    level: Annotated[
        float, typer.Option(help="How much of the predicted distribution lower and upper enclose.")
    ] = 0.9,
    prefix: Annotated[str, typer.Option(help="What the names of the new columns start with.")] = "",
    exposure: Exposure = None,
    trials: Trials = None,
    offset: Offset = None,
    drop_missing: DropMissing = False,
) -> None:
    """Predict new rows: their columns, then mean, median, sd, lower and upper.

    The interval is of new observations, at the estimates. Of classes: the most probable one, and the
    probability of each.
    """
    options.check_level(level)
    with reporting():
        from neglog.cli import inputs
        from neglog.tables import check_kind, write_table

        if out is not None:
            check_kind(out)
            inputs.check_place("--out", out, data)
        table = inputs.read(data)
        from neglog import export

        saved = export.load(folder)
        if saved.formula is None:
            raise DataError(f"`{folder}` was saved without a formula. Use neglog.load and neglog.predict.")
        complete, dropped = saved.formula.rows(table, drop_missing=drop_missing)
        rows = table.loc[complete.index]
        columns = inputs.row_columns(exposure=exposure, trials=trials, offset=offset)
        predicted = _predictions(saved, rows, level, columns).add_prefix(prefix)
        taken = [name for name in predicted if name in table]
        if taken:
            raise DataError(
                f"`{data}` has a column `{taken[0]}` already. Choose other names: --prefix predicted_"
            )
        result = rows.join(predicted)
        say_dropped(dropped, len(table))
        if out is None:
            typer.echo(result.to_csv(index=False), nl=False)
        else:
            write_table(result, out)
            say(f"{len(result)} rows written to {out}")


@app.command(cls=ListingCommand)
def compare(
    data: Data,
    formula: FormulaText,
    others: Formulas = None,
    folds: Annotated[int, typer.Option(help="Into how many parts the rows are dealt.", min=2)] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the random folds.", min=0)] = 0,
    weights: Weights = None,
    exposure: Exposure = None,
    trials: Trials = None,
    offset: Offset = None,
    tau: Tau = None,
    settings: Settings = None,
    groups: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Rows of a group are in the same fold.")
    ] = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            "--score",
            metavar="NAME",
            help="A further held-out score: rmse, mae, r2, d2, brier, calibration, crps, pinball@0.9, "
            "interval@0.9. May be repeated.",
        ),
    ] = None,
    drop_missing: DropMissing = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the picture goes. [default: DATA-compare.png here]"),
    ] = None,
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw no picture.")] = False,
    response: Annotated[
        _Response | None,
        typer.Option(
            help="Compare probabilities of whole numbers, or densities. [default: as the response is]",
        ),
    ] = None,
    cores: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many models are fitted at a time. [default: as many as there are cores]"
        ),
    ] = None,
    checkpoint: CheckpointFile = None,
    as_json: Json = False,
) -> None:
    """Fit every model of one kind that can draw the response, and rank them on rows they have not seen.

    The log score of a row is the log of the density, or of the probability, that a fit to the other folds
    gave it, in nats. The two are never in one ranking. A response of text is one of classes.
    """
    if plot is not None and no_plot:
        raise typer.BadParameter("--plot and --no-plot exclude each other.", param_hint="--no-plot")
    with reporting():
        from neglog.cli import inputs

        path = None if no_plot else _picture_path(plot, data)
        by_row = inputs.row_columns(
            weights=weights, exposure=exposure, trials=trials, offset=offset, groups=groups
        )
        table = inputs.table_of(data, formula, by_row)
        from neglog import models, reports
        from neglog.cli import requests, workers
        from neglog.selection import compared

        _check_format(path)
        set_to = requests.settings_of(settings, tau)
        found = compared(
            models,
            formula,
            table,
            by_row,
            also=others or (),
            drop_missing=drop_missing,
            folds=folds,
            seed=seed,
            response=None if response is None else response.value,
            scores=scores,
            candidates=requests.candidates(set_to),
            watch=output.bar if shows_progress(as_json) else iter,
            run=partial(workers.side_by_side, cores=cores or workers.default_cores()),
            checkpoint=checkpoint,
        )
        say_dropped(found.learned.dropped, len(table))
        _check_scored(found)
        path = _drawn(found, path, plot)
        if as_json:
            request = {"data": str(data), "formula": formula, "also": others or []}
            more = {"folds": folds, "seed": seed, "dropped": found.learned.dropped}
            picture = {"picture": output.path_text(path)}
            print_json(reports.comparison_json(found.comparison, **request, **more, **picture))
        else:
            print_tables(reports.comparison_table(found.comparison), "")
            lines = [*reports.reasons(found.comparison), *reports.conclusion(found.comparison)]
            typer.echo("\n".join(map(in_options, lines)))
            say_written("picture in", path)


@app.command(cls=ListingCommand)
def posterior(
    data: Data,
    formula: FormulaText,
    model: ModelName,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Write the draws here, as NetCDF.", show_default=False)
    ],
    others: Formulas = None,
    weights: Weights = None,
    exposure: Exposure = None,
    trials: Trials = None,
    offset: Offset = None,
    tau: Tau = None,
    settings: Settings = None,
    method: Annotated[_Method, typer.Option(help="How draws are made.")] = _Method.NUTS,
    draws: Annotated[int, typer.Option(help="Draws of each chain.")] = 1000,
    chains: Annotated[int, typer.Option(help="Chains of nuts.")] = 4,
    tune: Annotated[int, typer.Option(help="Warm-up draws of nuts, which are discarded.")] = 500,
    seed: Annotated[int, typer.Option(help="The same seed gives the same draws.", min=0)] = 0,
    level: Annotated[float, typer.Option(help="The level of the intervals.")] = 0.95,
    drop_missing: DropMissing = False,
    checkpoint: CheckpointFile = None,
    as_json: Json = False,
) -> None:
    """Draw from the posterior of a model, print a summary, and write all draws for ArviZ.

    The priors are the model's own, which suit columns and a response of order one.
    """
    options.check_level(level)
    with reporting():
        from neglog.cli import inputs
        from neglog.models.names import check_name

        check_name(model)
        inputs.check_place("--out", out, data)
        rows = inputs.row_columns(weights=weights, exposure=exposure, trials=trials, offset=offset)
        table = inputs.table_of(data, formula, rows)
        from neglog import posterior as sampled
        from neglog import reports, to_arviz
        from neglog.cli import requests
        from neglog.exchange.netcdf import check_netcdf, write_netcdf
        from neglog.models.named import model_named

        check_netcdf(out)
        chosen = requests.configured(model_named(model), requests.settings_of(settings, tau))
        result = sampled(
            chosen,
            requests.formulas_of(chosen, formula, others),
            table,
            drop_missing=drop_missing,
            method=method.value,
            draws=draws,
            chains=chains,
            tune=tune,
            seed=seed,
            checkpoint=checkpoint,
            progress=shows_progress(as_json),
            **rows,
        )
        say_dropped(requests.learned_of(result)[1], len(table))
        found = to_arviz(result, seed=seed)
        write_netcdf(found, out)
        summary = reports.draws_table(result, found, level)
        if as_json:
            request = {"data": str(data), "formula": formula, "also": others or [], "model": model}
            print_json(reports.posterior_json(result, summary, **request, saved=str(out), level=level))
        else:
            print_tables(reports.estimates_table(summary, level), "", result.status)
            say_written("draws in", out)
    if not result.converged:
        raise typer.Exit(1)


@app.command(cls=Command)
def models(as_json: Json = False) -> None:
    """Print all models, with the losses that they replace and their densities."""
    with reporting():
        from neglog.cli.catalogue import COLUMNS, catalogue

        if as_json:
            print_json([{name: entry[name] for name in COLUMNS} for entry in catalogue()])
        else:
            print_tables(_models_table())


def _models_table() -> Any:
    """The models in their groups: loss, PyTorch's class, density, and when to choose it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from neglog.cli.catalogue import catalogue

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("model", "loss", "density", "choose it when"):
        table.add_column(heading)
    group = ""
    for entry in catalogue():
        if entry["group"] != group:
            group = entry["group"]
            table.add_row(Text(group, style="bold"), "", "", "")
        named = entry["torch_loss"].startswith("torch.")
        loss = f"{entry['loss']} ({entry['torch_loss']})" if named else entry["loss"]
        table.add_row(
            *(Text(cell) for cell in (entry["model"], loss, entry["density"], entry["choose_when"]))
        )
    return table


def _picture_path(plot: Path | None, data: Path) -> Path:
    """The path of the picture, verified to be writable; by default it is named after the data."""
    from neglog.cli import inputs

    name = "stdin" if str(data) == inputs.STANDARD_INPUT else data.name.split(".")[0]
    path = plot or Path(f"{name}-compare.png")
    inputs.check_place("--plot", path, data)
    return path


def _check_format(path: Path | None) -> None:
    from neglog import plots

    if path is not None:
        plots.check_format(path)


def _drawn(found: Compared, path: Path | None, requested: Path | None) -> Path | None:
    """Write the picture of all models that could be fitted; of classes there is none."""
    from neglog import plots

    if path is None or (found.classes and requested is None):
        return None
    if found.classes:
        raise DataError(f"`--plot {path}` shows numbers, and the response is of classes. Leave it out.")
    fits = {entry.model: entry.fit for entry in found.comparison.entries if entry.fit is not None}
    learned = found.learned
    plots.write(plots.picture_of_table(fits, learned.design, learned.table, found.rows), path)
    return path


def _check_scored(found: Compared) -> None:
    from neglog.reports import reasons

    if not found.comparison.scored:
        why = " ".join(reasons(found.comparison))
        raise DataError(f"no model could be scored on rows it has not seen. {why}")


def _predictions(saved: Any, rows: pd.DataFrame, level: float, columns: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    from neglog import class_probabilities, predict
    from neglog.losses import TABLE
    from neglog.tracing import model_name

    if saved.classes or TABLE[model_name(saved.model)].response == "class":
        shares = class_probabilities(saved, rows, **columns)
        return shares.add_prefix("p_").assign(predicted=shares.idxmax(axis=1))
    distribution = predict(saved, rows, **columns)
    found = {
        "mean": distribution.mean,
        "median": distribution.icdf(distribution.mean.new_tensor(0.5)),
        "sd": distribution.stddev,
        "lower": distribution.icdf(distribution.mean.new_tensor(0.5 - level / 2)),
        "upper": distribution.icdf(distribution.mean.new_tensor(0.5 + level / 2)),
    }
    return pd.DataFrame({name: values.numpy() for name, values in found.items()}, index=rows.index)
