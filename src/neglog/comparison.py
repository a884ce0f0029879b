"""Comparison: every model that admits a response, fitted to it and scored on rows it has not seen.

Probabilities are compared with probabilities and densities with densities: a density has units, so that no
number of nats decides between the two.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch

from neglog.candidates import (
    ON_REQUEST,
    Kind,
    check_companions,
    designed,
    kind_of,
    known_design,
    listed,
    loss_of,
    offset_rows,
    serving,
)
from neglog.checkpoint import SharedJournal
from neglog.data import check_row_weights
from neglog.errors import (
    CheckpointError,
    ConvergenceWarning,
    DataError,
    ModelError,
    NeglogError,
)
from neglog.fitting.estimates import mle
from neglog.fitting.fit import Fit
from neglog.folds import splits_of
from neglog.formula import Learned
from neglog.handlers import Model, flat
from neglog.inputs.classes import Classes
from neglog.inputs.given import given
from neglog.isolation import isolated
from neglog.layers import layers
from neglog.models.named import model_named
from neglog.uncertainty.ranking import criterion_weights
from neglog.validation import Validation, further_scores, has_score, masses, numbers_of, validated

__all__ = ["ON_REQUEST", "Comparison", "Entry", "compare_models", "loss_of", "model_named"]

SCORE_DECIMALS = 6
"""Decimals of a score, in nats per row, beyond which solvers differ."""
SAME_SCORE = 0.5 * 10.0**-SCORE_DECIMALS
"""A difference of scores, in nats per row, that those decimals do not show."""


@dataclass(frozen=True)
class Entry:
    """The result of one model: its fit to all rows and its held-out scores, or the reason why it has none."""

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
    """Entries, the best held-out log score first, those without one last.

    `response` is the kind of all models, `why` the reason for it where the response could be of either.
    `scores` are the further held-out scores that were requested, besides the log score.
    """

    entries: tuple[Entry, ...]
    response: Kind = "continuous"
    why: str | None = None
    scores: tuple[str, ...] = ()

    @property
    def scored(self) -> tuple[Entry, ...]:
        """The entries that have a held-out score."""
        return tuple(entry for entry in self.entries if entry.validation is not None)

    def behind(self, entry: Entry) -> tuple[float, float]:
        """The mean score of the best entry minus that of this one, and the standard error of that."""
        best = self.scored[0].validation
        if best is None or entry.validation is None:
            raise DataError(f"`{entry.model}` has no held-out score.")
        return best.above(entry.validation)

    def weights(self, criterion: Literal["aic", "bic"] = "aic") -> Mapping[str, float]:
        """Model -> its share of exp(-criterion / 2), among the models whose fit to all rows converged.

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
        behind = {entry.model: self.behind(entry) for entry in rest}
        near = [entry for entry in rest if behind[entry.model][0] <= max(behind[entry.model][1], SAME_SCORE)]
        return (best, *near)

    @property
    def scope(self) -> str | None:
        """One sentence on the kind of models compared and why, where the response admits both kinds."""
        if self.why is None:
            return None
        compared = {"discrete": "probabilities of whole numbers", "continuous": "densities of measurements"}
        other: Kind = "continuous" if self.response == "discrete" else "discrete"
        return (
            f"These are {compared[self.response]}, since {self.why}. For {compared[other]} give "
            f"--response {other} (response={other!r})."
        )

    @property
    def verdict(self) -> str:
        """One sentence: the loss to train with, hedged where the best models do not differ significantly."""
        if not self.scored:
            return "No model could be scored on rows it has not seen."
        best, *near = self.tied
        if best.validation is None or not math.isfinite(best.validation.mean):
            return "No model gives every row that it has not seen a finite likelihood, so none is ahead."
        rest = [entry for entry in self.scored if entry is not best]
        if not rest:
            return f"Only `{best.model}` could be scored, so there is nothing to compare {best.loss} with."
        return self._tie(best, near) if near else self._lead(best, rest[0])

    def _tie(self, best: Entry, near: Sequence[Entry]) -> str:
        """The verdict where several models are within one standard error of the best."""
        *some, last = [entry.loss for entry in (best, *near)]
        names = listed([entry.model for entry in near])
        return (
            f"Train with {', '.join(some)} or {last}: these rows do not tell `{best.model}` from {names} "
            f"({_margin(*self.behind(near[0]))}, less than one standard error)."
        )

    def _lead(self, best: Entry, second: Entry) -> str:
        """The verdict where one model is ahead of all others."""
        doubt = "" if best.converged else " It did not converge, so look at that first."
        margin = _margin(*self.behind(second))
        ahead = f"`{best.model}` predicts unseen rows best, {margin} ahead of `{second.model}`"
        return f"Train with {best.loss}: {ahead}.{doubt}"


