"""Comparison: every model that admits a response, fitted to it and scored on rows it has not seen.

Probabilities are compared with probabilities and densities with densities: a density has units, so that no
number of nats decides between the two.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyro
import torch

from neglog import losses, models
from neglog.checkpoint import Several
from neglog.data import check_row_weights
from neglog.errors import (
    CheckpointError,
    ConvergenceWarning,
    DataError,
    ModelError,
    NeglogError,
    did_you_mean,
)
from neglog.fitting.estimates import mle
from neglog.fitting.fit import Fit
from neglog.formula import Design, Learned
from neglog.handlers import Model, flat
from neglog.inputs.classes import Classes
from neglog.inputs.given import given
from neglog.isolation import isolated
from neglog.layers import layers
from neglog.models.named import model_named
from neglog.offset import OFFSET_KEYWORD
from neglog.signatures import model_keywords, row_keywords
from neglog.tracing import admits, is_discrete, positive_names, predictor_names
from neglog.uncertainty.ranking import criterion_weights
from neglog.validation import Validation, deal, further_scores, has_score, masses, validated

__all__ = ["Comparison", "Entry", "compare_models", "designs", "loss_of", "model_named", "set_up"]

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
        names = _listed([entry.model for entry in near])
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
    folds: int = 5,
    seed: int = 0,
    response: Kind | None = None,
    groups: Any = None,
    rows: Mapping[str, Any] | None = None,
    classes: Classes | None = None,
    candidates: Mapping[str, Model] | None = None,
    scores: Sequence[str] | None = None,
    watch: Callable[[Sequence[str]], Iterable[str]] = iter,
    run: Runner | None = None,
    kept: Several | None = None,
) -> Comparison:
    """Fit and cross-validate every model of one kind of `neglog.models` that can draw the response.

    A response of whole numbers could be counts, which have probabilities, or rounded measurements, which
    have a density. It is counts if none is negative, and one is 0 or their standard deviation is small
    (`MAX_COUNT_SPREAD`). A model that fails is listed with its reason. Design columns are learned from all
    rows, as the levels of a category must be; estimates are not.

    Args:
        learned: a formula, learned from the data.
        weights: frequency weights `(N,)`, or the name of their column.
        folds: how many folds.
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
    _check_companions(learned.design, chosen)
    if task.groups is None:
        deal(counts, folds, seed)
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
    folds: int = 5
    seed: int = 0
    keywords: Mapping[str, Any] = field(default_factory=dict)
    groups: Any = None
    classes: Classes | None = None
    scores: tuple[str, ...] = ()
    kept: Several | None = None

    @classmethod
    def of_formula(
        cls,
        learned: Learned,
        weights: Any,
        folds: int,
        seed: int,
        rows: Mapping[str, Any] | None = None,
        groups: Any = None,
    ) -> Task:
        """The task of a formula and its table; by default the row-wise arguments are its offsets."""

        def designed(model: Model) -> tuple[Model, Any]:
            return _set_up(model, known_design(learned.design, model), learned.table)

        counts = learned.table[weights] if isinstance(weights, str) else weights
        if counts is not None:
            check_row_weights(counts, len(learned.table))
        keywords = offset_rows(learned.design, learned.table) if rows is None else rows
        return cls(designed, learned.design.y(learned.table), counts, folds, seed, keywords, groups)

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
        more = f" {_listed([entry.model for entry in rest])} fail too." if rest else ""
        raise DataError(f"no model could be fitted. {first.reason}{more}")
    return Comparison(tuple(sorted(entries, key=_rank)), kind, why)


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
        raise ModelError(f"no model takes the row-wise argument {_listed(sorted(rows))}. Leave it out.")
    return found


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


def _margin(gap: float, error: float) -> str:
    """A difference of scores with two digits of its standard error."""
    digits = 1 - math.floor(math.log10(error)) if error > 0 else 3
    places = min(max(0, digits), SCORE_DECIMALS)
    return f"{max(gap, 0.0):.{places}f} ± {error:.{places}f} nats per row"


def _serves(name: str, model: Model, y: torch.Tensor, kind: Kind, rows: Collection[str]) -> bool:
    if name in OVERDISPERSED and not bool((y > 1).any()):
        return False
    if is_discrete(model, **row_keywords(model)) != (kind == "discrete"):
        return False
    return "trials" in rows or admits(model, y)  # the number of trials, which bounds y, is checked by the fit


def _none_serves(y: torch.Tensor, kind: Kind, rows: Collection[str]) -> str:
    if rows:
        return (
            f"no {kind} model of such a response takes {_listed(sorted(rows))}. Leave it out, or compare the "
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
    return _set_up(model_named(name), design, table)


def known_design(design: Design, model: Model) -> Design:
    """The design with those companions alone that describe a predictor of the model."""
    return design.known_to(*_names(model))


def _names(model: Model) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The linear predictors of a model, and its constants that may have a design."""
    rows = row_keywords(model)
    return predictor_names(model, **rows), positive_names(model, **rows)


def _set_up(model: Model, design: Design, table: pd.DataFrame) -> tuple[Model, Any]:
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
        return f"the negative log-likelihood of `{name}` with a head for {_listed(heads)}"
    return f"{loss.torch_loss} ({loss.name})" if loss.torch_loss.startswith("torch.") else loss.torch_loss


def _check_companions(design: Design, candidates: Mapping[str, Model]) -> None:
    known: Mapping[str, None] = {}
    for model in candidates.values():
        predictors, positive = _names(model)
        known = {**known, **dict.fromkeys([*predictors[1:], *positive])}
    for other in design.others:
        if other not in known:
            near = did_you_mean(other, known, "`{}`")
            raise ModelError(
                f"no model here has a predictor `{other}`; there are {_listed(list(known))}.{near}"
            )


def _rank(entry: Entry) -> tuple[bool, bool, float, int]:
    """The best score first; of models that agree to `SCORE_DECIMALS`, the one of the fewest parameters.

    A score that is not a number is no better than -∞.
    """
    score = entry.validation.mean if entry.validation else 0.0
    score = -math.inf if math.isnan(score) else score
    parameters = 0 if entry.fit is None else entry.fit.k
    return entry.fit is None, entry.validation is None, -round(score, SCORE_DECIMALS), parameters


def _listed(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]
