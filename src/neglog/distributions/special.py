"""Functions that keep their digits where the textbook formula loses them, derivatives included.

None branches on data, `nowhere` aside, so a tracer can record them, and all but those that say otherwise can
be differentiated as often as is wanted.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from neglog.distributions.partials import Law

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)

# B_2k / (2k (2k - 1)), k = 1..13: the coefficients of Stirling's series in powers 1/z, 1/z³, ...
_STIRLING = (
    1 / 12,
    -1 / 360,
    1 / 1260,
    -1 / 1680,
    1 / 1188,
    -691 / 360360,
    1 / 156,
    -3617 / 122400,
    43867 / 244188,
    -174611 / 125400,
    77683 / 5796,
    -236364091 / 1506960,
    657931 / 300,
)
_STIRLING_SHIFT = 10
"""Steps of the recurrence to the argument at which Stirling's series is summed."""
_MAX_ORDER = 5
"""Highest derivative of the remainders of Stirling's formula."""
_EULER = 0.5772156649015329
"""Euler's constant γ."""
_TABLE_SIZE = 64
"""Counts whose remainders are read from a table."""


def nowhere(condition: Tensor) -> bool:
    """Whether a condition is false everywhere, so that the branch that it selects need not be evaluated.

    False where the values of the tensor may not decide what is run, as while it is traced or mapped over.
    """
    try:
        return not bool(condition.any())
    except RuntimeError:
        return False


def absolute(u: Tensor) -> Tensor:
    """|u|, whose second derivative is a 0 that takes no memory and no time.

    That of `Tensor.abs` is a tensor of torch's that has no storage: nothing can be traced through it, and to
    multiply by it imports torch's compiler, which takes seconds.
    """
    return u * torch.sign(u.detach())


def _horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    constants = torch.tensor(coefficients, dtype=x.dtype, device=x.device).unbind()
    total = torch.addcmul(constants[-2], constants[-1], x)
    for constant in reversed(constants[:-2]):
        total = torch.addcmul(constant, total, x)
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


def artanh_rest(square: Tensor) -> Tensor:
    """(artanh(t) / t - 1) / t² as a function of t², for t² < 0.04: 1/3 + t² / 5 + t⁴ / 7 + ..."""
    return _horner(tuple(1 / (2 * k + 3) for k in range(11)), square)


def log_excess(q: Tensor) -> Tensor:
    """log(1 + q) - q / (1 + q) for q ≥ 0, near q² / 2 at small q."""
    t = q / (2 + q)
    square = t * t
    series = 2 * square * (1 / (1 + t) + t * artanh_rest(square.clamp(max=0.04)))
    return torch.where(square < 0.04, series, torch.log1p(q) - q / (1 + q))


