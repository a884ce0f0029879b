"""Choice: which solver suits a problem, and how that solver sees it."""

from __future__ import annotations

from typing import Any

from neglog.errors import DataError, ModelError
from neglog.fitting.curvature import Curved
from neglog.fitting.penalised import Penalised, aligned, is_penalised
from neglog.fitting.pinball import Pinball, pinball
from neglog.objective.coordinates import Coordinates
from neglog.objective.lowered import Lowered
from neglog.objective.training import Training, depends_on_mode
from neglog.projection.projected import Projected, network_of
from neglog.solvers import (
    LBFGS,
    SVI,
    Adam,
    Chain,
    Continuation,
    InteriorPoint,
    Newton,
    ProximalNewton,
    TrustRegion,
    VariableProjection,
    check_solver,
)

DENSE = 200
"""A model of at most so many parameters is solved by Newton's method even without linear predictors."""
FULL_BATCH = 100_000_000
"""A network of at most so many parameters times rows is fitted on all rows at once."""


def choose(coordinates: Coordinates) -> Any:
    """The solver for a problem, by the rule in `mle`."""
    if depends_on_mode(coordinates):
        return _adam(coordinates)
    if is_penalised(coordinates):
        return ProximalNewton()
    if pinball(coordinates) is not None:
        return InteriorPoint()
    if coordinates.polyhedral:
        return Continuation()
    sites = coordinates.objective.sites.values()
    small, network = coordinates.size <= DENSE, any(site.started for site in sites)
    if not coordinates.kinked and coordinates.cut:
        return Newton()
    if not coordinates.kinked and small and not network:
        return TrustRegion()
    if coordinates.kinked or coordinates.size * coordinates.rows > FULL_BATCH:
        return _adam(coordinates)
    if any(site.masked for site in sites):
        return LBFGS()  # a network's likelihood often has its maximum at infinity; priors bring it back
    steps = VariableProjection if _are_convex(coordinates) else LBFGS
    return Chain((steps(max_steps=500), Newton())) if small else steps()


def _adam(coordinates: Coordinates) -> Adam:
    return Adam(batch_size=None if coordinates.rows <= 10_000 else 1000)


def _are_convex(coordinates: Coordinates) -> bool:
    """Whether a network has heads, and its loss is convex in them all, given the features.

    Where it is not, as with a variance of each row, a mean that is always at its best makes the variance of
    some row vanish sooner than it would.
    """
    try:
        return not network_of(coordinates.objective).outside
    except ModelError:
        return False


def problem_of(coordinates: Coordinates, solver: Any) -> tuple[Coordinates, Any]:
    """The problem as a solver sees it, and the coordinates in which it is stated.

    Raises:
        DataError: it is no solver, or one for other problems.
    """
    _check_solver(solver, coordinates)
    if depends_on_mode(coordinates):
        problem = Training(coordinates)
        return Coordinates(problem.objective, coordinates.blocks, coordinates.cut), problem
    if isinstance(solver, ProximalNewton):
        coordinates = aligned(coordinates)
        return coordinates, Penalised(coordinates)
    if isinstance(solver, TrustRegion):
        return coordinates, Curved(coordinates.objective, coordinates.blocks, coordinates.cut)
    if isinstance(solver, InteriorPoint):
        return coordinates, _of_lines(coordinates)
    if any(isinstance(each, VariableProjection) for each in _each(solver)):
        return coordinates, Projected(coordinates.objective, coordinates.blocks, coordinates.cut)
    if _repays_tracing(coordinates, solver):
        return coordinates, Lowered(coordinates.objective, coordinates.blocks, coordinates.cut)
    return coordinates, coordinates


def _each(solver: Any) -> tuple[Any, ...]:
    """The solvers that a solver is made of."""
    return solver.solvers if isinstance(solver, Chain) else (solver,)


def _repays_tracing(coordinates: Coordinates, solver: Any) -> bool:
    """Whether the steps are so many that the model is better traced once and replayed at each."""
    network = any(site.started for site in coordinates.objective.sites.values())
    return isinstance(solver, Adam) or (network and isinstance(solver, LBFGS | Chain))


def _check_solver(solver: Any, coordinates: Coordinates) -> None:
    check_solver("solver", solver)
    if depends_on_mode(coordinates) and not isinstance(solver, Adam | SVI):
        raise ModelError(
            f"`{type(solver).__name__}` minimises one fixed function, and the loss of this network in "
            "training mode is another one at each step: it has Dropout, BatchNorm or another layer that "
            "draws random numbers or updates buffers. Use `Adam` or `SVI`, or put these layers alone in "
            "evaluation mode, as in `module.train(); module[1].eval()`."
        )
    if isinstance(solver, Continuation) and not coordinates.polyhedral:
        raise DataError(
            "`Continuation` needs a Laplace density whose location is a linear predictor, or a Laplace "
            "prior; this model has none. Leave `solver` out."
        )
    if isinstance(solver, ProximalNewton) and not is_penalised(coordinates):
        raise DataError(
            "`ProximalNewton` needs Laplace or ElasticNet priors, whose parameters are numbers, a density of "
            "y without corners, and linear predictors; this model is another one. Leave `solver` out."
        )


def _of_lines(coordinates: Coordinates) -> Pinball:
    problem = pinball(coordinates)
    if problem is None:
        raise DataError(
            "`InteriorPoint` needs a Laplace density of y, symmetric or not, at one linear predictor with a "
            "fixed design, one scale, and flat priors; this model is another one. Leave `solver` out."
        )
    return problem
