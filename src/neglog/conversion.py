"""Conversion: arrays, lists, tensors, series and data frames become dense real tensors; nothing else does.

Nothing is dropped in silence: masks, imaginary parts and missing entries are refused. Each error gives code
that converts an argument of the kind concerned.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.masked import MaskedTensor

from neglog.arguments import check_dense
from neglog.errors import DataError, ModelError, reason_of, written

if TYPE_CHECKING:  # Importing pandas takes a third of a second, and only its own objects need it.
    import pandas as pd

ALL = ""
"""The key of a plain design, which is that of every predictor."""
MAX_LIST_DEPTH = 32
"""Maximal depth of nested lists: NumPy's maximal number of dimensions."""
MAX_INT64 = 2**63 - 1
"""The largest integer that int64 represents."""


@dataclass(frozen=True, eq=False)
class Named:
    """A float64 tensor `(N, P)` whose columns have names, as those of a data frame."""

    values: Tensor
    columns: tuple[str, ...]
    intercept: bool = True
    """Whether the predictor that takes it as a design has an intercept."""

    def __len__(self) -> int:
        return len(self.values)


def by_key(x: Any) -> Mapping[str, Any]:
    """Designs by the predictors that they belong to; a plain design belongs to all."""
    return x if isinstance(x, Mapping) else {ALL: x}


def are_arrays(*values: Any) -> bool:
    """Whether all values are tensors or NumPy arrays, or None: nothing has labels or names."""
    return all(value is None or isinstance(value, Tensor | np.ndarray) for value in values)


def is_frame(value: Any) -> TypeGuard[pd.DataFrame]:
    """Whether a value is a data frame."""
    return _is_of_pandas(value, "DataFrame")


def is_series(value: Any) -> TypeGuard[pd.Series]:
    """Whether a value is a series."""
    return _is_of_pandas(value, "Series")


def is_labelled(value: Any) -> TypeGuard[pd.DataFrame | pd.Series]:
    """Whether a value is a data frame or a series, whose rows have labels."""
    return not isinstance(value, Tensor | np.ndarray) and (is_frame(value) or is_series(value))


def _is_of_pandas(value: Any, kind: str) -> bool:
    """Whether a value is of a class of pandas, without importing it: whoever made the value has."""
    expected = getattr(sys.modules.get("pandas"), kind, None)
    return expected is not None and isinstance(value, expected)


def column_names(value: Any) -> tuple[str, ...]:
    """The names of the columns of a data frame; none for anything else."""
    return tuple(map(str, value.columns)) if isinstance(value, Named) or is_frame(value) else ()


def to_tensor(name: str, value: Any, dtype: torch.dtype, integers: bool = False) -> Tensor:
    """A floating tensor on the CPU of a tensor, an array or a list; memory of the right dtype is shared.

    Raises:
        DataError: another kind; a mask, complex numbers, text; integers, unless they are allowed.
    """
    tensor = value if isinstance(value, Tensor) else _array_tensor(name, value, integers)
    check_dense(name, tensor)
    if tensor.is_complex():
        raise DataError(_complex_message(name))
    if not (tensor.is_floating_point() or integers):
        raise DataError(integers_message(name, value, tensor.dtype))
    real = tensor.detach().to("cpu", dtype)
    return real.clone() if real.is_inference() else real  # autograd refuses inference tensors


def _array_tensor(name: str, value: Any, integers: bool) -> Tensor:
    """A tensor of an array or a list, which shares its memory where torch can."""
    array = to_array(name, value)
    shareable = array.flags.writeable and array.dtype.isnative and min(array.strides, default=0) >= 0
    native = array if shareable else array.astype(array.dtype.newbyteorder("="), copy=True)
    if native.dtype.kind in "iub" and not integers:
        raise DataError(integers_message(name, value, native.dtype))
    return torch.from_numpy(_signed(native))


def frame_tensor(name: str, frame: pd.DataFrame, dtype: torch.dtype) -> Tensor:
    """The columns `(N, P)` of a data frame, which must be numbers; missing entries are NaN.

    Raises:
        DataError: a column of complex numbers, text, categories or dates.
    """
    import pandas as pd

    for column, kind in frame.dtypes.items():
        if pd.api.types.is_complex_dtype(kind):
            raise DataError(_complex_message(f"column {str(column)!r} of `{name}`"))
        if not pd.api.types.is_numeric_dtype(kind):
            if has_complex(frame.loc[:, [column]].to_numpy()):
                raise DataError(_complex_message(f"column {str(column)!r} of `{name}`"))
            raise DataError(_column_message(name, column, kind))
    values = frame.to_numpy(dtype=np.float64, na_value=np.nan)  # strides of reversed columns are negative
    return torch.tensor(np.ascontiguousarray(values), dtype=dtype)


