"""The lasso path: fits under priors with corners, from the sharpest that leaves nothing to the wide ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.condition_messenger import ConditionMessenger
from torch import Tensor

from neglog import models
from neglog.aliases import former_argument
from neglog.arguments import whole
from neglog.calls import public
from neglog.checkpoint import UNKEPT, CallCheckpoint, Journal, Unkept, checkpoint_of, digest
from neglog.conversion import to_tensor
from neglog.data import Data, prepare_fit
from neglog.errors import ConvergenceWarning, DataError, ModelError, UnboundedLikelihoodError, warn, written
from neglog.fitting.estimates import map_estimate
from neglog.fitting.existence import check_certain, check_classes, recession
from neglog.fitting.fit import Fit
from neglog.fitting.joint_mode import check_joint_mode
from neglog.fitting.penalised import Penalised, aligned, at_corners, at_exact_corners, is_penalised
from neglog.fitting.prior_units import check_prior_units
from neglog.fitting.quadratic_loss import Parabola
from neglog.fitting.resumed import data_digest
from neglog.fitting.start import starting_point
from neglog.handlers import Model, Weighted, flat, with_priors
from neglog.inputs.blueprint import Blueprint
from neglog.inputs.given import Inputs, given
from neglog.isolation import isolated
from neglog.kinks import sharpened
from neglog.layers import layers
from neglog.objective.coordinates import rescaled
from neglog.objective.objective import Objective
from neglog.observation import bounds_rows
from neglog.offset import WithOffset
from neglog.persistence import ReadOnly
from neglog.signatures import roles_of
from neglog.solvers import ProximalNewton, Solution
from neglog.solvers.path import quadratic_path
from neglog.solvers.proximal import Penalty, proximal_step

ROUNDED_SLOPE = 1e-10
"""A slope up to this, in standard errors, is rounding."""
MAX_STRENGTH = 1e200
"""A strength of the priors at which every coefficient is at its corner."""
QUADRATIC_TOLERANCE = 1e-9
"""A loss whose quadratic expansion is this accurate, relatively, far from its centre, is a quadratic."""


@public
@dataclass(frozen=True, eq=False)
class LassoPath(ReadOnly):
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
        groups, blueprint: as those of a `Fit`.
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
    groups: Any = field(default=None, repr=False, compare=False)
    blueprint: Blueprint | None = field(default=None, repr=False, compare=False)

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
        return sharpened(self.model, float(self.strengths[self._place(i)]))

    @isolated
    def fit(self, i: int) -> Fit:
        """The fit at `strengths[i]`: `map_estimate` of `model_at(i)`, started where the path is."""
        i = self._place(i)
        if not self.arguments:
            raise DataError(
                "`fit` needs the rows of the path, and this one comes from a pickle, without them; compute "
                "the path again."
            )
        start = {name: values[i] for name, values in self.params.items()}
        fit = map_estimate(self.model_at(i), start=start, **self.arguments)
        return replace(fit, groups=self.groups, blueprint=self.blueprint)

    def _place(self, i: int) -> int:
        """An index of the path; negative ones count from its end."""
        most = len(self.strengths) - 1
        return whole("i", i, -most - 1, most)

    def __copy__(self) -> LassoPath:
        return self

    def __deepcopy__(self, memo: Any) -> LassoPath:
        """An equal path whose estimates are tensors of its own; rows, which nothing changes, are shared."""
        return replace(
            self, params=MappingProxyType({name: value.clone() for name, value in self.params.items()})
        )

    def __getstate__(self) -> dict[str, Any]:
        """The state for pickle, without rows."""
        return {**super().__getstate__(), "arguments": {}, "groups": None}


@former_argument("n", "n_strengths")
@isolated
def lasso_path(
    model: Model | str,
    x: Any,
    y: Any = None,
    *,
    data: Any = None,
    drop_missing: bool = False,
    groups: Any = None,
    strengths: Sequence[float] | Tensor | None = None,
    n_strengths: int = 100,
    ratio: float = 1e-3,
    weights: Any = None,
    checkpoint: Any = None,
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
            smooth priors elsewhere. Its response has a density without corners. Or a model of
            `neglog.models` as it is, or with settings, an offset, weights, bounds or known constants: the
            coefficients of its first predictor then have Laplace priors of scale 1, and all else has flat
            priors, as under the penalties of glmnet and scikit-learn.
        x, y, data, weights, groups, drop_missing, keywords: as for `map_estimate`, an ``offset`` among them.
            Columns of other units need priors of other scales, or standardising: nothing is standardised
            here.
        strengths: what to multiply l1 and l2 of the priors by, descending, or None for the grid.
        n_strengths: the number of strengths of the grid.
        ratio: the last strength of the grid by the first.
        checkpoint: a file, or `neglog.Checkpoint`, where the path so far is kept: after `kill -9` the same
            call goes on from there and ends at the same numbers. A path without passes over the rows keeps
            none.

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
    given_strengths = None if strengths is None else _checked(strengths)
    _check_grid(n_strengths, ratio, given_strengths)
    kept = checkpoint_of(checkpoint, lasso_path)
    inputs = given(
        lasso_path,
        model,
        x,
        y,
        data=data,
        weights=weights,
        groups=groups,
        drop_missing=drop_missing,
        keywords=keywords,
    )
    return inputs.kept(_path_of(inputs, given_strengths, n_strengths, ratio, kept))


def _path_of(
    inputs: Inputs,
    given_strengths: Tensor | None,
    n_strengths: int,
    ratio: float,
    kept: CallCheckpoint | None,
) -> LassoPath:
    model, arguments = inputs.model, inputs.arguments
    data = prepare_fit(**arguments, roles=roles_of(model, inputs.keywords, lasso_path))
    model = _with_default_prior(model, data)
    problem, start = _penalised(Objective(model, data))
    curve = problem.curve or _curve(problem, start)
    path: Callable[..., _Points] = (
        partial(_path, problem) if curve is None else partial(_curve_path, curve, problem.penalty)
    )
    null = path(start, torch.tensor([MAX_STRENGTH], dtype=start.dtype))
    least = math.inf if given_strengths is not None else _least_strength(problem, null.z[0])
    # Where no column has a slope at the null model, it may be since that has no maximum.
    exists = least > 0 or map_estimate(model, **arguments).converged
    grid = _grid(least if exists else 1.0, n_strengths, ratio) if given_strengths is None else given_strengths
    if kept is not None and curve is None:  # a quadratic costs no pass over the rows
        path = partial(_path, problem, journal=_journal(kept, problem, start, grid))
    points = path(null.z[0], grid)
    points = replace(points, converged=points.converged & exists)
    _warn(problem.coordinates.objective.name, grid, points)
    return _finished(model, problem, grid[: len(points.z)], points, arguments)


def _with_default_prior(model: Model, data: Data) -> Model:
    """A model of neglog without priors of the caller, with Laplace priors of scale 1 on its first predictor.

    All other priors are flat. Any other model is returned as it is.
    """
    *outer, inner = layers(model)
    is_own = inner in [getattr(models, name) for name in models.__all__]
    if not is_own or not all(map(_keeps_priors, outer)):
        return model
    objective = Objective(model, data)
    weight = _first_weight(objective)
    if any(weight in _known_values(layer) for layer in outer):
        return model
    prior = dist.Laplace(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    others = [name for name in objective.layout.sites if name != weight]
    return flat(with_priors(model, {weight: prior}), *others)


def _keeps_priors(layer: Any) -> bool:
    """Whether a layer around a model leaves the priors of its coefficients as they are.

    Settings such as tau, offsets, weights, bounds of the response and known constants do.
    """
    if not isinstance(layer, partial):
        return isinstance(layer, WithOffset) or bounds_rows(layer)
    messenger = layer.args[0] if layer.args else None
    return messenger is None or isinstance(messenger, Weighted | ConditionMessenger)


def _known_values(layer: Any) -> Mapping[str, Any]:
    """The sites that a layer around a model conditions."""
    messenger = next(iter(getattr(layer, "args", ())), None)
    return messenger.data if isinstance(messenger, ConditionMessenger) else {}


def _first_weight(objective: Objective) -> str:
    """The site of the coefficients of the first predictor, the location."""
    return f"{objective.calls[0].name if objective.calls else 'mean'}.weight"


def _penalised(objective: Objective) -> tuple[Penalised, Tensor]:
    """The problem of a model with such priors, and its null model `(K,)` to start from."""
    check_certain(objective)
    check_classes(objective)
    check_joint_mode(objective)
    check_prior_units(objective)
    theta = starting_point(objective, None)
    coordinates = rescaled(objective, theta)
    if not is_penalised(coordinates):
        raise ModelError(_why_without_path(objective))
    problem = Penalised(aligned(coordinates))
    start = problem.coordinates.z(theta)
    return problem, torch.where(problem.penalty.l1 > 0, problem.penalty.centre, start)


def _why_without_path(objective: Objective) -> str:
    if objective.structure.corner is not None:
        return (
            f"the density of `{objective.name}` has corners of its own, beside which those of a Laplace or "
            "ElasticNet prior have no path. Fit map_estimate under each prior, or a model with a smooth "
            "density, such as 'student_t'."
        )
    return (
        f"`{objective.name}` has no Laplace or ElasticNet prior of coefficients, or corners elsewhere; it "
        f'has no path. Give it one, as by with_priors(model, {{"{_first_weight(objective)}": '
        "dist.Laplace(zero, one)})."
    )


@dataclass(frozen=True, eq=False)
class _Points:
    """Points `(L, K)` of the path, with the value `(L,)` of the smooth part of the loss at each."""

    z: Tensor
    value: Tensor
    converged: Tensor


def _checked(strengths: Sequence[float] | Tensor) -> Tensor:
    grid = to_tensor("strengths", strengths, torch.float64, integers=True)
    sound = grid.dim() == 1 and len(grid) > 0 and bool((torch.isfinite(grid) & (grid > 0)).all())
    if not sound or bool((grid.diff() >= 0).any()):
        raise DataError(
            f"`strengths` must be positive numbers, each below the one before; got {written(strengths)}."
        )
    return grid


def _check_grid(size: int, ratio: float, given: Tensor | None) -> None:
    if given is None and not (size >= 1 and 0 < ratio < 1):
        raise DataError(
            f"`n_strengths` must be at least 1 and `ratio` between 0 and 1; they are {size} and {ratio:g}."
        )


def _grid(first: float, size: int, ratio: float) -> Tensor:
    if first == 0:
        raise DataError(
            "every coefficient is at its prior's location whatever the strength: no column carries "
            "information on `y`. Leave the columns out, or check whether `x` or `y` is constant."
        )
    return first * torch.logspace(0, math.log10(ratio), size, dtype=torch.float64)


def _curve(problem: Penalised, z: Tensor) -> Parabola | None:
    """The smooth part of the loss around `z`, if there is no more to it, as far off as the data reach."""
    curve = Parabola(z, *problem.smooth.derivatives(z), problem.rows)
    diagonal = curve.matrix.diagonal()
    far = z - curve.slope / torch.where(diagonal > 0, diagonal, torch.inf)
    value, gradient = problem.smooth.value_and_gradient(far)
    foreseen, slope = curve.value_and_gradient(far)
    size = curve.slope.abs() + curve.matrix.abs() @ (far - z).abs()
    linear = bool(((gradient - slope).abs() <= QUADRATIC_TOLERANCE * (size + size.mean())).all())
    return curve if linear and math.isclose(value, foreseen, rel_tol=QUADRATIC_TOLERANCE) else None


def _curve_path(curve: Parabola, penalty: Penalty, z: Tensor, grid: Tensor) -> _Points:
    """The path of a quadratic, without a pass over the rows; of an elastic net it is followed from `z`."""
    found = []
    if not bool(penalty.l2.any()):
        # Coefficients without a corner are measured from the middle, which keeps the digits of an intercept.
        origin = torch.where(penalty.l1 > 0, penalty.centre, curve.middle)
        _, gradient = curve.value_and_gradient(origin)
        parts = (curve.matrix, gradient, penalty.l1, grid)
        found = list(origin + torch.from_numpy(quadratic_path(*(part.numpy() for part in parts))))
    for strength in grid.tolist() if not found else ():
        _, gradient = curve.value_and_gradient(z)
        z = proximal_step(curve.matrix, gradient, penalty.times(strength), z).to
        found.append(z)
    away = torch.stack(found) - curve.middle
    value = curve.base + ((curve.slope + 0.5 * away @ curve.matrix) * away).sum(1)
    points = torch.stack(found)
    return _Points(points, value, torch.isfinite(points).all(1) & torch.isfinite(value))


def _path(problem: Penalised, z: Tensor, grid: Tensor, journal: Journal | Unkept = UNKEPT) -> _Points:
    """Each fit from the one before, up to where the likelihood has no maximum."""
    points: list[Tensor] = []
    certified: list[bool] = []
    if journal.found is not None:
        points, certified = journal.found["points"], journal.found["certified"]
    for strength in grid[len(points) :].tolist():
        try:
            found = ProximalNewton().minimise(problem.at(strength), points[-1] if points else z)
        except UnboundedLikelihoodError:
            if not points:
                raise
            break
        points.append(found.z)
        certified.append(found.converged and _has_optimum(problem, found))
        if journal.is_due(len(points)):
            journal.write({"points": points, "certified": certified}, len(points))
    journal.end({"points": points, "certified": certified})
    values = torch.tensor([problem.smooth.value(one) for one in points], dtype=grid.dtype)
    return _Points(torch.stack(points), values, torch.tensor(certified))


def _journal(kept: CallCheckpoint, problem: Penalised, start: Tensor, grid: Tensor) -> Journal:
    objective = problem.coordinates.objective
    return kept.journal(
        model=objective.name,
        data=data_digest(objective.data),
        parameters=", ".join(f"{name} {tuple(site.shape)}" for name, site in objective.sites.items()),
        penalty=digest([problem.penalty.l1, problem.penalty.l2, problem.penalty.centre]),
        strengths=digest([grid]),
        **{"initial loss": repr(float(problem.smooth.value(start)))},
    )


def _has_optimum(problem: Penalised, point: Solution) -> bool:
    """Whether no constant or coefficient runs to a border from a point, as `map_estimate` requires."""
    return recession(problem.coordinates, point.z, point.hessian) is None


def _least_strength(problem: Penalised, null: Tensor) -> float:
    """The smallest strength that holds all coefficients at their corners; 0 if none has a slope."""
    _, gradient, hessian = problem.smooth.derivatives(null)
    cornered = problem.penalty.l1 > 0
    significant = gradient.abs() > ROUNDED_SLOPE * hessian.diagonal().sqrt()  # in standard errors
    return max((gradient.abs() / problem.penalty.l1)[cornered & significant].tolist(), default=0.0)


def _warn(name: str, grid: Tensor, points: _Points) -> None:
    missed, length = grid[: len(points.z)][~points.converged].tolist(), len(points.z)
    if missed:
        message = f"no optimum was certified at {len(missed)} strengths, the first of them {missed[0]:g}"
    elif length < len(grid):
        message = f"the path ended early: at strength {float(grid[length]):g} the likelihood has no maximum"
    else:
        return
    warn(f"`{name}`: {message}.", ConvergenceWarning)


def _finished(
    model: Model, problem: Penalised, grid: Tensor, points: _Points, arguments: Mapping[str, Any]
) -> LassoPath:
    coordinates, objective = problem.coordinates, problem.coordinates.objective
    thetas = at_exact_corners(coordinates.objective, coordinates.directions(points.z.T.contiguous()).T)
    held = at_corners(objective, thetas).sum(1)
    return LassoPath(
        model=model,
        strengths=grid,
        params=MappingProxyType(
            {
                name: site.transform(thetas[:, site.place].reshape(len(grid), *site.unconstrained))
                for name, site in objective.sites.items()
            }
        ),
        nll=points.value + _priors(problem, thetas),
        nonzeros=int((problem.penalty.l1 > 0).sum()) - held,
        k=objective.size - held,
        converged=points.converged,
        n=objective.data.count,
        columns=objective.data.columns,
        arguments=arguments,
    )


@torch.no_grad()
def _priors(problem: Penalised, thetas: Tensor) -> Tensor:
    """The log of the smooth priors, which the smooth part of the loss has in it, `(L,)` or one for all."""
    objective, cornered = problem.coordinates.objective, problem.coordinates.objective.structure.prior_corners
    if problem.curve is not None:
        return thetas.new_zeros(1)
    if {name for name, site in objective.sites.items() if site.masked} | set(cornered) == set(
        objective.sites
    ):
        thetas = thetas[:1]  # there are none
    masked = objective.changed(lambda model: flat(model, *cornered)) if cornered else objective
    few = masked.take(slice(0, 1)) if masked.separable else masked
    return torch.tensor([float(few.at(theta).prior()) for theta in thetas], dtype=thetas.dtype)
