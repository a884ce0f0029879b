"""Fisher's information: the expected information of an observation of each family in its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.derived import rule
from neglog.distributions.family import Entries, family_of, parameters_of, tailed
from neglog.errors import ModelError
from neglog.objective.coordinates import Coordinates
from neglog.predictors import RESPONSE
from neglog.uncertainty.information import cut_run, in_blocks, slopes_of, summed_products


def expected_information(coordinates: Coordinates, z: Tensor) -> Tensor:
    """The expected information `(K, K)` of the rows in z under the model.

    The sum of Jᵀ I J over the rows: I is the information of a family in its own parameters, J their Jacobian.

    Raises:
        ModelError: the information of the family of `y` is not known.
    """
    total = z.new_zeros(coordinates.size, coordinates.size)
    for _, part in in_blocks(coordinates):
        total += _of_rows(part, z)
    return total


def _of_rows(coordinates: Coordinates, z: Tensor) -> Tensor:
    """The expected information `(K, K)` of a block of rows."""
    ran, theta, etas = cut_run(coordinates, z)
    values, entries = _parameters(ran.sites[RESPONSE], coordinates.objective.name)
    slopes = [slopes_of(value, theta, etas) for value in values]
    weights = coordinates.objective.data.weights
    total = z.new_zeros(coordinates.size, coordinates.size)
    for (a, b), entry in entries.items():
        each = entry if weights is None else entry * weights
        part = summed_products(coordinates, slopes[a], slopes[b], each.expand(coordinates.rows))
        total += part if a == b else part + part.T
    return total


def _parameters(msg: Mapping[str, Any], model: str) -> tuple[list[Tensor], Entries]:
    """Values `(N,)` that each row's density depends on, and the entries of the information in them.

    They are the parameters of a family whose information is known, or else the log-densities at the nodes of
    a rule for expectations: the information is the expected product of their derivatives, the scores.
    """
    fn = msg["fn"]
    try:
        if msg["mask"] not in (None, False, True) or len(fn.batch_shape) != 1:
            raise ModelError("some of its rows are masked, or it has no row of its own for each observation.")
        known = known_information(fn)
        return _at_nodes(fn) if known is None else known
    except ModelError as error:
        raise ModelError(
            f"the expected information of `{model}`, whose y is drawn from `{type(fn).__name__}`, is not "
            f"known: {error} Use cov_type='observed' or 'sandwich'."
        ) from error


def known_information(fn: Any) -> tuple[list[Tensor], Entries] | None:
    """The parameters `(N,)` of a family, and the entries of the information in them; None if unknown."""
    information = family_of(fn).information
    if information is None:
        return None
    own = tailed(fn)
    values = [value.to(torch.float64).expand(own.batch_shape) for value in parameters_of(own)]
    with torch.no_grad():
        return values, information(own, *(value.detach() for value in values))


def _at_nodes(fn: Any) -> tuple[list[Tensor], Entries]:
    """The log-densities `(N,)` at the nodes of a rule, and the probabilities of the nodes."""
    nodes, probabilities = rule(fn)
    values = [fn.log_prob(node) for node in nodes]
    return values, {(k, k): probability for k, probability in enumerate(probabilities)}
