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
from neglog.conversion import Named, as_labels, is_labelled
from neglog.data import Data, prepare_fit
from neglog.distributions import probabilities
from neglog.errors import DataError, ModelError, NeglogError, written
from neglog.fitting.estimates import mle
from neglog.fitting.fit import Fit
from neglog.handlers import Model
from neglog.inputs.given import given
from neglog.isolation import isolated
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
@dataclass(frozen=True)
class Validation:
    """Held-out log scores, in nats: the higher, the better the density that was predicted.

    `scores` `(N,)` are log p(y | x) of each row under the fit to the other folds, `folds` `(N,)` the fold of
    each row, `weights` `(N,)` the frequency weights. `converged` is whether every fit converged. `by_name`
    has all requested scores, as `neglog.scores` returns them; and of those of all rows together, such as
    ``"rmse"``, values `(N,)` whose mean is the score, linearised for its standard error. ``"log"``, ``"r2"``
    and ``"d2"`` are the higher, the better; all others are losses.
    `probabilities` `(N,)` has the rows whose log score is of a probability, not of a density.
    """

    scores: Tensor
    folds: Tensor
    weights: Tensor
    converged: bool
    by_name: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    probabilities: Tensor | None = field(default=None, repr=False)

    @property
    def sum(self) -> float:
        """The log score of all rows."""
        return float(self.weights @ self.scores)

    @property
    def mean(self) -> float:
        """The log score per row."""
        return _mean(self.scores, self.weights)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, rows taken as independent."""
        return _standard_error(self.scores, self.weights)

    def table(self) -> pd.DataFrame:
        """The mean of each score over the rows with its standard error: a row for each score."""
        import pandas as pd

        means = {name: (_mean(each, self.weights), _standard_error(each, self.weights))
                 for name, each in self.by_name.items()}  # fmt: skip
        return pd.DataFrame.from_dict(means, orient="index", columns=["mean", "std_error"])

    def above(self, other: Validation, score: str = "log") -> tuple[float, float]:
        """How much higher the mean score is than another's, with the standard error of the paired difference.

        Raises:
            DataError: the two are not of the same rows in the same folds, or one has no such score.
            ModelError: log scores of densities beside those of probabilities, which have other units.
        """
        if not torch.equal(self.folds, other.folds) or not torch.equal(self.weights, other.weights):
            raise DataError(
                "the two validations differ in their rows, folds or weights. Use the same for both."
            )
        if score == "log":
            self._check_units(other)
        difference = self._named(score) - other._named(score)
        return _mean(difference, self.weights), _standard_error(difference, self.weights)

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
            or a splitter of scikit-learn, such as ``GroupKFold(5)``, whose test sets have each row once.
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
        DataError: `folds` is below 2 or above the number of rows; as `mle`.
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
    dealt = _dealt(folds, inputs.groups, every, counts, seed)
    folds = int(dealt.max()) + 1
    names = _score_names(scores)
    split = _Rows(x, y, None if weights is None else counts, rows)
    held = {name: torch.full((len(y),), math.nan, dtype=torch.float64) for name in names}
    together = Together.of(names, model, y, weights=split.weights, **rows)
    probable = torch.zeros(len(y), dtype=torch.bool)
    converged = True
    for fold in _watched(range(folds), progress):
        out = torch.nonzero(dealt == fold)[:, 0]
        journal = UNKEPT if kept is None else kept(fold).journal(rows=digest([out]), scores=names)
        try:
            found = journal.found or _held_out(model, split, out, names, together, solver)
        except NeglogError as error:
            raise type(error)(f"without fold {fold + 1} of {folds}: {error}") from error
        journal.end(found)
        for name, values in found["scores"].items():
            held[name][out] = values
        together.add(out, found["parts"])
        probable[out] = found["probable"]
        converged = converged and found["converged"]
    held |= together.scores(counts)
    return Validation(held["log"], dealt, counts, converged, MappingProxyType(held), probable)


def _counts(model: Model, y: Any, weights: Any) -> Tensor:
    """How often each row counts, `(N,)`: not at all where a model of missing responses has none."""
    counts = masses(weights, len(y))
    return torch.where(_unknown(y), 0.0, counts) if takes_missing(model) else counts


def _held_out(
    model: Model, rows: _Rows, out: Tensor, names: Sequence[str], together: Together, solver: Any
) -> dict[str, Any]:
    """The scores of the rows with the numbers `out` under the fit to the others, and whether that converged.

    Raises:
        NeglogError: the other rows cannot be fitted, or these not be scored.
    """
    others = torch.ones(len(rows.y), dtype=torch.bool).index_fill(0, out, False).nonzero()[:, 0]
    train, test = rows.take(others), rows.take(out)
    fit = mle(model, train.x, train.y, weights=train.weights, solver=solver, **train.keywords)
    response, values = predict(fit, test.x, **test.keywords), _numbers(test.y)
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
            SUMMARIES[name].parts(response, response, _numbers(y))
        else:
            row_scores(fit, x, y, name, **keywords)
    except ModelError:
        return False
    return True


@public
def deal(masses: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each row `(N,)`. Rows of weight 0 are in no fit; they go along with the first fold.

    Raises:
        DataError: `folds` is below 2 or above the number of rows that count; or as `seed_of`.
    """
    seed = seed_of(seed)
    counted = torch.nonzero(masses > 0)[:, 0]
    if isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= len(counted):
        raise DataError(
            f"`folds` must be a whole number from 2 to the {len(counted)} rows; it is {written(folds)}."
        )
    generator = torch.Generator().manual_seed(seed)
    order = counted[torch.randperm(len(counted), generator=generator)]
    dealt = torch.zeros(len(masses), dtype=torch.int64)
    dealt[order] = torch.arange(len(counted)) % folds
    return dealt


