"""Prediction: the distribution of new observations, and the log-likelihood of given ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neglog.data import Data, check_response, observed, prepare, prepare_designs
from neglog.errors import DataError
from neglog.fit import Fit
from neglog.predictors import RESPONSE, row_count
from neglog.tracing import Run, model_name, row_bounds, run, takes_missing


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
        prepare(x, anything, dtype=dtype, row_bounds=row_bounds(fit.model), **keywords)
        if keywords
        else Data(designs, anything, columns=columns)
    )
    data = Data(designs, data.y, None, data.keywords, columns)
    with torch.no_grad():
        return run(fit.model, data, Run(fit.params), response=False).sites[RESPONSE]["fn"]


def log_likelihood(fit: Fit, x: Any, y: Any, **keywords: Any) -> Tensor:
    """The log-density of each `y` given `x` at the estimates, `(N,)`, in nats.

    Under `masked` it is that of what is known of a row, and 0 where nothing is.

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
    every = prepare(x, y, dtype=dtype, row_bounds=row_bounds(fit.model), **keywords)
    response = predict(fit, x, **keywords)
    shape = tuple(response.batch_shape + response.event_shape)
    check_response(every, response.support, shape, model_name(fit.model))
    some = (~torch.isnan(every.y)).reshape(every.rows, -1).any(1).nonzero()[:, 0]
    known = torch.zeros(every.rows, dtype=dtype)
    if not len(some) and takes_missing(fit.model):
        return known
    data = observed(every, takes_missing(fit.model))
    with torch.no_grad():
        site = run(fit.model, data, Run(fit.params)).sites[RESPONSE]
        return known.index_copy(0, some, site["fn"].log_prob(site["value"]).to(dtype))
