"""Fits and what is made of them for pickle: the document that `save` writes, read and checked as by `load`.

A model of neglog is named in the document. Any other model is pickled beside it: a function by reference to
its module, as pickle does. Reading a pickle can run code; `neglog.load` never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from math import nan
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from neglog.bayes.sampling import Posterior
from neglog.errors import DataError, ModelError
from neglog.export import documents
from neglog.export.described import as_given, described, is_complete
from neglog.export.given import LoadArguments
from neglog.export.restored import restored
from neglog.export.saved import Saved, document_of, formula_of
from neglog.fitting.fit import Fit
from neglog.handlers import Model
from neglog.isolation import isolated
from neglog.modes import Mode
from neglog.networks.laplace import LaplaceApproximation
from neglog.networks.network import Head, Network, module_of
from neglog.networks.structures import Diagonal, Evidence, Kronecker, Rooted
from neglog.objective.training import buffers
from neglog.persistence import Reduced, check_model_pickles


@singledispatch
def reduced(value: Any) -> Reduced:
    """A function and its arguments that give a fit or a posterior again, without its rows.

    Raises:
        ModelError: it cannot be written.
    """
    raise TypeError(f"a {type(value).__name__} has no document.")


@reduced.register
@isolated
def _of_fit(value: Fit) -> Reduced:
    try:
        model = described(value.model)
    except ModelError:
        model = as_given(value.model)
    content = document_of(value, formula_of(value), model, LoadArguments(value.model))
    if is_complete(model):
        return from_document, (content,)
    check_model_pickles(value.model)
    return from_document, (content, value.model)


@reduced.register
@isolated
def _of_posterior(value: Posterior) -> Reduced:
    own = {name: getattr(value, name) for name in OF_DRAWS}
    plain = {name: dict(each) if isinstance(each, Mapping) else each for name, each in own.items()}
    return posterior_from, (_first(value), plain)


OF_DRAWS = ("draws", "method", "space", "converged", "status", "stats", "r_hat", "ess", "pareto_k")
"""The attributes of a posterior that are not those of a fit of its model."""


def _first(value: Posterior) -> Fit:
    """A fit of the model of a posterior, at its first draw, for the names of columns and what it learned."""
    if value.restored is not None:
        return value.restored
    objective = value.objective_for("`pickle`")
    data = objective.data
    return Fit(
        model=value.model,
        params=MappingProxyType({name: draws[0, 0] for name, draws in value.draws.items()}),
        nll=nan,
        loss=nan,
        converged=False,
        status="the first draw of a posterior",
        n_iter=0,
        n=data.count,
        k=objective.size,
        keywords=tuple(data.keywords),
        columns=data.columns,
        outputs={c.name: c.output_names(data) for c in objective.calls if c.outputs is not None},
        responses=data.responses,
        buffers=MappingProxyType(buffers(objective) if objective.networks else {}),
        blueprint=value.blueprint,
    )


@isolated
def posterior_from(first: Fit, own: Mapping[str, Any]) -> Posterior:
    """The posterior of its own attributes and a fit of its model.

    Raises:
        DataError: the draws are not those of the parameters of the fit.
    """
    draws = own["draws"]
    if set(draws) != set(first.params) or not all(_are_draws(draws[n], v) for n, v in first.params.items()):
        raise DataError("the draws of the posterior do not have the shapes of its parameters: it is damaged.")
    read_only: dict[str, Any] = {
        name: MappingProxyType(v) if isinstance(v, dict) else v for name, v in own.items()
    }
    return Posterior(
        model=first.model, objective=None, blueprint=first.blueprint, restored=first, **read_only
    )


def _are_draws(draws: Tensor, first: Tensor) -> bool:
    """Whether a tensor `(chains, draws, *shape)` begins with the first draw `(*shape)`."""
    return draws.dim() == first.dim() + 2 and torch.equal(draws[0, 0], first)


@reduced.register
@isolated
def _of_approximation(value: LaplaceApproximation) -> Reduced:
    network = value.network
    own = {name: getattr(value, name) for name in ("structure", "prior_precision", "log_evidence")}
    state = {
        "constants": network.mode.constants,
        "values": dict(network.values),
        "predicted": [vars(head) for head in network.predicted],
        "parts": [(type(part).__name__, vars(part)) for part in value.parts],
        "evidence": None if value.evidence is None else vars(value.evidence),
    }
    return approximation_from, (value.fit, own, state)


PARTS = {kind.__name__: kind for kind in (Rooted, Diagonal, Kronecker)}
"""The structures of the covariance of some weights."""


@isolated
def approximation_from(fit: Fit, own: Mapping[str, Any], state: Mapping[str, Any]) -> LaplaceApproximation:
    """The approximation of its own attributes, a fit, and the state of its network and covariances.

    Raises:
        DataError: the weights are not those of the fit.
    """
    values, module = state["values"], module_of(fit.model)
    if module is None or any(not torch.equal(values[name], each) for name, each in fit.params.items()):
        raise DataError("the weights of the approximation are not those of its fit: it is damaged.")
    network = Network(
        module, Mode(False, state["constants"]), values, tuple(Head(**each) for each in state["predicted"])
    )
    parts = tuple(PARTS[kind](**each) for kind, each in state["parts"])
    known = state.get("evidence")
    evidence = None if known is None else Evidence(**known)
    return LaplaceApproximation(fit, **own, network=network, parts=parts, evidence=evidence)


@isolated
def from_document(content: bytes, model: Model | None = None) -> Saved:
    """The fit of a document, of a `model` that is not in it.

    Raises:
        DataError: the document is damaged.
    """
    return Saved(**restored(documents.verified(documents.parsed(content)), LoadArguments(model)))