def log_ratio(difference: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """log(a / b) for a, b ≥ 0 with the given `difference` a - b; exact to rounding near a = b, and 0 there.

    For the formulas of a `Law`: autograd finds no derivative of it at a = b.
    """
    smaller = torch.minimum(a, b).clamp(min=torch.finfo(difference.dtype).tiny)
    return torch.sign(difference) * torch.log1p(absolute(difference) / smaller)


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


def _stirling(order: int) -> tuple[float, ...]:
    """As many terms as a derivative needs at z = 10: there the terms that follow grow with each order."""
    return _STIRLING[: 8 + order]


@lru_cache(maxsize=64)
def _powers(order: int) -> tuple[float, ...]:
    """The coefficients of a derivative of Stirling's series, from the lowest power of 1 / z on."""
    return tuple(
        (-1) ** order * c * math.prod(range(2 * m + 1, 2 * m + 1 + order))
        for m, c in enumerate(_stirling(order))
    )


def _series(w: Tensor, order: int) -> Tensor:
    """The derivative of S(z) in z, for z = 1 / w ≥ 10."""
    return w ** (order + 1) * _horner(_powers(order), w * w)


def _sums_of_powers(z: Tensor, order: int) -> list[Tensor]:
    """The sums of (z + j)^-k over j = 1..9, for k = 1..order."""
    middle = z + 5
    square = middle * middle
    products = [1 / (square - i * i) for i in range(1, 5)]  # two terms as far from z + 5 on either side
    first = products[0] + products[1] + products[2] + products[3]
    sums = [2 * middle * first + 1 / middle]
    if order > 1:
        second = products[0] * products[0]
        for product in products[1:]:
            second = torch.addcmul(second, product, product)
        sums.append(4 * square * second - 2 * first + 1 / square)
    higher = range(3, order + 1)
    return sums + [torch.stack([(z + j) ** -k for j in range(1, _STIRLING_SHIFT)]).sum(0) for k in higher]


def _shift(z: Tensor) -> Tensor:
    """S(z) - S(z + 10) for z ≤ 10, by Γ(z + 10) = z (z + 1) ⋯ (z + 9) Γ(z).

    It is the integral of log z from z to z + 10 by the trapezium rule, less the integral.
    """
    w = 1 / (z + _STIRLING_SHIFT)
    square = w * w
    q, product = z * (z + _STIRLING_SHIFT) * square, (z + 5) * w
    for c in (9, 16, 21, 24):  # (z + j) (z + 10 - j) over (z + 10)²
        product = product * torch.add(q, square, alpha=c)
    return (z + 0.5) * torch.log1p(_STIRLING_SHIFT / z) - _STIRLING_SHIFT - torch.log(product)


def _shifts(z: Tensor, order: int) -> list[Tensor]:
    """The derivatives of `_shift` in z of the orders 1..order."""
    start, end = 1 / z, 1 / (z + _STIRLING_SHIFT)
    found = []
    for k, inner in enumerate(_sums_of_powers(z, order), start=1):
        rule = torch.add(inner, start**k + end**k, alpha=0.5)
        if k == 1:
            found.append(torch.log1p(_STIRLING_SHIFT * start) - rule)
        else:
            integral = (end ** (k - 1) - start ** (k - 1)) / (k - 1)
            found.append((-1) ** k * math.factorial(k - 1) * (rule + integral))
    return found


def _remainder(z: Tensor, order: int) -> Tensor:
    near = z < _STIRLING_SHIFT
    series = _series(1 / torch.where(near, z + _STIRLING_SHIFT, z), order)
    low = z.clamp(max=float(_STIRLING_SHIFT))
    return series + torch.where(near, _shifts(low, order)[-1] if order else _shift(low), 0.0)


@lru_cache(maxsize=64)
def _lah(order: int) -> tuple[int, ...]:
    """L with dⁿf/dwⁿ = (-1)ⁿ Σ L[j] zⁿ⁺ʲ dʲf/dzʲ, j = 1..n, for z = 1 / w (Lah 1954)."""
    return tuple(
        math.comb(order - 1, j - 1) * math.factorial(order) // math.factorial(j) for j in range(1, order + 1)
    )


def _inverse_remainder(w: Tensor, order: int) -> Tensor:
    edge = 1 / _STIRLING_SHIFT
    small, z = w.clamp(max=edge), 1 / w.clamp(min=edge)
    beyond = 1 / (z + _STIRLING_SHIFT)
    if order == 0:
        return torch.where(w < edge, _series(small, 0), _shift(z) + _series(beyond, 0))
    powers = [(c, 2 * m + 1) for m, c in enumerate(_stirling(order)) if 2 * m + 1 >= order]
    far = _horner(tuple(c * math.perm(power, order) for c, power in powers), small * small)
    far = far if powers[0][1] == order else far * small
    parts = [part + _series(beyond, j) for j, part in enumerate(_shifts(z, order), start=1)]
    *lower, near = (c * part for c, part in zip(_lah(order), parts, strict=True))
    for part in reversed(lower):
        near = torch.addcmul(part, near, z)
    return torch.where(w < edge, far, near * (-z) ** order * z)


remainder = Law({(0,) * order: partial(_remainder, order=order) for order in range(_MAX_ORDER + 1)})
"""S(z) in log Γ(z) = (z - ½) log z - z + ½ log 2π + S(z), for z > 0: Stirling's remainder, near 1 / 12z."""

stirling_remainder = Law(
    {(0,) * order: partial(_inverse_remainder, order=order) for order in range(_MAX_ORDER + 1)}
)
"""`remainder` as a function of w = 1 / z > 0.

In w it is smooth down to 0, where S ≈ w / 12, while its second derivative in z, taken through z = 1 / w,
would lose all digits.
"""


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
def _factorial_coefficients() -> tuple[float, ...]:
    k = torch.arange(2, 28, dtype=torch.float64)
    return (1 - _EULER, *((-1) ** k * torch.special.zeta(k, torch.full_like(k, 2.0)) / k).tolist())


def log_gamma_ratio(a: Tensor) -> Tensor:
    """log Γ(1 + a) / a for 0 ≤ a ≤ ½, near -γ at small a.

    By log Γ(1 + a) = (1 - γ) a - log(1 + a) + Σ (ζ(k) - 1) (-a)^k / k over k from 2.
    """
    return _horner(_factorial_coefficients(), a) - log1p_ratio(a)


def log_gamma_slope(z: Tensor, a: Tensor) -> Tensor:
    """(log Γ(z + a) - log Γ(z)) / a for z ≥ 1 and 0 ≤ a ≤ ½, near the digamma function of z at small a.

    By Stirling's formula, whose remainder is differenced as the integral of its derivative.
    """
    nodes, weights = _slope_rule()
    way = torch.stack([z + node * a for node in nodes])
    rest = remainder.partial((0,), (way,)) * torch.tensor(weights, dtype=z.dtype).reshape(
        -1, *(1 for _ in z.shape)
    )
    return (z - 0.5) / z * log1p_ratio(a / z) + torch.log(z + a) - 1 + rest.sum(0)


@lru_cache(maxsize=1)
def _slope_rule() -> tuple[list[float], list[float]]:
    """Gauss's rule on [0, 1], exact to rounding over half a unit of `remainder` from 1 on."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


@lru_cache(maxsize=1)
def _factorial_rests() -> tuple[float, ...]:
    return tuple(math.lgamma(y + 1) - (y * math.log(y) - y if y else 0) for y in range(_TABLE_SIZE))


def log_factorial_rest(y: Tensor) -> Tensor:
    """log y! - y log y + y for whole y ≥ 0: a table, and from 64 on ½ log 2πy + S(y). No derivative in y."""
    y = y if y.is_floating_point() else y.to(torch.get_default_dtype())
    table = torch.tensor(_factorial_rests(), dtype=y.dtype, device=y.device)
    known = table.index_select(0, y.clamp(0, _TABLE_SIZE - 1).to(torch.int32).reshape(-1)).reshape(y.shape)
    large = y.clamp(min=_TABLE_SIZE)
    w = 1 / large
    series = HALF_LOG_TWO_PI + 0.5 * torch.log(large) + w * _horner(_STIRLING[:3], w * w)
    return torch.where(y < _TABLE_SIZE, known, series)


def ndtr(z: Tensor) -> Tensor:
    """The Normal distribution function; `torch.special.ndtr` has no digits left in the lower tail."""
    return 0.5 * torch.erfc(z * -math.sqrt(0.5))


# (2k - 1)!! with alternating signs: z Φ(-z) / φ(z) in powers of 1 / z² (Laplace 1812).
_MILLS = (1.0, -1.0, 3.0, -15.0, 105.0, -945.0, 10395.0, -135135.0, 2027025.0)
_ASYMPTOTIC_Z = 30.0
"""Distance from 0, in standard deviations, beyond which a Normal tail is summed by this series."""


def log_ndtr(z: Tensor) -> Tensor:
    """The log of the Normal distribution function, to all digits in both tails, and so its derivatives.

    From -30 down by the asymptotic series: the second derivative of `erfcx` loses z² times the rounding.
    """
    far, high = z < -_ASYMPTOTIC_Z, z > -1
    deep, middle, top = (
        torch.where(far, z, -_ASYMPTOTIC_Z),
        torch.where(far | high, -1.0, z),
        torch.where(high, z, 0.0),
    )
    series = torch.log(_horner(_MILLS, 1 / (deep * deep))) - torch.log(-deep) - HALF_LOG_TWO_PI
    scaled = torch.log(0.5 * torch.special.erfcx(middle * -math.sqrt(0.5)))
    below = torch.where(far, series - 0.5 * deep * deep, scaled - 0.5 * middle * middle)
    return torch.where(high, torch.log1p(-0.5 * torch.erfc(top * math.sqrt(0.5))), below)


def log_tail_integral(rate: Tensor, curvature: Tensor) -> Tensor:
    """log ∫ exp(-rate s - curvature s² / 2) ds over s ≥ 0, for a positive rate and a curvature of at least 0.

    With x = rate / √curvature it is Mills' ratio m(x) over √curvature, and 1 / rate without a curvature.
    """
    small = curvature < rate * rate / _ASYMPTOTIC_Z**2
    w = torch.where(small, curvature, 0.0) / (rate * rate)
    series = torch.log(_horner(_MILLS, w)) - torch.log(rate)
    root = torch.sqrt(torch.where(small, 1.0, curvature))
    x = torch.where(small, 1.0, rate) / root
    ratio = math.sqrt(0.5 * math.pi) * torch.special.erfcx(x * math.sqrt(0.5))
    return torch.where(small, series, torch.log(ratio) - torch.log(root))
