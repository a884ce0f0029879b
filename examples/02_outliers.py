"""Five outliers among a hundred rows: the estimates of MSE and MAE.

The true line is y = 2x + 1 with Normal noise of standard deviation 1; 15 is added to the y of five rows with
a large x. MSE is the likelihood of a Normal, MAE that of a Laplace distribution. The influence of a row with
residual r is the derivative of its log-density:

    Normal:  r / sigma²          unbounded: a residual of 15 has the influence of fifteen residuals of 1
    Laplace: sign(r) / scale     the same for every row: it depends on the sign of the residual only

Two consequences are asserted. The least-squares slope is linear in y, so adding `shift` to the rows i changes
it by   shift · sum_i (x_i - mean x) / sum (x - mean x)².   The least-absolute-deviations line does not change
once the outliers are above it, whatever their distance.

The Gaussian fit is not wrong: it estimates the mean, to which the outliers contribute.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from _common import BLUE, INK, QUIET, RED, RULE, arguments, dress, figure, save, say, table
from matplotlib.axes import Axes
from torch import Tensor

from neglog import Fit, losses, mle, models, summary

SLOPE, INTERCEPT, SHIFT = 2.0, 1.0, 15.0
ROWS, OUTLIERS = 100, 5
MODELS = {"gaussian": ("mean", RED), "laplace": ("location", BLUE)}


def draw_rows() -> tuple[Tensor, Tensor, Tensor]:
    """x `(100, 1)`, y without outliers `(100,)`, and which rows are to become outliers."""
    generator = torch.Generator().manual_seed(3)
    x = 10 * torch.rand(ROWS, generator=generator, dtype=torch.float64)
    y = INTERCEPT + SLOPE * x + torch.randn(ROWS, generator=generator, dtype=torch.float64)
    far_right = (x > 7).nonzero()[:, 0]
    outlying = torch.zeros(ROWS, dtype=torch.bool).index_fill(0, far_right[:OUTLIERS], True)
    return x[:, None], y, outlying


def line(fit: Fit) -> tuple[float, float]:
    """Slope and intercept."""
    location = "mean" if "mean.weight" in fit.params else "location"
    return fit.params[f"{location}.weight"].item(), fit.params[f"{location}.bias"].item()


def pulls(residuals: Tensor) -> dict[str, Tensor]:
    """The derivative of each row's log-density in its prediction, over that of a row with residual 1."""
    of_one = torch.ones(1, dtype=torch.float64)
    return {
        "gaussian": _score(losses.gaussian_nll, residuals) / _score(losses.gaussian_nll, of_one),
        "laplace": _score(losses.laplace_nll, residuals) / _score(losses.laplace_nll, of_one),
    }


def _score(loss: Callable[..., Tensor], residuals: Tensor) -> Tensor:
    prediction = torch.zeros_like(residuals).requires_grad_()
    return -torch.autograd.grad(loss(prediction, residuals, 3.0, reduction="sum"), prediction)[0]


def slopes_by_shift(x: Tensor, y: Tensor, outlying: Tensor, shifts: Tensor) -> dict[str, Tensor]:
    """The slope that each model finds, for each distance of the outliers."""
    slopes = {}
    for name in MODELS:
        fits = [mle(getattr(models, name), x, y + shift * outlying) for shift in shifts]
        slopes[name] = torch.tensor([line(fit)[0] for fit in fits], dtype=torch.float64)
    return slopes


def draw(
    x: Tensor,
    y: Tensor,
    outlying: Tensor,
    fits: dict[str, Fit],
    shifts: Tensor,
    slopes: dict[str, Tensor],
    to: Path,
) -> None:
    canvas, (left, middle, right) = figure(3)
    draw_lines(left, x, y, outlying, fits)
    draw_pulls(middle)
    draw_slopes(right, shifts, slopes)
    save(canvas, to)


def draw_lines(axes: Axes, x: Tensor, y: Tensor, outlying: Tensor, fits: dict[str, Fit]) -> None:
    axes.scatter(x[~outlying, 0], y[~outlying], s=13, color=QUIET, alpha=0.6, lw=0)
    axes.scatter(x[outlying, 0], y[outlying], s=26, color=INK, lw=0)
    say(axes, "5 outliers, +15", (6.7, 33), INK, ha="right")
    ends = torch.tensor([0.0, 10.0])
    axes.plot(ends, INTERCEPT + SLOPE * ends, color=INK, lw=1.1, ls=(0, (4, 3)), zorder=4)
    for name, (_, colour) in MODELS.items():
        slope, intercept = line(fits[name])
        axes.plot(ends, intercept + slope * ends, color=colour, lw=2, zorder=3)
        say(
            axes, {"gaussian": "MSE", "laplace": "MAE"}[name], (10.15, intercept + 10.1 * slope + 0.3), colour
        )
    say(axes, "truth", (10.15, INTERCEPT + 10 * SLOPE - 1.0), INK)
    axes.set_xlim(-0.3, 11.4)
    dress(axes, "What the two losses recover", "x", "y")


