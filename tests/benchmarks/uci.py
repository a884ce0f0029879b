"""Networks that learn their noise, on seven tables of the UCI repository: writes docs/uci.md.

    make uci
    python tests/benchmarks/uci.py [TABLE ...]

Results are stored in build/uci, or in the folder UCI_RESULTS: a run that was interrupted goes on from there,
and after a change of the code the folder must be removed. With names of tables only these are run; the page
is written from all results that there are.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import torch
import uci_page
from uci_fits import ROWS, measured
from uci_tables import SPLITS, TABLES, read, split

RESULTS = Path(os.environ.get("UCI_RESULTS", Path(__file__).parents[2] / "build" / "uci"))
PROCESSES = int(os.environ.get("UCI_PROCESSES", "2"))


def run(task: tuple[str, int]) -> None:
    """All rows of a split of a table, but those that are stored."""
    torch.set_num_threads(1)
    name, seed = task
    path = RESULTS / f"{name}-{seed}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    rows = None
    for row in ROWS.values():
        if row.name in found or (row.tables and name not in row.tables):
            continue
        rows = rows or split(read(name), seed)
        found[row.name] = measured(row, rows, seed)
        path.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Run what is not stored, and write the page."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    tasks = [(name, seed) for seed in range(SPLITS) for name in sys.argv[1:] or TABLES]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        for done, _ in enumerate(pool.imap_unordered(run, tasks), 1):
            print(
                f"{done} of {len(tasks)} splits, {(time.perf_counter() - start) / 60:.1f} minutes", flush=True
            )
    uci_page.write(RESULTS)


if __name__ == "__main__":
    main()
