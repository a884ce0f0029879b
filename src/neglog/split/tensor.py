"""A design of several kinds of columns as a tensor of torch, which models multiply like any other.

Where torch is asked for what such columns have no form of, they are made dense, as long as they are few.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neglog.errors import DataError
from neglog.internals import COPY, is_written, tree_map, wrapper
from neglog.split.kinds import Dense
from neglog.split.matrix import SplitMatrix

aten = torch.ops.aten
MAX_DENSE = 200_000_000
"""The largest design, in numbers, that is made dense where nothing else will do: 1.6 GB."""
MIN_SPLIT = 100_000
"""Smaller designs, in numbers, are dense: their products take less time than the choice of a kind."""
SAME = frozenset({aten.detach.default, aten.alias.default, aten.clone.default})
MADE = frozenset(
    {aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default}
)


class SplitDesign(Tensor):
    """A design `(N, P)` of float64 that holds a `SplitMatrix` instead of its numbers.

    Products with vectors and matrices, some of its rows and some of its columns are made of the kinds; every
    other function of torch is applied to the dense numbers.
    """

    matrix: SplitMatrix

    @staticmethod
    def __new__(cls, matrix: SplitMatrix) -> SplitDesign:
        made: SplitDesign = wrapper(cls, matrix.shape, torch.float64)
        made.matrix = matrix
        return made

    def __init__(self, matrix: SplitMatrix) -> None:
        pass

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        kinds = ", ".join(f"{type(p).__name__.lower()} {p.shape[1]}" for p in self.matrix.parts)
        return f"SplitDesign{tuple(self.shape)}: {kinds}"

    @property
    def key(self) -> Hashable:
        """A key by memory, the same for views of the same rows."""
        return self.matrix.key

    def squares(self, weights: Tensor) -> Tensor:
        """The products `(P, P)` of the columns with themselves, with `weights` `(N,)`."""
        return torch.from_numpy(self.matrix.squares(weights.numpy()))

    def crossed(self, weights: Tensor, other: Tensor) -> Tensor:
        """The products `(P, Q)` with another design of the same rows, with `weights` `(N,)`."""
        return torch.from_numpy(self.matrix.cross(weights.numpy(), split(other).matrix))

    def column_squares(self) -> Tensor:
        """The sum of the squares of each column, `(P,)`."""
        return torch.from_numpy(self.matrix.column_squares())

    def dense(self) -> Tensor:
        """All numbers `(N, P)`, as a tensor that holds them.

        Raises:
            DataError: they are too many.
        """
        if self.numel() > MAX_DENSE:
            raise DataError(
                f"the design of {self.shape[0]:,} rows and {self.shape[1]:,} columns is too large to be made "
                "dense, which this model or this question needs. Leave out columns, or take fewer rows."
            )
        return torch.from_numpy(np.ascontiguousarray(self.matrix.dense()))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        form = FORMS.get(func)
        if form is not None:
            found = form(*args, **(kwargs or {}))
            if found is not NotImplemented:
                return found
        if isinstance(args[0], SplitDesign) and is_written(func, kwargs or {}):
            raise DataError("a design with categories as codes, or sparse columns, cannot be written to.")
        return func(*tree_map(_dense, args), **tree_map(_dense, kwargs or {}))


def _dense(value: Any) -> Any:
    return value.dense() if isinstance(value, SplitDesign) else value


def _same(x: SplitDesign, **_: Any) -> SplitDesign:
    return SplitDesign(x.matrix)


def _converted(x: SplitDesign, *, dtype: Any = None, device: Any = None, **_: Any) -> Any:
    if dtype in (None, torch.float64) and torch.device(device or "cpu").type == "cpu":
        return SplitDesign(x.matrix)
    return NotImplemented


def _made(of: Any) -> Callable[..., Tensor]:
    """A new tensor that has only the dtype of the design."""
    return lambda x, *args, **kwargs: of(torch.empty(0, dtype=torch.float64), *args, **kwargs)


def _selected(x: SplitDesign, dim: int, index: Tensor) -> SplitDesign:
    numbers = index.numpy()
    return SplitDesign(x.matrix.take(numbers) if dim % 2 == 0 else x.matrix.select(numbers))


def _sliced(x: SplitDesign, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> SplitDesign:
    rows = slice(start, end, step)
    if dim % 2 == 0:
        return SplitDesign(x.matrix.take(rows))
    return SplitDesign(x.matrix.select(np.arange(x.shape[1])[rows]))


def _indexed(x: SplitDesign, indices: Any) -> Any:
    if len(indices) == 1 and indices[0] is not None and indices[0].dim() == 1:
        return SplitDesign(x.matrix.take(indices[0].numpy()))
    if len(indices) == 2 and indices[0] is None and indices[1].dim() == 1:
        chosen = indices[1].numpy()
        columns = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return SplitDesign(x.matrix.select(columns))
    return NotImplemented


def _taken(x: SplitDesign, dim: int, index: int) -> Tensor:
    """A row or a column."""
    if dim % 2 == 0:
        return torch.from_numpy(x.matrix.take(np.array([index])).dense()[0])
    return torch.from_numpy(x.matrix.select(np.array([index % x.shape[1]])).dense()[:, 0])


def _times_vector(x: Any, vector: Tensor) -> Any:
    if not isinstance(x, SplitDesign):
        return NotImplemented
    return torch.from_numpy(x.matrix.at(vector.detach().numpy()[:, None])[:, 0])


def _times(left: Any, right: Any) -> Any:
    if isinstance(left, SplitDesign) and not isinstance(right, SplitDesign):
        return torch.from_numpy(left.matrix.at(right.detach().numpy()))
    if isinstance(right, SplitDesign) and not isinstance(left, SplitDesign):
        return torch.from_numpy(right.matrix.sums(left.detach().numpy()))
    return NotImplemented


def _ends(x: SplitDesign, *, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None and not keepdim:
        low, high = x.matrix.ends()
        return torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)
    if dim != 0 or keepdim:
        return NotImplemented
    return tuple(map(torch.from_numpy, x.matrix.column_ends()))


def _summed(x: SplitDesign, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    if dim != [0] or keepdim:
        return NotImplemented
    return torch.from_numpy(x.matrix.sums(np.ones((1, x.shape[0])))[0])


def _transposed(x: SplitDesign) -> TransposedDesign:
    return TransposedDesign(x.matrix)


class TransposedDesign(Tensor):
    """The transpose `(P, N)` of a `SplitDesign`, for products from the left."""

    matrix: SplitMatrix

    @staticmethod
    def __new__(cls, matrix: SplitMatrix) -> TransposedDesign:
        rows, columns = matrix.shape
        made: TransposedDesign = wrapper(cls, (columns, rows), torch.float64)
        made.matrix = matrix
        return made

    def __init__(self, matrix: SplitMatrix) -> None:
        pass

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"TransposedDesign{tuple(self.shape)}"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        form = TRANSPOSED.get(func)
        if form is not None and isinstance(args[0], TransposedDesign):
            found = form(*args)
            if found is not NotImplemented:
                return found
        return func(*tree_map(_dense_again, args), **tree_map(_dense_again, kwargs or {}))


def _dense_again(value: Any) -> Any:
    return SplitDesign(value.matrix).dense().T if isinstance(value, TransposedDesign) else _dense(value)


def _gathered(x: TransposedDesign, values: Tensor) -> Tensor:
    return torch.from_numpy(x.matrix.sums(values.detach().numpy()[None])[0])


def _from_left(x: TransposedDesign, other: Any) -> Any:
    if isinstance(other, TransposedDesign):
        return NotImplemented
    if not isinstance(other, SplitDesign):
        return torch.from_numpy(np.ascontiguousarray(x.matrix.sums(other.detach().numpy().T).T))
    even, left = torch.ones(x.matrix.rows, dtype=torch.float64), SplitDesign(x.matrix)
    return left.squares(even) if other.key == left.key else left.crossed(even, other)


TRANSPOSED: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(SAME, lambda x: TransposedDesign(x.matrix)),
    aten.mv.default: _gathered,
    aten.mm.default: _from_left,
    aten.t.default: lambda x: SplitDesign(x.matrix),
}
"""What of torch is made of the kinds of columns of a transpose."""
FORMS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(SAME, _same),
    **{of: _made(of) for of in MADE},
    COPY: _converted,
    aten.index_select.default: _selected,
    aten.slice.Tensor: _sliced,
    aten.index.Tensor: _indexed,
    aten.select.int: _taken,
    aten.mv.default: _times_vector,
    aten.mm.default: _times,
    aten.t.default: _transposed,
    aten.aminmax.default: _ends,
    aten.sum.dim_IntList: _summed,
}
"""What of torch is made of the kinds of columns."""


def array_of(design: Tensor) -> Any:
    """The numbers of a design as NumPy sees them: an array, or a `SplitMatrix`."""
    return design.matrix if isinstance(design, SplitDesign) else design.numpy()


def split(*parts: Any) -> SplitDesign:
    """A design of kinds of columns, side by side; tensors are dense columns."""
    if len(parts) == 1 and isinstance(parts[0], SplitDesign):
        return parts[0]
    kinds = [Dense(part.numpy()) if isinstance(part, Tensor) else part for part in parts]
    return SplitDesign(SplitMatrix.side_by_side(kinds))


def tensor_of(matrix: SplitMatrix) -> Tensor:
    """A tensor of a matrix: dense where it is small, or where all its columns are dense."""
    is_dense = all(isinstance(part, Dense) for part in matrix.parts)
    rows, columns = matrix.shape
    if is_dense or rows * columns < MIN_SPLIT:
        return torch.from_numpy(np.ascontiguousarray(matrix.dense()))
    return SplitDesign(matrix)
