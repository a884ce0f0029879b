"""Estimators for scikit-learn, on `mle` and `map_estimate`. They need `pip install 'neglog[sklearn]'`."""

from neglog.estimators.classifier import LikelihoodClassifier
from neglog.estimators.network import NetworkRegressor, Standardised
from neglog.estimators.regressor import LikelihoodRegressor

__all__ = ["LikelihoodClassifier", "LikelihoodRegressor", "NetworkRegressor", "Standardised"]
