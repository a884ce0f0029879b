"""Errors of usage on the command line: one line each on stderr, and code 2, as every other failure."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

UsageError: Any = typer.BadParameter.__bases__[0]
"""The error that typer raises for an unknown option or a missing argument, which it does not export."""


def say(text: str) -> None:
    """Print a line about a result on stderr; one that cannot be written is discarded."""
    try:
        typer.echo(f"neglog: {text}", err=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class Command(TyperCommand):
    """A command whose options are given once, unless they are lists."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of the command; an option that is given twice is an error of usage."""
        for option, values in self._doubled(ctx, args).items():
            raise typer.BadParameter(
                f"{option} was given {len(values)} times: {', '.join(values)}. Give one."
            )
        return super().parse_args(ctx, args)

    def _doubled(self, ctx: Any, args: Sequence[str]) -> dict[str, list[str]]:
        """The options of one value that have several, by their names."""
        parser = self.make_parser(ctx)
        single = {name: each for name, each in parser._long_opt.items() if each.action == "store"}
        for option in single.values():
            option.action = "append"
        found: dict[Any, list[str]] = parser.parse_args(args=list(args))[0]
        given = {name: found.get(each.dest) or [] for name, each in single.items()}
        return {name: values for name, values in given.items() if len(values) > 1}


class Commands(TyperGroup):
    """Commands that end in one line where they were called with arguments that they do not take."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line, with errors of usage and of neglog as one line each."""

        def run() -> Any:
            return super(Commands, self).main(
                args, prog_name, complete_var, False, windows_expand_args, **extra
            )

        if not standalone_mode:
            return run()
        try:
            code = run()
        except UsageError as error:
            if type(error).__name__ != "NoArgsIsHelpError":
                say(f"error: {_line(error)}")
            code = 2
        raise SystemExit(code if isinstance(code, int) else 0)


def _line(error: Any) -> str:
    """An error of usage in one line, with the command that explains more."""
    text = " ".join(error.format_message().split()).removesuffix(".")
    where = error.ctx.command_path if error.ctx is not None else "neglog"
    return f"{text}. See {where} --help."
