"""Fisher's information: the expected information of an observation of each family in its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from neglog import distributions as families
from neglog.distributions.canonical import family
from neglog.errors import ModelError
from neglog.objective.coordinates import Coordinates
from neglog.predictors import RESPONSE
from neglog.uncertainty.information import cut_run, in_blocks, slopes_of, summed_products

Entries = Mapping[tuple[int, int], Tensor]
Family = tuple[tuple[str, ...], Callable[..., Entries]]
EULER = 0.5772156649015329
"""The Euler-Mascheroni constant."""
MAX_COUNT_PROBABILITIES = 5_000_000
"""Largest number of probabilities, rows × counts, in the information on a dispersion."""


def expected_information(coordinates: Coordinates, z: Tensor) -> Tensor:
    """The expected information `(K, K)` of the rows in z under the model.

    The sum of Jᵀ I J over the rows: I is the information of a family in its own parameters, J their Jacobian.

    Raises:
        ModelError: the information of the family of `y` is not known.
    """
    total = coordinates.zeros(coordinates.size, coordinates.size)
    for _, part in in_blocks(coordinates):
        total += _of_rows(part, z)
    return total


def _of_rows(coordinates: Coordinates, z: Tensor) -> Tensor:
    """The expected information `(K, K)` of a block of rows."""
    ran, theta, etas = cut_run(coordinates, z)
    values, entries = _parameters(ran.sites[RESPONSE], coordinates.objective.name)
    slopes = [slopes_of(value, theta, etas) for value in values]
    weights = coordinates.objective.data.weights
    total = coordinates.zeros(coordinates.size, coordinates.size)
    for (a, b), entry in entries.items():
        each = entry if weights is None else entry * weights
        part = summed_products(coordinates, slopes[a], slopes[b], each.expand(coordinates.rows))
        total += part if a == b else part + part.T
    return total


def _parameters(msg: Mapping[str, Any], model: str) -> tuple[list[Tensor], Entries]:
    """The parameters `(N,)` of a response's family, and the entries of the information in them."""
    fn = msg["fn"]
    known = family_of(fn)
    univariate = msg["mask"] in (None, False, True) and len(fn.batch_shape) == 1
    if univariate and known is not None:
        return _of_family(fn, known)
    if univariate and family(fn) in CLASSES:
        return _of_classes(fn)
    names = ", ".join(f"`{kind.__name__}`" for kind in (*FAMILIES, families.Categorical, families.Ordered))
    raise ModelError(
        f"the expected information of `{model}`, whose y is drawn from `{type(fn).__name__}`, is not known; "
        f"it is for {names}. Use kind='observed' or 'sandwich'."
    )


def _of_family(fn: Any, known: Family) -> tuple[list[Tensor], Entries]:
    """The parameters `(N,)` of a family, and the entries of the information in them."""
    names, of = known
    dtype = torch.float64
    values = [torch.as_tensor(getattr(fn, name), dtype=dtype).expand(fn.batch_shape) for name in names]
    with torch.no_grad():
        return values, of(fn, *(value.detach() for value in values))


def _of_classes(fn: Any) -> tuple[list[Tensor], Entries]:
    """The log-probabilities `(N,)` of the classes, and the probabilities: Σ p s sᵀ is the information."""
    count = fn.cutpoints.shape[-1] + 1 if isinstance(fn, families.Ordered) else fn.logits.shape[-1]
    codes = torch.arange(count, dtype=torch.float64)
    values = [fn.log_prob(code.expand(fn.batch_shape)) for code in codes]
    return values, {(k, k): value.detach().exp() for k, value in enumerate(values)}


def family_of(fn: Any) -> Family | None:
    """The parameters and the information of the family of a density; None if unknown."""
    return FAMILIES.get(family(fn))


def _location_scale(of_location: float, of_scale: float) -> Callable[..., Entries]:
    """The information of a symmetric density, in units of 1 / scale²."""

    def entries(fn: Any, location: Tensor, scale: Tensor) -> Entries:
        unit = scale.square().reciprocal()
        return {(0, 0): of_location * unit, (1, 1): of_scale * unit}

    return entries


def _asymmetric_laplace(fn: Any, location: Tensor, scale: Tensor) -> Entries:
    return {(0, 0): fn.tau * (1 - fn.tau) / scale.square(), (1, 1): scale.square().reciprocal()}


