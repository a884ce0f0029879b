"""The states of transforms: the quantities that `scale`, `poly` and splines learn from a table.

A state is checked against the call that it belongs to: entries that the arguments of the call give are
computed again and compared, entries that rows gave have the dtype, the length and the order that rows give.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from neglog.errors import DataError
from neglog.formula.limits import shown
from neglog.formula.signatures import STATES

Shape = tuple[int, ...]

UNIT_SUM = 1e-6
"""Relative tolerance within which the mean of a spline's basis, a partition of unity, must sum to 1."""


class _Wrong(ValueError):
    """The defect of a state, as the end of a sentence."""


def check_state(call: str, name: str, parameters: Mapping[str, Any], argument: Any, state: Any) -> None:
    """Raise DataError unless the transform may have learned this state.

    Args:
        call: the call as it is written.
        name: the name of the transform.
        parameters: the constant arguments of the call, by name.
        argument: what is transformed: a column, an array, or a mapping of columns, each with its own state.
        state: the state.
    """
    try:
        _check(name, parameters, argument, state)
    except _Wrong as wrong:
        raise DataError(
            f"the state of `{shown(call)}` cannot be used: {wrong}. If a file holds it, save the model "
            "again; otherwise the column has too few different values."
        ) from None


def _check(name: str, parameters: Mapping[str, Any], argument: Any, state: Any) -> None:
    _require(isinstance(state, dict), "it is no mapping")
    if name == "poly" and parameters.get("raw", False):
        return _require(not state, "raw polynomials have none")
    if isinstance(argument, dict):
        columns = [key for key in argument if not str(key).startswith("__")]
        _require(_has_keys(state, columns), "it needs one for each column of a basis")
        for column in columns:
            _check(name, parameters, argument[column], state[column])
        return None
    _require(set(state) == STATES[name], f"it needs {', '.join(sorted(STATES[name]))}")
    return _CHECKS[name](parameters, state, np.shape(argument))


def _check_scale(parameters: Mapping[str, Any], state: Mapping[str, Any], shape: Shape) -> None:
    """Centre and scale: numbers of each column, those of the arguments where these are no flags."""
    _require(_is_same(state["ddof"], parameters["ddof"]), "`ddof` is not that of the call")
    for entry in ("center", "scale"):
        given, value = parameters[entry], state[entry]
        if given is True:
            _require(np.shape(value) == shape[1:] and _is_float(value), f"`{entry}` needs finite floats")
        elif given is False:
            _require(value is None, f"`{entry}` must be None")
        else:
            _require(_is_same_array(value, np.array(given)), f"`{entry}` is not that of the call")
    _require(parameters["scale"] is not True or bool(np.all(state["scale"] > 0)), "`scale` must be positive")


def _check_poly(parameters: Mapping[str, Any], state: Mapping[str, Any], shape: Shape) -> None:
    """The three-term recurrence: a centre for each degree, and the squared norms, the first of them N."""
    degree = parameters.get("degree", 1)
    for entry, count in {"alpha": degree, "norms2": degree + 1}.items():
        values = state[entry]
        _require(
            isinstance(values, dict) and _has_keys(values, range(count)), f"`{entry}` needs {count} numbers"
        )
        _require(all(map(_is_number, values.values())), f"`{entry}` needs finite float64 numbers")
    norms = state["norms2"]
    _require(all(norm > 0 for norm in norms.values()), "`norms2` must be positive")
    _require(norms[0] > degree and norms[0] == np.floor(norms[0]), "`norms2[0]` must be the number of rows")


def _check_b_spline(parameters: Mapping[str, Any], state: Mapping[str, Any], shape: Shape) -> None:
    """Bounds, and the knots with `degree` more copies of each bound."""
    _check_bounds(parameters, state)
    lower, upper, knots = (state[entry] for entry in ("lower_bound", "upper_bound", "knots"))
    degree, given, df = parameters.get("degree", 3), parameters.get("knots"), parameters.get("df")
    learned = (df - degree - bool(parameters.get("include_intercept", False))) if df else 0
    inner = knots[degree + 1 : len(knots) - degree - 1] if isinstance(knots, list) else []
    inner = list(given) if given is not None else inner
    expected = np.pad([lower, *inner, upper], degree, mode="edge").tolist()
    _require(
        isinstance(knots, list) and _is_same(knots, expected), "`knots` do not begin and end at the bounds"
    )
    if given is None:
        _require(len(inner) == learned, f"`knots` needs {learned} inner knots")
        free = parameters.get("extrapolation") == "extend" and _bounds_given(parameters)
        around = inner if free else [lower, *inner, upper]
        _require(all(map(math.isfinite, inner)) and _in_order(around), "`knots` must be in order")
        most = max(map(knots.count, knots))
        _require(most <= degree + 2, f"{most} knots are the same number, which leaves columns of zeros")


def _check_cubic_spline(parameters: Mapping[str, Any], state: Mapping[str, Any], shape: Shape) -> None:
    """Bounds, different knots from one to the other, and constraints on the coefficients."""
    _check_bounds(parameters, state)
    cyclic, constraints = parameters["cyclic"], state["constraints"]
    _require(state["cyclic"] is cyclic, f"`cyclic` must be {cyclic}")
    count = _constraint_count(parameters)
    _check_knots(parameters, state, parameters.get("df", 0) - 2 + count + bool(cyclic))
    _check_constraints(parameters.get("constraints"), constraints, len(state["knots"]) - bool(cyclic))


