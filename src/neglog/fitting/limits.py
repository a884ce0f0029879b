"""Limits: optima of truncated and censored responses of which the bounds leave nothing to estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neglog.checkpoint import UNKEPT, Part
from neglog.distributions.observed import corner
from neglog.errors import UnboundedLikelihoodError
from neglog.fitting.borders import Limit, border_status
from neglog.fitting.certain import (
    CENSORED_THROUGHOUT,
    bounds_of_rows,
    certain_limit,
    certain_status,
    is_censored_throughout,
    is_certain,
)
from neglog.fitting.existence import CERTAIN_INTERCEPT, REAL, Recession
from neglog.fitting.flat_directions import MIN_RISE
from neglog.fitting.heavy_tailed import heavy_tailed, value_by_model
from neglog.fitting.marked import check_vanishing_spread, vanishing_spread
from neglog.fitting.tilted import tilted
from neglog.likelihood.sites import prior_advice
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective
from neglog.solvers import Continuation, MultiStart, Newton, Solution
from neglog.solvers.chain import minimised
from neglog.solvers.gradient import GradientTraining
from neglog.solvers.watched import Watched

OUTWARD = 64.0
"""Distance along a direction at which its contradiction by rows is tested, in units of the noise of a row."""
CONTRADICTION = 1.0
"""Decrease of the log-likelihood of a row over that distance, in nats, that contradicts the direction."""
DIFFERENCE_STEP = 1e-4
"""Step of the central difference that gives the slopes of the rows, in units of the noise of a row."""
BALANCE = 1e-2
"""Largest ratio of the sum of the rows' slopes to the sum of their absolute values at a maximum."""

LEVEL = 1e-2
"""The largest log-density, relative to the uniform one, of a truncated response of infinite scale."""
MIN_GAIN = 1e-6
"""A gain over the uniform density above this, in nats, implies an optimum of finite scale."""
LOOK, STAYS = 25, 4
"""Gradient steps between two checks for the uniform density, and the number of checks until they stop."""
LOG_SCALE_FACTORS = (0.0, 5.0, 10.0, 15.0, 20.0)
"""The logarithms of further factors of the scale."""
DOUBLINGS = 8
"""The largest number of doublings of the distance on the way to the uniform density."""
MAX_LOCAL_STEPS = 40
"""The largest number of steps to a local optimum where the likelihood is known to have no maximum."""
MAX_NAMED_ROWS = 10
"""The largest number of rows that a message names."""
MIN_MOVE_SHARE = 1e-6
"""Smallest change of a row's predictor along a direction, as a share of the largest, that is not rounding."""
TAIL = 0.5
"""The largest share of rows with a quantile beyond their bound; above it the tail determines the fit."""
LEFT = 0.8
"""The share of rows with a quantile beyond their bound from where smoothed losses do not return,"""
STAYS_BEYOND = 2
"""if it is as large at the optima of that many consecutive ones."""


def in_bounds(
    coordinates: Coordinates, solution: Solution, existing: Callable[[Coordinates, Solution], Solution]
) -> Solution:
    """The solution, if it exists; its status names what the data do not determine because of the bounds."""
    if isinstance(solution, Limit):
        return solution
    if is_uniform(coordinates, solution.z, solution.value):
        status = border_status("the spread → +∞", "`y` is uniform between its bounds")
        return replace(solution, converged=False, status=status)
    if is_certain(coordinates, solution.z):
        return replace(solution, converged=False, status=certain_status(coordinates.objective))
    solution = _locally_existing(coordinates, existing(coordinates, solution))
    if not solution.converged and is_censored_throughout(coordinates.objective):
        return replace(solution, status=f"{CENSORED_THROUGHOUT} The solver: {solution.status}")
    number, decides = beyond_bounds(coordinates, solution.z)
    if not number:
        return solution
    reason = (
        f"the fitted quantile of {number} of {coordinates.rows} rows lies beyond their bound, where only "
    )
    reason += "the tail of the assumed density determines it"
    status = f"{reason} (the solver: {solution.status})" if decides else f"{solution.status}; {reason}"
    return replace(solution, converged=solution.converged and not decides, status=status)


