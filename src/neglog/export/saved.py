"""A fit ↔ a folder with one file, ``model.json``, that one rename replaces."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from neglog import files
from neglog.arguments import as_path, shown
from neglog.calls import public
from neglog.errors import DataError, ModelError, NeglogError
from neglog.export import arrays, blueprints, documents, legacy, uncertainty
from neglog.export.described import described, is_complete
from neglog.export.documents import DAMAGE, shortened
from neglog.export.given import NOTHING, LoadArguments, NeededError
from neglog.export.restored import restored
from neglog.fitting.fit import Fit, check_fit
from neglog.formula import Design
from neglog.formula.tagged import to_json
from neglog.handlers import Model
from neglog.inputs.blueprint import Blueprint
from neglog.isolation import isolated
from neglog.layers import is_network
from neglog.uncertainty.retention import retained

FORMAT = 5
"""The format that is written; earlier ones are read too: 1 and 2 have no covariances, 3 no networks, and 4 no
covariances of their weights and of groups."""

FILE = "model.json"


@public
@dataclass(frozen=True, eq=False)
class Saved(Fit):
    """A fit that was read from disk: without its rows, and what needs them.

    It has its table of estimates, covariances, tests and predictions. `formula` is there if it was saved.
    """

    formula: Design | None = field(default=None, repr=False)


@isolated
def save(fit: Fit, folder: str | Path, *, formula: Design | None = None) -> Path:
    """Write a fit into a folder, which is made if need be; an earlier model there is replaced.

    The model is one file that one rename replaces: whoever reads meanwhile finds the old model or the new
    one, and a process that is killed leaves one of them. Of several saves at once the last one counts.

    The file has numbers and names, and no code: a model of `neglog.models` is named in it, with whatever of
    it `pyro.condition` holds fixed, inside `masked`, `censored` and `truncated`. A model of your own, and a
    network, is given to `load` again; the file has the names and the shapes of its parameters, and the
    buffers of networks.

    Args:
        fit: a fit.
        folder: where to.
        formula: how tables become designs, for `neglog predict`; by default the formula that was fitted, if
            any.

    Raises:
        ModelError: a bound keyword is no number; its estimates are none that the model can have.
        DataError: the folder holds other things than a model, or is a file; or the formula cannot be saved.
        OSError: the folder cannot be written; what was there is as before.

    >>> import tempfile, torch
    >>> from neglog import mle, models, predict
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> fit = mle(models.gaussian, x, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = load(save(fit, folder))
    >>> bool((predict(again, x).mean == predict(fit, x).mean).all())
    True
    """
    folder, fit = as_path("folder", folder), check_fit(fit)
    if formula is not None and not isinstance(formula, Design):
        raise DataError(f"`formula` must be the design of a formula, or None; it is {shown(formula)}.")
    formula = formula_of(fit) if formula is None else formula
    content = document_of(fit, formula, described(fit.model), LoadArguments(fit.model))
    if len(content) > files.MAX_BYTES:
        raise ModelError(f"the fit cannot be saved: it takes {len(content)} bytes, above {files.MAX_BYTES}.")
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    before = _read_or_none(path)
    files.publish(path, content)
    files.remove_temporary(path)
    _remove_legacy(folder, before)
    return folder


def formula_of(fit: Fit) -> Design | None:
    """The formula that was fitted, or saved before."""
    if isinstance(fit, Saved):
        return fit.formula
    return None if fit.blueprint is None else fit.blueprint.design


def _blueprint_of(fit: Fit, formula: Design | None) -> Blueprint | None:
    """Levels, knots and roles of columns learned by the fit, if the formula is that of the fit."""
    own = fit.blueprint
    return own if own is None or own.design is None or own.design is formula else None


def document_of(fit: Fit, formula: Design | None, model: Mapping[str, Any], given: LoadArguments) -> bytes:
    """The document of a fit, one that can be loaded.

    Args:
        fit, formula: as for `save`.
        model: the JSON values of its model.
        given: what the caller of `load` may give.

    Raises:
        ModelError: the fit cannot be written.
    """
    fields: dict[str, Any] = {
        "format": FORMAT,
        "neglog": documents.own_version(),
        "model": dict(model),
        **{name: to_json(float(getattr(fit, name))) for name in ("nll", "loss", "n")},
        "steps": int(fit.n_iter),
        "k": int(fit.k),
        "converged": bool(fit.converged),
        "status": fit.status,
        "columns": {key: list(names) for key, names in fit.columns.items()},
        "outputs": {key: list(names) for key, names in fit.outputs.items()},
        "responses": list(fit.responses),
        "row_keywords": list(fit.keywords),
        "formula": None if formula is None else formula.to_json(),
    }
    try:
        fields["params"] = arrays.written(fit.params)
        fields["buffers"] = arrays.buffers_written(fit.buffers)
        fields["blueprint"] = blueprints.written(_blueprint_of(fit, formula))
        given = NOTHING if is_complete(model) else given
        restored({**fields, "uncertainty": uncertainty.NOTHING}, given)  # before covariances are computed
        content = documents.encoded({**fields, "uncertainty": uncertainty.written(retained(fit))})
        restored(documents.verified(documents.parsed(content)), given)
    except NeglogError as error:
        if is_network(fit.model) and not all(fit.columns.values()):
            raise ModelError(
                "the fit cannot be saved: its network has inputs without columns, such as images, and a file "
                "has columns alone. Keep the weights, as by torch.save(fit.module.state_dict(), "
                "path)."
            ) from error
        raise ModelError(f"the fit cannot be saved: {error}") from error
    return content


class _NewerError(DataError):
    """A folder of a newer version of neglog."""


@isolated
def load(
    folder: str | Path,
    *,
    model: Model | str | None = None,
    module: nn.Module | Mapping[str, nn.Module] | None = None,
) -> Saved:
    """Read a fit that `save` wrote. All of it is checked against the model that it names.

    Args:
        folder: where it was saved.
        model: the model that was fitted, where it is not one of `neglog.models`, or is inside a handler that
            a file cannot name, such as `with_priors`: as it was given to `mle` or `map_estimate`.
        module: the network of `on_features`, or the mapping of networks: one of the same parameters and
            buffers. Their values are those of the file; the module itself is left as it is.

    Raises:
        DataError: the folder holds no model, or one that is damaged or of a newer neglog.
        ModelError: a model or a network must be given; what is given is not what was fitted, such as a
            parameter of another shape.
        OSError: a file cannot be read.

    >>> import tempfile, torch
    >>> from neglog import models, on_features, map_estimate, predict
    >>> x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    >>> def network():
    ...     return torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh())
    >>> generator = torch.manual_seed(0)
    >>> y = x[:, 0] ** 2 + 0.1 * torch.randn(20, dtype=torch.float64)
    >>> fit = map_estimate(on_features(models.gaussian, network()), x, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = load(save(fit, folder), module=network())
    >>> bool((predict(again, x).mean == predict(fit, x).mean).all())
    True
    """
    folder, given = as_path("folder", folder), LoadArguments(model, module)
    try:
        return Saved(**_restored(folder, given))
    except NeededError as error:
        raise ModelError(f"`{folder}` cannot be loaded alone: {error}.") from None
    except _NewerError as error:
        raise DataError(f"`{folder}` was {error}.") from None
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"`{folder}` holds no saved model: it has no {FILE}. `neglog.save` and `neglog fit --out` "
            "make one."
        ) from None
    except DAMAGE as error:
        reason = str(error) if isinstance(error, NeglogError) else f"it is damaged ({shortened(error)})"
        if not given.is_empty and isinstance(error, NeglogError):
            raise ModelError(
                f"`{folder}` cannot be loaded with this model: {reason.removesuffix('.')}. Give the model "
                "and the network that were fitted."
            ) from error
        raise DataError(
            f"`{folder}` cannot be used: {reason.removesuffix('.')}. Fit again, and save that fit with "
            "`neglog.save` or `neglog fit --out`."
        ) from error


def _restored(folder: Path, given: LoadArguments) -> dict[str, Any]:
    document = documents.parsed(files.read(folder / FILE))
    _check_format(document)
    if document["format"] != 1:
        return restored(legacy.completed(documents.verified(document)), given)
    try:
        estimates = files.read(folder / legacy.ESTIMATES)
    except FileNotFoundError:
        if documents.parsed(files.read(folder / FILE)) != document:  # A save has replaced it meanwhile.
            return _restored(folder, given)
        raise DataError(f"its file {legacy.ESTIMATES} is missing.") from None
    return restored(legacy.completed(legacy.upgraded(document, estimates)), given)


def _check_format(document: Mapping[str, Any]) -> None:
    number = document.get("format")
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise DataError(f"its {FILE} is not neglog's")
    if number > FORMAT:
        theirs = documents.version("neglog", document.get("neglog"))
        raise _NewerError(f"saved by neglog {theirs}, and this is {documents.own_version()}; upgrade neglog")


@public
def check_folder(folder: Path) -> None:
    """Raise DataError unless a model may be saved in the folder: a new one, an empty one, or a model's.

    Files that a killed save left there do not count.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"`{folder}` is a file. Name a folder for the model.")
    names = set(os.listdir(folder)) if folder.is_dir() else set()
    if names - _leftovers(names) and _read_or_none(folder / FILE) is None:
        raise DataError(
            f"`{folder}` is not empty and holds no neglog model. Name a new folder, so that nothing is lost."
        )


def _leftovers(names: set[str]) -> set[str]:
    """The files that a killed save left in a folder without a model."""
    found = {name for name in names if files.is_temporary(name, FILE)} | names & legacy.LEFTOVERS
    return found | (names & {legacy.ESTIMATES} if legacy.RENAMED_LAST in names else set())


def _read_or_none(path: Path) -> dict[str, Any] | None:
    """The document of a model, damaged or not; None where there is no document of neglog's."""
    try:
        document = documents.parsed(files.read(path))
    except (OSError, NeglogError):
        return None
    return document if {"format", "neglog"} <= set(document) else None


def _remove_legacy(folder: Path, before: Mapping[str, Any] | None) -> None:
    """Remove the estimates of the model of format 1 that was replaced, and what killed saves of it left."""
    names = set(os.listdir(folder))
    old = _leftovers(names) - {name for name in names if files.is_temporary(name, FILE)}
    if before is not None and before["format"] == 1:
        old |= {legacy.ESTIMATES}
    for name in old:
        with contextlib.suppress(OSError):
            os.unlink(folder / name)
