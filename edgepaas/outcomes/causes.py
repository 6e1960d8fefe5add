# SPDX-License-Identifier: Apache-2.0
"""Whose fault a failed write is: the server's, by cause, or the request's own.

A *refusal* is a condition of PostgreSQL, not of the values that a client sent: a right is
missing, a table is locked or changed, the disk is full. Any client's next write to that table
would fail as well. What a client's values can provoke (an encoding, a constraint, a length)
is no refusal. Some errors may be either: a trigger raises for one row or for all of them.
Those are *doubtful* until a rehearsal has told.

SQLSTATE codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from edgepaas.errors import RowNotStored
from edgepaas.pgdriver.failures import (
    CommitUnconfirmed,
    error_fields,
    find_cause,
    server_message,
    sqlstate,
)


class Cause(StrEnum):
    """Why PostgreSQL refuses writes to a table; by a fixed name that programs can rely on."""

    RIGHTS = "rights"
    ROW_SECURITY = "row-security"
    LOCKED = "locked"
    TIME_LIMIT = "time-limit"
    #: A table, column or schema that the box relies on is gone.
    MISSING = "missing"
    #: A column that the box does not know takes no NULL and has no default.
    REQUIRED_COLUMN = "required-column"
    #: A column has another type, or the table is of a kind that takes no rows.
    TYPE = "type"
    READ_ONLY = "read-only"
    FULL = "full"
    #: A trigger or a function of the server fails, or removes what is written.
    FUNCTION = "function"
    #: A constraint that the box does not know.
    CONSTRAINT = "constraint"
    #: The table has another primary key than the box's, or none.
    KEY = "key"
    #: The table is a view, or has rules, or does not outlive a crash.
    KIND = "kind"
    #: COMMIT was not confirmed in time: a synchronous standby does not answer.
    STANDBY = "standby"
    #: The server itself: an I/O error, damaged data, no memory.
    SERVER = "server"


class Access(StrEnum):
    """What a statement wanted of a table."""

    WRITE = "write"
    #: A transaction that writes read it.
    LOOK = "look"
    #: Nothing was to be written.
    READ = "read"
    #: Nothing: the catalog says that it would not keep every row as it is.
    FIT = "fit"


#: They may be over in a moment; the others stay until an operator changes something.
PASSING = frozenset({Cause.LOCKED, Cause.TIME_LIMIT, Cause.STANDBY, Cause.SERVER})

#: By SQLSTATE, else by its class.
_CAUSES = {
    "42501": Cause.RIGHTS,
    "55P03": Cause.LOCKED,
    "57014": Cause.TIME_LIMIT,
    "42P01": Cause.MISSING,
    "42703": Cause.MISSING,
    "3F000": Cause.MISSING,
    "42804": Cause.TYPE,
    "42809": Cause.TYPE,
    "42846": Cause.TYPE,
    "428C9": Cause.TYPE,
    "55000": Cause.TYPE,
    "0A000": Cause.TYPE,
    "25006": Cause.READ_ONLY,
    "53100": Cause.FULL,
    "53200": Cause.SERVER,
    "53400": Cause.SERVER,
    "58": Cause.SERVER,
    "XX": Cause.SERVER,
    "P0": Cause.FUNCTION,
    "38": Cause.FUNCTION,
    "39": Cause.FUNCTION,
}
_NOT_NULL_VIOLATION = "23502"
#: character_not_in_repertoire, untranslatable_character: always the client's text.
_ENCODING = frozenset({"22021", "22P05"})
#: prohibited_sql_statement_attempted: a statement that the hub's capture refuses, such as
#: TRUNCATE; whoever sends another one succeeds.
_PROHIBITED = "2F003"
#: The function of PostgreSQL that checks a row against policies and WITH CHECK OPTION.
_CHECKS_POLICIES = "ExecWithCheckOptions"


@dataclass(frozen=True)
class KnownTable:
    """What the application's models say of a table.

    *columns*: PostgreSQL's type of each by its name, empty where it is not known.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    constraints: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Refusal:
    """PostgreSQL refuses *access* to *table*, whatever the values are."""

    table: str
    cause: Cause
    #: What the server said, in one line.
    said: str
    sqlstate: str = ""
    #: Whether the values of one row may be the reason after all.
    doubtful: bool = False
    #: The constraint that was broken, if the server named one.
    constraint: str = ""
    access: Access = Access.WRITE

    @property
    def text(self) -> str:
        """The one line for a person: the table and the cause; the same in every process."""
        if self.access is Access.FIT:
            return f"PostgreSQL's table {self.table} does not fit: {self.said}"
        what = "writes to" if self.access is Access.WRITE else "reads of"
        code = f" (SQLSTATE {self.sqlstate})" if self.sqlstate else ""
        return f"PostgreSQL refuses {what} {self.table}: {self.said}{code}"


def refusal_of(
    error: BaseException,
    tables: Collection[str],
    known: Mapping[str, KnownTable] | None = None,
    *,
    access: Access = Access.WRITE,
) -> Refusal | None:
    """Return the refusal that *error* shows; None where the request, or the link, is at fault.

    *tables* are those of the statement that failed, the most likely one last. *known* is what
    the models say, by table; a table that is not in it may have any column and constraint.
    """
    fields = error_fields(error)
    table = _table(tables, fields)
    if find_cause(error, CommitUnconfirmed) is not None:
        return Refusal(table, Cause.STANDBY, server_message(error), access=access)
    not_stored = find_cause(error, RowNotStored)
    if not_stored is not None:
        return Refusal(table, Cause.FUNCTION, str(not_stored), doubtful=True)
    state = sqlstate(error)
    if state is None or state in _ENCODING or state == _PROHIBITED:
        return None
    found = _cause(state, fields, (known or {}).get(table))
    if found is None:
        return None
    cause, doubtful = found
    return Refusal(
        table, cause, server_message(error), state, doubtful and access is Access.WRITE,
        fields.get("n", ""), access,
    )  # fmt: skip


def _cause(
    state: str, fields: Mapping[str, str], known: KnownTable | None
) -> tuple[Cause, bool] | None:
    """Return the cause of *state*, and whether it is doubtful; None: the request's own."""
    if state == "42501" and fields.get("R") == _CHECKS_POLICIES:
        return Cause.ROW_SECURITY, True
    if state == _NOT_NULL_VIOLATION:
        column = fields.get("c", "")
        lacks = known is not None and column not in known.columns
        return (Cause.REQUIRED_COLUMN, False) if lacks else None
    if state[:2] == "23":
        name = fields.get("n", "")
        foreign = known is not None and name not in known.constraints
        return (Cause.CONSTRAINT, True) if foreign else None
    cause = _CAUSES.get(state) or _CAUSES.get(state[:2])
    if cause is Cause.FUNCTION:
        return cause, True
    if cause is not None:
        return cause, False
    # The context (field W) names a function that was running: a trigger's, most likely.
    return (Cause.FUNCTION, True) if fields.get("W") else None


def _table(tables: Collection[str], fields: Mapping[str, str]) -> str:
    """Return which of *tables* the server complains about."""
    named = fields.get("t", "")
    if named in tables or not tables:
        return named
    words = set(fields.get("M", "").replace('"', " ").split())
    listed = list(tables)
    return next((table for table in listed if table in words), listed[-1])
