"""The table of checks: what it leaves out has nothing to refuse; every fact that it names has a meaning."""

from functools import partial

import pyro.distributions as dist
import pytest
import torch

from neglog import censored, flat, map_estimate, mle, models, with_priors
from neglog.data import prepare
from neglog.errors import NeglogError
from neglog.fitting.checks import OF_DATA, OF_DESIGNS, Check, check_all
from neglog.fitting.choice import STRATEGIES
from neglog.likelihood.structure import FACTS
from neglog.objective.objective import Objective

X = torch.randn((12, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WIDE = torch.randn((12, 13), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ONES = torch.ones(12, dtype=torch.float64)
SIDES = (X[:, 0] > 0).double()
MARKED = {"mean": X, "log_variance": torch.eye(12, dtype=torch.float64)[:, :1]}
REFUSED = {
    "counts of zeros": (flat(models.poisson), X, 0 * ONES),
    "classes that are all alike": (flat(models.bernoulli), X, ONES),
    "a class without rows": (flat(partial(models.categorical, classes=3)), X, 2 * SIDES),
    "a class on a scale without rows": (flat(partial(models.ordinal, classes=3)), X, 2 * SIDES),
    "a mixture of two values": (flat(models.gaussian_mixture), X, SIDES),
    "rows at two bounds": (flat(censored(models.gaussian, lower=0.0, upper=1.0)), X, SIDES),
    "a line through every row": (models.gaussian, WIDE, X[:, 0]),
    "zeros, and priors of the logarithm of a spread": (
        with_priors(models.heteroscedastic, {"log_variance.bias": dist.Normal(0.0, 5.0)}), X, 0 * ONES,
    ),
    "another unit than that of the priors": (models.gaussian, X, 1e40 * X[:, 0]),
    "a row with a scale of its own": (flat(models.heteroscedastic), MARKED, X[:, 0].exp()),
}  # fmt: skip
"""Kinds of data that a check refuses before they are fitted."""


def first_error(call):
    """The first error of some calls, as text; None without one."""
    try:
        call()
    except NeglogError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", REFUSED)
def test_checks_that_cannot_apply_have_nothing_to_refuse(kind):
    """All checks in their order raise the error of those that the facts of the model leave."""
    model, x, y = REFUSED[kind]
    objective = Objective(model, prepare(x, y))
    checks = OF_DATA + OF_DESIGNS

    def every():
        for each in checks:
            each.refuse(objective)

    expected = first_error(every)
    assert expected is not None
    assert first_error(lambda: check_all(checks, objective, objective)) == expected


def test_facts_that_are_needed_have_a_meaning():
    assert {strategy.needs for strategy in STRATEGIES} - {None} <= set(FACTS)
    objective = Objective(flat(models.gaussian), prepare(X, X[:, 0]))
    assert objective.facts <= set(FACTS)
    assert {"square", "flat", "collapsing", "measured"} <= objective.facts
    with_its_priors = Objective(models.gaussian, prepare(X, X[:, 0])).facts
    assert "priors" in with_its_priors
    assert "flat" not in with_its_priors


def test_a_check_is_entered_if_all_facts_that_it_needs_hold():
    objective, entered = Objective(flat(models.gaussian), prepare(X, X[:, 0])), []
    needs = (set(), {"flat"}, {"mixture"}, {"flat", "mixture"}, {"flat", "square"})
    checks = [Check(frozenset(facts), lambda _, facts=facts: entered.append(facts)) for facts in needs]
    check_all(checks, objective, objective)
    assert entered == [set(), {"flat"}, {"flat", "square"}]


def test_a_poisson_fit_enters_no_check_of_other_models(monkeypatch):
    """Checks of mixtures, spreads, hierarchies and bounds are not entered by counts without them."""

    def refuse(*_):
        raise AssertionError

    for name in (
        "minimised",
        "in_bounds",
        "with_tie",
        "with_spurious",
        "watched",
        "at_exact_corners",
        "at_corners",
    ):
        monkeypatch.setattr(f"neglog.fitting.pipeline.{name}", refuse)
    for name in ("check_spread", "narrow_rows"):
        monkeypatch.setattr(f"neglog.objective.spread.{name}", refuse)
    y = torch.poisson(ONES * 3, generator=torch.Generator().manual_seed(0))
    assert mle(models.poisson, X, y).converged
    assert map_estimate(models.poisson, X, y).converged
