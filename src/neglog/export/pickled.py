"""Fits for pickle and joblib: the document that `save` writes, read and checked as by `load`.

A model of neglog is named in the document. Any other model is pickled beside it: a function by reference to
its module, as pickle does. Reading a pickle can run code; `neglog.load` never does.
"""

from __future__ import annotations

from typing import Any

from neglog.errors import ModelError
from neglog.export import documents
from neglog.export.described import as_given, described, is_complete
from neglog.export.given import Given
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
        model = described(fit.model)
    except ModelError:
        model = as_given(fit.model)
    content = document_of(fit, formula_of(fit), model, Given(fit.model))
    return from_document, (content,) if is_complete(model) else (content, fit.model)


@isolated
def from_document(content: bytes, model: Model | None = None) -> Saved:
    """The fit of a document, of a `model` that is not in it.

    Raises:
        DataError: the document is damaged.
    """
    return Saved(**restored(documents.verified(documents.parsed(content)), Given(model)))
