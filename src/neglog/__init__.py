"""neglog: every regression loss is the negative log of a likelihood, written as a Pyro model."""

from neglog import losses, models
from neglog.fit import Fit, map_estimate, mle
from neglog.handlers import flat, on_features, weighted, with_priors
from neglog.predict import log_likelihood, predict
from neglog.uncertainty import covariance, summary

__all__ = [
    "Fit",
    "covariance",
    "flat",
    "log_likelihood",
    "losses",
    "map_estimate",
    "mle",
    "models",
    "on_features",
    "predict",
    "summary",
    "weighted",
    "with_priors",
]
__version__ = "0.1.0"
