"""Univariate families, accurate in their tails, their limits and their derivatives, ready for Pyro."""

from importlib import import_module
from pkgutil import iter_modules

from neglog.distributions.classes import Categorical, Ordered
from neglog.distributions.counts import Bernoulli, Binomial, NegativeBinomial2, Poisson
from neglog.distributions.elastic import ElasticNet
from neglog.distributions.family import Family, register
from neglog.distributions.huber import Huber, mixture_weights
from neglog.distributions.marginal import MarginalNormal
from neglog.distributions.mixtures import NormalMixture
from neglog.distributions.observed import Censored, Truncated, probabilities
from neglog.distributions.positive import Beta, Gamma, InverseGaussian, LogNormal, Weibull
from neglog.distributions.residual import FromLoss, LossDensity, normalised
from neglog.distributions.robust import AsymmetricLaplace, Laplace, Logistic, Normal, StudentT
from neglog.distributions.vectors import MultivariateNormal, correlation_cholesky
from neglog.distributions.zeros import ZeroInflated

for _module in iter_modules(__path__):  # each registers its families
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "AsymmetricLaplace",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "Censored",
    "ElasticNet",
    "Family",
    "FromLoss",
    "Gamma",
    "Huber",
    "InverseGaussian",
    "Laplace",
    "LogNormal",
    "Logistic",
    "LossDensity",
    "MarginalNormal",
    "MultivariateNormal",
    "NegativeBinomial2",
    "Normal",
    "NormalMixture",
    "Ordered",
    "Poisson",
    "StudentT",
    "Truncated",
    "Weibull",
    "ZeroInflated",
    "correlation_cholesky",
    "mixture_weights",
    "normalised",
    "probabilities",
    "register",
]
