"""The loss of truncated Student rows, which stops steps on their way to a border."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neglog.distributions.student import student_nodes
from neglog.fitting.tilted import TruncatedRows

MAX_HEAVY_ROWS = 2**12
"""Number of rows of a block."""
LOG_BORDER_DF = (math.log(1e-5), math.log(1e6))
"""Logarithms of the df beyond which steps are on their way to 0 or to infinity."""
LOG_BORDER_WIDTH = (math.log(1e-8), math.log(1e5))
"""Logarithms of the width, in units of the spread of y, beyond which steps are on their way to 0 or infinity.

The width is the smaller one of the scale and w: the density is level within less than it."""

MAX_LOCATION_SPREAD = 30.0
"""Median distance of the locations from their median, in units of the spread of y, of steps on their way out.

Most rows then lie far out in the tails, where a density between bounds is level.
"""


class Left(Exception):
    """Steps are on their way to a border."""

    def __init__(self, point: Tensor) -> None:
        super().__init__()
        self.point = point


class Heavy:
    """The loss of truncated Student rows (`neglog.solvers.Problem`).

    In the coefficients of the location, log scale and log df; the last fixed at `log_df` where that is given.
    """

    def __init__(self, rows: TruncatedRows, log_df: float | None = None) -> None:
        self.of, self.rows, self.log_df = rows, len(rows.y), log_df
        self.size = len(rows.one) + (1 if log_df is not None else 2)
        self._last: tuple[Tensor, tuple[float, Tensor, Tensor]] | None = None

    def whole(self, z: Tensor) -> Tensor:
        """All parameters `(P + 2,)`."""
        return z if self.log_df is None else torch.cat([z, z.new_tensor([self.log_df])])

    def log_width(self, z: Tensor) -> float:
        """The logarithm of the smaller one of the scale and w = scale √df."""
        whole = self.whole(z)
        return float(whole[-2]) + 0.5 * min(0.0, float(whole[-1]))

    def is_steep(self, z: Tensor) -> bool:
        """Whether the locations of most rows lie far beyond the range of y."""
        location = self.of.basis.at(self.whole(z)[:-2])
        return bool((location - location.median()).abs().median() > MAX_LOCATION_SPREAD)

    def value(self, z: Tensor) -> float:
        return self.derivatives(z)[0]

    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        return self.derivatives(z)[:2]

    def hessian(self, z: Tensor) -> Tensor:
        """The Hessian at an iterate.

        Raises:
            Left: steps are on their way to a border.
        """
        low, high = LOG_BORDER_DF
        is_within = LOG_BORDER_WIDTH[0] < self.log_width(z) < LOG_BORDER_WIDTH[1]
        is_between = self.log_df is not None or low < float(z[-1]) < high
        if not (is_within and is_between) or self.is_steep(z):
            raise Left(z)
        return self.derivatives(z)[2]

    def derivatives(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        if self._last is None or not torch.equal(self._last[0], z):
            self._last = z.clone(), self._derivatives(z)
        return self._last[1]

    def sample(self) -> None:
        """None: the loss is that of all rows."""

    def check(self, z: Tensor) -> None:
        """Do nothing: steps stop at borders."""

    def _derivatives(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        whole, rows = self.whole(z), self.of
        value, size = 0.0, len(whole)
        gradient, hessian = torch.zeros_like(whole), whole.new_zeros((size, size))
        for start in range(0, self.rows, MAX_HEAVY_ROWS):
            block = slice(start, start + MAX_HEAVY_ROWS)
            losses, first, second = self._rows(whole, block)
            weights = rows.weights[block]
            value += float(weights @ losses)
            first, second = weights * first, weights * second
            gradient[:-2] += rows.basis.gather(first[0], block)
            gradient[-2:] += first[1:].sum(-1)
            hessian[:-2, :-2] += rows.basis.cross(second[0, 0], rows.basis, block)
            for k in (1, 2):
                cross = rows.basis.gather(second[0, k], block)
                hessian[:-2, k - 3] += cross
                hessian[k - 3, :-2] += cross
            hessian[-2:, -2:] += second[1:, 1:].sum(-1)
        if not (math.isfinite(value) and bool(torch.isfinite(hessian).all())):
            value = math.inf
        free = self.size
        return value, gradient[:free], hessian[:free, :free]

    def _rows(self, whole: Tensor, block: slice) -> tuple[Tensor, Tensor, Tensor]:
        """The losses `(N,)`, and their first and second derivatives `(3, N)` and `(3, 3, N)`.

        In the location, log scale and log df.
        """
        rows, df = self.of, whole[-1].exp()
        w, location = torch.exp(whole[-2] + 0.5 * whole[-1]), rows.basis.at(whole[:-2], block)
        y, low, high = ((at[block] - location) / w for at in (rows.y, rows.lower, rows.upper))
        nodes, shares, log_integral = student_nodes(torch.asinh(low), torch.asinh(high), df)
        at, ones = torch.asinh(y).unsqueeze(-1), torch.ones_like(shares[:, :1])
        observed, bend, _ = _moments(at, ones, w, df)
        mean, expected_bend, spread = _moments(nodes, shares, w, df)
        linear = _in_parameters(df)
        first = linear @ (mean - observed).mT
        second = linear @ spread @ linear.T + expected_bend - bend
        losses = log_integral + torch.log(w) + 0.5 * (df + 1) * observed[:, 2]
        return losses, first, second.permute(1, 2, 0)


def _in_parameters(df: Tensor) -> Tensor:
    """The matrix `(3, 3)` that turns the terms of `_moments` into the gradient of the log-density."""
    more, zero = df + 1, torch.zeros_like(df)
    rows = ((more, zero, zero), (zero, more, zero), (zero, 0.5 * more, -0.5 * df))
    return torch.stack([torch.stack(row) for row in rows])


def _moments(s: Tensor, shares: Tensor, w: Tensor, df: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of the derivatives of -(ν + 1) log cosh(s), the log-density of y = location + w sinh(s).

    Returns the means `(N, 3)` over nodes s `(N, Q)` with `shares`, of tanh(s) / (w cosh(s)), tanh(s)² and
    2 log cosh(s); the means of the Hessian in the location, log scale and log df = log ν at a fixed y
    `(N, 3, 3)`; and the covariances of the three terms `(N, 3, 3)`.
    """
    double = -2 * s.abs()
    shrunk = torch.exp(double)
    below = torch.expm1(double)
    root = torch.sqrt(shrunk) * (2 / (1 + shrunk))  # 1 / cosh(s)
    tangent = torch.copysign(below / (1 + shrunk), s)
    p, q = root * root, tangent * tangent
    a = tangent * root / w
    terms = torch.stack([a, q, 2 * torch.log1p(0.5 * below) - double], 1)
    mean = torch.bmm(terms, shares.unsqueeze(-1))
    away = terms - mean
    spread = torch.bmm(away * shares.unsqueeze(1), away.mT)
    bends = torch.bmm(torch.stack([p * (p - q), a * p, p * q], 1), shares.unsqueeze(-1))
    return mean[..., 0], _hessian(mean[..., 0], bends[..., 0], w, df), spread


def _hessian(terms: Tensor, bends: Tensor, w: Tensor, df: Tensor) -> Tensor:
    """The Hessian `(N, 3, 3)` of the log-density from means of the terms and of their slopes `(N, 3)`."""
    (a, q, r), (square, linear, cross) = terms.mT, (df + 1) * bends.mT
    found = torch.empty((len(terms), 3, 3), dtype=terms.dtype)
    found[:, 0, 0] = -square / (w * w)
    found[:, 0, 1] = found[:, 1, 0] = -2 * linear
    found[:, 0, 2] = found[:, 2, 0] = df * a - linear
    found[:, 1, 1] = -2 * cross
    found[:, 1, 2] = found[:, 2, 1] = df * q - cross
    found[:, 2, 2] = df * (q - 0.5 * r) - 0.5 * cross
    return found
