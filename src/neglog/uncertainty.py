"""Uncertainty around the optimum: the covariance of the estimates, and the table of a fit."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor
from torch.distributions.transforms import IndependentTransform

from neglog.coordinates import Coordinates
from neglog.errors import DataError, ModelError
from neglog.fit import DENSE, Fit, data_of
from neglog.objective import Objective, kinked_sites
from neglog.solvers.solution import scaled_eigen

CHOLESKY = "_cholesky"
"""A site of this ending is the factor of a correlation matrix; tables show the correlations."""


def covariance(fit: Fit) -> pd.DataFrame:
    """The asymptotic covariance of the estimates, from the curvature of the loss at the optimum.

    The inverse of the observed information (the Hessian of the joint NLL; for `map_estimate`, of the
    posterior: its curvature, not a sampling variance), by the delta method on the parameters themselves.
    There is no Jacobian shift: the standard error of a Gaussian's sigma is sigma / √(2n). A Laplace density
    has no curvature in its location; there the information that the model expects stands in, 1 / scale² a
    row, so the standard errors are scale · sqrt(diag((XᵀX)⁻¹)).

    Returns:
        A data frame `(K, K)` with rows and columns indexed by (parameter, term).

    Raises:
        ModelError: the fit did not converge, its information is singular, its prior has corners (lasso), or
            it has more than 200 parameters.
        DataError: the fit was read from disk, without its data.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.empty((4, 0), dtype=torch.float64)
    >>> fit = mle(models.gaussian, x, torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64))
    >>> float(covariance(fit).iloc[0, 0]) - fit.params["sigma"].item() ** 2 / 4 < 1e-12
    True
    """
    objective, unconstrained = _unconstrained_covariance(fit)
    jacobian = _jacobian(objective, objective.theta(fit.params))
    matrix = jacobian @ unconstrained @ jacobian.T
    index = _index(fit, objective)
    return pd.DataFrame(matrix.numpy(), index=index, columns=index)


def summary(fit: Fit, *, level: float = 0.95) -> pd.DataFrame:
    """The table of a fit: one row for each (parameter, term).

    Columns: estimate, std_error, z, p_value (two-sided, of the hypothesis that the parameter is 0), lower,
    upper (Wald interval at `level`). Terms are ``Intercept``, the columns' names, or empty for a scalar. A
    positive parameter has an interval that is symmetric on the log scale, and no z or p_value, since it
    cannot be 0; a correlation has Fisher's. Where `covariance` refuses the fit, the estimates stand alone.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> fit = mle(models.gaussian, x, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    >>> summary(fit)["estimate"].round(3).to_dict()
    {('mean', 'Intercept'): 0.5, ('mean', 'x0'): 2.5, ('sigma', ''): 0.707}
    """
    if not 0 < level < 1:
        raise ModelError(f"`level` must be between 0 and 1; it is {level}.")
    rows = [
        (label, value) for site, labels in _labels(fit).items() for label, value in _values(fit, site, labels)
    ]
    index = pd.MultiIndex.from_tuples([label for label, _ in rows], names=["parameter", "term"])
    table = pd.DataFrame({"estimate": [value for _, value in rows]}, index=index)
    try:
        return _with_errors(fit, table, level).loc[_display_order(table)]
    except (DataError, ModelError):
        return table.loc[_display_order(table)]


def _with_errors(fit: Fit, table: pd.DataFrame, level: float) -> pd.DataFrame:
    objective, unconstrained = _unconstrained_covariance(fit)
    theta = objective.theta(fit.params)
    jacobian = _jacobian(objective, theta)
    estimate = torch.tensor(table["estimate"].to_numpy())
    error = (jacobian @ unconstrained @ jacobian.T).diagonal().sqrt()
    reach = torch.special.ndtri(torch.tensor(0.5 + level / 2, dtype=theta.dtype))
    spread = reach * unconstrained.diagonal().sqrt()
    real, correlation, bounded = _kinds(fit, objective)
    lower, upper = estimate - reach * error, estimate + reach * error
    ends = [_flat(objective, theta - spread), _flat(objective, theta + spread)]
    lower[bounded], upper[bounded] = torch.minimum(*ends)[bounded], torch.maximum(*ends)[bounded]
    r, fisher = estimate[correlation], error[correlation] * reach / (1 - estimate[correlation].square())
    lower[correlation], upper[correlation] = (r.atanh() - fisher).tanh(), (r.atanh() + fisher).tanh()
    z = torch.where(real | correlation, estimate / error, torch.nan)
    columns = {
        "std_error": error,
        "z": z,
        "p_value": torch.special.erfc(z.abs() / 2**0.5),
        "lower": lower,
        "upper": upper,
    }
    return table.assign(**{name: values.numpy() for name, values in columns.items()})


def _kinds(fit: Fit, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """Which entries of the table are real numbers, correlations, or bounded each by itself, `(K,)` each."""
    parts = []
    for (name, site), labels in zip(objective.sites.items(), _labels(fit).values(), strict=True):
        transform = site.transform
        while isinstance(transform, IndependentTransform):
            transform = transform.base_transform
        alone = not site.is_real and transform.domain.event_dim == 0
        kinds = torch.tensor([site.is_real, name.endswith(CHOLESKY), alone])
        parts.append(kinds.expand(len(labels), 3))
    real, correlation, bounded = torch.cat(parts).T
    return real, correlation, bounded


def _display_order(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Each predictor's intercept before its slopes."""
    parameters = list(dict.fromkeys(parameter for parameter, _ in table.index))
    return sorted(table.index, key=lambda label: (parameters.index(label[0]), label[1] != "Intercept"))


