"""Time neglog beside the packages that were written for one model each, and write what was found.

``make bench`` runs this in an environment of its own. What was measured is kept in build/benchmarks.json, so
that the work can be done in parts (``--only``, ``--rows``); the page is written anew from all of it.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import cold
import ess
import growth
import refits
import steps
import table
from timing import OURS, Record, measure
from works import WORK

ROOT = Path(__file__).parents[2]
PAGE, KEPT = ROOT / "docs" / "benchmarks.md", ROOT / "build" / "benchmarks.json"
STEPS, COLD, REFITS, ESS, GROWTH = "steps", "cold", "refits", "ess", "growth"
NAMES = [*(work.name for work in WORK), STEPS, COLD, REFITS, ESS, GROWTH]

LOW = 1e-8
"""No peer's optimum is lower than neglog's by more than this share of it."""
STEPPED = 100
"""Records from this place in the order on are not of optima of models."""


def step_records(repeats: int) -> list[Record]:
    """One step of Adam, in processor time of one thread."""
    found = []
    for name, by_contender in steps.measure(repeats=max(3, 5 * repeats)).items():
        times = {contender: [1e-3 * cost["step"]] for contender, cost in by_contender.items()}
        rows = int(name.split(",", 1)[1].split()[0].replace(",", ""))
        above = dict.fromkeys(times, 0.0)
        record = {"work": f"step, {name.split(',')[0]}", "rows": rows, "times": times, "above": above}
        found.append(record | {"left out": {}, "clock": "cpu"})
    return found


def records(chosen: argparse.Namespace, known: list[Record]) -> Iterator[Record]:
    """What is asked for, as it is measured."""
    for order, work in enumerate(WORK):
        if work.name not in chosen.only:
            continue
        smaller = [r for r in known if r["work"] == work.name and r["rows"] < min(chosen.rows)]
        before = max(smaller, key=lambda r: r["rows"], default=None)
        for rows in sorted(chosen.rows):
            before = measure(work, rows, chosen.repeats, before, chosen.clock)
            yield before | {"order": order}
    if STEPS in chosen.only:
        yield from (record | {"order": STEPPED} for record in step_records(chosen.repeats))
    for name in cold.WORKS if COLD in chosen.only else ():
        yield cold.measure(name, 1000, chosen.repeats) | {"order": 101}
    for name in refits.PEERS if REFITS in chosen.only else ():
        yield refits.measure(name, chosen.repeats, chosen.clock) | {"order": 102}
    for name in ess.PREDICTORS if ESS in chosen.only else ():
        yield ess.measure(name, chosen.repeats, chosen.clock) | {"order": 103}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--only", nargs="+", default=NAMES, choices=NAMES, metavar="WORK", help=", ".join(NAMES)
    )
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: of all threads together"
    )
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument(
        "--kept", type=Path, default=KEPT, help="what was measured before; remove it to start anew"
    )
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    kept = json.loads(chosen.kept.read_text()) if chosen.kept.exists() else {"records": [], "machines": []}
    kept["machines"] = list(dict.fromkeys([*kept["machines"], table.machine()]))
    chosen.kept.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        chosen.kept.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        if kept["records"]:
            chosen.out.write_text(table.page(kept["records"], kept["machines"]), encoding="utf-8")

    for record in records(chosen, kept["records"]):
        same = (record["work"], record["rows"])
        kept["records"] = [r for r in kept["records"] if (r["work"], r["rows"]) != same] + [record]
        print("\n".join(table.lines(record, kept["records"])), flush=True)
        keep()
    if GROWTH in chosen.only:
        rows = (
            growth.ROWS
            if max(chosen.rows) >= 1_000_000
            else tuple(n for n in growth.ROWS if n <= max(chosen.rows))
        )
        kept["growth"] = growth.measure(rows, growth.COLUMNS, chosen.repeats, min(100_000, max(chosen.rows)))
        growth.draw(kept["growth"])
        keep()
    above = not_at_it(kept["records"])
    if above:
        raise SystemExit(f"neglog ended above the best optimum: {', '.join(above)}")


def not_at_it(records: list[Record]) -> list[str]:
    """The models of which a peer found a lower optimum, by more than 1e-8 of it."""
    return [
        f"{record['work']}, {record['rows']:,} rows, by {record['above'][OURS]:.0e}"
        for record in records
        if record["order"] < STEPPED and record["above"][OURS] > LOW
    ]


if __name__ == "__main__":
    main()
