# SPDX-License-Identifier: Apache-2.0
"""SQLite as strict as PostgreSQL: triggers that refuse what the hub would refuse later.

SQLite takes any text for a ``VARCHAR(20)`` and any number for an ``INTEGER``, and a migration
that adds a constraint on PostgreSQL alone leaves SQLite without it. Such a row would be
acknowledged here and become a dead letter there. The rules follow from tables.json, which is
made of the application's models; they hold for every way in, raw SQL and foreign programs
too. What SQLite's own table checks already is left to it.

The mirror, salvage and migrations are exempt: what they write was PostgreSQL's, or was
accepted before. An update is judged as PostgreSQL judges it: a value only where it changes, since
a value that is stored is not cast again; a CHECK for the whole row, whichever columns change. A
row that broke a CHECK before that was made is refused with its next update, as under a constraint
of PostgreSQL's that is NOT VALID, until the update mends it.
"""

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from edgepaas.database.column_kinds import PLAIN_UUID, ColumnKind, column_kind
from edgepaas.database.reserved_names import STATE
from edgepaas.outbox import tables
from edgepaas.outbox.layout import FORWARDED
from edgepaas.outbox.tables import quoted

#: Every trigger and index of this module is called so, and no other may be.
PREFIX: Final = "edgepaas_strict_"

#: While capture is off, what is written is PostgreSQL's own, or was accepted before.
_CAPTURING = f"(SELECT capture FROM {STATE} WHERE id = 1)"  # noqa: S608
_BITS: Final = {"SMALLINT": 16, "INTEGER": 32, "BIGINT": 64}
_NAME = re.compile(r"([A-Z ]+?) *(?:\( *(\d+) *(?:, *(\d+) *)?\)|$| WITH)")
_UUID = "-".join("[0-9a-f]" * digits for digits in (8, 4, 4, 4, 12))


class Rule(NamedTuple):
    """A condition that a value breaks, ``{v}`` standing for the value, and what to say then."""

    broken: str
    message: str


@dataclass(frozen=True)
class Strict:
    """What the file is to have: statements by the names of what they make.

    ``gaps``: what PostgreSQL checks and SQLite cannot, a sentence each.
    """

    statements: Mapping[str, str]
    gaps: Sequence[str]


def install(
    connection: sqlite3.Connection, document: Mapping[str, Any], *, captured: bool
) -> list[str]:
    """Have the forwarded tables of *document* (tables.json) refuse what PostgreSQL would.

    *captured*: the file has an outbox, whose capture the mirror switches off. Returns what is
    not enforced, a sentence each. One transaction, and none where everything is in place.
    Raises sqlite3.Error.
    """
    wanted = expected(connection, document, captured=captured)
    gaps = list(wanted.gaps)
    present = _present(connection)
    if present.keys() <= wanted.statements.keys() and all(
        present.get(name, "") == text for name, text in wanted.statements.items()
    ):
        return gaps
    with tables.transaction(connection):
        drop(connection)
        for name, text in wanted.statements.items():
            try:
                connection.execute(text)
            except sqlite3.IntegrityError as error:
                gaps.append(
                    f"{name.removeprefix(PREFIX)}: rows are there already that differ ({error})"
                )
    return gaps


def drop(connection: sqlite3.Connection) -> None:
    """Take the triggers and indexes away, before a migration; ``install`` puts them back.

    Inside the caller's transaction. Raises sqlite3.Error.
    """
    for name, text in _present(connection).items():
        kind = "INDEX" if text.startswith("CREATE UNIQUE") else "TRIGGER"
        connection.execute(f"DROP {kind} {quoted(name)}")


