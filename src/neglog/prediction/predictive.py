"""Draws of observations from priors and posteriors, and the log-likelihood of the observed ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor

from neglog.arguments import seed_of, whole
from neglog.bayes.sampling import Posterior
from neglog.calls import public
from neglog.data import Data, prepare
from neglog.designs import prepare_designs
from neglog.errors import DataError, ModelError
from neglog.handlers import Model
from neglog.inputs.formulas import is_formula
from neglog.inputs.frames import of_pandas
from neglog.inputs.given import given, offset_model
from neglog.isolation import isolated, user_code
from neglog.likelihood.replay import replayed
from neglog.models.named import model_of
from neglog.objective.objective import Objective
from neglog.prediction.predictions import new_rows
from neglog.predictors import RESPONSE, row_count
from neglog.signatures import roles_of
from neglog.tracing import Run, model_name, without_biases
from neglog.wellformed import check_distributions


@public
@dataclass(frozen=True, eq=False)
class PriorDraws:
    """Draws from a prior: site name -> `(1, draws, *shape)`, and ``y`` given them, `(1, draws, N, ...)`."""

    draws: Mapping[str, Tensor] = field(repr=False)
    y: Tensor = field(repr=False)


@isolated
def prior_predictive(
    model: Model | str,
    x: Any,
    y: Any = None,
    *,
    data: Any = None,
    draws: int = 500,
    seed: int = 0,
    drop_missing: bool = False,
    **keywords: Any,
) -> PriorDraws:
    """Draws of the parameters from their priors, and of a response given each draw.

    Args:
        model: a Pyro function `(x, y=None)`, or the name of one of `neglog.models`.
        x: a design `(N, P)`, or a mapping of them; or a formula, as for `mle`, and `y` or `data` is its
            table.
        y: a response `(N,)` or `(N, D)`, for models that read their sizes (classes, dimensions) from it.
        draws: the number of draws.
        seed: the same seed gives the same draws.
        keywords: further row-wise arguments of the model, such as ``exposure``, `(N,)`.

    Raises:
        ModelError: a prior is flat, so that it cannot be drawn from.
        DataError: as `mle`.

    >>> import torch
    >>> from neglog import models
    >>> prior_predictive(models.poisson, torch.zeros((4, 1), dtype=torch.float64), draws=10).y.shape
    torch.Size([1, 10, 4])
    """
    if y is None and data is None and not is_formula(x):
        model = offset_model(model_of(model), keywords)
        y = torch.zeros(row_count(prepare_designs(of_pandas(x))[0]), dtype=torch.float64)
        rows = prepare(of_pandas(x), y, roles=roles_of(model, keywords, prior_predictive), **keywords)
        return drawn_from_prior(without_biases(model, rows), rows, draws, seed)
    inputs = given(prior_predictive, model, x, y, data=data, drop_missing=drop_missing, keywords=keywords)
    roles = roles_of(inputs.model, inputs.keywords, prior_predictive)
    rows = prepare(inputs.x, inputs.y, roles=roles, **inputs.keywords)
    sized = Objective(inputs.model, rows).model  # with the sizes that it reads from y
    return drawn_from_prior(sized, rows, draws, seed)


def drawn_from_prior(model: Model, data: Data, draws: int, seed: int) -> PriorDraws:
    """`prior_predictive` for validated data."""
    draws = whole("draws", draws)
    with _seeded(seed):
        runs = [_run(model, data, {}) for _ in range(draws)]
    latent = _latent_sites(model, runs[0])
    return PriorDraws({name: _stacked(runs, name) for name in latent}, _stacked(runs, RESPONSE))


def _latent_sites(model: Model, ran: Run) -> list[str]:
    """The names of the parameters of a run from the prior, which draws a response and has proper priors."""
    if RESPONSE not in ran.sites:
        raise ModelError(
            f"`{model_name(model)}` has no observation site {RESPONSE!r}, so it draws no response."
        )
    check_distributions(model_name(model), ran.sites)
    latent = [name for name, msg in ran.sites.items() if not msg["is_observed"] and name != RESPONSE]
    flat = [name for name in latent if ran.sites[name]["mask"] is False]
    if flat:
        raise ModelError(
            f"the priors of {', '.join(map(repr, flat))} are flat, so there is nothing to draw them from. "
            "Give them priors by `with_priors`."
        )
    return latent


def _stacked(runs: Sequence[Run], name: str) -> Tensor:
    """The values `(1, draws, ...)` of a site in many runs."""
    return torch.stack([each.sites[name]["value"] for each in runs])[None]


@isolated
def posterior_predictive(posterior: Posterior, x: Any = None, *, seed: int = 0, **keywords: Any) -> Tensor:
    """A response drawn from the model at each draw of a posterior, `(chains, draws, N)` or `(..., N, D)`.

    Args:
        posterior: a posterior.
        x: designs of the form of the posterior's; by default its own.
        seed: the same seed gives the same draws.
        keywords: further row-wise arguments of the model for `x`, such as ``exposure``, `(N,)`.

    Raises:
        ModelError: `posterior` is no posterior.
        DataError: designs of another form than those of the posterior, NaN or infinite values; keywords
            without `x`, or other ones than those of the posterior.
    """
    if not isinstance(posterior, Posterior):
        raise ModelError(
            f"`posterior` must be a result of `neglog.posterior`, not of type {type(posterior).__name__}; "
            "for a fit use `predict(fit, x).sample()`."
        )
    if x is None:
        data = posterior.objective_for("`posterior_predictive` without `x`").data
    else:
        data = new_rows(
            posterior.model,
            posterior.columns,
            posterior.keywords,
            x,
            keywords,
            posterior_predictive,
            posterior.blueprint,
        )
    if x is None and keywords:
        raise DataError(f"{sorted(keywords)} need the `x` of the same rows; give both, or none.")
    chains, draws = posterior.shape
    flat = {name: values.flatten(0, 1) for name, values in posterior.draws.items()}
    found = responses(posterior.model, data, flat, seed)
    return found.reshape(chains, draws, *found.shape[1:])


def responses(model: Model, data: Data, values: Mapping[str, Tensor], seed: int) -> Tensor:
    """A response `(S, N, ...)` drawn at each of the values `(S, *shape)` of the parameters."""
    count = len(next(iter(values.values())))
    with _seeded(seed):
        each = ({name: value[i] for name, value in values.items()} for i in range(count))
        return torch.stack([_run(model, data, at).sites[RESPONSE]["value"] for at in each])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a random state of its own, without validation of the distributions."""
    seed = seed_of(seed)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
        torch.default_generator.manual_seed(seed)
        yield


def _run(model: Model, data: Data, values: Mapping[str, Tensor]) -> Run:
    with user_code(f"`{model_name(model)}`"), Run(values) as at:
        model(data.x, None, **data.keywords)
    return at


def row_log_likelihood(objective: Objective, theta: Tensor) -> Tensor:
    """The log-likelihood of each row, `(S, N)`, at many vectors `(S, K)`; without weights."""
    with torch.no_grad(), pyro.validation_enabled(False):
        replay = replayed(lambda z: (objective.log_likelihood(z),), theta[0], [], None, False)
        return torch.stack([replay.evaluate(each)[0] for each in theta])
