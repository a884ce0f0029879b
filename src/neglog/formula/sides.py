"""One side of a formula: terms that learn their levels and transforms from one table and serve any other.

formulaic does the work; a design matrix here comes without its intercept column, since models have
their own bias, but with categories coded as if it were there.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from formulaic import ModelSpec, SimpleFormula
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.parser.types import Factor, Term

from neglog.errors import DataError
from neglog.formula.categories import check_category, first_text
from neglog.formula.evaluation import Materializer
from neglog.formula.expressions import categorical_column, columns_used
from neglog.formula.limits import MAX_COLUMNS
from neglog.formula.saved import (
    Terms,
    check_level_count,
    checked_levels,
    checked_names,
    checked_terms,
    checked_transforms,
    state_keys,
)
from neglog.formula.tagged import from_json, to_json
from neglog.intercepts import mark_without_intercept
from neglog.tables import date_text, days, is_date, is_number, require_columns

# What functions of a formula raise for arguments that they do not take.
_FAILURES = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, MemoryError, RecursionError)

INTERCEPT = (("1", "literal"),)


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
        require_columns(table, self.variables)
        used = {name: _as_before(table[name], name in self.texts) for name in self.variables}
        frame = pd.DataFrame(used, index=table.index)
        _check_levels(frame, self)
        matrix, _ = _materialize(self.terms, frame, self.transforms, self.levels, len(self.columns))
        design = _numbers(matrix)
        if tuple(design.columns) != self.columns:
            raise DataError(f"the table gives the columns {list(design)}; the fit has {list(self.columns)}.")
        return design if self.intercept else mark_without_intercept(design)

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
        terms = checked_terms(saved["terms"])
        used = variables(terms)  # This reads every expression, and refuses those that do more than compute.
        state = {key: from_json(saved[key]) for key in ("transforms", "levels")}
        if not all(isinstance(value, dict) for value in state.values()):
            raise TypeError("transforms and levels must be dictionaries")
        texts = checked_names(saved["texts"], "texts")
        if not set(texts) <= set(used):
            raise ValueError("a column of text is not in the terms")
        return cls(
            terms,
            transforms=checked_transforms(terms, state["transforms"]),
            levels=checked_levels(terms, state["levels"]),
            texts=texts,
            columns=checked_names(saved["columns"], "columns"),
        )


def learn_side(terms: Terms, table: pd.DataFrame) -> Side:
    """Learn terms from the complete rows of a table.

    Raises:
        DataError: an expression cannot be evaluated, gives no finite number, or meets a text column that
            looks like numbers with a mistake.
    """
    names = variables(terms)
    for expression, how in dict.fromkeys(expression for term in terms for expression in term):
        _check_factor(expression, how, table)
    matrix, spec = _materialize(terms, table[list(names)], {}, {})
    levels = {
        expression: list(state["categories"])
        for expression, (_, state) in spec.encoder_state.items()
        if "categories" in state
    }
    texts = tuple(name for name in names if not is_number(table[name]))
    transforms = {
        key: spec.transform_state[key] for key in state_keys(terms)
    }  # formulaic evaluates them in the order of a set.
    return Side(terms, transforms, levels, texts, tuple(_numbers(matrix).columns))


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
    table: pd.DataFrame,
    transforms: Mapping[str, Any],
    levels: Mapping[str, Sequence[Any]],
    most: int = MAX_COLUMNS,
) -> tuple[pd.DataFrame, ModelSpec]:
    """formulaic's model matrix, of at most `most` columns besides the intercept.

    What columns a term gives follows from the levels: no structure is kept.
    """
    known = {text: (Factor.Kind.CATEGORICAL, {"categories": list(found)}) for text, found in levels.items()}
    products = [Term([Factor(text, eval_method=how) for text, how in term]) for term in terms]
    spec = ModelSpec(
        formula=SimpleFormula(products, _ordering="none"),
        na_action="ignore",  # The rows are complete, and what is not finite is reported below.
        output="pandas",
        transform_state=copy.deepcopy(dict(transforms)),  # formulaic writes into this.
        encoder_state=known,
    )
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error", DataMismatchWarning)
            matrix = Materializer(table, most).get_model_matrix(spec)
    except DataMismatchWarning:
        texts = ", ".join(f"`{text}`" for term in terms for text, how in term if how == "python")
        raise DataError(
            f"a value is not among the levels of {texts}. List its level, or drop its row."
        ) from None
    except DataError:
        raise
    except (FormulaicError, *_FAILURES) as error:
        reason = str(error).replace("\n", " ").rstrip(".")
        raise DataError(
            f"the formula cannot be evaluated: {reason}. Mend the column or the expression."
        ) from None
    return pd.DataFrame(matrix), matrix.model_spec


def _numbers(matrix: pd.DataFrame) -> pd.DataFrame:
    """The matrix as finite floats, without its intercept."""
    try:
        design = matrix.drop(columns="Intercept", errors="ignore").astype("float64")
    except (TypeError, ValueError) as error:
        raise DataError(f"a term of the formula is not a number: {error}. Write C(...) around it.") from None
    bad = np.argwhere(~np.isfinite(design.to_numpy()))
    if len(bad):
        row, column = bad[0]
        value, where = design.to_numpy()[row, column], design.index[row]
        raise DataError(
            f"`{design.columns[column]}` is {value} in row {where} and needs to be finite. "
            "Correct the row, or transform the column otherwise."
        )
    return design


def _as_before(column: pd.Series, text: bool) -> pd.Series:
    """The column, as text if it was text when the formula was learned."""
    if is_date(column):
        return date_text(column) if text else days(column)
    if text:  # Of the codes "1", "2" and "x" a new table may have only those that look like numbers.
        return column.astype("str") if is_number(column) else column
    if not is_number(column):
        raise DataError(
            f"column `{column.name}` holds text where numbers are needed: {first_text(column)}. Correct it."
        )
    return column


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
