"""The log-likelihood of rows as a function of a few numbers, and its derivatives in them.

The log-likelihood of a row is a function of its linear predictors, and of constants that all rows share.
`RowLikelihood` is its one interface, with three backends: formulas (`neglog.likelihood.formulas`), graphs
that were traced once (`graph`), and the model itself (`eager`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from neglog.data import Data
from neglog.graphs.nodes import Node
from neglog.graphs.staged import Stages

VALUE, SLOPES, CURVATURES = 0, 1, 2
"""Orders of derivatives; lower orders are included."""
MAX_NUMPY_ROWS = 10_000
"""Up to this many rows NumPy is used, which has less overhead per call; torch is faster for more rows."""
AGREEMENT = 4096
"""The largest relative difference between a graph and its model, in machine epsilons: 1e-12 in float64."""
Output = tuple[str, int | None]
"""A predictor, and which of its outputs, where it has many."""


@dataclass(frozen=True)
class Terms:
    """Minus the log-likelihood of some rows, in nats, and its derivatives up to an order.

    Where the rows are those of several data sets, all shapes begin with their number.

    Attributes:
        value: the loss `()`.
        constant_gradient: its derivatives `(C,)` in the constants.
        slopes: those in each predictor, `(N,)` each.
        constant_hessian: the second derivatives `(C, C)` in two constants.
        cross_hessian: `cross_hessian[c][j]` are those in a constant and a predictor, `(N,)`.
        hessian: `hessian[j][k]` are those in two predictors, for k ≤ j, `(N,)`.
    """

    value: Tensor
    constant_gradient: Tensor | None = None
    slopes: Sequence[Tensor] = ()
    constant_hessian: Tensor | None = None
    cross_hessian: Sequence[Sequence[Tensor]] = ()
    hessian: Sequence[Sequence[Tensor]] = ()


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of some data as inputs of graphs; subexpressions of the data alone are cached for few rows.

    Attributes:
        data: the data.
        room: the number of bytes that may be cached.
        few: whether the rows are evaluated by NumPy.
        kept: the values of the nodes of graphs that depend on the rows alone, and those of stages together.
    """

    data: Data
    room: int = 0
    few: bool = False
    kept: dict[Node | Stages, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(data: Data, room: int = 0) -> Rows:
        """The rows of some data, evaluated as is best for their number."""
        return Rows(data, room, data.rows <= MAX_NUMPY_ROWS and data.y.dtype == torch.float64)

    @cached_property
    def parts(self) -> list[Tensor]:
        """The tensors of the data."""
        return list(self.data.parts().values())

    def keep(self, found: Mapping[Node | Stages, Any]) -> None:
        """Cache subexpressions of the rows, if there is room."""
        own = {part.data_ptr() for part in self.parts}
        tensors = [v for v in found.values() if isinstance(v, Tensor) and v.data_ptr() not in own]
        if self.few or sum(v.untyped_storage().nbytes() for v in tensors) <= self.room:
            self.kept.update(found)


class RowLikelihood(Protocol):
    """Minus the log-likelihood of a model's rows as a function of predictors and constants."""

    @property
    def predictors(self) -> tuple[Output, ...]:
        """The predictors, by output."""
        ...

    @property
    def places(self) -> Tensor:
        """The places `(C,)` of the constants in theta."""
        ...

    def evaluate(self, order: int, constants: Tensor, predictors: Sequence[Tensor], rows: Rows) -> Terms:
        """The terms up to an order at the unconstrained constants `(C,)` and predictors `(N,)`, one a head.

        Where there is no density, the value is infinite and the derivatives are NaN.
        """
        ...


def agrees(
    likelihood: RowLikelihood,
    order: int,
    where: tuple[Tensor, Sequence[Tensor], Rows],
    known: Sequence[Tensor],
) -> bool:
    """Whether a likelihood agrees with `known` terms, in the order of `listed`, to rounding."""
    try:
        found = listed(likelihood.evaluate(order, *where))
    except (RuntimeError, TypeError, IndexError, ValueError):
        return False  # it was traced for data of another kind
    return all(agree(a.expand(b.shape), b) for a, b in zip(found, known, strict=True))


def agree(found: Tensor, known: Tensor) -> bool:
    """Whether two tensors are the same to rounding."""
    size = known.nan_to_num(0.0, 0.0, 0.0).abs().max() if known.numel() else 0.0
    tolerance = AGREEMENT * torch.finfo(known.dtype).eps
    return torch.allclose(found, known, rtol=tolerance, atol=tolerance * float(size), equal_nan=True)


def derivatives(order: int, values: Tensor, constants: Tensor, predictors: Sequence[Tensor]) -> list[Tensor]:
    """Terms in the order of `listed`, by automatic differentiation.

    Args:
        order: that of the derivatives.
        values: minus the log-likelihood `(...)` of each data set, each of which depends on its own alone.
        constants: a leaf `(..., C)`.
        predictors: leaves `(..., N)`, each entry of which acts on its own row alone.
    """
    leaves = [constants, *predictors]
    if order == VALUE:
        return [values.detach()]
    own, *slopes = gradients(values, leaves, create_graph=order == CURVATURES)
    found = [values, own, *slopes]
    if order == CURVATURES:
        for place in range(constants.shape[-1]):
            found += gradients(own[..., place], leaves)
        for j, slope in enumerate(slopes):
            found += gradients(slope, leaves[1 : j + 2])
    return [each.detach() for each in found]


def gradients(values: Tensor, leaves: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """The derivatives of the sum of values in leaves; 0 where they do not depend on one."""
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    if not values.requires_grad or not wanted:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = iter(
        torch.autograd.grad(
            values.sum() if values.dim() else values,
            wanted,
            retain_graph=True,
            create_graph=create_graph,
            materialize_grads=True,
            allow_unused=True,
        )
    )
    return [next(found) if leaf.requires_grad else torch.zeros_like(leaf) for leaf in leaves]


@torch.enable_grad()
def row_slopes(
    values: Tensor, shared: Tensor, own: Sequence[Tensor] = ()
) -> tuple[list[Tensor], dict[int, Tensor]]:
    """The derivatives of values `(N,)`, each of which depends on its own row of leaves alone.

    In leaves of rows they are those of the sum; in shared ones those, in the weights, of the gradient of the
    weighted sum.

    Args:
        values: the values of the rows.
        shared: a leaf `(K,)` on which all rows depend.
        own: leaves `(N,)`, each entry of which acts on its own row alone.

    Returns:
        The derivatives `(N,)` in each of `own`; place in `shared` -> those in it, where they may not be 0.
    """
    if not values.requires_grad:
        return [torch.zeros_like(leaf) for leaf in own], {}
    weights = torch.ones_like(values, requires_grad=True)
    total, *each = torch.autograd.grad(
        weights @ values, [shared, *own], create_graph=True, allow_unused=True, materialize_grads=True
    )
    found = {
        place: torch.autograd.grad(part, weights, retain_graph=True, allow_unused=True)[0]
        for place, part in enumerate(total)
        if part.requires_grad
    }
    columns = {place: column for place, column in found.items() if column is not None}
    return [slope.detach() for slope in each], columns


def count(order: int, predictors: int, constants: int) -> int:
    """The number of tensors of `listed`."""
    second = constants * (1 + predictors) + predictors * (predictors + 1) // 2
    return (1, 2 + predictors, 2 + predictors + second)[order]


def listed(terms: Terms) -> list[Tensor]:
    """Terms as one list: value, first derivatives, second derivatives by constants, and by predictors."""
    if terms.constant_gradient is None:
        return [terms.value]
    found = [terms.value, terms.constant_gradient, *terms.slopes]
    if terms.constant_hessian is None:
        return found
    for bends, across in zip(terms.constant_hessian.unbind(-2), terms.cross_hessian, strict=True):
        found += [bends, *across]
    return found + [bend for bends in terms.hessian for bend in bends]


def named(order: int, found: Sequence[Tensor], predictors: int, constants: int) -> Terms:
    """The inverse of `listed`."""
    if order == VALUE:
        return Terms(found[0])
    first = Terms(found[0], found[1], found[2 : 2 + predictors])
    if order == SLOPES:
        return first
    second, width = found[2 + predictors :], 1 + predictors
    rows = [second[c * width : (c + 1) * width] for c in range(constants)]
    rest, ends = second[constants * width :], list(accumulate(range(predictors + 1)))
    own = first.constant_gradient
    assert own is not None
    return replace(
        first,
        constant_hessian=torch.stack([row[0] for row in rows], -2)
        if rows
        else own.new_zeros((*own.shape, 0)),
        cross_hessian=[row[1:] for row in rows],
        hessian=[rest[ends[j] : ends[j + 1]] for j in range(predictors)],
    )


def impossible(order: int, rows: Rows, predictors: int, constants: int, value: Tensor | None = None) -> Terms:
    """The terms where there is no density: an infinite value, or a given one, and derivatives of NaN."""
    y = rows.data.y
    lost = y.new_full((), torch.nan)
    each = lost.expand(rows.data.rows)
    value = torch.full_like(lost, torch.inf) if value is None else value
    found: list[Any] = [value, lost.expand(constants), *[each] * predictors]
    found += [
        *[lost.expand(constants), *[each] * predictors] * constants,
        *[each] * (predictors * (predictors + 1) // 2),
    ]
    return named(order, found[: count(order, predictors, constants)], predictors, constants)
