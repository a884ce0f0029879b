"""Refusals of expressions: what a formula does not have, and what to write in its place."""

from __future__ import annotations

import ast

from neglog.formula.limits import shown
from neglog.formula.signatures import FROM_R, FUNCTIONS, OF_ALL_ROWS, numpy_signature

COMPUTE = "Compute it as a column of the table, or use center(), scale(), poly(), bs(), ns()."


class Refused(ValueError):
    """Why an expression is refused, as the predicate of a sentence whose subject is the expression."""


def unknown_function(name: str) -> Refused:
    """The error of a function by a name alone that formulas do not have."""
    if name == "exp10":
        return Refused("calls `exp10`, which formulaic computes as x ** 10. Write {10.0 ** x}.")
    if name in FROM_R:
        return Refused(f"calls `{name}`, which formulas do not have. Write {FROM_R[name]}.")
    if name in OF_ALL_ROWS:
        return _of_all_rows(f"calls `{name}`")
    known = ", ".join(sorted(FUNCTIONS, key=str.lower))
    hint = f"They have {known}, and np.…" if numpy_signature(name) is None else f"Write `np.{name}`."
    return Refused(f"calls `{shown(name)}`, which formulas do not have. {hint}")


def _of_all_rows(use: str) -> Refused:
    return Refused(
        f"{use}, which is not a function of each row alone: it would mean something else on new rows. "
        f"{COMPUTE}"
    )


def unknown_attribute(node: ast.Attribute) -> Refused:
    """The error of an attribute or a method, which is none of numpy that formulas have."""
    if node.attr in OF_ALL_ROWS:
        return _of_all_rows(f"uses `.{node.attr}`")
    if isinstance(node.value, ast.Name) and node.value.id == "np":
        remedy = FROM_R.get(node.attr, "a function of each number, such as `np.sqrt(x)`")
        return Refused(f"uses `np.{shown(node.attr)}`, which formulas do not have. Write {remedy}.")
    return Refused(
        f"uses `.{shown(node.attr)}`, and a formula has no attributes and methods. Compute it as a column of "
        "the table: table['month'] = table['d'].dt.month. A column with a dot in its name goes in backticks."
    )


def unknown_argument(function: str, argument: str, names: tuple[str, ...]) -> Refused:
    """The error of an argument that a function has not, or has already, or of too many of them."""
    known = f": it takes {', '.join(f'`{name}`' for name in names)}" if names else ""
    remedy = _ARGUMENTS_OF_R.get(function, "Leave it out.")
    return Refused(f"gives `{function}` {argument}, which it does not take in a formula{known}. {remedy}")


_ARGUMENTS_OF_R = {
    "C": "Write `C(g, Treatment('b'))` for the reference 'b', and `C(g, contr.sum)` for other contrasts.",
    "log": "Write `I(log(x) / log(2))` for the logarithm to the base 2.",
}
"""What to write in the place of arguments that functions have in R."""
