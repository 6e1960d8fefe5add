# SPDX-License-Identifier: Apache-2.0
"""The hub's record of revisions: how its columns are called, and that they still are."""

from collections.abc import Callable, Mapping, Sequence

from edgepaas.database.reserved_names import REVISIONS
from edgepaas.outbox.revisions.record import QUERY, RevisionRecord, record_of
from edgepaas.pgdriver.pipeline import Result, Statement
from edgepaas.sync.errors import SchemaDrift
from edgepaas.sync.hub.catalog import HubTable

# A text that names no relation: the cast fails with an error of class 42, SchemaDrift, and only
# where the record is another one. It depends on a row, so that no plan evaluates it beforehand.
_UNCHANGED = f"""
SELECT CASE WHEN max(position) = $1::bigint THEN NULL
  ELSE ('edgepaas: another revision of the schema, ' || coalesce(max(position), 0))::regclass END
FROM {REVISIONS}"""  # noqa: S608


def read_hub_record(
    run: Callable[[Sequence[Statement]], list[Result]], tables: Mapping[str, HubTable]
) -> RevisionRecord | None:
    """Return the record, read with *run*; None where *tables*, the hub's, have none.

    Raises SchemaDrift for one that this build cannot read, and what *run* raises.
    """
    if REVISIONS not in tables:
        return None
    (found,) = run([(QUERY, ())])
    try:
        return record_of(found.rows)
    except ValueError as error:
        raise SchemaDrift(f"PostgreSQL's {REVISIONS}: {error}; install a newer release") from error


def unchanged_statements(record: RevisionRecord | None) -> list[Statement]:
    """Return the statements that fail, as SchemaDrift, where the record is not *record* any more.

    Sent with COMMIT: the tables that a transaction has written to keep their names until it ends,
    so that none of its rows went into columns that another box renamed meanwhile.
    """
    return [(_UNCHANGED, (record.position,))] if record is not None and record.entries else []
