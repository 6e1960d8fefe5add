# SPDX-License-Identifier: Apache-2.0
"""``edgepaas telemetry import`` into a box that only keeps what it is sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from edgepaas.cli import main
from edgepaas.telemetry.importer.delivery import HttpSender

#: A table as the box has it: moment, metric and value of each reading, sorted.
Stored = list[tuple[str, str, float]]


@dataclass
class KeptReadings:
    """Readings by id, as a box keeps them."""

    by_id: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: int = 0

    def take(self, readings: list[dict[str, Any]]) -> tuple[int, int]:
        """Keep *readings*; return how many are new and how many were there."""
        self.requests += 1
        before = len(self.by_id)
        self.by_id.update((reading["id"], reading) for reading in readings)
        accepted = len(self.by_id) - before
        return accepted, len(readings) - accepted

    def stored(self) -> Stored:
        """Return what is kept, sorted by moment."""
        return sorted(
            (reading["recorded_at"], reading["metric"], reading["value"])
            for reading in self.by_id.values()
        )

    def values(self) -> list[float]:
        """Return the values in the order of their moments."""
        return [value for _, _, value in self.stored()]


@contextmanager
def keeping_box() -> Iterator[KeptReadings]:
    """Give what the imports of this process deliver while the block runs."""
    kept = KeptReadings()
    with (
        patch.object(HttpSender, "__call__", lambda self, readings: kept.take(readings)),
        patch.object(HttpSender, "deleted_ids", lambda self, device, metrics: frozenset()),
    ):
        yield kept


def run_import(file: Path, *options: str, metric: str | None = "m") -> int:
    """Run the command on *file*; return its exit status."""
    what = ["--device", "d", *(() if metric is None else ("--metric", metric))]
    return main(["telemetry", "import", str(file), *what, *options])