@isolated
def compare_models(
    learned: Learned,
    *,
    weights: Any = None,
    folds: Any = 5,
    seed: int = 0,
    response: Kind | None = None,
    groups: Any = None,
    rows: Mapping[str, Any] | None = None,
    classes: Classes | None = None,
    candidates: Mapping[str, Model] | None = None,
    scores: Sequence[str] | None = None,
    watch: Callable[[Sequence[str]], Iterable[str]] = iter,
    run: Runner | None = None,
    kept: SharedJournal | None = None,
) -> Comparison:
    """Fit and cross-validate every model of one kind of `neglog.models` that can draw the response.

    A response of whole numbers could be counts, which have probabilities, or rounded measurements, which
    have a density. It is counts if none is negative, and one is 0 or their standard deviation is small
    (`MAX_COUNT_SPREAD`). A model that fails is listed with its reason. Design columns are learned from all
    rows, as the levels of a category must be; estimates are not.

    Args:
        learned: a formula, learned from the data.
        weights: frequency weights `(N,)`, or the name of their column.
        folds: as for `cross_validate`.
        seed: decides the folds, the same for all models.
        groups: the group of each row: rows of a group are in one fold.
        rows: further row-wise arguments; by default the offsets of the formula. Models that do not take
            them are not compared.
        classes: the labels of the response, if the table has their codes: models of classes are compared.
        candidates: name -> model of those to choose from; by default all but those compared on request only.
        scores: further held-out scores, as `cross_validate` names them.
        watch: wraps the sequence of model names, for a progress bar.
        run: maps a function over these names, as by processes side by side; fits then lack their data.
        kept: the checkpoint of the call.

    Raises:
        DataError: no model of that kind admits the response, or all fail; `folds` is out of range.
        ModelError: no model has a predictor that a companion formula describes.
    """
    y = torch.tensor(learned.design.y(learned.table).to_numpy())
    task = Task.of_formula(learned, weights, folds, seed, rows, groups)
    task = replace(task, classes=classes, scores=further_scores(scores), kept=kept)
    counts = masses(task.weights, len(y))
    kind, why = kind_of(y, counts, response, classes)
    chosen = serving(y, kind, task.keywords, candidates, classes)
    check_companions(learned.design, chosen)
    task = task.split(counts, learned.dropped)
    losses = {name: loss_of(name, known_design(learned.design, each).others) for name, each in chosen.items()}
    return replace(ranked(task.entries(chosen, losses, watch, run), kind, why), scores=task.scores)


FACTS = (
    *("params", "nll", "loss", "converged", "status", "n_iter", "n", "k"),
    *("keywords", "columns", "outputs", "responses", "losses"),
)
"""The attributes of a fit that do not refer to its model or its data."""


@dataclass(frozen=True)
class Detached:
    """An entry that can be sent to another process: its fit and its scores as arrays and plain values."""

    entry: Entry
    fit: Mapping[str, Any] | None
    scores: Mapping[str, Any] | None

    @classmethod
    def of(cls, entry: Entry) -> Detached:
        """The parts of an entry."""
        fit, scores = entry.fit, entry.validation
        facts = None if fit is None else {name: _plain(getattr(fit, name)) for name in FACTS}
        held = (
            None
            if scores is None
            else {each.name: _plain(getattr(scores, each.name)) for each in fields(scores)}
        )
        return cls(replace(entry, fit=None, validation=None), facts, held)


