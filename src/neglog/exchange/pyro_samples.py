"""Samples of Pyro for ArviZ: of chains, of predictive draws, of guides."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC, Predictive
from torch import Tensor

from neglog.arguments import check_dense, mapping, shown, text, whole
from neglog.conversion import as_labels, to_array
from neglog.errors import DataError, ModelError, NeglogError, written
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
    """Samples of Pyro as ArviZ's data structure, for any version of ArviZ.

    A model with its observations adds the groups log_likelihood and observed_data, with each observed site,
    and the sites of `pyro.deterministic` to the group posterior. Rows that `poutine.mask` leaves out have a
    log-likelihood of 0; the factors of `poutine.scale` are left out of it.

    Args:
        source: a `pyro.infer.MCMC` that has run; a guide, a function of `args`; samples, site name ->
            `(S, *shape)`; or a `pyro.infer.Predictive`, which is called with `args`. One with a guide or with
            samples gives posterior and posterior_predictive; one without gives prior, and
            prior_predictive for the sites that `args` has observations of.
        args: the arguments of the model and of the guide, with the observations.
        model: the model; by default that of a `Predictive`.
        draws: draws from a guide.
        posterior_predictive: site name -> draws `(S, ...)`, of the same number.
        prior: site name -> draws `(S, ...)`, of any number; sites that the posterior lacks go to
            prior_predictive.
        dims: variable -> the names of its dimensions.
        coords: dimension -> its labels.
        keywords: the keywords of the model and of the guide.

    Returns:
        An `arviz.InferenceData`; from ArviZ 1.0 on, an `xarray.DataTree`.

    Raises:
        ModelError: `source` is something else, or has no samples; the model does not run on `args`, has no
            observed site, has a latent site without samples, or subsamples its rows.
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
    _check_model(model)
    found = _drawn(source, args, keywords, draws)
    model = model or found.model
    groups = dict(found.groups)
    if found.posterior:
        groups["posterior"] = found.posterior
    if posterior_predictive is not None:
        groups["posterior_predictive"] = _reshaped(posterior_predictive, found)
    if prior is not None:
        groups |= _prior_groups(prior, found.posterior)
    if model is not None:
        groups |= _evaluated(model, args, keywords, found)
        deterministic = groups["posterior"].keys() - found.posterior.keys()
        drawn = groups.get("posterior_predictive", {})
        groups["posterior_predictive"] = {name: v for name, v in drawn.items() if name not in deterministic}
    full = {name: arrays(group) for name, group in groups.items() if group}
    return assembled(full, _dimensions(dims, full), _coordinates(coords))


def _check_model(model: Any) -> None:
    if model is not None and not callable(model):
        raise ModelError(f"`model` must be a Pyro function; it is {type(model).__name__}.")


def _dimensions(dims: Any, groups: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, list[str]]:
    """Variable -> the names of its dimensions.

    Raises:
        DataError: no mapping of lists; an unknown variable; another number of names than it has dimensions.
    """
    if dims is None:
        return {}
    shapes = {name: value.shape for group in groups.values() for name, value in group.items()}
    given = mapping("dims", dims, "{'weight': ['column']}")
    for name, names in given.items():
        _check_dimension_names(name, names, shapes)
    return {name: list(names) for name, names in given.items()}


def _check_dimension_names(name: Any, names: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names):
        raise DataError(
            f"`dims[{name!r}]` must be a list of names, such as ['column']; it is {shown(names)}."
        )
    if name not in shapes:
        raise DataError(f"`dims` names {name!r}, which is no variable; there are {', '.join(shapes)}.")
    shape = shapes[name]
    if len(names) not in (len(shape), len(shape) - 2) or len(set(names)) < len(names):
        raise DataError(
            f"`dims[{name!r}]` needs a different name for each dimension of a draw, of shape {shape[2:]}; it "
            f"has {list(names)}."
        )


def _coordinates(coords: Any) -> dict[str, np.ndarray]:
    """Dimension -> the labels of its entries."""
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
class _Samples:
    """Site name -> posterior samples `(chains, draws, *shape)`, and the other groups that a source has.

    `model` is the model of the source, if that can be evaluated at the samples: it has observed sites.
    """

    posterior: Mapping[str, Tensor]
    groups: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    model: Callable[..., Any] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        chains, draws = next(iter(self.posterior.values())).shape[:2]
        return chains, draws


