"""Penalties: what a prior on the weights is called where losses have a penalty."""

from __future__ import annotations

from numbers import Integral

from neglog.errors import DataError
from neglog.losses.shapes import positive


def ridge_alpha(sigma: float, prior_scale: float) -> float:
    """The ``alpha`` of scikit-learn's ``Ridge`` that a Normal prior on the weights amounts to.

    Density: ``y ~ Normal(bias + X @ weight, sigma)`` and ``weight ~ Normal(0, prior_scale)``, with sigma
    fixed and a flat prior on the bias, which ``Ridge`` does not penalise. Then::

        -log posterior         =  RSS / (2 sigma²)  +  ‖weight‖² / (2 prior_scale²)  +  constant
        2 sigma² · the above   =  RSS  +  (sigma² / prior_scale²) ‖weight‖²  +  constant

    ``Ridge`` minimises ``RSS + alpha ‖weight‖²``, so ``alpha = sigma² / prior_scale²``, however many rows
    there are.

    Units: sigma is in units of y, prior_scale in units of a weight.

    With this alpha the optimum of ``Ridge`` is the MAP estimate, which for a Normal posterior is its mean
    too (Hoerl and Kennard, 1970).

    Raises ``DataError`` unless both are positive, finite numbers.

    >>> ridge_alpha(sigma=3.0, prior_scale=2.0)
    2.25
    """
    return (positive("sigma", sigma) / positive("prior_scale", prior_scale)) ** 2


def lasso_alpha(sigma: float, prior_scale: float, rows: int) -> float:
    """The ``alpha`` of scikit-learn's ``Lasso`` that a Laplace prior on the weights amounts to.

    Density: ``y ~ Normal(bias + X @ weight, sigma)`` and ``weight ~ Laplace(0, prior_scale)``, with sigma
    fixed and a flat prior on the bias, which ``Lasso`` does not penalise. Then::

        -log posterior              =  RSS / (2 sigma²)  +  ‖weight‖₁ / prior_scale  +  constant
        (sigma² / rows) · the above =  RSS / (2 rows)  +  (sigma² / (rows prior_scale)) ‖weight‖₁  +  constant

    ``Lasso`` minimises ``RSS / (2 rows) + alpha ‖weight‖₁``, so ``alpha = sigma² / (rows prior_scale)``.
    Unlike ``Ridge``, it divides by the rows: with one and the same prior, alpha shrinks as data come in.

    Units: sigma is in units of y, prior_scale in units of a weight.

    With this alpha the optimum of ``Lasso`` is the MAP estimate, with some weights exactly 0 (Tibshirani,
    1996); the posterior mean has none.

    Raises ``DataError`` unless sigma and prior_scale are positive, finite numbers and rows is a whole
    number of at least 1.

    >>> lasso_alpha(sigma=3.0, prior_scale=2.0, rows=10)
    0.45
    """
    if not isinstance(rows, Integral) or isinstance(rows, bool) or rows < 1:
        raise DataError(f"`rows` must be a whole number of at least 1, not {rows!r}. Give the rows of X.")
    return positive("sigma", sigma) ** 2 / (int(rows) * positive("prior_scale", prior_scale))
