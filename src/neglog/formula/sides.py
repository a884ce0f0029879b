"""One side of a formula: terms that learn their levels and transforms from a table and apply to any other.

formulaic does the work; a design matrix here comes without its intercept column, since models have
their own bias, but with categories coded as if it were there.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from formulaic import ModelSpec, SimpleFormula
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.parser.types import Factor, Term

from neglog.errors import DataError
from neglog.formula.categories import as_before, check_category
from neglog.formula.coded import Coded, CodedMaterializer
from neglog.formula.derived import MadeUpRows
from neglog.formula.evaluation import LEARNED, Materializer, Truths
from neglog.formula.expressions import categorical_column, columns_used
from neglog.formula.limits import MAX_COLUMNS, shown
from neglog.formula.saved import (
    INTERCEPT,
    Terms,
    check_fields,
    check_level_count,
    checked_levels,
    checked_names,
    checked_terms,
    checked_transforms,
    state_keys,
)
from neglog.formula.tagged import from_json, to_json
from neglog.tables import is_number, require_columns

_QUOTED_ERROR = re.compile(r"Unable to evaluate factor `(.*)`\. \[\w+: (.*)\]")
# What functions of a formula raise for arguments that they do not take.
_FAILURES = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, MemoryError, RecursionError)


@dataclass(frozen=True)
class Side:
    """Terms, learned: the state of their transforms and the levels of their categories.

    `texts` are the table's columns that held text, `columns` the names of the design's columns.
    """

    terms: Terms
    transforms: Mapping[str, Any]
    levels: Mapping[str, Sequence[Any]]
    texts: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def intercept(self) -> bool:
        """Whether the terms include a constant."""
        return INTERCEPT in self.terms

    @property
    def variables(self) -> tuple[str, ...]:
        """The columns of the table that the terms use."""
        return variables(self.terms)

    def design(self, table: pd.DataFrame) -> pd.DataFrame:
        """The design matrix of a table: float64, one column for each of `columns`, the rows' labels kept.

        Raises:
            DataError: a column is missing from the table, or holds text where it held numbers; a category
                is new; or a transform gives no finite number.
        """
        return self.coded(table).frame()

    def coded(self, table: pd.DataFrame) -> Coded:
        """The design matrix of a table, with categories as codes.

        Raises:
            DataError: as `design`.
        """
        require_columns(table, self.variables)
        levels = _levels_of_columns(self)
        used = {
            name: as_before(table[name], name in self.texts, levels.get(name, ())) for name in self.variables
        }
        frame = pd.DataFrame(used, index=table.index)
        _check_levels(frame, self)
        rows = CodedMaterializer(frame, len(self.columns), Truths.of_levels(self.levels))
        matrix, _ = _materialize(self.terms, rows, self.transforms, self.levels)
        design = _finite(matrix)
        if design.columns != self.columns:
            raise DataError(
                f"the table gives the columns {list(design.columns)}; the fit has {list(self.columns)}."
            )
        return replace(design, intercept=self.intercept)

    def to_json(self) -> dict[str, Any]:
        """The side as plain JSON values, without any row of the data.

        Raises:
            DataError: a transform keeps a state that cannot be written without pickle.
        """
        return {
            "terms": [[list(expression) for expression in term] for term in self.terms],
            "transforms": to_json(self.transforms),
            "levels": to_json(self.levels),
            "texts": list(self.texts),
            "columns": list(self.columns),
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Side:
        """The side that `to_json` wrote.

        Raises:
            DataError: a value is damaged, or an expression does what a formula may not do.
            KeyError, TypeError, ValueError: the structure is not that of a side.
        """
        check_fields(saved, {"terms", "transforms", "levels", "texts", "columns"})
        terms = checked_terms(saved["terms"])
        used = variables(terms)  # This reads every expression, and refuses those that do more than compute.
        state = {key: from_json(saved[key]) for key in ("transforms", "levels")}
        if not all(isinstance(value, dict) for value in state.values()):
            raise TypeError("transforms and levels must be dictionaries")
        texts = checked_names(saved["texts"], "texts")
        if texts != tuple(name for name in used if name in texts):
            raise ValueError("`texts` are not columns of the terms, in their order")
        side = cls(
            terms,
            transforms=checked_transforms(terms, state["transforms"]),
            levels=checked_levels(terms, state["levels"], texts),
            texts=texts,
            columns=checked_names(saved["columns"], "columns"),
        )
        side.check_derived()
        return side

    def check_derived(self) -> None:
        """Raise DataError unless terms, states, levels and texts give the columns and the levels."""
        truths = Truths.of_levels(self.levels)
        rows = MadeUpRows(self.variables, self.texts, len(self.columns), truths)
        matrix, spec = _materialize(self.terms, rows, self.transforms, self.levels, any_level=True)
        columns = tuple(name for name in matrix.columns if name != "Intercept")
        found = {"columns": columns, "levels": _levels(spec)}
        for name, value in found.items():
            saved = getattr(self, name)
            if value != saved:
                raise DataError(
                    f"the saved formula is damaged: its `{name}` are {shown(str(saved))}, and its terms give "
                    f"{shown(str(value))}. Save the model again."
                )


def learn_side(terms: Terms, table: pd.DataFrame, truths: Truths = LEARNED) -> Side:
    """Learn terms from the complete rows of a table.

    Args:
        terms: the terms of one side of a formula.
        table: the complete rows.
        truths: whether columns of truth values are factors; in a response and in offsets they are numbers.

    Raises:
        DataError: an expression cannot be evaluated, gives no finite number, or meets a text column that
            looks like numbers with a mistake.
    """
    names = variables(terms)
    for expression, how in dict.fromkeys(expression for term in terms for expression in term):
        _check_factor(expression, how, table)
    matrix, spec = _materialize(terms, CodedMaterializer(table[list(names)], MAX_COLUMNS, truths), {}, {})
    texts = tuple(name for name in names if not is_number(table[name]))
    transforms = {
        key: spec.transform_state[key] for key in state_keys(terms)
    }  # formulaic evaluates them in the order of a set.
    return Side(terms, transforms, _levels(spec), texts, _finite(matrix).columns)


def _levels(spec: ModelSpec) -> dict[str, list[Any]]:
    """The levels of each category, by its expression."""
    return {
        expression: list(state["categories"])
        for expression, (kind, state) in spec.encoder_state.items()
        if kind is Factor.Kind.CATEGORICAL and "categories" in state
    }


def _check_factor(expression: str, how: str, table: pd.DataFrame) -> None:
    name = categorical_column(expression, how)
    if how == "lookup":
        check_category(table[expression])
    if name is not None and (how == "python" or not is_number(table[name])):
        check_level_count(expression, how, table[name].nunique())


def variables(terms: Terms) -> tuple[str, ...]:
    """The columns of a table that terms use, in order.

    Raises:
        DataError: an expression does what a formula may not do.
    """
    return tuple(
        dict.fromkeys(name for term in terms for text, how in term for name in columns_used(text, how))
    )


def _materialize(
    terms: Terms,
    rows: Materializer,
    transforms: Mapping[str, Any],
    levels: Mapping[str, Sequence[Any]],
    *,
    any_level: bool = False,
) -> tuple[Any, ModelSpec]:
    """formulaic's model matrix of rows, which may have levels that are not known with `any_level`.

    What columns a term gives follows from the levels: no structure is kept.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter(*(("ignore",) if any_level else ("error", DataMismatchWarning)))
            matrix = rows.get_model_matrix(_spec(terms, transforms, levels))
    except DataMismatchWarning:
        texts = ", ".join(f"`{text}`" for term in terms for text, how in term if how == "python")
        raise DataError(
            f"a value is not among the levels of {texts}. List its level, or drop its row."
        ) from None
    except DataError:
        raise
    except (FormulaicError, *_FAILURES) as error:
        if isinstance(error.__cause__, DataError):  # It names the expression, and what to do.
            raise error.__cause__ from None
        raise DataError(
            f"the formula cannot be evaluated: {_reason(error)}. Correct the column or the expression."
        ) from None
    return matrix.__wrapped__, matrix.model_spec


