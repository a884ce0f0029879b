"""The constant arguments of splines and polynomials: those that give no basis are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Constants = Mapping[str, Any]


def why_no_basis(function: str, constants: Constants) -> str | None:
    """Why these arguments give no basis, as the predicate of a sentence on the call; None if they do."""
    check = _CHECKS.get(function)
    return None if check is None else check(function, constants)


def _polynomial(function: str, constants: Constants) -> str | None:
    return _wrong_count(function, constants, "degree", 1)


def _b_spline(function: str, constants: Constants) -> str | None:
    wrong = _wrong_count(function, constants, "degree", 0) or _wrong_knots(function, constants)
    if wrong or not constants.get("df"):  # a df of 0 is none
        return wrong
    degree, intercept = constants.get("degree", 3), bool(constants.get("include_intercept", False))
    return _wrong_count(function, constants, "df", degree + intercept)


def _cubic_spline(function: str, constants: Constants) -> str | None:
    wrong = _wrong_count(function, constants, "df", 2) or _wrong_knots(function, constants)
    if wrong or constants.get("df") is not None or constants.get("knots") is not None:
        return wrong
    return f"needs `df`, the number of columns, or `knots`. Write {function}(x, df=4)."


def _wrong_count(function: str, constants: Constants, name: str, least: int) -> str | None:
    value = constants.get(name)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if value is None or (is_whole and value >= least):
        return None
    return (
        f"gives `{function}` the {name} {value!r}, and it needs a whole number from {least} on. Give "
        f"{name}={least + 1}."
    )


def _wrong_knots(function: str, constants: Constants) -> str | None:
    knots = constants.get("knots")
    if isinstance(knots, int | float):
        return f"gives `{function}` the knot {knots!r} alone, and `knots` is a list. Write knots=[{knots!r}]."
    if knots is not None and constants.get("df"):
        return f"gives `{function}` both `df` and `knots`, which fix the same. Leave one of them out."
    return None


_CHECKS: Mapping[str, Callable[[str, Constants], str | None]] = {
    "poly": _polynomial,
    "bs": _b_spline,
    **dict.fromkeys(("cr", "cs", "cc"), _cubic_spline),
}
