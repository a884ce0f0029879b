"""Interleaved runs of contenders on the same data, and what came of them."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from works import WORK, Work, data

LIMIT = 150.0
"""A contender that would take more seconds than this is left out; fewer rows say what it takes at least."""
ONCE = 30.0
"""One that takes more seconds than this is run once."""
SHORT, AGAIN = 1000, 15
"""Fits of so many rows are timed so many times in a process of their own."""
MINUTES = "minutes, or too much memory"
OURS = "neglog"
CALLS = {"wall": time.perf_counter, "cpu": time.process_time}
Record = dict[str, object]


def timed(call: Callable, clock: Callable[[], float]) -> tuple[float, object]:
    started = clock()
    found = call()
    return clock() - started, found


def measure(work: Work, rows: int, repeats: int, before: Record | None, clock: str) -> Record:
    """All contenders on `repeats` data sets of `rows`; `before` is what was found for fewer rows.

    Each data set is new to all: neglog's first fit of it is its cold time, the second its warm one. One round
    more is not counted, since whatever is slow once is slow there; a slow contender has no other.
    """
    left_out = {name: why for name in work.peers if (why := excluded(work, name, rows, before))}
    fits = {OURS: work.ours} | {name: fit for name, fit in work.peers.items() if name not in left_out}
    times: dict[str, list[float]] = {name: [] for name in ("cold", *fits)}
    above: dict[str, float] = dict.fromkeys(fits, 0.0)
    for seed in range(repeats + 1):
        x, y = data(work, rows, seed)
        cold, _ = timed(lambda x=x, y=y: work.ours(x, y), CALLS[clock])
        took, ends = {"cold": cold}, {}
        for name, fit in fits.items():
            try:
                took[name], found = timed(lambda x=x, y=y, fit=fit: fit(x, y), CALLS[clock])
                ends[name] = float(work.criterion(found, x, y))
            except Exception as error:  # a peer that fails is a result too
                if name == OURS:
                    raise
                left_out[name] = f"{type(error).__name__}: {error}"[:100]
        best = min(ends.values())
        for name, end in ends.items():
            above[name] = max(above[name], (end - best) / abs(best))
        slow = {name for name, spent in took.items() if spent > ONCE and name in work.peers}
        for name, spent in took.items():
            if seed or name in slow:
                times[name].append(spent)
        fits = {name: fit for name, fit in fits.items() if name not in left_out and name not in slow}
    return {
        "work": work.name,
        "rows": rows,
        "clock": clock,
        "times": {name: spent for name, spent in times.items() if spent},
        "above": above,
        "left out": left_out,
        "first": first_call(work.name, rows),
    }


def excluded(work: Work, name: str, rows: int, before: Record | None) -> str:
    """Why a peer is not asked, if it is not."""
    if rows > work.most.get(name, rows):
        return MINUTES
    if before is None:
        return ""
    if name in before["left out"]:
        return str(before["left out"][name])
    expected = statistics.median(before["times"][name]) * rows / before["rows"]
    return f"some {expected:.0f} s" if expected > LIMIT else ""


def first_call(name: str, rows: int) -> Record:
    """Seconds of the first fit in a process of its own, and of short ones of new data after it."""
    command = [sys.executable, __file__, name, str(rows)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(name: str, rows: int) -> None:
    work = next(work for work in WORK if work.name == name)
    spent = []
    for seed in range(AGAIN + 1 if rows <= SHORT else 1):
        x, y = data(work, rows, seed)
        spent.append(timed(lambda x=x, y=y: work.ours(x, y), time.perf_counter)[0])
    print(json.dumps({"fit": spent[0], "calls": spent[1:]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
