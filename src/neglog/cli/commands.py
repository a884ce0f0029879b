"""The command line: ``neglog fit``, ``neglog predict``, ``neglog compare``.

Results go to stdout, all remarks to stderr. Exit codes: 0 for a result, 1 for a fit that did
not converge, 2 for a request that cannot be met, with one line that says why, 130 for an interrupt.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neglog import models
from neglog.cli import INTERRUPTED
from neglog.errors import ConvergenceWarning, DataError, NeglogError
from neglog.usage import Command, Commands, say

if TYPE_CHECKING:  # Everything else is imported where it is used, or `neglog --help` would wait for torch.
    import pandas as pd

    from neglog.comparison import Comparison, Kind
    from neglog.formula import Learned

EPILOG = (
    f"Models: {', '.join(models.__all__)}.\n\n"
    "Exit codes: 0 a result; 1 a fit that did not converge; 2 a request that cannot be met."
)

MAX_ERROR_CHARACTERS = 1000
"""Characters of an error message that are printed; the contents of a file may be of any length."""

app = typer.Typer(
    name="neglog",
    cls=Commands,
    help="Every regression loss is the negative log of a likelihood: fit it, question it, compare it.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="A table: .csv, .tsv or .parquet.", show_default=False)
]
FormulaText = Annotated[
    str, typer.Argument(metavar="FORMULA", help="As in R: 'y ~ x1 + C(group)'.", show_default=False)
]
Also = Annotated[
    list[str] | None,
    typer.Option(
        "--also",
        metavar="FORMULA",
        help="A formula for another predictor: 'log_variance ~ x1', 'sigma ~ x1'.",
    ),
]
Weights = Annotated[str | None, typer.Option(metavar="COLUMN", help="How often each row counts.")]
DropMissing = Annotated[
    bool, typer.Option("--drop-missing", help="Drop rows with a missing value in a column in use.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, with every digit.")]


class _Response(Enum):
    """The kind of models that are compared."""

    DISCRETE = "discrete"
    CONTINUOUS = "continuous"


def run() -> None:
    """Run the command line."""
    try:
        with _reporting():
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

        with _reporting():  # or typer would exit with code 1 where stdout is closed
            typer.echo(f"neglog {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(cls=Command)
def fit(
    data: Data,
    formula: FormulaText,
    model: Annotated[
        str, typer.Option("--model", "-m", help=f"One of: {', '.join(models.__all__)}.", show_default=False)
    ],
    also: Also = None,
    map: Annotated[
        bool, typer.Option("--map", help="Maximum a posteriori, with the model's priors.")
    ] = False,
    weights: Weights = None,
    drop_missing: DropMissing = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save the fit here, for `neglog predict`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit one model and print its estimates."""
    with _reporting():
        from neglog import export, map_estimate, mle, reports, summary
        from neglog.comparison import loss_of, model_named, offset_rows, set_up

        model_named(model)
        if out is not None:
            _check_place("--out", out)
            export.check_folder(out)
        learned = _learn(data, formula, also, weights, drop_missing)
        design, table = learned.design, learned.table
        bound, x = set_up(model, design, table)
        estimate = map_estimate if map else mle
        counts = None if weights is None else table[weights]
        rows, progress = offset_rows(design, table), _shows_progress(as_json)
        result = estimate(bound, x, design.y(table), weights=counts, progress=progress, **rows)
        if out is not None:
            export.save(result, out, formula=design)
        loss = loss_of(model, design.others) + (" plus a penalty, minus the log of the priors" if map else "")
        if as_json:
            request = {"data": str(data), "formula": formula, "also": also or [], "model": model}
            more = {"method": "map" if map else "mle", "dropped": learned.dropped, "saved": _text(out)}
            _print_json(reports.fit_json(result, summary(result), loss, **request, **more))
        else:
            _print(reports.estimates_table(summary(result)), "", reports.fit_table(result, loss))
            _say_written("saved in", out)
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
    drop_missing: DropMissing = False,
) -> None:
    """Predict new rows: their columns, then mean, median, sd, lower and upper.

    The interval is of new observations, at the estimates.
    """
    if not 0 < level < 1:
        raise typer.BadParameter(f"must be between 0 and 1; it is {level}.", param_hint="--level")
    with _reporting():
        from neglog import export
        from neglog.tables import check_kind, write_table

        if out is not None:
            check_kind(out)
            _check_place("--out", out, data)
        saved = export.load(folder)
        if saved.formula is None:
            raise DataError(f"`{folder}` was saved without a formula. Use neglog.load and neglog.predict.")
        table = _read(data)
        rows, dropped = saved.formula.rows(table, drop_missing=drop_missing)
        predicted = _predictions(saved, rows, level).add_prefix(prefix)
        taken = [name for name in predicted if name in table]
        if taken:
            raise DataError(
                f"`{data}` has a column `{taken[0]}` already. Choose other names: --prefix predicted_"
            )
        result = table.loc[rows.index].join(predicted)
        _say_dropped(dropped, len(table))
        if out is None:
            typer.echo(result.to_csv(index=False), nl=False)
        else:
            write_table(result, out)
            say(f"{len(result)} rows written to {out}")


