"""Vertices: lines through as many rows as there are coefficients, and the certificate of an optimal one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neglog.solvers.lines import Array, Index, Lines
from neglog.solvers.solution import largest_of

BORDER_TOLERANCE = 1e-9
"""Tolerance of dual variables at the ends of [0, 1]."""
MAX_DUAL_STEPS = 30
"""Largest number of steps of the search for duals if more rows than coefficients are on a line."""
MIN_INVERSE_CONDITION = 1e-9
"""Rows with an inverse condition number below this do not determine a line."""


@dataclass(frozen=True, eq=False)
class Vertex:
    """A line through the rows of `basis` `(P,)`, with its dual variables.

    `held` are all rows on the line, `duals` their dual variables, and `residuals` `(N,)` those of all rows.
    `violation` is that of the subgradient condition: the largest distance of a dual from [0, 1], or the
    residual of the dual constraints per row.
    """

    z: Array
    basis: Index
    residuals: Array
    held: Index
    duals: Array
    violation: float

    @property
    def certified(self) -> bool:
        """Whether it is an optimum, up to rounding."""
        return self.violation <= BORDER_TOLERANCE


def vertex_at(lines: Lines, basis: Index, guess: Array | float = 0.5) -> Vertex | None:
    """The line through the rows of `basis`; None if they do not determine one.

    `guess`, `(N,)` or a number, is the initial value of the duals if more rows than these lie on the line.
    """
    design = lines.design(basis)
    try:
        z: Array = np.linalg.solve(design, lines.y[basis])
        z = z + np.linalg.solve(design, lines.y[basis] - lines.at(z, basis))
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(z).all():
        return None
    missing, residuals = np.zeros(lines.transform.shape[0]), np.empty(lines.rows)
    for rows in lines.chunks():
        residuals[rows] = lines.y[rows] - lines.at(z, rows)
        above = residuals[rows] > 0
        weights = lines.weights[rows]
        missing += lines.gather(weights * (1 - lines.tau - above), rows)
    on_line = np.zeros(lines.rows, dtype=bool)
    on_line[lines.zeros(z, residuals)] = on_line[basis] = True
    held = np.flatnonzero(on_line)
    counted = lines.weights[held] * (residuals[held] > 0)
    missing = lines.transform.T @ (missing + lines.gather(counted, held))
    residuals[held] = 0.0
    weighted = _duals(lines, basis, held, missing, guess)
    if weighted is None:
        return None
    duals = weighted / lines.weights[held]
    off = np.abs(weighted @ lines.design(held) - missing).max() / (lines.weights.sum() * lines.unit)
    violation = largest_of(float((-duals).max()), float((duals - 1).max()), float(off), 0.0)
    return Vertex(z, basis, residuals, held, duals, violation)


def _duals(lines: Lines, basis: Index, held: Index, missing: Array, guess: Array | float) -> Array | None:
    """The right-hand side for the duals of `held` rows, times their weights, that balances all other rows."""
    design = lines.design(held)
    if len(held) == len(basis):
        try:
            return np.linalg.solve(design.T, missing)
        except np.linalg.LinAlgError:
            return None
    weights = lines.weights[held]
    a = np.clip(guess[held] if isinstance(guess, np.ndarray) else np.full(len(held), guess), 1e-12, 1 - 1e-12)
    # The nearest that balance, each dual in units of its distance from the borders: those stay inside. Where
    # they do not all, a part of the way is gone, and from there others are nearest.
    for _ in range(MAX_DUAL_STEPS):
        spread = a * (1 - a)
        scaled = (weights * spread)[:, None] * design
        step = spread * np.linalg.lstsq(scaled.T, missing - (weights * a) @ design, rcond=None)[0]
        with np.errstate(all="ignore"):
            reach = np.where(step < 0, -a / step, (1 - a) / step)[step != 0].min(initial=np.inf)
        if reach >= 1:
            break
        a = a + 0.9 * reach * step
    return weights * (a + step)


def basis_of(lines: Lines, sizes: Array) -> Index | None:
    """P independent rows, by pivots among those of the largest `sizes` `(N,)`; None if there are none."""
    count = 8 * lines.size
    while True:
        count = min(count, lines.rows)
        rows = np.argpartition(-sizes, count - 1)[:count]
        left = sizes[rows, None] / sizes[rows].max() * lines.design(rows)
        chosen = []
        for _ in range(lines.size):
            lengths = np.einsum("ij,ij->i", left, left)
            chosen.append(int(lengths.argmax()))
            along = left[chosen[-1]] / max(float(np.sqrt(lengths[chosen[-1]])), 1e-300)
            left = left - np.outer(left @ along, along)
        basis = rows[chosen]
        if len(set(chosen)) == lines.size and _independent(lines.design(basis)):
            return basis
        if count == lines.rows:
            return None
        count *= 8


def _independent(design: Array) -> bool:
    sizes = np.sqrt(np.einsum("ij,ij->i", design, design))
    if not (sizes > 0).all():
        return False
    values = np.linalg.svd(design / sizes[:, None], compute_uv=False)
    return bool(values[-1] > MIN_INVERSE_CONDITION * values[0])


def pivoted(lines: Lines, vertex: Vertex, most: int, guess: Array | float = 0.5) -> tuple[Vertex, int]:
    """The vertex after at most `most` pivots of the simplex method, and the number of pivots.

    Each removes the row whose dual is furthest outside [0, 1], and moves along the edge on which the other
    rows stay on the line, to the minimum of the loss on it (Barrodale & Roberts 1973).
    """
    for pivots in range(most):
        if vertex.certified:
            return vertex, pivots
        basis = _exchanged(lines, vertex)
        after = None if basis is None else vertex_at(lines, basis, guess)
        if after is None or not lines.loss(after.residuals) < lines.loss(vertex.residuals):
            return vertex, pivots
        vertex = after
    return vertex, most


def _exchanged(lines: Lines, vertex: Vertex) -> Index | None:
    """The basis at the end of the edge that goes down most steeply; None if none does."""
    design = lines.design(vertex.basis)
    in_basis = np.zeros(lines.rows, dtype=bool)
    in_basis[vertex.basis] = True
    others = vertex.held[~in_basis[vertex.held]]
    balance = np.zeros(lines.transform.shape[0])
    above = vertex.residuals > 0
    free = np.ones(lines.rows, dtype=bool)
    free[vertex.held] = False
    for rows in lines.chunks():
        balance += lines.gather(lines.weights[rows] * free[rows] * (lines.tau - 1 + above[rows]), rows)
    try:
        edges = np.linalg.inv(design)
    except np.linalg.LinAlgError:
        return None
    # Along an edge the residual of its row falls by one a unit, and rises along the other way.
    slopes = -(lines.transform.T @ balance) @ edges
    sides = lines.weights[vertex.basis] * np.array([[1 - lines.tau], [lines.tau]])
    off = lines.design(others) @ edges
    kinks = lines.weights[others]
    both = np.stack([slopes, -slopes]) + sides
    both[0] += kinks @ _pinball(-off, lines.tau)
    both[1] += kinks @ _pinball(off, lines.tau)
    way, leaving = divmod(int(both.argmin()), lines.size)
    slope, sign = float(both[way, leaving]), 1 - 2 * way
    if slope >= 0:
        return None
    falls = lines.at(sign * edges[:, leaving])
    with np.errstate(all="ignore"):
        reach = np.where(free & (vertex.residuals * falls > 0), vertex.residuals / falls, np.inf)
    entering = _crossed(reach, lines.weights * np.abs(falls), -slope)
    if entering is None:
        return None
    basis = vertex.basis.copy()
    basis[leaving] = entering
    return basis


def _pinball(residuals: Array, tau: float) -> Array:
    return residuals * (tau - (residuals < 0))


def _crossed(reach: Array, rises: Array, fall: float) -> int | None:
    """The row at which a slope of `-fall` has risen to 0, where it rises by `rises` at each `reach`."""
    count = 64
    while True:
        near = np.argpartition(reach, count)[:count] if count < len(reach) else np.arange(len(reach))
        near = near[np.argsort(reach[near])]
        total = np.cumsum(rises[near])
        place = int(np.searchsorted(total, fall))
        if place < len(near):
            return int(near[place]) if np.isfinite(reach[near[place]]) else None
        if len(near) == len(reach):
            return None
        count *= 8


def level_direction(lines: Lines, held: Index, duals: Array) -> Array | None:
    """A direction `(P,)` in which the loss is constant from a certified vertex; None if it is unique.

    The vertex is on the rows `held`, whose duals are these.

    The loss is constant along d if and only if rows with duals inside (0, 1) stay on the line, and each row
    with a dual at an end leaves it only to the corresponding side. Such a d exists unless a positive
    combination of these sides is 0 (Stiemke's lemma); the shortest combination is such a d.
    """
    inside = (duals > BORDER_TOLERANCE) & (duals < 1 - BORDER_TOLERANCE)
    design = lines.design(held)
    sizes = np.sqrt(np.einsum("ij,ij->i", design, design))
    design = design / np.where(sizes > 0, sizes, 1.0)[:, None]
    triangle = np.linalg.qr(design[inside], mode="r")
    _, values, right = np.linalg.svd(triangle, full_matrices=True)
    level = right[int((values > MIN_INVERSE_CONDITION * values.max(initial=0.0)).sum()) :].T
    sides = (np.where(duals > 0.5, -1.0, 1.0)[:, None] * (design @ level))[~inside]
    distinct = sorted(set(map(tuple, sides.round(12).tolist())))
    sides = np.array(distinct).reshape(len(distinct), sides.shape[1])
    sides = sides[np.abs(sides).max(1, initial=0.0) > BORDER_TOLERANCE]
    nearest = _nearest(sides)
    return level @ nearest if np.linalg.norm(nearest) > BORDER_TOLERANCE * (1 + len(sides)) else None


def middle(lines: Lines, z: Array, held: Index, direction: Array) -> tuple[Array, Array]:
    """The midpoint `(P,)` of the segment of optima from `z` in a direction of constant loss, and its
    residuals.

    `z` is a line through the rows `held`.
    """
    falls, residuals = lines.at(direction), lines.y - lines.at(z)
    falls[held] = 0.0
    with np.errstate(all="ignore"):
        reach = np.where(residuals * falls > 0, residuals / falls, np.inf).min()
    z = z + 0.5 * reach * direction if np.isfinite(reach) else z
    return z, lines.y - lines.at(z)


def _nearest(sides: Array) -> Array:
    """The shortest `k' sides` `(Q,)` of all k >= 1 (Lawson & Hanson 1974, chapter 23)."""
    start = sides.sum(0)
    k, passive = np.zeros(len(sides)), np.zeros(len(sides), dtype=bool)
    for _ in range(10 * len(sides) + 10):
        short = start + k @ sides
        pull = -(sides @ short)
        pull[passive] = -np.inf
        if not len(pull) or pull.max() <= 1e-10 * (1 + np.abs(start).max()):
            break
        passive[int(pull.argmax())] = True
        while passive.any():
            trial = np.zeros(len(sides))
            trial[passive] = np.linalg.lstsq(sides[passive].T, -start, rcond=None)[0]
            if trial[passive].min() > 0:
                k = trial
                break
            low = passive & (trial <= 0)
            step = float((k[low] / (k[low] - trial[low])).min())
            k = k + step * (trial - k)
            passive &= k > 1e-12
            k[~passive] = 0.0
    return start + k @ sides
