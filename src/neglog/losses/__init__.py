"""The classical losses beside the negative log-likelihoods that they come from, in plain PyTorch.

With ``n`` residuals ``r``, means over the rows, and the same predictions on both sides::

    Gaussian NLL  =  MSE / (2 sigma²)  +  log sigma  +  log(2 pi) / 2
    MSE           =  2 sigma² · (Gaussian NLL - log sigma - log(2 pi) / 2)

    Laplace NLL   =  MAE / scale  +  log(2 scale)
    MAE           =  scale · (Laplace NLL - log(2 scale))

    heteroscedastic NLL  =  Gaussian NLL at sigma = exp(log_variance / 2), row by row

So for whatever fixed sigma the gradient of the MSE is ``2 sigma²`` times that of the Gaussian NLL, the
gradient of the MAE is ``scale`` times that of the Laplace NLL, and the minimisers are the same. Left
free, sigma² is the MSE itself and scale the MAE itself, and the smallest NLLs are
``(1 + log(2 pi MSE)) / 2`` and ``1 + log(2 MAE)``: numbers on one scale, which the losses are not.

A penalty on the weights is the negative log of a prior: :func:`ridge_alpha`, :func:`lasso_alpha` and
:func:`elastic_net_rates` derive what scikit-learn's ``alpha`` is.

Every function takes ``(prediction, target)`` and then the scale, as ``torch.nn.functional`` does, writes
out every constant, clamps nothing and broadcasts nothing: an ``(n, 1)`` prediction against an ``(n,)``
target, which PyTorch would compare all with all, is an error. Values are not searched for NaN, since
these functions sit inside training loops.

Between losses and models, :func:`likelihood_of` looks a loss up, :func:`loss_of` is the way back, and
:func:`as_likelihood` takes a loss of your own. They are above the models, in `neglog.dictionary`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from neglog.losses.classes import categorical_nll, ordinal_nll
from neglog.losses.counted import (
    bernoulli_nll,
    beta_nll,
    binomial_nll,
    gamma_nll,
    negative_binomial_nll,
    poisson_nll,
)
from neglog.losses.mixtures import (
    gaussian_mixture_nll,
    zero_inflated_negative_binomial_nll,
    zero_inflated_poisson_nll,
)
from neglog.losses.penalties import elastic_net_rates, lasso_alpha, ridge_alpha
from neglog.losses.real import (
    gaussian_nll,
    heteroscedastic_nll,
    huber,
    huber_nll,
    laplace_nll,
    logistic_nll,
    mae,
    mse,
    pinball,
    quantile_nll,
    student_t_nll,
)
from neglog.losses.shapes import Reduction
from neglog.losses.skewed import inverse_gaussian_nll, lognormal_nll, weibull_nll
from neglog.losses.table import TABLE, Loss
from neglog.losses.vectors import multivariate_gaussian_nll, multivariate_heteroscedastic_nll

if TYPE_CHECKING:
    from neglog.dictionary import as_likelihood, likelihood_of, loss_of
else:

    def __getattr__(name: str) -> Any:
        """The names of the dictionary, which needs models and so cannot be imported before they are."""
        if name in ("as_likelihood", "likelihood_of", "loss_of"):
            return getattr(import_module("neglog.dictionary"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "TABLE",
    "Loss",
    "Reduction",
    "as_likelihood",
    "bernoulli_nll",
    "beta_nll",
    "binomial_nll",
    "categorical_nll",
    "elastic_net_rates",
    "gamma_nll",
    "gaussian_mixture_nll",
    "gaussian_nll",
    "heteroscedastic_nll",
    "huber",
    "huber_nll",
    "inverse_gaussian_nll",
    "laplace_nll",
    "lasso_alpha",
    "likelihood_of",
    "logistic_nll",
    "lognormal_nll",
    "loss_of",
    "mae",
    "mse",
    "multivariate_gaussian_nll",
    "multivariate_heteroscedastic_nll",
    "negative_binomial_nll",
    "ordinal_nll",
    "pinball",
    "poisson_nll",
    "quantile_nll",
    "ridge_alpha",
    "student_t_nll",
    "weibull_nll",
    "zero_inflated_negative_binomial_nll",
    "zero_inflated_poisson_nll",
]