def _labels(fit: Fit) -> dict[str, list[tuple[str, str]]]:
    labels = {}
    for site, value in fit.params.items():
        parameter, _, part = site.rpartition(".")
        names, outputs = fit.terms(parameter), fit.outputs.get(parameter, (parameter,))
        many = (len(outputs),) if parameter in fit.outputs else ()
        named = value.dim() == 1 and len(value) == len(fit.responses)
        if part == "bias" and tuple(value.shape) == many:
            labels[site] = [(output, "Intercept") for output in outputs]
        elif part == "weight" and names is not None and tuple(value.shape) == (*many, len(names)):
            labels[site] = [(output, name) for output in outputs for name in names]
        elif value.dim() == 0:
            labels[site] = [(site, "")]
        elif named:
            labels[site] = [(site, response) for response in fit.responses]
        elif site.endswith(CHOLESKY):
            components = fit.responses or tuple(map(str, range(len(value))))
            pairs = zip(*_below(value), strict=True)
            labels[site] = [
                (site.removesuffix(CHOLESKY), f"{components[i]},{components[j]}") for i, j in pairs
            ]
        else:
            places = torch.cartesian_prod(*map(torch.arange, value.shape)).reshape(value.numel(), -1)
            labels[site] = [(site, ",".join(map(str, place))) for place in places.tolist()]
    return labels


def _values(fit: Fit, site: str, labels: list[tuple[str, str]]) -> list[tuple[tuple[str, str], float]]:
    return list(zip(labels, _shown(site, fit.params[site]).tolist(), strict=True))


def _below(matrix: Tensor) -> tuple[list[int], list[int]]:
    """The rows and columns of the entries below the diagonal."""
    rows, columns = torch.tril_indices(len(matrix), len(matrix), offset=-1).tolist()
    return rows, columns


def _shown(site: str, value: Tensor) -> Tensor:
    """What a table shows of a site: its values, or of the factor of a matrix what the matrix holds."""
    return (value @ value.mT)[_below(value)] if site.endswith(CHOLESKY) else value.reshape(-1)


def _index(fit: Fit, objective: Objective) -> pd.MultiIndex:
    labels = _labels(fit)
    return pd.MultiIndex.from_tuples(
        [label for site in objective.sites for label in labels[site]], names=["parameter", "term"]
    )


def _flat(objective: Objective, theta: Tensor) -> Tensor:
    return torch.cat([_shown(name, value) for name, value in objective.params(theta).items()])


@torch.enable_grad()
def _jacobian(objective: Objective, theta: Tensor) -> Tensor:
    """The derivatives of the parameters in theta."""
    return torch.autograd.functional.jacobian(lambda t: _flat(objective, t), theta)


def _unconstrained_covariance(fit: Fit) -> tuple[Objective, Tensor]:
    """The covariance in theta, by way of the coordinates in which the information is well conditioned."""
    data_of(fit)
    assert fit.objective is not None
    assert fit.coordinates is not None
    coordinates = fit.coordinates
    if not fit.converged:
        raise ModelError(f"there are no standard errors without an optimum: {fit.status}.")
    if kinked_sites(fit.objective):
        raise ModelError(
            "a prior with corners (lasso) has no curvature where it matters, so no standard errors."
        )
    if fit.k > DENSE:
        raise ModelError(f"the Hessian of {fit.k} parameters is not formed; the limit is {DENSE}.")
    z = coordinates.z(fit.objective.theta(fit.params))
    information = _kinked_information(coordinates, z) if coordinates.kinked else coordinates.hessian(z)
    values, vectors, scale = scaled_eigen(information)
    if values.numel() and values.min() < 1e-12 * values.max():
        raise ModelError("the information is singular at the optimum, so some parameters are not identified.")
    half = coordinates.directions(scale[:, None] * vectors * values.rsqrt())
    return fit.objective, half @ half.T


def _kinked_information(coordinates: Coordinates, z: Tensor) -> Tensor:
    """The Hessian, with the expected information of the Laplace location in the place of its 0."""
    if not coordinates.polyhedral:
        raise ModelError(
            "the loss has corners that are not in a linear predictor, so there are no standard errors."
        )
    if coordinates.response_corner is not None and coordinates.response_corner.bounds:
        raise ModelError("a censored response with corners has no information of its own; bootstrap it.")
    information = coordinates.signed(coordinates.residuals(z).sign()).hessian(z)
    jacobian = coordinates.jacobian(z)
    located = (jacobian != 0).any(dim=0)
    information[located] = 0.0
    information[:, located] = 0.0
    return information + jacobian.T @ (coordinates.kink_information()[:, None] * jacobian)
