"""What Pyro sampled, for ArviZ: chains, predictive draws, guides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC, Predictive
from torch import Tensor

from neglog.arguments import check_dense, mapping, shown, text, whole, written
from neglog.conversion import as_labels, to_array
from neglog.errors import DataError, ModelError, NeglogError
from neglog.exchange.inference_data import arrays, assembled
from neglog.isolation import isolated

Sites = Mapping[str, Mapping[str, Any]]


@isolated
def from_pyro(
    source: Any,
    *args: Any,
    model: Any = None,
    draws: int = 1000,
    posterior_predictive: Mapping[str, Any] | None = None,
    prior: Mapping[str, Any] | None = None,
    dims: Mapping[str, list[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    **keywords: Any,
) -> Any:
    """What Pyro sampled, for ArviZ, in any version of it.

    With a model that was given its observations come log_likelihood and observed_data, of each observed site,
    and what it makes by `pyro.deterministic` stands among the posterior. Rows that `poutine.mask` leaves out
    have a log-likelihood of 0; the factors of `poutine.scale` are not in it.

    Args:
        source: a `pyro.infer.MCMC` that has run; a guide, a function of `args`; samples, site name ->
            `(S, *shape)`; or a `pyro.infer.Predictive`, which is called with `args`. One with a guide or with
            samples gives posterior and posterior_predictive; one without gives prior, and, of what `args`
            has observations of, prior_predictive.
        args: the arguments of the model and of the guide, with the observations.
        model: the model; that of a `Predictive` is known.
        draws: draws from a guide.
        posterior_predictive: site name -> draws `(S, ...)`, of the same number.
        prior: site name -> draws `(S, ...)`, of any number; what the posterior has no site of is
            prior_predictive.
        dims: variable -> the names of its dimensions.
        coords: dimension -> what stands along it.
        keywords: the keywords of the model and of the guide.

    Returns:
        An `arviz.InferenceData`; from ArviZ 1.0 on, an `xarray.DataTree`.

    Raises:
        ModelError: `source` is something else, or has no samples; the model does not run on `args`, observes
            nothing, has a latent site without samples, or sees a random part of its rows.
        DataError: samples or draws of different numbers.

    >>> import torch, pyro, pyro.distributions as dist
    >>> def model(y=None):
    ...     shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("data", 3):
    ...         return pyro.sample("y", dist.Normal(shift, 1.0), obs=y)
    >>> found = from_pyro({"shift": torch.zeros(50)}, torch.ones(3), model=model)
    >>> found["log_likelihood"]["y"].shape
    (1, 50, 3)
    """
    if model is not None and not callable(model):
        raise ModelError(f"`model` must be a Pyro function; it is {type(model).__name__}.")
    if isinstance(source, Predictive):
        found = _of_predictive(source, args, keywords)
        model = model or (source.model if found.posterior and found.observes else None)
    else:
        found = _drawn(source, args, keywords, draws)
    groups = found.groups | ({"posterior": found.posterior} if found.posterior else {})
    if posterior_predictive is not None:
        groups["posterior_predictive"] = _reshaped(posterior_predictive, found)
    if prior is not None:
        each = {name: value for name, value in _samples("prior", prior).items() if value[0, 0].numel()}
        like = {name: value[0, 0] for name, value in found.posterior.items()}
        groups["prior"] = {name: _shaped(v, like[name]) for name, v in each.items() if name in like}
        groups["prior_predictive"] = {name: v for name, v in each.items() if name not in found.posterior}
    if model is not None:
        if not found.posterior:
            raise ModelError("`source` has draws of the prior alone, and `model` needs some of a posterior.")
        densities, observed, made = _densities(model, args, keywords, found)
        groups |= {"log_likelihood": densities, "observed_data": observed}
        groups["posterior"] = dict(found.posterior) | made
        drawn = groups.get("posterior_predictive", {})
        groups["posterior_predictive"] = {name: value for name, value in drawn.items() if name not in made}
    full = {name: arrays(group) for name, group in groups.items() if group}
    return assembled(full, _dimensions(dims, full), _coordinates(coords))


def _dimensions(dims: Any, groups: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, list[str]]:
    """Variable -> the names of its dimensions.

    Raises:
        DataError: another kind, a variable that there is not, another number of names than it has dimensions.
    """
    if dims is None:
        return {}
    shapes = {name: value.shape for group in groups.values() for name, value in group.items()}
    for name, names in mapping("dims", dims, "{'weight': ['column']}").items():
        if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names):
            raise DataError(
                f"`dims[{name!r}]` must be a list of names, such as ['column']; it is {shown(names)}."
            )
        if name not in shapes:
            raise DataError(f"`dims` names {name!r}, which is no variable; there are {', '.join(shapes)}.")
        if len(names) not in (len(shapes[name]), len(shapes[name]) - 2) or len(set(names)) < len(names):
            raise DataError(
                f"`dims[{name!r}]` needs a different name for each dimension of a draw, of shape "
                f"{shapes[name][2:]}; it has {list(names)}."
            )
    return {name: list(names) for name, names in dims.items()}


def _coordinates(coords: Any) -> dict[str, np.ndarray]:
    """Dimension -> a label for each place along it."""
    if coords is None:
        return {}
    given = mapping("coords", coords, "{'column': ['a', 'b']}")
    for name in given:
        text("the keys of `coords`", name)
    return {
        name: as_labels(f"coords[{name!r}]", list(labels) if isinstance(labels, range) else labels)
        for name, labels in given.items()
    }


@dataclass(frozen=True)
class _Found:
    """Site name -> samples `(chains, draws, *shape)`, what else there is, and whether a site was observed."""

    posterior: Mapping[str, Tensor]
    groups: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    observes: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        chains, draws = next(iter(self.posterior.values())).shape[:2]
        return chains, draws


def _drawn(source: Any, args: tuple[Any, ...], keywords: Mapping[str, Any], draws: int) -> _Found:
    if isinstance(source, MCMC):
        return _of_chains(source)
    if isinstance(source, Mapping) and source:
        return _Found(_samples("source", source))
    if callable(source):
        drawn = _of_guide(source, args, keywords, whole("draws", draws))
        return _Found({name: value[None] for name, value in drawn.items()})
    raise ModelError(
        "`source` must be a pyro.infer.MCMC, a pyro.infer.Predictive, a guide, or samples (site name -> "
        f"tensor); it is {'an empty ' * (isinstance(source, Mapping) and not source)}{type(source).__name__}."
    )


def _of_chains(source: MCMC) -> _Found:
    try:
        found = dict(source.get_samples(group_by_chain=True))
        divergences = source.diagnostics().get("divergences", {}).values()
    except (AttributeError, TypeError) as error:
        raise ModelError("`source` is an MCMC without samples: call its `run` before.") from error
    diverging = torch.zeros(next(iter(found.values())).shape[:2], dtype=torch.bool)
    for chain, places in enumerate(divergences):
        diverging[chain, places] = True
    return _Found(found, {"sample_stats": {"diverging": diverging}})


def _of_guide(
    guide: Callable[..., Any], args: tuple[Any, ...], keywords: Mapping[str, Any], draws: int
) -> dict[str, Tensor]:
    """Draws `(S, *shape)` of the sites of a guide, without those that are only a means to it."""
    with _told("the guide"), torch.no_grad():
        sites = poutine.trace(guide).get_trace(*args, **keywords).nodes
        drawn = Predictive(guide, num_samples=draws, return_sites=None)(*args, **keywords)
    found = {
        name: _shaped(value[None], sites[name]["value"])[0]
        for name, value in drawn.items()
        if not sites[name]["infer"].get("is_auxiliary", False)
    }
    if not found:
        raise ModelError("`source` is a function without a sample site, so it is no guide.")
    return found


def _of_predictive(source: Predictive, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> _Found:
    """What stands in a `Predictive` or comes from its guide, and what its model draws, observed or not."""
    samples = dict(source.posterior_samples)
    if source.guide is not None:
        samples = _of_guide(source.guide, args, keywords, source.num_samples)
    model = poutine.uncondition(source.model)
    settings = {"num_samples": source.num_samples, "parallel": source.parallel}
    with _told("the model"), torch.no_grad():
        sites = poutine.trace(source.model).get_trace(*args, **keywords).nodes
        drawn = Predictive(model, samples, **settings)(*args, **keywords)
    made = {name for name, site in sites.items() if _is_deterministic(site)}
    observed = {name: site["value"] for name, site in sites.items() if _is_response(site)}
    drawn = {name: _shaped(v[None], sites[name]["value"]) for name, v in drawn.items() if v.numel()}
    if samples:
        posterior = {name: value[None] for name, value in samples.items()}
        posterior |= {name: value for name, value in drawn.items() if name in made}
        rest = {name: value for name, value in drawn.items() if name not in posterior}
        return _Found(posterior, {"posterior_predictive": rest}, observes=bool(observed))
    groups: dict[str, Mapping[str, Tensor]] = {
        "prior": {name: value for name, value in drawn.items() if name not in observed},
        "prior_predictive": {name: value for name, value in drawn.items() if name in observed},
        "observed_data": observed,
    }
    return _Found({}, groups, observes=bool(observed))


def _shaped(values: Tensor, one: Tensor) -> Tensor:
    """Draws `(1, S, ...)` in the shape of one: `Predictive` adds dimensions of 1 where a model has plates."""
    alike = values[0, 0].numel() == one.numel()
    return values.reshape(*values.shape[:2], *one.shape) if alike else values


def _samples(owner: str, values: Any) -> dict[str, Tensor]:
    """Samples `(S, *shape)` that were given, as those of one chain."""
    if not isinstance(values, Mapping):
        raise DataError(f"`{owner}` must be a mapping, site name -> draws; it is {type(values).__name__}.")
    found = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise DataError(f"the keys of `{owner}` must be names of sites; one is {written(name)}.")
        if not isinstance(value, Tensor | np.ndarray | list | tuple):
            raise DataError(f"`{owner}` needs a tensor of draws of {name!r}; it is {type(value).__name__}.")
        argument = f"{owner}[{name!r}]"
        if isinstance(value, Tensor):
            check_dense(argument, value)
        found[name] = torch.as_tensor(value if isinstance(value, Tensor) else to_array(argument, value))
    lengths = {name: len(value) if value.dim() else 0 for name, value in found.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise DataError(f"`{owner}` needs as many draws of each site, and at least one; it has {lengths}.")
    return {name: value[None] for name, value in found.items()}


def _reshaped(values: Any, found: _Found) -> dict[str, Tensor]:
    """Predictive draws in the chains of the posterior."""
    drawn = {name: v for name, v in _samples("posterior_predictive", values).items() if v[0, 0].numel()}
    if not found.posterior:
        raise ModelError(
            "`posterior_predictive` needs a posterior, and `source` has draws of the prior alone."
        )
    chains, count = found.shape
    wrong = [name for name, value in drawn.items() if value.shape[1] != chains * count]
    if wrong:
        raise DataError(
            f"`posterior_predictive` needs {chains * count} draws; {wrong[0]!r} has "
            f"{drawn[wrong[0]].shape[1]}."
        )
    return {name: value.reshape(chains, count, *value.shape[2:]) for name, value in drawn.items()}


def _densities(
    model: Any, args: tuple[Any, ...], keywords: Mapping[str, Any], found: _Found
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Of the observed sites the log-density at every draw and the values, and what is made of the draws."""
    chains, count = found.shape
    flat = {name: value.flatten(0, 1) for name, value in found.posterior.items()}
    densities: dict[str, list[Tensor]] = {}
    made: dict[str, list[Tensor]] = {}
    sites: Sites = {}
    for i in range(chains * count):
        held = pyro.condition(model, data={name: value[i] for name, value in flat.items()})
        with _told("the model"), torch.no_grad(), poutine.block(), torch.random.fork_rng(devices=[]):
            sites = poutine.trace(held).get_trace(*args, **keywords).nodes
        if i == 0:
            _check_sites(sites, flat)
        for name, site in sites.items():
            if name not in flat and _is_deterministic(site):
                made.setdefault(name, []).append(site["value"])
            elif name not in flat and _is_response(site):
                densities.setdefault(name, []).append(_density(site))
    stacked = (
        {name: torch.stack(each).reshape(chains, count, *each[0].shape) for name, each in group.items()}
        for group in (densities, made)
    )
    return next(stacked), {name: sites[name]["value"] for name in densities}, next(stacked)


