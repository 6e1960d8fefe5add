# SPDX-License-Identifier: Apache-2.0
"""When rules were broken, computed from a file alone, and what a box told of it."""

import csv
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: Since when a condition held, which reading raised it, which one was the first without it.
Episode = tuple[datetime, datetime, datetime | None]
Row = tuple[datetime, float]

_RAISED = re.compile(r", since (\S+); \S+ at (\S+) \(rule|: none since (\S+) until (\S+) \(rule")
_OVER = re.compile(r" at (\S+) \(rule")


def rows_of(file: Path) -> list[Row]:
    """Return the file's rows in its order."""
    with file.open(newline="") as source:
        return [
            (datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC), float(row["value"]))
            for row in csv.DictReader(source)
        ]


def running_clock(rows: Sequence[Row]) -> list[float]:
    """Return for each row the seconds that passed up to it: a clock that is never set back."""
    clock = [0.0]
    for index in range(1, len(rows)):
        newest = max(moment for moment, _ in rows[max(0, index - 200) : index])
        moment, before = rows[index][0], rows[index - 1][0]
        passed = (moment - (newest if moment > newest else before)).total_seconds()
        clock.append(clock[-1] + max(0.0, passed))
    return clock


def episodes_below(rows: Sequence[Row], threshold: float, seconds: float) -> list[Episode]:
    """Return when the values lay below *threshold* for *seconds*."""
    clock, found = running_clock(rows), []
    runs = itertools.groupby(range(len(rows)), key=lambda index: rows[index][1] < threshold)
    for below, run in runs:
        places = list(run)
        raised = [place for place in places if clock[place] - clock[places[0]] >= seconds]
        if below and raised:
            end = places[-1] + 1
            over = rows[end][0] if end < len(rows) else None
            found.append((rows[places[0]][0], rows[raised[0]][0], over))
    return found


def gaps(rows: Sequence[Row], seconds: float) -> list[Episode]:
    """Return between which rows more than *seconds* lie."""
    clock = running_clock(rows)
    return [
        (rows[index - 1][0], rows[index][0], rows[index][0])
        for index in range(1, len(rows))
        if clock[index] - clock[index - 1] > seconds
    ]


@dataclass
class Told:
    """What a box told: stands where its alerts go, and counts as the spool does."""

    episodes: dict[str, list[list[Any]]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    #: Calls that changed nothing: raised already, or nothing to resolve.
    repeated: int = 0

    def alert(self, message: str, *, fingerprint: str = "", **_: Any) -> None:
        self.messages.append(message)
        known = self.episodes.setdefault(fingerprint, [])
        if known and known[-1][2] is None:
            self.repeated += 1
            return
        found = _RAISED.search(message)
        since, at = [part for part in found.groups() if part] if found else ("", "")
        known.append([_moment(since), _moment(at), None])

    def resolve(self, message: str, *, fingerprint: str, **_: Any) -> None:
        if not fingerprint.startswith("rule:"):
            return  # what a predecessor might have raised about the rules' work itself
        self.messages.append(message)
        known = self.episodes.get(fingerprint, [])
        if not known or known[-1][2] is not None:
            self.repeated += 1
            return
        found = _OVER.search(message)
        known[-1][2] = _moment(found[1]) if found else "resolved"

    def of(self, rule: str, device: str) -> list[Episode]:
        """Return the episodes of one rule and device."""
        return [tuple(one) for one in self.episodes.get(f"rule:{rule}:{device}", [])]


def posted(rows: Iterable[Row], device: str, metric: str = "temperature") -> list[dict[str, Any]]:
    """Return rows as a client posts them."""
    return [
        {"device": device, "metric": metric, "value": value, "recorded_at": moment.isoformat()}
        for moment, value in rows
    ]


def _moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
