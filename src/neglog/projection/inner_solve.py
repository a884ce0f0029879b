"""The inner optimisation of variable projection: heads and constants of a network given its features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from neglog.errors import ModelError
from neglog.likelihood.eager import EagerRows
from neglog.likelihood.graph import GraphRows, graph_of
from neglog.likelihood.rows import CURVATURES, Terms
from neglog.objective.objective import Objective
from neglog.objective.shrinkage import Shrinkage
from neglog.projection.heads import Headed
from neglog.solvers.descent import backtracked, rounding_of
from neglog.solvers.solution import newton_direction

NEWTON_DECREMENT_TOLERANCE = 1e-6
"""Newton decrement, in units of the noise of a row, below which the last step is that of a quadratic."""
MAX_INNER_STEPS = 50
"""Largest number of Newton steps."""
QUARTER = 0.25
"""The share of a step that is tried next; one by the losses would make the optimum jump with features."""
CURVATURE_ROUNDING = 1e-9
"""Negative curvature attributed to rounding, relative to the largest curvature."""


@dataclass(frozen=True, eq=False)
class Optimum:
    """The smallest loss given features, and its argument `theta` `(K,)`.

    `slopes` are the derivatives of the loss in each head's values, `(N,)` each; `slope` `(K,)` is that of
    minus the log prior in theta.
    """

    theta: Tensor
    value: float
    slopes: Sequence[Tensor]
    slope: Tensor


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """The loss at `theta`, with its derivatives in heads and constants."""

    theta: Tensor
    value: float
    gradient: Tensor
    hessian: Tensor
    terms: Terms
    slope: Tensor


def nestable(objective: Objective, network: Headed) -> tuple[Headed, GraphRows]:
    """A network with those heads inside in which the loss is jointly convex, and its row-wise derivatives.

    Raises:
        ModelError: the rows' log-likelihood has no graph (`neglog.likelihood.graph`).
    """
    fixed = {name: value.detach() for name, value in objective.layout.params(objective.initial).items()}
    eager = EagerRows(objective.model, objective.data, network.calls, network.constants, fixed)
    found = graph_of(eager, objective.as_read)
    if not isinstance(found, GraphRows):
        raise ModelError(
            f"`VariableProjection` cannot take the density of `{objective.name}` apart at its heads: "
            f"{found}. Use `LBFGS`."
        )
    return replace(network, inside=_convex(objective, network, found)), found


def _convex(objective: Objective, network: Headed, likelihood: GraphRows) -> tuple[int, ...]:
    """The heads in which the rows' loss is jointly convex, chosen greedily from the first on.

    In both heads of a heteroscedastic network, for one, it is not, and an optimum over both may jump.
    """
    bends = _curvature_at_probe(objective, network, likelihood)
    kept: list[int] = []
    for j, head in enumerate(network.heads):
        if len(head.places) and _is_positive([*kept, j], bends, objective.rows):
            kept.append(j)
    return tuple(kept) or network.free[:1]


def _curvature_at_probe(
    objective: Objective, network: Headed, likelihood: GraphRows
) -> Sequence[Sequence[Tensor]]:
    """The second derivatives of the rows' loss in all heads, where each row has predictors of its own."""
    theta, rows = objective.initial, objective.rows
    wave = torch.sin(torch.arange(rows, dtype=theta.dtype))
    levels = [call.constant(rows).detach().reshape(rows, -1) for call in network.calls]
    etas = [eta + wave for level in levels for eta in level.unbind(1)]
    return likelihood.evaluate(CURVATURES, theta[likelihood.places], etas, objective.as_read).hessian


def _is_positive(heads: Sequence[int], bends: Sequence[Sequence[Tensor]], rows: int) -> bool:
    """Whether the curvature of each row in some heads is positive semi-definite, up to rounding."""
    hessian = [torch.stack([bends[max(a, b)][min(a, b)].expand(rows) for a in heads]) for b in heads]
    values = torch.linalg.eigvalsh(torch.stack(hessian).permute(2, 0, 1))
    return bool((values[:, 0] >= -CURVATURE_ROUNDING * values[:, -1].abs()).all())


