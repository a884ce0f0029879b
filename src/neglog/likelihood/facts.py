"""Facts: the kind of a model, in words by which checks and solvers that cannot apply to it are left out."""

from __future__ import annotations

from collections.abc import Mapping

from neglog.handlers import Model
from neglog.layers import layers
from neglog.likelihood.structure import ModelStructure

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
