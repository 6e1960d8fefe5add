# SPDX-License-Identifier: Apache-2.0
"""The audit compares content: whatever PostgreSQL lost or changed of a box's rows is found."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgepaas.files.paths import Paths
from edgepaas.outbox import capture
from edgepaas.outbox.layout import TABLES_RECORD
from edgepaas.schema.table_contract import describe
from edgepaas.telemetry.models import Model
from tests.integration.test_audit_hub import Both


@pytest.fixture
def both(paths: Paths, postgres_url: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Both]:
    with Both.opened(paths, postgres_url, capsys) as found:
        yield found


def found_by(both: Both, *options: str) -> dict[str, Any]:
    status = both.audit("--json", *options)
    found: dict[str, Any] = json.loads(both.said)
    assert status == (0 if found["adds_up"] else 1), both.said
    return found


#: What is done to PostgreSQL, and under which name the rows are counted.
HARM = (
    ("DELETE FROM readings WHERE value IN (3, 4)", "missing", 2),
    ("UPDATE readings SET value = value + 1e-12 WHERE value = 3", "differing", 1),
    ("UPDATE readings SET device = 'boileR' WHERE value > 2", "differing", 7),
    ("UPDATE readings SET recorded_at = recorded_at + '1 us'::interval", "differing", 10),
    ("UPDATE readings SET metric = '' WHERE value = 0", "differing", 1),
    (
        "ALTER TABLE readings DROP CONSTRAINT readings_pkey; "
        "INSERT INTO readings SELECT * FROM readings WHERE value < 2",
        "doubled",
        2,
    ),
    ("TRUNCATE readings", "missing", 10),
    ("ALTER TABLE readings RENAME TO other", "", 0),
    ("UPDATE readings SET id = gen_random_uuid()", "missing", 10),
)


def test_whatever_is_done_to_the_rows_in_postgresql_is_found(both: Both) -> None:
    """By the plain audit, without an option."""
    both.write(10)
    both.drain()
    both.hub.query("CREATE TABLE saved AS SELECT * FROM readings")
    both.hub.query("CREATE TABLE shape (LIKE readings INCLUDING ALL)")
    assert found_by(both)["compared"]["in_place"] == 10
    for harm, name, rows in HARM:
        for statement in harm.split("; "):
            both.hub.query(statement)
        found = found_by(both)
        assert not found["adds_up"], harm
        if name:
            assert found["compared"][name] == rows, harm
        else:
            assert found["compared"]["problems"], harm
        both.hub.query("DROP TABLE IF EXISTS readings, other")
        both.hub.query("CREATE TABLE readings (LIKE shape INCLUDING ALL)")
        both.hub.query("INSERT INTO readings SELECT * FROM saved")
        assert found_by(both)["compared"]["in_place"] == 10, harm


def test_a_narrowed_column_that_rounds_is_found(both: Both) -> None:
    """Only the values that suffer from it: a whole number is the same in any of these types."""
    both.write(4)
    both.connection.execute("UPDATE readings SET value = value + 0.12345678912345 WHERE value > 0")
    both.drain()
    for narrow in ("numeric(30, 10)", "real", "numeric(6, 1)"):
        both.hub.query(f"ALTER TABLE readings ALTER COLUMN value TYPE {narrow}")
        assert found_by(both)["compared"]["differing"] == 3, narrow


def test_a_dead_letter_that_was_retried_explains_nothing(both: Both) -> None:
    """Its row was stored; deleted afterwards, it is missing like any other."""
    both.write(3)
    both.drain()
    ((stream, node, key),) = both.hub.query(
        "SELECT stream_id::text, node_id::text, (SELECT id::text FROM readings WHERE value = 1) "
        "FROM sync_streams"
    )
    both.hub.query("DELETE FROM readings WHERE value = 1")
    counted = {}
    for state in ("waiting", "retried", "discarded"):
        both.hub.query("DELETE FROM sync_dead_letters")
        both.hub.query(
            "INSERT INTO sync_dead_letters (id, node_id, stream_id, seq, tbl, op, row_key, layout, "
            "sqlstate, message, state) VALUES (gen_random_uuid(), $1::text::uuid, "
            "$2::text::uuid, 2, 'readings', 'I', $3, '{}', '22003', 'no', $4)",
            node,
            stream,
            key,
            state,
        )
        both.hub.query("UPDATE sync_streams SET rows = 2, dead = 1")
        found = found_by(both)
        counted[state] = (found["compared"]["missing"], found["not_in_place"], found["adds_up"])
    assert counted == {
        "waiting": (0, 1, True),
        "retried": (1, 1, False),
        "discarded": (0, 1, True),
    }


def test_a_stream_at_its_base_does_not_add_up(both: Both) -> None:
    """PostgreSQL was restored to the moment at which the stream began."""
    both.write(5)
    both.drain()
    both.hub.query("DELETE FROM readings")
    both.hub.query("UPDATE sync_streams SET mark = base, batch = NULL, rows = 0, batch_rows = 0")
    found = found_by(both)
    assert any("PostgreSQL's mark of the stream" in one for one in found["discrepancies"])
    assert found["compared"]["missing"] == 5


def test_rows_that_were_written_past_a_dropped_trigger_are_found(both: Both) -> None:
    """They are in the box's table, and in no outbox: nobody would send them."""
    TABLES_RECORD.write(
        both.paths.tables,
        {"fingerprint": "f", "revision": ["1"], "tables": describe(Model.metadata)},
    )
    both.write(2)
    both.drain()
    assert found_by(both)["adds_up"]
    both.connection.execute("DROP TRIGGER outbox_insert_readings")
    found = found_by(both)
    assert any("outbox_insert_readings is missing" in one for one in found["discrepancies"])
    both.write(3, first=2)
    capture._replace_triggers(both.connection, capture_layouts(both.connection))
    found = found_by(both)
    assert (found["compared"]["missing"], found["adds_up"]) == (3, False)
    assert not any("trigger" in one for one in found["discrepancies"])


