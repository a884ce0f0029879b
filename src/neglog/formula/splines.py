"""Natural cubic splines in the basis of R's ``splines::ns``, with knots that are learned from a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from formulaic.materializers.types import FactorValues
from formulaic.utils.stateful_transforms import stateful_transform

_ORDER = 4  # of cubic polynomials


def _natural_spline(
    values: Any,
    df: int | None = None,
    knots: Iterable[float] | None = None,
    include_intercept: bool = False,
    lower_bound: float | None = None,
    upper_bound: float | None = None,
    *,
    _state: dict[str, Any],
) -> FactorValues[dict[int, np.ndarray]]:
    """Cubic splines that are linear beyond their bounds, as many columns as degrees of freedom `df`.

    Args:
        values: the column `(N,)`.
        df: degrees of freedom; by default one more than there are `knots`.
        knots: inner knots; by default quantiles of the values within the bounds.
        include_intercept: whether the columns span the constant; without it all are 0 at the lower bound.
        lower_bound, upper_bound: the outer knots; by default the range of the values.

    Raises:
        ValueError: there are not that many different knots.

    Source: Chambers & Hastie (1992), Statistical Models in S, section 7.6; R's ``splines::ns``.
    """
    numbers = np.asarray(values, "float64")
    if "knots" not in _state:
        _state["lower_bound"] = float(numbers.min()) if lower_bound is None else lower_bound
        _state["upper_bound"] = float(numbers.max()) if upper_bound is None else upper_bound
        inner = _inner_knots(numbers, df, knots, include_intercept, _state)
        _state["knots"] = [float(each) for each in (_state["lower_bound"], *inner, _state["upper_bound"])]
    basis = _basis(numbers, np.array(_state["knots"]), include_intercept)
    return FactorValues(
        {place + 1: basis[:, place] for place in range(basis.shape[1])},
        kind="numerical",
        spans_intercept=False,
        format="{name}[{field}]",
        encoded=False,
    )


natural_spline = stateful_transform(_natural_spline)


def _inner_knots(
    numbers: np.ndarray,
    df: int | None,
    knots: Iterable[float] | None,
    include_intercept: bool,
    bounds: dict[str, Any],
) -> np.ndarray:
    lower, upper = bounds["lower_bound"], bounds["upper_bound"]
    fewest = 1 + bool(include_intercept)
    if (df is None) == (knots is None):
        raise ValueError("`ns` needs either `df` or `knots`, as in ns(x, df=4)")
    if knots is not None:
        inner = np.unique(np.asarray(list(knots), "float64"))
    elif isinstance(df, int) and df >= fewest:
        inside = numbers[(lower <= numbers) & (numbers <= upper)]
        inner = np.quantile(inside, np.linspace(0.0, 1.0, df - fewest + 2)[1:-1])
    else:
        raise ValueError(f"the `df` of `ns` must be a whole number from {fewest} on; it is {df}")
    if not (np.diff([lower, *inner, upper]) > 0).all():
        raise ValueError(
            f"`ns` needs {len(inner)} different inner knots between {lower:g} and {upper:g}, and the column "
            "has too few values for them, or `knots` lie outside: give a smaller `df`, or other `knots`"
        )
    return inner


def _basis(numbers: np.ndarray, knots: np.ndarray, include_intercept: bool) -> np.ndarray:
    """The basis of R: B-splines but the first one, projected onto those without curvature at the bounds."""
    from scipy.interpolate import BSpline

    padded = np.pad(knots, _ORDER - 1, mode="edge")
    splines = BSpline(padded, np.eye(len(padded) - _ORDER), _ORDER - 1)
    inside = np.clip(numbers, knots[0], knots[-1])
    beyond = (numbers - inside)[:, None]
    basis = splines(inside) + np.where(beyond == 0, 0.0, splines(inside, nu=1) * beyond)
    curvature = splines(knots[[0, -1]], nu=2)
    first = 0 if include_intercept else 1
    rotation, _ = np.linalg.qr(curvature[:, first:].T, mode="complete")
    natural: np.ndarray = np.einsum("ij,jk->ik", basis[:, first:], rotation[:, 2:])  # one row as many
    return natural
