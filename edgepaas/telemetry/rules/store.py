# SPDX-License-Identifier: Apache-2.0
"""What the rules have found so far, in a small SQLite file of the box's own.

It lies beside the database, not in it: whichever database serves, and whenever that
changes, an alert that was raised is resolved, and a duration goes on. One transaction
takes the new states, the alerts that follow from them and the names of the batches that
they were made of, so that a batch counts once, however often it is read.

States and alerts are JSON objects, loaded by the names of their fields. A row that does not
fit (another build's, or damaged) is moved to the table ``set_aside``, kept there and reported;
its rule begins anew for that device, the others go on. A file that cannot be used as a whole
is renamed beside its place, under a name of its own, and reported as well.
"""

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar

from edgepaas.app.storage import open_sqlite, set_aside_sqlite
from edgepaas.telemetry.rules.judging import ActiveRule, Series

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("edgepaas.rules")

#: Version of the file (``user_version``). 1, which kept lists instead of objects, and 2, which
#: measured by the devices' clocks, are migrated; a file of another one is set aside as a whole.
_VERSION = 3
#: Rows that a report names one by one.
_NAMED = 3
#: Rows that are kept in ``set_aside``: the latest.
_MOST_ASIDE = 1000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS series (
    rule TEXT NOT NULL, device TEXT NOT NULL, watch TEXT NOT NULL, state TEXT NOT NULL,
    PRIMARY KEY (rule, device)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notices (n INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS taken (
    database TEXT NOT NULL, batch TEXT NOT NULL, PRIMARY KEY (database, batch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meter (one INTEGER PRIMARY KEY CHECK (one = 1), listened REAL NOT NULL);
INSERT OR IGNORE INTO meter (one, listened) VALUES (1, 0);
CREATE TABLE IF NOT EXISTS set_aside (
    n INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT NOT NULL, problem TEXT NOT NULL,
    content TEXT NOT NULL
);
"""

T = TypeVar("T")

#: One rule's state about one device.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Notice:
    """An alert to be raised, or resolved; *n* is its place among those that wait."""

    n: int
    raised: bool
    message: str
    severity: str
    fingerprint: str


@dataclass(slots=True)
class Known:
    """A state as it is stored, with the rule that it was made by."""

    watch: ActiveRule
    series: Series


class DoesNotFit(ValueError):
    """A stored row has other fields, or other types, than this build stores; says which."""


_TEXT, _NUMBER, _MOMENT = (str,), (int, float), (int, NoneType)
#: What is stored of each, by name.
_TYPES: dict[type, dict[str, tuple[type, ...]]] = {
    ActiveRule: {
        "id": _TEXT,
        "name": _TEXT,
        "device": (str, NoneType),
        "metric": _TEXT,
        "condition": _TEXT,
        "threshold": _NUMBER,
        "for_seconds": (int,),
        "severity": _TEXT,
    },
    Series: {
        "newest": _MOMENT,
        "newest_value": _NUMBER,
        "last": _MOMENT,
        "last_value": _NUMBER,
        "since": _MOMENT,
        "held": (int,),
        "raised": (bool,),
        "heard": _NUMBER,
        "boot": _TEXT,
        "received": (int,),
        "received_wall": _MOMENT,
    },
    Notice: {"raised": (bool,), "message": _TEXT, "severity": _TEXT, "fingerprint": _TEXT},
}
#: Fields that have another name in the file, and that name.
_STORED_AS = {"ready_seconds": "heard"}
_LOADED_AS = {stored: name for name, stored in _STORED_AS.items()}
#: The order in which version 1 listed the values of each.
_OF_VERSION_1: dict[type, tuple[str, ...]] = {
    ActiveRule: (
        *("id", "name", "device", "metric"),
        *("condition", "threshold", "for_seconds", "severity"),
    ),
    Series: (
        *("newest", "newest_value", "last", "last_value"),
        *("since", "held", "raised", "heard"),
    ),
    Notice: ("raised", "message", "severity", "fingerprint"),
}


class RuleStore:
    """The file *path*; for one thread at a time, and for one process (its follower's lock)."""

    def __init__(self, path: Path, report: Callable[[str], None] = logger.error) -> None:
        """Open *path*, made when it is not there; one that cannot be used is set aside.

        *report* gets a message for an operator where a file or rows are set aside. Raises
        sqlite3.Error, ValueError, OSError where the file can be neither used nor set aside.
        """
        self._path = path
        self._report = report
        self._connection = self._open()

    def load(self) -> tuple[dict[Key, Known], float]:
        """Return every state, and for how many seconds the box was ready for readings."""
        rows = self._connection.execute("SELECT rule, device, watch, state FROM series").fetchall()
        known: dict[Key, Known] = {}
        problems: list[str] = []
        for rule, device, watch, state in rows:
            try:
                known[rule, device] = Known(_load(ActiveRule, watch), _load(Series, state))
            except DoesNotFit as problem:
                where = "rule = ? AND device = ?"
                self._set_aside("series", where, (rule, device), [watch, state], problem)
                problems.append(f"rule {rule}, device {device}: {problem}")
        self._report_rows("series", problems, "their rules begin anew for these devices")
        row = self._connection.execute("SELECT listened FROM meter").fetchone()
        return known, float(row[0]) if row is not None else 0.0

    def taken(self, database: str) -> set[str]:
        """Return the batches of *database* that count already and may still be there."""
        rows = self._connection.execute("SELECT batch FROM taken WHERE database = ?", (database,))
        return {batch for (batch,) in rows}

    def keep(
        self,
        known: Mapping[Key, Known | None],
        notices: Iterable[Notice],
        ready_seconds: float,
        *,
        database: str = "",
        taken: Iterable[str] = (),
        gone: Iterable[str] = (),
    ) -> None:
        """Store all of it in one transaction; a state of None is deleted.

        *taken* are the batches of *database* that the states were made of, *gone* those
        that are not in it any more. Raises sqlite3.Error, and then nothing is stored.
        """
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO series (rule, device, watch, state) VALUES (?, ?, ?, ?)",
                [
                    (*key, json.dumps(_fields(one.watch)), json.dumps(_fields(one.series)))
                    for key, one in known.items()
                    if one is not None
                ],
            )
            connection.executemany(
                "DELETE FROM series WHERE rule = ? AND device = ?",
                [key for key, one in known.items() if one is None],
            )
            connection.executemany(
                "INSERT INTO notices (body) VALUES (?)",
                [(json.dumps(_body(notice)),) for notice in notices],
            )
            connection.executemany(
                "DELETE FROM taken WHERE database = ? AND batch = ?",
                [(database, batch) for batch in gone],
            )
            connection.executemany(
                "INSERT OR IGNORE INTO taken (database, batch) VALUES (?, ?)",
                [(database, one) for one in taken],
            )
            connection.execute(
                "INSERT OR REPLACE INTO meter (one, listened) VALUES (1, ?)", (ready_seconds,)
            )

    def next_notice(self) -> Notice | None:
        """Return the oldest alert that waits, None without one."""
        rows = self._connection.execute("SELECT n, body FROM notices ORDER BY n").fetchall()
        problems: list[str] = []
        found = None
        for n, body in rows:
            try:
                found = _load(Notice, body, n=n)
                break
            except DoesNotFit as problem:
                self._set_aside("notices", "n = ?", (n,), [body], problem)
                problems.append(f"number {n}: {problem}")
        self._report_rows("notices", problems, "these alerts were neither raised nor resolved")
        return found

    def _report_rows(self, table: str, problems: list[str], consequence: str) -> None:
        """Report, in one message, the rows of *table* that were set aside for *problems*."""
        if not problems:
            return
        rows = "1 row" if len(problems) == 1 else f"{len(problems):,} rows"
        more = "; …" if len(problems) > _NAMED else ""
        self._report(
            f"{rows} of {table} in {self._path} cannot be used and were moved to its table "
            f"set_aside: {consequence}. Discard an alert of such a rule that does not hold any "
            f"more by hand. {'; '.join(problems[:_NAMED])}{more}"
        )

    def _set_aside(
        self, table: str, where: str, key: tuple[Any, ...], content: list[Any], problem: Exception
    ) -> None:
        """Move the row of *table* that *where* with *key* names to ``set_aside``."""
        kept = json.dumps([*key, *content], default=repr)
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO set_aside (source, problem, content) VALUES (?, ?, ?)",
                (table, str(problem), kept),
            )
            connection.execute(f"DELETE FROM {table} WHERE {where}", key)  # noqa: S608 - ours
            connection.execute(
                "DELETE FROM set_aside WHERE n <= (SELECT max(n) FROM set_aside) - ?",
                (_MOST_ASIDE,),
            )

    def forget_notice(self, notice: Notice) -> None:
        """Drop *notice*: its alert was accepted."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM notices WHERE n = ?", (notice.n,))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> "Iterator[sqlite3.Connection]":
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _open(self) -> sqlite3.Connection:
        try:
            return _opened(self._path)
        except (sqlite3.DatabaseError, ValueError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # the disk's fault, or a lock's: what is stored is not to blame
            aside = set_aside_sqlite(self._path, "rules", error)
            if aside is None:
                raise
            opened = _opened(self._path)
            self._report(
                f"{self._path} cannot be used ({error}): it was set aside as {aside}, and every "
                f"rule begins anew. Discard alerts of rules that do not hold any more by hand"
            )
            return opened


def _opened(path: Path) -> sqlite3.Connection:
    connection = open_sqlite(path, create=True)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, 1, 2, _VERSION):
            raise ValueError(f"its version is {version}, this build knows {_VERSION}")
        problem = _problem(connection)
        if problem != "ok":
            raise ValueError(problem)
        connection.executescript(_SCHEMA)
        _expect_columns(connection)
        if version == 1:
            _name_the_fields(connection)
        if version in (1, 2):
            _add_receipts(connection)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


def _expect_columns(connection: sqlite3.Connection) -> None:
    """Raise ValueError where a table that is there has other columns than _SCHEMA makes."""
    with closing(sqlite3.connect(":memory:")) as model:
        model.executescript(_SCHEMA)
        wanted = _columns(model)
    for table, columns in _columns(connection).items():
        if columns != wanted.get(table, columns):
            raise ValueError(f"its table {table} has the columns {', '.join(sorted(columns))}")


def _columns(connection: sqlite3.Connection) -> dict[str, set[str]]:
    rows = connection.execute(
        "SELECT m.name, c.name FROM sqlite_schema AS m JOIN pragma_table_info(m.name) AS c "
        "WHERE m.type = 'table'"
    )
    found: dict[str, set[str]] = {}
    for table, column in rows:
        found.setdefault(table, set()).add(column)
    return found


def _name_the_fields(connection: sqlite3.Connection) -> None:
    """Migrate version 1: its lists become objects. Those that do not fit stay, to be set aside."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        rows = connection.execute("SELECT rule, device, watch, state FROM series").fetchall()
        connection.executemany(
            "UPDATE series SET watch = ?, state = ? WHERE rule = ? AND device = ?",
            [
                (_named(ActiveRule, w), _named(Series, s), rule, device)
                for rule, device, w, s in rows
            ],
        )
        bodies = connection.execute("SELECT n, body FROM notices").fetchall()
        connection.executemany(
            "UPDATE notices SET body = ? WHERE n = ?", [(_named(Notice, b), n) for n, b in bodies]
        )
        connection.execute("PRAGMA user_version = 2")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _add_receipts(connection: sqlite3.Connection) -> None:
    """Migrate version 2: when a reading came is not known, so that no time passed since then.

    What held goes on; a state that does not fit stays as it is, to be set aside.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        rows = connection.execute("SELECT rule, device, state FROM series").fetchall()
        connection.executemany(
            "UPDATE series SET state = ? WHERE rule = ? AND device = ?",
            [(_with_receipt(state), rule, device) for rule, device, state in rows],
        )
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _with_receipt(text: str) -> str:
    try:
        state = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return text
    if not isinstance(state, dict):
        return text
    return json.dumps({**state, "boot": "", "received": 0, "received_wall": state.get("since")})


def _named(kind: type[ActiveRule | Series | Notice], text: str) -> str:
    """Return the list *text* of version 1 as an object; what is no such list as it is."""
    # Fixed here, not taken from the class, which may change: these were the fields of version 1.
    names = _OF_VERSION_1[kind]
    try:
        values = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return text
    if not isinstance(values, list) or len(values) != len(names):
        return text
    return json.dumps(dict(zip(names, values, strict=True)))


def _load(kind: type[T], text: Any, **more: Any) -> T:
    """Return the object that *text* describes; DoesNotFit unless it has each field, no other."""
    try:
        values = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise DoesNotFit(f"it is no JSON: {error}") from None
    expected = _TYPES[kind]
    if not isinstance(values, dict):
        raise DoesNotFit(f"it is a {type(values).__name__}, not the fields of a {kind.__name__}")
    if values.keys() != expected.keys():
        odd = ", ".join(sorted(values.keys() ^ expected.keys()))
        raise DoesNotFit(f"a {kind.__name__} lacks, or does not have: {odd}")
    for name, types in expected.items():
        # True is an int to Python, and nothing that a number was ever stored as.
        if not isinstance(values[name], types) or (
            isinstance(values[name], bool) and bool not in types
        ):
            raise DoesNotFit(f"{name} of a {kind.__name__} is {type(values[name]).__name__}")
    named: dict[str, Any] = {_LOADED_AS.get(name, name): values[name] for name in expected}
    return kind(**named, **more)


def _fields(one: ActiveRule | Series) -> dict[str, Any]:
    # dataclasses.asdict() copies deeply, at ten times the price.
    return {_STORED_AS.get(name, name): getattr(one, name) for name in one.__slots__}


def _body(notice: Notice) -> dict[str, Any]:
    return {name: getattr(notice, name) for name in _TYPES[Notice]}


def _problem(connection: sqlite3.Connection) -> Any:
    return connection.execute("PRAGMA quick_check(1)").fetchone()[0]
