"""The models and their losses, read from the sources of the models without importing torch."""

from __future__ import annotations

import ast
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from neglog import models

GROUPS = {
    "real": "Measurements",
    "positive": "Positive measurements and times",
    "share": "Shares between 0 and 1",
    "count": "Counts",
    "0 or 1": "Two classes",
    "class": "Several classes",
    "vector": "Vectors",
}
"""Kind of response, as a model declares it -> the heading of its models."""

COLUMNS = ("group", "model", "loss", "torch_loss", "density", "estimates", "choose_when", "response")
"""The columns of `neglog models`."""

_DECLARATION = re.compile(r"^declare_loss\(\n.*?^\)", re.MULTILINE | re.DOTALL)


@cache
def catalogue() -> tuple[Mapping[str, str], ...]:
    """The entry of each model: its name, its group, and the loss that it declares."""
    found = {entry["model"]: entry for entry in _declared()}
    in_order = sorted(found.values(), key=lambda entry: list(GROUPS).index(entry["response"]))
    return tuple(MappingProxyType(entry) for entry in in_order)


def _declared() -> Iterator[dict[str, str]]:
    for path in sorted(Path(str(models.__file__)).parent.glob("*.py")):
        for source in _DECLARATION.findall(path.read_text(encoding="utf-8")):
            call = ast.parse(source, mode="eval").body
            assert isinstance(call, ast.Call)
            name, loss = call.args
            assert isinstance(name, ast.Name)
            assert isinstance(loss, ast.Call)
            fields = {str(each.arg): str(ast.literal_eval(each.value)) for each in loss.keywords}
            group = GROUPS[fields["response"]]
            yield {"group": group, "model": name.id, "loss": ast.literal_eval(loss.args[0]), **fields}


def listing() -> str:
    """The models in groups, with one line each, as wide as the terminal."""
    width = shutil.get_terminal_size().columns
    longest = max(len(name) for name in models.__all__)
    lines = ["Models"]
    group = ""
    for entry in catalogue():
        if entry["group"] != group:
            group = entry["group"]
            lines.append(f"  {group}")
        room = max(width - longest - 6, 20)
        when = textwrap.shorten(entry["choose_when"], room, placeholder=" …")
        lines.append(f"    {entry['model']:<{longest}}  {when}")
    return "\n".join(lines)
