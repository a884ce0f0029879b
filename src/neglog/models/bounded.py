"""Models of a bounded response: yes or no, shares, successes in trials."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.calls import public
from neglog.distributions import Bernoulli, Beta, Binomial
from neglog.errors import ModelError
from neglog.layers import also_called
from neglog.models.replaced import Loss, declare_loss
from neglog.predictors import RESPONSE, Designs, linear, positive, row_supports, rows


@public
@also_called(location="logit")
def bernoulli(x: Designs, y: Tensor | None = None) -> Tensor:
    """Yes or no: y ~ Bernoulli(logits=logit); logistic regression, the binary cross-entropy.

    Density: p^y (1 - p)^(1 - y), p = 1 / (1 + exp(-logit)).
    Sites: ``logit.weight`` `(P,)`, ``logit.bias`` `()`.
    Estimates: the log-odds of y = 1.
    Source: Cox (1958), The regression analysis of binary sequences.

    >>> import torch
    >>> from neglog import mle
    >>> fit = mle(bernoulli, torch.empty((4, 0)), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    >>> round(fit.params["logit.bias"].sigmoid().item(), 6)
    0.75
    """
    logit = linear("logit", x)
    with rows(x):
        return pyro.sample(RESPONSE, Bernoulli(logits=logit), obs=y)


declare_loss(
    bernoulli,
    Loss(
        "binary cross-entropy",
        torch_loss="torch.nn.BCEWithLogitsLoss",
        density="Bernoulli(logits = logit)",
        estimates="log-odds of y = 1",
        choose_when="y is 0 or 1",
        response="0 or 1",
        page="bounded.md",
    ),
)


@public
@also_called(location="logit")
@row_supports(trials=constraints.nonnegative_integer)
def binomial(x: Designs, y: Tensor | None = None, trials: Tensor | None = None) -> Tensor:
    """Successes in trials: y ~ Binomial(trials, logits=logit).

    Density: C(trials, y) p^y (1 - p)^(trials - y), p = 1 / (1 + exp(-logit)); the binomial coefficient is
    counted.
    Sites: ``logit.weight`` `(P,)`, ``logit.bias`` `()`. `trials` `(N,)` belongs to the rows.
    Estimates: the log-odds of a success.
    Source: Cox (1958), The regression analysis of binary sequences.

    >>> import torch
    >>> from neglog import mle
    >>> fit = mle(binomial, torch.empty((2, 0)), torch.tensor([1.0, 5.0]), trials=torch.tensor([2.0, 6.0]))
    >>> round(fit.params["logit.bias"].sigmoid().item(), 6)
    0.75
    """
    if trials is None:
        raise ModelError(
            "`binomial` needs the number of trials of each row: trials=n, of shape (rows,). Of successes s "
            "and failures f, as in R's cbind(s, f), give y = s and n = s + f."
        )
    logit = linear("logit", x)
    with rows(x):
        return pyro.sample(RESPONSE, Binomial(trials, logits=logit), obs=y)


declare_loss(
    binomial,
    Loss(
        "binary cross-entropy, counted",
        torch_loss="torch.nn.BCEWithLogitsLoss, once for each trial",
        density="Binomial(trials, logits = logit)",
        estimates="log-odds of a success",
        choose_when="y counts successes in known trials",
        response="count",
        page="bounded.md",
    ),
)


@public
@also_called(location="logit_mean", spread="precision")
def beta(x: Designs, y: Tensor | None = None) -> Tensor:
    """Shares strictly between 0 and 1: y ~ Beta(mean · precision, (1 - mean) · precision).

    Density: y^(a-1) (1-y)^(b-1) Γ(a + b) / (Γ(a) Γ(b)), a = mean · precision, b = (1 - mean) · precision,
    mean = 1 / (1 + exp(-logit_mean)).
    Sites: ``logit_mean.weight`` `(P,)`, ``logit_mean.bias`` `()`, ``precision`` `()`.
    Estimates: the log-odds of the conditional mean; the variance is mean (1 - mean) / (1 + precision).
    Source: Ferrari & Cribari-Neto (2004), Beta regression for modelling rates and proportions.

    >>> import torch
    >>> from neglog import mle
    >>> fit = mle(beta, torch.empty((4, 0)), torch.tensor([0.2, 0.4, 0.6, 0.8]))
    >>> round(fit.params["logit_mean.bias"].sigmoid().item(), 6)
    0.5
    """
    logit = linear("logit_mean", x)
    precision = positive("precision", x, rate=0.1)
    with rows(x):
        # sigmoid(-logit), not 1 - sigmoid(logit): it keeps its digits where the mean is near 1.
        a, b = torch.sigmoid(logit) * precision, torch.sigmoid(-logit) * precision
        return pyro.sample(RESPONSE, Beta(a, b), obs=y)


declare_loss(
    beta,
    Loss(
        "Beta negative log-likelihood",
        torch_loss="the negative log-likelihood of the Beta",
        density="Beta(mean · precision, (1 − mean) · precision)",
        estimates="log-odds of the conditional mean",
        choose_when="y is a share strictly between 0 and 1",
        response="share",
        page="bounded.md",
    ),
)
