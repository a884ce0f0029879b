"""The tables of models in the documents, from what each model declares beside its function.

``python tests/loss_tables.py`` writes them; test_documents.py holds the documents equal to them.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_args

from neglog import models
from neglog.losses import TABLE, Loss
from neglog.models.replaced import Response

ROOT = Path(__file__).parent.parent
MODULES = ("location", "counts", "skewed", "bounded", "classes", "mixtures", "vectors")
"""The modules of models in the order of the tables; further ones come last."""
LOSSES = "| model | replaces | density of y | its optimum estimates | choose it when |"
CHOICES = "| y | what you know | model | its page |"


def ordered() -> list[str]:
    """The models, module by module, in the order of their definition."""

    def place(name: str) -> tuple[int, str, int]:
        function = inspect.unwrap(getattr(models, name))
        module = function.__module__.rpartition(".")[2]
        known = MODULES.index(module) if module in MODULES else len(MODULES)
        return known, module, function.__code__.co_firstlineno

    return sorted(models.__all__, key=place)


def replaces(loss: Loss) -> str:
    """The classical loss, with PyTorch's class where there is one."""
    with_class = re.sub(r"^(torch\.[\w.]+)", r"`\1`", loss.torch_loss)
    return f"{loss.name}, {with_class}" if with_class != loss.torch_loss else loss.name


def of_losses() -> list[str]:
    """The rows of the table of losses."""
    rows = []
    for name in ordered():
        loss = TABLE[name]
        cells = (f"`{name}`", replaces(loss), loss.density, loss.estimates, loss.choose_when)
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def of_choices() -> list[str]:
    """The rows of models in the table of choices, by kind of response."""
    kinds = get_args(Response)
    rows = []
    for name in sorted(ordered(), key=lambda name: kinds.index(TABLE[name].response)):
        loss = TABLE[name]
        title = loss.page.partition(".")[0]
        rows.append(f"| {loss.response} | {loss.choose_when} | `{name}` | [{title}]({loss.page}) |")
    return rows


def with_rows(text: str, header: str, rows: list[str]) -> str:
    """A document with the rows of models below a header; its other rows stay behind them."""
    lines = text.splitlines()
    first = lines.index(header) + 2
    last = next((at for at in range(first, len(lines)) if not lines[at].startswith("|")), len(lines))
    others = [line for line in lines[first:last] if not set(re.findall(r"`(\w+)`", line)) & set(TABLE)]
    return "\n".join([*lines[:first], *rows, *others, *lines[last:]]) + "\n"


def written() -> dict[Path, str]:
    """The documents with tables of models -> their texts, as they are to be."""
    tables = {
        "README.md": (LOSSES, of_losses()),
        "docs/losses.md": (LOSSES, of_losses()),
        "docs/which-likelihood.md": (CHOICES, of_choices()),
    }
    return {
        ROOT / name: with_rows((ROOT / name).read_text(encoding="utf-8"), *table)
        for name, table in tables.items()
    }


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
