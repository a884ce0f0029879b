"""Preprocessing (Portnoy & Koenker 1997) for quantile regression: sums, the globs, replace most rows."""

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
"""The number of rows from which most of them are replaced by their sums."""
ROUNDS = 6
"""The number of times that rows are restored, or more are kept, before all rows are used."""
HOPEFUL = 1e-3
"""The duality gap, as a share of the loss, below which a vertex is searched for."""
CLOSE = 1e-14
"""The duality gap, as a share of the loss, at which the interior-point method ends."""
PIVOTS = 8
WIDE = 4.0
"""Distance from the line of a sample within which rows are kept at first, in standard errors of that line."""
NARROW = 3.0
"""Distance from the line within which rows are kept at last, in lengths of the last step."""
MIN_SEARCHED_ROWS = 1_000
"""The number of rows below which all of them are used, and none is searched for."""


@dataclass(frozen=True, eq=False)
class Optimum:
    """A certified vertex of some lines: `held` are all rows that it goes through, and `duals` their a.

    `violation` is that of `Vertex`. It took so many steps of the interior point, pivots, and choices of the
    rows that decide.
    """

    z: Array
    held: Index
    duals: Array
    violation: float
    loss: float
    steps: int = 0
    pivots: int = 0
    rounds: int = 0


@dataclass(frozen=True, eq=False)
class Near:
    """A line that is known: the optimum of almost the same loss, at a quantile that is `shift` lower."""

    z: Array
    shift: float


@dataclass(frozen=True, eq=False)
class _Part:
    """The rows `band` of many, and the means of those above (1 in `sides` `(N,)`) and of those below (-1)."""

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
    """A vertex that minimises the loss, certified on all rows; None if no vertex was.

    A sample says which rows are surely above or below the line, and their sums take their place: one walk
    over the rows. Newton steps among the others lead so near that few hundred rows are left to decide, and of
    these an interior point finds the vertex. Another walk over all rows looks for any that is not on the side
    where it was counted; it is taken back from the sums.

    Source: Portnoy & Koenker (1997), section 5, for the sums.
    """
    if lines.size == 0:
        z, nowhere = np.zeros(0), np.zeros(0, dtype=np.intp)
        return Optimum(z, nowhere, z, 0.0, lines.loss(lines.y - lines.at(z)))
    counts = _Counts()

    def whole(part: Lines, z: Array) -> Optimum | None:
        return _by_all(part.dense() if part.globs else part, z, max_steps, counts)

    found = None
    for guess in dict.fromkeys((near, None)) if _is_many(lines, many) else ():
        found = _of_many(lines, whole, many, guess, counts) if found is None else found
    found = whole(lines, least_squares(lines)) if found is None else found
    return None if found is None else replace(found, **vars(counts))


def _is_many(lines: Lines, many: int) -> bool:
    return lines.rows >= max(many, 32 * lines.size)


def _by_all(lines: Lines, z: Array, max_steps: int, counts: _Counts) -> Optimum | None:
    inside, vertex = begin(lines, z), None
    if np.abs(inside.v - inside.u).max() <= 1e-9 * np.abs(lines.y).max():
        vertex = _tried(inside, PIVOTS, counts)
    for _ in range(max_steps):
        if vertex is not None and vertex.certified:
            break
        moved = inside.advance() and inside.share > CLOSE
        counts.steps += 1
        if not moved:
            vertex = _tried(inside, 20 * lines.size, counts)
        elif inside.share < HOPEFUL:
            vertex = _tried(inside, PIVOTS, counts)
        if not moved:
            break
    if vertex is None or not vertex.certified:
        return None
    return Optimum(vertex.z, vertex.held, vertex.duals, vertex.violation, lines.loss(vertex.residuals))


def _tried(inside: Interior, pivots: int, counts: _Counts) -> Vertex | None:
    basis = basis_of(inside.lines, np.sqrt(inside.uncertain()))
    vertex = None if basis is None else vertex_at(inside.lines, basis, inside.a)
    if vertex is None:
        return None
    vertex, made = pivoted(inside.lines, vertex, pivots, inside.a)
    counts.pivots += made
    return vertex


def _of_many(lines: Lines, whole: Solve, many: int, near: Near | None, counts: _Counts) -> Optimum | None:
    """The optimum of all rows, by those next to the line of a sample."""
    size = _sample_size(lines)
    few = lines.take(_spots(lines.rows, size))
    near = None if near is None or abs(near.shift) > _share(few, size) else near
    z = _rough(few, whole, many) if near is None else near.z
    if z is None:
        return None
    at = approached(few, z, _share(few, size, near))
    below = float((at.residuals < 0).mean())
    half = 0.5 * WIDE / 2 * _share(few, size)

    def deciding(part: Lines, z: Array) -> Optimum | None:
        return _of_part(part, z, whole, counts)

    for _ in range(ROUNDS):
        low, high = (int(len(at.residuals) * share) for share in (below - half, below + half))
        low, high = max(0, low), min(len(at.residuals) - 1, high)
        if 2 * (high - low) > len(at.residuals):
            return None
        ends = np.partition(at.residuals, (low, high))[[low, high]]
        part = _globbed(lines, at.z, float(ends[0]), float(ends[1]))
        found = _settled(lines, part, at.z, deciding, counts)
        if found is not None:
            return found
        half *= 4
    return None


