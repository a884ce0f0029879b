"""Cross-validation: the log score of every row under a fit that has not seen it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from neglog.arguments import flag, seed_of, shown
from neglog.calls import public
from neglog.checkpoint import UNKEPT, MemberCheckpoint, digest
from neglog.conversion import Named, is_labelled
from neglog.data import prepare_fit
from neglog.distributions import probabilities
from neglog.errors import DataError, ModelError, NeglogError
from neglog.fitting.estimates import mle
from neglog.fitting.fit import Fit
from neglog.folds import Split, Splits, splits_of
from neglog.handlers import Model
from neglog.inputs.given import given
from neglog.isolation import isolated
from neglog.persistence import ReadOnly
from neglog.prediction.accuracy import SUMMARIES
from neglog.prediction.held_out import Together
from neglog.prediction.predictions import predict
from neglog.prediction.scoring import parsed
from neglog.prediction.scoring import scores as row_scores
from neglog.signatures import roles_of
from neglog.tracing import takes_missing, with_sizes

if TYPE_CHECKING:
    import pandas as pd


@public
@dataclass(frozen=True, eq=False)
class Validation(ReadOnly):
    """Held-out log scores, in nats: the higher, the better the density that was predicted.

    `scores` `(N,)` are log p(y | x) of each row under the fit to the other folds, `folds` `(N,)` the fold of
    each row, `weights` `(N,)` the frequency weights. Of a splitter that holds rows out several times or never
    there is an entry for each time that a row is held out, and `rows` has the positions of their rows, in
    ascending order: means are over these entries, standard errors over rows. `converged` is whether every fit
    converged. `by_name` has all requested scores, as `neglog.scores` returns them; and of those of all rows
    together, such as ``"rmse"``, values `(N,)` whose mean is the score, linearised for its standard error.
    ``"log"``, ``"r2"`` and ``"d2"`` are the higher, the better; all others are losses.
    `probabilities` `(N,)` has the rows whose log score is of a probability, not of a density.
    """

    scores: Tensor
    folds: Tensor
    weights: Tensor
    converged: bool
    by_name: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    probabilities: Tensor | None = field(default=None, repr=False)
    rows: Tensor | None = field(default=None, repr=False)

    @property
    def sum(self) -> float:
        """The log score of all rows; of a row that is held out several times, the mean of its scores."""
        return float((self.weights / self._times) @ self.scores)

    @property
    def mean(self) -> float:
        """The log score per row."""
        return _mean(self.scores, self.weights)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, rows taken as independent."""
        return self._error(self.scores)

    def table(self) -> pd.DataFrame:
        """The mean of each score over the rows with its standard error: a row for each score."""
        import pandas as pd

        means = {name: (_mean(each, self.weights), self._error(each))
                 for name, each in self.by_name.items()}  # fmt: skip
        return pd.DataFrame.from_dict(means, orient="index", columns=["mean", "std_error"])

    def above(self, other: Validation, score: str = "log") -> tuple[float, float]:
        """How much higher the mean score is than another's, with the standard error of the paired difference.

        Raises:
            DataError: the two are not of the same rows in the same folds, or one has no such score.
            ModelError: log scores of densities beside those of probabilities, which have other units.
        """
        if not self._has_entries_of(other):
            raise DataError(
                "the two validations differ in their rows, folds or weights. Use the same for both."
            )
        if score == "log":
            self._check_units(other)
        difference = self._named(score) - other._named(score)
        return _mean(difference, self.weights), self._error(difference)

    def _has_entries_of(self, other: Validation) -> bool:
        pairs = ((self.folds, other.folds), (self.weights, other.weights), (self._rows, other._rows))
        return all(torch.equal(one, two) for one, two in pairs)

    @property
    def _rows(self) -> Tensor:
        return torch.arange(len(self.scores)) if self.rows is None else self.rows

    @property
    def _times(self) -> Tensor:
        """How often the row of each entry is held out, `(N,)`."""
        return torch.bincount(self._rows)[self._rows]

    def _error(self, values: Tensor) -> float:
        """The standard error of the mean of entries: rows are independent, the entries of one row are not."""
        if self.rows is None:
            return _standard_error(values, self.weights)
        order, places, times = self.rows.unique(return_inverse=True, return_counts=True)
        first = torch.zeros(len(order), dtype=torch.int64).scatter(0, places, torch.arange(len(places)))
        weights = self.weights[first]
        # The deviation of a row from the mean counts as often as it is held out, relative to the others.
        away = torch.zeros(len(order), dtype=torch.float64).index_add(
            0, places, values - _mean(values, self.weights)
        )
        return _standard_error(away * weights.sum() / (weights @ times.double()), weights)

    def _check_units(self, other: Validation) -> None:
        one, two = self.probabilities, other.probabilities
        if one is not None and two is not None and not torch.equal(one, two):
            raise ModelError(
                f"in {int((one != two).sum())} of {len(one)} rows one log score is of a density, and the "
                "other of a probability. Compare models of counts or classes with each other, and models of "
                "measurements with each other; or by another score, such as 'crps'."
            )

    def _named(self, score: str) -> Tensor:
        if score == "log":
            return self.scores
        if score not in self.by_name:
            raise DataError(f"there is no held-out score {score!r}; pass it in `scores` of `cross_validate`.")
        return self.by_name[score]


