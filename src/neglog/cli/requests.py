"""Arguments of the command line → arguments of the functions in Python."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import torch

from neglog import models
from neglog.bayes.sampling import Posterior
from neglog.errors import DataError, ModelError, did_you_mean
from neglog.fitting.fit import Fit
from neglog.formula import Design
from neglog.models.named import model_named
from neglog.signatures import model_keywords, row_keywords
from neglog.tables import parse_table, read_table
from neglog.tracing import model_name, positive_names, predictor_names
from neglog.uncertainty.covariances import CovType, check_cov_type

Model = Callable[..., Any]

STANDARD_INPUT = "-"
"""The argument for a table on standard input."""


def read(data: Path) -> pd.DataFrame:
    """The table at a path, or on standard input.

    Raises:
        DataError: as `read_table`; it is a pipe, or damaged.
    """
    if str(data) == STANDARD_INPUT:
        return _read_standard_input()
    if data.exists() and not data.is_file() and not data.is_dir():
        raise DataError(
            f"`{data}` is a pipe or a device. Write the table to a file, and give its path; or give - and "
            "redirect standard input."
        )
    try:
        return read_table(data)
    except gzip.BadGzipFile:
        raise DataError(
            f"`{data}` is not gzipped, or damaged. Compress it again, or name it without .gz."
        ) from None
    except (EOFError, zlib.error):
        raise DataError(f"`{data}` is cut off or damaged. Copy or compress it again.") from None


def _read_standard_input() -> pd.DataFrame:
    if sys.stdin.isatty():
        raise DataError("- reads a table from standard input, which is a terminal. Redirect it: < rows.csv")
    return parse_table(sys.stdin.buffer.read(), "standard input")


def check_place(option: str, path: Path, data: Path | None = None) -> None:
    """Raise DataError unless a file or folder can be made there that does not take the place of the data."""
    if not path.parent.is_dir():
        raise DataError(
            f"`{option} {path}` needs the folder `{path.parent}`, which does not exist. Make it first."
        )
    if data is not None and path.exists() and data.exists() and path.samefile(data):
        raise DataError(f"`{option} {path}` would replace the data. Name another file.")


def row_columns(**options: str | None) -> dict[str, Any]:
    """Row-wise argument -> the column that an option names."""
    return {name: column for name, column in options.items() if column is not None}


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
        name: torch.tensor(float(value), dtype=torch.float64)
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
