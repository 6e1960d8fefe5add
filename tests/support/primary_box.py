# SPDX-License-Identifier: Apache-2.0
"""A box that writes to PostgreSQL with marks and a journal, and to its file in an outage; by hand.

It keeps a record of its own beside: the id of each row that was acknowledged.
"""

import uuid
from collections.abc import Sequence
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
from edgepaas.marks.record import read_record
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
        layouts = [one for one in forwarded_layouts(document()) if one.table in _TABLES]
        self._names = {one.table: one.names for one in layouts}
        self.journal = Journal(journal_path(self.paths.sqlite), NODE, layouts)
        self.now = 0.0
        self.keeper = MarkKeeper(self.paths, NODE, _TABLES, clock=lambda: self.now)
        self.keeper.journal = self.journal
        self.connections = LostConnections(
            self.paths, NODE, self.journal.path, self._is_alive, clock=lambda: self.now
        )
        self.recovery = self.file.recovery = Recovery(document(), self.journal.path, self._is_alive)
        self.mirror = Mirror(
            document(),
            copy_own=SharedCopier(self.journal.path),
            changed_since=lambda link: keys_unknown_to(link, self.journal.path, NODE),
        )
        #: The ids of the samples that were acknowledged, whichever database took them.
        self.acknowledged: list[str] = []
        self._driver: Any = None
        self.url = hub.url

    def _is_alive(self, _stream: str, _owner: str) -> bool:
        return False

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

    def write(self, statements: Sequence[Statement], *changes: Change) -> None:
        """Run *statements* in a transaction whose *changes* are in the journal ahead of COMMIT."""
        if self._driver is None:
            self.connect()
        rider = self._holder.rider
        self._pipeline.send([("BEGIN", ()), *rider.begin(), *statements])
        self._pipeline.receive()
        rider.expect(Expected(changes))
        ending = rider.ending()
        rider.sent()
        self._pipeline.send([*ending, ("COMMIT", ())])
        rider.committed(self._pipeline.receive()[:-1])

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
        self.write(
            [(sql, (identity, name, note))],
            self._change("places", "I", id=identity, name=name, note=note),
        )
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

    def count(self, name: str, before: int) -> None:
        """Count a visit of a place that had *before*."""
        identity = str(name_id("places", name))
        new = self._change("places", "I", id=identity, name=name, visits=before + 1)
        old = self._change("places", "I", id=identity, name=name, visits=before)
        self.write(
            [("UPDATE places SET visits = coalesce(visits, 0) + 1 WHERE name = $1::text", (name,))],
            Change("places", "U", (*new.values, *old.values)),
        )

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
