"""Operators between terms that formulas do not have: each is refused with what to write in its place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from formulaic.parser.types import Token

from neglog.errors import DataError
from neglog.formula.limits import shown

_OF_R = re.compile(r"\"[^\"]*\"|'[^']*'|`[^`]*`|(%%|%/%|%\*%)")
"""A text or a name in backticks; or an operator of R that formulaic misreads."""
_OF_EXPRESSIONS = re.compile(r"~?([<>=!&]+)([-+]?)")
_SPELLED: Mapping[str, str] = {"!": "~", "&&": "&"}
"""Operators of R, as expressions have them."""
_REMEDIES: Mapping[str, str] = {
    "=": "`y ~ x`, with a ~ between the response and the terms",
    "::": "the function without its package, as `ns(x, df=4)`",
    "$": "the column without its table, as `x`",
    "%%": "`I(x % z)` for the remainder",
    "%/%": "`I(x // z)` for the whole part of a ratio",
    "%*%": "`x:z` for the product of columns",
}
"""Operator -> what to write in its place."""


def check_operators_of_r(formula: str) -> None:
    """Raise DataError for ``%%`` and its like: formulaic would read ``x %/% z`` as ``x / z``."""
    found = next((match for match in _OF_R.finditer(formula) if match[1]), None)
    if found is not None:
        raise _refused(formula, found[1], found.start(), _REMEDIES[found[1]])


def check_operators(formula: str, tokens: Sequence[Token]) -> None:
    """Raise DataError for an operator that only expressions have, such as ``>``, between terms."""
    for place, token in enumerate(tokens):
        if token.kind is Token.Kind.OPERATOR and token.source_start is not None:
            text = token.token
            remedy = _REMEDIES.get(text, "")
            if found := None if remedy else _OF_EXPRESSIONS.fullmatch(text):
                remedy = f"`{_expression(formula, tokens, place, found[1], found[2])}`"
            if remedy:
                raise _refused(formula, text, token.source_start, remedy)


def _refused(formula: str, operator: str, start: int, remedy: str) -> DataError:
    carets = " " * start + "^" * len(operator)
    mark = f"\n    {formula}\n    {carets}" if shown(formula) == formula else ""
    return DataError(
        f"the formula `{shown(formula)}` has {operator}, which is no operator between terms. Write {remedy}."
        f"{mark}"
    )


def _expression(formula: str, tokens: Sequence[Token], place: int, operator: str, sign: str) -> str:
    """The expression that an operator and the terms beside it are, within ``I()``; an example of brackets."""
    before, after = (_term(formula, tokens, at) for at in (place - 1, place + 1))
    if operator == "!":
        return f"I(~{after or 'b'})"
    operator = _SPELLED.get(operator, operator)
    return f"I({before} {operator} {sign}{after})" if before and after else f"I(x {operator} z)"


def _term(formula: str, tokens: Sequence[Token], at: int) -> str:
    """The text of a column, a number or an expression in its place; empty for anything else."""
    if not 0 <= at < len(tokens):
        return ""
    token = tokens[at]
    if token.kind not in (Token.Kind.NAME, Token.Kind.VALUE, Token.Kind.PYTHON):
        return ""
    if token.source_start is not None and formula.startswith("`", token.source_start):
        return f"`{token.token}`"
    return token.token
