# SPDX-License-Identifier: Apache-2.0
"""``state/marks.json``: what the box knows of its streams, and what PostgreSQL lost of them.

Written under ``state/marks.lock`` by whichever process has something to say: the service its
own streams every :data:`edgepaas.marks.keeper.PERSIST_EVERY` seconds in which one moved, any
process a loss at once. A power cut takes what was acknowledged since the last write, and a
kill of the service the same; what the hub then has less than the record is still found.
"""

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgepaas.files import shapes
from edgepaas.files.locks import LockHeld, acquire, held
from edgepaas.files.records import RecordType
from edgepaas.marks.comparison import NOTHING, Known, Loss, Mark, total

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths

logger = logging.getLogger("edgepaas.marks")

#: Seconds that a process waits for another one that writes the record.
_LOCK_TIMEOUT = 5.0
#: Streams with a loss that are listed one by one; older ones are counted in the sum alone.
MOST_LOSSES = 200


def _of_version_1(old: dict[str, Any]) -> dict[str, Any]:
    """Nothing was sent again by the releases that wrote it."""
    losses = {identity: {**one, "resent": 0} for identity, one in old["losses"].items()}
    return {**old, "losses": losses}


_MARK = {"transactions": shapes.whole, "rows": shapes.whole}
RECORD = RecordType(
    "connection-marks",
    2,
    {
        "node_id": shapes.text,
        "sum": shapes.object_of({"stream_id": shapes.text, **_MARK}),
        "joining": shapes.list_of(shapes.text),
        "streams": shapes.map_of(shapes.object_of({"owner": shapes.text, **_MARK})),
        "losses": shapes.map_of(
            shapes.object_of(
                {
                    "known": shapes.object_of(_MARK),
                    "hub": shapes.object_of(_MARK),
                    "resent": shapes.whole,
                }
            )
        ),
        # Losses that are not listed any more; and how much of all of them an operator knows of.
        "earlier_losses": shapes.object_of(_MARK),
        "acknowledged": shapes.object_of(_MARK),
    },
    {1: _of_version_1},
)


@dataclass
class MarksRecord:
    """The content of the record; changed in place by those who hold its lock.

    *owners* has the process of each stream, empty for one whose connection has ended.
    """

    node_id: str
    sum_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    sum_mark: Mark = NOTHING
    joining: frozenset[str] = frozenset()
    streams: dict[str, Mark] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    losses: dict[str, Loss] = field(default_factory=dict)
    earlier_losses: Mark = NOTHING
    acknowledged: Mark = NOTHING

    @property
    def lost(self) -> Mark:
        """All that PostgreSQL ever lost of what it had acknowledged, as far as it is known."""
        return self.earlier_losses.plus(total(loss.lost for loss in self.losses.values()))

    def known(self) -> Known:
        """Return what is compared with the hub."""
        return Known(dict(self.streams), self.sum_id, self.sum_mark, self.joining)

    def set_stream(self, identity: str, mark: Mark, owner: str) -> None:
        """Enter a stream, or what it has come to; *owner*: empty once its connection ended."""
        self.streams[identity] = mark
        self.owners[identity] = owner

    def drop_stream(self, identity: str) -> None:
        """Forget a stream."""
        self.streams.pop(identity, None)
        self.owners.pop(identity, None)

    def set_joined(self) -> None:
        """Enter that the hub has joined the streams that were on their way to the sum."""
        self.sum_mark = self.known().joined_mark
        for identity in self.joining:
            self.drop_stream(identity)
        self.joining = frozenset()

    def begin_sum(self) -> None:
        """Go on with a new sum: that one lost something."""
        self.sum_id, self.sum_mark, self.joining = str(uuid.uuid4()), NOTHING, frozenset()

    def add_loss(self, identity: str, loss: Loss) -> None:
        """Enter a loss; the same one, found twice, counts once."""
        before = self.losses.get(identity)
        self.losses[identity] = loss if before is None else before.joined(loss)
        while len(self.losses) > MOST_LOSSES:
            self._forget_loss(next(iter(self.losses)))

    def set_resent(self, rows: Mapping[str, int]) -> None:
        """Enter how many rows of each lost stream are sent again; they are lost no longer."""
        for identity, count in rows.items():
            loss = self.losses.get(identity)
            if loss is not None and count > loss.resent:
                self.losses[identity] = loss._replace(resent=count)

    def settle_losses(self) -> None:
        """Keep only the number of what was lost: an operator has acknowledged it."""
        self.acknowledged = self.lost
        for identity in list(self.losses):
            self._forget_loss(identity)

    def _forget_loss(self, identity: str) -> None:
        self.earlier_losses = self.earlier_losses.plus(self.losses.pop(identity).lost)

    def fields(self) -> dict[str, Any]:
        """Return what the file holds."""
        return {
            "node_id": self.node_id,
            "sum": {"stream_id": self.sum_id, **_fields(self.sum_mark)},
            "joining": sorted(self.joining),
            "streams": {
                identity: {"owner": self.owners.get(identity, ""), **_fields(mark)}
                for identity, mark in self.streams.items()
            },
            "losses": {
                identity: {
                    "known": _fields(loss.known),
                    "hub": _fields(loss.hub),
                    "resent": loss.resent,
                }
                for identity, loss in self.losses.items()
            },
            "earlier_losses": _fields(self.earlier_losses),
            "acknowledged": _fields(self.acknowledged),
        }