class Nested:
    """The optimum of a network's heads and constants, by Newton's method.

    For a Normal mean of known scale one step solves the normal equations; a second evaluation verifies the
    solution and corrects its rounding errors. Combinations of parameters that neither features nor priors
    identify keep their values.

    Raises:
        ModelError: see `nestable`.
    """

    def __init__(self, objective: Objective, network: Headed, design: Sequence[int]) -> None:
        self.objective, self.design = objective, design
        self.network, self.likelihood = nestable(objective, network)
        self.places = self.network.inner
        self.shrinkage = Shrinkage(objective, self.places)
        ends = list(accumulate((len(self.network.heads[j].places) for j in self.network.inside), initial=0))
        self.slices = [slice(a, b) for a, b in pairwise(ends)]
        self.constants = slice(ends[-1], len(self.places))

    def optimum(self, designs: Sequence[Tensor], theta: Tensor) -> Optimum:
        """The optimum given the designs `(N, F)`, from the heads and constants in `theta` `(K,)`."""
        rows = self.objective.rows
        columns, grams = [with_one(each) for each in designs], dict[tuple[int, int], Tensor]()
        at = self._evaluate(columns, theta, grams)
        for _ in range(MAX_INNER_STEPS):
            if not math.isfinite(at.value) or not bool(torch.isfinite(at.hessian).all()):
                break
            step, decrement, _ = newton_direction(at.hessian, at.gradient, rows)
            near = decrement <= NEWTON_DECREMENT_TOLERANCE * math.sqrt(rows)
            new = None if near else self._line_search(columns, at, step, decrement, grams)
            if new is None:
                return self._final_step(columns, at, step, decrement)
            at = new
        return Optimum(at.theta, at.value, at.terms.slopes, at.slope)

    def curvatures(self, designs: Sequence[Tensor], theta: Tensor) -> list[Tensor]:
        """The curvature of the rows in each head's values `(N,)`, negative ones replaced by 0."""
        etas = self._etas([with_one(each) for each in designs], theta)
        terms = self._terms(theta, etas)
        rows = self.objective.rows
        return [bends[-1].expand(rows).clamp_min(0.0) for bends in terms.hessian]

    def _etas(self, columns: Sequence[Tensor], theta: Tensor) -> list[Tensor]:
        heads = zip(self.design, self.network.heads, strict=True)
        return [columns[i] @ head.coefficients(theta) for i, head in heads]

    def _terms(self, theta: Tensor, etas: Sequence[Tensor]) -> Terms:
        return self.likelihood.evaluate(
            CURVATURES, theta[self.likelihood.places], etas, self.objective.as_read
        )

    def _evaluate(
        self, columns: Sequence[Tensor], theta: Tensor, grams: dict[tuple[int, int], Tensor]
    ) -> _Evaluation:
        terms, prior = self._terms(theta, self._etas(columns, theta)), self.shrinkage(theta)
        assert terms.constant_gradient is not None
        assert terms.constant_hessian is not None
        gradient, hessian = prior.slope[self.places], prior.bend.clone()
        constants, rows = self.constants, self.objective.rows
        gradient[constants] += terms.constant_gradient
        hessian[constants, constants] += terms.constant_hessian
        inside = list(zip(self.network.inside, self.slices, strict=True))
        for number, (j, place) in enumerate(inside):
            gradient[place] += self.gathered(columns[self.design[j]], j, terms.slopes[j].expand(rows))
            for k, other in inside[: number + 1]:
                part = self._product(columns, j, k, terms.hessian[j][k].expand(rows), grams)
                hessian[place, other] += part
                if k < j:
                    hessian[other, place] += part.T
            for c, across in enumerate(terms.cross_hessian):
                part = self.gathered(columns[self.design[j]], j, across[j].expand(rows))
                hessian[place, constants.start + c] += part
                hessian[constants.start + c, place] += part
        return _Evaluation(theta, float(terms.value) + prior.value, gradient, hessian, terms, prior.slope)

    def gathered(self, columns: Tensor, j: int, values: Tensor) -> Tensor:
        """Derivatives in the free coefficients of a head from those in its values `(N,)`."""
        found = values @ columns
        free = self.network.heads[j].free
        return found if len(self.network.heads[j].places) == len(free) else found[free]

    def _product(
        self,
        columns: Sequence[Tensor],
        j: int,
        k: int,
        values: Tensor,
        grams: dict[tuple[int, int], Tensor],
    ) -> Tensor:
        """Cross products of the free columns of two heads; unweighted ones are stored for later steps."""
        left, right = (columns[self.design[i]] for i in (j, k))
        if bool((values == values[0]).all()):
            key = self.design[j], self.design[k]
            if key not in grams:
                grams[key] = left.T @ right
            whole = values[0] * grams[key]
        else:
            whole = (values[:, None] * left).T @ right
        first, second = (self.network.heads[i].free for i in (j, k))
        return whole if bool(first.all() and second.all()) else whole[first][:, second]

    def _line_search(
        self,
        columns: Sequence[Tensor],
        at: _Evaluation,
        step: Tensor,
        decrement: float,
        grams: dict[tuple[int, int], Tensor],
    ) -> _Evaluation | None:
        """The first point along the step of sufficient decrease; None if there is none."""

        def trial(length: float) -> _Evaluation:
            return self._evaluate(columns, at.theta.index_add(0, self.places, step, alpha=length), grams)

        noise = rounding_of(at.value, self.objective.rows)
        found = backtracked(trial, at.value, -(decrement**2), noise, shrink=lambda *_: QUARTER)
        return None if found is None else found[0]

    def _final_step(
        self, columns: Sequence[Tensor], at: _Evaluation, step: Tensor, decrement: float
    ) -> Optimum:
        """The last step, with derivatives after it by a first-order expansion."""
        theta = at.theta.index_add(0, self.places, step)
        moves = [
            eta - old
            for eta, old in zip(self._etas(columns, theta), self._etas(columns, at.theta), strict=True)
        ]
        slopes = []
        for j, slope in enumerate(at.terms.slopes):
            for k, move in enumerate(moves):
                slope = slope + at.terms.hessian[max(j, k)][min(j, k)] * move
            for across, size in zip(at.terms.cross_hessian, step[self.constants], strict=True):
                slope = slope + across[j] * size
            slopes.append(slope)
        prior = self.shrinkage(theta)
        return Optimum(theta, at.value - 0.5 * decrement**2, slopes, prior.slope)


def with_one(design: Tensor) -> Tensor:
    """`[1, design]`: the design with a column for the intercept."""
    return torch.cat([design.new_ones((len(design), 1)), design], dim=1)
