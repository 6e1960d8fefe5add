# SPDX-License-Identifier: Apache-2.0
"""A box that writes to PostgreSQL with marks, without a service: connections by hand.

It keeps a record of its own beside: the id of each row that was acknowledged.
"""

import uuid
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edgepaas.database.postgresql.pool import ask
from edgepaas.files.paths import Paths, find_paths
from edgepaas.marks import keeper as keeper_module
from edgepaas.marks.comparison import Mark
from edgepaas.marks.keeper import MarkKeeper
from edgepaas.marks.record import read_record
from edgepaas.pgdriver.connection import close_quietly, connect
from edgepaas.pgdriver.pipeline import Pipeline
from edgepaas.pgdriver.tls import TLSPolicy
from edgepaas.settings.urls import split_url

NODE = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
FACTS = "CREATE TABLE facts (id uuid PRIMARY KEY, n int NOT NULL)"


class MarkedConnection:
    """One connection of a box, with its rider."""

    def __init__(self, box: "MarkedBox", url: str) -> None:
        self._box = box
        self._driver = connect(split_url(url), deadline=20, tls=TLSPolicy("disable"))
        self._pipeline = Pipeline(self._driver)
        self._holder = SimpleNamespace(rider=None)
        box.keeper.attach(self._holder, self.ask)

    def ask(self, sql: str) -> Any:
        """Return the rows of a query outside of a transaction."""
        return ask(self._driver, sql, 60)

    def write(
        self, rows: int = 1, *, answer: bool = True, ids: Sequence[uuid.UUID] = ()
    ) -> Sequence[uuid.UUID]:
        """Commit *rows* new rows, or those with *ids*, and return their ids.

        Without *answer* that of COMMIT is lost; the ids are then in ``unanswered``.
        """
        rider = self._holder.rider
        ids = ids or [uuid.uuid4() for _ in range(rows)]
        insert = "INSERT INTO facts SELECT $1::uuid, 0 ON CONFLICT DO NOTHING"
        try:
            self._run([("BEGIN", ()), *rider.begin(), *((insert, (str(one),)) for one in ids)])
            ending = rider.ending()
            rider.sent()
            self._pipeline.send([*ending, ("COMMIT", ())])
            if not answer:
                raise ConnectionResetError("the answer to COMMIT is lost")
            results = self._pipeline.receive()
        except Exception as error:
            self._box.unanswered = ids
            rider.failed(error)
            self.close()
            raise
        rider.committed(results[:-1])
        self._box.acknowledged += ids
        return ids

    def _run(self, statements: Any) -> None:
        self._pipeline.send(statements)
        self._pipeline.receive()

    def close(self) -> None:
        """Close it, as the pool does."""
        close_quietly(self._driver)
        self._box.keeper.detach(self._holder)


class MarkedBox:
    """A box of one process at a time; ``acknowledged`` is the client's own record."""

    def __init__(self, folder: Path, url: str) -> None:
        self.paths: Paths = find_paths({"EDGEPAAS_HOME": str(folder)})
        self.paths.create()
        self.url = url
        self.now = 0.0
        self.acknowledged: list[uuid.UUID] = []
        self.unanswered: Sequence[uuid.UUID] = ()
        self.keeper = self.new_process()

    def new_process(self) -> MarkKeeper:
        """Return the keeper of another process of this box, which uses it from now on."""
        self.keeper = MarkKeeper(self.paths, NODE, ["facts"], clock=lambda: self.now)
        return self.keeper

    def kill(self) -> MarkKeeper:
        """Let the process die as by SIGKILL, and start another one."""
        import os

        os.close(self.keeper._claim)  # what the kernel does
        self.keeper._claim = -1
        return self.new_process()

    def connect(self, url: str = "") -> MarkedConnection:
        """Return a new connection."""
        return MarkedConnection(self, url or self.url)

    def look(self, connection: MarkedConnection) -> None:
        """Compare, write the record, and join what has ended, as if a minute had passed."""
        self.now += keeper_module.JOIN_EVERY
        self.keeper.look(connection.ask)

    @property
    def lost(self) -> Mark:
        """What the box has found to be lost."""
        record = read_record(self.paths, NODE)
        return Mark() if record is None else record.lost

    def missing(self, execute: Any) -> int:
        """Return how many acknowledged rows are not on the server that *execute* asks."""
        there = {str(row[0]) for row in execute("SELECT id::text FROM facts")}
        return sum(str(one) not in there for one in self.acknowledged)
