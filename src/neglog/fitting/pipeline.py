"""The steps of a fit: initial point, choice of solver, optimum, existence, certificate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from neglog.arguments import flag
from neglog.checkpoint import CallCheckpoint, MemberCheckpoint, checkpoint_of
from neglog.conversion import named_values
from neglog.data import Data, prepare_fit
from neglog.errors import (
    ConvergenceWarning,
    SingularDesignError,
    UnboundedLikelihoodError,
    warn,
)
from neglog.fitting.borders import border_status
from neglog.fitting.cancellation import check_cancellation
from neglog.fitting.certain import is_censored_throughout
from neglog.fitting.checks import OF_DATA, OF_DESIGNS, OF_PROBLEMS, check_all
from neglog.fitting.choice import MAX_NEWTON_PARAMETERS, choose, has_network, problem_of
from neglog.fitting.existence import check_zeros, recession
from neglog.fitting.fit import Fit, data_of
from neglog.fitting.held_out import Validated, with_held_out
from neglog.fitting.joint_mode import check_border
from neglog.fitting.least_squares import closed_form
from neglog.fitting.limits import (
    in_bounds,
    in_limits,
    is_contradicted,
    refusal,
    why_alike,
)
from neglog.fitting.multistart import further_initial_points
from neglog.fitting.offsets import Offset, levelled, offset_of
from neglog.fitting.overflow import before_overflow
from neglog.fitting.penalised import at_corners, at_exact_corners, is_penalised
from neglog.fitting.refinement import refined
from neglog.fitting.resumed import resumed_solution
from neglog.fitting.separation import watched
from neglog.fitting.spurious import spurious_component, with_spurious
from neglog.fitting.start import starting_point
from neglog.fitting.streamed import head_of, in_batches, is_streamed, totals, without_rows
from neglog.fitting.surrogates import surrogated, trained_on_by
from neglog.fitting.ties import check_tie, with_heavy_tie, with_tie
from neglog.handlers import Model
from neglog.layers import current_names, limit_of
from neglog.likelihood.sites import prior_advice
from neglog.objective.blocks import joined
from neglog.objective.coordinates import Coordinates, rescaled
from neglog.objective.followed_rows import followed
from neglog.objective.objective import Objective, check_densities
from neglog.objective.shrinkage import prior_terms
from neglog.objective.spread import UNCERTIFIED_FACTOR, check_bounded, check_spread, is_spread
from neglog.objective.training import buffers
from neglog.predictors import RESPONSE
from neglog.signatures import roles_of
from neglog.solvers import Chain, MultiStart, Newton, Solution, TrustRegion, check_solver
from neglog.solvers.chain import minimised
from neglog.solvers.solution import is_curved
from neglog.streams.stream import Stream
from neglog.tracing import model_name
from neglog.training_objectives import apart


@dataclass(frozen=True, eq=False)
class Posed:
    """A model and its rows as a problem to be solved, for all solvers.

    Attributes:
        coordinates: those that the solver takes.
        theta: the initial point `(K,)`.
        solver: the one that was asked for, with an objective of training around it where there is one.
        offset: the offset of the response, taken out where it is far from 0.
    """

    coordinates: Coordinates
    theta: Tensor
    solver: Any
    offset: Offset | None


def fitted(
    caller: Callable[..., Fit],
    model: Model,
    x: Any,
    y: Any,
    weights: Any,
    solver: Any,
    start: Mapping[str, Any] | None,
    progress: bool,
    keywords: Mapping[str, Any],
    checkpoint: Any = None,
) -> Fit:
    """The fit of a model to rows; errors about arguments name the function that the user called."""
    progress = flag("progress", progress)
    if checkpoint is not None and not isinstance(checkpoint, MemberCheckpoint):
        checkpoint = checkpoint_of(checkpoint, caller)
    problem = posed(caller, model, x, y, weights, solver, start, keywords)
    coordinates, theta, solver, offset = problem.coordinates, problem.theta, problem.solver, problem.offset
    if solver is None and not start:
        solver = choose(coordinates)
        if isinstance(solver, Newton):
            return _by_newton(coordinates, theta, solver, progress, offset, checkpoint)
    return solved(coordinates, theta, solver, progress, offset, checkpoint)


def posed(
    caller: Callable[..., Any],
    model: Model,
    x: Any,
    y: Any,
    weights: Any,
    solver: Any,
    start: Mapping[str, Any] | None,
    keywords: Mapping[str, Any],
) -> Posed:
    """The problem of a model and rows, which have been validated.

    Raises:
        DataError, ModelError, SingularDesignError, UnboundedLikelihoodError: as `neglog.mle`.
    """
    if solver is not None:
        check_solver("solver", solver)
    model, trained = apart(model)
    solver = in_batches(solver, x) if isinstance(x, Stream) else solver
    solver = solver if trained is None else surrogated(trained, solver)
    data = _data(caller, model, x, y, weights, solver, keywords)
    start = None if start is None else current_names(model, named_values("start", start), "start")
    objective = whole = Objective(model, data, start)
    check_all(OF_DATA, objective, objective)
    offset = offset_of(whole) if "measured" in whole.facts and not is_streamed(data) else None
    if offset is not None:
        objective, start = offset.removed(start)
    coordinates, theta = _begun(objective, start, solver)
    check_all(OF_DESIGNS, whole, whole)
    check_all(OF_PROBLEMS, coordinates, objective)
    if data.stream is not None:
        coordinates = Coordinates(objective, coordinates.blocks, is_linear=False)
    return Posed(coordinates, theta, solver, offset)


def _data(
    caller: Callable[..., Any],
    model: Model,
    x: Any,
    y: Any,
    weights: Any,
    solver: Any,
    keywords: Mapping[str, Any],
) -> Data:
    """The rows as validated data, beside those held out; of a stream, a sample of them."""
    if isinstance(x, Stream):
        return head_of(caller, model, x, solver)
    dtype = getattr(solver, "dtype", None) or torch.float64
    roles = roles_of(model, keywords, caller)
    data = prepare_fit(x, y, weights=weights, dtype=dtype, roles=roles, **keywords)
    return data if solver is None else with_held_out(data, solver, roles)


def _by_newton(
    coordinates: Coordinates,
    theta: Tensor,
    solver: Any,
    progress: bool,
    offset: Offset | None,
    kept: CallCheckpoint | MemberCheckpoint | None,
) -> Fit:
    """The fit by Newton's method, which confirms a closed form, or begins at several points."""
    objective, facts = coordinates.objective, coordinates.objective.facts
    best = closed_form(coordinates, theta) if "square" in facts else None
    if best is not None:
        coordinates, theta = Coordinates(objective, coordinates.blocks, True, solved=True), best
    elif "many optima" in facts:
        solver = _of_many_optima(solver, coordinates, theta)
    return solved(coordinates, theta, solver, progress, offset, kept)


