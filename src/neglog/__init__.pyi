"""The public names, and where they are defined."""

from . import (
    datasets,
    errors,
    export,
    handlers,
    losses,
    models,
    plots,
    predictors,
    solvers,
    studies,
    validation,
)
from .batches.batch import BatchFit, mle_batch
from .bayes.priors import priors_for
from .bayes.sampling import Posterior, posterior
from .checkpoint import Checkpoint
from .exchange.inference_data import to_arviz
from .exchange.pyro_samples import from_pyro
from .export.saved import load, save
from .fitting.ensembles import Ensemble, ensemble
from .fitting.estimates import map_estimate, mle
from .fitting.fit import Fit
from .fitting.lasso import LassoPath, lasso_path
from .fitting.quantiles import Quantiles, quantile_process
from .handlers import censored, flat, masked, on_features, truncated, weighted, with_priors
from .natural import natural_gaussian
from .networks.laplace import LaplaceApproximation, laplace_approximation
from .networks.sampled import mc_dropout, swag
from .prediction.classes import class_probabilities
from .prediction.conformal_intervals import Conformal, conformal
from .prediction.intervals import interval, quantile
from .prediction.predictions import log_likelihood, predict
from .prediction.predictive import PriorDraws, posterior_predictive, prior_predictive
from .prediction.recalibration import Recalibration, recalibrate
from .prediction.reliability import coverage
from .prediction.scoring import scores
from .selection import compare
from .spooled import Spooled, spool
from .training_objectives import beta_nll, faithful, quantile_heads, score, warm_up
from .uncertainty.covariances import covariance
from .uncertainty.hypotheses import (
    HypothesisTest,
    likelihood_ratio_test,
    score_test,
    vuong_test,
    wald_test,
)
from .uncertainty.ranking import information_criteria
from .uncertainty.resampling import Bootstrap, bootstrap
from .uncertainty.summaries import summary
from .validation import cross_validate

__all__ = [
    "BatchFit",
    "Bootstrap",
    "Checkpoint",
    "Conformal",
    "Ensemble",
    "Fit",
    "HypothesisTest",
    "LaplaceApproximation",
    "LassoPath",
    "Posterior",
    "PriorDraws",
    "Quantiles",
    "Recalibration",
    "Spooled",
    "beta_nll",
    "bootstrap",
    "censored",
    "class_probabilities",
    "compare",
    "conformal",
    "covariance",
    "coverage",
    "cross_validate",
    "datasets",
    "ensemble",
    "errors",
    "export",
    "faithful",
    "flat",
    "from_pyro",
    "handlers",
    "information_criteria",
    "interval",
    "laplace_approximation",
    "lasso_path",
    "likelihood_ratio_test",
    "load",
    "log_likelihood",
    "losses",
    "map_estimate",
    "masked",
    "mc_dropout",
    "mle",
    "mle_batch",
    "models",
    "natural_gaussian",
    "on_features",
    "plots",
    "posterior",
    "posterior_predictive",
    "predict",
    "predictors",
    "prior_predictive",
    "priors_for",
    "quantile",
    "quantile_heads",
    "quantile_process",
    "recalibrate",
    "save",
    "score",
    "score_test",
    "scores",
    "solvers",
    "spool",
    "studies",
    "summary",
    "swag",
    "to_arviz",
    "truncated",
    "validation",
    "vuong_test",
    "wald_test",
    "warm_up",
    "weighted",
    "with_priors",
]

__version__: str
