"""Counts that vary more than Poisson: breaks of the warp on 54 looms, two wools at three tensions.

The variance of a Poisson count is its mean. Among the nine looms of a cell (the same wool and tension) it is
three to seven times the mean in five cells of six: looms differ for unrecorded reasons. If the rate of a loom
is that of its cell times a Gamma variable of mean 1 and variance d, the count is negative binomial,

    variance  =  mean  +  d · mean² ,

and d, the dispersion, is estimated. With one mean per cell both likelihoods are largest at the averages of
the cells, so the rate ratios are equal. The standard errors differ: that of a log cell mean m over n looms is
1 / sqrt(n m) for Poisson and, with the dispersion d, sqrt((1 + d m) / (n m)) for the negative binomial.
Poisson intervals are about half as long as they should be, and 90 % intervals of new looms are too short.

Asserted: the closed forms, and the results of R's `glm(breaks ~ wool * tension, poisson)`.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import torch
from _common import BLUE, INK, QUIET, RED, RULE, arguments, dress, figure, save, say, table
from matplotlib.axes import Axes
from torch import Tensor

from neglog import Fit, datasets, mle, models, predict, summary

CELLS = ("A low", "A medium", "A high", "B low", "B medium", "B high")
RATIOS = {
    "wool_B": "B for A,\nat low tension",
    "tension_M": "medium for low,\nwool A",
    "tension_H": "high for low,\nwool A",
    "B_medium": "interaction\nB × medium",
    "B_high": "interaction\nB × high",
}
# Where a cell's label stands beside its point: factors of both coordinates, and the side.
AROUND = dict.fromkeys(CELLS, (1.035, 1.0, "left")) | {
    "A medium": (0.965, 1.0, "right"),
    "A high": (0.965, 1.0, "right"),
    "B low": (1.0, 1.2, "center"),
    "B medium": (1.035, 0.94, "left"),
}
COLOURS = {"poisson": RED, "negative_binomial": BLUE}


def load() -> tuple[pd.DataFrame, Tensor]:
    """The design, one column for every cell beyond the first, and the breaks `(54,)`."""
    looms = datasets.load("warpbreaks")
    x = looms[["wool_B", "tension_M", "tension_H"]].copy()
    x["B_medium"], x["B_high"] = x["wool_B"] * x["tension_M"], x["wool_B"] * x["tension_H"]
    return x, torch.tensor(looms["breaks"].to_numpy())


def location(fit: Fit) -> str:
    return "log_rate" if "log_rate.bias" in fit.params else "log_mean"


def ratios(fit: Fit) -> pd.DataFrame:
    """Rate ratios with 95 % limits: exp of the coefficients and of their limits."""
    coefficients = summary(fit).loc[location(fit)].loc[list(RATIOS)]
    rates = coefficients[["estimate", "lower", "upper"]].map(math.exp)
    return rates.assign(std_error=coefficients["std_error"])


def limits(fit: Fit, x: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """Between which counts 90 % of new looms should be, at each row."""
    predicted = predict(fit, x)
    return tuple(predicted.icdf(torch.tensor(q, dtype=torch.float64)) for q in (0.05, 0.95))


def inside(fit: Fit, x: pd.DataFrame, y: Tensor) -> float:
    """The share of rows within these limits."""
    low, high = limits(fit, x)
    return ((y >= low) & (y <= high)).double().mean().item()


def draw(x: pd.DataFrame, y: Tensor, fits: dict[str, Fit], to: Path) -> None:
    canvas, (left, middle, right) = figure(3)
    draw_cells(left, x, y, fits)
    draw_variances(middle, y, fits)
    draw_ratios(right, fits)
    save(canvas, to)


def draw_cells(axes: Axes, x: pd.DataFrame, y: Tensor, fits: dict[str, Fit]) -> None:
    for (name, fit), shift in zip(fits.items(), (-0.13, 0.13), strict=True):
        low, high = limits(fit, x)
        at = torch.arange(6) + shift
        axes.vlines(at, low[::9], high[::9], color=COLOURS[name], lw=6, alpha=0.35)
    spread = torch.linspace(-0.06, 0.06, 9).repeat(6)
    axes.scatter(torch.arange(6).repeat_interleave(9) + spread, y, s=9, color=INK, lw=0, zorder=4)
    axes.set_xticks(range(6), [cell.replace(" ", "\n") for cell in CELLS])
    axes.set(ylim=(0, 82))
    say(axes, "bars: 90 % of new looms", (1.05, 77), QUIET)
    say(axes, f"Poisson ({100 * inside(fits['poisson'], x, y):.0f} % of these within)", (1.05, 71.5), RED)
    share = 100 * inside(fits["negative_binomial"], x, y)
    say(axes, f"negative binomial ({share:.0f} % within)", (1.05, 66), BLUE)
    dress(axes, "Breaks of the warp, nine looms a cell", "wool and tension", "breaks per loom")


def draw_variances(axes: Axes, y: Tensor, fits: dict[str, Fit]) -> None:
    cells = y.reshape(6, 9)
    mean = torch.linspace(15, 55, 200, dtype=torch.float64)
    dispersion = fits["negative_binomial"].params["dispersion"].item()
    axes.loglog(mean, mean, color=RED, lw=1.8)
    axes.loglog(mean, mean + dispersion * mean**2, color=BLUE, lw=1.8)
    axes.loglog(cells.mean(1), cells.var(1), "o", color=INK, ms=6)
    for cell, m, v in zip(CELLS, cells.mean(1).tolist(), cells.var(1).tolist(), strict=True):
        say(axes, cell, (m * AROUND[cell][0], v * AROUND[cell][1]), INK, ha=AROUND[cell][2], fontsize=8)
    say(axes, "Poisson: variance = mean", (55, 24), RED, ha="right")
    say(axes, f"mean + {dispersion:.3f} mean²", (24.8, 60), BLUE)
    axes.set_xticks([15, 20, 30, 40, 50], ["15", "20", "30", "40", "50"])
    axes.set_yticks([20, 50, 100, 200, 400], ["20", "50", "100", "200", "400"])
    axes.minorticks_off()
    axes.set(xlim=(15, 57), ylim=(14, 480))
    dress(axes, "Variance against mean", "mean breaks of a cell", "variance of the cell (divisor 8)")


def draw_ratios(axes: Axes, fits: dict[str, Fit]) -> None:
    axes.axvline(1, color=RULE, lw=1)
    for (name, fit), shift in zip(fits.items(), (-0.11, 0.11), strict=True):
        found = ratios(fit)
        rows = torch.arange(len(found)) + shift
        axes.hlines(rows, found["lower"], found["upper"], color=COLOURS[name], lw=2.2)
        axes.semilogx(found["estimate"], rows, "o", color=COLOURS[name], ms=5)
    axes.set_yticks(range(len(RATIOS)), RATIOS.values())
    axes.set_xticks([0.5, 1, 2, 3], ["½", "1", "2", "3"])
    axes.minorticks_off()
    axes.set(ylim=(4.6, -0.6), xlim=(0.36, 3.3))
    say(axes, "Poisson", (1.15, -0.11), RED)
    say(axes, "negative binomial", (1.15, 0.13), BLUE)
    dress(axes, "One estimate, two doubts", "rate ratio, 95 % interval", "")


def check(x: pd.DataFrame, y: Tensor, fits: dict[str, Fit]) -> None:
    poisson, binomial = fits["poisson"], fits["negative_binomial"]
    dispersion = binomial.params["dispersion"].item()
    average = y.reshape(6, 9).mean(1)
    for name, fit in fits.items():
        # One mean a cell: the scores vanish at the averages. Newton ends within 1e-8 standard errors.
        assert torch.allclose(predict(fit, x).mean[::9], average, rtol=1e-7)
        # The intercept is the log mean of cell A low, 44.56; its variance is the inverse information.
        d = dispersion if name == "negative_binomial" else 0.0
        expected = math.sqrt((1 + d * average[0].item()) / (9 * average[0].item()))
        assert abs(summary(fit)["std_error"][location(fit), "Intercept"] - expected) < 1e-6
    # R prints these: log rate of B for A, its standard error, the residual deviance, and Pearson's statistic
    # over its 48 degrees of freedom, the dispersion of the quasi-Poisson family.
    shown = summary(poisson).loc[("log_rate", "wool_B")]
    assert (round(shown["estimate"], 5), round(shown["std_error"], 5)) == (-0.45663, 0.08019)
    fitted = predict(poisson, x).mean
    assert round(2 * (torch.xlogy(y, y / fitted) - y + fitted).sum().item(), 2) == 182.31
    assert round(((y - fitted) ** 2 / fitted).sum().item() / 48, 2) == 3.76
    # Intervals of the negative binomial are twice as long, and hold what they promise (nominal 90 %; the
    # standard error of a share of 54 is 4 %).
    assert (ratios(binomial)["std_error"] / ratios(poisson)["std_error"] > 1.7).all()
    assert inside(poisson, x, y) < 0.7
    assert 0.85 < inside(binomial, x, y) < 0.99
    assert binomial.aic + 60 < poisson.aic


def main() -> None:
    options = arguments(__file__, __doc__)
    x, y = load()
    fits = {name: mle(getattr(models, name), x, y) for name in COLOURS}
    poisson, binomial = (ratios(fit) for fit in fits.values())
    rows = [
        (
            name,
            poisson["estimate"][name],
            *(f"{found['lower'][name]:.2f} to {found['upper'][name]:.2f}" for found in (poisson, binomial)),
        )
        for name in RATIOS
    ]
    table(("rate ratio", "estimate", "95 %, Poisson", "95 %, negative binomial"), rows)
    print()
    spread = [fit.params.get("dispersion", torch.tensor(0.0)).item() for fit in fits.values()]
    scores = [
        (name, d, fit.nll, fit.aic, inside(fit, x, y))
        for (name, fit), d in zip(fits.items(), spread, strict=True)
    ]
    table(("", "dispersion", "NLL", "AIC", "within 90 %"), scores)
    draw(x, y, fits, options.picture)
    check(x, y, fits)


if __name__ == "__main__":
    main()