def _dealt(folds: Any, groups: Any, data: Data, masses: Tensor, seed: int) -> Tensor:
    """The fold of each row `(N,)`, of a number of folds or of a splitter."""
    if hasattr(folds, "split") and hasattr(folds, "get_n_splits"):
        return _deal_by(folds, groups, data)
    if groups is None:
        return deal(masses, folds, seed)
    return _deal_groups(groups, data, masses, folds, seed)


def _deal_by(splitter: Any, groups: Any, data: Data) -> Tensor:
    """The fold of each row `(N,)`: the test set of a splitter that it is in.

    Raises:
        DataError: a row is in no test set, or in several.
    """
    labels = None if groups is None else as_labels("groups", groups)
    dealt, seen = torch.zeros(data.rows, dtype=torch.int64), torch.zeros(data.rows, dtype=torch.int64)
    for fold, (_, test) in enumerate(splitter.split(np.zeros((data.rows, 1)), data.y.numpy(), labels)):
        rows = torch.as_tensor(np.asarray(test))
        dealt[rows], seen[rows] = fold, seen[rows] + 1
    if bool((seen != 1).any()):
        row = int((seen != 1).nonzero()[0])
        raise DataError(
            f"`folds` must have each row in one test set; row {row} is in {int(seen[row])} of those of "
            f"{splitter!r}. Use a splitter such as KFold or GroupKFold."
        )
    return dealt


def _deal_groups(groups: Any, data: Data, masses: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each row `(N,)`: that of its group.

    Raises:
        DataError: `groups` do not match the rows, or one is missing; `folds` is above the number of groups.
    """
    import pandas as pd

    data.check_rows("groups", groups)
    codes, names = pd.factorize(as_labels("groups", groups))
    if (codes < 0).any():
        raise DataError(f"`groups` is missing in row {int(np.argmax(codes < 0))}.")
    numbers = torch.from_numpy(codes.astype(np.int64))
    of_groups = torch.zeros(len(names), dtype=torch.float64).index_add(0, numbers, masses.double())
    try:
        return deal(of_groups, folds, seed)[numbers]
    except DataError as error:
        raise DataError(str(error).replace("rows", "groups")) from None


@public
def masses(weights: Any, rows: int) -> Tensor:
    """How often each row counts `(N,)`: `weights`, which were checked before, or once."""
    if weights is None:
        return torch.ones(rows, dtype=torch.float64)
    given = weights.double() if isinstance(weights, Tensor) else np.array(weights, dtype=np.float64)
    return torch.as_tensor(given)


def _unknown(y: Any) -> Tensor:
    """The rows of a response of which nothing is known, `(N,)`."""
    values = _numbers(y)
    return torch.isnan(values).reshape(len(values), -1).all(1)


def _numbers(y: Any) -> Tensor:
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
