# SPDX-License-Identifier: Apache-2.0
"""``make bench``: speed, start and memory, side by side with a plain application.

Figures of a shared machine move by the hour, so every one stands beside the plain
application's of the same run; only the ratios are to be compared over time.
docs/testing.md explains how to read what is printed.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.journal import measure_journal
from tests.bench.layers import measure_layers
from tests.bench.loads import measure_loads
from tests.bench.memory import measure_memory
from tests.bench.round_trips import measure_round_trips
from tests.bench.start import measure_start

PARTS = {
    "loads": "requests a second and latencies at 1 to 64 connections: ours : plain",
    "layers": "processor time of a request, microseconds, by layer",
    "round-trips": "each route in primary, over a link to PostgreSQL of 100 ms",
    "journal": "POST in primary with the box's journal and without: how many times as long",
    "memory": "resident memory of each process",
    "start": "from the start of a process to its end, to live or to ready (medians)",
}


def parts(home: Path, *, quick: bool) -> dict[str, Callable[[], Any]]:
    """Return the work of each of PARTS; *quick*: fewer rounds, shorter loads."""
    core = max(os.sched_getaffinity(0))
    seconds, rounds = (0.2, 2) if quick else (1.0, 3)
    return {
        "loads": lambda: measure_loads(home, core=core, seconds=seconds, rounds=rounds),
        "layers": lambda: measure_layers(home, core=core, seconds=seconds, rounds=rounds),
        "round-trips": lambda: (
            measure_round_trips(home, rounds=1, most=4)
            if quick
            else measure_round_trips(home, rounds=3)
        ),
        "journal": lambda: measure_journal(
            home, core=core, seconds=seconds, rounds=rounds if quick else 3 * rounds
        ),
        "memory": lambda: measure_memory(home, settle=0.5 if quick else 3.0),
        "start": lambda: measure_start(home, rounds=1 if quick else 5),
    }


def main() -> int:
    """Measure and print; ``--json FILE`` keeps the figures."""
    listing = "\n".join(f"  {name:<12} {title}" for name, title in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="make bench",
        description=__doc__,
        epilog=f"parts:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", action="append", choices=PARTS, metavar="PART", help="this part; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="a rough look, in under a minute")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    # Not in /tmp, which may be memory: there nothing is ever synced.
    home = Path(
        tempfile.mkdtemp(prefix="edgepaas-bench-", dir=os.environ.get("TMPDIR", "/var/tmp"))
    )
    found: dict[str, Any] = {"cores": sorted(os.sched_getaffinity(0))}
    try:
        for name, work in parts(home, quick=arguments.quick).items():
            if arguments.only and name not in arguments.only:
                continue
            began = time.perf_counter()
            print(f"{name}: {PARTS[name]}", flush=True)
            found[name] = work()
            print(f"  ({time.perf_counter() - began:.0f} s)\n", flush=True)
    finally:
        shutil.rmtree(home)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
