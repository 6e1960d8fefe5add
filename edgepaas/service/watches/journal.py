# SPDX-License-Identifier: Apache-2.0
"""The journal kept in order while PostgreSQL serves: its last entries, its room, its file."""

import logging
import time
from typing import TYPE_CHECKING

from edgepaas.alerts.catalogue import JOURNAL_IN_USE, JOURNAL_UNUSABLE
from edgepaas.alerts.catalogue_entry import CatalogueEntry
from edgepaas.errors import DatabaseError, EdgePaaSError
from edgepaas.outbox.journal.journal import Journal
from edgepaas.outbox.journal.opening import JournalDamaged
from edgepaas.outbox.space.budget import budget_of
from edgepaas.service.journal import (
    RefusingJournal,
    is_in_use,
    open_journal,
    require_writable,
)
from edgepaas.timing.periodic_task import PeriodicTask, TaskAlert

if TYPE_CHECKING:
    from edgepaas.database.postgresql.database import ServerDatabase
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.health.state import StateBoard
    from edgepaas.settings import Settings

logger = logging.getLogger("edgepaas.service")

#: Seconds between two looks: what became of the last entry is written by then.
LOOK_EVERY = 1.0
#: Seconds between two times that the oldest entries leave, and rows of one step.
PRUNE_EVERY = 30.0
PRUNE_ROWS = 2_000
#: Steps of one look: writes wait for each.
_STEPS = 50
#: Of the disk budget; the rest is for what waits for PostgreSQL while that is away.
SHARE = 0.5

_KEY = "journal"


class JournalWatch:
    """Keeps the journal of *database*; :meth:`open` opens it at the start of the service."""

    def __init__(
        self,
        database: "ServerDatabase",
        contract: "DatabaseContract",
        settings: "Settings",
        paths: "Paths",
        state: "StateBoard",
    ) -> None:
        self._database = database
        self._contract = contract
        self._paths = paths
        self._state = state
        self._budget = settings.size("DISK_BUDGET")
        self._retention = settings.number("RETENTION")
        self._pruned_at = float("-inf")
        self._journal: Journal | None = None
        self._raised: CatalogueEntry | None = None
        self.task = PeriodicTask(
            "journal",
            self.look,
            every=LOOK_EVERY,
            first_after=LOOK_EVERY,
            alert=TaskAlert("The journal of what PostgreSQL acknowledges grows meanwhile."),
        )

    def open(self) -> None:
        """Open the journal; what keeps it from being written is alerted, and shown."""
        keeper = self._database.marks
        if keeper is None:
            self._report("no marks are kept of what PostgreSQL acknowledges", JOURNAL_UNUSABLE)
            return
        try:
            found = open_journal(self._contract, self._paths, keeper.owner, self._set_aside)
        except (OSError, ValueError, EdgePaaSError) as error:
            self._database.use_journal(None)
            self._serve_without(error)
            return
        self._database.use_journal(found)
        if isinstance(found, Journal):
            self._journal = found
            self._recovered()
        elif isinstance(found, RefusingJournal):
            self._refuse(found.error)

    def look(self) -> None:
        """Write what is known of the last entries; make room; open what could not be opened."""
        journal = self._journal
        if journal is None:
            if self._state.is_noted(_KEY):
                self.open()
            return
        if not self._is_used(journal):
            return  # the database is being closed, and the journal with it
        try:
            journal.flush()
            now = time.monotonic()
            if now - self._pruned_at >= PRUNE_EVERY:
                self._pruned_at = now
                self._prune(journal)
        except DatabaseError as error:
            self._cannot_write(error)
        else:
            self._recovered()

    def _is_used(self, journal: Journal) -> bool:
        keeper = self._database.marks
        return keeper is not None and keeper.journal is journal

    def _prune(self, journal: Journal) -> None:
        budget = int(budget_of(self._contract.sqlite_path, self._budget) * SHARE)
        for _ in range(_STEPS):
            if not journal.prune(budget=budget, older_than=self._retention, limit=PRUNE_ROWS):
                return

    def _cannot_write(self, error: DatabaseError) -> None:
        try:
            require_writable(journal_folder := self._contract.sqlite_path.parent)
        except OSError as dead:
            logger.error("%s takes no write (%s)", journal_folder, dead)
            self._database.use_journal(None)
            journal, self._journal = self._journal, None
            if journal is not None:
                journal.close()
            self._serve_without(dead)
        else:
            if isinstance(error.__cause__, JournalDamaged) and self._journal is not None:
                # It refuses writes until the next look, which opens another one in its place.
                self._journal.close()
                self._journal = None
            self._refuse(error)

    def _set_aside(self, line: str) -> None:
        JOURNAL_UNUSABLE.raise_alert(line)

    def _serve_without(self, error: Exception) -> None:
        self._report(
            f"the disk takes no write ({error}): PostgreSQL serves without a journal",
            JOURNAL_UNUSABLE,
        )

    def _refuse(self, error: DatabaseError) -> None:
        entry = JOURNAL_IN_USE if is_in_use(error) else JOURNAL_UNUSABLE
        self._report(f"{error}: writes are refused meanwhile", entry)

    def _report(self, why: str, entry: CatalogueEntry) -> None:
        """Show *why* in every status; raise *entry*, where it is not another look at the same."""
        reason = f"what PostgreSQL acknowledges is not in the box's journal: {why}"
        if not self._state.is_noted(_KEY) or entry is not self._raised:
            logger.error("%s", reason)
            if self._raised is not None and self._raised is not entry:
                self._raised.resolve_alert("it is another cause by now")
            self._raised = entry
            entry.raise_alert(reason)
        self._state.note(_KEY, reason)

    def _recovered(self) -> None:
        if self._state.is_noted(_KEY):
            self._state.withdraw(_KEY)
            self._raised = None
            for entry in (JOURNAL_UNUSABLE, JOURNAL_IN_USE):
                entry.resolve_alert("the journal is written again")
