"""Whether a traced model is one that can be fitted: its names, and its observations."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from pyro.poutine.condition_messenger import ConditionMessenger
from torch import Tensor
from torch.distributions import Distribution

from neglog.errors import ModelError, did_you_mean
from neglog.handlers import Model
from neglog.layers import layers, replaced, site_names
from neglog.predictors import RESPONSE, ROWS

Sites = Mapping[str, dict[str, Any]]


def check_sites(model: Model, name: str, sites: Sites, repeated: Collection[str]) -> None:
    """Refuse a model of this name whose sites would be mistaken for each other, or left out of account.

    Raises:
        ModelError: two sites have one name; rows have another observation than ``y``; `pyro.condition` names
            a site that there is not, or gives it a value of another shape.
    """
    if repeated:
        raise ModelError(
            f"`{name}` samples {min(repeated)!r} more than once, and sites of one name are one parameter. "
            "Give each site, and each predictor, a name of its own."
        )
    check_distributions(name, sites)
    for site, msg in sites.items():
        if site != RESPONSE and msg["is_observed"] and _is_in_rows(msg):
            raise ModelError(
                f"`{name}` observes {site!r} for each row besides 'y', which would be left out. Fit one "
                "model to each, or make `y` a response of many columns."
            )
    check_conditions(model, name, sites)


def check_distributions(name: str, sites: Sites) -> None:
    """Refuse a site that is sampled from something else than a distribution.

    Raises:
        ModelError: naming the site.
    """
    for site, msg in sites.items():
        if not isinstance(msg["fn"], Distribution):
            raise ModelError(
                f"`{name}` samples {site!r} from an object of type {type(msg['fn']).__name__}. Give it a "
                f"distribution, as in pyro.sample({site!r}, pyro.distributions.Normal(0.0, 1.0))."
            )


def check_conditions(model: Model, name: str, sites: Sites, complete: bool = True) -> None:
    """Refuse a `pyro.condition` that names a site that there is not, or gives it a value of another shape.

    Args:
        model: a model with handlers around it.
        name: its name.
        sites: the sites that it sampled.
        complete: whether these are all of its sites, or those sampled before an error.

    Raises:
        ModelError: naming the site.
    """
    for data in _conditions(model):
        for site, value in data.items():
            if site in sites:
                _check_shape(name, site, value, sites[site]["fn"].shape())
            elif complete and site != RESPONSE:
                current, *_ = replaced(site_names(model), {site: value})
                near = f" It is called {current!r}." if current != site else did_you_mean(site, sites)
                raise ModelError(
                    f"`pyro.condition` holds {site!r}, which `{name}` does not sample.{near} Its sites are "
                    f"{', '.join(map(repr, sites))}."
                )


def _is_in_rows(msg: Mapping[str, Any]) -> bool:
    """Whether a site is inside the plate of rows, and not computed from others."""
    in_rows = any(frame.name == ROWS for frame in msg["cond_indep_stack"])
    return in_rows and "_deterministic" not in msg["infer"]


def _conditions(model: Model) -> Iterator[Mapping[str, Any]]:
    """The values at which each `pyro.condition` around the model fixes its sites."""
    for layer in layers(model):
        handler = layer.args[0] if getattr(layer, "args", ()) else None
        if isinstance(handler, ConditionMessenger) and isinstance(handler.data, Mapping):
            yield handler.data


def _check_shape(name: str, site: str, value: Any, needed: tuple[int, ...]) -> None:
    """A coefficient has the shape of its site; a constant may be known row by row."""
    if site.endswith((".weight", ".bias")) and tuple(value.shape) != tuple(needed):
        raise ModelError(
            f"`pyro.condition` gives {site!r} of `{name}` the shape {tuple(value.shape)}; it needs "
            f"{tuple(needed)}."
        )


def check_params(name: str, params: Mapping[str, Tensor], density: Tensor) -> None:
    """Refuse a density that depends on a `pyro.param`, which no fit would estimate.

    Args:
        name: the name of the model.
        params: the values of the `pyro.param` statements of a run under autograd.
        density: a scalar of that run that depends on all that matters.

    Raises:
        ModelError: naming the parameter.
    """
    if not (params and density.requires_grad):
        return
    slopes = torch.autograd.grad(density, list(params.values()), retain_graph=True, allow_unused=True)
    for param, slope in zip(params, slopes, strict=True):
        if slope is not None:
            raise ModelError(
                f"`{name}` has the parameter pyro.param({param!r}), which no fit estimates: parameters are "
                f"sample sites. Write pyro.sample({param!r}, a prior); or hold it fixed with `.detach()`."
            )
