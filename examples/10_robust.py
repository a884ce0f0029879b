"""Robust losses are likelihoods with heavy tails: Belgium's telephone calls, with six years in minutes.

From 1964 to 1969 minutes were recorded instead of calls: six rows of 24 are errors. The weight of a row
depends on the score of the likelihood, minus the derivative of -log p in the location; with u = residual /
scale the scores, and the weights score / residual of iteratively reweighted least squares, are

    Normal:      u                                 weight 1
    Huber:       u clipped to ±delta               weight min(1, delta / |u|)
    Laplace:     sign(u)                           weight 1 / |u|
    Student's t: (df + 1) u / (df + u²)            weight (df + 1) / (df + u²)

Only the last score goes to 0. But residuals are measured in units of an estimated scale: with a quarter of
the rows wrong, Huber's scale grows until they are not outliers. With the scale fixed at the value of R's
`rlm`, from the median absolute residual, the same loss does better; Student's t with free degrees of freedom
estimates a small scale.

Asserted: R's MASS (`lm`, `rlm`), maxima found by other code (tests/cases), and the least median of squares of
Rousseeuw & Leroy (1987).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from _common import BLUE, INK, OCHRE, QUIET, RED, RULE, arguments, dress, figure, save, say, table
from matplotlib.axes import Axes
from torch import Tensor

from neglog import Fit, datasets, losses, mle, models, predict

RLM_SCALE = 9.03  # R: rlm(calls ~ year, phones), "residual standard error"
MODELS: dict[str, Any] = {
    "gaussian": models.gaussian,
    "huber": models.huber,
    "huber, scale held": pyro.condition(
        models.huber, {"scale": torch.tensor(RLM_SCALE, dtype=torch.float64)}
    ),
    "laplace": models.laplace,
    "student_t": models.student_t,
}
COLOURS = {
    "gaussian": RED,
    "huber": OCHRE,
    "huber, scale held": OCHRE,
    "laplace": BLUE,
    "student_t": INK,
}
MINUTES = slice(14, 20)  # 1964 to 1969


def load() -> tuple[Tensor, Tensor]:
    """Years since 1900 `(24, 1)` and calls in millions `(24,)`."""
    phones = datasets.load("phones")
    return torch.tensor(phones[["year"]].to_numpy() - 1900), torch.tensor(phones["calls"].to_numpy())


def line(fit: Fit) -> tuple[float, float]:
    """Slope and intercept."""
    (location,) = {site.split(".")[0] for site in fit.params if site.endswith(".weight")}
    return fit.params[f"{location}.weight"].item(), fit.params[f"{location}.bias"].item()


def scale(fit: Fit) -> float:
    return fit.params.get("scale", fit.params.get("sigma", torch.tensor(RLM_SCALE))).item()


def pull(name: str, u: Tensor, df: float) -> Tensor:
    """Minus the derivative of the row's loss in its location, in units of 1 / scale, by autograd."""
    at = torch.zeros_like(u).requires_grad_()
    loss = {
        "gaussian": partial(losses.gaussian_nll, sigma=1.0),
        "huber": partial(losses.huber_nll, scale=1.0, delta=1.345),
        "laplace": partial(losses.laplace_nll, scale=1.0),
        "student_t": partial(losses.student_t_nll, scale=1.0, df=df),
    }[name.split(",")[0]]
    return -torch.autograd.grad(loss(at, u, reduction="sum"), at)[0]


def weights(name: str, fit: Fit, x: Tensor, y: Tensor) -> Tensor:
    """How much each row counts, `(24,)`, the largest being 1."""
    location = torch.tensor(line(fit)[1]) + x[:, 0] * line(fit)[0]
    u = (y - location) / scale(fit)
    weight = pull(name, u, degrees(fit)) / u
    return weight / weight.max()


def degrees(fit: Fit) -> float:
    return fit.params["df"].item() if "df" in fit.params else 1.0


def draw(x: Tensor, y: Tensor, fits: dict[str, Fit], to: Path) -> None:
    canvas, (left, middle, right) = figure(3)
    draw_lines(left, x, y, fits)
    draw_pulls(middle, degrees(fits["student_t"]))
    draw_weights(right, x, y, fits)
    save(canvas, to)


def draw_lines(axes: Axes, x: Tensor, y: Tensor, fits: dict[str, Fit]) -> None:
    calls = torch.ones(len(y), dtype=torch.bool)
    calls[MINUTES] = False
    axes.scatter(1900 + x[calls, 0], y[calls], s=16, color=QUIET, lw=0)
    axes.scatter(1900 + x[~calls, 0], y[~calls], s=26, color=INK, lw=0)
    say(axes, "minutes, 1964–69", (1963.2, 178), INK, ha="right")
    ends = torch.tensor([49.0, 74.0])
    labels = {
        "gaussian": "MSE",
        "huber": "Huber",
        "huber, scale held": "Huber, scale held",
        "laplace": "MAE",
        "student_t": "Student's t",
    }
    heights = {"huber, scale held": 49, "laplace": 36, "student_t": 22}
    for name, fit in fits.items():
        slope, intercept = line(fit)
        dashes = (0, (4, 2)) if "held" in name else "-"
        axes.plot(1900 + ends, intercept + slope * ends, color=COLOURS[name], lw=1.8, ls=dashes)
        at = heights.get(name, intercept + slope * 74)
        say(axes, f"{labels[name]}, {slope:.2f}", (1974.6, at), COLOURS[name])
    say(axes, "slope, millions a year:", (1974.6, 130), QUIET, fontsize=8)
    axes.set(xlim=(1948.5, 1988), ylim=(-12, 222))
    axes.set_xticks([1950, 1960, 1970])
    dress(axes, "Telephone calls in Belgium", "year", "calls, millions")