def _begun(objective: Objective, start: Mapping[str, Any] | None, solver: Any) -> tuple[Coordinates, Tensor]:
    """The coordinates that a solver takes, and the initial point `(K,)`.

    Raises:
        UnboundedLikelihoodError: the density has collapsed there.
        SingularDesignError: coefficients with flat priors that the design cannot tell apart.
    """
    theta = starting_point(objective, start)
    if "collapsing" in objective.facts:
        check_bounded(objective.sample, theta)
    coordinates = rescaled(objective, theta)  # which checks the rank
    if getattr(solver, "rescale", True):
        return coordinates, theta
    return Coordinates(objective, (), is_linear=False), theta


def _of_many_optima(solver: Newton, coordinates: Coordinates, theta: Tensor) -> Any:
    """The solver, from further initial points where the model declares some.

    Newton's method may stop at a saddle, which such likelihoods have between optima.
    """
    others = further_initial_points(coordinates, theta)
    beyond = Chain((solver, TrustRegion(max_steps=50)))
    return MultiStart(beyond, others, _is_spurious(coordinates)) if len(others) else solver


def _is_spurious(coordinates: Coordinates) -> Callable[[Tensor], bool]:
    """Whether an optimum fits a few rows almost exactly."""
    return lambda z: spurious_component(coordinates.objective, coordinates.theta(z)) is not None


def refitted(fit: Fit, model: Model, solver: Any, kept: MemberCheckpoint | None = None) -> Fit:
    """The fit to the same data, from where another ended, of a model with the same predictors and sites.

    Designs are not decomposed again.
    """
    assert fit.coordinates is not None
    objective = Objective(model, data_of(fit))
    coordinates = Coordinates(objective, fit.coordinates.blocks, fit.coordinates.is_linear)
    return solved(coordinates, objective.layout.theta(fit.params), solver, False, kept=kept)


def solved(
    coordinates: Coordinates,
    theta: Tensor,
    solver: Any,
    progress: bool,
    offset: Offset | None = None,
    kept: CallCheckpoint | MemberCheckpoint | None = None,
) -> Fit:
    """The fit by a solver from an initial point `(K,)`."""
    solver = choose(coordinates) if solver is None else solver
    coordinates, problem = problem_of(coordinates, solver)
    solution = _minimum(coordinates, problem, solver, coordinates.z(theta), progress, kept)
    if coordinates.objective.data.stream is None:
        solution = _judged(coordinates, solution)
    fit, trained_on = finished(coordinates, solution, offset), trained_on_by(solver)
    check_converged(fit, solution, trained_on)
    return replace(fit, trained_on=trained_on) if trained_on else fit


