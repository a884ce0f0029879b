"""Fits on disk: ``params.safetensors`` for the estimates, ``model.json`` for everything else; no pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.messenger import Messenger
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from neglog import models
from neglog.data import Data
from neglog.errors import DataError, ModelError, NeglogError
from neglog.fitting.fit import Fit
from neglog.formula import Design
from neglog.formula.tagged import from_json, to_json
from neglog.handlers import Model, censored, flat, masked, truncated
from neglog.layers import former_names, layers, replaced
from neglog.predictors import RESPONSE
from neglog.tracing import Run, initial_value, model_name, run

__all__ = ["Saved", "check_folder", "load", "save"]

FORMAT = 1
DESCRIPTION, PARAMS = "model.json", "params.safetensors"
_NUMBERS = ("nll", "loss", "converged", "status", "steps", "n", "k")


@dataclass(frozen=True)
class Saved(Fit):
    """A fit that was read from disk: it predicts, but holds no data. `formula` is there if it was saved."""

    formula: Design | None = field(default=None, repr=False)


def save(fit: Fit, folder: str | Path, *, formula: Design | None = None) -> Path:
    """Write a fit into a folder, which is made if need be; an earlier model there is replaced.

    Args:
        fit: the fit of a model in `neglog.models`, with whatever of it `pyro.condition` holds fixed, inside
            `masked`, `censored` and `truncated`.
        folder: where to.
        formula: how tables become designs, for `neglog predict`.

    Raises:
        ModelError: the model is not one of `neglog.models`, or is inside a handler that a file cannot name.
        DataError: the folder holds other things than a model, or is a file; or the formula cannot be saved.
        OSError: the folder cannot be written.

    >>> import tempfile, torch
    >>> from neglog import mle, models, predict
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> fit = mle(models.gaussian, x, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = load(save(fit, folder))
    >>> bool((predict(again, x).mean == predict(fit, x).mean).all())
    True
    """
    folder = Path(folder)
    described = {
        "format": FORMAT,
        "neglog": _version(),
        "model": _describe(fit.model),
        **{name: to_json(getattr(fit, name)) for name in _NUMBERS},
        "columns": {key: list(names) for key, names in fit.columns.items()},
        "outputs": {key: list(names) for key, names in fit.outputs.items()},
        "responses": list(fit.responses),
        "row_keywords": list(fit.keywords),
        "formula": None if formula is None else formula.to_json(),
    }
    text = json.dumps(described, indent=1, allow_nan=False, ensure_ascii=False)
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in fit.params.items()}
    save_file(tensors, folder / f"{PARAMS}.new")
    (folder / f"{DESCRIPTION}.new").write_text(text + "\n", encoding="utf-8")
    for name in (PARAMS, DESCRIPTION):  # Only when both are written whole do they replace what was there.
        os.replace(folder / f"{name}.new", folder / name)
    return folder


def load(folder: str | Path) -> Saved:
    """Read a fit that `save` wrote.

    Raises:
        DataError: the folder holds no model, or one that is damaged or of a newer neglog.
        OSError: a file cannot be read.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    if not path.is_file():
        raise DataError(
            f"`{folder}` holds no saved model: it has no {DESCRIPTION}. `neglog fit --out` makes one."
        )
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        _check_format(described, path)
        params = load_file(folder / PARAMS)
        model = _build(described["model"])
        former = former_names(model)
        params = replaced(former, params)
        columns = {key: tuple(names) for key, names in replaced(former, described["columns"]).items()}
        outputs = {key: tuple(names) for key, names in described.get("outputs", {}).items()}
        formula = None if described["formula"] is None else Design.from_json(described["formula"])
        keywords = tuple(described["row_keywords"])
        params = _checked_params(model, columns, params, keywords)
        numbers = {name: from_json(described[name]) for name in _NUMBERS}
    except NeglogError as error:
        raise DataError(f"`{folder}` cannot be used: {error}") from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
        FileNotFoundError,
    ) as error:
        raise DataError(
            f"`{folder}` is damaged ({type(error).__name__}: {error}). Fit again with `neglog fit --out`."
        ) from error
    return Saved(
        model=model,
        params=params,
        keywords=keywords,
        columns=columns,
        outputs=outputs,
        responses=tuple(described.get("responses", ())),
        formula=formula,
        **numbers,
    )


