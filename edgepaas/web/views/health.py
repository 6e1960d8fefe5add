# SPDX-License-Identifier: Apache-2.0
"""``/health`` and its kin: for probes, load balancers, units and people."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import marshmallow as ma
from flask import Response, jsonify

from edgepaas.apikit.blueprint import ApiBlueprint
from edgepaas.apikit.forwarding import ForwardingSchema
from edgepaas.app import Box
from edgepaas.health.alerting import AlertWatch
from edgepaas.health.checks import HealthBoard
from edgepaas.health.gate import DATABASE_CHECK, WORKERS_CHECK
from edgepaas.health.system import SystemMeter
from edgepaas.web.views.alerts import AlertCountsSchema

if TYPE_CHECKING:
    from edgepaas.alerts.status import AlertCounts

#: Seconds after which a probe asks again: starting takes about one.
_RETRY_AFTER = "2"

#: Of a route: its summary, what 200 means, what 503 means ("": it is never answered).
_LIVE = ("Liveness; checks no dependency", "The process runs", "")
_READY = ("Readiness: may this box get traffic?", "Ready for traffic", "Not ready for traffic")
_DATABASE = (
    "Whether the database answers",
    "The database answers",
    "The database does not answer",
)
_SYSTEM = (
    "Processor, memory, disk, temperature and clock",
    "Every measure is within its threshold",
    "A measure is beyond its threshold",
)


class StatusSchema(ma.Schema):
    """A single word."""

    status = ma.fields.String(required=True, metadata={"description": "Always ok."})


class DatabaseHealthSchema(ma.Schema):
    """Whether the database answers."""

    status = ma.fields.String(
        required=True,
        metadata={"description": "ok while the database answers.", "enum": ["ok", "unavailable"]},
    )
    database = ma.fields.String(
        required=True,
        metadata={
            "description": "Whether the last check reached the database.",
            "enum": ["connected", "disconnected"],
        },
    )
    message = ma.fields.String(
        required=True, metadata={"description": "What the check found, for a person."}
    )


class CheckSchema(ma.Schema):
    """One check, its result and how long it took."""

    name = ma.fields.String(
        required=True, metadata={"description": "What is checked, e.g. database."}
    )
    ok = ma.fields.Boolean(required=True, metadata={"description": "Whether the check passed."})
    required = ma.fields.Boolean(
        required=True,
        metadata={"description": "Whether the verification gate fails with this check."},
    )
    message = ma.fields.String(
        required=True, metadata={"description": "What the check found, for a person."}
    )
    seconds = ma.fields.Float(
        required=True, metadata={"description": "How long the check took, in seconds."}
    )


class ReadySchema(ma.Schema):
    """The box's state, why, and every check behind it."""

    status = ma.fields.String(
        required=True,
        metadata={
            "description": "ok where traffic may be sent to this box.",
            "enum": ["ok", "unavailable"],
        },
    )
    state = ma.fields.String(
        required=True, metadata={"description": "The state of the box: the highest one that holds."}
    )
    mode = ma.fields.String(
        required=True, metadata={"description": "Which databases serve, e.g. primary or fallback."}
    )
    reasons = ma.fields.List(
        ma.fields.String(),
        required=True,
        metadata={"description": "Why the box is in this state and this mode."},
    )
    forwarding = ma.fields.Nested(
        ForwardingSchema,
        required=True,
        allow_none=True,
        metadata={"description": "How rows are delivered to PostgreSQL; null where there is none."},
    )
    since = ma.fields.DateTime(
        required=True,
        allow_none=True,
        metadata={"description": "Since when the box is in this state."},
    )
    alerts = ma.fields.Nested(
        AlertCountsSchema,
        required=True,
        metadata={"description": "How many alerts hold, wait or cannot be delivered."},
    )
    database = ma.fields.String(
        required=True, metadata={"description": "The database that serves."}
    )
    build_version = ma.fields.String(
        required=True, metadata={"description": "The build that runs."}
    )
    uptime_seconds = ma.fields.Float(
        required=True, metadata={"description": "Seconds since the service started."}
    )
    checks = ma.fields.List(
        ma.fields.Nested(CheckSchema),
        required=True,
        metadata={"description": "The last result of each check."},
    )


class MeasureSchema(ma.Schema):
    """A measured value against its threshold; null where the machine does not tell."""

    value = ma.fields.Float(
        required=True,
        allow_none=True,
        metadata={"description": "The measured value; null where the machine does not report one."},
    )
    unit = ma.fields.String(
        required=True, metadata={"description": "The unit of value and threshold."}
    )
    threshold = ma.fields.Float(
        required=True, metadata={"description": "The value beyond which the measure is not ok."}
    )
    ok = ma.fields.Boolean(
        required=True,
        allow_none=True,
        metadata={"description": "Whether the value is within the threshold; null: it is unknown."},
    )


