"""Nested optima: the heads and constants of a network where they are best, given its features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from neglog.errors import ModelError
from neglog.objective.cuts import Cut
from neglog.objective.objective import Objective
from neglog.objective.rowwise import ALL_TERMS, Rowwise, Terms, rowwise_of
from neglog.objective.shrinkage import Shrinkage
from neglog.projection.headed import Headed
from neglog.solvers.solution import newton_direction

CLOSE = 1e-6
"""So near to the optimum, in units of the noise of a row, the last step is a quadratic's."""
STEPS = 50
"""Steps after which an optimum is not waited for."""
ROUGH = 1e-9
"""A negative curvature of less than this share of the largest is rounding."""
EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class Optimum:
    """The loss at its smallest given features, and where: `theta` `(K,)`.

    `slopes` are its derivatives in each head's values there, `(N,)` each; `slope` `(K,)` those of minus the
    log prior.
    """

    theta: Tensor
    value: float
    slopes: Sequence[Tensor]
    slope: Tensor


@dataclass(frozen=True, eq=False)
class _Look:
    """The loss at a place, with its derivatives in heads and constants."""

    theta: Tensor
    value: float
    gradient: Tensor
    hessian: Tensor
    terms: Terms
    slope: Tensor


def nestable(objective: Objective, network: Headed) -> tuple[Headed, Rowwise]:
    """A network with those heads inside that the loss is convex in together, and what rows say of all heads.

    Raises:
        ModelError: that cannot be replayed (`neglog.objective.rowwise`).
    """
    still = {name: value.detach() for name, value in objective.params(objective.initial).items()}
    cut = Cut(objective.model, objective.data, network.calls, network.constants, still)
    found = rowwise_of(cut, objective.as_read)
    if not isinstance(found, Rowwise):
        raise ModelError(
            f"`VariableProjection` cannot take the density of `{objective.name}` apart at its heads: "
            f"{found}. Use `LBFGS`."
        )
    return replace(network, inside=_convex(objective, network, found)), found


def _convex(objective: Objective, network: Headed, rowwise: Rowwise) -> tuple[int, ...]:
    """The heads, as many as the loss of rows is convex in together, the first ones first.

    In both heads of a heteroscedastic network, for one, it is not, and an optimum over both may jump.
    """
    theta, rows = objective.initial, objective.rows
    wave = torch.sin(torch.arange(rows, dtype=theta.dtype))
    levels = [call.constant(rows).detach().reshape(rows, -1) for call in network.calls]
    etas = [eta + wave for level in levels for eta in level.unbind(1)]
    bends = rowwise.terms(ALL_TERMS, theta[rowwise.places], etas, objective.as_read).bends
    kept: list[int] = []
    for j, head in enumerate(network.heads):
        both = [*kept, j]
        part = [[bends[max(a, b)][min(a, b)].expand(rows) for a in both] for b in both]
        values = torch.linalg.eigvalsh(torch.stack([torch.stack(row) for row in part]).permute(2, 0, 1))
        if len(head.places) and bool((values[:, 0] >= -ROUGH * values[:, -1].abs()).all()):
            kept.append(j)
    return tuple(kept) or network.free[:1]


