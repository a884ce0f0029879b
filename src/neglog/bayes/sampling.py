"""Draws from the posterior of a model given data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

from neglog.arguments import choice, flag, seed_of, share, whole
from neglog.bayes.approximations import GUIDES, laplace, laplace_natural, variational
from neglog.bayes.density import Density, density
from neglog.bayes.diagnostics import MOST_PARETO_K, complaints, mixing, pareto_k
from neglog.bayes.nuts import nuts
from neglog.calls import public
from neglog.checkpoint import CallCheckpoint, Journal, checkpoint_of, digest
from neglog.data import prepare_fit
from neglog.designs import Columns
from neglog.errors import ConvergenceWarning, DataError, ModelError, NeglogError, SamplingWarning, warn
from neglog.fitting.estimates import map_estimate
from neglog.fitting.fit import Fit
from neglog.fitting.joint_mode import check_joint_mode
from neglog.fitting.prior_units import check_prior_units
from neglog.fitting.resumed import data_digest
from neglog.handlers import Model
from neglog.inputs.blueprint import Blueprint
from neglog.inputs.given import Inputs, given
from neglog.isolation import isolated
from neglog.objective.objective import Objective
from neglog.persistence import AsDocument
from neglog.signatures import roles_of
from neglog.tracing import model_name
from neglog.uncertainty.covariances import covariance

MIN_DRAWS = 100
"""Smallest number of draws, for diagnostics of tails and mixing, and of steps of `vi`."""
TAIL_DISTANCE = 40.0
"""Distance from the optimum, on the unconstrained scale, at which the tails of a density are checked."""
MIN_TAIL_DECREASE = 10.0
"""Least decrease of a proper log density from half of that distance to the whole, in nats."""


@public
@dataclass(frozen=True, eq=False)
class Posterior(AsDocument):
    """Draws of the parameters given the data. A value: all statistics are functions of it.

    Attributes:
        model: the model.
        draws: site name -> draws `(chains, draws, *shape)` on the site's own support, in the user's units.
        method: ``nuts``, ``laplace`` or ``vi``.
        space: the coordinates in which an approximation is Normal, or ``nuts`` samples: ``unconstrained``
            or ``natural``.
        converged: whether the draws pass all diagnostics; `status` names those that fail, or that passed.
        stats: statistics of each draw, `(chains, draws)`: of ``nuts`` its log density ``lp`` in
            unconstrained coordinates, ``diverging``, ``tree_depth`` and so on, under ArviZ's names; of an
            approximation ``log_ratio``, of the posterior density to its own, up to a constant.
        r_hat: site name -> rank-normalised split R-hat `(*shape)`; empty for an approximation.
        ess: site name -> effective sample size `(*shape)`, the smaller one of bulk and tail; likewise.
        pareto_k: of an approximation, the Pareto shape of the tail of its ratios; None for ``nuts``.
        objective: the loss as a function of one vector, with the data; None where it comes from a pickle.
        groups, blueprint: as those of a `Fit`.
        restored: where it comes from a pickle, a fit of the model, for the names of its columns.
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
    objective: Objective | None = field(repr=False, compare=False)
    groups: Any = field(default=None, repr=False, compare=False)
    blueprint: Blueprint | None = field(default=None, repr=False, compare=False)
    restored: Fit | None = field(default=None, repr=False, compare=False)

    @property
    def columns(self) -> Columns:
        """The names of the design columns, by key of `x` (``""`` where `x` is one design for all)."""
        if self.objective is not None:
            return self.objective.data.columns
        return {} if self.restored is None else self.restored.columns

    @property
    def keywords(self) -> tuple[str, ...]:
        """The names of row-wise arguments, such as ``("exposure",)``."""
        if self.objective is not None:
            return tuple(self.objective.data.keywords)
        return () if self.restored is None else self.restored.keywords

    def objective_for(self, needed_by: str) -> Objective:
        """The objective with the data, which is `needed_by` some computation.

        Raises:
            DataError: the posterior comes from a pickle, which does not keep them.
        """
        if self.objective is None:
            raise DataError(
                f"{needed_by} needs the rows of the posterior, and this one comes from a pickle, without "
                "them; draw it again."
            )
        return self.objective

    @property
    def classes(self) -> tuple[Any, ...]:
        """The labels of the classes of the response, in the order of their codes; none of numbers."""
        return () if self.blueprint is None else self.blueprint.classes

    @property
    def divergences(self) -> int:
        """The number of divergent trajectories of NUTS."""
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

    def __copy__(self) -> Posterior:
        return self

    def __deepcopy__(self, memo: Any) -> Posterior:
        """An equal posterior whose draws are tensors of its own; rows, which nothing changes, are shared."""
        return replace(
            self, draws=MappingProxyType({name: value.clone() for name, value in self.draws.items()})
        )


