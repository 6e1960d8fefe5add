# SPDX-License-Identifier: Apache-2.0
"""What the rules have found is loaded by name; what does not fit is kept aside, alone."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgepaas.telemetry.rules.judging import ActiveRule, Series
from edgepaas.telemetry.rules.store import Known, Notice, RuleStore

WATCH = ActiveRule("r1", "too warm", None, "temperature", "above", 30.0, 0, "warning")
SERIES = Series(5, 31.5, 5, 31.5, 4, 1, True, 2.5)
NOTICE = Notice(0, True, "too warm", "warning", "rule:r1:d1")
WATCH_1 = ["r1", "too warm", None, "temperature", "above", 30.0, 0, "warning"]
SERIES_1 = [5, 31.5, 5, 31.5, 4, 1, True, 2.5]
#: As version 1 made it.
VERSION_1 = """
CREATE TABLE series (
    rule TEXT NOT NULL, device TEXT NOT NULL, watch TEXT NOT NULL, state TEXT NOT NULL,
    PRIMARY KEY (rule, device)
) WITHOUT ROWID;
CREATE TABLE notices (n INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL);
CREATE TABLE taken (
    database TEXT NOT NULL, batch TEXT NOT NULL, PRIMARY KEY (database, batch)
) WITHOUT ROWID;
CREATE TABLE meter (one INTEGER PRIMARY KEY CHECK (one = 1), listened REAL NOT NULL);
INSERT INTO meter VALUES (1, 12.5);
PRAGMA user_version = 1;
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rules.db"


def filled(path: Path) -> None:
    """Store one state, one alert and one batch."""
    with closing(RuleStore(path)) as store:
        store.keep({("r1", "d1"): Known(WATCH, SERIES)}, [NOTICE], 12.5, database="s", taken=["b"])


def edit(path: Path, sql: str, *values: Any) -> None:
    """Change the file as no build of ours would."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql, values)


def aside(path: Path) -> list[tuple[str, str]]:
    """Return the rows that were set aside: from which table, and what was in them."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT source, content FROM set_aside ORDER BY n").fetchall()


def odd_rows() -> Iterator[Any]:
    """Give texts that are no state: as lists, with a value more or less, of other types."""
    good = {name: getattr(SERIES, name) for name in Series.__slots__}
    yield json.dumps([*SERIES_1, 9])  # nine values
    yield json.dumps(SERIES_1)
    yield json.dumps(good | {"added": 1})
    yield json.dumps({name: value for name, value in good.items() if name != "held"})
    yield json.dumps(good | {"held": "1"})
    yield json.dumps(good | {"held": True})
    yield json.dumps(good | {"raised": 1})
    yield json.dumps(good)[:-5]
    yield from ("", "null", "3", "[" * 100_000, b"\xff\x00")


@pytest.mark.parametrize("text", list(odd_rows()), ids=lambda text: repr(text)[:24])
def test_a_state_that_does_not_fit_is_set_aside_alone(
    text: Any, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its neighbours, the alerts that wait and the time of listening are as they were."""
    filled(path)
    edit(path, "INSERT INTO series (rule, device, watch, state) VALUES ('r2', 'd', ?, ?)",
         json.dumps({name: getattr(WATCH, name) for name in WATCH.__slots__}), text)  # fmt: skip
    with closing(RuleStore(path)) as store:
        assert store.load() == ({("r1", "d1"): Known(WATCH, SERIES)}, 12.5)
        assert store.load() == ({("r1", "d1"): Known(WATCH, SERIES)}, 12.5)
        assert store.taken("s") == {"b"}
        notice = store.next_notice()
        assert notice is not None and notice.message == NOTICE.message
    assert caplog.text.count("set_aside") == 1
    ((source, content),) = aside(path)
    assert source == "series" and json.loads(content)[:2] == ["r2", "d"]


def test_a_rule_that_does_not_fit_is_set_aside_with_its_state(path: Path) -> None:
    """The rule of a state is loaded as strictly as the state."""
    filled(path)
    edit(path, "UPDATE series SET watch = ?", json.dumps([*WATCH_1, "ninth"]))
    with closing(RuleStore(path)) as store:
        assert store.load() == ({}, 12.5)
    assert [source for source, _ in aside(path)] == ["series"]


@pytest.mark.parametrize("body", [json.dumps([True, "m", "warning", "f", 5]), "{}", "x", "[]"])
def test_an_alert_that_does_not_fit_holds_no_other(path: Path, body: str) -> None:
    """The one behind it is told."""
    with closing(RuleStore(path)) as store:
        store.keep({}, [NOTICE], 0.0)
    edit(path, "INSERT INTO notices (n, body) VALUES (-1, ?)", body)
    with closing(RuleStore(path)) as store:
        notice = store.next_notice()
        assert notice is not None and notice.message == NOTICE.message
        store.forget_notice(notice)
        assert store.next_notice() is None
    assert aside(path) == [("notices", json.dumps([-1, body]))]


def test_a_file_of_version_1_is_migrated(path: Path) -> None:
    """States, alerts that wait, batches and the time of listening; a row that never fitted not."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1)
    for device, state in (("d1", SERIES_1), ("d2", [*SERIES_1, 9])):
        edit(path, "INSERT INTO series VALUES ('r1', ?, ?, ?)",
             device, json.dumps(WATCH_1), json.dumps(state))  # fmt: skip
    body = json.dumps([True, "too warm", "warning", "rule:r1:d1"])
    edit(path, "INSERT INTO notices (body) VALUES (?)", body)
    edit(path, "INSERT INTO taken VALUES ('s', 'b')")
    for _ in range(2):
        with closing(RuleStore(path)) as store:
            migrated = replace(SERIES, received_wall=SERIES.since)
            assert store.load() == ({("r1", "d1"): Known(WATCH, migrated)}, 12.5)
            assert store.taken("s") == {"b"}
            notice = store.next_notice()
            assert notice == Notice(1, True, "too warm", "warning", "rule:r1:d1")
    assert [source for source, _ in aside(path)] == ["series"]


@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA user_version = 4",
        "ALTER TABLE series ADD COLUMN more TEXT",
        "ALTER TABLE notices RENAME COLUMN body TO text",
    ],
)
def test_a_file_of_another_version_is_set_aside_as_a_whole(path: Path, statement: str) -> None:
    """It may mean something else by the same names; it is kept beside."""
    filled(path)
    edit(path, statement)
    with closing(RuleStore(path)) as store:
        assert store.load() == ({}, 0.0)
        assert store.next_notice() is None
    with closing(sqlite3.connect(path.with_name("rules.db.set-aside-1"))) as connection:
        assert connection.execute("SELECT count(*) FROM series").fetchone() == (1,)


