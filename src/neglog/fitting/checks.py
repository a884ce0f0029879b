"""Checks: a table of the reasons to refuse data before a solver sees them, and of models they apply to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from neglog.fitting.existence import check_certain, check_classes, check_covariance, check_values
from neglog.fitting.interpolation import (
    check_interpolation,
    check_level,
    check_prior_zeros,
    check_saturation,
)
from neglog.fitting.joint_mode import check_joint_mode
from neglog.fitting.limits import check_one_side, check_sides
from neglog.fitting.marked import check_marked_rows
from neglog.fitting.prior_units import check_prior_units
from neglog.likelihood.structure import FACTS, Facts
from neglog.objective.objective import Objective

CONSTANT = "constant"
"""The fact that all entries of y are alike; see `neglog.likelihood.structure` for those of a model."""


@dataclass(frozen=True)
class Check:
    """A reason to refuse a fit.

    Attributes:
        needs: the facts without which it cannot be one.
        refuse: raises the error, if it is one.
    """

    needs: Facts
    refuse: Callable[[Any], None]

    def __post_init__(self) -> None:
        assert self.needs <= {*FACTS, CONSTANT}


OF_DATA: tuple[Check, ...] = (
    Check(frozenset({"counted", CONSTANT}), check_certain),
    Check(frozenset({"classes"}), check_classes),
    Check(frozenset({"bounded"}), check_one_side),
    Check(frozenset({"mixture", "flat"}), check_values),
    Check(frozenset({"bounded", "collapsing", "flat"}), check_sides),
    Check(frozenset({"hierarchical"}), check_joint_mode),
    Check(frozenset({"priors", "predictors"}), check_interpolation),
    Check(frozenset({"priors", "predictors", "collapsing", CONSTANT}), check_prior_zeros),
    Check(frozenset({"priors", "predictors", "collapsing", CONSTANT}), check_level),
    Check(frozenset({"priors"}), check_prior_units),
)
"""The checks of a model and its data, in order."""
OF_DESIGNS: tuple[Check, ...] = (
    Check(frozenset({"flat", "predictors", "collapsing"}), check_saturation),
    Check(frozenset({"measured", "several predictors"}), check_marked_rows),
)
"""Checks of designs that are known to have full rank: too few rows are reported as a singular design."""
OF_PROBLEMS: tuple[Check, ...] = (Check(frozenset({"vector"}), check_covariance),)
"""Checks of designs in orthonormal coordinates."""


def check_all(checks: Iterable[Check], problem: Any, objective: Objective) -> None:
    """Go through checks of a problem, which is the objective itself or made of it, that may apply.

    Raises:
        NeglogError: that of the first reason to refuse.
    """
    low, high = objective.data.ends
    facts = objective.facts | {CONSTANT} if low == high else objective.facts
    for each in checks:
        if each.needs <= facts:
            each.refuse(problem)