def _density(site: Mapping[str, Any]) -> Tensor:
    density: Tensor = site["fn"].log_prob(site["value"])
    mask = site["mask"]
    return density if mask is None else torch.where(torch.as_tensor(mask), density, 0.0)


def _check_sites(sites: Sites, samples: Mapping[str, Tensor]) -> None:
    latent = [
        name
        for name, site in sites.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and name not in samples
        and not poutine.util.site_is_subsample(site)
    ]
    if latent:
        raise ModelError(
            f"the model has a latent site {latent[0]!r} of which there are no samples, so its observations "
            "have no density."
        )
    if not any(_is_response(site) and name not in samples for name, site in sites.items()):
        raise ModelError(
            "the model observes nothing: give it its observations among `args`, or leave it out."
        )
    for name, site in sites.items():
        if _is_response(site) and any(f.full_size != f.size for f in site["cond_indep_stack"]):
            raise ModelError(
                f"the model sees a random part of the rows of {name!r}; let its plates have all."
            )


def _is_response(site: Mapping[str, Any]) -> bool:
    """Whether a site was observed: neither made of others, nor a factor, nor the rows of a plate."""
    return (
        site["type"] == "sample"
        and bool(site["is_observed"])
        and not site["infer"].get("_deterministic", False)
        and not poutine.util.site_is_subsample(site)
        and bool(torch.as_tensor(site["value"]).numel())
    )


def _is_deterministic(site: Mapping[str, Any]) -> bool:
    return site["type"] == "sample" and bool(site["infer"].get("_deterministic", False))


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What goes wrong inside Pyro, as an error of neglog."""
    try:
        yield
    except NeglogError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{what} does not run on the arguments that were given: {type(error).__name__}: {reason}"
        ) from error
