"""The predictive distribution of new observations, and the log-likelihood of observed ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from neglog.aliases import former_argument
from neglog.alignment import common_labels
from neglog.arguments import flag, seed_of, whole
from neglog.bayes.sampling import Posterior
from neglog.data import Data, check_response, observed, prepare
from neglog.designs import Columns, prepare_designs
from neglog.distributions.averaged import Averaged, Listed
from neglog.distributions.joined import joined
from neglog.errors import DataError, ModelError
from neglog.fitting.ensembles import Ensemble
from neglog.fitting.fit import Fit, check_fit
from neglog.handlers import Model
from neglog.inputs.blueprint import Blueprint
from neglog.isolation import isolated, user_code
from neglog.layers import current_names, is_network
from neglog.prediction.batches import batches_of, is_in_batches
from neglog.prediction.predictor import Predicting, Predictor
from neglog.predictors import RESPONSE, row_count
from neglog.signatures import check_keywords, roles_of
from neglog.tracing import Run, model_name, run, takes_missing
from neglog.uncertainty.covariances import CovType, theta_covariance
from neglog.uncertainty.information import layout_of

DEFAULT_PARAMETER_DRAWS = 256
"""Draws of the parameters of a fit: a power of two, for which the points of a Sobol sequence are balanced."""


@former_argument("kind", "cov_type")
@isolated
def predict(
    fit: Predicting,
    x: Any,
    *,
    uncertainty: bool = False,
    draws: int | None = None,
    seed: int = 0,
    cov_type: CovType = "observed",
    groups: Any = None,
    **keywords: Any,
) -> Any:
    """The distribution of `y` given `x`: a torch distribution of batch shape `(N,)`.

    By default it is the distribution at the estimates. With ``uncertainty=True`` it includes the uncertainty
    of the parameters: it is the average of the model's distributions over draws of the parameters
    (`neglog.distributions.averaged.Averaged`), with `mean`, `variance`, `log_prob`, `cdf`, `icdf` and
    `sample` of that mixture. The draws are Normal around the estimates in unconstrained coordinates,
    where a positive parameter is its logarithm, with a covariance of `covariance`; they are the points of a
    scrambled Sobol sequence, which are more even than random ones. A posterior has its own draws.

    Memory is proportional to draws × rows; predict many rows in parts.

    A `torch.utils.data.Dataset` or `DataLoader` in the place of `x` is read a batch at a time, in its order
    (a loader that shuffles, in that of its data set); only the distributions are kept. Its items are
    inputs, pairs (x, y), or mappings.

    Args:
        fit: a fit; or a posterior, whose predictions always include the uncertainty of the parameters; or an
            ensemble, the average of whose members is predicted; or another value with predictive
            distributions of its own, such as a Laplace approximation.
        x: designs `(N, P)` of the form of the fit's; a data frame is read by column name. For the fit of a
            formula, a table with the columns that the formula names; others are ignored. Or a data set or
            loader of torch.
        uncertainty: whether to include the uncertainty of the parameters of a fit.
        draws: the number of draws of the parameters, best a power of two; by default 256 for a fit, and all
            draws of a posterior. A smaller number of these is evenly spaced.
        seed: the same seed gives the same draws of the parameters.
        cov_type, groups: the covariance of the estimates, as for `covariance`.
        keywords: further row-wise arguments of the model, such as ``exposure``, `(N,)`.

    Raises:
        DataError: designs of another form than those of the fit, NaN or infinite values.
        ModelError: `draws` is not a positive whole number; with ``uncertainty=True``, as `covariance`.

    Source: for the points, Owen (1997), Scrambled net variance for integrals of smooth functions.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> fit = mle(models.gaussian, x, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    >>> predict(fit, x).mean
    tensor([0.5000, 3.0000, 5.5000], dtype=torch.float64)
    >>> bool((predict(fit, x, uncertainty=True).variance > predict(fit, x).variance).all())
    True
    """
    check_row_keywords(fit, keywords, predict)
    flag("uncertainty", uncertainty)
    if is_in_batches(x):
        settings: dict[str, Any] = {"uncertainty": uncertainty, "draws": draws, "seed": seed}
        settings |= {"cov_type": cov_type, "groups": groups}
        return joined([predict(fit, at.x, **settings, **at.keywords) for at in batches_of(x, keywords)])
    if isinstance(fit, Predictor):
        if draws is not None:
            raise ModelError(
                f"a `{type(fit).__name__}` predicts by itself; leave `draws` out, or call its own `predict`."
            )
        return fit.predict(x, **keywords)
    if isinstance(fit, Posterior):
        data = new_rows(fit.model, fit.columns, fit.keywords, x, keywords, predict, fit.blueprint)
        return _at_draws(fit.model, data, _thinned(fit, draws))
    if isinstance(fit, Ensemble):
        each = [predict(member, x, **keywords) for member in fit]
        return Averaged(Listed(each), each[0])
    data = rows_of(fit, x, keywords, predict)
    if not uncertainty:
        return _response(fit.model, data, fit.params)
    return _at_draws(fit.model, data, parameter_draws(fit, draws, seed, cov_type, groups))


def check_row_keywords(fit: Any, keywords: Collection[str], caller: Callable[..., Any]) -> None:
    """Refuse keywords that are neither arguments of `caller` nor row-wise arguments of the fit or posterior.

    Raises:
        ModelError: a keyword is unknown, or `fit` is neither a fit nor a posterior.
    """
    known = fit.keywords if isinstance(fit, Posterior | Ensemble | Predictor) else check_fit(fit).keywords
    check_keywords(caller, keywords, known, "the fit")


def rows_of(fit: Fit, x: Any, keywords: Mapping[str, Any], caller: Callable[..., Any]) -> Data:
    """New rows for a fit, as `new_rows`."""
    dtype = next(iter(check_fit(fit).params.values())).dtype
    return new_rows(fit.model, fit.columns, fit.keywords, x, keywords, caller, fit.blueprint, dtype=dtype)


def new_rows(
    model: Model,
    columns: Columns,
    needed: Collection[str],
    x: Any,
    keywords: Mapping[str, Any],
    caller: Callable[..., Any],
    blueprint: Blueprint | None = None,
    *,
    dtype: torch.dtype = torch.float64,
) -> Data:
    """Designs and row-wise keywords, or a table for a `blueprint`, as validated data, with a response of 0.

    Raises:
        DataError: designs of other columns, a keyword of those `needed` is missing, NaN or infinite values.
        ModelError: a keyword is neither of the fitted rows nor of `caller`.
    """
    check_keywords(caller, keywords, needed, "the fit")
    common_labels({"x": x} | dict(keywords))
    x, keywords = (blueprint or Blueprint()).read(x, keywords, needed, columns)
    missing = sorted(set(needed) - set(keywords))
    if missing:
        raise DataError(f"the model was fitted with `{missing[0]}`; give it for the rows of this `x` too.")
    x = current_names(model, x, "x") if isinstance(x, Mapping) else x
    designs, names = prepare_designs(x, dtype=dtype, columns=columns or None, network=is_network(model))
    anything = torch.zeros(row_count(designs), dtype=dtype)
    if not keywords:
        return Data(designs, anything, columns=names)
    roles = roles_of(model, keywords, caller)
    data = prepare(designs, anything, dtype=dtype, roles=roles, may_be_empty=True, **keywords)
    return Data(designs, data.y, None, data.keywords, names)


def observed_rows(
    fit: Predicting, x: Any, y: Any, keywords: Mapping[str, Any]
) -> tuple[Any, Any, dict[str, Any]]:
    """Designs, response and row-wise keywords of rows for a fit: of a table, where its formula reads them.

    Raises:
        DataError: there is no response; as `Blueprint.read`.
    """
    blueprint = fit.blueprint or Blueprint()
    common_labels({"x": x, "y": y} | dict(keywords))
    if y is None and not blueprint.is_table(x, fit.columns):
        raise DataError("`y` is missing; it is the response of the rows of `x`.")
    designs, read = blueprint.read(x, keywords, fit.keywords, fit.columns)
    return designs, blueprint.response(x) if y is None else blueprint.codes(y), read


def parameter_draws(
    fit: Fit, draws: int | None = None, seed: int = 0, cov_type: CovType = "observed", groups: Any = None
) -> dict[str, Tensor]:
    """Draws of the parameters around a fit: site name -> `(S, *shape)`, on the site's own support.

    Raises:
        ModelError: `draws` is not a positive whole number; as `covariance`.
        DataError: as `covariance`.
    """
    count, seed = whole("draws", DEFAULT_PARAMETER_DRAWS if draws is None else draws), seed_of(seed)
    matrix = theta_covariance(fit, cov_type, groups)
    layout = layout_of(fit)
    scale = matrix.diagonal().clamp(min=0).sqrt()
    unit = torch.where(scale > 0, scale, 1.0)
    values, vectors = torch.linalg.eigh(matrix / unit[:, None] / unit)
    root = scale[:, None] * vectors * values.clamp(min=0).sqrt()
    engine = torch.quasirandom.SobolEngine(len(matrix), scramble=True, seed=seed)
    points = engine.draw(count, dtype=torch.float64).clamp(2.0**-32, 1 - 2.0**-32)
    theta = layout.theta(fit.params) + torch.special.ndtri(points).to(root) @ root.T
    return {
        name: site.transform(theta[:, site.place].reshape(count, *site.unconstrained))
        for name, site in layout.sites.items()
    }


def _thinned(posterior: Posterior, draws: int | None) -> dict[str, Tensor]:
    """The draws of a posterior, or evenly spaced ones of them: site name -> `(S, *shape)`."""
    flat = {name: values.flatten(0, 1) for name, values in posterior.draws.items()}
    every = posterior.shape[0] * posterior.shape[1]
    if draws is None:
        return flat
    if whole("draws", draws) > every:
        raise ModelError(f"`draws` is {draws} and the posterior has {every} draws; use no more than these.")
    chosen = torch.arange(draws) * every // draws
    return {name: values[chosen] for name, values in flat.items()}


def _response(model: Model, data: Data, values: Mapping[str, Tensor]) -> Any:
    """The distribution of the observations at these values of the parameters."""
    if data.rows == 0:  # no validation: torch's checks of parameters, and some samplers, fail without rows
        with torch.no_grad(), pyro.validation_enabled(False):
            return run(model, data, Run({**values, RESPONSE: data.y}), response=False).sites[RESPONSE]["fn"]
    with torch.no_grad(), user_code(f"`{model_name(model)}`"):
        return run(model, data, Run(values), response=False).sites[RESPONSE]["fn"]


def _at_draws(model: Model, data: Data, values: Mapping[str, Tensor]) -> Averaged:
    """The distribution of each row, averaged over draws of the parameters `(S, *shape)`.

    The model runs once for all draws, if its distributions are then those of single draws, which is verified
    for the first and the last; otherwise it runs draw by draw.
    """
    count = len(next(iter(values.values())))

    def alone(s: int) -> Any:
        return _response(model, data, {name: value[s] for name, value in values.items()})

    ends = {s: alone(s) for s in (0, count - 1)}
    try:
        together = _response(model, data, {name: value.unsqueeze(1) for name, value in values.items()})
        if together.batch_shape == (count, *ends[0].batch_shape) and _agree(together, ends):
            return Averaged(together, ends[0])
    except (RuntimeError, ValueError, IndexError, TypeError):
        pass
    return Averaged(Listed([alone(s) for s in range(count)]), ends[0])


def _agree(together: Any, ends: Mapping[int, Any]) -> bool:
    """Whether distributions at all draws have the log-densities of those at single draws."""
    if any(together.event_shape != fn.event_shape for fn in ends.values()):
        return False
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        ys = {s: fn.sample() for s, fn in ends.items()}
    return all(
        torch.allclose(together.log_prob(ys[s])[s], fn.log_prob(ys[s]), rtol=1e-9, atol=1e-9)
        for s, fn in ends.items()
    )


@isolated
def log_likelihood(fit: Fit, x: Any, y: Any = None, **keywords: Any) -> Tensor:
    """The log-density of each `y` given `x` at the estimates, `(N,)`, in nats.

    Under `masked` it is that of the known part of a row, and 0 for a row without one. A data set or loader in
    the place of `x` and `y` is read a batch at a time, as by `predict`.

    Raises:
        DataError: as `predict`; a `y` of another shape or length, or outside the model's support.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> y = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    >>> fit = mle(models.gaussian, x, y)
    >>> torch.allclose(log_likelihood(fit, x, y).sum(), torch.tensor(-fit.nll, dtype=torch.float64))
    True
    """
    check_row_keywords(check_fit(fit), keywords, log_likelihood)
    if is_in_batches(x):
        batches = batches_of(x, {"y": y} | keywords)
        return torch.cat([log_likelihood(fit, at.x, at.y, **at.keywords) for at in batches])
    x, y, keywords = observed_rows(fit, x, y, keywords)
    dtype = next(iter(fit.params.values())).dtype
    roles = roles_of(fit.model, keywords, log_likelihood)
    every = prepare(x, y, dtype=dtype, roles=roles, may_be_empty=True, **keywords)
    response = predict(fit, x, **keywords)
    if not every.rows:
        return every.y.new_zeros(0)
    shape = tuple(response.batch_shape + response.event_shape)
    check_response(every, response.support, shape, model_name(fit.model))
    some = (~torch.isnan(every.y)).reshape(every.rows, -1).any(1).nonzero()[:, 0]
    known = torch.zeros(every.rows, dtype=dtype)
    if not len(some) and takes_missing(fit.model):
        return known
    data = observed(every, takes_missing(fit.model))
    with torch.no_grad():
        site = run(fit.model, data, Run(fit.params)).sites[RESPONSE]
        return known.index_copy(0, some, site["fn"].log_prob(site["value"]).to(dtype))
