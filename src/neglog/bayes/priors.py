"""Priors in the units of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from neglog.data import Data, prepare_fit
from neglog.distributions.observed import latent
from neglog.errors import DataError
from neglog.handlers import Model, is_real
from neglog.isolation import isolated
from neglog.objective.objective import Objective
from neglog.signatures import roles_of
from neglog.tracing import Affine

SPREADS = 2.5
"""Moving x by one of its standard deviations moves y by so many of its own, a priori, or less."""
LOGS = ("log_rate", "log_mean", "log_median", "log_scale")
"""Predictors of the log of y, where it is not negative."""
LINKS = ("log", "zero", "partial")
"""The predictors whose names begin so are in no units of y."""


@isolated
def priors_for(
    model: Model, x: Any, y: Any, *, weights: Any = None, **keywords: Any
) -> dict[str, dist.Distribution]:
    """Weakly informative priors in the units of the data, for `with_priors`: site name -> distribution.

    Standard deviations and means are those of the rows, by their weights:

    - a predictor of a real y (a mean, a median, a quantile): weights Normal(0, 2.5 sd(y) / sd(x)), and at the
      average row Normal(mean(y), 2.5 sd(y));
    - any other (a log, a log-odds): weights Normal(0, 2.5 / sd(x)), and at the average row Normal(m, 2.5),
      where m is log mean(y) for the log of a rate, mean or median (per unit of `exposure`), log sd(y) for
      the log of a scale of a real y (2 log sd(y) of a variance), and 0 otherwise;
    - ``sigma`` or ``scale`` of a real y: Exponential(1 / sd(y)).

    A bias is the predictor where x is 0, which may be far from the average row, so the prior of the bias is
    as wide as the two above make it: its variance is the sum of theirs, the latter times mean(x)².

    Sites of other kinds (shapes, dispersions, degrees of freedom, correlations, networks) have no units of
    the data, and keep the priors of the model: they are not in what is returned.

    Raises:
        DataError: as `mle`; a column or the response that never varies, so that it has no unit.

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
    data = prepare_fit(x, y, weights=weights, roles=roles_of(model, keywords, priors_for), **keywords)
    objective = Objective(model, data)
    data = objective.data
    real = is_real(latent(objective.response(objective.initial)).support)
    mean, spread = _moments("y", data.y, data.weights)
    found: dict[str, dist.Distribution] = {}
    for call in objective.calls:
        identity = real and not call.name.startswith(LINKS)
        centre, unit = (mean, spread) if identity else (_centre(call.name, data, real, mean, spread), 1.0)
        found |= _of_predictor(objective, call, centre, SPREADS * torch.as_tensor(unit).to(mean))
    for name in ("sigma", "scale"):
        if real and name in objective.sites:
            found[name] = dist.Exponential((1 / spread).expand(objective.sites[name].shape))
    return {name: found[name] for name in objective.sites if name in found}


def _centre(name: str, data: Data, real: bool, mean: Tensor, spread: Tensor) -> Tensor:
    """The value of a linked predictor at the average row, as far as its name and y tell it."""
    if real and name.startswith("log_"):
        return spread.log() * (2 if "variance" in name else 1)
    if not real and name in LOGS:
        exposure = data.keywords.get("exposure", torch.ones(data.rows))
        weights = torch.ones(data.rows) if data.weights is None else data.weights
        return (mean / ((weights * exposure).sum() / weights.sum())).log()
    return torch.zeros_like(mean)


def _of_predictor(
    objective: Objective, call: Affine, centre: Tensor, width: Tensor
) -> dict[str, dist.Distribution]:
    names = {part: f"{call.name}.{part}" for part in ("weight", "bias")}
    sites = {part: objective.sites[name] for part, name in names.items() if name in objective.sites}
    if not all(site.is_real for site in sites.values()) or call.design.requires_grad:
        return {}
    means, spreads = _moments(call.name, call.design, objective.data.weights, objective.column_names(call))
    found: dict[str, dist.Distribution] = {}
    if "weight" in sites:
        scale = (width[..., None] / spreads).expand(sites["weight"].shape)
        found[names["weight"]] = dist.Normal(torch.zeros_like(scale), scale)
    if "bias" in sites and call.name != "partial":
        reach = (1 + (means / spreads).square().sum()).sqrt()
        shape = sites["bias"].shape
        found[names["bias"]] = dist.Normal(centre.expand(shape), (width * reach).expand(shape))
    return found


def _moments(
    name: str, values: Tensor, weights: Tensor | None, columns: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of each column, of what is known of it."""
    known = ~torch.isnan(values)
    mass = known.to(values.dtype)
    if weights is not None:
        mass = mass * weights.reshape(-1, *[1] * (values.dim() - 1))
    values, total = values.nan_to_num(0.0), mass.sum(0)
    mean = (mass * values).sum(0) / total
    spread = ((mass * (values - mean).square()).sum(0) / (total - 1).clamp_min(1.0)).sqrt()
    still = ~(spread > 0).reshape(-1)
    if bool(still.any()):
        column = f" {columns[int(still.nonzero()[0])]!r}" if columns else ""
        what = f"column{column} of `{name}`" if values.dim() == 2 else f"`{name}`"
        raise DataError(
            f"{what} is the same in every row, so it has no unit for a prior. Say the prior yourself."
        )
    return mean, spread
