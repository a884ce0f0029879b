"""Covariances of least absolute deviations and quantiles, whose loss has no curvature, by the sparsity.

The information of such a line is f Xᵀ X, where f is the density of the residuals at 0; its inverse 1 / f is
called the sparsity. The scale is the mean of the loss over the rows, so that the equations of both together,
Σ x (tau - 1[r < 0]) = 0 and Σ (loss(r) - scale) = 0, give a covariance of all estimates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neglog.empirical import EmpiricalDistribution
from neglog.errors import ModelError
from neglog.fitting.pinball import Pinball, pinball
from neglog.objective.coordinates import Coordinates

BANDWIDTHS = ("hall-sheather", "bofinger")


def line_covariance(coordinates: Coordinates, z: Tensor, cov_type: str, bandwidth: str) -> Tensor:
    """The covariance `(K, K)` in theta of a line of least pinball loss, and of its scale if that is free.

    `cov_type` is ``"iid"`` or ``"kernel"``, as for `neglog.covariance`.

    Raises:
        ModelError: another loss; an unknown bandwidth; residuals without spread.
    """
    problem = pinball(coordinates)
    if problem is None:
        raise ModelError(
            f"cov_type={cov_type!r} is for `laplace` and `quantile` with one linear predictor, one scale and "
            "flat "
            "priors, and this model is another one; see `bootstrap`."
        )
    assert problem.block.basis is not None
    weights, tau = torch.as_tensor(problem.lines.weights), float(problem.lines.tau)
    basis, count = problem.block.basis, float(weights.sum())
    residuals = torch.as_tensor(problem.lines.y) - basis.at(problem.line(z))
    reach = reach_of(tau, count, bandwidth)
    gram = basis.cross(weights, basis)
    if cov_type == "iid":
        ends = EmpiricalDistribution(residuals, weights).interpolated([tau - reach, tau + reach])
        density = _positive(2 * reach / float(ends[1] - ends[0]) if ends[1] > ends[0] else math.inf)
        bread = torch.linalg.inv(density * gram)
    else:
        width = _width(residuals, weights, tau, reach)
        at = torch.exp(-0.5 * (residuals / width).square()) / (width * math.sqrt(2 * math.pi))
        information = basis.cross(weights * at, basis)
        if not torch.linalg.eigvalsh(information)[0] > 1e-12 * torch.linalg.eigvalsh(information)[-1]:
            raise ModelError(
                "too few residuals are near 0 for cov_type='kernel'; use cov_type='iid' or `bootstrap`."
            )
        bread = torch.linalg.inv(information)
    line = bread @ (tau * (1 - tau) * gram) @ bread
    return _with_scale(problem, z, residuals, bread, line)


def _with_scale(problem: Pinball, z: Tensor, residuals: Tensor, bread: Tensor, line: Tensor) -> Tensor:
    """The covariance in theta of the line and its scale."""
    coordinates, places = problem.kinked, problem.block.places
    weights, tau = torch.as_tensor(problem.lines.weights), float(problem.lines.tau)
    whole = torch.zeros((coordinates.size, coordinates.size), dtype=z.dtype)
    whole[places[:, None], places] = line
    if problem.scale is not None:
        slopes = torch.where(residuals < 0, tau - 1, tau)
        losses, count = problem.height * slopes * residuals, float(weights.sum())
        scale = float(weights @ losses) / count
        place = problem.scale.place.start
        # Rows on the line have no loss, so that it does not matter which slope they have.
        cross = bread @ problem.block.gather(weights * slopes * losses) / count
        leaf = z[place : place + 1].clone().requires_grad_()
        with torch.enable_grad():
            (rate,) = torch.autograd.grad(problem.scale.transform(leaf).sum(), leaf)
        whole[place, place] = float(weights @ (losses - scale).square()) / count**2 / float(rate) ** 2
        whole[places, place] = whole[place, places] = cross / float(rate)
    moved = coordinates.directions(whole)
    return coordinates.directions(moved.T.contiguous())


def reach_of(tau: float, count: float, bandwidth: str) -> float:
    """The bandwidth around tau for quantiles of `count` residuals, halved until both ends are in (0, 1).

    Sources: Hall & Sheather (1988), On the distribution of a studentized quantile, for 95 % intervals;
    Bofinger (1975), Estimation of a density function using order statistics; as in Koenker (2005), Quantile
    Regression, section 4.10.1.
    """
    at = float(torch.special.ndtri(torch.tensor(tau, dtype=torch.float64)))
    density = math.exp(-0.5 * at * at) / math.sqrt(2 * math.pi)
    if bandwidth == "bofinger":
        reach = count ** (-1 / 5) * (4.5 * density**4 / (2 * at * at + 1) ** 2) ** (1 / 5)
    else:
        normal = float(torch.special.ndtri(torch.tensor(0.975, dtype=torch.float64)))
        shape = 1.5 * density**2 / (2 * at * at + 1)
        reach = count ** (-1 / 3) * normal ** (2 / 3) * shape ** (1 / 3)
    while tau - reach <= 0 or tau + reach >= 1:
        reach /= 2
    return reach


def _width(residuals: Tensor, weights: Tensor, tau: float, reach: float) -> float:
    """The width of a normal kernel: the bandwidth in the units of normal residuals."""
    count = weights.sum()
    mean = weights @ residuals / count
    deviation = float((weights @ (residuals - mean).square() / (count - 1)).sqrt())
    low, high = EmpiricalDistribution(residuals, weights).interpolated([0.25, 0.75])
    ends = torch.special.ndtri(torch.tensor([tau - reach, tau + reach], dtype=residuals.dtype))
    return _positive(float(ends[1] - ends[0]) * min(deviation, float(high - low) / 1.34))


def _positive(number: float) -> float:
    if not 0 < number < math.inf:
        raise ModelError("the residuals next to the line have no spread, so their density is not known.")
    return number
