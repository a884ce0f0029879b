"""Collapsed components: those of a mixture whose scale goes to 0 at rows that they fit exactly."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from neglog.distributions.observed import latent
from neglog.errors import UnboundedLikelihoodError
from neglog.objective.objective import Objective
from neglog.objective.saturated import Spread
from neglog.objective.shrinkage import prior_terms
from neglog.objective.spread import ONE_OF_MODES, end_of_collapse, is_held, priors_along
from neglog.predictors import RESPONSE
from neglog.solvers.solution import UnresolvedModeError

NARROW_SHARE = 1e-4
"""Scale of a component, as a share of that of the response, below which its rows are examined."""
ROUNDINGS = 64
"""Largest residual that counts as 0, in units of the rounding error of the largest response."""
COMPONENT_LOG_FALLS = (0.0, 10.0, 20.0)
"""Decreases of the logarithm of a scale between which priors and likelihood are compared."""


def check_collapsed_components(objective: Objective, theta: Tensor) -> None:
    """Refuse a mixture with a component that has collapsed onto rows which its line can fit exactly.

    From there the log-likelihood increases by the number of these rows per unit by which the logarithm of the
    scale decreases, unless a prior of the scale vanishes at 0. A Normal prior of the logarithm bounds the
    density of the posterior, whose mode is then a spike on these rows.

    Raises:
        UnboundedLikelihoodError: naming the first of these rows.
    """
    if objective.data.y.dim() != 1 or not objective.structure.law.is_mixture:
        return
    at = objective.at(theta)
    response = latent(at.sites[RESPONSE]["fn"])
    y = objective.data.y
    sigmas = response.sigmas.detach().reshape(-1, response.sigmas.shape[-1])
    is_narrow = (sigmas <= NARROW_SHARE * y.std()).expand(len(y), -1)
    nearest = response.components(y).detach().argmax(dim=-1)
    design = next((call.design for call in at.affines if torch.equal(call.value, response.means)), None)
    for k in is_narrow.any(dim=0).nonzero()[:, 0].tolist():
        rows = ((nearest == k) & is_narrow[:, k]).nonzero()[:, 0]
        if design is not None and _is_followed(design[rows], y[rows]) and falls(objective, theta, k, rows):
            raise _refusal(objective, rows, is_component_held(objective, theta, k, rows))


def _refusal(objective: Objective, rows: Tensor, is_held: bool) -> UnboundedLikelihoodError:
    data, row = objective.data, int(rows[0])
    kind = UnresolvedModeError if is_held else UnboundedLikelihoodError
    return kind(
        f"`{objective.name}` fits {len(rows)} of {data.rows} rows exactly (row "
        f"{data.row(row)}: y = {data.response(row):g}): a component follows them alone, so its "
        f"{end_of_collapse(is_held, ONE_OF_MODES)}. Use fewer components, fewer columns or "
        f"more rows, or {Spread(objective, objective.calls[0]).advice()}."
    )


def _is_followed(design: Tensor, y: Tensor) -> bool:
    """Whether a line fits all of some rows exactly; False without rows."""
    if not len(y):
        return False
    columns = torch.cat([design.new_ones((len(design), 1)), design], dim=1)
    columns = columns / columns.norm(dim=0).clamp_min(1e-300)
    found = torch.linalg.lstsq(columns, y[:, None], driver="gelsd").solution[:, 0]
    residuals = (y - columns @ found).abs()
    return bool(residuals.amax() <= ROUNDINGS * torch.finfo(y.dtype).eps * y.abs().amax())


def falls(objective: Objective, theta: Tensor, component: int, rows: Tensor) -> bool:
    """Whether the likelihood outweighs the priors as the scale of a component falls to rounding errors."""
    if objective.layout.is_flat:
        return True
    leaf, log_sigma = _log_sigma(objective, theta, component)
    priors = priors_along(log_sigma, leaf, partial(_minus_log_prior, objective), COMPONENT_LOG_FALLS)
    if priors is None:
        return False
    gain = _gain(objective, rows)
    steps = zip(COMPONENT_LOG_FALLS[1:], COMPONENT_LOG_FALLS, priors[1:], priors, strict=False)
    return all(after - before < gain * (t - s) for t, s, after, before in steps)


def is_component_held(objective: Objective, theta: Tensor, component: int, rows: Tensor) -> bool:
    """Whether priors bound the density as the scale of a component goes to 0, far as they let it fall."""
    if objective.layout.is_flat:
        return False
    leaf, log_sigma = _log_sigma(objective, theta, component)
    return is_held(log_sigma, leaf, partial(_minus_log_prior, objective), _gain(objective, rows))


def _minus_log_prior(objective: Objective, theta: Tensor) -> float:
    return prior_terms(objective, theta, curved=False)[0]


def _log_sigma(objective: Objective, theta: Tensor, component: int) -> tuple[Tensor, Tensor]:
    """The parameters as a leaf, and the mean logarithm of the scale of a component as a function of it."""
    leaf = theta.detach().requires_grad_()
    with torch.enable_grad():
        sigmas = latent(objective.few.at(leaf).sites[RESPONSE]["fn"]).sigmas
        return leaf, sigmas.reshape(-1, sigmas.shape[-1])[:, component].log().mean()


def _gain(objective: Objective, rows: Tensor) -> float:
    """The gain of the log-likelihood as the logarithm of the scale of a component on some rows falls by 1."""
    weights = objective.data.weights
    return float(len(rows)) if weights is None else float(weights[rows].sum())
