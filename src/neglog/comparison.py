"""Comparison: every model that admits a response, fitted to it and scored on rows it has not seen."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd
import pyro
import torch

from neglog import losses, models
from neglog.errors import ConvergenceWarning, DataError, ModelError, NeglogError
from neglog.fitting.fit import Fit, mle
from neglog.formula import Design, Learned
from neglog.handlers import Model
from neglog.isolation import isolated
from neglog.tracing import admits, positive_names, predictor_names
from neglog.uncertainty.ranking import criterion_weights
from neglog.validation import Validation, cross_validate, deal, masses

__all__ = ["Comparison", "Entry", "compare_models", "designs", "loss_of", "model_named", "set_up"]

ASKED = {"gaussian_mixture", "quantile"}
"""Models that describe the noise only where they are asked to: a mixture finds as many kinds of rows as it is
given, in one of many local optima; a quantile answers a question, and at its default is `laplace`."""


@dataclass(frozen=True)
class Entry:
    """How one model did: its fit to all rows and its held-out scores, or the reason why there are none."""

    model: str
    loss: str
    fit: Fit | None = None
    validation: Validation | None = None
    reason: str | None = None

    @property
    def converged(self) -> bool:
        """Whether the fit to all rows and every fit without a fold reached an optimum."""
        fits = (self.fit, self.validation)
        return all(fit is not None and fit.converged for fit in fits)


@dataclass(frozen=True)
class Comparison:
    """Entries, the best held-out log score first, those without one last."""

    entries: tuple[Entry, ...]

    @property
    def scored(self) -> tuple[Entry, ...]:
        """The entries that have a held-out score."""
        return tuple(entry for entry in self.entries if entry.validation is not None)

    def behind(self, entry: Entry) -> tuple[float, float]:
        """How far, per row, an entry is behind the best, with the standard error of the paired difference."""
        best = self.scored[0].validation
        if best is None or entry.validation is None:
            raise DataError(f"`{entry.model}` has no held-out score.")
        return best.above(entry.validation)

    def weights(self, criterion: Literal["aic", "bic"] = "aic") -> Mapping[str, float]:
        """Model -> its share of exp(-criterion / 2), among the models whose fit to all rows converged.

        For whole numbers a density stands beside a probability: that of the interval of width 1 around them.

        Raises:
            ModelError: another criterion.

        Source: Burnham & Anderson (2002), Model Selection and Multimodel Inference, section 2.9.
        """
        if criterion not in ("aic", "bic"):
            raise ModelError(f"`criterion` must be 'aic' or 'bic'; it is {criterion!r}.")
        fits = {
            entry.model: entry.fit for entry in self.entries if entry.fit is not None and entry.fit.converged
        }
        return criterion_weights({name: getattr(fit, criterion) for name, fit in fits.items()})

    @property
    def tied(self) -> tuple[Entry, ...]:
        """The best entry and all that are within one standard error of it."""
        best, *rest = self.scored
        near = [entry for entry in rest if self.behind(entry)[0] <= self.behind(entry)[1]]
        return (best, *near)

    @property
    def verdict(self) -> str:
        """One sentence: the loss to train with, hedged where the rows do not tell the best models apart."""
        if not self.scored:
            return "No model could be scored on rows it has not seen."
        best, *near = self.tied
        rest = [entry for entry in self.scored if entry is not best]
        if not rest:
            return f"Only `{best.model}` could be scored, so there is nothing to compare {best.loss} with."
        gap, error = self.behind(near[0] if near else rest[0])
        places = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 3  # two digits of the error
        margin = f"{gap:.{places}f} ± {error:.{places}f} nats per row"
        if near:
            *some, last = [entry.loss for entry in (best, *near)]
            names = _listed([entry.model for entry in near])
            return (
                f"Train with {', '.join(some)} or {last}: these rows do not tell `{best.model}` from {names} "
                f"({margin}, less than one standard error)."
            )
        doubt = "" if best.converged else " It did not converge, so look at that first."
        ahead = f"`{best.model}` predicts unseen rows best, {margin} ahead of `{rest[0].model}`"
        return f"Train with {best.loss}: {ahead}.{doubt}"


@isolated
def compare_models(
    learned: Learned,
    *,
    weights: str | None = None,
    folds: int = 5,
    seed: int = 0,
    watch: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> Comparison:
    """Fit and cross-validate every model of `neglog.models` that can draw the response.

    A model that fails is listed with its reason. Design columns are learned from all rows, as the levels of
    a category must be; estimates are not.

    Args:
        learned: a formula, learned from the data.
        weights: the column of frequency weights.
        folds: how many folds.
        seed: decides the folds, the same for all models.
        watch: wraps the sequence of model names, for a progress bar.

    Raises:
        DataError: no model admits the response, or all fail; `folds` is out of range.
        ModelError: no model has a predictor that a companion formula describes.
    """
    y = torch.tensor(learned.design.y(learned.table).to_numpy())
    names = [name for name in models.__all__ if name not in ASKED and admits(getattr(models, name), y)]
    if not names:
        raise DataError(
            "no model of neglog.models can draw such a response. See `neglog fit --help` for the models."
        )
    _check_companions(learned.design, names)
    deal(masses(None if weights is None else learned.table[weights], len(y)), folds, seed)
    entries = [_enter(name, learned, weights, folds, seed) for name in watch(names)]
    if all(entry.fit is None for entry in entries):
        first, *rest = entries
        more = f" {_listed([entry.model for entry in rest])} fail too." if rest else ""
        raise DataError(f"no model could be fitted. {first.reason}{more}")
    return Comparison(tuple(sorted(entries, key=_rank)))


def set_up(name: str, design: Design, table: pd.DataFrame) -> tuple[Model, Any]:
    """A model by name, its bias held at zero where the formula has no intercept, and its designs of a table.

    Raises:
        ModelError: there is no such model, or it lacks a predictor that a companion formula describes.
        DataError: as `Design.x`.
    """
    model = model_named(name)
    predictors, positive = predictor_names(model), positive_names(model)
    fixed = design.without_bias(predictors, positive)
    x = design.x(table, predictors, positive)
    if fixed:
        model = pyro.condition(model, data={site: torch.tensor(0.0, dtype=torch.float64) for site in fixed})
    return model, x


def designs(fit: Fit, design: Design, table: pd.DataFrame) -> Any:
    """The designs of a table, as a fit of that formula takes them.

    Raises:
        DataError: as `Design.x`.
    """
    predictors, positive = predictor_names(fit.model), positive_names(fit.model)
    return design.known_to(predictors, positive).x(table, predictors, positive)


def model_named(name: str) -> Model:
    """A model of `neglog.models`.

    Raises:
        ModelError: there is none of that name; the message lists those that there are.
    """
    if name not in models.__all__:
        raise ModelError(f"there is no model `{name}`; there are {_listed(models.__all__)}.")
    model: Model = getattr(models, name)
    return model


def loss_of(name: str, companions: Iterable[str]) -> str:
    """What to train with in PyTorch in the place of a model's likelihood, in words."""
    loss = losses.TABLE.get(name)
    if loss is None:
        return f"the negative log-likelihood of `{name}`"
    heads = [other for other in companions if other in positive_names(model_named(name))]
    if heads:  # A constant scale is what makes MSE of a Normal and MAE of a Laplace.
        return f"the negative log-likelihood of `{name}` with a head for {_listed(heads)}"
    return f"{loss.torch_loss} ({loss.name})" if loss.torch_loss.startswith("torch.") else loss.torch_loss


def _enter(name: str, learned: Learned, weights: str | None, folds: int, seed: int) -> Entry:
    model, table = model_named(name), learned.table
    design = learned.design.known_to(predictor_names(model), positive_names(model))
    entry = Entry(name, loss_of(name, design.others))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` says so in the table.
            model, x = set_up(name, design, table)
            y, counts = design.y(table), None if weights is None else table[weights]
            entry = replace(entry, fit=mle(model, x, y, weights=counts))
            scores = cross_validate(model, x, y, weights=counts, folds=folds, seed=seed)
            return replace(entry, validation=scores)
    except NeglogError as error:
        return replace(entry, reason=str(error))


def _check_companions(design: Design, names: Sequence[str]) -> None:
    known: Mapping[str, None] = {}
    for name in names:
        model = model_named(name)
        known = {**known, **dict.fromkeys([*predictor_names(model)[1:], *positive_names(model)])}
    for other in design.others:
        if other not in known:
            raise ModelError(
                f"no model here has a predictor `{other}` to describe; there are {_listed(list(known))}."
            )


def _rank(entry: Entry) -> tuple[bool, bool, float]:
    score = entry.validation.mean if entry.validation else 0.0
    return entry.fit is None, entry.validation is None, -score


def _listed(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]
