# SPDX-License-Identifier: Apache-2.0
"""A box that writes to PostgreSQL with marks and a journal, and to its file in an outage; by hand.

It keeps a record of its own beside: the id of each row that was acknowledged.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edgepaas.database.ids import name_id
from edgepaas.database.postgresql.pool import ask
from edgepaas.files.paths import Paths, find_paths
from edgepaas.marks.changes import Change, Op
from edgepaas.marks.comparison import Mark
from edgepaas.marks.journaling import Expected
from edgepaas.marks.keeper import JOIN_EVERY, MarkKeeper
from edgepaas.marks.record import is_alive, read_record
from edgepaas.outbox.journal.journal import Journal
from edgepaas.outbox.journal.reading import newest_order
from edgepaas.outbox.journal.tables import journal_path
from edgepaas.outbox.layout import forwarded_layouts
from edgepaas.outbox.resending.switches import note_switch
from edgepaas.pgdriver.connection import close_quietly, connect
from edgepaas.pgdriver.pipeline import Pipeline, Statement
from edgepaas.settings.urls import split_url
from edgepaas.sync.back_in_time import compare_file, compare_history
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.mirror.mirror import Mirror
from edgepaas.sync.mirror.ordered_rows import MirrorPostponed
from edgepaas.sync.resend.journaled import keys_unknown_to
from edgepaas.sync.resend.lost_connections import LostConnections
from edgepaas.sync.resend.recovery import Recovery
from edgepaas.sync.turns.history import SharedCopier
from tests.support.forwarding import PLAIN, TestBox, TestHub, document

NODE = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
_TABLES = ("samples", "places", "sensors")


class PrimaryBox:
    """One box: its file, its journal, and one connection of its service at a time."""

    def __init__(self, folder: Path, hub: TestHub) -> None:
        self.paths: Paths = find_paths({"EDGEPAAS_HOME": str(folder)})
        self.paths.create()
        self.hub = hub
        self.file = TestBox(self.paths.sqlite, node=NODE)
        self._layouts = [one for one in forwarded_layouts(document()) if one.table in _TABLES]
        self._names = {one.table: one.names for one in self._layouts}
        self.now = 0.0
        self._start()
        self.connections = LostConnections(
            self.paths, NODE, self.journal.path, self._is_alive, clock=lambda: self.now
        )
        self.recovery = self.file.recovery = Recovery(
            document(), self.journal.path, self._is_alive, lambda: self.connections.in_doubt
        )
        self.mirror = Mirror(
            document(),
            copy_own=SharedCopier(self.journal.path),
            changed_since=lambda link: keys_unknown_to(link, self.journal.path, NODE),
        )
        #: The ids of the samples that were acknowledged, whichever database took them.
        self.acknowledged: list[str] = []
        self._driver: Any = None
        self.url = hub.url

    def _is_alive(self, _stream: str, owner: str) -> bool:
        return is_alive(self.paths, owner)

    def _start(self) -> None:
        """Start a process of the service."""
        self.keeper = MarkKeeper(self.paths, NODE, _TABLES, clock=lambda: self.now)
        path = journal_path(self.paths.sqlite)
        self.journal = Journal(path, NODE, self._layouts, owner=self.keeper.owner)
        self.keeper.journal = self.journal

    def kill(self) -> None:
        """Have the service die as by SIGKILL, and start it anew.

        What became of the last entries is not written yet.
        """
        if self._driver is not None:
            close_quietly(self._driver)
            self._driver = None
        self.journal._writer._notes.clear()
        self.journal.close()
        os.close(self.keeper._claim)  # what the kernel does
        self.keeper._claim = -1
        self._start()

    # -- PostgreSQL serves --

    def connect(self, url: str = "") -> None:
        """Connect the service anew; what the old connection wrote stays its stream's."""
        self.disconnect()
        self._driver = connect(split_url(url or self.url), deadline=20, tls=PLAIN)
        self._pipeline = Pipeline(self._driver)
        self._holder = SimpleNamespace(rider=None)
        self.keeper.attach(self._holder, self._ask)

    def disconnect(self) -> None:
        """Close the connection."""
        if self._driver is not None:
            close_quietly(self._driver)
            self.keeper.detach(self._holder)
            self._driver = None

    def _ask(self, sql: str) -> Any:
        return ask(self._driver, sql, 60)

    def look(self) -> None:
        """Compare the marks, write them down, and join what has ended, as in a minute's time."""
        self.now += JOIN_EVERY
        if self._driver is None:
            self.connect()
        self.keeper.look(self._ask)

    @contextlib.contextmanager
    def another_process(self, after_asking: Callable[[], None]) -> Iterator[Callable[[], None]]:
        """Give what compares the marks as another process of the service does.

        *after_asking* is called when the hub has answered, and nothing was done about it yet.
        """
        keeper = MarkKeeper(self.paths, NODE, _TABLES, clock=lambda: self.now)
        driver = connect(split_url(self.url), deadline=20, tls=PLAIN)

        def asking(sql: str) -> Any:
            found = ask(driver, sql, 60)
            after_asking()
            return found

        path = journal_path(self.paths.sqlite)
        with contextlib.closing(Journal(path, NODE, self._layouts, owner=keeper.owner)) as journal:
            keeper.journal = journal
            yield lambda: keeper.look(asking)
        close_quietly(driver)
        os.close(keeper._claim)

    def write(
        self, statements: Sequence[Statement], *changes: Change, captured: bool = False
    ) -> None:
        """Run *statements* in a transaction whose *changes* are in the journal ahead of COMMIT.

        *captured*: they are known only when COMMIT was answered, as the hub's triggers tell them.
        """
        if self._driver is None:
            self.connect()
        rider = self._holder.rider
        self._pipeline.send([("BEGIN", ()), *rider.begin(), *statements])
        self._pipeline.receive()
        if not captured:
            rider.expect(Expected(changes))
        ending = rider.ending()
        order = self.journal.next_order()
        rider.sent()
        self._pipeline.send([*ending, ("COMMIT", ())])
        rider.committed(self._pipeline.receive()[:-1])
        if captured:
            stream_id, mark = rider.marks.position
            self.journal.record(stream_id, mark, changes, order=order)

    def samples(self, *values: float) -> list[str]:
        """Write a sample for each of *values* in one transaction; returns their ids."""
        ids = [str(uuid.uuid4()) for _ in values]
        pairs = list(zip(ids, values, strict=True))
        sql = "INSERT INTO samples (id, value) VALUES ($1::text::uuid, $2::text::float8)"
        self.write(
            [(sql, (one, str(value))) for one, value in pairs],
            *(self._change("samples", "I", id=one, value=float(value)) for one, value in pairs),
        )
        self.acknowledged += ids
        return ids

    def place(self, name: str, note: str) -> str:
        """Make a place; returns its id."""
        identity = str(name_id("places", name))
        sql = "INSERT INTO places (id, name, note) VALUES ($1::text::uuid, $2::text, $3::text)"
        self.write([(sql, (identity, name, note))], self.placing(name, note))
        return identity

    def describe(self, name: str, before: str, after: str) -> None:
        """Change the note of a place."""
        identity = str(name_id("places", name))
        new = self._change("places", "I", id=identity, name=name, note=after)
        old = self._change("places", "I", id=identity, name=name, note=before)
        self.write(
            [("UPDATE places SET note = $1::text WHERE name = $2::text", (after, name))],
            Change("places", "U", (*new.values, *old.values)),
        )

    def count(self, name: str, before: int, *, captured: bool = False) -> None:
        """Count a visit of a place that had *before*."""
        self.write(
            [("UPDATE places SET visits = coalesce(visits, 0) + 1 WHERE name = $1::text", (name,))],
            self.counting(name, before),
            captured=captured,
        )

    def remove(self, name: str, note: str) -> None:
        """Delete a place."""
        identity = str(name_id("places", name))
        self.write(
            [("DELETE FROM places WHERE name = $1::text", (name,))],
            self._change("places", "D", id=identity, name=name, note=note),
        )

    def placing(self, name: str, note: str) -> Change:
        """The insert of a place."""
        return self._change("places", "I", id=str(name_id("places", name)), name=name, note=note)

    def counting(self, name: str, before: int) -> Change:
        """The update that counts a visit of a place that had *before*."""
        identity = str(name_id("places", name))
        new = self._change("places", "I", id=identity, name=name, visits=before + 1)
        old = self._change("places", "I", id=identity, name=name, visits=before)
        return Change("places", "U", (*new.values, *old.values))

    def write_ahead_of_a_kill(self, *changes: Change) -> None:
        """Die when *changes* are in the journal, and nothing of them is sent."""
        if self._driver is None:
            self.connect()
        rider = self._holder.rider
        rider.begin()
        rider.ending()
        stream_id, mark = rider.marks.position
        self.journal.write(stream_id, mark, changes)
        self.kill()

    def _change(self, table: str, op: Op, **values: Any) -> Change:
        return Change(table, op, tuple(values.get(name) for name in self._names[table]))

    # -- SQLite serves --

    def switch(self) -> None:
        """Note that the other database serves from now on, as the schema stage does."""
        self.journal.flush()
        with self.journal._writer.reading() as connection:
            youngest = newest_order(connection)
        note_switch(self.file.file, youngest)

    def file_samples(self, *values: float) -> list[str]:
        """Write samples into the file."""
        ids = self.file.samples(*values)
        self.acknowledged += ids
        return ids

    # -- the drainer --

    def settle(self, *, url: str = "", passes: int = 4) -> None:
        """Do what the drainer does over a new connection, until a pass of the mirror is whole."""
        self.journal.flush()
        with self.hub.link(url or self.url) as link:
            self.connections.look_closely()
            for _ in range(passes):
                if self.turn(link):
                    self.compare(link)
                    return
        raise AssertionError("the mirror made no pass")

    def compare(self, link: Hub) -> None:
        """Compare all marks over *link*."""
        self.journal.flush()
        self.compare_without_journal(link)

    def compare_without_journal(self, link: Hub) -> None:
        """Compare all marks over *link*; the service has not the journal open."""
        self.connections.compare(link, self.file.file)
        compare_history(self.file.file, link)
        compare_file(self.file.file, link)

    def turn(self, link: Hub) -> bool:
        """Compare, drain, and mirror over *link*; whether the mirror made its pass."""
        self.compare(link)
        self.file.drain_all(link)
        try:
            self.mirror.run(self.file.file, link)
        except MirrorPostponed:
            return False
        return True

    # -- what there is --

    @property
    def lost(self) -> Mark:
        """What the box has found to be lost."""
        record = read_record(self.paths, NODE)
        return Mark() if record is None else record.lost

    def missing(self, execute: Any = None) -> int:
        """Return how many acknowledged samples the hub, or who *execute* asks, does not have."""
        there = {str(row[0]) for row in (execute or self.hub.ask)("SELECT id::text FROM samples")}
        return len(set(self.acknowledged) - there)

    def close(self) -> None:
        """Close everything."""
        self.disconnect()
        self.journal.close()
        self.file.close()
