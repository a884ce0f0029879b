"""Signatures: the keywords that a function or a model takes, and an error for all others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from neglog.data import Roles
from neglog.errors import ModelError
from neglog.handlers import Model
from neglog.layers import is_network, layers
from neglog.synonyms import nearest_argument
from neglog.tracing import model_name

OF_SOLVERS = (
    "Steps, batches and learning rates are settings of a solver: "
    "solver=neglog.solvers.Adam(steps=..., batch_size=..., learning_rate=...)."
)
BY_POSITION = ("model", "fit", "posterior", "x", "y")
"""Parameters of an estimator that are the model, the fit and the data, no settings."""
ON_THE_CPU = (
    "Fits run on the CPU, in float64, but for gradient steps on another device, "
    "solver=neglog.solvers.Adam(device='cuda', dtype=torch.float32). Leave it out."
)
REMEDIES = {
    "level": "Intervals of a level are those of neglog.interval(fit, x, level=...).",
    "quantile": "Quantiles are those of neglog.quantile(fit, x, q).",
    "alpha": "A penalty is a prior of the model: map_estimate(neglog.with_priors(model, ...), x, y).",
    "penalty": "A penalty is a prior of the model: map_estimate(neglog.with_priors(model, ...), x, y).",
    "fit_intercept": "Models have an intercept; a formula without is 'y ~ 0 + x'.",
    "weights": "Weights belong to a fit. Pass a row that counts for several as often, as by "
    "numpy.repeat(rows, weights, axis=0).",
    "device": ON_THE_CPU,
    "dtype": ON_THE_CPU,
    **dict.fromkeys(("epochs", "lr", "learning_rate", "batch_size", "steps", "max_iter"), OF_SOLVERS),
}
"""Keywords of other libraries -> the corresponding call of neglog."""


def roles_of(model: Model, keywords: Mapping[str, Any], caller: Callable[..., Any]) -> Roles:
    """The role of each row-wise keyword of a model: a bound, or a value of a support.

    Raises:
        ModelError: neither the model nor the `caller` takes a keyword of this name.
    """
    every = list(layers(model))
    bounds = frozenset().union(*(getattr(layer, "row_bounds", ()) for layer in every))
    supports: dict[str, Any] = {}
    for layer in reversed(every):
        supports |= getattr(layer, "row_supports", {})
    if keywords:
        known = model_keywords(model)
        if known is not None:
            own = frozenset().union(*(getattr(layer, "row_keywords", ()) for layer in every))
            check_keywords(caller, keywords, known | bounds | own, f"`{model_name(model)}`")
    bound = [name for layer in every if isinstance(layer, partial) for name in layer.keywords]
    if bound:
        check_bound_keywords(every[-1], bound, bounds)
    return Roles(bounds, supports, is_network(model))


def row_keywords(model: Model) -> dict[str, Any]:
    """The keywords of the rows that a model takes itself, such as ``exposure``, each with the value None."""
    return {name: None for layer in layers(model) for name in getattr(layer, "row_supports", {})}


def check_bound_keywords(inner: Any, bound: Sequence[str], bounds: Collection[str]) -> None:
    """Refuse keywords `bound` by `functools.partial` to a function which does not take them.

    Raises:
        ModelError: one is unknown; the nearest known name is proposed.
    """
    known = model_keywords(inner)
    if known is None:
        return
    unknown = [name for name in bound if name not in {*known, *bounds}]
    if unknown:
        name, proposal = model_name(inner), _proposal(unknown[0], sorted(known), "Leave it out.")
        raise ModelError(f"`{name}` takes no `{unknown[0]}`, which functools.partial has bound. {proposal}")


def _proposal(unknown: str, known: Sequence[str], otherwise: str) -> str:
    """The remedy for an unknown keyword: the nearest known one, if any is similar."""
    return nearest_argument(unknown, known).lstrip() or otherwise


def model_keywords(model: Model) -> frozenset[str] | None:
    """The names that a model takes besides `x` and `y`; None if it takes any, or its signature is unknown."""
    *_, inner = layers(model)
    function = inner if inspect.isroutine(inner) else type(inner).__call__.__get__(inner)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return None
    return frozenset(each.name for each in parameters[2:] if each.kind is not each.VAR_POSITIONAL)


def check_keywords(
    caller: Callable[..., Any], keywords: Iterable[str], rows: Collection[str], owner: str
) -> None:
    """Refuse keywords that are neither settings of the caller nor among those of the `rows`.

    Raises:
        ModelError: one is unknown; the nearest known name is proposed.
    """
    unknown = [name for name in keywords if name not in rows]
    if not unknown:
        return
    settings = [
        name
        for name, each in inspect.signature(caller).parameters.items()
        if name not in BY_POSITION and each.kind is not each.VAR_KEYWORD
    ]
    proposal = REMEDIES.get(unknown[0]) or _proposal(unknown[0], [*settings, *sorted(rows)], "Leave it out.")
    own, of_rows = (", ".join(names) or "none" for names in (settings, sorted(rows)))
    raise ModelError(
        f"`{caller.__name__}` takes no `{unknown[0]}`, and {owner} has no row-wise argument of this "
        f"name. {proposal} Arguments of `{caller.__name__}`: {own}; row-wise arguments of {owner}: "
        f"{of_rows}."
    )