class ClockSchema(ma.Schema):
    """Whether the clock can be trusted; null: it cannot be known."""

    trusted = ma.fields.Boolean(
        required=True,
        allow_none=True,
        metadata={
            "description": "Whether the clock is known to be right; null: it cannot be known."
        },
    )
    message = ma.fields.String(
        required=True, metadata={"description": "What is known of the clock, for a person."}
    )


class SystemSchema(ma.Schema):
    """The machine: processor, memory, disk, temperature, clock."""

    status = ma.fields.String(
        required=True,
        metadata={
            "description": "ok while every measure is within its threshold.",
            "enum": ["ok", "degraded"],
        },
    )
    cpu = ma.fields.Nested(
        MeasureSchema,
        required=True,
        metadata={"description": "How busy the processors were since the last measurement."},
    )
    memory = ma.fields.Nested(
        MeasureSchema, required=True, metadata={"description": "How much of the memory is in use."}
    )
    disk = ma.fields.Nested(
        MeasureSchema,
        required=True,
        metadata={"description": "How full the file system is that holds the box's data."},
    )
    temperature = ma.fields.Nested(
        MeasureSchema,
        required=True,
        metadata={"description": "The hottest thermal zone of the machine."},
    )
    clock = ma.fields.Nested(
        ClockSchema, required=True, metadata={"description": "Whether the clock can be trusted."}
    )


@dataclass
class HealthReporter:
    """What the health routes say, as documents with a status."""

    box: Box
    board: HealthBoard
    meter: SystemMeter
    clock: Callable[[], float] = time.monotonic
    began: float = field(init=False)
    alerts: AlertWatch = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.alerts = AlertWatch(self.box.paths, self.clock)

    def ready(self) -> tuple[dict[str, Any], int]:
        """Return the readiness document and 200, or 503 where no traffic may come."""
        results = self.board.results()
        current = self.box.state()
        lost = any(
            result.name in (DATABASE_CHECK, WORKERS_CHECK) and not result.ready
            for result in results
        )
        fit = current.state not in ("starting", "stopping") and not lost
        document = {
            "status": "ok" if fit else "unavailable",
            **current.as_dict(),
            "since": current.since and current.since.isoformat(timespec="seconds"),
            "alerts": _numbers(self.alerts()),
            "database": self.box.database.dialect,
            "build_version": self.box.build_version,
            "uptime_seconds": round(self.clock() - self.began, 1),
            "checks": [result.as_dict() for result in results],
        }
        return document, 200 if fit else 503

    def database(self) -> tuple[dict[str, Any], int]:
        """Return whether the database answers."""
        result = self.board.result(DATABASE_CHECK)
        document = {
            "status": "ok" if result.ok else "unavailable",
            "database": "connected" if result.ok else "disconnected",
            "message": result.message,
        }
        return document, 200 if result.ok else 503

    def system(self) -> tuple[dict[str, Any], int]:
        """Return the machine's measures; 503 where a threshold is broken."""
        report = self.meter.report()
        return report.as_dict(), 200 if report.ok else 503


def health_blueprint(reporter: HealthReporter) -> ApiBlueprint:
    """Return the health routes."""
    api = ApiBlueprint("health", __name__, description="Is the box up, ready, and well?")

    def alive() -> Response:
        return jsonify(status="ok")

    def ready() -> Response:
        return _answer(*reporter.ready())

    def database() -> Response:
        return _answer(*reporter.database())

    def system() -> Response:
        return _answer(*reporter.system())

    routes = (
        ("/health", "health", alive, StatusSchema, _LIVE),
        ("/health/live", "live", alive, StatusSchema, _LIVE),
        ("/health/ready", "ready", ready, ReadySchema, _READY),
        ("/ready", "ready_short", ready, ReadySchema, _READY),
        ("/health/db", "database", database, DatabaseHealthSchema, _DATABASE),
        ("/health/system", "system", system, SystemSchema, _SYSTEM),
    )
    for path, endpoint, view, schema, (summary, good, bad) in routes:
        documented = api.response(200, schema, description=good)(view)
        if bad:
            documented = api.alt_response(503, schema=schema, description=bad)(documented)
        documented = api.doc(summary=summary, operationId=endpoint)(documented)
        api.add_url_rule(path, endpoint, documented)
    return api


def _numbers(counts: "AlertCounts") -> dict[str, int]:
    """Return the counts without the channels' answers, which name hosts: this needs no token."""
    return {name: value for name, value in counts.as_dict().items() if isinstance(value, int)}


def _answer(document: dict[str, Any], status: int) -> Response:
    response = jsonify(document)
    response.status_code = status
    if status == 503:
        response.headers["Retry-After"] = _RETRY_AFTER
    return response
