"""Models of classes: codes 0, 1, ..., K - 1, without an order and with one."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from neglog.calls import public
from neglog.distributions import Categorical, Ordered
from neglog.errors import DataError, ModelError
from neglog.layers import also_called
from neglog.models.replaced import Loss, declare_loss
from neglog.predictors import RESPONSE, Designs, against_first, linear, rows, sized


def _classes(y: Tensor) -> int:
    """The number of classes of the codes 0, 1, ..., K - 1; entries that are NaN do not count."""
    codes = torch.where(y.isnan(), 0, y)
    wrong = (codes < 0) | (codes != codes.floor()) | codes.isinf()
    # Codes are consecutive from 0: a large code would otherwise add as many coefficients.
    found = wrong if bool(wrong.any()) else codes >= max(2, y.numel())
    if bool(found.any()):
        row = int(found.nonzero()[0, 0])
        raise DataError(
            f"`y` must hold the codes 0, 1, ..., K - 1 of K classes; row {row} has y = {y[row].tolist()}. "
            "Number the classes from 0, without gaps."
        )
    classes = int(codes.max()) + 1 if codes.numel() else 0
    empty = (torch.bincount(codes.long().reshape(-1), minlength=classes) == 0).nonzero()[:, 0]
    if len(empty):
        raise DataError(
            f"`y` must hold every class from 0 to the highest, {classes - 1}, and no row has "
            f"y = {int(empty[0])}. Number the classes without gaps, or bind their number, as in "
            f"functools.partial(model, classes={classes})."
        )
    if classes < 2:
        raise DataError(
            "`y` must hold at least 2 classes; every code is 0. If others are possible, bind their number, "
            "as in functools.partial(model, classes=3)."
        )
    return classes


def _at_least_two(name: str, classes: int | None) -> int:
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise ModelError(f"`{name}` needs a whole number of classes, at least 2; `classes` is {classes!r}.")
    return classes


@public
@also_called(location="logit")
@sized(classes=_classes)
def categorical(x: Designs, y: Tensor | None = None, classes: int | None = None) -> Tensor:
    """Classes without an order: y ~ Categorical(logits), the multinomial logit; the cross-entropy.

    Density: exp(logit[y]) / Σ exp(logit), with logit[0] = 0: class 0 is the baseline.
    Sites: ``logit.weight`` `(K - 1, P)`, ``logit.bias`` `(K - 1,)`, of the classes 1, ..., K - 1. y holds the
    codes 0, ..., K - 1; `classes`, K, is read from it unless it is bound.
    Estimates: the log-odds of each class against class 0.
    Source: McFadden (1974), Conditional logit analysis of qualitative choice behavior.

    >>> import torch
    >>> from neglog import mle
    >>> fit = mle(categorical, torch.empty((8, 0)), torch.tensor([0.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]))
    >>> fit.params["logit.bias"].exp()
    tensor([2.0000, 5.0000], dtype=torch.float64)
    """
    logit = linear("logit", x, range(1, _at_least_two("categorical", classes)))
    with rows(x):
        return pyro.sample(RESPONSE, Categorical(logits=against_first(logit)), obs=y)


declare_loss(
    categorical,
    Loss(
        "cross-entropy",
        torch_loss="torch.nn.CrossEntropyLoss",
        density="Categorical(logits), logit[0] = 0",
        estimates="log-odds of each class against class 0",
        choose_when="y is one of several unordered classes",
        response="class",
        page="classes.md",
    ),
)


@public
@sized(classes=_classes)
def ordinal(x: Designs, y: Tensor | None = None, classes: int | None = None) -> Tensor:
    """Classes in an order: the cumulative logit, or proportional odds, model.

    Density: P(y ≤ k) = 1 / (1 + exp(location - cutpoints[k])), so logit P(y ≤ k) = cutpoints[k] - location:
    a column with a positive weight leads to higher classes.
    Sites: ``location.weight`` `(P,)` and ``cutpoints`` `(K - 1,)`, increasing, which are the intercepts: the
    location has none, and a column that is constant has no place in the design. y holds the codes
    0, ..., K - 1; `classes`, K, is read from it unless it is bound.
    Estimates: the log-odds of being above any class, the same for each of them: that is the assumption.
    The first cut is Normal a priori, the log of each distance to the next one too.
    Source: McCullagh (1980), Regression models for ordinal data. The signs are those of R's `polr`.

    >>> import torch
    >>> from neglog import mle
    >>> fit = mle(ordinal, torch.empty((4, 0)), torch.tensor([0.0, 1.0, 2.0, 2.0]))
    >>> fit.params["cutpoints"].sigmoid()
    tensor([0.2500, 0.5000], dtype=torch.float64)
    """
    count = _at_least_two("ordinal", classes)
    location = linear("location", x, bias=False)
    steps = location.new_zeros(count - 2)  # logarithms: cuts one apart, in the median, around 0
    centre = torch.cat([location.new_full((1,), 1 - 0.5 * count), steps])
    spread = torch.cat([location.new_full((1,), 5.0), torch.ones_like(steps)])
    ordered = dist.TransformedDistribution(dist.Normal(centre, spread), dist.transforms.OrderedTransform())
    cutpoints = pyro.sample("cutpoints", ordered)
    with rows(x):
        return pyro.sample(RESPONSE, Ordered(location, cutpoints), obs=y)


declare_loss(
    ordinal,
    Loss(
        "cumulative logit negative log-likelihood",
        torch_loss="the negative log-likelihood of the cumulative logit",
        density="P(y ≤ k) = 1 / (1 + exp(location − cutpoints[k]))",
        estimates="the location of a latent variable, and its thresholds",
        choose_when="y is one of several ordered classes",
        response="class",
        page="classes.md",
    ),
)
