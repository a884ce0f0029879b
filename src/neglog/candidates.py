"""Candidates: the models that a response admits, by probabilities or by densities, and their designs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import pyro
import torch

from neglog import losses, models
from neglog.errors import DataError, ModelError, did_you_mean
from neglog.fitting.fit import Fit
from neglog.formula import Design
from neglog.handlers import Model
from neglog.inputs.classes import Classes
from neglog.models.named import model_named
from neglog.offset import OFFSET_KEYWORD
from neglog.signatures import model_keywords, row_keywords
from neglog.tracing import admits, is_discrete, positive_names, predictor_names

ON_REQUEST = {"gaussian_mixture", "quantile"}
"""Models that are compared only on request: a mixture fits any given number of components, in one of many
local optima; a quantile regression estimates a quantile, and at its default is `laplace`."""
OVERDISPERSED = {"negative_binomial", "zero_inflated_negative_binomial", "zero_inflated_poisson"}
"""Models of counts that vary more than Poisson's. Zeros and ones vary less: each would end at `poisson`."""

Kind = Literal["discrete", "continuous"]
"""Models of whole numbers and classes, by their probabilities; or of measurements, by their densities."""

MAX_COUNT_SPREAD = 10.0
"""Whole numbers with a smaller standard deviation than this, in their units, are compared as counts.

Above it a density at a whole number is the probability of the unit around it to about 1 / (24 · 10²) nats.
"""


def kind_of(
    y: torch.Tensor, weights: torch.Tensor, requested: Kind | None = None, classes: Classes | None = None
) -> tuple[Kind, str | None]:
    """The kind of models to compare for a response, and the reason in words where it could be of either.

    >>> y = torch.tensor([0.0, 1.0, 1.0])
    >>> kind_of(y, torch.ones(3))
    ('discrete', 'the response is 0 or 1')

    Raises:
        DataError: there is no such kind; densities of labels.
    """
    _check_kind(requested)
    if classes is not None:
        return _kind_of_labels(requested), None
    counted = weights > 0
    values, shares = y[counted].double(), weights[counted].double() / weights.sum()
    if values.dim() > 1 or not bool((values == values.floor()).all()):
        return requested or "continuous", None
    if requested is not None:
        return requested, "that was asked for"
    if bool((values < 0).any()):
        return "continuous", "some of the whole numbers of the response are negative, which no count is"
    if bool((values <= 1).all()):
        return "discrete", "the response is 0 or 1"
    spread = float((shares @ (values - shares @ values).square()).sqrt())
    if bool((values == 0).any()):
        return "discrete", "the response has whole numbers from 0 on, as counts are"
    units = f"the response has whole numbers above 0 with a standard deviation of {spread:.3g}"
    if spread < MAX_COUNT_SPREAD:
        return "discrete", f"{units}, less than {MAX_COUNT_SPREAD:g}, as counts are"
    return "continuous", f"{units}, at least {MAX_COUNT_SPREAD:g}, as measurements in whole units have"


def _check_kind(requested: Any) -> None:
    if requested not in (None, "discrete", "continuous"):
        raise DataError(f"`response` must be 'discrete', 'continuous' or None; it is {requested!r}.")


def _kind_of_labels(requested: Kind | None) -> Kind:
    if requested == "continuous":
        raise DataError("`response` is 'continuous', and labels have no density. Leave it out.")
    return "discrete"


def serving(
    y: torch.Tensor,
    kind: Kind,
    rows: Collection[str] = (),
    candidates: Mapping[str, Model] | None = None,
    classes: Classes | None = None,
) -> dict[str, Model]:
    """Name -> model of those of one kind of `neglog.models` that are compared for a response.

    Raises:
        DataError: there are none.
        ModelError: none takes the row-wise arguments.
    """
    if candidates is None:
        candidates = {name: model_named(name) for name in models.__all__ if name not in ON_REQUEST}
    needed = set(rows) - {OFFSET_KEYWORD}
    taking = _taking(candidates, needed)
    if classes is not None:
        return {name: taking.get(name, model_named(name)) for name in classes.models}
    chosen = {name: each for name, each in taking.items() if _serves(name, each, y, kind, needed)}
    if not chosen:
        raise DataError(_none_serves(y, kind, needed))
    return chosen