def _drawn(source: Any, args: tuple[Any, ...], keywords: Mapping[str, Any], draws: int) -> _Samples:
    if isinstance(source, Predictive):
        return _of_predictive(source, args, keywords)
    if isinstance(source, MCMC):
        return _of_chains(source)
    if isinstance(source, Mapping) and source:
        return _Samples(_validated("source", source))
    if callable(source):
        drawn = _of_guide(source, args, keywords, whole("draws", draws))
        return _Samples({name: value[None] for name, value in drawn.items()})
    raise ModelError(
        "`source` must be a pyro.infer.MCMC, a pyro.infer.Predictive, a guide, or samples (site name -> "
        f"tensor); it is {'an empty ' * (isinstance(source, Mapping) and not source)}{type(source).__name__}."
    )


def _of_chains(source: MCMC) -> _Samples:
    try:
        found = dict(source.get_samples(group_by_chain=True))
        divergences = source.diagnostics().get("divergences", {}).values()
    except (AttributeError, TypeError) as error:
        raise ModelError("`source` is an MCMC without samples: call its `run` before.") from error
    diverging = torch.zeros(next(iter(found.values())).shape[:2], dtype=torch.bool)
    for chain, places in enumerate(divergences):
        diverging[chain, places] = True
    return _Samples(found, {"sample_stats": {"diverging": diverging}})


def _of_guide(
    guide: Callable[..., Any], args: tuple[Any, ...], keywords: Mapping[str, Any], draws: int
) -> dict[str, Tensor]:
    """Draws `(S, *shape)` of the sites of a guide, without its auxiliary sites."""
    with _model_errors("the guide"), torch.no_grad():
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