@contextmanager
def suspended(connection: sqlite3.Connection) -> Iterator[None]:
    """Let rows through that were accepted before the rules were there, in the block alone.

    A part of the caller's open transaction; what is unique stays so. A file without an outbox has
    no capture by whose pause the triggers would be exempted. Raises sqlite3.Error.
    """
    if not connection.in_transaction:
        raise RuntimeError("strictness is suspended only inside a transaction")
    triggers = {
        name: text
        for name, text in _present(connection).items()
        if not text.startswith("CREATE UNIQUE")
    }
    for name in triggers:
        connection.execute(f"DROP TRIGGER {quoted(name)}")
    yield  # after an exception the caller's transaction puts them back
    for text in triggers.values():
        connection.execute(text)


def expected(
    connection: sqlite3.Connection, document: Mapping[str, Any], *, captured: bool
) -> Strict:
    """Return what *connection*'s file is to have for *document*."""
    statements: dict[str, str] = {}
    gaps: list[str] = []
    for table, definition in document["tables"].items():
        if definition["kind"] not in FORWARDED:
            continue
        columns = dict(
            connection.execute('SELECT name, "notnull" FROM pragma_table_info(?)', (table,))
        )
        if not columns:
            continue
        rules = [
            (column["name"], rule)
            for column in definition["columns"]
            if column["name"] in columns
            for rule in rules_of(table, column, not_null=bool(columns[column["name"]]))
        ]
        checks = list(_checks(connection, table, definition, gaps))
        statements |= _triggers(table, rules, checks, captured=captured)
        statements |= _indexes(connection, table, definition, set(columns))
    return Strict(statements, gaps)


def rules_of(table: str, column: Mapping[str, Any], *, not_null: bool = False) -> Iterator[Rule]:
    """Give the rules for the values of *column* of tables.json.

    *not_null*: SQLite itself refuses NULL there.
    """
    name = f"{table}.{column['name']}"
    if not column["nullable"] and not not_null:
        yield Rule("{v} IS NULL", f"{name} needs a value")
    if column["values"]:
        words = ", ".join(map(_literal, column["values"]))
        listed = ", ".join(column["values"])
        yield Rule(f"{{v}} NOT IN ({words})", f"{name} takes one of {listed}")
        return
    declared = str(column["type"]).upper()
    found = _NAME.match(declared)
    if found is None or declared.endswith("[]"):
        return
    base, first, second = found.group(1), found.group(2), found.group(3)
    kind = column_kind(declared)
    simple = _SIMPLE.get(kind)
    if simple is not None:
        yield Rule(f"{{v}} IS NOT NULL AND ({simple.broken})", f"{name} {simple.message}")
    elif kind is ColumnKind.INTEGER:
        yield _integer(name, _BITS[base])
    elif kind is ColumnKind.DECIMAL and first:
        yield _decimal(name, int(first), int(second or 0))
    elif kind is ColumnKind.TEXT:
        yield from _text(name, base, first, str(column["storage"]))


def _integer(name: str, bits: int) -> Rule:
    most = 2 ** (bits - 1)
    limits = "" if bits == 64 else f" OR {{v}} NOT BETWEEN {-most} AND {most - 1}"
    return Rule(
        f"typeof({{v}}) NOT IN ('integer', 'null'){limits}",
        f"{name} takes whole numbers from {-most} to {most - 1}",
    )


def _decimal(name: str, precision: int, scale: int) -> Rule:
    """Exactly the text that the column type Numeric writes."""
    digits = "substr({v}, 1 + ({v} GLOB '-*'))"
    whole = f"substr({digits}, 1, length({digits}) - {scale + 1 if scale else 0})"
    conditions = [
        "typeof({v}) <> 'text'",
        f"{whole} = ''",
        f"{whole} GLOB '*[^0-9]*'",
        f"{whole} GLOB '0?*'",
        f"length({whole}) > {max(precision - scale, 1)}",
        f"{{v}} = '-0{'.' + '0' * scale if scale else ''}'",
    ]
    if precision == scale:
        conditions.append(f"{whole} <> '0'")
    if scale:
        conditions.append(f"substr({{v}}, -{scale + 1}) NOT GLOB '.{'[0-9]' * scale}'")
    example = f"{0:.{scale}f}"
    return Rule(
        f"{{v}} IS NOT NULL AND ({' OR '.join(conditions)})",
        f"{name} takes decimal numbers such as {example}, with at most {precision - scale} digits "
        f"before the point and {scale} after it",
    )


