"""Univariate families, accurate in their tails, their limits and their derivatives, ready for Pyro."""

from neglog.distributions.counts import Bernoulli, Binomial, NegativeBinomial2, Poisson
from neglog.distributions.huber import Huber, mixture_weights
from neglog.distributions.positive import Beta, Gamma, InverseGaussian, LogNormal, Weibull
from neglog.distributions.robust import AsymmetricLaplace, Laplace, Logistic, Normal, StudentT

__all__ = [
    "AsymmetricLaplace",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Gamma",
    "Huber",
    "InverseGaussian",
    "Laplace",
    "LogNormal",
    "Logistic",
    "NegativeBinomial2",
    "Normal",
    "Poisson",
    "StudentT",
    "Weibull",
    "mixture_weights",
]
