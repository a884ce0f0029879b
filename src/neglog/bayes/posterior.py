"""Posteriors: a model and data in, draws of its parameters out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from neglog.arguments import choice, flag, seed_of, share, whole
from neglog.bayes.approximations import GUIDES, laplace, laplace_natural, variational
from neglog.bayes.density import Density, density
from neglog.bayes.diagnostics import MOST_PARETO_K, complaints, mixing, pareto_k
from neglog.bayes.nuts import nuts
from neglog.data import prepare_fit
from neglog.errors import ConvergenceWarning, ModelError, NeglogError, SamplingWarning, warn
from neglog.fitting.fit import Fit, map_estimate
from neglog.fitting.joint_mode import check_joint_mode
from neglog.fitting.prior_units import check_prior_units
from neglog.handlers import Model
from neglog.isolation import isolated
from neglog.objective.objective import Objective
from neglog.signatures import roles_of
from neglog.uncertainty.covariances import covariance

FEW = 100
"""Fewer draws say nothing of tails and mixing; fewer steps of `vi` lead nowhere."""
FAR = 40.0
"""From half as far to so far from the optimum, on the unconstrained scale, a proper density falls ..."""
FALLEN = 10.0
"""... by so many nats at least."""


@dataclass(frozen=True)
class Posterior:
    """Draws of the parameters given the data. A value: everything else is a function of it.

    Attributes:
        model: what was sampled.
        draws: site name -> draws `(chains, draws, *shape)` on the site's own support, in the user's units.
        method: ``nuts``, ``laplace`` or ``vi``.
        space: where an approximation is Normal: ``unconstrained`` or ``natural``; for ``nuts``, where it
            walked.
        converged: whether nothing speaks against the draws; `status` says what does, or what was checked.
        stats: what is known of each draw, `(chains, draws)`: of ``nuts`` its log density ``lp`` in
            unconstrained coordinates, ``diverging``, ``tree_depth`` and so on, under ArviZ's names; of an
            approximation ``log_ratio``, of the posterior density to its own, up to a constant.
        r_hat: site name -> rank-normalised split R-hat `(*shape)`; empty for an approximation.
        ess: site name -> effective sample size `(*shape)`, of bulk and tail the smaller one; likewise.
        pareto_k: of an approximation, the shape of the tail of its ratios; None for ``nuts``.
        objective: the loss as a function of one vector, with the data.
    """

    model: Model = field(repr=False)
    draws: Mapping[str, Tensor] = field(repr=False)
    method: str
    space: str
    converged: bool
    status: str
    stats: Mapping[str, Tensor] = field(repr=False)
    r_hat: Mapping[str, Tensor] = field(repr=False)
    ess: Mapping[str, Tensor] = field(repr=False)
    pareto_k: float | None
    objective: Objective = field(repr=False, compare=False)

    @property
    def divergences(self) -> int:
        """How many trajectories of NUTS diverged."""
        return int(self.stats["diverging"].sum()) if "diverging" in self.stats else 0

    @property
    def mean(self) -> dict[str, Tensor]:
        """Site name -> posterior mean `(*shape)`."""
        return {name: values.mean((0, 1)) for name, values in self.draws.items()}

    @property
    def sd(self) -> dict[str, Tensor]:
        """Site name -> posterior standard deviation `(*shape)`."""
        return {name: values.flatten(0, 1).std(0) for name, values in self.draws.items()}

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of chains, and of draws in each."""
        chains, draws = next(iter(self.draws.values())).shape[:2]
        return chains, draws

    def __getstate__(self) -> Any:
        raise TypeError("a Posterior is not pickled; save what neglog.to_arviz makes of it.")


