"""The page: from what was measured to docs/benchmarks.md."""

from __future__ import annotations

import math
import os
import platform
import statistics
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from timing import LIMIT, MINUTES, ONCE, OURS, Record

HERE = Path(__file__).parent
LIMITS = HERE / "limits.md"
"""What is in the way of the aims that are not reached, written by hand."""
PICTURE = HERE.parents[1] / "docs" / "images" / "benchmarks_growth.png"
EQUAL = 1e-6
"""A peer that ends this far above the best optimum, relatively, is not at it, and not the best."""
MOST_ERRORS = 5.0
"""Means of draws may differ by so many of their Monte-Carlo errors."""
SMALL, COLD = 1000, 0.030
"""A cold fit of so many rows is to take no more than so many seconds."""
WANTED = {
    "effective draw": 1.0,
    "refits": 0.05,
    "cold call": 0.05,
    "negative_binomial": 0.2,
    "beta": 0.2,
    "student_t": 0.2,
    "heteroscedastic": 0.2,
    "laplace": 0.2,
    "quantile": 0.2,
}
"""The ratios to the best peer that are aimed at, by what is in the name of a work; 0.5 for others."""
APART = {
    "step, linear": {"loop": 0.8, "pyro": 0.2, "numpyro": None},
    "step, network": {"loop": 0.8, "pyro": 0.4, "numpyro": None},
    "effective draw": {"Pyro": 0.1},
}
"""Work -> peer, by how its name starts or ends -> the ratio to it that is aimed at; None is no aim."""


def machine() -> str:
    """The processor, the threads, the versions and the day."""
    import torch

    named = [line.split("==")[0].strip() for line in (HERE / "requirements.txt").read_text().splitlines()]
    packages = [
        "torch",
        "pyro-ppl",
        "numpy",
        "scipy",
        "scikit-learn",
        *(n for n in named if n and n[0] != "#"),
    ]
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return (
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {processor()}, Python "
        f"{platform.python_version()}; {', '.join(found)}; {date.today().isoformat()}"
    )


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def ratios(record: Record, peer: str, ours: str = OURS) -> list[float]:
    pairs = zip(record["times"][ours], record["times"][peer], strict=False)
    return [mine / theirs for mine, theirs in pairs]


def seconds(times: list[float]) -> str:
    value = statistics.median(times)
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def spread(values: list[float]) -> str:
    return f"{min(values):.2g} – {max(values):.2g}"


def best_peer(record: Record) -> str | None:
    """The fastest of the peers that come to the optimum."""
    equal = MOST_ERRORS if "effective draw" in record["work"] else EQUAL
    at_it = [name for name, above in record["above"].items() if name in record["times"] and above <= equal]
    peers = [name for name in at_it if name != OURS]
    return min(peers, key=lambda name: statistics.median(record["times"][name]), default=None)


def bounds(record: Record, records: list[Record]) -> dict[str, tuple[float, int]]:
    """The ratio that is not exceeded for each peer that was left out, and the rows that say so.

    No contender grows slower than the rows, so that it takes at least what it took of the most rows that it
    was given, times how many more there are. Only those count that came to the optimum of these.
    """
    found, mine = {}, statistics.median(record["times"][OURS])
    smaller = [r for r in records if r["work"] == record["work"] and r["rows"] < record["rows"]]
    for name in record["left out"]:
        known = [r for r in smaller if name in r["times"] and r["above"][name] <= EQUAL]
        if known:
            before = max(known, key=lambda r: r["rows"])
            least = statistics.median(before["times"][name]) * record["rows"] / before["rows"]
            found[name] = mine / least, before["rows"]
    return found


def at_most(ratio: float) -> str:
    """A bound on a ratio, rounded up."""
    return f"< {max(0.01, math.ceil(100 * ratio) / 100):.2f}"


def lines(record: Record, records: list[Record]) -> list[str]:
    """The table's rows of one work at one number of rows: one for each peer."""
    start = f"| {record['work']} | {record['rows']:,} |"
    mine, found = record["times"][OURS], []
    first, cold = record.get("first", {}).get("fit"), record["times"].get("cold")
    ours = f"{seconds(mine)} | {seconds(cold) if cold else '–'} | {f'{first:.2f} s' if first else '–'}"
    peers = {name: times for name, times in record["times"].items() if name not in (OURS, "cold")}
    for name, times in sorted(peers.items(), key=lambda item: statistics.median(item[1])):
        warm = ratios(record, name)
        colder = f"{statistics.median(ratios(record, name, 'cold')):.2f}" if cold else "–"
        found.append(
            f"{start} {name} | {statistics.median(warm):.2f} | {spread(warm)} | {colder} | {ours} "
            f"| {seconds(times)} | {record['above'][OURS]:.0e} | {record['above'][name]:.0e} |"
        )
    known = bounds(record, records)
    for name, why in record["left out"].items():
        bound = f"{at_most(known[name][0])}, by {known[name][1]:,} rows" if name in known else "–"
        found.append(f"{start} {name} | {bound} | {why} | | | | | | | |")
    return found


def summary(records: list[Record]) -> list[str]:
    """The best peer of each work, at the most rows that were measured, and whether the aim is reached."""
    largest = {record["work"]: record for record in records}  # sorted, those of the same work by rows
    return [line for record in largest.values() for line in aims(record, records)]


