"""The summary table of a fit."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import pandas as pd
import torch
from torch import Tensor

from neglog.aliases import former_argument
from neglog.arguments import choice, share
from neglog.calls import check_settings
from neglog.errors import DataError, ModelError
from neglog.fitting.fit import Fit
from neglog.isolation import isolated
from neglog.labels import estimates, flat_range, flat_values, site_labels
from neglog.likelihood.sites import Layout, Site
from neglog.objective.coordinates import Coordinates
from neglog.objective.ranges import alone, inside
from neglog.uncertainty.covariances import CovType, covariance
from neglog.uncertainty.information import information, inverse_root, layout_around, optimum
from neglog.uncertainty.profiles import Profile

Interval = Literal["wald", "profile"]
ERROR_COLUMNS = ("std_error", "z", "p_value", "lower", "upper")
"""The columns of a summary that need a covariance."""


@former_argument("kind", "cov_type")
@isolated
def summary(
    fit: Fit,
    *,
    level: float = 0.95,
    cov_type: CovType = "observed",
    interval: Interval = "wald",
    **settings: Any,
) -> pd.DataFrame:
    """The table of a fit: one row for each (parameter, term).

    Columns: estimate, std_error, z, p_value (two-sided, of the hypothesis that the parameter is 0), lower,
    upper (an interval at `level`). Terms are ``Intercept``, the columns' names, or empty for a scalar. A
    positive parameter has an interval that is symmetric on the log scale, and no z or p_value, since it
    cannot be 0. A share, such as a weight of a mixture, has one that is symmetric in its log-odds; a
    correlation has Fisher's. Of a network (`on_features`) the table has the heads and constants, with
    standard errors given the features.

    ``attrs`` of the table has nll, loss, aic, aicc, bic, n, k, converged, status, level, interval and
    cov_type (under the key ``kind`` in this release too): that of the standard errors, such as
    ``"expected"`` for a loss without curvature. If `covariance` refuses the fit, as at a boundary, all
    columns but the estimates are NaN, cov_type is None, and ``attrs["reason"]`` is the reason.

    Args:
        fit: a fit of `mle` or `map_estimate`.
        level: the level of the intervals.
        cov_type: the kind of the standard errors, as for `covariance`; without those of another kind than
            ``"observed"`` it raises.
        interval: ``"wald"``, from the standard errors; or ``"profile"``: the values that a likelihood-ratio
            test at 1 - level does not reject, all other parameters refitted. Where
            the likelihood never falls so low, it ends at infinity, or at the bound of the parameter.
            Parameters with joint constraints (shares, cutpoints) and profiles without an optimum have NaN,
            and ``attrs["reason"]`` is the reason.
        settings: `groups`, `bandwidth`, `draws` and `seed` of `covariance`.

    Raises:
        ModelError: `level` is not between 0 and 1; an unknown `cov_type` or interval; `covariance` refuses
            a kind that was given. For ``"profile"``: a fit with priors, a loss with corners.
        DataError: as `covariance`, for a kind that was given.

    Source: Venzon & Moolgavkar (1988), A method for computing profile-likelihood-based confidence intervals.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> fit = mle(models.gaussian, x, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    >>> summary(fit)["estimate"].round(3).to_dict()
    {('mean', 'Intercept'): 0.5, ('mean', 'x0'): 2.5, ('sigma', ''): 0.707}
    """
    check_settings(summary, settings, covariance)
    level = share("level", level)
    choice("interval", interval, ("wald", "profile"))
    choice("cov_type", cov_type, get_args(CovType))
    table = estimates(fit).to_frame()
    facts: dict[str, Any] = {
        name: getattr(fit, name)
        for name in ("nll", "loss", "aic", "aicc", "bic", "n", "k", "converged", "status")
    }
    try:
        matrix = covariance(fit, cov_type, **settings)
        table, facts["cov_type"] = _with_errors(fit, table, matrix, level), matrix.attrs["cov_type"]
    except (DataError, ModelError) as error:
        if cov_type != "observed" or settings:
            raise
        facts |= {"cov_type": None, "reason": str(error)}
        table = table.assign(**dict.fromkeys(ERROR_COLUMNS, math.nan))
    if interval == "profile" and "reason" not in facts:
        ends, reasons = _profiled(fit, level)
        table["lower"], table["upper"] = ends["lower"], ends["upper"]
        facts |= {"reason": " ".join(dict.fromkeys(reasons))} if reasons else {}
    facts["kind"] = facts["cov_type"]  # its name before, for one release
    table.attrs |= facts | {"level": level, "interval": interval}
    return table


def _with_errors(fit: Fit, table: pd.DataFrame, matrix: pd.DataFrame, level: float) -> pd.DataFrame:
    layout, theta = layout_around(fit)
    estimate, variance = flat_values(layout, theta), torch.tensor(matrix.to_numpy()).diagonal()
    error, reach = variance.sqrt(), float(normal_quantile(0.5 + level / 2))
    low, high = flat_range(layout)
    lower, upper = inside(estimate, error, reach, low, high)
    z = torch.where(_may_be_zero(fit, layout) & (error > 0), estimate / error, torch.nan)
    columns = {
        "std_error": error,
        "z": z,
        "p_value": torch.special.erfc(z.abs() / 2**0.5),
        "lower": lower,
        "upper": upper,
    }
    places = {label: place for place, label in enumerate(matrix.index)}
    order = [places.get(label) for label in table.index]
    kept = [place for place in order if place is not None]
    shown = table if len(kept) == len(order) else table[[place is not None for place in order]]
    return shown.assign(**{name: values[kept].numpy() for name, values in columns.items()})


def _labelled(fit: Fit, layout: Layout) -> list[tuple[Site, list[tuple[str, str]]]]:
    """Each site with the labels of its rows in a table."""
    labels = site_labels(fit)
    return [(site, labels[name]) for name, site in layout.sites.items()]


def _may_be_zero(fit: Fit, layout: Layout) -> Tensor:
    """Whether a row of the table is a real number or a correlation, for which 0 is a hypothesis, `(M,)`."""
    parts = [
        torch.full((len(labels),), site.is_real or site.is_correlation)
        for site, labels in _labelled(fit, layout)
    ]
    return torch.cat(parts)


def _profiled(fit: Fit, level: float) -> tuple[pd.DataFrame, list[str]]:
    """The profile intervals, by (parameter, term), NaN where there is none, and the reasons for these."""
    coordinates, z = optimum(fit, "interval='profile'")
    objective = coordinates.objective
    if coordinates.kinked or not all(site.masked for site in objective.sites.values()):
        raise ModelError(
            "profile intervals need a smooth likelihood without priors, and this loss has corners or "
            "priors; use interval='wald', or `bootstrap`."
        )
    root = inverse_root(coordinates, information(coordinates, z))
    reach = float(normal_quantile(0.5 + level / 2))
    ends: dict[tuple[str, str], list[float]] = {}
    reasons = []
    for site, labels in _labelled(fit, objective.layout):
        for i, label in enumerate(labels):
            try:
                ends[label] = _ends(fit, coordinates, z, root, site, i, label, reach)
            except ModelError as error:
                ends[label] = [math.nan, math.nan]
                reasons.append(str(error))
    return pd.DataFrame.from_dict(ends, orient="index", columns=["lower", "upper"]), reasons


def _ends(
    fit: Fit,
    coordinates: Coordinates,
    z: Tensor,
    root: Tensor,
    site: Site,
    number: int,
    label: tuple[str, str],
    reach: float,
) -> list[float]:
    """The ends of one profile interval.

    Raises:
        ModelError: the parameter has joint constraints with others; its profile has no optimum.
    """
    if not alone(site) and site.size != 1:
        raise ModelError(
            f"the numbers of `{site.name}` constrain each other, so that none of them has a profile of its "
            "own; use interval='wald'."
        )
    place = site.place.start + (number if alone(site) else 0)
    profile = Profile(coordinates, z, root, place, f"`{label[0]}` {label[1]}".rstrip())
    theta, shown = coordinates.theta(z), []
    for side in (-reach, reach):
        moved = theta.clone()
        end = profile.end(side)
        moved[place] += end * profile.error
        value = float(flat_values(coordinates.objective.layout, moved)[_position(fit, label)])
        shown.append(value if math.isfinite(end) else _border_of(site, value))
    return sorted(shown)


def _border_of(site: Site, value: float) -> float:
    """The end of the support that a value reaches but for rounding; else the value."""
    support = site.support
    for name in ("lower_bound", "upper_bound"):
        end = float(getattr(support, name, math.inf))
        rounding = torch.finfo(torch.float64).tiny + torch.finfo(torch.float64).eps * abs(end)
        if math.isfinite(end) and abs(value - end) <= rounding:
            return end
    return value


def _position(fit: Fit, label: tuple[str, str]) -> int:
    return [each for labels in site_labels(fit).values() for each in labels].index(label)


def normal_quantile(share: float) -> Tensor:
    """The quantile of a standard normal variable."""
    return torch.special.ndtri(torch.tensor(share, dtype=torch.float64))
