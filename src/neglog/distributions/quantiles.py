"""Inverting distribution functions: a safeguarded Newton iteration, and a search over the integers.

Whole tensors at a time; both stop when their last element is done.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from neglog.errors import ModelError

Tails = Callable[[Tensor], tuple[Tensor, Tensor]]

_CDF_ROUNDING = 64  # in units of rounding: the error below q of a discrete cdf whose exact value is q


def interior(q: Tensor) -> Tensor:
    """`q` with 0 and 1, whose quantiles are the ends of the support, replaced by ½."""
    return torch.where((q > 0) & (q < 1), q, 0.5)


def at_ends(q: Tensor, inside: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """The quantiles `inside`, with the ends of the support where `q` is 0 or 1."""
    return torch.where(q <= 0, low, torch.where(q >= 1, high, inside))


def _gap(q: Tensor, tails: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The logarithm of F / q, or of (1 - q) / (1 - F) where q > ½, and the tail that it is taken of."""
    lower, upper = tails
    half = q <= 0.5
    tail = torch.where(half, lower, upper)
    gap = torch.log(tail / torch.where(half, q, 1 - q))
    return torch.where(half, gap, -gap), tail


@torch.no_grad()
def solve_quantile(
    q: Tensor,
    tails: Tails,
    density: Callable[[Tensor], Tensor],
    start: Tensor,
    noise: Tensor | float = 1.0,
) -> Tensor:
    """The s with F(s) = q, for F increasing on the whole line: `tails` gives F and 1 - F, `density` F'.

    Newton's method on log F (on log(1 - F) above the median), which is nearly straight in the tails, inside
    a bracket; a step that leaves the bracket is replaced by its middle. `noise` is how well F is known, in
    units of rounding.
    """
    q, s = torch.broadcast_tensors(q, start)
    s = torch.where(torch.isfinite(s), s, 0)
    low, high, step = s - 0.5, s + 0.5, torch.ones_like(s)
    for _ in range(24):
        short, long = _gap(q, tails(high))[0] < 0, _gap(q, tails(low))[0] > 0
        if not (short | long).any():
            break
        high, low = torch.where(short, high + step, high), torch.where(long, low - step, low)
        step = 2 * step
    eps = torch.finfo(s.dtype).eps
    for _ in range(100):
        gap, tail = _gap(q, tails(s))
        high, low = torch.where(gap > 0, s, high), torch.where(gap <= 0, s, low)
        moved = s - gap * tail / density(s)
        inside = (moved >= low) & (moved <= high)
        moved = torch.where(inside, moved, 0.5 * (low + high))
        done = (moved - s).abs() <= 8 * eps * noise * (1 + s.abs())
        s = moved
        if done.all():
            break
    return s


def corrected(q: Tensor, value: Tensor, tails: tuple[Tensor, Tensor], density: Tensor) -> Tensor:
    """One Newton step from the quantile `value`, which gives it the derivatives of the implicit function.

    With F(x; θ) = q: dx/dq = 1 / f and dx/dθ = - (dF/dθ) / f. First derivatives only.
    """
    lower, upper = tails
    miss = torch.where(q <= 0.5, lower - q, (1 - q) - upper)
    sound = (density > 0) & torch.isfinite(density) & torch.isfinite(miss)
    return value - torch.where(sound, miss, 0) / torch.where(sound, density, 1).detach()


@torch.no_grad()
def search_quantile(q: Tensor, tails: Tails, start: Tensor) -> Tensor:
    """The smallest integer k ≥ 0 with F(k) ≥ q, by doubling from `start` and then halving.

    Raises:
        ModelError: the distribution function is not a number, as where a rate overflows.
    """
    eps = torch.finfo(q.dtype).eps
    slack = _CDF_ROUNDING * eps

    def reached(k: Tensor) -> Tensor:
        lower, upper = tails(k)
        if bool((torch.isnan(lower) | torch.isnan(upper)).any()):
            raise ModelError(
                "a count has a distribution beyond the range of float64, such as one with an infinite rate, "
                "so it has no quantiles. Leave out the rows of `x` that are far outside those of the fit."
            )
        return torch.where(q <= 0.5, lower >= q * (1 - slack), upper <= (1 - q) * (1 + slack) + eps) & (
            k >= 0
        )

    q, guess = torch.broadcast_tensors(q, start)
    high = torch.where(torch.isfinite(guess), guess, 0).round().clamp(min=0) + 0.0  # and not -0
    low, step = (high - 1), torch.ones_like(high)
    while True:
        short, long = ~reached(high), reached(low)
        if not (short | long).any():
            break
        low, high = (
            torch.where(short, high, torch.where(long, (low - step).clamp(min=-1), low)),
            torch.where(short, high + step, torch.where(long, low, high)),
        )
        step = 2 * step
    while bool((high - low > 1).any()):
        middle = torch.floor(0.5 * (low + high))
        enough = reached(middle)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high


class Line:
    """The line of real numbers, mapped onto the values between two ends in increasing order."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = low, high
        self.start, self.stop = torch.isfinite(low), torch.isfinite(high)

    def _chosen(self, both: Tensor, from_low: Tensor, to_high: Tensor, neither: Tensor) -> Tensor:
        bounded = torch.where(self.start & self.stop, both, torch.where(self.start, from_low, to_high))
        return torch.where(self.start | self.stop, bounded, neither)

    def value(self, s: Tensor) -> Tensor:
        """The value at `s`."""
        both = self.low + (self.high - self.low) * torch.sigmoid(s)
        return self._chosen(both, self.low + torch.exp(s), self.high - torch.exp(-s), torch.sinh(s))

    def slope(self, s: Tensor) -> Tensor:
        """The derivative of `value`."""
        both = (self.high - self.low) * torch.sigmoid(s) * torch.sigmoid(-s)
        return self._chosen(both, torch.exp(s), torch.exp(-s), torch.cosh(s))
