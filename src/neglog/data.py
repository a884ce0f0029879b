"""Data: arrays, tensors and data frames become validated tensors.

Nothing is broadcast, rounded, clipped or dropped in silence. Integer and boolean arrays are refused as
designs, since as often as not they are category codes; the columns of a data frame may hold integers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neglog.alignment import common_labels
from neglog.arguments import written
from neglog.conversion import (
    ALL,
    Named,
    are_arrays,
    by_key,
    check_unmasked,
    column_names,
    frame_tensor,
    integers_message,
    is_frame,
    is_integer,
    is_series,
    series_tensor,
    to_tensor,
)
from neglog.distributions.supports import filled
from neglog.errors import DataError
from neglog.intercepts import without_intercept
from neglog.magnitudes import LARGEST_DESIGN, check_design_magnitude, check_response_magnitude, check_weights
from neglog.predictors import Designs, row_count

if TYPE_CHECKING:
    import pandas as pd

CORRECT = "drop or correct these rows"
"""The remedy for values that are not finite."""
Columns = Mapping[str, tuple[str, ...]]
Parts = dict[tuple[str, str], Tensor]


@dataclass(frozen=True)
class Roles:
    """The roles of row-wise keywords in a model: bounds, which may be infinite, or values of a support."""

    bounds: Collection[str] = ()
    supports: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """Validated data: designs `(N, P)`, response `(N,)` or `(N, D)`, weights `(N,)`, row-wise keywords."""

    x: Designs
    y: Tensor
    weights: Tensor | None = None
    keywords: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Columns = field(default_factory=dict)
    responses: tuple[str, ...] = ()
    """The names of the columns of a `y` with many, where it has them."""
    integer: bool = False
    """Whether `y` was given as an array of integers, which only a discrete model takes."""
    index: Tensor | None = None
    """The row numbers in the user's data, where some rows were left out."""
    labels: pd.Index | None = None
    """The labels of all rows of the user's data, where a series or a data frame has some."""
    given: int | None = None
    """The number of rows in the user's data; None if no rows were left out."""
    origin: Tensor | None = None
    """What was subtracted from the user's `y`: a number, or one for each component."""
    without_intercept: frozenset[str] = frozenset()
    """The keys of the designs whose predictor has its bias at 0; the key of a plain design is `ALL`."""
    held_out: Data | None = None
    """Rows that are no part of the fit, on which a training is validated."""

    @cached_property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.y)

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The least and the largest entry of `y`; NaN where an entry is missing, 0 where there is none."""
        if not self.y.numel():
            return 0.0, 0.0
        low, high = torch.aminmax(self.y)
        return float(low), float(high)

    @property
    def is_missing(self) -> bool:
        """Whether an entry of `y` is missing."""
        return math.isnan(self.ends[0])

    @property
    def log_size(self) -> float:
        """The log of the largest magnitude of `y`; 0 of zeros, and where nothing is known."""
        low, high = self.ends
        top = float(self.y.abs().nan_to_num(0.0).amax()) if math.isnan(low) else max(-low, high)
        return math.log(top) if 0 < top < math.inf else 0.0

    @property
    def count(self) -> float:
        """The number of observations: the sum of the frequency weights."""
        return float(self.rows) if self.weights is None else float(self.weights.sum())

    def row(self, i: int) -> int:
        """The number that row `i` has in the user's data."""
        return i if self.index is None else int(self.index[i])

    def response(self, i: int) -> float:
        """The response `(N,)` that row `i` has in the user's data."""
        return float(self.y[i] if self.origin is None else self.y[i] + self.origin)

    def check_rows(self, name: str, values: Any) -> None:
        """Refuse further arguments of these rows that have not an entry for each of the user's.

        Raises:
            DataError: other labels, another number of rows, or a mask.
        """
        check_unmasked(name, values)
        common_labels({name: values}, self.labels)
        rows = self.rows if self.given is None else self.given
        if len(values) != rows:
            raise DataError(f"`{name}` must have one entry for each of {rows} rows; it has {len(values)}.")

    def parts(self) -> Parts:
        """Everything that has rows: ("y", ""), ("x", key), ("weights", ""), ("keywords", name)."""
        parts = {("y", ""): self.y} | {("x", key): value for key, value in by_key(self.x).items()}
        if self.weights is not None:
            parts["weights", ""] = self.weights
        return parts | {("keywords", key): value for key, value in self.keywords.items()}

    def made_of(self, parts: Mapping[tuple[str, str], Tensor]) -> Data:
        """The data with some parts replaced."""
        x = {key: parts["x", key] for key in self.x} if isinstance(self.x, Mapping) else parts["x", ALL]
        keywords = {key: parts["keywords", key] for key in self.keywords}
        return replace(self, x=x, y=parts["y", ""], weights=parts.get(("weights", "")), keywords=keywords)

    def take(self, index: Tensor | slice) -> Data:
        """The data of the rows that `index` names; those of a slice share their memory."""

        def of(value: Tensor) -> Tensor:
            return value[index] if isinstance(index, slice) else value.index_select(0, index)

        x = {key: of(value) for key, value in self.x.items()} if isinstance(self.x, Mapping) else of(self.x)
        weights = None if self.weights is None else of(self.weights)
        keywords = {key: of(value) for key, value in self.keywords.items()}
        numbers = torch.arange(*index.indices(self.rows)) if isinstance(index, slice) else index
        numbers = numbers if self.index is None else self.index[numbers]
        given = self.rows if self.given is None else self.given
        return replace(
            self, x=x, y=of(self.y), weights=weights, keywords=keywords, index=numbers, given=given
        )


