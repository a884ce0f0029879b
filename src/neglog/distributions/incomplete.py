"""The regularised incomplete gamma and beta functions, to all orders differentiable in every argument.

Both are integrals of a log-concave density. Seen from the argument outwards, over the logarithm of the
variable (of the odds, for beta), the integrand is exp(-h(v)) with h convex and increasing from h(0) = 0, on
whichever side of the mode the smaller tail lies. One Gauss-Legendre rule on [0, V] with h(V) = 37 then has
full accuracy everywhere, relative accuracy in the tail, and derivatives by autograd, since the nodes need not
move with the parameters. Exponents below 8 are raised by the recurrences first, whose terms are all positive
(Abramowitz & Stegun 1964, 6.5.21 and 26.5.16): they would make a long exponential tail of the integrand.

As a shape a goes to 0 the lower tail goes to 1, and the upper one is what is left. Below ½ the lower tail is
x^a C (1 - a r), C → 1 a ratio of gamma functions, r the integral of u^(a - 1) f(u) over [0, 1], f(0) = 0, and
the logs of all three are a times a number that keeps its digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from neglog.distributions.partials import Law
from neglog.distributions.quadrature import LOG_NEGLIGIBLE
from neglog.distributions.special import (
    HALF_LOG_TWO_PI,
    log1m_exp,
    log1p_ratio,
    log_gamma_ratio,
    log_gamma_slope,
    log_ratio,
    nowhere,
    remainder,
)

_QUADRATURE_NODES = 40
"""Nodes of the quadrature over a tail."""
SHAPE_INCREMENT = 8
"""Steps of the recurrence that raises a shape parameter before the quadrature."""
SMALL_SHAPE = 0.5
"""Shape parameter below which the log of the lower tail is computed in proportion to it."""
_ROOT = 6
"""Exponent of the variable of integration from 0 to 1 that makes powers of it smooth."""


@lru_cache(maxsize=1)
def _rule() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights on [0, 1], as the eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    k = torch.arange(1, _QUADRATURE_NODES, dtype=torch.float64)
    off = k / torch.sqrt(4 * k * k - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return tuple((0.5 * (nodes + 1)).tolist()), tuple((vectors[0] ** 2).tolist())


Decay = Callable[[Tensor], Tensor]


def decay_nodes(exponent: Decay, slope: Decay, curvature: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights for the integral of exp(-h) over the positive half-line, h convex, h(0) = 0 < h'(0).

    `exponent` is h, `slope` its derivative, `curvature` its second derivative at 0, for a first guess.
    """
    with torch.no_grad():
        first = slope(torch.zeros_like(curvature))
        end = 2 * LOG_NEGLIGIBLE / (first + torch.sqrt(first * first + 2 * LOG_NEGLIGIBLE * curvature))
        for _ in range(6):  # Newton on a convex function comes from the right after its first step
            end = end - (exponent(end) - LOG_NEGLIGIBLE) / slope(end)
    nodes, weights = (torch.tensor(part, dtype=end.dtype, device=end.device) for part in _rule())
    end = end.unsqueeze(-1)
    return end * nodes, end * weights


def _decay_integral(exponent: Decay, slope: Decay, curvature: Tensor) -> Tensor:
    v, weights = decay_nodes(exponent, slope, curvature)
    return (torch.exp(-exponent(v)) * weights).sum(-1)


def _integral_of_power(a: Tensor, factor: Decay) -> Tensor:
    """∫ u^(a - 1) f(u) du from 0 to 1, f smooth with f(0) = 0, as an integral over the sixth root of u."""
    nodes, weights = (torch.tensor(part, dtype=a.dtype, device=a.device) for part in _rule())
    u = nodes**_ROOT
    power = torch.exp(a.unsqueeze(-1) * torch.log(u))
    return (factor(u) * power * (_ROOT * weights / nodes)).sum(-1)


def _gamma_small(a: Tensor, x: Tensor) -> Tensor:
    """log P(a, x) for a < ½ and x < a + 1, in proportion to a."""
    rest = _integral_of_power(a, lambda u: -torch.expm1(-x.unsqueeze(-1) * u))
    return a * (torch.log(x) - log_gamma_ratio(a) - rest * log1p_ratio(-a * rest))


