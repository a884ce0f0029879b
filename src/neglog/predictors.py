"""Predictors: the input-dependent parameters of models.

A predictor is named after the parameter that it predicts. Its sites are above the plate of rows:
``NAME.weight`` with shape ``(P,)`` and ``NAME.bias`` with shape ``()``. Both priors are proper and
weakly informative for columns and a response of order one: Normal(0, 2.5) and Normal(0, 5).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from numbers import Integral
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.runtime import effectful
from torch import Tensor

from neglog.arguments import check_dense, number, shown, text, whole
from neglog.calls import misfit, public
from neglog.errors import DataError, ModelError
from neglog.isolation import user_code

Designs = Tensor | Mapping[str, Tensor]

ROWS = "rows"
"""The name of the plate over the rows."""
RESPONSE = "y"
"""The name of the site of the response."""


@public
def row_count(x: Designs) -> int:
    """The number of rows N of a design `(N, P)`, or of a mapping of them.

    Raises:
        ModelError: `x` is an empty mapping, from which the number of rows is not known.
        DataError: a design is no dense tensor with rows.
    """
    return len(_like(x, is_design=False))


@public
def rows(x: Designs) -> pyro.plate:
    """The plate of independent observations, one for each row of `x`."""
    return pyro.plate(ROWS, row_count(x) or None)  # Pyro has no plate of size 0, but one of any size


@public
def design(name: str, x: Designs) -> Tensor:
    """The design `(N, P)` of the predictor `name` in `x`; without columns if there is none.

    Raises:
        DataError: the design is no dense floating-point tensor, or has not two dimensions.
    """
    text("name", name)
    if isinstance(x, Mapping):
        like = _like(x)
        found = x[name] if name in x else like.new_empty((len(like), 0))
    else:
        found = x
    _check_tensor(f"the design of `{name}`", found)
    if found.dim() != 2:
        raise DataError(
            f"the design of `{name}` needs the shape (rows, columns); it has {tuple(found.shape)}. "
            "For a single column, pass x[:, None]."
        )
    return found


@public
class Watched(dict[str, Tensor]):
    """A mapping of designs that records which of them were read."""

    def __init__(self, designs: Mapping[str, Tensor]) -> None:
        super().__init__(designs)
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.used.add(key)
        return super().__getitem__(key)


@effectful(type="affine")
@public
def affine(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    outputs: Sequence[Any] | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """`x @ weight + bias`, and an `offset` `(N,)` if there is one, as an effect: a handler may replace it,
    and supply the predictor's values.

    Shapes: `x` is `(N, P)`; `weight` is `(P,)`, or `(*S, 1, P)` under a vectorising plate of shape `S`;
    the value is `(N,)`, or `(*S, N)`. With `outputs`, D names or numbers, `weight` is `(D, P)` or
    `(*S, 1, D, P)`, `bias` `(D,)` or `(*S, 1, D)`, and the value `(N, D)` or `(*S, N, D)`. A weight drawn
    from a float32 prior takes the dtype of `x`.
    """
    for key, value in (("x", x), ("weight", weight), ("bias", bias)):
        _check_tensor(f"`{key}`", value)
    weight = weight.to(x.dtype)
    try:
        value = _affine(x, weight, bias, outputs)
        return value if offset is None else value + by_output(offset, outputs)
    except (RuntimeError, IndexError) as error:
        parts = [each for each in (x, weight, bias, offset) if each is not None]
        shapes = ", ".join(str(tuple(each.shape)) for each in parts)
        names = "`x`, `weight` and `bias`" if offset is None else "`x`, `weight`, `bias` and `offset`"
        raise DataError(f"{names} have incompatible shapes: {shapes}.") from error


def _affine(x: Tensor, weight: Tensor, bias: Tensor, outputs: Sequence[Any] | None) -> Tensor:
    if outputs is not None:
        matrix = weight if weight.dim() == 2 else weight.squeeze(-3)
        return x @ matrix.transpose(-1, -2) + bias
    if weight.dim() == 1:
        return x @ weight + bias
    return (x @ weight.transpose(-1, -2)).squeeze(-1) + bias


@public
def by_output(offset: Tensor, outputs: Sequence[Any] | None) -> Tensor:
    """An offset `(N,)`, or `(N, D)` with the same for each of D outputs."""
    return offset if outputs is None else offset[:, None].expand(-1, len(outputs))


@public
def linear(
    name: str,
    x: Designs,
    outputs: int | Sequence[Any] | None = None,
    *,
    bias: bool | dist.Distribution = True,
) -> Tensor:
    """A linear predictor with sites ``NAME.weight`` `(P,)` and ``NAME.bias`` `()`; its value is `(N,)`.

    With `outputs` D there are D of them on one design: ``NAME.weight`` `(D, P)`, ``NAME.bias`` `(D,)`, and
    the value is `(N, D)`. They are called after the columns of the response, or by their numbers; a
    sequence of names instead of D names them.

    A mapping `x` that has no design for `name` makes the predictor a constant (`P = 0`). A distribution for
    `bias` is its prior; with ``bias=False`` there is no intercept, where another parameter does its work. To
    leave it out of a model, condition it:
    ``pyro.condition(model, {"NAME.bias": torch.tensor(0.0)})``.

    >>> import torch
    >>> def median_model(x, y=None):
    ...     median = linear("median", x)
    ...     with rows(x):
    ...         return pyro.sample("y", dist.Laplace(median, 1.0), obs=y)
    >>> median_model(torch.zeros(4, 2)).shape
    torch.Size([4])
    """
    columns = design(name, x)
    outputs = None if outputs is None else _named_outputs(outputs)
    shape = () if outputs is None else (len(outputs),)
    weights, zeros = columns.new_zeros((*shape, columns.shape[1])), columns.new_zeros(shape)
    weight = pyro.sample(f"{name}.weight", dist.Normal(weights, 2.5).to_event(weights.dim()))
    if bias is False:
        return affine(columns, weight, zeros, outputs, name=name)
    prior = dist.Normal(zeros, 5.0).to_event(zeros.dim()) if bias is True else bias
    if not isinstance(prior, torch.distributions.Distribution):
        raise ModelError(f"`bias` must be True, False or a distribution; it is {shown(bias)}.")
    return affine(columns, weight, pyro.sample(f"{name}.bias", prior), outputs, name=name)


@public
def positive(name: str, x: Designs, rate: float = 1.0, outputs: int | None = None) -> Tensor:
    """A positive parameter: a constant, or ``exp`` of a linear predictor where `x` has a design for it.

    As a constant it is one site ``NAME`` of shape `()` (`(D,)` with `outputs` D) with the prior
    Exponential(rate). With a design, its linear predictor is on the log scale, as the site names show:
    ``log_NAME.weight``, ``log_NAME.bias``.
    """
    text("name", name)
    if isinstance(x, Mapping) and name in x:
        return torch.exp(linear(f"log_{name}", x[name], outputs))
    rate = number("rate", rate, 0)
    rates = _like(x).new_full(() if outputs is None else (whole("outputs", outputs),), rate)
    return pyro.sample(name, dist.Exponential(rates).to_event(rates.dim()))


@public
def probability(name: str, x: Designs) -> Tensor:
    """A probability, as its log-odds: a constant, or a linear predictor where `x` has a design for it.

    As a constant it is one site ``NAME`` of shape `()` with the prior Uniform(0, 1). With a design, its
    linear predictor is the log-odds, as the site names show: ``logit_NAME.weight``, ``logit_NAME.bias``.
    """
    text("name", name)
    if isinstance(x, Mapping) and name in x:
        return linear(f"logit_{name}", x[name])
    one = _like(x).new_ones(())
    return torch.logit(pyro.sample(name, dist.Beta(one, one)))


@public
def simplex(name: str, x: Designs, outputs: int) -> Tensor:
    """Shares of a whole, as their logits: constants, or linear predictors where `x` has a design for them.

    As constants, `(D,)` for `outputs` D, they are one site ``NAME`` with the prior Dirichlet(1, ..., 1). With
    a design, the linear predictors are the log-odds of all but the first against the first, and the sites
    say so: ``logit_NAME.weight`` `(D - 1, P)`, ``logit_NAME.bias`` `(D - 1,)`; the value is `(N, D)`.
    """
    text("name", name)
    whole("outputs", outputs)
    if isinstance(x, Mapping) and name in x:
        return against_first(linear(f"logit_{name}", x[name], range(1, outputs)))
    return torch.log(pyro.sample(name, dist.Dirichlet(_like(x).new_ones(outputs))))


@public
def against_first(logits: Tensor) -> Tensor:
    """The logits `(..., D)` of D classes from those `(..., D - 1)` of all but the first, whose own is 0."""
    if not isinstance(logits, Tensor) or logits.dim() == 0:
        raise DataError(f"`logits` must be a torch.Tensor of shape (..., D - 1); it is {shown(logits)}.")
    check_dense("logits", logits)
    return torch.cat([torch.zeros_like(logits[..., :1]), logits], -1)


@public
def design_keys(predictor: str) -> tuple[str, ...]:
    """The keys under which a mapping of designs may have that of a predictor, such as ``log_scale``."""
    text("predictor", predictor)
    return tuple(dict.fromkeys((predictor, predictor.removeprefix("log_"), predictor.removeprefix("logit_"))))


def _like(x: Designs, is_design: bool = True) -> Tensor:
    """The design, or one of them: it has the rows and the dtype of all.

    Raises:
        ModelError: `x` is an empty mapping.
        DataError: it is no dense floating-point tensor with rows.
    """
    if isinstance(x, Mapping) and not x:
        raise ModelError(
            "`x` is an empty mapping; give at least one predictor a design, if need be without columns."
        )
    like = next(iter(x.values())) if isinstance(x, Mapping) else x
    _check_tensor("`x`", like, is_design)
    if not like.dim():
        raise DataError("`x` needs the shape (rows, columns); it is a single number.")
    return like


def _check_tensor(name: str, value: Any, is_design: bool = True) -> None:
    """Refuse a design that is no dense floating-point tensor; `neglog.mle` converts others itself.

    What is no design may be of any real dtype.
    """
    if not isinstance(value, Tensor) or value.is_complex():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise DataError(
            f"{name} must be a real torch.Tensor where a model is called, as torch.as_tensor makes it; it is "
            f"{kind}."
        )
    check_dense(name.strip("`"), value)
    if is_design and value.dtype not in (torch.float32, torch.float64):  # of others torch draws no Beta
        raise DataError(f"{name} must be of dtype float32 or float64, not {value.dtype}. Pass x.double().")


def _named_outputs(outputs: int | Sequence[Any]) -> Sequence[Any]:
    """The names or the numbers of outputs."""
    if isinstance(outputs, Sequence) and not isinstance(outputs, str | bytes):
        return outputs
    return range(whole("outputs", outputs))


@public
def row_supports(**supports: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a model with the supports of its row-wise keywords: keyword -> constraint.

    They stay on the model as ``row_supports``; data outside them are refused before a fit and a prediction.

    >>> from torch.distributions import constraints
    >>> @row_supports(exposure=constraints.nonnegative)
    ... def counts(x, y=None, exposure=None):
    ...     return exposure
    >>> counts.row_supports
    {'exposure': GreaterThanEq(lower_bound=0.0)}
    """

    def decorate(model: Callable[..., Any]) -> Callable[..., Any]:
        if not inspect.isroutine(model):
            raise ModelError(f"`row_supports` decorates a function, not {shown(model)}.")
        function: Any = model
        function.row_supports = supports
        return model

    return decorate