def prepare(
    x: Any,
    y: Any,
    *,
    weights: Any = None,
    dtype: torch.dtype = torch.float64,
    roles: Roles | None = None,
    may_be_empty: bool = False,
    **keywords: Any,
) -> Data:
    """Validate designs, response, weights and row-wise keywords; rows of weight 0 are left out.

    Entries of `y` that are NaN are missing, which `observed` verifies.

    Raises:
        DataError: wrong kind, shape or length, labels of rows that differ, no rows, NaN or infinite values,
            weights that are negative or all 0.
    """
    designs, columns = _designs(x, dtype, None)
    plain = are_arrays(*by_key(x).values(), y, weights, *keywords.values())
    labels = None if plain else common_labels({"x": x, "y": y, "weights": weights} | keywords)
    given = {"y": y} | keywords | ({} if weights is None else {"weights": weights})
    vectors = {key: _vector(key, value, dtype) for key, value in given.items()}
    rows = row_count(designs)
    _check_lengths(vectors, rows)
    if rows == 0 and not may_be_empty:
        raise DataError("the data have no rows; there is nothing to fit.")
    data = Data(
        designs,
        vectors.pop("y"),
        vectors.pop("weights", None),
        vectors,
        columns,
        responses=() if plain else column_names(y),
        integer=is_integer(y),
        labels=labels,
        without_intercept=frozenset() if plain else without_intercept(x),
    )
    data = data if data.weights is None else _of_positive_weight(data, data.weights)
    check_roles(data, roles or Roles())
    return data


def _check_lengths(vectors: Mapping[str, Tensor], rows: int) -> None:
    for key, value in vectors.items():
        if len(value) != rows:
            raise DataError(f"`{key}` has {len(value)} rows and `x` has {rows}; they must be the same.")


def check_row_weights(weights: Any, rows: int) -> None:
    """Refuse frequency weights of some rows that no fit to them would take.

    Raises:
        DataError: another shape or number of rows; NaN, infinite or negative weights, or none above 0.
    """
    vector = _vector("weights", weights, torch.float64)
    _check_lengths({"weights": vector}, rows)
    check_weights(vector)


def prepare_fit(
    x: Any,
    y: Any,
    *,
    weights: Any = None,
    dtype: torch.dtype = torch.float64,
    roles: Roles | None = None,
    **keywords: Any,
) -> Data:
    """`prepare` for a fit, in which the unit of `y` must be within the range of float64.

    Raises:
        DataError: as `prepare`; a response of a magnitude at which there is no likelihood in float64.
    """
    data = prepare(x, y, weights=weights, dtype=dtype, roles=roles, **keywords)
    check_response_magnitude(data.y, ends=data.ends)
    return data


