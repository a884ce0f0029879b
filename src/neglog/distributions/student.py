"""The t distribution: its log-density and its tails, with partial derivatives that are formulas.

By t = √ν sinh(s), and with sinh(s₀) = z / √ν, the tail beyond z ≥ 0 is

    P(T > z) = f(z) √(ν + z²) ∫₀^∞ exp(-h(d)) dd,    h(d) = ν log(cosh(s₀ + d) / cosh(s₀)),

where h is convex and increasing. One Gauss-Legendre rule on [0, D] with h(D) = 37 has full accuracy for all ν
and z. Its nodes are spaced as arsinh(d): evenly where D is small, as for large ν, in proportion to d in the
long exponential tail of a small ν. The same nodes give the derivatives in ν, as means over the tail of those
of the log-density; the derivatives in z are those of the density.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from neglog.distributions.location import location_scale
from neglog.distributions.partials import Law
from neglog.distributions.quadrature import LOG_NEGLIGIBLE
from neglog.distributions.special import HALF_LOG_TWO_PI, log1m_exp, log_excess, remainder

TAIL_NODES = 36
"""Nodes of the quadrature over a tail."""
MAX_COSH_ARGUMENT = 30.0
"""The d from which on cosh(d) is ½ exp(d) to rounding."""
MAX_EXPONENT_SHARE = 0.4
"""The share of the exponents of a dtype within which squares, and products with them, do not overflow."""


def _student_loss(u: Tensor, df: Tensor) -> Tensor:
    # ½ (ν + 1) log(1 + u² / ν), and u² / 2 in the limit of ν → ∞.
    square = u * u
    q = (square / df).clamp(min=torch.finfo(u.dtype).tiny)
    log = torch.log1p(q)
    return 0.5 * (square * (log / q) + log)


def _student_pull(u: Tensor, df: Tensor) -> Tensor:
    return (1 + 1 / df) * u / (1 + u * u / df)


def _student_curve(u: Tensor, df: Tensor) -> Tensor:
    q = u * u / df
    return (1 + 1 / df) * (1 - q) / (1 + q) ** 2


def _student_in_df(u: Tensor, df: Tensor) -> Tensor:
    q = u * u / df
    return 0.5 * (log_excess(q) - q / ((1 + q) * df))


def _student_in_df_twice(u: Tensor, df: Tensor) -> Tensor:
    square = u * u
    q = square / df
    return 0.5 * q * (2 + q - square) / ((1 + q) * df) ** 2


def _student_cross(u: Tensor, df: Tensor) -> Tensor:
    square = u * u
    return u * (square - 1) / ((1 + square / df) * df) ** 2


STUDENT = location_scale(
    _student_loss,
    _student_pull,
    _student_curve,
    {(1,): _student_in_df, (0, 1): _student_cross, (1, 1): _student_in_df_twice},
)


def _student_remainders(df: Tensor, order: int) -> Tensor:
    """The derivative in ν of S((ν + 1) / 2) - S(ν / 2)."""
    low, high = (remainder.partial((0,) * order, (0.5 * each,)) for each in (df, df + 1))
    return 0.5**order * (high - low)


def _student_constant(df: Tensor) -> Tensor:
    # log Γ((ν+1)/2) - log Γ(ν/2) - ½ log πν by Stirling's formula: the large terms cancel on paper.
    inverse = (1 / df).clamp(min=torch.finfo(df.dtype).tiny)
    half = 0.5 * torch.log1p(inverse) / inverse - 0.5
    return half + _student_remainders(df, 0) - HALF_LOG_TWO_PI


STUDENT_CONSTANT = Law(
    {
        (): _student_constant,
        (0,): lambda df: 0.5 * log_excess(1 / df) + _student_remainders(df, 1),
        (0, 0): lambda df: -0.5 / (df * (1 + df) ** 2) + _student_remainders(df, 2),
    }
)


def log_student(z: Tensor, df: Tensor) -> Tensor:
    """The log-density of the standard t distribution."""
    return STUDENT(z, torch.zeros_like(df), torch.ones_like(df), df) + STUDENT_CONSTANT(df)


@lru_cache(maxsize=1)
def _rule() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights of Gauss's rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(TAIL_NODES)
    return tuple((0.5 * (nodes + 1)).tolist()), tuple((0.5 * weights).tolist())


def _reach(tangent: Tensor, df: Tensor) -> Tensor:
    """The d at which ν log(cosh(s + d) / cosh(s)) is `LOG_NEGLIGIBLE`: the root of a quadratic in exp(d)."""
    depth = LOG_NEGLIGIBLE / df
    short = depth.clamp(max=MAX_EXPONENT_SHARE * math.log(torch.finfo(depth.dtype).max))
    grown = torch.expm1(short)
    more = grown * (2 + grown)
    rest = more / (torch.sqrt(more + tangent * tangent) + tangent)
    return torch.log1p((grown + rest) / (1 + tangent)) + (depth - short)


def _over_tail(z: Tensor, df: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The nodes d over the tail beyond z ≥ 0, exp(d) - 1, and the integrand at each node times its weight."""
    far, grown, _, integrand = _outwards(z / torch.sqrt(df + z * z), df)
    return far, grown, integrand