def series_tensor(name: str, series: pd.Series, dtype: torch.dtype) -> Tensor:
    """A series `(N,)`, as `frame_tensor`."""
    import pandas as pd

    if pd.api.types.is_complex_dtype(series.dtype):
        raise DataError(_complex_message(f"`{name}`"))
    if not pd.api.types.is_numeric_dtype(series.dtype):
        if has_complex(series.to_numpy()):
            raise DataError(_complex_message(f"`{name}`"))
        raise DataError(f"`{name}` holds {series.dtype}, not numbers; {_remedy_of_series(name, series)}.")
    values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    return torch.tensor(np.ascontiguousarray(values), dtype=dtype)


def check_unmasked(name: str, value: Any, depth: int = 0) -> None:
    """Refuse masked arrays, also inside lists: conversion would drop their masks.

    Raises:
        DataError: something is a masked array; lists are nested deeper than NumPy has dimensions.
    """
    if depth > MAX_LIST_DEPTH:
        raise DataError(
            f"`{name}` is not a rectangular array: its lists are nested too deep, or in a circle."
        )
    if _is_masked_array(value):
        remedy = f"numpy.ma.filled({name}.astype(float), numpy.nan)"
        raise DataError(_masked_message(name, remedy, f"numpy.ma.getdata({name})"))
    if isinstance(value, MaskedTensor):
        check_dense(name, value)
    if isinstance(value, list | tuple):
        for each in value:
            if isinstance(each, MaskedTensor | list | tuple) or _is_masked_array(each):
                check_unmasked(name, each, depth + 1)


def _is_masked_array(value: Any) -> bool:
    """Whether a value is a masked array, without importing numpy.ma: whoever made the value has."""
    expected = getattr(sys.modules.get("numpy.ma"), "MaskedArray", None)
    return expected is not None and isinstance(value, expected)


def to_array(name: str, value: Any) -> np.ndarray:
    """A NumPy array of numbers, of an array or a sequence.

    Raises:
        DataError: another kind, a mask, a ragged list, text, objects.
    """
    if not isinstance(value, np.ndarray | Sequence) or isinstance(value, str | bytes):
        raise DataError(_kind_message(name, value))
    check_unmasked(name, value)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise DataError(f"`{name}` is not a rectangular array: {reason_of(error)}.") from error
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    if array.dtype.kind not in "fiubc":
        if has_complex(array):
            raise DataError(_complex_message(name))
        raise DataError(f"`{name}` holds {array.dtype}, not numbers; {_remedy_of_array(name, array, value)}.")
    return array


def has_complex(array: np.ndarray) -> bool:
    """Whether objects are complex numbers, of which `astype(float)` would drop the imaginary parts."""
    return array.dtype.kind == "O" and any(
        isinstance(each, complex | np.complexfloating) for each in array.ravel()
    )


def as_numpy(value: Tensor) -> np.ndarray:
    """A tensor as an array; of bfloat16, which NumPy has not, in float32."""
    value = value.detach().cpu().resolve_conj().resolve_neg()
    array: np.ndarray = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return array


def as_labels(name: str, value: Any) -> np.ndarray:
    """An array of labels, such as those of groups, of any kind: text, numbers, dates.

    Raises:
        DataError: no array, series or list; a mask, or a ragged list.
    """
    known = isinstance(value, np.ndarray | Tensor | list | tuple) or is_labelled(value)
    if not (known or _is_of_pandas(value, "Index")):
        given = kind_of(value) if foreign_remedy(name, value) else written(value)
        raise DataError(
            f"`{name}` must have one entry for each row; it is {given}.{foreign_remedy(name, value)}"
        )
    check_unmasked(name, value)
    if isinstance(value, Tensor):
        check_dense(name, value)
        value = as_numpy(value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"`{name}` is not a rectangular array: {reason_of(error)}.") from error
    if not array.ndim:
        raise DataError(f"`{name}` must have one entry for each row; it is {written(value)}.")
    return array


def named_values(name: str, values: Any) -> dict[str, Tensor]:
    """Name -> float64 tensor, of a mapping of numbers, arrays or tensors such as the values of `start`.

    Raises:
        ModelError: no mapping, keys that are not text, values that are not finite real numbers.
    """
    if not isinstance(values, Mapping):
        raise ModelError(
            f"`{name}` must be a mapping, such as {{'sigma': 1.0}}; it is {type(values).__name__}."
        )
    found = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise ModelError(f"the keys of `{name}` must be names of parameters; one is {written(key)}.")
        given = [value] if isinstance(value, Real) else value
        given = given.to_numpy() if is_series(given) else given
        try:
            tensor = to_tensor(f"{name}[{key!r}]", given, torch.float64, integers=True)
        except DataError as error:
            raise ModelError(str(error)) from error
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"`{name}[{key!r}]` must be finite; it is {value}.")
        found[key] = tensor.reshape(()) if isinstance(value, Real) else tensor
    return found


def is_integer(y: Any) -> bool:
    """Whether `y` is an array of integers or booleans; a table's column of integers is a table's column."""
    if isinstance(y, Tensor):
        return not y.is_floating_point()
    return not (isinstance(y, Named) or is_labelled(y)) and np.asarray(y).dtype.kind in "iub"


