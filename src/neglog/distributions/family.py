"""Families: one record for each law, found from a distribution of any class and in any wrapper."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

from neglog.calls import public
from neglog.distributions.corners import Corner
from neglog.errors import ModelError

Entries = Mapping[tuple[int, int], Tensor]
"""The entries `(N,)` of a symmetric matrix at the indices on and above its diagonal."""


@dataclass(frozen=True)
class Standard:
    """The loss of a standardised residual r = (y - location) / scale: the density is exp(-loss(r)) / scale.

    Attributes:
        loss: the loss less its `constant`; `slope` and `bend` are its first two derivatives.
        is_square: whether the loss is half the square of the residual.
    """

    constant: float
    loss: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    bend: Callable[[Tensor], Tensor]
    is_square: bool = False


@public
@dataclass(frozen=True, eq=False)
class Family:
    """The properties of a family of distributions that are not derived from its density.

    Everything but the class is optional. What is not given is derived: `neglog.distributions.derived` has the
    quadratures and sums for the Fisher information, the moments and the distribution function.

    Attributes:
        kind: the class, with `log_prob`, `sample` and `support`. Where it has `_log_tails`, `cdf`, `icdf`,
            `mean` and `variance`, these are used.
        parameters: the attributes that `information` is a function of.
        same: builds one from a distribution of the class of the same name in Pyro or torch.
        information: the Fisher information: a function of the distribution and of its parameters `(N,)`.
        crps: the continuous ranked probability score in closed form, a function of a distribution and of y;
            see `neglog.distributions.ranked`.
        location, scale: the attributes that are a location and a scale.
        scales: the scales of its components, where it has several: a function of a distribution.
        standard: the loss of a standardised residual, where location and scale are all parameters.
        corner: the corner of its log-density: a function of a distribution; None where one has none.
        events: the codes whose probabilities a score compares with what came: a function of a distribution.
            Of a response of yes or no it is the yes alone; None where the response is no class.
        classes: which parameters give each class its probability: log-odds or the cutpoints of a scale.
        is_mixture: whether it is a mixture with `means` and `sigmas`, whose components may follow rows alone.
        tails: the attribute by which densities of heavy tails differ, the degrees of freedom.
        deviance: the unit deviance of y: a function of a distribution, of one of the same family that has the
            location, and of y.
        logarithm: the class of the law of the logarithm of its values, with the same parameters.
        marginal: from a law of vectors and which entries are known to the law of these.
        censors, truncates: whether it is another distribution between bounds, beyond which a value is
            recorded at the bound, or not at all.
        ordered: whether the order of its values has a meaning; classes without one have no quantiles.
        others: class of Pyro or torch with the same law under another name -> as `same`.
    """

    kind: type
    parameters: tuple[str, ...] = ()
    same: Callable[[Any], Any] | None = None
    information: Callable[..., Entries] | None = None
    crps: Callable[[Any, Tensor], Tensor] | None = None
    location: str | tuple[str, ...] = ("location", "loc")
    scale: str | tuple[str, ...] = "scale"
    scales: Callable[[Any], Tensor] | None = None
    standard: Standard | None = None
    corner: Callable[[Any], Corner | None] | None = None
    events: Callable[[Any], Iterable[int]] | None = None
    classes: Literal["log-odds", "cutpoints"] | None = None
    is_mixture: bool = False
    tails: str | None = None
    deviance: Callable[[Any, Any, Tensor], Tensor] | None = None
    logarithm: type | None = None
    marginal: Callable[[Any, Tensor], Any] | None = None
    censors: bool = False
    truncates: bool = False
    ordered: bool = True
    others: Mapping[type, Callable[[Any], Any]] = field(default_factory=dict)

    @property
    def is_square(self) -> bool:
        """Whether minus the log-density is the squared error: the law is a Normal one."""
        return self.standard is not None and self.standard.is_square

    @property
    def is_square_of_logarithm(self) -> bool:
        """Whether minus the log-density is the squared error of the logarithm of a value."""
        return self.logarithm is not None and _record_of(self.logarithm).is_square

    @property
    def is_bounded(self) -> bool:
        """Whether it is another distribution between bounds."""
        return self.censors or self.truncates

    @property
    def constructions(self) -> Mapping[type, Callable[[Any], Any]]:
        """Class of Pyro or torch of this law -> the construction of `kind` from it."""
        alike = (getattr(module, self.kind.__name__, None) for module in (dist, torch.distributions))
        namesakes = {} if self.same is None else {each: self.same for each in alike if each is not None}
        return {**namesakes, **self.others}


REGISTERED: dict[type, Family] = {}
"""Class of neglog or the user -> its record."""
MEMBERS: dict[type, tuple[Family, Callable[[Any], Any]]] = {}
"""Class of Pyro or torch -> the record of the same law, and the construction of that family from it."""


@public
def register(family: Family) -> Family:
    """Enter the record of a family; all functions of neglog find it from its distributions."""
    REGISTERED[family.kind] = family
    _record_of.cache_clear()
    MEMBERS.update({kind: (family, make) for kind, make in family.constructions.items()})
    return family


def plain(fn: Any) -> Any:
    """The distribution without wrappers that change nothing: masks that mask nothing, `to_event(0)`."""
    while True:
        if isinstance(fn, MaskedDistribution):
            mask = torch.as_tensor(fn._mask)
            if any(mask.stride()) or not bool(mask.all()):
                return fn
        elif not (isinstance(fn, Independent) and fn.reinterpreted_batch_ndims == 0):
            return fn
        fn = fn.base_dist


def elementwise(fn: Any) -> Any:
    """The distribution of the entries of one whose last dimensions are one event of independent entries."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def _unexpanded(fn: Any) -> Any:
    """The distribution that was expanded by Pyro's wrapper, and is the same in all rows."""
    while isinstance(fn, ExpandedDistribution):
        fn = fn.base_dist
    return plain(fn)


