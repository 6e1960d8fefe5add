# SPDX-License-Identifier: Apache-2.0
"""A service's database with marks and a journal, in this process or in one that is killed.

python -m tests.support.journaled_box URL STEP ID…   # appends readings, killed at STEP
"""

import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from edgepaas.app.facts import Appended, Row, append_facts
from edgepaas.app.models import name_id
from edgepaas.database.postgresql.database import ServerDatabase
from edgepaas.files.node_identity import node_identity
from edgepaas.files.paths import Paths, find_paths
from edgepaas.marks.keeper import MarkKeeper
from edgepaas.outbox.journal.entries import StoredEntry
from edgepaas.outbox.journal.journal import Journal
from edgepaas.outbox.journal.tables import journal_path
from edgepaas.outbox.layout import forwarded_layouts, read_document
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.telemetry.models import DEVICES, READINGS
from tests.support.telemetry_box import contract_for
from tests.support.weaken import weakened

MORNING = datetime(2024, 5, 1, 6, tzinfo=UTC)

#: Between the first byte to PostgreSQL and the client's answer: what the process is killed before
#: (-) or after (+), and whether the hub then has the rows.
STEPS = {
    "-journal": False,  # nothing was sent or written
    "+journal": False,  # the entry is written, nothing was sent
    "half-sent": False,  # a part of the flight was sent, and not its COMMIT
    "-sync": True,  # all was sent, and the entry is not synced
    "+sync": True,  # the answer is not read
    "-confirm": True,  # the answer was read
    "+confirm": True,  # what became of the entry is known, and not written
    "-answer": True,  # the caller has not heard of it
    "+answer": True,  # it has, and what became of the entry is not written
    "+noted": True,  # it is written, and the caller has not heard of it
}
#: Steps at which the entry is in flight, and the hub does not have it: a client may have been told.
IN_DOUBT = ("+journal", "half-sent")


def prepare(paths: Paths, url: str) -> None:
    """Bring the database to telemetry's head, and describe its tables."""
    from edgepaas.telemetry import application

    prepare_database(contract_for(paths, url), Settings.of(), paths, application)


@dataclass
class JournaledBox:
    """A database with its journal, and what there is to be asked of both."""

    database: ServerDatabase
    keeper: MarkKeeper
    journal: Journal

    def look(self) -> None:
        """Compare the marks, as the service does every few seconds."""
        self.database.compare_marks()

    def hub_marks(self) -> dict[str, int]:
        """The marks of this box's streams on the hub."""
        found: dict[str, int] = {}
        with self.database.read() as session:
            rows = session.connection().exec_driver_sql(
                "SELECT stream_id, mark FROM sync_connections"
            )
            found.update((str(stream_id), mark) for stream_id, mark in rows)
        return found

    def kept(self) -> list[StoredEntry]:
        """All confirmed entries, with their changes, in order."""
        return [self.journal.with_changes(one) for one in self.journal.lacking({})]

    def kept_keys(self, table: str = "readings") -> list[str]:
        """The keys of all confirmed changes of *table*, in order."""
        return [
            str(change.key[0])
            for entry in self.kept()
            for change in entry.changes
            if change.layout.table == table
        ]


@contextlib.contextmanager
def journaled_box(paths: Paths, url: str, **settings: str) -> Iterator[JournaledBox]:
    """Open the database at *url*, which was prepared, as a service does."""
    layouts = forwarded_layouts(read_document(paths.tables))
    node_id = node_identity(paths).node_id
    keeper = MarkKeeper(paths, node_id, [layout.table for layout in layouts])
    database = ServerDatabase(url, Settings.of(**settings), marks=keeper)
    try:
        journal = Journal(journal_path(paths.sqlite), node_id, layouts, owner=keeper.owner)
        database.use_journal(journal)
        yield JournaledBox(database, keeper, journal)
    finally:
        database.close()


def reading(identity: uuid.UUID | None = None, **columns: Any) -> Row:
    """A row of telemetry's readings."""
    device = columns.get("device", "press-1")
    return {
        "id": identity or uuid.uuid4(),
        "device_id": name_id("devices", device),
        "device": device,
        "metric": "temperature",
        "value": 21.5,
        "unit": None,
        "recorded_at": MORNING,
        "received_at": MORNING + timedelta(seconds=1),
        **columns,
    }


def device(name: str) -> Row:
    """A row of telemetry's devices."""
    return {
        "id": name_id("devices", name),
        "name": name,
        "description": None,
        "labels": {},
        "created_at": MORNING,
        "updated_at": MORNING,
    }


def append(database: ServerDatabase, rows: Sequence[Row], *, stamp: datetime) -> Appended:
    """Append *rows* as a request at the moment *stamp* does."""
    rows = [{**row, "received_at": stamp} for row in rows]
    names = dict.fromkeys(row["device"] for row in rows)
    before = {DEVICES: [device(name) for name in names]}
    return append_facts(database, READINGS, rows, before=before, stamp="received_at")


def _die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _killed_before(original: Callable[..., Any]) -> Callable[..., Any]:
    def killed(*arguments: Any, **options: Any) -> Any:
        _die()
        return original(*arguments, **options)

    return killed


def _killed_after(original: Callable[..., Any]) -> Callable[..., Any]:
    def killed(*arguments: Any, **options: Any) -> Any:
        original(*arguments, **options)
        _die()

    return killed


def sends_a_half(send: Callable[..., Any]) -> Callable[..., Any]:
    """Return what sends the first half of a flight, and is killed."""

    def half(self: Any, flight: bytes) -> None:
        send(self, flight[: len(flight) // 2])
        _die()

    return half


def _flushing(journal: Journal, confirm: Callable[..., Any]) -> Callable[..., Any]:
    def confirmed(*arguments: Any) -> None:
        confirm(*arguments)
        journal.flush()

    return confirmed


def arm(box: JournaledBox, step: str) -> None:
    """Have this process killed at *step* of the next append."""
    from edgepaas.database.append import AppendJob
    from edgepaas.marks.journaling import JournalingRider
    from edgepaas.pgdriver.flights.exchange import Exchange

    journal: Any = box.journal
    if step == "-journal":
        journal.write = _killed_before(journal.write)
    elif step == "+journal":
        journal.write = _killed_after(journal.write)
    elif step == "half-sent":
        exchange: Any = Exchange
        exchange.send = sends_a_half(exchange.send)
    elif step == "-sync":
        journal.sync = _killed_before(journal.sync)
    elif step == "+sync":
        journal.sync = _killed_after(journal.sync)
    elif step == "-confirm":
        rider: Any = JournalingRider
        rider.committed = _killed_before(rider.committed)
    elif step == "+confirm":
        journal.confirm = _killed_after(journal.confirm)
    elif step == "-answer":
        job: Any = AppendJob
        job.appended = _killed_before(job.appended)
    elif step == "+noted":
        journal.confirm = _killed_after(_flushing(journal, journal.confirm))
    elif step == "+answer":
        return  # by main, which has the answer
    else:
        raise ValueError(f"no such step: {step}")


def main() -> None:
    """Append readings of the ids that are given, and be killed on the way."""
    url, step, weakness, *ids = sys.argv[1:]
    with weakened(weakness), journaled_box(find_paths(), url) as box:
        append(
            box.database, [reading()], stamp=MORNING
        )  # a connection, and statements that are kept
        box.journal.flush()
        arm(box, step)
        append(box.database, [reading(uuid.UUID(one)) for one in ids], stamp=MORNING)
        if step == "+answer":
            _die()
    raise AssertionError(f"{step} was never met")


if __name__ == "__main__":
    main()
