"""Newton's method on many problems at once, each with its own line search and stopping rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import combinations_with_replacement
from math import factorial, prod
from typing import Protocol

import torch
from torch import Tensor

from neglog.solvers.descent import (
    LOG_GAMMA_ROUNDING,
    MAX_LENGTHS,
    descends,
    is_hidden,
    is_stuck,
    rounding_of,
    shrinkage,
)
from neglog.solvers.solution import Losses, newton_directions

REUSE_RATIO = 0.02
"""A Hessian is reused if the last step reduced the decrement to this share or less."""
QUADRATIC_DISTANCE = 1e-5
"""The distance from an optimum, in standard errors, within which a quadratic model is exact to rounding."""


class Problems(Losses, Protocol):
    """S smooth functions of one vector `(K,)` each, to be minimised; `z` is `(S, K)`."""

    def gradients(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Values `(S,)` and gradients `(S, K)`."""
        ...

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values `(S,)`, gradients `(S, K)` and Hessians `(S, K, K)`."""
        ...

    def bounded(self, z: Tensor) -> Tensor:
        """Whether each function is not known to be unbounded below from `z`, `(S,)`."""
        ...


def choices(size: int, order: int) -> Tensor:
    """In which of `size` numbers each derivative of an order is, `(order, number)`, ascending."""
    chosen = list(combinations_with_replacement(range(size), order))
    return torch.tensor(chosen, dtype=torch.long).reshape(-1, order).T


def rank(chosen: Tensor, size: int) -> Tensor:
    """The indices among `choices` of tuples of numbers `(order, ...)`, in any sequence."""
    order = len(chosen)
    digits = size ** torch.arange(order - 1, -1, -1)
    codes = digits @ choices(size, order)
    ascending = chosen.reshape(order, -1).sort(dim=0).values
    return torch.searchsorted(codes, digits @ ascending)


@dataclass(frozen=True)
class Expansion:
    """Taylor polynomials of S functions: values `(S,)`, gradients, Hessians, and what there is beyond."""

    value: Tensor
    gradient: Tensor
    hessian: Tensor
    higher: tuple[Tensor, ...] = ()
    """The derivatives of the Hessian of order 1, 2, ... `(S, K (K + 1) / 2, number)`, both by `choices`.

    They may be in single precision.
    """

    @staticmethod
    def of(terms: Sequence[Tensor]) -> Expansion:
        """From the derivatives `(S, number)` of order 0, 1, 2, ... by `choices`."""
        value, gradient, hessian, *rest = terms
        size, higher = gradient.shape[1], []
        pairs = choices(size, 2)
        for order, part in enumerate(rest, start=1):
            more = choices(size, order)
            left, right = (
                pairs[:, :, None].expand(-1, -1, more.shape[1]),
                more[:, None].expand(-1, pairs.shape[1], -1),
            )
            every = rank(torch.cat([left, right]).flatten(1), size)
            higher.append(part[:, every].unflatten(1, (pairs.shape[1], -1)))
        sound = all(bool(torch.isfinite(part).all()) for part in rest)
        return Expansion(value[:, 0], gradient, _square(hessian, size), tuple(higher) if sound else ())

    @property
    def sound(self) -> bool:
        """Whether all that is known up to the Hessians are numbers."""
        return all(bool(torch.isfinite(part).all()) for part in (self.value, self.gradient, self.hessian))

    def take(self, index: Tensor) -> Expansion:
        """The expansions at `index`."""
        parts = (self.value[index], self.gradient[index], self.hessian[index])
        return Expansion(*parts, tuple(part[index] for part in self.higher))

    def ahead(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """A step `(S, K)` to the optima of the polynomials, and their Hessians `(S, K, K)` there.

        Newton's method on the polynomial itself; where it does not settle, the first step of it.
        """
        first, begun, definite = newton_directions(self.hessian, self.gradient, rows)
        if not self.higher:
            return first, self.hessian
        step, decrement = first, begun
        for _ in range(2):
            slope, hessian = self._slopes(step)
            sound = torch.isfinite(slope).all(-1) & torch.isfinite(hessian).flatten(1).all(-1)
            slope = torch.where(sound[:, None], slope, self.gradient)
            hessian = torch.where(sound[:, None, None], hessian, self.hessian)
            more, decrement, still = newton_directions(hessian, slope, rows)
            step, definite = step + more, definite & still & sound
        settled = definite & (decrement <= 0.1 * begun)
        step = torch.where(settled[:, None], step, first)
        return step, torch.where(settled[:, None, None], self._slopes(step)[1], self.hessian)

    def _slopes(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients and the Hessians of the polynomials at a step."""
        gradient, hessian = self.gradient + _times(self.hessian, step), self.hessian
        for order, part in enumerate(self.higher, start=1):
            more = _times(part, _monomials(step, order).to(part.dtype)).to(step.dtype)
            more = _square(more, step.shape[1])
            hessian = hessian + more
            gradient = gradient + _times(more, step) / (order + 1)
        return gradient, hessian


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors[..., None])[..., 0]


