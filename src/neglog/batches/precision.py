"""Covariances of the estimates of many data sets, by their observed information."""

from __future__ import annotations

import torch
from torch import Tensor

from neglog.batches.layout import Kink, Layout, Square
from neglog.batches.likelihoods import Likelihoods
from neglog.batches.whitening import Whitened, whitened
from neglog.distributions.observed import corner
from neglog.likelihood.sites import Site
from neglog.objective.ranges import inside, range_of
from neglog.predictors import RESPONSE
from neglog.solvers.solution import inverse_roots, is_regular, scaled_eigen


@torch.no_grad()
def covariances(
    layout: Layout, shape: Kink | Square | None, likelihoods: Likelihoods, theta: Tensor, converged: Tensor
) -> Tensor:
    """The inverse observed information `(S, K, K)` in theta; infinite variances where it does not exist.

    A nonsmooth density has no curvature: the expected information is used, as in `neglog.covariance`.
    """
    white = whitened(likelihoods, {predictor.name: predictor.unit for predictor in likelihoods.predictors})
    if isinstance(shape, Kink):
        matrix = _expected(layout, shape, white, theta)
    else:
        matrix = white.likelihoods.derivatives(white.z(theta))[2]
    sound = converged & white.sound & torch.isfinite(matrix).flatten(1).all(-1)
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    values, vectors, scale = scaled_eigen(torch.where(sound[:, None, None], matrix, one))
    sound &= is_regular(values)
    roots = inverse_roots(torch.where(sound[:, None], values, 1.0), vectors, scale)
    roots = torch.stack([white.theta(root) for root in roots.unbind(-1)], -1)
    nothing = torch.diag(torch.full_like(theta[0], torch.inf))
    return torch.where(sound[:, None, None], roots @ roots.mT, nothing)


def _expected(layout: Layout, kink: Kink, white: Whitened, theta: Tensor) -> Tensor:
    """The expected information `(S, K, K)` of a Laplace density, in whitened coordinates.

    Its score in the residual u = r / scale is -steepness sign(u) - tilt, whose mean is 0 and whose mean
    square is steepness² - tilt²; d²/dlog(scale)² of n log(scale) + loss / scale is n where loss / scale = n.
    """
    problems = white.likelihoods
    (predictor,), z = problems.predictors, white.z(theta)
    at = problems.at(problems.etas(z), problems.params(z))
    edge = corner(at.sites[RESPONSE]["fn"])
    assert edge is not None
    each = (kink.steepness**2 - kink.tilt**2) / edge.scale.square()
    stack = problems.stack
    weights = each.expand(stack.count, stack.rows)
    weights = weights if stack.weights is None else weights * stack.weights
    matrix = z.new_zeros((*z.shape, z.shape[1]))
    matrix[:, predictor.places[:, None], predictor.places] = predictor.cross(weights, predictor)
    if kink.scale is not None:
        place = layout.objective.sites[kink.scale].offset
        matrix[:, place, place] = problems.mass
    return matrix


def natural_errors(site: Site, theta: Tensor, covariance: Tensor) -> Tensor:
    """Standard errors `(S, *shape)` on the support of a site, by the delta method."""
    at, own = theta[:, site.place], covariance[:, site.place, site.place]
    variances = own.diagonal(dim1=-2, dim2=-1)

    def values(one: Tensor) -> Tensor:
        return site.transform(one.reshape(site.unconstrained)).reshape(-1)

    slopes = torch.func.vmap(torch.func.jacrev(values))(at)
    known = torch.isfinite(variances).all(-1)
    own = torch.where(known[:, None, None], own, 0.0)
    errors = ((slopes @ own) * slopes).sum(-1).clamp(min=0).sqrt()
    return torch.where(known[:, None], errors, torch.inf).reshape(len(theta), *site.shape)


def natural_interval(site: Site, theta: Tensor, covariance: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Lower and upper ends `(S, *shape)` of a Wald interval, by `neglog.objective.ranges.inside`."""
    value = site.transform(theta[:, site.place].reshape(len(theta), *site.unconstrained))
    return inside(value, natural_errors(site, theta, covariance), reach, *range_of(site))
