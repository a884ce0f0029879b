"""What a warm call walks through: `python tests/walk.py` prints modules, functions and runs of the model.

Modules and functions are those of neglog that Python enters, each counted once; comprehensions, generator
expressions and lambdas, which Python 3.11 enters like functions, are part of the function that contains them.
The data are 200 rows of 3 columns, and each call was made once before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import neglog
from neglog import mle, models, summary

SOURCE = str(Path(neglog.__file__).parent)
NO_FUNCTIONS = ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>", "<lambda>")
"""The ends of the names of code that is read as part of a function."""


def walked(call: Callable[[], Any]) -> tuple[int, int]:
    """The number of modules and of functions of neglog that a call enters."""
    seen = set()

    def enter(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(SOURCE):
            seen.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    sys.setprofile(enter)
    try:
        call()
    finally:
        sys.setprofile(None)
    functions = {each for each in seen if not each[1].endswith(NO_FUNCTIONS)}
    return len({file for file, _ in seen}), len(functions)


def counted(model: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    """A model, and a list whose only number is how often it has run."""
    runs = [0]

    def run(x: Any, y: Any = None, **keywords: Any) -> Any:
        runs[0] += 1
        return model(x, y, **keywords)

    return run, runs


def measured() -> dict[str, tuple[int, int, int]]:
    """Call -> modules, functions, runs of the model."""
    torch.manual_seed(0)
    x = torch.randn(200, 3, dtype=torch.float64)
    eta = 0.5 + 0.3 * x[:, 0]
    responses = {"poisson": torch.poisson(eta.exp()), "gaussian": eta + torch.randn(200), "laplace": None}
    responses["laplace"] = responses["gaussian"]
    found = {}
    for name, y in responses.items():
        model, runs = counted(getattr(models, name))
        mle(model, x, y)
        runs[0] = 0
        mle(model, x, y)
        repeats = runs[0]
        found[f"mle({name})"] = (*walked(lambda: mle(model, x, y)), repeats)  # noqa: B023
    fit = mle(models.poisson, x, responses["poisson"])
    summary(fit)
    model, runs = counted(models.poisson)
    fit = mle(model, x, responses["poisson"])
    summary(fit)
    runs[0] = 0
    summary(fit)
    repeats = runs[0]
    found["summary(poisson)"] = (*walked(lambda: summary(fit)), repeats)
    return found


if __name__ == "__main__":
    print(f"{'call':20}{'modules':>10}{'functions':>10}{'runs':>10}")
    for name, numbers in measured().items():
        print(f"{name:20}" + "".join(f"{number:10}" for number in numbers))
