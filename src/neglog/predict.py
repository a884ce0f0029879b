"""Prediction: the distribution of new observations, and the log-likelihood of given ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neglog.data import Data, check_response, prepare, prepare_designs
from neglog.errors import DataError
from neglog.fit import Fit
from neglog.predictors import RESPONSE, row_count
from neglog.tracing import Run, model_name, run


def predict(fit: Fit, x: Any, **keywords: Any) -> Any:
    """The distribution of `y` given `x` at the estimates: a torch distribution of batch shape `(N,)`.

    It holds the doubt about `y` that the model states, not the doubt about the parameters.

    Args:
        fit: a fit.
        x: designs `(N, P)` as the fit had them; a data frame is read by column name.
        keywords: what else the model takes for each row, such as ``exposure``, `(N,)`.

    Raises:
        DataError: designs of another form than the fit had, NaN or infinite values.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> fit = mle(models.gaussian, x, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    >>> predict(fit, x).mean
    tensor([0.5000, 3.0000, 5.5000], dtype=torch.float64)
    """
    if set(keywords) != set(fit.keywords):
        given, needed = sorted(keywords) or "none", sorted(fit.keywords) or "none"
        raise DataError(f"the fit had these for each row: {needed}; given are {given}. Give the same.")
    dtype = next(iter(fit.params.values())).dtype
    designs, columns = prepare_designs(x, dtype=dtype, columns=fit.columns or None)
    anything = torch.zeros(row_count(designs), dtype=dtype)
    data = (
        prepare(x, anything, dtype=dtype, **keywords)
        if keywords
        else Data(designs, anything, columns=columns)
    )
    data = Data(designs, data.y, None, data.keywords, columns)
    with torch.no_grad():
        return run(fit.model, data, Run(fit.params), response=False).sites[RESPONSE]["fn"]


def log_likelihood(fit: Fit, x: Any, y: Any, **keywords: Any) -> Tensor:
    """The log-density of each `y` given `x` at the estimates, `(N,)`, in nats.

    Raises:
        DataError: as `predict`; a `y` of another shape or length, or outside the model's support.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> y = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    >>> fit = mle(models.gaussian, x, y)
    >>> torch.allclose(log_likelihood(fit, x, y).sum(), torch.tensor(-fit.nll, dtype=torch.float64))
    True
    """
    dtype = next(iter(fit.params.values())).dtype
    data = prepare(x, y, dtype=dtype, **keywords)
    response = predict(fit, x, **keywords)
    shape = tuple(response.batch_shape + response.event_shape)
    check_response(data, response.support, shape, model_name(fit.model))
    return response.log_prob(data.y)