def _locally_existing(coordinates: Coordinates, solution: Solution) -> Solution:
    """The solution; a certified local maximum where the likelihood is known to have no other.

    Raises:
        UnboundedLikelihoodError: it is not certified, and there is no maximum.
    """
    if not solution.converged and _is_flat_and_truncated(coordinates.objective):
        check_vanishing_spread(coordinates.objective)
    return solution


def in_limits(
    coordinates: Coordinates,
    problem: Any,
    solver: Any,
    start: Tensor,
    progress: bool,
    checkpoint: Any = UNKEPT,
) -> Solution:
    """The minimum by a solver; gradient steps and smoothed losses stop at a uniform density.

    Newton's method starts near the optimum in the natural parameters, and is not needed at their boundary.
    """
    if (certain := certain_limit(coordinates)) is not None:
        return certain
    if isinstance(solver, Newton | MultiStart) and (known := _known(coordinates, start)) is not None:
        return _by_steps(problem, solver, known, progress, checkpoint)
    is_watched = isinstance(solver, GradientTraining | Continuation)
    if not (is_watched and _is_flat_and_truncated(coordinates.objective)):
        return minimised(_of_few_steps(solver, coordinates.objective), problem, start, progress, checkpoint)
    watched = _UntilUniform(problem, coordinates)
    limit: Callable[[Coordinates, Tensor, Tensor], tuple[Tensor, float]] = _levelled
    if isinstance(solver, GradientTraining):
        limit, (level, value) = _outward, _levelled(coordinates, start, start)
        start = level if value < coordinates.value(start) else start
    try:
        return minimised(solver, watched, start, progress, watched.resumed(checkpoint))
    except _IsBeyond as out:
        return Solution(out.z, coordinates.value(out.z), False, "stopped there", watched.calls)
    except _RunsOut as out:
        z, value = limit(coordinates, start, out.z)
        return Solution(z, value, False, "it diverges to the border", watched.calls)


def _of_few_steps(solver: Any, objective: Objective) -> Any:
    """The solver, of fewer steps by default where the likelihood has no maximum but local ones."""
    if solver != Newton() or not _is_flat_and_truncated(objective) or vanishing_spread(objective) is None:
        return solver
    return Newton(max_steps=MAX_LOCAL_STEPS)


def _by_steps(
    problem: Any, solver: Newton | MultiStart, known: Solution, progress: bool, checkpoint: Any
) -> Solution:
    """The minimum by steps from a solution that is known but for its last digits; a `Limit` as it is."""
    if isinstance(known, Limit):
        return known
    one = solver.solver if isinstance(solver, MultiStart) else solver
    return minimised(one, problem, known.z, progress, checkpoint)


def _known(coordinates: Coordinates, start: Tensor) -> Solution | None:
    """The optimum of a truncated response whose borders are known; None of others, or if `start` is lower."""
    if (found := tilted(coordinates)) is not None:
        return found
    found = heavy_tailed(coordinates)
    return None if found is None or value_by_model(coordinates, start) < found.value else found


