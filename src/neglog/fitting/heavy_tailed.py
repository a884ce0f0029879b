"""Truncated Student responses: their optimum, or the border at which their likelihood is largest.

Between bounds the density of Student's t has borders beside a maximum: the truncated Normal as df → ∞, the
density 1 / √(w² + (y - location)²) as df → 0 with w = scale √df, the uniform one as w → ∞, and rows that are
followed exactly as w → 0. Steps towards a border never end. Here they stop once they are on the way to one:
each end is a small problem of its own.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.family import family_of
from neglog.distributions.observed import latent
from neglog.errors import UnboundedLikelihoodError
from neglog.fitting.borders import Limit, border_status
from neglog.fitting.isolated_rows import extreme_row
from neglog.fitting.student_rows import LOG_BORDER_DF, LOG_BORDER_WIDTH, Heavy, Left
from neglog.fitting.tilted import (
    LIMIT_PRECISION,
    TruncatedRows,
    block_of,
    constant,
    have_exponentials,
    in_units,
    optimum,
    own_constants,
    placed,
    rows_between,
)
from neglog.layers import limit_of
from neglog.likelihood.sites import prior_advice
from neglog.objective.blocks import Block, joined
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective
from neglog.objective.spread import check_bounded
from neglog.solvers import Solution, TrustRegion

MAX_STEPS = 60
"""The largest number of evaluations from one start."""
LOG_INFINITE_DF = math.log(1e10)
"""The logarithm of a df that counts as infinite."""
LOG_COLLAPSED = math.log(1e-20)
"""The logarithm of a scale that counts as 0, in units of the spread of y."""
REACHED = 10.0
"""Largest distance of a row that a vanishing density follows, in widths."""
LOG_OUTWARD = math.log(1e4)
"""The logarithm of the factor of the coefficients and the df that leads to exponential densities."""
STARTS = ((1.0, 30.0, 1.0), (0.5, 3.0, 1.0), (0.1, 1.0, 1.0), (2.0, 3.0, 0.0))
"""Initial scales, in standard deviations of the residuals, df, and shares of least squares' coefficients."""
ROBUST_DF = 3.0
"""The initial df at a line of least absolute deviations, with its mean absolute residual as the scale."""
MAX_REWEIGHTED = 20
"""Number of least squares problems that lead to this line."""
UNIFORM_LIMIT = "{scale} → +∞, the limit in which `y` is uniform between its bounds"
ZERO = "{df} → 0"
INFINITE = "{df} → +∞"
EXPONENTIAL = "{scale} and {df} → +∞, the limit in which `y` is exponential between its bounds"
COLLAPSED = "{scale} → 0"
FOLLOWS_ROWS = (COLLAPSED, ZERO)
"""Borders next to which the likelihood is unbounded."""
SAME_LOSS = 1e-4
"""Largest difference of the loss from that of the model, in nats a row."""
MIN_SPREAD = 1e-3
"""The smallest initial scale, in units of the spread of y."""
TOLERANCE = 1e-6
"""The Newton decrement, in standard errors, of an end."""


@dataclass(frozen=True, eq=False)
class _End:
    """Where steps have ended, or the border that they are on their way to.

    Attributes:
        value: the loss there.
        whole: the coefficients, log scale and log df `(P + 2,)`.
        border: the border, in words; empty at an optimum.
    """

    value: float
    whole: Tensor
    border: str = ""


def _steps(problem: Heavy, start: Tensor) -> tuple[Tensor, bool, bool]:
    """The point where steps end, whether it is an optimum, and whether they left for a border."""
    try:
        found = TrustRegion(tolerance=TOLERANCE, max_steps=MAX_STEPS).minimise(problem, start)
    except Left as left:
        return left.point, False, True
    return found.z, found.converged, False