@isolated
def posterior(
    model: Model,
    x: Any,
    y: Any,
    *,
    weights: Any = None,
    method: str = "nuts",
    draws: int = 1000,
    chains: int = 4,
    tune: int = 500,
    seed: int = 0,
    target_accept: float = 0.8,
    cores: int | None = None,
    progress: bool = False,
    space: str = "unconstrained",
    guide: str = "full",
    steps: int = 1000,
    **keywords: Any,
) -> Posterior:
    """Draws from the posterior of a model's parameters, under the model's own priors.

    ``nuts`` walks on the exact density, in unconstrained coordinates in which the designs are orthonormal.
    ``laplace`` draws from a Normal at a mode: that of the density of the unconstrained parameters, or, in
    ``space="natural"``, at the MAP estimate with the covariance of `covariance` (at the maximum of the
    likelihood, where priors are flat); draws outside the support are made again. ``vi`` draws from the Normal
    in unconstrained coordinates that is nearest in KL(q || p), by one of Pyro's guides.

    Flat priors (`flat`) are refused unless the data make the posterior proper. That is judged by necessary
    signs: the optimum exists, the information is positive definite there, and along each flat parameter with
    a bounded support the density falls towards both ends.

    Args:
        model: a Pyro function `(x, y=None)` with an observation site ``y``.
        x: a design `(N, P)` without an intercept column, or a mapping from predictor name to its own design.
        y: the response, `(N,)` (`(N, D)` for a vector-valued model).
        weights: frequency weights `(N,)`, or None.
        method: ``nuts``, ``laplace`` or ``vi``.
        draws: draws of each chain; an approximation has one chain.
        chains: chains of ``nuts``.
        tune: draws that ``nuts`` adapts itself on before, and leaves out.
        seed: the same seed gives the same draws, on however many cores.
        target_accept: the rate at which ``nuts`` should accept; nearer to 1 takes smaller steps.
        cores: chains of ``nuts`` that run at a time; by default all that there are, or one where a density
            is so quickly evaluated that they would wait for each other.
        progress: whether ``nuts`` shows a progress bar.
        space: ``unconstrained`` or ``natural``, for ``laplace``.
        guide: ``full`` (`AutoMultivariateNormal`) or ``diagonal`` (`AutoDiagonalNormal`), for ``vi``.
        steps: steps of ``vi``.
        keywords: what else the model takes for each row, such as ``exposure``, `(N,)`.

    Raises:
        DataError: as `mle`.
        ModelError: flat priors that the data do not make proper; an unknown method, space or guide, a number
            out of range; no mode; ``nuts`` without nutpie.

    Warns:
        SamplingWarning: the draws are not to be trusted as they are; `status` says why.

    >>> import torch
    >>> from neglog import models
    >>> x = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    >>> y = torch.tensor([1.0, 2.0, 2.5, 4.0, 4.5], dtype=torch.float64)
    >>> found = posterior(models.poisson, x, y.round(), method="laplace", draws=500)
    >>> found.draws["log_rate.weight"].shape, found.converged
    (torch.Size([1, 500, 1]), True)
    """
    _check_choices(method=method, space=space, guide=guide)
    draws, steps = whole("draws", draws, FEW), whole("steps", steps, FEW)
    chains, tune, seed = whole("chains", chains), whole("tune", tune), seed_of(seed)
    target_accept = share("target_accept", target_accept)
    cores, progress = None if cores is None else whole("cores", cores), flag("progress", progress)
    data = prepare_fit(x, y, weights=weights, roles=roles_of(model, keywords, posterior), **keywords)
    objective = Objective(model, data)
    check_prior_units(objective)
    if method == "laplace":
        check_joint_mode(objective)
    flat = [name for name, site in objective.sites.items() if site.masked]
    fit = None
    if flat or space == "natural":
        fit = _optimum(model, x, y, weights, keywords, flat)
    target, start = density(objective)
    if fit is not None:
        start = target.z(objective.theta(fit.params))
        _check_tails(target, start, flat)
    if method == "nuts":
        z, stats = nuts(
            target,
            start,
            chains=chains,
            draws=draws,
            tune=tune,
            seed=seed,
            target_accept=target_accept,
            cores=cores,
            progress=progress,
        )
        return _warned(_of_chains(objective, _thetas(target, z), stats))
    if method == "laplace" and space == "natural":
        assert fit is not None
        theta, ratios, outside = laplace_natural(fit, draws, seed)
        return _warned(_of_normal(objective, theta, ratios, method, space, outside))
    if method == "laplace":
        z, ratios = laplace(target, start, draws, seed)
    else:
        z, ratios = variational(target, start, guide=guide, draws=draws, steps=steps, seed=seed)
    return _warned(_of_normal(objective, _thetas(target, z), ratios, method, space))


