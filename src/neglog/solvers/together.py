"""Newton's method on many problems at once, each with a line search and an end of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from neglog.solvers.newton import EPSILON, ROUGH
from neglog.solvers.solution import newton_directions


class Problems(Protocol):
    """S smooth functions of one vector `(K,)` each, to be minimised; `z` is `(S, K)`."""

    @property
    def rows(self) -> Tensor:
        """How many rows each is a sum over, `(S,)`."""
        ...

    def take(self, index: Tensor) -> Self:
        """Those at `index`."""
        ...

    def values(self, z: Tensor) -> Tensor:
        """`(S,)`; not finite where a function cannot be evaluated."""
        ...

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values `(S,)`, gradients `(S, K)` and Hessians `(S, K, K)`."""
        ...

    def bounded(self, z: Tensor) -> Tensor:
        """Whether each function is not known to fall without end from `z`, `(S,)`."""
        ...


@dataclass(frozen=True)
class Solutions:
    """Where each problem stopped, its value there, whether that is a certified optimum, and the steps."""

    z: Tensor
    value: Tensor
    converged: Tensor
    steps: Tensor
    hessian: Tensor
    """The Hessian `(S, K, K)` that the certificate was made with."""


def newton_together(
    problems: Problems, start: Tensor, *, tolerance: float = 1e-8, max_steps: int = 200
) -> Solutions:
    """The minima of S problems, from `start` `(S, K)`: the steps and the rule to stop of `Newton`, batched.

    A problem leaves the batch when it has ended: at an optimum, where nothing descends, where its values are
    no numbers or where it is unbounded. Nothing that happens to one changes another.
    """
    count, size = start.shape
    z = start.clone()
    found = Solutions(
        z,
        z.new_full((count,), torch.inf),
        torch.zeros(count, dtype=torch.bool),
        torch.full((count,), max_steps),
        z.new_zeros((count, size, size)),
    )
    index, value = torch.arange(count), found.value
    for step in range(max_steps):
        value, gradient, hessian = problems.derivatives(z)
        sound = torch.isfinite(value) & torch.isfinite(gradient).all(-1)
        sound &= torch.isfinite(hessian).flatten(1).all(-1)
        if step % 5 == 4:
            sound &= problems.bounded(z)
        gradient = torch.where(sound[:, None], gradient, 0.0)
        hessian = torch.where(sound[:, None, None], hessian, torch.eye(size, dtype=z.dtype))
        direction, decrement, definite = newton_directions(hessian, gradient, problems.rows)
        noise = 64 * EPSILON * (value.abs() + problems.rows.sqrt())
        slope = (gradient * direction).sum(-1)
        arrived = decrement <= tolerance
        moved_z, moved_value, moved = _line_search(
            problems, z, value, slope, direction, definite, noise, sound & ~arrived
        )
        # Where no step descends, the promised descent may be lost in the rounding of the sum over rows.
        good = sound & definite & (arrived | (~moved & (decrement**2 <= noise)))
        ended = ~moved
        if bool(ended.any()):
            room = torch.where(arrived, noise, ROUGH * noise)
            last_z, last_value = _last_step(problems, z, value, direction, room, good | (sound & arrived))
            at = index[ended]
            found.z[at], found.value[at] = last_z[ended], last_value[ended]
            found.converged[at], found.steps[at] = good[ended], step
            found.hessian[at] = hessian[ended]
        going = moved.nonzero()[:, 0]
        if not len(going):
            return found
        if bool(ended.any()):
            problems, index = problems.take(going), index[going]
            moved_z, moved_value, hessian = moved_z[going], moved_value[going], hessian[going]
        z, value = moved_z, moved_value
    found.z[index], found.value[index], found.hessian[index] = z, value, hessian
    return found


def _last_step(
    problems: Problems, z: Tensor, value: Tensor, direction: Tensor, noise: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor]:
    """One more full step where it is wanted: at the tolerance it squares the error."""
    z, value = z.clone(), value.clone()
    index = wanted.nonzero()[:, 0]
    if len(index):
        trial = z[index] + direction[index]
        reached = problems.take(index).values(trial)
        better = reached <= value[index] + noise[index]
        z[index[better]], value[index[better]] = trial[better], reached[better]
    return z, value


def _line_search(
    problems: Problems,
    z: Tensor,
    value: Tensor,
    slope: Tensor,
    direction: Tensor,
    definite: Tensor,
    noise: Tensor,
    wanted: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The first point of each line that descends enough (Armijo), and whether there is one, `(S,)`."""
    z, value = z.clone(), value.clone()
    moved = torch.zeros_like(wanted)
    step = torch.ones_like(value)
    index = wanted.nonzero()[:, 0]
    for _ in range(60):
        if not len(index):
            break
        length, before = step[index], value[index]
        trial = z[index] + length[:, None] * direction[index]
        reached = problems.take(index).values(trial)
        enough = torch.isfinite(reached) & (reached <= before + 1e-4 * length * slope[index] + noise[index])
        landed = enough & (reached < before + noise[index])
        at = index[landed]
        z[at], value[at], moved[at] = trial[landed], reached[landed], True
        step[index] = length * _shrink(before, reached, slope[index], length)
        hopeless = step[index] * -slope[index] < noise[index] * 1e-3
        step[at] = length[landed]
        index = index[~enough & ~hopeless]
    return _stretch(problems, z, value, direction, moved & ~definite & (step == 1.0), moved)


def _shrink(value: Tensor, reached: Tensor, slope: Tensor, step: Tensor) -> Tensor:
    """The minimiser of the parabola through what is known, kept between 1/10 and 1/2 of the step."""
    curvature = reached - value - slope * step
    parabola = (-0.5 * slope * step / curvature).clamp(0.1, 0.5)
    finite = torch.isfinite(reached)
    return torch.where(finite, torch.where(curvature > 0, parabola, 0.5), 0.1)


def _stretch(
    problems: Problems, z: Tensor, value: Tensor, direction: Tensor, wanted: Tensor, moved: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the curvature is not to be trusted, double the step for as long as that pays."""
    index, added = wanted.nonzero()[:, 0], 1.0
    while len(index) and added <= 512:
        trial = z[index] + added * direction[index]  # z is at `added` times the direction already
        reached = problems.take(index).values(trial)
        better = torch.isfinite(reached) & (reached < value[index])
        index = index[better]
        z[index], value[index], added = trial[better], reached[better], 2 * added
    return z, value, moved
