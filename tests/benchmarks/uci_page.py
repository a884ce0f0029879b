"""The page: from the stored scores of `make uci` to docs/uci.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from uci_fits import (
    BATCH,
    DECAY,
    FASTER,
    HIDDEN_UNITS,
    LEARNING_RATE,
    LONGER,
    MANY_ROWS,
    MANY_STEPS,
    MEMBERS,
    ROWS,
    STEPS,
)
from uci_tables import SPLITS, TABLES, Array

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "uci.md"
NGBOOST = "NGBoost"
SCORES = {"nll": "Negative log score", "crps": "CRPS", "rmse": "RMSE"}
PRINTED = {
    "deep ensembles, printed": (1.18, 1.38, 3.06, 0.94, -1.20, 2.79, -5.63),
    "NGBoost, printed": (0.20, 0.60, 3.04, 0.91, -0.49, 2.79, -5.34),
    "MC dropout, printed": (1.55, 1.99, 3.04, 0.93, -0.95, 2.80, -3.80),
}
"""Negative log scores that papers report, in the order of `TABLES`."""
RECIPE, STATED_ERRORS, WANTED_TABLES = "recipe", 2.0, 5
FAITHFUL_SHARE = 0.01
"""How much the RMSE of `faithful` may exceed that of the MSE, relatively."""
Results = Mapping[str, Mapping[str, Mapping[int, Mapping[str, float]]]]
"""Table → row → split → score."""


def read_results(folder: Path) -> dict[str, dict[str, dict[int, dict[str, float]]]]:
    """All stored scores, those of NGBoost among them."""
    found: dict[str, dict[str, dict[int, dict[str, float]]]] = {name: {} for name in TABLES}
    for name, own in found.items():
        for seed in range(SPLITS):
            path = folder / f"{name}-{seed}.json"
            for row, scores in (json.loads(path.read_text()) if path.exists() else {}).items():
                own.setdefault(row, {})[seed] = scores
    for name, splits in json.loads((HERE / "uci_ngboost.json").read_text()).items():
        found[name][NGBOOST] = {int(seed): scores for seed, scores in splits.items()}
    return found


def summarised(values: Array) -> tuple[float, float]:
    """The mean and its standard error."""
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return float(values.mean()), error


def difference(own: Mapping[str, Mapping[int, Mapping[str, float]]], a: str, b: str, score: str) -> Array:
    """The scores of one row minus those of another, on the splits that both have."""
    both = sorted(set(own.get(a, {})) & set(own.get(b, {})))
    return np.array([own[a][seed][score] - own[b][seed][score] for seed in both])


def cell(values: Array, digits: int) -> str:
    """The mean and its standard error, as text."""
    if not len(values):
        return "–"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    mean, error = summarised(values)
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def digits_of(name: str, score: str) -> int:
    """Decimal places that show the scores of a table."""
    return 5 if name == "naval" and score != "nll" else 4 if name == "kin8nm" and score != "nll" else 3


def lines_of(first: str, rows: Mapping[str, list[str]]) -> list[str]:
    """A table of Markdown, with a column for each table of data."""
    head = [f"| {first} | {' | '.join(TABLES)} |", f"|{' --- |' * (len(TABLES) + 1)}"]
    return [*head, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()), ""]


def scores_of(found: Results, score: str) -> list[str]:
    """The means of a score, row by row."""
    rows = {}
    for row in (*ROWS, NGBOOST):
        cells = []
        for name in TABLES:
            own = found[name].get(row, {})
            values = np.array([own[seed][score] for seed in sorted(own)])
            cells.append(cell(values, digits_of(name, score)))
        rows[row] = cells
    if score == "nll":
        rows |= {name: [f"{value:.2f}" for value in values] for name, values in PRINTED.items()}
    return [f"## {SCORES[score]}", "", *lines_of("row", rows)]


def differences(found: Results) -> list[str]:
    """Paired differences: of the recipe and NGBoost, of faithful and the MSE, of plain NLL and the MSE."""
    pairs = [(RECIPE, NGBOOST, "nll"), (RECIPE, NGBOOST, "crps"), (RECIPE, NGBOOST, "rmse")]
    pairs += [("faithful", "MSE", "rmse"), ("plain NLL", "MSE", "rmse"), ("plain NLL", "PyTorch loop", "nll")]
    rows = {}
    for a, b, score in pairs:
        cells = [cell(difference(found[name], a, b, score), digits_of(name, score)) for name in TABLES]
        rows[f"{a} − {b}, {SCORES[score]}"] = cells
    return ["## Paired differences", "", *lines_of("difference", rows)]


def verdict(values: Array) -> str:
    """Ahead, even or behind, by the stated number of standard errors; missing without two splits."""
    if len(values) < 2:
        return "missing"
    mean, error = summarised(values)
    if mean < 0:
        return "ahead"
    return "even" if mean <= STATED_ERRORS * error else "behind"


def reached(found: Results) -> list[str]:
    """What of the aims is reached, table by table."""
    printed = dict(zip(TABLES, PRINTED["deep ensembles, printed"], strict=True))
    rows: dict[str, list[str]] = {}
    for score in ("nll", "crps"):
        name = f"{RECIPE} against {NGBOOST}, {SCORES[score]}"
        rows[name] = [verdict(difference(found[each], RECIPE, NGBOOST, score)) for each in TABLES]
    rows[f"{RECIPE} against deep ensembles, printed"] = [
        verdict(np.array([own["nll"] - printed[each] for own in found[each].get(RECIPE, {}).values()]))
        for each in TABLES
    ]
    rows["RMSE of faithful within 1 % of the MSE, or two standard errors"] = [
        is_faithful(found[each]) for each in TABLES
    ]
    counts = [f"{name}: ahead on {cells.count('ahead')} of {len(cells)}" for name, cells in rows.items()][:3]
    wanted = f"Wanted: ahead on at least {WANTED_TABLES}, behind on none."
    return ["## What is reached", "", *lines_of("aim", rows), f"{'; '.join(counts)}. {wanted}", ""]


def is_faithful(own: Mapping[str, Mapping[int, Mapping[str, float]]]) -> str:
    """Whether the RMSE of `faithful` is that of the MSE."""
    values = difference(own, "faithful", "MSE", "rmse")
    if len(values) < 2:
        return "missing"
    mean, error = summarised(values)
    plain = np.mean([own["MSE"][seed]["rmse"] for seed in own["MSE"]])
    return "yes" if mean <= max(FAITHFUL_SHARE * plain, STATED_ERRORS * error) else "no"


def splits_of(found: Results) -> str:
    """The number of splits of each table, where they are not all there."""
    own = {
        name: min((len(found[name].get(row, {})) for row in ("MSE", RECIPE)), default=0) for name in TABLES
    }
    theirs = {name: len(found[name].get(NGBOOST, {})) for name in TABLES}

    def text(numbers: Mapping[str, int]) -> str:
        if len(set(numbers.values())) == 1:
            return str(next(iter(numbers.values())))
        return ", ".join(f"{name} {number}" for name, number in numbers.items())

    return f"Splits that are in these tables: {text(own)}; of {NGBOOST}: {text(theirs)}."


def seconds_of(found: Results) -> str:
    """The processor time of all fits but those of NGBoost."""
    total = sum(
        scores["seconds"]
        for own in found.values()
        for row, splits in own.items()
        if row != NGBOOST
        for scores in splits.values()
    )
    return f"The fits took {total / 60:.0f} minutes of processor time."


PROTOCOL = f"""# Seven tables of the UCI repository

