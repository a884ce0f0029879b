"""Models of counts."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.calls import public
from neglog.distributions import NegativeBinomial2, Poisson, ZeroInflated
from neglog.layers import also_called, with_limits
from neglog.models.replaced import Loss, declare_loss
from neglog.predictors import RESPONSE, Designs, linear, positive, probability, row_supports, rows


@public
@also_called(location="log_rate")
@row_supports(exposure=constraints.nonnegative)
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


declare_loss(
    poisson,
    Loss(
        "Poisson deviance",
        torch_loss="torch.nn.PoissonNLLLoss",
        density="Poisson(exposure · exp(log_rate))",
        estimates="log of the conditional mean",
        choose_when="y counts independent events",
        response="count",
        page="counts.md",
    ),
)


@public
@also_called(location="log_mean", spread="dispersion")
@row_supports(exposure=constraints.nonnegative)
@with_limits({"dispersion → 0": "poisson"})
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


declare_loss(
    negative_binomial,
    Loss(
        "negative binomial deviance",
        torch_loss="the negative log-likelihood of the negative binomial",
        density="mean m, variance m + dispersion · m²",
        estimates="log of the conditional mean",
        choose_when="counts vary more than Poisson's",
        response="count",
        page="counts.md",
    ),
)


@public
@also_called(location="log_rate")
@row_supports(exposure=constraints.nonnegative)
@with_limits({"zero → 0": "poisson"})
def zero_inflated_poisson(x: Designs, y: Tensor | None = None, exposure: Tensor | None = None) -> Tensor:
    """Counts with more zeros: 0 with probability π, else Poisson(exposure · exp(log_rate)).

    Density: π + (1 - π) exp(-m) at 0, (1 - π) exp(-m) m^y / y! elsewhere, m = exposure · exp(log_rate).
    Sites: ``log_rate.weight`` `(P,)`, ``log_rate.bias`` `()`, ``zero`` `()`, which is π (``logit_zero.*`` if
    `x` has a design for ``zero``). `exposure` `(N,)` belongs to the rows.
    Estimates: the log of the mean rate of rows without structural zero, and the share of structural zeros;
    the mean of y is (1 - π) m. Without excess zeros the estimate of π is at its boundary 0.
    Source: Lambert (1992), Zero-inflated Poisson regression, with an application to defects in manufacturing.

    >>> import torch
    >>> from neglog import mle
    >>> fit = mle(zero_inflated_poisson, torch.empty((6, 0)), torch.tensor([0.0, 0.0, 0.0, 2.0, 3.0, 4.0]))
    >>> mean = (1 - fit.params["zero"]) * fit.params["log_rate.bias"].exp()
    >>> round(mean.item(), 6)
    1.5
    """
    rate = torch.exp(linear("log_rate", x))
    logit_zero = probability("zero", x)
    with rows(x):
        mean = rate if exposure is None else rate * exposure
        return pyro.sample(RESPONSE, ZeroInflated(Poisson(mean), logit_zero), obs=y)


declare_loss(
    zero_inflated_poisson,
    Loss(
        "zero-inflated Poisson negative log-likelihood",
        torch_loss="the negative log-likelihood of the zero-inflated Poisson",
        density="0 with probability π, else Poisson(exposure · exp(log_rate))",
        estimates="log of the mean of rows without structural zero, and the share of structural zeros",
        choose_when="y counts events, and some rows can only be 0 (structural zeros)",
        response="count",
        page="mixtures.md#zeros-of-another-kind",
    ),
)


@public
@also_called(location="log_mean", spread="dispersion")
@row_supports(exposure=constraints.nonnegative)
@with_limits(
    {
        "zero → 0": "negative_binomial",
        "dispersion → 0": "zero_inflated_poisson",
        "dispersion → 0 and zero → 0": "poisson",
    }
)
def zero_inflated_negative_binomial(
    x: Designs, y: Tensor | None = None, exposure: Tensor | None = None
) -> Tensor:
    """Overdispersed counts with more zeros: 0 with probability π, else the NB2 of `negative_binomial`.

    Density: π + (1 - π) p(0) at 0, (1 - π) p(y) elsewhere, with p the density of `negative_binomial`.
    Sites: ``log_mean.weight`` `(P,)`, ``log_mean.bias`` `()`, ``dispersion`` `()` and ``zero`` `()`, which is
    π (``log_dispersion.*`` and ``logit_zero.*`` if `x` has designs for them).
    Estimates: the log of the mean of rows without structural zero, their dispersion, and the share of
    structural zeros. Dispersion also increases the number of zeros: with few rows the two are weakly
    identified, and the estimate of π may be at its boundary 0.
    Source: Greene (1994), Accounting for excess zeros and sample selection in count data models.

    >>> import torch
    >>> from neglog import mle
    >>> y = torch.tensor([0.0] * 20 + [1.0, 3.0, 4.0, 5.0, 6.0, 6.0, 7.0, 9.0, 12.0, 20.0])
    >>> fit = mle(zero_inflated_negative_binomial, torch.empty((30, 0)), y)
    >>> 0.6 < fit.params["zero"].item() < 20 / 30
    True
    """
    mean = torch.exp(linear("log_mean", x))
    dispersion = positive("dispersion", x)
    logit_zero = probability("zero", x)
    with rows(x):
        mean = mean if exposure is None else mean * exposure
        base = NegativeBinomial2(mean, dispersion)
        return pyro.sample(RESPONSE, ZeroInflated(base, logit_zero), obs=y)


declare_loss(
    zero_inflated_negative_binomial,
    Loss(
        "zero-inflated negative binomial negative log-likelihood",
        torch_loss="the negative log-likelihood of the zero-inflated negative binomial",
        density="0 with probability π, else mean m, variance m + dispersion · m²",
        estimates="log of the mean of rows without structural zero, and the share of structural zeros",
        choose_when="counts have more zeros than their dispersion explains",
        response="count",
        page="mixtures.md#zeros-of-another-kind",
    ),
)
