"""Proper scoring rules: predictive distributions against observations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from neglog.aliases import former_argument
from neglog.arguments import shown
from neglog.data import Data, check_response, prepare
from neglog.distributions.averaged import quantile_of
from neglog.distributions.family import events_of
from neglog.distributions.joined import joined
from neglog.errors import DataError, ModelError, did_you_mean
from neglog.fitting.fit import Fit
from neglog.isolation import isolated
from neglog.prediction.accuracy import SUMMARIES
from neglog.prediction.batches import batches_of, is_in_batches
from neglog.prediction.crps import crps
from neglog.prediction.predictions import check_row_keywords, log_likelihood, observed_rows, predict
from neglog.prediction.predictor import Predicting
from neglog.signatures import roles_of
from neglog.tracing import model_name
from neglog.uncertainty.covariances import CovType

DEFAULT_LEVELS = {"pinball": 0.5, "interval": 0.95}
"""The scores with a level -> their default level."""
SYNONYMS = {
    "mean_squared_error": "rmse",
    "mse": "rmse",
    "root_mean_squared_error": "rmse",
    "mean_absolute_error": "mae",
    "r2_score": "r2",
    "rsquared": "r2",
    "deviance": "d2",
    "brier_score": "brier",
    "ece": "calibration",
    "log_loss": "log",
    "nll": "log",
    "log_likelihood": "log",
    "pinball_loss": "pinball",
}
"""Names of other packages -> the score that is meant."""
SCORES = ("log", "crps", "brier", *DEFAULT_LEVELS)


@former_argument("covariance", "cov_type")
@isolated
def scores(
    fit: Predicting,
    x: Any,
    y: Any = None,
    kind: str = "log",
    *,
    uncertainty: bool = False,
    draws: int | None = None,
    seed: int = 0,
    cov_type: CovType = "observed",
    groups: Any = None,
    **keywords: Any,
) -> Tensor:
    """The score of the predictive distribution of each row, `(N,)`. All scores are proper.

    - ``"log"``: log p(y | x) in nats, as by `log_likelihood`: the higher, the better. All others are
      losses: the lower, the better.
    - ``"crps"``: the continuous ranked probability score, in units of y; for a point forecast it is the
      absolute error. See `neglog.prediction.crps` for how it is computed. For ordered classes it is the
      ranked probability score.
    - ``"brier"``: (p - y)² for a binary y; for classes, the sum of these squares over all classes.
    - ``"pinball@0.9"``: max(0.9 (y - q), 0.1 (q - y)) of the quantile q of that level; by default
      of the median.
    - ``"interval@0.9"``: the length of the central interval of that level, plus 2 / (1 - level) times the
      distance of y from it; by default at 0.95.

    Args:
        fit: a fit, a posterior, or another value with predictive distributions.
        x, y: rows, such as new ones; `y` of the form of the model's response. For the fit of a formula, a
            table is enough. A data set or loader of torch as `x` alone is read a batch at a time.
        kind: the score.
        uncertainty, draws, seed: as in `predict`.
        cov_type, groups: as in `predict`.
        keywords: further row-wise arguments of the model.

    Raises:
        ModelError: an unknown score, or one that is not defined for the response; as `predict`.
        DataError: as `log_likelihood`; for all but ``"log"``, a missing `y`; a score that is not a number,
            where the prediction is beyond the range of floats.

    Sources: Gneiting & Raftery (2007), Strictly proper scoring rules; Brier (1950).

    >>> import torch
    >>> from neglog import mle, models
    >>> x, y = torch.empty((4, 0), dtype=torch.float64), torch.tensor([0.0, 1.0, 1.0, 1.0])
    >>> scores(mle(models.bernoulli, x, y), x, y, kind="brier")
    tensor([0.5625, 0.0625, 0.0625, 0.0625], dtype=torch.float64)
    """
    parsed(kind)
    check_row_keywords(fit, keywords, scores)
    if kind == "log" and isinstance(fit, Fit) and not uncertainty:
        return without_nan(log_likelihood(fit, x, y, **keywords), kind)
    settings: dict[str, Any] = {"uncertainty": uncertainty, "draws": draws, "seed": seed}
    settings |= {"cov_type": cov_type, "groups": groups}
    if is_in_batches(x):
        batches = batches_of(x, {"y": y} | keywords)
        return torch.cat([scores(fit, at.x, at.y, kind, **settings, **at.keywords) for at in batches])
    response, data = observed_response(fit, x, y, keywords, scores, f"score {kind!r}", **settings)
    if not data.rows:
        return data.y.new_zeros(0)
    with torch.no_grad():
        return without_nan(score_of(response, data.y, kind), kind)


def observed_response(
    fit: Predicting,
    x: Any,
    y: Any,
    keywords: Mapping[str, Any],
    caller: Callable[..., Any],
    needed: str,
    **settings: Any,
) -> tuple[Any, Data]:
    """The predictive distribution of rows, and the rows themselves, whose response has been verified.

    Args:
        needed: the quantity that needs every `y`, in words.
        settings: those of `predict`.

    Raises:
        ModelError: as `predict`.
        DataError: as `predict`; a `y` that is missing, of another shape or length, or outside the support.
    """
    check_row_keywords(fit, keywords, caller)
    if is_in_batches(x):
        batches = batches_of(x, {"y": y} | dict(keywords))
        found = [
            observed_response(fit, at.x, at.y, at.keywords, caller, needed, **settings) for at in batches
        ]
        return joined([response for response, _ in found]), Data({}, torch.cat([data.y for _, data in found]))
    x, y, keywords = observed_rows(fit, x, y, keywords)
    response = predict(fit, x, **settings, **keywords)
    data = prepare(x, y, roles=roles_of(fit.model, keywords, caller), may_be_empty=True, **keywords)
    if data.rows:
        shape = tuple(response.batch_shape + response.event_shape)
        check_response(data, response.support, shape, model_name(fit.model))
        complete(data.y, needed)
    return response, data


def complete(y: Tensor, needed: str) -> None:
    """Refuse rows whose response is missing.

    Raises:
        DataError: naming one.
    """
    unknown = torch.isnan(y).reshape(len(y), -1).any(1)
    if bool(unknown.any()):
        row = int(unknown.nonzero()[0])
        raise DataError(f"`y` of row {row} is missing, so it has no {needed}; leave the row out.")


def without_nan(found: Tensor, kind: str) -> Tensor:
    """The scores.

    Raises:
        DataError: one is not a number, as that of a mean of exp(-2000) = 0.
    """
    wrong = torch.isnan(found)
    if bool(wrong.any()):
        raise DataError(
            f"the score {kind!r} of row {int(wrong.nonzero()[0])} is not a number: its prediction is beyond "
            "the range of floats. Probe at its values of `x`, which are far from those of the fit, or leave "
            "the row out."
        )
    return found


def score_of(response: Any, y: Tensor, kind: str) -> Tensor:
    """The score of each y `(N,)` under a distribution of batch shape `(N,)`.

    Raises:
        ModelError: an unknown score, or one that is not defined for the distribution.
    """
    name, level = parsed(kind)
    if name == "log":
        return response.log_prob(y)
    if name == "crps":
        return crps(response, y)
    if name == "brier":
        return _brier(response, y)
    if name == "pinball":
        away = y - quantile_of(response, torch.tensor(level, dtype=y.dtype))
        return torch.maximum(level * away, (level - 1) * away)
    lower, upper = (
        quantile_of(response, torch.tensor(0.5 + side * level / 2, dtype=y.dtype)) for side in (-1, 1)
    )
    outside = (lower - y).clamp(min=0) + (y - upper).clamp(min=0)
    return upper - lower + 2 / (1 - level) * outside


def parsed(kind: str, more: Collection[str] = ()) -> tuple[str, float]:
    """The name of a score and its level: ``"pinball@0.9"`` is ``("pinball", 0.9)``.

    Args:
        kind: the score.
        more: further names that are understood, without a level.

    Raises:
        ModelError: an unknown score, or a level that is not between 0 and 1.
    """
    name, at, level = kind.partition("@") if isinstance(kind, str) else (None, "", "")
    known = (*SCORES, *more)
    if name not in known or (at and name not in DEFAULT_LEVELS):
        raise ModelError(_unknown(kind, str(name), known))
    try:
        value = float(level) if at else DEFAULT_LEVELS.get(name, 0.5)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise ModelError(f"the level of the score {kind!r} must be between 0 and 1.")
    return name, value


def _unknown(kind: Any, name: str, known: Collection[str]) -> str:
    if name in SUMMARIES:
        return (
            f"{shown(kind)} is a score of all rows together: cross_validate(model, x, y, scores=[{name!r}])"
            ".table() has it for held-out rows."
        )
    listed = ", ".join(
        f'"{each}@{DEFAULT_LEVELS[each]}"' if each in DEFAULT_LEVELS else f'"{each}"' for each in known
    )
    meant = SYNONYMS.get(name.lower().removeprefix("neg_"))
    near = did_you_mean(name, known) if meant not in known else f" What is meant may be {meant!r}."
    return f"there is no score {shown(kind)}; there are {listed}.{near}"


def _brier(response: Any, y: Tensor) -> Tensor:
    base = getattr(response, "first", response)
    if events := events_of(base):
        each = [response.log_prob(torch.full_like(y, float(k))).exp() - (y == k).to(y) for k in events]
        return torch.stack(each).square().sum(0)
    raise ModelError(
        f"the Brier score needs a response of classes, and `{type(base).__name__}` is not a distribution of "
        "classes. Use 'crps'."
    )
