"""Comparison of fits to the same data by information criteria."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from neglog.errors import DataError, ModelError
from neglog.fitting.fit import Fit
from neglog.isolation import isolated
from neglog.uncertainty.hypotheses import check_alike, vuong_test


@isolated
def information_criteria(fits: Mapping[str, Fit]) -> pd.DataFrame:
    """A table of fits to the same data, the lowest AIC first.

    Columns: nll, k, n, aic, aicc, bic; delta, the AIC minus the lowest; aic_weight and bic_weight,
    shares of exp(-criterion / 2); vuong_z and vuong_p, Vuong's test against the first row (below 0: farther
    from the truth than it), empty in the first row and where the two give every row the same likelihood.
    Losses are compared as likelihoods, each with its constants: squares may be compared with absolute values.

    Vuong's test is for models that are not nested; for nested ones use `likelihood_ratio_test`. A weight is
    no probability that a model is true, and criteria of models with parameters on the boundary (a dispersion
    of 0) are too high.

    Args:
        fits: name -> fit of `mle`, at least two, of the same rows, weights and response.

    Raises:
        DataError: fewer than two fits; other rows, weights or responses; a fit that was read from disk.
        ModelError: a fit with priors or without an optimum, whose criteria have no meaning; a density against
            probabilities, of counts or of rows that are censored in one fit alone.

    Sources: Burnham & Anderson (2002), Model Selection and Multimodel Inference, section 2.9; Vuong (1989).

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.arange(12.0, dtype=torch.float64)[:, None]
    >>> y = torch.sin(x[:, 0]) + 0.1 * x[:, 0]
    >>> fits = {name: mle(getattr(models, name), x, y) for name in ("gaussian", "laplace")}
    >>> information_criteria(fits)[["nll", "k", "delta", "aic_weight", "vuong_z"]].round(3)
                 nll  k  delta  aic_weight  vuong_z
    gaussian  12.274  3  0.000       0.803      NaN
    laplace   13.681  3  2.814       0.197   -1.047
    """
    if not isinstance(fits, Mapping):
        raise DataError(f"`fits` must be a mapping, name -> fit; it is {type(fits).__name__}.")
    if len(fits) < 2:
        raise DataError(f"a comparison needs at least two fits; there are {len(fits)}.")
    first, *rest = fits.values()
    for other in rest:
        check_alike(first, other)
    names = ("nll", "k", "n", "aic", "aicc", "bic")
    table = pd.DataFrame.from_dict(
        {label: {name: getattr(fit, name) for name in names} for label, fit in fits.items()}, orient="index"
    ).astype({"k": int})
    table["delta"] = table["aic"] - table["aic"].min()
    for criterion in ("aic", "bic"):
        shares = criterion_weights({label: getattr(fit, criterion) for label, fit in fits.items()})
        table[f"{criterion}_weight"] = list(shares.values())
    table = table.sort_values("aic", kind="stable")
    best, *others = (fits[str(label)] for label in table.index)
    tests = [(math.nan, math.nan), *(_vuong_or_nan(other, best) for other in others)]
    table["vuong_z"], table["vuong_p"] = zip(*tests, strict=True)
    return table


def criterion_weights(values: Mapping[str, float]) -> dict[str, float]:
    """Model -> its share of exp(-criterion / 2) among models with a criterion; NaN for the others."""
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    least = min(known.values(), default=0.0)
    raw = {name: math.exp(0.5 * (least - value)) for name, value in known.items()}
    return {name: raw[name] / sum(raw.values()) if name in raw else math.nan for name in values}


def _vuong_or_nan(fit: Fit, best: Fit) -> tuple[float, float]:
    """Vuong's statistic and its p-value; NaN without a difference to test."""
    try:
        found = vuong_test(fit, best)
    except ModelError:
        return math.nan, math.nan
    return found.statistic, found.p_value
