"""Multistart: further initial points for a model with several optima."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from neglog.beginnings import Beginning, few, shared
from neglog.data import Data
from neglog.errors import ModelError
from neglog.isolation import user_code
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective


def further_initial_points(coordinates: Coordinates, theta: Tensor) -> Tensor:
    """Further initial points `(M, K)` in z beside `theta` `(K,)`, as the model declares them; often none.

    A model declares them with `neglog.beginnings.many_optima`. Values for sites that the model does not have
    here, such as those conditioned, and those outside a support are left as they are at `theta`.
    """
    objective = coordinates.objective
    beginnings = objective.structure.initial_points
    if not beginnings or objective.data.y.dim() != 1:
        return theta.new_zeros((0, len(theta)))
    points = (coordinates.z(_at(objective, theta, each)) for each in _values(objective, beginnings))
    return torch.stack([point for point in points if bool(torch.isfinite(point).all())] or [theta])


def _values(objective: Objective, beginnings: Sequence[Beginning]) -> list[Mapping[str, Tensor]]:
    """The values of sites that the functions of `many_optima` return."""
    rows = _observed(objective.data)
    shapes = {name: site.shape for name, site in objective.sites.items()}
    with shared():
        return [each for beginning in beginnings if (each := _begun(beginning, *rows, shapes))]


def _observed(data: Data) -> tuple[Any, Tensor, Tensor]:
    """Some of the rows with a `y`: their designs, values and weights."""
    seen = (~data.y.isnan()).nonzero()[:, 0]
    data = data if len(seen) == data.rows else data.take(seen)
    return few(data.x, data.y, torch.ones_like(data.y) if data.weights is None else data.weights)


def _begun(beginning: Beginning, *arguments: Any) -> Mapping[str, Tensor]:
    """The values of a function of `many_optima`.

    Raises:
        ModelError: it raises an error, or returns no mapping from sites to tensors.
    """
    with user_code("a function of `many_optima`"):
        found = beginning(*arguments)
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ModelError(
            "a function of `many_optima` must return a mapping, site name -> tensor; it returned one of type "
            f"{type(found).__name__}."
        )
    return found


def _at(objective: Objective, theta: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    theta = theta.clone()
    for name, value in values.items():
        site = objective.sites.get(name)
        if site is not None and value.shape == site.shape and bool(site.fn.support.check(value).all()):
            theta[site.place] = site.transform.inv(value).reshape(-1)
    return theta