class _RunsOut(Exception):
    """The steps have reached the uniform density."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z = z


class _IsBeyond(_RunsOut):
    """The fitted quantiles of nearly all rows lie beyond their bounds."""


class _UntilUniform(Watched):
    """A problem that stops steps which are at the uniform density in `STAYS` consecutive checks.

    The end point of a smoothed problem, where its `value` is computed, needs one check. Steps are stopped
    beyond the bounds, too, after `STAYS_BEYOND` smoothed problems.
    """

    def __init__(self, problem: Any, coordinates: Coordinates) -> None:
        super().__init__(problem)
        self._coordinates, self.calls, self._uniform, self._beyond = coordinates, 0, 0, 0

    def resumed(self, checkpoint: Any) -> Part:
        """The checkpoint of the solver, which has the checks so far beside its state; take these up."""
        found = checkpoint.found or {"solver": None, "calls": 0, "uniform": 0}
        self.calls, self._uniform = found["calls"], found["uniform"]

        def with_checks(state: Any) -> dict[str, Any]:
            return {"solver": state, "calls": self.calls, "uniform": self._uniform}

        return Part(checkpoint, found["solver"], with_checks)

    def value(self, z: Tensor) -> float:
        self.calls += 1
        found = self._coordinates.value(z)
        if is_uniform(self._coordinates, z, found):
            raise _RunsOut(z)
        is_beyond = beyond_bounds(self._coordinates, z)[0] > LEFT * self._coordinates.rows
        self._beyond = self._beyond + 1 if is_beyond else 0
        if self._beyond == STAYS_BEYOND:
            raise _IsBeyond(z)
        return found

    def evaluation(
        self, z: Tensor, size: int | None = None, *, compile: bool = False
    ) -> Callable[..., tuple[Tensor, Tensor]]:
        evaluate: Callable[..., tuple[Tensor, Tensor]] = self.problem.evaluation(z, size, compile=compile)

        def watched(z: Tensor, *index: Tensor) -> tuple[Tensor, Tensor]:
            self.calls += 1
            if self.calls % LOOK == 0:
                uniform = is_uniform(self._coordinates, z, self._coordinates.value(z))
                self._uniform = self._uniform + 1 if uniform else 0
                if self._uniform == STAYS:
                    raise _RunsOut(z.clone())
            return evaluate(z, *index)

        return watched


def _outward(coordinates: Coordinates, start: Tensor, z: Tensor) -> tuple[Tensor, float]:
    """A point further from the start on the same line, as long as the loss decreases: its limit."""
    way, value = z - start, coordinates.value(z)
    for _ in range(DOUBLINGS):
        way = 2 * way
        further = coordinates.value(start + way)
        if not further < value:
            break
        z, value = start + way, further
    return z, value


def refusal(objective: Objective, runaway: Recession) -> UnboundedLikelihoodError:
    """The error for a likelihood that never decreases in the direction `runaway`."""
    return UnboundedLikelihoodError(
        f"`{objective.name}` has no maximum: the likelihood never falls as {runaway}. "
        f"{_beside_the_mean(objective, runaway) or why_unbounded(objective)}, or "
        f"{prior_advice(objective.layout)}."
    )


def _beside_the_mean(objective: Objective, runaway: Recession) -> str:
    """The reason and a remedy if coefficients of a dispersion of counts go to infinity; else empty.

    Probabilities are at most 1: the likelihood stays bounded, and negative binomial counts become Poisson.
    """
    way, first = str(runaway), objective.calls[0].name if objective.calls else ""
    if objective.structure.may_collapse or f"`{first}" in way:
        return ""
    own = way.split("`")[1]
    return (
        f"It stays bounded, and its supremum is at the border: rows whose `{own}` is infinite"
        f"{_moved_rows(objective, own, runaway)}, such as counts with a dispersion of 0, which are Poisson. "
        f"Leave the column out of `{own}`"
    )


def _predictor_change(objective: Objective, name: str, design: Tensor, direction: Tensor) -> Tensor:
    """The change `(N,)` of a predictor along a direction `(K,)` in theta."""
    change = design.new_zeros(len(design))
    for part, columns in (("weight", design), ("bias", torch.ones_like(design[:, :1]))):
        site = objective.sites.get(f"{name}.{part}")
        if site is not None and columns.shape[1] == site.size:
            change = change + columns @ direction[site.place]
    return change


def _moved_rows(objective: Objective, own: str, runaway: Recession) -> str:
    """The rows whose predictor `own` a direction changes, if they are few."""
    call = next((call for call in objective.calls if call.name == own), None)
    if call is None or runaway.unconstrained is None or call.weight.dim() != 1:
        return ""
    moves = _predictor_change(objective, own, call.design.detach(), runaway.unconstrained)
    rows = (moves.abs() > MIN_MOVE_SHARE * moves.abs().amax()).nonzero()[:, 0].tolist()
    if len(rows) > MAX_NAMED_ROWS:
        return ""
    return f" (row{'s' * (len(rows) > 1)} {', '.join(str(objective.data.row(row)) for row in rows)})"


def _levelled(coordinates: Coordinates, start: Tensor, far: Tensor) -> tuple[Tensor, float]:
    """A point closer to the uniform density by an increase of the scale alone: its limit, to rounding."""
    spread = torch.zeros_like(far)
    for site in coordinates.objective.structure.constant_sites:
        spread[site.place] = 1.0
    best = min((far + times * spread for times in LOG_SCALE_FACTORS), key=coordinates.value)
    return best, coordinates.value(best)


def why_unbounded(objective: Objective) -> str:
    """The reason why a coefficient can go to infinity, and a remedy, to which others may be added."""
    if objective.structure.law.truncates and objective.structure.may_collapse:
        return (
            "Far from its location a truncated density approaches an exponential one (of a positive "
            "response, a power of `y`), which no finite location attains. Fit the model without "
            "`truncated`"
        )
    if is_censored_throughout(objective):
        return f"{CENSORED_THROUGHOUT} Give rows with an observed value"
    return (
        "The column, or a combination of columns, separates the responses perfectly, or all are alike. Leave "
        "it out"
    )


def why_alike(objective: Objective) -> str:
    """The reason why parameters are not identified, if one is known, and the first remedy."""
    if is_censored_throughout(objective):
        return f"{CENSORED_THROUGHOUT} Give rows with an observed value"
    return "Leave one of these columns out, or fix one of these parameters at a known value by pyro.condition"


def check_sides(objective: Objective) -> None:
    """Refuse a response of which each row is at one of two bounds that are the same for all rows.

    These are classes: with a location and a scale in the same proportion the probabilities rise to those of
    two classes as both go to infinity.

    Raises:
        UnboundedLikelihoodError: there is no observed value.
    """
    if not (
        objective.structure.law.censors and objective.structure.may_collapse and objective.data.y.dim() == 1
    ):
        return
    if not objective.layout.is_flat or not is_censored_throughout(objective):
        return
    low, high = (bound.unique() for bound in bounds_of_rows(objective.response(objective.initial)))
    y = objective.data.y
    if len(low) == len(high) == 1 and bool((y <= low).any() and (y >= high).any()):
        raise UnboundedLikelihoodError(
            f"`{objective.name}` has no maximum: the likelihood never falls as the location and the spread "
            f"go to infinity together. {CENSORED_THROUGHOUT} Give rows with an observed value, or "
            "fit the sides as classes by `bernoulli`."
        )


def check_one_side(objective: Objective) -> None:
    """Refuse a response that is censored throughout, if an intercept can make the probability of each row 1.

    So it is where all rows are below their bounds, or all above. No finite intercept attains a probability of
    1.

    Raises:
        UnboundedLikelihoodError: naming the intercept and the direction.
    """
    if not is_censored_throughout(objective):
        return
    away = 1e3 * (1 + float(objective.data.y.abs().max()))
    for call in objective.calls:
        site = objective.sites.get(f"{call.name}.bias")
        if site is None or not site.masked:
            continue
        for shift in (-CERTAIN_INTERCEPT, CERTAIN_INTERCEPT, -away, away):
            theta = objective.initial.clone()
            theta[site.place] = shift
            with torch.no_grad():
                nll = float(objective.trial(theta)[0])
            if nll <= MIN_RISE:
                runs = f"`{call.name}` of Intercept → {REAL[shift > 0]}"
                raise refusal(objective, Recession((runs,), (), False))


def is_contradicted(coordinates: Coordinates, z: Tensor, runaway: object, direction: Tensor | None) -> bool:
    """Whether rows of small weight contradict a direction of recession, so that `z` is the maximum.

    Raises:
        UnboundedLikelihoodError: some contradict it, and their weights are too small for a maximum in
        float64.
    """
    objective = coordinates.objective
    if direction is None or objective.structure.may_collapse or objective.data.weights is None:
        return False
    against, ended = contradictions(coordinates, z, direction)
    if len(against) and not ended:
        first = int(against[0])
        weight = 1.0 if objective.data.weights is None else float(objective.data.weights[first])
        raise UnboundedLikelihoodError(
            f"`{objective.name}` has no maximum within the range of float64: it is separated, as {runaway}, "
            f"but for {len(against)} rows of negligible weight, such as row {objective.data.row(first)} with "
            f"{weight:.1g}. Give them a larger weight, or {prior_advice(objective.layout)}."
        )
    return ended


def contradictions(coordinates: Coordinates, z: Tensor, direction: Tensor) -> tuple[Tensor, bool]:
    """The rows that contradict a direction along which the loss does not increase, and whether `z` is a
    maximum.

    The weights of such rows are so small that their decrease is below the rounding error of the loss. `z` is
    the maximum if their slopes and those of the other rows cancel.
    """
    objective = coordinates.objective

    def rows(distance: float) -> Tensor:
        return objective.log_likelihood(coordinates.theta(z + distance * direction))

    with torch.no_grad():
        against = (rows(0.0) - rows(OUTWARD) > CONTRADICTION).nonzero()[:, 0]
        slopes = (rows(DIFFERENCE_STEP) - rows(-DIFFERENCE_STEP)) / (2 * DIFFERENCE_STEP)
    if objective.data.weights is not None:
        slopes = slopes * objective.data.weights
    return against, bool(slopes.sum().abs() <= BALANCE * slopes.abs().sum()) and len(against) > 0


def is_uniform(coordinates: Coordinates, z: Tensor, loss: float) -> bool:
    """Whether a response that is truncated on both sides is uniform at `z`: its scale goes to infinity."""
    objective = coordinates.objective
    if not _is_flat_and_truncated(objective):
        return False
    response, y = objective.response(coordinates.theta(z)), objective.data.y
    width = (response.upper - response.lower).expand(y.shape)
    if not bool(torch.isfinite(width).all()):
        return False
    gain = response.log_prob(y) + torch.log(width)
    weights = torch.ones_like(y) if objective.data.weights is None else objective.data.weights
    level = bool(gain.abs().amax() <= LEVEL)
    return level and loss >= float((weights * torch.log(width)).sum()) - MIN_GAIN


def _is_flat_and_truncated(objective: Objective) -> bool:
    return objective.structure.law.truncates and objective.structure.may_collapse and objective.layout.is_flat


def beyond_bounds(coordinates: Coordinates, z: Tensor) -> tuple[int, bool]:
    """The number of rows whose fitted quantile lies beyond their bound, and whether the tail determines the
    fit.

    For such rows the quantile is not observed, and depends on the tail of the assumed density. The tail
    determines the fit if these rows are more than `TAIL` of all, or the others do not determine the
    coefficients.
    """
    objective = coordinates.objective
    if (
        objective.structure.corner is None
        or not objective.structure.corner.is_bounded
        or objective.data.y.dim() != 1
    ):
        return 0, False
    response = objective.response(coordinates.theta(z))
    found = corner(response)
    low, high = bounds_of_rows(response)
    if found is None:
        return 0, False
    y = objective.data.y
    loc = found.loc.expand(y.shape)
    outside = ~((loc >= low) & (loc <= high)).expand(y.shape)
    number = int(outside.sum())
    if not number:
        return 0, False
    return number, number > TAIL * len(y) or not _determined(coordinates, ~outside)


def _determined(coordinates: Coordinates, rows: Tensor) -> bool:
    """Whether some rows alone determine the coefficients of every predictor."""
    for block in coordinates.blocks:
        if block.basis is None or not len(block.places):
            continue
        design = block.basis.dense()[rows]
        if len(design) < design.shape[1] or int(torch.linalg.matrix_rank(design)) < design.shape[1]:
            return False
    return True
