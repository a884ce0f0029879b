"""A network with a variance head: noise that grows with x, estimated together with the mean.

The truth is y ~ Normal(2 sin(1.5 x), 0.5 + 0.3 x). A network with two heads predicts a mean and a
log-variance, and its loss is the negative log-likelihood of a row,

    (log v + r² / v + log(2 pi)) / 2   with   v = exp(log-variance),  r = y - mean:

a large variance reduces the loss of a large residual, at the cost of log v. With a fixed v this is the MSE;
with an estimated v the 5 % and 95 % quantiles are predictions, whose coverage is measured on new data.

In neglog the network is `on_features(models.heteroscedastic, trunk)`: the linear model of mean and
log-variance, on features that a trunk computes. It is fitted by `map_estimate`. The Normal(0, 1) priors of
the trunk's weights are weight decay; they prevent the fit from following single rows (the likelihood has no
useful maximum, see 06_learned_error_bars.py), and give L-BFGS an optimum that it can certify.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from _common import BLUE, INK, QUIET, RED, arguments, dress, figure, network, save, say, table
from matplotlib.axes import Axes
from torch import Tensor

from neglog import Fit, map_estimate, models, on_features, predict
from neglog.solvers import LBFGS

END = 5.0
LEVELS = torch.tensor([0.05, *(0.1 * i for i in range(1, 10)), 0.95], dtype=torch.float64)


def truth(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of y at x `(N, 1)`."""
    return 2 * torch.sin(1.5 * x[:, 0]), 0.5 + 0.3 * x[:, 0]


def draw_rows(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = END * torch.rand(rows, 1, generator=generator, dtype=torch.float64)
    mean, sd = truth(x)
    return x, mean + sd * torch.randn(rows, generator=generator, dtype=torch.float64)


def fit_network(x: Tensor, y: Tensor) -> Fit:
    net = on_features(models.heteroscedastic, network(1, 16, seed=0))
    # The default tolerance, 1e-9, is for standard errors; a picture does not show the digits after these.
    return map_estimate(net, x, y, solver=LBFGS(tolerance=1e-3))


def coverage(prediction: Any, y: Tensor) -> Tensor:
    """For each of LEVELS the share of rows inside the central interval that should hold so many."""
    distance = (prediction.cdf(y) - 0.5).abs()
    return (distance <= LEVELS[:, None] / 2).double().mean(1)


def rmse(estimate: Tensor, true: Tensor) -> float:
    return (estimate - true).square().mean().sqrt().item()


def draw(x: Tensor, y: Tensor, grid: Tensor, prediction: Any, covered: Tensor, to: Path) -> None:
    canvas, (left, middle, right) = figure(3)
    draw_bands(left, x, y, grid, prediction)
    draw_sd(middle, grid, prediction)
    draw_coverage(right, covered)
    save(canvas, to)


def draw_bands(axes: Axes, x: Tensor, y: Tensor, grid: Tensor, prediction: Any) -> None:
    along = grid[:, 0]
    axes.scatter(x[:, 0], y, s=5, color=QUIET, alpha=0.5, lw=0)
    for level, alpha in ((0.9, 0.2), (0.5, 0.32)):
        low, high = (prediction.icdf(torch.tensor(0.5 + sign * level / 2)) for sign in (-1, 1))
        axes.fill_between(along, low, high, color=RED, alpha=alpha, lw=0)
        say(axes, f"{100 * level:.0f} %", (END + 0.08, high[-1].item()), RED)
    axes.plot(along, prediction.mean, color=RED, lw=2)
    axes.plot(along, truth(grid)[0], color=INK, lw=1.2, ls=(0, (4, 3)))
    say(axes, "learned mean", (0.0, 5.3), RED)
    say(axes, "true mean (dashed)", (0.0, 4.65), INK)
    axes.set_xlim(-0.1, END + 0.5)
    dress(axes, "Mean and bands for new rows", "x", "y")


def draw_sd(axes: Axes, grid: Tensor, prediction: Any) -> None:
    axes.plot(grid[:, 0], prediction.stddev, color=RED, lw=2)
    axes.plot(grid[:, 0], truth(grid)[1], color=INK, lw=1.2, ls=(0, (4, 3)))
    say(axes, "learned", (3.3, 1.25), RED)
    say(axes, "true: 0.5 + 0.3 x", (1.2, 1.15), INK, ha="center")
    axes.set_ylim(0, 2.4)
    dress(axes, "The noise that it found", "x", "standard deviation of y")


def draw_coverage(axes: Axes, covered: Tensor) -> None:
    axes.plot([0, 1], [0, 1], color=INK, lw=1.2, ls=(0, (4, 3)))
    axes.plot(LEVELS, covered, "o", color=BLUE, ms=5)
    for level in (0.5, 0.9):
        found = covered[(LEVELS - level).abs().argmin()].item()
        say(
            axes,
            f"{100 * level:.0f} % band: {100 * found:.1f} %",
            (level - 0.04, found + 0.035),
            BLUE,
            ha="right",
        )
    axes.set(xlim=(0, 1), ylim=(0, 1.04))
    dress(
        axes, "Promise and delivery on fresh rows", "share that the band should hold", "share that it holds"
    )


def check(mean_error: float, sd_error: float, covered: Tensor, rows: int) -> None:
    # With some dozen effective parameters the mean is known to about sqrt(12 / rows) of the noise, whose root
    # mean square is 1.3, and the logarithm of the standard deviation to about sqrt(6 / rows): errors of 0.14
    # and 0.10 for 1000 rows. A mean that failed to learn would be off by 1.4, a constant deviation by 0.43.
    assert mean_error < 0.17 * (1000 / rows) ** 0.5
    assert sd_error < 0.13 * (1000 / rows) ** 0.5
    # Ten thousand fresh rows tell a share to 0.005; the rest is the doubt about the standard deviation.
    for level, room in ((0.5, 0.04), (0.9, 0.03)):
        assert abs(covered[(LEVELS - level).abs().argmin()].item() - level) < room * (1000 / rows) ** 0.5


def main() -> None:
    options = arguments(__file__, __doc__)
    x, y = draw_rows(400 if options.small else 1000, seed=0)
    fit = fit_network(x, y)
    grid = torch.linspace(0, END, 201, dtype=torch.float64)[:, None]
    prediction = predict(fit, grid)
    mean, sd = truth(grid)
    fresh_x, fresh_y = draw_rows(10_000, seed=1)
    covered = coverage(predict(fit, fresh_x), fresh_y)
    mean_error, sd_error = rmse(prediction.mean, mean), rmse(prediction.stddev, sd)

    print(f"{len(y)} rows, {fit.k} parameters; {fit.status}\n")
    at = [0, 50, 100, 150, 200]
    columns = [grid[at, 0], mean[at], prediction.mean[at], sd[at], prediction.stddev[at]]
    table(("x", "mean", "learned", "sd", "learned"), zip(*(c.tolist() for c in columns), strict=True))
    print(f"\nRMSE over x: {mean_error:.3f} of the mean, {sd_error:.3f} of the standard deviation")
    half, most = (100 * covered[(LEVELS - level).abs().argmin()].item() for level in (0.5, 0.9))
    print(f"fresh rows inside the 50 % band: {half:.1f} %; inside the 90 % band: {most:.1f} %")
    draw(x, y, grid, prediction, covered, options.picture)
    check(mean_error, sd_error, covered, len(y))


if __name__ == "__main__":
    main()
