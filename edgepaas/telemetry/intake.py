# SPDX-License-Identifier: Apache-2.0
"""From a received body to durable rows: all of it or nothing, and nothing twice.

:class:`ReadingIntake` is the one way in, whatever protocol brought the readings: the view of
``POST /api/v1/readings`` is made of its route, and a worker that takes readings from anywhere
else calls :meth:`ReadingIntake.take`.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from edgepaas.app import Box
from edgepaas.app.append import Append, AppendRequest, AppendRoute
from edgepaas.app.facts import Appended, Row
from edgepaas.app.models import name_id, utc_now
from edgepaas.telemetry.allowance import Allowance
from edgepaas.telemetry.changing.record import own_node
from edgepaas.telemetry.limits import READINGS_MAX
from edgepaas.telemetry.models import DEVICES, NAME_LENGTH, READINGS, RULE_FEED
from edgepaas.telemetry.rules.feed import Entry, feed_rows
from edgepaas.telemetry.schemas import AcceptedSchema, ReadingBatch, ReadingFields

if TYPE_CHECKING:
    from edgepaas.telemetry.rules.follower import RuleFollower


class ReadingIntake:
    """Takes readings into *box* and wakes the *rules* that want to judge them.

    *devices* says for how many devices a caller speaks.
    """

    def __init__(self, box: Box, rules: "RuleFollower", devices: Allowance) -> None:
        self._box, self._rules = box, rules
        self._node = own_node(box)
        #: How many readings one body may hold.
        self.most = box.settings.integer(READINGS_MAX.name)
        self._devices_allowed = devices
        self.route = AppendRoute(
            "",
            ReadingFields(),
            self.post_readings,
            batch=ReadingBatch(),
            most=self.most,
            most_name=READINGS_MAX.name,
            noun="reading",
            response=AcceptedSchema,
        )

    def take(self, body: Any, *, caller: str, key: str | None = None, name: str = "") -> Appended:
        """Validate and store *body*; return, once they are durable, how many readings are new.

        *body* is parsed JSON (``edgepaas.app.api.parse_json``): one reading, a list, or
        ``{"readings": […]}``. *caller* is who sent it, as a token's id, *name* what its readings
        say of who wrote them (``written_by``), *caller* without one. *key* is the sender's
        name for this body, as an Idempotency-Key or the id of a message: the same again from
        the same caller stores nothing twice. For any thread. Raises Problem, whose status and
        details say what is wrong: 413 and 422 for the body, 409 where a reading or a key came
        with other content before; DatabaseError as ``database.write`` does.
        """
        return self.route.store(self._box.database, body, AppendRequest(caller, key, name=name))

    def post_readings(
        self, readings: Sequence[Mapping[str, Any]], request: AppendRequest
    ) -> Append:
        """Store readings, all of them or none

        Answered once they are durable. A device that is not known registers itself. An
        empty list is nothing to store: 201 with 0 accepted.
        """
        self._devices_allowed.take(request.caller, {reading["device"] for reading in readings})
        now = utc_now()
        rows = _rows(readings, request, now, self._node)
        before = {DEVICES: _devices(rows, now)}
        wanted = self._rules.wanted(rows, at_once=request.at_once)
        if not wanted:
            return Append(READINGS, rows, before, stamp="received_at")
        return Append(
            READINGS,
            rows,
            before,
            stamp="received_at",
            following=lambda new: {RULE_FEED: self._feed(wanted, new)},
            stored=self._wake,
        )

    def _feed(self, wanted: Mapping[uuid.UUID, Entry], new: Collection[uuid.UUID]) -> list[Row]:
        entries = [entry for identity, entry in wanted.items() if identity in new]
        return feed_rows(self._box.node_id, entries, self._rules.received())

    def _wake(self, stored: Appended) -> None:
        if stored.accepted:
            self._rules.wake()


@lru_cache(maxsize=4096)  # a hash, asked for with every reading of the same few devices
def device_id(name: str) -> uuid.UUID:
    """Return the id that every box derives for the device *name*."""
    return name_id(DEVICES.name, name)


def _rows(
    readings: Sequence[Mapping[str, Any]],
    request: AppendRequest,
    now: datetime,
    node: uuid.UUID | None,
) -> list[Row]:
    """Return the rows of validated *readings*; those without a moment are of *now*."""
    without_id = [at for at, reading in enumerate(readings) if "id" not in reading]
    identities = iter(request.identities(without_id))
    written_by = (request.name or request.caller)[:NAME_LENGTH]
    return [
        {
            "id": reading["id"] if "id" in reading else next(identities),
            "device_id": device_id(reading["device"]),
            "device": reading["device"],
            "metric": reading["metric"],
            # Minus zero does not come back from every database: there is one zero.
            "value": reading["value"] + 0.0,
            "unit": reading["unit"],
            "recorded_at": reading.get("recorded_at", now),
            "received_at": now,
            "written_by": written_by,
            "node": node,
        }
        for reading in readings
    ]


def _devices(rows: Sequence[Row], now: datetime) -> list[Row]:
    """Return the rows of the devices that *rows* name, to be made where they are missing."""
    names = {row["device"]: row["device_id"] for row in rows}
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
