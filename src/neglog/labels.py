"""Labels: the name of each number of a fit in tables, and the order of these numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise

import pandas as pd
import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.fitting.fit import Fit, check_fit
from neglog.isolation import isolated
from neglog.layers import layers
from neglog.likelihood.sites import Layout, Site
from neglog.objective.ranges import range_of

CHOLESKY = "_cholesky"
"""The ending that tables leave out of the name of a factor of a correlation matrix."""

CUTS = "cutpoints"
"""The site of the points between ordered classes."""

Label = tuple[str, str]
"""The parameter and the term that a table shows a number under."""


@isolated
def estimates(fit: Fit) -> pd.Series:
    """The estimates as a table shows them: a number for each (parameter, term), intercepts first."""
    check_fit(fit)
    factors, names = _correlation_factors(fit), site_labels(fit)
    values = torch.cat([shown(fit.params[site], site in factors).double() for site in names])
    order, index = _displayed([label for labels in names.values() for label in labels])
    return pd.Series(values[order].numpy(), index=index, name="estimate")


@isolated
def tabulated(fit: Fit, params: Mapping[str, Tensor]) -> pd.DataFrame:
    """Many values `(S, *shape)` of the parameters: a frame with a column for each row of `summary`."""
    names: list[Label] = []
    columns: list[Tensor] = []
    factors = _correlation_factors(fit)
    for site, labels in site_labels(fit).items():
        value = params[site]
        flat = torch.stack([shown(one, True) for one in value]) if site in factors else value
        names += labels
        columns.append(flat.reshape(len(value), len(labels)))
    order, index = _displayed(names)
    return pd.DataFrame(torch.cat(columns, 1)[:, order].numpy(), columns=index, copy=False)


def _displayed(labels: list[Label]) -> tuple[list[int], pd.MultiIndex]:
    """The places of labels in the order of a table, and the index of this table."""
    order = sorted(range(len(labels)), key=_display_key(labels))
    return order, _index([labels[place] for place in order])


def _index(labels: list[Label]) -> pd.MultiIndex:
    """``MultiIndex.from_tuples``, which takes seven times as long."""
    parts = list(zip(*labels, strict=True)) or [(), ()]
    levels = [sorted(set(part)) for part in parts]
    codes = []
    for level, part in zip(levels, parts, strict=True):
        place = {name: i for i, name in enumerate(level)}
        codes.append([place[name] for name in part])
    return pd.MultiIndex(levels, codes, names=["parameter", "term"], verify_integrity=False)


def display_order(table: pd.DataFrame) -> list[Label]:
    """Each predictor's intercept before its slopes."""
    labels = list(table.index)
    return [labels[place] for place in sorted(range(len(labels)), key=_display_key(labels))]


def _display_key(labels: list[Label]) -> Callable[[int], tuple[int, bool]]:
    """The sort key of positions in a list of labels: by parameter, intercepts first."""
    parameters = list(dict.fromkeys(parameter for parameter, _ in labels))
    return lambda place: (parameters.index(labels[place][0]), labels[place][1] != "Intercept")


def site_labels(fit: Fit) -> dict[str, list[Label]]:
    """Site -> the (parameter, term) of each number that a table shows of it."""
    predictors = _predictors(fit)
    labels, factors = {}, _correlation_factors(fit)
    for site, value in fit.params.items():
        parameter, _, part = site.rpartition(".")
        linear = bool(parameter) and (predictors is None or parameter in predictors)
        found = _coefficient_labels(fit, parameter, part, value) if linear else None
        if found is None and site in factors:
            found = _correlation_labels(site, value, fit.responses)
        labels[site] = _entry_labels(site, value, fit) if found is None else found
    return labels


def _predictors(fit: Fit) -> Collection[str] | None:
    """The names of the linear predictors; None where they are not known."""
    if fit.objective is not None:
        return {call.name for call in fit.objective.calls}
    return None if fit.retained is None else fit.retained.predictors


def _correlation_factors(fit: Fit) -> set[str]:
    """The sites that are Cholesky factors of correlation matrices, whose correlations tables show.

    Without supports, those whose estimate is one.
    """
    if fit.objective is not None:
        return {name for name, site in fit.objective.sites.items() if site.is_correlation}
    matrices = {name: value for name, value in fit.params.items() if value.dim() == 2}
    return {
        name
        for name, value in matrices.items()
        if value.shape[0] == value.shape[1] and bool(constraints.corr_cholesky.check(value))
    }