def draw_pulls(axes: Axes) -> None:
    residuals = torch.linspace(-4, 17, 1001, dtype=torch.float64)
    for name, pull in pulls(residuals).items():
        axes.plot(residuals, pull, color=MODELS[name][1], lw=2)
    at = pulls(torch.tensor([SHIFT], dtype=torch.float64))
    for pull in at.values():
        axes.plot([SHIFT], pull, "o", color=INK, ms=5, zorder=5)
        say(axes, f"{pull.item():.0f}", (SHIFT + 0.5, pull.item() - 0.9), INK)
    say(axes, "Normal: r / σ²", (9.3, 11.2), RED, ha="right")
    say(axes, "Laplace: sign(r) / scale", (9.3, 2.0), BLUE, ha="center")
    axes.axhline(0, color=RULE, lw=0.8, zorder=0)
    dress(axes, "Why: how hard a row pulls", "residual r of the row", "pull (1: that of a row with r = 1)")


def draw_slopes(axes: Axes, shifts: Tensor, slopes: dict[str, Tensor]) -> None:
    axes.axhline(SLOPE, color=INK, lw=1.1, ls=(0, (4, 3)))
    for name, slope in slopes.items():
        axes.plot(shifts, slope, "o-", color=MODELS[name][1], lw=1.6, ms=4)
    last = shifts[-1].item()
    say(axes, "MSE", (last + 0.9, slopes["gaussian"][-1].item()), RED)
    say(axes, "MAE", (last + 0.9, slopes["laplace"][-1].item() + 0.02), BLUE)
    say(axes, "truth", (last + 0.9, SLOPE - 0.02), INK)
    axes.set_xlim(-1, last + 6)
    dress(axes, "As the five move away", "added to the outliers", "estimated slope")


def check(
    x: Tensor, outlying: Tensor, fits: dict[str, Fit], shifts: Tensor, slopes: dict[str, Tensor]
) -> None:
    # Without outliers the slope has the standard error sigma / sqrt(sum (x - mean x)²) = 0.035 by MSE and,
    # the noise being Normal, sqrt(pi / 2) times that by MAE; the intercept's are 0.2 and 0.25. Five rows of
    # 100 on one side move a median by a fraction of sigma, and 15 of it a mean by 0.75.
    slope, intercept = line(fits["laplace"])
    assert abs(slope - SLOPE) < 0.1
    assert abs(intercept - INTERCEPT) < 0.3
    slope, intercept = line(fits["gaussian"])
    assert slope - SLOPE > 0.25
    assert INTERCEPT - intercept > 0.5
    # The derivation above; the optimum of each fit is good to about 1e-8.
    centred = x[:, 0] - x.mean()
    per_unit = (centred[outlying].sum() / centred.square().sum()).item()
    assert torch.allclose(slopes["gaussian"], slopes["gaussian"][0] + per_unit * shifts, atol=1e-6)
    beyond = shifts >= 5  # noise of standard deviation 1 leaves no outlier below the line from here on
    assert torch.allclose(slopes["laplace"][beyond], slopes["laplace"][-1], atol=1e-6)
    residuals = torch.tensor([-2.0, 0.5, SHIFT], dtype=torch.float64)
    assert torch.allclose(pulls(residuals)["gaussian"], residuals)
    assert torch.equal(pulls(residuals)["laplace"], residuals.sign())


def main() -> None:
    options = arguments(__file__, __doc__)
    x, clean, outlying = draw_rows()
    y = clean + SHIFT * outlying
    fits = {name: mle(getattr(models, name), x, y) for name in MODELS}
    shifts = torch.linspace(0, 30, 4 if options.small else 13, dtype=torch.float64)
    slopes = slopes_by_shift(x, clean, outlying, shifts)

    rows = [("truth", SLOPE, "", INTERCEPT, "", "")]
    for name, (location, _) in MODELS.items():
        errors = summary(fits[name])["std_error"][location]
        slope, intercept = line(fits[name])
        rows.append((name, slope, errors["x0"], intercept, errors["Intercept"], fits[name].nll))
    table(("", "slope", "± s.e.", "intercept", "± s.e.", "NLL"), rows)
    draw(x, y, outlying, fits, shifts, slopes, options.picture)
    check(x, outlying, fits, shifts, slopes)


if __name__ == "__main__":
    main()