def _describe(model: Model) -> dict[str, Any]:
    """A model as its name, its keywords, and the handlers around it from the inside out."""
    handlers: list[dict[str, Any]] = []
    keywords: dict[str, Any] = {}
    while isinstance(model, partial) or hasattr(model, "description"):
        if not isinstance(model, partial):
            _check_bounds(model, keywords)
            described: dict[str, Any] = getattr(model, "description", {})
            handlers.insert(0, {name: to_json(settings) for name, settings in described.items()})
            _, model, *_ = layers(model)
            continue
        messenger = model.args[0] if model.args else None
        keywords = {
            **model.keywords,
            **keywords,
        }  # Python makes one partial of two, a handler's and a size's.
        if isinstance(messenger, Messenger):
            handlers.insert(0, _describe_handler(messenger))
            model = model.args[1]
        elif isinstance(inner := model.func, partial) or not model.args:  # Pyro wraps its partials once more.
            model = inner
        else:
            raise ModelError(
                "a model with bound positional arguments cannot be saved; bind keywords instead."
            )
    name = model_name(model)
    if name not in models.__all__ or getattr(models, name) is not model:
        known = ", ".join(models.__all__)
        raise ModelError(
            f"only models of neglog.models can be saved, and `{name}` is not one of them: {known}. "
            "Save its `params` with safetensors instead."
        )
    return {"name": name, "keywords": to_json(keywords), "handlers": handlers}


def _check_bounds(handler: Any, keywords: Mapping[str, Any]) -> None:
    for name in sorted(set(keywords) & getattr(handler, "row_bounds", set())):
        raise ModelError(
            f"the bound `{name}` is bound with `partial`, and a file cannot tell it from a keyword of the "
            f"model. Give it to the handler: {handler.name}(model, {name}=...)."
        )


def _describe_handler(messenger: Messenger) -> dict[str, Any]:
    kind = type(messenger).__name__.lstrip("_")
    if isinstance(messenger, ConditionMessenger) and isinstance(messenger.data, dict):
        values = {name: torch.as_tensor(value).cpu().numpy() for name, value in messenger.data.items()}
        return {"condition": to_json(values)}
    if kind == "Flat":
        return {"flat": sorted(messenger.names)}
    raise ModelError(
        f"a model inside the handler {kind} cannot be saved. Save its `params` with safetensors instead."
    )


def _build(described: Mapping[str, Any]) -> Model:
    name = described["name"]
    if name not in models.__all__:
        raise DataError(
            f"there is no model `{name}` in this neglog ({_version()}). Upgrade neglog, or fit again."
        )
    keywords = from_json(described["keywords"])
    model: Model = partial(getattr(models, name), **keywords) if keywords else getattr(models, name)
    former = former_names(model)
    for handler in described["handlers"]:
        match handler:
            case {"flat": sites}:
                model = flat(model, *replaced(former, dict.fromkeys(sites)))
            case {"condition": values}:
                named = replaced(former, from_json(values))
                fixed = {site: torch.from_numpy(value.copy()) for site, value in named.items()}
                model = pyro.condition(model, data=fixed)
            case {"masked": _}:
                model = masked(model)
            case {"censored": limits}:
                model = censored(model, **from_json(limits))
            case {"truncated": limits}:
                model = truncated(model, **from_json(limits))
            case _:
                raise DataError(f"the handler {handler!r} is unknown. Upgrade neglog, or fit again.")
    return model


def _check_format(described: Any, path: Path) -> None:
    if not isinstance(described, dict) or not isinstance(described.get("format"), int):
        raise DataError(f"{path.name} is not neglog's. Give the folder that `neglog fit --out` made.")
    if described["format"] > FORMAT:
        raise DataError(
            f"it was saved by neglog {described.get('neglog')}, and this is {_version()}. Upgrade neglog."
        )


def _checked_params(
    model: Model,
    columns: Mapping[str, tuple[str, ...]],
    params: Mapping[str, Tensor],
    keywords: tuple[str, ...],
) -> dict[str, Tensor]:
    """The estimates in the order of the model's sites, their shapes held against those on a row of zeros."""
    designs = {key: torch.zeros((1, len(names)), dtype=torch.float64) for key, names in columns.items()}
    x = designs[""] if set(designs) == {""} else designs
    ones = {key: torch.ones(1, dtype=torch.float64) for key in keywords}
    bare = run(model, Data(x, torch.zeros(1), None, ones), Run(fill=initial_value), response=False)
    latent = {name: site for name, site in bare.sites.items() if name != RESPONSE and not site["is_observed"]}
    needed = {name: tuple(site["value"].shape) for name, site in latent.items()}
    found = {name: tuple(value.shape) for name, value in params.items()}
    if needed != found:
        raise DataError(f"its estimates have the shapes {found}; the model needs {needed}. Fit again.")
    wrong = [
        name for name, value in params.items() if not bool(latent[name]["fn"].support.check(value).all())
    ]
    if wrong:
        raise DataError(f"the estimate of `{wrong[0]}` is outside its support. Fit again.")
    return {name: params[name] for name in latent}


def check_folder(folder: Path) -> None:
    """Raise DataError unless a model may be saved in the folder: a new one, an empty one, or a model's."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"`{folder}` is a file. Name a folder for the model.")
    if folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder / DESCRIPTION):
        raise DataError(
            f"`{folder}` is not empty and holds no neglog model. Name a new folder, so that nothing is lost."
        )


def _is_ours(path: Path) -> bool:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(described, dict) and {"format", "neglog"} <= set(described)


def _version() -> str:
    from neglog import __version__

    return __version__
