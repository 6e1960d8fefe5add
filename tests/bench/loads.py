# SPDX-License-Identifier: Apache-2.0
"""The same load on EdgePaaS and on the plain application, turn by turn, in one run.

Every figure is the median of the rounds, and every ratio the median of the rounds' own
ratios: what else the machine does falls on both alike.
"""

import contextlib
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.load import LoadResult, request_bytes, run_load
from tests.bench.servers import AWAY, Server, running_box, running_plain

READING = {"device": "bench", "metric": "temperature", "value": 21.5, "unit": "°C"}
PATH = "/api/v1/readings"


def post(count: int) -> bytes:
    """Return the request that posts *count* readings."""
    body = READING if count == 1 else [READING] * count
    return request_bytes("POST", PATH, json.dumps(body).encode())


#: Ours, and what it is compared with; the name of each pair.
PAIRS = {
    "pinned": ("ours", "plain"),
    "unpinned": ("ours, CPU_PIN=off", "plain, every core"),
    "capture": ("ours, capturing", "plain"),
}

#: Seconds after which a box that is ready has chosen its core.
SETTLED = 1.0


@dataclass(frozen=True)
class Load:
    """One line of the table: a request, how many connections send it, which pairs take it.

    *aim* is the ratio to the plain application that the pair (the first of *pairs*) is
    meant to reach; 0 where there is none.
    """

    name: str
    request: bytes
    connections: int
    pairs: tuple[str, ...] = ("pinned", "unpinned")
    aim: float = 0.0


LOADS = (
    Load("POST 1", post(1), 1, aim=2.0),
    Load("POST 1", post(1), 4, aim=3.5),
    Load("POST 1", post(1), 16, aim=5.0),
    Load("POST 1", post(1), 64, aim=7.0),
    Load("POST 1, captured", post(1), 16, pairs=("capture",), aim=4.5),
    Load("POST 100", post(100), 4, aim=3.0),
    Load("POST 500", post(500), 4, aim=5.0),
    Load("GET 100", request_bytes("GET", f"{PATH}?limit=100"), 4, aim=3.0),
)


@contextlib.contextmanager
def servers(home: Path, core: int, wanted: set[str]) -> Iterator[dict[str, Server]]:
    """Run those of the servers that are *wanted*, by the names of PAIRS.

    The plain application is held to one core, which is the best it can do on most machines:
    to that which ours chose, so that what else the machine does falls on both alike; to *core*
    where ours chose none.
    """
    with contextlib.ExitStack() as stack:
        found: dict[str, Server] = {}
        if "ours" in wanted:
            found["ours"] = stack.enter_context(running_box(home / "ours"))
            time.sleep(SETTLED)
            if len(chosen := found["ours"].cores()) == 1:
                (core,) = chosen
        if "ours, CPU_PIN=off" in wanted:
            found["ours, CPU_PIN=off"] = stack.enter_context(
                running_box(home / "ours-off", CPU_PIN="off")
            )
        if "ours, capturing" in wanted:
            found["ours, capturing"] = stack.enter_context(
                running_box(
                    home / "ours-capture", DATABASE_URL=AWAY, USE_SQLITE="true", CPU_PIN=str(core)
                )
            )
        if "plain" in wanted:
            found["plain"] = stack.enter_context(running_plain(home / "plain", cores={core}))
        if "plain, every core" in wanted:
            found["plain, every core"] = stack.enter_context(running_plain(home / "plain-free"))
        yield found


def measure_loads(home: Path, *, core: int, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Measure every line of LOADS in *rounds* turns of *seconds* for each server."""
    wanted = {name for load in LOADS for pair in load.pairs for name in PAIRS[pair]}
    rows = []
    print(_HEADER)
    with servers(home, core, wanted) as found:
        for server in found.values():
            run_load(server, post(100), connections=1, seconds=0.2)  # warm, and 100 to be read
        for load in LOADS:
            rows += measure(load, found, seconds=seconds, rounds=rounds)
    return rows


def measure(
    load: Load, found: dict[str, Server], *, seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Return one row for each pair of *load*."""
    names = list(dict.fromkeys(name for pair in load.pairs for name in PAIRS[pair]))
    results: dict[str, list[LoadResult]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            results[name].append(
                run_load(found[name], load.request, connections=load.connections, seconds=seconds)
            )
    rows = []
    for pair in load.pairs:
        ours, theirs = (results[name] for name in PAIRS[pair])
        rows.append(_row(load, pair, ours, theirs))
        print(_line(rows[-1]), flush=True)
    return rows


def _row(load: Load, pair: str, ours: list[LoadResult], theirs: list[LoadResult]) -> dict[str, Any]:
    ratios = [one.rate / other.rate for one, other in zip(ours, theirs, strict=True)]
    return {
        "load": load.name, "connections": load.connections, "pair": pair,
        "aim": load.aim if pair == load.pairs[0] else 0.0,
        "ratio": statistics.median(ratios), "ratio_least": min(ratios), "ratio_most": max(ratios),
        "processor_ratio": _median(theirs, "processor_us") / _median(ours, "processor_us"),
        "ours": _figures(ours), "plain": _figures(theirs),
        "client_busy": max(one.client_busy for one in (*ours, *theirs)),
        "failed": sum(one.failed for one in (*ours, *theirs)),
    }  # fmt: skip


def _median(results: list[LoadResult], name: str) -> float:
    return float(statistics.median(getattr(one, name) for one in results))


def _figures(results: list[LoadResult]) -> dict[str, float]:
    return {
        "rate": _median(results, "rate"),
        "p50_ms": statistics.median(one.percentile(50) for one in results),
        "p99_ms": statistics.median(one.percentile(99) for one in results),
        "processor_us": _median(results, "processor_us"),
    }


_HEADER = (
    f"{'load':<17}{'conn':>4}  {'':<9}{'ratio (least-most), aim':<26}"
    f"{'requests/s':>16}{'p50 ms':>15}{'p99 ms':>17}{'processor µs':>15}"
)


def _line(row: dict[str, Any]) -> str:
    ours, plain = row["ours"], row["plain"]
    aim = ""
    if row["aim"]:
        aim = f"{'≥' if row['ratio'] >= row['aim'] else 'BELOW'} {row['aim']:g}"
    ratio = f"{row['ratio']:.2f} ({row['ratio_least']:.2f}-{row['ratio_most']:.2f}) {aim}"
    notes = ""
    if row["client_busy"] > 0.9:
        notes += f"  the client was at work for {row['client_busy']:.0%} of the time"
    if row["failed"]:
        notes += f"  {row['failed']} answers were no success"
    return (
        f"{row['load']:<17}{row['connections']:>4}  {row['pair']:<9}{ratio:<26}"
        f"{ours['rate']:>7.0f} : {plain['rate']:<6.0f}"
        f"{ours['p50_ms']:>7.2f} : {plain['p50_ms']:<7.2f}"
        f"{ours['p99_ms']:>7.2f} : {plain['p99_ms']:<7.2f}"
        f"{ours['processor_us']:>6.0f} : {plain['processor_us']:<6.0f}{notes}"
    )
