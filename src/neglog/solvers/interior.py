"""Exact quantile regression for many responses at once: an interior-point method, then a certified vertex."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neglog.solvers.vertex import BORDER_TOLERANCE

VERTEX_GAP = 1e-1
"""The relative duality gap below which the vertex near an iterate is checked."""
ZERO_SHARE = 1e-11
"""A residual below this share of the largest response is zero up to rounding."""
DUAL_TOLERANCE = 1e-8
"""The largest distance of a dual variable from [0, 1] that is attributed to rounding."""


@dataclass(frozen=True)
class Lines:
    """Coefficients `(S, P)`, whether each was certified as an optimum, and the steps that it took, `(S,)`."""

    coefficients: Tensor
    certified: Tensor
    steps: Tensor
    unique: Tensor
    """Whether the optimum is certified to be the only one, `(S,)`."""
    basis: Tensor
    """The rows `(S, P)` that a line goes through."""


def quantile_regressions(
    design: Tensor, y: Tensor, tau: float, weights: Tensor, *, max_steps: int = 60
) -> Lines:
    """The coefficients b that minimise sum_i w_i pinball(y_i - x_i b), pinball(r) = r (tau - 1[r < 0]).

    The dual of this programme is to find a in [0, 1] with X' W a = (1 - tau) X' w: a is 1 above the line
    and 0 below, and in between only on rows that are fitted exactly. Splitting the residual into r = v - u
    with u, v >= 0, an interior point follows a u = (1 - a) v = mu down to 0 by predictor and corrector. Its
    largest a (1 - a) then name P rows; the line through them is an optimum if and only if the a of these rows
    that balances all others is in [0, 1]. That is checked, so `certified` is a proof up to rounding.

    Shapes: `design` `(N, P)` or `(S, N, P)`, best with columns of order one; `y` and `weights` `(S, N)`.
    Where the optimum is not unique, one of its vertices is found.
    Source: Portnoy & Koenker (1997), The Gaussian hare and the Laplacian tortoise; Mehrotra (1992) for the
    corrector; Koenker (2005), Quantile Regression, section 2.2, for the condition.
    """
    count, size = len(y), design.shape[-1]
    found = Lines(
        y.new_zeros((count, size)),
        torch.zeros(count, dtype=torch.bool),
        torch.full((count,), max_steps),
        torch.full((count,), size == 0),
        torch.zeros((count, size), dtype=torch.long),
    )
    if size == 0:
        return replace(found, certified=~found.certified, steps=torch.zeros_like(found.steps))
    at = _Interior.start(design, y, tau, weights)
    found.coefficients[:] = at.b
    index = torch.arange(count)
    for step in range(max_steps):
        at, sound = at.advanced()
        b, certified, unique, found.basis[index] = at.vertex()
        found.coefficients[index[sound]] = torch.where(certified[:, None], b, at.b)[sound]
        found.certified[index], found.unique[index], found.steps[index] = certified, unique, step + 1
        going = (sound & ~certified).nonzero()[:, 0]
        if not len(going):
            break
        if len(going) < len(index):
            index, at = index[going], at.take(going)
    return found


@dataclass(frozen=True)
class _Interior:
    """An interior point: primal `b` `(S, P)`, duals `a` `(S, N)`, and the parts of the residuals v - u."""

    design: Tensor
    y: Tensor
    tau: float
    weights: Tensor
    b: Tensor
    a: Tensor
    u: Tensor
    v: Tensor

    @staticmethod
    def start(design: Tensor, y: Tensor, tau: float, weights: Tensor) -> _Interior:
        """Weighted least squares, with every dual at 1 - tau."""
        factor, _ = torch.linalg.cholesky_ex(_gram(design, weights))
        b = torch.cholesky_solve(_gather(design, weights * y)[..., None], factor)[..., 0].nan_to_num(0.0)
        residuals = y - _lines(design, b)
        size = (weights * residuals.abs()).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)
        room = 0.1 * torch.where(size > 0, size, 1.0)
        u, v = residuals.clamp(max=0).neg() + room, residuals.clamp(min=0) + room
        return _Interior(design, y, tau, weights, b, torch.full_like(y, 1 - tau), u, v)

    def take(self, index: Tensor) -> _Interior:
        design = self.design[index] if self.design.dim() == 3 else self.design
        parts = (part[index] for part in (self.weights, self.b, self.a, self.u, self.v))
        return _Interior(design, self.y[index], self.tau, *parts)

    def advanced(self) -> tuple[_Interior, Tensor]:
        """One step of predictor and corrector, and whether its equations could be solved, `(S,)`."""
        s = 1 - self.a
        q = 1 / (self.v / s + self.u / self.a)
        factor, failed = torch.linalg.cholesky_ex(_gram(self.design, self.weights * q))

        def step(sigma_u: Tensor, sigma_v: Tensor) -> tuple[Tensor, ...]:
            # a u and s v are to become theirs plus sigma: u da + a du = sigma_u, -v da + s dv = sigma_v,
            # while dv - du = -X db and X' W da = 0.
            pull = sigma_v / s - sigma_u / self.a
            right = -_gather(self.design, self.weights * q * pull)
            db = torch.cholesky_solve(right[..., None], factor)[..., 0]
            da = -q * (_lines(self.design, db) + pull)
            return db, da, (sigma_u - self.u * da) / self.a, (sigma_v + self.v * da) / s

        _, da, du, dv = step(-self.a * self.u, -s * self.v)
        primal, dual = self._lengths(da, du, dv)
        gap = self._gap()
        ahead = replace(self, a=self.a + primal * da, u=self.u + dual * du, v=self.v + dual * dv)._gap()
        mu = (gap * (ahead / gap) ** 3 / (2 * self.weights.sum(-1)))[:, None]
        db, da, du, dv = step(mu - self.a * self.u - da * du, mu - s * self.v + da * dv)
        primal, dual = self._lengths(da, du, dv)
        moved = replace(
            self,
            b=self.b + dual * db,
            a=self.a + primal * da,
            u=self.u + dual * du,
            v=self.v + dual * dv,
        )
        sound = (failed == 0) & torch.isfinite(moved._gap()) & torch.isfinite(moved.b).all(-1)
        return moved, sound

    def _gap(self) -> Tensor:
        return (self.weights * (self.a * self.u + (1 - self.a) * self.v)).sum(-1)

    def _lengths(self, da: Tensor, du: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
        """The largest steps of the duals and of the residuals that keep their signs, each `(S, 1)`."""
        primal = torch.minimum(_reach(self.a, da), _reach(1 - self.a, -da))
        return primal, torch.minimum(_reach(self.u, du), _reach(self.v, dv))

    def vertex(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The lines `(S, P)` through the rows with the most interior duals.

        With them come which are optimal, which are the only optimum, and the rows `(S, P)`.
        """
        residuals = self.v - self.u
        loss = (self.weights * residuals * (self.tau - (residuals < 0).to(residuals))).sum(-1)
        tried = (self._gap() <= VERTEX_GAP * loss).nonzero()[:, 0]
        b, (certified, unique) = self.b.clone(), torch.zeros((2, len(self.b)), dtype=torch.bool)
        rows = torch.zeros(b.shape, dtype=torch.long)
        if len(tried):
            part = self if len(tried) == len(self.b) else self.take(tried)
            b[tried], certified[tried], unique[tried], rows[tried] = part._vertex()
        return b, certified, unique, rows

    def _vertex(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = self._basis()
        basis = _rows(self.design, rows)
        b, failed = torch.linalg.solve_ex(basis, self.y.gather(1, rows)[..., None])
        b = b[..., 0]
        residuals = (self.y - _lines(self.design, b)).scatter(1, rows, 0.0)
        zero = residuals.abs() <= ZERO_SHARE * self.y.abs().amax(-1, keepdim=True)
        a = torch.where(zero, self.a, (residuals > 0).to(residuals)).scatter(1, rows, 0.0)
        missing = _gather(self.design, self.weights * (1 - self.tau - a))
        weighted, failed_too = torch.linalg.solve_ex(basis.mT, missing[..., None])
        duals = weighted[..., 0] / self.weights.gather(1, rows)
        inside = ((duals >= -DUAL_TOLERANCE) & (duals <= 1 + DUAL_TOLERANCE)).all(-1)
        certified = inside & (failed == 0) & (failed_too == 0) & torch.isfinite(b).all(-1)
        # Along an edge the loss rises by the distance of the dual of its row from the borders.
        unique = certified & ((duals > BORDER_TOLERANCE) & (duals < 1 - BORDER_TOLERANCE)).all(-1)
        return b, certified, unique, rows

    def _basis(self) -> Tensor:
        """P independent rows `(S, P)`, by pivots among those that are neither above nor below the line."""
        q = 1 / (self.v / (1 - self.a) + self.u / self.a)
        size = torch.where(self.weights > 0, q / q.amax(-1, keepdim=True), 0.0).sqrt()
        left = size[..., None] * self.design
        rows = []
        for _ in range(self.design.shape[-1]):
            row = left.square().sum(-1).argmax(-1)
            along = left[torch.arange(len(left)), row]
            along = along / along.norm(dim=-1, keepdim=True).clamp_min(1e-300)
            left = left - (left @ along[..., None]) * along[:, None, :]
            rows.append(row)
        return torch.stack(rows, dim=1)


def _reach(value: Tensor, change: Tensor) -> Tensor:
    falling = torch.where(change < 0, -value / change, torch.inf)
    return (0.9995 * falling.amin(-1, keepdim=True)).clamp(max=1.0)


def _lines(design: Tensor, b: Tensor) -> Tensor:
    """`X b` of each problem, `(S, N)`."""
    return b @ design.mT if design.dim() == 2 else (design @ b[..., None])[..., 0]


def _gather(design: Tensor, rows: Tensor) -> Tensor:
    """`X' r` of each problem, `(S, P)`."""
    return rows @ design if design.dim() == 2 else (rows[:, None, :] @ design)[:, 0]


def _gram(design: Tensor, weights: Tensor) -> Tensor:
    """`X' diag(w) X` of each problem, `(S, P, P)`."""
    return design.mT @ (weights[..., None] * design)


def _rows(design: Tensor, rows: Tensor) -> Tensor:
    """The rows `(S, P)` of each problem's design, `(S, P, P)`."""
    return design[rows] if design.dim() == 2 else design[torch.arange(len(rows))[:, None], rows]
