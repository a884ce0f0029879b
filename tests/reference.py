"""The table of reference cases, and how a case becomes a fit."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache, partial
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
# Family -> the model, its location's predictor, and what the case calls its constants.
FAMILIES: dict[str, tuple[Any, str, dict[str, str]]] = {
    "gaussian": (models.gaussian, "mean", {}),
    "laplace": (models.laplace, "location", {}),
    "gaussian_hetero": (models.heteroscedastic, "mean", {}),
    "huber": (models.huber, "location", {"k": "delta"}),
    "student_t": (models.student_t, "location", {}),
    "asymmetric_laplace": (models.quantile, "quantile", {}),
    "poisson": (models.poisson, "log_rate", {}),
    "negbin2": (models.negative_binomial, "log_mean", {"alpha": "dispersion"}),
    "gamma": (models.gamma, "log_mean", {}),
    "beta": (models.beta, "logit_mean", {}),
    "bernoulli": (models.bernoulli, "logit", {}),
    "binomial": (models.binomial, "logit", {}),
}
BOUND = {"delta", "df", "tau"}
"""Constants that are keywords of a model and not sites."""


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
    keywords: dict[str, pd.Series]

    def fit(self, **settings: Any) -> Fit:
        penalised = "penalty" in self.case["model"]
        return (map_estimate if penalised else mle)(self.model, self.x, self.y, **self.keywords, **settings)

    def complete(self) -> Problem:
        """The same in the rows where nothing is missing."""
        kept = self.y.notna()
        for design in self.x.values():
            kept &= design.notna().all(axis=1)
        x = {key: design[kept] for key, design in self.x.items()}
        keywords = {key: value[kept] for key, value in self.keywords.items()}
        return replace(self, x=x, y=self.y[kept], keywords=keywords)


def problem(name: str) -> Problem:
    case = CASES[name]
    data = table(case["data"]["name"])
    model, location, renamed = FAMILIES[case["family"]]
    fixed = {renamed.get(key, key): value for key, value in (case["model"].get("fixed") or {}).items()}
    bound = {key: value for key, value in fixed.items() if key in BOUND}
    sites = {key: value for key, value in fixed.items() if key not in BOUND}
    x = {}
    for block in case["model"]["blocks"]:
        x[predictor_of(block["name"], location)] = data[[c for c in block["columns"] if c != "(Intercept)"]]
        if "(Intercept)" not in block["columns"]:
            sites[f"{location}.bias"] = 0.0
    model = partial(model, **bound) if bound else model
    if sites:
        model = pyro.condition(model, {site: number(value) for site, value in sites.items()})
    keywords = {key: data[case[key]] for key in ("weights", "exposure", "trials") if key in case}
    return Problem(case, _penalised(model, case, location, sites), x, data[case["response"]], keywords)


@cache
def fitted(name: str) -> Fit:
    """The fit of a case by the solver that is chosen for it, in the rows that are complete."""
    return problem(name).complete().fit()


def predictor_of(block: str, location: str) -> str:
    """The key of a block of a case in `x`: a positive parameter's own name, whatever the block's link."""
    return {"location": location, "log_precision": "precision"}.get(block, block)


def _penalised(model: Any, case: dict[str, Any], location: str, sites: dict[str, float]) -> Any:
    penalty = case["model"].get("penalty")
    if penalty is None:
        return model
    ridge = penalty["type"] == "ridge"
    prior = dist.Normal(number(0.0), number(penalty["l2"]) ** -0.5) if ridge else None
    prior = prior or dist.Laplace(number(0.0), 1 / number(penalty["l1"]))
    free = [f"{location}.bias", *case["model"]["scalar_parameters"], *sites]
    return flat(with_priors(model, {f"{location}.weight": prior}), *free)


def estimates(fit: Fit, case: dict[str, Any]) -> dict[str, float]:
    """The estimates under the names of the case."""
    _, location, renamed = FAMILIES[case["family"]]
    back = {ours: theirs for theirs, ours in renamed.items()}
    scalars = {name: value.item() for name, value in fit.params.items() if "." not in name}
    found = {back.get(name, name): value for name, value in scalars.items()}
    for block in case["model"]["blocks"]:
        predictor = location if block["name"] == "location" else block["name"]
        if f"{predictor}.bias" in fit.params:
            found[f"{block['name']}.(Intercept)"] = fit.params[f"{predictor}.bias"].item()
        columns = fit.columns[predictor_of(block["name"], location)]
        weights = fit.params[f"{predictor}.weight"].tolist()
        found |= {f"{block['name']}.{column}": v for column, v in zip(columns, weights, strict=True)}
    return found


def label(parameter: str, case: dict[str, Any]) -> tuple[str, str]:
    """The label that `covariance` has for a parameter of the case."""
    _, location, renamed = FAMILIES[case["family"]]
    block, _, column = parameter.partition(".")
    ours = location if block == "location" else renamed.get(block, block)
    return ours, column.replace("(Intercept)", "Intercept")