def _beta_small(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """log I_x(a, b) for a < ½ and x at most about the mean; in proportion to a where it is small beside b."""
    power = (b - 1).unsqueeze(-1)
    rest = _integral_of_power(a, lambda u: -torch.expm1(power * torch.log1p(-x.unsqueeze(-1) * u)))
    constant = log_gamma_slope(1 + b, a) - log_gamma_ratio(a)
    return a * (torch.log(x) + constant - rest * log1p_ratio(-a * rest)) - torch.log1p(a / b)


def _gamma_fit(a: Tensor, x: Tensor) -> Tensor:
    difference = x - a
    return a * log_ratio(difference, x, a) - difference + 0.5 * torch.log(a) - HALF_LOG_TWO_PI


# The kernel of the Gamma density by Stirling's formula, but for the remainder.
_GAMMA_FIT = Law(
    {
        (): _gamma_fit,
        (0,): lambda a, x: log_ratio(x - a, x, a) + 0.5 / a,
        (1,): lambda a, x: (a - x) / x,
        (0, 0): lambda a, x: -(1 + 0.5 / a) / a,
        (0, 1): lambda a, x: 1 / x,
        (1, 1): lambda a, x: -a / x / x,
    }
)


def log_gamma_kernel(a: Tensor, x: Tensor) -> Tensor:
    """log(x^a exp(-x) / Γ(a)) with all its digits at large a."""
    return _GAMMA_FIT(a, x) - remainder(a)


def _gamma_part(a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the lower tail is computed, and the other as what is left; and the log of that tail."""
    a, x = torch.broadcast_tensors(a, x)
    x = x.clamp(min=torch.finfo(x.dtype).tiny)
    below = x < a + 1
    sign = torch.where(below, -1.0, 1.0).to(x.dtype)
    raised = torch.where(below, a + SHAPE_INCREMENT, a)

    def exponent(v: Tensor) -> Tensor:
        s, r, y = (t.reshape(t.shape + (1,) * (v.dim() - t.dim())) for t in (sign, raised, x))
        return y * torch.expm1(s * v) - s * r * v

    def slope(v: Tensor) -> Tensor:
        return sign * (x * torch.exp(sign * v) - raised)

    integral = _decay_integral(exponent, slope, x)
    total, term = torch.zeros_like(x), torch.ones_like(x)
    at = torch.where(below, x, a)  # the recurrence is used below alone; elsewhere it must not overflow
    for j in range(SHAPE_INCREMENT):
        total = total + term / (a + j)
        term = term * at / (a + j)
    part = log_gamma_kernel(a, x) + torch.log(torch.where(below, total + term * integral, integral))
    small = below & (a < SMALL_SHAPE)
    if nowhere(small):
        return below, part
    small_part = _gamma_small(torch.where(small, a, 0.5 * SMALL_SHAPE), torch.where(small, x, 0.5))
    return below, torch.where(small, small_part, part)


def _tails_of(below: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    near = part > -math.log(2)  # torch's derivative of expm1 loses the digits of a small exponential
    rest = torch.where(near, -torch.expm1(torch.where(near, part, 0.0)), 1 - torch.exp(part))
    part = torch.exp(part)
    return torch.where(below, part, rest), torch.where(below, rest, part)


def log_tails_of(below: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """The logs of both tails, of one of which the log is `part`: the lower one where it is `below`."""
    rest = log1m_exp((-part).clamp(min=torch.finfo(part.dtype).tiny))
    return torch.where(below, part, rest), torch.where(below, rest, part)


def log_regularised_gamma(a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The logs of `regularised_gamma`, which keep their digits where it is too small for a float."""
    return log_tails_of(*_gamma_part(a, x))


def regularised_gamma(a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """P(a, x) and Q(a, x) = 1 - P(a, x), the smaller of them to full relative accuracy.

    For `a` below 1 that holds of both.

    >>> import torch
    >>> lower, upper = regularised_gamma(torch.tensor(1.0), torch.tensor(2.0))  # 1 - exp(-2), exp(-2)
    >>> round(lower.item(), 4), round(upper.item(), 4)
    (0.8647, 0.1353)
    """
    return _tails_of(*_gamma_part(a, x))


def beta_factor(
    a: Tensor, inverse_a: Tensor, b: Tensor, x: Tensor, y: Tensor, bx: Tensor, ay: Tensor
) -> Tensor:
    """C in I_x(a, b) = C · x^a y^b / B(a, b), for y = 1 - x and x at most about the mean a / (a + b).

    The products b x and a y are arguments of their own, and so is 1 / a: where `a` or `b`
    tends to infinity, as 1 / dispersion does in the Poisson limit, these stay smooth.
    """
    total, term = torch.zeros_like(x), torch.ones_like(x)
    for j in range(SHAPE_INCREMENT):
        grown = 1 + j * inverse_a
        total = total + term * inverse_a / grown
        term = term * (inverse_a * bx + x * grown) / grown
    # Over the log-odds h(v) = (a + 8) v + (a + b + 8) log(1 + x (exp(-v) - 1)) where x is the smaller, or
    # with y for x, h(v) = -b v + (a + b + 8) log(1 + y (exp(v) - 1)): the same, without large differences.
    first = x <= y
    sign = torch.where(first, -1.0, 1.0).to(x.dtype)
    linear = torch.where(first, -(a + SHAPE_INCREMENT), b)
    small = torch.where(first, x, y)
    weight = torch.where(first, (a + SHAPE_INCREMENT) * x + bx, (b + SHAPE_INCREMENT) * y + ay)

    def exponent(v: Tensor) -> Tensor:
        more = (1,) * (v.dim() - x.dim())
        s, c, z, w = (t.reshape(t.shape + more) for t in (sign, linear, small, weight))
        odds = torch.expm1(s * v)
        return w * odds * log1p_ratio(z * odds) - c * v

    def slope(v: Tensor) -> Tensor:
        growth = torch.exp(sign * v)
        return sign * weight * growth / (1 + small * torch.expm1(sign * v)) - linear

    return total + term * _decay_integral(exponent, slope, weight * (1 - small))


def _beta_fit(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    n, difference = a + b, b * x - a * y
    fit = a * log_ratio(difference, n * x, a) + b * log_ratio(-difference, n * y, b)
    return fit + 0.5 * torch.log(a / n * b) - HALF_LOG_TWO_PI


def _beta_slope(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    n = a + b
    return log_ratio(b * x - a * y, n * x, a) + 0.5 * b / (a * n)


def _beta_curve(a: Tensor, b: Tensor) -> Tensor:
    n = a + b
    return -b / (a * n) * (1 + 0.5 / a + 0.5 / n)


# The kernel of the Beta density by Stirling's formula, but for the remainders.
_BETA_FIT = Law(
    {
        (): _beta_fit,
        (0,): _beta_slope,
        (1,): lambda a, b, x, y: _beta_slope(b, a, y, x),
        (2,): lambda a, b, x, y: a / x,
        (3,): lambda a, b, x, y: b / y,
        (0, 0): lambda a, b, x, y: _beta_curve(a, b),
        (0, 1): lambda a, b, x, y: (1 + 0.5 / (a + b)) / (a + b),
        (0, 2): lambda a, b, x, y: 1 / x,
        (1, 1): lambda a, b, x, y: _beta_curve(b, a),
        (1, 3): lambda a, b, x, y: 1 / y,
        (2, 2): lambda a, b, x, y: -a / x / x,
        (3, 3): lambda a, b, x, y: -b / y / y,
    }
)


def log_beta_kernel(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """log(x^a y^b / B(a, b)) for y = 1 - x, with all its digits at large a and b."""
    return _BETA_FIT(a, b, x, y) + remainder(a + b) - remainder(a) - remainder(b)


def regularised_beta(
    a: Tensor,
    b: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    log_kernel: Tensor | None = None,
    inverse_a: Tensor | None = None,
    bx: Tensor | None = None,
    ay: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """I_x(a, b) and 1 - I_x(a, b) = I_y(b, a) for y = 1 - x, the smaller of them to full relative accuracy.

    `log_kernel` is log(x^a y^b / B(a, b)); like `inverse_a` and the products `bx` and `ay` it may be given
    where the caller knows it more accurately.

    >>> import torch
    >>> lower, upper = regularised_beta(*torch.tensor([1.0, 2.0, 0.25, 0.75]))  # 1 - 0.75², 0.75²
    >>> round(lower.item(), 4), round(upper.item(), 4)
    (0.4375, 0.5625)
    """
    return _tails_of(*_beta_part(a, b, x, y, log_kernel, inverse_a, bx, ay))


def log_regularised_beta(
    a: Tensor,
    b: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    log_kernel: Tensor | None = None,
    inverse_a: Tensor | None = None,
    bx: Tensor | None = None,
    ay: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The logs of `regularised_beta`, which keep their digits where it is too small for a float."""
    return log_tails_of(*_beta_part(a, b, x, y, log_kernel, inverse_a, bx, ay))


def _beta_part(
    a: Tensor,
    b: Tensor,
    x: Tensor,
    y: Tensor,
    log_kernel: Tensor | None,
    inverse_a: Tensor | None,
    bx: Tensor | None,
    ay: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Whether the lower tail is computed, and the other as what is left; and the log of that tail."""
    kernel = log_beta_kernel(a, b, x, y) if log_kernel is None else log_kernel
    a, inverse_a, b, x, y, bx, ay, kernel = torch.broadcast_tensors(
        a, 1 / a if inverse_a is None else inverse_a, b, x, y,
        b * x if bx is None else bx, a * y if ay is None else ay, kernel,
    )  # fmt: skip
    below = bx + x <= ay + y
    shape, other, at = torch.where(below, a, b), torch.where(below, b, a), torch.where(below, x, y)
    factor = beta_factor(
        shape,
        torch.where(below, inverse_a, 1 / b),
        other,
        at,
        torch.where(below, y, x),
        torch.where(below, bx, ay),
        torch.where(below, ay, bx),
    )
    part, small = kernel + torch.log(factor), shape < SMALL_SHAPE
    if nowhere(small):
        return below, part
    small_part = _beta_small(
        torch.where(small, shape, 0.5 * SMALL_SHAPE),
        torch.where(small, other, 1.0),
        torch.where(small, at, 0.5),
    )
    return below, torch.where(small, small_part, part)
