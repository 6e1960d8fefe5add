# SPDX-License-Identifier: Apache-2.0
"""From a received body to durable rows: all of it or nothing, and nothing twice.

:class:`ReadingIntake` is the one way in, whatever protocol brought the readings: the view of
``POST /api/v1/readings`` uses it, and so does a worker that takes them from anywhere else.
"""

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from edgepaas.app import Box
from edgepaas.app.api import Detail, Problem, load
from edgepaas.app.facts import Appended, FactsDiffer, Row, append_facts
from edgepaas.app.models import content_id, name_id, utc_now, uuid7
from edgepaas.telemetry.limits import READINGS_MAX
from edgepaas.telemetry.models import DEVICES, READINGS, RULE_FEED
from edgepaas.telemetry.rules.feed import Entry, feed_rows
from edgepaas.telemetry.schemas import ReadingBatch, ReadingFields

if TYPE_CHECKING:
    from edgepaas.telemetry.rules.follower import RuleFollower

_FIELDS = ReadingFields()
_BATCH = ReadingBatch()


class ReadingIntake:
    """Takes readings into *box* and wakes the *rules* that want to judge them."""

    def __init__(self, box: Box, rules: "RuleFollower") -> None:
        self._box, self._rules = box, rules
        #: How many readings one body may hold.
        self.most = box.settings.integer(READINGS_MAX.name)

    def take(self, body: Any, *, caller: str, key: str | None = None) -> Appended:
        """Validate and store *body*; return, once they are durable, how many readings are new.

        *body* is parsed JSON (``edgepaas.app.api.parse_json``): one reading, a list, or
        ``{"readings": […]}``. *caller* is who sent it, as a token's id. *key* is the sender's
        name for this body, as an Idempotency-Key or the id of a message: the same again from
        the same caller stores nothing twice. For any thread. Raises Problem, whose status and
        details say what is wrong: 413 and 422 for the body, 409 where a reading or a key came
        with other content before; DatabaseError as ``database.write`` does.
        """
        loaded, paths = _validated(body, self.most)
        now = utc_now()
        batch = prepare(loaded, paths, Key(caller, key), now)
        wanted = self._rules.wanted(one.row for one in batch)
        stored = store(self._box, batch, now, wanted=wanted)
        if stored.accepted and wanted:
            self._rules.wake()
        return stored


@dataclass(frozen=True, slots=True)
class Incoming:
    """One posted reading: its path in the body, and its row."""

    path: str
    row: dict[str, Any]
    #: Whether its id was made of the request's Idempotency-Key.
    of_key: bool = False


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


def _validated(body: Any, most: int) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Return the readings in *body*, and the path of each; raises Problem."""
    if isinstance(body, dict) and "readings" in body:
        _bounded(body["readings"], most)
        readings, below = load(_BATCH, body)["readings"], "readings"
    elif isinstance(body, list):
        _bounded(body, most)
        readings, below = load(_FIELDS, body, many=True), ""
    else:
        return [load(_FIELDS, body)], [""]
    return readings, [f"{below}[{position}]" for position in range(len(readings))]


def _bounded(values: Any, most: int) -> None:
    # Before they are looked at: a client must not buy minutes of work with one request.
    if isinstance(values, list) and len(values) > most:
        raise Problem(
            413, f"{len(values):,} readings in one request; {READINGS_MAX.name} allows {most:,}."
        )


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
        batch.append(Incoming(path, row, of_key))
    return batch


def store(
    box: Box,
    batch: Sequence[Incoming],
    now: datetime,
    *,
    wanted: Mapping[uuid.UUID, Entry],
) -> Appended:
    """Store the readings of *batch* that are new and the devices that are; return their number.

    Those of the new ones that are *wanted*, by id, are stored for this box's rules, too. All
    are durable then. Raises Problem 409, and nothing is stored, where an id is there already
    with other content.
    """

    def for_the_rules(new: Collection[uuid.UUID]) -> dict[Any, Sequence[Row]]:
        entries = [entry for identity, entry in wanted.items() if identity in new]
        return {RULE_FEED: feed_rows(box.node_id, entries)}

    try:
        return append_facts(
            box.database,
            READINGS,
            [one.row for one in batch],
            before={DEVICES: _devices(batch, now)},
            stamp="received_at",
            following=for_the_rules if wanted else None,
        )
    except FactsDiffer as error:
        raise _conflict(batch[position] for position in error.positions) from None


def _devices(batch: Iterable[Incoming], now: datetime) -> list[Row]:
    """Return the rows of the devices that *batch* names, to be made where they are missing."""
    names = {one.row["device"]: one.row["device_id"] for one in batch}
    # Sorted, so that two requests never wait for each other's rows crosswise.
    return [
        {
            "id": identity,
            "name": name,
            "description": None,
            "labels": {},
            "created_at": now,
            "updated_at": now,
        }
        for name, identity in sorted(names.items())
    ]


def _conflict(differing: Iterable[Incoming]) -> Problem:
    details = [_difference(one) for one in differing]
    first = details[0]["message"]
    return Problem(
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