def _end(rows: TruncatedRows, start: Tensor, log_df: float | None, normal: _End | None) -> _End | None:
    """The end of the steps from a start; None where they end nowhere, or a density follows rows exactly."""
    problem = Heavy(rows, log_df)
    z, is_optimum, has_left = _steps(problem, start[: problem.size])
    whole = problem.whole(z)
    if is_optimum:
        return _End(problem.value(z), whole)
    if problem.log_width(z) >= LOG_BORDER_WIDTH[1]:
        return _End(problem.value(z), whole, UNIFORM_LIMIT)
    if has_left and problem.log_width(z) <= LOG_BORDER_WIDTH[0]:
        # A scale of 0 beyond the bounds of all rows leaves a power of the distance from there.
        return _End(math.inf, whole, COLLAPSED) if _follows(rows, whole) else _End(problem.value(z), whole)
    if log_df is None and has_left and not LOG_BORDER_DF[0] < float(z[-1]) < LOG_BORDER_DF[1]:
        return _limit_of_df(rows, whole, normal)
    return None if log_df is not None else _beyond(problem, z, normal)


def _beyond(problem: Heavy, z: Tensor, normal: _End | None) -> _End | None:
    """The lowest border that is no higher than a point at which steps have ended nowhere."""
    value, known = problem.value(z), (_outward(problem, z), _infinite(normal))
    lower = (end for end in known if end is not None and end.value <= value)
    return min(lower, key=lambda end: end.value, default=None)


def _limit_of_df(rows: TruncatedRows, whole: Tensor, normal: _End | None) -> _End | None:
    """The end at the border of the df to which steps have left."""
    if float(whole[-1]) < 0:
        return _End(Heavy(rows).value(whole), whole, ZERO)
    return _infinite(normal)


def _infinite(normal: _End | None) -> _End | None:
    """The truncated Normal as the border of an infinite df."""
    return None if normal is None else replace(normal, border=normal.border or INFINITE)


def _normal(rows: TruncatedRows) -> _End | None:
    """The optimum of the truncated Normal, the limit of an infinite df."""
    if not have_exponentials(rows):
        return None
    found = optimum(rows)
    if found is None:
        return None
    natural, at_border = found
    value = rows.loss(natural)[0]
    if at_border:
        natural[-1] = LIMIT_PRECISION
    double = 2 * natural[-1:]
    whole = torch.cat([natural[:-1] / double, -0.5 * double.log()])
    whole = torch.cat([whole, _log_normal_df(rows, whole)[None]])
    return _End(value, whole, EXPONENTIAL if at_border else "")


def _log_normal_df(rows: TruncatedRows, whole: Tensor) -> Tensor:
    """The logarithm of a df at which the density is Normal at coefficients and log scale `(P + 1,)`.

    At a distance of z scales the log-densities differ by z⁴ / (4 df).
    """
    residuals = (rows.y - rows.basis.at(whole[:-1])).abs().amax()
    return LOG_INFINITE_DF + 4 * (residuals.log() - whole[-1]).clamp_min(0.0)


def _outward(problem: Heavy, whole: Tensor) -> _End:
    """The end of a density that approaches an exponential one in each row, as location, scale and df grow.

    Their ratios w / df and location / w are those at the point.
    """
    step = torch.zeros_like(whole)
    step[-2], step[-1] = 0.5 * LOG_OUTWARD, LOG_OUTWARD
    out = whole + step
    out[:-2] *= math.exp(LOG_OUTWARD)
    return _End(problem.value(out), out, EXPONENTIAL)


def _starts(rows: TruncatedRows, normal: _End | None) -> list[Tensor]:
    """Initial points: the truncated Normal with 30 df, and `STARTS`."""
    ones = rows.weights
    line = torch.linalg.solve(rows.basis.cross(ones, rows.basis), rows.basis.gather(ones * rows.y))
    spread = float((ones * (rows.y - rows.basis.at(line)).square()).mean().sqrt())
    found = [
        torch.cat([share * line, line.new_tensor([math.log(max(scale * spread, MIN_SPREAD)), math.log(df)])])
        for scale, df, share in STARTS
    ]
    if normal is not None and not normal.border:
        found[0] = normal.whole.clone()
        found[0][-1] = math.log(STARTS[0][1])
    return found


def _best(rows: TruncatedRows, log_df: float | None) -> _End | None:
    """The lowest end; one that follows rows if more than half of the starts, or all that end, lead there."""
    normal, ends, following = _normal(rows), list[_End](), list[_End]()
    for start in _starts(rows, normal):
        end = _end(rows, start, log_df, normal)
        if end is not None:
            (following if end.border in FOLLOWS_ROWS else ends).append(end)
        if len(following) > len(STARTS) / 2:  # the others would not change the result
            break
    else:
        if ends:
            return _unless_lower(rows, log_df, min(ends, key=lambda end: end.value))
    return max(following, key=lambda end: end.value, default=None)


