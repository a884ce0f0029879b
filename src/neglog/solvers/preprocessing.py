"""Preprocessing for quantile regression (Portnoy & Koenker 1997): most rows are replaced by sums (globs)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neglog.solvers.frisch_newton import Interior, begin, least_squares
from neglog.solvers.lines import ZERO_RESIDUAL, Array, Index, Lines
from neglog.solvers.smoothed_newton import approached
from neglog.solvers.vertex import Vertex, basis_of, pivoted, vertex_at

MIN_GLOBBED_ROWS = 4_000
"""From this many rows on, most of them are replaced by their sums."""
ROUNDS = 6
"""The largest number of times that rows are restored, and that the band is widened."""
VERTEX_SEARCH_GAP = 1e-3
"""The relative duality gap below which the vertex near an iterate is checked."""
MIN_GAP = 1e-14
"""The relative duality gap at which the interior-point method stops."""
MAX_PIVOTS = 8
"""The largest number of simplex pivots from the vertex near an iterate."""
FIRST_BAND = 4.0
"""Half-width of the first band of rows that are kept, in standard errors of the line of the sample."""
SECOND_BAND = 3.0
"""Half-width of the second band, in lengths of the last Newton step."""
MIN_SEARCHED_ROWS = 1_000
"""Below this many rows all are used, without a second band."""


@dataclass(frozen=True, eq=False)
class Optimum:
    """A certified vertex: `held` are all rows on its line, and `duals` their dual variables.

    `violation` is that of `Vertex`. `steps`, `pivots` and `rounds` count iterations of the interior-point
    method, simplex pivots, and choices of the rows that are kept.
    """

    z: Array
    held: Index
    duals: Array
    violation: float
    loss: float
    steps: int = 0
    pivots: int = 0
    rounds: int = 0
    is_unique: bool = True


@dataclass(frozen=True, eq=False)
class Near:
    """The optimum for a neighbouring quantile level, which is lower by `shift`."""

    z: Array
    shift: float


@dataclass(frozen=True, eq=False)
class _Part:
    """The kept rows `band`, and the means of the rows above (1 in `sides` `(N,)`) and below (-1) the line."""

    lines: Lines
    band: Index
    sides: NDArray[np.int8]


@dataclass
class _Counts:
    steps: int = 0
    pivots: int = 0
    rounds: int = 0


Solve = Callable[[Lines, Array], "Optimum | None"]


def optimum(
    lines: Lines, max_steps: int, many: int = MIN_GLOBBED_ROWS, near: Near | None = None
) -> Optimum | None:
    """A vertex that minimises the loss, certified on all rows; None if none was found.

    The line of a sample determines which rows are almost certainly above or below the optimum; in a first
    pass over the rows their sums replace them. Newton steps on the remaining rows leave a few hundred, whose
    optimal vertex is found by an interior-point method. A second pass over all rows verifies on which side of
    the line each is; misclassified rows are restored from the sums.

    Source: Portnoy & Koenker (1997), section 5, for the sums.
    """
    if lines.size == 0:
        z, nowhere = np.zeros(0), np.zeros(0, dtype=np.intp)
        return Optimum(z, nowhere, z, 0.0, lines.loss(lines.y - lines.at(z)))
    counts = _Counts()

    def whole(part: Lines, z: Array) -> Optimum | None:
        return _by_interior_point(part.dense() if part.globs else part, z, max_steps, counts)

    found = None
    for guess in dict.fromkeys((near, None)) if _is_many(lines, many) else ():
        found = _from_sample(lines, whole, many, guess, counts) if found is None else found
    found = whole(lines, least_squares(lines)) if found is None else found
    return None if found is None else replace(found, **vars(counts))


def _is_many(lines: Lines, many: int) -> bool:
    return lines.rows >= max(many, 32 * lines.size)


def _by_interior_point(lines: Lines, z: Array, max_steps: int, counts: _Counts) -> Optimum | None:
    """The optimum by the interior-point method on all rows; None if no vertex is certified."""
    vertex = _vertex_of_iterates(begin(lines, z), max_steps, counts)
    if vertex is None or not vertex.certified:
        return None
    return Optimum(vertex.z, vertex.held, vertex.duals, vertex.violation, lines.loss(vertex.residuals))


def _vertex_of_iterates(inside: Interior, max_steps: int, counts: _Counts) -> Vertex | None:
    """The first certified vertex next to an iterate of the interior-point method, or the last one tried."""
    lines, vertex = inside.lines, None
    if np.abs(inside.v - inside.u).max() <= 1e-9 * np.abs(lines.y).max():
        vertex = _vertex_near(inside, MAX_PIVOTS, counts)
    for _ in range(max_steps):
        if vertex is not None and vertex.certified:
            break
        advanced = inside.advance() and inside.share > MIN_GAP
        counts.steps += 1
        if not advanced:
            return _vertex_near(inside, 20 * lines.size, counts)
        if inside.share < VERTEX_SEARCH_GAP:
            vertex = _vertex_near(inside, MAX_PIVOTS, counts)
    return vertex


def _vertex_near(inside: Interior, pivots: int, counts: _Counts) -> Vertex | None:
    """The vertex at the rows closest to the line of an iterate, after some pivots; None if there is none."""
    basis = basis_of(inside.lines, np.sqrt(inside.uncertain()))
    vertex = None if basis is None else vertex_at(inside.lines, basis, inside.a)
    if vertex is None:
        return None
    vertex, made = pivoted(inside.lines, vertex, pivots, inside.a)
    counts.pivots += made
    return vertex


def _from_sample(lines: Lines, whole: Solve, many: int, near: Near | None, counts: _Counts) -> Optimum | None:
    """The optimum of all rows, from the rows in a band around the line of a sample."""
    size = _sample_size(lines)
    few = lines.take(_sample_rows(lines.rows, size))
    near = None if near is None or abs(near.shift) > _band_share(few, size) else near
    z = _sample_line(few, whole, many) if near is None else near.z
    if z is None:
        return None
    at = approached(few, z, _band_share(few, size, near))
    below = float((at.residuals < 0).mean())
    half = 0.5 * FIRST_BAND / 2 * _band_share(few, size)

    def deciding(part: Lines, z: Array) -> Optimum | None:
        return _from_band(part, z, whole, counts)

    for _ in range(ROUNDS):
        low, high = (int(len(at.residuals) * share) for share in (below - half, below + half))
        low, high = max(0, low), min(len(at.residuals) - 1, high)
        if 2 * (high - low) > len(at.residuals):
            return None
        ends = np.partition(at.residuals, (low, high))[[low, high]]
        part = _partitioned(lines, at.z, float(ends[0]), float(ends[1]))
        found = _certified(lines, part, at.z, deciding, counts)
        if found is not None:
            return found
        half *= 4
    return None


def _from_band(lines: Lines, z: Array, whole: Solve, counts: _Counts) -> Optimum | None:
    """The optimum of the rows of a band, from those in a narrower band around the line after Newton steps."""
    if lines.rows < max(MIN_SEARCHED_ROWS, 40 * lines.size):
        return whole(lines, z)
    at = approached(lines, z, 2 / FIRST_BAND)
    sizes = np.abs(at.residuals[: lines.rows - lines.globs])
    least = min(len(sizes) - 1, 20 * lines.size)
    rounding = 1e3 * ZERO_RESIDUAL * np.abs(lines.y[: len(sizes)]).max()
    width = max(SECOND_BAND * at.moved, float(np.partition(sizes, least)[least]), rounding)
    for _ in range(ROUNDS):
        part = _partitioned(lines, at.z, -width, width)
        if 2 * len(part.band) > lines.rows:
            break
        found = _certified(lines, part, at.z, whole, counts)
        if found is not None:
            return found
        width *= 4
    return whole(lines, at.z)


def _certified(lines: Lines, part: _Part, z: Array, solve: Solve, counts: _Counts) -> Optimum | None:
    """The optimum of a part, if it is that of all rows; rows on the wrong side of the line are restored."""
    for _ in range(ROUNDS):
        counts.rounds += 1
        found = solve(part.lines, z)
        if found is None or (found.held >= len(part.band)).any():
            return None
        misclassified, loss = _misclassified(lines, found.z, part.sides)
        if not len(misclassified):
            near = lines.losses(lines.y[part.band] - lines.at(found.z, part.band), part.band)
            return replace(found, held=part.band[found.held], loss=loss + float(near.sum()))
        if 2 * len(misclassified) > len(part.band):
            return None
        part, z = _restored(lines, part, misclassified), found.z
    return None


def _sample_size(lines: Lines) -> int:
    """The size (P n)^(2/3) for n rows and P columns: both the sample and the band it leaves are small."""
    return min(int((lines.size * lines.rows) ** (2 / 3)), lines.rows // 4)


def _sample_rows(rows: int, size: int) -> Index:
    """A stratified random sample: one row of each of `size` consecutive intervals of equal length."""
    return ((np.arange(size) + np.random.default_rng(0).random(size)) * (rows / size)).astype(np.intp)


def _band_share(lines: Lines, rows: int, near: Near | None = None) -> float:
    """The share of rows within two standard errors of the line that is fitted to a sample of `rows` rows.

    Its standard error is sqrt(tau (1 - tau) P / rows) / density, and a share 2 h density is within h of it.
    """
    share = 4 * (lines.tau * (1 - lines.tau) * lines.size / rows) ** 0.5
    return min(0.5, share + (0.0 if near is None else 2 * abs(near.shift)))


def _sample_line(lines: Lines, whole: Solve, many: int) -> Array | None:
    """A line `(P,)` near the optimum, from nested samples; None if a fit failed."""
    if not _is_many(lines, many):
        found = whole(lines.dense(), least_squares(lines))
        return None if found is None else found.z
    size = _sample_size(lines)
    z = _sample_line(lines.take(_sample_rows(lines.rows, size)), whole, many)
    return None if z is None else approached(lines, z, _band_share(lines, size)).z


def _partitioned(lines: Lines, z: Array, low: float, high: float) -> _Part:
    """The rows whose residuals are between `low` and `high`, and the means of the others on each side."""
    sides, band = np.empty(lines.rows, dtype=np.int8), []
    sums, masses, ys = np.zeros((2, lines.transform.shape[0])), np.zeros(2), np.zeros(2)
    single = lines.rows - lines.globs

    for rows in (*lines.chunks(single), slice(single, lines.rows)):
        residuals = lines.y[rows] - lines.at(z, rows)
        ends = (low, high) if rows.start < single else (0.0, 0.0)
        both = np.stack([residuals > ends[1], residuals < ends[0]])
        np.subtract(both[0], both[1], out=sides[rows], dtype=np.int8)
        band.append(rows.start + np.flatnonzero(sides[rows] == 0))
        weights = both * lines.weights[rows]
        sums += lines.gather(weights, rows)
        masses += weights.sum(1)
        ys += weights @ lines.y[rows]
    index = np.concatenate(band)
    return _Part(_with_globs(lines, index, sums, masses, ys), index, sides)


def _with_globs(lines: Lines, band: Index, sums: Array, masses: Array, ys: Array) -> Lines:
    """The rows of the band, and as further rows the means of those above and of those below it."""
    there = masses > 0
    means = sums[there, int(lines.one) :] / masses[there, None]
    return lines.of(
        np.concatenate([lines.columns[band], means]),
        np.concatenate([lines.y[band], ys[there] / masses[there]]),
        np.concatenate([lines.weights[band], masses[there]]),
        int(there.sum()),
    )


def _restored(lines: Lines, part: _Part, rows: Index) -> _Part:
    """The part with some rows added to its band and removed from its means."""
    band, sides = np.concatenate([part.band, rows]), part.sides.copy()
    sides[rows] = 0
    both = np.stack([sides == 1, sides == -1]) * lines.weights
    return _Part(_with_globs(lines, band, lines.gather(both), both.sum(1), both @ lines.y), band, sides)


def _misclassified(lines: Lines, z: Array, sides: NDArray[np.int8]) -> tuple[Index, float]:
    """The rows that are not on their assumed side of the line, and the loss of all rows outside the band."""
    found, loss, size = [], 0.0, float(np.linalg.norm(z))
    for rows in lines.chunks():
        y, side = lines.y[rows], sides[rows]
        off = side * (y - lines.at(z, rows))
        weighted = lines.weights[rows] * off
        loss += 0.5 * float(weighted.sum()) + (lines.tau - 0.5) * float(weighted @ side)
        close = np.flatnonzero(~(off > 1e3 * ZERO_RESIDUAL * (np.abs(y) + size)) & (side != 0))
        if len(close):
            found.append(rows.start + close[~(off[close] > lines.rounding(z, rows.start + close))])
    return np.concatenate([np.zeros(0, dtype=np.intp), *found]), loss
