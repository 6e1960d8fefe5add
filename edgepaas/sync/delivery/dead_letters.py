# SPDX-License-Identifier: Apache-2.0
"""Dead letters: changes that PostgreSQL refused, kept on the hub until an operator decides."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from edgepaas.errors import EdgePaaSError
from edgepaas.outbox.layout import Layout, forwarded_layouts
from edgepaas.outbox.reading import Change, Op
from edgepaas.outbox.revisions.naming import Naming
from edgepaas.pgdriver.pipeline import Result, Statement
from edgepaas.sync.delivery import values
from edgepaas.sync.delivery.column_mapping import TableDropped
from edgepaas.sync.delivery.planner import Planner
from edgepaas.sync.delivery.sending import Origin, bind, row_key, unsendable_reason
from edgepaas.sync.delivery.statement_template import StatementTemplate
from edgepaas.sync.delivery.verification import unstored
from edgepaas.sync.errors import RowRefused
from edgepaas.sync.hub.connection import Hub

#: Dead letters that one statement stores.
_CHUNK = 200

_LISTED = "'edgepaas sync dead-letters' lists them"

_STORE = """
INSERT INTO sync_dead_letters
  (id, node_id, stream_id, seq, tbl, op, row_key, layout, new, old, sqlstate, message)
SELECT gen_random_uuid(), $1::uuid, $2::uuid, r.* FROM unnest($3::bigint[], $4::text[],
  $5::text[], $6::text[], $7::jsonb[], $8::jsonb[], $9::jsonb[], $10::text[], $11::text[]) AS r
