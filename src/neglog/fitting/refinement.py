"""Least squares to the last digit: a Normal mean refined with residuals in twice the digits."""

from __future__ import annotations

import torch
from torch import Tensor

from neglog.distributions.family import scale_of
from neglog.objective.blocks import Block
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective

MAX_DESIGN_SIZE = 100_000
"""Above this many numbers in a design its coefficients are not refined."""
MAX_MOVE = 1e-3
"""The largest move of a refinement, in standard errors: it corrects rounding and nothing else."""
SPLITTER = 2.0**27 + 1
"""Veltkamp's constant, which splits a number of 53 binary digits into halves."""


def refined(coordinates: Coordinates, theta: Tensor) -> Tensor:
    """`theta` `(K,)` of an optimum, with the least squares coefficients of a Normal mean of one scale.

    Every solution by one decomposition in float64 loses as many digits as the condition number of the design
    has. Residuals in twice the digits are solved for again by the same decomposition. `theta` itself is
    returned where there is no such mean, or too large a design.
    Source: Björck (1967), Iterative refinement of linear least squares solutions.
    """
    block = _block_of_mean(coordinates, theta)
    if block is None:
        return theta
    objective = coordinates.objective
    call = next(call for call in objective.calls if call.name == block.predictor)
    bias, weight = (f"{block.predictor}.{part}" in objective.sites for part in ("bias", "weight"))
    parts = ([call.design.new_ones((len(call.design), 1))] if bias else []) + (
        [call.design] if weight else []
    )
    columns = torch.cat(parts, dim=1)
    y = objective.data.y - block.offset
    weights = objective.data.weights
    better = _solve(columns, y, torch.ones_like(y) if weights is None else weights, theta[block.places])
    if better is None:
        return theta
    return theta.index_copy(0, block.places, better)


def _block_of_mean(coordinates: Coordinates, theta: Tensor) -> Block | None:
    """The block that is the mean of a Normal response of one scale, free and without priors."""
    objective = coordinates.objective
    response = objective.structure.response
    if not coordinates.is_linear or not response.law.is_square or not response.is_plain:
        return None
    if max(call.design.numel() for call in objective.calls) > MAX_DESIGN_SIZE:
        return None
    scale = scale_of(objective.response(theta))
    if scale is None:
        return None
    scale = scale.reshape(-1)
    if bool((scale != scale[0]).any()) | objective.data.is_missing:
        return None
    return next((b for b in coordinates.blocks if _is_flat_mean(objective, b)), None)


def _is_flat_mean(objective: Objective, block: Block) -> bool:
    """Whether a block is the location of the response, and its coefficients have no priors."""
    own = (objective.sites.get(f"{block.predictor}.{part}") for part in ("bias", "weight"))
    is_flat = all(site.masked for site in own if site is not None)
    return block.predictor == objective.structure.response.location and block.output is None and is_flat


def _solve(columns: Tensor, y: Tensor, weights: Tensor, coefficients: Tensor) -> Tensor | None:
    """The weighted least squares solution `(P,)` next to `coefficients`; None if it is not near.

    In r = y - X b and Xᵀ W r = 0 both are unknown: with the weighted design Q R, corrections to them are
    db = R⁻¹ (Qᵀ √W f - R⁻ᵀ g) and dr = f - X db, where f and g are what the two equations lack.
    """
    root = weights.sqrt()
    orthonormal, triangle = torch.linalg.qr(root[:, None] * columns)
    residuals, size = y - columns @ coefficients, torch.inf
    for _ in range(10):
        missing_rows = lack(columns, y, coefficients, residuals)
        slope = -_gather(columns, weights, residuals)
        missing = torch.linalg.solve_triangular(triangle.T, slope[:, None], upper=False)[:, 0]
        along = orthonormal.T @ (root * missing_rows) - missing
        move = torch.linalg.solve_triangular(triangle, along[:, None], upper=True)[:, 0]
        before, size = size, float(along.norm())
        spread = float((root * residuals).norm()) / len(y) ** 0.5
        if not (size <= max(MAX_MOVE * spread, 1e-12 * float((root * y).norm()))):
            return None
        if size >= before:  # all that is left is the rounding of the coefficients
            break
        coefficients = coefficients + move
        residuals = residuals + missing_rows - columns @ move
    return coefficients


def lack(columns: Tensor, y: Tensor, coefficients: Tensor, residuals: Tensor) -> Tensor:
    """y - residuals - X b `(N,)`, as if summed in twice the digits."""
    products, errors = _two_product(columns.T, -coefficients[:, None])
    return _sum(torch.cat([y[None], -residuals[None], products]), errors.sum(dim=0))


def _gather(columns: Tensor, weights: Tensor, residuals: Tensor) -> Tensor:
    """Xᵀ W r `(P,)`, as if summed in twice the digits."""
    scaled, more = _two_product(weights, residuals)
    products, errors = _two_product(columns, scaled[:, None])
    return _sum(products, (errors + columns * more[:, None]).sum(dim=0))


def _sum(terms: Tensor, rest: Tensor) -> Tensor:
    """The sum of terms `(M, ...)` along the first dimension, what rounding took of it, and a `rest`."""
    while len(terms) > 1:  # pairs, then pairs of pairs
        if len(terms) % 2:
            terms = torch.cat([terms, torch.zeros_like(terms[:1])])
        terms, lost = _two_sum(terms[::2], terms[1::2])
        rest = rest + lost.sum(dim=0)
    return terms[0] + rest


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b, and what rounding took of it (Knuth 1969)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a · b, and what rounding took of it (Dekker 1971)."""
    product = a * b
    (high, low), (upper, lower) = _halves(a), _halves(b)
    return product, ((high * upper - product) + high * lower + low * upper) + low * lower


def _halves(a: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers of 26 digits each that add up to `a`."""
    large = SPLITTER * a
    high = large - (large - a)
    return high, a - high
