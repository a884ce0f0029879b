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
:func:`as_likelihood` takes a loss of your own.

Names are imported when they are used (`__init__.pyi` lists them): the functions of predictions and targets do
not import Pyro.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
