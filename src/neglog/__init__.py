"""neglog: every regression loss is the negative log of a likelihood, written as a Pyro model."""

from neglog import losses, models
from neglog.batch import BatchFit, mle_batch
from neglog.fit import Fit, map_estimate, mle
from neglog.handlers import censored, flat, masked, on_features, truncated, weighted, with_priors
from neglog.predict import log_likelihood, predict
from neglog.uncertainty import covariance, summary

__all__ = [
    "BatchFit",
    "Fit",
    "censored",
    "covariance",
    "flat",
    "log_likelihood",
    "losses",
    "map_estimate",
    "masked",
    "mle",
    "mle_batch",
    "models",
    "on_features",
    "predict",
    "summary",
    "truncated",
    "weighted",
    "with_priors",
]
__version__ = "0.1.0"
