"""The table of losses: what each model is called where losses are named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Loss:
    """What a model is called among losses: an entry of :data:`TABLE`.

    >>> TABLE["laplace"].name
    'MAE'
    """

    name: str
    """The classical loss."""
    density: str
    """The likelihood that it is minus the log of."""
    torch_loss: str
    """The PyTorch class to train a network with."""
    estimates: str
    """What a prediction estimates at the optimum."""
    choose_when: str
    """The data for which it is the right one."""


TABLE: Mapping[str, Loss] = MappingProxyType(
    {
        "gaussian": Loss(
            name="MSE",
            density="y ~ Normal(mean, sigma), one sigma for all rows",
            torch_loss="torch.nn.MSELoss",
            estimates="the conditional mean",
            choose_when="the noise has light tails and the same spread everywhere",
        ),
        "laplace": Loss(
            name="MAE",
            density="y ~ Laplace(location, scale), one scale for all rows",
            torch_loss="torch.nn.L1Loss",
            estimates="the conditional median",
            choose_when="some rows are far off and must not pull the line towards them",
        ),
        "heteroscedastic": Loss(
            name="Gaussian NLL with a variance head",
            density="y ~ Normal(mean, exp(log_variance / 2)), both linear in x",
            torch_loss="torch.nn.GaussianNLLLoss",
            estimates="the conditional mean and the conditional variance",
            choose_when="the spread of the noise changes with x",
        ),
        "huber": Loss(
            name="Huber loss",
            density="y ~ Huber(location, scale, delta), delta in units of scale",
            torch_loss="torch.nn.HuberLoss",
            estimates="Huber's location, the mean of a Normal core",
            choose_when="most rows are Normal and a few are not",
        ),
        "student_t": Loss(
            name="robust loss",
            density="y ~ StudentT(df, location, scale), df estimated unless given",
            torch_loss="the negative log-likelihood of Student's t",
            estimates="the centre of a symmetric law with heavy tails",
            choose_when="rows far off are part of the law, and should hardly count",
        ),
        "logistic": Loss(
            name="log-cosh loss",
            density="y ~ Logistic(location, scale)",
            torch_loss="the log-cosh loss",
            estimates="the centre of a symmetric law with tails like the Laplace's",
            choose_when="the noise is symmetric, with tails heavier than Normal ones",
        ),
        "quantile": Loss(
            name="pinball loss",
            density="y ~ AsymmetricLaplace(quantile, scale, tau)",
            torch_loss="the pinball loss",
            estimates="the conditional tau-quantile (the median unless told otherwise)",
            choose_when="one quantile is asked for, whatever the shape of the noise",
        ),
        "poisson": Loss(
            name="Poisson deviance",
            density="y ~ Poisson(exposure · exp(log_rate))",
            torch_loss="torch.nn.PoissonNLLLoss",
            estimates="the log of the conditional mean",
            choose_when="y counts independent events, with a variance like the mean",
        ),
        "negative_binomial": Loss(
            name="negative binomial deviance",
            density="y ~ NegativeBinomial(mean, dispersion), variance = mean + dispersion · mean²",
            torch_loss="the negative log-likelihood of the negative binomial",
            estimates="the log of the conditional mean",
            choose_when="counts vary more than Poisson's",
        ),
        "zero_inflated_poisson": Loss(
            name="zero-inflated Poisson negative log-likelihood",
            density="y ~ 0 with probability π, else Poisson(exposure · exp(log_rate))",
            torch_loss="the negative log-likelihood of the zero-inflated Poisson",
            estimates="the log of the mean of those who count at all, and the share of those who do not",
            choose_when="y counts events, and some rows could only be 0",
        ),
        "zero_inflated_negative_binomial": Loss(
            name="zero-inflated negative binomial negative log-likelihood",
            density="y ~ 0 with probability π, else NegativeBinomial(mean, dispersion)",
            torch_loss="the negative log-likelihood of the zero-inflated negative binomial",
            estimates="the log of the mean of those who count at all, and the share of those who do not",
            choose_when="counts vary more than Poisson's, and have more zeros than that explains",
        ),
        "gamma": Loss(
            name="Gamma deviance",
            density="y ~ Gamma with mean exp(log_mean) and variance mean² / shape",
            torch_loss="the Gamma deviance",
            estimates="the log of the conditional mean",
            choose_when="y is positive and its spread grows with its mean",
        ),
        "lognormal": Loss(
            name="squared log error",
            density="log y ~ Normal(log_median, sigma)",
            torch_loss="torch.nn.MSELoss, on log y",
            estimates="the log of the conditional median",
            choose_when="y is positive, and factors act on it and not summands",
        ),
        "weibull": Loss(
            name="Weibull negative log-likelihood",
            density="y ~ Weibull(exp(log_scale), shape)",
            torch_loss="the negative log-likelihood of the Weibull",
            estimates="the log of the conditional quantile at 1 - 1 / e",
            choose_when="y is the time until something fails",
        ),
        "inverse_gaussian": Loss(
            name="inverse Gaussian deviance",
            density="y ~ InverseGaussian with mean exp(log_mean) and variance dispersion · mean³",
            torch_loss="the inverse Gaussian deviance",
            estimates="the log of the conditional mean",
            choose_when="y is positive with rare large values, its spread growing faster than its mean",
        ),
        "beta": Loss(
            name="Beta negative log-likelihood",
            density="y ~ Beta(mean · precision, (1 - mean) · precision)",
            torch_loss="the negative log-likelihood of the Beta",
            estimates="the log-odds of the conditional mean",
            choose_when="y is a share strictly between 0 and 1",
        ),
        "bernoulli": Loss(
            name="binary cross-entropy",
            density="y ~ Bernoulli(logits=logit)",
            torch_loss="torch.nn.BCEWithLogitsLoss",
            estimates="the log-odds of y = 1",
            choose_when="y is 0 or 1",
        ),
        "binomial": Loss(
            name="binary cross-entropy, counted",
            density="y ~ Binomial(trials, logits=logit)",
            torch_loss="torch.nn.BCEWithLogitsLoss, once for each trial",
            estimates="the log-odds of a success",
            choose_when="y counts successes in known numbers of trials",
        ),
        "categorical": Loss(
            name="cross-entropy",
            density="y ~ Categorical(logits), the logit of the first class 0",
            torch_loss="torch.nn.CrossEntropyLoss",
            estimates="the log-odds of each class against the first",
            choose_when="y is one of several classes without an order",
        ),
        "ordinal": Loss(
            name="cumulative logit negative log-likelihood",
            density="P(y ≤ k) = 1 / (1 + exp(location - cutpoints[k]))",
            torch_loss="the negative log-likelihood of the cumulative logit",
            estimates="how far a latent variable is moved, and where it is cut into classes",
            choose_when="y is one of several classes in an order",
        ),
        "gaussian_mixture": Loss(
            name="mixture density loss",
            density="y ~ Σ weight · Normal(mean, sigma), over the components",
            torch_loss="the negative log-likelihood of a mixture of Normals",
            estimates="the conditional density, hump by hump",
            choose_when="the same x leads to several kinds of y",
        ),
        "multivariate_gaussian": Loss(
            name="squared Mahalanobis distance",
            density="y ~ MultivariateNormal(mean, covariance), one full covariance for all rows",
            torch_loss="the negative log-likelihood of the multivariate Normal",
            estimates="the conditional mean vector, and the covariance of the residuals",
            choose_when="each row has many responses that vary together",
        ),
        "multivariate_heteroscedastic": Loss(
            name="multivariate Gaussian NLL with covariance heads",
            density="y ~ MultivariateNormal(mean, covariance(x)), all of it linear in x",
            torch_loss="the negative log-likelihood of the multivariate Normal",
            estimates="the conditional mean vector and the conditional covariance matrix",
            choose_when="the spread of many responses, or how they hang together, changes with x",
        ),
    }
)
"""Model name → the loss that the model replaces, for those losses that PyTorch trains with directly."""
