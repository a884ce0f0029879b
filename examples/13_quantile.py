"""Quantile regression is the likelihood of an asymmetric Laplace: Engel's food expenditures by quantile.

The pinball loss of a residual r is tau · r above the line and (1 - tau) · |r| below it. Setting the
derivative of its sum to zero, tau · (rows above) = (1 - tau) · (rows below): at the optimum a share tau of
the rows is below. Divided by a scale, and with its constant, it is minus the log of the asymmetric Laplace
density

    tau (1 - tau) / scale · exp(-pinball(r) / scale) .

The lines of the quantiles diverge: per franc of income the 90 % quantile of food expenditure increases by
0.69 and the 10 % quantile by 0.40. A Gaussian with one sigma has 0.49 for all quantiles; one whose sigma
grows with income reproduces the divergence.

Asserted: the slopes of R's `quantreg` (tests/cases, with optima computed in 50 digits), the counts below each
line, and that the lines do not cross in the range of the data.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import torch
from _common import BLUE, INK, OCHRE, QUIET, RED, arguments, dress, figure, save, say, table
from matplotlib.axes import Axes
from torch import Tensor

from neglog import Fit, datasets, losses, mle, models, predict

TAUS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
# tests/cases: ald_engel_10, laplace_engel and ald_engel_90; quantreg's vignette prints the same digits.
REFERENCE = {
    0.1: (110.14157420494844, 0.4017657593034804),
    0.5: (81.48224741693616, 0.5601805512094196),
    0.9: (67.35087208012973, 0.6862994803719054),
}
COLOURS = {0.1: BLUE, 0.5: INK, 0.9: RED}


def load() -> tuple[Tensor, Tensor]:
    """Income `(235, 1)` and food expenditure `(235,)`, in francs a year."""
    engel = datasets.load("engel")
    return torch.tensor(engel[["income"]].to_numpy()), torch.tensor(engel["food_expenditure"].to_numpy())


def line(fit: Fit) -> tuple[float, float]:
    """Intercept and slope."""
    return fit.params["quantile.bias"].item(), fit.params["quantile.weight"].item()


def at(fit: Fit, x: Tensor) -> Tensor:
    intercept, slope = line(fit)
    return intercept + slope * x[:, 0]


def below(fit: Fit, x: Tensor, y: Tensor) -> int:
    """The rows below the line; those on it, which the optimum fits exactly, are not counted."""
    return int((y - at(fit, x) < -1e-6).sum())


def noise_of(x: Tensor) -> dict[str, Tensor]:
    """The designs of a Gaussian whose sigma is a power of income."""
    return {"mean": x, "log_variance": x.log()}


def implied_slopes(fit: Fit, taus: Tensor, between: tuple[float, float]) -> Tensor:
    """How fast each quantile of a fitted model rises from one income to another, francs a franc."""
    ends = (torch.tensor([[income]], dtype=torch.float64) for income in between)
    designs = (noise_of(end) if len(fit.columns) > 1 else end for end in ends)
    low, high = (predict(fit, design).icdf(taus) for design in designs)
    return (high - low) / (between[1] - between[0])


def draw(x: Tensor, y: Tensor, fits: dict[float, Fit], others: dict[str, Fit], to: Path) -> None:
    canvas, (left, middle, right) = figure(3)
    draw_pinball(left)
    draw_lines(middle, x, y, fits)
    draw_slopes(right, fits, others)
    save(canvas, to)


def draw_pinball(axes: Axes) -> None:
    r = torch.linspace(-2, 2, 401, dtype=torch.float64)
    for tau, colour in COLOURS.items():
        axes.plot(r, losses.pinball(torch.zeros_like(r), r, tau, reduction="none"), color=colour, lw=2)
    say(axes, "τ = 0.1", (-1.55, 1.62), BLUE)
    say(axes, "τ = 0.9", (1.5, 1.62), RED, ha="right")
    say(axes, "τ = 0.5: half the\nabsolute error", (1.02, 0.345), INK)
    dress(axes, "The pinball loss", "residual, y − quantile", "loss")


def draw_lines(axes: Axes, x: Tensor, y: Tensor, fits: dict[float, Fit]) -> None:
    axes.scatter(x[:, 0], y, s=9, color=QUIET, alpha=0.55, lw=0)
    ends = torch.tensor([[350.0], [3050.0]], dtype=torch.float64)
    for tau, fit in fits.items():
        colour = COLOURS.get(tau, QUIET)
        axes.plot(ends[:, 0], at(fit, ends), color=colour, lw=2 if tau in COLOURS else 0.9)
        lift = {0.95: 35.0, 0.9: -30.0}.get(tau, 0.0)
        say(axes, f"{100 * tau:.0f} %", (3100, at(fit, ends)[1].item() + lift), colour, fontsize=8.5)
    axes.set(xlim=(300, 3450), ylim=(150, 2350))
    axes.set_xticks([1000, 2000, 3000])
    say(axes, "share of households\nbelow each line", (420, 2150), INK)
    dress(axes, "Food expenditure by quantile", "income, francs a year", "food, francs a year")


def draw_slopes(axes: Axes, fits: dict[float, Fit], others: dict[str, Fit]) -> None:
    taus = torch.linspace(0.03, 0.97, 95, dtype=torch.float64)
    for fit, colour in zip(others.values(), (OCHRE, BLUE), strict=True):
        axes.plot(taus, implied_slopes(fit, taus, (500.0, 1500.0)), color=colour, lw=1.8)
    axes.plot(list(fits), [line(fit)[1] for fit in fits.values()], "o", color=INK, ms=6)
    say(axes, "quantile regression", (0.53, 0.555), INK)
    say(axes, "Gaussian, one sigma", (0.97, 0.465), OCHRE, ha="right")
    say(axes, "Gaussian, sigma grows\nwith income (500 to 1500)", (0.97, 0.38), BLUE, ha="right")
    dress(axes, "What another franc adds", "quantile τ", "slope, francs of food a franc")


def check(x: Tensor, y: Tensor, fits: dict[float, Fit], others: dict[str, Fit]) -> None:
    for tau, (intercept, slope) in REFERENCE.items():
        # The optimum is a vertex, two households that are fitted exactly: a solve of two equations.
        assert abs(line(fits[tau])[0] - intercept) < 1e-8
        assert abs(line(fits[tau])[1] - slope) < 1e-11
    rows = len(y)
    for tau, fit in fits.items():
        # The optimum condition: at most tau · n rows below, at most (1 - tau) · n above, two on the line.
        assert rows * tau - 2 <= below(fit, x, y) <= rows * tau
        # The scale is the mean pinball loss, and the NLL is that of the density with it.
        loss = losses.pinball(at(fit, x), y, tau).item()
        assert abs(fit.params["scale"].item() - loss) < 1e-8
        assert abs(fit.nll - rows * (1 + math.log(loss / (tau * (1 - tau))))) < 1e-6
    grid = torch.linspace(x.min().item(), x.max().item(), 50, dtype=torch.float64)[:, None]
    lines = torch.stack([at(fit, grid) for fit in fits.values()])
    assert (lines.diff(dim=0) > 0).all()
    slopes = torch.tensor([line(fit)[1] for fit in fits.values()], dtype=torch.float64)
    assert (slopes.diff() > 0).all()
    taus = torch.tensor(TAUS, dtype=torch.float64)
    flat, growing = (implied_slopes(fit, taus, (500.0, 1500.0)) for fit in others.values())
    assert (flat - flat.mean()).abs().max() < 1e-9
    assert ((growing - slopes).abs() < 0.07).all()


def main() -> None:
    options = arguments(__file__, __doc__)
    x, y = load()
    fits = {tau: mle(partial(models.quantile, tau=tau), x, y) for tau in TAUS}
    others = {
        "gaussian": mle(models.gaussian, x, y),
        "heteroscedastic": mle(models.heteroscedastic, noise_of(x), y),
    }
    rows = [
        (f"{tau:g}", *line(fit), fit.params["scale"].item(), below(fit, x, y), tau * len(y))
        for tau, fit in fits.items()
    ]
    table(("tau", "intercept", "slope", "mean pinball", "rows below", "tau · n"), rows)
    draw(x, y, fits, others, options.picture)
    check(x, y, fits, others)


if __name__ == "__main__":
    main()
