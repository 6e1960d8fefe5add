# SPDX-License-Identifier: Apache-2.0
"""From the intake to the rules: what they are to judge, durable in the readings' own transaction.

A request that stores readings which a rule wants stores them in ``rule_feed``, too, in the
same transaction: what is acknowledged is judged, whatever happens to the process in between,
and what is repeated is not stored and so not judged again. Requests wait for no rule.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, column, delete, select
from sqlalchemy.orm import Session

from edgepaas.app.append import NotPlain
from edgepaas.app.facts import Row
from edgepaas.app.models import Database, uuid7
from edgepaas.telemetry.models import RULE_FEED, RULES
from edgepaas.telemetry.rules.judging import SECOND, UNKNOWN, ActiveRule, Received
from edgepaas.telemetry.times import EARLIEST

#: Readings in one row of the feed; a row is read into memory as a whole.
_READINGS_A_ROW = 1000
#: Rows, and about how many readings, are taken from the feed at a time.
_ROWS_AT_ONCE = 200
_READINGS_AT_ONCE = 20_000
#: Seconds after which the rules are read again: another box may have changed them.
RULES_KEPT = 5.0

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

#: One reading in the feed: its id, device, metric, value, recorded_at (µs since 1970).
Entry = tuple[str, str, str, float, int]


@dataclass(frozen=True, slots=True)
class Fed:
    """One row of the feed."""

    seq: int
    batch: str
    readings: list[Entry]
    received: Received


def received_now() -> Received:
    """Return the box's clocks as they stand; the one since boot counts suspension, too."""
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return Received(_boot(), round(since_boot * SECOND), round(time.time() * SECOND))


@cache
def _boot() -> str:
    """Return the name of this start of the box, "" where it has none; the process is of one."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


class RuleCache:
    """The enabled rules, at most some seconds old; safe to use from several threads."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._watches: tuple[ActiveRule, ...] = ()
        self._wanted: dict[str, frozenset[str] | None] = {}

    def watches(self, *, kept: float = RULES_KEPT) -> tuple[ActiveRule, ...]:
        """Return the rules, read again when what is known is older than *kept* seconds."""
        with self._lock:
            if self._clock() - self._read_at >= kept:
                began = self._clock()
                self._watches = _read_rules(self._database)
                self._wanted = _wanted(self._watches)
                self._read_at = began
            return self._watches

    def forget(self) -> None:
        """Have the rules read again at the next use: one of them was changed here."""
        with self._lock:
            self._read_at = float("-inf")

    def entries(
        self, rows: Iterable[Mapping[str, Any]], *, at_once: bool = False
    ) -> dict[uuid.UUID, Entry]:
        """Return by id those of the *rows* of readings that a rule wants, in their order.

        Raises NotPlain where the rules would have to be read first, and *at_once* forbids it.
        """
        if self._clock() - self._read_at >= 3 * RULES_KEPT:  # or a follower keeps them fresh
            if at_once:
                raise NotPlain
            self.watches()
        wanted = self._wanted
        if not wanted:
            return {}
        found: dict[uuid.UUID, Entry] = {}
        for row in rows:
            devices = wanted.get(row["metric"], _NOBODY)
            if (devices is None or row["device"] in devices) and row["id"] not in found:
                found[row["id"]] = _entry(row)
        return found


#: No device's readings are wanted; None stands for every device's.
_NOBODY: frozenset[str] = frozenset()


def feed_rows(node: str, entries: Sequence[Entry], received: Received) -> list[Row]:
    """Return the rows that hold *entries* for the rules of this box, the *node*, in order."""
    return [
        {
            "batch": uuid7(),
            "node": node,
            "readings": json.dumps(
                {"received": received, "readings": entries[start : start + _READINGS_A_ROW]}
            ),
        }
        for start in range(0, len(entries), _READINGS_A_ROW)
    ]


#: Without their types, which would make an object of each batch's id.
_COLUMNS: list[ColumnElement[Any]] = [column(name) for name in ("seq", "batch", "readings")]
_ROWS = select(*_COLUMNS).select_from(RULE_FEED).order_by(column("seq")).limit(_ROWS_AT_ONCE)


def take(session: Session, node: str) -> list[Fed]:
    """Return the oldest rows of the feed that are for *node*, some thousand readings at most.

    A SQLite file is this box's own, whatever the box was called when a row was stored.
    """
    connection = session.connection()
    on_sqlite = connection.dialect.name == "sqlite"
    statement = _ROWS if on_sqlite else _ROWS.where(RULE_FEED.c.node == node)
    found: list[Fed] = []
    number = 0
    with connection.execute(statement) as rows:
        for seq, batch, readings in rows:
            found.append(_fed(seq, str(batch), json.loads(readings)))
            number += len(found[-1].readings)
            if number >= _READINGS_AT_ONCE:
                break
    return found


def _fed(seq: int, batch: str, content: Any) -> Fed:
    if isinstance(content, list):  # of a release that did not note when
        return Fed(seq, batch, content, UNKNOWN)
    return Fed(seq, batch, content["readings"], Received(*content["received"]))


def drop(session: Session, fed: Sequence[Fed]) -> None:
    """Delete these rows of the feed."""
    session.execute(delete(RULE_FEED).where(RULE_FEED.c.seq.in_([row.seq for row in fed])))


def _entry(row: Mapping[str, Any]) -> Entry:
    moment = row["recorded_at"] - EARLIEST
    microseconds = (moment.days * 86_400 + moment.seconds) * SECOND + moment.microseconds
    return (str(row["id"]), row["device"], row["metric"], row["value"], microseconds)


def _read_rules(database: Database) -> tuple[ActiveRule, ...]:
    statement = select(RULES).where(RULES.c.enabled.is_(True)).order_by(RULES.c.id)
    with database.read() as session:
        rows = session.execute(statement).mappings().all()
    return tuple(
        ActiveRule(
            id=str(row["id"]),
            name=row["name"],
            device=row["device"],
            metric=row["metric"],
            condition=row["condition"],
            threshold=row["threshold"] or 0.0,
            for_seconds=row["for_seconds"],
            severity=row["severity"],
        )
        for row in rows
    )


def _wanted(watches: Iterable[ActiveRule]) -> dict[str, frozenset[str] | None]:
    """Return by metric which devices' readings a rule looks at; None: every device's."""
    found: dict[str, frozenset[str] | None] = {}
    for watch in watches:
        before = found.get(watch.metric, _NOBODY)
        if before is None or watch.device is None:
            found[watch.metric] = None
        else:
            found[watch.metric] = before | {watch.device}
    return found
