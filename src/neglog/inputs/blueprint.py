"""Levels, knots and roles of columns learned from the table of a fit, applied to new tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from neglog.alignment import common_labels
from neglog.calls import public
from neglog.conversion import ALL, Named, is_series, series_tensor, to_tensor
from neglog.designs import Columns
from neglog.errors import DataError
from neglog.inputs.classes import codes_of
from neglog.inputs.frames import as_table, is_records, is_table, may_be_designs, of_pandas
from neglog.offset import OFFSET_KEYWORD
from neglog.split.tensor import tensor_of

if TYPE_CHECKING:
    import pandas as pd

    from neglog.formula import Design


@public
@dataclass(frozen=True)
class Blueprint:
    """A fitted table: its formula with the learned levels and knots, and the roles of its columns.

    Attributes:
        design: the learned formula; None of a fit to arrays.
        predictors: the linear predictors of the model, the location first; none of a network.
        positive: the constants of the model that may have a design.
        roles: argument -> the column that it named, such as ``{"exposure": "t", "weights": "w"}``; ``""`` for
            the ``offset`` of a fit that was an array beside an offset of the formula.
        dropped: the number of rows that were left out, since a value was missing.
        classes: the labels of the classes of the response, in the order of their codes; none of numbers.
        labelled: the column that holds these labels; empty without a formula.
    """

    design: Design | None = None
    predictors: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    dropped: int = 0
    classes: tuple[Any, ...] = ()
    labelled: str = ""

    def is_table(self, x: Any, columns: Columns) -> bool:
        """Whether `x` is a table for the formula, rather than designs with the `columns` of the fit."""
        if self.design is not None and is_records(x):
            return True
        if self.design is None or not (is_table(x) or isinstance(x, Mapping)):
            return False
        names = set(map(str, x if isinstance(x, Mapping) else x.columns))
        if self.inputs <= names:
            return True
        if isinstance(x, Mapping):
            return names != set(columns)
        return not (set(columns.get(ALL, ("",))) <= names)

    @property
    def inputs(self) -> set[str]:
        """The columns of the table that the designs need."""
        assert self.design is not None
        return {name for side in self.design.inputs for name in side.variables}

    def designs(self, table: pd.DataFrame) -> Any:
        """The designs of the complete rows of a table, as data frames.

        Raises:
            DataError: a column is missing, or has a missing value, or a level that the fit has not seen.
        """
        assert self.design is not None
        if not self.predictors:
            return self.design.main.design(table)
        return self.design.x(table, self.predictors, self.positive)

    def named(self, table: pd.DataFrame) -> Any:
        """The designs of the complete rows of a table as tensors; large ones with categories as codes.

        Raises:
            DataError: as `designs`.
        """
        assert self.design is not None
        if not self.predictors:
            return _named(self.design.main.coded(table))
        return _named(self.design.coded(table, self.predictors, self.positive))

    def read(
        self, x: Any, keywords: Mapping[str, Any], needed: Collection[str], columns: Columns
    ) -> tuple[Any, dict[str, Any]]:
        """New rows as designs and row-wise arguments: those `needed` are read from the columns of their
        roles.

        Arrays, and designs of the `columns` of the fit, are returned as they are.

        Raises:
            DataError: as `designs`; an argument names a column, and `x` is no table; `x` is neither a table
                nor an array.
        """
        found = dict(keywords)
        if self.design is None or (may_be_designs(x) and not self.is_table(x, columns)):
            check_no_columns(found)
            return of_pandas(x), found
        table = as_table("x", x)
        rows, _ = self.design.rows(table, drop_missing=None)
        for name in needed:
            role = found.get(name, self.roles.get(name))
            if isinstance(role, str) and role:
                found[name] = column_of(table, name, role)
        offsets = self.design.offsets(rows)
        if offsets is not None:
            if self.roles.get(OFFSET_KEYWORD) == "" and OFFSET_KEYWORD not in found:
                raise DataError(
                    "the model was fitted with `offset` beside the offset of its formula; give it for the "
                    "rows of this `x` too."
                )
            found[OFFSET_KEYWORD] = sum_of_offsets(offsets, found.get(OFFSET_KEYWORD))
        return self.named(rows), found

    def response(self, table: Any) -> Any:
        """The response of a new table.

        Raises:
            DataError: a column is missing, or has a missing value.
        """
        from neglog.tables import complete_rows, require_columns, without_dates

        assert self.design is not None
        frame, names = as_table("x", table), self.design.response.variables
        if self.labelled:
            require_columns(frame, [self.labelled])
            frame = frame.assign(**{self.labelled: self.codes(frame[self.labelled], self.labelled)})
        rows, _ = complete_rows(without_dates(frame, names), names, drop_missing=None)
        return self.design.y(rows)

    def codes(self, y: Any, name: str = "y") -> Any:
        """A response as codes, where the fit had labels.

        Raises:
            DataError: a label that the fit has not seen.
        """
        return codes_of(name, of_pandas(y), self.classes) if self.classes else of_pandas(y)


def check_no_columns(keywords: Mapping[str, Any]) -> None:
    """Refuse arguments that name a column where there is no table.

    Raises:
        DataError: naming one.
    """
    for name, value in keywords.items():
        if isinstance(value, str):
            raise DataError(
                f"`{name}` names the column {value!r}, and there is no formula with a table. Give the "
                f"values, one "
                f"for each row; or fit a formula, as mle(model, 'y ~ x', data, {name}={value!r})."
            )


def sum_of_offsets(of_formula: pd.Series, given: Any) -> Any:
    """The offsets of a formula and those that are given beside it, as R adds them."""
    if given is None:
        return of_formula
    given = of_pandas(given)
    common_labels({"x": of_formula, OFFSET_KEYWORD: given})
    tensor = series_tensor if is_series(given) else to_tensor
    values = tensor(OFFSET_KEYWORD, given, torch.float64)
    if tuple(values.shape) != (len(of_formula),):  # refused by the function that reads the rows
        return given
    return of_formula + values.numpy()


def column_of(table: pd.DataFrame, name: str, column: str) -> pd.Series:
    """The column of a table that an argument names.

    Raises:
        DataError: there is none of that name; it holds no numbers.
    """
    from neglog.tables import is_number, require_columns

    require_columns(table, [column])
    found = table[column]
    if not is_number(found):
        raise DataError(
            f"the column `{column}`, which `{name}` names, needs numbers; it holds {found.dtype}."
        )
    return found.astype("float64")


def _named(designs: Any) -> Any:
    """Designs as tensors whose columns have names."""
    if isinstance(designs, Mapping):
        found = {id(value): _named(value) for value in designs.values()}
        return {key: found[id(value)] for key, value in designs.items()}
    return Named(tensor_of(designs.matrix), designs.columns, intercept=designs.intercept)
