"""Arguments of the command line → arguments of the functions in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyro
import torch

from neglog import models
from neglog.arguments import number
from neglog.bayes.sampling import Posterior
from neglog.errors import DataError, ModelError, did_you_mean
from neglog.fitting.fit import Fit
from neglog.formula import Design
from neglog.models.named import model_named
from neglog.signatures import model_keywords, row_keywords
from neglog.tracing import model_name, positive_names, predictor_names
from neglog.uncertainty.covariances import CovType, check_cov_type

Model = Callable[..., Any]


def settings_of(given: Sequence[str] | None, tau: float | None) -> dict[str, float]:
    """The settings that ``--set`` and ``--tau`` give.

    Raises:
        ModelError: one is not of the form name=number, or is given twice.
    """
    found: dict[str, float] = {}
    for text in (*(given or ()), *([] if tau is None else [f"tau={tau}"])):
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise ModelError(f"`--set {text}` must be a name and a number: --set tau=0.9")
        if name in found:
            raise ModelError(f"the setting `{name}` was given twice. Give one value.")
        found[name] = _number(text, value)
    return found


def _number(text: str, value: str) -> float:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    raise ModelError(f"`--set {text}` needs a number after the =: --set tau=0.9")


def configured(model: Model, settings: Mapping[str, float]) -> Model:
    """The model with its settings: its own keywords are bound, its parameters are held fixed.

    Raises:
        ModelError: it has no keyword or constant parameter of a name.
    """
    own, parameters = _settings_known(model)
    known = [*own, *parameters]
    for name in settings:
        if name not in known:
            near = did_you_mean(name, known, "`{}`")
            has = f"it has {', '.join(f'`{each}`' for each in known)}" if known else "it has none"
            raise ModelError(f"`{model_name(model)}` has no setting `{name}`; {has}.{near}")
    return _with(model, settings, own)


def candidates(settings: Mapping[str, float]) -> dict[str, Model] | None:
    """The models to compare with their settings; those that are compared on request where one is theirs.

    Raises:
        ModelError: no model has a setting of a name.
    """
    from neglog.comparison import ON_REQUEST

    if not settings:
        return None
    found: dict[str, Model] = {}
    unknown = set(settings)
    for name in models.__all__:
        model = model_named(name)
        own, parameters = _settings_known(model)
        mine = {key: value for key, value in settings.items() if key in (*own, *parameters)}
        unknown -= set(mine)
        if name not in ON_REQUEST or set(mine) & set(own):
            found[name] = _with(model, mine, own)
    if unknown:
        raise ModelError(f"no model has a setting `{sorted(unknown)[0]}`. Leave it out.")
    return found


def _settings_known(model: Model) -> tuple[list[str], list[str]]:
    """The keywords of a model that belong to no row, and its positive constants."""
    of_rows = row_keywords(model)
    own = sorted((model_keywords(model) or frozenset()) - set(of_rows))
    return own, [name for name in positive_names(model, **of_rows) if name not in own]


def _with(model: Model, settings: Mapping[str, float], own: Sequence[str]) -> Model:
    bound = {name: value for name, value in settings.items() if name in own}
    fixed = {
        name: torch.tensor(number(name, value, 0), dtype=torch.float64)
        for name, value in settings.items()
        if name not in own
    }
    model = partial(model, **bound) if bound else model
    return pyro.condition(model, data=fixed) if fixed else model


def formulas_of(model: Model, formula: str, others: Sequence[str] | None) -> str | dict[str, str]:
    """The formula of a model, or a mapping from its predictors to formulas.

    Raises:
        DataError: a further formula names no predictor, or one that has a formula.
    """
    if not others:
        return formula
    location, *_ = predictor_names(model, **row_keywords(model))
    found = {location: formula}
    for text in others:
        name, tilde, right = text.partition("~")
        if not tilde or not name.strip().isidentifier():
            raise DataError(f"the formula `{text}` must name one predictor before its ~: `log_variance ~ x`.")
        if name.strip() in found:
            raise DataError(f"the predictor `{name.strip()}` has two formulas. Join them into one.")
        found[name.strip()] = f"~ {right.strip()}"
    return found


def cov_type_of(given: str | None, groups: str | None) -> CovType:
    """The kind of standard errors: that which was given, or of clusters where there are groups.

    Raises:
        ModelError: there is no such kind.
    """
    return check_cov_type(given or ("observed" if groups is None else "cluster"))


def learned_of(result: Fit | Posterior) -> tuple[Design, int]:
    """The design of a formula that was fitted, and the number of rows that were dropped."""
    blueprint = result.blueprint
    assert blueprint is not None
    assert blueprint.design is not None
    return blueprint.design, blueprint.dropped
