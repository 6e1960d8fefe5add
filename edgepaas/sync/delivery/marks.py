# SPDX-License-Identifier: Apache-2.0
"""The mark: up to which row the hub has a stream, read, compared with the file, advanced."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from edgepaas.outbox.stream import Stream
from edgepaas.outcomes.fit import FINGERPRINT
from edgepaas.pgdriver.pipeline import Statement
from edgepaas.sync.delivery import values
from edgepaas.sync.delivery.planner import DeliveryCounts
from edgepaas.sync.hub.catalog import HubTable
from edgepaas.sync.hub.connection import Hub


class StreamComparison(StrEnum):
    """How the hub's mark relates to what the file knows."""

    #: Both have the same batch as the last one.
    IN_STEP = "in step"
    #: The batch whose COMMIT was not answered was committed.
    COMMITTED = "committed"
    #: The hub has less than it had: it was restored from a backup, or is another one.
    HUB_BEHIND = "hub behind"
    #: The hub has a batch that this file does not know: the file was cloned or set back.
    FORKED = "forked"


@dataclass(frozen=True)
class HubStreamState:
    """The stream's row on the hub, locked; ``last`` counts what the batch ``batch`` did."""

    mark: int
    batch: str
    last: DeliveryCounts
    #: Whether dead letters of this node wait.
    letters_waiting: bool
    #: The tables with tombstones.
    tombstoned: frozenset[str]
    #: Whether the hub knew neither this stream nor the one that it was forked from.
    unknown_to_hub: bool = False


def compare_marks(stream: Stream, mark: int, batch: str) -> StreamComparison:
    """Compare the file's *stream* with the hub's *mark* and *batch* (empty: none yet)."""
    if batch == stream.confirmed_batch and mark == stream.confirmed_seq:
        return StreamComparison.IN_STEP
    if batch and batch == stream.inflight_batch:
        return StreamComparison.COMMITTED
    return StreamComparison.HUB_BEHIND if mark < stream.confirmed_seq else StreamComparison.FORKED


_NEW_STREAM = """
INSERT INTO sync_streams (stream_id, node_id, base, mark, forked_from)
VALUES ($1::uuid, $2::uuid, $3::bigint, $3::bigint, nullif($4, '')::uuid)
ON CONFLICT (stream_id) DO NOTHING
RETURNING NOT EXISTS (SELECT 1 FROM sync_streams s WHERE s.stream_id = nullif($4, '')::uuid)"""
_STREAM = """
SELECT mark, coalesce(batch::text, ''), batch_rows, batch_dead, batch_conflicts, batch_shed
FROM sync_streams WHERE stream_id = $1::uuid FOR UPDATE"""
_LETTERS = """
SELECT EXISTS (SELECT 1 FROM sync_dead_letters WHERE node_id = $1::uuid AND state = 'waiting')"""
# Steps from table to table along the primary key, so the number of tombstones does not matter.
_TOMBSTONED = """
WITH RECURSIVE t AS (
  SELECT min(tbl) AS tbl FROM sync_tombstones
  UNION ALL
  SELECT (SELECT min(s.tbl) FROM sync_tombstones s WHERE s.tbl > t.tbl)
  FROM t WHERE t.tbl IS NOT NULL
) SELECT tbl FROM t WHERE tbl IS NOT NULL"""
_ADVANCE = """
UPDATE sync_streams SET mark = $2::bigint, batch = $3::uuid, rows = rows + $4::bigint,
  dead = dead + $5::bigint, conflicts = conflicts + $6::bigint, shed = shed + $7::bigint,
  batch_rows = $4::bigint, batch_dead = $5::bigint, batch_conflicts = $6::bigint,
  batch_shed = $7::bigint, updated_at = now()
WHERE stream_id = $1::uuid"""


def lock_stream(hub: Hub, stream: Stream) -> HubStreamState:
    """Lock the stream's row on the hub, creating it where it is missing; one round trip.

    Inside the hub's transaction. HubUnreachable when another session holds it for 3 s.
    """
    made, found, letters, tombstoned = hub.run(
        [
            (
                _NEW_STREAM,
                (stream.stream_id, stream.node_id, stream.base_seq, stream.forked_from),
            ),
            (_STREAM, (stream.stream_id,)),
            (_LETTERS, (stream.node_id,)),
            (_TOMBSTONED, ()),
        ]
    )
    mark, batch, rows, dead, conflicts, shed = found.rows[0]
    return HubStreamState(
        mark,
        batch,
        DeliveryCounts(rows, dead, conflicts, shed),
        letters.rows[0][0],
        frozenset(row[0] for row in tombstoned.rows),
        unknown_to_hub=bool(made.rows and made.rows[0][0]),
    )


_MARK = """
SELECT mark, coalesce(batch::text, '') FROM sync_streams WHERE stream_id = $1::uuid"""


def is_in_step(hub: Hub, stream: Stream) -> bool:
    """Whether *hub* has all of *stream*, read before, that it had confirmed; one round trip.

    Outside of a transaction and without a lock. Where it has not, the next batch, or an empty
    one, finds out what became of it (:func:`lock_stream`).
    """
    if stream.confirmed_seq == stream.base_seq:
        return True  # nothing was sent yet, so the hub need not know it
    rows = hub.query(_MARK, stream.stream_id)
    return bool(rows) and compare_marks(stream, *rows[0]) is StreamComparison.IN_STEP


def advance_statements(
    stream: Stream, batch: str, mark: int, counts: DeliveryCounts
) -> list[Statement]:
    """Return the statements that store the new mark, to be sent with COMMIT.

    Deferred constraints are checked first, so that a violation is reported as an error of a
    statement and not of COMMIT.
    """
    counted = (counts.delivered, counts.dead, counts.conflicts, counts.shed)
    return [
        ("SET CONSTRAINTS ALL IMMEDIATE", ()),
        (_ADVANCE, (stream.stream_id, mark, batch, *counted)),
    ]


# The cast fails with undefined_table, which is what a changed schema is to the drainer; without
# a row it is not evaluated.
_UNALTERED = f"""
SELECT quote_ident('altered while rows were sent: ' || w.name)::regclass
FROM (SELECT name, fingerprint, to_regclass(quote_ident(name)) AS oid
  FROM unnest($1::text[], $2::text[]) AS given(name, fingerprint)) AS w
WHERE w.fingerprint IS DISTINCT FROM {FINGERPRINT.replace("$oid", "w.oid")}"""  # noqa: S608


def unaltered_statements(tables: Iterable[HubTable]) -> list[Statement]:
    """Return what fails, with SchemaDrift, where one of *tables* is not as it was read.

    To be sent with COMMIT: the rows that were written keep anybody from altering their tables
    meanwhile, so that what the catalog says then is what they were written to.
    """
    known = [(one.name, one.shape.fingerprint) for one in tables if one.shape is not None]
    if not known:
        return []
    names, fingerprints = zip(*known, strict=True)
    return [(_UNALTERED, (values.array(names), values.array(fingerprints)))]
