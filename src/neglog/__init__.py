"""neglog: every regression loss is the negative log of a likelihood, written as a Pyro model."""

from neglog import losses, models
from neglog.batch import BatchFit, mle_batch
from neglog.bootstrap import Bootstrap, bootstrap
from neglog.covariances import covariance
from neglog.fit import Fit, map_estimate, mle
from neglog.handlers import censored, flat, masked, on_features, truncated, weighted, with_priors
from neglog.hypotheses import HypothesisTest, likelihood_ratio_test, score_test, vuong_test, wald_test
from neglog.inference_data import to_arviz
from neglog.intervals import interval, quantile
from neglog.laplace import LaplaceApproximation, laplace_approximation
from neglog.lasso import LassoPath, lasso_path
from neglog.posterior import Posterior, posterior
from neglog.predict import log_likelihood, predict
from neglog.predictive import PriorDraws, posterior_predictive, prior_predictive
from neglog.priors import priors_for
from neglog.pyro_samples import from_pyro
from neglog.quantiles import Quantiles, quantiles
from neglog.ranking import compare
from neglog.scores import scores
from neglog.spooled import Spooled, spool
from neglog.summaries import summary

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