def family_of(fn: Any) -> Family:
    """The record of the family of a distribution; an empty one for a class without."""
    return _record_of(type(_unexpanded(fn)))  # type: ignore[arg-type]


@lru_cache
def _record_of(kind: type) -> Family:
    """The record of a class, or of the class that it inherits its density from."""
    for base in kind.__mro__:
        member = MEMBERS.get(base)
        record = member[0] if member is not None else REGISTERED.get(base)
        if record is not None and _has_density_of(kind, base):
            return record
    return Family(kind)


def _has_density_of(kind: Any, base: Any) -> bool:
    return kind.log_prob is base.log_prob and getattr(kind, "_log_prob", 0) is getattr(base, "_log_prob", 0)


def events_of(fn: Any) -> tuple[int, ...]:
    """The codes whose probabilities a score compares with what came; none where the response is no class."""
    found = family_of(fn).events
    return () if found is None else tuple(found(_unexpanded(fn)))


def deviance_of(fn: Any, at: Any, y: Tensor) -> Tensor:
    """The unit deviance `(N,)` of each y under `fn`, with the location that `at` has, of the same family.

    It is free of the dispersion: the squared error of a Normal, the absolute error of a Laplace, minus twice
    the log-probability of a class.

    Raises:
        ModelError: the family declares none.
    """
    fn, at = tailed(fn), tailed(at)
    found = family_of(fn).deviance
    if found is None or type(at) is not type(fn):
        raise ModelError(
            f"`{type(fn).__name__}` has no deviance, of which 'd2' is the share that is explained. Compare "
            "models of it by 'log' or 'r2'."
        )
    return found(fn, at, y)


def corner_of(fn: Any) -> Corner | None:
    """The corner of a density that nothing reshapes or bounds; None if it is smooth."""
    found = _record_of(type(fn)).corner  # type: ignore[arg-type]
    return None if found is None else found(fn)


def family(fn: Any) -> type:
    """The family of a distribution: neglog's class of its law, if there is one, or else its own class."""
    return family_of(fn).kind


def tailed(fn: Any) -> Any:
    """A distribution as the family of neglog of the same law, if there is one, or else as it is.

    The tails of these keep their digits.
    """
    fn = plain(fn)
    if isinstance(fn, ExpandedDistribution):
        return tailed(fn.base_dist).expand(fn.batch_shape)
    member = MEMBERS.get(type(fn))
    return fn if member is None else member[1](fn)


def parameters_of(fn: Any) -> tuple[Tensor, ...]:
    """The parameters of a distribution of a registered family, in the order of its record."""
    return tuple(getattr(_unexpanded(fn), name) for name in family_of(fn).parameters)


def location_of(fn: Any) -> Tensor | None:
    """The location of a distribution, where it has a parameter of that meaning."""
    return _first(fn, family_of(fn).location)


def scale_of(fn: Any) -> Tensor | None:
    """The scale of a distribution, where it has a parameter of that meaning."""
    return _first(fn, family_of(fn).scale)


def scales_of(fn: Any) -> Tensor | None:
    """The scales of the components of a mixture or of a vector, `(..., K)`; None of a single number.

    Those of a vector are its conditional standard deviations, each given the components before it.
    """
    found = family_of(fn).scales
    if found is not None:
        return found(_unexpanded(fn))
    factor = getattr(fn, "scale_tril", None)  # of a law of Pyro or torch without a record
    return None if factor is None else factor.diagonal(dim1=-2, dim2=-1)


def _first(fn: Any, names: str | tuple[str, ...]) -> Tensor | None:
    """The first attribute of a distribution that it has."""
    fn = _unexpanded(fn)
    names = (names,) if isinstance(names, str) else names
    return next((getattr(fn, name) for name in names if hasattr(fn, name)), None)