@isolated
def posterior(
    model: Model | str,
    x: Any,
    y: Any = None,
    *,
    data: Any = None,
    weights: Any = None,
    groups: Any = None,
    drop_missing: bool = False,
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
    checkpoint: Any = None,
    **keywords: Any,
) -> Posterior:
    """Draws from the posterior of a model's parameters, under the model's own priors.

    ``nuts`` samples the exact density, in unconstrained coordinates in which the designs are orthonormal.
    ``laplace`` draws from a Normal at a mode: that of the density of the unconstrained parameters, or, in
    ``space="natural"``, at the MAP estimate with the covariance of `covariance` (at the maximum of the
    likelihood, where priors are flat); draws outside the support are rejected. ``vi`` draws from the Normal
    in unconstrained coordinates that minimises KL(q || p), by one of Pyro's guides.

    Flat priors (`flat`) are refused unless the data make the posterior proper. Necessary conditions are
    verified: the optimum exists, the information is positive definite there, and along each flat parameter
    with a bounded support the density decreases towards both ends.

    Args:
        model, x, y, data, weights, groups, drop_missing: as for `mle`.
        method: ``nuts``, ``laplace`` or ``vi``.
        draws: draws of each chain; an approximation has one chain.
        chains: chains of ``nuts``.
        tune: warm-up draws of ``nuts``, which are discarded.
        seed: the same seed gives the same draws, for any number of cores.
        target_accept: the target acceptance rate of ``nuts``; values nearer to 1 mean smaller steps.
        cores: chains of ``nuts`` that run at a time; by default all cores of the machine, or one where
            evaluations are so fast that threads would wait for each other.
        progress: whether to show a progress bar of ``nuts``.
        space: ``unconstrained`` or ``natural``, for ``laplace``.
        guide: ``full`` (`AutoMultivariateNormal`) or ``diagonal`` (`AutoDiagonalNormal`), for ``vi``.
        steps: steps of ``vi``.
        checkpoint: of ``nuts``, a file, or `neglog.Checkpoint`, where finished chains are kept: after
            `kill -9` the same call samples the others alone. Each chain then has a seed of its own, so that
            the draws are others than without a checkpoint. An approximation takes none.
        keywords: further row-wise arguments of the model, such as ``exposure``, `(N,)`.

    Raises:
        DataError: as `mle`.
        ModelError: flat priors that the data do not make proper; an unknown method, space or guide, a number
            out of range; no mode; ``nuts`` without nutpie.

    Warns:
        SamplingWarning: a diagnostic fails; `status` names it.

    >>> import torch
    >>> from neglog import models
    >>> x = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    >>> y = torch.tensor([1.0, 2.0, 2.5, 4.0, 4.5], dtype=torch.float64)
    >>> found = posterior(models.poisson, x, y.round(), method="laplace", draws=500)
    >>> found.draws["log_rate.weight"].shape, found.converged
    (torch.Size([1, 500, 1]), True)
    """
    _check_choices(method=method, space=space, guide=guide)
    settings = _Settings(
        method=method,
        space=space,
        guide=guide,
        draws=whole("draws", draws, MIN_DRAWS),
        steps=whole("steps", steps, MIN_DRAWS),
        chains=whole("chains", chains),
        tune=whole("tune", tune),
        seed=seed_of(seed),
        target_accept=share("target_accept", target_accept),
        cores=None if cores is None else whole("cores", cores),
        progress=flag("progress", progress),
        kept=_checkpoint_of(checkpoint, method),
    )
    inputs = given(
        posterior,
        model,
        x,
        y,
        data=data,
        weights=weights,
        groups=groups,
        drop_missing=drop_missing,
        keywords=keywords,
    )
    return _warned(inputs.kept(_found(inputs, settings)))


