"""Degenerate likelihoods: scale parameters that have collapsed to the floating-point precision of y."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from neglog.data import Data
from neglog.distributions.family import family_of, scale_of
from neglog.distributions.observed import latent
from neglog.distributions.parameters import in_dtype
from neglog.distributions.shapes import broadcast_shapes
from neglog.errors import UnboundedLikelihoodError
from neglog.likelihood.structure import may_collapse
from neglog.objective.objective import Objective
from neglog.objective.shrinkage import prior_terms
from neglog.predictors import RESPONSE

ROUNDINGS = 64
"""Largest scale, in units of the rounding error of y, that counts as collapsed."""
UNCERTIFIED_FACTOR = 8.0
"""The factor on `ROUNDINGS` for a solution without a certificate, where rounding stopped the solver."""
MAX_FIT_DISTANCE = 1e3
"""Largest distance between the mean and an exactly fitted row, in units of the collapsed scale."""
ZERO_RESPONSE_UNIT = 1e-100
"""Unit of a response of zeros, in the place of its rounding error."""
LOG_FALLS = (0.0, 50.0, 100.0)
"""Decreases of the logarithm of a scale between which the increases of minus the log prior are compared."""
MIN_GROWTH = 1e-3
"""Least growth of that increase, relative and in nats, which shows that it is faster than linear."""
ONE_OF_MODES = "the posterior has a mode there with"
"""The mode to which the spread of one component falls, in words: others may be higher."""
FAR_ROUNDINGS = 1e6
"""A spread above this, in units of the rounding of `y`, is far from it."""


def narrow_rows(response: Any, y: Tensor, times: float = 1.0) -> Tensor:
    """The rows whose scale is at most `times` the rounding error of `y`, `(N,)` or `(S, N)`."""
    if not may_collapse(response):
        return torch.zeros((), dtype=torch.bool)
    response = latent(response)  # a spread that bounds hold up may still go to 0
    try:
        # A component of a mixture may follow its rows exactly while the others keep the whole wide.
        spread_at = getattr(response, "spread_at", None)
        spread = _stddev(response, y.dtype) if spread_at is None else spread_at(y)
        endless = ~torch.isfinite(spread)  # of tails without a variance: as wide as the density is low
        spread = torch.where(endless, torch.exp(-response.log_prob(y)), spread) if endless.any() else spread
    except NotImplementedError:  # a distribution of the user's own, without a variance
        return torch.zeros((), dtype=torch.bool)
    narrow = spread <= times * _rounding(response, y)
    return narrow.expand(broadcast_shapes(narrow.shape, y.shape))


def _stddev(response: Any, dtype: torch.dtype) -> Tensor:
    """The standard deviation of a response; that of torch's StudentT has no parameters of mixed dtypes."""
    try:
        spread: Tensor = response.stddev
    except NotImplementedError:
        raise
    except RuntimeError:
        spread = in_dtype(response, dtype).stddev
    return spread


def exact_rows(response: Any, y: Tensor, times: float = 1.0) -> Tensor:
    """The rows onto which the density has collapsed, `(N,)` or `(S, N)`.

    A narrow density far from its row has not collapsed: such is a scale that has not yet grown from its
    initial value to that of a large y. Between bounds a density may collapse onto a row at a bound with its
    location far beyond it, whatever its scale.
    """
    return _collapsed_rows(response, y, times) | _tall_rows(response, y, times)


def _tall_rows(response: Any, y: Tensor, times: float) -> Tensor:
    """The rows at which a truncated density is above 1 over `times` the rounding error of `y`."""
    if not (family_of(response).truncates and may_collapse(response)):
        return torch.zeros((), dtype=torch.bool)
    return response.log_prob(y) >= -torch.log(times * _rounding(latent(response), y))


def _collapsed_rows(response: Any, y: Tensor, times: float) -> Tensor:
    """The rows onto which the density without the bounds has collapsed."""
    narrow, response = narrow_rows(response, y, times), latent(response)
    if not bool(narrow.any()) or hasattr(response, "spread_at"):
        return narrow
    try:
        away = (y - response.mean).abs()
    except NotImplementedError:
        return narrow
    return narrow & ~(away > MAX_FIT_DISTANCE * _rounding(response, y))


def _rounding(response: Any, y: Tensor) -> Tensor:
    """The rounding error of y: of each row's own for a y with a lower bound of 0, else of the largest y."""
    own = getattr(response.support, "lower_bound", None) == 0
    size = y.abs() if own else y.abs().amax(-1, keepdim=True)
    return torch.finfo(y.dtype).eps * ROUNDINGS * torch.where(size > 0, size, ZERO_RESPONSE_UNIT)


def check_bounded(
    objective: Objective, theta: Tensor, etas: Mapping[str, Tensor] | None = None, times: float = 1.0
) -> None:
    """Refuse a place where the spread has shrunk to `times` the rounding of the data.

    A density of a real `y` that follows some rows exactly can be made as high as one likes there; all
    that stops a solver is that residuals are rounded at 1e-16 of `y`.

    Raises:
        UnboundedLikelihoodError: naming the first such row.
    """
    if objective.structure.may_collapse:
        for _, part in objective.parts if etas is None else ((None, objective),):
            check_spread(objective, theta, part.response(theta, etas), part.data, times)


