# SPDX-License-Identifier: Apache-2.0
"""The state of alerting, for all that show it; cheap enough to be read often."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgepaas.files import shapes
from edgepaas.files.paths import Paths
from edgepaas.files.records import RecordType

#: ``run/alerts.json``: what the delivery last knew.
RECORD = RecordType(
    "alerts-status",
    2,
    {
        **dict.fromkeys(("open", "critical", "waiting", "silenced"), shapes.whole),
        "channels": shapes.map_of(shapes.map_of(shapes.text)),
        "told": shapes.map_of(shapes.map_of(shapes.whole)),
        "next_in_seconds": shapes.optional(shapes.number),
        "updated": shapes.moment,
    },
)


@dataclass(frozen=True)
class AlertCounts:
    """*open*: conditions that hold (warning, critical), of which *critical*; *waiting*: what
    was not delivered yet; *dead*: what every channel refused; *corrupt*: damaged files;
    *silenced*: conditions under a silence; *channels*: what is wrong with each, "" when nothing
    is; *delivered*: notifications delivered since the box started, by channel and severity.
    """

    open: int = 0
    critical: int = 0
    waiting: int = 0
    dead: int = 0
    corrupt: int = 0
    silenced: int = 0
    channels: Mapping[str, str] = field(default_factory=dict)
    delivered: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return dict(self.__dict__)

    def line(self) -> str:
        """Return one line for a person; "" when there is nothing to report."""
        parts = []
        if self.open:
            critical = f", {self.critical} critical" if self.critical else ""
            parts.append(f"{self.open} open{critical}")
        if self.waiting:
            failing = "; ".join(f"{name}: {why}" for name, why in self.channels.items() if why)
            parts.append(f"{self.waiting} wait for delivery{f' ({failing})' if failing else ''}")
        if self.dead:
            parts.append(f"{self.dead} refused by every channel ('edgepaas alerts retry')")
        if self.corrupt:
            parts.append(f"{self.corrupt} damaged files")
        return ", ".join(parts)


def read_counts(paths: Paths) -> AlertCounts:
    """Return the counts: the deliverer's of its last run, and what has come in since.

    Raises nothing: where nothing can be read, nothing is counted.
    """
    status = read_status(paths)
    numbers = {
        name: value
        for name in ("open", "critical", "waiting", "silenced")
        if isinstance(value := status.get(name), int)
    }
    numbers["waiting"] = numbers.get("waiting", 0) + _files(paths.alerts / "new")
    channels = status.get("channels")
    failing = {
        str(name): str(entry.get("failing", ""))
        for name, entry in (channels.items() if isinstance(channels, dict) else ())
        if isinstance(entry, dict)
    }
    return AlertCounts(
        **numbers,
        dead=_files(paths.alerts / "dead"),
        corrupt=_files(paths.alerts / "corrupt"),
        channels=failing,
        delivered=delivered_since_start(status),
    )


def delivered_since_start(status: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return from ``run/alerts.json`` how many notifications each channel took, by severity."""
    delivered = status.get("told")
    return {
        str(channel): {
            str(severity): count for severity, count in counts.items() if isinstance(count, int)
        }
        for channel, counts in (delivered.items() if isinstance(delivered, dict) else ())
        if isinstance(counts, dict)
    }


def read_status(paths: Paths) -> dict[str, Any]:
    """Return ``run/alerts.json``, empty before the first run since the box started."""
    return RECORD.read_or_none(paths.alerts_status) or {}


def write_status(paths: Paths, status: Mapping[str, Any]) -> None:
    """Write ``run/alerts.json``; where it cannot be written, it is as it was."""
    with contextlib.suppress(OSError):
        RECORD.write(paths.alerts_status, status)


def mark_waiting(paths: Paths, *, waiting: bool) -> None:
    """Keep the file that has the timer's unit started: something will be due.

    ConditionPathExists= of edgepaas-alerts-due.service: without it no process is started.
    """
    mark = paths.alerts / "waiting"
    with contextlib.suppress(OSError):
        if waiting and not mark.exists():
            mark.touch(mode=0o600)
        elif not waiting:
            mark.unlink(missing_ok=True)


def _files(folder: Path) -> int:
    try:
        return len(os.listdir(folder))  # noqa: PTH208 - their number alone is wanted
    except OSError:
        return 0