def _text(name: str, base: str, length: str | None, storage: str) -> Iterator[Rule]:
    if base == "UUID":
        # SQLAlchemy's own Uuid lies in SQLite without hyphens.
        characters, pattern = (32, "[0-9a-f]" * 32) if storage == PLAIN_UUID else (36, _UUID)
        yield Rule(
            f"{{v}} IS NOT NULL AND {{v}} NOT GLOB '{pattern}'",
            f"{name} takes UUIDs of {characters} small characters",
        )
    elif base == "DATE":
        yield Rule(
            "{v} IS NOT NULL AND (date({v}, '+0 days') IS NOT {v} OR {v} < '0001')",
            f"{name} takes dates such as 2026-01-31",
        )
    elif base in ("VARCHAR", "TEXT", "CHARACTER VARYING"):
        yield Rule(
            "{v} IS NOT NULL AND (typeof({v}) <> 'text' OR instr({v}, char(0)))",
            f"{name} takes text without a NUL character",
        )
        if length:
            yield Rule(f"length({{v}}) > {length}", f"{name} takes at most {length} characters")


def _time(shape: str) -> str:
    """Return the condition that a value is no moment; *shape*: how the column types write one.

    Of those nearly all are known at sight, at a fifth of the price. Only what is computed with is
    normalised (the 30th of February becomes the 2nd of March), and the last microsecond of the
    year 9999 is rounded out of it: fractions are looked at as text.
    """
    return (
        f"typeof({{v}}) <> 'text' OR NOT ({{v}} LIKE '{shape}' AND julianday({{v}}) IS NOT NULL "
        "AND substr({v}, 9, 2) < '29' AND {v} >= '0001') AND "
        "(julianday(substr({v}, 1, 19)) IS NULL "
        "OR date(substr({v}, 1, 10), '+0 days') IS NOT substr({v}, 1, 10) OR {v} < '0001' "
        "OR length({v}) > 19 AND substr({v}, 20) <> 'Z' AND ({v} NOT GLOB '*:[0-9][0-9].[0-9]*' "
        "OR ltrim(substr({v}, 21), '0123456789') NOT IN ('', 'Z')))"
    )


_SIMPLE: Final[dict[ColumnKind, Rule]] = {
    ColumnKind.BOOLEAN: Rule("typeof({v}) <> 'integer' OR {v} NOT IN (0, 1)", "takes 0 and 1"),
    ColumnKind.FLOAT: Rule("typeof({v}) NOT IN ('real', 'integer')", "takes numbers"),
    ColumnKind.BYTES: Rule("typeof({v}) NOT IN ('blob', 'text')", "takes bytes"),
    ColumnKind.JSON: Rule("typeof({v}) = 'blob' OR NOT json_valid({v})", "takes JSON documents"),
    ColumnKind.MOMENT: Rule(
        _time("____-__-__T__:__:__.______Z"), "takes moments such as 2026-01-31T12:00:00.000000Z"
    ),
    ColumnKind.LOCAL_TIME: Rule(
        _time("____-__-__ __:__:__.______"), "takes times such as 2026-01-31 12:00:00.000000"
    ),
    ColumnKind.TIME_OF_DAY: Rule(
        "typeof({v}) <> 'text' OR {v} NOT GLOB '[0-9][0-9]:[0-9][0-9]*' "
        "OR julianday('2000-01-01 ' || {v}) IS NULL",
        "takes times of day such as 12:00:00.000000",
    ),
}