def _unless_lower(rows: TruncatedRows, log_df: float | None, best: _End) -> _End:
    """The best end; in the place of a border, the lower optimum that a robust line leads to."""
    if not best.border:
        return best
    line, spread = _absolute_line(rows)
    start = torch.cat([line, line.new_tensor([math.log(max(spread, MIN_SPREAD)), math.log(ROBUST_DF)])])
    end = _end(rows, start, log_df, None)
    is_lower = end is not None and not end.border and end.value < best.value
    return end if end is not None and is_lower else best


def _absolute_line(rows: TruncatedRows) -> tuple[Tensor, float]:
    """The line of least absolute deviations, by reweighted least squares, and its mean absolute residual."""
    weights = rows.weights
    for _ in range(MAX_REWEIGHTED):
        line = torch.linalg.solve(rows.basis.cross(weights, rows.basis), rows.basis.gather(weights * rows.y))
        sizes = (rows.y - rows.basis.at(line)).abs()
        weights = rows.weights / sizes.clamp_min(MIN_SPREAD)
    return line, float((rows.weights * sizes).mean())


def heavy_tailed(coordinates: Coordinates) -> Solution | None:
    """The optimum of a truncated Student response: a `Limit` where it is at a border; None of another.

    An optimum inside is not certified, and a place to start from.

    Raises:
        UnboundedLikelihoodError: the density follows some rows exactly, or would as the df goes to 0.
    """
    objective, block = coordinates.objective, block_of(coordinates)
    if block is None or block.basis is None or not _is_student(objective):
        return None
    response = objective.response(objective.initial)
    rows = in_units(rows_between(objective, response, block.basis, constant(block.basis)))
    if rows is None:
        return None
    found = _best(rows, _known_log_df(objective, response))
    if found is not None and found.border == COLLAPSED:
        theta = coordinates.theta(_place(coordinates, block, rows, _onto_rows(rows, found.whole)))
        check_bounded(objective, theta)
    if found is None or found.border in FOLLOWS_ROWS:
        _check_bounded_above(objective, rows)
        return None
    return _solution(coordinates, block, rows, found)


def _solution(coordinates: Coordinates, block: Block, rows: TruncatedRows, end: _End) -> Solution | None:
    """The solution at an end; None where the loss of the model is another one."""
    objective = coordinates.objective
    z = _place(coordinates, block, rows, end.whole)
    value, weights = value_by_model(coordinates, z), objective.data.weights
    mean_weight = 1.0 if weights is None else float(weights.mean())
    if not abs(value - mean_weight * (end.value + len(rows.y) * math.log(rows.unit))) <= SAME_LOSS * len(
        rows.y
    ):
        return None
    if not end.border:
        return Solution(z, value, False, "", 0)
    return Limit(z, value, False, _status(objective, end.border), 0)


@torch.no_grad()
def value_by_model(coordinates: Coordinates, z: Tensor) -> float:
    """The loss by running the model once, for which no graph is recorded."""
    theta, parts = coordinates.theta(z), coordinates.parts
    return sum(float(part.trial(theta, joined(coordinates.etas(z, rows)))[0]) for rows, part in parts)


def _check_bounded_above(objective: Objective, rows: TruncatedRows) -> None:
    """Refuse a density without a local maximum in reach where the likelihood is known to rise without end.

    With a free df it is: in w = scale √df the density at a row that it follows rises like 1 / (w log(1 / w))
    as w and df go to 0, and at any other row it falls like 1 / log(1 / w) alone. With a known df it is where
    the locations of all other rows can lie beyond a bound. There a vanishing scale leaves a power of the
    distance from the location, while the density at the one row rises like 1 / scale.

    Raises:
        UnboundedLikelihoodError: the likelihood is unbounded.
    """
    response = objective.structure.response
    if response.tails is not None:
        between = "between two bounds " if bool(torch.isfinite(rows.upper - rows.lower).all()) else ""
        raise UnboundedLikelihoodError(
            f"`{objective.name}` has no maximum: {between}the likelihood rises without end as "
            f"`{response.tails}` and `{response.scale}` go to 0 at a row. Give a known one, "
            f"pyro.condition(model, {{{response.tails!r}: torch.tensor(4.0)}}), or "
            f"{prior_advice(objective.layout)}."
        )
    row = _extreme_row(rows)
    if row is not None:
        raise UnboundedLikelihoodError(
            f"`{objective.name}` has no maximum: the likelihood rises without end as the location follows "
            f"row {objective.data.row(row)} and lies beyond the bounds of all others, where a truncated "
            f"density stays level, and `{response.scale}` goes to 0. Use fewer columns, or "
            f"{prior_advice(objective.layout)}."
        )


