"""Normal approximations of a posterior: Laplace's at its mode, and the variational one."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal
from pyro.infer.autoguide.initialization import init_to_value
from pyro.optim import ClippedAdam
from torch import Tensor
from torch.distributions.transforms import IndependentTransform

from neglog.bayes.density import Density
from neglog.errors import ModelError
from neglog.fitting.choice import MAX_NEWTON_PARAMETERS
from neglog.fitting.fit import Fit
from neglog.objective.lowered import Lowered
from neglog.objective.objective import Objective
from neglog.solvers import Newton
from neglog.uncertainty.covariances import natural_covariance
from neglog.uncertainty.information import optimum

GUIDES = {"full": AutoMultivariateNormal, "diagonal": AutoDiagonalNormal}
MAX_REJECTION_FACTOR = 100
"""Largest number of proposals per requested draw, where draws outside the support are rejected."""


def laplace(density: Density, start: Tensor, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draws `(draws, K)` of z, Normal around the mode of its density, and the log ratios `(draws,)`.

    Raises:
        ModelError: the density has corners, or no mode, or more than 200 parameters.
    """
    mode, hessian = _mode(density, start)
    factor = torch.linalg.cholesky(hessian)
    noise = torch.randn((draws, density.size), dtype=mode.dtype, generator=_generator(seed))
    z = mode + torch.linalg.solve_triangular(factor.mT, noise.mT, upper=True).mT
    return z, _log_density(density, z, mode) + 0.5 * noise.square().sum(1)


def _mode(density: Density, start: Tensor) -> tuple[Tensor, Tensor]:
    name = density.objective.name
    if density.size > MAX_NEWTON_PARAMETERS:
        raise ModelError(
            f"Laplace's approximation needs the Hessian of {density.size} parameters; the limit is "
            f"{MAX_NEWTON_PARAMETERS}. Choose `method='vi'`."
        )
    if density.kinked:
        raise ModelError(
            f"the density of `{name}` has corners, where it has no curvature. Choose `method='nuts'`."
        )
    found = Newton().minimise(density, start)
    if not found.converged:
        raise ModelError(f"no mode of the posterior of `{name}` was found: {found.status}.")
    return found.z, density.hessian(found.z)


def laplace_natural(fit: Fit, draws: int, seed: int) -> tuple[Tensor, Tensor, float]:
    """Draws `(draws, K)` of theta, Normal in the constrained parameters around a fit, and their log ratios.

    The third value is the share of draws outside the support of a parameter, which were rejected.

    Raises:
        ModelError: a site is not bounded entry by entry; see also `covariance`.
    """
    objective = fit.objective
    assert objective is not None
    assert fit.coordinates is not None
    _check_entrywise(objective)
    factor = torch.linalg.cholesky(natural_covariance(*optimum(fit), "observed")[0])
    centre = torch.cat([value.reshape(-1) for value in fit.params.values()])
    noise = torch.empty((0, objective.size), dtype=centre.dtype)
    generator, made = _generator(seed), 0
    while len(noise) < draws:
        if made >= MAX_REJECTION_FACTOR * draws:
            raise ModelError(
                "almost no draw of the Normal approximation is inside the support of the parameters."
            )
        more = torch.randn((draws, objective.size), dtype=centre.dtype, generator=generator)
        inside = _inside(objective, centre + more @ factor.mT)
        noise, made = torch.cat([noise, more[inside]]), made + draws
    outside = 1 - len(noise) / made
    noise = noise[:draws]
    params = _unflattened(objective, centre + noise @ factor.mT)
    theta = torch.cat([s.transform.inv(params[n]).reshape(draws, -1) for n, s in objective.sites.items()], 1)
    lowered = Lowered(objective, fit.coordinates.blocks, fit.coordinates.is_linear)
    z = torch.stack([lowered.z(each) for each in theta])
    return theta, 0.5 * noise.square().sum(1) + _log_density(lowered, z, z[0]), outside


def _check_entrywise(objective: Objective) -> None:
    for site in objective.sites.values():
        transform = site.transform
        while isinstance(transform, IndependentTransform):
            transform = transform.base_transform
        if not site.is_real and transform.domain.event_dim:
            raise ModelError(
                f"`{site.name}` has the support {site.fn.support}, on which there is no Normal "
                "distribution. Choose `space='unconstrained'`."
            )


def _unflattened(objective: Objective, values: Tensor) -> dict[str, Tensor]:
    sites = objective.sites.items()
    return {name: values[:, site.place].reshape(len(values), *site.shape) for name, site in sites}


def _inside(objective: Objective, values: Tensor) -> Tensor:
    """Whether vectors `(S, K)` of parameters are in the support, `(S,)`."""
    params = _unflattened(objective, values)
    checks = [site.fn.support.check(params[name]) for name, site in objective.sites.items()]
    return torch.stack([check.reshape(len(values), -1).all(1) for check in checks]).all(0)


def variational(
    density: Density, start: Tensor, *, guide: str, draws: int, steps: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Draws `(draws, K)` of z from the Normal nearest to its density, and the log ratios `(draws,)`.

    It minimises KL(q || p), by `pyro.infer.SVI` with one of Pyro's own guides. The initial value is the mode,
    with its curvature, where that exists; the parameters of the guide are averaged over the later half of
    the steps (Polyak & Juditsky 1992), which removes most of the noise of the gradients.
    """
    try:
        centre, hessian = _mode(density, start)
        unit = hessian.diagonal().rsqrt()
    except ModelError:
        centre, unit = start, torch.full_like(start, density.rows**-0.5)
    evaluate = density.program(start)
    zeros = torch.zeros_like(centre)

    def model() -> None:
        z = centre + unit * pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1).mask(False))
        value, gradient = evaluate(z.detach())
        # As a function of z: this value, this gradient.
        pyro.factor("density", -(value + gradient @ (z - z.detach())))

    with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        normal = GUIDES[guide](model, init_loc_fn=init_to_value(values={"z": zeros}), init_scale=1.0)
        optimiser = ClippedAdam({"lr": 0.05, "lrd": 0.01 ** (1 / steps)})
        svi = SVI(model, normal, optimiser, Trace_ELBO())
        svi.step()
        mean = [torch.zeros_like(value) for value in normal.parameters()]
        for step in range(1, steps):
            svi.step()
            with torch.no_grad():
                for total, value in zip(mean, normal.parameters(), strict=True):
                    total += value * (2 * step >= steps)
        with torch.no_grad():
            for total, value in zip(mean, normal.parameters(), strict=True):
                value.copy_(total / (steps // 2))
            posterior = normal.get_posterior()
            noise = posterior.sample((draws,))
            log_q = posterior.log_prob(noise)
    z = centre + unit * noise
    return z, _log_density(density, z, centre) - log_q


def _log_density(density: Lowered, z: Tensor, near: Tensor) -> Tensor:
    evaluate = density.program(near)
    return torch.stack([-evaluate(each)[0] for each in z])


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
