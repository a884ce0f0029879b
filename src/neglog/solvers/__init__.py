"""Solvers minimise a function of one vector; they know nothing of Pyro sites."""

from neglog.solvers.adam import Adam
from neglog.solvers.chain import Chain
from neglog.solvers.continuation import Continuation
from neglog.solvers.interior_point import InteriorPoint
from neglog.solvers.lbfgs import LBFGS
from neglog.solvers.multistart import MultiStart
from neglog.solvers.newton import Newton
from neglog.solvers.optimiser import SGD, AdamW, Optimiser
from neglog.solvers.projection import Separable, VariableProjection
from neglog.solvers.proximal import ProximalNewton
from neglog.solvers.settings import check_solver
from neglog.solvers.solution import Epoch, Kinked, Problem, Solution
from neglog.solvers.svi import SVI
from neglog.solvers.training import StopFit
from neglog.solvers.trust import TrustRegion

__all__ = [
    "LBFGS",
    "SGD",
    "SVI",
    "Adam",
    "AdamW",
    "Chain",
    "Continuation",
    "Epoch",
    "InteriorPoint",
    "Kinked",
    "MultiStart",
    "Newton",
    "Optimiser",
    "Problem",
    "ProximalNewton",
    "Separable",
    "Solution",
    "StopFit",
    "TrustRegion",
    "VariableProjection",
    "check_solver",
]
