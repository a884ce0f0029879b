"""Model selection: models ranked by the log scores of rows that they have not seen, as one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch

from neglog import models as built_in
from neglog.aliases import former_argument, warn_of_former
from neglog.arguments import flag, shown
from neglog.candidates import Kind, kind_of, known_design, loss_of, serving
from neglog.checkpoint import SharedJournal, checkpoint_of, digest
from neglog.comparison import Comparison, Entry, Task, compare_models, ranked
from neglog.data import prepare_fit
from neglog.errors import DataError, ModelError
from neglog.fitting.fit import Fit
from neglog.fitting.resumed import data_digest
from neglog.folds import described
from neglog.formula import Learned
from neglog.handlers import Model
from neglog.inputs.classes import Classes, labelled
from neglog.inputs.complete import learned_rows
from neglog.inputs.formulas import is_formula, split_formulas
from neglog.inputs.frames import of_pandas
from neglog.inputs.given import formula_table, labelled_response
from neglog.isolation import isolated
from neglog.layers import design_names, layers
from neglog.models.named import model_of
from neglog.offset import OFFSET_KEYWORD
from neglog.signatures import check_keywords, model_keywords
from neglog.tracing import model_name
from neglog.uncertainty.ranking import information_criteria
from neglog.validation import further_scores, masses

SECONDS_BETWEEN_FOLDS = 1.0
"""Seconds between two writes of the checkpoint of a comparison, of which each fold is a step."""
Models = ModuleType | Mapping[str, Model] | Sequence[Model | str]


@former_argument("fits", "models")
@isolated
def compare(
    models: Models,
    x: Any = None,
    y: Any = None,
    *,
    data: Any = None,
    also: Sequence[str] = (),
    weights: Any = None,
    groups: Any = None,
    drop_missing: bool = False,
    folds: Any = 5,
    seed: int = 0,
    response: Kind | None = None,
    scores: Sequence[str] = (),
    checkpoint: Any = None,
    **keywords: Any,
) -> pd.DataFrame:
    """Models ranked by the log score of rows that they have not seen: ``neglog compare``, in Python.

    Each model is fitted by `mle` to all rows, and without each fold in turn to score the rows of that fold.
    Probabilities are compared with probabilities and densities with densities. A model that cannot be fitted
    is last, with its `reason`.

    The table has a row for each model, the best first: held_out_mean, the log score per row in nats, with its
    held_out_standard_error, and held_out_sum, that of all rows; behind_the_best, the mean of the best less
    that of the model, and behind_standard_error, that of this paired difference; aic_weight and bic_weight,
    shares of exp(-criterion / 2); nll, k, n, aic and bic of the fit to all rows; converged, of all its fits;
    replaces, the loss whose likelihood it is; and reason. A further score, such as rmse, is a column under
    its name, beside rmse_standard_error; NaN for a model that does not have it. ``attrs`` has the
    ``verdict`` in words, the kind of ``response``, and as ``scope`` the reason for that kind.

    Args:
        models: `neglog.models`, for all of them that can draw the response; or a list of models, or of their
            names; or a mapping, name -> model.
        x, y, data, weights, groups, drop_missing: as for `mle`. A companion of a formula is left out of the
            models that have no such predictor; the formula with the response is that of the location.
        also: with one formula, companions for other predictors, such as ``["sigma ~ x"]``.
        folds, seed: as for `cross_validate`; all models have the same folds, of whole `groups`, if there are
            some.
        response: with `neglog.models`, ``"discrete"`` or ``"continuous"``, for whole numbers that could be
            either; by default it is as the response looks.
        scores: further held-out scores, as `cross_validate` names them: ``["rmse", "crps"]``. The ranking is
            by the log score.
        checkpoint: a file, or `neglog.Checkpoint`, where finished fits and folds are kept: after `kill -9`
            the same call goes on from there and ends at the same numbers.
        keywords: further row-wise arguments of the models, such as ``exposure``, `(N,)`.

    Raises:
        DataError: as `mle`; no model admits the response, or all fail; `folds` is out of range.
        CheckpointError: the file of `checkpoint` is damaged, or belongs to another call.
        ModelError: probabilities of one model beside densities of another; there is no such model, or two of
            one name.

    Warns:
        FutureWarning: `models` are fits, without `x` and `y`, which `information_criteria` ranks, as
            `compare` did before.

    >>> import torch
    >>> from neglog import models
    >>> x = torch.arange(12.0, dtype=torch.float64)[:, None]
    >>> y = torch.sin(x[:, 0]) + 0.1 * x[:, 0]
    >>> table = compare([models.laplace, models.gaussian], x, y, folds=3)
    >>> list(table.index), table.attrs["response"]
    (['gaussian', 'laplace'], 'continuous')
    """
    if x is None and y is None and _are_fits(models):
        warn_of_former("`compare` of fits is now `information_criteria`")
        return information_criteria(models)  # type: ignore[arg-type]
    if response is not None and models is not built_in:
        raise ModelError("`response` is for neglog.models; a list of models has one kind. Leave it out.")
    if not isinstance(also, list | tuple):
        raise DataError(f"`also` must be a list of text, such as ['sigma ~ x']; it is {shown(also)}.")
    if models is not built_in:
        _candidates(models)
    if is_formula(x):
        by_row = {"weights": weights, "groups": groups, **keywords}
        table = formula_table(compare, y, data)
        settings: dict[str, Any] = {"folds": folds, "seed": seed, "response": response}
        settings |= {"drop_missing": drop_missing, "scores": scores, "checkpoint": checkpoint}
        return _table(compared(models, x, table, by_row, also=also, **settings).comparison)
    if also:
        raise DataError("`also` is for formulas; give `x` as a mapping, such as {'mean': x, 'sigma': z}.")
    task = Task(lambda model: (model, x), y, weights, folds, seed, keywords, groups)
    task = replace(task, scores=further_scores(scores))
    return _table(_of_arrays(models, task, x, response, checkpoint))


@dataclass(frozen=True)
class Compared:
    """A comparison by a formula, with the formula, its rows, and their row-wise arguments."""

    comparison: Comparison
    learned: Learned
    rows: Mapping[str, Any]
    classes: Classes | None = None


def compared(
    models: Any,
    formulas: Any,
    table: pd.DataFrame,
    by_row: Mapping[str, Any],
    *,
    also: Sequence[str] = (),
    drop_missing: bool = False,
    folds: Any = 5,
    seed: int = 0,
    response: Kind | None = None,
    candidates: Mapping[str, Model] | None = None,
    scores: Sequence[str] | None = None,
    checkpoint: Any = None,
    **how: Any,
) -> Compared:
    """The comparison of `compare` by a formula.

    Args:
        models, also, drop_missing, folds, seed, response, scores, checkpoint: as for `compare`.
        formulas: a formula, or a mapping from predictors to formulas.
        table: the table of the formula.
        by_row: row-wise argument -> the name of a column, or a value for each row; groups and weights too.
        candidates: with `neglog.models`, name -> model of those to choose from.
        how: `watch` and `run`, as for `compare_models`.

    Raises:
        DataError, ModelError: as `compare`.
    """
    formula, others = _joint(formulas, also, table)
    cells = [part for name in table for part in (str(name), table[name].to_numpy())]
    asked: dict[str, Any] = {"formula": [formula, *others], "drop_missing": drop_missing}
    asked |= {"folds": described(folds), "seed": seed, "response": response, "scores": scores}
    kept = _kept(checkpoint, models if candidates is None else candidates, cells, by_row, **asked)
    formula, table, classes = labelled_response(formula, table)
    learned, rows = learned_rows(formula, table, others, by_row, (), flag("drop_missing", drop_missing))
    weights, groups = rows.pop("weights", None), rows.pop("groups", None)
    if models is built_in:
        settings: dict[str, Any] = {"response": response, "candidates": candidates, "classes": classes}
        settings |= {"weights": weights, "groups": groups, "folds": folds, "seed": seed, **how}
        settings |= {"scores": scores, "kept": kept}
        found = compare_models(learned, rows=rows, **settings)
    else:
        task = Task.of_formula(learned, weights, folds, seed, rows, groups)
        task = replace(task, classes=classes, scores=further_scores(scores), kept=kept)
        found = _of_formula(models, learned, task)
    if kept is not None:
        kept.end()
    return Compared(found, learned, rows, classes)


def _kept(
    checkpoint: Any, models: Any, values: Sequence[Any], by_row: Mapping[str, Any], **asked: Any
) -> SharedJournal | None:
    """The checkpoint of a comparison.

    Args:
        checkpoint: as for `compare`.
        models: those to compare; their names are facts of the call.
        values: the data.
        by_row: row-wise argument -> the name of a column, or a value for each row.
        asked: further facts of the call.

    Raises:
        CheckpointError: the file is damaged, or belongs to another call.
    """
    keeper = checkpoint_of(checkpoint, compare, SECONDS_BETWEEN_FOLDS)
    if keeper is None:
        return None
    names = "neglog.models" if models is built_in else sorted(_candidates(models))
    columns = [
        (name, each if isinstance(each, str | torch.Tensor) else np.asarray(each))
        for name, each in sorted(by_row.items())
        if each is not None
    ]
    data = digest([*values, *(part for column in columns for part in column)])
    return SharedJournal(keeper.journal(models=names, data=data, **asked))


def _of_arrays(models: Any, task: Task, x: Any, response: Kind | None, checkpoint: Any) -> Comparison:
    y, classes = labelled(of_pandas(task.y))
    task = replace(task, y=y, classes=classes)
    data = prepare_fit(x, task.y, weights=task.weights)
    if data.integer:  # whole numbers, which densities take as measurements
        task = replace(task, y=data.y)
    counts = masses(task.weights, data.rows)
    if task.groups is not None:
        data.check_rows("groups", task.groups)
    folds, task = described(task.folds), task.split(counts)
    kind, why = kind_of(data.y, counts, response, classes)
    is_own = models is built_in
    chosen = serving(data.y, kind, task.keywords, None, classes) if is_own else _candidates(models)
    _check_keywords(chosen, task.keywords)
    by_row = {**task.keywords, "groups": task.groups}
    asked = {"folds": folds, "seed": task.seed, "response": response, "scores": task.scores}
    kept = _kept(checkpoint, models, [data_digest(data)], by_row, **asked)
    task = replace(task, kept=kept)
    keys = list(x) if isinstance(x, Mapping) else []
    losses = {name: _loss(name, model, keys) for name, model in chosen.items()}
    entries = task.entries(chosen, losses)
    if kept is not None:
        kept.end()
    return replace(_ranked(entries, kind, why, models), scores=task.scores)


def held_out(comparison: Comparison, entry: Entry) -> dict[str, float]:
    """The held-out scores of a model, those behind the best, and its weights; NaN where it has none.

    Raises:
        ModelError: probabilities beside densities.
    """
    scores = entry.validation
    behind, error = comparison.behind(entry) if scores else (math.nan, math.nan)
    return {
        "held_out_mean": scores.mean if scores else math.nan,
        "held_out_standard_error": scores.standard_error if scores else math.nan,
        "held_out_sum": scores.sum if scores else math.nan,
        "behind_the_best": behind,
        "behind_standard_error": error,
        "aic_weight": comparison.weights("aic").get(entry.model, math.nan),
        "bic_weight": comparison.weights("bic").get(entry.model, math.nan),
        **_further(comparison, entry),
    }


def _further(comparison: Comparison, entry: Entry) -> dict[str, float]:
    """The further held-out scores of a model with their standard errors; NaN where it has none."""
    table = entry.validation.table() if comparison.scores and entry.validation else pd.DataFrame()
    found = {}
    for name in comparison.scores:
        for column, part in ((name, "mean"), (f"{name}_standard_error", "std_error")):
            found[column] = float(table[part][name]) if name in table.index else math.nan
    return found


def _table(comparison: Comparison) -> pd.DataFrame:
    rows = {}
    for entry in comparison.entries:
        fit = {name: getattr(entry.fit, name, math.nan) for name in ("nll", "k", "n", "aic", "bic")}
        words = {"converged": entry.converged, "replaces": entry.loss, "reason": entry.reason}
        rows[entry.model] = {**held_out(comparison, entry), **fit, **words}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.attrs = {name: getattr(comparison, name) for name in ("verdict", "response", "scope")}
    return table


def _are_fits(models: Any) -> bool:
    return isinstance(models, Mapping) and any(isinstance(each, Fit) for each in models.values())


def _candidates(models: Any) -> dict[str, Model]:
    """Name -> model of what was given to be compared.

    Raises:
        ModelError: there is nothing to compare, no such model, or two of one name.
    """
    if isinstance(models, Mapping):
        named = [(str(name), _model(each)) for name, each in models.items()]
    elif isinstance(models, list | tuple):
        found = [_model(each) for each in models]
        named = [(model_name(model), model) for model in found]
    else:
        raise ModelError(
            "`models` must be neglog.models, a list of models or names, or a mapping, name -> model; it is "
            f"{shown(models)}."
        )
    chosen = dict(named)
    if not chosen:
        raise ModelError("`models` is empty; give neglog.models, or some of them.")
    if len(chosen) < len(named):
        raise ModelError("`models` has two models of one name; give a mapping, name -> model.")
    return chosen


def _check_keywords(models: Mapping[str, Model], keywords: Mapping[str, Any]) -> None:
    """Refuse keywords that none of the models takes for its rows.

    Raises:
        ModelError: naming one.
    """
    known = [model_keywords(model) for model in models.values()]
    bounds = [getattr(layer, "row_bounds", ()) for model in models.values() for layer in layers(model)]
    if None not in known:
        taken = frozenset({OFFSET_KEYWORD}).union(*(names or () for names in known), *bounds)
        check_keywords(compare, keywords, taken, "`models`")


def _model(given: Any) -> Model:
    if isinstance(given, Fit):
        raise ModelError("`models` holds a fit; `information_criteria` ranks fits. Give models, `x` and `y`.")
    return model_of(given)


def _loss(name: str, model: Model, companions: Sequence[Any]) -> str:
    """The loss of a model in words: that of `neglog.models`, or the likelihood itself."""
    *_, inner = layers(model)
    own, names = model_name(model), design_names(model, companions)
    if inner in (getattr(built_in, each) for each in built_in.__all__):
        return loss_of(own, [names.get(each, str(each)) for each in companions])
    return f"the negative log-likelihood of `{name}`"


def _ranked(entries: Sequence[Entry], kind: Kind, why: str | None, models: Any) -> Comparison:
    comparison = ranked(entries, kind, why)
    if models is built_in:
        return comparison
    best = comparison.entries[0].validation
    probable = best is not None and best.probabilities is not None and bool(best.probabilities.all())
    return Comparison(comparison.entries, "discrete" if probable else "continuous")


def _joint(formulas: Any, also: Sequence[str], table: pd.DataFrame) -> tuple[str, Sequence[str]]:
    """The formula of the location, and the companions of other predictors.

    Raises:
        DataError: a mapping of formulas has no response, or two, or there are companions beside it.
    """
    if isinstance(formulas, str):
        return formulas, also
    if also:
        raise DataError("`also` is for a single formula; put its formulas into the mapping.")
    return split_formulas(formulas, set(map(str, table.columns)))


def _of_formula(models: Any, learned: Learned, task: Task) -> Comparison:
    """The comparison of models that were given."""
    task = task.split(masses(task.weights, len(learned.table)), learned.dropped)
    chosen = _candidates(models)
    _check_keywords(chosen, task.keywords)
    losses = {
        name: _loss(name, each, list(known_design(learned.design, each).others))
        for name, each in chosen.items()
    }
    return replace(_ranked(task.entries(chosen, losses), "continuous", None, models), scores=task.scores)
