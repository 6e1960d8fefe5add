# SPDX-License-Identifier: Apache-2.0
"""From a posted batch to durable rows: all of it or nothing, and nothing twice."""

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Table
from sqlalchemy.orm import Session

from edgepaas.apikit.blueprint import Problem
from edgepaas.apikit.problems import Detail
from edgepaas.database.ids import content_id, name_id, uuid7
from edgepaas.errors import DatabaseBusy
from edgepaas.telemetry.bulk import count_present, insert_new, rows_by_id
from edgepaas.telemetry.models import Device, Reading
from edgepaas.telemetry.rules.feed import Entry, feed

_CONTENT = ("device", "metric", "value", "unit", "recorded_at")

READINGS: Table = Reading.metadata.tables[Reading.__tablename__]
DEVICES: Table = Device.metadata.tables[Device.__tablename__]


@dataclass(frozen=True, slots=True)
class Incoming:
    """One posted reading: its path in the body, its row, and what of it the box filled in."""

    path: str
    row: dict[str, Any]
    moment_given: bool
    #: Whether its id was made of the request's Idempotency-Key.
    of_key: bool = False

    def says_the_same(self, other: Mapping[str, Any]) -> bool:
        """Tell whether *other* is this reading; a moment that the box filled in is no content."""
        names = _CONTENT if self.moment_given else _CONTENT[:-1]
        return all(self.row[name] == other[name] for name in names)


class Key:
    """Ids for readings that bring none: of an Idempotency-Key, else new ones."""

    def __init__(self, caller: str, key: str | None) -> None:
        self._caller, self._key = caller, key

    @property
    def is_given(self) -> bool:
        """Whether the request has an Idempotency-Key."""
        return self._key is not None

    def identity(self, position: int) -> uuid.UUID:
        """Return the id of the reading at *position*: the same again for the same key."""
        if self._key is None:
            return uuid7()
        return content_id(self._caller, self._key, position)


def device_id(name: str) -> uuid.UUID:
    """Return the id that every box derives for the device *name*."""
    return name_id(DEVICES.name, name)


def prepare(
    loaded: Sequence[Mapping[str, Any]], paths: Sequence[str], key: Key, now: datetime
) -> list[Incoming]:
    """Return the rows of a validated batch; readings without a moment are of *now*."""
    identities: dict[str, uuid.UUID] = {}
    batch = []
    for position, (reading, path) in enumerate(zip(loaded, paths, strict=True)):
        name = reading["device"]
        of_key = key.is_given and not reading.get("id")
        if name not in identities:
            identities[name] = device_id(name)
        row = {
            "id": reading.get("id") or key.identity(position),
            "device_id": identities[name],
            "device": name,
            "metric": reading["metric"],
            # Minus zero does not come back from every database: there is one zero.
            "value": reading["value"] + 0.0,
            "unit": reading["unit"],
            "recorded_at": reading.get("recorded_at", now),
            "received_at": now,
        }
        batch.append(Incoming(path, row, "recorded_at" in reading, of_key))
    return batch


def store(
    session: Session,
    batch: Sequence[Incoming],
    now: datetime,
    *,
    wanted: Mapping[uuid.UUID, Entry],
    node: str,
) -> int:
    """Store the readings of *batch* that are new and the devices that are; return their number.

    Those of the new ones that are *wanted*, by id, are stored for the rules of this *node*, too.
    Raises Problem 409, and then nothing is to be kept, where an id is there already with
    other content.
    """
    distinct = _distinct(batch)
    _register(session, {one.row["device"]: one.row["device_id"] for one in batch}, now)
    accepted = insert_new(session, READINGS, [one.row for one in distinct.values()])
    new: Collection[uuid.UUID] = distinct
    if accepted < len(distinct):
        stored = rows_by_id(session, READINGS, distinct, (*_CONTENT, "received_at"))
        missing = [one for identity, one in distinct.items() if identity not in stored]
        if missing:  # deleted a moment ago: nothing is acknowledged that is not there
            raise DatabaseBusy(f"{len(missing)} readings were deleted while they were repeated")
        _refuse(
            one for identity, one in distinct.items() if not one.says_the_same(stored[identity])
        )
        # Two requests of one microsecond with one reading in common would have to meet here.
        new = {identity for identity, row in stored.items() if row["received_at"] == now}
    if accepted and wanted:
        feed(session, node, [one for identity, one in wanted.items() if identity in new])
    return accepted


def _distinct(batch: Sequence[Incoming]) -> dict[uuid.UUID, Incoming]:
    distinct: dict[uuid.UUID, Incoming] = {}
    differing = []
    for one in batch:
        first = distinct.setdefault(one.row["id"], one)
        if first is not one and not one.says_the_same(first.row):
            differing.append(one)
    _refuse(differing)
    return distinct


def _refuse(differing: Iterable[Incoming]) -> None:
    details = [_difference(one) for one in differing]
    if details:
        first = details[0]["message"]
        raise Problem(
            409,
            f"{details[0]['path']}: {first[:1].lower()}{first[1:-1]}; "
            "nothing of the request was stored.",
            details=details,
        )


def _difference(one: Incoming) -> Detail:
    if one.of_key:
        which = f"reading {one.path}" if one.path else "reading"
        return {
            "path": "Idempotency-Key",
            "message": f"This key came with another {which} before; new content needs a new key.",
        }
    return {
        "path": f"{one.path}.id" if one.path else "id",
        "message": "This id is there already with other content.",
    }


def _register(session: Session, names: Mapping[str, uuid.UUID], now: datetime) -> None:
    """Make the devices that are not there yet; those that are keep what they say."""
    # Asked first: nearly always all are there, and a look costs less than a write.
    if count_present(session, DEVICES, list(names.values())) == len(names):
        return
    # Sorted, so that two requests never wait for each other's rows crosswise.
    insert_new(
        session,
        DEVICES,
        [
            {
                "id": identity,
                "name": name,
                "description": None,
                "labels": {},
                "created_at": now,
                "updated_at": now,
            }
            for name, identity in sorted(names.items())
        ],
    )
