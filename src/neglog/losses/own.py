"""From a loss of one's own to a model."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
from torch import Tensor

from neglog.calls import public
from neglog.distributions import FromLoss, LossDensity, normalised
from neglog.distributions.residual import Rho
from neglog.isolation import isolated
from neglog.losses.shapes import Reduction, check_pair, log_scale, plain, reduce
from neglog.predictors import RESPONSE, Designs, linear, positive, rows


@public
@dataclass(frozen=True, eq=False)
class ResidualModel:
    """y ~ FromLoss(location, scale, density): a Pyro model of `(x, y=None)`; `as_likelihood` makes it.

    Sites: ``location.weight`` `(P,)`, ``location.bias`` `()`, ``scale`` `()` in units of y (``log_scale.*``
    if `x` has a design for ``scale``).
    """

    density: LossDensity

    @property
    def __name__(self) -> str:
        return self.density.name

    def __call__(self, x: Designs, y: Tensor | None = None) -> Tensor:
        location = linear("location", x)
        scale = positive("scale", x)
        with rows(x):
            return pyro.sample(RESPONSE, FromLoss(location, scale, self.density), obs=y)

    def nll(
        self, location: Tensor, target: Tensor, scale: Tensor | float, *, reduction: Reduction = "mean"
    ) -> Tensor:
        """Minus the log-density: ``rho((target - location) / scale) + log scale + log Z``.

        Shapes and errors are those of `losses.laplace_nll`.
        """
        check_pair("location", location, target)
        width = log_scale("scale", scale, target)
        scale = plain(scale)
        return reduce(self.density.rho((target - location) / scale) + width + self.density.log_z, reduction)


@isolated
def as_likelihood(rho: Rho) -> ResidualModel:
    """The model that a loss ρ of the residual is minus the log of, with a scale that is estimated.

    Density: exp(-ρ((y - location) / scale)) / (scale Z), Z the integral of exp(-ρ), known to 10 digits.
    Sites: ``location.weight`` `(P,)`, ``location.bias`` `()`, ``scale`` `()` in units of y.
    Estimates: what minimises the loss; residuals are y - location, so that an asymmetric ρ is that of y above
    (r > 0) and below the location. The scale is in the units in which ρ takes residuals of order one.
    Source: Huber (1964), Robust estimation of a location parameter.

    A loss with a corner at r = 0, such as |r|, is fitted and certified as least absolute deviations are.
    An optimum at corners elsewhere cannot be certified: `mle` then runs `SVI` and returns
    ``converged=False``.

    Args:
        rho: a function of a tensor of residuals that gives the loss of each, differentiable by torch.

    Raises:
        ModelError: `rho` is not such a function, is not finite, or cannot be normalised, as no bounded loss
            can, nor one that grows no faster than log|r|.

    >>> import torch
    >>> from neglog import mle
    >>> y = torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0], dtype=torch.float64)
    >>> fit = mle(as_likelihood(lambda r: torch.log1p(r**2)), torch.empty((5, 0)), y)  # Cauchy's
    >>> round(fit.params["location.bias"].item(), 3), fit.converged
    (2.514, True)
    """
    return ResidualModel(normalised(rho))
