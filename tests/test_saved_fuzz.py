"""Saved models that somebody edited: the same model, another valid one, or an error of `neglog.errors`.

Mutations of values, kinds, names and bytes, with the digest that belongs to them: who edits a file can
compute that too. What is loaded predicts finite numbers.
"""

import copy
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch

from neglog import censored, export, masked, mle, models, predict, summary, truncated
from neglog.candidates import designs
from neglog.errors import NeglogError
from neglog.export import documents
from neglog.formula import learn

MUTATIONS = 60
"""Mutations of each saved model; `python tests/test_saved_fuzz.py 2000` runs more."""

# Slopes on a log scale so large that a scale overflows at these rows are numbers like others, and not here.
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 10**9, 0.0, -1.0, 0.5, -1e300, 1e-300, "", "y", "x"),
    *(
        "nan",
        "inf",
        "mean.weight",
        "python",
        [],
        {},
        [[]],
        ["x"],
        {"float": "inf"},
        {"float": "nan"},
        "é" * 99,
    ),
]


def table() -> pd.DataFrame:
    generator = np.random.default_rng(5)
    x = generator.uniform(1, 3, 30)
    group = generator.choice(["a", "b", "c"], 30)
    return pd.DataFrame({"x": x, "group": group, "y": 2 * x + generator.normal(size=30)})


def of_formula(folder: Path) -> Path:
    learned = learn("y ~ poly(x, 2) + C(group)", table(), also=["sigma ~ x"])
    x = learned.design.x(table(), ("mean",), ("sigma",))
    return export.save(mle(models.gaussian, x, learned.design.y(table())), folder, formula=learned.design)


def of_handlers(folder: Path) -> Path:
    one = torch.tensor(1.0, dtype=torch.float64)
    model = pyro.condition(partial(models.student_t, df=4.0), {"location.bias": one})
    model = masked(censored(truncated(model, lower=-50.0), upper=7.0))
    return export.save(mle(model, table()[["x"]], table()["y"].clip(upper=7.0)), folder)


def of_classes(folder: Path) -> Path:
    codes = table()["group"].map({"a": 0, "b": 1, "c": 2})
    return export.save(mle(models.categorical, table()[["x"]], codes), folder)


def of_counts(folder: Path) -> Path:
    counts, exposure = table()["y"].abs().round(), np.full(30, 2.0)
    return export.save(mle(models.poisson, table()[["x"]], counts, exposure=exposure), folder)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything inside a JSON value."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def mutated(fields: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The fields with one to three values, names or elements changed."""
    fields = copy.deepcopy(fields)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        path = chance.choice(list(places(fields)))
        parent: Any = fields
        for key in path[:-1]:
            parent = parent[key]
        match chance.randrange(5):
            case 0 | 1:
                parent[path[-1]] = copy.deepcopy(chance.choice(VALUES))
            case 2:
                del parent[path[-1]]
            case 3 if isinstance(parent, dict):
                parent[str(chance.choice(VALUES))] = parent.pop(path[-1])
            case 3:
                parent.append(copy.deepcopy(parent[path[-1]]))
            case 4:
                parent[path[-1]] = [parent[path[-1]]]
    return fields


def predicted(folder: Path) -> torch.Tensor:
    saved = export.load(folder)
    x: Any = table()[["x"]].iloc[:4] if saved.formula is None else None
    x = designs(saved, saved.formula, table().iloc[:4]) if saved.formula is not None else x
    keywords = {name: np.full(4, 2.0) for name in saved.keywords}
    distribution = predict(saved, x, **keywords)
    assert not bool(summary(saved)["estimate"].isna().any())
    return torch.as_tensor(distribution.log_prob(distribution.sample()))


def check(make: Callable[[Path], Path], folder: Path, tries: int) -> None:
    make(folder)
    path = folder / "model.json"
    fields = json.loads(path.read_text())
    del fields[documents.DIGEST]
    whole = documents.encoded(fields)
    refused = 0
    for seed in range(tries):
        chance = random.Random(seed)
        if seed % 6:
            content = documents.encoded(mutated(fields, chance))
        else:
            content = bytearray(whole)
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            density = predicted(folder)
        except NeglogError:
            refused += 1
            continue
        except Exception as error:
            raise AssertionError(f"mutation {seed}: {type(error).__name__}: {error}") from error
        assert not bool(torch.isnan(density).any()), seed
    assert refused > tries // 2


@pytest.mark.parametrize("make", [of_formula, of_handlers, of_classes, of_counts])
def test_an_edited_model_predicts_or_is_refused(make: Callable[[Path], Path], tmp_path: Path) -> None:
    check(make, tmp_path, MUTATIONS)


if __name__ == "__main__":
    import sys
    import tempfile

    for make in (of_formula, of_handlers, of_classes, of_counts):
        with tempfile.TemporaryDirectory() as folder:
            check(make, Path(folder), int(sys.argv[1]))
