"""Models of a real response that comes in several kinds."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from neglog.beginnings import Beginning, Shapes, line, many_optima, median, once
from neglog.calls import public
from neglog.distributions import NormalMixture
from neglog.errors import ModelError
from neglog.layers import also_called
from neglog.models.expectation import mixtures_of_lines
from neglog.models.replaced import Loss, declare_loss
from neglog.predictors import RESPONSE, Designs, design, linear, positive, rows, simplex


def _seen(y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The response in increasing order, with the weights of its rows; NaN comes last, and counts for 0."""
    ordered, order = y.reshape(len(y), -1)[:, 0].sort()
    return ordered, torch.where(ordered.isnan(), 0, weights[order])


def _quantiles(y: Tensor, weights: Tensor, shape: torch.Size) -> Tensor:
    """Quantiles of y, as many as components, at the middles of equal shares."""
    ordered, mass = _seen(y, weights)
    reached = mass.cumsum(0)
    shares = (torch.arange(shape.numel(), dtype=y.dtype) + 0.5) / shape.numel()
    return ordered[torch.searchsorted(reached, shares * reached[-1])].reshape(shape)


def _share_of_spread(y: Tensor, weights: Tensor, shape: torch.Size) -> Tensor:
    ordered, mass = _seen(y, weights)
    values, share = ordered.nan_to_num(), mass / mass.sum()
    spread = (share @ (values - share @ values) ** 2).sqrt() / shape.numel()
    # Not quite alike, for components whose means cannot be apart at the start, such as lines through 0.
    return torch.where(spread > 0, spread, 1.0) * torch.linspace(1.0, 1.1, shape.numel(), dtype=y.dtype)


_BEGIN = {
    "mean.bias": _quantiles,
    "sigma": _share_of_spread,
    "log_sigma.bias": lambda *data: _share_of_spread(*data).log(),
}


def _apart(site: Any) -> dict[str, Any]:
    """The initial values of a site. Equal components stay equal, which is a saddle point for all data."""
    return {"begin": _BEGIN[site["name"]]} if site["name"] in _BEGIN else {}


def _about_one_line(apart: float, wider: float, turned: float) -> Beginning:
    """All components about the line of least absolute deviations, in units of the spread of its residuals.

    They lie `apart` from the next one, each is `wider` than the one before, and `turned` against it about the
    middle of the rows.
    """

    def begin(x: Designs, y: Tensor, weights: Tensor, shapes: Shapes) -> dict[str, Tensor]:
        if "mean.bias" not in shapes:
            return {}
        found, residuals = line("mean", x, y, weights, 1.0)
        spread = median(residuals.abs(), weights).clamp_min(1e-6 * residuals.abs().max())
        step = torch.arange(shapes["mean.bias"].numel(), dtype=y.dtype)
        step, columns = step - step.mean(), design("mean", x)
        middle = columns.mean(dim=0)
        turns = turned * spread / (columns - middle).square().mean(dim=0).sqrt().clamp_min(1e-300)
        weight = found[1:] + step[:, None] * turns
        bias = found[0] + step * (apart * spread - turns @ middle)
        sigma = spread * wider**step
        return {"mean.bias": bias, "mean.weight": weight, "sigma": sigma, "log_sigma.bias": sigma.log()}

    return begin


def _by_expectation(rank: int) -> Beginning:
    """The mixture of this rank among those that `mixtures_of_lines` finds."""

    def begin(x: Designs, y: Tensor, weights: Tensor, shapes: Shapes) -> dict[str, Tensor]:
        if "mean.bias" not in shapes:
            return {}
        columns, components = design("mean", x), shapes["mean.bias"].numel()
        found = once(mixtures_of_lines, columns, y, weights, components)
        if rank >= len(found):
            return {}
        coefficients, sigma, weight = found.coefficients[rank], found.sigma[rank], found.weight[rank]
        return {
            "mean.bias": coefficients[:, 0],
            "mean.weight": coefficients[:, 1:],
            "sigma": sigma,
            "log_sigma.bias": sigma.log(),
            "weight": weight,
            "logit_weight.bias": (weight[1:] / weight[0]).log(),
        }

    return begin


@public
@also_called(location="mean", scale="sigma")
@many_optima(
    _about_one_line(0.0, 5.0, 0.0),
    _about_one_line(0.0, 30.0, 0.0),
    _about_one_line(2.0, 1.1, 0.0),
    _about_one_line(0.5, 1.5, 2.0),
    *map(_by_expectation, range(3)),
)
def gaussian_mixture(x: Designs, y: Tensor | None = None, components: int = 2) -> Tensor:
    """Several kinds of rows: y ~ Σ weight · Normal(mean, sigma), the law of a mixture density network.

    Density: Σ_k weight[k] exp(-(y - mean[k])² / (2 sigma[k]²)) / (sigma[k] √(2π)).
    Sites, for K components: ``mean.weight`` `(K, P)`, ``mean.bias`` `(K,)`, ``sigma`` `(K,)` in units of y,
    ``weight`` `(K,)`, which add up to 1. With designs of their own: ``log_sigma.*`` for ``sigma``; for
    ``weight`` ``logit_weight.weight`` `(K - 1, Q)` and ``logit_weight.bias`` `(K - 1,)`, the log-odds of the
    components 1, ..., K - 1 against component 0.
    Estimates: the conditional density, of a local optimum: the likelihood has no maximum, since a component
    on a single row has any height as its sigma goes to 0, and it has many local ones. Which one is found
    depends on the start: by default the means begin at the quantiles of y, the lowest first, and at other
    points, among them lines that expectation maximisation finds, unless `start` is given. A prior that
    vanishes fast at 0, such as InverseGamma(2, 1) for ``sigma``, gives `map_estimate` a maximum.
    Source: Pearson (1894); Quandt & Ramsey (1978); Bishop (1994), Mixture density networks.

    >>> import torch
    >>> from neglog import mle
    >>> y = torch.tensor([-1.0, 0.0, 1.0, 98.0, 100.0, 102.0, 100.0], dtype=torch.float64)
    >>> fit = mle(gaussian_mixture, torch.empty((7, 0), dtype=torch.float64), y)
    >>> fit.params["mean.bias"].round(decimals=6).abs(), fit.params["weight"]
    (tensor([  0., 100.], dtype=torch.float64), tensor([0.4286, 0.5714], dtype=torch.float64))
    """
    if not isinstance(components, int) or components < 2:
        raise ModelError(
            f"`components` must be a whole number, at least 2; it is {components!r}. One is `gaussian`."
        )
    with poutine.infer_config(config_fn=_apart):
        mean = linear("mean", x, components)
        sigma = positive("sigma", x, outputs=components)
    logits = simplex("weight", x, components)
    with rows(x):
        return pyro.sample(RESPONSE, NormalMixture(logits, mean, sigma), obs=y)


declare_loss(
    gaussian_mixture,
    Loss(
        "mixture density loss",
        torch_loss="the negative log-likelihood of a mixture of Normals",
        density="Σ weight · Normal(mean, sigma)",
        estimates="conditional density, at a local optimum",
        choose_when="the conditional density of y has several modes",
        response="real",
        page="mixtures.md",
    ),
)
