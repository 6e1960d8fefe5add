# SPDX-License-Identifier: Apache-2.0
"""``edgepaas sync --once``: send what waits, then report the result."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from edgepaas.files.locks import LockHeld, acquire
from edgepaas.marks.record import is_alive
from edgepaas.outbox.journal.tables import journal_path
from edgepaas.outbox.ledger import pending
from edgepaas.sync import status as sync_status
from edgepaas.sync.box_file import BoxFile, open_box_file
from edgepaas.sync.context import SyncContext
from edgepaas.sync.errors import HubError, SchemaDrift
from edgepaas.sync.hub.schema_upgrade import HubSchemaUpgrade
from edgepaas.sync.resend.journal_trouble import JournalTrouble
from edgepaas.sync.resend.recovery import Recovery
from edgepaas.sync.wakeups import send_wakeup

#: Seconds between two progress lines.
_PROGRESS_INTERVAL = 2.0
#: A drainer that runs already is waited for until it made no progress for so many seconds.
_STALL_TIMEOUT = 5.0
_POLL_INTERVAL = 0.1


@dataclass
class Outcome:
    """What was sent in all, how many rows remain, and why; ``reason`` is empty if none do."""

    rows: int = 0
    dead: int = 0
    conflicts: int = 0
    shed: int = 0
    remaining: int = 0
    reason: str = ""

    @property
    def text(self) -> str:
        """Return it as one line for an operator."""
        extras = [
            f"{count} {what}"
            for count, what in (
                (self.dead, "dead letters"),
                (self.conflicts, "conflicts"),
                (self.shed, "shed"),
            )
            if count
        ]
        sent = f"{self.rows} rows sent{' (' + ', '.join(extras) + ')' if extras else ''}"
        if not self.remaining:
            return f"{sent}; nothing waits"
        waits = f"{self.remaining} {'row waits' if self.remaining == 1 else 'rows wait'}"
        return f"{sent}; {waits}: {self.reason}"


def drain_once(context: SyncContext, progress: Callable[[str], None]) -> Outcome:
    """Send everything that waits, and what is written meanwhile.

    Where a drainer runs already, it is woken and waited for. *progress* gets a line now and
    then. Raises Stopped, sqlite3.Error, OSError; that PostgreSQL does not accept the rows is
    an Outcome, not an error. Raises UnknownOutbox for a file of a newer release.
    """
    try:
        lock = acquire(context.paths.sync_lock, timeout=0.0)
    except LockHeld:
        return _wait_for_running_drainer(context, progress)
    try:
        return _drain_here(context, progress)
    finally:
        os.close(lock)


def _drain_here(context: SyncContext, progress: Callable[[str], None]) -> Outcome:
    file = open_box_file(context.contract.sqlite_path, context.paths)
    outcome = Outcome()
    if file is None:
        return outcome
    with closing(file):
        if not file.captures:
            return outcome
        outcome.remaining = pending(file.connection)
        schema = context.hub_schema()
        try:
            for attempt in range(2):
                try:
                    _send_all(context, file, schema, outcome, progress)
                    break
                except SchemaDrift:
                    if attempt or schema.at_head is False:
                        raise
                    schema.at_head = False
        except HubError as error:
            context.stop.raise_if_requested()  # a stop aborts the connection: no failure
            outcome.reason = " ".join(str(error).split())
        outcome.remaining = pending(file.connection)
    return outcome


def _send_all(
    context: SyncContext,
    file: BoxFile,
    schema: HubSchemaUpgrade,
    outcome: Outcome,
    progress: Callable[[str], None],
) -> None:
    from edgepaas.sync.delivery.drain import drain_batch

    rows = context.settings.integer("SYNC_BATCH")
    document = context.table_document()
    models, recovery = (
        document["tables"] or None,
        Recovery(
            document,
            journal_path(context.contract.sqlite_path),
            lambda _stream, owner: is_alive(context.paths, owner),
            trouble=JournalTrouble(patience=0.0),
        ),
    )
    reported = time.monotonic()
    with closing(context.connect(schema)) as hub, context.stop.abort_on_stop(hub.abort):
        while True:
            context.stop.raise_if_requested()
            batch = drain_batch(
                file.connection, hub, rows=rows, log=progress, models=models, recovery=recovery
            )
            outcome.rows += batch.rows
            outcome.dead += batch.dead
            outcome.conflicts += batch.conflicts
            outcome.shed += batch.shed
            outcome.remaining = batch.remaining
            if not batch.remaining:
                return
            if time.monotonic() - reported >= _PROGRESS_INTERVAL:
                reported = time.monotonic()
                progress(f"{outcome.rows} rows sent, {batch.remaining} to go")


def _wait_for_running_drainer(context: SyncContext, progress: Callable[[str], None]) -> Outcome:
    """Wake the drainer that runs, and wait for as long as the queue gets shorter."""
    status = sync_status.read(context.paths)
    process = f" (process {status.pid})" if status is not None and status.fresh else ""
    progress(
        f"another drainer{process} holds {context.paths.sync_lock}; it is asked to send what waits"
    )
    outcome = Outcome()
    with _pending_counter(context) as count:
        least = before = count()
        reported = last_progress = time.monotonic()
        while count() and time.monotonic() - last_progress < _STALL_TIMEOUT:
            context.stop.raise_if_requested()
            send_wakeup(context.paths.sync_wake)
            time.sleep(_POLL_INTERVAL)
            if count() < least:
                least, last_progress = count(), time.monotonic()
            if time.monotonic() - reported >= _PROGRESS_INTERVAL:
                reported = time.monotonic()
                progress(f"{least} to go")
        outcome.remaining = count()
    outcome.rows = max(0, before - outcome.remaining)
    if outcome.remaining:
        status = sync_status.read(context.paths)
        known = status.reason if status is not None else ""
        outcome.reason = known or "the drainer that runs has not sent them yet"
    return outcome


@contextmanager
def _pending_counter(context: SyncContext) -> Iterator[Callable[[], int]]:
    """Give a function that counts the rows that wait."""
    file = open_box_file(context.contract.sqlite_path, context.paths)
    if file is None:
        yield lambda: 0
        return
    with closing(file):
        connection = file.connection
        yield lambda: pending(connection)
