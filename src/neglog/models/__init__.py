"""Regression models: plain Pyro functions of `(x, y=None)`, each the likelihood behind a loss.

Every model keeps one form. `x` is a design `(N, P)`, or a mapping from predictor name to its own design;
`y` has shape `(N,)`, and without it the model draws one. Parameters are sampled above the plate ``rows``
with proper, weakly informative priors; the one observation site is ``y``. The functions need nothing else
from neglog: they run under `pyro.infer.SVI`, `NUTS` and `Predictive` as they stand.

A positive parameter is a constant site, or, where `x` has a design for it, ``exp`` of a linear predictor
with the sites ``log_NAME.weight`` and ``log_NAME.bias``. What else belongs to the rows (``exposure``,
``trials``) is a keyword of shape `(N,)`; other keywords are bound with `functools.partial`.
"""

from neglog.models.bounded import bernoulli, beta, binomial
from neglog.models.classes import categorical, ordinal
from neglog.models.counts import (
    negative_binomial,
    poisson,
    zero_inflated_negative_binomial,
    zero_inflated_poisson,
)
from neglog.models.location import gaussian, heteroscedastic, huber, laplace, logistic, quantile, student_t
from neglog.models.mixtures import gaussian_mixture
from neglog.models.skewed import gamma, inverse_gaussian, lognormal, weibull
from neglog.models.vectors import multivariate_gaussian, multivariate_heteroscedastic

__all__ = [
    "bernoulli",
    "beta",
    "binomial",
    "categorical",
    "gamma",
    "gaussian",
    "gaussian_mixture",
    "heteroscedastic",
    "huber",
    "inverse_gaussian",
    "laplace",
    "logistic",
    "lognormal",
    "multivariate_gaussian",
    "multivariate_heteroscedastic",
    "negative_binomial",
    "ordinal",
    "poisson",
    "quantile",
    "student_t",
    "weibull",
    "zero_inflated_negative_binomial",
    "zero_inflated_poisson",
]
