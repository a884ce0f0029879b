"""Priors in the units of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from neglog.data import Data, prepare_fit
from neglog.errors import DataError
from neglog.handlers import Model
from neglog.inputs.given import Inputs, given
from neglog.isolation import isolated
from neglog.objective.links import Link, Links, Role
from neglog.objective.objective import Objective
from neglog.predictors import by_output
from neglog.signatures import roles_of
from neglog.tracing import Affine

PRIOR_SCALE = 2.5
"""Prior standard deviation of the effect of one standard deviation of x, in standard deviations of y."""


@isolated
def priors_for(
    model: Model | str,
    x: Any,
    y: Any = None,
    *,
    data: Any = None,
    weights: Any = None,
    drop_missing: bool = False,
    **keywords: Any,
) -> dict[str, dist.Distribution]:
    """Weakly informative priors in the units of the data, for `with_priors`: site name -> distribution.

    Standard deviations and means are those of the rows, by their weights:

    - a predictor of a real y (a mean, a median, a quantile): weights Normal(0, 2.5 sd(y) / sd(x)), and at the
      average row Normal(mean(y), 2.5 sd(y));
    - any other (a log, a log-odds): weights Normal(0, 2.5 / sd(x)), and at the average row Normal(m, 2.5),
      where m is log mean(y) for the log of a rate, mean or median (per unit of `exposure`), log sd(y) for
      the log of a scale of a real y (2 log sd(y) of a variance), and 0 otherwise;
    - the scale of a real y: Exponential(1 / sd(y)).

    The role of a predictor or a site is read from the distribution of y in the model, not from its name.

    A bias is the predictor where x is 0, which may be far from the average row, so the prior of the bias
    follows from the two above: its variance is the sum of theirs, the latter times mean(x)².

    Sites of other kinds (shapes, dispersions, degrees of freedom, correlations, networks) have no units of
    the data, and keep the priors of the model: they are absent from the result.

    Raises:
        DataError: as `mle`; a column or the response is constant, so that it has no unit.

    Source: the defaults of R's rstanarm (Gabry & Goodrich, "Prior distributions for rstanarm models"), but
    that its intercept belongs to centred columns.

    >>> import torch
    >>> from neglog import models
    >>> x = torch.tensor([[0.0], [10.0], [20.0]], dtype=torch.float64)
    >>> priors_for(models.gaussian, x, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))[
    ...     "mean.weight"
    ... ].scale
    tensor([0.2500], dtype=torch.float64)
    """
    inputs = given(
        priors_for, model, x, y, data=data, weights=weights, drop_missing=drop_missing, keywords=keywords
    )
    return _priors(inputs)


def _priors(inputs: Inputs) -> dict[str, dist.Distribution]:
    model, keywords = inputs.model, inputs.keywords
    roles = roles_of(model, keywords, priors_for)
    data = prepare_fit(inputs.x, inputs.y, weights=inputs.weights, roles=roles, **keywords)
    objective = Objective(model, data)
    data = objective.data
    links = Links(objective)
    mean, spread = _moments("y", _without_offset(objective, links), data.weights)
    found: dict[str, dist.Distribution] = {}
    for call in objective.calls:
        link = links.of(call.name)
        centre, unit = _average(link, data, mean, spread, call.offset)
        found |= _of_predictor(objective, call, link, centre, PRIOR_SCALE * unit)
    for name, site in objective.sites.items():
        if links.is_scale(name):
            found[name] = dist.Exponential((1 / spread).expand(site.shape))
    return {name: found[name] for name in objective.sites if name in found}


def _without_offset(objective: Objective, links: Links) -> Tensor:
    """The response, less the offset of its location."""
    y = objective.data.y
    for call in objective.calls:
        if call.offset is not None and links.of(call.name).role is Role.LOCATION:
            y = y - by_output(call.offset, call.outputs)
    return y


def _average(
    link: Link, data: Data, mean: Tensor, spread: Tensor, offset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The prior mean of a predictor without its offset, at the average row, and its unit."""
    one = mean.new_ones(())
    if link.role is Role.LOCATION:
        return mean, spread
    if link.role is Role.LOG_SCALE:
        return link.power * spread.log(), one
    if link.role is Role.LOG_MEAN:
        exposure = data.keywords.get("exposure", torch.ones(data.rows))
        exposure = exposure if offset is None else exposure * offset.exp()
        return (mean / _mean_of(exposure, data.weights)).log(), one
    return mean.new_zeros(()) if offset is None else -_mean_of(offset, data.weights), one


def _mean_of(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of the rows `(N,)`, by their weights."""
    weights = torch.ones(len(values)) if weights is None else weights
    return (weights * values).sum() / weights.sum()


def _of_predictor(
    objective: Objective, call: Affine, link: Link, centre: Tensor, width: Tensor
) -> dict[str, dist.Distribution]:
    names = {part: f"{call.name}.{part}" for part in ("weight", "bias")}
    sites = {part: objective.sites[name] for part, name in names.items() if name in objective.sites}
    if not all(site.is_real for site in sites.values()) or call.design.requires_grad:
        return {}
    means, spreads = _moments(
        call.name, call.design, objective.data.weights, call.column_names(objective.data)
    )
    found: dict[str, dist.Distribution] = {}
    if "weight" in sites:
        scale = (width[..., None] / spreads).expand(sites["weight"].shape)
        found[names["weight"]] = dist.Normal(torch.zeros_like(scale), scale)
    if "bias" in sites and link.role is not Role.DEPENDENCE:
        reach = (1 + (means / spreads).square().sum()).sqrt()
        shape = sites["bias"].shape
        found[names["bias"]] = dist.Normal(centre.expand(shape), (width * reach).expand(shape))
    return found


def _moments(
    name: str, values: Tensor, weights: Tensor | None, columns: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each column, over its entries that are not missing."""
    known = ~torch.isnan(values)
    mass = known.to(values.dtype)
    if weights is not None:
        mass = mass * weights.reshape(-1, *[1] * (values.dim() - 1))
    values, total = values.nan_to_num(0.0), mass.sum(0)
    mean = (mass * values).sum(0) / total
    spread = ((mass * (values - mean).square()).sum(0) / (total - 1).clamp_min(1.0)).sqrt()
    constant = ~(spread > 0).reshape(-1)
    if bool(constant.any()):
        column = f" {columns[int(constant.nonzero()[0])]!r}" if columns else ""
        what = f"column{column} of `{name}`" if values.dim() == 2 else f"`{name}`"
        raise DataError(
            f"{what} is the same in every row, so its spread sets no scale for a prior. Give the prior "
            "yourself, by `with_priors`."
        )
    return mean, spread
