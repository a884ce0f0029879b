"""The public names of the losses, and the modules that define them."""

from .classes import categorical_nll as categorical_nll
from .classes import ordinal_nll as ordinal_nll
from .counted import bernoulli_nll as bernoulli_nll
from .counted import beta_nll as beta_nll
from .counted import binomial_nll as binomial_nll
from .counted import gamma_nll as gamma_nll
from .counted import negative_binomial_nll as negative_binomial_nll
from .counted import poisson_nll as poisson_nll
from .known import Likelihood as Likelihood
from .known import likelihood_of as likelihood_of
from .mixtures import gaussian_mixture_nll as gaussian_mixture_nll
from .mixtures import zero_inflated_negative_binomial_nll as zero_inflated_negative_binomial_nll
from .mixtures import zero_inflated_poisson_nll as zero_inflated_poisson_nll
from .modules import LikelihoodLoss as LikelihoodLoss
from .modules import loss_of as loss_of
from .own import ResidualModel as ResidualModel
from .own import as_likelihood as as_likelihood
from .penalties import elastic_net_rates as elastic_net_rates
from .penalties import lasso_alpha as lasso_alpha
from .penalties import ridge_alpha as ridge_alpha
from .real import gaussian_nll as gaussian_nll
from .real import heteroscedastic_nll as heteroscedastic_nll
from .real import huber as huber
from .real import huber_nll as huber_nll
from .real import laplace_nll as laplace_nll
from .real import logistic_nll as logistic_nll
from .real import mae as mae
from .real import mse as mse
from .real import pinball as pinball
from .real import quantile_nll as quantile_nll
from .real import student_t_nll as student_t_nll
from .shapes import Reduction as Reduction
from .skewed import inverse_gaussian_nll as inverse_gaussian_nll
from .skewed import lognormal_nll as lognormal_nll
from .skewed import weibull_nll as weibull_nll
from .table import TABLE as TABLE
from .table import Loss as Loss
from .vectors import multivariate_gaussian_nll as multivariate_gaussian_nll
from .vectors import multivariate_heteroscedastic_nll as multivariate_heteroscedastic_nll

__all__: list[str]
