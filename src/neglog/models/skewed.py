"""Models of a positive response."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

from neglog.calls import public
from neglog.distributions import Gamma, InverseGaussian, LogNormal, Weibull
from neglog.layers import also_called
from neglog.models.replaced import Loss, declare_loss
from neglog.predictors import RESPONSE, Designs, linear, positive, rows


@public
@also_called(location="log_mean", spread="shape")
def gamma(x: Designs, y: Tensor | None = None) -> Tensor:
    """Positive with constant relative spread: y ~ Gamma(shape, shape / mean); the Gamma deviance.

    Density: (shape / mean)^shape y^(shape - 1) exp(-shape · y / mean) / Γ(shape), mean = exp(log_mean).
    Sites: ``log_mean.weight`` `(P,)`, ``log_mean.bias`` `()`, ``shape`` `()`; the variance is mean² / shape.
    Estimates: the log of the conditional mean.
    Source: McCullagh & Nelder (1989), Generalized Linear Models, chapter 8.

    >>> import torch
    >>> from neglog import mle
    >>> fit = mle(gamma, torch.empty((3, 0)), torch.tensor([1.0, 2.0, 6.0]))
    >>> round(fit.params["log_mean.bias"].exp().item(), 6)
    3.0
    """
    log_mean = linear("log_mean", x)
    shape = positive("shape", x, rate=0.1)
    with rows(x):  # 1 / mean would have derivatives of 1 / mean³
        return pyro.sample(RESPONSE, Gamma(shape, shape * torch.exp(-log_mean)), obs=y)


declare_loss(
    gamma,
    Loss(
        "Gamma deviance",
        torch_loss="the Gamma deviance",
        density="Gamma with mean exp(log_mean), variance mean² / shape",
        estimates="log of the conditional mean",
        choose_when="y is positive and its spread grows with its mean",
        response="positive",
        page="positive.md",
    ),
)


@public
@also_called(location="log_median", scale="sigma")
def lognormal(x: Designs, y: Tensor | None = None) -> Tensor:
    """Least squares of log y: log y ~ Normal(log_median, sigma).

    Density: exp(-(log y - log_median)² / (2 sigma²)) / (y sigma √(2π)).
    Sites: ``log_median.weight`` `(P,)`, ``log_median.bias`` `()`, ``sigma`` `()` in units of log y
    (``log_sigma.*`` if `x` has a design for ``sigma``).
    Estimates: the log of the conditional median, and sigma² = RSS / n of log y. The conditional mean is
    exp(log_median + sigma² / 2).
    Source: Galton (1879), The geometric mean, in vital and social statistics.

    >>> import torch
    >>> from neglog import mle
    >>> fit = mle(lognormal, torch.empty((3, 0)), torch.tensor([1.0, 2.0, 4.0]))
    >>> round(fit.params["log_median.bias"].exp().item(), 6)
    2.0
    """
    log_median = linear("log_median", x)
    sigma = positive("sigma", x)
    with rows(x):
        return pyro.sample(RESPONSE, LogNormal(log_median, sigma), obs=y)


declare_loss(
    lognormal,
    Loss(
        "squared log error",
        torch_loss="torch.nn.MSELoss, on log y",
        density="log y ~ Normal(log_median, sigma)",
        estimates="log of the conditional median; the mean is exp(log_median + σ² / 2)",
        choose_when="y is positive, and effects are multiplicative",
        response="positive",
        page="positive.md",
    ),
)


@public
@also_called(location="log_scale", spread="shape")
def weibull(x: Designs, y: Tensor | None = None) -> Tensor:
    """Lifetimes whose hazard is a power of age: y ~ Weibull(exp(log_scale), shape).

    Density: shape / scale · (y / scale)^(shape - 1) exp(-(y / scale)^shape), scale = exp(log_scale).
    Sites: ``log_scale.weight`` `(P,)`, ``log_scale.bias`` `()`, ``shape`` `()`; the hazard rises with age
    where shape > 1, and shape = 1 is the Exponential (``log_shape.*`` if `x` has a design for ``shape``).
    Estimates: how a column stretches time, of every quantile alike: exp(log_scale) is the one at 1 - 1 / e.
    The log of the hazard ratio of a column is -shape times its weight. R's `survreg` reports these
    coefficients, and 1 / shape as its scale.
    Source: Weibull (1951); Kalbfleisch & Prentice (2002), The Statistical Analysis of Failure Time Data.

    >>> import torch
    >>> from neglog import mle
    >>> fit = mle(weibull, torch.empty((4, 0)), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    >>> fit.params["shape"].item() > 1
    True
    """
    scale = torch.exp(linear("log_scale", x))
    shape = positive("shape", x, rate=0.1)
    with rows(x):
        return pyro.sample(RESPONSE, Weibull(scale, shape), obs=y)


declare_loss(
    weibull,
    Loss(
        "Weibull negative log-likelihood",
        torch_loss="the negative log-likelihood of the Weibull",
        density="Weibull with scale exp(log_scale), survival exp(−(y / scale)^shape)",
        estimates="log of the conditional quantile at 1 − 1/e, and the shape of the hazard",
        choose_when="y is the time until an event",
        response="positive",
        page="positive.md",
    ),
)


@public
@also_called(location="log_mean", spread="dispersion")
def inverse_gaussian(x: Designs, y: Tensor | None = None) -> Tensor:
    """Positive with a long tail: y ~ InverseGaussian(mean, 1 / dispersion); the inverse Gaussian deviance.

    Density: exp(-(y - mean)² / (2 dispersion mean² y)) / √(2π dispersion y³), mean = exp(log_mean).
    Sites: ``log_mean.weight`` `(P,)`, ``log_mean.bias`` `()`, ``dispersion`` `()` in 1 / units of y, with
    which the variance is dispersion · mean³ (``log_dispersion.*`` if `x` has a design for ``dispersion``).
    Estimates: the log of the conditional mean, and dispersion = deviance / n (R's `glm` reports Pearson's
    statistic over n - p).
    Source: McCullagh & Nelder (1989), Generalized Linear Models, chapter 2.

    >>> import torch
    >>> from neglog import mle
    >>> fit = mle(inverse_gaussian, torch.empty((3, 0)), torch.tensor([1.0, 2.0, 6.0]))
    >>> round(fit.params["log_mean.bias"].exp().item(), 6)
    3.0
    """
    mean = torch.exp(linear("log_mean", x))
    dispersion = positive("dispersion", x)
    with rows(x):
        return pyro.sample(RESPONSE, InverseGaussian(mean, 1 / dispersion), obs=y)


declare_loss(
    inverse_gaussian,
    Loss(
        "inverse Gaussian deviance",
        torch_loss="the inverse Gaussian deviance",
        density="mean m = exp(log_mean), variance dispersion · m³",
        estimates="log of the conditional mean",
        choose_when="y is positive with rare large values, its spread growing faster than its mean",
        response="positive",
        page="positive.md",
    ),
)
