"""Estimates: a model and data in, a frozen `Fit` out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neglog.fitting.fit import Fit
from neglog.fitting.held_out import reading
from neglog.fitting.pipeline import fitted
from neglog.handlers import Model, flattened
from neglog.inputs.given import given
from neglog.isolation import isolated
from neglog.training_objectives import inside


@isolated
def mle(
    model: Model | str,
    x: Any,
    y: Any = None,
    *,
    data: Any = None,
    weights: Any = None,
    groups: Any = None,
    drop_missing: bool = False,
    solver: Any = None,
    start: Mapping[str, Any] | None = None,
    progress: bool = False,
    checkpoint: Any = None,
    num_rows: int | None = None,
    **keywords: Any,
) -> Fit:
    """Maximum likelihood: the model with its priors masked, under a Delta guide.

    Args:
        model: a Pyro function `(x, y=None)` with an observation site ``y``; or the name of one of
            `neglog.models`, such as ``"poisson"``.
        x: a design `(N, P)` without an intercept column, or a mapping from predictor name to its own design;
            or a formula, ``"y ~ x + C(g)"``, or a mapping from predictor name to its own. For a network an
            input of any shape; or a `torch.utils.data.Dataset` or `DataLoader` of pairs ``(x, y)``, or of
            mappings with ``x``, ``y``, ``weights`` and row-wise arguments, which `Adam` and others that take
            gradient steps read a batch at a time.
        y: the response, `(N,)` (`(N, D)` for a vector-valued model); with a formula, its table.
        data: the table of a formula, as a keyword: a data frame, or a mapping from names of columns to
            values.
        weights: frequency weights `(N,)`, or None: 2 is the row twice, 0 the row absent. With a formula,
            weights, groups and other row-wise arguments may be names of columns.
        groups: the group of each row, `(N,)`: kept for ``cov_type="cluster"`` and the bootstrap, no part of
            the model.
        drop_missing: with a formula, whether to leave out rows with a missing value in a column in use.
        solver: one of `neglog.solvers`, or None to choose: `Newton` for linear predictors, `TrustRegion` for
            up to 200 parameters without, `InteriorPoint` for `laplace` and `quantile` with one scale,
            `ProximalNewton` for Laplace and `ElasticNet` priors, `Continuation` where other absolute values
            give the loss its corners, `VariableProjection` for a network with priors whose loss is convex in
            all its heads, `LBFGS` for another (finished by `Newton` where priors hold up to 200 parameters),
            and `Adam` where parameters times rows pass 10⁸ or a network's loss has corners.
        start: site name -> initial value; other sites start at the null model.
        progress: show a progress bar if the solver takes long.
        checkpoint: a file, or `neglog.Checkpoint`, where the state of `Adam`, `SVI`, `LBFGS`,
            `VariableProjection` and a `Chain` of them is kept: after `kill -9` the same call goes on from
            there and ends at the same numbers. Of other solvers, and of a fit that has ended, the
            end is kept.
        num_rows: the number of rows of a data set or a loader without a length, by which the likelihood of a
            batch is scaled up.
        keywords: further row-wise arguments of the model, such as ``exposure``, `(N,)`.

    Raises:
        DataError: invalid data: NaN, shapes, lengths, types, values outside the support of the model.
        ModelError: a site, predictor or start that the model does not have.
        SingularDesignError: coefficients that the design does not identify.
        UnboundedLikelihoodError: the likelihood has no maximum.

    Warns:
        ConvergenceWarning: the solver stopped before an optimum was certified.

    >>> import torch
    >>> from neglog import models
    >>> x = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    >>> fit = mle(models.gaussian, x, torch.tensor([1.0, 2.0, 2.5, 4.0, 4.5], dtype=torch.float64))
    >>> fit.converged, round(fit.params["mean.weight"].item(), 4)
    (True, 3.6)
    """
    inputs = given(
        mle,
        model,
        x,
        y,
        data=data,
        weights=weights,
        groups=groups,
        drop_missing=drop_missing,
        keywords=keywords,
        num_rows=num_rows,
        solver=solver,
    )
    rows, solver = (inputs.x, inputs.y, inputs.weights), reading(inputs.sized(solver), inputs.blueprint)
    return inputs.kept(
        fitted(
            mle, inside(inputs.model, flattened), *rows, solver, start, progress, inputs.keywords, checkpoint
        )
    )


@isolated
def map_estimate(
    model: Model | str,
    x: Any,
    y: Any = None,
    *,
    data: Any = None,
    weights: Any = None,
    groups: Any = None,
    drop_missing: bool = False,
    solver: Any = None,
    start: Mapping[str, Any] | None = None,
    progress: bool = False,
    checkpoint: Any = None,
    num_rows: int | None = None,
    **keywords: Any,
) -> Fit:
    """The maximum a posteriori: the model with its priors, under a Delta guide, in constrained space.

    The mode is that of the density in the parameters themselves (``sigma``, not its logarithm), as with
    `AutoDelta`. Arguments, errors and warnings are those of `mle`. A Normal prior is a ridge penalty and a
    Laplace prior a lasso penalty (`neglog.losses.ridge_alpha`, `lasso_alpha`).

    >>> import torch
    >>> from neglog import models
    >>> x = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    >>> fit = map_estimate(models.gaussian, x, torch.tensor([1.0, 2.0, 2.5, 4.0, 4.5], dtype=torch.float64))
    >>> fit.loss > fit.nll
    True
    """
    inputs = given(
        map_estimate,
        model,
        x,
        y,
        data=data,
        weights=weights,
        groups=groups,
        drop_missing=drop_missing,
        keywords=keywords,
        num_rows=num_rows,
        solver=solver,
    )
    rows, solver = (inputs.x, inputs.y, inputs.weights), reading(inputs.sized(solver), inputs.blueprint)
    return inputs.kept(
        fitted(map_estimate, inputs.model, *rows, solver, start, progress, inputs.keywords, checkpoint)
    )
