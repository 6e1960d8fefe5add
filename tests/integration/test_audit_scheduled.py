# SPDX-License-Identifier: Apache-2.0
"""The audit that runs by itself: it sends again what is still here, and alerts of all else."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from edgepaas.alerts import catalogue_entry
from edgepaas.alerts.catalogue import AUDIT_DISCREPANCY
from edgepaas.database.ids import uuid7
from edgepaas.decision.contract import DatabaseContract
from edgepaas.files.locks import held
from edgepaas.files.node_identity import node_identity
from edgepaas.files.paths import Paths
from edgepaas.outbox.journal.entries import Change
from edgepaas.outbox.journal.journal import Journal
from edgepaas.outbox.journal.tables import journal_path, lock_of
from edgepaas.outbox.layout import stored_layouts
from edgepaas.outbox.space import retention
from edgepaas.outbox.stream import rewind
from edgepaas.settings import Settings
from edgepaas.sync.audit import own_rows
from edgepaas.sync.audit.record import AuditRecord, read_audit, still_open, write_audit
from edgepaas.sync.box_file import BoxFile
from edgepaas.sync.context import SyncContext
from edgepaas.sync.losses.acknowledge import acknowledge_rows
from edgepaas.sync.report import LiveStatus
from edgepaas.sync.shutdown import StopRequest
from edgepaas.sync.turns import auditing
from edgepaas.sync.turns.auditing import AuditTurn
from tests.integration.test_audit_hub import Both
from tests.support.weaken import weakened

_DAY = 86_400.0


@dataclass
class Clocks:
    """Time as a test sets it: the wall's, and one that only goes on."""

    wall: float = 1_800_000_000.0
    monotonic: float = 1000.0

    def go_on(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@dataclass
class Audited:
    """A box whose drainer audits by itself; *told* are the alerts, "" the ones resolved."""

    both: Both
    told: list[tuple[str, str]]
    clocks: Clocks

    def __post_init__(self) -> None:
        self.file = BoxFile(self.both.paths.sqlite, self.both.paths)
        self.turn = self.begin()

    def begin(self, **settings: str) -> AuditTurn:
        """A drainer starts."""
        context = SyncContext(
            Settings.of(**settings),
            DatabaseContract.read(self.both.paths.db_contract),
            self.both.paths,
            StopRequest(),
            (),
            {},
        )
        self.turn = AuditTurn(
            context, {}, LiveStatus(),
            wall=lambda: self.clocks.wall, clock=lambda: self.clocks.monotonic,
        )  # fmt: skip
        return self.turn

    def turns(self) -> AuditRecord | None:
        """Let it do all that is due; returns what it then has on record."""
        for _ in range(1000):
            self.turn.take(self.file, self.both.hub)
            if self.turn._pass is None:
                return read_audit(self.both.paths)
        raise AssertionError("the pass does not end")

    def tomorrow(self) -> AuditRecord:
        """The next daily pass; what was queued again is sent before it and after it."""
        self.both.drain()
        self.clocks.go_on(_DAY)
        record = self.turns()
        assert record is not None
        return record


@pytest.fixture
def audited(
    paths: Paths,
    postgres_url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Audited]:
    told: list[tuple[str, str]] = []

    def raise_alert(text: str, *, fingerprint: str, severity: str, **_: object) -> None:
        if fingerprint == AUDIT_DISCREPANCY.pattern:
            told.append((severity, text))

    def resolve_alert(_: str, *, fingerprint: str, **__: object) -> None:
        if fingerprint == AUDIT_DISCREPANCY.pattern:
            told.append(("", "resolved"))

    monkeypatch.setattr(catalogue_entry, "raise_alert", raise_alert)
    monkeypatch.setattr(catalogue_entry, "resolve_alert", resolve_alert)
    monkeypatch.setattr(auditing, "_LOOK_EVERY", 0.0)
    monkeypatch.setattr(own_rows, "CHUNK", 7)
    with Both.opened(paths, postgres_url, capsys) as both:
        found = Audited(both, told, Clocks())
        yield found
        found.file.close()


def values(both: Both) -> list[float]:
    return [row[0] for row in both.hub.query("SELECT value FROM readings ORDER BY value")]


def test_what_postgresql_lost_is_sent_again_and_an_operator_is_notified(audited: Audited) -> None:
    both = audited.both
    both.write(50)
    both.drain()
    assert audited.tomorrow().counts["checked"] == 50
    assert audited.told.pop() == ("", "resolved")
    both.hub.query("DELETE FROM readings WHERE value BETWEEN 10 AND 29")
    record = audited.tomorrow()
    assert (record.counts["queued_again"], record.open) == (20, [])
    ((severity, text),) = audited.told
    assert severity == "warning"
    assert "20 rows that PostgreSQL had lost were sent again" in text
    both.drain()
    assert values(both) == [float(n) for n in range(50)]
    record = audited.tomorrow()
    assert (record.counts["queued_again"], record.queued_again) == (0, 20)
    assert audited.told[-1] == ("", "resolved")
    assert both.audit("--deep") == 0, both.said


def test_a_row_that_is_deleted_again_is_not_sent_for_ever(audited: Audited) -> None:
    """Somebody deletes it; who, is for a person to find out."""
    both = audited.both
    both.write(9)
    both.drain()
    for _ in range(2):
        both.drain()
        both.hub.query("DELETE FROM readings WHERE value = 4")
        record = audited.tomorrow()
    assert (record.counts["missing"], record.counts["queued_again"]) == (1, 0)
    assert audited.told[-1][0] == "critical"
    assert still_open(both.paths)
    acknowledge_rows(both.paths, {"readings": [record.open[0]["key"]]})
    assert not still_open(both.paths)
    record = audited.tomorrow()
    assert (record.counts["acknowledged"], record.open) == (1, [])
    assert audited.told[-1] == ("", "resolved")


def test_values_that_were_changed_are_left_as_they_are_and_told(audited: Audited) -> None:
    """Somebody may have corrected them: nothing is overwritten, and it stays open."""
    both = audited.both
    both.write(20)
    both.drain()
    both.hub.query("UPDATE readings SET value = 100 WHERE value = 7")
    record = audited.tomorrow()
    assert (record.counts["differing"], len(record.open)) == (1, 1)
    assert audited.told[-1][0] == "critical"
    assert 100.0 in values(both)
    both.hub.query("UPDATE readings SET value = 7 WHERE value = 100")
    assert audited.tomorrow().open == []
    assert audited.told[-1] == ("", "resolved")


def test_older_rows_are_compared_in_turn_and_what_is_open_stays_so(audited: Audited) -> None:
    """With AUDIT_ROWS far below what there is, each pass goes on where the last one ended."""
    both = audited.both
    both.write(60)
    both.drain()
    audited.begin(AUDIT_ROWS="28")
    both.hub.query("UPDATE readings SET value = 100 WHERE value IN (1, 30)")
    opened = [len(audited.tomorrow().open) for _ in range(4)]
    assert opened == sorted(opened), "found one after the other, and none forgotten"
    assert opened[-1] == 2
    assert retention.reclaim(both.connection, older_than=0).facts == 60
    assert len(audited.tomorrow().open) == 2, "what left the box is not mended by that"


def test_a_pass_follows_each_return_and_each_restore(audited: Audited) -> None:
    """Once nothing waits and some seconds have gone by; the day is not waited for."""
    both = audited.both
    first = audited.tomorrow()
    assert first.why == "interval"
    both.write(10)
    both.drain()
    audited.turns()
    audited.clocks.go_on(auditing.AFTER_RETURN)
    record = audited.turns()
    assert record is not None and record.at == first.at, "returns may follow each other quickly"
    audited.clocks.go_on(auditing.BETWEEN_RETURNS)
    record = audited.turns()
    assert record is not None
    assert (record.why, record.counts["checked"]) == ("return", 10)
    both.hub.query("DELETE FROM readings WHERE value = 3")
    rewind(both.connection, 0)
    both.drain()
    audited.turns()
    audited.clocks.go_on(auditing.AFTER_RETURN)
    record = audited.turns()
    assert record is not None
    assert record.why == "restore"
    assert values(both) == [float(n) for n in range(10)]


def test_a_clock_that_is_years_off_neither_stops_it_nor_makes_it_run_all_the_time(
    audited: Audited,
) -> None:
    for years in (-30, 60, -30):
        audited.clocks.wall += years * 365 * _DAY
        audited.begin()
        before = read_audit(audited.both.paths)
        audited.clocks.go_on(auditing.AFTER_RETURN)
        record = audited.turns()
        assert record is not None
        assert before is None or record.at != before.at
        again = audited.turns()
        assert again is not None and again.at == record.at


def test_without_an_interval_it_never_runs(audited: Audited) -> None:
    audited.begin(AUDIT_INTERVAL="0")
    audited.clocks.go_on(400 * _DAY)
    assert audited.turns() is None


def test_what_postgresql_answers_to_a_comparison_stops_nothing(audited: Audited) -> None:
    """Its tables may be in any shape: that is told, and rows go on."""
    both = audited.both
    both.write(3)
    both.drain()
    both.hub.query("ALTER TABLE readings ALTER COLUMN metric TYPE bytea USING metric::bytea")
    record = audited.tomorrow()
    assert "readings.metric is of another kind" in record.problems[0]
    assert record.counts["checked"] == 3
    both.hub.query("ALTER TABLE readings RENAME TO other")
    record = audited.tomorrow()
    assert "PostgreSQL has no table readings" in record.problems[0]
    assert audited.told[-1][0] == "critical"


def test_counters_and_marks_are_compared_as_well(audited: Audited) -> None:
    both = audited.both
    both.write(3)
    both.drain()
    both.hub.query("UPDATE sync_streams SET rows = rows + 1")
    record = audited.tomorrow()
    assert "PostgreSQL counted 4 applied" in record.problems[0]
    assert audited.told[-1][0] == "critical"
    both.hub.query("UPDATE sync_streams SET rows = rows - 1")
    assert audited.tomorrow().problems == []


def test_a_pass_that_is_cut_off_begins_anew(audited: Audited) -> None:
    """The connection to the file is another one: what the pass kept there is gone."""
    both = audited.both
    both.write(30)
    both.drain()
    audited.clocks.go_on(_DAY)
    audited.turn.take(audited.file, both.hub)
    assert audited.turn._pass is not None
    audited.file.close()
    audited.file = BoxFile(both.paths.sqlite, both.paths)
    record: Any = audited.turns()
    assert record.counts["checked"] == 30


class Served:
    """Readings that PostgreSQL acknowledged while it served: there, and in the journal."""

    def __init__(self, both: Both) -> None:
        self._both = both
        (self._layout,) = [
            one for one in stored_layouts(both.connection).values() if one.table == "readings"
        ]
        path = journal_path(both.paths.sqlite)
        self.journal = Journal(path, node_identity(both.paths).node_id, [self._layout])

    def write(self, *numbers: int) -> None:
        """Write readings by way of a scratch table of the file, whose encoding is the outbox's."""
        both = self._both
        both.write(len(numbers), first=numbers[0])
        both.drain()
        names = ", ".join(f'"{name}"' for name in self._layout.names)
        rows = both.connection.execute(
            f"SELECT {names} FROM readings WHERE value >= ? ORDER BY id", (numbers[0],)
        ).fetchall()
        for n, row in enumerate(rows):
            self.journal.record("s", numbers[n] + 1, [Change("readings", "I", row)])
        retention.reclaim(both.connection, older_than=0)

    def delete(self, number: int) -> None:
        """Delete a reading, on PostgreSQL, which serves."""
        ((key,),) = self._both.hub.query("SELECT id::text FROM readings WHERE value = $1", number)
        self._both.hub.query("DELETE FROM readings WHERE value = $1", number)
        row = [key if name == "id" else None for name in self._layout.names]
        self.journal.record("s", number + 100, [Change("readings", "D", tuple(row))])


def test_what_was_written_while_postgresql_served_is_compared_by_the_journal(
    audited: Audited,
) -> None:
    """And sent again, where PostgreSQL lost it; what this box deleted there stays deleted."""
    both = audited.both
    served = Served(both)
    served.write(*range(20))
    assert both.connection.execute("SELECT count(*) FROM readings").fetchone() == (0,)
    assert audited.tomorrow().counts["checked"] == 20
    served.delete(3)
    both.hub.query("DELETE FROM readings WHERE value IN (5, 6)")
    both.hub.query("UPDATE readings SET value = 100 WHERE value = 7")
    assert both.audit("--json") == 1
    compared = json.loads(both.said)["compared"]
    assert (compared["missing"], compared["differing"], compared["changed_here"]) == (2, 1, 1)
    record = audited.tomorrow()
    counts = {name: record.counts[name] for name in ("queued_again", "differing", "changed_here")}
    assert counts == {"queued_again": 2, "differing": 1, "changed_here": 1}
    both.drain()
    assert sorted(values(both)) == sorted({*map(float, range(20))} - {3.0, 7.0} | {100.0})


def test_a_journal_that_cannot_be_read_does_not_add_up_and_holds_nothing_up(
    audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for one that is not there: what it has was not missed."""
    monkeypatch.setattr("edgepaas.outbox.journal.access.LOCK_TIMEOUT", 0.05)
    both = audited.both
    served = Served(both)
    served.write(*range(5))
    served.journal.close()
    both.hub.query("DELETE FROM readings WHERE value = 2")
    with held(lock_of(journal_path(both.paths.sqlite))):
        assert both.audit() == 1
        assert "what the journal has is not compared" in both.said
        audited.clocks.go_on(_DAY)
        assert audited.turns() is None  # no pass has come to its end
    assert audited.tomorrow().counts["queued_again"] == 1


def test_an_entry_of_the_journal_that_is_not_looked_at_is_no_row_in_place(
    audited: Audited,
) -> None:
    """What was left open stays open where the audit did not get to it again."""
    both = audited.both
    Settings.of(AUDIT_ROWS="10").write(both.paths.env_contract)
    Served(both).write(*range(20))
    ((key,),) = both.hub.query("SELECT id::text FROM readings WHERE value = 0")
    both.hub.query("DELETE FROM readings WHERE value = 0")
    entry = {"table": "readings", "key": key, "parts": [key], "kind": "missing"}
    write_audit(both.paths, AuditRecord(at="2026-01-01T00:00:00Z", open=[entry]))
    assert both.audit() == 1
    assert "the audit that runs by itself: 1 rows" in both.said


def test_what_no_client_was_answered_is_not_looked_for(audited: Audited) -> None:
    """An entry in flight may never have reached PostgreSQL."""
    served = Served(audited.both)
    served.write(0)
    row = served.journal.entries("s", 0)[0].changes[0].new
    assert row is not None
    another = tuple(str(uuid7()) if n == 0 else value for n, value in enumerate(row))
    entry = served.journal.ahead("s", 2, [Change("readings", "I", another)])
    assert audited.tomorrow().counts["checked"] == 1
    served.journal.confirm(entry)
    served.journal.flush()
    assert audited.tomorrow().counts["queued_again"] == 1


def test_a_build_that_compares_keys_alone_is_found_out(audited: Audited) -> None:
    both = audited.both
    both.write(5)
    both.drain()
    both.hub.query("UPDATE readings SET value = -1 WHERE value = 3")
    with weakened("audit-keys-alone"):
        assert both.audit("--deep") == 0, "it says that it adds up"
        assert audited.tomorrow().open == []
    assert both.audit("--deep") == 1


def test_a_build_that_does_not_send_again_is_found_out(audited: Audited) -> None:
    both = audited.both
    both.write(5)
    both.drain()
    both.hub.query("DELETE FROM readings WHERE value = 3")
    with weakened("audit-no-repair"):
        audited.tomorrow()
        both.drain()
    assert 3.0 not in values(both)
    audited.tomorrow()
    both.drain()
    assert 3.0 in values(both)
