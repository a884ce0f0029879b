"""The lasso path: which columns a penalty selects, and in what order.

The response is the logarithm of ozone in New York on 111 days; the columns are temperature, wind and
radiation, their squares and their products, nine in all, each of mean 0 and standard deviation 1. With sigma
fixed, the weights under the prior Laplace(0, 1 / lambda) minimise

    RSS / (2 sigma²)  +  lambda ‖weight‖₁ ,

and are all exactly 0 from the lambda on at which the first column enters. Each optimum satisfies the
subgradient condition: the derivative of the log-likelihood in a weight is ±lambda, with the sign of the
weight, if the weight is not 0, and at most lambda in absolute value if it is. Two highly correlated columns
get similar weights under the elastic net, which adds a Normal factor to the prior.

Asserted: that condition along the whole path, scikit-learn's numbers, and the minimum of the BIC.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from _common import BLUE, INK, QUIET, RED, RULE, arguments, dress, figure, save, say, table
from matplotlib.axes import Axes
from sklearn.linear_model import lasso_path as sklearns_path
from torch import Tensor

from neglog import LassoPath, datasets, distributions, flat, lasso_path, mle, models, with_priors

ALONE = ("temperature", "wind", "radiation")
LAPLACE = dist.Laplace(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))


def load() -> tuple[pd.DataFrame, Tensor]:
    """Nine standardised columns, and the logarithm of the ozone `(111,)`."""
    days = datasets.load("ozone")
    each = (days[list(ALONE)] - days[list(ALONE)].mean()) / days[list(ALONE)].std(ddof=0)
    x = each.assign(**{f"{name}²": each[name] ** 2 for name in ALONE})
    x = x.assign(**{f"{a} × {b}": each[a] * each[b] for a, b in combinations(ALONE, 2)})
    return (x - x.mean()) / x.std(ddof=0), torch.tensor(days["ozone"].to_numpy(dtype=float)).log()


def penalised(prior: dist.Distribution, sigma: Tensor) -> object:
    """A Gaussian with this sigma, this prior of its weights and a flat one of its intercept."""
    model = pyro.condition(with_priors(models.gaussian, {"mean.weight": prior}), {"sigma": sigma})
    return flat(model, "mean.bias", "sigma")


def draw(path: LassoPath, net: LassoPath, names: list[str], to: Path) -> None:
    canvas, panels = figure(3)
    best = int(path.bic.argmin())
    draw_path(panels[0], path, names, best)
    draw_path(panels[1], net, names, None)
    dress(panels[0], "Lasso: Laplace(0, 1 / λ)", "−log λ", "weight")
    dress(panels[1], "Elastic net: half the penalty is Normal", "−log λ", "weight")
    panels[1].set_ylim(panels[0].get_ylim())
    at = -path.strengths.log()
    for name, values, colour in (("AIC", path.aic, BLUE), ("BIC", path.bic, RED)):
        panels[2].plot(at, values, color=colour, lw=1.6)
        i = int(values.argmin())
        panels[2].plot(at[i], values[i], "o", color=colour, ms=5)
        say(panels[2], f"{name}: {int(path.nonzeros[i])} columns", (at[i], values[i] - 4), colour)
    least = path.aic.min().item()
    panels[2].set_ylim(least - 12, least + 60)
    dress(panels[2], "What a column is worth", "−log λ", "criterion")
    save(canvas, to)


def draw_path(axes: Axes, path: LassoPath, names: list[str], best: int | None) -> None:
    at, weights = -path.strengths.log(), path.params["mean.weight"]
    axes.axhline(0, color=RULE, lw=1)
    if best is not None:
        axes.axvline(at[best], color=QUIET, lw=1, ls=":")
        say(axes, " least BIC", (at[best], float(weights.min())), QUIET, fontsize=8)
    for name, values in zip(names, weights.T, strict=True):
        colour = INK if name in ALONE else QUIET
        axes.plot(at, values, color=colour, lw=1.6 if name in ALONE else 1.0)
        if name in ALONE:
            say(axes, name, (at[-1], float(values[-1]) + 0.02), colour, ha="right", fontsize=8)


def check(path: LassoPath, net: LassoPath, x: pd.DataFrame, y: Tensor, sigma: float) -> None:
    design = torch.tensor(x.to_numpy())
    for p, ridge in ((path, 0.0), (net, 1.0)):
        weight, strength = p.params["mean.weight"], p.strengths[:, None]
        residual = y - weight @ design.T - p.params["mean.bias"][:, None]
        slope = residual @ design / sigma**2 - ridge * strength * weight
        held = weight == 0
        assert p.converged.all()
        assert (slope.abs() <= strength * (1 + 1e-9))[held].all()
        assert torch.allclose(slope[~held], (strength * weight.sign())[~held], rtol=1e-9)
    alphas, weights, _ = sklearns_path(
        x.to_numpy(), (y - y.mean()).numpy(), alphas=100, tol=1e-13, max_iter=10**6
    )
    assert torch.allclose(path.strengths * sigma**2 / len(y), torch.tensor(alphas), rtol=1e-12)
    assert torch.allclose(path.params["mean.weight"].T, torch.tensor(weights), atol=1e-8)
    chosen = path.fit(int(path.bic.argmin()))
    assert chosen.converged
    kept = {name for name, w in zip(x.columns, chosen.params["mean.weight"].tolist(), strict=True) if w != 0}
    assert set(ALONE) <= kept < set(x.columns)


def main() -> None:
    options = arguments(__file__, __doc__)
    x, y = load()
    sigma = mle(models.gaussian, x, y).params["sigma"]
    half = distributions.ElasticNet(torch.zeros((), dtype=torch.float64), 1.0, 1.0)
    path = lasso_path(penalised(LAPLACE, sigma), x, y)
    net = lasso_path(penalised(half, sigma), x, y)
    enter = [
        int((w != 0).nonzero()[0]) if bool((w != 0).any()) else None for w in path.params["mean.weight"].T
    ]
    rows = [
        (name, "never" if i is None else f"{path.strengths[i]:.3g}", float(w[int(path.bic.argmin())]))
        for name, i, w in zip(x.columns, enter, path.params["mean.weight"].T, strict=True)
    ]
    table(("column", "comes in at λ", "weight at the least BIC"), rows)
    draw(path, net, list(x.columns), options.picture)
    check(path, net, x, y, sigma.item())


if __name__ == "__main__":
    main()