def _plain(value: Any) -> Any:
    """Tensors as arrays, and mappings as dictionaries; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.numpy()
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, Mapping) else value


def _of_plain(value: Any) -> Any:
    """What `_plain` was given."""
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    return {key: _of_plain(each) for key, each in value.items()} if isinstance(value, Mapping) else value


Runner = Callable[..., Iterable[Detached]]
"""Maps a function over the names of models, in their order; `kept` is the checkpoint that these write."""


def has_many_optima(model: Model) -> bool:
    """Whether a model declares several initial points, from each of which it is fitted."""
    return any(hasattr(layer, "beginnings") for layer in layers(model))


@dataclass(frozen=True)
class Task:
    """The data of a comparison: designs of each model, the response, weights, row-wise keywords and folds.

    `kept` has the fit of each model and the scores of each fold, of a call with a checkpoint.
    """

    set_up: Callable[[Model], tuple[Model, Any]]
    y: Any
    weights: Any = None
    folds: Any = 5
    seed: int = 0
    keywords: Mapping[str, Any] = field(default_factory=dict)
    groups: Any = None
    classes: Classes | None = None
    scores: tuple[str, ...] = ()
    kept: SharedJournal | None = None

    @classmethod
    def of_formula(
        cls,
        learned: Learned,
        weights: Any,
        folds: Any,
        seed: int,
        rows: Mapping[str, Any] | None = None,
        groups: Any = None,
    ) -> Task:
        """The task of a formula and its table; by default the row-wise arguments are its offsets."""

        def of_model(model: Model) -> tuple[Model, Any]:
            return designed(model, known_design(learned.design, model), learned.table)

        counts = learned.table[weights] if isinstance(weights, str) else weights
        if counts is not None:
            check_row_weights(counts, len(learned.table))
        keywords = offset_rows(learned.design, learned.table) if rows is None else rows
        return cls(of_model, learned.design.y(learned.table), counts, folds, seed, keywords, groups)

    def split(self, counts: torch.Tensor, dropped: int = 0) -> Task:
        """The task with the splits of its folds, which are the same for all models.

        Raises:
            DataError: as `cross_validate`.
        """
        found = splits_of(self.folds, numbers_of(self.y), counts, self.seed, self.groups, dropped)
        return replace(self, folds=found)

    def entries(
        self,
        candidates: Mapping[str, Model],
        losses: Mapping[str, str],
        watch: Callable[[Sequence[str]], Iterable[str]] = iter,
        run: Runner | None = None,
    ) -> list[Entry]:
        """The result of each model, name -> model, in their order."""

        def entry(name: str) -> Entry:
            return self.entry(name, candidates[name], losses[name])

        if run is None:
            return [entry(name) for name in watch(list(candidates))]
        # The slowest fits, those from several initial points, begin first: no core waits for one at the end.
        names = sorted(candidates, key=lambda name: not has_many_optima(candidates[name]))
        found = run(lambda name: Detached.of(entry(name)), watch(names), kept=self.kept)
        restored = dict(zip(names, [self._restored(each, candidates) for each in found], strict=True))
        return [restored[name] for name in candidates]

    def _restored(self, detached: Detached, candidates: Mapping[str, Model]) -> Entry:
        """An entry of another process, whose fit has its model again."""
        entry, facts = detached.entry, detached.fit
        if detached.scores is not None:
            entry = replace(entry, validation=Validation(**_of_plain(detached.scores)))
        if facts is None:
            return entry
        model, x = self.set_up(candidates[entry.model])
        inputs = given(mle, model, x, self.y, keywords=self.keywords)
        return replace(entry, fit=inputs.kept(Fit(model=flat(inputs.model), **_of_plain(facts))))

    def entry(self, name: str, model: Model, loss: str) -> Entry:
        """The result of a model: its fit and its scores, or the reason why it has none.

        Raises:
            CheckpointError: the checkpoint is of another model under this name, or of other data.
        """
        entry, kept = Entry(name, loss), self.kept
        try:
            if self.classes is not None:
                self.classes.check(model)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` in the table reports it.
                model, x = self.set_up(model)
                member = None if kept is None else kept.member((name, "fit"))
                fit = mle(model, x, self.y, weights=self.weights, checkpoint=member, **self.keywords)
                entry = replace(entry, fit=fit)
                defined = [each for each in self.scores if has_score(fit, x, self.y, each, self.keywords)]
                scores = validated(
                    model,
                    x,
                    self.y,
                    weights=self.weights,
                    groups=self.groups,
                    folds=self.folds,
                    seed=self.seed,
                    scores=defined,
                    keywords=self.keywords,
                    kept=None if kept is None else lambda fold: kept.member((name, fold)),
                )
                return replace(entry, validation=scores)
        except CheckpointError:
            raise
        except NeglogError as error:
            return replace(entry, reason=str(error))


def ranked(entries: Sequence[Entry], kind: Kind, why: str | None) -> Comparison:
    """The entries, the best first.

    Raises:
        DataError: no model could be fitted.
    """
    if all(entry.fit is None for entry in entries):
        first, *rest = entries
        more = f" {listed([entry.model for entry in rest])} fail too." if rest else ""
        raise DataError(f"no model could be fitted. {first.reason}{more}")
    return Comparison(tuple(sorted(entries, key=_rank)), kind, why)


def _margin(gap: float, error: float) -> str:
    """A difference of scores with two digits of its standard error."""
    digits = 1 - math.floor(math.log10(error)) if error > 0 else 3
    places = min(max(0, digits), SCORE_DECIMALS)
    return f"{max(gap, 0.0):.{places}f} ± {error:.{places}f} nats per row"


def _rank(entry: Entry) -> tuple[bool, bool, float, int]:
    """The best score first; of models that agree to `SCORE_DECIMALS`, the one of the fewest parameters.

    A score that is not a number is no better than -∞.
    """
    score = entry.validation.mean if entry.validation else 0.0
    score = -math.inf if math.isnan(score) else score
    parameters = 0 if entry.fit is None else entry.fit.k
    return entry.fit is None, entry.validation is None, -round(score, SCORE_DECIMALS), parameters
