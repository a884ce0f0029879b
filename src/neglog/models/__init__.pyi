"""The built-in likelihoods, and the modules that define them."""

from .bounded import bernoulli as bernoulli
from .bounded import beta as beta
from .bounded import binomial as binomial
from .classes import categorical as categorical
from .classes import ordinal as ordinal
from .counts import negative_binomial as negative_binomial
from .counts import poisson as poisson
from .counts import zero_inflated_negative_binomial as zero_inflated_negative_binomial
from .counts import zero_inflated_poisson as zero_inflated_poisson
from .location import gaussian as gaussian
from .location import heteroscedastic as heteroscedastic
from .location import huber as huber
from .location import laplace as laplace
from .location import logistic as logistic
from .location import quantile as quantile
from .location import student_t as student_t
from .mixtures import gaussian_mixture as gaussian_mixture
from .skewed import gamma as gamma
from .skewed import inverse_gaussian as inverse_gaussian
from .skewed import lognormal as lognormal
from .skewed import weibull as weibull
from .vectors import multivariate_gaussian as multivariate_gaussian
from .vectors import multivariate_heteroscedastic as multivariate_heteroscedastic

__all__: list[str]