def _check_natural_spline(parameters: Mapping[str, Any], state: Mapping[str, Any], shape: Shape) -> None:
    """Bounds, and different knots from one to the other."""
    _check_bounds(parameters, state)
    _check_knots(parameters, state, parameters.get("df", 0) - 1 - bool(parameters.get("include_intercept")))


def _check_knots(parameters: Mapping[str, Any], state: Mapping[str, Any], learned: int) -> None:
    """Rising knots from bound to bound: those of the call, or as many inner ones as were `learned`."""
    knots, given = state["knots"], parameters.get("knots")
    inner = len(np.unique(given)) if given is not None else learned
    _require(
        isinstance(knots, list) and len(knots) == inner + 2 and all(type(each) is float for each in knots),
        f"`knots` needs {inner + 2} floats",
    )
    _require(_in_order(knots, strictly=True), "`knots` must rise")
    ends = [state["lower_bound"], state["upper_bound"]]
    _require([knots[0], knots[-1]] == ends, "`knots` must begin and end at the bounds")
    _require(given is None or knots[1:-1] == np.unique(given).tolist(), "`knots` are not those of the call")


def _constraint_count(parameters: Mapping[str, Any]) -> int:
    given = parameters.get("constraints")
    if given is None:
        return 0
    return 1 if isinstance(given, str) else len(np.atleast_2d(given))


def _check_constraints(given: Any, constraints: Any, columns: int) -> None:
    if given is None:
        _require(constraints is None, "`constraints` must be None")
    elif isinstance(given, str):
        centred = _are_numbers(constraints, (1, columns))
        _require(centred, f"`constraints` needs {columns} finite float64 numbers")
        excess = abs(float(constraints.sum()) - 1)
        _require(excess <= UNIT_SUM * float(np.abs(constraints).sum()), "`constraints` must sum to 1")
    else:
        _require(_is_same_array(constraints, np.atleast_2d(given)), "`constraints` are not those of the call")


def _check_bounds(parameters: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    for entry in ("lower_bound", "upper_bound"):
        given, value = parameters.get(entry), state[entry]
        if given is None:
            _require(type(value) is float and math.isfinite(value), f"`{entry}` needs a finite float")
        else:
            _require(_is_same(value, given), f"`{entry}` is not that of the call")


def _bounds_given(parameters: Mapping[str, Any]) -> bool:
    return any(parameters.get(entry) is not None for entry in ("lower_bound", "upper_bound"))


def _require(holds: bool, needed: str) -> None:
    if not holds:
        raise _Wrong(needed)


def _has_keys(state: Mapping[Any, Any], keys: Sequence[Any]) -> bool:
    """Whether a mapping has these keys, none of them as another type that compares equal."""
    return {(type(key), key) for key in state} == {(type(key), key) for key in keys}


def _is_float(value: Any) -> bool:
    """Whether a value is a finite number of NumPy, of any precision, an array of them, or a float."""
    floating = isinstance(value, float) or getattr(value, "dtype", np.dtype("O")).kind == "f"
    return floating and bool(np.all(np.isfinite(value)))


def _is_number(value: Any) -> bool:
    return isinstance(value, np.float64) and bool(np.isfinite(value))


def _are_numbers(value: Any, shape: Shape) -> bool:
    right = isinstance(value, np.ndarray) and value.dtype == np.float64 and value.shape == shape
    return right and bool(np.isfinite(value).all())


def _is_same(value: Any, expected: Any) -> bool:
    """Whether two values are equal and of equal types."""
    if isinstance(expected, list):
        return isinstance(value, list) and len(value) == len(expected) and all(map(_is_same, value, expected))
    return type(value) is type(expected) and bool(value == expected)


def _is_same_array(value: Any, expected: np.ndarray) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == expected.dtype and np.array_equal(value, expected)


def _in_order(values: Sequence[float], *, strictly: bool = False) -> bool:
    pairs = list(itertools.pairwise(values))
    return all(a < b for a, b in pairs) if strictly else all(a <= b for a, b in pairs)


def _scaling(**defaults: Any) -> Callable[[Mapping[str, Any], Mapping[str, Any], Shape], None]:
    def check(parameters: Mapping[str, Any], state: Mapping[str, Any], shape: Shape) -> None:
        named = {"scale" if name == "rescale" else name: value for name, value in parameters.items()}
        _check_scale({**defaults, **named}, state, shape)

    return check


def _cubic(cyclic: bool) -> Callable[[Mapping[str, Any], Mapping[str, Any], Shape], None]:
    def check(parameters: Mapping[str, Any], state: Mapping[str, Any], shape: Shape) -> None:
        _check_cubic_spline({"cyclic": cyclic, **parameters}, state, shape)

    return check


_CHECKS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any], Shape], None]] = {
    "center": _scaling(center=True, scale=False, ddof=1),
    "scale": _scaling(center=True, scale=True, ddof=1),
    "standardize": _scaling(center=True, scale=True, ddof=0),
    "poly": _check_poly,
    "bs": _check_b_spline,
    "ns": _check_natural_spline,
    **dict.fromkeys(("cr", "cs"), _cubic(False)),
    "cc": _cubic(True),
}
"""The check of each transform that learns a state; all of `signatures.STATES` have one."""
