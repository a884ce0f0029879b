"""The probabilities of classes, under their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from neglog.distributions.family import events_of
from neglog.errors import ModelError
from neglog.isolation import isolated
from neglog.prediction.predictions import check_row_keywords, predict
from neglog.prediction.predictor import Predicting
from neglog.tracing import model_name

if TYPE_CHECKING:
    import pandas as pd


@isolated
def class_probabilities(
    fit: Predicting,
    x: Any,
    *,
    uncertainty: bool = False,
    draws: int | None = None,
    seed: int = 0,
    **keywords: Any,
) -> pd.DataFrame:
    """The probability of each class in each row: a column for each class, under its label.

    The label of the most probable class of each row is ``class_probabilities(fit, x).idxmax(axis=1)``.

    Args:
        fit, x, uncertainty, draws, seed, keywords: as for `predict`.

    Raises:
        ModelError: the response is no class; as `predict`.
        DataError: as `predict`.

    >>> from neglog import mle
    >>> data = {"y": ["no", "yes", "yes", "no"], "x": [1.0, 2.0, 3.0, 4.0]}
    >>> class_probabilities(mle("bernoulli", "y ~ 1", data), data).round(2).loc[0].to_dict()
    {'no': 0.5, 'yes': 0.5}
    """
    import pandas as pd

    check_row_keywords(fit, keywords, class_probabilities)
    response = predict(fit, x, uncertainty=uncertainty, draws=draws, seed=seed, **keywords)
    codes = events_of(getattr(response, "first", response))
    if not codes:
        raise ModelError(f"`{model_name(fit.model)}` is no model of classes; use `predict`.")
    codes = (0, 1) if len(codes) == 1 else codes  # the record of a binary response has one of its two
    rows = torch.zeros(response.batch_shape[-1:], dtype=torch.float64)
    with torch.no_grad():
        shares = {code: response.log_prob(rows + code).exp().numpy() for code in codes}
    labels = fit.classes or tuple(codes)
    index = x.index if isinstance(x, pd.DataFrame) else None
    return pd.DataFrame(dict(zip(labels, shares.values(), strict=True)), index=index)
