"""Designs and row-wise values: arrays, data frames and named columns become tensors.

Integer and boolean arrays are refused as designs, since as often as not they are category codes; the columns
of a data frame may hold integers. The input of a network may have any shape, and integers such as tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from neglog.alignment import common_labels
from neglog.arguments import check_dense, written
from neglog.conversion import (
    ALL,
    Named,
    are_arrays,
    by_key,
    column_names,
    frame_tensor,
    is_frame,
    is_series,
    series_tensor,
    to_tensor,
)
from neglog.errors import DataError
from neglog.magnitudes import LARGEST_DESIGN, check_design_magnitude, place_of
from neglog.predictors import Designs
from neglog.split.reading import sparse_design

if TYPE_CHECKING:
    import pandas as pd

CORRECT = "drop or correct these rows"
"""The remedy for values that are not finite."""
Columns = Mapping[str, tuple[str, ...]]
Place = Callable[[Tensor], str]
"""The first place in a mask `(N,)` or `(S, N)` of rows, in words."""


def prepare_designs(
    x: Any, *, dtype: torch.dtype = torch.float64, columns: Columns | None = None, network: bool = False
) -> tuple[Designs, Columns]:
    """Designs as tensors, with the names of their columns.

    With `columns`, those that a model was fitted on, the designs must have the same ones: a data frame is
    read by name, an array by position. The input of a `network` may have any shape.

    Raises:
        DataError: as `prepare`; a predictor or a column that the fit had is missing.
    """
    designs, found = read_designs(x, dtype, columns, network)
    check_designs(designs, found)
    return designs, found


def read_designs(
    x: Any, dtype: torch.dtype, columns: Columns | None, network: bool = False
) -> tuple[Designs, Columns]:
    """Designs as tensors and the names of their columns, which must be `columns` where these are given."""
    if isinstance(x, Mapping):
        check_keys(x)
    if columns is not None:
        _check_predictors(x, columns)
    expected = columns or {}
    if not isinstance(x, Mapping):
        tensor, names = _design("x", x, dtype, expected.get(ALL), network)
        return tensor, {ALL: names}
    designs, found = {}, {}
    for key, value in x.items():
        designs[key], found[key] = _design(f"x[{key!r}]", value, dtype, expected.get(key), network)
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
    name: str, value: Any, dtype: torch.dtype, expected: tuple[str, ...] | None, network: bool = False
) -> tuple[Tensor, tuple[str, ...]]:
    """A design `(N, P)` and the names of its columns, in the expected order; an input has no names."""
    if network and not expected and is_input(value):
        return _input(name, value, dtype), ()
    if isinstance(value, Named):
        return _named_design(name, value, dtype, expected)
    if not isinstance(value, Tensor) and is_frame(value):
        frame = _by_name(name, value, expected)
        sparse = sparse_design(name, frame)
        return frame_tensor(name, frame, dtype) if sparse is None else sparse.to(dtype), column_names(frame)
    sparse = sparse_design(name, value)
    return _array_design(name, value if sparse is None else sparse, dtype, expected)


def _array_design(
    name: str, value: Any, dtype: torch.dtype, expected: tuple[str, ...] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """A design of an array, whose columns are in the expected order."""
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


def is_input(value: Any) -> bool:
    """Whether an array can be the input of a network alone: it has more axes than a design, or integers."""
    if not isinstance(value, Tensor | np.ndarray):
        return False
    is_whole = not value.is_floating_point() if isinstance(value, Tensor) else value.dtype.kind in "iub"
    return value.ndim > 2 or (value.ndim > 0 and is_whole)


def _input(name: str, value: Any, dtype: torch.dtype) -> Tensor:
    """The input of a network, `(N, ...)`; integers and booleans remain what they are."""
    is_array = isinstance(value, np.ndarray)
    tensor = torch.from_numpy(np.ascontiguousarray(value)) if is_array else value
    check_dense(name, tensor)
    if tensor.is_floating_point() or tensor.is_complex():
        return to_tensor(name, value, dtype)
    return tensor.detach().cpu()


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


def read_vector(name: str, value: Any, dtype: torch.dtype) -> Tensor:
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
    return read_vector("y", y, torch.float64)


def prepare_array(name: str, value: Any, dims: tuple[int, ...], *, integers: bool = False) -> Tensor:
    """A float64 tensor of an array with one of these numbers of dimensions; NaN is admitted.

    Raises:
        DataError: another shape or kind; integers, unless they are allowed.
    """
    if is_series(value):
        return read_vector(name, value, torch.float64)
    tensor = to_tensor(name, value, torch.float64, integers)
    if tensor.dim() not in dims:
        needed = " or ".join(
            {1: "(rows,)", 2: "(data sets, rows)", 3: "(data sets, rows, columns)"}[d] for d in dims
        )
        raise DataError(f"`{name}` needs the shape {needed}; it has {tuple(tensor.shape)}.")
    return tensor


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


def check_designs(designs: Designs, columns: Columns, place: Place = place_of, remedy: str = CORRECT) -> None:
    """Refuse designs, `(N, P)` or `(S, N, P)`, that are NaN, infinite or too large.

    Raises:
        DataError: with the first place, or the magnitude.
    """
    for key, value in by_key(designs).items():
        if not value.numel() or not value.is_floating_point():
            continue
        low, high = map(float, torch.aminmax(value))  # one pass; NaN if a value is
        if low >= -LARGEST_DESIGN and high <= LARGEST_DESIGN:
            continue
        name, wrong = f"x[{key!r}]" if key else "x", ~torch.isfinite(value)
        if not columns[key]:
            refuse_wrong(name, wrong, place(wrong.reshape(len(wrong), -1).any(1)), remedy)
        for column in wrong.nonzero()[:1, -1].tolist():
            refuse_wrong(name, wrong, f"{place(wrong.any(-1))} of column {columns[key][column]!r}", remedy)
        check_design_magnitude(name, max(-low, high))
