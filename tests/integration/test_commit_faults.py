# SPDX-License-Identifier: Apache-2.0
"""A fault at each step of a transaction: what is acknowledged is kept, and nothing else goes on.

After each fault the record of who was told, the journal and the server are compared.
"""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text

from edgepaas.errors import DatabaseFull
from edgepaas.files.paths import Paths, find_paths
from edgepaas.marks.journaling import JournalingRider
from edgepaas.marks.record import lost_rows
from edgepaas.marks.rider import MarkRider
from edgepaas.outbox.hub_capture import keeping
from edgepaas.outbox.hub_capture import rider as capture_rider
from edgepaas.outbox.hub_capture.keeping import JournaledChanges
from edgepaas.outbox.hub_capture.rider import CaptureRider
from edgepaas.outbox.journal.group_writer import GroupWriter
from edgepaas.outbox.journal.journal import Journal
from edgepaas.pgdriver.flights.exchange import Exchange
from edgepaas.pgdriver.flights.transactions import TransactionFlights
from edgepaas.service.hub_capture import capture_on_hub
from tests.support.captured_process import add_device
from tests.support.journaled_box import (
    MORNING,
    JournaledBox,
    append,
    journaled_box,
    prepare,
    reading,
)
from tests.support.postgres_server import PostgresServer
from tests.support.weaken import weakened

Fault = Callable[[], BaseException]

#: What fails once: where, what, and at which of its calls in the transaction (from 1).
STEPS: dict[str, tuple[Any, str, int]] = {
    "the mark begins": (MarkRider, "begin", 1),
    "capture begins": (CaptureRider, "begin", 1),
    "rows are told": (JournalingRider, "expect", 1),
    "what begins is encoded": (TransactionFlights, "_encoded", 1),
    "statements are encoded": (TransactionFlights, "_encoded", 2),
    "what ends is encoded": (TransactionFlights, "_encoded", 3),
    "the mark ends": (MarkRider, "ending", 1),
    "capture ends": (CaptureRider, "ending", 1),
    "the order is taken": (CaptureRider, "sent", 1),
    "the journal is written": (GroupWriter, "write", 1),
    "the mark is sent": (MarkRider, "sent", 1),
    "the flight is sent": (Exchange, "send", 1),
    "the journal is synced": (Journal, "sync", 1),
    "the answer is read": (Exchange, "receive", 1),
    "the mark has moved": (MarkRider, "committed", 1),
    "the journal knows of it": (Journal, "confirm", 1),
    "capture is decoded": (capture_rider, "decode", 1),
    "capture is kept": (JournaledChanges, "keep", 1),
    "capture is recorded": (Journal, "record", 1),
}
FAULTS: dict[str, Fault] = {
    "an error": lambda: RuntimeError("a fault"),
    "no room": lambda: DatabaseFull("a fault"),
    "the link": lambda: ConnectionResetError("a fault"),
}


class Writer:
    """One way of writing, and its own record of what was acknowledged."""

    def __init__(self, box: JournaledBox, way: str) -> None:
        self._box = box
        self._way = way
        self.acknowledged: list[str] = []
        self.refused: list[str] = []

    @property
    def table(self) -> str:
        return "readings" if self._way == "appended" else "devices"

    def write(self) -> None:
        identity = str(uuid.uuid4())
        try:
            if self._way == "appended":
                append(self._box.database, [reading(uuid.UUID(identity))], stamp=MORNING)
            else:
                self._box.database.write(add_device(identity))
        except Exception:
            self.refused.append(identity)
        else:
            self.acknowledged.append(identity)

    def stored(self) -> list[str]:
        """The ids that the server has."""
        with self._box.database.read() as session:
            rows = session.execute(text(f"SELECT id FROM {self.table}"))
            found = [str(row[0]) for row in rows]
        known = set(self.acknowledged) | set(self.refused)
        return sorted(one for one in found if one in known)

    def kept(self) -> list[str]:
        """The ids that the journal has."""
        known = set(self.acknowledged) | set(self.refused)
        return sorted({one for one in self._box.kept_keys(self.table) if one in known})


@pytest.fixture(scope="module")
def home(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Paths, str]]:
    """A box's folders, and a database at head."""
    paths = find_paths({"EDGEPAAS_HOME": str(tmp_path_factory.mktemp("home"))})
    paths.create()
    name = postgres.create_database()
    prepare(paths, postgres.url(name))
    yield paths, postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture
def box(home: tuple[Paths, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[JournaledBox]:
    monkeypatch.setattr(keeping, "PAUSE", 0.0)
    paths, url = home
    with journaled_box(paths, url) as found:
        capture_on_hub(found.keeper, paths, may_mend=True)
        yield found


def fail_once(
    monkeypatch: pytest.MonkeyPatch, step: str, fault: Fault, *, after: bool
) -> list[bool]:
    """Have *step* raise once, before or *after* it did its work; the list tells whether it has."""
    target, name, call = STEPS[step]
    original = getattr(target, name)
    calls, met = [0], [False]

    def failing(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if met[0] or calls[0] != call:
            return original(*arguments, **options)
        met[0] = True
        if after:
            original(*arguments, **options)
        raise fault()

    monkeypatch.setattr(target, name, failing)
    return met


def compare(box: JournaledBox, writer: Writer, paths: Paths) -> None:
    """Check the three records against each other."""
    assert box.journal._open == {}, "an entry is under way for ever"
    box.look()
    assert box.journal.unsettled() == []
    stored, kept = set(writer.stored()), set(writer.kept())
    assert set(writer.acknowledged) <= stored, "acknowledged, and not stored"
    assert set(writer.acknowledged) <= kept, "acknowledged, and not kept"
    assert kept <= stored, "kept, and not stored: it would be sent again"
    assert box.journal.lacking(box.hub_marks()) == []
    assert lost_rows(paths) == 0
    with box.database._engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        assert driver.prepared.allowed, "a statement was taken for prepared that was never sent"


@pytest.mark.parametrize("way", ["appended", "captured"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_whatever_fails_in_a_transaction_the_records_agree(
    box: JournaledBox, home: tuple[Paths, str], step: str, after: bool, way: str
) -> None:
    """Each fault in turn, on a connection that has statements prepared and on one that has not."""
    for name, fault in FAULTS.items():
        for warm in (0, 1, 3):
            writer = Writer(box, way)
            box.database._forget_idle()
            for _ in range(warm):
                writer.write()
            with pytest.MonkeyPatch.context() as patch:
                met = fail_once(patch, step, fault, after=after)
                writer.write()
            if not met[0]:
                continue  # no step of this way of writing
            for _ in range(3):
                writer.write()
            assert len(writer.acknowledged) >= warm + 3, (name, warm)
            try:
                compare(box, writer, home[0])
            except AssertionError as error:
                raise AssertionError(f"{name} after {warm} writes: {error}") from error


def test_a_build_that_takes_for_prepared_what_was_not_sent_is_found_out(
    box: JournaledBox, home: tuple[Paths, str]
) -> None:
    writer = Writer(box, "captured")
    writer.write()
    with weakened("unsent-is-prepared"), pytest.MonkeyPatch.context() as patch:
        fail_once(patch, "the order is taken", FAULTS["an error"], after=False)
        for _ in range(4):
            writer.write()
        with pytest.raises(AssertionError, match="never sent"):
            compare(box, writer, home[0])
