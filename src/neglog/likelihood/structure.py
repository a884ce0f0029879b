"""Structure: the facts about a model that are read from traced runs, so that nothing else inspects it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor

from neglog.beginnings import Beginning
from neglog.distributions.corners import Corner
from neglog.distributions.family import Family, family_of, location_of, scale_of, scales_of
from neglog.distributions.observed import corner, latent, unwrapped
from neglog.handlers import Model
from neglog.layers import layers
from neglog.likelihood.eager import Probe
from neglog.likelihood.first import FirstRun
from neglog.likelihood.sites import Site
from neglog.predictors import RESPONSE
from neglog.tracing import Affine

RESHAPING = ("Alias", "Clone", "Expand", "Reshape", "Squeeze", "ToCopy", "Unsqueeze", "UnsafeView", "View")
"""The autograd nodes that change the shape of a tensor and not its values."""
Facts = frozenset[str]
FACTS: Mapping[str, str] = {
    "flat": "no prior of a parameter counts",
    "priors": "a prior counts",
    "counted": "each y is one number, of a discrete support",
    "measured": "y is of another kind",
    "collapsing": "the density can be as high as one likes, onto single rows",
    "vector": "each y is a vector",
    "classes": "y is a class",
    "ordered": "y is a class on a scale with cutpoints",
    "mixture": "the response is a mixture whose components may follow rows alone",
    "square": "minus the log-density of y is a squared error",
    "truncated": "y is truncated",
    "bounded": "y is censored or truncated, or its density has bounds",
    "predictors": "there is a linear predictor",
    "several predictors": "there are two or more",
    "network": "some parameters are the weights of a network",
    "kinked": "a prior that counts has a corner",
    "cornered": "a prior that counts, or the density of y, has a corner",
    "many optima": "the model declares further initial points",
    "hierarchical": "a prior depends on another parameter, or the density on a `pyro.param`",
}
"""Every fact that a model may have, and what it means."""


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
        tails: the site that is the degrees of freedom of the tails of all rows; None if none is.
        has_free_tails: whether those of a response without bounds depend on a parameter.
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
    tails: str | None
    has_free_tails: bool
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


class ModelStructure:
    """The structure of a model, from the run at its initial values, and a run as a function of its
    predictors.

    The second is made when it is needed first.

    Args:
        model: the model.
        first: its first run.
        sites: the latent sites.
        probe: makes the run at a probe point, as a function of the predictors.

    Attributes:
        sites: the latent sites.
        calls: the linear predictors.
        initial_points: functions of further initial points, which a model with several optima declares.
        law: the record of the family of the response.
        support: the support of the response.
        components: the number of components of a mixture, or of a vector with a full covariance; else 0.
        corner: the corner of its density; None if that has derivatives everywhere.
        may_collapse: whether its density is unbounded, at single rows.
    """

    def __init__(
        self, model: Model, first: FirstRun, sites: Mapping[str, Site], probe: Callable[[], Probe]
    ) -> None:
        fn = first.ran.sites[RESPONSE]["fn"]
        declared = (layer.beginnings for layer in layers(model) if hasattr(layer, "beginnings"))
        self.initial_points: tuple[Beginning, ...] = next(declared, ())
        self.sites, self.calls, self._probe = sites, first.calls, probe
        self.law, self.corner, self.may_collapse = family_of(fn), corner(fn), may_collapse(fn)
        self.support, scales = fn.support, scales_of(latent(fn))
        self.components = 0 if scales is None else scales.shape[-1]

    def of_model(self, probe: Callable[[], Probe]) -> ModelStructure:
        """The structure of a model with other priors or densities of the same sites and kind."""
        other = copy(self)
        for name in ("probe", "response", "is_flat", "is_linear", "constant_sites"):
            other.__dict__.pop(name, None)
        other._probe = probe
        return other

    @property
    def is_probed(self) -> bool:
        """Whether the model has been run as a function of its predictors."""
        return "probe" in self.__dict__

    @cached_property
    def probe(self) -> Probe:
        """The run as a function of the predictors, at the probe point."""
        found = self._probe()
        del self._probe  # with the data that it refers to
        return found

    @cached_property
    def response(self) -> Response:
        """The structure of the response."""
        return _response(self.probe)

    @property
    def prior_corners(self) -> Mapping[str, Corner]:
        """Latent site -> the corner of the density of its prior, of those that have one and count."""
        found = {name: site.corner for name, site in self.sites.items() if not site.masked}
        return {name: each for name, each in found.items() if each is not None}

    def coefficients(self, predictor: str) -> tuple[Site | None, Site | None]:
        """The sites of the bias and the weights of a predictor, where they are free and unconstrained."""
        found = (self.sites.get(f"{predictor}.{part}") for part in ("bias", "weight"))
        bias, weight = (site if site is not None and site.is_real else None for site in found)
        return bias, weight

    def is_fixed(self, site: str) -> bool:
        """Whether the parameters of the prior of a latent site depend on no other site."""
        return site not in self.probe.prior_parents

    @cached_property
    def is_flat(self) -> bool:
        """Whether no prior counts, of parameters or of sites that are conditioned."""
        sites = self.probe.ran.sites.items()
        return not any(name != RESPONSE and msg["mask"] is not False for name, msg in sites)

    @cached_property
    def is_linear(self) -> bool:
        """Whether the model is a function of linear predictors: fixed designs times free coefficients."""
        names = [call.name for call in self.calls]
        return (
            bool(names) and len(set(names)) == len(names) and all(map(self._is_plain, self.probe.ran.affines))
        )

    def _is_plain(self, call: Affine) -> bool:
        """Whether a predictor is a fixed design times coefficients that are sites, or constants."""
        some = call.outputs is None or len(call.outputs) > 0
        return self.has_own(call) and some and not call.design.requires_grad

    def has_own(self, call: Affine) -> bool:
        """Whether the coefficients of a predictor are sites of its own, or constants, of plain shape."""
        parts = {f"{call.name}.bias": call.bias, f"{call.name}.weight": call.weight}
        own = all(
            self.sites[name].is_real if name in self.sites else not value.requires_grad
            for name, value in parts.items()
        )
        dimensions = 1 if call.outputs is None else 2
        return own and call.design.dim() == 2 and call.weight.dim() == dimensions

    @cached_property
    def constant_sites(self) -> tuple[Site, ...]:
        """The sites that enter the likelihood of the rows directly, not through predictors."""
        return tuple(self.sites[name] for name in self.probe.constant_sites)


def may_collapse(response: Any) -> bool:
    """Whether the density of a response can be as high as one likes."""
    response = latent(response)
    return not (response.support.is_discrete or response.event_shape)


def _response(probe: Probe) -> Response:
    msg, ran = probe.ran.sites[RESPONSE], probe.ran
    fn = msg["fn"]
    params = {name: ran.sites[name]["value"] for name in probe.numbers}
    _, law = unwrapped(fn)
    numbers = {name: value for name, value in params.items() if value.numel() == 1}
    scale, tails = scale_of(law), family_of(law).tails
    row_scale = _row_scale(msg, probe.data.weights)
    return Response(
        law=family_of(fn),
        location=_same(location_of(law), ran.etas),
        scale=_same(scale, numbers),
        known_scale=_number(scale),
        is_scale_fixed=isinstance(scale, Tensor) and not scale.requires_grad,
        is_scalar=not fn.event_shape and probe.data.y.dim() == 1,
        is_y=msg["value"].is_set_to(probe.data.y),
        tails=None if tails is None else _same(getattr(law, tails), numbers),
        has_free_tails=_depends(law, family_of(fn).tails),
        is_complete=row_scale is not None,
        row_scale=1.0 if row_scale is None else row_scale,
    )


def _depends(law: Any, attribute: str | None) -> bool:
    """Whether an attribute of a distribution depends on a parameter; not where it has no such attribute."""
    return attribute is not None and bool(getattr(law, attribute).requires_grad)


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
    """The name of the tensor that a value equals, up to its shape."""
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


def facts_of(model: Model, structure: ModelStructure, is_flat: bool, dimensions: int) -> Facts:
    """The facts of a model whose priors are all flat, or not, with a `y` of this number of dimensions."""
    law, corner, sites = structure.law, structure.corner, structure.sites.values()
    is_counted, is_kinked = not structure.may_collapse and dimensions == 1, bool(structure.prior_corners)
    known = {
        "flat": is_flat,
        "priors": not is_flat,
        "counted": is_counted,
        "measured": not is_counted,
        "collapsing": structure.may_collapse,
        "vector": dimensions == 2,
        "classes": law.classes is not None,
        "ordered": law.classes == "cutpoints",
        "mixture": law.is_mixture,
        "square": law.is_square,
        "truncated": law.truncates,
        "bounded": law.censors or law.truncates or (corner is not None and corner.is_bounded),
        "predictors": bool(structure.calls),
        "several predictors": len(structure.calls) > 1,
        "network": any(site.started for site in sites),
        "kinked": is_kinked,
        "cornered": is_kinked or corner is not None,
        "many optima": any(hasattr(layer, "beginnings") for layer in layers(model)),
        "hierarchical": _is_hierarchical(structure),
    }
    return frozenset(fact for fact, is_true in known.items() if is_true)


def _is_hierarchical(structure: ModelStructure) -> bool:
    """Whether a prior depends on another parameter; not known of a model that does not run off its start."""
    try:
        probe = structure.probe
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    return bool(probe.ran.params or probe.prior_parents)
