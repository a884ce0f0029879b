"""A formula and its companions, as one learned thing that turns tables into designs."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from neglog.calls import public
from neglog.errors import DataError, DateWarning, ModelError, written
from neglog.formula.agreement import check_agreement
from neglog.formula.categories import first_text
from neglog.formula.coded import Coded
from neglog.formula.evaluation import NUMBERS
from neglog.formula.expressions import categorical_column
from neglog.formula.language import centred, read_companions, read_formula
from neglog.formula.limits import shown
from neglog.formula.saved import INTERCEPT, check_fields, checked_names
from neglog.formula.sides import Side, Terms, learn_side, variables
from neglog.tables import complete_rows, is_date, is_number, require_columns, without_dates


@public
@dataclass(frozen=True)
class Design:
    """A formula and its companions, learned: the map from a table to the designs of a model.

    `main` describes the location. `others` are the predictors with a formula of their own; those without
    take `shared`, which is `main` with an intercept. `offset` has the terms of the location whose coefficient
    is 1: ``offset(log(t))``.
    """

    formula: str
    also: tuple[str, ...]
    response: Side
    main: Side
    shared: Side
    others: Mapping[str, Side]
    offset: Side | None = None

    def y(self, table: pd.DataFrame) -> pd.Series | pd.DataFrame:
        """The response: a series, or a frame if the formula has several (``y1 + y2 ~ x``).

        Raises:
            DataError: as `Side.design`.
        """
        frame = self.response.design(table)
        return frame.iloc[:, 0] if frame.shape[1] == 1 else frame

    def offsets(self, table: pd.DataFrame) -> pd.Series | None:
        """The sum of the offsets of each row; None of a formula without any.

        Raises:
            DataError: as `Side.design`.
        """
        return None if self.offset is None else self.offset.design(table).sum(axis="columns")

    @property
    def inputs(self) -> tuple[Side, ...]:
        """All sides but the response."""
        return (self.main, *self.others.values(), *([] if self.offset is None else [self.offset]))

    def x(
        self, table: pd.DataFrame, predictors: Sequence[str], positive: Sequence[str] = ()
    ) -> pd.DataFrame | dict[str, pd.DataFrame]:
        """The `x` of `mle`, for a model of these predictors, location first, and positive parameters.

        A plain frame where one design serves every predictor, else a mapping from predictor to frame.

        Raises:
            DataError: as `Side.design`.
            ModelError: the model has no such predictor as a companion formula names.
        """
        found = self.coded(table, predictors, positive)
        if isinstance(found, Coded):
            return found.frame()
        return {name: each.frame() for name, each in found.items()}

    def coded(
        self, table: pd.DataFrame, predictors: Sequence[str], positive: Sequence[str] = ()
    ) -> Coded | dict[str, Coded]:
        """The designs `x` with categories as codes.

        Raises:
            DataError, ModelError: as `x`.
        """
        sides = self._sides(predictors, positive)
        if all(side is self.main for side in sides.values()):
            return self.main.coded(table)
        found = {id(side): side.coded(table) for side in {id(each): each for each in sides.values()}.values()}
        return {name: found[id(side)] for name, side in sides.items()}

    def columns(self, predictors: Sequence[str], positive: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
        """The names of the columns of the designs `x`, by key; ``""`` where it is one frame.

        Raises:
            ModelError: as `x`.
        """
        sides = self._sides(predictors, positive)
        if all(side is self.main for side in sides.values()):
            return {"": self.main.columns}
        return {name: side.columns for name, side in sides.items()}

    def without_bias(self, predictors: Sequence[str], positive: Sequence[str] = ()) -> tuple[str, ...]:
        """The sites to fix at zero, because their formula has no intercept: ``("mean.bias",)``.

        Raises:
            ModelError: as `x`.
        """
        sides = self._sides(predictors, positive)
        names = {name: f"log_{name}" if name in positive else name for name in sides}
        return tuple(f"{names[name]}.bias" for name, side in sides.items() if not side.intercept)

    def known_to(self, predictors: Sequence[str], positive: Sequence[str] = ()) -> Design:
        """The design with those companions alone that describe a predictor of this model."""
        known = {*predictors, *positive}
        kept = [(text, name) for text, name in zip(self.also, self.others, strict=True) if name in known]
        others = {name: self.others[name] for _, name in kept}
        return replace(self, also=tuple(text for text, _ in kept), others=others)

    def _sides(self, predictors: Sequence[str], positive: Sequence[str]) -> dict[str, Side]:
        location, *rest = predictors
        allowed = [*rest, *positive]
        for name in self.others:
            if name == location:
                raise ModelError(f"`{name}` has two formulas: `{self.formula}` describes it too. Drop one.")
            if name not in allowed:
                known = ", ".join(f"`{other}`" for other in allowed) or "none"
                raise ModelError(f"the model has no predictor `{name}`; besides `{location}` it has {known}.")
        return {location: self.main} | dict.fromkeys(rest, self.shared) | dict(self.others)

    def rows(self, table: pd.DataFrame, *, drop_missing: bool | None = False) -> tuple[pd.DataFrame, int]:
        """The inputs of a new table on the rows that have them all, and how many rows were dropped.

        Raises:
            DataError: as `complete_rows`.
        """
        names = [name for side in self.inputs for name in side.variables]
        texts = {name for side in self.inputs for name in side.texts}
        return complete_rows(without_dates(table, names, texts), names, drop_missing=drop_missing)

    def to_json(self) -> dict[str, Any]:
        """The design as plain JSON values, without any row of the data.

        Raises:
            DataError: a transform keeps a state that cannot be written without pickle.
        """
        return {
            "formula": self.formula,
            "also": list(self.also),
            "response": self.response.to_json(),
            "main": self.main.to_json(),
            "shared": None if self.shared is self.main else self.shared.to_json(),
            "others": {name: side.to_json() for name, side in self.others.items()},
            **({} if self.offset is None else {"offset": self.offset.to_json()}),
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Design:
        """The design that `to_json` wrote.

        Raises:
            DataError: it is damaged, or holds an expression that does what a formula may not do.
        """
        try:
            offset = {"offset"} & set(saved)  # of a formula with one
            check_fields(saved, {"formula", "also", "response", "main", "shared", "others", *offset})
            main = Side.from_json(saved["main"])
            design = cls(
                formula=checked_names([saved["formula"]], "formula")[0],
                also=checked_names(saved["also"], "also"),
                response=Side.from_json(saved["response"]),
                main=main,
                shared=main if saved["shared"] is None else Side.from_json(saved["shared"]),
                others={name: Side.from_json(side) for name, side in saved["others"].items()},
                offset=Side.from_json(saved["offset"]) if offset else None,
            )
            check_agreement(**{each.name: getattr(design, each.name) for each in dataclasses.fields(design)})
            return design
        except DataError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            reason = shown(f"{type(error).__name__}: {error}")
            raise DataError(f"the saved formula is damaged ({reason}). Save the model again.") from None


@public
@dataclass(frozen=True)
class Learned:
    """A design, the columns and rows that it was learned from, and how many rows were dropped."""

    design: Design
    table: pd.DataFrame
    dropped: int


def _check_arguments(formula: object, table: object, also: object, keep: object) -> None:
    if not isinstance(formula, str):
        raise DataError(f"`formula` must be text, such as 'y ~ x'; it is {type(formula).__name__}.")
    if not isinstance(table, pd.DataFrame):
        from neglog.conversion import foreign_remedy, kind_of  # which import torch, and formulas do not

        if remedy := foreign_remedy("table", table):
            raise DataError(f"`table` must be a data frame of pandas; it is {kind_of(table)}.{remedy}")
        raise DataError(
            f"`table` must be a data frame of pandas; it is {kind_of(table)}. Wrap it as by "
            "pandas.DataFrame(table), with names of columns."
        )
    for name, value, example in (("also", also, "sigma ~ x"), ("keep", keep, "w")):
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise DataError(
                f"`{name}` must be a list of text, such as [{example!r}]; it is {written(value)}."
            )
        if not isinstance(value, Iterator) and not all(isinstance(each, str) for each in value):
            raise DataError(
                f"`{name}` must be a list of text, such as [{example!r}]; it has {written(value)}."
            )


@public
def learn(
    formula: str,
    table: pd.DataFrame,
    also: Iterable[str] = (),
    *,
    keep: Sequence[str] = (),
    apart: Collection[str] = (),
    drop_missing: bool = False,
) -> Learned:
    """Learn a formula from a table.

    Args:
        formula: ``response ~ terms``, in the language of formulaic, which is close to R's.
        table: the data.
        also: companions for other predictors: ``log_variance ~ x``, ``sigma ~ C(group)``.
        keep: further columns that must be complete, such as weights. ``.`` leaves them out.
        apart: columns that ``.`` leaves out, such as groups.
        drop_missing: drop the rows that have a missing value in any column in use.

    Columns of dates are the number of days since 1970-01-01, as in R, or categories in ``C(date)``.

    Raises:
        DataError: a formula cannot be read, names a column that the table lacks, or meets values that it
            cannot use.

    Warns:
        DateWarning: dates are taken as numbers of days.
    """
    _check_arguments(formula, table, also, keep)
    also = tuple(also)
    names = _names(table, keep, apart)
    left, right, offsets, response = _read(formula, names)
    companions = read_companions(also, [name for name in names if name not in response])
    inputs = [name for terms in (right, *companions.values(), offsets) for name in variables(terms)]
    used = [*response, *inputs, *keep]
    require_columns(table, used)
    texts = _categories_of_dates(table, [left, right, *companions.values(), offsets])
    rows, dropped = complete_rows(without_dates(table, used, texts), used, drop_missing=drop_missing)
    _require_numbers(rows, left)
    _require_numbers_of_offsets(rows, offsets)
    _check_kept(table, rows, keep)
    main = learn_side(centred(right), rows)
    shared = main if main.intercept else learn_side(centred((INTERCEPT, *right)), rows)
    others = {name: learn_side(centred(terms), rows) for name, terms in companions.items()}
    offset = learn_side(offsets, rows, NUMBERS) if offsets else None
    response_side = learn_side(left, rows, NUMBERS)
    return Learned(Design(formula, also, response_side, main, shared, others, offset), rows, dropped)


@public
def check_columns(formula: str, table: pd.DataFrame, keep: Sequence[str] = ()) -> None:
    """Raise DataError where `learn` does since a formula cannot be read, or a column is not in the table."""
    _, right, offsets, response = _read(formula, _names(table, keep, ()))
    require_columns(table, [*response, *variables(right), *variables(offsets), *keep])


def _names(table: pd.DataFrame, keep: Collection[str], apart: Collection[str]) -> list[str]:
    """The names of the columns that ``.`` stands for."""
    return [str(name) for name in table.columns if name not in (*keep, *apart)]


def _read(formula: str, names: list[str]) -> tuple[Terms, Terms, Terms, tuple[str, ...]]:
    """The left and the right side of a formula, its offsets, and the columns of the response."""
    left, right, offsets = read_formula(formula, names)
    response = _response_columns(formula, left)
    _check_sides(formula, left, right)
    return left, right, offsets, response


def _check_sides(formula: str, left: Terms, right: Terms) -> None:
    if not formula.partition("~")[2].strip():
        raise DataError(f"the formula `{formula}` has nothing after its ~. Write `1` for an intercept alone.")
    both = [term[0][0] for term in left if term in right]
    if both:
        raise DataError(
            f"in `{shown(formula)}`, the response `{both[0]}` is on the right, too. Leave it out."
        )


def _response_columns(formula: str, left: Terms) -> tuple[str, ...]:
    found = variables(left)
    if not found:
        raise DataError(f"the formula `{formula}` has no response. Write it as `y ~ x`, with y a column.")
    return found


def _categories_of_dates(table: pd.DataFrame, sides: Iterable[Terms]) -> set[str]:
    """The columns of dates that are categories; a warning names those that are numbers of days."""
    factors = tuple({factor for terms in sides for term in terms for factor in term})
    dates = {name for name in variables((factors,)) if is_date(table[name])}
    others = tuple(factor for factor in factors if not _is_category(*factor))
    numbers = dates.intersection(variables((others,)))
    for name in sorted(numbers):
        warnings.warn(
            f"column `{name}` holds dates, which the formula takes as the number of days since 1970-01-01; "
            f"C({name}) takes them as categories.",
            DateWarning,
            stacklevel=3,
        )
    return dates - numbers


def _is_category(expression: str, method: str) -> bool:
    return method == "python" and categorical_column(expression, method) is not None


def _check_kept(table: pd.DataFrame, rows: pd.DataFrame, names: Iterable[str]) -> None:
    for name in names:
        if is_date(table[name]):
            raise DataError(f"column `{name}` needs numbers, and holds dates. Name another column.")
        if not is_number(rows[name]):
            raise DataError(f"column `{name}` needs numbers: {first_text(rows[name])}. Correct it.")


def _require_numbers_of_offsets(table: pd.DataFrame, offsets: Terms) -> None:
    for name in variables(offsets):
        if not is_number(table[name]):
            raise DataError(f"the offset `{name}` needs numbers: {first_text(table[name])}. Correct it.")


def _require_numbers(table: pd.DataFrame, left: Terms) -> None:
    """Raise DataError where the response is text."""
    for text, how in (expression for term in left for expression in term):
        name = categorical_column(text, how)
        if name is not None and not is_number(table[name]):
            example = table[name].iloc[0]
            raise DataError(
                f"the response `{name}` holds text where numbers are needed: {first_text(table[name])}. "
                f"Correct it, or write the left side of two classes as `{{{name} == {written(example)}}}`."
            )
