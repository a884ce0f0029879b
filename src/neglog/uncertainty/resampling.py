"""The bootstrap: the sampling distribution of estimates by refits to resampled data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neglog.arguments import choice, seed_of, share, whole
from neglog.batches.batch import fitted_again
from neglog.batches.stack import drawn_again
from neglog.calls import public
from neglog.checkpoint import UNKEPT, Journal, Part, Unkept, checkpoint_of, digest, settings_of
from neglog.conversion import as_labels
from neglog.data import Data
from neglog.errors import ConvergenceWarning, DataError, ModelError, NeglogError, reason_of, warn
from neglog.fitting.estimates import mle
from neglog.fitting.fit import Fit, data_of
from neglog.fitting.resumed import data_digest
from neglog.isolation import isolated
from neglog.labels import estimates, flat_range, labels_of, tabulated
from neglog.likelihood.sites import Layout
from neglog.objective.objective import Objective
from neglog.objective.ranges import scale_of, value_of
from neglog.persistence import ReadOnly
from neglog.predictors import RESPONSE
from neglog.solvers import check_solver
from neglog.tracing import Run, model_name, run
from neglog.uncertainty.information import data_and_objective, influence

Kind = Literal["rows", "weights", "parametric"]
Interval = Literal["percentile", "basic", "bca"]
MAX_RESAMPLED_ENTRIES = 20_000_000
"""Entries of the weights or responses of resampled data, draws × rows, in memory at a time."""
COUNTED_ENTRIES = 100_000
"""Entries of row indices that are drawn and counted at a time, so that they stay in the cache."""


@public
@dataclass(frozen=True, eq=False)
class Bootstrap(ReadOnly):
    """Estimates from resampled data. A value, as `Fit` is.

    Attributes:
        fit: the fit that was bootstrapped.
        kind: the resampling scheme.
        draws: the estimates, one row for each draw that has an optimum, by its index, and one column for
            each (parameter, term) of `summary`.
        converged: whether an optimum was certified, `(draws,)`. A draw can be without one: separated classes,
            dependent columns.
        groups: the number of the group that each row is in, `(N,)`, or None.
    """

    fit: Fit = field(repr=False)
    kind: Kind
    draws: pd.DataFrame = field(repr=False)
    converged: np.ndarray = field(repr=False)
    groups: np.ndarray | None = field(default=None, repr=False)

    @property
    def standard_errors(self) -> pd.Series:
        """The standard deviation of each parameter's draws, with the divisor draws - 1."""
        return self.draws.std(ddof=1).rename("std_error")

    def covariance(self) -> pd.DataFrame:
        """The covariance of the draws `(K, K)`, by (parameter, term), with the divisor draws - 1."""
        return self.draws.cov(ddof=1)

    @isolated
    def interval(self, level: float = 0.95, kind: Interval = "percentile") -> pd.DataFrame:
        """Confidence intervals: a data frame with the columns lower and upper, by (parameter, term).

        With q the quantiles of the draws and t the estimate, ``percentile`` is [q(a/2), q(1 - a/2)] and
        ``basic`` [2t - q(1 - a/2), 2t - q(a/2)], of the logarithm of a positive parameter and the log-odds of
        one between two ends (a correlation, a share), so that it stays in its range. ``bca``
        corrects the quantiles for bias and skewness (acceleration by the infinitesimal jackknife), and needs
        resampled rows or groups.

        Raises:
            ModelError: `level` is not between 0 and 1; an unknown kind; too few draws for the level; for
                ``bca``, draws that do not resample rows, or a fit without an information matrix.

        Sources: Davison & Hinkley (1997), Bootstrap Methods and their Application, chapter 5; Efron (1987),
        Better bootstrap confidence intervals; DiCiccio & Efron (1996), section 6, for the acceleration.
        """
        level = share("level", level)
        choice("kind", kind, ("percentile", "basic", "bca"))
        tail = (1 - level) / 2
        if len(self.draws) * tail < 1:
            raise ModelError(
                f"{len(self.draws)} draws are too few for a tail probability of {tail:g}; use more "
                "`draws`, or a lower `level`."
            )
        shares = np.tile(np.array([[tail], [1 - tail]]), len(self.draws.columns))
        estimate = _estimates(self.fit)
        if kind == "bca":
            shares = self._accelerated(shares, estimate)
        columns = self.draws.to_numpy().T
        ends = np.array([np.quantile(v, q) for v, q in zip(columns, shares.T, strict=True)])
        if kind == "basic":
            ends = self._reflected(estimate, ends)
        return pd.DataFrame(ends, index=self.draws.columns, columns=["lower", "upper"])

    def _reflected(self, estimate: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The ends `(K, 2)` reflected at the estimates, on the unbounded scale of each parameter."""
        layout = self._layout()
        labels = labels_of(self.fit, layout)
        known = dict(zip(labels, zip(*flat_range(layout), strict=True), strict=True))
        low, high = (
            torch.stack(part)[:, None] for part in zip(*map(known.get, self.draws.columns), strict=True)
        )
        at, _ = scale_of(torch.tensor(estimate)[:, None], low, high)
        far, _ = scale_of(torch.tensor(ends), low, high)
        found: np.ndarray = value_of(2 * at - far, low, high).flip(1).numpy()
        return found

    def _layout(self) -> Layout:
        """The parameters of the draws: those of a network from a pickle are not known, but for its heads."""
        needed_by = "interval kind='basic' of a network"
        if self.fit.retained is None or self.fit.retained.is_network:
            return data_and_objective(self.fit, needed_by)[1].layout
        return self.fit.retained.layout

    def _accelerated(self, shares: np.ndarray, estimate: np.ndarray) -> np.ndarray:
        """The shares `(2, K)` of the draws between which BCa intervals reach."""
        if self.kind != "rows":
            raise ModelError(
                f"interval kind='bca' needs resampled rows, and these draws are of kind {self.kind!r}; use "
                "kind='percentile' or 'basic'."
            )
        values = self.draws.to_numpy()
        below = ((values < estimate).mean(0) + (values <= estimate).mean(0)) / 2
        if not np.all((below > 0) & (below < 1)):
            stuck = self.draws.columns[int(np.argmin((below > 0) & (below < 1)))]
            raise ModelError(
                f"all draws of {stuck} are on one side of its estimate, so its bias correction is infinite."
            )
        weights = data_of(self.fit, "interval kind='bca'").weights
        pulls = influence(self.fit).to_numpy()
        masses = np.ones(len(pulls)) if weights is None else weights.numpy()
        if self.groups is not None:
            pulls = pd.DataFrame(pulls * masses[:, None]).groupby(self.groups).sum().to_numpy()
            masses = np.ones(len(pulls))
        acceleration = (masses @ pulls**3) / (6 * (masses @ pulls**2) ** 1.5)
        centre, reach = _normal_quantile(below), _normal_quantile(shares) + _normal_quantile(below)
        return _normal_cdf(centre + reach / (1 - acceleration * reach))


@isolated
def bootstrap(
    fit: Fit,
    draws: int = 1000,
    *,
    kind: Kind = "rows",
    groups: Any = None,
    seed: int = 0,
    solver: Any = None,
    checkpoint: Any = None,
) -> Bootstrap:
    """Refit a model to resampled data, for the sampling distribution of its estimates.

    Models that `mle_batch` takes are fitted together; others one after the other, from the estimates on.

    Args:
        fit: a maximum-likelihood fit that converged.
        draws: the number of data sets.
        kind: ``"rows"`` draws as many observations as there are, with replacement (of whole groups, if
            `groups` is given); ``"weights"`` gives each observation, or each group, an exponential weight:
            the Bayesian bootstrap, without empty classes; ``"parametric"`` keeps `x` and draws `y` from the
            fitted model.
        groups: the group of each row, `(N,)`, such as the patient of a visit: rows within a group may be
            dependent. By default those of the fit, except for ``"parametric"``.
        seed: the seed of the draws. The same seed gives the same draws.
        solver: one of `neglog.solvers` for the refits, which then run one by one; None for the default.
        checkpoint: a file, or `neglog.Checkpoint`, where the refits so far are kept: after `kill -9` the same
            call goes on from there and ends at the same numbers.

    Raises:
        ModelError: the fit is not one of maximum likelihood, or did not converge; fewer than two draws have
            an optimum; an unknown kind.
        DataError: the fit was read from disk, without its data; `groups` do not match the rows, or are given
            with ``"parametric"``; weights that are not whole numbers, unless the draws are weights.

    Warns:
        ConvergenceWarning: draws without a certified optimum, which are left out.

    Posterior modes (`map_estimate`) are refused: penalised estimates are biased towards their prior, so the
    variance of refits is not their error; for a lasso it is not even a consistent estimate of their variance
    (Chatterjee & Lahiri 2010). Their uncertainty is the posterior's.

    Sources: Efron (1979), Bootstrap methods; Rubin (1981), The Bayesian bootstrap; Davison & Hinkley (1997),
    section 3.8, for groups.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
    >>> fit = mle(models.gaussian, x, 1 + 2 * x[:, 0] + torch.sin(7.0 * torch.arange(40)))
    >>> again = bootstrap(fit, draws=200)
    >>> again.interval(0.9).loc[("mean", "x0")].round(1).to_dict()
    {'lower': 1.4, 'upper': 2.5}
    """
    data = _validated_data(fit, draws, kind, seed)
    if solver is not None:
        check_solver("solver", solver)
    numbers = None if groups is None else _group_numbers_of(groups, data, kind)
    if groups is None and fit.groups is not None and kind != "parametric":
        numbers = group_numbers(fit.groups, data)
    size = max(1, MAX_RESAMPLED_ENTRIES // data.rows)
    samples = (
        _parametric(fit, data, draws, size, seed)
        if kind == "parametric"
        else _reweighted(data, draws, size, kind, numbers, np.random.default_rng(seed))
    )
    facts = {"kind": kind, "draws": draws, "seed": seed, "groups": digest([numbers])}
    journal = _journal(checkpoint, fit, data, solver, facts)
    found, converged, reason = _refitted(fit, samples, solver, journal)
    missed = int((~converged).sum())
    if missed > draws - 2:
        raise ModelError(
            f"{missed} of {draws} draws have no optimum{reason}, so there is no bootstrap distribution."
        )
    if missed:
        warn(
            f"`bootstrap` leaves out {missed} of {draws} draws without a certified optimum{reason}; the "
            "results describe the others alone. kind='weights' keeps every row in each draw.",
            ConvergenceWarning,
        )
    table = tabulated(fit, {name: value[converged] for name, value in found.items()})
    table.index = pd.Index(converged.nonzero()[:, 0].numpy(), name="draw")
    return Bootstrap(fit, kind, table, converged.numpy(), numbers)


Sample = tuple[Data, Tensor, Tensor | None]
"""Data, whose own y and weights are not used; y `(N,)` or `(S, N)`; weights `(S, N)` or None."""


def _validated_data(fit: Fit, draws: int, kind: str, seed: int) -> Data:
    data = data_of(fit, "`bootstrap`")
    assert fit.objective is not None
    if not all(site.masked for site in fit.objective.sites.values()):
        raise ModelError(
            "`bootstrap` needs a fit of maximum likelihood, and this one has priors: the spread of its "
            "refits does not include the bias towards the priors. Use the posterior, or `mle`."
        )
    if not fit.converged:
        raise ModelError(f"a fit without a certified optimum cannot be bootstrapped: {fit.status}.")
    choice("kind", kind, ("rows", "weights", "parametric"))
    whole("draws", draws, 2)
    seed_of(seed)
    counted = data.weights is None or bool((data.weights == data.weights.round()).all())
    if kind != "weights" and not counted:
        raise DataError(
            f"kind={kind!r} needs observations that can be counted, and some `weights` are no whole numbers; "
            "use kind='weights'."
        )
    return data


def _group_numbers_of(groups: Any, data: Data, kind: str) -> np.ndarray:
    if kind == "parametric":
        raise DataError("kind='parametric' draws every y independently; leave `groups` out.")
    return group_numbers(groups, data)


def group_numbers(groups: Any, data: Data) -> np.ndarray:
    """The groups of the rows that were fitted, as numbers from 0, `(N,)`.

    Raises:
        DataError: `groups` do not match the rows, have a missing entry, or are a single group.
    """
    given = as_labels("groups", groups)
    if given.ndim != 1:
        raise DataError(f"`groups` needs the shape (rows,); it has {given.shape}.")
    data.check_rows("groups", groups)
    try:
        codes, names = pd.factorize(given if data.index is None else given[data.index.numpy()])
    except TypeError as error:
        raise DataError(f"`groups` must be numbers or text, one entry a row; {reason_of(error)}.") from error
    if (codes < 0).any():
        raise DataError(f"`groups` is missing in row {data.row(int(np.argmax(codes < 0)))}.")
    if len(names) < 2:
        raise DataError("`groups` has a single group, so the variation between groups cannot be estimated.")
    return codes


def _reweighted(
    data: Data, draws: int, size: int, kind: str, groups: np.ndarray | None, rng: np.random.Generator
) -> Iterator[Sample]:
    """The data with weights `(S, N)` for some draws at a time."""
    own = np.ones(data.rows) if data.weights is None else data.weights.numpy()
    number = 0 if groups is None else int(groups.max()) + 1
    for low in range(0, draws, size):
        count = min(size, draws - low)
        if kind == "rows" and groups is None:
            items = None if data.weights is None else np.repeat(np.arange(data.rows), own.astype(int))
            weights = _counts(items, data.rows, count, rng)
        elif kind == "rows":
            weights = _counts(None, number, count, rng)[:, groups] * own
        elif groups is None:  # the sum of w exponential variables is a gamma variable of shape w
            weights = rng.standard_exponential((count, data.rows))
            weights = weights if data.weights is None else rng.standard_gamma(own, (count, data.rows))
        else:
            weights = rng.standard_exponential((count, number))[:, groups] * own
        yield data, data.y, torch.from_numpy(weights)


def _counts(items: np.ndarray | None, size: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `size` rows or groups is drawn `(draws, size)`, resampling `items` with replacement.

    `items` are indices of rows, each repeated by its weight; None means each index once.
    """
    number = size if items is None else len(items)
    counts, one = torch.zeros((draws, size), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    step = max(1, COUNTED_ENTRIES // number)
    for low in range(0, draws, step):
        part = counts[low : low + step]
        drawn = rng.integers(number, size=(len(part), number), dtype=np.uint32)
        index = torch.from_numpy(drawn.astype(np.int64) if items is None else items[drawn])
        part.scatter_add_(1, index, one.expand(index.shape))
    return counts.numpy()


def _parametric(fit: Fit, data: Data, draws: int, size: int, seed: int) -> Iterator[Sample]:
    """The data with y `(S, N)` from the fitted model, for some draws at a time; one row per observation."""
    if data.weights is not None:
        index = torch.arange(data.rows).repeat_interleave(data.weights.long())
        data = replace(data.take(index), weights=None)
    response = run(fit.model, data, Run(fit.params), response=False).sites[RESPONSE]["fn"]
    state = torch.Generator().manual_seed(seed).get_state()
    for low in range(0, draws, size):
        with torch.random.fork_rng(devices=[]):  # distributions know no other generator than torch's own
            torch.set_rng_state(state)
            y = response.sample((min(size, draws - low),)).to(data.y.dtype)
            state = torch.get_rng_state()
        yield data, torch.where(torch.isnan(data.y), torch.nan, y), None


def _journal(
    checkpoint: Any, fit: Fit, data: Data, solver: Any, facts: Mapping[str, Any]
) -> Journal | Unkept:
    kept = checkpoint_of(checkpoint, bootstrap)
    if kept is None:
        return UNKEPT
    settings = "None" if solver is None else settings_of(solver)
    estimates = digest([part for name, value in fit.params.items() for part in (name, value)])
    model = model_name(fit.model)
    return kept.journal(model=model, data=data_digest(data), estimates=estimates, solver=settings, **facts)


@dataclass
class _Refits:
    """The refits so far: the parameters of whole chunks of draws, and the state inside a chunk."""

    together: bool
    found: list[Mapping[str, Tensor]] = field(default_factory=list)
    converged: list[Tensor] = field(default_factory=list)
    reason: str = ""
    inner: Any = None

    def state(self, inner: Any = None) -> dict[str, Any]:
        """The state, with one inside a chunk."""
        return {**vars(self), "inner": inner}

    @property
    def draws(self) -> int:
        """The number of draws of whole chunks."""
        return sum(map(len, self.converged))

    def add(self, fit: Fit, sample: Sample, solver: Any, journal: Journal | Unkept) -> None:
        """Refit a chunk of draws."""
        params, optimal = None, torch.empty(0)
        if self.together:
            try:
                params, optimal = _together(fit, *sample)
            except NeglogError:  # a network, a mixture, vectors
                self.together = False
        if params is None:
            part = Part(journal, self.inner, self.state)
            params, optimal, why = _one_by_one(fit, *sample, solver, part, self.draws)
            self.reason = self.reason or why
        self.found.append(params)
        self.converged.append(optimal)
        self.inner = None
        journal.write(self.state(), self.draws)


def _refitted(
    fit: Fit, samples: Iterator[Sample], solver: Any, journal: Journal | Unkept
) -> tuple[dict[str, Tensor], Tensor, str]:
    """The parameters `(draws, *shape)`, which of them are optima, and why the first other is none."""
    refits = _Refits(solver is None) if journal.found is None else _Refits(**journal.found)
    for sample in islice(samples, len(refits.found), None):
        refits.add(fit, sample, solver, journal)
    found, converged, reason = refits.found, refits.converged, refits.reason
    params = {name: torch.cat([part[name] for part in found]) for name in fit.params}
    optimal = torch.cat(converged)
    for value in params.values():
        optimal = optimal & torch.isfinite(value).reshape(len(value), -1).all(1)
    return params, optimal, reason


def _together(fit: Fit, data: Data, y: Tensor, weights: Tensor | None) -> tuple[Mapping[str, Tensor], Tensor]:
    assert fit.objective is not None
    objective = fit.objective if fit.objective.rows == data.rows else Objective(fit.model, data)
    return fitted_again(objective, fit.params, drawn_again(data, y, weights))


def _one_by_one(
    fit: Fit,
    data: Data,
    y: Tensor,
    weights: Tensor | None,
    solver: Any,
    checkpoint: Part,
    before: int,
) -> tuple[dict[str, Tensor], Tensor, str]:
    """Refits of single draws: parameters `(S, *shape)`, which are optima, and why the first other is none."""
    count = len(y) if weights is None else len(weights)
    params = {name: value.expand(count, *value.shape).clone() for name, value in fit.params.items()}
    converged, reason, first = torch.zeros(count, dtype=torch.bool), "", 0
    if checkpoint.found is not None:
        params, converged, reason, first = checkpoint.found
    for s in range(first, count):
        if checkpoint.is_due(before + s):
            checkpoint.write((params, converged, reason, s), before + s)
        own, mass = (y[s], None) if weights is None else (y, weights[s])
        one, failure = _refit(fit, data, own, mass, solver)
        reason = reason or failure
        if one is None:
            continue
        converged[s] = one.converged
        for name, value in one.params.items():
            params[name][s] = value
    return params, converged, reason


def _refit(fit: Fit, data: Data, y: Tensor, weights: Tensor | None, solver: Any) -> tuple[Fit | None, str]:
    """A fit to one draw, if there is any, and why it is no optimum."""
    settings = {"weights": weights, "start": fit.params, "solver": solver, **data.keywords}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            one = mle(fit.model, data.x, y, **settings)
    except NeglogError as error:
        return None, f" (the first: {error})"
    return one, "" if one.converged else f" (the first: {one.status})"


def _estimates(fit: Fit) -> np.ndarray:
    return estimates(fit).to_numpy()


def _normal_quantile(share: np.ndarray) -> np.ndarray:
    return torch.special.ndtri(torch.from_numpy(np.asarray(share))).numpy()


def _normal_cdf(quantile: np.ndarray) -> np.ndarray:
    return torch.special.ndtr(torch.from_numpy(np.asarray(quantile))).numpy()
