"""Fits of rows that are read a batch at a time: the sample from which they start, and their end."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from neglog.data import Data
from neglog.errors import ConvergenceWarning, ModelError, NeglogError, warn
from neglog.fitting.fit import Fit
from neglog.fitting.held_out import divided, is_division, with_held_out
from neglog.fitting.retained import Retained
from neglog.handlers import Model
from neglog.layers import is_network, layers
from neglog.objective.basis import sample_of
from neglog.objective.objective import Objective
from neglog.objective.shrinkage import prior_of
from neglog.objective.streamed import nll_of
from neglog.signatures import roles_of
from neglog.solvers import Adam
from neglog.solvers.training import Training
from neglog.streams.stream import Stream


def in_batches(solver: Any, stream: Stream) -> Any:
    """The solver with the batch size of a stream.

    Raises:
        ModelError: it needs all rows at a time.
    """
    solver = copy(Adam() if solver is None else solver)
    if not isinstance(solver, Training):
        raise ModelError(
            f"`{type(solver).__name__}` needs all rows at a time, and those of a {stream.name} are read in "
            "batches. Train by gradient steps, solver=neglog.solvers.Adam(epochs=...), or give the rows as "
            "tensors."
        )
    object.__setattr__(solver, "batch_size", stream.batch_size)
    return solver


def head_of(caller: Callable[..., Any], model: Model, stream: Stream, solver: Any) -> Data:
    """A sample of the rows of a stream, beside the rows that are held out, which has the stream."""
    dtype = solver.dtype or own_dtype(model)
    held_out, validation = None, solver.validation
    if is_division(validation):
        kept, out = divided(stream.rows, validation, solver.seed)
        stream, held_out = stream.of_rows(kept), stream.of_rows(out)
    rows = stream.sampled(sample_of)
    roles = roles_of(model, dict.fromkeys(rows.keys() - {"x", "y", "weights"}), caller)
    stream = replace(stream, dtype=dtype, roles=roles)
    data = stream.validated(rows)
    stream = replace(stream, like=data)
    if held_out is not None:
        held_out = replace(stream, source=held_out.source)
    return with_held_out(replace(data, stream=stream, held_out=held_out), solver, roles)


def own_dtype(model: Model) -> torch.dtype:
    """The dtype of the parameters of a network, float32 at least; float64 of a model without one."""
    network = next((layer for layer in layers(model) if hasattr(layer, "trainable")), None)
    if network is None:
        return torch.float64
    own: torch.dtype = next(iter(network.trainable.values())).dtype
    return own if own in (torch.float32, torch.float64) else torch.float32


def is_streamed(data: Data) -> bool:
    """Whether some rows of a fit are read in batches, of the fit itself or of its validation."""
    return data.stream is not None or isinstance(data.held_out, Stream)


@torch.no_grad()
def totals(objective: Objective, stream: Stream, theta: Tensor) -> tuple[float, float, float]:
    """Minus the log-likelihood of a stream, minus the log prior, and the number of observations.

    Warns:
        ConvergenceWarning: a batch is wrong; then the first is NaN.
    """
    try:
        nll, count = nll_of(objective, stream, theta)
    except NeglogError as error:
        warn(f"the log-likelihood of the fit is not known: {error}", ConvergenceWarning)
        nll, count = math.nan, float(stream.rows)
    return nll, 0.0 if objective.layout.is_flat else float(prior_of(objective.scant, theta)), count


def without_rows(fit: Fit, objective: Objective) -> Fit:
    """The fit, without rows where it is that of a stream."""
    if objective.data.stream is None:
        return fit
    predictors = frozenset(call.name for call in objective.calls)
    whole, source = objective.layout, f"was trained on a `{objective.data.stream.name}` in batches"
    kept = Retained(whole, whole, predictors, is_network(fit.model), source=source)
    return replace(fit, objective=None, coordinates=None, retained=kept)