Written by `make uci`. Each of {SPLITS} splits (seeds 0 to {SPLITS - 1}) has a random 10 % of the rows for
the test, 5 % of the others for validation, and the rest for training, by which features and response are
standardised. Networks have one hidden layer of {HIDDEN_UNITS} units with tanh and are trained by `Adam`:
{STEPS} steps of {BATCH} rows ({MANY_STEPS} above {MANY_ROWS} rows), with a learning rate from
{LEARNING_RATE} down to {DECAY:g} of it. The weights are those of the epoch with the best score of the
validation rows. Scores are means over the test rows in the units of the response, and ± is the standard
error of their mean over the splits: the lower, the better. The data are those of the UCI Machine Learning
Repository (Dua & Graff), under CC BY 4.0, without columns that are constant.
"""
NOTES = f"""The rows:
`MSE` is `gaussian`, `plain NLL` is `heteroscedastic`; `β-NLL` and `faithful` are the objectives
`beta_nll` and `faithful` of the latter; `natural` is `natural_gaussian`; `Student t` has a head for
location and scale and 4 degrees of freedom; `gamma` has heads for mean and shape, on the positive responses;
`PyTorch loop` is plain NLL by a loop in PyTorch, with the same budget; `ensemble` is one of {MEMBERS}
networks on plain NLL, in one graph. `recipe` is an ensemble on β-NLL ½, the same
for all tables, with {LONGER} times the steps and {FASTER} times the learning rate.
NGBoost's scores are those of `tests/benchmarks/uci_ngboost.py`, on the same splits. Printed numbers are
those of Lakshminarayanan et al. (2017) and of Duan et al. (2020), whose protocols differ.
"""


def write(folder: Path) -> None:
    """The page, from the results of a folder."""
    found = read_results(folder)
    parts = [PROTOCOL, splits_of(found) + " " + seconds_of(found), "", NOTES]
    for part in (reached(found), *(scores_of(found, score) for score in SCORES), differences(found)):
        parts += part
    PAGE.write_text("\n".join(parts).rstrip("\n") + "\n")
