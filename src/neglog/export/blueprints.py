"""The roles of columns and the labels of classes in a document."""

from __future__ import annotations

import math
from typing import Any

import torch

from neglog.distributions.supports import ends
from neglog.errors import DataError
from neglog.export.documents import fields, items, mapping, text, whole, wrong
from neglog.formula import Design
from neglog.formula.tagged import from_json, to_json
from neglog.handlers import Model
from neglog.inputs.blueprint import Blueprint
from neglog.inputs.given import OF_EVERY_MODEL, design_names_of

NOTHING: dict[str, Any] = {"roles": {}, "dropped": 0, "classes": [], "labelled": ""}
"""The field of a fit without a table and labels, as those of formats 1 and 2."""


def written(blueprint: Blueprint | None) -> dict[str, Any]:
    """What a fit has learned of its table, beside the formula, as JSON values.

    Raises:
        DataError: a label is neither text, nor a number, nor a truth value.
    """
    if blueprint is None:
        return NOTHING
    return {
        "roles": dict(blueprint.roles),
        "dropped": int(blueprint.dropped),
        "classes": [to_json(label) for label in blueprint.classes],
        "labelled": blueprint.labelled,
    }


def read(
    value: Any, model: Model, keywords: tuple[str, ...], formula: Design | None, classes: int | None
) -> Blueprint | None:
    """What `written` gave, checked against the model and the formula; None where there is nothing.

    Args:
        classes: the number of classes of the response of the model; None where it has none.

    Raises:
        DataError: it is not what such a fit can have learned.
    """
    found = fields("blueprint", value, set(NOTHING))
    roles = _roles(found["roles"], {*OF_EVERY_MODEL, *keywords} if formula is not None else set())
    labels = _labels(found["classes"], classes)
    labelled = _labelled(found["labelled"], formula if labels else None)
    dropped = whole("blueprint.dropped", found["dropped"])
    if formula is None:
        if dropped:
            raise wrong("blueprint.dropped", "0 without a formula", dropped)
        return Blueprint(classes=labels) if labels else None
    predictors, positive = design_names_of(model, keywords)
    return Blueprint(formula, predictors, positive, roles, dropped, labels, labelled)


def _roles(value: Any, known: set[str]) -> dict[str, str]:
    """Argument -> the column that it named."""
    roles = {
        name: text(f"blueprint.roles.{name}", column)
        for name, column in mapping("blueprint.roles", value).items()
    }
    if not set(roles) <= known:
        raise wrong("blueprint.roles", f"an object of no more than {sorted(known)}", sorted(roles))
    return roles


def _labels(value: Any, classes: int | None) -> tuple[Any, ...]:
    """As many different labels as there are classes; or none."""
    labels = tuple(_label(each) for each in items("blueprint.classes", value))
    if labels and (len(labels) != classes or len(set(labels)) < len(labels)):
        raise wrong("blueprint.classes", f"{classes or 'no'} different labels", list(labels))
    return labels


def _labelled(value: Any, formula: Design | None) -> str:
    """The column of the labels: one of the response of the formula; empty without a formula."""
    found = text("blueprint.labelled", value)
    known = ("",) if formula is None else formula.response.variables
    if found not in known:
        raise wrong("blueprint.labelled", f"one of {sorted(known)}", found)
    return found


def _label(value: Any) -> Any:
    """A label of a class: text, a truth value or a finite number."""
    label = from_json(value)
    if hasattr(label, "item"):  # a scalar of NumPy
        return label
    if isinstance(label, str):
        return text("blueprint.classes", label)
    if not isinstance(label, bool | int | float) or not math.isfinite(label):
        raise DataError(f"`blueprint.classes` must be text, numbers or truth values; it has {label!r:.80}.")
    return label


def count_of_classes(response: Any) -> int | None:
    """The number of classes of a distribution of codes; None of any other."""
    _, top = ends(response.support)
    last = torch.as_tensor(top, dtype=torch.float64)
    return int(last) + 1 if last.numel() == 1 and bool(torch.isfinite(last)) else None
