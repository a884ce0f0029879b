"""Huber's loss is the minus log of a mixture: a Normal truncated to ±delta, and exponential tails beyond.

With u = (y - location) / scale, exp(-rho(u)) is exp(-u² / 2) for |u| < delta, and beyond, where
|u| = delta + e, it is exp(-delta² / 2) exp(-delta e). The integrals of the two parts are

    core   sqrt(2 pi) (2 Phi(delta) - 1)          tails   2 exp(-delta² / 2) / delta ,

so a draw is, with probability w = core / (core + tails), a Normal truncated to ±delta, and otherwise
±(delta + e) with e exponential of mean 1 / delta. As delta → ∞, w → 1 and the density converges to the Normal
with this scale. As delta → 0 at a fixed b = scale / delta, w → 0 and the density converges to Laplace's with
scale b, from which it differs by at most delta² / (4 b), to leading order.

Huber derived the density as the one with the least information about the location among all densities
(1 - epsilon) Normal + epsilon · (any density), where 1 / (1 - epsilon) = (core + tails) / sqrt(2 pi).

Asserted: the integrals by numerical integration, the mixture against the density, both limits, and epsilon
against the table of Huber's paper (1964).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from _common import BLUE, INK, OCHRE, QUIET, RED, arguments, dress, figure, save, say, table
from matplotlib.axes import Axes
from torch import Tensor

from neglog import losses
from neglog.distributions import Huber, Laplace, Normal, mixture_weights

DELTA = 1.345
# Huber (1964), table I: the share of contamination and the delta that is best against it.
PUBLISHED = {0.01: 1.945, 0.05: 1.399, 0.1: 1.140, 0.2: 0.862, 0.5: 0.436}


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def huber(delta: float, scale: float = 1.0) -> Huber:
    return Huber(number(0.0), number(scale), number(delta))


def core(u: Tensor, delta: float) -> Tensor:
    """The density of a standard Normal that is cut off at ±delta."""
    standard = Normal(number(0.0), number(1.0))
    inside = standard.log_prob(u).exp() / (1 - 2 * standard.cdf(number(-delta)))
    return torch.where(u.abs() < delta, inside, 0.0)


def tails(u: Tensor, delta: float) -> Tensor:
    """The density of ±(delta + e), e exponential with mean 1 / delta."""
    return torch.where(u.abs() < delta, 0.0, 0.5 * delta * torch.exp(-delta * (u.abs() - delta)))


def contamination(delta: Tensor) -> Tensor:
    """Huber's epsilon."""
    weight = mixture_weights(delta)[0]
    # (1 - epsilon) (2 Phi(delta) - 1) is the weight of the core too.
    return 1 - weight / torch.erf(delta / math.sqrt(2))


def integral(delta: float, low: float, high: float) -> float:
    """exp(-rho) over a range, by the trapezoidal rule with Richardson's correction (Simpson's rule)."""
    u = torch.linspace(low, high, 20_001, dtype=torch.float64)
    simpson = torch.full_like(u, 2.0)
    simpson[1::2], simpson[0], simpson[-1] = 4.0, 1.0, 1.0
    values = torch.exp(-losses.huber(torch.zeros_like(u), u, delta, reduction="none"))
    return ((simpson @ values) * (high - low) / 20_000 / 3).item()


def draw(to: Path) -> None:
    canvas, (left, middle, right) = figure(3)
    draw_parts(left)
    draw_weights(middle)
    draw_limits(right)
    save(canvas, to)


def draw_parts(axes: Axes) -> None:
    u = torch.linspace(-5, 5, 2001, dtype=torch.float64)
    weight = mixture_weights(number(DELTA))[0].item()
    axes.fill_between(u, weight * core(u, DELTA), color=BLUE, alpha=0.35, lw=0)
    axes.fill_between(u, (1 - weight) * tails(u, DELTA), color=RED, alpha=0.35, lw=0)
    axes.plot(u, huber(DELTA).log_prob(u).exp(), color=INK, lw=1.8)
    axes.plot(u, Normal(number(0.0), number(1.0)).log_prob(u).exp(), color=QUIET, lw=1, ls=(0, (4, 3)))
    say(axes, f"Normal core,\n{100 * weight:.1f} %", (0, 0.13), BLUE, ha="center")
    say(axes, f"exponential tails,\n{100 - 100 * weight:.1f} %", (2.0, 0.115), RED)
    say(axes, "standard Normal\n(dashed)", (0.75, 0.36), QUIET)
    for edge, text in ((-DELTA, "−δ"), (DELTA, "δ")):
        say(axes, text, (edge, -0.012), INK, ha="center")
    axes.set(xlim=(-5, 5), ylim=(-0.025, 0.42))
    dress(axes, "Huber's density in two parts, δ = 1.345", "u = residual / scale", "density of u")


