"""Choice: the solver for a problem, and the problem in the form that the solver takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from neglog.errors import DataError, ModelError
from neglog.fitting.curvature import Curved
from neglog.fitting.penalised import Penalised, aligned, is_penalised
from neglog.fitting.pinball import pinball
from neglog.objective.coordinates import Coordinates
from neglog.objective.corners import Cornered
from neglog.objective.lowered import Lowered
from neglog.objective.streamed import Streamed, StreamedInTrainingMode
from neglog.objective.training import InTrainingMode, depends_on_mode
from neglog.projection.projected import Projected, network_of
from neglog.solvers import (
    LBFGS,
    Adam,
    Chain,
    Continuation,
    InteriorPoint,
    Newton,
    ProximalNewton,
    TrustRegion,
    VariableProjection,
)
from neglog.solvers.gradient import GradientTraining
from neglog.solvers.training import Training

MAX_NEWTON_PARAMETERS = 200
"""Above this many parameters the Hessian of a model without linear predictors is not formed."""
MAX_FULL_BATCH = 100_000_000
"""Above this product of parameters and rows a network is fitted on minibatches."""
MAX_FIRST_STEPS = 500
"""Steps of the first solver of a network, before those of Newton's method."""
Form = tuple[Coordinates, Any]
"""The coordinates of a problem, and the problem as a solver takes it."""


@dataclass(frozen=True)
class Strategy:
    """A row of the table of docs/solvers.md: a kind of problem, and the solver for it.

    Attributes:
        problem: the kind, in words.
        applies: whether a problem is of this kind, if its model has the facts that this `needs`.
        solver: the solver for a problem.
        needs: a fact of `neglog.likelihood.structure` that every such model has; None where there is none.
    """

    problem: str
    applies: Callable[[Coordinates], bool]
    solver: Callable[[Coordinates], Any]
    needs: str | None = None


def choose(coordinates: Coordinates) -> Any:
    """The solver for a problem: that of the first strategy that applies."""
    return strategy_for(coordinates).solver(coordinates)


def strategy_for(coordinates: Coordinates) -> Strategy:
    """The first strategy that applies to a problem."""
    facts = coordinates.objective.facts
    may_apply = (each for each in STRATEGIES if each.needs is None or each.needs in facts)
    return next(strategy for strategy in may_apply if strategy.applies(coordinates))


def _is_small(coordinates: Coordinates) -> bool:
    return coordinates.size <= MAX_NEWTON_PARAMETERS


def _is_curve(coordinates: Coordinates) -> bool:
    """Whether a problem has few parameters and no network."""
    return _is_small(coordinates) and not has_network(coordinates)


def has_network(coordinates: Coordinates) -> bool:
    """Whether some parameters are the weights of a network."""
    return "network" in coordinates.objective.facts


def _has_flat_prior(coordinates: Coordinates) -> bool:
    return any(site.masked for site in coordinates.objective.sites.values())


def _adam(coordinates: Coordinates) -> Adam:
    return Adam(batch_size=None if coordinates.rows <= 10_000 else 1000)


def _are_convex(coordinates: Coordinates) -> bool:
    """Whether a network has heads, and its loss is convex in them all, given the features.

    Where it is not, as with a variance of each row, a mean that is always at its optimum makes the variance
    of some row vanish sooner.
    """
    try:
        return not network_of(coordinates.objective).outside
    except ModelError:
        return False


STRATEGIES = (
    Strategy("a loss that depends on training mode", depends_on_mode, _adam, "network"),
    Strategy("corners of priors alone", is_penalised, lambda _: ProximalNewton(), "kinked"),
    Strategy(
        "a pinball loss of one line", lambda c: pinball(c) is not None, lambda _: InteriorPoint(), "cornered"
    ),
    Strategy(
        "other corners in linear predictors", lambda c: c.polyhedral, lambda _: Continuation(), "cornered"
    ),
    Strategy("corners elsewhere", lambda c: c.kinked, _adam, "cornered"),
    Strategy("linear predictors and constants", lambda c: c.is_linear, lambda _: Newton()),
    Strategy("few parameters, no network", _is_curve, lambda _: TrustRegion()),
    Strategy("many parameters times rows", lambda c: c.size * c.rows > MAX_FULL_BATCH, _adam),
    # The likelihood of a network often has its maximum at infinity; with priors it has one within reach.
    Strategy("a network with flat priors", _has_flat_prior, lambda _: LBFGS()),
    Strategy("a network convex in its heads", _are_convex, lambda c: _finished(VariableProjection, c)),
    Strategy("any other", lambda _: True, lambda c: _finished(LBFGS, c)),
)
"""The rule of `mle` and docs/solvers.md, in order: the first strategy that applies is taken."""