def _coefficient_labels(fit: Fit, predictor: str, part: str, value: Tensor) -> list[Label] | None:
    """The labels of the bias or the weight of a linear predictor; None for any other site."""
    if part not in ("bias", "weight"):
        return None
    outputs = fit.outputs.get(predictor)
    terms = ("Intercept",) if part == "bias" else _column_names(fit, predictor)
    if terms is None:
        return None
    shape = () if outputs is None else (len(outputs),)
    shape = shape if part == "bias" else (*shape, len(terms))
    if tuple(value.shape) != shape:
        return None
    return [(output, term) for output in outputs or (predictor,) for term in terms]


def _column_names(fit: Fit, predictor: str) -> tuple[str, ...] | None:
    """The names of the columns of a predictor's design; None for features, which a network computes."""
    on_features = any(hasattr(layer, "module") for layer in layers(fit.model))
    return None if on_features else fit.terms(predictor)


def _entry_labels(site: str, value: Tensor, fit: Fit) -> list[Label]:
    """The labels of the entries of a site that is no coefficient of a linear predictor.

    Points between classes have the labels of both, as in R's `polr`.
    """
    if value.dim() == 0:
        return [(site, "")]
    if value.dim() == 1 and len(value) == len(fit.responses):
        return [(site, response) for response in fit.responses]
    if site == CUTS and len(fit.classes) == len(value) + 1:
        return [(site, f"{lower}|{upper}") for lower, upper in pairwise(fit.classes)]
    indices = torch.cartesian_prod(*map(torch.arange, value.shape)).reshape(value.numel(), -1)
    return [(site, ",".join(map(str, index))) for index in indices.tolist()]


def _correlation_labels(site: str, factor: Tensor, responses: Sequence[str]) -> list[Label]:
    """The labels of the correlations, whose matrix has a Cholesky factor at the site."""
    components = responses or tuple(map(str, range(len(factor))))
    pairs = zip(*_below(factor), strict=True)
    return [(site.removesuffix(CHOLESKY), f"{components[i]},{components[j]}") for i, j in pairs]


def _below(matrix: Tensor) -> tuple[list[int], list[int]]:
    """The rows and columns of the entries below the diagonal."""
    rows, columns = torch.tril_indices(len(matrix), len(matrix), offset=-1).tolist()
    return rows, columns


def shown(value: Tensor, is_correlation: bool) -> Tensor:
    """The numbers of a site that tables show: its values, or the correlations of a Cholesky factor."""
    return (value @ value.mT)[_below(value)] if is_correlation else value.reshape(-1)


def labels_of(fit: Fit, layout: Layout) -> pd.MultiIndex:
    """The (parameter, term) of each number, in the order of the sites."""
    labels = site_labels(fit)
    return _index([label for site in layout.sites for label in labels[site]])


def flat_range(layout: Layout) -> tuple[Tensor, Tensor]:
    """The ends, `(M,)` each, between which each of `flat_values` lies."""
    pairs = [shown_range(site) for site in layout.sites.values()]
    low, high = (torch.cat(part) for part in zip(*pairs, strict=True))
    return low, high


def shown_range(site: Site) -> tuple[Tensor, Tensor]:
    """The ends of each number that a table shows of a site: a correlation lies between -1 and 1."""
    low, high = range_of(site)
    if site.is_correlation:
        count = len(_below(low)[0])
        return low.new_full((count,), -1.0), low.new_full((count,), 1.0)
    return low.reshape(-1), high.reshape(-1)


def flat_values(layout: Layout, theta: Tensor) -> Tensor:
    """The numbers that tables show, `(M,)`, in the order of the sites."""
    params = layout.params(theta)
    return torch.cat([shown(params[name], site.is_correlation) for name, site in layout.sites.items()])


@torch.enable_grad()
def jacobian(layout: Layout, theta: Tensor) -> Tensor:
    """The derivatives `(M, K)` of `flat_values` in theta."""
    return torch.autograd.functional.jacobian(lambda t: flat_values(layout, t), theta)
