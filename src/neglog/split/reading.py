"""Sparse arrays, tensors and data frames as designs of sparse columns."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from neglog.errors import DataError
from neglog.split.kinds import Dense, Kind, Sparse
from neglog.split.matrix import SplitMatrix
from neglog.split.tensor import tensor_of

if TYPE_CHECKING:
    import pandas as pd

LAYOUTS = frozenset({torch.sparse_coo, torch.sparse_csr, torch.sparse_csc})
"""The layouts of sparse tensors that are read."""


def sparse_design(name: str, value: Any) -> Tensor | None:
    """The design of a sparse matrix of SciPy or torch, or of a data frame with sparse columns; else None.

    A small one is dense.

    Raises:
        DataError: other numbers than real ones; more or fewer than two axes.
    """
    if _is_of_scipy(value):
        return tensor_of(SplitMatrix.side_by_side([_of_scipy(name, value)]))
    if isinstance(value, Tensor):
        if value.layout not in LAYOUTS or value.is_nested or value.is_meta:
            return None
        return tensor_of(SplitMatrix.side_by_side([_of_torch(name, value)]))
    if _has_sparse_columns(value):
        return tensor_of(_of_frame(name, value))
    return None


def split_of(x: Any) -> Any:
    """Designs, or a mapping of them, in which sparse matrices of SciPy and torch are designs; frames stay.

    Raises:
        DataError: as `sparse_design`.
    """
    if isinstance(x, Mapping):
        return {key: split_of(value) for key, value in x.items()}
    if isinstance(x, np.ndarray) or _has_sparse_columns(x):
        return x
    found = sparse_design("x", x)
    return x if found is None else found


def _is_of_scipy(value: Any) -> bool:
    """Whether a value is sparse for SciPy, without importing it: whoever made the value has."""
    scipy = sys.modules.get("scipy.sparse")
    return scipy is not None and bool(scipy.issparse(value))


def _has_sparse_columns(value: Any) -> bool:
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(value, pandas.DataFrame):
        return False
    return any(isinstance(kind, pandas.SparseDtype) for kind in value.dtypes)


def _of_scipy(name: str, value: Any) -> Sparse:
    if value.ndim != 2:
        raise DataError(f"`{name}` needs the shape (rows, columns); it has {value.shape}.")
    if value.dtype.kind not in "fiub":
        raise DataError(f"`{name}` is a sparse matrix of {value.dtype}; it needs real numbers.")
    from scipy.sparse import csr_array

    found = csr_array(value, dtype=np.float64)
    if not found.has_canonical_format:
        found = found.copy()  # it may share the memory of the caller's
        found.sum_duplicates()
    return Sparse(found)


def _of_torch(name: str, value: Tensor) -> Sparse:
    from scipy.sparse import coo_array

    if value.dim() != 2:
        raise DataError(f"`{name}` needs the shape (rows, columns); it has {tuple(value.shape)}.")
    if value.is_complex():
        raise DataError(f"`{name}` is a sparse tensor of complex numbers; it needs real ones.")
    coo = value.detach().cpu().to_sparse_coo().coalesce()
    rows, columns = coo.indices().numpy()
    return _of_scipy(name, coo_array((coo.values().double().numpy(), (rows, columns)), tuple(value.shape)))


def _of_frame(name: str, frame: pd.DataFrame) -> SplitMatrix:
    """The sparse columns of a frame as one sparse part, and the others as dense ones."""
    import pandas as pd

    parts: list[Kind] = []
    places: list[np.ndarray] = []
    sparse = [isinstance(kind, pd.SparseDtype) for kind in frame.dtypes]
    held = np.flatnonzero([each and frame.dtypes.iloc[k].fill_value == 0 for k, each in enumerate(sparse)])
    others = np.setdiff1d(np.arange(frame.shape[1]), held)
    if len(held):
        chosen: Any = frame.iloc[:, held]
        parts.append(_of_scipy(name, chosen.sparse.to_coo()))
        places.append(held)
    if len(others):
        values = frame.iloc[:, others].to_numpy(dtype=np.float64, na_value=np.nan)
        parts.append(Dense(np.ascontiguousarray(values)))
        places.append(others)
    return SplitMatrix(tuple(parts), tuple(places), len(frame))