def integers_message(name: str, value: Any, dtype: Any) -> str:
    """The error message for integers where measurements are needed, with the code that converts them."""
    if isinstance(value, Tensor):
        remedy = f"{name}.double()"
    else:
        remedy = f"{name}.astype(float)" if isinstance(value, np.ndarray) else f"numpy.array({name}, float)"
    return (
        f"`{name}` holds {str(dtype).removeprefix('torch.')}, not floating-point numbers. If they are "
        f"measurements, pass {remedy}; if they are codes of categories, make indicator columns, as "
        f"pandas.get_dummies does."
    )


def _signed(array: np.ndarray) -> np.ndarray:
    """Unsigned integers, of which torch knows the bytes alone, as int64; as floats where that overflows."""
    if array.dtype.kind != "u" or array.dtype.itemsize == 1:
        return array
    return array.astype(np.int64 if array.max(initial=0) <= MAX_INT64 else np.float64)


def _masked_message(name: str, remedy: str, unmasked: str) -> str:
    missing = (
        f"pass {remedy} and fit `masked(model)`" if name == "y" else "leave these rows out of all arguments"
    )
    return (
        f"`{name}` is a masked array, and its mask would be lost. To leave out masked entries, {missing}; "
        f"where no entry is masked, pass {unmasked}."
    )


def _complex_message(name: str) -> str:
    name = name if "`" in name else f"`{name}`"
    return f"{name} holds complex numbers; pass real ones, such as their real part."


def _kind_message(name: str, value: Any) -> str:
    remedies = {
        "Series": f"{name}.to_frame()",
        "DataFrame": f"{name}.to_numpy()",
        "set": f"sorted({name})",
        "generator": f"list({name})",
        "Index": f"{name}.to_numpy()",
    }
    kind = type(value).__name__
    if hasattr(value, "toarray"):  # SciPy's sparse matrices
        remedies[kind] = f"{name}.toarray()"
    remedy = foreign_remedy(name, value) or (f" Pass {remedies[kind]}." if kind in remedies else "")
    return f"`{name}` must be a tensor, a NumPy array or a data frame; it is {kind_of(value)}.{remedy}"


def kind_of(value: Any) -> str:
    """The class of a value, and the library of a table that is none of pandas."""
    kind, library = type(value).__name__, type(value).__module__.partition(".")[0]
    return f"{kind} of {library}" if foreign_remedy("", value) else kind


def foreign_remedy(name: str, value: Any) -> str:
    """The advice to convert a table of another library than pandas, such as polars or pyarrow; else empty."""
    if is_labelled(value) or isinstance(value, type):
        return ""
    if hasattr(value, "to_pandas"):
        return f" Pass {name}.to_pandas()."
    return f" Pass {name}.collect().to_pandas()." if hasattr(value, "collect_schema") else ""


def _remedy_of_array(name: str, array: np.ndarray, value: Any) -> str:
    own = name if isinstance(value, np.ndarray) else f"numpy.array({name})"
    if array.dtype.kind == "M":
        return f"convert it, as by ({own} - {own}.min()) / numpy.timedelta64(1, 'D')"
    if array.dtype.kind == "m":
        return f"convert it, as by {own} / numpy.timedelta64(1, 'D')"
    if array.dtype.names:
        return f"convert it, as by pandas.DataFrame({name})"
    return f"convert it, as by {own}.astype(float); {_categories(name)}"


def _categories(name: str) -> str:
    if name == "y":
        return "if they name classes, number these, as by pandas.factorize(y, sort=True)[0]"
    return f"if they name categories, pass pandas.get_dummies({name}, drop_first=True, dtype=float)"


def _remedy_of_series(name: str, series: pd.Series) -> str:
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return f"convert it, as by ({name} - {name}.min()) / pandas.Timedelta(days=1)"
    if pd.api.types.is_timedelta64_dtype(series.dtype):
        return f"convert it, as by {name} / pandas.Timedelta(days=1)"
    return f"if they are numbers, pass {name}.astype(float); {_categories(name)}"


def _column_message(name: str, column: Any, kind: Any) -> str:
    import pandas as pd

    key, own = repr(column), f"{name}[{column!r}]"
    if pd.api.types.is_datetime64_any_dtype(kind):
        value = f"({own} - {own}.min()) / pandas.Timedelta(days=1)"
        remedy = f"convert it, as by {name}.assign(**{{{key}: {value}}})"
    elif pd.api.types.is_timedelta64_dtype(kind):
        remedy = f"convert it, as by {name}.assign(**{{{key}: {own} / pandas.Timedelta(days=1)}})"
    else:
        remedy = (
            f"if they are numbers, pass {name}.astype({{{key}: float}}); if they name categories, pass "
            f"pandas.get_dummies({name}, columns=[{key}], drop_first=True, dtype=float), or fit a formula "
            f"and its "
            f"table in one call: mle(model, 'y ~ C({column}) + x', data)"
        )
    return f"column {str(column)!r} of `{name}` holds {kind}, not numbers; {remedy}."
