"""Structure: the facts about a model that are read from one traced run, so that nothing else inspects it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor

from neglog.distributions.family import Family, family_of, location_of, scale_of
from neglog.distributions.observed import unwrapped
from neglog.likelihood.cuts import Look
from neglog.predictors import RESPONSE

RESHAPING = ("Alias", "Clone", "Expand", "Reshape", "Squeeze", "ToCopy", "Unsqueeze", "UnsafeView", "View")
"""The operations of autograd that change the shape of a tensor and none of its numbers."""


@dataclass(frozen=True)
class Response:
    """The structure of a response.

    Attributes:
        law: the record of its family, whether written with neglog's own class, Pyro's or torch's.
        location: the predictor that is the location parameter, without a link; None if none is. Of a masked,
            censored or truncated response this and the scale are those of the distribution inside.
        scale: the site that is the scale parameter of all rows; None if none is.
        known_scale: the scale of all rows, where it is one number that no parameter changes.
        is_scale_fixed: whether there is a scale, perhaps one for each row, that no parameter changes.
        is_scalar: whether each row is one number.
        is_y: whether the observed values are `y` itself, rather than computed from it.
        is_complete: whether no row is masked, and the model scales all rows alike.
        row_scale: the factor by which the model scales the log-density of each row, beside its weight.
    """

    law: Family
    location: str | None
    scale: str | None
    known_scale: float | None
    is_scale_fixed: bool
    is_scalar: bool
    is_y: bool
    is_complete: bool
    row_scale: float

    @property
    def family(self) -> type:
        """Neglog's class of its law."""
        return self.law.kind

    @property
    def is_plain(self) -> bool:
        """Whether each row is one number, that of `y`, none is masked, and the model scales all alike."""
        return self.is_scalar and self.is_y and self.is_complete


@dataclass(frozen=True)
class ModelStructure:
    """What a model is made of.

    Attributes:
        response: its response.
        is_flat: whether no prior counts.
    """

    response: Response
    is_flat: bool


def structure_of(look: Look) -> ModelStructure:
    """The structure of a model that was cut at its predictors and run near its initial values."""
    priors = (msg for name, msg in look.ran.sites.items() if name != RESPONSE and msg["mask"] is not False)
    return ModelStructure(_response(look), is_flat=not any(priors))


def _response(look: Look) -> Response:
    msg, ran = look.ran.sites[RESPONSE], look.ran
    fn = msg["fn"]
    params = {name: ran.sites[name]["value"] for name in look.numbers}
    _, law = unwrapped(fn)
    scale = scale_of(law)
    row_scale = _row_scale(msg, look.data.weights)
    return Response(
        law=family_of(fn),
        location=_same(location_of(law), ran.etas),
        scale=_same(scale, {name: value for name, value in params.items() if value.numel() == 1}),
        known_scale=_number(scale),
        is_scale_fixed=isinstance(scale, Tensor) and not scale.requires_grad,
        is_scalar=not fn.event_shape and look.data.y.dim() == 1,
        is_y=msg["value"].is_set_to(look.data.y),
        is_complete=row_scale is not None,
        row_scale=1.0 if row_scale is None else row_scale,
    )


def _row_scale(msg: dict[str, Any], weights: Tensor | None) -> float | None:
    """The factor on the log-density of all rows; None where it is not one, or rows are masked."""
    if isinstance(msg["fn"], MaskedDistribution) or not (msg["mask"] is None or msg["mask"] is True):
        return None
    scale = torch.as_tensor(msg["scale"], dtype=torch.float64)
    if weights is None:
        return _number(scale)
    factors = (scale / weights)[weights > 0].unique()
    return float(factors) if len(factors) == 1 else None


def _number(value: Any) -> float | None:
    """The number that a tensor repeats in all rows, whatever the parameters; None if there is none."""
    repeats = isinstance(value, Tensor) and value.numel() > 0 and not any(value.stride())
    return None if not repeats or value.requires_grad else float(value.reshape(-1)[0])


def _same(value: Any, named: Any) -> str | None:
    """The name of the tensor that a value is, but for its shape."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return None
    source = _source(value)
    return next((name for name, each in named.items() if _source(each) is source), None)


def _source(value: Tensor) -> Any:
    """The last operation that computed the numbers of a tensor; the tensor itself, where it is a leaf."""
    node = value.grad_fn
    while node is not None and node.name().removesuffix("Backward0").startswith(RESHAPING):
        node = node.next_functions[0][0]
    if node is None:
        return value
    return getattr(node, "variable", node)
