"""Models of a positive response."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

from neglog.distributions import Gamma
from neglog.predictors import RESPONSE, Designs, linear, positive, rows


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
    mean = torch.exp(linear("log_mean", x))
    shape = positive("shape", x, rate=0.1)
    with rows(x):
        return pyro.sample(RESPONSE, Gamma(shape, shape / mean), obs=y)
