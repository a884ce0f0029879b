"""Covariances of the estimates of a fit, by its curvature, its scores, or refits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neglog.aliases import former_argument
from neglog.arguments import choice
from neglog.conversion import as_labels, check_unmasked
from neglog.data import Data
from neglog.errors import DataError, ModelError
from neglog.fitting.fit import Fit, check_fit
from neglog.fitting.retained import CLUSTER, Retained
from neglog.isolation import isolated
from neglog.labels import jacobian, labels_of
from neglog.likelihood.rows import CURVATURES, derivatives, named
from neglog.objective.blocks import Block
from neglog.objective.coordinates import Coordinates
from neglog.predictors import RESPONSE
from neglog.uncertainty.fisher import expected_information
from neglog.uncertainty.information import (
    around,
    cut_run,
    in_blocks,
    information,
    inverse_root,
    is_network,
    optimum,
    score_products,
    scores,
)
from neglog.uncertainty.resampling import bootstrap, group_numbers
from neglog.uncertainty.sparsity import BANDWIDTHS, line_covariance

CovType = Literal[
    "observed",
    "expected",
    "opg",
    "sandwich",
    "HC0",
    "HC1",
    "HC2",
    "HC3",
    "cluster",
    "bootstrap",
    "iid",
    "kernel",
]
COV_TYPES_WITH_CORNERS = ("observed", "expected", "sandwich", "iid", "kernel", "bootstrap")
"""The kinds of covariance of a loss with corners, whose scores have no information on its curvature."""


def check_cov_type(cov_type: str) -> CovType:
    """A kind of covariance by its name.

    Raises:
        ModelError: there is none of that name.
    """
    found: CovType = choice("cov_type", cov_type, get_args(CovType))
    return found


@former_argument("kind", "cov_type")
@isolated
def covariance(
    fit: Fit,
    cov_type: CovType = "observed",
    *,
    groups: Any = None,
    bandwidth: str = "hall-sheather",
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """The covariance of the estimates, by the delta method on the parameters themselves.

    No Jacobian of a transform shifts them: the standard error of a Gaussian's sigma is sigma / √(2n). Weights
    are frequencies everywhere: 2 is the row twice. With H the Hessian of the joint NLL at the optimum and s_i
    the gradient of row i's log-likelihood, `cov_type` is

    - ``"observed"``: H⁻¹. For `map_estimate` it is the inverse curvature of the posterior at its mode:
      the covariance of a Normal approximation of the posterior, and not the sampling variance of the mode.
      A Laplace density has no curvature in its location; the expected information of the model takes its
      place, 1 / scale² per row (tau (1 - tau) / scale² for a quantile). It is valid if the noise has that
      density; otherwise use ``"kernel"``.
    - ``"expected"``: the inverse of Fisher's information, by a formula of the family or by a quadrature.
    - ``"opg"``: (Σ s sᵀ)⁻¹, the outer product of the gradients.
    - ``"sandwich"`` or ``"HC0"``: H⁻¹ (Σ s sᵀ) H⁻¹, valid under a misspecified density; for `laplace` and
      `quantile` it is ``"kernel"``. ``"HC1"`` is n / (n - p) times it, p the number of linear coefficients.
      ``"HC2"`` divides s sᵀ by 1 - h and ``"HC3"`` by (1 - h)², where h is the row's leverage: the diagonal
      of the hat matrix of the one linear predictor, weighted by the curvature of the loss in it.
    - ``"cluster"``: sums of scores within `groups` replace s, times G / (G - 1) · (n - 1) / (n - p)
      for G groups. Several groupings are combined by inclusion and exclusion (Cameron, Gelbach & Miller),
      each combination of groups with its own factor.
    - ``"bootstrap"``: the covariance of `draws` refits to resampled rows, or groups; see `neglog.bootstrap`.
    - ``"iid"``, for `laplace` and `quantile`: tau (1 - tau) / f² (XᵀX)⁻¹ with one density f of the noise at
      the line, by Siddiqui's difference of quantiles within the `bandwidth`.
    - ``"kernel"``, for the same: Powell's sandwich, with the density of each row's noise by a normal kernel.

    Of a network (`on_features`) it is the covariance of its heads and constants, such as ``sigma``, given its
    features: the other weights and their uncertainty are left out. For these see
    `neglog.laplace_approximation`.

    Args:
        fit: a fit of `mle`; of `map_estimate` for ``"observed"``. Of a network it need not have converged, if
            its heads are at their optimum given the features.
        groups: for ``"cluster"`` (or ``"bootstrap"``), the group of each row, `(N,)`, by default those of the
            fit; for ``"cluster"`` also a data frame or a list of several groupings.
        bandwidth: ``"hall-sheather"`` or ``"bofinger"``, for ``"iid"`` and ``"kernel"``.
        draws, seed: for ``"bootstrap"``.

    Returns:
        A data frame `(K, K)` with rows and columns indexed by (parameter, term). Its ``attrs["cov_type"]``
        (``attrs["kind"]`` in this release too) is what was computed, such as ``"expected"`` for a loss
        without curvature, and for a network ``"observed, given the features"``.

    Raises:
        ModelError: an unknown `cov_type`, or one that is not defined for this model; the fit did not
            converge; its information is singular or indefinite; its prior has corners (lasso); more than 200
            parameters; a negative variance.
        DataError: the fit was read from disk, without its data; `groups` do not match the rows.

    Sources: Huber (1967); White (1980); MacKinnon & White (1985) for HC1 to HC3; Cameron, Gelbach & Miller
    (2011), Robust inference with multiway clustering; Koenker (2005), Quantile Regression, section 3.4;
    Powell (1991), Estimation of monotonic regression models under quantile restrictions.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.empty((4, 0), dtype=torch.float64)
    >>> fit = mle(models.gaussian, x, torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64))
    >>> float(covariance(fit).iloc[0, 0]) - fit.params["sigma"].item() ** 2 / 4 < 1e-12
    True
    """
    groups = _requested_groups(fit, cov_type, groups)
    choice("bandwidth", bandwidth, BANDWIDTHS)
    retained = check_fit(fit).retained
    if retained is not None:
        _check_own_groups(retained, cov_type, groups)
        return _of_retained(fit, retained, cov_type, bandwidth)
    if cov_type == "bootstrap":
        if is_network(fit):
            raise ModelError(
                "each refit of a network has other features, so cov_type='bootstrap' is not defined for it."
            )
        table = bootstrap(fit, draws, groups=groups, seed=seed).covariance()
        index = labels_of(fit, optimum(fit)[0].objective.layout)
        return _labelled(table.loc[index, index].to_numpy(), index, cov_type)
    coordinates, z = around(fit)
    matrix, used = natural_covariance(coordinates, z, cov_type, groups, bandwidth)
    used = f"{used}, given the features" if is_network(fit) else used
    return _labelled(matrix.numpy(), labels_of(fit, coordinates.objective.layout), used)


def natural_covariance(
    coordinates: Coordinates, z: Tensor, cov_type: str, groups: Any = None, bandwidth: str = "hall-sheather"
) -> tuple[Tensor, str]:
    """The covariance `(M, M)` of the rows of tables, by a kind of `covariance`, and the computed kind."""
    matrix, used = unconstrained_covariance(coordinates, z, cov_type, groups, bandwidth)
    slopes = jacobian(coordinates.objective.layout, coordinates.theta(z))
    return slopes @ matrix @ slopes.T, used


def theta_covariance(fit: Fit, cov_type: CovType = "observed", groups: Any = None) -> Tensor:
    """The covariance `(K, K)` of the estimates in unconstrained coordinates.

    Raises:
        ModelError, DataError: as `covariance`.
    """
    groups = _requested_groups(fit, cov_type, groups)
    retained = check_fit(fit).retained
    if retained is not None:
        _check_own_groups(retained, cov_type, groups)
        return _theta_of_retained(fit, retained, cov_type)
    coordinates, z = optimum(fit)
    if cov_type != "bootstrap":
        return unconstrained_covariance(coordinates, z, cov_type, groups)[0]
    slopes = jacobian(coordinates.objective.layout, coordinates.theta(z))
    back = torch.linalg.pinv(slopes)
    return back @ torch.tensor(covariance(fit, cov_type, groups=groups).to_numpy()) @ back.T


def _of_retained(fit: Fit, retained: Retained, cov_type: str, bandwidth: str) -> pd.DataFrame:
    """The covariance that a fit has retained without its rows."""
    matrix, used = retained.covariance(cov_type, fit.n, bandwidth)
    layout = retained.layout
    slopes = jacobian(layout, layout.theta(fit.params))
    used = f"{used}, given the features" if retained.is_network else used
    return _labelled((slopes @ matrix @ slopes.T).numpy(), labels_of(fit, layout), used)


def _theta_of_retained(fit: Fit, retained: Retained, cov_type: str) -> Tensor:
    if retained.is_network:
        return retained.covariance_of_weights(cov_type)
    return retained.covariance(cov_type, fit.n, "hall-sheather")[0]


def _requested_groups(fit: Fit, cov_type: str, groups: Any) -> Any:
    """The groups that a kind of covariance needs: by default those of the fit.

    Raises:
        ModelError: there is no such kind, or `fit` is no fit.
        DataError: the kind needs groups and there are none, or it does not use those that are given.
    """
    if groups is None and isinstance(cov_type, str) and cov_type == "cluster":
        groups = check_fit(fit).groups
        if fit.retained is not None:
            return groups
        if groups is None:  # a kind that the fit has by no groups is refused as such
            check_defined(around(fit)[0], "cluster")
    _check_request(cov_type, groups)
    return groups


def _check_own_groups(retained: Retained, cov_type: str, groups: Any) -> None:
    """Raise DataError if a kind needs groups that the fit was saved without."""
    if groups is not None:
        retained.refuse(f"cov_type={cov_type!r}")
    if cov_type == CLUSTER and not {*retained.kinds, *retained.reasons} & {CLUSTER} and not retained.reason:
        raise DataError(
            "cov_type='cluster' needs groups, and the fit was saved without any. Give them to the fit that "
            "is saved: mle(model, x, y, groups=...)."
        )


def _check_request(cov_type: str, groups: Any) -> None:
    choice("cov_type", cov_type, get_args(CovType))
    if groups is not None and cov_type not in ("cluster", "bootstrap"):
        raise DataError(
            f"cov_type={cov_type!r} does not use `groups`; use cov_type='cluster', or leave `groups` out."
        )
    if groups is None and cov_type == "cluster":
        raise DataError(
            "cov_type='cluster' needs `groups`: the group of each row, one entry a row. Give them "
            "here, or to the fit: mle(model, x, y, groups=...)."
        )


def _labelled(matrix: np.ndarray, index: pd.MultiIndex, cov_type: str) -> pd.DataFrame:
    negative = [label for label, variance in zip(index, np.diag(matrix), strict=True) if not variance >= 0]
    if negative:
        raise ModelError(
            f"the variance of {negative[0]} by cov_type={cov_type!r} is negative: groupings that overlap "
            "almost "
            "wholly, or too few groups. Use a single grouping, or `bootstrap`."
        )
    found = pd.DataFrame(matrix, index=index, columns=index)
    found.attrs |= {"cov_type": cov_type, "kind": cov_type}  # "kind" is its name before, for one release
    return found


def unconstrained_covariance(
    coordinates: Coordinates, z: Tensor, cov_type: str, groups: Any = None, bandwidth: str = "hall-sheather"
) -> tuple[Tensor, str]:
    """The covariance `(K, K)` in theta by a kind of `covariance`, and the computed kind."""
    _check_cov_type(coordinates, cov_type)
    if coordinates.kinked:
        if cov_type in ("iid", "kernel", "sandwich"):
            cov_type = "kernel" if cov_type == "sandwich" else cov_type
            return line_covariance(coordinates, z, cov_type, bandwidth), cov_type
        cov_type = "expected" if cov_type == "observed" else cov_type
    if cov_type == "expected" and not coordinates.kinked:
        matrix = expected_information(coordinates, z)
    elif cov_type == "opg":
        matrix = score_products(coordinates, z)
    else:
        matrix = information(coordinates, z)
    root = inverse_root(coordinates, matrix)
    half = coordinates.directions(root)
    if cov_type in ("observed", "expected", "opg"):
        return half @ half.T, cov_type
    return half @ _middle(coordinates, z, root, cov_type, groups) @ half.T, cov_type


def check_defined(coordinates: Coordinates, cov_type: CovType) -> None:
    """Raise ModelError if a fit has no covariance of a kind by its model and the number of its rows."""
    _check_cov_type(coordinates, cov_type)
    _check_count(coordinates, cov_type)
    if cov_type in ("HC2", "HC3"):
        _single_block(coordinates)


def _check_cov_type(coordinates: Coordinates, cov_type: str) -> None:
    sites = coordinates.objective.sites.values()
    if cov_type != "observed" and not all(site.masked for site in sites):
        raise ModelError(
            f"cov_type={cov_type!r} says how maximum-likelihood estimates vary from sample to sample, and "
            "this fit has priors, towards which it is biased; cov_type='observed' is the curvature of its "
            "posterior."
        )
    if cov_type in ("iid", "kernel") and not coordinates.kinked:
        raise ModelError(
            f"cov_type={cov_type!r} is for `laplace` and `quantile`; this loss is smooth, so use 'sandwich'."
        )
    if coordinates.kinked and cov_type not in COV_TYPES_WITH_CORNERS:
        raise ModelError(
            f"cov_type={cov_type!r} is not defined for a loss with corners; it has "
            f"{', '.join(COV_TYPES_WITH_CORNERS)}. "
            "For groups use `bootstrap`."
        )


def _middle(coordinates: Coordinates, z: Tensor, root: Tensor, cov_type: str, groups: Any) -> Tensor:
    """The middle matrix of the sandwich, in the coordinates of the root of the information."""
    count, slopes = _check_count(coordinates, cov_type)
    if cov_type == "cluster":
        return _clustered(coordinates, z, root, groups, (count - 1) / (count - slopes))
    left = 1 - leverages(coordinates, z) if cov_type in ("HC2", "HC3") else None
    shares = left.square() if left is not None and cov_type == "HC3" else left
    factor = count / (count - slopes) if cov_type == "HC1" else 1.0
    return factor * root.T @ score_products(coordinates, z, shares) @ root


def _check_count(coordinates: Coordinates, cov_type: str) -> tuple[float, int]:
    """The number of observations and of coefficients.

    Raises:
        ModelError: a kind needs more observations.
    """
    count, slopes = coordinates.objective.data.count, sum(len(block.places) for block in coordinates.blocks)
    if cov_type in ("HC1", "cluster") and not count > slopes:
        raise ModelError(
            f"cov_type={cov_type!r} needs more rows than the {slopes} coefficients; there are {count:g}."
        )
    return count, slopes


def leverages(coordinates: Coordinates, z: Tensor) -> Tensor:
    """The leverage of each row `(N,)`: the diagonal of X (Xᵀ C X)⁻¹ Xᵀ C, C the curvatures in the predictor.

    A row of weight 2 has the leverage of each of its two copies.

    Raises:
        ModelError: the model has not one linear predictor with one output; a row has a leverage of 1.
    """
    block, weights = _single_block(coordinates), coordinates.objective.data.weights
    # Results are filled in place: allocated between the temporaries of blocks they would fragment the heap.
    bends, found = z.new_zeros(coordinates.rows), z.new_zeros(coordinates.rows)
    for rows, part in in_blocks(coordinates):
        bends[rows] = _curvatures(part, z)
    each = bends if weights is None else bends * weights
    values, vectors = torch.linalg.eigh(block.cross(each, block))
    curved = values > 1e-14 * values.max()  # a column without curvature has no leverage
    root = vectors * torch.where(curved, values, torch.inf).rsqrt()
    for rows, part in in_blocks(coordinates):
        basis = part.blocks[0].basis
        assert basis is not None
        found[rows] = bends[rows] * replace(basis, transform=basis.transform @ root).dense().square().sum(1)
    _check_leverages(found, coordinates.objective.data)
    return found


def _single_block(coordinates: Coordinates) -> Block:
    """The one linear predictor of a model, of one output."""
    blocks = coordinates.blocks
    if (
        not coordinates.is_linear
        or len(blocks) != 1
        or blocks[0].basis is None
        or blocks[0].output is not None
    ):
        raise ModelError(
            "HC2 and HC3 need leverages, which are defined for models with one linear predictor of one "
            "output alone. Use 'HC1'."
        )
    return blocks[0]


def _check_leverages(found: Tensor, data: Data) -> None:
    if bool((found <= 1 - 1e-10).all()):  # false for NaN
        return
    worst = int(found.argmax())
    row = data.row(worst)
    if data.weights is not None and float(data.weights[worst]) < 1:
        raise ModelError(
            f"row {row} has a weight of {float(data.weights[worst]):g}, less than one observation, and its "
            f"leverage as a whole one is {float(found[worst]):.3g}: HC2 and HC3, which divide by 1 minus "
            "the leverage, do not exist for it. Use 'HC1'."
        )
    raise ModelError(
        f"row {row} has a leverage of {float(found[worst]):.3g}: it alone decides a coefficient, so HC2 and "
        "HC3 do not exist. Use 'HC1'."
    )


def _curvatures(coordinates: Coordinates, z: Tensor) -> Tensor:
    """The second derivatives `(N,)` of each row's loss in its one linear predictor."""
    with torch.enable_grad():
        ran, _, etas = cut_run(coordinates, z)
        none = z.new_zeros(0)
        nll = -ran.log_prob(RESPONSE).sum()
        terms = named(CURVATURES, derivatives(CURVATURES, nll, none, list(etas.values())), 1, 0)
    return terms.hessian[0][0]