def _finished(first: type, coordinates: Coordinates) -> Any:
    """A solver of networks, finished by Newton's method where parameters are few."""
    return Chain((first(max_steps=MAX_FIRST_STEPS), Newton())) if _is_small(coordinates) else first()


def problem_of(coordinates: Coordinates, solver: Any) -> Form:
    """The coordinates of a problem, and the problem in the form that a solver takes.

    Raises:
        DataError: the solver is one for other problems.
        ModelError: it cannot minimise the loss of a network in training mode.
    """
    if coordinates.objective.data.stream is not None:
        is_trained = has_network(coordinates) and depends_on_mode(coordinates)
        streamed = (StreamedInTrainingMode if is_trained else Streamed)(coordinates)
        return Coordinates(streamed.objective, coordinates.blocks, False), streamed
    if has_network(coordinates) and depends_on_mode(coordinates):
        _check_trains(solver)
        problem = InTrainingMode(coordinates)
        return Coordinates(problem.objective, coordinates.blocks, coordinates.is_linear), problem
    for kind, form in FORMS.items():
        if isinstance(solver, kind):
            return form(coordinates, solver)
    return coordinates, coordinates


def _check_trains(solver: Any) -> None:
    """Refuse a solver that cannot minimise the loss of a network in training mode."""
    if not isinstance(getattr(solver, "solver", solver), Training):
        raise ModelError(
            f"`{type(solver).__name__}` minimises one fixed function, and the loss of this network in "
            "training mode changes from step to step: it has Dropout, BatchNorm or another layer that "
            "draws random numbers or updates buffers. Use `Adam` or `SVI`, or put these layers alone in "
            "evaluation mode, as in `module.train(); module[1].eval()`."
        )


def _cornered(coordinates: Coordinates, _: Any) -> Form:
    if not coordinates.polyhedral:
        raise DataError(
            "`Continuation` needs a Laplace density whose location is a linear predictor, or a Laplace "
            "prior; this model has none. Leave `solver` out."
        )
    return coordinates, Cornered.of(coordinates)


def _penalised(coordinates: Coordinates, _: Any) -> Form:
    if not is_penalised(coordinates):
        raise DataError(
            "`ProximalNewton` needs Laplace or ElasticNet priors, whose parameters are numbers, a density "
            "of y without corners, and linear predictors; this model is not of this kind. Leave `solver` "
            "out."
        )
    coordinates = aligned(coordinates)
    return coordinates, Penalised(coordinates)


def _of_lines(coordinates: Coordinates, _: Any) -> Form:
    problem = pinball(coordinates)
    if problem is None:
        raise DataError(
            "`InteriorPoint` needs a Laplace density of y, symmetric or not, at one linear predictor with "
            "a fixed design, one scale, and flat priors; this model is not of this kind. Leave `solver` "
            "out."
        )
    return coordinates, problem


def _curved(coordinates: Coordinates, _: Any) -> Form:
    return coordinates, Curved(coordinates.objective, coordinates.blocks, coordinates.is_linear)


def _projected(coordinates: Coordinates, _: Any) -> Form:
    return coordinates, Projected(coordinates.objective, coordinates.blocks, coordinates.is_linear)


def _replayed(coordinates: Coordinates, solver: Any) -> Form:
    """The loss traced once and replayed at each step, where a solver takes enough of them."""
    if not (isinstance(solver, GradientTraining) or has_network(coordinates)):
        return coordinates, coordinates
    return coordinates, Lowered(coordinates.objective, coordinates.blocks, coordinates.is_linear)


def _chained(coordinates: Coordinates, solver: Chain) -> Form:
    projects = any(isinstance(each, VariableProjection) for each in solver.solvers)
    return (_projected if projects else _replayed)(coordinates, solver)


FORMS: Mapping[type, Callable[[Coordinates, Any], Form]] = {
    ProximalNewton: _penalised,
    Continuation: _cornered,
    TrustRegion: _curved,
    InteriorPoint: _of_lines,
    VariableProjection: _projected,
    GradientTraining: _replayed,
    LBFGS: _replayed,
    Chain: _chained,
}
"""The form in which a solver takes a problem; the others take the coordinates as they are."""
