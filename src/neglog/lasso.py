"""The lasso path: fits under priors with corners, from the sharpest that leaves nothing to the wide ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neglog.coordinates import rescaled
from neglog.data import prepare
from neglog.errors import ConvergenceWarning, DataError, ModelError, UnboundedLikelihoodError
from neglog.fit import Fit, map_estimate
from neglog.handlers import Model
from neglog.kinks import sharpened
from neglog.objective import Objective, kinked_sites
from neglog.penalised import Penalised, aligned, at_corners, is_penalised
from neglog.solvers import ProximalNewton
from neglog.solvers.proximal import proximal_step
from neglog.start import starting_point
from neglog.tracing import row_bounds

NOTHING = 1e-10
"""A slope of no more standard errors than this is rounding."""
HOLDING = 1e200
"""A strength that holds every coefficient at its corner."""
EXACT = 1e-9
"""A loss that a quadratic predicts this well, relatively, far from where it was taken is one."""


@dataclass(frozen=True)
class LassoPath:
    """The MAP estimates of one model under sharper and wider priors. A value, as `Fit` is.

    Attributes:
        model: the model with the priors as they were given, at strength 1.
        strengths: by how much the l1 (and l2) of these priors were multiplied, `(L,)`, descending; a
            Laplace prior of scale b has the scale b / strength.
        params: site name -> estimates `(L, *shape)`, on its own support, in the user's units.
        nll: minus the log-likelihood of the rows alone at each, in nats, `(L,)`.
        nonzeros: how many of the coefficients whose priors have corners are not exactly at them, `(L,)`. The
            degrees of freedom of a lasso (Zou, Hastie and Tibshirani 2007), more than an elastic net has.
        k: the number of free parameters, `(L,)`: `nonzeros` and all without a corner.
        converged: whether the subgradient condition was certified, `(L,)`.
        n: the number of observations, the sum of the weights.
        columns: the names of the design columns, by key of `x`.
    """

    model: Model = field(repr=False)
    strengths: Tensor
    params: Mapping[str, Tensor]
    nll: Tensor
    nonzeros: Tensor
    k: Tensor
    converged: Tensor
    n: float
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def aic(self) -> Tensor:
        """Akaike's information criterion at each strength, 2k + 2 nll, `(L,)`."""
        return 2 * self.k + 2 * self.nll

    @property
    def bic(self) -> Tensor:
        """Schwarz's Bayesian information criterion at each strength, k log n + 2 nll, `(L,)`."""
        return self.k.to(self.nll) * math.log(self.n) + 2 * self.nll

    def model_at(self, i: int) -> Model:
        """The model with the priors of strength `strengths[i]`."""
        return sharpened(self.model, float(self.strengths[i]))

    def fit(self, i: int) -> Fit:
        """The fit at `strengths[i]`: `map_estimate` of `model_at(i)`, started where the path is."""
        start = {name: values[i] for name, values in self.params.items()}
        return map_estimate(self.model_at(i), start=start, **self.arguments)

    def __getstate__(self) -> Any:
        raise TypeError("a LassoPath is not pickled; save its tensors.")