@isolated
def cross_validate(
    model: Model | str,
    x: Any,
    y: Any = None,
    *,
    data: Any = None,
    weights: Any = None,
    groups: Any = None,
    drop_missing: bool = False,
    folds: Any = 5,
    seed: int = 0,
    solver: Any = None,
    progress: bool = False,
    scores: str | Sequence[str] = ("log",),
    **rows: Any,
) -> Validation:
    """Fit `model` by maximum likelihood without each fold in turn, and score the rows left out.

    The rows are dealt into folds of equal size, in an order that `seed` alone decides: torch's random state
    is neither used nor changed, and two models see the same folds.

    Args:
        model, x, y, data, weights, drop_missing: as for `mle`. Under `masked`, rows of which nothing is known
            do not count. The levels and knots of a formula are learned from all rows, its coefficients are
            not. A row that counts more than once is never on both sides of a fold.
        groups: the group of each row, `(N,)`: rows of a group are in one fold.
        folds: how many folds, from 2 to the number of rows (then each row is left out alone), or of groups;
            or a splitter of scikit-learn, such as ``GroupKFold(5)``, or its pairs of positions
            ``[(train, test), ...]``. Where it holds rows out several times or never, as ``RepeatedKFold`` and
            ``TimeSeriesSplit`` do, means are over all that it holds out, with repeats.
        seed: decides the folds.
        solver: as in `mle`.
        progress: show a bar on stderr.
        scores: which scores to keep, one name or several, as `neglog.scores` names them; the log score is
            always among them. And scores of all held-out rows together: ``"rmse"`` of the predicted means,
            ``"mae"`` of the predicted medians, ``"r2"``, ``"d2"`` (deviance explained) and ``"calibration"``,
            the calibration error. The baseline of R² and D² is the same for all folds, as in
            ``sklearn.metrics.r2_score`` of ``cross_val_predict``: the mean of the rows, and the fit of the
            model without columns.
        rows: keywords of the model that belong to the rows.

    Raises:
        DataError: `folds` is below 2 or above the number of rows, or cannot split them; as `mle`.
        ModelError: no such score, or one that the response does not have.
        NeglogError: the rows outside a fold cannot be fitted; the message names the fold.
    """
    own = {"data": data, "weights": weights, "groups": groups, "drop_missing": drop_missing}
    how = {"folds": folds, "seed": seed, "solver": solver, "progress": progress, "scores": scores}
    return validated(model, x, y, **own, **how, keywords=rows)


