"""Products of tall matrices, of many rows and few columns, in cache-sized chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from neglog.split.tensor import SplitDesign

CHUNK_NUMBERS = 327_680
"""Number of entries of a chunk, which fits in the cache of a core."""
TALL = 2048
"""Number of rows of a chunk of a tall matrix."""
WEIGHTS_AT_ONCE = 4
"""Number of weight vectors whose products are computed together."""
REGISTER_WIDTHS = {torch.float64: 12, torch.float32: 8}
"""Widths that are multiples of these are fast, since they fill the vector registers."""


def gathered(columns: Tensor, one: bool, values: Sequence[Tensor]) -> list[Tensor]:
    """`[1, columns].T @ v` `(P,)` for each of the `values` `(N,)`, with the 1 if `one` is True."""
    found = columns.new_zeros(len(values), columns.shape[1] + one)
    is_split = isinstance(columns, SplitDesign)
    found[:, int(one) :] += (
        torch.stack(list(values)) @ columns if is_split else _rows_product(values, columns)
    )
    if one:
        found[:, 0] += torch.stack([v.sum() for v in values])
    return list(found)


def _rows_product(values: Sequence[Tensor], columns: Tensor) -> Tensor:
    """The vectors as rows times the columns, `(V, P)`."""
    whole = len(columns) // TALL * TALL
    if whole < 2 * TALL:
        return torch.stack(list(values)) @ columns
    tiles = torch.stack([v[:whole].unflatten(0, (-1, TALL)) for v in values], dim=1)
    found = torch.bmm(tiles, columns[:whole].unflatten(0, (-1, TALL))).sum(dim=0)
    if whole == len(columns):
        return found
    return found + torch.stack([v[whole:] for v in values]) @ columns[whole:]


def column_squares(columns: Tensor) -> Tensor:
    """The sum of the squares of each column, `(P,)`."""
    if isinstance(columns, SplitDesign):
        return columns.column_squares()
    own = columns.numpy()
    return torch.from_numpy(np.einsum("ij,ij->j", own, own))


def symmetric_products(
    columns: Tensor, one: bool, weights: Sequence[Tensor], rough: bool = False
) -> list[Tensor]:
    """`[1, columns].T @ diag(w) @ [1, columns]` `(P, P)` for each of the `weights` `(N,)`.

    `rough` products are summed in single precision within a chunk, with weights of order one.
    """
    if isinstance(columns, SplitDesign):
        return [_split_products(columns, one, each) for each in weights]
    found: list[Tensor] = []
    for at in range(0, len(weights), WEIGHTS_AT_ONCE):
        group = weights[at : at + WEIGHTS_AT_ONCE]
        found += (_roughly(columns, one, group) if rough else None) or _side_by_side(columns, one, group)[0]
    return found


def plain_products(columns: Tensor, one: bool, values: Tensor) -> tuple[Tensor, Tensor]:
    """`[1, columns].T @ [1, columns]` `(P, P)`, and `[1, columns].T @ values` `(P,)`."""
    if isinstance(columns, SplitDesign):
        even = columns.new_ones(len(columns))
        return _split_products(columns, one, even), gathered(columns, one, [values])[0]
    (products,), (sums,) = _side_by_side(columns, one, [columns.new_ones(len(columns))], [values])
    return products, sums


def _split_products(columns: SplitDesign, one: bool, weights: Tensor) -> Tensor:
    """The products of kinds of columns with one vector of weights."""
    found = columns.squares(weights)
    if not one:
        return found
    return torch.cat(
        [
            torch.cat([weights.sum()[None], sums := weights @ columns])[None],
            torch.cat([sums[:, None], found], 1),
        ]
    )


def _roughly(columns: Tensor, one: bool, weights: Sequence[Tensor]) -> list[Tensor] | None:
    """The products in single precision, or None where their sizes do not allow it."""
    sizes = torch.stack([w.abs().max() for w in weights])
    if not bool((torch.isfinite(sizes) & (sizes > 0)).all()):
        return None
    scaled = [w / size for w, size in zip(weights, sizes, strict=True)]
    found, _ = _side_by_side(columns, one, scaled, dtype=torch.float32)
    if not all(bool(torch.isfinite(part).all()) for part in found):
        return None
    return [size * part for size, part in zip(sizes, found, strict=True)]


def _side_by_side(
    columns: Tensor,
    one: bool,
    weights: Sequence[Tensor],
    values: Sequence[Tensor] = (),
    dtype: torch.dtype | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """The products of the columns with each of the weights, and their sums with each of the values.

    They are blocks of `columns.T @ [w₁ columns, w₁, w₂ columns, w₂, …, v₁, v₂, …]`.
    """
    dtype = columns.dtype if dtype is None else dtype
    rows, width = columns.shape
    each = width + one
    used = each * len(weights)
    padded = _full(used + len(values), dtype)
    size = min(TALL * max(1, CHUNK_NUMBERS // (TALL * max(1, padded))), max(1, rows))
    beside = columns.new_zeros(size, padded, dtype=dtype)
    total, sums = columns.new_zeros(width, padded), columns.new_zeros(len(weights) + len(values))
    for chunk in chunks(rows, size):
        left = columns[chunk].to(dtype)
        right = beside[: len(left)]
        _weigh(left, one, [weight[chunk].to(dtype) for weight in weights], right, sums)
        for k, value in enumerate(values):
            right[:, used + k] = value[chunk]
            sums[len(weights) + k] += value[chunk].sum()
        total += tall_product(left, right)
    parts = (total[:, k * each : (k + 1) * each] for k in range(len(weights)))
    vectors = [total[:, used + k] for k in range(len(values))]
    if not one:
        return list(parts), vectors
    products = [_bordered(part, own) for part, own in zip(parts, sums, strict=False)]
    first = sums[len(weights) :, None]
    return products, [torch.cat([own, vector]) for own, vector in zip(first, vectors, strict=True)]


def _weigh(left: Tensor, one: bool, weights: Sequence[Tensor], right: Tensor, sums: Tensor) -> None:
    """Write `[w₁ left, w₁, w₂ left, w₂, …]` to `right`, and add the sums of the weights to `sums`."""
    width = left.shape[1]
    for k, weight in enumerate(weights):
        start = k * (width + one)
        torch.mul(left, weight[:, None], out=right[:, start : start + width])
        if one:
            right[:, start + width] = weight
            sums[k] += weight.sum()


def _bordered(part: Tensor, total: Tensor) -> Tensor:
    """`[columns.T @ w @ columns, columns.T @ w]` and the sum of w, with what belongs to the 1 put first."""
    first = torch.cat([total[None], part[:, -1]])
    return torch.cat([first[:, None], torch.cat([part[:, -1:].T, part[:, :-1]])], dim=1)


def _full(width: int, dtype: torch.dtype) -> int:
    """The next width that is no slower; narrow products are as fast as they are."""
    unit = REGISTER_WIDTHS.get(dtype, 1)
    return width if width < unit else -(-width // unit) * unit


def mixed_products(left: Tensor, values: Tensor, right: Tensor, one: bool, other: bool) -> Tensor:
    """`[1, left].T @ diag(values) @ [1, right]`, each 1 where it is requested, chunk by chunk."""
    if isinstance(left, SplitDesign) or isinstance(right, SplitDesign):
        return _split_cross(left, values, right, one, other)
    total = values.new_zeros((left.shape[1] + one, right.shape[1] + other))
    size = TALL * max(1, CHUNK_NUMBERS // (TALL * max(1, right.shape[1])))
    for rows in chunks(len(values), size):
        weights, first = values[rows], left[rows]
        weighted = right[rows] * weights[:, None]
        total[one:, other:] += tall_product(first, weighted)
        if one:
            total[0, other:] += weighted.sum(dim=0)
        if other:
            total[one:, 0] += weights @ first
        if one and other:
            total[0, 0] += weights.sum()
    return total


def _split_cross(left: Tensor, values: Tensor, right: Tensor, one: bool, other: bool) -> Tensor:
    """`mixed_products` where columns are of several kinds."""
    if isinstance(left, SplitDesign):
        found = left.crossed(values, right)
    else:
        found = _split_cross(right, values, left, False, False).T
    if one:
        found = torch.cat([(values @ right)[None], found])
    if other:
        first = torch.cat([values.sum()[None], values @ left]) if one else values @ left
        found = torch.cat([first[:, None], found], 1)
    return found


def tall_product(left: Tensor, right: Tensor) -> Tensor:
    """`left.T @ right` of tall matrices: as many small products at once, of which each thread takes some."""
    whole = len(left) // TALL * TALL
    if whole < 2 * TALL:
        return left.T @ right
    first, second = (each[:whole].unflatten(0, (-1, TALL)) for each in (left, right))
    found = torch.bmm(first.transpose(1, 2), second).sum(dim=0)
    return found + left[whole:].T @ right[whole:] if whole < len(left) else found


def chunks(rows: int, size: int) -> Iterator[slice]:
    """Slices of `size` rows, the last one shorter."""
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
