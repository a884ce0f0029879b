"""Newton steps on a smoothed sum of pinball losses: its curvature is the density of the rows at the line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neglog.solvers.lines import Array, Lines

STEPS = 6
ENOUGH = 200
"""The largest number of rows near the line, for each coefficient, from which the curvature is estimated."""
FALLS = 0.5
"""The ratio of a step to the one before above which the steps are noise."""


@dataclass(frozen=True, eq=False)
class Approach:
    """A line `(P,)`, its residuals `(N,)`, and by how much it moved last, the root mean square over rows."""

    z: Array
    residuals: Array
    moved: float


def approached(lines: Lines, z: Array, share: float) -> Approach:
    """From `z` `(P,)` to next to the optimum, as far as steps descend.

    A sum of pinball losses has no curvature, but over a distance on which it meets many rows its slope
    changes as if it were sum_i f_i x_i x_i', f_i the density of y_i at the line. That is taken from the rows
    within twice the distance of the step before (Powell 1991), at first from this share of all. Some three
    steps lead to where so few rows lie in between that their noise is all that is left.
    """
    single = slice(0, lines.rows - lines.globs)
    residuals = lines.y - lines.at(z)
    sizes = np.abs(residuals[single])
    count = int(min(share, 0.5) * len(sizes))
    window, moved, loss = float(np.partition(sizes, count)[count]), np.inf, lines.loss(residuals)
    for _ in range(STEPS):
        step, length = _step(lines, residuals, window, single)
        if not length < FALLS * moved:
            break
        after = lines.y - lines.at(z + step)
        lower = lines.loss(after)
        if not lower < loss:
            break
        z, residuals, loss, moved, window = z + step, after, lower, length, 2 * length
    return Approach(z, residuals, moved)


def _step(lines: Lines, residuals: Array, window: float, single: slice) -> tuple[Array, float]:
    """Newton's step and how far it moves the line, with the rows within the window for a curvature."""
    least = min(20 * lines.size, len(residuals[single]) - 1)
    sizes = np.abs(residuals[single])
    near = np.flatnonzero(sizes <= window)
    if len(near) < least:
        near = np.argpartition(sizes, least)[: least + 1]
        window = float(sizes[near[-1]])
    masses = lines.weights[near]
    every = max(1, len(near) // (ENOUGH * lines.size))
    design, weights = lines.design(near[::every]), masses[::every]
    gram = (design * (weights * (masses.sum() / weights.sum()))[:, None]).T @ design
    pull = lines.transform.T @ lines.gather(lines.weights * (lines.tau - (residuals < 0)))
    try:
        step = 2 * window * np.linalg.solve(gram, pull)  # none where rows are tied on the line
    except np.linalg.LinAlgError:
        return pull, np.inf
    return step, float(np.sqrt(max(step @ gram @ step, 0.0) / masses.sum()))