@public
def validated(
    model: Model | str,
    x: Any,
    y: Any,
    *,
    data: Any = None,
    weights: Any = None,
    groups: Any = None,
    drop_missing: bool = False,
    folds: Any,
    seed: int,
    solver: Any = None,
    progress: bool = False,
    scores: str | Sequence[str],
    keywords: Mapping[str, Any],
    kept: Callable[[int], MemberCheckpoint] | None = None,
) -> Validation:
    """`cross_validate`, which may keep the result of each fold.

    Args:
        model, x, y, data, weights, groups, drop_missing, folds, seed, solver, progress, scores: as for
            `cross_validate`.
        keywords: keywords of the model that belong to the rows.
        kept: the number of a fold -> its checkpoint, of the same model and data.

    Raises:
        NeglogError: as `cross_validate`.
    """
    inputs = given(
        cross_validate,
        model,
        x,
        y,
        data=data,
        weights=weights,
        groups=groups,
        drop_missing=drop_missing,
        keywords=keywords,
    )
    model, x, weights, rows = inputs.model, inputs.x, inputs.weights, dict(inputs.keywords)
    every = prepare_fit(**inputs.arguments, roles=roles_of(model, rows, cross_validate))
    model = with_sizes(model, every.y)
    y, rows = _column(inputs.y), {name: _column(values) for name, values in rows.items()}
    seed, progress = seed_of(seed), flag("progress", progress)
    counts = _counts(model, y, weights)
    dropped = 0 if inputs.blueprint is None else inputs.blueprint.dropped
    if inputs.groups is not None:
        every.check_rows("groups", inputs.groups)
    splits = splits_of(folds, numbers_of(y), counts, seed, inputs.groups, dropped)
    names = _score_names(scores)
    data = _Rows(x, y, None if weights is None else counts, rows)
    together = Together.of(names, model, y, weights=data.weights, **rows)
    parts = []
    for fold in _watched(range(len(splits)), progress):
        split = splits[fold]
        journal = UNKEPT if kept is None else kept(fold).journal(rows=digest(split.positions), scores=names)
        try:
            found = journal.found or _held_out(model, data, split, names, together, solver)
        except NeglogError as error:
            raise type(error)(f"without fold {fold + 1} of {len(splits)}: {error}") from error
        journal.end(found)
        together.add(split.test, found["parts"])
        parts.append(found)
    return _joined(splits, parts, counts, together)


def _joined(
    splits: Splits, parts: Sequence[Mapping[str, Any]], counts: Tensor, together: Together
) -> Validation:
    """The results of all folds, in the order of the rows; of one held out several times, of the folds."""
    rows, order = torch.cat([split.test for split in splits]).sort(stable=True)
    folds = torch.cat([torch.full_like(split.test, fold) for fold, split in enumerate(splits)])[order]
    each_once = torch.equal(rows, torch.arange(len(counts)))

    def entries(name: str) -> Tensor:
        return torch.cat([found["scores"][name] for found in parts])[order]

    weights = counts[rows]
    held = {name: entries(name) for name in parts[0]["scores"]} | together.scores(weights)
    probable = torch.cat([found["probable"] for found in parts])[order]
    converged = all(found["converged"] for found in parts)
    by_name = MappingProxyType(held)
    where = None if each_once else rows
    return Validation(held["log"], folds, weights, converged, by_name, probable, where)


def _counts(model: Model, y: Any, weights: Any) -> Tensor:
    """How often each row counts, `(N,)`: not at all where a model of missing responses has none."""
    counts = masses(weights, len(y))
    return torch.where(_unknown(y), 0.0, counts) if takes_missing(model) else counts


def _held_out(
    model: Model, rows: _Rows, split: Split, names: Sequence[str], together: Together, solver: Any
) -> dict[str, Any]:
    """The scores of the rows that a split holds out under the fit to the others, and whether that converged.

    Raises:
        NeglogError: the other rows cannot be fitted, or these not be scored.
    """
    train, test = rows.take(split.fitted(len(rows.y))), rows.take(split.test)
    fit = mle(model, train.x, train.y, weights=train.weights, solver=solver, **train.keywords)
    response, values = predict(fit, test.x, **test.keywords), numbers_of(test.y)
    return {
        "scores": {
            name: row_scores(fit, test.x, test.y, name, **test.keywords)
            for name in names
            if name not in SUMMARIES
        },
        "parts": together.parts_of(response, values, test.keywords),
        "probable": probabilities(response, values),
        "converged": fit.converged,
    }


