"""Fits for pickle and joblib: the document that `save` writes, read and checked as by `load`.

A model of neglog is named in the document. Any other model is pickled beside it: a function by reference to
its module, as pickle does. Reading a pickle can run code; `neglog.load` never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from neglog.errors import ModelError
from neglog.export import documents
from neglog.export.described import described
from neglog.export.restored import restored
from neglog.export.saved import Saved, document_of, formula_of
from neglog.fitting.fit import Fit
from neglog.handlers import Model
from neglog.isolation import isolated


@isolated
def reduced(fit: Fit) -> tuple[Any, ...]:
    """A function and its arguments that give the fit again, without its rows.

    Raises:
        ModelError: the fit cannot be written.
    """
    try:
        described(fit.model)
    except ModelError:
        content = document_of(fit, formula_of(fit), fit.model)
        return from_document, (content, fit.model, dict(fit.buffers))
    return from_document, (document_of(fit, formula_of(fit)),)


@isolated
def from_document(
    content: bytes, model: Model | None = None, buffers: Mapping[str, Tensor] | None = None
) -> Saved:
    """The fit of a document, of a `model` that is not in it.

    Raises:
        DataError: the document is damaged.
    """
    found = restored(documents.verified(documents.parsed(content)), model)
    return Saved(**found, buffers=buffers or {})