ON CONFLICT (stream_id, seq) DO NOTHING"""

_ROWS_WITH_LETTERS = """
SELECT DISTINCT d.tbl, d.row_key
FROM unnest($2::text[], $3::text[]) AS r(tbl, row_key)
JOIN sync_dead_letters d ON d.node_id = $1::uuid AND d.state = 'waiting'
  AND d.tbl = r.tbl AND d.row_key = r.row_key"""

_COLUMNS = "id, node_id, stream_id, seq, tbl, op, row_key, state, new, old, layout"


@dataclass(frozen=True)
class RefusedChange:
    """A change that PostgreSQL refused, with its error."""

    change: Change
    sqlstate: str
    message: str


@dataclass(frozen=True)
class DeadLetter:
    """One dead letter of the hub, to be applied again.

    ``new`` and ``old`` are stored as in :mod:`edgepaas.sync.delivery.values`. What an operator
    sees of it is :class:`edgepaas.sync.inspect.Entry`.
    """

    id: UUID
    node_id: UUID
    stream_id: UUID
    seq: int
    table: str
    op: Op
    row_key: str
    state: str
    new: dict[str, values.Stored] | None
    old: dict[str, values.Stored] | None
    layout: Mapping[str, Any]

    def change(self) -> Change:
        """Return the change as it was captured, with numbers as text."""
        revision = [str(self.layout.get("revision", ""))]
        (layout,) = forwarded_layouts({"revision": revision, "tables": {self.table: self.layout}})
        return Change(
            self.seq,
            self.seq,
            layout,
            self.op,
            _row(layout, self.new),
            _row(layout, self.old),
            False,
        )


@dataclass(frozen=True)
class RetryResult:
    """How many dead letters of the row were applied, how many wait, and why the next one does."""

    applied: int
    waiting: int
    message: str = ""


class DeadLetterNotFound(EdgePaaSError):
    """There is no such dead letter, or it is settled already."""


def store_dead_letters(hub: Hub, refused: Sequence[RefusedChange], origin: Origin) -> None:
    """Store *refused* on the hub, inside its open transaction; raises HubError."""
    for start in range(0, len(refused), _CHUNK):
        part = refused[start : start + _CHUNK]
        changes = [one.change for one in part]
        columns: tuple[list[Any], ...] = (
            [change.seq for change in changes],
            [change.layout.table for change in changes],
            [change.op for change in changes],
            [row_key(change) for change in changes],
            [_definition(change.layout) for change in changes],
            [values.encode_row(change.layout.names, change.new) for change in changes],
            [values.encode_row(change.layout.names, change.old) for change in changes],
            [one.sqlstate for one in part],
            [one.message.replace("\0", " ") for one in part],
        )
        hub.query(_STORE, origin.node_id, origin.stream_id, *map(values.array, columns))


def rows_with_waiting_letters(
    hub: Hub, node_id: str, changes: Iterable[Change]
) -> dict[tuple[str, str], None]:
    """Return those rows of *changes*, by table and key, that have a waiting dead letter."""
    keys = {(change.layout.table, row_key(change)) for change in changes if change.op != "gap"}
    if not keys:
        return {}
    names, texts = zip(*keys, strict=True)
    found = hub.query(_ROWS_WITH_LETTERS, node_id, values.array(names), values.array(texts))
    return dict.fromkeys((table, key) for table, key in found)


def discard(hub: Hub, letter: UUID | str) -> None:
    """Discard the letter; it stays listed as discarded. Raises DeadLetterNotFound, HubError."""
    with hub.transaction():
        found = _waiting(hub, letter)
        _settle(hub, [found.id], "discarded")


def retry(hub: Hub, letter: UUID | str, *, models: Mapping[str, Any] | None = None) -> RetryResult:
    """Apply the letter again, and those after it on the same row, in their order.

    In one transaction; from the first that is refused again on they go on waiting, with the
    new error. *models*: ``tables`` of tables.json. Raises DeadLetterNotFound for one that does not
    wait or whose row has an earlier one, HubError (SchemaDrift among it).
    """
    with hub.transaction():
        first = _waiting(hub, letter)
        rows = hub.query(
            f"SELECT {_COLUMNS} FROM sync_dead_letters "  # noqa: S608
            "WHERE state = 'waiting' AND node_id = $1::uuid AND tbl = $2 AND row_key = $3 "
            "ORDER BY created_at, seq FOR UPDATE",
            str(first.node_id),
            first.table,
            first.row_key,
        )
        chain = [DeadLetter(*row) for row in rows]
        if chain[0].id != first.id:
            raise DeadLetterNotFound(
                f"dead letter {first.id} follows {chain[0].id} on the same row: retry that one, "
                "and this one is applied after it"
            )
        applied, refusal = _apply_chain(hub, chain, models or {})
        _settle(hub, [one.id for one in chain[:applied]], "retried")
        if refusal is not None:
            hub.query(
                "UPDATE sync_dead_letters SET sqlstate = $2::text, message = $3::text "
                "WHERE id = $1::uuid",
                str(chain[applied].id),
                *refusal,
            )
    return RetryResult(applied, len(chain) - applied, refusal[1] if refusal else "")


def _apply_chain(
    hub: Hub, chain: Sequence[DeadLetter], models: Mapping[str, Any]
) -> tuple[int, tuple[str, str] | None]:
    """Apply letters in order; returns how many were, and the SQLSTATE and error of the next."""
    planner = Planner(hub.tables, models, {chain[0].table}, Naming(hub.revisions))
    for number, letter in enumerate(chain):
        change = letter.change()
        origin = Origin(str(letter.node_id), str(letter.stream_id))
        (run,) = planner.runs_of([change])
        try:
            templates = planner.templates_for(run, comparing=True)
            reason = unsendable_reason(templates, change)
            if reason:
                return number, (values.INVALID_CHARACTER, reason)
            statements: list[Statement] = []
            for sent, _ in bind(templates, [change], origin):
                statements += sent
            reason = _apply_letter(hub, templates, statements)
            if reason:
                return number, ("", reason)
        except RowRefused as error:
            return number, (error.sqlstate, error.server_message)
        except TableDropped:
            return number, ("42P01", f"there is no table {letter.table} any more")
    return len(chain), None


def _apply_letter(
    hub: Hub, templates: Sequence[StatementTemplate], statements: Sequence[Statement]
) -> str:
    """Run the *statements* of a letter; returns why its row is not there as it was sent, or ""."""
    not_there: list[str] = []

    def is_stored(results: Sequence[Result]) -> bool:
        not_there.extend(unstored(templates, results).values())
        return not not_there

    if statements:
        hub.savepoint(statements, accepted=is_stored)
    return not_there[0] if not_there else ""


def _waiting(hub: Hub, letter: UUID | str) -> DeadLetter:
    try:
        identity = UUID(str(letter))
    except ValueError:
        raise DeadLetterNotFound(f"{letter!r} is not the id of a dead letter; {_LISTED}") from None
    rows = hub.query(
        f"SELECT {_COLUMNS} FROM sync_dead_letters WHERE id = $1::uuid FOR UPDATE",  # noqa: S608
        str(identity),
    )
    if not rows:
        raise DeadLetterNotFound(f"the hub has no dead letter {identity}; {_LISTED}")
    found = DeadLetter(*rows[0])
    if found.state != "waiting":
        raise DeadLetterNotFound(f"dead letter {identity} is settled already: it was {found.state}")
    return found


def _settle(hub: Hub, letters: Sequence[UUID], state: str) -> None:
    if letters:
        hub.query(
            "UPDATE sync_dead_letters SET state = $2::text, settled_at = now() "
            "WHERE id = ANY ($1::uuid[])",
            values.array([str(one) for one in letters]),
            state,
        )


def _definition(layout: Layout) -> str:
    """Return the layout as a letter keeps it: with the revision at which the row was captured."""
    return json.dumps({**json.loads(layout.definition()), "revision": layout.revision})


def _row(layout: Layout, stored: Mapping[str, values.Stored] | None) -> tuple[Any, ...] | None:
    if stored is None:
        return None
    return tuple(values.decode(stored.get(name)) for name in layout.names)


def describe(refused: Sequence[RefusedChange]) -> str:
    """Return the first of *refused* as text for a message."""
    one = refused[0]
    state = f" (SQLSTATE {one.sqlstate})" if one.sqlstate else ""
    return (
        f"{one.change.op} of {one.change.layout.table} {one.change.key_text}: {one.message}{state}"
    )
