"""The values of an expression on the rows of a table.

The checked syntax tree is walked node by node; no text is evaluated.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from formulaic import ModelSpec
from formulaic.materializers import PandasMaterializer
from formulaic.materializers.types import ScopedTerm
from formulaic.parser.types import OrderedSet
from formulaic.transforms import TRANSFORMS
from interface_meta import override

from neglog.errors import DataError
from neglog.formula.expressions import state_key
from neglog.formula.limits import CODING_EXPONENT, MAX_CODING, shown
from neglog.formula.signatures import EXTRAPOLATING, NUMPY_CONSTANTS, STATES
from neglog.formula.splines import natural_spline
from neglog.formula.states import check_state
from neglog.formula.syntax import (
    BINARY,
    COMPARISONS,
    UNARY,
    Number,
    arguments,
    arithmetic,
    column_name,
    constant,
    contrast_arguments,
    function_name,
    number,
    parse,
    signature_of,
)
from neglog.tables import days_of_text

TRUTHS = (False, True)
"""The levels of a factor of truth values."""


@dataclass(frozen=True)
class Truths:
    """Which columns and expressions of truth values are factors with the levels False and True, as in R.

    Attributes:
        known: those that are; None where each is, as long as none is learned. In a response they are
            numbers, as in fits of earlier versions.
    """

    known: frozenset[str] | None

    @classmethod
    def of_levels(cls, levels: Mapping[str, Sequence[Any]]) -> Truths:
        """Those that were learned."""
        return cls(frozenset(text for text, found in levels.items() if tuple(found) == TRUTHS))

    def coded(self, expression: str, value: Any) -> Any:
        """The value of a factor, as categories where it is one of these."""
        if self.known is not None and expression not in self.known:
            return value
        if hasattr(value, "__formulaic_metadata__"):  # of C(...), which has levels of its own
            return value
        if self.known is not None and not _is_truth(value) and bool(np.isin(value, (0, 1)).all()):
            value = value.astype(bool)
        if not _is_truth(value):
            return value
        return pd.Series(pd.Categorical(value, TRUTHS), index=getattr(value, "index", None))


LEARNED, NUMBERS = Truths(None), Truths(frozenset())
"""Truth values as factors; and as numbers."""


class Materializer(PandasMaterializer):
    """formulaic's designs, of expressions that `Evaluation` computes and of columns of the table alone."""

    def __init__(self, table: pd.DataFrame, most: int, truths: Truths) -> None:
        super().__init__(table)
        self.most, self.truths = most, truths
        self.made = 0
        self.coding = 0.0

    @override
    def _lookup(self, name: str) -> tuple[Any, set[Any]]:
        return self.truths.coded(name, self.data[name]), set()

    @override
    def _evaluate(self, expr: str, metadata: Any, spec: ModelSpec) -> tuple[Any, set[Any]]:
        return self.truths.coded(expr, Evaluation(self.data, spec).value(parse(expr))), set()

    @override(force=True)  # on an instance, which counts; formulaic's is a class method
    def _simplify_scoped_terms(self, scoped_terms: OrderedSet[ScopedTerm]) -> OrderedSet[ScopedTerm]:
        """The contrasts of the categories of a term, whose number of subsets is limited.

        The time of formulaic grows sixfold with each category of a term without its margins.
        """
        self.coding += len(scoped_terms) ** CODING_EXPONENT
        if self.coding > MAX_CODING:
            raise DataError(
                "the products of many categories take too long to code. Leave out interactions of more than "
                "seven categories, or add those of fewer: `a * b` in the place of `a:b`."
            )
        found: OrderedSet[ScopedTerm] = PandasMaterializer._simplify_scoped_terms(scoped_terms)
        return found

    @override
    def _get_columns_for_term(
        self, factors: list[dict[str, Any]], spec: ModelSpec, scale: float = 1
    ) -> dict[str, Any]:
        self._count(factors)
        return dict(super()._get_columns_for_term(factors, spec, scale))

    def _count(self, factors: Sequence[Mapping[str, Any]]) -> None:
        """Raise DataError where the columns of a term are too many, with those before."""
        self.made += math.prod(map(len, factors))
        if self.made > self.most:
            raise DataError(f"the terms give more than {self.most} columns. Leave some of them out.")


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of checked expressions on a table; the states of transforms are kept in `spec`.

    Rows that are `made_up` may lie outside of the bounds of splines, which are evaluated at the bounds there.
    """

    table: pd.DataFrame
    spec: ModelSpec
    made_up: bool = False

    def value(self, node: ast.expr) -> Any:
        """The value of a node: a column, an array, a number or a text.

        Raises:
            DataError, TypeError, ValueError: it has none on these rows.
        """
        match node:
            case ast.Constant(value=value):
                return value if isinstance(value, str) else number(value)
            case ast.Name():
                return self.table[column_name(node)]
            case ast.Attribute(value=ast.Name(id="np"), attr=name):
                return NUMPY_CONSTANTS[name]
            case ast.BinOp(left=left, op=op, right=right):
                return _binary(op, self.value(left), self.value(right))
            case ast.UnaryOp(op=op, operand=operand):
                return _unary(op, self.value(operand))
            case ast.BoolOp(op=op, values=values):
                return self._boolean(op, values)
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self._comparison(left, ops, others)
            case ast.Call():
                return self._call(node)
        raise TypeError(f"{type(node).__name__} has no value")

    def _boolean(self, op: ast.boolop, nodes: Sequence[ast.expr]) -> Any:
        value = self.value(nodes[0])
        for node in nodes[1:]:
            if _truth(value) is isinstance(op, ast.Or):
                return value
            value = self.value(node)
        return value

    def _comparison(self, left: ast.expr, ops: Sequence[ast.cmpop], others: Sequence[ast.expr]) -> Any:
        values = [self.value(each) for each in (left, *others)]
        value = _compared(ops[0], values[0], values[1])
        for op, first, second in zip(ops[1:], values[1:], values[2:], strict=False):
            value = _truth(value) and _compared(op, first, second)
        return value

    def _call(self, call: ast.Call) -> Any:
        name, signature = function_name(call), signature_of(call)
        leading, parameters = arguments(call)
        if name == "Q":
            return self.table[constant(leading[0])]
        values = [self.value(argument) for argument in leading]
        if not signature.text and any(map(_is_text, values)):
            raise TypeError(f"`{shown(ast.unparse(call))}` computes with text")
        keywords = {each: _parameter(each, node) for each, node in parameters.items()}
        if name.startswith("np."):
            return _elementwise(getattr(np, name.removeprefix("np.")), *values, **keywords)
        if name in STATES:
            return self._transformed(call, name, values, keywords)
        return TRANSFORMS[name](*values, **keywords)

    def _transformed(self, call: ast.Call, name: str, values: list[Any], keywords: dict[str, Any]) -> Any:
        """The value of a transform, with the state that it has, or the one that it learns here."""
        key = state_key(call)
        (argument,) = (_as_float(value) if _is_whole(value) else value for value in values)
        if key in self.spec.transform_state:
            check_state(key, name, keywords, argument, self.spec.transform_state[key])
            if name == "bs" and not self.made_up and "extrapolation" not in keywords:
                _check_range(key, argument, self.spec.transform_state[key])
        state = self.spec.transform_state.setdefault(key, {})
        beyond = {"extrapolation": "clip"} if self.made_up and name in EXTRAPOLATING else {}
        function = natural_spline if name == "ns" else TRANSFORMS[name]
        return function(argument, **{**keywords, **beyond}, _state=state, _spec=self.spec)


def _check_range(expression: str, values: Any, state: Mapping[str, Any]) -> None:
    """Refuse values beyond those that a spline has learned.

    Raises:
        DataError: with the first of their rows.
    """
    numbers, low, high = np.asarray(values, "float64"), state["lower_bound"], state["upper_bound"]
    beyond = (numbers < low) | (numbers > high)
    if beyond.any():
        place = int(np.argmax(beyond))
        row = getattr(values, "index", range(len(numbers)))[place]
        raise DataError(
            f"`{shown(expression)}` is known from {low:g} to {high:g}, the range of the fit, and row {row} "
            f"has {numbers[place]:g}. Drop such rows, or fit again with `extrapolation='extend'` in its "
            "brackets."
        )


def _parameter(name: str, node: ast.expr) -> Any:
    """The value of a constant argument."""
    found = contrast_arguments(node) if name == "contrasts" else None
    if found is None:
        return constant(node)
    contrasts, parameters = found
    registry: Mapping[str, Any] = TRANSFORMS
    kind = (
        getattr(registry["contr"], contrasts.removeprefix("contr."))
        if contrasts.startswith("contr.")
        else registry[contrasts]
    )
    return kind(**{each: constant(value) for each, value in parameters.items()})


def _unary(op: ast.unaryop, value: Any) -> Any:
    return not _truth(value) if isinstance(op, ast.Not) else _elementwise(UNARY[type(op)], value)


def _binary(op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(left, Number) and isinstance(right, Number):
        return arithmetic(op, left, right)
    if not isinstance(op, ast.Add) and (_is_text(left) or _is_text(right)):
        raise TypeError("arithmetic with text")
    if isinstance(op, ast.BitXor) and not (_is_truth(left) and _is_truth(right)):
        raise TypeError(
            "`^` before a number is a power, as in I(x^2), and between columns of numbers it is none. Write "
            "** for a power: I(x ** z)"
        )
    return _elementwise(BINARY[type(op)], left, right)


def _compared(op: ast.cmpop, left: Any, right: Any) -> Any:
    """A comparison of numbers or of texts; numbers of days may be compared with the text of a date."""
    if _is_text(left) != _is_text(right):
        left, right = (days_of_text(each) if isinstance(each, str) else each for each in (left, right))
        if _is_text(left) or _is_text(right):
            raise TypeError("a comparison of numbers with text")
    return COMPARISONS[type(op)](left, right)


def _elementwise(function: Callable[..., Any], *values: Any, **keywords: Any) -> Any:
    """A function of each row. Whole numbers that overflow are computed as floats instead."""
    result = function(*values, **keywords)
    if not _is_whole(result):
        return result
    try:
        floats = function(*map(_as_float, values), **keywords)
    except TypeError:  # `&`, `|` and their like are of whole numbers alone.
        return result
    same = np.isclose(np.asarray(result, "float64"), np.asarray(floats, "float64"), rtol=1e-9, atol=0.5)
    return result if same.all() else floats


def _as_float(value: Any) -> Any:
    return value.astype("float64") if hasattr(value, "astype") and not _is_text(value) else float(value)


def _is_whole(value: Any) -> bool:
    return getattr(getattr(value, "dtype", None), "kind", None) in ("i", "u")


def _is_truth(value: Any) -> bool:
    """Whether a value is a column of truth values."""
    return getattr(getattr(value, "dtype", None), "kind", None) == "b" and bool(np.ndim(value))


def _truth(value: Any) -> bool:
    if np.ndim(value):
        raise ValueError(
            "`and`, `or`, `not` and a < b < c need single values. Join columns by & or |: (a < b) & (b < c)"
        )
    return bool(value)


def _is_text(value: Any) -> bool:
    if isinstance(value, str):
        return True
    dtype = getattr(value, "dtype", None)
    return dtype is not None and not (
        pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)
    )
