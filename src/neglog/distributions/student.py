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
    tangent = (z / torch.sqrt(df + z * z)).unsqueeze(-1)
    nodes, weights = (torch.tensor(part, dtype=tangent.dtype, device=tangent.device) for part in _rule())
    with torch.no_grad():
        stretch = torch.asinh(_reach(tangent, df.unsqueeze(-1)))
        grown = torch.expm1(stretch * nodes)
        shrunk = 1 / (1 + grown)
        d, width = 0.5 * (grown + grown * shrunk), (0.5 * stretch) * (weights * (1 + grown + shrunk))
        short = d.clamp(max=MAX_COSH_ARGUMENT)
        grown = torch.expm1(short)
    rise = torch.log1p((grown / (2 * (1 + grown))) * (grown + tangent * (2 + grown))) + (d - short)
    return d - short, grown, width * torch.exp(-df.unsqueeze(-1) * rise)


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
