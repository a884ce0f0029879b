"""neglog: every regression loss is the negative log of a likelihood, written as a Pyro model."""

from neglog import losses, models
from neglog.batches.batch import BatchFit, mle_batch
from neglog.bayes.posterior import Posterior, posterior
from neglog.bayes.priors import priors_for
from neglog.exchange.inference_data import to_arviz
from neglog.exchange.pyro_samples import from_pyro
from neglog.fitting.fit import Fit, map_estimate, mle
from neglog.fitting.lasso import LassoPath, lasso_path
from neglog.fitting.quantiles import Quantiles, quantiles
from neglog.handlers import censored, flat, masked, on_features, truncated, weighted, with_priors
from neglog.networks.laplace import LaplaceApproximation, laplace_approximation
from neglog.prediction.intervals import interval, quantile
from neglog.prediction.predict import log_likelihood, predict
from neglog.prediction.predictive import PriorDraws, posterior_predictive, prior_predictive
from neglog.prediction.scores import scores
from neglog.spooled import Spooled, spool
from neglog.uncertainty.bootstrap import Bootstrap, bootstrap
from neglog.uncertainty.covariances import covariance
from neglog.uncertainty.hypotheses import (
    HypothesisTest,
    likelihood_ratio_test,
    score_test,
    vuong_test,
    wald_test,
)
from neglog.uncertainty.ranking import compare
from neglog.uncertainty.summaries import summary

__all__ = [
    "BatchFit",
    "Bootstrap",
    "Fit",
    "HypothesisTest",
    "LaplaceApproximation",
    "LassoPath",
    "Posterior",
    "PriorDraws",
    "Quantiles",
    "Spooled",
    "bootstrap",
    "censored",
    "compare",
    "covariance",
    "flat",
    "from_pyro",
    "interval",
    "laplace_approximation",
    "lasso_path",
    "likelihood_ratio_test",
    "log_likelihood",
    "losses",
    "map_estimate",
    "masked",
    "mle",
    "mle_batch",
    "models",
    "on_features",
    "posterior",
    "posterior_predictive",
    "predict",
    "prior_predictive",
    "priors_for",
    "quantile",
    "quantiles",
    "score_test",
    "scores",
    "spool",
    "summary",
    "to_arviz",
    "truncated",
    "vuong_test",
    "wald_test",
    "weighted",
    "with_priors",
]
__version__ = "0.1.0"
