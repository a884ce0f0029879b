"""Many quantiles of one response: a line for each, and where they cross."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from torch import Tensor

from neglog import models
from neglog.arguments import share, shown
from neglog.calls import public
from neglog.checkpoint import SharedJournal, checkpoint_of
from neglog.conversion import check_unmasked
from neglog.errors import DataError, ModelError
from neglog.fitting.estimates import mle
from neglog.fitting.fit import Fit
from neglog.fitting.pipeline import refitted
from neglog.handlers import flat
from neglog.inputs.given import given
from neglog.isolation import isolated
from neglog.persistence import ReadOnly
from neglog.solvers import InteriorPoint

CROSSED = 1e-9
"""Lines cross where the upper one is lower by more than this share of their sizes; less is rounding."""


@public
@dataclass(frozen=True)
class Quantiles(ReadOnly, Mapping[float, Fit]):
    """tau -> the `Fit` of ``partial(models.quantile, tau=tau)``, the lowest first. A value, as `Fit` is.

    Attributes:
        crossings: two neighbouring taus -> the number of rows of the data where the line of the higher one is
            below that of the lower one; empty where no lines cross on the data.
    """

    fits: Mapping[float, Fit] = field(repr=False)
    crossings: Mapping[tuple[float, float], int]

    def __getitem__(self, tau: float) -> Fit:
        return self.fits[tau]

    def __iter__(self) -> Iterator[float]:
        return iter(self.fits)

    def __len__(self) -> int:
        return len(self.fits)

    @property
    def note(self) -> str:
        """Which lines cross, in words; empty where none do."""
        found = [
            f"{lower:g} and {upper:g} in {rows} row{'s' * (rows > 1)}"
            for (lower, upper), rows in self.crossings.items()
        ]
        return f"the lines of {'; of '.join(found)} cross" if found else ""


@isolated
def quantile_process(
    x: Any,
    y: Any = None,
    taus: Iterable[float] | None = None,
    *,
    data: Any = None,
    weights: Any = None,
    groups: Any = None,
    offset: Any = None,
    drop_missing: bool = False,
    checkpoint: Any = None,
) -> Quantiles:
    """The quantile process: linear regressions at many quantiles, each as by `mle`, sharing the work.

    The data are read and the design is decomposed once. Each fit is an exact vertex, certified on all rows
    just as that of `mle` is; of many rows, those that decide it are sought next to the line of the quantile
    below. The model is `neglog.models.quantile`, and no argument: quantiles of another likelihood are those
    of its predictions, `neglog.quantile`.

    Args:
        x, y, data, weights, groups, offset, drop_missing: as for `mle`: a design `(N, P)` and the response
            `(N,)`, or a formula and its table.
        taus: the quantiles, between 0 and 1, in any order.
        checkpoint: a file, or `neglog.Checkpoint`, where the fits so far are kept: after `kill -9` the same
            call goes on from there and ends at the same numbers.

    Raises:
        DataError: as `mle`; a tau that is not between 0 and 1, or none at all.
        SingularDesignError: coefficients that the design does not identify.
        UnboundedLikelihoodError: a perfect fit.

    Warns:
        ConvergenceWarning: for some tau no optimum was certified.

    >>> import torch
    >>> x = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.float64)[:, None]
    >>> y = torch.tensor([1.0, 0.0, 3.0, 2.0, 6.0, 3.0, 9.0], dtype=torch.float64)
    >>> fits = quantile_process(x, y, [0.3, 0.6])
    >>> {tau: round(fit.params["quantile.weight"].item(), 4) for tau, fit in fits.items()}
    {0.3: 0.75, 0.6: 1.5}
    """
    _check_no_model(x)
    ordered, kept = _ordered(taus), checkpoint_of(checkpoint, quantile_process)
    several = None if kept is None else SharedJournal(kept.journal(taus=ordered))
    keywords = {} if offset is None else {"offset": offset}
    inputs = given(
        quantile_process,
        models.quantile,
        x,
        y,
        data=data,
        weights=weights,
        groups=groups,
        drop_missing=drop_missing,
        keywords=keywords,
    )
    fits: dict[float, Fit] = {}
    for tau in ordered:
        model = partial(inputs.model, tau=tau)
        member = None if several is None else several.member(tau)
        if fits:
            below, last = next(reversed(fits.items()))
            fits[tau] = refitted(last, flat(model), InteriorPoint(_shift=tau - below), member)
        else:
            fits[tau] = mle(model, **inputs.arguments, checkpoint=member)
    if several is not None:
        several.end()
    crossings = _crossings({tau: _line(fit) for tau, fit in fits.items()})
    fits = {tau: inputs.kept(fit) for tau, fit in fits.items()}
    return Quantiles(MappingProxyType(fits), MappingProxyType(crossings))


def _check_no_model(x: Any) -> None:
    """Refuse a model in the place of the design, where other functions take it."""
    if callable(x) or (isinstance(x, str) and x in models.__all__):
        raise ModelError(
            "`quantile_process` takes no model, since it fits models.quantile alone. Leave it out: "
            "quantile_process('y ~ x', data, taus). Quantiles of another model are "
            "neglog.quantile(fit, x, taus)."
        )


def _crossings(lines: Mapping[float, Tensor]) -> dict[tuple[float, float], int]:
    """Two neighbouring taus -> the number of rows where their lines cross, if there are any."""
    found = {}
    for lower, upper in pairwise(lines):
        size = lines[lower].abs().maximum(lines[upper].abs())
        rows = int((lines[upper] < lines[lower] - CROSSED * size).sum())
        if rows:
            found[lower, upper] = rows
    return found


def _ordered(taus: Any) -> list[float]:
    """The quantiles, the lowest first.

    Raises:
        DataError: one is not between 0 and 1, or there is none.
    """
    try:
        check_unmasked("taus", taus)
        found = sorted({share("taus", tau) for tau in taus})
    except ModelError as error:
        raise DataError(str(error)) from None
    except (TypeError, RuntimeError) as error:
        raise DataError(
            f"`taus` needs quantiles between 0 and 1, such as [0.25, 0.5]; it is {shown(taus)}."
        ) from error
    if not found:
        raise DataError("`taus` needs quantiles between 0 and 1; it has [].")
    return found


def _line(fit: Fit) -> Tensor:
    """The quantile of each row of the data, `(N,)`."""
    coordinates = fit.coordinates
    assert coordinates is not None
    (block,) = coordinates.blocks
    z = coordinates.z(coordinates.objective.layout.theta(fit.params))
    return block.eta(z[block.places])
