# SPDX-License-Identifier: Apache-2.0
"""Records: every state file names itself, and what is not understood is never half-read."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgepaas.alerts import status as alerts_status
from edgepaas.alerts.channels import channel_failover, config, notification
from edgepaas.alerts.conditions import fold, silences
from edgepaas.alerts.delivery import heartbeat
from edgepaas.alerts.spool import alert, quota
from edgepaas.backup import archive
from edgepaas.decision import hold, link_record, losses, rehearsal_record
from edgepaas.drill import scratch_database
from edgepaas.files import node_identity, published_state, shapes
from edgepaas.files.paths import Paths
from edgepaas.files.records import (
    ASIDE,
    MOST_ASIDE,
    NotThisRecord,
    RecordType,
    files_set_aside,
    same_fields,
    set_aside_sqlite,
)
from edgepaas.health import setting_problems
from edgepaas.marks import record as marks
from edgepaas.outbox import layout
from edgepaas.outcomes import refused_tables
from edgepaas.schema import hub_conditions, open_problems, table_contract
from edgepaas.schema.repair import server as repair
from edgepaas.schema.sqlite import quarantine
from edgepaas.service import crash_loop, stage_failure
from edgepaas.sync import handback, status
from edgepaas.sync.audit import record as audit_record
from edgepaas.sync.hub import fleet
from edgepaas.sync.losses import acknowledge, lost_state
from edgepaas.timing.moment import current_moment
from edgepaas.web.access import tokens

NODE = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
MARK = {"transactions": 2, "rows": 7}
MOMENT = {"wall": 1_800_000_000.5, "since_boot": 50.0, "boot_id": "b"}
TABLE = {
    "kind": "facts",
    "columns": [
        {
            "name": "id",
            "type": "UUID",
            "storage": "TEXT",
            "nullable": False,
            "primary_key": True,
            "merge": "",
            "filled_from": "",
            "values": [],
        }
    ],
    "key": ["id"],
    "foreign": [],
    "checks": [{"name": "positive", "text": "value > 0"}],
    "unique": [{"name": "named", "columns": ["id"], "nulls_distinct": True}],
}
TABLES = {"fingerprint": "f", "revision": ["1"], "tables": {"t": TABLE}}
BOX = {
    "node_id": NODE,
    "name": "a",
    "version": "1",
    "build": "b",
    "state": "primary",
    "rows_waiting": 0,
    "oldest_waiting": None,
    "clock_offset": 0.5,
    "first_seen": "2026-01-01T00:00:00Z",
    "last_seen": "2026-01-01T00:00:00Z",
    "age": 1.0,
}
OWNER = {"file": "/f", "application": "shop"}
TOKEN = {"id": "1", "name": "n", "digest": "d", "read_only": False, "created_at": "2026-01-01"}

ALERT = {
    "what": "raised",
    "severity": "warning",
    "message": "m",
    "origin": "o",
    "fingerprint": "f",
    "event": True,
    "box": "b",
    "time": "2026-01-01T00:00:00Z",
    "clock_trusted": None,
    "at": MOMENT,
    "sequence": 1,
    "condition": "c",
    "id": "i",
}
#: Before it said whether a channel took the notification.
NOTIFIED_BEFORE = {
    "state": "raised",
    "total": 1,
    "severity": "warning",
    "flapping": False,
    "reminders": 0,
    "at": MOMENT,
}
NOTIFIED: dict[str, Any] = {**NOTIFIED_BEFORE, "unheard": "", "missed": 0}
NOTIFICATION: dict[str, Any] = {
    "key": "k",
    "what": "raised",
    "severity": "warning",
    "fingerprint": "f",
    "origin": "o",
    "message": "m",
    "condition": "c",
    "details": ["d"],
    "since": 1.0,
    "last": 2.0,
    "ended": 0.0,
    "duration": 0.0,
    "count": 1,
    "new": 1,
    "suppressed": 0,
    "changes": 0,
    "clock_trusted": True,
    "after": NOTIFIED,
    "covers": [{"condition": "c", "after": NOTIFIED}],
    "attempts": 1,
    "reached": False,
    "tried": MOMENT,
    "not_before": 5.0,
    "refused": {"webhook": "404"},
    "refusals": {},
    "time": None,
}
NOTIFICATION_BEFORE = {
    **{name: value for name, value in NOTIFICATION.items() if name != "refusals"},
    "after": NOTIFIED_BEFORE,
    "covers": [{"condition": "c", "after": NOTIFIED_BEFORE}],
}
CONDITION = {
    "state": "raised",
    "severity": "warning",
    "message": "m",
    "origin": "o",
    "fingerprint": "f",
    "box": "b",
    "since_time": "2026-01-01T00:00:00Z",
    "last_time": "2026-01-01T00:00:00Z",
    "count": 1,
    "not_told": 1,
    "details": [],
    "ended_time": None,
    "ended_by": "",
    "total": 1,
    "suppressed": 0,
    "evicted": ["", 0],
    "clock_trusted": None,
    "silenced": False,
    "since": MOMENT,
    "last": MOMENT,
    "ended": None,
    "changes": [MOMENT],
    "told": NOTIFIED,
    "sending": NOTIFICATION,
    "serial": 1,
    "folded": ["i"],
    "name": "c",
    "id": "i",
}
BACKUP = {
    "made_at": "2026-01-01T00:00:00Z",
    "build": "1.0",
    "name": "box",
    "node": None,
    "rows_waiting": 0,
    "members": [{"name": "box.db", "role": "database", "size": 1, "sha256": "0" * 64}],
}
SILENCE = {
    "id": "i",
    "pattern": "*",
    "until": "2026-01-01T00:00:00Z",
    "reason": "",
    "seconds": 60.0,
    "at": MOMENT,
}
CHANNEL = {
    "words": "it answered 500",
    "failures": 1,
    "pause": 30.0,
    "tried_time": None,
    "tried": MOMENT,
    "failing_since": None,
    "delivered": None,
    "settings": "d",
}
STATUS = {
    "open": 1,
    "critical": 0,
    "waiting": 1,
    "silenced": 0,
    "channels": {"webhook": {"said": "s", "failing": ""}},
    "told": {"webhook": {"warning": 1}},
    "next_in_seconds": None,
    "updated": MOMENT,
}

#: Each record with fields that it may have.
RECORDS: list[tuple[RecordType, dict[str, Any]]] = [
    (
        node_identity.RECORD,
        {"node_id": NODE, "made_at": "2026-01-01T00:00:00Z", "machine": "", "was": ["x"]},
    ),
    (tokens.RECORD, {"tokens": [TOKEN]}),
    (hold.RECORD, {"reason": "r", "until": "2027-01-15T08:01:00Z", "seconds": 60.0, **MOMENT}),
    (acknowledge.LOST_RECORD, {"hub_lost": 3}),
    (acknowledge.RECORD, {"rows": {"readings": ["k1", "k2"]}}),
    (
        audit_record.RECORD,
        {
            "at": "2026-01-01T00:00:00Z",
            "why": "return",
            "stream_id": NODE,
            "counters": {"delivered": 3},
            "counts": {"checked": 3},
            "queued_again": 1,
            "open": [{"table": "t", "key": "k", "parts": ["k"], "kind": "missing"}],
            "beyond": 0,
            "problems": ["no table t"],
            "cursors": {"t": ["k"]},
        },
    ),
    (
        lost_state.RECORD,
        {
            "node_id": NODE,
            "streams": [NODE],
            "acknowledged_rows": 0,
            "losses": [
                {
                    "node_id": NODE,
                    "stream_id": NODE,
                    "found_at": "2026-01-01T00:00:00Z",
                    "what": "the file was deleted",
                    "rows_waiting": None,
                    "asked_hub": True,
                    "known": "nothing",
                }
            ],
        },
    ),
    (
        marks.RECORD,
        {
            "node_id": NODE,
            "sum": {"stream_id": NODE, **MARK},
            "joining": [NODE],
            "streams": {NODE: {"owner": "", **MARK}},
            "losses": {NODE: {"known": MARK, "hub": MARK, "resent": 0}},
            "earlier_losses": MARK,
            "acknowledged": MARK,
        },
    ),
    (losses.LOSS, {"reason": "refused"}),
    (stage_failure.RECORD, {"stage": "schema", "message": "no such application"}),
    (setting_problems.RECORD, {"problems": ["DATABASE_URL: it cannot be read"]}),
    (losses.RETURNS, {"times": [1.0, 2.5]}),
    (link_record.RECORD, {"endpoint": "hub:5432", "round_trip": 0.25}),
    (
        rehearsal_record.RECORD,
        {
            "fingerprint": "0a",
            "revisions": ["alembic_version_telemetry 0002"],
            "wall": 1.5,
            "since_boot": 2.5,
            "boot_id": "b",
        },
    ),
    (crash_loop.RECORD, {"failures": 3, "at": 1.5, "boot": "b"}),
    (handback.RECORD, {"generation": "g"}),
    (published_state.RECORD, {"state": "primary", "pid": 7, "started": 9, "boot_id": "b"}),
    (status.RECORD, status.SyncStatus().values()),
    (
        fleet.RECORD,
        {"read": {"generation": "g", "moment": MOMENT}, "found": {"all": 1, "nodes": [BOX]}},
    ),
    (layout.TABLES_RECORD, TABLES),
    (
        table_contract.CACHE_RECORD,
        {
            "made_for": ["a", 2],
            "sources": {"/x.py": [1, 2]},
            "document": TABLES,
            "owner": {"file": "/f", "application": "shop"},
        },
    ),
    (repair.POSTGRES_SCHEMA_RECORD, {"versions": ["1"], "columns": [{"table_name": "t"}]}),
    (open_problems.RECORD, {"message": "no triggers"}),
    (
        hub_conditions.RECORD,
        {"rights": "", "waiting": "revision 2", "since": current_moment().as_dict()},
    ),
    (
        open_problems.REFUSAL_RECORD,
        {"message": "a migration fails", "attempt": "0f", "at": current_moment().as_dict()},
    ),
    (
        refused_tables.RECORD,
        {"tables": [{"table": "readings", "cause": "rights", "text": "it refuses"}]},
    ),
    (
        quarantine.RECORD,
        {
            "file": "edgepaas.db",
            "from": "/s/edgepaas.db",
            "reason": "damaged",
            "rows": None,
            "empty": False,
            "at": "2026-01-01T00:00:00Z",
        },
    ),
    (alert.RECORD, ALERT),
    (notification.RECORD, NOTIFICATION),
    (fold.RECORD, CONDITION),
    (silences.RECORD, {"silences": [SILENCE]}),
    (channel_failover.RECORD, {"channels": {"webhook": CHANNEL}}),
    (heartbeat.RECORD, {"at": MOMENT}),
    (quota.RECORD, {"conditions": {"c": {"count": 1, "epoch": "e"}}, "evicting": ["f"]}),
    (config.RECORD, {"settings": {"TZ": "UTC"}}),
    (alerts_status.RECORD, STATUS),
    (archive.RECORD, BACKUP),
    (
        scratch_database.RECORD,
        {"kind": "schema", "name": "edgepaas_drill_1", "server": "localhost"},
    ),
]
each_record = pytest.mark.parametrize(
    ("record", "fields"), RECORDS, ids=[record.name for record, _ in RECORDS]
)
#: What the releases before records had names wrote, by record; what it is read as.
UNNAMED: dict[str, tuple[Any, Mapping[str, Any] | None]] = {
    "node": (
        {"node_id": NODE, "made_at": "2026-01-01T00:00:00Z", "machine": ""},
        {"node_id": NODE, "made_at": "2026-01-01T00:00:00Z", "machine": "", "was": []},
    ),
    "tokens": ({"version": 1, "tokens": [TOKEN]}, {"tokens": [TOKEN]}),
    "postgres-returns": ([1.0, 2.5], {"times": [1.0, 2.5]}),
    "tables-cache": (
        {"made_for": ["old"], "sources": {}, "document": {}, "owner": OWNER},
        {"made_for": None, "sources": {}, "document": None, "owner": OWNER},
    ),
    "quarantine-note": (
        {"rows": 0, "reason": "x"},
        {"file": "", "from": "", "reason": "x", "rows": 0, "empty": False, "at": ""},
    ),
    "alert": (
        {name: value for name, value in ALERT.items() if name != "event"},
        ALERT | {"event": False},
    ),
    "last-known": (
        {"node_id": NODE, "streams": [], "losses": []},
        {"node_id": NODE, "streams": [], "losses": [], "acknowledged_rows": 0},
    ),
    "alert-channels": ({"webhook": CHANNEL}, {"channels": {"webhook": CHANNEL}}),
    "alert-settings": ({"TZ": "UTC"}, {"settings": {"TZ": "UTC"}}),
    "alert-notification": (NOTIFICATION_BEFORE, NOTIFICATION),
    "alert-condition": (
        {**CONDITION, "told": NOTIFIED_BEFORE, "sending": NOTIFICATION_BEFORE},
        CONDITION,
    ),
    "alerts-status": (STATUS, None),
    # Of another build, or plain text: in run/, where the next write replaces it.
    "database-loss": ("refused", None),
    "schema-problem": ("no triggers", None),
    "sync-status": (status.SyncStatus().values(), None),
    # There was none.
    "refused-tables": ({"tables": []}, None),
    # Never read by the box.
    "postgres-schema": ({"versions": ["1"], "columns": []}, None),
}  # fmt: skip


def test_every_record_of_the_tree_is_tried_here() -> None:
    """A new state file has its old, its newer and its damaged form tried, too."""
    root = Path(node_identity.__file__).parents[1]
    named = {
        name
        for path in root.rglob("*.py")
        for name in re.findall(r"RecordType\(\s*\"([a-z-]+)\"", path.read_text(encoding="utf-8"))
    }
    assert named == {record.name for record, _ in RECORDS}


@each_record
def test_what_is_written_is_read(
    record: RecordType, fields: dict[str, Any], tmp_path: Path
) -> None:
    """Under the record's name and version, which an operator sees first."""
    path = tmp_path / "file"
    record.write(path, fields)
    assert record.read(path) == fields
    document = json.loads(path.read_text())
    assert list(document)[:2] == ["record", "version"]
    assert (document["record"], document["version"]) == (record.name, record.version)