def _square(half: Tensor, size: int) -> Tensor:
    """Symmetric matrices `(S, K, K)` from their entries by `choices`."""
    i, j = choices(size, 2)
    whole = half.new_empty((len(half), size, size))
    whole[:, i, j], whole[:, j, i] = half, half
    return whole


def _monomials(step: Tensor, order: int) -> Tensor:
    """The products of steps `(S, number)` by `choices`, divided by the factorials of their powers."""
    chosen = choices(step.shape[1], order)
    powers = [prod(map(factorial, Counter(choice).values())) for choice in chosen.T.tolist()]
    return step[:, chosen].prod(1) / step.new_tensor(powers)


@dataclass(frozen=True)
class Solutions:
    """Where each problem stopped, its value there, whether that is a certified optimum, and the steps."""

    z: Tensor
    value: Tensor
    converged: Tensor
    steps: Tensor
    hessian: Tensor
    """The Hessian `(S, K, K)` that the certificate was made with."""


@dataclass
class _State:
    """The state of each problem: value, gradient, and a Hessian with its age."""

    z: Tensor
    value: Tensor
    gradient: Tensor
    hessian: Tensor
    fresh: Tensor
    """Whether the Hessian is that at z; else it is that of an earlier point."""
    last: Tensor
    """The decrement of the step before with this Hessian, infinite for the first."""

    @staticmethod
    def at(problems: Problems, z: Tensor, opening: Expansion | None) -> _State:
        if opening is None:
            known, fresh = problems.derivatives(z), True
        else:
            known, fresh = (opening.value.clone(), opening.gradient.clone(), opening.hessian.clone()), False
        count = len(z)
        return _State(z.clone(), *known, torch.full((count,), fresh), z.new_full((count,), torch.inf))

    def take(self, index: Tensor) -> _State:
        return _State(*(getattr(self, part.name)[index] for part in fields(self)))

    def moving(self) -> _State:
        """A copy for those that move, with the Hessian of where they come from."""
        values = (self.z.clone(), self.value.clone(), self.gradient.clone(), self.hessian)
        return _State(*values, torch.zeros_like(self.fresh), torch.zeros_like(self.last))

    @property
    def sound(self) -> Tensor:
        """Whether all that is known are numbers, `(S,)`."""
        sound = torch.isfinite(self.value) & torch.isfinite(self.gradient).all(-1)
        return sound & torch.isfinite(self.hessian).flatten(1).all(-1)

    def directions(self, rows: Tensor, sound: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`newton_directions`, of those that are sound."""
        gradient = torch.where(sound[:, None], self.gradient, 0.0)
        unit = torch.eye(gradient.shape[1], dtype=gradient.dtype)
        return newton_directions(torch.where(sound[:, None, None], self.hessian, unit), gradient, rows)

    def renew(self, problems: Problems, which: Tensor) -> None:
        """Everything anew where it is wanted."""
        index = which.nonzero()[:, 0]
        found = problems.take(index).derivatives(self.z[index])
        self.value[index], self.gradient[index], self.hessian[index] = found
        self.fresh[index], self.last[index] = True, torch.inf


def newton_together(
    problems: Problems,
    start: Tensor,
    *,
    opening: Expansion | None = None,
    tolerance: float = 1e-8,
    max_steps: int = 200,
) -> Solutions:
    """The minima of S problems, from `start` `(S, K)`, by the stopping rule of `Newton`.

    A Hessian is reused as long as each step reduces the decrement by a factor of fifty. A problem leaves the
    batch at an optimum, where no step descends, where its values are not finite or where it is unbounded. It
    is at an optimum if the decrement, or its extrapolation to the next step, is below `tolerance`. Problems
    do not affect each other.

    `opening` are values and derivatives at `start`, if they are known.
    """
    count, size = start.shape
    found = Solutions(
        start.clone(),
        start.new_full((count,), torch.inf),
        torch.zeros(count, dtype=torch.bool),
        torch.full((count,), max_steps),
        start.new_zeros((count, size, size)),
    )
    index, at = torch.arange(count), _State.at(problems, start, opening)
    before = torch.full_like(found.value, torch.inf)
    for step in range(max_steps):
        sound = at.sound
        if step % 5 == 4:
            sound &= problems.bounded(at.z)
        direction, decrement, definite = at.directions(problems.rows, sound)
        stale = sound & ~at.fresh & ~(definite & (decrement < REUSE_RATIO * at.last))
        if bool(stale.any()):
            at.renew(problems, stale)
            sound &= at.sound
            direction, decrement, definite = at.directions(problems.rows, sound)
        ahead = at.hessian
        if step == 0 and opening is not None:
            proposed, expected = opening.ahead(problems.rows)
            direction = torch.where(at.fresh[:, None], direction, proposed)
            ahead = torch.where(at.fresh[:, None, None], ahead, expected)
        shrinking = ~at.fresh & torch.isfinite(at.last)
        left = torch.where(shrinking, decrement * decrement / at.last, decrement)
        arrived = left <= torch.where(at.fresh, 1.0, 0.1) * tolerance
        noise = rounding_of(at.value, problems.rows)
        stuck = at.fresh & definite & is_stuck(decrement, before, noise)
        arrived |= sound & stuck  # all that is left is rounding
        reached, moved = _line_search(problems, at, direction, definite, noise, sound & ~arrived)
        # If no step descends, the predicted decrease may be below the rounding error of the sum over rows.
        good = sound & definite & (arrived | (~moved & at.fresh & (decrement**2 <= noise)))
        ended = ~moved & (at.fresh | arrived | ~sound)
        if bool(ended.any()):
            room = torch.where(arrived, noise, LOG_GAMMA_ROUNDING * noise)
            tried = good | (sound & arrived)
            last_z, last_value = _last_step(problems, at, direction, decrement, room, tried & ended, good)
            where = index[ended]
            found.z[where], found.value[where] = last_z[ended], last_value[ended]
            finite = torch.isfinite(last_value) & torch.isfinite(last_z).all(-1)
            found.converged[where], found.steps[where] = (good & finite)[ended], step
            found.hessian[where] = at.hessian[ended]
        # Only steps with this Hessian measure its quality.
        own = decrement if ahead is at.hessian else torch.where(at.fresh, decrement, torch.inf)
        reached.last = torch.where(reached.last == 0, 0.0, own)
        reached.hessian, at, before = ahead, reached, decrement
        if bool(ended.any()):
            going = (~ended).nonzero()[:, 0]
            if not len(going):
                return found
            problems, index, at = problems.take(going), index[going], at.take(going)
            before = before[going]
    found.z[index], found.value[index], found.hessian[index] = at.z, at.value, at.hessian
    return found


def chords(
    gradients: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    hessian: Tensor,
    rows: Tensor,
    *,
    tolerance: float = 1e-8,
    passes: int = 4,
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps with a Hessian `(S, K, K)` from near the minima, without evaluating the functions.

    Each step must reduce the decrement by a factor of fifty. The stopping rule is that of `newton_together`:
    the extrapolation of the decrement to the next step is below the tolerance.

    Args:
        gradients: those `(M, K)` at points `(M, K)` of the problems that are numbered `(M,)`.
        start: where to begin, `(S, K)`.
        hessian: positive definite ones, or the problem is left alone.
        rows: how many rows each problem is a sum over, `(S,)`.

    Returns:
        Where each stopped, `(S, K)`, whether that is a certified optimum, and the steps, `(S,)` each.
    """
    z, converged = start.clone(), torch.zeros(len(start), dtype=torch.bool)
    steps, index, last = torch.zeros(len(start), dtype=torch.long), torch.arange(len(start)), None
    for step in range(passes):
        slope = gradients(z[index], index)
        sound = torch.isfinite(slope).all(-1)
        slope = torch.where(sound[:, None], slope, 0.0)
        direction, decrement, definite = newton_directions(hessian[index], slope, rows[index])
        sound &= definite if last is None else definite & (decrement < REUSE_RATIO * last)
        left = decrement if last is None else decrement * decrement / last
        arrived = sound & (left <= 0.1 * tolerance) & (decrement <= QUADRATIC_DISTANCE)
        z[index[sound]] += direction[sound]
        converged[index[arrived]], steps[index] = True, step
        going = sound & ~arrived
        index, last = index[going], decrement[going]
        if not len(index):
            break
    return z, converged, steps


def _last_step(
    problems: Problems,
    at: _State,
    direction: Tensor,
    decrement: Tensor,
    noise: Tensor,
    wanted: Tensor,
    good: Tensor,
) -> tuple[Tensor, Tensor]:
    """One more full step for the problems that need it: at the tolerance it squares the error."""
    z, value = at.z.clone(), at.value.clone()
    near = wanted & good & (decrement <= QUADRATIC_DISTANCE)
    z[near] += direction[near]
    value[near] -= 0.5 * decrement[near] ** 2
    index = (wanted & ~near).nonzero()[:, 0]
    if len(index):
        trial = z[index] + direction[index]
        reached = problems.take(index).values(trial)
        better = reached <= value[index] + noise[index]
        z[index[better]], value[index[better]] = trial[better], reached[better]
    return z, value


def _line_search(
    problems: Problems, at: _State, direction: Tensor, definite: Tensor, noise: Tensor, wanted: Tensor
) -> tuple[_State, Tensor]:
    """The first point of each line of sufficient decrease, and whether there is one, `(S,)`.

    `last` of a point is 0 where its Hessian, or its gradient, must be evaluated.
    """
    reached, moved = at.moving(), torch.zeros_like(wanted)
    slope, step = (at.gradient * direction).sum(-1), torch.ones_like(at.value)
    index = wanted.nonzero()[:, 0]
    for attempt in range(MAX_LENGTHS):
        if not len(index):
            break
        length, before = step[index], at.value[index]
        trial, promised = at.z[index] + length[:, None] * direction[index], length * slope[index]
        these = problems.take(index)
        values, gradients = these.gradients(trial) if attempt == 0 else (these.values(trial), None)
        enough = descends(before, values, promised, noise[index])
        landed = enough & (values < before + noise[index])
        where = index[landed]
        reached.z[where], reached.value[where], moved[where] = trial[landed], values[landed], True
        if gradients is not None:
            reached.gradient[where], reached.last[where] = gradients[landed], torch.inf
        tried = torch.stack([before, values, promised], 1)[~enough].tolist()
        index = index[~enough]
        step[index] *= step.new_tensor([shrinkage(*each) for each in tried])
        index = index[~is_hidden(step[index] * slope[index], noise[index])]
    _stretch(problems, reached, direction, moved & ~definite & (step == 1.0))
    return reached, moved


def _stretch(problems: Problems, reached: _State, direction: Tensor, wanted: Tensor) -> None:
    """If the Hessian is indefinite, double the step as long as the loss decreases."""
    index, added = wanted.nonzero()[:, 0], 1.0
    while len(index) and added <= 512:
        trial = reached.z[index] + added * direction[index]  # z is at `added` times the direction already
        values = problems.take(index).values(trial)
        better = torch.isfinite(values) & (values < reached.value[index])
        index = index[better]
        reached.z[index], reached.value[index], added = trial[better], values[better], 2 * added
        reached.last[index] = 0.0