class Nested:
    """The optimum of a network's heads and constants, by Newton's method.

    For a Normal mean of known scale one step is the solution of the normal equations; a second look confirms
    it, and mends what they lose to rounding. Combinations that neither features nor priors tell apart stay
    where they are.

    Raises:
        ModelError: see `nestable`.
    """

    def __init__(self, objective: Objective, network: Headed, design: Sequence[int]) -> None:
        self.objective, self.design = objective, design
        self.network, self.rowwise = nestable(objective, network)
        self.places = self.network.inner
        self.shrinkage = Shrinkage(objective, self.places)
        ends = list(accumulate((len(self.network.heads[j].places) for j in self.network.inside), initial=0))
        self.slices = [slice(a, b) for a, b in pairwise(ends)]
        self.own = slice(ends[-1], len(self.places))

    def optimum(self, designs: Sequence[Tensor], theta: Tensor) -> Optimum:
        """The optimum given the designs `(N, F)`, from where heads and constants are in `theta` `(K,)`."""
        rows = self.objective.rows
        columns, grams = [with_one(each) for each in designs], dict[tuple[int, int], Tensor]()
        at = self._look(columns, theta, grams)
        for _ in range(STEPS):
            if not math.isfinite(at.value) or not bool(torch.isfinite(at.hessian).all()):
                break
            step, decrement, _ = newton_direction(at.hessian, at.gradient, rows)
            near = decrement <= CLOSE * math.sqrt(rows)
            new = None if near else self._descended(columns, at, step, decrement, grams)
            if new is None:
                return self._ended(columns, at, step, decrement)
            at = new
        return Optimum(at.theta, at.value, at.terms.slopes, at.slope)

    def bends(self, designs: Sequence[Tensor], theta: Tensor) -> list[Tensor]:
        """The curvature of the rows in each head's values `(N,)`, where it is not negative."""
        etas = self._etas([with_one(each) for each in designs], theta)
        terms = self._terms(theta, etas)
        rows = self.objective.rows
        return [bends[-1].expand(rows).clamp_min(0.0) for bends in terms.bends]

    def _etas(self, columns: Sequence[Tensor], theta: Tensor) -> list[Tensor]:
        heads = zip(self.design, self.network.heads, strict=True)
        return [columns[i] @ head.coefficients(theta) for i, head in heads]

    def _terms(self, theta: Tensor, etas: Sequence[Tensor]) -> Terms:
        return self.rowwise.terms(ALL_TERMS, theta[self.rowwise.places], etas, self.objective.as_read)

    def _look(self, columns: Sequence[Tensor], theta: Tensor, grams: dict[tuple[int, int], Tensor]) -> _Look:
        terms, prior = self._terms(theta, self._etas(columns, theta)), self.shrinkage(theta)
        assert terms.own is not None
        assert terms.own_bends is not None
        gradient, hessian = prior.slope[self.places], prior.bend.clone()
        own, rows = self.own, self.objective.rows
        gradient[own] += terms.own
        hessian[own, own] += terms.own_bends
        inside = list(zip(self.network.inside, self.slices, strict=True))
        for number, (j, place) in enumerate(inside):
            gradient[place] += self.gathered(columns[self.design[j]], j, terms.slopes[j].expand(rows))
            for k, other in inside[: number + 1]:
                part = self._product(columns, j, k, terms.bends[j][k].expand(rows), grams)
                hessian[place, other] += part
                if k < j:
                    hessian[other, place] += part.T
            for c, across in enumerate(terms.crosses):
                part = self.gathered(columns[self.design[j]], j, across[j].expand(rows))
                hessian[place, own.start + c] += part
                hessian[own.start + c, place] += part
        return _Look(theta, float(terms.value) + prior.value, gradient, hessian, terms, prior.slope)

    def gathered(self, columns: Tensor, j: int, values: Tensor) -> Tensor:
        """Derivatives `(N,)` in the values of a head as those in its coefficients that are free."""
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
        """Products of the free columns of two heads; those without weights are kept for the next step."""
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

    def _descended(
        self,
        columns: Sequence[Tensor],
        at: _Look,
        step: Tensor,
        decrement: float,
        grams: dict[tuple[int, int], Tensor],
    ) -> _Look | None:
        """The first point along a step that descends enough; None if there is none."""
        noise = 64 * EPSILON * (abs(at.value) + math.sqrt(self.objective.rows))
        share = 1.0
        for _ in range(40):
            theta = at.theta.index_add(0, self.places, step, alpha=share)
            new = self._look(columns, theta, grams)
            if math.isfinite(new.value) and new.value <= at.value - 1e-4 * share * decrement**2 + noise:
                return new if new.value < at.value + noise else None
            share *= 0.25
        return None

    def _ended(self, columns: Sequence[Tensor], at: _Look, step: Tensor, decrement: float) -> Optimum:
        """The last step, with what it changes by the derivatives that are known."""
        theta = at.theta.index_add(0, self.places, step)
        moves = [
            eta - old
            for eta, old in zip(self._etas(columns, theta), self._etas(columns, at.theta), strict=True)
        ]
        slopes = []
        for j, slope in enumerate(at.terms.slopes):
            for k, move in enumerate(moves):
                slope = slope + at.terms.bends[max(j, k)][min(j, k)] * move
            for across, size in zip(at.terms.crosses, step[self.own], strict=True):
                slope = slope + across[j] * size
            slopes.append(slope)
        prior = self.shrinkage(theta)
        return Optimum(theta, at.value - 0.5 * decrement**2, slopes, prior.slope)


def with_one(design: Tensor) -> Tensor:
    """`[1, design]`."""
    return torch.cat([design.new_ones((len(design), 1)), design], dim=1)
