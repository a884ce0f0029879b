"""The posterior density in unconstrained coordinates, with the Jacobian of the change of variables."""

from __future__ import annotations

import torch
from torch import Tensor

from neglog.fitting.start import starting_point
from neglog.likelihood.sites import Site
from neglog.objective.coordinates import Coordinates, rescaled
from neglog.objective.lowered import Lowered
from neglog.objective.objective import Objective, rows_of_second_derivatives


class Density(Lowered):
    """Minus the log of the posterior density of z `(K,)`, up to a constant: the target of samplers.

    `Coordinates` have the density in the parameters themselves, whose mode is the MAP estimate. A density
    of z also has the log of the Jacobian of each site's transform: +log sigma for z = log sigma. Linear
    coefficients are linear in z, so that their Jacobian is constant.
    """

    def log_jacobian(self, z: Tensor) -> Tensor:
        """The log-determinant of the Jacobian of the parameters in z, up to a constant."""
        total = z.new_zeros(())
        for site in self._transformed:
            free = z[site.place].reshape(site.unconstrained)
            total = total + site.transform.log_abs_det_jacobian(free, site.transform(free)).sum()
        return total

    @property
    def _transformed(self) -> list[Site]:
        """The sites with a transform; none of them is in a block of linear coefficients."""
        return [site for site in self.objective.sites.values() if not site.is_real]

    @torch.enable_grad()
    def _log_jacobian_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        leaf = z.detach().requires_grad_()
        value = self.log_jacobian(leaf)
        return value.detach(), torch.autograd.grad(value, leaf)[0]

    def _function(self, z: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = super()._function(z, *parts)
        if not self._transformed:
            return loss, gradient
        value, slope = self._log_jacobian_and_gradient(z)
        return loss - value, gradient - slope

    def value(self, z: Tensor) -> float:
        """Minus the log density at z."""
        with torch.no_grad():
            return super().value(z) - float(self.log_jacobian(z))

    def sample(self) -> None:
        """None: the density is always that of all rows."""
        return None

    def hessian(self, z: Tensor) -> Tensor:
        """The Hessian `(K, K)` in z."""
        return self.derivatives(z)[2]

    @torch.enable_grad()
    def derivatives(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        """Minus the log density, its gradient `(K,)` and its Hessian `(K, K)` in z."""
        bare = Coordinates(self.objective, self.blocks, self.is_linear)
        value, gradient, hessian = bare.derivatives(z)
        if not self._transformed:
            return value, gradient, hessian
        leaf = z.detach().requires_grad_()
        log_jacobian = self.log_jacobian(leaf)
        (slope,) = torch.autograd.grad(log_jacobian, leaf, create_graph=True)
        bend = rows_of_second_derivatives(slope, leaf)
        return value - float(log_jacobian.detach()), gradient - slope.detach(), hessian - bend


def density(objective: Objective) -> tuple[Density, Tensor]:
    """The density of an objective in coordinates that suit its data, and the initial value of a solver in z.

    Raises:
        SingularDesignError: a design whose coefficients have flat priors lacks full column rank.
    """
    theta = starting_point(objective, None)
    coordinates = rescaled(objective, theta)
    return Density(objective, coordinates.blocks, coordinates.is_linear), coordinates.z(theta)
