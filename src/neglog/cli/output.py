"""Output of the command line: results on stdout; remarks, warnings and errors on stderr."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from neglog.cli import INTERRUPTED
from neglog.cli.wording import in_options
from neglog.errors import ConvergenceWarning, NeglogError, SamplingWarning
from neglog.usage import say

MAX_ERROR_CHARACTERS = 1000
"""Characters of an error message that are printed; the contents of a file may be of any length."""


@contextmanager
def reporting() -> Iterator[None]:
    """Foreseeable failures and warnings as one line each on stderr; a failure exits with code 2.

    Below an error of a formula are two more, with carets under the place in it.
    """

    def show(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:
        say(f"warning: {in_options(' '.join(str(message).split()))}")

    with warnings.catch_warnings():
        for category in (ConvergenceWarning, SamplingWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = show
        try:
            yield
        except BrokenPipeError:  # The reader of stdout has seen enough.
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except (NeglogError, OSError) as error:
            line, *place = _lines(error)
            say(f"error: {line}")
            for each in place:
                typer.echo(each, err=True)
            raise typer.Exit(2) from None


def _lines(error: Exception) -> list[str]:
    """An error without line breaks, and the lines that mark a place in a formula."""
    message, *marked = str(error).split("\n    ")
    place = [f"    {line}" for line in marked]
    return [
        _in_one_line(message),
        *(place if max(map(len, place), default=0) <= MAX_ERROR_CHARACTERS else []),
    ]


def _in_one_line(message: str) -> str:
    """A message in one line, without its middle where it is too long to read."""
    text = in_options(" ".join(message.split()))
    part = MAX_ERROR_CHARACTERS // 2
    return text if len(text) <= MAX_ERROR_CHARACTERS else f"{text[:part]} [...] {text[-part:]}"


def print_tables(*parts: Any) -> None:
    """Print tables of rich, and lines of text."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    with console.capture() as text:  # where its reader has left, rich would end the process with code 1
        for part in parts:
            console.print(part)
    typer.echo(text.get(), nl=False)


def print_json(document: Any) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False))


def path_text(path: Path | None) -> str | None:
    """A path as JSON has it."""
    return None if path is None else str(path)


def say_written(what: str, path: Path | None) -> None:
    """Report on stderr where something was written, if it was."""
    if path is not None:
        say(f"{what} {path}")


def say_dropped(dropped: int, rows: int) -> None:
    """Report on stderr how many rows were left out, if any were."""
    if dropped:
        say(f"dropped {dropped} of {rows} rows, which have a missing value")


def shows_progress(as_json: bool) -> bool:
    """Whether a person watches."""
    return at_terminal() and not as_json


def at_terminal() -> bool:
    """Whether stderr is a terminal."""
    return sys.stderr.isatty()


def bar(names: Sequence[str]) -> Iterable[str]:
    """The names, with a bar on stderr that shows which one is being fitted."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name)
            yield name
            progress.advance(task)