def observed(data: Data, missing: bool) -> Data:
    """The data of the rows that have an observed entry of `y`.

    Raises:
        DataError: an entry is missing, and `missing` values are not admitted; or all entries are.
    """
    if not math.isnan(data.ends[0]):
        return data
    unknown = torch.isnan(data.y)
    if not missing:
        remedy = "drop or correct these rows, or fit `masked(model)`, which leaves out what is missing"
        _check_finite("y", data, unknown, remedy)
    kept = (~unknown).reshape(len(data.y), -1).any(1)
    if not bool(kept.any()):
        raise DataError("`y` is missing in every row; there is nothing to fit.")
    return data if bool(kept.all()) else data.take(kept.nonzero()[:, 0])


def prepare_designs(
    x: Any, *, dtype: torch.dtype = torch.float64, columns: Columns | None = None
) -> tuple[Designs, Columns]:
    """Designs as tensors, with the names of their columns.

    With `columns`, those that a model was fitted on, the designs must have the same ones: a data frame is
    read by name, an array by position.

    Raises:
        DataError: as `prepare`; a predictor or a column that the fit had is missing.
    """
    designs, found = _designs(x, dtype, columns)
    _check_designs(designs, found)
    return designs, found


def _designs(x: Any, dtype: torch.dtype, columns: Columns | None) -> tuple[Designs, Columns]:
    """Designs as tensors and the names of their columns, which must be `columns` where these are given."""
    if isinstance(x, Mapping):
        check_keys(x)
    if columns is not None:
        _check_predictors(x, columns)
    expected = columns or {}
    if not isinstance(x, Mapping):
        tensor, names = _design("x", x, dtype, expected.get(ALL))
        return tensor, {ALL: names}
    designs, found = {}, {}
    for key, value in x.items():
        designs[key], found[key] = _design(f"x[{key!r}]", value, dtype, expected.get(key))
    lengths = {key: len(value) for key, value in designs.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the designs in `x` have different numbers of rows: {lengths}.")
    return designs, found


def _check_predictors(x: Any, columns: Columns) -> None:
    """Refuse designs for other predictors than those that the model was fitted on."""
    if (ALL in columns) == isinstance(x, Mapping):
        came = f"a mapping of {sorted(x)}" if isinstance(x, Mapping) else "one design"
        needed = "one design" if ALL in columns else f"a mapping with designs for {sorted(columns)}"
        raise DataError(f"the model was fitted on {needed}; `x` is {came}.")
    if isinstance(x, Mapping) and set(x) != set(columns):
        raise DataError(f"the model was fitted on designs for {sorted(columns)}; `x` has {sorted(x)}.")


def check_keys(x: Mapping[Any, Any]) -> None:
    """Refuse a mapping whose keys are not names of predictors, and designs whose rows have other labels."""
    wrong = [key for key in x if not isinstance(key, str)]
    if wrong:
        raise DataError(f"the keys of `x` must be names of predictors; one is {wrong[0]!r}.")
    common_labels({"x": x})


def _design(
    name: str, value: Any, dtype: torch.dtype, expected: tuple[str, ...] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """A design `(N, P)` and the names of its columns, in the expected order."""
    if not isinstance(value, Tensor) and is_frame(value):
        frame = _by_name(name, value, expected)
        return frame_tensor(name, frame, dtype), column_names(frame)
    if isinstance(value, Named):
        return _named_design(name, value, dtype, expected)
    tensor = to_tensor(name, value, dtype)
    if tensor.dim() != 2:
        raise DataError(
            f"`{name}` needs the shape (rows, columns); it has {tuple(tensor.shape)}. "
            f"For a single column, pass {_column(name, value)}."
        )
    if expected is not None and tensor.shape[1] != len(expected):
        raise DataError(
            f"`{name}` has {tensor.shape[1]} columns; the model was fitted on {len(expected)}: "
            f"{', '.join(expected)}."
        )
    return tensor, expected or tuple(f"x{j}" for j in range(tensor.shape[1]))


def _named_design(
    name: str, value: Named, dtype: torch.dtype, expected: tuple[str, ...] | None
) -> tuple[Tensor, tuple[str, ...]]:
    values, names = value.values.to(dtype), value.columns
    if expected is None or names == expected:
        return values, names
    return values[:, [names.index(each) for each in _found(name, names, expected)]], expected


def _by_name(name: str, frame: pd.DataFrame, expected: tuple[str, ...] | None) -> pd.DataFrame:
    """The frame with the expected columns in the expected order."""
    duplicated = frame.columns[frame.columns.duplicated()]
    if len(duplicated):
        raise DataError(f"`{name}` has two columns named {duplicated[0]!r}; give each a name of its own.")
    if expected is None or column_names(frame) == expected:
        return frame
    named = {str(column): column for column in frame.columns}
    return frame[[named[column] for column in _found(name, tuple(named), expected)]]


def _found(name: str, columns: tuple[str, ...], expected: tuple[str, ...]) -> tuple[str, ...]:
    """The expected columns, all of which there are."""
    missing = [column for column in expected if column not in columns]
    if missing:
        raise DataError(
            f"`{name}` lacks {', '.join(map(repr, missing))}, which the model was fitted on; "
            f"it has {', '.join(map(repr, columns))}."
        )
    return expected


def _column(name: str, value: Any) -> str:
    """Code that makes a single column of an argument."""
    return f"{name if hasattr(value, 'shape') else f'numpy.array({name})'}[:, None]"


def _vector(name: str, value: Any, dtype: torch.dtype) -> Tensor:
    """A response, weights or keyword: `(N,)`, or `(N, D)` for a response of many components."""
    if are_arrays(value):
        tensor = to_tensor(name, value, dtype, integers=True)
    elif is_frame(value):
        tensor = frame_tensor(name, value, dtype)
    elif isinstance(value, Named):
        tensor = value.values.to(dtype)
    elif isinstance(value, Real) and name != "y":
        number = written(value)
        raise DataError(
            f"`{name}` needs one value for each row, as numpy.full(len(x), {number}) has; it is {number}. A "
            f"setting of the model is bound to it, as by functools.partial(model, {name}={number})."
        )
    elif is_series(value):
        tensor = series_tensor(name, value, dtype)
    else:
        tensor = to_tensor(name, value, dtype, integers=True)
    if tensor.dim() not in ((1, 2) if name == "y" else (1,)):
        raise DataError(f"`{name}` needs the shape (rows,); it has {tuple(tensor.shape)}.")
    return tensor


def response_tensor(y: Any) -> Tensor:
    """A response as a float64 tensor, `(N,)` or `(N, D)`.

    Raises:
        DataError: another shape or kind.
    """
    return _vector("y", y, torch.float64)


def prepare_array(name: str, value: Any, dims: tuple[int, ...], *, integers: bool = False) -> Tensor:
    """A float64 tensor of an array with one of these numbers of dimensions; NaN is admitted.

    Raises:
        DataError: another shape or kind; integers, unless they are allowed.
    """
    if is_series(value):
        return _vector(name, value, torch.float64)
    tensor = to_tensor(name, value, torch.float64, integers)
    if tensor.dim() not in dims:
        needed = " or ".join(
            {1: "(rows,)", 2: "(data sets, rows)", 3: "(data sets, rows, columns)"}[d] for d in dims
        )
        raise DataError(f"`{name}` needs the shape {needed}; it has {tuple(tensor.shape)}.")
    return tensor


def is_one_hot(y: Tensor) -> bool:
    """Whether each row has a single 1 and is 0 elsewhere: the class of the row as an indicator."""
    return y.dim() == 2 and y.shape[1] > 1 and bool(((y == 0) | (y == 1)).all() & (y.sum(1) == 1).all())


def check_response(data: Data, support: Any, shape: tuple[int, ...], model: str) -> None:
    """Verify that `y` has the shape and lies in the support of the response of a model.

    Raises:
        DataError: another shape, an integer array for a continuous model, a value outside the support.
    """
    if tuple(data.y.shape) != shape:
        raise DataError(
            f"`{model}` needs `y` of shape {shape}; it has {tuple(data.y.shape)}."
            + (" Pass numpy.asarray(y)[:, 0]." if data.y.shape == (*shape, 1) else "")
            + (" Of one-hot rows pass the codes, y.argmax(1)." if is_one_hot(data.y) else "")
        )
    if data.integer and not support.is_discrete:
        raise DataError(integers_message("y", None, "integers"))
    y = filled(data.y, ~torch.isnan(data.y), support) if data.is_missing else data.y
    inside = support.check(y)
    if not bool(inside.all()):
        raise DataError(f"`{model}` needs every `y` to be {in_words(support)}; {_outside(data, ~inside)}")


def check_density(data: Data, log_prob: Tensor, model: str) -> None:
    """Verify that the density of each row, at some parameters, is positive and finite.

    Raises:
        DataError: it is not, as on the border of a support (a share of 0 or 1) or at an exposure of 0.
    """
    wrong = ~torch.isfinite(log_prob)
    if bool(wrong.any()):
        raise DataError(
            f"`{model}` needs every `y` to have a density that is neither 0 nor infinite; "
            f"{_outside(data, wrong)} Check these rows; give values on the boundary of the support a model "
            "of their own."
        )


def _outside(data: Data, wrong: Tensor) -> str:
    row = int(wrong.reshape(len(data.y), -1).any(1).nonzero()[0])
    keywords = "".join(f", {key} = {float(value[row]):g}" for key, value in data.keywords.items())
    count = int(wrong.sum())
    return f"{count} of {wrong.numel()} do not: row {data.row(row)} has y = {data.y[row].tolist()}{keywords}."


def in_words(support: Any) -> str:
    """A support in words, as the continuation of "must be"."""
    if isinstance(getattr(support, "upper_bound", None), int):
        return f"a whole number from {support.lower_bound} to {support.upper_bound}"
    words = {
        "Boolean": "0 or 1",
        "IntegerGreaterThan": "a whole number, not negative",
        "IntegerInterval": "a whole number between 0 and the number of trials",
        "Interval": "between 0 and 1",
        "GreaterThan": "positive",
        "GreaterThanEq": "not negative",
    }
    return words.get(type(support).__name__.lstrip("_"), f"in {support}")


def _of_positive_weight(data: Data, weights: Tensor) -> Data:
    """The data of the rows of positive weight."""
    check_weights(weights)
    kept = (weights > 0).nonzero()[:, 0]
    return data if len(kept) == data.rows else data.take(kept)


def check_roles(data: Data, roles: Roles) -> None:
    """Refuse values that are NaN or infinite, and keywords outside the supports that a model has for them.

    Raises:
        DataError: some are, with the first of their rows.
    """
    _check_designs(data.x, data.columns, data)
    if not all(map(math.isfinite, data.ends)):
        _check_finite("y", data, torch.isinf(data.y))
    for key, value in data.keywords.items():
        _check_finite(key, data, torch.isnan(value) if key in roles.bounds else ~torch.isfinite(value))
        if key in roles.supports:
            check_support(key, value, roles.supports[key], data.index)


def check_support(key: str, value: Tensor, support: Any, index: Tensor | None = None) -> None:
    """Refuse row-wise values `(N,)` or `(S, N)` outside the support that a model has for them.

    Raises:
        DataError: some are, with the first of their rows, by its number in the user's data.
    """
    wrong = ~support.check(value)
    if bool(wrong.any()):
        *_, row = wrong.nonzero()[0].tolist()
        number = row if index is None else int(index[row])
        raise DataError(
            f"`{key}` must be {in_words(support)}; {int(wrong.sum())} of {wrong.numel()} are not: row "
            f"{number} has {float(value[wrong][0]):g}. Correct these rows, or leave them out everywhere."
        )


def _check_finite(key: str, data: Data, wrong: Tensor, remedy: str = CORRECT) -> None:
    row = wrong.reshape(len(wrong), -1).any(1).nonzero()[:1, 0].tolist()
    refuse_wrong(key, wrong, f"row {data.row(*row)}" if row else "", remedy)


def refuse_wrong(name: str, wrong: Tensor, first: str, remedy: str = CORRECT) -> None:
    """Refuse an argument that is NaN or infinite in the places `wrong`, the first of which is named.

    Raises:
        DataError: there is such a place.
    """
    count = int(wrong.sum())
    if count:
        raise DataError(
            f"`{name}` is NaN or infinite in {count} of {wrong.numel()} places, first in {first}; {remedy}."
        )


def _check_designs(designs: Designs, columns: Columns, data: Data | None = None) -> None:
    for key, value in by_key(designs).items():
        if not value.numel():
            continue
        low, high = map(float, torch.aminmax(value))  # one pass; NaN if a value is
        if low >= -LARGEST_DESIGN and high <= LARGEST_DESIGN:
            continue
        name = f"x[{key!r}]" if key else "x"
        wrong = ~torch.isfinite(value)
        for row, column in wrong.nonzero()[:1].tolist():
            number = data.row(row) if data else row
            refuse_wrong(name, wrong, f"row {number} of column {columns[key][column]!r}")
        check_design_magnitude(name, max(-low, high))