@dataclass(frozen=True)
class _Rows:
    """The arguments of a fit that have an entry for each row."""

    x: Any
    y: Any
    weights: Tensor | None
    keywords: Mapping[str, Any]

    def take(self, index: Tensor) -> _Rows:
        """The arguments at some rows."""
        weights = None if self.weights is None else self.weights[index]
        return _Rows(_take(self.x, index), _take(self.y, index), weights, _take(self.keywords, index))


def _score_names(scores: Any) -> tuple[str, ...]:
    """The names of the scores to compute, the log score first.

    Raises:
        ModelError: the argument is no list, or there is no such score.
    """
    scores = [scores] if isinstance(scores, str) else scores
    if not isinstance(scores, Sequence):
        raise ModelError(f"`scores` must be a list of names, such as ['log', 'crps']; it is {shown(scores)}.")
    for name in scores:
        parsed(name, SUMMARIES)
    return tuple(dict.fromkeys(("log", *scores)))


@public
def further_scores(scores: Any) -> tuple[str, ...]:
    """The names of scores besides the log score; none for None.

    Raises:
        ModelError: the argument is no list, or there is no such score.
    """
    return () if scores is None else _score_names(scores)[1:]


@public
def has_score(fit: Fit, x: Any, y: Any, name: str, keywords: Mapping[str, Any]) -> bool:
    """Whether a score is defined for the predictions of a fit; those of classes are not for numbers."""
    try:
        if name in SUMMARIES:
            response = predict(fit, x, **keywords)
            SUMMARIES[name].parts(response, response, numbers_of(y))
        else:
            row_scores(fit, x, y, name, **keywords)
    except ModelError:
        return False
    return True


@public
def masses(weights: Any, rows: int) -> Tensor:
    """How often each row counts `(N,)`: `weights`, which were checked before, or once."""
    if weights is None:
        return torch.ones(rows, dtype=torch.float64)
    given = weights.double() if isinstance(weights, Tensor) else np.array(weights, dtype=np.float64)
    return torch.as_tensor(given)


def _unknown(y: Any) -> Tensor:
    """The rows of a response of which nothing is known, `(N,)`."""
    values = numbers_of(y)
    return torch.isnan(values).reshape(len(values), -1).all(1)


@public
def numbers_of(y: Any) -> Tensor:
    """A response as a tensor, `(N,)` or `(N, D)`; NaN where it is missing."""
    if isinstance(y, Tensor | Named):
        return y if isinstance(y, Tensor) else y.values
    import pandas as pd

    values = torch.tensor(pd.DataFrame(y).to_numpy(np.float64, na_value=np.nan))
    return values[:, 0] if np.ndim(y) == 1 else values


def _column(values: Any) -> Any:
    """A response or a keyword of which rows can be taken."""
    known = isinstance(values, Tensor | np.ndarray | Named) or is_labelled(values)
    return values if known else np.asarray(values)


def _take(values: Any, index: Tensor) -> Any:
    """The rows at `index` of a tensor, an array, a frame, or a mapping of them."""
    if isinstance(values, Mapping):
        return {name: _take(value, index) for name, value in values.items()}
    if is_labelled(values):
        return values.iloc[index.numpy()]
    if isinstance(values, Tensor):
        return values[index]
    if isinstance(values, Named):
        return replace(values, values=values.values[index])
    return np.asarray(values)[index.numpy()]


def _watched(folds: range, progress: bool) -> Iterable[int] | Iterator[int]:
    if not progress:
        return folds
    from rich.console import Console
    from rich.progress import track

    return track(folds, "folds", console=Console(file=sys.stderr), transient=True)


def _mean(values: Tensor, weights: Tensor) -> float:
    return float(weights @ values / weights.sum())


def _standard_error(values: Tensor, weights: Tensor) -> float:
    # Frequency weights: the sample variance of the rows written out, over how many there are.
    count = float(weights.sum())
    if count <= 1:
        return math.nan
    squares = float(weights @ (values - _mean(values, weights)).square())
    return math.sqrt(squares / (count - 1) / count)
