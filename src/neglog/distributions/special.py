"""Functions that keep their digits where the textbook formula loses them, derivatives included.

All are plain torch operations without branches on data, so autograd differentiates them as often as is
wanted and a tracer can record them.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)

# B_2k / (2k (2k - 1)), k = 1..8: the coefficients of Stirling's series in powers 1/z, 1/z³, ...
_STIRLING = (
    1 / 12,
    -1 / 360,
    1 / 1260,
    -1 / 1680,
    1 / 1188,
    -691 / 360360,
    1 / 156,
    -3617 / 122400,
)
_SHIFT = 10
_TABLE = 16


def _horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def log1p_ratio(u: Tensor) -> Tensor:
    """log(1 + u) / u for u > -1, with the value 1 at u = 0, smooth there.

    Near 0 by log(1 + u) = 2 artanh(t) with t = u / (2 + u), whose series is in powers of t².
    """
    near = u.abs() < 0.25
    small = torch.where(near, u, 0)
    t = small / (2 + small)
    series = 2 / (2 + small) * _horner(tuple(1 / (2 * k + 1) for k in range(9)), t * t)
    large = torch.where(near, 1, u)
    return torch.where(near, series, torch.log1p(large) / large)


def log_ratio(difference: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """log(a / b) for positive a and b with the given `difference` a - b; exact to rounding near a = b."""
    near = difference.abs() < 0.5 * b
    u = torch.where(near, difference, 0) / b
    return torch.where(near, torch.log1p(u), torch.log(torch.where(near, 1, a / b)))


def log_expit(logit: Tensor) -> Tensor:
    """log(1 / (1 + exp(-logit))), whose derivatives keep their relative accuracy on both sides.

    Beyond the last logit whose exponential is finite it is 0 to the last digit, and so are its derivatives;
    those of `logaddexp` would be NaN there.
    """
    largest = math.log(torch.finfo(logit.dtype).max) - 1
    return -torch.logaddexp(torch.zeros_like(logit), -logit.clamp(max=largest))


def log_sum(a: Tensor, b: Tensor) -> Tensor:
    """log(exp a + exp b), whose derivatives are numbers however far apart a and b are."""
    ahead = a - b
    return torch.where(ahead > 0, a - log_expit(ahead), b - log_expit(-ahead))


def log1m_exp(x: Tensor) -> Tensor:
    """log(1 - exp(-x)) for x > 0, exact to rounding for small x and for large."""
    near = x < math.log(2)
    small, large = torch.where(near, x, 1.0), torch.where(near, 1.0, x)
    return torch.where(near, torch.log(-torch.expm1(-small)), torch.log1p(-torch.exp(-large)))


def log_of(p: Tensor) -> Tensor:
    """log(p) for p ≥ 0: -inf, without a derivative, where p is 0."""
    some = p > 0
    return torch.where(some, torch.log(torch.where(some, p, 1.0)), -torch.inf)


def log_difference(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) - exp(b)) for a ≥ b: -inf, without a derivative, where they are equal."""
    more = a > b
    return torch.where(more, a + log1m_exp(torch.where(more, a - b, 1.0)), -torch.inf)


def stirling_remainder(w: Tensor) -> Tensor:
    """S(z) in log Γ(z) = (z - ½) log z - z + ½ log 2π + S(z), as a function of w = 1 / z > 0.

    In w it is smooth down to 0, where S ≈ w / 12, while its second derivative in z, taken through z = 1 / w,
    would lose all digits. For z below 10 by Γ(z + 10) = z (z + 1) ⋯ (z + 9) Γ(z).
    """
    near = w < 1 / _SHIFT
    small = torch.where(near, w, w / (1 + _SHIFT * w))
    series = small * _horner(_STIRLING, small * small)
    z = 1 / torch.where(near, 1, w)
    q = z * (z + 9)
    product = q * (q + 8) * (q + 14) * (q + 18) * (q + 20)  # z (z + 9) times (z + 1) (z + 8) and so on
    shifted = (z + (_SHIFT - 0.5)) * torch.log(z + _SHIFT) - _SHIFT - torch.log(product)
    return series + torch.where(near, 0, shifted - (z - 0.5) * torch.log(z))


@lru_cache(maxsize=1)
def _spread_coefficients() -> tuple[float, ...]:
    k = torch.arange(2, 12, dtype=torch.float64)
    return tuple(((-1) ** k * torch.special.zeta(k, torch.ones_like(k)) * (2**k - 2) / k).tolist())


def log_gamma_spread(a: Tensor) -> Tensor:
    """log Γ(1 + 2a) - 2 log Γ(1 + a) for a ≥ 0, near π² a² / 6 at small a.

    There by log Γ(1 + a) = -γ a + Σ ζ(k) (-a)^k / k over k from 2, whose linear terms cancel.
    """
    near = a < 0.02
    small = torch.where(near, a, 0)
    series = small * small * _horner(_spread_coefficients(), small)
    large = torch.where(near, 1, a)
    return torch.where(near, series, torch.lgamma(1 + 2 * large) - 2 * torch.lgamma(1 + large))


@lru_cache(maxsize=1)
def _factorial_rests() -> tuple[float, ...]:
    return tuple(math.lgamma(y + 1) - (y * math.log(y) - y if y else 0) for y in range(_TABLE))


def log_factorial_rest(y: Tensor) -> Tensor:
    """log y! - y log y + y for whole y ≥ 0: a table, and from 16 on ½ log 2πy + S(y). No derivative in y."""
    table = torch.tensor(_factorial_rests(), dtype=y.dtype, device=y.device)
    large = y.clamp(min=_TABLE)
    w = 1 / large
    series = HALF_LOG_TWO_PI + 0.5 * torch.log(large) + w * _horner(_STIRLING[:5], w * w)
    return torch.where(y < _TABLE, torch.take(table, y.clamp(0, _TABLE - 1).to(torch.int64)), series)


def ndtr(z: Tensor) -> Tensor:
    """The Normal distribution function; `torch.special.ndtr` has no digits left in the lower tail."""
    return 0.5 * torch.erfc(z * -math.sqrt(0.5))


# (2k - 1)!! with alternating signs: z Φ(-z) / φ(z) in powers of 1 / z² (Laplace 1812).
_MILLS = (1.0, -1.0, 3.0, -15.0, 105.0, -945.0, 10395.0, -135135.0, 2027025.0)
_FAR = 30.0


def log_ndtr(z: Tensor) -> Tensor:
    """The log of the Normal distribution function, to all digits in both tails, and so its derivatives.

    From -30 down by the asymptotic series: the second derivative of `erfcx` loses z² times the rounding.
    """
    far, high = z < -_FAR, z > -1
    deep, middle, top = (
        torch.where(far, z, -_FAR),
        torch.where(far | high, -1.0, z),
        torch.where(high, z, 0.0),
    )
    series = torch.log(_horner(_MILLS, 1 / (deep * deep))) - torch.log(-deep) - HALF_LOG_TWO_PI
    scaled = torch.log(0.5 * torch.special.erfcx(middle * -math.sqrt(0.5)))
    below = torch.where(far, series - 0.5 * deep * deep, scaled - 0.5 * middle * middle)
    return torch.where(high, torch.log1p(-0.5 * torch.erfc(top * math.sqrt(0.5))), below)