def _reason(error: Exception) -> str:
    """Why a factor cannot be computed, without the classes of Python's errors that formulaic quotes."""
    quoted = _QUOTED_ERROR.fullmatch(str(error).replace("\n", " "))
    if quoted is None:
        return str(error).replace("\n", " ").rstrip(".")
    return f"`{shown(quoted[1])}`: {quoted[2].rstrip('.')}"


def _spec(terms: Terms, transforms: Mapping[str, Any], levels: Mapping[str, Sequence[Any]]) -> ModelSpec:
    """Terms, states and levels in formulaic's words."""
    products = [Term([Factor(text, eval_method=how) for text, how in term]) for term in terms]
    return ModelSpec(
        formula=SimpleFormula(products, _ordering="none"),
        na_action="ignore",  # The rows are complete, and what is not finite is reported below.
        output="pandas",
        transform_state=copy.deepcopy(dict(transforms)),  # formulaic writes into this.
        encoder_state={
            text: (Factor.Kind.CATEGORICAL, {"categories": list(found)}) for text, found in levels.items()
        },
    )


def _finite(design: Coded) -> Coded:
    """A design whose numbers are all finite.

    Raises:
        DataError: one is not, with its column and its row.
    """
    for values, places in design.numbers():
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = bad[0]
            raise DataError(
                f"`{design.columns[places[column]]}` is {values[row, column]} in row {design.index[row]} and "
                "needs to be finite. Correct the row, or transform the column otherwise."
            )
    return design


def _levels_of_columns(side: Side) -> dict[str, Sequence[Any]]:
    """Column -> the levels that a term of its own has learned."""
    factors = dict.fromkeys(expression for term in side.terms for expression in term)
    columns = {text: categorical_column(text, how) for text, how in factors}
    return {
        name: side.levels[text] for text, name in columns.items() if name is not None and text in side.levels
    }


def _check_levels(table: pd.DataFrame, side: Side) -> None:
    """Raise DataError if a category was not there when the formula was learned."""
    for text, how in dict.fromkeys(expression for term in side.terms for expression in term):
        name, known = categorical_column(text, how), side.levels.get(text)
        if name is None or known is None:
            continue
        new = ~table[name].isin(list(known))
        if new.any():
            unseen = _listed(table[name][new].unique().tolist())
            raise DataError(
                f"column `{name}` has levels that the fit has not seen: {unseen} (row {new.idxmax()}). "
                f"It knows {_listed(known)}. Drop such rows, or fit again with them."
            )


def _listed(values: Sequence[Any], most: int = 10) -> str:
    shown = [repr(getattr(value, "item", lambda value=value: value)()) for value in list(values)[:most]]
    return ", ".join(shown) + (f" and {len(values) - most} more" if len(values) > most else "")