def _outwards(
    tangent: Tensor, df: Tensor, width: float | Tensor = math.inf
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The nodes d from s₀ ≥ 0 with this `tangent` to s₀ + `width`, or to where nothing is left.

    The parts of `_rise` there, and the integrand at each node times its weight.
    """
    tangent = tangent.unsqueeze(-1)
    nodes, weights = (torch.tensor(part, dtype=tangent.dtype, device=tangent.device) for part in _rule())
    with torch.no_grad():
        reach = _reach(tangent, df.unsqueeze(-1))
        stretch = torch.asinh(torch.minimum(reach, torch.as_tensor(width).to(reach).unsqueeze(-1)))
        grown = torch.expm1(stretch * nodes)
        shrunk = 1 / (1 + grown)
        d, step = 0.5 * (grown + grown * shrunk), (0.5 * stretch) * (weights * (1 + grown + shrunk))
    far, grown, rise = _rise(d, tangent)
    return far, grown, rise, step * torch.exp(-df.unsqueeze(-1) * rise)


def _rise(d: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What d exceeds `MAX_COSH_ARGUMENT` by, exp(d) - 1 up to there, and log(cosh(s₀ + d) / cosh(s₀))."""
    short = d.clamp(max=MAX_COSH_ARGUMENT)
    grown = torch.expm1(short)
    rise = torch.log1p((grown / (2 * (1 + grown))) * (grown + tangent * (2 + grown))) + (d - short)
    return d - short, grown, rise


def _tangent_rise(far: Tensor, grown: Tensor, rise: Tensor) -> Tensor:
    """tanh(s₀ + d) - tanh(s₀) over 1 - tanh(s₀)²."""
    return 0.5 * (grown + grown / (1 + grown)) * torch.exp(far - rise)


def _log_tail(z: Tensor, df: Tensor) -> Tensor:
    return 0.5 * torch.log(df + z * z) + torch.log(_over_tail(z, df)[2].sum(-1))


def _hazard(z: Tensor, df: Tensor) -> Tensor:
    """The density at z over the tail beyond it."""
    return 1 / (torch.sqrt(df + z * z) * _over_tail(z, df)[2].sum(-1))


def _over_tail_in_df(z: Tensor, df: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The integrand at the nodes of the tail, and the derivatives in ν of minus the loss there."""
    far, grown, integrand = _over_tail(z, df)
    nu, half = df.unsqueeze(-1), 0.5 * grown / (1 + grown)
    start = (z / torch.sqrt(df)).unsqueeze(-1)  # sinh(s₀), from which the sine is that of s₀ + d
    sine = start + half * (start * grown + torch.sqrt(1 + start * start) * (2 + grown))
    q = (sine * sine).clamp(max=torch.finfo(sine.dtype).max ** (2 * MAX_EXPONENT_SHARE))
    share = q / (1 + q)
    slope = 0.5 * (share / nu - log_excess(q)) - far
    bend = -0.5 * share * (2 - share - nu * share) / (nu * nu)
    return integrand, slope, bend


def _tail_in_df(z: Tensor, df: Tensor) -> Tensor:
    integrand, slope, _ = _over_tail_in_df(z, df)
    return (integrand * slope).sum(-1) / integrand.sum(-1) + _student_in_df(z, df)


def _tail_twice_in_df(z: Tensor, df: Tensor) -> Tensor:
    integrand, slope, bend = _over_tail_in_df(z, df)
    integral = integrand.sum(-1)
    away = slope - ((integrand * slope).sum(-1) / integral).unsqueeze(-1)
    return (integrand * (bend + away * away)).sum(-1) / integral + _student_in_df_twice(z, df)


def _tail_cross(z: Tensor, df: Tensor) -> Tensor:
    integrand, slope, _ = _over_tail_in_df(z, df)
    integral = integrand.sum(-1)
    in_df = (integrand * slope).sum(-1) / integral + _student_in_df(z, df)
    return in_df / (torch.sqrt(df + z * z) * integral) + _student_cross(z, df)


def _tail_twice(z: Tensor, df: Tensor) -> Tensor:
    hazard = _hazard(z, df)
    return hazard * (_student_pull(z, df) - hazard) + _student_curve(z, df)


_LOG_MILLS = Law(
    {
        (): _log_tail,
        (0,): lambda z, df: _student_pull(z, df) - _hazard(z, df),
        (1,): _tail_in_df,
        (0, 0): _tail_twice,
        (0, 1): _tail_cross,
        (1, 1): _tail_twice_in_df,
    }
)
"""The log of the tail beyond z ≥ 0 over the density at z. Derivatives in ν are means over the tail."""


def _log_cosh(s: Tensor) -> Tensor:
    """log cosh(s), to all its digits."""
    size = s.abs()
    return size + torch.log1p(0.5 * torch.expm1(-2 * size))


@dataclass(frozen=True)
class _Inside:
    """The density cosh(s)^(-ν) on an interval, next to its height at the point p where it is largest.

    Attributes:
        height: log cosh(p).
        tangent: tanh(p).
        log_integral: the log of the integral over that height.
        log_end: the log-density at the end of the interval over that height, over -ν.
        tangent_end: tanh at the end less `tangent`.
        rise, slope: the means of log cosh(s) - log cosh(p) and of tanh(s) - tanh(p).
        rises, slopes, both: their variances and their covariance.
        bend: the mean of 1 - tanh(s)².
    """

    height: Tensor
    tangent: Tensor
    log_integral: Tensor
    log_end: Tensor
    tangent_end: Tensor
    rise: Tensor
    slope: Tensor
    rises: Tensor
    slopes: Tensor
    both: Tensor
    bend: Tensor

    @staticmethod
    def of(start: Tensor, width: Tensor, df: Tensor) -> _Inside:
        """Outwards on both sides from where the density is largest."""
        start, width, df = torch.broadcast_tensors(start, width, df)
        before = torch.minimum((-start).clamp_min(0.0), width)
        peak = torch.where(start < 0, start + before, start)
        size, widths = peak.abs(), torch.stack([width - before, before])
        tangent = torch.tanh(size)
        far, grown, rise, integrand = _outwards(tangent.unsqueeze(0), df.unsqueeze(0), widths)
        shrunk = 1 - tangent * tangent
        slope = _tangent_rise(far, grown, rise) * shrunk.unsqueeze(-1)
        slope = torch.cat([slope[0], -slope[1]], -1)
        rise, integrand = (torch.cat([part[0], part[1]], -1) for part in (rise, integrand))
        integral = integrand.sum(-1)
        share = integrand / integral.unsqueeze(-1)
        mean_rise, mean_slope = (share * rise).sum(-1), (share * slope).sum(-1)
        left = rise - mean_rise.unsqueeze(-1), slope - mean_slope.unsqueeze(-1)
        signed = torch.where(peak < 0, -tangent, tangent)
        at = signed.unsqueeze(-1) + slope
        end = _rise(widths[0], tangent)
        return _Inside(
            _log_cosh(peak),
            signed,
            torch.log(integral),
            end[2],
            _tangent_rise(*end) * shrunk,
            mean_rise,
            mean_slope,
            (share * left[0] * left[0]).sum(-1),
            (share * left[1] * left[1]).sum(-1),
            (share * left[0] * left[1]).sum(-1),
            (share * (1 - at * at)).sum(-1),
        )

    def at_end(self, df: Tensor) -> Tensor:
        """The density at the end over the integral."""
        return torch.exp(-df * self.log_end - self.log_integral)


def _interval_at_start_twice(start: Tensor, width: Tensor, df: Tensor) -> Tensor:
    inside = _Inside.of(start, width, df)
    return df * (df * inside.slopes - inside.bend)


def _interval_at_start_and_end(start: Tensor, width: Tensor, df: Tensor) -> Tensor:
    inside = _Inside.of(start, width, df)
    return df * inside.at_end(df) * (inside.slope - inside.tangent_end)


def _interval_at_start_in_df(start: Tensor, width: Tensor, df: Tensor) -> Tensor:
    inside = _Inside.of(start, width, df)
    return df * inside.both - inside.tangent - inside.slope


def _interval_at_end_twice(start: Tensor, width: Tensor, df: Tensor) -> Tensor:
    inside = _Inside.of(start, width, df)
    density = inside.at_end(df)
    return -density * (df * (inside.tangent + inside.tangent_end) + density)


def _interval_at_end_in_df(start: Tensor, width: Tensor, df: Tensor) -> Tensor:
    inside = _Inside.of(start, width, df)
    return inside.at_end(df) * (inside.rise - inside.log_end)


def _interval(part: Callable[[_Inside, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda start, width, df: part(_Inside.of(start, width, df), df)


_LOG_INTERVAL = Law(
    {
        (): _interval(lambda inside, df: inside.log_integral - df * inside.height),
        (0,): _interval(lambda inside, df: -df * (inside.tangent + inside.slope)),
        (1,): _interval(_Inside.at_end),
        (2,): _interval(lambda inside, df: -inside.height - inside.rise),
        (0, 0): _interval_at_start_twice,
        (0, 1): _interval_at_start_and_end,
        (0, 2): _interval_at_start_in_df,
        (1, 1): _interval_at_end_twice,
        (1, 2): _interval_at_end_in_df,
        (2, 2): _interval(lambda inside, df: inside.rises),
    }
)
"""The log of the integral of cosh(s)^(-ν) from a start on over a width."""


def student_nodes(start: Tensor, end: Tensor, df: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes s `(N, Q)` between ends `(N,)`, their shares of the integral of cosh(s)^(-ν), and its logarithm.

    The ends may be infinite.
    """
    peak = torch.minimum(start.clamp_min(0.0), end)
    peak = torch.where(end < 0, end, peak)
    widths, tangent = torch.stack([end - peak, peak - start]), torch.tanh(peak.abs())
    far, grown, _, integrand = _outwards(tangent.unsqueeze(0), df.reshape(1, 1), widths)
    away = far + torch.log1p(grown)
    integrand = torch.cat([integrand[0], integrand[1]], -1)
    integral = integrand.sum(-1)
    nodes = peak.unsqueeze(-1) + torch.cat([away[0], -away[1]], -1)
    return nodes, integrand / integral.unsqueeze(-1), torch.log(integral) - df * _log_cosh(peak)


def log_student_interval(start: Tensor, end: Tensor, width: Tensor, df: Tensor) -> Tensor:
    """The log of the probability, of the standard t distribution, between finite ends `width` apart.

    No difference of tails is formed: as ν → 0 these have all of the probability, and the interval none.
    """
    root = torch.sqrt(df)
    low, high = torch.asinh(start / root), torch.asinh(end / root)
    # Where both ends are on one side of 0 their distance is that of the logarithms of z + √(ν + z²).
    beside = (start > 0) | (end < 0)
    near = torch.where(beside, torch.minimum(start.abs(), end.abs()), 1.0)
    short = torch.where(beside, width, 1.0)
    away = near + short
    inner, outer = torch.sqrt(df + near * near), torch.sqrt(df + away * away)
    apart = torch.log1p(short * (1 + (near + away) / (inner + outer)) / (near + inner))
    inside = _LOG_INTERVAL(low, torch.where(beside, apart, high - low), df)
    return STUDENT_CONSTANT(df) + 0.5 * torch.log(df) + inside


def _log_beyond(z: Tensor, df: Tensor) -> Tensor:
    """The log of the tail beyond z ≥ 0."""
    return log_student(z, df) + _LOG_MILLS(z, df)


def log_student_tails(z: Tensor, df: Tensor) -> tuple[Tensor, Tensor]:
    """The logs of the tails of the standard t distribution below and above z, to all their digits."""
    below = z < 0
    outside = _log_beyond(torch.where(below, -z, z), df)
    rest = log1m_exp(-outside)
    return torch.where(below, outside, rest), torch.where(below, rest, outside)


def student_tails(z: Tensor, df: Tensor) -> tuple[Tensor, Tensor]:
    """The tails of the standard t distribution below and above z, the smaller one to all its digits."""
    below = z < 0
    outside = torch.exp(_log_beyond(torch.where(below, -z, z), df))
    return torch.where(below, outside, 1 - outside), torch.where(below, 1 - outside, outside)
