"""The arguments of a fit as the caller gave them → arrays, and what is to be kept with the fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from torch.utils.data import DataLoader, Dataset

from neglog.alignment import common_labels
from neglog.arguments import flag
from neglog.conversion import are_arrays, check_unmasked
from neglog.errors import DataError, ModelError
from neglog.handlers import Model
from neglog.inputs.blueprint import Blueprint, check_no_columns
from neglog.inputs.classes import Classes, Labels, coded, first_is_reference, labelled, needs_numbers
from neglog.inputs.complete import learned_rows
from neglog.inputs.formulas import is_formula, joint_formulas
from neglog.inputs.frames import as_table, of_pandas
from neglog.layers import is_network
from neglog.models.named import model_of
from neglog.offset import OFFSET_KEYWORD, with_offset
from neglog.signatures import model_keywords, roles_of
from neglog.solvers.training import Training
from neglog.split.reading import split_of
from neglog.streams.sources import held_by, pair_of
from neglog.streams.stream import stream_of
from neglog.tracing import model_name, positive_names, predictor_names
from neglog.training_objectives import check_is_likelihood, inside

if TYPE_CHECKING:
    import pandas as pd


Result = TypeVar("Result")
_FACTOR = re.compile(r"\s*C\(\s*(`[^`]+`|[\w.]+)\s*\)\s*")

OF_EVERY_MODEL = ("weights", "groups")
"""The row-wise arguments that are none of a model."""
STREAMING = ("mle", "map_estimate")
"""Functions that read the rows of a data set in batches."""
CODING = ("mle", "map_estimate")
"""Functions whose designs may have categories as codes."""
TRAINERS = ("mle", "ensemble", "cross_validate")
"""Functions that fit a model by an objective of training."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """A model and its data as arrays, and what is kept with the fit: groups of rows, and a blueprint."""

    model: Model
    x: Any
    y: Any
    weights: Any = None
    keywords: Mapping[str, Any] = field(default_factory=dict)
    groups: Any = None
    blueprint: Blueprint | None = None
    batch_size: int | None = None
    """That of the loader of torch that the rows came from."""

    def sized(self, solver: Any) -> Any:
        """The solver with the batch size of the loader, where it takes one.

        Raises:
            DataError: it has another one.
        """
        if self.batch_size is None or not isinstance(solver, Training):
            return solver
        own = solver.__dict__["batch_size"]
        if own not in (None, self.batch_size):
            raise DataError(
                f"`batch_size` is {own}, and the loader has {self.batch_size}. Leave one of them out."
            )
        solver = copy(solver)
        object.__setattr__(solver, "batch_size", self.batch_size)
        return solver

    @property
    def arguments(self) -> dict[str, Any]:
        """The data as arguments of a fit to arrays."""
        return {"x": self.x, "y": self.y, "weights": self.weights, **self.keywords}

    def kept(self, result: Result) -> Result:
        """A result of the fit, with what is kept of its inputs."""
        changes = {"blueprint": self.blueprint, "groups": self.groups}
        outputs = getattr(result, "outputs", {})
        classes = () if self.blueprint is None else self.blueprint.classes
        if outputs and classes and first_is_reference(self.model):
            changes["outputs"] = {name: _labelled(name, each, classes) for name, each in outputs.items()}
        changes = {name: value for name, value in changes.items() if value is not None}
        return replace(result, **changes) if changes else result  # type: ignore[type-var]


def given(
    caller: Callable[..., Any],
    model: Model | str,
    x: Any,
    y: Any,
    *,
    data: Any = None,
    weights: Any = None,
    groups: Any = None,
    drop_missing: bool = False,
    keywords: Mapping[str, Any] | None = None,
    num_rows: int | None = None,
    solver: Any = None,
) -> Inputs:
    """The arguments of a fit as arrays, or as a stream where a `solver` reads rows in batches.

    With a formula, or a mapping from predictors to formulas, in the place of `x`, the table is `y` or `data`,
    and row-wise arguments may name its columns.

    Raises:
        DataError: as `neglog.formula.learn`; an argument names a column without a table.
        ModelError: there is no such model, or no response.
    """
    keywords = keywords or {}
    model = offset_model(model_of(model), keywords)
    _check_trains(caller, model)
    if isinstance(x, Dataset | DataLoader):
        beside = {"y": y, "data": data, "weights": weights, "groups": groups, **keywords}
        return _of_torch(caller, model, x, beside, num_rows, solver)
    _check_no_number(num_rows)
    x = split_of(x)
    if _are_plain(x, y, data, drop_missing) and are_arrays(x, y, weights, groups, *keywords.values()):
        return _of_arrays(model, x, y, weights, groups, keywords)
    drop_missing = flag("drop_missing", drop_missing)
    if is_formula(x):
        by_row = {"weights": weights, "groups": groups, **keywords}
        return _of_formula(caller, model, x, formula_table(caller, y, data), by_row, drop_missing)
    _check_no_formulas(x)
    _check_no_table(caller, y, data, drop_missing)
    _check_values(caller, model, {"weights": weights, "groups": groups}, keywords)
    keywords = {name: of_pandas(value) for name, value in keywords.items()}
    x, y, weights, groups = (of_pandas(value) for value in (x, y, weights, groups))
    return _of_arrays(model, x, y, weights, groups, keywords)


def _are_plain(x: Any, y: Any, data: Any, drop_missing: bool) -> bool:
    """Whether there are a design and a response, and no table."""
    return x is not None and y is not None and data is None and drop_missing is False


def _check_no_number(num_rows: int | None) -> None:
    """Refuse a number of rows beside rows that have one."""
    if num_rows is not None:
        raise DataError(
            "`num_rows` is the number of rows of a data set or a loader of torch without a length, and `x` "
            "is none. Leave it out."
        )


def _check_trains(caller: Callable[..., Any], model: Model) -> None:
    """Refuse an objective of training in the place of a likelihood."""
    if caller.__name__ not in TRAINERS:
        check_is_likelihood(model, f"`{caller.__name__}`")


def _check_values(
    caller: Callable[..., Any], model: Model, others: Mapping[str, Any], keywords: Mapping[str, Any]
) -> None:
    """Refuse names of columns where there is no table; a keyword that there is not is named first."""
    if any(isinstance(value, str) for value in keywords.values()):
        roles_of(model, keywords, caller)
    check_no_columns({**others, **keywords})


def _of_torch(
    caller: Callable[..., Any],
    model: Model,
    x: Any,
    others: Mapping[str, Any],
    num_rows: int | None,
    solver: Any,
) -> Inputs:
    """A data set or a loader of torch: its tensors where it holds them in memory, and else a stream.

    Raises:
        DataError: arguments beside it; a function that needs the rows as tensors.
    """
    name = type(x).__name__
    beside = next((each for each, value in others.items() if value is not None), None)
    if beside is not None:
        raise DataError(
            f"`x` is a {name}, which has all that belongs to its rows, and `{beside}` is given too. Let each "
            "item be a mapping with 'x', 'y', 'weights' and other row-wise arguments; or give tensors."
        )
    held = held_by(x, isinstance(solver, Training))
    if held is not None and num_rows is None:
        inputs = _of_arrays(model, *pair_of(x, held[0]), None, None, {})
        return replace(inputs, batch_size=held[1])
    if caller.__name__ not in STREAMING:
        rows = "dataset" if isinstance(x, Dataset) else "loader.dataset"
        raise DataError(
            f"`x` is a {name}, and `{caller.__name__}` needs the rows as tensors: "
            f"x, y = torch.utils.data.default_collate(list({rows})). Rows that do not fit into memory are "
            "read by neglog.spool, or by neglog.mle in batches."
        )
    return Inputs(model, stream_of(x, num_rows, getattr(solver, "batch_size", None)), None)


def _check_no_formulas(x: Any) -> None:
    """Refuse a list of formulas."""
    if isinstance(x, list | tuple) and any(isinstance(each, str) and "~" in each for each in x):
        raise ModelError(
            "`x` is a list of formulas. Give each its predictor: {'mean': 'y ~ x', 'sigma': '~ z'}."
        )


def _check_no_table(caller: Callable[..., Any], y: Any, data: Any, drop_missing: bool) -> None:
    """Refuse arguments for formulas where there is none, and a missing response."""
    if data is not None or drop_missing:
        name = "drop_missing" if data is None else "data"
        raise ModelError(
            f"`{name}` is for formulas: {caller.__name__}(model, 'y ~ x', data). With arrays leave it out."
        )
    if isinstance(y, str) and "~" in y:
        raise ModelError(
            f"`y` is the formula {y!r}, which is the argument before: {caller.__name__}(model, {y!r}, data)."
        )
    if y is None:
        raise ModelError(
            f"`{caller.__name__}` needs `y`, the response; or give a formula and its table: "
            f"{caller.__name__}(model, 'y ~ x', data)."
        )


def _of_arrays(
    model: Model, x: Any, y: Any, weights: Any, groups: Any, keywords: Mapping[str, Any]
) -> Inputs:
    """Arguments without a table; the labels of classes become codes."""
    if groups is not None:
        _check_groups(x, y, groups)
    y, labels = coded(model, y)
    blueprint = Blueprint(classes=labels) if labels else None
    return Inputs(model, x, y, weights, keywords, groups, blueprint)


def _check_groups(x: Any, y: Any, groups: Any) -> None:
    """Raise DataError unless the groups have an entry for each row, with its label."""
    check_unmasked("groups", groups)
    common_labels({"x": x, "y": y, "groups": groups})
    rows, number = (np.shape(value)[0] if np.ndim(value) else 1 for value in (y, groups))
    if rows != number:
        raise DataError(f"`groups` must have one entry for each of {rows} rows; it has {number}.")


def _labelled(name: str, outputs: Sequence[str], classes: Labels) -> tuple[str, ...]:
    """The names of the outputs of a predictor: those of all classes but the first, under their labels."""
    if len(outputs) != len(classes) - 1:
        return tuple(outputs)
    return tuple(f"{name}[{label}]" for label in classes[1:])


def offset_model(model: Model, keywords: Collection[str]) -> Model:
    """The model, with a handler for an offset, where one is given that is no argument of its own."""
    if OFFSET_KEYWORD not in keywords:
        return model
    known = model_keywords(model)
    return model if known is None or OFFSET_KEYWORD in known else inside(model, with_offset)


def formula_table(caller: Callable[..., Any], y: Any, data: Any) -> pd.DataFrame:
    """The table of a formula, which is `y` or `data`."""
    if y is None and data is None:
        raise ModelError(f"a formula needs its table: {caller.__name__}(model, 'y ~ x', data).")
    if y is not None and data is not None:
        raise ModelError("`data` is the table of the formula, and so is `y`; give one of them.")
    return as_table("data", y if data is None else data)


def _of_formula(
    caller: Callable[..., Any],
    model: Model,
    formulas: Any,
    table: pd.DataFrame,
    by_row: Mapping[str, Any],
    drop_missing: bool,
) -> Inputs:
    keywords = [name for name in by_row if name not in OF_EVERY_MODEL]
    bounds = roles_of(model, dict.fromkeys(keywords), caller).bounds
    predictors, positive = design_names_of(model, keywords)
    formula, also = joint_formulas(formulas, model, predictors, set(map(str, table.columns)))
    formula, categories = _of_factor(formula, table, model)
    coded_table, labels, column = _coded_response(model, formula, categories)
    table = coded_table if labels else table
    learned, found = learned_rows(formula, table, also, by_row, bounds, drop_missing)
    model = offset_model(model, found)
    named = {name: value for name, value in by_row.items() if isinstance(value, str)}
    if learned.design.offset is not None and by_row.get(OFFSET_KEYWORD) is not None:
        named.setdefault(OFFSET_KEYWORD, "")
    blueprint = Blueprint(learned.design, predictors, positive, named, learned.dropped, labels, column)
    are_coded = caller.__name__ in CODING
    x = blueprint.named(learned.table) if are_coded else blueprint.designs(learned.table)
    y = learned.design.y(learned.table)
    return Inputs(model, x, y, found.pop("weights"), found, found.pop("groups"), blueprint)


def _of_factor(formula: str, table: pd.DataFrame, model: Model | None = None) -> tuple[str, pd.DataFrame]:
    """``C(g) ~ x`` as ``g ~ x``, with the column as categories; any other formula as it is.

    Raises:
        DataError: the model needs numbers.
    """
    left, _, right = formula.partition("~")
    found = _FACTOR.fullmatch(left)
    column = found[1].strip("`") if found else ""
    if found is None or column not in table or table[column].ndim > 1:
        return formula, table
    if model is not None and needs_numbers(model):
        raise DataError(
            f"`{model_name(model)}` needs a response of numbers, and `{left.strip()}` makes categories of "
            f"them. Write `{found[1]} ~ ...`, or fit `bernoulli`, `categorical` or `ordinal`."
        )
    import pandas as pd

    return f"{found[1]} ~{right}", table.assign(**{column: pd.Categorical(table[column])})


def _coded_response(model: Model, formula: str, table: pd.DataFrame) -> tuple[pd.DataFrame, Labels, str]:
    """The table with codes in the place of the labels of a response, these labels, and their column."""
    column = _response_column(formula, table)
    if not column:
        return table, (), ""
    codes, labels = coded(model, table[column])
    return (table.assign(**{column: codes}), labels, column) if labels else (table, (), "")


def labelled_response(formula: str, table: pd.DataFrame) -> tuple[str, pd.DataFrame, Classes | None]:
    """The formula, the table with codes in the place of a response of text or categories, and its classes."""
    formula, table = _of_factor(formula, table)
    column = _response_column(formula, table)
    if not column:
        return formula, table, None
    codes, classes = labelled(table[column])
    return formula, table if classes is None else table.assign(**{column: codes}), classes


def _response_column(formula: str, table: pd.DataFrame) -> str:
    """The column that is the response as it is; empty where it is computed."""
    column = formula.partition("~")[0].strip().strip("`")
    return column if column in table and table[column].ndim == 1 else ""


def design_names_of(model: Model, keywords: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The linear predictors of a model, and its constants that may have a design; none of a network."""
    if is_network(model):
        return (), ()
    rows: dict[str, Any] = dict.fromkeys(keywords)
    return predictor_names(model, **rows), positive_names(model, **rows)
