"""Newton steps on a smoothed pinball loss, whose curvature is the density of the rows at the line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neglog.solvers.lines import Array, Lines

MAX_SMOOTHED_STEPS = 6
MAX_ROWS_PER_COEFFICIENT = 200
"""The largest number of rows per coefficient from which the curvature is estimated."""
MAX_STEP_RATIO = 0.5
"""Ratio of consecutive step lengths above which the steps are dominated by sampling noise."""


@dataclass(frozen=True, eq=False)
class Approach:
    """Coefficients `(P,)`, residuals `(N,)`, and the root mean square change of the line in the last step."""

    z: Array
    residuals: Array
    moved: float


def approached(lines: Lines, z: Array, share: float) -> Approach:
    """A point near the optimum by Newton steps from `z` `(P,)`, as long as they descend.

    A sum of pinball losses has no curvature, but over a distance that contains many rows its gradient changes
    like that of a quadratic with the Hessian sum_i f_i x_i x_i', where f_i is the density of y_i at the line.
    It is estimated from the rows within twice the length of the last step (Powell 1991), at first from this
    share of all rows. After about three steps sampling noise dominates.
    """
    single = slice(0, lines.rows - lines.globs)
    residuals = lines.y - lines.at(z)
    sizes = np.abs(residuals[single])
    count = int(min(share, 0.5) * len(sizes))
    window, moved, loss = float(np.partition(sizes, count)[count]), np.inf, lines.loss(residuals)
    for _ in range(MAX_SMOOTHED_STEPS):
        step, length = _step(lines, residuals, window, single)
        if not length < MAX_STEP_RATIO * moved:
            break
        after = lines.y - lines.at(z + step)
        lower = lines.loss(after)
        if not lower < loss:
            break
        z, residuals, loss, moved, window = z + step, after, lower, length, 2 * length
    return Approach(z, residuals, moved)


def _step(lines: Lines, residuals: Array, window: float, single: slice) -> tuple[Array, float]:
    """Newton's step and its length, with the curvature estimated from the rows within the window."""
    least = min(20 * lines.size, len(residuals[single]) - 1)
    sizes = np.abs(residuals[single])
    near = np.flatnonzero(sizes <= window)
    if len(near) < least:
        near = np.argpartition(sizes, least)[: least + 1]
        window = float(sizes[near[-1]])
    masses = lines.weights[near]
    every = max(1, len(near) // (MAX_ROWS_PER_COEFFICIENT * lines.size))
    design, weights = lines.design(near[::every]), masses[::every]
    gram = (design * (weights * (masses.sum() / weights.sum()))[:, None]).T @ design
    pull = lines.transform.T @ lines.gather(lines.weights * (lines.tau - (residuals < 0)))
    try:
        step = 2 * window * np.linalg.solve(gram, pull)  # none where rows are tied on the line
    except np.linalg.LinAlgError:
        return pull, np.inf
    return step, float(np.sqrt(max(step @ gram @ step, 0.0) / masses.sum()))