def read_record(paths: "Paths", node_id: str) -> MarksRecord | None:
    """Return the record of the box *node_id*; None where there is none of it.

    A record of another box came with a copied card: its streams are that box's own. What is
    not understood is set aside. Raises OSError.
    """
    found = RECORD.read_or_set_aside(paths.marks)
    if found is None:
        return None
    record = MarksRecord(
        node_id=found["node_id"],
        sum_id=found["sum"]["stream_id"],
        sum_mark=_mark(found["sum"]),
        joining=frozenset(found["joining"]),
        streams={identity: _mark(one) for identity, one in found["streams"].items()},
        owners={identity: one["owner"] for identity, one in found["streams"].items()},
        losses={
            identity: Loss(_mark(one["known"]), _mark(one["hub"]), one["resent"])
            for identity, one in found["losses"].items()
        },
        earlier_losses=_mark(found["earlier_losses"]),
        acknowledged=_mark(found["acknowledged"]),
    )
    return record if record.node_id == node_id else None


@contextlib.contextmanager
def changing(paths: "Paths", node_id: str) -> Iterator[MarksRecord]:
    """Yield the record, locked; what the block made of it is durable afterwards.

    Nothing is written where nothing changed. Raises OSError, LockHeld.
    """
    with held(paths.marks_lock, timeout=_LOCK_TIMEOUT):
        record = read_record(paths, node_id) or MarksRecord(node_id)
        before = record.fields()
        yield record
        after = record.fields()
        if after != before:
            RECORD.write(paths.marks, after)


def lost_rows(paths: "Paths") -> int:
    """Return how many acknowledged rows PostgreSQL lost; 0 where the record cannot be read."""
    found = RECORD.read_or_none(paths.marks)
    if found is None:
        return 0
    return int(
        found["earlier_losses"]["rows"]
        + sum(Loss(_mark(one["known"]), _mark(one["hub"]), one["resent"]).lost.rows
              for one in found["losses"].values())
    )  # fmt: skip


def settle(paths: "Paths") -> None:
    """Count the losses as acknowledged; raises OSError, LockHeld."""
    found = RECORD.read_or_none(paths.marks)
    if found is not None:
        with changing(paths, found["node_id"]) as record:
            record.settle_losses()


def claim_owner(paths: "Paths", owner: str) -> int:
    """Hold the lock of the process *owner* until the returned descriptor is closed."""
    return acquire(paths.marks_owners / owner)


def has_claim(paths: "Paths", owner: str) -> bool:
    """Whether *owner* is, or was, a process of this very box whose streams are not taken over."""
    return bool(owner) and (paths.marks_owners / owner).is_file()


def is_alive(paths: "Paths", owner: str) -> bool:
    """Whether the process *owner* still runs; False for an empty name."""
    if not has_claim(paths, owner):
        return False
    try:
        os.close(acquire(paths.marks_owners / owner, timeout=0.0))
    except LockHeld:
        return True
    return False


def remove_dead_owners(paths: "Paths", record: MarksRecord) -> None:
    """Delete the locks of processes that are gone and own no stream in *record* any more."""
    owning = set(record.owners.values())
    for path in list(paths.marks_owners.iterdir()) if paths.marks_owners.is_dir() else ():
        if path.name not in owning and not is_alive(paths, path.name):
            path.unlink(missing_ok=True)


def _mark(fields: dict[str, Any]) -> Mark:
    return Mark(fields["transactions"], fields["rows"])


def _fields(mark: Mark) -> dict[str, int]:
    return {"transactions": mark.transactions, "rows": mark.rows}