@public
def sized(**sizes: Callable[[Tensor], int]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a model whose sizes (classes, dimensions) are read from the response: keyword -> reader.

    A keyword that is given wins. The readers stay on the model as ``sizes``, so that a fit can bind what it
    has read, for predictions.

    Raises:
        ModelError: when the model runs, if it has neither the keyword nor a response.

    >>> import torch
    >>> @sized(columns=lambda y: y.shape[1])
    ... def widths(x, y=None, columns=None):
    ...     return columns
    >>> widths(torch.zeros(3, 1), torch.zeros(3, 2)), widths(torch.zeros(3, 1), columns=4)
    (2, 4)
    """

    for key, read in sizes.items():
        if not callable(read):
            raise ModelError(f"`{key}` must be a function of the response; it is {shown(read)}.")

    def decorate(model: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(model)
        def filled(x: Designs, y: Tensor | None = None, **keywords: Any) -> Any:
            if y is not None:
                _check_tensor("`y`", y, is_design=False)
            for name, read in sizes.items():
                if keywords.get(name) is None:
                    if y is None:
                        raise misfit(model, (x, y), keywords) or ModelError(
                            f"`{model.__name__}` has no `y` to read `{name}` from; bind it, as in "
                            f"functools.partial({model.__name__}, {name}=3)."
                        )
                    keywords[name] = read_size(name, read, y)
            return model(x, y, **keywords)

        filled.sizes = sizes  # type: ignore[attr-defined]
        return filled

    return decorate


@public
def read_size(name: str, read: Callable[[Tensor], int], y: Tensor) -> int:
    """The size that a function of `sized` reads from a response.

    Raises:
        ModelError: the function raises an error, or returns no whole number.
    """
    with user_code(f"the function that reads `{name}` from `y`"):
        size: Any = read(y)
    if isinstance(size, Tensor) and not size.dim() and not (size.is_floating_point() or size.is_complex()):
        size = int(size)
    if isinstance(size, bool) or not isinstance(size, Integral) or size < 0:
        raise ModelError(
            f"the function that reads `{name}` from `y` must return a whole number, not negative; it "
            f"returned {shown(size)}. Convert it by int()."
        )
    return int(size)
