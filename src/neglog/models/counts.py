"""Models of counts."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

from neglog.distributions import NegativeBinomial2, Poisson
from neglog.predictors import RESPONSE, Designs, linear, positive, rows


def poisson(x: Designs, y: Tensor | None = None, exposure: Tensor | None = None) -> Tensor:
    """Counts: y ~ Poisson(exposure · exp(log_rate)); the Poisson deviance.

    Density: exp(-m) m^y / y!, m = exposure · exp(log_rate).
    Sites: ``log_rate.weight`` `(P,)`, ``log_rate.bias`` `()`; a rate is a count for one unit of exposure.
    Estimates: the log of the conditional mean rate.
    Source: Nelder & Wedderburn (1972), Generalized linear models.

    >>> import torch
    >>> from neglog import mle
    >>> y = torch.tensor([1.0, 2.0, 3.0])
    >>> fit = mle(poisson, torch.empty((3, 0)), y, exposure=torch.tensor([1.0, 1.0, 4.0]))
    >>> round(fit.params["log_rate.bias"].exp().item(), 6)
    1.0
    """
    rate = torch.exp(linear("log_rate", x))
    with rows(x):
        mean = rate if exposure is None else rate * exposure
        return pyro.sample(RESPONSE, Poisson(mean), obs=y)


def negative_binomial(x: Designs, y: Tensor | None = None, exposure: Tensor | None = None) -> Tensor:
    """Overdispersed counts (NB2): mean m = exposure · exp(log_mean), variance m + dispersion · m².

    Density: Γ(y + s) / (Γ(s) y!) · (s / (s + m))^s · (m / (s + m))^y, s = 1 / dispersion.
    Sites: ``log_mean.weight`` `(P,)`, ``log_mean.bias`` `()`, ``dispersion`` `()` (0 would be Poisson).
    Estimates: the log of the conditional mean, and how much rates vary beyond it.
    Source: Hilbe (2011), Negative Binomial Regression.

    >>> import torch
    >>> from neglog import mle
    >>> fit = mle(negative_binomial, torch.empty((4, 0)), torch.tensor([0.0, 1.0, 3.0, 12.0]))
    >>> round(fit.params["log_mean.bias"].exp().item(), 6)
    4.0
    """
    mean = torch.exp(linear("log_mean", x))
    dispersion = positive("dispersion", x)
    with rows(x):
        mean = mean if exposure is None else mean * exposure
        return pyro.sample(RESPONSE, NegativeBinomial2(mean, dispersion), obs=y)
