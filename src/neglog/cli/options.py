"""The arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from neglog.cli.catalogue import listing
from neglog.usage import Command, Commands

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A table: .csv, .tsv or .parquet; - reads CSV from standard input.",
        show_default=False,
    ),
]
FormulaText = Annotated[
    str, typer.Argument(metavar="FORMULA", help="As in R: 'y ~ x1 + C(group)'.", show_default=False)
]
ModelName = Annotated[
    str, typer.Option("--model", "-m", metavar="NAME", help="One of the models below.", show_default=False)
]
Formulas = Annotated[
    list[str] | None,
    typer.Option(
        "--formula",
        "--also",
        metavar="FORMULA",
        help="A formula for another parameter: 'log_variance ~ x1', 'sigma ~ x1'. May be repeated.",
    ),
]
Weights = Annotated[str | None, typer.Option(metavar="COLUMN", help="How often each row counts.")]
Exposure = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Time or size over which each row was counted.")
]
Trials = Annotated[str | None, typer.Option(metavar="COLUMN", help="The number of trials of each row.")]
Offset = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="A number that the location predictor of each row has.")
]
Tau = Annotated[float | None, typer.Option(help="The quantile of `quantile`: --set tau=VALUE.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting of the model, or a parameter that is known: 'delta=2', 'sigma=1'. May be repeated.",
    ),
]
CheckpointFile = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="Keep the state here: the same command goes on from it, after a kill too.",
    ),
]
DropMissing = Annotated[
    bool, typer.Option("--drop-missing", help="Drop rows with a missing value in a column in use.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, with every digit.")]


class ListingCommand(Command):
    """A command whose help ends in the list of models."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help of the command, and the models."""
        super().format_help(ctx, formatter)
        typer.echo(listing())


class ListingCommands(Commands):
    """The commands, whose help ends in the list of models."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help of the program, and the models."""
        super().format_help(ctx, formatter)
        typer.echo(listing())


def check_level(level: float) -> None:
    """Refuse a level that is no number between 0 and 1."""
    if not 0 < level < 1:
        percent = f", and {level:g} % are {level / 100:g}" if 1 < level < 100 else ""
        raise typer.BadParameter(f"must be between 0 and 1; it is {level:g}{percent}.", param_hint="--level")
