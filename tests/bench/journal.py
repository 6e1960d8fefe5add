# SPDX-License-Identifier: Apache-2.0
"""What the journal costs a POST in ``primary``: boxes with it and without it, turn by turn."""

import contextlib
import statistics
from pathlib import Path
from typing import Any

from tests.bench.load import LoadResult, run_load
from tests.bench.loads import post
from tests.bench.servers import running_box
from tests.support.postgres_server import PostgresServer

#: Readings of a request, and connections that send it.
LOADS = ((1, 1), (1, 4), (1, 16), (100, 4), (500, 4))
#: The most by which the time of a POST of one reading may grow.
AIM = 1.2


def measure_journal(home: Path, *, core: int, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Measure each of LOADS in *rounds* turns of *seconds*; both boxes are held to one *core*."""
    rows = []
    with contextlib.ExitStack() as stack:
        # One that syncs what it commits, on the disk that the boxes use.
        home.chmod(0o755)  # it does not run as root
        server = PostgresServer(home / "server", durable=True)
        stack.callback(server.remove)
        server.create_cluster()
        server.start()
        boxes = {
            journal: stack.enter_context(
                running_box(
                    home / f"journal-{journal}",
                    DATABASE_URL=server.url(server.create_database()),
                    JOURNAL=journal,
                    CPU_PIN=str(core),
                )
            )
            for journal in ("false", "true")
        }
        for box in boxes.values():
            run_load(box, post(1), connections=1, seconds=0.5)
        for readings, connections in LOADS:
            found: dict[str, list[LoadResult]] = {journal: [] for journal in boxes}
            for turn in range(rounds):
                for journal in ("false", "true") if turn % 2 else ("true", "false"):
                    found[journal].append(
                        run_load(
                            boxes[journal], post(readings), connections=connections, seconds=seconds
                        )
                    )
            rows.append(_row(readings, connections, found["false"], found["true"]))
    return rows


def _row(
    readings: int, connections: int, without: list[LoadResult], with_it: list[LoadResult]
) -> dict[str, Any]:
    costs = [one.rate / other.rate for one, other in zip(without, with_it, strict=True)]
    row: dict[str, Any] = {"readings": readings, "connections": connections, "aim": AIM}
    row |= {"cost": statistics.median(costs), "least": min(costs), "most": max(costs)}
    for name, results in (("without", without), ("with", with_it)):
        row[name] = {
            "rate": statistics.median(one.rate for one in results),
            "p50_ms": statistics.median(one.percentile(50) for one in results),
            "p99_ms": statistics.median(one.percentile(99) for one in results),
            "processor_us": statistics.median(one.processor_us for one in results),
        }
    print(
        f"  POST {readings:<4} {connections:>3} connections: x{row['cost']:.2f} "
        f"({row['least']:.2f} to {row['most']:.2f}), {row['without']['rate']:,.0f}/s and "
        f"{row['with']['rate']:,.0f}/s, p99 {row['without']['p99_ms']:.1f} and "
        f"{row['with']['p99_ms']:.1f} ms",
        flush=True,
    )
    return row
