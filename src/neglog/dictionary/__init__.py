"""The dictionary between losses and likelihoods, in both directions; `neglog.losses` hands its names on."""

from neglog.dictionary.known import Likelihood, likelihood_of
from neglog.dictionary.modules import LikelihoodLoss, loss_of
from neglog.dictionary.residuals import ResidualModel, as_likelihood

__all__ = ["Likelihood", "LikelihoodLoss", "ResidualModel", "as_likelihood", "likelihood_of", "loss_of"]
