"""Solvers minimise a function of one vector; they know nothing of Pyro sites."""

from neglog.solvers.chain import Chain
from neglog.solvers.continuation import Continuation
from neglog.solvers.lbfgs import LBFGS
from neglog.solvers.newton import Newton
from neglog.solvers.solution import Kinked, Problem, Solution
from neglog.solvers.svi import SVI

__all__ = ["LBFGS", "SVI", "Chain", "Continuation", "Kinked", "Newton", "Problem", "Solution"]
