"""Maximum likelihood of one model on each of many data sets, computed together and certified one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from neglog.aliases import former_argument, former_attribute
from neglog.arguments import choice, flag, share
from neglog.batches.existence import have_marked_rows
from neglog.batches.layout import (
    Kink,
    Layout,
    Square,
    in_theta,
    laid_out,
    lay_out,
    single_objective,
)
from neglog.batches.likelihoods import Likelihoods
from neglog.batches.offsets import offsets_of
from neglog.batches.optima import Optima, optima
from neglog.batches.precision import covariances, natural_errors, natural_interval
from neglog.batches.stack import Stack, prepare_stack
from neglog.calls import public
from neglog.conversion import named_values
from neglog.errors import ConvergenceWarning, ModelError, warn
from neglog.fitting.marked import check_marked_rows
from neglog.fitting.start import starting_point
from neglog.handlers import Model, flat
from neglog.inputs.formulas import is_formula
from neglog.inputs.given import Inputs, given, offset_model
from neglog.isolation import isolated
from neglog.layers import current_names
from neglog.likelihood.sites import Site
from neglog.models.named import model_of
from neglog.objective.objective import Objective
from neglog.persistence import ReadOnly
from neglog.predictors import RESPONSE
from neglog.signatures import roles_of
from neglog.tracing import model_name, with_sizes

MAX_STACKED_NUMBERS = 20_000_000
"""Largest size of a chunk of data sets, in numbers: data sets times rows times columns."""


@public
@dataclass(frozen=True, eq=False)
class BatchFit(ReadOnly):
    """Maximum likelihood estimates of one model on S data sets.

    Attributes:
        model: the fitted model, ``flat(model)``.
        params: site name -> estimates `(S, *shape)`, on the support of the site, in the units of the data.
        nll: negative log-likelihood of each data set, in nats, with weights and every constant, `(S,)`.
        converged: whether an optimum was certified, `(S,)`. Where it is False (separated classes, an exact
            fit, dependent columns) the parameters are finite but are no estimates; where a constant tends
            to its boundary, the coefficients are those of the limit.
        n_iter: number of iterations of the solver, `(S,)`.
        covariance: covariances of the unconstrained parameters `(S, K, K)`, in the order of `sites`, or None:
            the inverse of the observed information, as in `neglog.covariance`. Variances are infinite for
            data sets without an optimum or with a singular information matrix.
        sites: the sites, with the transforms from their unconstrained values to their supports.
    """

    model: Model = field(repr=False)
    params: Mapping[str, Tensor]
    nll: Tensor
    converged: Tensor
    n_iter: Tensor
    covariance: Tensor | None = field(default=None, repr=False)
    sites: tuple[Site, ...] = field(default=(), repr=False)

    steps = former_attribute("steps", "n_iter")

    @property
    @isolated
    def standard_errors(self) -> dict[str, Tensor]:
        """Site name -> standard errors `(S, *shape)` on the support of the site, by the delta method.

        Raises:
            ModelError: the fit was made without `cov_type`.
        """
        theta, covariance = self._known()
        return {site.name: natural_errors(site, theta, covariance) for site in self.sites}

    @isolated
    def interval(self, level: float = 0.95) -> dict[str, tuple[Tensor, Tensor]]:
        """Site name -> lower and upper ends `(S, *shape)` of Wald intervals, as in `summary`.

        Raises:
            ModelError: `level` is not between 0 and 1; the fit was made without `cov_type`.
        """
        level = share("level", level)
        theta, covariance = self._known()
        reach = float(torch.special.ndtri(torch.tensor(0.5 + level / 2, dtype=torch.float64)))
        return {site.name: natural_interval(site, theta, covariance, reach) for site in self.sites}

    def _known(self) -> tuple[Tensor, Tensor]:
        if self.covariance is None:
            raise ModelError("this fit has no covariances; call `mle_batch` with cov_type='observed'.")
        parts = [site.transform.inv(self.params[site.name]) for site in self.sites]
        return torch.cat([part.reshape(len(self.nll), -1) for part in parts], 1), self.covariance


def _cov_type(covariance: Any) -> str | None:
    """The `cov_type` of the former flag `covariance`."""
    return "observed" if flag("covariance", covariance) else None


@former_argument("covariance", "cov_type", _cov_type)
@isolated
def mle_batch(
    model: Model | str,
    x: Any,
    y: Any,
    *,
    weights: Any = None,
    start: Mapping[str, Any] | None = None,
    cov_type: Literal["observed"] | None = None,
    **keywords: Any,
) -> BatchFit:
    """Maximum likelihood of one model on S data sets of N rows: the estimates of `mle`, in one computation.

    The model is evaluated for all data sets together, as a function of its linear predictors, and Newton's
    method runs on each data set until the criterion of `neglog.solvers.Newton` is met. `laplace` and
    `quantile` with one scale are linear programmes: an interior-point method finds a vertex, which the
    subgradient condition certifies.

    Args:
        model: a Pyro function `(x, y=None)` with an observation site ``y`` `(N,)`, whose likelihood is a
            function of linear predictors with fixed designs and of constants.
        x: a design `(N, P)` that all data sets share, or `(S, N, P)`; or a mapping from predictor name to
            either. Without an intercept column. Or a formula, as for `mle`, whose designs and response all
            data sets share; they differ in their weights.
        y: responses `(S, N)`, or `(N,)` if all data sets share them, as in a bootstrap by weights; or the
            table of the formula.
        weights: frequency weights `(S, N)` or `(N,)`, or None. In rows of weight 0 the values of arguments
            that are not shared are ignored.
        start: site name -> initial value for all data sets, as in `mle`. By default each data set starts at
            its null model; data sets that differ only in their weights start at the optimum for the mean
            of the weights.
        cov_type: ``"observed"`` for covariances, standard errors and intervals by the observed information,
            or None. For other kinds of covariances, loop over `mle`.
        keywords: further row-wise arguments of the model, such as ``exposure``, `(N,)` or `(S, N)`.

    Raises:
        DataError: as `mle`, with the number of the data set; or no argument has an axis of data sets.
        ModelError: the model is a network, has a vector-valued response, or has a nonsmooth density whose
            scale depends on the input. Loop over `mle`.
        SingularDesignError: a design that all data sets share lacks full rank.
        UnboundedLikelihoodError: a column of the design of a scale is nonzero only in a few rows.

    Warns:
        ConvergenceWarning: the optimum of some data set was not certified.

    >>> import torch
    >>> from neglog import models
    >>> x = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    >>> y = torch.tensor([[1.0, 2.0, 2.5, 4.0, 4.5], [0.0, 1.0, 0.0, 2.0, 1.0]], dtype=torch.float64)
    >>> fit = mle_batch(models.gaussian, x, y)
    >>> fit.params["mean.weight"]
    tensor([[3.6000],
            [1.2000]], dtype=torch.float64)
    """
    inputs = _inputs(model, x, y, keywords)
    model, x, y, keywords = inputs.model, inputs.x, inputs.y, dict(inputs.keywords)
    if cov_type is not None:
        choice("cov_type", cov_type, ("observed",))
    _check_single_response(model, y)
    x = current_names(model, x, "x") if isinstance(x, Mapping) else x
    start = None if start is None else current_names(model, named_values("start", start), "start")
    stack = prepare_stack(x, y, weights=weights, roles=roles_of(model, keywords, mle_batch), **keywords)
    fit = _fit(with_sizes(flat(model), stack.y.reshape(-1)), stack, start, cov_type is not None)
    if not bool(fit.converged.all()):
        missed = (~fit.converged).nonzero()[:, 0]
        warn(
            f"`{model_name(model)}`: no optimum was certified for {len(missed)} of {stack.count} data sets, "
            f"the first of them {int(missed[0])}; see `converged`.",
            ConvergenceWarning,
        )
    return fit


def _check_single_response(model: Model, y: Any) -> None:
    """Refuse a vector-valued response."""
    if isinstance(y, np.ndarray | torch.Tensor) and y.ndim > 2:
        raise ModelError(
            f"`{model_name(model)}` got a `y` of shape {tuple(y.shape)}: vector-valued responses cannot be "
            "fitted to many data sets at once. Loop over `mle`."
        )


def _inputs(model: Model | str, x: Any, y: Any, keywords: Mapping[str, Any]) -> Inputs:
    """The arguments as they were given, or as the arrays of a formula and its table."""
    if is_formula(x):
        return given(mle_batch, model, x, y, keywords=keywords)
    return Inputs(offset_model(model_of(model), keywords), x, y, keywords=keywords)


def _fit(model: Model, stack: Stack, start: Mapping[str, Any] | None, covariance: bool) -> BatchFit:
    """The fit of data sets without their offsets, which its intercepts have."""
    layout, shape = lay_out(model, stack)
    offsets = offsets_of(layout.objective, stack, start)
    if offsets is not None:
        stack = offsets.removed(stack)
        layout, shape = lay_out(model, stack)
    if stack.shared_designs and stack.counted is None:
        check_marked_rows(layout.objective)
    fit = _batch(layout, shape, stack, start, covariance)
    fit = replace(fit, converged=fit.converged & ~have_marked_rows(layout, stack, fit.converged))
    return fit if offsets is None else replace(fit, params=MappingProxyType(offsets.restored(fit.params)))


def fitted_again(
    objective: Objective, start: Mapping[str, Any], stack: Stack
) -> tuple[Mapping[str, Tensor], Tensor]:
    """Estimates of data sets that share the design of an objective, from `start`, without warnings.

    Returns:
        Site name -> estimates `(S, *shape)`, and whether an optimum was certified, `(S,)`.

    Raises:
        ModelError: the model cannot be fitted in a batch.
    """
    own = stack.y is objective.data.y and objective.data.weights is None
    bare = objective if own else single_objective(objective.model, stack, 0)
    fit = _batch(*laid_out(bare, stack), stack, start, covariance=False, valued=False)
    return fit.params, fit.converged


def _batch(
    layout: Layout,
    shape: Kink | Square | None,
    stack: Stack,
    start: Mapping[str, Any] | None,
    covariance: bool,
    valued: bool = True,
) -> BatchFit:
    """Fit all data sets in chunks. With `valued=False` the log-likelihoods may be left out (0)."""
    width = 1 if stack.shared_designs else 1 + max(call.design.shape[1] for call in layout.calls)
    parts = torch.arange(stack.count).split(max(1, MAX_STACKED_NUMBERS // (stack.rows * width)))
    begin = None if start is None else starting_point(layout.objective, start)
    found = [_fitted(layout, shape, stack, index, begin, valued) for index in parts]
    theta, nll, converged, steps = (torch.cat(part) for part in zip(*found, strict=True))
    converged = converged & torch.isfinite(nll) & torch.isfinite(theta).all(-1)
    params = {
        site.name: site.transform(theta[:, site.place].reshape(stack.count, *site.unconstrained))
        for site in layout.objective.sites.values()
    }
    matrices = None
    if covariance:
        matrices = torch.cat(
            [
                covariances(layout, shape, in_theta(layout, stack.take(i)), theta[i], converged[i])
                for i in parts
            ]
        )
    sites = tuple(layout.objective.sites.values())
    return BatchFit(layout.objective.model, MappingProxyType(params), nll, converged, steps, matrices, sites)


def _fitted(
    layout: Layout,
    shape: Kink | Square | None,
    stack: Stack,
    index: Tensor,
    start: Tensor | None,
    valued: bool,
) -> Optima:
    """Estimates theta `(S, K)`, nll, certification and number of iterations of the data sets `index`."""
    likelihoods = in_theta(layout, stack.take(index) if len(index) < stack.count else stack)
    if not likelihoods.weights_alone:  # otherwise y is that of the first objective, which has verified it
        _check_response(layout, likelihoods, stack, index)
    return optima(layout, shape, likelihoods, start, valued)


def _check_response(layout: Layout, likelihoods: Likelihoods, stack: Stack, index: Tensor) -> None:
    """Verify that every y is in the support of the model.

    Raises:
        DataError: naming the data set and the row.
    """
    z = layout.initial(likelihoods.stack.count)
    with torch.no_grad():
        at = likelihoods.at(likelihoods.etas(z), likelihoods.params(z))
        right = at.sites[RESPONSE]["fn"].support.check(likelihoods.stack.y)
        right = right & torch.isfinite(likelihoods.density(at))
    for s in (~right.all(-1)).nonzero()[:1, 0].tolist():
        single_objective(layout.objective.model, stack, int(index[s]))  # raises the error, with its row