def draw_weights(axes: Axes) -> None:
    delta = torch.logspace(-2, math.log10(5), 400, dtype=torch.float64)
    weight = mixture_weights(delta)[0]
    axes.semilogx(delta, weight, color=BLUE, lw=2)
    axes.semilogx(delta, contamination(delta), color=OCHRE, lw=2)
    axes.semilogx(list(PUBLISHED.values()), list(PUBLISHED), "o", mfc="white", mec=OCHRE, ms=5)
    at = mixture_weights(number(DELTA))[0].item()
    axes.semilogx([DELTA], [at], "o", color=INK, ms=5)
    say(axes, f"δ = 1.345: {at:.3f}", (1.15, at + 0.03), INK, ha="right")
    say(axes, "w, the weight\nof the core", (0.135, 0.22), BLUE, ha="right")
    say(axes, "ε, contamination\n(circles: Huber 1964)", (0.115, 0.75), OCHRE, ha="right")
    say(axes, "Laplace", (0.0105, 0.045), INK, va="bottom")
    say(axes, "Normal", (5, 0.93), INK, ha="right", va="top")
    axes.set_xticks([0.01, 0.1, 1, 5], ["0.01", "0.1", "1", "5"])
    axes.minorticks_off()
    axes.set(xlim=(0.0095, 5.6), ylim=(-0.02, 1.04))
    dress(axes, "How much of it is Normal", "δ, in units of the scale", "probability")


def draw_limits(axes: Axes) -> None:
    y = torch.linspace(-4, 4, 1601, dtype=torch.float64)
    limits = (
        (Laplace(number(0.0), number(math.sqrt(0.5))), RED, 4.5),
        (Normal(number(0.0), number(1.0)), BLUE, 4.5),
    )
    for family, colour, width in limits:
        axes.plot(y, family.log_prob(y), color=colour, lw=width, alpha=0.3)
    for delta, colour in ((0.2, RED), (DELTA, INK), (4.0, BLUE)):
        scale = 1 / math.sqrt(huber(delta).variance.item())
        axes.plot(y, huber(delta, scale).log_prob(y), color=colour, lw=1.4)
    say(axes, "δ = 0.2, on Laplace's", (0.3, -0.25), RED)
    say(axes, "δ = 4, on the Normal's", (-0.05, -6.3), BLUE, ha="center")
    say(axes, "δ = 1.345", (2.2, -2.75), INK)
    axes.set(xlim=(-4, 4), ylim=(-8, 0.2))
    dress(axes, "From Laplace to Normal", "y, in standard deviations", "log-density")


def check() -> None:
    for delta in (0.1, 0.5, DELTA, 3.0):
        weight = mixture_weights(number(delta))[0].item()
        # Simpson's rule with steps h errs by h⁴ / 180 · length · fourth derivative: below 1e-9 here; the
        # tails are cut where exp(-delta e) is 1e-22.
        inside, outside = integral(delta, -delta, delta), 2 * integral(delta, delta, delta + 50 / delta)
        assert abs(weight - inside / (inside + outside)) < 1e-9
        u = torch.linspace(-8, 8, 1001, dtype=torch.float64)
        mixed = weight * core(u, delta) + (1 - weight) * tails(u, delta)
        assert torch.allclose(mixed, huber(delta).log_prob(u).exp(), rtol=1e-12, atol=0)
    # At delta = 1.345 the core is 77 % and Huber's contamination 5.8 %.
    assert round(mixture_weights(number(DELTA))[0].item(), 4) == 0.7738
    assert round(contamination(number(DELTA)).item(), 4) == 0.0579
    # The table rounds delta to three decimals, which moves epsilon by less than 0.0004.
    for epsilon, delta in PUBLISHED.items():
        assert abs(contamination(number(delta)).item() - epsilon) < 4e-4
    # Distribution functions that R's package `hoa` prints: pHuber(0.5) and pHuber(0.5, k = 1.5).
    assert round(huber(DELTA).cdf(number(0.5)).item(), 7) == 0.6803739
    assert round(huber(1.5).cdf(number(0.5)).item(), 7) == 0.6842623
    # delta → ∞: the tails beyond 9 standard deviations have a mass of 1e-18.
    y = torch.linspace(-9, 9, 1001, dtype=torch.float64)
    normal = Normal(number(0.0), number(1.0)).log_prob(y)
    assert torch.allclose(huber(9.0).log_prob(y), normal, rtol=1e-12, atol=0)
    # delta → 0 with b = scale / delta = 1: off by delta² / 4 at 0, and by less elsewhere.
    for delta in (0.1, 0.01):
        off = huber(delta, delta).log_prob(y).exp() - Laplace(number(0.0), number(1.0)).log_prob(y).exp()
        assert abs(off.abs().max().item() / (delta**2 / 4) - 1) < delta


def main() -> None:
    options = arguments(__file__, __doc__)
    deltas = (0.01, 0.1, 0.436, 0.862, 1.0, DELTA, 2.0, 3.0, 5.0)
    rows = []
    for delta in deltas:
        weight = mixture_weights(number(delta))[0].item()
        deviation = huber(delta).variance.sqrt().item()
        rows.append((f"{delta:g}", weight, contamination(number(delta)).item(), deviation))
    table(("delta", "weight of the core", "epsilon", "sd / scale"), rows)
    draw(options.picture)
    check()


if __name__ == "__main__":
    main()
