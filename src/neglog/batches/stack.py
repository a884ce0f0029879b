"""Many data sets as one stack of tensors, validated like single data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from neglog.alignment import common_labels
from neglog.conversion import ALL, by_key, is_integer
from neglog.data import Data, Roles, check_keywords
from neglog.designs import CORRECT, Columns, check_designs, check_keys, prepare_array, prepare_designs
from neglog.errors import DataError
from neglog.intercepts import without_intercept
from neglog.magnitudes import check_response_magnitude, check_weights
from neglog.predictors import Designs

REMEDY = f"{CORRECT}, or give them the weight 0"
"""The remedy for values of many data sets that are not finite."""


@dataclass(frozen=True)
class Stack:
    """S data sets of N rows; tensors without the first axis are shared by all data sets.

    `x` is a design `(N, P)` or `(S, N, P)`, or a mapping of them; `y`, `weights` and each keyword are `(N,)`
    or `(S, N)`. In rows of weight 0 tensors that are not shared have the values of a row of positive weight.
    """

    count: int
    rows: int
    x: Designs
    y: Tensor
    weights: Tensor | None = None
    keywords: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Columns = field(default_factory=dict)
    integer: bool = False
    without_intercept: frozenset[str] = frozenset()

    def one(self, s: int) -> Data:
        """All rows of data set `s`, without weights."""
        x = {k: _one(v, s, 3) for k, v in self.x.items()} if isinstance(self.x, Mapping) else self.x
        x = _one(x, s, 3) if isinstance(x, Tensor) else x
        keywords = {key: _one(value, s, 2) for key, value in self.keywords.items()}
        data = Data(x, _one(self.y, s, 2), None, keywords, self.columns, integer=self.integer)
        return replace(data, without_intercept=self.without_intercept)

    def counting(self, s: int) -> Data:
        """The rows of data set `s` with a weight above 0, without weights."""
        data = self.one(s)
        if self.counted is None:
            return data
        return data.take(self.counted.expand(self.count, -1)[s].nonzero()[:, 0])

    def blank(self) -> Designs:
        """Designs `(N, P)` to run a model with: the shared ones; the others are filled with NaN."""

        def blanked(value: Tensor) -> Tensor:
            return value if value.dim() == 2 else value.new_full(value.shape[1:], torch.nan)

        if isinstance(self.x, Mapping):
            return {key: blanked(value) for key, value in self.x.items()}
        return blanked(self.x)

    def take(self, index: Tensor | slice) -> Stack:
        """The data sets at `index`; a slice shares memory."""

        def part(value: Tensor, stacked: int) -> Tensor:
            return value[index] if value.dim() == stacked else value

        x = {k: part(v, 3) for k, v in self.x.items()} if isinstance(self.x, Mapping) else part(self.x, 3)
        weights = None if self.weights is None else part(self.weights, 2)
        keywords = {key: part(value, 2) for key, value in self.keywords.items()}
        count = len(torch.arange(self.count)[index])
        return replace(self, count=count, x=x, y=part(self.y, 2), weights=weights, keywords=keywords)

    @cached_property
    def counted(self) -> Tensor | None:
        """Which rows have a weight above 0, `(N,)` or `(S, N)`; None if all have."""
        if self.weights is None or bool((self.weights > 0).all()):
            return None
        return self.weights > 0

    @property
    def weights_alone(self) -> bool:
        """Whether the data sets differ only in their weights."""
        shared = self.shared_designs and self.y.dim() == 1
        shared &= all(value.dim() == 1 for value in self.keywords.values())
        return shared and self.weights is not None and self.weights.dim() == 2

    @property
    def shared_designs(self) -> bool:
        """Whether all data sets have the same designs."""
        parts = self.x.values() if isinstance(self.x, Mapping) else [self.x]
        return all(part.dim() == 2 for part in parts)


def drawn_again(data: Data, y: Tensor, weights: Tensor | None) -> Stack:
    """Validated data with new responses or weights `(S, N)`, which are not validated.

    Raises:
        DataError: the response of the data is a vector, is missing, or is not in float64.
    """
    count = len(y) if weights is None else len(weights)
    if data.y.dim() > 1 or data.y.dtype != torch.float64 or not bool(torch.isfinite(data.y).all()):
        raise DataError("responses must be numbers in float64, and none of them missing.")
    return Stack(count, data.rows, data.x, y, weights, data.keywords, data.columns, data.integer)


def _one(value: Tensor, s: int, stacked: int) -> Tensor:
    return value[s] if value.dim() == stacked else value


def prepare_stack(
    x: Any, y: Any, *, weights: Any = None, roles: Roles | None = None, **keywords: Any
) -> Stack:
    """Validate S data sets; at least one argument has a first axis of length S.

    Raises:
        DataError: wrong types, shapes or lengths, no data sets or rows, NaN or infinite values (allowed in
            rows of weight 0 of tensors that are not shared), weights that are negative or all 0.
    """
    given = {"y": y} | ({} if weights is None else {"weights": weights}) | keywords
    common_labels({"x": x} | given)
    designs, columns = _designs(x)
    vectors = {key: prepare_array(key, value, (1, 2), integers=True) for key, value in given.items()}
    count, rows = _sizes(designs, vectors)
    masses = vectors.pop("weights", None)
    if masses is not None:
        check_weights(masses)
        designs, vectors = _mended(masses, designs, vectors)
    check_designs(designs, columns, remedy=REMEDY)
    check_keywords(vectors, roles or Roles(), remedy=REMEDY)
    check_response_magnitude(vectors["y"], masses, stacked=True)
    plain: Designs = designs if isinstance(x, Mapping) else designs[ALL]
    marked = without_intercept(x)
    return Stack(count, rows, plain, vectors.pop("y"), masses, vectors, columns, is_integer(y), marked)


def _name(key: str) -> str:
    """The name of a design in messages."""
    return f"x[{key!r}]" if key else "x"


def _sizes(designs: Mapping[str, Tensor], vectors: Mapping[str, Tensor]) -> tuple[int, int]:
    """The number of data sets, and the number of rows of each."""
    stacked = {_name(key): value.shape[:2] for key, value in designs.items() if value.dim() == 3}
    stacked |= {key: value.shape for key, value in vectors.items() if value.dim() == 2}
    lengths = {_name(key): value.shape[-2] for key, value in designs.items()}
    count = _agreed("data sets", {key: shape[0] for key, shape in stacked.items()})
    return count, _agreed("rows", lengths | {key: value.shape[-1] for key, value in vectors.items()})


def _designs(x: Any) -> tuple[dict[str, Tensor], Columns]:
    """The designs by key, and the names of the columns where all data sets share them."""
    parts = by_key(x)
    if not parts:
        raise DataError("`x` is an empty mapping; give at least one predictor a design.")
    if isinstance(x, Mapping):
        check_keys(x)
    designs: dict[str, Tensor] = {}
    columns: dict[str, tuple[str, ...]] = {}
    for key, value in parts.items():
        if getattr(value, "ndim", 2) == 3:
            designs[key] = prepare_array(_name(key), value, (3,))
            columns[key] = tuple(f"x{j}" for j in range(designs[key].shape[-1]))
        else:
            found, names = prepare_designs({key: value} if key else value)
            designs[key] = found[key] if isinstance(found, Mapping) else found
            columns[key] = names[key]
    return designs, columns


def _agreed(what: str, lengths: Mapping[str, int]) -> int:
    if not lengths:
        raise DataError(
            "none of `x`, `y`, `weights` has a dimension for many data sets: one must be (data sets, rows), "
            "or (data sets, rows, columns) for `x`. For a single data set, use `mle`."
        )
    if len(set(lengths.values())) > 1:
        raise DataError(f"the arguments have different numbers of {what}: {dict(lengths)}.")
    if next(iter(lengths.values())) == 0:
        raise DataError(f"there are no {what}; there is nothing to fit.")
    return next(iter(lengths.values()))


def _mended(
    weights: Tensor, designs: dict[str, Tensor], vectors: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Replace the values in rows of weight 0, which may be NaN, by those of a row of positive weight."""
    shared = all(v.dim() < weights.dim() and bool(torch.isfinite(v).all()) for v in vectors.values())
    if shared and all(design.dim() == 2 for design in designs.values()):
        return designs, vectors
    absent = weights == 0
    if not bool(absent.any()):
        return designs, vectors
    first = (weights > 0).to(torch.int8).argmax(-1, keepdim=True)

    def row(value: Tensor) -> Tensor:
        value, gone = torch.broadcast_tensors(value, absent)
        return torch.where(gone, value.gather(-1, first.expand(*value.shape[:-1], 1)), value)

    def row_of(design: Tensor) -> Tensor:
        if design.dim() == 2:
            return design
        index = first[..., None].expand(len(design), 1, design.shape[-1])
        return torch.where(absent[..., None], design.gather(1, index), design)

    mended = vectors if shared else {key: row(value) for key, value in vectors.items()}
    return {key: row_of(design) for key, design in designs.items()}, mended