def test_a_truncated_file_is_set_aside(path: Path) -> None:
    """Half a database is none."""
    filled(path)
    path.write_bytes(path.read_bytes()[:5000])
    with closing(RuleStore(path)) as store:
        assert store.load() == ({}, 0.0)
    assert path.with_name("rules.db.set-aside-1").stat().st_size == 5000


def test_rows_set_aside_do_not_pile_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest are kept."""
    monkeypatch.setattr("edgepaas.telemetry.rules.store._MOST_ASIDE", 3)
    filled(path)
    for number in range(5):
        edit(path, "INSERT INTO series VALUES ('r', ?, 'x', 'x')", str(number))
        with closing(RuleStore(path)) as store:
            store.load()
    assert [json.loads(content)[1] for _, content in aside(path)] == ["2", "3", "4"]


def test_a_file_set_aside_replaces_no_earlier_one(path: Path) -> None:
    """Each has a name of its own, and is reported."""
    reported: list[str] = []
    for number in (1, 2):
        filled(path)
        edit(path, f"PRAGMA user_version = {number + 7}")
        with closing(RuleStore(path, reported.append)) as store:
            assert store.load() == ({}, 0.0)
        with closing(sqlite3.connect(path.with_name(f"rules.db.set-aside-{number}"))) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (number + 7,)
        path.unlink()
    assert [message.split(": it was")[0] for message in reported] == [
        f"{path} cannot be used (its version is {version}, this build knows 3)"
        for version in (8, 9)
    ]
    assert "rules.db.set-aside-2, and every rule begins anew" in reported[1]


def test_a_file_that_cannot_be_set_aside_is_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task fails, is reported and tries again."""
    filled(path)
    edit(path, "PRAGMA user_version = 4")
    monkeypatch.setattr("edgepaas.telemetry.rules.store.set_aside_sqlite", lambda *_: None)
    with pytest.raises(ValueError, match="its version is 4"):
        RuleStore(path)


def test_rows_set_aside_are_reported_together(path: Path) -> None:
    """One message for all that a look found, and none for a look that found nothing."""
    reported: list[str] = []
    filled(path)
    for number in range(5):
        edit(path, "INSERT INTO series (rule, device, watch, state) VALUES ('r', ?, 'x', 'x')",
             str(number))  # fmt: skip
    edit(path, "DELETE FROM notices")
    edit(path, "INSERT INTO notices (body) VALUES ('[]')")
    with closing(RuleStore(path, reported.append)) as store:
        for _ in range(2):
            store.load()
            assert store.next_notice() is None
    assert len(reported) == 2
    assert reported[0].startswith(f"5 rows of series in {path} cannot be used")
    assert "rule r, device 2: it is no JSON" in reported[0]
    assert "device 3" not in reported[0]
    assert reported[1].startswith(f"1 row of notices in {path} cannot be used")