def _clustered(coordinates: Coordinates, z: Tensor, root: Tensor, groups: Any, factor: float) -> Tensor:
    """The sum over all combinations of groupings by inclusion and exclusion."""
    numbers = [group_numbers(each, coordinates.objective.data) for each in _groupings(groups)]
    signs, indices, sums = [], [], []
    for size in range(1, len(numbers) + 1):
        for chosen in combinations(numbers, size):
            codes = chosen[0] if size == 1 else np.unique(np.stack(chosen), axis=1, return_inverse=True)[1]
            signs.append((-1.0) ** (size + 1))
            indices.append(torch.from_numpy(codes.reshape(-1)))
            sums.append(root.new_zeros((int(codes.max()) + 1, len(root))))
    for rows, part in in_blocks(coordinates):
        own, weights = scores(part, z), part.objective.data.weights
        own = own if weights is None else own * weights[:, None]
        for index, total in zip(indices, sums, strict=True):
            total.index_add_(0, index[rows], own)
    middle = torch.zeros_like(root)
    for sign, total in zip(signs, sums, strict=True):
        scaled = total @ root
        middle += sign * factor * len(total) / (len(total) - 1) * (scaled.T @ scaled)
    return middle


def _is_grouping(value: Any) -> bool:
    """Whether a value can be one grouping among several: one-dimensional."""
    if isinstance(value, list | tuple):
        return not any(isinstance(each, list | tuple) for each in value)
    return isinstance(value, np.ndarray | pd.Series | pd.Index | Tensor) and value.ndim == 1


def _groupings(groups: Any) -> Sequence[Any]:
    if isinstance(groups, pd.DataFrame):
        return [groups[column] for column in groups.columns]
    check_unmasked("groups", groups)
    if isinstance(groups, list | tuple) and groups and all(_is_grouping(each) for each in groups):
        return groups
    given = as_labels("groups", groups)
    return [groups] if given.ndim == 1 else list(given.T)
