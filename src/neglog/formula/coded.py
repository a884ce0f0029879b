"""Designs whose categories are codes: formulaic's columns, without an array for each level.

A factor of categories is encoded by formulaic on one row for each of its values, which gives its contrasts;
a column of the design is then a value for each code. Columns of indicators stay codes, also in products with
numbers and with each other; columns of other contrasts are computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from formulaic import ModelSpec
from formulaic.materializers.types import EvaluatedFactor, FactorValues
from formulaic.parser.types import Factor
from interface_meta import override

from neglog.errors import DataError
from neglog.formula.evaluation import Materializer
from neglog.intercepts import mark_without_intercept
from neglog.split.kinds import Dense, Kind, Levels
from neglog.split.matrix import SplitMatrix


@dataclass(frozen=True, eq=False)
class Coded:
    """A design `(N, P)` of codes and numbers, with the names of its columns.

    Attributes:
        matrix: the columns.
        columns: their names.
        index: the labels of the rows.
        intercept: whether the predictor that takes it has an intercept.
    """

    matrix: SplitMatrix
    columns: tuple[str, ...]
    index: pd.Index
    intercept: bool = True

    def frame(self) -> pd.DataFrame:
        """The same numbers as a data frame."""
        values = self.matrix.dense()
        design = pd.DataFrame(values, index=self.index, columns=list(self.columns), copy=False)
        return design if self.intercept else mark_without_intercept(design)

    def numbers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The numbers `(N, Q)` that are held, and the positions of the columns that they belong to."""
        found = []
        for part, places in zip(self.matrix.parts, self.matrix.places, strict=True):
            if isinstance(part, Dense):
                found.append((part.values, places))
            elif isinstance(part, Levels) and part.scale is not None:
                found.append((part.scale[:, None], places))
        return found


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes `(N,)` of the cells of categories, 0 where a row is in none that is counted, to `count`."""

    values: np.ndarray
    count: int


@dataclass(frozen=True, eq=False)
class Indicator:
    """A column that is `scale` `(N,)`, or 1, in the rows of one code, and 0 elsewhere."""

    codes: Codes
    code: int
    scale: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Contrast:
    """A column with a value for each code, of a contrast that is no indicator."""

    codes: Codes
    values: np.ndarray

    def column(self) -> np.ndarray:
        """The column itself, `(N,)`."""
        return self.values[self.codes.values - 1]


class CodedMaterializer(Materializer):
    """formulaic's designs as `Coded`."""

    @override
    def _encode_evaled_factor(
        self, factor: EvaluatedFactor, spec: ModelSpec, drop_rows: Sequence[int], reduced_rank: bool = False
    ) -> dict[str, Any]:
        if factor.metadata.kind is not Factor.Kind.CATEGORICAL:
            return dict(super()._encode_evaled_factor(factor, spec, drop_rows, reduced_rank))
        codes, few = self._coded(factor)
        found = super()._encode_evaled_factor(few, spec, drop_rows, reduced_rank)
        return {name: _coded_column(codes, np.asarray(values, "float64")) for name, values in found.items()}

    def _coded(self, factor: EvaluatedFactor) -> tuple[Codes, EvaluatedFactor]:
        """The codes of the values of a factor, and the factor on one row for each value that occurs."""
        known: dict[str, tuple[Codes, EvaluatedFactor]] = self.__dict__.setdefault("known_codes", {})
        if factor.expr not in known:
            values = factor.values
            values = values.__wrapped__ if isinstance(values, FactorValues) else values
            codes, few = _factorised(pd.Series(values))
            small = FactorValues(few, metadata=factor.metadata)
            known[factor.expr] = Codes(codes, len(few)), replace(factor, values=small)
        return known[factor.expr]

    @override
    def _get_columns_for_term(
        self, factors: list[dict[str, Any]], spec: ModelSpec, scale: float = 1
    ) -> dict[str, Any]:
        marks = [each for each in factors if _are_codes(each)]
        if not marks or any(isinstance(column, Contrast) for each in marks for column in each.values()):
            whole = [{name: _whole(column) for name, column in each.items()} for each in factors]
            return super()._get_columns_for_term(whole, spec, scale)
        self._count(factors)
        return _indicators(factors, *_crossed(marks), scale)

    @override
    def _combine_columns(
        self, cols: Sequence[tuple[str, Any]], spec: ModelSpec, drop_rows: Sequence[int]
    ) -> Coded:
        cols = [(name, column) for name, column in cols if name != "Intercept"]
        groups: dict[Any, list[int]] = {}
        for place, (_, column) in enumerate(cols):
            key = (id(column.codes), id(column.scale)) if isinstance(column, Indicator) else None
            groups.setdefault(key, []).append(place)
        parts: list[Kind] = []
        for key, places in groups.items():
            columns = [cols[place][1] for place in places]
            numbers = [cols[place] for place in places]
            parts.append(_dense(numbers, len(self.data)) if key is None else _categorical(columns))
        matrix = SplitMatrix(tuple(parts), tuple(map(np.array, groups.values())), len(self.data))
        return Coded(matrix, tuple(name for name, _ in cols), self.data.index)