def _taking(candidates: Mapping[str, Model], rows: Collection[str]) -> dict[str, Model]:
    """The models that take all of some row-wise arguments.

    Raises:
        ModelError: there are none.
    """
    found = {name: each for name, each in candidates.items() if set(rows) <= (model_keywords(each) or set())}
    if not found:
        raise ModelError(f"no model takes the row-wise argument {listed(sorted(rows))}. Leave it out.")
    return found


def _serves(name: str, model: Model, y: torch.Tensor, kind: Kind, rows: Collection[str]) -> bool:
    if name in OVERDISPERSED and not bool((y > 1).any()):
        return False
    if is_discrete(model, **row_keywords(model)) != (kind == "discrete"):
        return False
    return "trials" in rows or admits(model, y)  # the number of trials, which bounds y, is checked by the fit


def _none_serves(y: torch.Tensor, kind: Kind, rows: Collection[str]) -> str:
    if rows:
        return (
            f"no {kind} model of such a response takes {listed(sorted(rows))}. Leave it out, or compare the "
            "other kind of models: --response discrete (response='discrete')."
        )
    if y.dim() > 1:
        return (
            "models of a response of several columns are not compared here. Fit "
            "`multivariate_gaussian` and `multivariate_heteroscedastic` to it, and compare their BIC."
        )
    return (
        f"no {kind} model can draw such a response: probabilities need whole numbers that are not negative. "
        "Compare densities: --response continuous (response='continuous')."
    )


def set_up(name: str, design: Design, table: pd.DataFrame) -> tuple[Model, Any]:
    """A model by name, its bias held at zero where the formula has no intercept, and its designs of a table.

    Raises:
        ModelError: there is no such model, or it lacks a predictor that a companion formula describes.
        DataError: as `Design.x`.
    """
    return designed(model_named(name), design, table)


def known_design(design: Design, model: Model) -> Design:
    """The design with those companions alone that describe a predictor of the model."""
    return design.known_to(*_names(model))


def _names(model: Model) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The linear predictors of a model, and its constants that may have a design."""
    rows = row_keywords(model)
    return predictor_names(model, **rows), positive_names(model, **rows)


def designed(model: Model, design: Design, table: pd.DataFrame) -> tuple[Model, Any]:
    predictors, positive = _names(model)
    fixed = design.without_bias(predictors, positive)
    x = design.x(table, predictors, positive)
    if fixed:
        model = pyro.condition(model, data={site: torch.tensor(0.0, dtype=torch.float64) for site in fixed})
    return model, x


def offset_rows(design: Design, table: pd.DataFrame) -> dict[str, Any]:
    """The offsets of a formula as a row-wise argument; none of a formula without."""
    offsets = design.offsets(table)
    return {} if offsets is None else {OFFSET_KEYWORD: offsets}


def designs(fit: Fit, design: Design, table: pd.DataFrame) -> Any:
    """The designs of a table, as a fit of that formula takes them.

    Raises:
        DataError: as `Design.x`.
    """
    return known_design(design, fit.model).x(table, *_names(fit.model))


def loss_of(name: str, companions: Iterable[str]) -> str:
    """The training loss of PyTorch that corresponds to the likelihood of a model, in words."""
    loss = losses.TABLE.get(name)
    if loss is None:
        return f"the negative log-likelihood of `{name}`"
    heads = [other for other in companions if other in _names(model_named(name))[1]]
    if heads:  # A constant scale is what makes MSE of a Normal and MAE of a Laplace.
        return f"the negative log-likelihood of `{name}` with a head for {listed(heads)}"
    return f"{loss.torch_loss} ({loss.name})" if loss.torch_loss.startswith("torch.") else loss.torch_loss


def check_companions(design: Design, candidates: Mapping[str, Model]) -> None:
    known: Mapping[str, None] = {}
    for model in candidates.values():
        predictors, positive = _names(model)
        known = {**known, **dict.fromkeys([*predictors[1:], *positive])}
    for other in design.others:
        if other not in known:
            near = did_you_mean(other, known, "`{}`")
            raise ModelError(
                f"no model here has a predictor `{other}`; there are {listed(list(known))}.{near}"
            )


def listed(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]