def _of_predictive(source: Predictive, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> _Samples:
    """The samples of a `Predictive` or of its guide, and the draws of its model, conditioned or not."""
    samples = dict(source.posterior_samples)
    if source.guide is not None:
        samples = _of_guide(source.guide, args, keywords, source.num_samples)
    model = poutine.uncondition(source.model)
    settings = {"num_samples": source.num_samples, "parallel": source.parallel}
    with _model_errors("the model"), torch.no_grad():
        sites = poutine.trace(source.model).get_trace(*args, **keywords).nodes
        drawn = Predictive(model, samples, **settings)(*args, **keywords)
    drawn = {name: _shaped(v[None], sites[name]["value"]) for name, v in drawn.items() if v.numel()}
    observed = {name: site["value"] for name, site in sites.items() if _is_response(site)}
    if samples:
        return _posterior_of(source.model, samples, drawn, sites, bool(observed))
    latent, predictive = _partitioned(drawn, observed.keys())
    return _Samples({}, {"prior": latent, "prior_predictive": predictive, "observed_data": observed})


def _posterior_of(
    model: Any, samples: Mapping[str, Tensor], drawn: Mapping[str, Tensor], sites: Sites, observes: bool
) -> _Samples:
    """Samples and deterministic sites as the posterior, other draws as predictive ones."""
    deterministic = {name for name, site in sites.items() if _is_deterministic(site)}
    rest, made = _partitioned(drawn, deterministic)
    posterior = {name: value[None] for name, value in samples.items()} | made
    predictive, _ = _partitioned(rest, posterior.keys())
    return _Samples(posterior, {"posterior_predictive": predictive}, model if observes else None)


def _partitioned(
    values: Mapping[str, Tensor], names: Collection[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The values whose names are not among some, and those whose names are."""
    inside = {name: value for name, value in values.items() if name in names}
    return {name: value for name, value in values.items() if name not in names}, inside


def _shaped(values: Tensor, one: Tensor) -> Tensor:
    """Draws `(1, S, ...)` in the shape of one: `Predictive` adds dimensions of 1 where a model has plates."""
    alike = values[0, 0].numel() == one.numel()
    return values.reshape(*values.shape[:2], *one.shape) if alike else values


def _validated(owner: str, values: Any) -> dict[str, Tensor]:
    """Samples `(S, *shape)` of an argument, as those of one chain."""
    if not isinstance(values, Mapping):
        raise DataError(f"`{owner}` must be a mapping, site name -> draws; it is {type(values).__name__}.")
    found = {name: _tensor_of(owner, name, value) for name, value in values.items()}
    lengths = {name: len(value) if value.dim() else 0 for name, value in found.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise DataError(f"`{owner}` needs as many draws of each site, and at least one; it has {lengths}.")
    return {name: value[None] for name, value in found.items()}


def _tensor_of(owner: str, name: Any, value: Any) -> Tensor:
    if not isinstance(name, str):
        raise DataError(f"the keys of `{owner}` must be names of sites; one is {written(name)}.")
    if not isinstance(value, Tensor | np.ndarray | list | tuple):
        raise DataError(f"`{owner}` needs a tensor of draws of {name!r}; it is {type(value).__name__}.")
    argument = f"{owner}[{name!r}]"
    if isinstance(value, Tensor):
        check_dense(argument, value)
        return torch.as_tensor(value)
    return torch.as_tensor(to_array(argument, value))


def _prior_groups(prior: Any, posterior: Mapping[str, Tensor]) -> dict[str, Mapping[str, Tensor]]:
    """Draws of sites that the posterior has as the group prior, those of others as prior_predictive."""
    drawn = {name: value for name, value in _validated("prior", prior).items() if value[0, 0].numel()}
    predictive, latent = _partitioned(drawn, posterior.keys())
    like = {name: _shaped(value, posterior[name][0, 0]) for name, value in latent.items()}
    return {"prior": like, "prior_predictive": predictive}


def _reshaped(values: Any, found: _Samples) -> dict[str, Tensor]:
    """Predictive draws in the chains of the posterior."""
    drawn = {name: v for name, v in _validated("posterior_predictive", values).items() if v[0, 0].numel()}
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


def _evaluated(
    model: Any, args: tuple[Any, ...], keywords: Mapping[str, Any], found: _Samples
) -> dict[str, Mapping[str, Tensor]]:
    """The model at every draw: log-densities and values of observed sites, and deterministic sites.

    The groups are log_likelihood, observed_data, and posterior with the deterministic sites.
    """
    if not found.posterior:
        raise ModelError("`source` has draws of the prior alone, and `model` needs some of a posterior.")
    chains, count = found.shape
    flat = {name: value.flatten(0, 1) for name, value in found.posterior.items()}
    densities: dict[str, list[Tensor]] = {}
    deterministic: dict[str, list[Tensor]] = {}
    sites: Sites = {}
    for i in range(chains * count):
        sites = _conditioned_sites(model, flat, i, args, keywords)
        if i == 0:
            _check_sites(sites, flat)
        others = {name: site for name, site in sites.items() if name not in flat}
        for name, site in _selected(others, _is_deterministic).items():
            deterministic.setdefault(name, []).append(site["value"])
        for name, site in _selected(others, _is_response).items():
            densities.setdefault(name, []).append(_log_density(site))
    return {
        "log_likelihood": _in_chains(densities, found),
        "observed_data": {name: sites[name]["value"] for name in densities},
        "posterior": dict(found.posterior) | _in_chains(deterministic, found),
    }


def _conditioned_sites(
    model: Any, draws: Mapping[str, Tensor], i: int, args: tuple[Any, ...], keywords: Mapping[str, Any]
) -> Sites:
    """The sites of the model at draw `i` of samples `(S, *shape)`."""
    conditioned = pyro.condition(model, data={name: value[i] for name, value in draws.items()})
    with _model_errors("the model"), torch.no_grad(), poutine.block(), torch.random.fork_rng(devices=[]):
        sites: Sites = poutine.trace(conditioned).get_trace(*args, **keywords).nodes
    return sites


def _in_chains(values: Mapping[str, list[Tensor]], found: _Samples) -> dict[str, Tensor]:
    return {name: torch.stack(each).reshape(*found.shape, *each[0].shape) for name, each in values.items()}


def _log_density(site: Mapping[str, Any]) -> Tensor:
    density: Tensor = site["fn"].log_prob(site["value"])
    mask = site["mask"]
    return density if mask is None else torch.where(torch.as_tensor(mask), density, 0.0)


def _check_sites(sites: Sites, samples: Mapping[str, Tensor]) -> None:
    latent = [name for name in _selected(sites, _is_latent) if name not in samples]
    if latent:
        raise ModelError(
            f"the model has a latent site {latent[0]!r} without samples, so the density of its "
            "observations is not known."
        )
    responses = _selected(sites, _is_response)
    if not responses.keys() - samples.keys():
        raise ModelError(
            "the model observes nothing: give it its observations among `args`, or leave it out."
        )
    subsampled = list(_selected(responses, _is_subsampled))
    if subsampled:
        raise ModelError(f"the model subsamples the rows of {subsampled[0]!r}; give its plates all rows.")


def _selected(sites: Sites, condition: Callable[[Mapping[str, Any]], bool]) -> Sites:
    return {name: site for name, site in sites.items() if condition(site)}


def _is_latent(site: Mapping[str, Any]) -> bool:
    sampled = site["type"] == "sample" and not site["is_observed"]
    return sampled and not poutine.util.site_is_subsample(site)


def _is_subsampled(site: Mapping[str, Any]) -> bool:
    return any(frame.full_size != frame.size for frame in site["cond_indep_stack"])


def _is_response(site: Mapping[str, Any]) -> bool:
    """Whether a site is observed: not deterministic, no factor, and not the row indices of a plate."""
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
def _model_errors(caller: str) -> Iterator[None]:
    """Errors inside Pyro, as errors of neglog."""
    try:
        yield
    except NeglogError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"{caller} does not run on the arguments that were given: {type(error).__name__}: {reason}"
        ) from error
