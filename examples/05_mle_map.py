"""Penalties are priors: ridge and lasso as MAP estimates, and the influence of a prior as n grows.

The model is y ~ Normal(bias + x @ weight, sigma) with a known sigma and a flat prior on the bias. A prior on
the weights adds its negative logarithm to the loss:

    Normal(0, s):   RSS / (2 sigma²)  +  sum w² / (2 s²)      ridge, alpha = sigma² / s²
    Laplace(0, s):  RSS / (2 sigma²)  +  sum |w| / s          lasso, alpha = sigma² / (n s)

with the alphas of scikit-learn (`losses.ridge_alpha`, `losses.lasso_alpha`). With a wide prior the estimate
is the MLE; a narrow one shrinks all weights to 0: the Normal smoothly, the Laplace, whose density has a
corner at 0, until some weights are exactly 0.

The log-likelihood grows with the number of rows and the log prior does not. Expanding the optimum in 1 / n,

    MAP - MLE  =  (X'X)⁻¹ · sigma² · gradient(log prior)  +  ...  =  O(1 / n),

while the error of the MLE is O(1 / sqrt(n)): the influence of the prior decreases faster than the
uncertainty.

The data are those of Tibshirani (1996), example 1: eight inputs with the correlations 0.5^|i - j|, weights
(3, 1.5, 0, 0, 2, 0, 0, 0), sigma = 3. (He drew 20 rows; we draw up to 2000, and add a bias of 1.)
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from _common import BLUE, INK, OCHRE, QUIET, RED, RULE, arguments, dress, figure, save, say, table
from matplotlib.axes import Axes
from sklearn.linear_model import Lasso, Ridge
from torch import Tensor

from neglog import flat, losses, map_estimate, mle, models, with_priors

SIGMA, BIAS = 3.0, 1.0
WEIGHT = torch.tensor([3.0, 1.5, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0], dtype=torch.float64)
PATH_ROWS = 60
COUNTS = [20, 63, 200, 632, 2000]
PRIORS = {"ridge": dist.Normal, "lasso": dist.Laplace}


def draw_rows(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(rows, 8, generator=generator, dtype=torch.float64)
    x = [z[:, 0]]
    for j in range(1, 8):  # an autoregression, so that correlations fall by half with the distance
        x.append(0.5 * x[-1] + 0.75**0.5 * z[:, j])
    noise = torch.randn(rows, generator=generator, dtype=torch.float64)
    return torch.stack(x, 1), BIAS + torch.stack(x, 1) @ WEIGHT + SIGMA * noise


def posterior(penalty: str, scale: float) -> Any:
    """The model whose MAP estimate is the penalised fit."""
    known = pyro.condition(models.gaussian, {"sigma": torch.tensor(SIGMA, dtype=torch.float64)})
    prior = PRIORS[penalty](0.0, torch.tensor(scale, dtype=torch.float64))
    return flat(with_priors(known, {"mean.weight": prior}), "mean.bias")


def weights_by_map(penalty: str, scale: float, x: Tensor, y: Tensor) -> Tensor:
    return map_estimate(posterior(penalty, scale), x, y).params["mean.weight"]


def weights_by_sklearn(penalty: str, scale: float, x: Tensor, y: Tensor) -> Tensor:
    if penalty == "ridge":
        solver = Ridge(alpha=losses.ridge_alpha(SIGMA, scale))
    else:
        solver = Lasso(alpha=losses.lasso_alpha(SIGMA, scale, len(y)), tol=1e-12, max_iter=100_000)
    return torch.from_numpy(solver.fit(x.numpy(), y.numpy()).coef_)


def weights_by_mle(x: Tensor, y: Tensor) -> Tensor:
    return mle(models.gaussian, x, y).params["mean.weight"]


def paths(scales: Tensor, x: Tensor, y: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """For each penalty the weights along the scales, `(S, 8)`, by neglog and by scikit-learn."""
    return {
        penalty: (
            torch.stack([weights_by_map(penalty, s, x, y) for s in scales.tolist()]),
            torch.stack([weights_by_sklearn(penalty, s, x, y) for s in scales.tolist()]),
        )
        for penalty in PRIORS
    }


def gaps(counts: list[int], scale: float) -> dict[str, Tensor]:
    """Over the first n rows: how far each MAP estimate is from the MLE, and the MLE from the truth."""
    x, y = draw_rows(counts[-1])
    found: dict[str, list[Tensor]] = {"ridge": [], "lasso": [], "truth": []}
    for n in counts:
        best = weights_by_mle(x[:n], y[:n])
        for penalty in PRIORS:
            found[penalty].append((weights_by_map(penalty, scale, x[:n], y[:n]) - best).norm())
        found["truth"].append((best - WEIGHT).norm())
    return {name: torch.stack(values) for name, values in found.items()}


def draw(
    scales: Tensor,
    found: dict[str, tuple[Tensor, Tensor]],
    best: Tensor,
    counts: list[int],
    distance: dict[str, Tensor],
    to: Path,
) -> None:
    canvas, (left, middle, right) = figure(3)
    draw_path(left, "Normal prior: ridge", scales, *found["ridge"], best)
    say(left, "lines: neglog\ncircles: scikit-learn", (scales[0].item(), 3.1), QUIET)
    draw_path(middle, "Laplace prior: lasso", scales, *found["lasso"], best)
    middle.sharey(left)
    draw_gaps(right, counts, distance)
    save(canvas, to)


def draw_path(axes: Axes, title: str, scales: Tensor, ours: Tensor, theirs: Tensor, best: Tensor) -> None:
    axes.axhline(0, color=RULE, lw=0.8, zorder=0)
    end = scales[-1].item()
    for j, true in enumerate(WEIGHT.tolist()):
        colour = RED if true else QUIET
        axes.semilogx(scales, ours[:, j], color=colour, lw=1.8 if true else 1.0)
        axes.semilogx(scales, theirs[:, j], "o", mfc="none", mec=colour, ms=4, mew=0.7)
        axes.plot([1.25 * end, 1.7 * end], [best[j]] * 2, color=INK, lw=1.2)
        if true:
            say(axes, f"w{j + 1}", (2.1 * end, best[j].item()), RED)
    say(axes, "MLE", (1.45 * end, best.max().item() + 0.25), INK, ha="center")
    say(axes, "five true zeros", (2.1 * end, 0.0), QUIET)
    axes.set_xlim(0.8 * scales[0].item(), 25 * end)
    axes.set_xticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
    axes.minorticks_off()
    dress(axes, title, "scale of the prior", "weight")


def draw_gaps(axes: Axes, counts: list[int], distance: dict[str, Tensor]) -> None:
    for name, colour, text in (
        ("truth", INK, "MLE to truth"),
        ("lasso", OCHRE, "lasso to MLE"),
        ("ridge", BLUE, "ridge to MLE"),
    ):
        axes.loglog(counts, distance[name], "o-", color=colour, lw=1.6, ms=4)
        lift = {"lasso": 1.15, "ridge": 0.83}.get(name, 1.0)
        say(axes, text, (1.15 * counts[-1], distance[name][-1].item() * lift), colour)
    n = torch.tensor(counts, dtype=torch.float64)
    for slope, height, text in ((-0.5, 14.0, "1 / √n"), (-1.0, 25.0, "1 / n")):
        axes.loglog(n, height * n**slope, color=QUIET, lw=0.9, ls=(0, (2, 3)), zorder=0)
        say(axes, text, (260, height * 260**slope * (1.25 if slope > -1 else 0.72)), QUIET, ha="center")
    axes.set_xlim(15, 14_000)
    axes.set_xticks([20, 200, 2000], ["20", "200", "2000"])
    axes.set_yticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
    axes.minorticks_off()
    dress(axes, "The data outweigh a prior of scale 1", "rows", "distance between vectors of weights")


def check(
    found: dict[str, tuple[Tensor, Tensor]], best: Tensor, counts: list[int], distance: dict[str, Tensor]
) -> None:
    (ridge, sklearn_ridge), (lasso, sklearn_lasso) = found["ridge"], found["lasso"]
    # Ridge is one linear solve on either side; Lasso's coordinate descent stops at a duality gap of 1e-12 of
    # the sum of squares, which leaves about its root in a weight.
    assert (ridge - sklearn_ridge).abs().max() < 1e-9
    assert (lasso - sklearn_lasso).abs().max() < 1e-5
    assert torch.equal(lasso == 0, sklearn_lasso == 0)
    assert (lasso[0] == 0).all()
    assert (ridge != 0).all()
    # The derivation above at n = 60: (X'X)⁻¹ sigma² is about 0.2, the gradients are w / 100 and 1 / 10.
    assert (ridge[-1] - best).abs().max() < 0.05
    assert (lasso[-1] - best).abs().max() < 0.2
    # MAP - MLE is O(1 / n), up to the sampling of X'X / n, some 30 % at n = 20; over a factor 100 in n that
    # moves the exponent by log(1.3) / log(100) = 0.06.
    for penalty in PRIORS:
        exponent = torch.log(distance[penalty][-1] / distance[penalty][0]).item() / math.log(
            counts[-1] / counts[0]
        )
        assert abs(exponent + 1) < 0.15
        assert distance[penalty][-1] < 0.2 * distance["truth"][-1]


def main() -> None:
    options = arguments(__file__, __doc__)
    x, y = draw_rows(PATH_ROWS)
    scales = torch.logspace(-2, 1, 7 if options.small else 25, dtype=torch.float64)
    found, best = paths(scales, x, y), weights_by_mle(x, y)
    distance = gaps(COUNTS, scale=1.0)

    rows = []
    for i in range(0, len(scales), (len(scales) - 1) // 6):
        first = [round(ours[i, 0].item(), 6) for ours, _ in found.values()]
        off = [(ours[i] - theirs[i]).abs().max().item() for ours, theirs in found.values()]
        zeros = [int((found["lasso"][k][i] == 0).sum()) for k in (0, 1)]
        rows.append((scales[i].item(), first[0], off[0], first[1], off[1], *zeros))
    header = ("prior scale", "ridge w1", "off sklearn", "lasso w1", "off sklearn", "zeros", "sklearn's")
    table(header, rows)
    print(f"{'MLE':11}  {best[0].item():8.4g}\n")
    columns = [distance[name].tolist() for name in ("ridge", "lasso", "truth")]
    table(("rows", "ridge to MLE", "lasso to MLE", "MLE to truth"), zip(COUNTS, *columns, strict=True))
    draw(scales, found, best, COUNTS, distance, options.picture)
    check(found, best, COUNTS, distance)


if __name__ == "__main__":
    main()