@each_record
def test_a_file_of_the_releases_before_is_migrated_or_not_understood(
    record: RecordType, fields: dict[str, Any]
) -> None:
    """By default its fields are the same; what is in run/ alone may be dropped."""
    content, expected = UNNAMED.get(record.name, (fields, fields))
    if expected is None:
        with pytest.raises(NotThisRecord):
            record.parse(json.dumps(content))
    else:
        assert record.parse(json.dumps(content)) == expected


@each_record
def test_what_is_not_this_record_is_never_read_in_part(
    record: RecordType, fields: dict[str, Any]
) -> None:
    """Newer, another one, torn anywhere, a field more, a field less, a field of another type."""
    text = record.render(fields)
    named = json.loads(text)
    wrong: list[str] = [
        *("", "\0", "null", "3", "true", "[" * 100_000, '"x"', "{}", "[]", "[1, 2, 3]"),
        *(text[:length] for length in range(0, len(text) - 2, 7)),
        json.dumps(named | {"version": record.version + 1}),
        json.dumps(named | {"version": str(record.version)}),
        json.dumps(named | {"version": True}),
        json.dumps(named | {"version": None}),
        json.dumps(named | {"version": 0}),
        json.dumps(named | {"record": "another"}),
        json.dumps(named | {"added": 1}),
    ]
    for name in fields:
        wrong.append(json.dumps({key: value for key, value in named.items() if key != name}))
        if record.fields[name] is not shapes.anything:
            others: list[Any] = [{"x": {"y": [{}]}}, [[{}]]]
            wrong += [json.dumps(named | {name: value}) for value in others]
    for content in wrong:
        # To the releases before, a list was the returns, and nothing at all a cache.
        if record is losses.RETURNS and content in ("[]", "[1, 2, 3]"):
            continue
        emptied = (table_contract.CACHE_RECORD, channel_failover.RECORD, config.RECORD)
        if record in emptied and content == "{}":
            continue
        with pytest.raises(NotThisRecord):
            record.parse(content)


