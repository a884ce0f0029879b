"""Labels: what a table calls each number of a fit, and in which order it shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd
import torch
from torch import Tensor

from neglog.fitting.fit import Fit, check_fit
from neglog.isolation import isolated
from neglog.layers import layers
from neglog.objective.objective import Objective
from neglog.objective.ranges import range_of
from neglog.objective.sites import Site

CHOLESKY = "_cholesky"
"""A site of this ending is the factor of a correlation matrix; tables show the correlations."""


@isolated
def estimates(fit: Fit) -> pd.Series:
    """The estimates as a table shows them: a number for each (parameter, term), intercepts first."""
    check_fit(fit)
    rows = [
        pair
        for site, labels in site_labels(fit).items()
        for pair in zip(labels, shown(site, fit.params[site]).tolist(), strict=True)
    ]
    index = pd.MultiIndex.from_tuples([label for label, _ in rows], names=["parameter", "term"])
    found = pd.Series([value for _, value in rows], index=index, name="estimate", dtype=float)
    return found[display_order(found.to_frame())]


@isolated
def tabulated(fit: Fit, params: Mapping[str, Tensor]) -> pd.DataFrame:
    """Many values `(S, *shape)` of the parameters: a frame with a column for each row of `summary`."""
    names: list[tuple[str, str]] = []
    columns: list[Tensor] = []
    for site, labels in site_labels(fit).items():
        value = params[site]
        flat = torch.stack([shown(site, one) for one in value]) if site.endswith(CHOLESKY) else value
        names += labels
        columns.append(flat.reshape(len(value), len(labels)))
    order = sorted(range(len(names)), key=_displayed(names))
    index = _index([names[place] for place in order])
    return pd.DataFrame(torch.cat(columns, 1)[:, order].numpy(), columns=index, copy=False)


def _index(labels: list[tuple[str, str]]) -> pd.MultiIndex:
    """``MultiIndex.from_tuples``, which takes seven times as long."""
    parts = list(zip(*labels, strict=True))
    levels = [sorted(set(part)) for part in parts]
    codes = [[level.index(name) for name in part] for level, part in zip(levels, parts, strict=True)]
    return pd.MultiIndex(levels, codes, names=["parameter", "term"], verify_integrity=False)


def display_order(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Each predictor's intercept before its slopes."""
    labels = list(table.index)
    return [labels[place] for place in sorted(range(len(labels)), key=_displayed(labels))]


def _displayed(labels: list[tuple[str, str]]) -> Callable[[int], tuple[int, bool]]:
    """What the places of labels are sorted by for a table."""
    parameters = list(dict.fromkeys(parameter for parameter, _ in labels))
    return lambda place: (parameters.index(labels[place][0]), labels[place][1] != "Intercept")


def site_labels(fit: Fit) -> dict[str, list[tuple[str, str]]]:
    """Site -> the (parameter, term) of each number that a table shows of it."""
    labels = {}
    predictors = None if fit.objective is None else {call.name for call in fit.objective.calls}
    features = any(hasattr(layer, "module") for layer in layers(fit.model))  # columns that a network makes
    for site, value in fit.params.items():
        parameter, _, part = site.rpartition(".")
        names, outputs = None if features else fit.terms(parameter), fit.outputs.get(parameter, (parameter,))
        many = (len(outputs),) if parameter in fit.outputs else ()
        named = value.dim() == 1 and len(value) == len(fit.responses)
        linear = bool(parameter) and (predictors is None or parameter in predictors)
        if linear and part == "bias" and tuple(value.shape) == many:
            labels[site] = [(output, "Intercept") for output in outputs]
        elif linear and part == "weight" and names is not None and tuple(value.shape) == (*many, len(names)):
            labels[site] = [(output, name) for output in outputs for name in names]
        elif value.dim() == 0:
            labels[site] = [(site, "")]
        elif named:
            labels[site] = [(site, response) for response in fit.responses]
        elif site.endswith(CHOLESKY):
            components = fit.responses or tuple(map(str, range(len(value))))
            pairs = zip(*_below(value), strict=True)
            labels[site] = [
                (site.removesuffix(CHOLESKY), f"{components[i]},{components[j]}") for i, j in pairs
            ]
        else:
            places = torch.cartesian_prod(*map(torch.arange, value.shape)).reshape(value.numel(), -1)
            labels[site] = [(site, ",".join(map(str, place))) for place in places.tolist()]
    return labels


def _below(matrix: Tensor) -> tuple[list[int], list[int]]:
    """The rows and columns of the entries below the diagonal."""
    rows, columns = torch.tril_indices(len(matrix), len(matrix), offset=-1).tolist()
    return rows, columns


def shown(site: str, value: Tensor) -> Tensor:
    """What a table shows of a site: its values, or of the factor of a matrix what the matrix holds."""
    return (value @ value.mT)[_below(value)] if site.endswith(CHOLESKY) else value.reshape(-1)


def labels_of(fit: Fit, objective: Objective) -> pd.MultiIndex:
    """The (parameter, term) of each number, in the order of the sites."""
    labels = site_labels(fit)
    return pd.MultiIndex.from_tuples(
        [label for site in objective.sites for label in labels[site]], names=["parameter", "term"]
    )


def flat_range(objective: Objective) -> tuple[Tensor, Tensor]:
    """The ends, `(M,)` each, between which each of `flat_values` lies."""
    pairs = [shown_range(site) for site in objective.sites.values()]
    low, high = (torch.cat(part) for part in zip(*pairs, strict=True))
    return low, high


def shown_range(site: Site) -> tuple[Tensor, Tensor]:
    """The ends of each number that a table shows of a site: a correlation lies between -1 and 1."""
    low, high = range_of(site)
    if site.name.endswith(CHOLESKY):
        count = len(_below(low)[0])
        return low.new_full((count,), -1.0), low.new_full((count,), 1.0)
    return low.reshape(-1), high.reshape(-1)


def flat_values(objective: Objective, theta: Tensor) -> Tensor:
    """What tables show, `(M,)`, in the order of the sites."""
    return torch.cat([shown(name, value) for name, value in objective.params(theta).items()])


@torch.enable_grad()
def jacobian(objective: Objective, theta: Tensor) -> Tensor:
    """The derivatives `(M, K)` of `flat_values` in theta."""
    return torch.autograd.functional.jacobian(lambda t: flat_values(objective, t), theta)