def capture_layouts(connection: sqlite3.Connection) -> list[Any]:
    from edgepaas.outbox.layout import stored_layouts

    return list(stored_layouts(connection).values())


def test_a_file_that_vanished_does_not_add_up(both: Both) -> None:
    """What PostgreSQL knows of it is named: how far it came, and what waited."""
    both.write(5)
    both.drain()
    ((node,),) = both.hub.query("SELECT node_id::text FROM sync_streams")
    both.hub.query(
        "INSERT INTO nodes (node_id, name, version, build, state, rows_waiting, boot_id, "
        "first_seen, last_seen) VALUES ($1::text::uuid, 'box', '1', '1', 'fallback', 852, 'b', "
        "now(), now())",
        node,
    )
    both.connection.close()
    for suffix in ("", "-wal", "-shm"):
        both.paths.sqlite.with_name(both.paths.sqlite.name + suffix).unlink(missing_ok=True)
    found = found_by(both)
    ((line),) = found["discrepancies"]
    assert "is gone: PostgreSQL knows rows of this box up to " in line
    assert "852 rows waited here at its heartbeat of" in line


def test_what_an_operator_acknowledged_is_counted_and_adds_up(both: Both) -> None:
    """For those rows and no others."""
    both.write(6)
    both.drain()
    both.hub.query("DELETE FROM readings WHERE value < 2")
    both.hub.query("UPDATE readings SET value = -1 WHERE value = 2")
    assert found_by(both)["compared"]["unexplained"] == 3
    found = found_by(both, "--acknowledge")
    assert (found["adds_up"], found["not_in_place"]) == (True, 3)
    found = found_by(both)
    assert (found["compared"]["acknowledged"], found["not_in_place"]) == (3, 3)
    assert both.audit() == 0
    assert "it adds up, but for 3 rows that are not in place" in both.said
    both.hub.query("DELETE FROM readings WHERE value = 5")
    found = found_by(both)
    assert (found["compared"]["missing"], found["not_in_place"]) == (1, 4)


def test_only_the_latest_rows_are_compared_without_deep(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what the audit that runs by itself left open counts as well."""
    from edgepaas.settings import Settings
    from edgepaas.sync.audit import own_rows
    from edgepaas.sync.audit.record import AuditRecord, write_audit

    monkeypatch.setattr(own_rows, "CHUNK", 5)
    Settings.of(AUDIT_ROWS="10").write(both.paths.env_contract)
    both.write(30)
    both.drain()
    ((oldest,),) = both.hub.query("SELECT min(id::text) FROM readings")
    both.hub.query("DELETE FROM readings WHERE id::text = $1", oldest)
    assert found_by(both)["compared"]["checked"] == 10
    found = found_by(both, "--deep")
    assert (found["compared"]["checked"], found["compared"]["missing"]) == (30, 1)
    entry = {"table": "readings", "key": oldest, "parts": [oldest], "kind": "missing"}
    write_audit(both.paths, AuditRecord(at="2026-01-01T00:00:00Z", open=[entry]))
    assert "the audit that runs by itself: 1 rows" in found_by(both)["discrepancies"][0]


def test_rows_that_wait_are_no_discrepancy_whatever_the_moment(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are written, and sent, between the reading of the file and that of PostgreSQL."""
    from edgepaas.sync.content.content import HubContent

    both.write(5)
    both.drain()
    original = HubContent.differences
    steps: list[Callable[[], None]] = [
        lambda: both.write(3, first=5),
        both.drain,
        lambda: both.write(2, first=8),
    ]

    def differences(self: HubContent, *arguments: Any) -> Any:
        if steps:
            steps.pop(0)()
        return original(self, *arguments)

    monkeypatch.setattr(HubContent, "differences", differences)
    for _ in range(3):
        assert found_by(both)["compared"]["unexplained"] == 0
    assert not steps