def _factorised(values: pd.Series) -> tuple[np.ndarray, pd.Series]:
    """Codes from 1 of values, 0 where one is missing, and the values that occur, in the order of codes."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes = values.cat.codes.to_numpy()
        counts = np.bincount(codes.astype(np.int32) + 1, minlength=len(values.cat.categories) + 1)
        used = np.flatnonzero(counts[1:])
        few = pd.Series(pd.Categorical.from_codes(used, dtype=values.dtype))
        if len(used) == len(values.cat.categories):
            return codes.astype(np.int32) + np.int32(1), few
        renamed = np.zeros(len(counts), np.int32)
        renamed[used + 1] = np.arange(1, len(used) + 1)
        return renamed[codes.astype(np.int32) + 1], few
    codes, found = pd.factorize(values)
    return codes.astype(np.int32) + np.int32(1), pd.Series(found, dtype=values.dtype)


def _coded_column(codes: Codes, values: np.ndarray) -> Indicator | Contrast:
    """A column with these values for the codes."""
    ones = np.flatnonzero(values == 1)
    if len(ones) == 1 and np.count_nonzero(values) == 1:
        return Indicator(codes, int(ones[0]) + 1)
    return Contrast(codes, values)


def _are_codes(factor: dict[str, Any]) -> bool:
    """Whether a factor is one of categories."""
    return any(isinstance(column, Indicator | Contrast) for column in factor.values())


def _whole(column: Any) -> Any:
    """The column `(N,)` as an array."""
    if isinstance(column, Contrast):
        return column.column()
    if isinstance(column, Indicator):
        found = (column.codes.values == column.code).astype("float64")
        return found if column.scale is None else found * column.scale
    return column


def _crossed(factors: Sequence[dict[str, Indicator]]) -> tuple[Codes, dict[tuple[str, ...], int]]:
    """The codes of the cells of several factors, and the code of each combination of their columns."""
    if len(factors) == 1:
        (only,) = factors
        codes = next(iter(only.values())).codes
        return codes, {(name,): column.code for name, column in only.items()}
    total = np.zeros(0, np.int64)
    outside = np.zeros(0, bool)
    for each in factors:
        codes = next(iter(each.values())).codes
        local = np.zeros(codes.count + 1, np.int64)
        local[[column.code for column in each.values()]] = np.arange(1, len(each) + 1)
        own = local[codes.values]
        total = own - 1 if not len(total) else total * len(each) + own - 1
        outside = own == 0 if not len(outside) else outside | (own == 0)
    total[outside] = -1
    cells = {cell: k + 1 for k, cell in enumerate(itertools.product(*factors))}
    return Codes((total + 1).astype(np.int32), len(cells)), cells


def _indicators(
    factors: Sequence[dict[str, Any]], codes: Codes, cells: dict[tuple[str, ...], int], scale: float
) -> dict[str, Indicator]:
    """The columns of a product of indicators and numbers, in formulaic's order."""
    scales: dict[tuple[str, ...], np.ndarray | None] = {}
    found = {}
    for reverse in itertools.product(*(each.items() for each in reversed(factors))):
        chosen = reverse[::-1]
        cell = tuple(name for name, column in chosen if isinstance(column, Indicator))
        numbers = {name: column for name, column in chosen if not isinstance(column, Indicator)}
        if tuple(numbers) not in scales:
            scales[tuple(numbers)] = _scale(list(numbers.values()), scale, len(codes.values))
        found[":".join(name for name, _ in chosen)] = Indicator(codes, cells[cell], scales[tuple(numbers)])
    return found


def _scale(numbers: Sequence[Any], scale: float, rows: int) -> np.ndarray | None:
    """The product of numbers of each row; None where it is 1 in all."""
    if not numbers and scale == 1:
        return None
    found = np.full(rows, float(scale))
    for each in numbers:
        found = found * np.asarray(each, "float64")
    return found


def _dense(cols: Sequence[tuple[str, Any]], rows: int) -> Dense:
    """Columns that are numbers, side by side."""
    found = np.empty((rows, len(cols)))
    for k, (name, column) in enumerate(cols):
        try:
            found[:, k] = np.asarray(_whole(column), "float64")
        except (TypeError, ValueError) as error:
            raise DataError(f"a term of the formula is not a number: `{name}`: {error}.") from None
    return Dense(found)


def _categorical(columns: Sequence[Indicator]) -> Levels:
    """Indicator columns of the same codes."""
    first, chosen = columns[0], [column.code for column in columns]
    if chosen == list(range(1, first.codes.count + 1)):
        return Levels(first.codes.values, len(chosen), first.scale)
    renamed = np.zeros(first.codes.count + 1, np.int32)
    renamed[chosen] = np.arange(1, len(chosen) + 1)
    return Levels(renamed[first.codes.values], len(chosen), first.scale)
