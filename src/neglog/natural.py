"""A Normal in its natural parameters, for networks."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

from neglog.calls import public
from neglog.distributions import Normal
from neglog.predictors import RESPONSE, Designs, linear, rows


@public
def natural_gaussian(x: Designs, y: Tensor | None = None) -> Tensor:
    """A Normal in natural parameters: y ~ Normal(η / p, p^(-1/2)) with p = exp(log_precision).

    Density: exp(η y - p y² / 2 - η² / (2 p)) √(p / 2π): linear in η and p but for the normalisation, so that
    minus its log is convex in both together. A network with these heads learns the mean times the precision,
    and a row with a large variance pulls little from the start.
    Sites: ``precision_mean.weight`` `(P,)`, ``precision_mean.bias`` `()` of η, in 1 / units of y;
    ``log_precision.weight`` `(Q,)`, ``log_precision.bias`` `()`, of p in 1 / squared units of y.
    Estimates: the conditional mean η / p and the conditional variance 1 / p. Standardise the response.
    Source: Immer, Palumbo, Marx & Vogt (2023), Effective Bayesian heteroscedastic regression with deep neural
    networks.

    It is meant for networks; with linear predictors the mean is a ratio of a line and an exponential, and
    `neglog.models.heteroscedastic` is the usual model.

    >>> import torch
    >>> from neglog import mle, predict
    >>> x, y = torch.empty((3, 0), dtype=torch.float64), torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    >>> predict(mle(natural_gaussian, x, y), x).mean[0].round(decimals=6)
    tensor(3., dtype=torch.float64)
    """
    precision_mean = linear("precision_mean", x)
    log_precision = linear("log_precision", x)
    with rows(x):
        mean = precision_mean * torch.exp(-log_precision)
        return pyro.sample(RESPONSE, Normal(mean, torch.exp(-0.5 * log_precision)), obs=y)