def check_converged(fit: Fit, solution: Solution, trained_on: str) -> None:
    """Warn of a fit that is neither certified, nor ended by held-out rows, nor of another objective."""
    if not (fit.converged or solution.validated or (trained_on and solution.held_out is None)):
        warn(f"`{model_name(fit.model)}` did not converge: {fit.status}.", ConvergenceWarning)


def _minimum(
    coordinates: Coordinates,
    problem: Any,
    solver: Any,
    start: Tensor,
    progress: bool,
    kept: CallCheckpoint | MemberCheckpoint | None = None,
) -> Solution:
    """The solution of a solver; without a certificate, if no reason is known why there is no optimum."""
    objective, facts = coordinates.objective, coordinates.objective.facts
    facts = frozenset() if objective.data.stream is not None else facts
    problem = watched(coordinates, problem) if "ordered" in facts else problem
    problem = problem if objective.data.held_out is None else Validated(problem)
    if "bounded" in facts:
        solve = partial(in_limits, coordinates, problem, solver, start, progress)
        solution = (
            solve() if kept is None else resumed_solution(kept, coordinates, problem, solver, start, solve)
        )
    elif kept is None:
        solution = solver.minimise(problem, start, progress)
    else:
        solve = partial(minimised, solver, problem, start, progress)
        solution = resumed_solution(kept, coordinates, problem, solver, start, solve)
    if not (solution.converged and math.isfinite(solution.value)) and objective.data.stream is None:
        _check_reasons(coordinates, solution)
    return solution


def _check_reasons(coordinates: Coordinates, solution: Solution) -> None:
    """Refuse the data if a reason is known why there is no optimum."""
    objective = coordinates.objective
    check_densities(objective)
    check_zeros(objective, coordinates.theta(solution.z))
    check_tie(objective, coordinates.theta(solution.z))
    if bool(torch.isfinite(solution.z).all()):
        check_bounded(objective, coordinates.theta(solution.z), times=UNCERTIFIED_FACTOR)


def _judged(coordinates: Coordinates, solution: Solution) -> Solution:
    """The solution, if it exists; its status names what makes it a local or a spurious one."""
    objective, facts = coordinates.objective, coordinates.objective.facts
    if "bounded" in facts:
        solution = in_bounds(coordinates, solution, _existing)
    else:
        solution = _existing(coordinates, solution)
    if not solution.converged:
        solution = with_heavy_tie(objective, solution)
    if "mixture" in facts:
        solution = with_tie(objective, coordinates.theta(solution.z), solution)
        solution = with_spurious(objective, coordinates.theta(solution.z), solution)
    return solution


def _existing(coordinates: Coordinates, solution: Solution) -> Solution:
    """The solution, unless the loss still decreases from it towards a boundary.

    Raises:
        UnboundedLikelihoodError: a coefficient goes to infinity, as for separated classes.
    """
    hessian = solution.hessian
    if solution.converged and hessian is not None and bool(is_curved(hessian / coordinates.rows)):
        return solution
    return _without_recession(coordinates, solution)


def _without_recession(coordinates: Coordinates, solution: Solution) -> Solution:
    """As `_existing`, by the loss along the directions in which it may be level."""
    objective, solution = coordinates.objective, before_overflow(coordinates, solution)
    if not math.isfinite(solution.value):
        return solution
    if not solution.converged:
        exact = followed(objective, coordinates.theta(solution.z), coordinates.etas(solution.z))
        if exact:
            status = solution.status.removesuffix(f": {exact}")
            return replace(solution, status=f"{status}: {exact}")
    if not _is_smooth_enough(coordinates):
        return solution
    runaway = recession(coordinates, solution.z, solution.hessian)
    if runaway is None:
        return solution
    if not runaway.coefficients:
        check_border(objective, runaway.unconstrained)
        limit = limit_of(objective.model, str(runaway).replace("`", ""))
        status = border_status(str(runaway), "" if limit is None else f"the model is `{limit}`")
        return replace(solution, converged=False, status=status)
    if runaway.both:
        raise SingularDesignError(
            f"`{objective.name}` has parameters that are not identified: the likelihood is the same as "
            f"{runaway}, and in the opposite direction. {why_alike(objective)}, or "
            f"{prior_advice(objective.layout)}."
        )
    if not is_contradicted(coordinates, solution.z, runaway, runaway.direction):
        raise refusal(objective, runaway)
    return solution


def _is_smooth_enough(coordinates: Coordinates) -> bool:
    """Whether curvature shows a recession: few parameters, no network, and no corner near a row."""
    if has_network(coordinates) or coordinates.size > MAX_NEWTON_PARAMETERS:
        return False
    is_cornered = coordinates.kinked and not is_penalised(coordinates)
    return not is_cornered or is_censored_throughout(coordinates.objective)  # then no row is near its corner