def is_spread(few: Objective, theta: Tensor) -> bool:
    """Whether the rows of a sample are all far from being followed exactly."""
    return not bool(narrow_rows(few.response(theta), few.data.y, FAR_ROUNDINGS).any())


def scale_site(objective: Objective) -> str | None:
    """The site that is the scale of all rows, if there is one."""
    try:
        return objective.structure.response.scale if objective.calls else None
    except (RuntimeError, ValueError, IndexError, TypeError):  # a model that does not run off its optimum
        return None


def check_spread(objective: Objective, theta: Tensor, response: Any, data: Data, times: float = 1.0) -> None:
    """Refuse a distribution of some rows, at `theta`, that follows some of them exactly.

    Raises:
        UnboundedLikelihoodError: naming the first of them.
    """
    y = data.y
    exact = exact_rows(response, y, times)
    if not bool(exact.any()):
        return
    row, count = int(exact.nonzero()[0]), int(_followed_rows(response, y, exact).sum())
    which = "every row" if count == len(exact) else f"{count} of {len(exact)} rows"
    raise collapsed(objective, theta, data, row, which)


def end_of_collapse(is_held: bool, mode: str = "the mode of the posterior has") -> str:
    """Where the spread of a density that follows rows exactly ends, if priors hold it and if not."""
    if not is_held:
        return "spread goes to 0 and the likelihood has no maximum"
    return (
        f"spread falls until the prior of its logarithm stops it: {mode} a spread below the rounding of `y`, "
        "which float64 cannot resolve"
    )


def collapsed(
    objective: Objective, theta: Tensor, data: Data, row: int = 0, which: str = "every row"
) -> UnboundedLikelihoodError:
    """The error of a density that follows some rows of `data` exactly, `row` the first of them."""
    end = end_of_collapse(is_spread_held(objective, theta))
    scale = scale_site(objective)
    known = f", or a known scale: pyro.condition(model, {{{scale!r}: torch.tensor(1.0)}})" if scale else ""
    return UnboundedLikelihoodError(
        f"`{objective.name}` fits {which} exactly (row {data.row(row)}: y = {data.response(row):g}), so its "
        f"{end}. Use fewer columns or more rows{known}."
    )


def _followed_rows(response: Any, y: Tensor, exact: Tensor) -> Tensor:
    """The rows whose density has collapsed, and those without a residual, whose scale is still decreasing."""
    response = latent(response)
    try:
        mean: Tensor = response.mean
    except NotImplementedError:
        return exact
    return exact | ((y - mean).abs() <= MAX_FIT_DISTANCE * _rounding(response, y))


def log_spread_of(response: Any) -> Tensor:
    """The mean logarithm of the scale of a response, or of its standard deviation where it has none."""
    response = latent(response)
    scale = scale_of(response)
    if not (isinstance(scale, Tensor) and scale.requires_grad):
        try:
            scale = response.stddev
        except NotImplementedError:  # a distribution of the user's own, without a variance
            scale = torch.ones(())
    return scale.log().mean()


def priors_along(
    log_spread: Tensor, leaf: Tensor, prior: Callable[[Tensor], float], falls: Sequence[float]
) -> list[float] | None:
    """Minus the log prior where the logarithm of a scale has decreased by each of `falls`.

    The parameters move along the gradient of the log scale; None where that is 0.
    """
    if not log_spread.requires_grad:
        return None
    (way,) = torch.autograd.grad(log_spread, leaf)
    if not bool(torch.isfinite(way).all() and way.any()):
        return None
    return [prior(leaf.detach() - fall * way / (way @ way)) for fall in falls]


def is_held(log_spread: Tensor, leaf: Tensor, prior: Callable[[Tensor], float], gain: float) -> bool:
    """Whether priors outweigh the likelihood as the scale goes to 0.

    The likelihood gains `gain` nats per unit by which the logarithm of the scale decreases. A prior density
    that is positive at 0, such as a HalfNormal, does not offset it; a Normal of the logarithm does,
    increasingly.

    Args:
        log_spread: the logarithm of the scale, as a function of the parameters `leaf`.
        leaf: the unconstrained parameters `(K,)`.
        prior: minus the log prior of unconstrained parameters.
        gain: the sum of the weights of the rows.
    """
    priors = priors_along(log_spread, leaf, prior, LOG_FALLS)
    if priors is None:
        return False
    near, middle, far = priors
    first, second = middle - near, far - middle
    return second > (1 + MIN_GROWTH) * max(first, 0.0) + MIN_GROWTH or second > gain * (
        LOG_FALLS[2] - LOG_FALLS[1]
    )


def is_spread_held(objective: Objective, theta: Tensor) -> bool:
    """Whether priors keep the spread of the response, small at `theta`, from going to 0."""
    if objective.layout.is_flat:
        return False
    leaf = theta.detach().requires_grad_()
    with torch.enable_grad():
        log_spread = log_spread_of(objective.few.at(leaf).sites[RESPONSE]["fn"])
    return is_held(
        log_spread,
        leaf,
        lambda at: prior_terms(objective, at, curved=False)[0],
        float(objective.data.count),
    )
