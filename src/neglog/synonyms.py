"""Names of other libraries, and what they are called here: for the remedies of error messages."""

from __future__ import annotations

from collections.abc import Collection

from neglog.errors import did_you_mean

MODELS = {
    "gaussian": (
        *("normal", "linear", "linear_model", "linear_regression", "lm", "ols", "least_squares", "norm"),
        *("mse", "mse_loss", "squared_error", "l2", "ridge", "lasso", "elastic_net", "regression"),
    ),
    "laplace": ("mae", "l1", "l1_loss", "lad", "absolute_error", "median", "median_regression"),
    "bernoulli": (
        *("logit", "logistic_regression", "logreg", "binary", "bce", "binary_cross_entropy", "log_loss"),
        *("bce_with_logits_loss", "bce_loss"),
    ),
    "categorical": (
        *("multinomial", "multinomial_logit", "multinomial_regression", "mnlogit", "mlogit", "softmax"),
        *("cross_entropy", "cross_entropy_loss", "multiclass"),
    ),
    "ordinal": (
        *("ordered", "ordered_logit", "ordered_logistic", "ordinal_regression", "proportional_odds"),
        *("polr", "cumulative", "cumulative_logit", "ordered_model"),
    ),
    "poisson": ("poisson_regression", "count", "counts", "poisson_nll_loss"),
    "negative_binomial": ("nb", "nb2", "negbin", "nbinom", "neg_binomial", "quasi_poisson", "glm_nb"),
    "zero_inflated_poisson": ("zip", "zip_poisson", "zi_poisson"),
    "zero_inflated_negative_binomial": ("zinb", "zi_negbin"),
    "student_t": ("t", "student", "robust", "t_regression"),
    "huber": ("rlm", "huber_loss", "smooth_l1_loss", "huber_regressor"),
    "quantile": ("quantreg", "quantile_regression", "qr", "rq", "pinball", "pinball_loss", "ald"),
    "heteroscedastic": ("gaussian_nll_loss", "heteroskedastic", "mean_variance", "gamlss"),
    "inverse_gaussian": ("invgauss", "inv_gaussian", "wald", "ig"),
    "lognormal": ("log_normal", "lognorm", "lnorm", "log_linear"),
    "weibull": ("survival", "aft", "exponential", "survreg"),
    "gamma": ("gamma_regression",),
    "beta": ("betareg", "beta_regression", "fractional"),
    "binomial": ("binomial_regression", "grouped_logit"),
    "gaussian_mixture": ("gmm", "mixture", "mdn", "mixture_density"),
    "multivariate_gaussian": ("mvn", "multivariate_normal", "multivariate", "mv_normal"),
}
"""Model -> its names in other libraries; underscores, hyphens, spaces and upper case do not count."""
KEYWORDS = {
    "folds": ("cv", "n_splits", "n_folds", "kfold", "k"),
    "scores": ("scoring", "metrics", "metric", "score"),
    "weights": ("sample_weight", "sample_weights", "weight", "freq_weights", "frequency_weights", "fweights"),
    "seed": ("random_state", "rng", "random_seed"),
    "solver": ("optimizer", "optimiser", "optim"),
    "learning_rate": ("lr", "step_size"),
    "steps": (
        "epochs",
        "n_epochs",
        "max_epochs",
        "num_steps",
        "iterations",
        "n_iter",
        "max_iter",
        "max_steps",
    ),
    "max_steps": ("epochs", "max_iter", "maxiter", "n_iter", "iterations", "steps"),
    "draws": ("samples", "n_samples", "num_samples", "n_draws", "iter", "n_boot"),
    "tune": ("warmup", "warmup_steps", "burn_in", "n_tune"),
    "cov_type": ("cov", "vcov", "se_type", "robust", "covariance", "covariance_type"),
    "groups": ("group", "cluster", "clusters"),
    "drop_missing": ("dropna", "na_action", "missing", "drop_na"),
    "level": ("conf_level", "conf_int", "ci", "confidence", "coverage", "alpha", "prob", "hdi_prob"),
    "progress": ("verbose", "progress_bar", "disp"),
    "start": ("init", "start_params", "initial", "init_values", "x0", "warm_start"),
    "data": ("table", "df", "frame"),
    "settings": ("params", "model_kwargs", "kwargs", "tau", "delta", "classes", "components", "trials"),
    "model": ("family", "distribution", "likelihood", "loss"),
    "q": ("quantile", "quantiles", "tau", "p"),
    "uncertainty": ("return_uncertainty", "include_uncertainty"),
}
"""Argument -> its names in other libraries."""


def plain(name: str) -> str:
    """A name without what does not count in it."""
    return "".join(each for each in name.lower() if each.isalnum())


_MODEL = {plain(other): name for name, others in MODELS.items() for other in others}


def model_meant(name: str) -> str | None:
    """The model that has a name elsewhere; None if it is not known there."""
    return _MODEL.get(plain(name))


def nearest_model(name: str, known: Collection[str]) -> str:
    """A sentence that proposes a model, after a space: one of another name, or the nearest; empty if none.

    >>> nearest_model("logistic regression", ["bernoulli", "logistic"])
    ' Did you mean `bernoulli`?'
    """
    found = model_meant(name)
    return f" Did you mean `{found}`?" if found in known else did_you_mean(name, known, "`{}`")


def nearest_argument(name: str, known: Collection[str]) -> str:
    """A sentence that proposes a known argument, after a space: one of another name, or the nearest."""
    found = next((each for each in known if name.lower() in KEYWORDS.get(each, ())), None)
    return f" Did you mean `{found}`?" if found else did_you_mean(name, known, "`{}`")
