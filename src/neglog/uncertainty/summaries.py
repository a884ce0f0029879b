"""Summaries: the table of a fit."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from neglog.arguments import choice, share
from neglog.batches.precision import alone
from neglog.errors import DataError, ModelError
from neglog.fitting.fit import Fit
from neglog.isolation import isolated
from neglog.labels import CHOLESKY, estimates, flat_values, jacobian, site_labels
from neglog.objective.objective import Objective, Site
from neglog.uncertainty.covariances import Kind, covariance
from neglog.uncertainty.information import around, information, inverse_root, optimum
from neglog.uncertainty.profiles import Profile

Interval = Literal["wald", "profile"]


@isolated
def summary(
    fit: Fit, *, level: float = 0.95, kind: Kind = "observed", interval: Interval = "wald", **settings: Any
) -> pd.DataFrame:
    """The table of a fit: one row for each (parameter, term).

    Columns: estimate, std_error, z, p_value (two-sided, of the hypothesis that the parameter is 0), lower,
    upper (an interval at `level`). Terms are ``Intercept``, the columns' names, or empty for a scalar. A
    positive parameter has an interval that is symmetric on the log scale, and no z or p_value, since it
    cannot be 0; a correlation has Fisher's. Of a network (`on_features`) the table holds its heads and
    constants, with standard errors given the features.

    ``attrs`` of the table holds nll, loss, aic, aicc, bic, n, k, converged, status, level, interval and kind:
    what the standard errors are, such as ``"expected"`` for a loss without curvature. Where `covariance`
    refuses the fit, the estimates stand alone, kind is None, and ``attrs["reason"]`` says why.

    Args:
        fit: a fit of `mle` or `map_estimate`.
        level: of the intervals.
        kind: of the standard errors, as `covariance` has them; another than ``"observed"`` is insisted on.
        interval: ``"wald"``, from the standard errors; or ``"profile"``: the values that a likelihood-ratio
            test at 1 - level does not reject, all other parameters refitted. It may be open, where the
            likelihood never falls so low: then it ends at infinity, or at the border of the parameter.
        settings: `groups`, `bandwidth`, `draws` and `seed` of `covariance`.

    Raises:
        ModelError: `level` is not between 0 and 1; no such kind or interval; `covariance` refuses a kind that
            was asked for. For ``"profile"``: a fit with priors, a loss with corners, a parameter that is not
            one number on the real line (shares, cutpoints), a profile without an optimum.
        DataError: as `covariance`, for a kind that was asked for.

    Source: Venzon & Moolgavkar (1988), A method for computing profile-likelihood-based confidence intervals.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> fit = mle(models.gaussian, x, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    >>> summary(fit)["estimate"].round(3).to_dict()
    {('mean', 'Intercept'): 0.5, ('mean', 'x0'): 2.5, ('sigma', ''): 0.707}
    """
    level = share("level", level)
    choice("interval", interval, ("wald", "profile"))
    table = estimates(fit).to_frame()
    facts: dict[str, Any] = {
        name: getattr(fit, name)
        for name in ("nll", "loss", "aic", "aicc", "bic", "n", "k", "converged", "status")
    }
    try:
        matrix = covariance(fit, kind, **settings)
        table, facts["kind"] = _with_errors(fit, table, matrix, level), matrix.attrs["kind"]
    except (DataError, ModelError) as error:
        if kind != "observed" or interval != "wald" or settings:
            raise
        facts |= {"kind": None, "reason": str(error)}
    if interval == "profile":
        ends = _profiled(fit, level)
        table["lower"], table["upper"] = ends["lower"], ends["upper"]
    table.attrs |= facts | {"level": level, "interval": interval}
    return table


def _with_errors(fit: Fit, table: pd.DataFrame, matrix: pd.DataFrame, level: float) -> pd.DataFrame:
    objective = around(fit)[0].objective
    theta = objective.theta(fit.params)
    estimate, variance = flat_values(objective, theta), torch.tensor(matrix.to_numpy()).diagonal()
    error, reach = variance.sqrt(), float(normal_quantile(0.5 + level / 2))
    real, correlation, bounded = _kinds(fit, objective)
    lower, upper = estimate - reach * error, estimate + reach * error
    spread = reach * _unconstrained_errors(fit, objective, theta, error)
    ends = [flat_values(objective, theta - spread), flat_values(objective, theta + spread)]
    lower[bounded], upper[bounded] = torch.minimum(*ends)[bounded], torch.maximum(*ends)[bounded]
    r, fisher = estimate[correlation], error[correlation] * reach / (1 - estimate[correlation].square())
    lower[correlation], upper[correlation] = (r.atanh() - fisher).tanh(), (r.atanh() + fisher).tanh()
    z = torch.where((real | correlation) & (error > 0), estimate / error, torch.nan)
    columns = {
        "std_error": error,
        "z": z,
        "p_value": torch.special.erfc(z.abs() / 2**0.5),
        "lower": lower,
        "upper": upper,
    }
    found = pd.DataFrame({name: values.numpy() for name, values in columns.items()}, index=matrix.index)
    return table.loc[[label for label in table.index if label in found.index]].join(found)


def _unconstrained_errors(fit: Fit, objective: Objective, theta: Tensor, error: Tensor) -> Tensor:
    """The standard errors `(K,)` in theta of what is one number there and one here; 0 for all else."""
    slopes, spread, at = jacobian(objective, theta), torch.zeros_like(theta), 0
    for site, labels in _labelled(fit, objective):
        if alone(site):
            rows = slice(at, at + len(labels))
            spread[site.place] = error[rows] / slopes[rows, site.place].diagonal().abs()
        at += len(labels)
    return spread


def _labelled(fit: Fit, objective: Objective) -> list[tuple[Site, list[tuple[str, str]]]]:
    """Each site of the objective with the labels of what a table shows of it."""
    labels = site_labels(fit)
    return [(site, labels[name]) for name, site in objective.sites.items()]


def _kinds(fit: Fit, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """Which entries of the table are real numbers, correlations, or bounded each by itself, `(K,)` each."""
    parts = []
    for site, labels in _labelled(fit, objective):
        kinds = torch.tensor([site.is_real, site.name.endswith(CHOLESKY), not site.is_real and alone(site)])
        parts.append(kinds.expand(len(labels), 3))
    real, correlation, bounded = torch.cat(parts).T
    return real, correlation, bounded


def _profiled(fit: Fit, level: float) -> pd.DataFrame:
    """The profile intervals, by (parameter, term)."""
    coordinates, z = optimum(fit)
    objective = coordinates.objective
    if coordinates.kinked or not all(site.masked for site in objective.sites.values()):
        raise ModelError(
            "a profile interval is of a likelihood that is smooth, and this loss has corners or priors; use "
            "interval='wald', or `bootstrap`."
        )
    root, reach = (
        inverse_root(coordinates, information(coordinates, z)),
        float(normal_quantile(0.5 + level / 2)),
    )
    theta, ends = coordinates.theta(z), {}
    for site, labels in _labelled(fit, objective):
        if not alone(site) and not (site.size == 1 and len(labels) == 1):
            raise ModelError(
                f"the numbers of `{site.name}` are bound to each other, so they have no profiles one by one; "
                "use interval='wald'."
            )
        for i, label in enumerate(labels):
            place = site.place.start + i
            profile = Profile(coordinates, z, root, place, f"`{label[0]}` {label[1]}".rstrip())
            shown = []
            for side in (-reach, reach):
                moved = theta.clone()
                moved[place] += profile.end(side) * profile.error
                shown.append(float(flat_values(objective, moved)[_position(fit, label)]))
            ends[label] = sorted(shown)
    return pd.DataFrame.from_dict(ends, orient="index", columns=["lower", "upper"])


def _position(fit: Fit, label: tuple[str, str]) -> int:
    return [each for labels in site_labels(fit).values() for each in labels].index(label)


def normal_quantile(share: float) -> Tensor:
    """The quantile of a standard normal variable."""
    return torch.special.ndtri(torch.tensor(share, dtype=torch.float64))
