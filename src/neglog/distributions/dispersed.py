"""The tails of the negative binomial distribution, with partial derivatives that are formulas.

P(Y ≤ k) = I_p(1 / α, k + 1) with p = 1 / (1 + αμ), the incomplete beta function of
`neglog.distributions.incomplete`: its kernel K = (k + 1) P(Y = k + 1) times a factor F(k, μ, α). The
derivative of P(Y ≤ k) in μ is -K / μ. That of F in α is the mean, over the nodes of the same quadrature, of
that of the integrand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neglog.distributions.incomplete import SHAPE_INCREMENT, decay_nodes
from neglog.distributions.partials import Law
from neglog.distributions.special import artanh_rest

SERIES = 0.04
"""The t² below which (artanh(t) / t - 1) / t² is a series."""
Jet = list[Tensor]
"""A function of the dispersion, with as many of its first two derivatives as are needed."""


def _positive(value: Tensor) -> Tensor:
    return value.clamp(min=torch.finfo(value.dtype).tiny)


def is_lower_smaller(k: Tensor, mean: Tensor, a: Tensor) -> Tensor:
    """Whether the factor is that of P(Y ≤ k), rather than of P(Y > k): the smaller of the two, about."""
    return k + 2 <= mean + a * mean


def _shares(mean: Tensor, a: Tensor) -> tuple[Jet, Jet, Jet]:
    """p = 1 / (1 + αμ), 1 - p and μp."""
    p = 1 / (1 + a * mean)
    m = mean * p
    fall, bend = m * p, 2 * m * m * p
    return [p, -fall, bend], [a * m, fall, -bend], [m, -m * m, 2 * m**3]


def _product(first: Jet, second: Jet) -> Jet:
    terms = (
        lambda f, s: f[0] * s[0],
        lambda f, s: f[1] * s[0] + f[0] * s[1],
        lambda f, s: f[2] * s[0] + 2 * f[1] * s[1] + f[0] * s[2],
    )
    return [term(first, second) for term in terms[: len(first)]]


def _where(condition: Tensor, first: Sequence[Tensor | float], second: Sequence[Tensor | float]) -> Jet:
    return [torch.where(condition, f, s) for f, s in zip(first, second, strict=False)]


def _recurrence(k: Tensor, mean: Tensor, a: Tensor, below: Tensor, order: int) -> tuple[Jet, Jet]:
    """The terms that raise the first exponent, their sum, and the factor of the integral that is left."""
    k, mean, a, below = (each.unsqueeze(-1) for each in (k, mean, a, below))
    j = torch.arange(SHAPE_INCREMENT, dtype=mean.dtype, device=mean.device)
    p, y, m = (jet[: order + 1] for jet in _shares(mean, a))
    n, fixed, grown = k + 1, 1 / (k + 1 + j), 1 / (1 + j * a)
    u = [a * grown, grown**2, -2 * j * grown**3][: order + 1]
    lower = _product(p, [1 + n * u[0], *(n * part for part in u[1:])])
    q = _where(below, lower, [each * fixed + other for each, other in zip(m, y, strict=True)])
    u = _where(below, u, [fixed, 0.0, 0.0])
    q[0] = _positive(q[0])
    term: Jet = [torch.cumprod(q[0], -1)]
    if order:
        rate = q[1] / q[0]
        first = torch.cumsum(rate, -1)
        term.append(term[0] * first)
    if order > 1:
        term.append(term[0] * (first * first + torch.cumsum(q[2] / q[0] - rate * rate, -1)))
    before = [_before(part, start) for part, start in zip(term, (1.0, 0.0, 0.0), strict=False)]
    return [part.sum(-1) for part in _product(before, u)], [part[..., -1] for part in term]


def _before(values: Tensor, start: float) -> Tensor:
    """Values moved by one place along the last dimension, behind a first one."""
    return torch.cat([torch.full_like(values[..., :1], start), values[..., :-1]], -1)


def _integral(k: Tensor, mean: Tensor, a: Tensor, below: Tensor, order: int) -> Jet:
    """The integral that is left, of exp(-h(v)) with h = w / z · log(1 + z (exp(±v) - 1)) - c v."""
    p, y, m = _shares(mean, a)
    first = torch.where(below, p[0] <= y[0], y[0] <= p[0])
    by_p = below == first  # then αμ ≥ 1, and 1 / α is not large
    inverse = 1 / torch.where(by_p, a, 1.0)
    more, size = k + 1 + SHAPE_INCREMENT, [inverse, -(inverse**2), 2 * inverse**3]
    z = _where(by_p, p, y)
    w = _where(
        by_p,
        _product([inverse + more, *size[1:]], p),
        [more * each + other for each, other in zip(y, m, strict=True)],
    )
    z[0], sign = _positive(z[0]), torch.where(first, -1.0, 1.0).to(z[0])
    c = torch.where(by_p, inverse, k + 1)
    c = torch.where(first, -SHAPE_INCREMENT - c, c)
    ratio, rest = w[0] / z[0], 1 - z[0]

    def slope(v: Tensor) -> Tensor:
        growth = torch.exp(sign * v)
        return sign * w[0] * growth / (rest + z[0] * growth) - c

    v, weights = decay_nodes(
        lambda v: ratio * torch.log1p(z[0] * torch.expm1(sign * v)) - c * v, slope, w[0] * rest
    )
    z, w = ([part.unsqueeze(-1) for part in jet] for jet in (z, w))
    odds = torch.expm1(sign.unsqueeze(-1) * v)
    if not order:
        density = torch.exp(c.unsqueeze(-1) * v - ratio.unsqueeze(-1) * torch.log1p(z[0] * odds))
        return [(weights * density).sum(-1)]
    g, g1, g2 = (part * odds**power for power, part in enumerate(_log_ratio(z[0] * odds), start=1))
    density = weights * torch.exp(c.unsqueeze(-1) * v - w[0] * g)
    found = [density.sum(-1)]
    side = torch.where(by_p, sign, 0.0)
    c1, c2 = ((side * part).unsqueeze(-1) * v for part in size[1:])
    h1 = w[1] * g + w[0] * z[1] * g1 - c1
    found.append(-(density * h1).sum(-1))
    if order > 1:
        h2 = w[2] * g + (2 * w[1] * z[1] + w[0] * z[2]) * g1 + w[0] * z[1] ** 2 * g2 - c2
        found.append((density * (h1 * h1 - h2)).sum(-1))
    return found


def _log_ratio(q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log(1 + q) / q with two derivatives, by (artanh(t) / t - 1) / t² with t = q / (2 + q)."""
    t, log = q / (2 + q), torch.log1p(q)
    square = t * t
    near = square < SERIES
    series, far = artanh_rest(square.clamp(max=SERIES)), torch.where(near, 1.0, t)
    rest = torch.where(near, series, (0.5 * log / far - 1) / (far * far))
    share, left = 1 / (1 + q), 1 - t
    excess = 0.5 * left * (1 - t * left * rest)  # (q - log(1 + q)) / q²
    ratio = torch.where(near, 1 - q * excess, log / torch.where(near, 1.0, q))
    return ratio, excess - share, 0.5 * left * left * (left * rest - 1 / (1 + t)) + share * share


