"""Regression models: plain Pyro functions of `(x, y=None)`, each the likelihood behind a loss.

Every model keeps one form. `x` is a design `(N, P)`, or a mapping from predictor name to its own design;
`y` has shape `(N,)`, and without it the model draws one. Parameters are sampled above the plate ``rows``
with proper, weakly informative priors; the one observation site is ``y``. The functions need nothing else
from neglog: they run under `pyro.infer.SVI`, `NUTS` and `Predictive` as they stand.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from neglog.predictors import RESPONSE, Designs, linear, positive, rows

__all__ = ["gaussian", "heteroscedastic", "laplace"]


def gaussian(x: Designs, y: Tensor | None = None) -> Tensor:
    """Least squares: y ~ Normal(mean, sigma); the negative log-likelihood in `mean` is the MSE.

    Density: exp(-(y - mean)² / (2 sigma²)) / (sigma √(2π)).
    Sites: ``mean.weight`` `(P,)`, ``mean.bias`` `()`, ``sigma`` `()` in units of y
    (``log_sigma.*`` if `x` has a design for ``sigma``).
    Estimates: the conditional mean, and sigma² = RSS / n (not RSS / (n - p)).
    Source: Gauss (1809), Theoria motus, §§175-179.

    >>> import torch
    >>> from neglog import mle
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> fit = mle(gaussian, x, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    >>> round(fit.params["mean.weight"].item(), 6)
    2.5
    """
    mean = linear("mean", x)
    sigma = positive("sigma", x)
    with rows(x):
        return pyro.sample(RESPONSE, dist.Normal(mean, sigma), obs=y)


def laplace(x: Designs, y: Tensor | None = None) -> Tensor:
    """Least absolute deviations: y ~ Laplace(median, scale); the NLL in `median` is the MAE.

    Density: exp(-|y - median| / scale) / (2 scale).
    Sites: ``median.weight`` `(P,)`, ``median.bias`` `()`, ``scale`` `()` in units of y
    (``log_scale.*`` if `x` has a design for ``scale``).
    Estimates: the conditional median, and scale = mean |y - median|.
    Source: Laplace (1774), Mémoire sur la probabilité des causes; Koenker & Bassett (1978).

    >>> import torch
    >>> from neglog import mle
    >>> x = torch.empty((5, 0), dtype=torch.float64)
    >>> fit = mle(laplace, x, torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0], dtype=torch.float64))
    >>> round(fit.params["median.bias"].item(), 6), round(fit.params["scale"].item(), 6)
    (3.0, 20.2)
    """
    median = linear("median", x)
    scale = positive("scale", x)
    with rows(x):
        return pyro.sample(RESPONSE, dist.Laplace(median, scale), obs=y)


def heteroscedastic(x: Designs, y: Tensor | None = None) -> Tensor:
    """Learned noise: y ~ Normal(mean, exp(log_variance / 2)); the Gaussian NLL with a variance head.

    Density: exp(-(y - mean)² / (2 v)) / √(2π v) with v = exp(log_variance).
    Sites: ``mean.weight`` `(P,)`, ``mean.bias`` `()`, ``log_variance.weight`` `(Q,)`,
    ``log_variance.bias`` `()`; exp(log_variance) is in squared units of y.
    Estimates: the conditional mean and the conditional variance.
    Source: Nix & Weigend (1994), Estimating the mean and variance of the target probability distribution.

    >>> import torch
    >>> from neglog import mle
    >>> y = torch.tensor([-1.0, 1.0, 8.0, 12.0], dtype=torch.float64)
    >>> group = torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    >>> fit = mle(heteroscedastic, group, y)
    >>> round(fit.params["log_variance.weight"].exp().item(), 6)
    4.0
    """
    mean = linear("mean", x)
    log_variance = linear("log_variance", x)
    with rows(x):
        return pyro.sample(RESPONSE, dist.Normal(mean, torch.exp(0.5 * log_variance)), obs=y)
