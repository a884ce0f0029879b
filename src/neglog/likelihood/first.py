"""The first run of a model: its sites, its predictors and its initial values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from neglog.data import Data
from neglog.distributions.observed import corner
from neglog.distributions.parameters import parameters
from neglog.handlers import Model, Weighted
from neglog.likelihood.eager import PROBE_OFFSET, Probe, joined_outputs, outputs_of, probe_predictors
from neglog.predictors import RESPONSE
from neglog.tracing import Affine, Run, initial_value, prototype


@dataclass(frozen=True)
class FirstRun:
    """The first run of a model, at its initial values or near them.

    Attributes:
        ran: the run.
        calls: its linear predictors at the initial values.
        initial: latent site -> its initial value.
        probe: the run as a function of predictors and constants, if it was one near the initial values.
    """

    ran: Run
    calls: tuple[Affine, ...]
    initial: Mapping[str, Tensor]
    probe: Probe | None = None


def first_run(model: Model, data: Data, given: Mapping[str, Any] | None, near: bool) -> FirstRun:
    """The first run of a model, some of whose initial values are `given`; near these, if it may be.

    A run near the initial values shows the sites of a model of linear predictors and constants, and how
    the density of its rows depends on them. Any other model is run at its initial values, and one whose
    density has a corner is run at both.

    Raises:
        NeglogError: see `neglog.tracing.prototype`.
    """
    start = partial(initial_value, data=data, given=given)
    found = _near(model, data, start) if near else None
    if found is not None and corner(found.ran.sites[RESPONSE]["fn"]) is None:
        return found
    first = Run(fill=start)
    with torch.no_grad():
        prototype(model, data, first)
    initial = {name: msg["value"] for name, msg in first.sites.items()}
    return FirstRun(first, tuple(first.affines), initial, None if found is None else found.probe)


class _NotPlainError(Exception):
    """A model is more than linear predictors, with coefficients of their own, and constants."""


class _Near(Run):
    """Run a model near its initial values, as a function of its predictors and constants.

    Attributes:
        initial: latent site -> its initial value.
        numbers: latent site -> its unconstrained value, a leaf of autograd.
        etas: the values `(N,)` of the predictors, leaves of autograd.
        calls: the linear predictors at the initial values.

    Raises:
        _NotPlainError: a prior depends on another parameter, a coefficient is not the value of its own site,
            or there is a network.
    """

    def __init__(self, data: Data, start: Callable[[dict[str, Any]], Tensor]) -> None:
        super().__init__(fill=self._moved)
        self.data, self.start = data, start
        self.initial: dict[str, Tensor] = {}
        self.numbers: dict[str, Tensor] = {}
        self.leaves: list[Tensor] = []
        self.calls: list[Affine] = []

    def _moved(self, msg: dict[str, Any]) -> Tensor:
        """The value of a site near its initial value."""
        name, transform = msg["name"], biject_to(msg["fn"].support)
        if "start" in msg["infer"] or (self.numbers and _depends(msg["fn"])):
            raise _NotPlainError
        with torch.no_grad():
            self.initial[name] = self.start(msg)
            number = transform.inv(self.initial[name].to(self.data.y.dtype)) + PROBE_OFFSET
        self.numbers[name] = number.requires_grad_()
        moved: Tensor = transform(number)
        return moved

    def predicted(self, call: Affine) -> Tensor:
        """Values of a predictor near those without its columns, different in all rows."""
        if call.design.requires_grad or any(call.name == each.name for each in self.calls):
            raise _NotPlainError
        weight, bias = self._initially(call, "weight"), self._initially(call, "bias")
        first = replace(call, weight=weight, bias=bias)
        etas = [eta.requires_grad_() for eta in probe_predictors([first], self.data)]
        self.calls.append(first)
        self.leaves += etas
        self.etas.update(joined_outputs(outputs_of([first]), etas))
        return self.etas[call.name]

    def _initially(self, call: Affine, part: str) -> Tensor:
        """Initial coefficients: those of a site of their own, or constants."""
        value: Tensor = getattr(call, part)
        name = f"{call.name}.{part}"
        if name not in self.initial and not value.requires_grad:
            return value
        if name not in self.initial or value is not self.sites[name]["value"]:
            raise _NotPlainError
        return self.initial[name]

    def _pyro_network(self, msg: dict[str, Any]) -> None:
        raise _NotPlainError


def _depends(prior: Any) -> bool:
    """Whether a prior depends on another parameter."""
    return any(each.requires_grad for each in parameters(prior))


def _near(model: Model, data: Data, start: Callable[[dict[str, Any]], Tensor]) -> FirstRun | None:
    """The run near the initial values; None of a model that is not plain, or has no finite density there."""
    ran = _Near(data, start)
    try:
        with torch.enable_grad():
            prototype(model if data.weights is None else Weighted(data.weights)(model), data, ran)
        probe = Probe(data, ran.numbers, ran.leaves, ran, is_plain=True)
        if not ran.calls or ran.params or not bool(torch.isfinite(probe.densities).all()):
            return None
    except Exception:  # the run at the initial values raises an error with its reason
        return None
    return FirstRun(ran, tuple(ran.calls), ran.initial, probe)
