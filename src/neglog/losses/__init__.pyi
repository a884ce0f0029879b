"""The public names of the losses, and where they are defined."""

from .classes import (
    categorical_nll,
    ordinal_nll,
)
from .counted import (
    bernoulli_nll,
    beta_nll,
    binomial_nll,
    gamma_nll,
    negative_binomial_nll,
    poisson_nll,
)
from .known import (
    Likelihood,
    likelihood_of,
)
from .mixtures import (
    gaussian_mixture_nll,
    zero_inflated_negative_binomial_nll,
    zero_inflated_poisson_nll,
)
from .modules import (
    LikelihoodLoss,
    loss_of,
)
from .own import (
    ResidualModel,
    as_likelihood,
)
from .penalties import (
    elastic_net_rates,
    lasso_alpha,
    ridge_alpha,
)
from .real import (
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
from .shapes import (
    Reduction,
)
from .skewed import (
    inverse_gaussian_nll,
    lognormal_nll,
    weibull_nll,
)
from .table import (
    TABLE,
    Loss,
)
from .vectors import (
    multivariate_gaussian_nll,
    multivariate_heteroscedastic_nll,
)

__all__ = [
    "TABLE",
    "Likelihood",
    "LikelihoodLoss",
    "Loss",
    "Reduction",
    "ResidualModel",
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
