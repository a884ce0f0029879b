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
        if not is_within or (self.log_df is None and not low < float(z[-1]) < high):
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
        at = torch.asinh(y)
        height, first, second = _log_density(at, w, df)
        _, inside, bends = _log_density(nodes, w, df)
        mean = (shares * inside).sum(-1)
        away = inside - mean.unsqueeze(-1)
        spread = torch.einsum("nq,inq,jnq->ijn", shares, away, away)
        losses = log_integral + torch.log(w) - height
        return losses, mean - first, spread + (shares * bends).sum(-1) - second


def _log_density(s: Tensor, w: Tensor, df: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """-(ν + 1) log cosh(s), y = location + w sinh(s); its gradient `(3, ...)`, its Hessian `(3, 3, ...)`.

    In the location, log scale and log df = log ν at a fixed y.
    """
    size = s.abs()
    r = 2 * size + 2 * torch.log1p(0.5 * torch.expm1(-2 * size))
    tangent, more = torch.tanh(s), df + 1
    p, q = torch.exp(-r), tangent * tangent
    a = tangent * torch.exp(-0.5 * r) / w
    first = torch.stack([more * a, more * q, 0.5 * (more * q - df * r)])
    cross = more * p * q
    a_p = more * a * p
    second = torch.stack(
        [
            *(-more * (p - q) * p / (w * w), -2 * a_p, df * a - a_p),
            *(-2 * a_p, -2 * cross, df * q - cross),
            *(df * a - a_p, df * q - cross, df * (q - 0.5 * r) - 0.5 * cross),
        ]
    )
    return -0.5 * more * r, first, second.reshape(3, 3, *s.shape)