def draw_pulls(axes: Axes, df: float) -> None:
    u = torch.linspace(-7, 7, 1401, dtype=torch.float64)
    for name in ("gaussian", "huber", "laplace", "student_t"):
        axes.plot(u, pull(name, u, df), color=COLOURS[name], lw=2)
    axes.axhline(0, color=RULE, lw=0.8, zorder=0)
    axes.set(xlim=(-7, 7), ylim=(-3.2, 3.2))
    say(axes, "Normal", (3.0, 2.75), RED)
    say(axes, "Huber, delta 1.345", (2.0, 1.66), OCHRE)
    say(axes, "Laplace", (4.7, 0.75), BLUE)
    say(axes, f"Student's t,\n{df:.2f} degrees\nof freedom", (2.5, -0.55), INK)
    dress(axes, "How hard a row pulls", "residual / scale", "pull at the location, 1 / scale")


def draw_weights(axes: Axes, x: Tensor, y: Tensor, fits: dict[str, Fit]) -> None:
    shown = {
        "gaussian": ("MSE: every year the same", 1.7, 1956),
        "huber": ("Huber", 0.3, 1966.5),
        "laplace": ("MAE", 7e-3, 1966.5),
        "student_t": ("Student's t", 2.2e-5, 1966.5),
    }
    axes.axvspan(1963.5, 1969.5, color=RULE, alpha=0.5, lw=0)
    say(axes, "minutes", (1963.1, 1.1e-6), QUIET, ha="right", va="bottom")
    for name, (text, height, year) in shown.items():
        axes.semilogy(1900 + x[:, 0], weights(name, fits[name], x, y), "o-", color=COLOURS[name], ms=3, lw=1)
        say(axes, text, (year, height), COLOURS[name], ha="center")
    axes.set(xlim=(1949, 1974), ylim=(8e-7, 3.5))
    axes.set_xticks([1950, 1960, 1970])
    dress(axes, "How much a year counts", "year", "weight in the fit, largest = 1")


def check(x: Tensor, y: Tensor, fits: dict[str, Fit]) -> None:
    # R's MASS prints these digits: lm(calls ~ year, phones), and summary(rlm(...)) with -102.622 and 2.041,
    # whose iterations stop with a scale of 9.03, itself rounded: the slope moves by 0.007 a unit of scale.
    slope, intercept = line(fits["gaussian"])
    assert (round(slope, 3), round(intercept, 3)) == (5.041, -260.059)
    slope, intercept = line(fits["huber, scale held"])
    assert abs(slope - 2.041) < 0.002
    assert abs(intercept + 102.622) < 0.1
    # Maxima found by Newton's method from nine starts, with other code: tests/cases, huber_phones, t3_phones.
    huber, student = mle(partial(models.huber, delta=1.0), x, y), mle(partial(models.student_t, df=3.0), x, y)
    assert abs(line(huber)[0] - 2.747761034224312) < 1e-7
    assert abs(huber.nll - 129.14793915454499) < 1e-9
    assert abs(line(student)[0] - 1.7607070864195382) < 1e-7
    assert abs(student.nll - 128.5145237911746) < 1e-9
    # Least absolute deviations: no line has a smaller MAE, and here the optimum is not unique.
    for step in (-0.01, 0.01):
        assert losses.mae(predict(fits["laplace"], x).mean + step * (x[:, 0] - 61), y) > scale(
            fits["laplace"]
        )
    # Rousseeuw & Leroy's least median of squares: slope 0.115, in tens of millions.
    assert abs(line(fits["student_t"])[0] - 1.15) < 0.05
    assert weights("student_t", fits["student_t"], x, y)[MINUTES].max() < 1e-3
    assert weights("huber", fits["huber"], x, y)[MINUTES].min() > 0.3
    # One scale for all, in nats.
    assert fits["student_t"].aic + 50 < min(fit.aic for name, fit in fits.items() if name != "student_t")


def main() -> None:
    options = arguments(__file__, __doc__)
    x, y = load()
    fits = {name: mle(model, x, y) for name, model in MODELS.items()}
    rows = [
        (name, *line(fit), scale(fit), f"{degrees(fit):.3f}" if "df" in fit.params else "", fit.aic)
        for name, fit in fits.items()
    ]
    table(("", "slope", "intercept", "scale", "df", "AIC"), rows)
    draw(x, y, fits, options.picture)
    check(x, y, fits)


if __name__ == "__main__":
    main()
