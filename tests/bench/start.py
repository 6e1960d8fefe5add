# SPDX-License-Identifier: Apache-2.0
"""From nothing to ready: ``edgepaas up``, each stage by itself, and the plain application."""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.servers import EDGEPAAS, box_environment, running_box, running_plain

IMPORTS = "import flask, waitress, sqlalchemy"
STAGES = ("env", "dbdecide", "schema")


def measure_start(home: Path, *, rounds: int) -> dict[str, float]:
    """Return medians in milliseconds; the servers take turns."""
    found: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        found.setdefault(name, []).append(seconds * 1000)

    with running_box(home) as box:
        note("first boot: up to ready", box.ready)
    for _ in range(rounds):
        with running_box(home) as box:
            note("up to live", box.live)
            note("up to ready", box.ready)
        stages = 0.0
        for stage in STAGES:
            took = seconds_of([*EDGEPAAS, stage], home)
            stages += took
            note(f"stage {stage} alone", took)
        with running_box(home, "serve") as box:
            note("serve alone to live", box.live)
            note("serve alone to ready", box.ready)
            note("stages one by one, then serve, to ready", stages + box.ready)
        with running_plain(home) as plain:
            note("plain application to live", plain.live)
        note("python, nothing else", seconds_of([sys.executable, "-c", "pass"], home))
        note("python, importing flask, waitress, sqlalchemy", seconds_of(
            [sys.executable, "-c", IMPORTS], home
        ))  # fmt: skip
        note("edgepaas alert, from start to end", seconds_of(
            [*EDGEPAAS, "alert", "a bench", "--quiet", "--fingerprint", "bench"], home
        ))  # fmt: skip
    medians = {name: statistics.median(times) for name, times in found.items()}
    for name, median in medians.items():
        print(f"  {name:<48}{median:>9.1f} ms", flush=True)
    ratio = medians["up to ready"] / medians["stages one by one, then serve, to ready"]
    print(f"  {'up to ready, to the stages one by one':<48}{ratio:>9.2f}")
    return {**medians, "up_over_one_by_one": ratio}


def seconds_of(command: Sequence[str], home: Path) -> float:
    """Return how long *command* took, from its start to its end."""
    environ = box_environment(home, 8080)  # in the contract alone; nothing listens
    started = time.perf_counter()
    subprocess.run(
        command, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - started
