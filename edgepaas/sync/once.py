# SPDX-License-Identifier: Apache-2.0
"""``edgepaas sync --once``: send what waits, then say what became of it."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from edgepaas.files.locks import LockHeld, acquire
from edgepaas.outbox.stream import pending
from edgepaas.sync import status as sync_status
from edgepaas.sync.box_file import BoxFile, open_box_file
from edgepaas.sync.context import SyncContext
from edgepaas.sync.errors import HubError, SchemaDrift
from edgepaas.sync.hub.schema_upgrade import HubSchemaUpgrade
from edgepaas.sync.wakeups import send_wakeup

#: Seconds without a word, at most.
_PROGRESS = 2.0
#: Seconds that the drainer which runs already is given, as long as fewer and fewer wait.
_PATIENCE = 5.0
_LOOK_EVERY = 0.1


@dataclass
class Outcome:
    """What was sent in all, what is left, and why; ``reason`` is empty when nothing is."""

    rows: int = 0
    dead: int = 0
    conflicts: int = 0
    shed: int = 0
    left: int = 0
    reason: str = ""

    @property
    def text(self) -> str:
        """Return it for a person."""
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
        waits = f"{self.left} {'row waits' if self.left == 1 else 'rows wait'}"
        return f"{sent}; nothing waits" if not self.left else f"{sent}; {waits}: {self.reason}"


def drain_once(context: SyncContext, say: Callable[[str], None]) -> Outcome:
    """Send everything that waits when it begins, and what comes meanwhile.

    Takes the drainer's place, or asks the one that runs. Raises Stopped, sqlite3.Error,
    OSError; that PostgreSQL does not take the rows is an outcome.
    """
    try:
        lock = acquire(context.paths.sync_lock, timeout=0.0)
    except LockHeld:
        return _by_the_other(context, say)
    try:
        return _own(context, say)
    finally:
        os.close(lock)


def _own(context: SyncContext, say: Callable[[str], None]) -> Outcome:
    file = open_box_file(context.contract.sqlite_path, context.paths)
    outcome = Outcome()
    if file is None:
        return outcome
    with closing(file):
        if not file.captures:
            return outcome
        outcome.left = pending(file.connection)
        schema = context.hub_schema()
        try:
            for attempt in range(2):
                try:
                    _drain(context, file, schema, outcome, say)
                    break
                except SchemaDrift:
                    if attempt or schema.at_head is False:
                        raise
                    schema.at_head = False
        except HubError as error:
            context.stop.raise_if_requested()  # an end cuts the link; that is no trouble
            outcome.reason = " ".join(str(error).split())
        outcome.left = pending(file.connection)
    return outcome


def _drain(
    context: SyncContext,
    file: BoxFile,
    schema: HubSchemaUpgrade,
    outcome: Outcome,
    say: Callable[[str], None],
) -> None:
    from edgepaas.sync.delivery.drain import drain_batch

    rows = context.settings.integer("SYNC_BATCH")
    models = context.table_document()["tables"] or None
    spoken = time.monotonic()
    with closing(context.connect(schema)) as hub, context.stop.abort_on_stop(hub.abort):
        while True:
            context.stop.raise_if_requested()
            drained = drain_batch(file.connection, hub, rows=rows, say=say, models=models)
            outcome.rows += drained.rows
            outcome.dead += drained.dead
            outcome.conflicts += drained.conflicts
            outcome.shed += drained.shed
            outcome.left = drained.remaining
            if not drained.remaining:
                return
            if time.monotonic() - spoken >= _PROGRESS:
                spoken = time.monotonic()
                say(f"{outcome.rows} rows sent, {drained.remaining} to go")


def _by_the_other(context: SyncContext, say: Callable[[str], None]) -> Outcome:
    """Wake the drainer that runs, and watch the queue for as long as it gets shorter."""
    status = sync_status.read(context.paths)
    process = f" (process {status.pid})" if status is not None and status.fresh else ""
    say(f"another drainer{process} holds {context.paths.sync_lock}; it is asked to send what waits")
    outcome = Outcome()
    with _looking(context) as count:
        least = before = count()
        spoken = progress = time.monotonic()
        while count() and time.monotonic() - progress < _PATIENCE:
            context.stop.raise_if_requested()
            send_wakeup(context.paths.sync_wake)
            time.sleep(_LOOK_EVERY)
            if count() < least:
                least, progress = count(), time.monotonic()
            if time.monotonic() - spoken >= _PROGRESS:
                spoken = time.monotonic()
                say(f"{least} to go")
        outcome.left = count()
    outcome.rows = max(0, before - outcome.left)
    if outcome.left:
        status = sync_status.read(context.paths)
        known = status.reason if status is not None else ""
        outcome.reason = known or "the drainer that runs has not sent them yet"
    return outcome


@contextmanager
def _looking(context: SyncContext) -> Iterator[Callable[[], int]]:
    """Give a function that counts the rows that wait."""
    file = open_box_file(context.contract.sqlite_path, context.paths)
    if file is None:
        yield lambda: 0
        return
    with closing(file):
        connection = file.connection
        yield lambda: pending(connection)
