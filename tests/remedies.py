"""The messages in the source that advise something, and the one that an error came from."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import neglog

SOURCE = Path(neglog.__file__).parent
ERRORS = {"DataError", "ModelError", "SingularDesignError", "UnboundedLikelihoodError", "Refused"}
"""Errors of neglog, and what becomes one."""
VERBS = (
    *("Add", "Ask", "Bring", "Call", "Check", "Choose", "Compare", "Compute", "Convert", "Copy", "Correct"),
    *("Detach", "Divide", "Draw", "Drop", "End", "Fill", "Fit", "Give", "Hold", "Install", "Join", "Keep"),
    *("Leave", "Let", "List", "Look", "Loop", "Make", "Mend", "Model", "Name", "Number", "Pass", "Predict"),
    *("Put", "Read", "Reduce", "Rename", "Run", "Save", "Set", "Shift", "Shorten", "Simplify", "Smooth"),
    *("Subtract", "Take", "Train", "Turn", "Upgrade", "Use", "Wrap", "Write"),
)
"""Imperatives that messages begin an advice with."""
ADVICE = re.compile(rf"(?:^|[.;:,] (?:or |and |so |then )?)(?:{'|'.join(VERBS)})\b", re.IGNORECASE)
"""A sentence, or a part of one, that begins with an imperative."""


def written_text(node: ast.AST) -> str:
    """The constant parts of a message, with `{}` in the place of values."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.FormattedValue):
        inner = written_text(node.value)
        return inner if "{}" not in inner and inner.strip() else "{}"
    if isinstance(node, ast.JoinedStr):
        return "".join(map(written_text, node.values))
    if isinstance(node, ast.BinOp):
        return written_text(node.left) + written_text(node.right)
    if isinstance(node, ast.IfExp):
        return written_text(node.body) + written_text(node.orelse)
    return "{}"


@cache
def modules() -> dict[str, ast.Module]:
    """Each module of the source by its path."""
    return {
        path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(SOURCE.rglob("*.py"))
    }


@cache
def _raises() -> dict[tuple[str, int], ast.Raise]:
    """(module, first line) -> each `raise` statement of the source."""
    return {
        (module, node.lineno): node
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
    }


@cache
def messages() -> dict[tuple[str, int], str]:
    """(module, first line of a `raise`) -> its text, for every error of neglog in the source."""
    calls = {at: node.exc for at, node in _raises().items() if isinstance(node.exc, ast.Call)}
    return {
        at: written_text(call.args[0])
        for at, call in calls.items()
        if getattr(call.func, "id", "") in ERRORS and call.args
    }


def advice() -> dict[tuple[str, int], str]:
    """Those of `messages` that have a remedy."""
    return {at: text for at, text in messages().items() if ADVICE.search(text)}


NO_ERRORS = {
    "Comparison._lead": "the result of a comparison",
    "Comparison._tie": "the result of a comparison",
    "Command.parse_args": "an error of usage, of typer",
    "_models_table": "the heading of a column",
    "_bce": "a note on an equivalence",
    "_of_normal": "the status of a posterior",
    "_smooth_l1": "the description of a loss",
    "complaints": "the status of a posterior",
}
"""Functions whose texts advise something and are no errors of neglog."""


class _Texts(ast.NodeVisitor):
    """The texts of a module with advice that no `raise` holds: those that functions return, and constants."""

    def __init__(self) -> None:
        self.found: dict[int, tuple[str, list[str], re.Pattern[str]]] = {}
        self.within: list[str] = []

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        self.within.append(node.name)
        if ".".join(self.within) not in NO_ERRORS:
            self.generic_visit(node)
        self.within.pop()

    visit_ClassDef = visit_FunctionDef

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        if not isinstance(node.exc, ast.Call) or getattr(node.exc.func, "id", "") not in ERRORS:
            self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg != "help":
            self.generic_visit(node)

    def _text(self, node: ast.expr) -> None:
        text = written_text(node)
        if ADVICE.search(text) and len(text.split()) > 2:
            pattern = _pattern(node)
            parts = [] if "(?:" in pattern else text.split("{}")  # Whole expressions are slow to search for.
            self.found[node.lineno] = text, parts, re.compile(pattern, re.DOTALL)
        elif not isinstance(node, ast.Constant):
            self.generic_visit(node)

    visit_Constant = visit_JoinedStr = visit_BinOp = _text


def _pattern(node: ast.expr) -> str:
    """The regular expression of the texts that an expression may be."""
    if isinstance(node, ast.Constant):
        return re.escape(str(node.value))
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.IfExp):
        return _pattern(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_pattern, node.values))
    if isinstance(node, ast.BinOp):
        return _pattern(node.left) + _pattern(node.right)
    if isinstance(node, ast.IfExp):
        return f"(?:{_pattern(node.body)}|{_pattern(node.orelse)})"
    return ".*?"


def is_said(at: tuple[str, int], message: str) -> bool:
    """Whether a message holds the text of a `raise` statement, which some results keep as their reason."""
    parts = messages()[at].split("{}")
    return max(map(len, parts)) >= 20 and all(part in message for part in parts)


def is_built(at: tuple[str, int], message: str) -> bool:
    """Whether a message holds one of `helper_texts`."""
    _, parts, pattern = helper_texts()[at]
    return all(part in message for part in parts) and pattern.search(message) is not None


@cache
def helper_texts() -> dict[tuple[str, int], tuple[str, list[str], re.Pattern[str]]]:
    """(module, line) -> a text with advice that becomes an error elsewhere, its fixed parts, its pattern."""
    found = {}
    for module, tree in modules().items():
        texts = _Texts()
        texts.visit(tree)
        found |= {(module, line): pattern for line, pattern in texts.found.items()}
    return found


def raised_at(error: BaseException | None) -> set[tuple[str, int]]:
    """The `raise` statements of the source that an error, and its causes, came from."""
    found, known = set(), set()
    while error is not None and id(error) not in known:  # A chain of causes may be a circle.
        known.add(id(error))
        trace = error.__traceback__
        while trace is not None:
            path = Path(trace.tb_frame.f_code.co_filename)
            if SOURCE in path.parents:
                module = path.relative_to(SOURCE).as_posix()
                found |= {at for at in messages() if at[0] == module and at[1] == _first(at, trace.tb_lineno)}
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return found


def _first(at: tuple[str, int], line: int) -> int:
    """The line of a `raise` whose statement a line of the traceback is within."""
    return at[1] if at[1] <= line <= (_raises()[at].end_lineno or at[1]) else -1


class Row(NamedTuple):
    """A message, provoked and followed; both functions are given a folder of their own."""

    error: type[Exception]
    """The class of the error."""
    facts: tuple[str, ...]
    """What the message names: the argument, the numbers, the columns."""
    provoke: Callable[[Path], Any]
    follow: Callable[[Path], Any]
    """Does what the message advises, and returns what came of it: it does not raise, and is not None."""


def row(
    error: type[Exception], *facts: str, provoke: Callable[[Path], Any], follow: Callable[[Path], Any]
) -> Row:
    return Row(error, facts, provoke, follow)
