"""Models of earlier formats: of format 1, whose estimates lie in a file of their own, and of 2, 3 and 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from neglog.errors import DataError
from neglog.export import arrays, blueprints, uncertainty
from neglog.export.described import NEGLOG
from neglog.export.documents import DAMAGE, fields, items, mapping, shortened
from neglog.formula.tagged import from_json, to_json

ESTIMATES = "params.safetensors"
"""The file of the estimates."""

RENAMED_LAST = "model.json.new"
LEFTOVERS = frozenset({"params.safetensors.new", RENAMED_LAST})
"""Files that a killed save of format 1 leaves behind; with the second the estimates may have their name."""

_LATER: dict[str, Any] = {"outputs": {}, "responses": []}
"""Fields that the first models of format 1 lack, and what they mean there."""


def upgraded(document: Mapping[str, Any], estimates: bytes) -> dict[str, Any]:
    """A document of format 1 and the content of its file of estimates, as one of format 2, unchecked.

    Raises:
        DataError: one of them is damaged.
    """
    try:
        params = arrays.written(load(estimates))
        found = fields("model", document.get("model"), {"name", "keywords", "handlers"})
        handlers = [_handler(each) for each in items("model.handlers", found["handlers"])]
        keywords = {name: to_json(value) for name, value in from_json(found["keywords"]).items()}
    except (*DAMAGE, SafetensorError) as error:
        raise DataError(f"it is damaged ({type(error).__name__}: {shortened(str(error))}).") from None
    model = {"name": found["name"], "keywords": keywords, "handlers": handlers}
    return {**_LATER, **document, "model": model, "params": params}


def completed(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document of an earlier format than 5, with the fields that it lacks."""
    if document["format"] >= 5:
        return dict(document)
    if "uncertainty" in document:
        lacking = {"reasons": {}, **mapping("uncertainty", document["uncertainty"])}
        document = {**document, "uncertainty": lacking}
    if document["format"] == 4:
        return dict(document)
    model = {"source": NEGLOG, **mapping("model", document.get("model"))}
    learned = {"blueprint": blueprints.NOTHING, "uncertainty": uncertainty.NOTHING, "buffers": {}}
    return {**learned, **document, "model": model}


def _handler(handler: Any) -> Any:
    match handler:
        case {"condition": values}:
            return {"condition": arrays.written({name: _tensor(v) for name, v in from_json(values).items()})}
        case {"masked": _}:
            return {"masked": {}}
        case {"censored": limits} | {"truncated": limits}:
            (name,) = handler
            return {name: {side: to_json(limit) for side, limit in from_json(limits).items()}}
    return handler


def _tensor(value: Any) -> torch.Tensor:
    array = np.asarray(value)
    return torch.from_numpy(array.copy() if array.dtype.kind == "f" else array.astype(np.float64))