def _found(inputs: Inputs, settings: _Settings) -> Posterior:
    model, x, y, weights, keywords = inputs.model, inputs.x, inputs.y, inputs.weights, inputs.keywords
    data = prepare_fit(x, y, weights=weights, roles=roles_of(model, keywords, posterior), **keywords)
    objective = Objective(model, data)
    check_prior_units(objective)
    if settings.method == "laplace":
        check_joint_mode(objective)
    flat = [name for name, site in objective.sites.items() if site.masked]
    fit = None
    if flat or settings.space == "natural":
        fit = _optimum(model, x, y, weights, keywords, flat)
    target, start = density(objective)
    if fit is not None:
        start = target.z(objective.layout.theta(fit.params))
        _check_tails(target, start, flat)
    return _sampled(settings, target, start, fit)


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """The arguments of `posterior` about its method, validated."""

    method: str
    space: str
    guide: str
    draws: int
    steps: int
    chains: int
    tune: int
    seed: int
    target_accept: float
    cores: int | None
    progress: bool
    kept: CallCheckpoint | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What the draws of NUTS depend on, beside the data."""
        return {name: getattr(self, name) for name in ("draws", "chains", "tune", "seed", "target_accept")}


def _sampled(settings: _Settings, target: Density, start: Tensor, fit: Fit | None) -> Posterior:
    """Draws by the method of the settings, from `start` `(K,)` on."""
    method, space, draws, seed = settings.method, settings.space, settings.draws, settings.seed
    if method == "nuts":
        z, stats = nuts(
            target,
            start,
            chains=settings.chains,
            draws=draws,
            tune=settings.tune,
            seed=seed,
            target_accept=settings.target_accept,
            cores=settings.cores,
            progress=settings.progress,
            journal=_journal(settings, target, start),
        )
        return _of_chains(target.objective, _thetas(target, z), stats)
    if space == "natural":
        assert fit is not None
        theta, ratios, outside = laplace_natural(fit, draws, seed)
        return _of_normal(target.objective, theta, ratios, method, space, outside)
    if method == "laplace":
        z, ratios = laplace(target, start, draws, seed)
    else:
        z, ratios = variational(
            target, start, guide=settings.guide, draws=draws, steps=settings.steps, seed=seed
        )
    return _of_normal(target.objective, _thetas(target, z), ratios, method, space)


def _checkpoint_of(checkpoint: Any, method: str) -> CallCheckpoint | None:
    if checkpoint is not None and method != "nuts":
        raise ModelError(f"`checkpoint` is for `method='nuts'`; the method is {method!r}. Leave it out.")
    return checkpoint_of(checkpoint, posterior)


def _journal(settings: _Settings, target: Density, start: Tensor) -> Journal | None:
    if settings.kept is None:
        return None
    objective = target.objective
    return settings.kept.journal(
        model=objective.name,
        data=data_digest(objective.data),
        parameters=", ".join(f"{name} {tuple(site.shape)}" for name, site in objective.sites.items()),
        **settings.facts,
        **{"initial values": digest([start]), "initial loss": repr(float(target.value(start)))},
    )


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
    """Refuse a flat parameter with a bounded support along which the posterior may be improper."""
    sites = target.objective.sites
    for name in flat:
        place = sites[name].place
        for entry in [] if sites[name].is_real else range(place.start, place.stop):
            for side in (-TAIL_DISTANCE, TAIL_DISTANCE):
                near, far = optimum.clone(), optimum.clone()
                near[entry] += side / 2
                far[entry] += side
                if not target.value(far) >= target.value(near) + MIN_TAIL_DECREASE:
                    falls = (
                        f"the density does not fall towards its {'larg' if side > 0 else 'small'}est value"
                    )
                    raise ModelError(f"{_improper([name])}: {falls}.")


def _thetas(target: Density, z: Tensor) -> Tensor:
    """The vectors theta `(..., K)` at many z."""
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
    fine = "no divergences, R-hat and effective sample sizes within their limits"
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
            else f"above {MOST_PARETO_K}, so far from it; use `method='nuts'`"
        )
    )
    if outside:
        words += f"; {outside:.1%} of the draws fell outside the support and were drawn again"
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
        name = model_name(found.model)
        warn(f"the posterior of `{name}`: {found.status}.", SamplingWarning)
    return found
