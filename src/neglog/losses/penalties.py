"""Penalties of losses, and the priors on the weights that they correspond to."""

from __future__ import annotations

from numbers import Integral

from neglog.arguments import shown
from neglog.calls import public
from neglog.errors import DataError
from neglog.losses.shapes import finite, positive


@public
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


@public
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
    return positive("sigma", sigma) ** 2 / (_count(rows) * positive("prior_scale", prior_scale))


@public
def elastic_net_rates(sigma: float, alpha: float, l1_ratio: float, rows: int) -> tuple[float, float]:
    """The rates of the `neglog.distributions.ElasticNet` prior that scikit-learn's ``ElasticNet`` amounts to.

    Density: ``y ~ Normal(bias + X @ weight, sigma)`` and ``weight ~ ElasticNet(0, l1, l2)``, with sigma fixed
    and a flat prior on the bias, which ``ElasticNet`` does not penalise. Then::

        -log posterior              =  RSS / (2 sigma²)  +  l1 ‖weight‖₁  +  l2 ‖weight‖² / 2  +  constant
        (sigma² / rows) · the above =  RSS / (2 rows)  +  alpha l1_ratio ‖weight‖₁
                                       +  alpha (1 - l1_ratio) ‖weight‖² / 2  +  constant

    so ``l1 = rows alpha l1_ratio / sigma²`` and ``l2 = rows alpha (1 - l1_ratio) / sigma²``. At an l1_ratio
    of 1 it is the Laplace prior of ``Lasso``.

    Units: sigma is in units of y, alpha in those of y over a weight's.

    With this prior the optimum of ``ElasticNet`` is the MAP estimate (Zou and Hastie, 2005).

    Raises ``DataError`` unless sigma and alpha are positive, finite numbers, l1_ratio is above 0 and at most
    1, and rows is a whole number of at least 1.

    >>> elastic_net_rates(sigma=2.0, alpha=0.5, l1_ratio=0.75, rows=16)
    (1.5, 0.5)
    """
    share = finite("l1_ratio", l1_ratio)
    if not 0 < share <= 1:
        raise DataError(
            f"`l1_ratio` must be above 0 and at most 1, not {share:g}. At 0 the prior is Normal, "
            "for which see `ridge_alpha`."
        )
    both = _count(rows) * positive("alpha", alpha) / positive("sigma", sigma) ** 2
    return both * share, both * (1 - share)


def _count(rows: int) -> int:
    if not isinstance(rows, Integral) or isinstance(rows, bool) or rows < 1:
        raise DataError(
            f"`rows` must be a whole number of at least 1, not {shown(rows)}. Give the rows of X."
        )
    return int(rows)
