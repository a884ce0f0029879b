"""Whatever the documents and the examples say, runs: each ends in assertions of its own.

An example is run as ``python examples/NAME.py --small``: it may read the flag to do with less data or
fewer steps. The Python blocks of a document run from top to bottom in one namespace, as a reader would
paste them, in an empty working directory.
"""

import re
import runpy
import sys
from pathlib import Path

import pyro
import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
DOCUMENTS = [*ROOT.glob("README.md"), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def _as_in_a_fresh_session(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_example_runs(script, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(script.parent))  # as `python SCRIPT` does, for what examples share
    monkeypatch.setattr(sys, "argv", [str(script), "--small", "--output", str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.stem)
def test_code_blocks_run(document):
    text = document.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        above = text.count("\n", 0, block.start(1))  # so that a traceback names the document's own line
        exec(compile("\n" * above + block.group(1), str(document), "exec"), namespace)
