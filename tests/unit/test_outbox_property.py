# SPDX-License-Identifier: Apache-2.0
"""Whatever is written: replaying what was captured onto an empty copy gives the same tables."""

import contextlib
import math
import sqlite3
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgepaas.outbox import tables
from tests.support.outbox import captured_file, changes, contents, replay
from tests.support.search import tries

KEYS = st.sampled_from(["a", "b", "c", "d"])
# SQLite turns NaN into NULL; Python's driver takes integers of 64 bits.
ANY = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.binary(max_size=5),
    st.sampled_from([0, 0.0, -0.0, 1, 1.0, "1", "1.0", b"1", math.inf, 5e-324, 2**53 + 1]),
)
CONFLICT = st.sampled_from(["", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ABORT", "OR ROLLBACK"])
COLUMN = st.sampled_from(["value", "count", "body", "text"])

INSERT_FACT = st.tuples(
    st.builds("INSERT {} INTO facts (id, {}) VALUES (?, ?)".format, CONFLICT, COLUMN),
    st.tuples(KEYS, ANY),
)
UPDATE_FACT = st.tuples(
    st.builds("UPDATE {} facts SET {} = ? WHERE id >= ?".format, CONFLICT, COLUMN),
    st.tuples(ANY, KEYS),
)
REKEY_FACT = st.tuples(
    st.builds("UPDATE {} facts SET id = ? WHERE id = ?".format, CONFLICT), st.tuples(KEYS, KEYS)
)
UPSERT_FACT = st.tuples(
    st.just(
        "INSERT INTO facts (id, body) VALUES (?, ?) "
        "ON CONFLICT (id) DO UPDATE SET body = excluded.body"
    ),
    st.tuples(KEYS, ANY),
)
DELETE_FACT = st.tuples(st.just("DELETE FROM facts WHERE id <= ?"), st.tuples(KEYS))
INSERT_PARENT = st.tuples(
    st.builds("INSERT {} INTO parents VALUES (?, ?, ?, '')".format, CONFLICT),
    st.tuples(KEYS, KEYS, ANY),
)
INSERT_CHILD = st.tuples(
    st.builds("INSERT {} INTO children VALUES (?, ?)".format, CONFLICT), st.tuples(KEYS, KEYS)
)
DELETE_PARENT = st.tuples(st.just("DELETE FROM parents WHERE id = ?"), st.tuples(KEYS))
INSERT_ODD = st.tuples(
    st.builds("""INSERT {} INTO "od""d table" VALUES (?, 1, ?)""".format, CONFLICT),
    st.tuples(KEYS, ANY),
)
CONTROL = st.tuples(
    st.sampled_from(
        ["BEGIN IMMEDIATE", "COMMIT", "ROLLBACK", "SAVEPOINT s", "ROLLBACK TO s", "RELEASE s"]
    ),
    st.just(()),
)
STATEMENT = st.one_of(
    INSERT_FACT,
    UPDATE_FACT,
    REKEY_FACT,
    UPSERT_FACT,
    DELETE_FACT,
    INSERT_PARENT,
    INSERT_CHILD,
    DELETE_PARENT,
    INSERT_ODD,
    CONTROL,
)


#: Something to change, so that few statements are needed to get somewhere.
START: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("INSERT INTO facts (id, value) VALUES ('a', 1.5), ('c', NULL)", ()),
    ("INSERT INTO parents VALUES ('a', 'a', NULL, ''), ('b', 'b', NULL, '')", ()),
    ("INSERT INTO children VALUES ('a', 'a')", ()),
)


@settings(max_examples=tries(25), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STATEMENT, min_size=3, max_size=30))
def test_replaying_what_was_captured_gives_the_same_tables(
    statements: list[tuple[str, tuple[object, ...]]],
) -> None:
    """In any mix of conflicts, cascades, savepoints and undone transactions; without gaps."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        with captured_file(path / "edgepaas.db") as file:
            for statement, values in (*START, *statements):
                # A refused statement is a part of the game.
                with contextlib.suppress(sqlite3.Error):
                    file.execute(statement, values)
            if file.in_transaction:
                file.execute("COMMIT")
            found = changes(file)
            assert [change.seq for change in found] == list(range(1, tables.last_seq(file) + 1))
            assert replay(found, path / "copy.db") == contents(file)