def _student(fn: Any, df: Tensor, loc: Tensor, scale: Tensor) -> Entries:
    # Lange, Little & Taylor (1989), appendix B.
    trigamma = torch.special.polygamma
    own = trigamma(1, df / 2) - trigamma(1, (df + 1) / 2) - 2 * (df + 5) / (df * (df + 1) * (df + 3))
    return {
        (0, 0): own / 4,
        (1, 1): (df + 1) / ((df + 3) * scale.square()),
        (2, 2): 2 * df / ((df + 3) * scale.square()),
        (0, 2): -2 / (scale * (df + 1) * (df + 3)),
    }


def _poisson(fn: Any, rate: Tensor) -> Entries:
    return {(0, 0): _reciprocal(rate)}


def _reciprocal(variance: Tensor) -> Tensor:
    """1 / variance; 0 where a count is certain, as at an exposure of 0, and no parameter changes that."""
    return torch.where(variance > 0, variance.reciprocal(), 0.0)


def _bernoulli(fn: Any, logits: Tensor) -> Entries:
    return {(0, 0): logits.sigmoid() * (-logits).sigmoid()}


def _binomial(fn: Any, logits: Tensor) -> Entries:
    return {(0, 0): fn.total_count * logits.sigmoid() * (-logits).sigmoid()}


def _negative_binomial(fn: Any, mean: Tensor, dispersion: Tensor) -> Entries:
    # With r = 1 / dispersion, I(r) = Σ_j P(Y > j) / (r + j)² - mean / (r (r + mean)); dr = -r² d(1 / r).
    r, last = 1 / dispersion, int(fn.icdf(torch.full_like(mean, 1 - 1e-13)).max())
    if last * len(mean) > MAX_COUNT_PROBABILITIES:
        raise ModelError("the counts are too large for the expected information; use kind='observed'.")
    counts = torch.arange(last + 2, dtype=mean.dtype)[:, None]
    probabilities = fn.log_prob(counts).exp()
    tails = probabilities.flip(0).cumsum(0).flip(0)[1:]  # P(Y > j), summed from the small ones on
    beyond = (tails / (r + counts[:-1]).square()).sum(0)
    own = beyond - mean / (r * (r + mean))
    return {(0, 0): _reciprocal(mean + dispersion * mean.square()), (1, 1): own * r**4}


def _gamma(fn: Any, concentration: Tensor, rate: Tensor) -> Entries:
    return {
        (0, 0): torch.special.polygamma(1, concentration),
        (0, 1): -1 / rate,
        (1, 1): concentration / rate.square(),
    }


def _weibull(fn: Any, scale: Tensor, concentration: Tensor) -> Entries:
    return {
        (0, 0): (concentration / scale).square(),
        (0, 1): -(1 - EULER) / scale,
        (1, 1): ((1 - EULER) ** 2 + math.pi**2 / 6) / concentration.square(),
    }


def _inverse_gaussian(fn: Any, mean: Tensor, concentration: Tensor) -> Entries:
    return {(0, 0): concentration / mean**3, (1, 1): 0.5 / concentration.square()}


def _beta(fn: Any, a: Tensor, b: Tensor) -> Entries:
    both = torch.special.polygamma(1, a + b)
    return {
        (0, 0): torch.special.polygamma(1, a) - both,
        (0, 1): -both,
        (1, 1): torch.special.polygamma(1, b) - both,
    }


FAMILIES: Mapping[type, tuple[tuple[str, ...], Callable[..., Entries]]] = {
    families.Normal: (("loc", "scale"), _location_scale(1.0, 2.0)),
    families.Laplace: (("loc", "scale"), _location_scale(1.0, 1.0)),
    families.Logistic: (("location", "scale"), _location_scale(1 / 3, (3 + math.pi**2) / 9)),
    families.AsymmetricLaplace: (("location", "scale"), _asymmetric_laplace),
    families.StudentT: (("df", "loc", "scale"), _student),
    families.Poisson: (("rate",), _poisson),
    families.NegativeBinomial2: (("mean", "dispersion"), _negative_binomial),
    families.Bernoulli: (("logits",), _bernoulli),
    families.Binomial: (("logits",), _binomial),
    families.LogNormal: (("loc", "scale"), _location_scale(1.0, 2.0)),
    families.Gamma: (("concentration", "rate"), _gamma),
    families.Weibull: (("scale", "concentration"), _weibull),
    families.InverseGaussian: (("mean", "concentration"), _inverse_gaussian),
    families.Beta: (("concentration1", "concentration0"), _beta),
}
"""Family -> its parameters, and the entries of its information in them."""
CLASSES = (families.Ordered, families.Categorical)
"""The families of classes, whose expected information is a sum over all of them."""