def _landed(
    coordinates: Coordinates, solution: Solution, offset: Offset | None
) -> tuple[Coordinates, Tensor, tuple[float, float] | None]:
    """The coordinates in which y has its offset, the vector there `(K,)`, and the loss where it is known.

    It is where products of columns far from 0 cancel: minus the log-likelihood, and minus the log prior.
    """
    theta, facts = coordinates.theta(solution.z).detach(), coordinates.objective.facts
    if "kinked" in facts:
        theta = at_exact_corners(coordinates.objective, theta)
    if solution.converged and "square" in facts:
        theta = refined(coordinates, theta)
    end = None
    if _is_far(coordinates) or offset is not None:
        end = _end(coordinates, solution.z)
        theta = levelled(coordinates, theta, solution.z, offset)
    if offset is not None:
        coordinates = offset.restored(coordinates)
        check_bounded(coordinates.objective, theta)
    if solution.converged and coordinates.nearly_dependent:
        check_cancellation(coordinates, theta)
    return coordinates, theta, end


def _is_far(coordinates: Coordinates) -> bool:
    """Whether some column beside an intercept is far from 0, in a model with linear predictors."""
    return coordinates.is_linear and any(block.is_far for block in coordinates.blocks)


def _end(coordinates: Coordinates, z: Tensor) -> tuple[float, float]:
    """Minus the log-likelihood of the rows and minus the log prior, from the orthonormal designs.

    The coefficients of columns far from 0 are numbers whose products cancel; these are not formed.
    """
    coordinates.check(z)
    theta, nll, prior = coordinates.theta(z), 0.0, 0.0
    with torch.no_grad():
        for rows, part in coordinates.parts:
            own, shared = part.terms(theta, joined(coordinates.etas(z, rows)))
            nll, prior = nll + float(own), prior if rows.start else float(shared)
    return nll, prior


def _end_of(objective: Objective, theta: Tensor, loss: float | None = None) -> tuple[float, float]:
    """Minus the log-likelihood of the rows, and minus the log prior; checked as by `check_bounded`.

    Of very many rows, whose `loss` is known, a sample is screened first.
    """
    if loss is not None and len(objective.parts) > 1 and is_spread(objective.sample, theta):
        prior = prior_terms(objective, theta)[0]
        return loss - prior, prior
    nll, prior = 0.0, 0.0
    with torch.no_grad():
        for rows, part in objective.parts:
            at = part.at(theta)
            if objective.structure.may_collapse:
                check_spread(objective, theta, at.sites[RESPONSE]["fn"], part.data)
            nll -= float(at.log_prob(RESPONSE).sum())
            prior = prior if rows.start else -float(at.prior())
    return nll, prior


def finished(coordinates: Coordinates, solution: Solution, offset: Offset | None) -> Fit:
    """The fit at a solution."""
    coordinates, theta, end = _landed(coordinates, solution, offset)
    objective = coordinates.objective
    params = {name: value.detach() for name, value in objective.layout.params(theta).items()}
    if not all(bool(torch.isfinite(value).all()) for value in params.values()):
        raise UnboundedLikelihoodError(
            f"`{objective.name}` diverged: {solution.status}. The likelihood may have no maximum; "
            f"{prior_advice(objective.layout)}, or take a smaller learning rate."
        )
    nll, prior, n = _totals(objective, theta, end or (solution.value if solution.exact else None))
    solution = replace(solution, value=nll + prior)  # one that is not finite is no optimum
    fit = Fit(
        model=objective.model,
        params=MappingProxyType(params),
        nll=nll,
        loss=nll + prior,
        converged=solution.converged,
        status=solution.status,
        n_iter=solution.steps,
        n=n,
        k=objective.size - (int(at_corners(objective, theta).sum()) if "kinked" in objective.facts else 0),
        keywords=tuple(objective.data.keywords),
        columns=objective.data.columns,
        outputs={
            call.name: call.output_names(objective.data)
            for call in objective.calls
            if call.outputs is not None
        },
        responses=objective.data.responses,
        losses=solution.losses,
        epochs=solution.epochs,
        held_out=solution.held_out,
        buffers=MappingProxyType(buffers(objective) if objective.networks else {}),
        objective=objective,
        coordinates=coordinates,
    )
    return without_rows(fit, objective)


def _totals(
    objective: Objective, theta: Tensor, end: tuple[float, float] | float | None
) -> tuple[float, float, float]:
    """Minus the log-likelihood, minus the log prior, and the number of observations."""
    if objective.data.stream is not None:
        return totals(objective, objective.data.stream, theta)
    nll, prior = end if isinstance(end, tuple) else _end_of(objective, theta, end)
    return nll, prior, objective.data.count