def _of_part(lines: Lines, z: Array, whole: Solve, counts: _Counts) -> Optimum | None:
    """The optimum of rows next to the line, by those next to where Newton steps lead."""
    if lines.rows < max(MIN_SEARCHED_ROWS, 40 * lines.size):
        return whole(lines, z)
    at = approached(lines, z, 2 / WIDE)
    sizes = np.abs(at.residuals[: lines.rows - lines.globs])
    least = min(len(sizes) - 1, 20 * lines.size)
    rounding = 1e3 * ZERO_RESIDUAL * np.abs(lines.y[: len(sizes)]).max()
    width = max(NARROW * at.moved, float(np.partition(sizes, least)[least]), rounding)
    for _ in range(ROUNDS):
        part = _globbed(lines, at.z, -width, width)
        if 2 * len(part.band) > lines.rows:
            break
        found = _settled(lines, part, at.z, whole, counts)
        if found is not None:
            return found
        width *= 4
    return whole(lines, at.z)


def _settled(lines: Lines, part: _Part, z: Array, solve: Solve, counts: _Counts) -> Optimum | None:
    """The optimum of a part, if it is that of all: rows that are on the wrong side are taken back."""
    for _ in range(ROUNDS):
        counts.rounds += 1
        found = solve(part.lines, z)
        if found is None or (found.held >= len(part.band)).any():
            return None
        strayed, loss = _strayed(lines, found.z, part.sides)
        if not len(strayed):
            near = lines.losses(lines.y[part.band] - lines.at(found.z, part.band), part.band)
            return replace(found, held=part.band[found.held], loss=loss + float(near.sum()))
        if 2 * len(strayed) > len(part.band):
            return None
        part, z = _taken_back(lines, part, strayed), found.z
    return None


def _sample_size(lines: Lines) -> int:
    """Of n rows and P columns (P n)^(2/3) make both the sample and what it leaves to decide small."""
    return min(int((lines.size * lines.rows) ** (2 / 3)), lines.rows // 4)


def _spots(rows: int, size: int) -> Index:
    """Rows, one of each of `size` equal stretches, drawn without regard to what they hold."""
    return ((np.arange(size) + np.random.default_rng(0).random(size)) * (rows / size)).astype(np.intp)


def _share(lines: Lines, rows: int, near: Near | None = None) -> float:
    """The share of rows within two standard deviations of what the line of so many rows is off by.

    It is off by sqrt(tau (1 - tau) P / rows) / density, and within h of it lie 2 h density.
    """
    share = 4 * (lines.tau * (1 - lines.tau) * lines.size / rows) ** 0.5
    return min(0.5, share + (0.0 if near is None else 2 * abs(near.shift)))


def _rough(lines: Lines, whole: Solve, many: int) -> Array | None:
    """A line `(P,)` near the optimum, that of a sample of a sample; None if there was none to be had."""
    if not _is_many(lines, many):
        found = whole(lines.dense(), least_squares(lines))
        return None if found is None else found.z
    size = _sample_size(lines)
    z = _rough(lines.take(_spots(lines.rows, size)), whole, many)
    return None if z is None else approached(lines, z, _share(lines, size)).z


def _globbed(lines: Lines, z: Array, low: float, high: float) -> _Part:
    """The rows whose residuals from a line are between `low` and `high`, and the means of the others."""
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
    """The rows of the band, and two more: the means of those above it and of those below it."""
    there = masses > 0
    means = sums[there, int(lines.one) :] / masses[there, None]
    return lines.of(
        np.concatenate([lines.columns[band], means]),
        np.concatenate([lines.y[band], ys[there] / masses[there]]),
        np.concatenate([lines.weights[band], masses[there]]),
        int(there.sum()),
    )


def _taken_back(lines: Lines, part: _Part, rows: Index) -> _Part:
    """The part with some rows more, which its means no longer count."""
    band, sides = np.concatenate([part.band, rows]), part.sides.copy()
    sides[rows] = 0
    both = np.stack([sides == 1, sides == -1]) * lines.weights
    return _Part(_with_globs(lines, band, lines.gather(both), both.sum(1), both @ lines.y), band, sides)


def _strayed(lines: Lines, z: Array, sides: NDArray[np.int8]) -> tuple[Index, float]:
    """The rows that are not on their side of the line, beyond rounding, and the loss of all with a side."""
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