def _check_choices(method: str, space: str, guide: str) -> None:
    choices = {
        "method": (method, ("nuts", "laplace", "vi")),
        "space": (space, ("unconstrained", "natural")),
        "guide": (guide, tuple(GUIDES)),
    }
    for name, (value, known) in choices.items():
        choice(name, value, known)
    if space == "natural" and method != "laplace":
        raise ModelError(f"`space='natural'` is for `method='laplace'`; the method is {method!r}.")


def _optimum(model: Model, x: Any, y: Any, weights: Any, keywords: Mapping[str, Any], flat: list[str]) -> Fit:
    """The MAP estimate, with its information positive definite where some priors are flat."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # `covariance` refuses such a fit
            fit = map_estimate(model, x, y, weights=weights, **keywords)
        covariance(fit)
    except NeglogError as error:
        if not flat:
            raise
        raise ModelError(f"{_improper(flat)}: {error}") from error
    return fit


def _improper(flat: list[str]) -> str:
    return (
        f"the priors of {', '.join(map(repr, flat))} are flat, and these data do not show that the posterior "
        "is proper. Give them priors by `with_priors`, such as those of `priors_for`. The reason"
    )


def _check_tails(target: Density, optimum: Tensor, flat: list[str]) -> None:
    """Refuse a flat parameter with a bounded support that may run to an end of it."""
    sites = target.objective.sites
    for name in flat:
        place = sites[name].place
        for entry in [] if sites[name].is_real else range(place.start, place.stop):
            for side in (-FAR, FAR):
                near, far = optimum.clone(), optimum.clone()
                near[entry] += side / 2
                far[entry] += side
                if not target.value(far) >= target.value(near) + FALLEN:
                    falls = (
                        f"the density does not fall towards its {'larg' if side > 0 else 'small'}est value"
                    )
                    raise ModelError(f"{_improper([name])}: {falls}.")


def _thetas(target: Density, z: Tensor) -> Tensor:
    """The vectors of the objective at many z, `(..., K)`."""
    columns = target.directions(z.reshape(-1, target.size).T)
    return columns.T.reshape(z.shape)


def _draws(objective: Objective, theta: Tensor) -> Mapping[str, Tensor]:
    """Site name -> values `(..., *shape)` at vectors `(..., K)`."""
    return MappingProxyType(
        {
            name: site.transform(theta[..., site.place].reshape(*theta.shape[:-1], *site.unconstrained))
            for name, site in objective.sites.items()
        }
    )


def _of_chains(objective: Objective, theta: Tensor, stats: Mapping[str, Tensor]) -> Posterior:
    draws = _draws(objective, theta)
    r_hat, ess = mixing(draws)
    wrong = complaints(draws, stats, r_hat, ess)
    fine = "no divergences, R-hat and effective sample sizes as they should be"
    return Posterior(
        model=objective.model,
        draws=draws,
        method="nuts",
        space="unconstrained",
        converged=not wrong,
        status="; ".join(wrong) or fine,
        stats=MappingProxyType(dict(stats)),
        r_hat=MappingProxyType(r_hat),
        ess=MappingProxyType(ess),
        pareto_k=None,
        objective=objective,
    )


def _of_normal(
    objective: Objective, theta: Tensor, ratios: Tensor, method: str, space: str, outside: float = 0.0
) -> Posterior:
    shape = pareto_k(ratios)
    converged = math.isfinite(shape) and shape <= MOST_PARETO_K
    words = (
        f"Normal in the {space} parameters, and Pareto's k of the ratios of the densities is {shape:.2f}: "
        + (
            "near the posterior"
            if converged
            else f"above {MOST_PARETO_K}, so far from it; take `method='nuts'`"
        )
    )
    if outside:
        words += f"; {outside:.1%} of the draws fell outside the support and were made again"
    return Posterior(
        model=objective.model,
        draws=_draws(objective, theta[None]),
        method=method,
        space=space,
        converged=converged,
        status=words,
        stats=MappingProxyType({"log_ratio": (ratios - ratios.max())[None]}),
        r_hat=MappingProxyType({}),
        ess=MappingProxyType({}),
        pareto_k=shape,
        objective=objective,
    )


def _warned(found: Posterior) -> Posterior:
    if not found.converged:
        name = found.objective.name
        warn(f"the posterior of `{name}`: {found.status}.", SamplingWarning)
    return found