def bounded(record: Record, records: list[Record], wanted: float) -> str:
    """The line of a work at whose size no peer came to the optimum: the best of those that were left out.

    Those that are known to take minutes, or more than the memory, stand behind those that would take less.
    """
    start, known = f"| {record['work']} | {record['rows']:,} |", bounds(record, records)
    if not known:
        return f"{start} none comes to the optimum | – | {wanted:g} | – |"
    rest = [name for name in known if record["left out"][name] != MINUTES] or list(known)
    peer = max(rest, key=lambda name: known[name][0])
    ratio, rows = known[peer]
    least = statistics.median(record["times"][OURS]) / ratio
    told = f"{peer}, {least:.0f} s or more by what it took of {rows:,} rows"
    return f"{start} {told} | {at_most(ratio)} | {wanted:g} | {'yes' if ratio <= wanted else '–'} |"


def cold(records: list[Record]) -> list[str]:
    """The seconds of whole calls on a few rows of new data, against what is aimed at."""
    found = []
    for record in records:
        times = record.get("first", {}).get("calls")
        if times and record["rows"] == SMALL and "path" not in record["work"]:
            reached = "yes" if statistics.median(times) <= COLD else "no"
            ends = [f"{1e3 * end:.3g}" for end in (statistics.median(times), min(times), max(times))]
            found.append(
                f"| {record['work']} | {ends[0]} | {ends[1]} – {ends[2]} | {1e3 * COLD:g} | {reached} |"
            )
    return found


def aims(record: Record, records: list[Record]) -> list[str]:
    """The best peer, and those that there is an aim of their own for."""
    name, best = record["work"], best_peer(record)
    start = f"| {name} | {record['rows']:,} |"
    apart = next((peers for part, peers in APART.items() if part in name), {})
    compared: dict[str, float | None] = {}
    if "step" not in name:
        wanted = next((value for part, value in WANTED.items() if part in name), 0.5)
        if best is None:
            return [bounded(record, records, wanted)]
        compared[best] = wanted
    for kind, wanted in apart.items():
        known = [peer for peer in record["times"] if peer == kind or kind in peer.split(",")[0].split()]
        if known:
            compared[min(known, key=lambda peer: statistics.median(record["times"][peer]))] = wanted
    found = []
    for peer, wanted in compared.items():
        ratio = statistics.median(ratios(record, peer))
        reached = "–" if wanted is None else "yes" if ratio <= wanted else "no"
        found.append(
            f"{start} {peer} | {ratio:.2f} | {'–' if wanted is None else f'{wanted:g}'} | {reached} |"
        )
    return found


HEAD = """# Benchmarks

Written by `make bench`: times of neglog and of packages for single models, on the same simulated data with
20 columns in float64, in interleaved runs. A ratio is the median of neglog's time over the peer's: below 1
neglog was faster. The best peer is the fastest of those that come within {equal:.0e} of the best optimum. A
step is one of Adam.

{machines}

| task | rows | peer, the best or named | ratio | target | reached |
|---|---|---|---|---|---|
"""
CALLS = """
## Cold calls of {rows:,} rows

`mle` or `map_estimate` of new data, {rows:,} rows and 20 columns, after a first fit of the same model, in
milliseconds, in a process without other packages. In a process with them, whose threads and caches remain,
the same calls take the times of the last table.

| task | median | from – to | target | reached |
|---|---|---|---|---|
"""
GROWTH = """
## Growth

![Seconds of a warm mle against the rows and the columns](images/benchmarks_growth.png)
"""
ALL = """
## Every peer

Cold is neglog's first fit of new data, warm the second; first is the first fit in a process, without the
import. Each repeat has its own data. The last two columns are the differences of neglog's and the peer's
loss from the best optimum that any of them found, relative to it (for refits: the largest difference of a
coefficient from `mle`; for cold calls: nats per row; for effective draws: the largest difference of a
posterior mean from neglog's, in Monte-Carlo standard errors, up to 5): a peer may be faster because it
stops earlier. Peers that would take more than {limit:g} s are not run; their time is at least that for
fewer rows, scaled by the number of rows, which bounds the ratio. Those that take more than {once:g} s are
run once.

`huber` is compared by the likelihood of its slopes at the scale that maximises it; scikit-learn and
statsmodels estimate the scale, and therefore the slopes, in other ways.

| task | rows | peer | ratio | from – to | ratio, cold | warm | cold | first | peer | above | peer above |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def page(records: list[Record], machines: list[str]) -> str:
    ordered = sorted(records, key=lambda record: (record["order"], record["work"], record["rows"]))
    peers = [line for record in ordered for line in lines(record, ordered)]
    head = HEAD.format(equal=EQUAL, machines="\n".join(f"{machine}.\n" for machine in machines).rstrip())
    limits = "\n" + LIMITS.read_text(encoding="utf-8").strip() + "\n" if LIMITS.exists() else ""
    calls = cold(ordered)
    said = CALLS.format(rows=SMALL) + "\n".join(calls) + "\n" if calls else ""
    growth = GROWTH if PICTURE.exists() else ""  # the picture is drawn by a run of its own
    table = "\n".join(summary(ordered)) + "\n"
    every = ALL.format(limit=LIMIT, once=ONCE) + "\n".join(peers) + "\n"
    return head + table + limits + said + growth + every
