"""The table of reference cases, and how a case becomes a fit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import torch

from neglog import Fit, flat, map_estimate, mle, models, with_priors

FOLDER = Path(__file__).parent / "cases"
CASES = {
    case["id"]: case for case in json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))["cases"]
}
MODELS = {"gaussian": models.gaussian, "laplace": models.laplace, "gaussian_hetero": models.heteroscedastic}
LOCATION = {"gaussian": "mean", "laplace": "median", "gaussian_hetero": "mean"}


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def table(name: str) -> pd.DataFrame:
    """A table of the cases, as floats that parse exactly whatever pandas' default parser."""
    return pd.read_csv(FOLDER / "data" / f"{name}.csv", dtype=str).astype(float)


@dataclass(frozen=True)
class Problem:
    """A case as arguments of `mle` or `map_estimate`."""

    case: dict[str, Any]
    model: Any
    x: dict[str, pd.DataFrame]
    y: pd.Series
    weights: pd.Series | None

    def fit(self, **keywords: Any) -> Fit:
        penalised = "penalty" in self.case["model"]
        return (map_estimate if penalised else mle)(
            self.model, self.x, self.y, weights=self.weights, **keywords
        )


def problem(name: str) -> Problem:
    case = CASES[name]
    data, location = table(case["data"]["name"]), LOCATION[case["family"]]
    model, x, fixed = MODELS[case["family"]], {}, dict(case["model"].get("fixed") or {})
    for block in case["model"]["blocks"]:
        predictor = location if block["name"] == "location" else block["name"]
        x[predictor] = data[[column for column in block["columns"] if column != "(Intercept)"]]
        if "(Intercept)" not in block["columns"]:
            fixed[f"{predictor}.bias"] = 0.0
    if fixed:
        model = pyro.condition(model, {site: number(value) for site, value in fixed.items()})
    weights = data[case["weights"]] if "weights" in case else None
    return Problem(case, _penalised(model, case, location), x, data[case["response"]], weights)


def _penalised(model: Any, case: dict[str, Any], location: str) -> Any:
    penalty = case["model"].get("penalty")
    if penalty is None:
        return model
    ridge = penalty["type"] == "ridge"
    prior = dist.Normal(number(0.0), number(penalty["l2"]) ** -0.5) if ridge else None
    prior = prior or dist.Laplace(number(0.0), 1 / number(penalty["l1"]))
    free = [f"{location}.bias", *case["model"]["scalar_parameters"], *case["model"]["fixed"]]
    return flat(with_priors(model, {f"{location}.weight": prior}), *free)


def estimates(fit: Fit, case: dict[str, Any]) -> dict[str, float]:
    """The estimates under the names of the case."""
    location = LOCATION[case["family"]]
    found = {name: value.item() for name, value in fit.params.items() if value.dim() == 0 and "." not in name}
    for predictor, columns in fit.columns.items():
        block = "location" if predictor == location else predictor
        weights = fit.params[f"{predictor}.weight"].tolist()
        found |= {f"{block}.{column}": value for column, value in zip(columns, weights, strict=True)}
        if f"{predictor}.bias" in fit.params:
            found[f"{block}.(Intercept)"] = fit.params[f"{predictor}.bias"].item()
    return found
