"""The optimum of a sum of pinball losses: few rows decide it, the others count by their sums alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neglog.solvers.frisch import Interior, begin, least_squares
from neglog.solvers.lines import Array, Index, Lines
from neglog.solvers.vertex import Vertex, basis_of, pivoted, vertex_at

MANY = 4_000
"""From so many rows on most of them are put into globs."""
ROUNDS = 12
"""So often the rows that decide are chosen before all are taken."""
HOPEFUL = 1e-3
"""A duality gap below this share of the loss is a reason to look for the vertex."""
CLOSE = 1e-14
"""A duality gap below this share of the loss is the end."""
PIVOTS = 8
SAMPLE = 8
"""One row of so many is looked at first."""


@dataclass(frozen=True, eq=False)
class Optimum:
    """A certified vertex, the steps of the interior point, and on how many rows the last of them were."""

    vertex: Vertex
    steps: int
    pivots: int
    rounds: int


@dataclass(frozen=True)
class Near:
    """A line that is known: the optimum of almost the same loss, at a quantile that is `shift` lower."""

    z: Array
    shift: float


def optimum(lines: Lines, max_steps: int, many: int = MANY, near: Near | None = None) -> Optimum | None:
    """A vertex that minimises the loss, certified on all rows; None if no vertex was.

    Source: Portnoy & Koenker (1997), section 5: a sample says which rows are surely above or below the line,
    and their sums take their place. A row whose sign turns out otherwise is taken back.
    """
    if lines.size == 0:
        z, nowhere = np.zeros(0), np.zeros(0, dtype=np.intp)
        return Optimum(Vertex(z, nowhere, lines.y - lines.at(z), nowhere, z, 0.0), 0, 0, 0)
    counts = [0, 0, 0]
    if lines.rows >= max(many, 4 * SAMPLE * lines.size):
        vertex = _by_globs(lines, max_steps, many, near, counts)
        if vertex is not None:
            return Optimum(vertex, *counts)
    vertex = _by_all(lines, least_squares(lines), max_steps, counts)
    return None if vertex is None else Optimum(vertex, *counts)


def _by_all(lines: Lines, z: Array, max_steps: int, counts: list[int]) -> Vertex | None:
    inside, vertex = begin(lines, z), None
    if np.abs(inside.v - inside.u).max() <= 1e-9 * np.abs(lines.y).max():
        vertex = _tried(inside, PIVOTS, counts)
    for _ in range(max_steps):
        if vertex is not None and vertex.certified:
            return vertex
        moved = inside.advance() and inside.share > CLOSE
        counts[0] += 1
        if not moved:
            vertex = _tried(inside, 20 * lines.size, counts)
        elif inside.share < HOPEFUL:
            vertex = _tried(inside, PIVOTS, counts)
        if not moved:
            break
    return vertex if vertex is not None and vertex.certified else None


def _tried(inside: Interior, pivots: int, counts: list[int]) -> Vertex | None:
    basis = basis_of(inside.lines, np.sqrt(inside.uncertain()))
    vertex = None if basis is None else vertex_at(inside.lines, basis, inside.a)
    if vertex is None:
        return None
    vertex, made = pivoted(inside.lines, vertex, pivots, inside.a)
    counts[1] += made
    return vertex


def _by_globs(lines: Lines, max_steps: int, many: int, near: Near | None, counts: list[int]) -> Vertex | None:
    # A line of n rows is off by sqrt(tau (1 - tau) P / n) / density, at the most two or three times that.
    size = int(2 * (SAMPLE * lines.size * lines.rows) ** 0.5)
    known = near is not None and abs(near.shift) * lines.rows < size
    found = near if known else _of_sample(lines, max_steps, many, counts)
    if found is None:
        return None
    z, shift, before = found.z, found.shift, lines.rows
    residuals: Array = lines.y - lines.at(z)
    for _ in range(ROUNDS):
        band = _band(residuals, shift, size)
        if 2 * len(band) > lines.rows:
            return None
        counts[2] += 1
        part = _globbed(lines, residuals, band)
        inner = _by_all(part, z, max_steps, counts)
        if inner is None or (inner.held >= len(band)).any():
            size *= 4
            continue
        guess = np.full(lines.rows, 0.5)
        guess[band[inner.held]] = inner.duals
        whole = vertex_at(lines, band[inner.basis], guess)
        if whole is None:
            return None
        if whole.certified:
            return whole
        wrong = (residuals > 0) != (whole.residuals > 0)
        wrong[band] = False
        count = int(wrong.sum())
        if count == 0:
            return None
        size = 20 * (count + lines.size) if 2 * count < before else 4 * len(band)
        z, shift, residuals, before = whole.z, 0.0, whole.residuals, count
    return None


def _of_sample(lines: Lines, max_steps: int, many: int, counts: list[int]) -> Near | None:
    """The optimum of a sample, one row drawn from every eight."""
    size = lines.rows // SAMPLE
    spots = np.arange(size) + np.random.default_rng(0).random(size)
    found = optimum(lines.take((spots * SAMPLE).astype(np.intp)), max_steps, many)
    if found is None:
        return None
    counts[0] += found.steps
    return Near(found.vertex.z, 0.0)


def _band(residuals: Array, shift: float, size: int) -> Index:
    """About `size` rows next to the line, in both directions; `shift` is by what share it will rise."""
    rows = len(residuals)
    middle = int(rows * shift) + int((residuals < 0).sum())
    low, high = max(0, middle - size // 2), min(rows - 1, middle + size // 2)
    if low >= high:
        return np.arange(rows)
    ends = np.partition(residuals, (low, high))[[low, high]]
    return np.flatnonzero((residuals >= ends[0]) & (residuals <= ends[1]))


def _globbed(lines: Lines, residuals: Array, band: Index) -> Lines:
    """The rows of the band, and two more: the means of those above it and of those below it."""
    low, high = residuals[band].min(), residuals[band].max()
    sums, masses, ys = np.zeros((2, lines.transform.shape[0])), np.zeros(2), np.zeros(2)
    for rows in lines.chunks():
        sides = np.stack([residuals[rows] > high, residuals[rows] < low]) * lines.weights[rows]
        sums += lines.gather(sides, rows)
        masses += sides.sum(1)
        ys += sides @ lines.y[rows]
    there = masses > 0
    means = sums[there] @ lines.transform / masses[there, None]
    return lines.dense(
        np.concatenate([lines.design(band), means]),
        np.concatenate([lines.y[band], ys[there] / masses[there]]),
        np.concatenate([lines.weights[band], masses[there]]),
        int(there.sum()),
    )
