"""Data: arrays, tensors and data frames become validated tensors.

Nothing is broadcast, rounded, clipped or dropped in silence. Many data sets are held to the same checks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neglog.alignment import common_labels
from neglog.conversion import (
    ALL,
    are_arrays,
    by_key,
    check_unmasked,
    column_names,
    integers_message,
    is_integer,
)
from neglog.designs import (
    CORRECT,
    Columns,
    Place,
    check_designs,
    read_designs,
    read_vector,
    refuse_wrong,
)
from neglog.distributions.supports import filled
from neglog.errors import DataError
from neglog.intercepts import without_intercept
from neglog.magnitudes import check_response_magnitude, check_weights, place_of
from neglog.predictors import Designs, row_count

if TYPE_CHECKING:
    import pandas as pd

Parts = dict[tuple[str, str], Tensor]


@dataclass(frozen=True)
class Roles:
    """The roles of arguments in a model: keywords that are bounds, which may be infinite, or values of a
    support; and whether `x` is the input of a network, which may have any shape."""

    bounds: Collection[str] = ()
    supports: Mapping[str, Any] = field(default_factory=dict)
    network: bool = False


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
    held_out: Any = None
    """Rows that are no part of the fit, on which a training is validated: data, or a stream of them."""
    stream: Any = None
    """The `neglog.streams.stream.Stream` of which these rows are a sample; None where they are all."""

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

    def place(self, wrong: Tensor) -> str:
        """The first row in a mask `(N,)` or `(N, D)` of this data, in words."""
        return f"row {self.row(int(wrong.reshape(self.rows, -1).any(1).nonzero()[0]))}"

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
    every_row: bool = False,
    **keywords: Any,
) -> Data:
    """Validate designs, response, weights and row-wise keywords; rows of weight 0 are left out.

    With `every_row` these are kept, and weights may all be 0, as those of a batch.

    Entries of `y` that are NaN are missing, which `observed` verifies.

    Raises:
        DataError: wrong kind, shape or length, labels of rows that differ, no rows, NaN or infinite values,
            weights that are negative or all 0.
    """
    roles = roles or Roles()
    designs, columns = read_designs(x, dtype, None, roles.network)
    plain = are_arrays(*by_key(x).values(), y, weights, *keywords.values())
    labels = None if plain else common_labels({"x": x, "y": y, "weights": weights} | keywords)
    given = {"y": y} | keywords | ({} if weights is None else {"weights": weights})
    vectors = {key: read_vector(key, value, dtype) for key, value in given.items()}
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
    if data.weights is not None:
        data = _of_weights(data, data.weights, every_row)
    check_roles(data, roles)
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
    vector = read_vector("weights", weights, torch.float64)
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
        check_finite("y", unknown, data.place, remedy)
    kept = (~unknown).reshape(len(data.y), -1).any(1)
    if not bool(kept.any()):
        raise DataError("`y` is missing in every row; there is nothing to fit.")
    return data if bool(kept.all()) else data.take(kept.nonzero()[:, 0])


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


def _of_weights(data: Data, weights: Tensor, every_row: bool) -> Data:
    """The data of the rows of positive weight, or of every row."""
    if every_row:
        wrong = ~(torch.isfinite(weights) & (weights >= 0))
        if bool(wrong.any()):
            raise DataError(f"`weights` must be finite and not negative; {data.place(wrong)} is not.")
        return data
    check_weights(weights)
    kept = (weights > 0).nonzero()[:, 0]
    return data if len(kept) == data.rows else data.take(kept)


def check_roles(data: Data, roles: Roles) -> None:
    """Refuse values that are NaN or infinite, and keywords outside the supports that a model has for them.

    Raises:
        DataError: some are, with the first of their rows.
    """
    check_designs(data.x, data.columns, data.place)
    if not all(map(math.isfinite, data.ends)):
        check_finite("y", torch.isinf(data.y), data.place)
    check_keywords(data.keywords, roles, data.place)


def check_keywords(
    keywords: Mapping[str, Tensor], roles: Roles, place: Place = place_of, remedy: str = CORRECT
) -> None:
    """Refuse row-wise values, `(N,)` or `(S, N)`, that are NaN, infinite or outside their support.

    Bounds may be infinite.

    Raises:
        DataError: some are, with the first place.
    """
    for key, value in keywords.items():
        wrong = torch.isnan(value) if key in roles.bounds else ~torch.isfinite(value)
        check_finite(key, wrong, place, remedy)
        if key in roles.supports:
            _check_support(key, value, roles.supports[key], place)


def _check_support(key: str, value: Tensor, support: Any, place: Place) -> None:
    """Refuse row-wise values outside the support that a model has for them."""
    wrong = ~support.check(value)
    if bool(wrong.any()):
        raise DataError(
            f"`{key}` must be {in_words(support)}; {int(wrong.sum())} of {wrong.numel()} are not: "
            f"{place(wrong)} has {float(value[wrong][0]):g}. Correct these rows, or leave them out "
            "everywhere."
        )


def check_finite(key: str, wrong: Tensor, place: Place, remedy: str = CORRECT) -> None:
    """Refuse row-wise values that are NaN or infinite in the places `wrong`, if there are any.

    Raises:
        DataError: with the first of them.
    """
    if bool(wrong.any()):
        refuse_wrong(key, wrong, place(wrong), remedy)
