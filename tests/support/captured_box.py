# SPDX-License-Identifier: Apache-2.0
"""A database on PostgreSQL whose writes are captured, and a journal that a test can look into."""

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import MetaData
from sqlalchemy.orm import Session

from edgepaas.database.postgresql.database import ServerDatabase
from edgepaas.files.node_identity import node_identity
from edgepaas.files.paths import find_paths
from edgepaas.marks.keeper import MarkKeeper
from edgepaas.outbox.hub_capture.rider import HubCapture, WrittenTransaction
from edgepaas.outbox.hub_capture.upkeep import CaptureUpkeep
from edgepaas.outbox.journal.entries import Change
from edgepaas.outbox.layout import Layout, forwarded_layouts
from edgepaas.settings import Settings
from edgepaas.sync.mirror.stored_values import stored_column
from tests.support.forwarding import Model, TestHub, document

T = TypeVar("T")
Key = tuple[str, tuple[Any, ...]]


class Recorder:
    """Keeps what was written in memory (edgepaas.outbox.hub_capture.rider.ChangeKeeper)."""

    def __init__(self) -> None:
        self.written: list[WrittenTransaction] = []
        #: Raised instead of keeping, or instead of giving a number.
        self.fails: Exception | None = None
        self.refuses: Exception | None = None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    @property
    def works(self) -> bool:
        """It does."""
        return True

    def next_order(self) -> int:
        """Give the next number."""
        if self.refuses is not None:
            raise self.refuses
        with self._lock:
            return next(self._numbers)

    def keep(self, written: WrittenTransaction) -> None:
        """Keep *written*."""
        if self.fails is not None:
            raise self.fails
        with self._lock:
            self.written.append(written)

    def changes(self) -> list[Change]:
        """Return all that was written, in the order in which it was sent."""
        ordered = sorted(self.written, key=lambda one: one.order)
        return [change for one in ordered for change in one.changes]


class CapturedBox:
    """A process of a box that PostgreSQL serves."""

    def __init__(
        self, folder: Path, hub: TestHub, metadata: MetaData = Model.metadata, *, url: str = "",
        may_mend: bool = True,
    ) -> None:  # fmt: skip
        paths = find_paths({"EDGEPAAS_HOME": str(folder)})
        paths.create()
        self.hub = hub
        self.layouts: Mapping[str, Layout] = {
            layout.table: layout for layout in forwarded_layouts(document(metadata))
        }
        self.recorder = Recorder()
        self.suspected = 0
        self.keeper = MarkKeeper(paths, node_identity(paths).node_id, list(self.layouts))
        self.capture = HubCapture(self.layouts, self.recorder, suspect=self._suspect)
        self.upkeep = CaptureUpkeep(self.capture, may_mend=may_mend)
        self.keeper.companion = self.upkeep
        self.database = ServerDatabase(url or hub.url, Settings.of(), marks=self.keeper)

    def _suspect(self) -> None:
        self.suspected += 1

    def write(self, work: Callable[[Session], T]) -> T:
        """Run *work* in a transaction."""
        return self.database.write(work)

    def run(self, *statements: str) -> None:
        """Run raw SQL in one transaction."""

        def work(session: Session) -> None:
            for statement in statements:
                session.connection().exec_driver_sql(statement.replace("%", "%%"))

        self.write(work)

    def replayed(self) -> dict[Key, tuple[Any, ...]]:
        """Return what tables hold that begin empty and get what was captured.

        Each change has to fit to what is there: an update and a delete name the values that
        they found.
        """
        rows: dict[Key, tuple[Any, ...]] = {}
        for change in self.recorder.changes():
            layout = self.layouts[change.table]
            count = len(layout.columns)
            after = change.values[:count] if change.op != "D" else None
            before = change.values[count:] if change.op == "U" else None
            before = change.values if change.op == "D" else before
            key = (change.table, key_of(layout, before or after or ()))
            assert rows.pop(key, None) == before, change
            if after is not None:
                assert key_of(layout, after) == key[1], change
                rows[key] = after
        return rows

    def stored(self) -> dict[Key, tuple[Any, ...]]:
        """Return what the hub's tables hold, as SQLite would."""
        found: dict[Key, tuple[Any, ...]] = {}
        with self.hub.link() as link:
            for layout in self.layouts.values():
                columns = [stored_column(column) for column in layout.columns]
                names = ", ".join(one.select for one in columns)
                table = '"' + layout.table.replace('"', '""') + '"'
                for row in link.run([(f"SELECT {names} FROM {table}", ())])[0].rows:
                    values = tuple(
                        None if value is None else one.read(value)
                        for one, value in zip(columns, row, strict=True)
                    )
                    found[layout.table, key_of(layout, values)] = values
        return found

    def assert_complete(self) -> None:
        """Fail unless what was captured makes exactly what is stored."""
        assert self.replayed() == self.stored()

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def key_of(layout: Layout, values: Sequence[Any]) -> tuple[Any, ...]:
    """Return the key in *values*, which are by the positions of *layout*."""
    return tuple(values[position] for position in layout.key_positions)