def lasso_path(
    model: Model,
    x: Any,
    y: Any,
    *,
    strengths: Sequence[float] | Tensor | None = None,
    n: int = 100,
    ratio: float = 1e-3,
    weights: Any = None,
    **keywords: Any,
) -> LassoPath:
    """The MAP estimates of a model under its Laplace or `ElasticNet` priors, made sharper and wider.

    The first strength is the smallest at which every coefficient is exactly at its prior's location; from
    there they fall on a logarithmic grid. Each fit starts at the one before and is the one that
    `map_estimate` finds under the priors of that strength. Where the loss is a quadratic, as a Gaussian's
    with sigma fixed, its matrix is formed once and the path costs no further pass over the rows.

    scikit-learn's ``lasso_path`` is that of a Gaussian with sigma fixed: ``alpha = sigma² strength / (n b)``
    for a prior of scale b (`neglog.losses.lasso_alpha`). With sigma free it is estimated at each strength,
    and the alpha that a strength amounts to falls with it.

    Args:
        model: a Pyro function `(x, y=None)` whose coefficients have such priors, as by `with_priors`; flat or
            smooth priors elsewhere. Its response has a density without corners.
        x, y, weights, keywords: as for `map_estimate`. Columns of other units need priors of other
            scales, or standardising: nothing is standardised here.
        strengths: what to multiply l1 and l2 of the priors by, descending, or None for the grid.
        n: how many strengths the grid has.
        ratio: the last strength of the grid by the first.

    Raises:
        DataError: as `map_estimate`; or strengths that are not positive and descending.
        ModelError: the model has no such priors, or corners elsewhere.

    Warns:
        ConvergenceWarning: an optimum was not certified, or the path ended early, since the likelihood has no
            maximum beyond.

    >>> import torch, pyro, pyro.distributions as dist
    >>> from neglog import flat, models, with_priors
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    >>> y = torch.tensor([3.0, 1.0, -3.0, -1.0], dtype=torch.float64)
    >>> prior = dist.Laplace(torch.zeros((), dtype=torch.float64), 1.0)
    >>> lasso = with_priors(models.gaussian, {"mean.weight": prior})
    >>> lasso = flat(pyro.condition(lasso, {"sigma": torch.tensor(1.0)}), "mean.bias", "sigma")
    >>> lasso_path(lasso, x, y, strengths=[6.0, 4.0, 1.0]).params["mean.weight"]
    tensor([[0.0000, 0.0000],
            [1.0000, 0.0000],
            [2.5000, 0.5000]], dtype=torch.float64)
    """
    given = None if strengths is None else _checked(strengths)
    if given is None and not (n >= 1 and 0 < ratio < 1):
        raise DataError(f"`n` must be at least 1 and `ratio` between 0 and 1; they are {n} and {ratio:g}.")
    data = prepare(x, y, weights=weights, row_bounds=row_bounds(model), **keywords)
    objective = Objective(model, data)
    theta = starting_point(objective, None)
    coordinates = rescaled(objective, theta)
    if not is_penalised(coordinates):
        raise ModelError(
            f"`{objective.name}` has no Laplace or ElasticNet prior of coefficients, or corners elsewhere; "
            'it has no path. Give it one, as by with_priors(model, {"mean.weight": dist.Laplace(zero, one)}).'
        )
    coordinates = aligned(coordinates)
    problem = Penalised(coordinates)
    start = torch.where(problem.penalty.l1 > 0, problem.penalty.centre, coordinates.z(theta))
    around = _Expansion(start, *problem.smooth.derivatives(start))
    path = partial(_quadratic_path, problem, around) if around.is_exact(problem) else partial(_path, problem)
    (null,) = path(start, torch.tensor([HOLDING], dtype=theta.dtype))
    grid = _grid(_least_strength(problem, null, around.hessian), n, ratio) if given is None else given
    points = path(null.z, grid)
    _warn(objective.name, grid, points)
    arguments = {"x": x, "y": y, "weights": weights, **keywords}
    return _finished(model, problem, grid[: len(points)], points, arguments)


@dataclass(frozen=True, eq=False)
class _Point:
    """A point of the path, with the value and the gradient of the smooth part of the loss."""

    z: Tensor
    value: float
    gradient: Tensor
    converged: bool


def _checked(strengths: Sequence[float] | Tensor) -> Tensor:
    grid = torch.as_tensor(np.asarray(strengths), dtype=torch.float64)
    sound = grid.dim() == 1 and len(grid) > 0 and bool((torch.isfinite(grid) & (grid > 0)).all())
    if not sound or bool((grid.diff() >= 0).any()):
        raise DataError(
            f"`strengths` must be positive numbers, each below the one before; got {strengths!r}."
        )
    return grid