def _extreme_row(rows: TruncatedRows) -> int | None:
    """A row that the location can follow while it lies beyond a bound in all others; None if unknown."""
    is_closed = any(bool(torch.isfinite(side).all()) for side in (rows.lower, rows.upper))
    return extreme_row(rows.basis.dense()) if is_closed and bool(rows.one.any()) else None


def _is_student(objective: Objective) -> bool:
    """Whether a response is a truncated t of one location, and one scale and df or a known df."""
    own, response = own_constants(objective), objective.structure.response
    if own is None or response.scale is None or set(own) != {response.scale, response.tails} - {None}:
        return False
    return family_of(latent(objective.response(objective.initial))).tails is not None


def _known_log_df(objective: Objective, response: Any) -> float | None:
    """The logarithm of a known df of all rows; None of one that is a parameter."""
    if objective.structure.response.tails is not None:
        return None
    inner = latent(response)
    df: Tensor = getattr(inner, str(family_of(inner).tails))
    return float(df.detach().reshape(-1)[0].log())


def _residuals(rows: TruncatedRows, whole: Tensor) -> tuple[Tensor, float]:
    """The residuals `(N,)` of a density, and the largest one of a row that it follows."""
    width = math.exp(Heavy(rows, float(whole[-1])).log_width(whole[:-1]))
    return rows.y - rows.basis.at(whole[:-2]), REACHED * width


def _follows(rows: TruncatedRows, whole: Tensor) -> bool:
    """Whether a density follows some row."""
    residuals, reach = _residuals(rows, whole)
    return bool(residuals.abs().amin() <= reach)


def _onto_rows(rows: TruncatedRows, whole: Tensor) -> Tensor:
    """The same density with a scale of 0, at the rows that it follows."""
    whole, (residuals, reach) = whole.clone(), _residuals(rows, whole)
    near = residuals.abs().argsort()[: len(rows.one)]
    near = near[residuals[near].abs() <= reach]
    if len(near):
        design = torch.stack([rows.basis.at(each)[near] for each in torch.eye(len(rows.one)).to(whole)], 1)
        whole[:-2] += torch.linalg.pinv(design) @ residuals[near]
    whole[-2] = LOG_COLLAPSED - 0.5 * min(0.0, float(whole[-1]))
    return whole


def _place(coordinates: Coordinates, block: Block, rows: TruncatedRows, whole: Tensor) -> Tensor:
    """The coordinates of a point, in the units of y."""
    objective = coordinates.objective
    response = objective.structure.response
    z = coordinates.z(objective.initial)
    z[block.places] = rows.unit * whole[:-2] + rows.centre * rows.one
    values = {response.scale: rows.unit * whole[-2].exp(), response.tails: whole[-1].exp()}
    return placed(objective, z, {name: value for name, value in values.items() if name is not None})


def _status(objective: Objective, border: str) -> str:
    response = objective.structure.response
    limit = limit_of(objective.model, f"{response.tails} → +∞")
    nested = f"the model is `{limit}`" if border == INFINITE and limit else ""
    return border_status(border.format(scale=f"`{response.scale}`", df=f"`{response.tails}`"), nested)


def null_heavy_tailed(objective: Objective, theta: Tensor, free: Collection[str]) -> Tensor | None:
    """`theta` `(K,)` with the sites `free`, of a truncated Student response, at the moments of y.

    None of another response. The null model may be at a border, from where no step leads to the optimum.
    """
    response, y = objective.structure.response, objective.data.y
    if not _is_student(objective) or not float(y.std()) > 0:
        return None
    values = {
        f"{response.location}.bias": y.mean(),
        response.scale: y.std(),
        response.tails: theta.new_tensor(STARTS[0][1]),
    }
    return (
        placed(objective, theta, {name: values[name] for name in free}) if set(free) <= set(values) else None
    )