def _factor(k: Tensor, mean: Tensor, a: Tensor, order: int = 2) -> Jet:
    k, mean, a = torch.broadcast_tensors(k, mean, a)
    below = is_lower_smaller(k, mean, a)
    total, term = _recurrence(k, mean, a, below, order)
    integral = _product(term, _integral(k, mean, a, below, order))
    return [each + other for each, other in zip(total, integral, strict=True)]


def _slopes(k: Tensor, mean: Tensor, a: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """The derivatives in μ of the log of the tail, and of that of the kernel."""
    below, mean = is_lower_smaller(k, mean, a), _positive(mean)
    return torch.where(below, -1.0, 1.0).to(mean) / (mean * factor), (k + 1 - mean) / (mean * (1 + a * mean))


def _in_mean(factor: Jet, k: Tensor, mean: Tensor, a: Tensor) -> Tensor:
    tail, kernel = _slopes(k, mean, a, factor[0])
    return tail - kernel


def _in_mean_twice(factor: Jet, k: Tensor, mean: Tensor, a: Tensor) -> Tensor:
    tail, kernel = _slopes(k, mean, a, factor[0])
    mean = _positive(mean)
    bend = -((k + 1) * (1 + 2 * a * mean) - a * mean * mean) / (mean * (1 + a * mean)) ** 2
    return tail * (kernel - 1 / mean - tail) - bend


def _cross(factor: Jet, k: Tensor, mean: Tensor, a: Tensor) -> Tensor:
    tail, _ = _slopes(k, mean, a, factor[0])
    return (k + 1 - mean) / (1 + a * mean) ** 2 - tail * factor[1] / factor[0]


def _in_dispersion_twice(factor: Jet, k: Tensor, mean: Tensor, a: Tensor) -> Tensor:
    return factor[2] / factor[0] - (factor[1] / factor[0]) ** 2


log_tail_factor = Law(
    {
        (): lambda factor, k, mean, a: torch.log(factor[0]),
        (1,): _in_mean,
        (2,): lambda factor, k, mean, a: factor[1] / factor[0],
        (1, 1): _in_mean_twice,
        (1, 2): _cross,
        (2, 2): _in_dispersion_twice,
    },
    common=lambda order, k, mean, a: _factor(k, mean, a, order),
)
"""The log of the smaller tail of NB2 counts at k over (k + 1) P(Y = k + 1), in k, mean and dispersion."""