def _grid(first: float, n: int, ratio: float) -> Tensor:
    if first == 0:
        raise DataError(
            "every coefficient is at its prior's location whatever the strength: no column tells anything of "
            "`y`. Leave the columns out, or look for what made `y` or `x` constant."
        )
    return first * torch.logspace(0, math.log10(ratio), n, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class _Expansion:
    """The smooth part of the loss around `z`, to second order."""

    z: Tensor
    value: float
    gradient: Tensor
    hessian: Tensor

    def at(self, z: Tensor) -> tuple[float, Tensor]:
        """The value and the gradient at `z`, if there is no more to the loss."""
        step = z - self.z
        change = self.hessian @ step
        return self.value + float((self.gradient + 0.5 * change) @ step), self.gradient + change

    def is_exact(self, problem: Penalised) -> bool:
        """Whether there is no more to the loss, as far off as the data reach."""
        diagonal = self.hessian.diagonal()
        far = self.z - self.gradient / torch.where(diagonal > 0, diagonal, torch.inf)
        value, gradient = problem.smooth.value_and_gradient(far)
        foreseen, slope = self.at(far)
        size = self.gradient.abs() + self.hessian.abs() @ (far - self.z).abs()
        linear = bool(((gradient - slope).abs() <= EXACT * (size + size.mean())).all())
        return linear and math.isclose(value, foreseen, rel_tol=EXACT)


def _quadratic_path(problem: Penalised, around: _Expansion, z: Tensor, grid: Tensor) -> list[_Point]:
    """The path of a quadratic from `z`, without a pass over the rows."""
    points = []
    for strength in grid.tolist():
        _, gradient = around.at(z)
        z = proximal_step(around.hessian, gradient, problem.penalty.times(strength), z).to
        points.append(_Point(z, *around.at(z), True))
    return points


def _path(problem: Penalised, z: Tensor, grid: Tensor) -> list[_Point]:
    """Each fit from the one before, up to where the likelihood has no maximum."""
    points: list[_Point] = []
    for strength in grid.tolist():
        try:
            found = ProximalNewton().minimise(problem.at(strength), z)
        except UnboundedLikelihoodError:
            if not points:
                raise
            break
        z = found.z
        points.append(_Point(z, *problem.smooth.value_and_gradient(z), found.converged))
    return points


def _least_strength(problem: Penalised, null: _Point, hessian: Tensor) -> float:
    """The smallest strength that holds all coefficients at their corners; 0 if none has a slope."""
    cornered = problem.penalty.l1 > 0
    told = null.gradient.abs() > NOTHING * hessian.diagonal().sqrt()  # in standard errors
    return max((null.gradient.abs() / problem.penalty.l1)[cornered & told].tolist(), default=0.0)


def _warn(name: str, grid: Tensor, points: list[_Point]) -> None:
    missed = [strength for strength, point in zip(grid.tolist(), points, strict=False) if not point.converged]
    if missed:
        told = f"no optimum was certified at {len(missed)} strengths, the first of them {missed[0]:g}"
    elif len(points) < len(grid):
        told = f"the path ended early: at strength {float(grid[len(points)]):g} the likelihood has no maximum"
    else:
        return
    warnings.warn(f"`{name}`: {told}.", ConvergenceWarning, stacklevel=3)


def _finished(
    model: Model, problem: Penalised, grid: Tensor, points: list[_Point], arguments: Mapping[str, Any]
) -> LassoPath:
    coordinates, objective = problem.coordinates, problem.coordinates.objective
    thetas = [coordinates.landed(coordinates.theta(point.z)) for point in points]
    params = [objective.params(theta) for theta in thetas]
    with torch.no_grad():
        # The smooth part has the smooth priors in it, which do not depend on the rows.
        smooth = problem.smooth.objective
        few = smooth.take(slice(0, 1)) if smooth.separable else smooth
        known = {name for name, site in smooth.sites.items() if site.masked} | set(kinked_sites(objective))
        different = thetas if known != set(smooth.sites) else thetas[:1]  # without any they are all alike
        priors = [float(few.at(theta).prior()) for theta in different]
    held = torch.tensor([int(at_corners(objective, theta).sum()) for theta in thetas])
    return LassoPath(
        model=model,
        strengths=grid,
        params=MappingProxyType({name: torch.stack([p[name] for p in params]) for name in params[0]}),
        nll=torch.tensor([p.value + prior for p, prior in zip(points, cycle(priors))], dtype=grid.dtype),
        nonzeros=int((problem.penalty.l1 > 0).sum()) - held,
        k=objective.size - held,
        converged=torch.tensor([point.converged for point in points]),
        n=objective.data.count,
        columns=objective.data.columns,
        arguments=arguments,
    )