@app.command(cls=Command)
def compare(
    data: Data,
    formula: FormulaText,
    also: Also = None,
    folds: Annotated[int, typer.Option(help="Into how many parts the rows are dealt.", min=2)] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the random folds.", min=0)] = 0,
    weights: Weights = None,
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
    as_json: Json = False,
) -> None:
    """Fit every model of one kind that can draw the response, and rank them on rows they have not seen.

    The log score of a row is the log of the density, or of the probability, that a fit to the other folds
    gave it, in nats. The two are never in one ranking.
    """
    if plot is not None and no_plot:
        raise typer.BadParameter("--plot and --no-plot exclude each other.", param_hint="--no-plot")
    with _reporting():
        from neglog import reports
        from neglog.comparison import compare_models

        path = None if no_plot else _picture_path(plot, data)
        learned = _learn(data, formula, also, weights, drop_missing)
        watch = _bar if _shows_progress(as_json) else iter
        kind: Kind | None = None if response is None else response.value
        comparison = compare_models(
            learned, weights=weights, folds=folds, seed=seed, response=kind, watch=watch
        )
        _check_scored(comparison)
        if path is not None:
            _draw(comparison, learned, path)
        if as_json:
            request = {"data": str(data), "formula": formula, "also": also or []}
            more = {"folds": folds, "seed": seed, "dropped": learned.dropped, "picture": _text(path)}
            _print_json(reports.comparison_json(comparison, **request, **more))
        else:
            _print(reports.comparison_table(comparison), "")
            typer.echo("\n".join([*reports.reasons(comparison), *reports.conclusion(comparison)]))
            _say_written("picture in", path)


def _picture_path(plot: Path | None, data: Path) -> Path:
    """The path of the picture, verified to be writable; by default it is named after the data."""
    from neglog import plots

    path = plot or Path(f"{data.name.split('.')[0]}-compare.png")
    plots.check_format(path)
    _check_place("--plot", path, data)
    return path


def _draw(comparison: Comparison, learned: Learned, path: Path) -> None:
    """Write the picture of all models that could be fitted."""
    from neglog import plots

    fits = {entry.model: entry.fit for entry in comparison.entries if entry.fit is not None}
    plots.write(plots.picture_of_table(fits, learned.design, learned.table), path)


def _learn(
    data: Path, formula: str, also: Sequence[str] | None, weights: str | None, drop_missing: bool
) -> Learned:
    from neglog.formula import learn

    table = _read(data)
    keep = () if weights is None else (weights,)
    learned = learn(formula, table, also or (), keep=keep, drop_missing=drop_missing)
    _say_dropped(learned.dropped, len(table))
    return learned


def _read(data: Path) -> pd.DataFrame:
    from neglog.tables import read_table

    if data.exists() and not data.is_file() and not data.is_dir():
        raise DataError(f"`{data}` is a pipe or a device. Write the table to a file, and give its path.")
    try:
        return read_table(data)
    except gzip.BadGzipFile:
        raise DataError(
            f"`{data}` is not gzipped, or damaged. Compress it again, or name it without .gz."
        ) from None
    except (EOFError, zlib.error):
        raise DataError(f"`{data}` is cut off or damaged. Copy or compress it again.") from None


def _check_place(option: str, path: Path, data: Path | None = None) -> None:
    """Raise DataError unless a file or folder can be made there that does not take the place of the data."""
    if not path.parent.is_dir():
        raise DataError(
            f"`{option} {path}` needs the folder `{path.parent}`, which does not exist. Make it first."
        )
    if data is not None and path.exists() and data.exists() and path.samefile(data):
        raise DataError(f"`{option} {path}` would replace the data. Name another file.")


def _check_scored(comparison: Comparison) -> None:
    from neglog.reports import reasons

    if not comparison.scored:
        raise DataError(f"no model could be scored on rows it has not seen. {' '.join(reasons(comparison))}")


def _predictions(saved: Any, rows: pd.DataFrame, level: float) -> pd.DataFrame:
    import pandas as pd

    from neglog import predict

    distribution = predict(saved, rows)
    columns = {
        "mean": distribution.mean,
        "median": distribution.icdf(distribution.mean.new_tensor(0.5)),
        "sd": distribution.stddev,
        "lower": distribution.icdf(distribution.mean.new_tensor(0.5 - level / 2)),
        "upper": distribution.icdf(distribution.mean.new_tensor(0.5 + level / 2)),
    }
    return pd.DataFrame({name: values.numpy() for name, values in columns.items()}, index=rows.index)


@contextmanager
def _reporting() -> Iterator[None]:
    """Foreseeable failures and warnings as one line each on stderr; a failure exits with code 2."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:
        say(f"warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", ConvergenceWarning)
        warnings.showwarning = show
        try:
            yield
        except BrokenPipeError:  # The reader of stdout has seen enough.
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except (NeglogError, OSError) as error:
            say(f"error: {_in_one_line(error)}")
            raise typer.Exit(2) from None


def _in_one_line(error: Exception) -> str:
    """An error without line breaks, and without its middle where it is too long to read."""
    text = " ".join(str(error).partition("\n    ")[0].split())  # without the lines that mark a place
    part = MAX_ERROR_CHARACTERS // 2
    return text if len(text) <= MAX_ERROR_CHARACTERS else f"{text[:part]} [...] {text[-part:]}"


def _print(*parts: Any) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    with console.capture() as text:  # where its reader has left, rich would end the process with code 1
        for part in parts:
            console.print(part)
    typer.echo(text.get(), nl=False)


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False))


def _text(path: Path | None) -> str | None:
    """A path as JSON has it."""
    return None if path is None else str(path)


def _say_written(what: str, path: Path | None) -> None:
    """Report on stderr where something was written, if it was."""
    if path is not None:
        say(f"{what} {path}")


def _say_dropped(dropped: int, rows: int) -> None:
    if dropped:
        say(f"dropped {dropped} of {rows} rows, which have a missing value")


def _shows_progress(as_json: bool) -> bool:
    return _at_terminal() and not as_json


def _at_terminal() -> bool:
    return sys.stderr.isatty()


def _bar(names: Sequence[str]) -> Iterable[str]:
    """The names, with a bar on stderr that shows which one is being fitted."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name)
            yield name
            progress.advance(task)