def _triggers(
    table: str, rules: Sequence[tuple[str, Rule]], checks: Sequence[Rule], *, captured: bool
) -> dict[str, str]:
    """Return the triggers of *table*; none where there is no rule."""
    inserting, updating = [], []
    # An update of other columns casts no value that is stored.
    for column, rule in rules:
        new, old = f"NEW.{quoted(column)}", f"OLD.{quoted(column)}"
        broken = rule.broken.replace("{v}", new)
        inserting.append((broken, rule.message))
        updating.append((f"{new} COLLATE BINARY IS NOT {old} AND ({broken})", rule.message))
    for check in checks:  # PostgreSQL evaluates every one for the whole new row
        inserting.append(check)
        updating.append(check)
    if not inserting:
        return {}
    condition = f" AND {_CAPTURING}" if captured else ""
    found = {}
    for word, event, broken_rules in (
        ("insert", "INSERT", inserting),
        ("update", "UPDATE", updating),
    ):
        name = f"{PREFIX}{word}_{table}"
        any_broken = " OR ".join(f"({broken})" for broken, _ in broken_rules)
        raised = " ".join(
            f"WHEN {broken} THEN RAISE(ABORT, {_literal(message)})"
            for broken, message in broken_rules
        )
        found[name] = (
            f"CREATE TRIGGER {quoted(name)} AFTER {event} ON {quoted(table)} "
            f"WHEN ({any_broken}){condition} BEGIN SELECT CASE {raised} END; END"
        )
    return found


def _checks(
    connection: sqlite3.Connection, table: str, definition: Mapping[str, Any], gaps: list[str]
) -> Iterator[Rule]:
    """Give the CHECK constraints of the models that the file's own table does not have."""
    (text,) = connection.execute(
        "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,)
    ).fetchone()
    same = " AND ".join(f"{quoted(name)} = NEW.{quoted(name)}" for name in definition["key"])
    for check in definition["checks"]:
        if check["name"] and re.search(rf"\W{re.escape(check['name'])}\W+CHECK\b", text):
            continue
        try:
            connection.execute(
                f"EXPLAIN SELECT 1 FROM {quoted(table)} WHERE NOT ({check['text']})"  # noqa: S608
            )
        except sqlite3.OperationalError as error:
            gaps.append(
                f"{table}: SQLite cannot check {check['name'] or check['text']!r} ({error})"
            )
            continue
        yield Rule(
            f"EXISTS (SELECT 1 FROM {quoted(table)} WHERE {same} AND NOT ({check['text']}))",  # noqa: S608
            f"{table} takes no row that breaks {check['name'] or check['text']}",
        )


def _indexes(
    connection: sqlite3.Connection, table: str, definition: Mapping[str, Any], columns: set[str]
) -> dict[str, str]:
    """Return the unique indexes that the models have and the file has not."""
    known: list[set[str]] = []
    for name, partial in connection.execute(
        'SELECT name, partial FROM pragma_index_list(?) WHERE "unique"', (table,)
    ).fetchall():
        if not partial and not name.startswith(PREFIX):
            rows = connection.execute("SELECT name FROM pragma_index_info(?)", (name,))
            known.append({row[0] for row in rows})
    found = {}
    for unique in definition["unique"]:
        names = unique["columns"]
        if not set(names) <= columns or (unique["nulls_distinct"] and set(names) in known):
            continue
        parts = ", ".join(map(quoted, names))
        if not unique["nulls_distinct"]:
            parts = ", ".join(f"{quoted(n)} IS NULL, ifnull({quoted(n)}, 0)" for n in names)
        name = f"{PREFIX}{unique['name'] or '_'.join((table, *names))}"
        found[name] = f"CREATE UNIQUE INDEX {quoted(name)} ON {quoted(table)} ({parts})"
    return found


def _present(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type IN ('trigger', 'index') "
        "AND substr(name, 1, ?) = ?",
        (len(PREFIX), PREFIX),
    )
    return dict(rows.fetchall())


def _literal(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