SIMPLE = RecordType("simple", 3, {"n": shapes.whole}, {1: same_fields, 2: lambda f: {"n": f["m"]}})


def test_migrations_follow_one_another() -> None:
    """Each leads to the version after it; one that is missing is the end of it."""
    assert SIMPLE.parse('{"record": "simple", "version": 2, "m": 5}') == {"n": 5}
    assert SIMPLE.parse('{"m": 5}') == {"n": 5}
    lone = RecordType("lone", 3, {"n": shapes.whole}, {2: same_fields})
    with pytest.raises(NotThisRecord, match="version is 1"):
        lone.parse('{"n": 1}')


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"n": "x"}', b"\xff\xfe", b'{"record": "simple", "version": 9, "n": 1}'],
)
def test_a_file_that_is_not_understood_is_set_aside_kept_and_logged_once(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its bytes are still there for a person, and the next write finds its place free."""
    path = tmp_path / "simple.json"
    path.write_bytes(content)
    assert SIMPLE.read_or_set_aside(path) is None
    assert SIMPLE.read_or_set_aside(path) is None
    assert caplog.text.count("set aside") == 1 and "simple.json" in caplog.text
    assert not path.exists()
    (aside,) = files_set_aside(tmp_path)
    assert aside.read_bytes() == content
    SIMPLE.write(path, {"n": 1})
    assert SIMPLE.read_or_set_aside(path) == {"n": 1}


def test_files_set_aside_do_not_pile_up(tmp_path: Path) -> None:
    """The first ones stay, they hold what mattered; the latest takes the last name."""
    path = tmp_path / "simple.json"
    for number in range(MOST_ASIDE + 3):
        path.write_text(str(number))
        assert SIMPLE.read_or_set_aside(path) is None
    kept = [file.read_text() for file in files_set_aside(tmp_path)]
    assert kept == ["0", "1", "2", "3", str(MOST_ASIDE + 2)]


def test_a_file_that_a_writer_has_replaced_meanwhile_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is not what would be renamed: the new one is whole."""
    path = tmp_path / "simple.json"
    path.write_text("torn")
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        SIMPLE.write(path, {"n": 2})
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert SIMPLE.read_or_set_aside(path) is None
    monkeypatch.undo()
    assert SIMPLE.read(path) == {"n": 2}
    assert files_set_aside(tmp_path) == []


def test_a_folder_that_takes_no_rename_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader without rights on the folder goes on without the file."""
    path = tmp_path / "simple.json"
    path.write_text("torn")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    for _ in range(20):
        assert SIMPLE.read_or_set_aside(path) is None
    assert caplog.text.count("cannot be set aside") == 1  # however often it is read
    assert path.read_text() == "torn"


def test_a_fifo_holds_no_reader_and_a_folder_is_an_error(tmp_path: Path) -> None:
    """Whatever lies there under the name."""
    os.mkfifo(tmp_path / "fifo")
    assert SIMPLE.read_or_none(tmp_path / "fifo") is None
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path / "folder"))):
        SIMPLE.read_or_set_aside(tmp_path / "folder")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        assert SIMPLE.read_or_none(tmp_path / "folder") is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before  # none is left open


def test_fields_of_another_shape_are_not_written(tmp_path: Path) -> None:
    """A file that no reader understands would be a fault that shows elsewhere."""
    for fields in (
        {},
        {"n": "1"},
        {"n": True},
        {"n": 1, "m": 1},
        {"n": float("nan")},
        {"n": 2**64},
    ):
        with pytest.raises(shapes.Misshapen):
            SIMPLE.write(tmp_path / "simple.json", fields)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", '{"record": "postgres-hold", "version": 99}'])
def test_the_box_goes_on_without_what_it_does_not_understand(content: str, paths: Paths) -> None:
    """A hold that holds nothing, a count that is not acknowledged, a node with a new id."""
    for path in (paths.postgres_hold, paths.acknowledged, paths.node):
        path.write_text(content)
    assert hold.read_hold(paths.postgres_hold) is None
    hold.write_hold(paths.postgres_hold, "again", 60)
    assert acknowledge.acknowledged_lost(paths) == 0
    node = node_identity.node_identity(paths)
    assert node_identity.node_identity(paths) == node
    again = hold.read_hold(paths.postgres_hold)
    assert again is not None and again.reason == "again"
    assert len(files_set_aside(paths.state)) == 3
    assert all(ASIDE in path.name for path in files_set_aside(paths.state))


def test_an_upgraded_box_keeps_what_its_old_files_say(paths: Paths) -> None:
    """Tokens, identity, hold and what was acknowledged, as the release before wrote them."""
    moment = current_moment()
    old = {
        paths.tokens: {"version": 1, "tokens": [TOKEN | {"digest": "ab"}]},
        paths.node: {"node_id": NODE, "made_at": "2026-01-01T00:00:00Z", "machine": ""},
        paths.acknowledged: {"hub_lost": 7},
        paths.postgres_hold: {
            "reason": "read-only",
            "until": "2027-01-01T00:00:00Z",
            "seconds": 900.0,
            **moment.as_dict(),
        },
        paths.crash_loop: {"failures": 4, "at": moment.since_boot, "boot": moment.boot_id},
    }
    for path, document in old.items():
        path.write_text(json.dumps(document))
    assert [token.digest for token in tokens.read_tokens(paths.tokens)] == ["ab"]
    assert node_identity.node_identity(paths).node_id == NODE
    assert acknowledge.acknowledged_lost(paths) == 7
    held = hold.read_hold(paths.postgres_hold, moment)
    assert held is not None and held.reason == "read-only" and held.remaining == 900.0
    assert crash_loop.CrashLoop(paths.crash_loop, clock=lambda: moment.since_boot).failed() == (
        pytest.approx(crash_loop.FIRST_DELAY * 2**4)
    )
    assert files_set_aside(paths.state) == []


def test_an_sqlite_file_is_set_aside_with_what_lies_beside_it(tmp_path: Path) -> None:
    """No -wal is left for the next file; the last name is taken again, whole."""
    path = tmp_path / "rules.db"
    for number in range(1, MOST_ASIDE + 3):
        path.write_text(f"file {number}")
        path.with_name("rules.db-wal").write_text(f"wal {number}")
        if number <= MOST_ASIDE:
            path.with_name("rules.db-shm").write_text(f"shm {number}")
        aside = set_aside_sqlite(path, "rules", "it is another's")
        assert aside == tmp_path / f"rules.db{ASIDE}{min(number, MOST_ASIDE)}"
        assert aside.read_text() == f"file {number}"
        assert aside.with_name(f"{aside.name}-wal").read_text() == f"wal {number}"
        assert aside.with_name(f"{aside.name}-shm").exists() == (number <= MOST_ASIDE)
        assert not list(tmp_path.glob("rules.db")) + list(tmp_path.glob("rules.db-*"))


def test_an_sqlite_file_that_cannot_be_renamed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller does not go on as if it were gone."""
    path = tmp_path / "rules.db"
    path.write_text("file")
    path.with_name("rules.db-wal").write_text("wal")

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "replace", refuse)
    assert set_aside_sqlite(path, "rules", "it is another's") is None
    assert path.exists()
    assert "cannot be set aside with it: read-only" in caplog.text
