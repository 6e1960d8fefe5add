# SPDX-License-Identifier: Apache-2.0
"""``/metrics`` in Prometheus' text format: what the box knows of itself, for existing tools.

Names and units by https://prometheus.io/docs/practices/naming/; every label has a bounded
set of values. The library is imported by the first scrape.
"""

import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import accumulate
from typing import TYPE_CHECKING

from flask import Response, request

from edgepaas.apikit.blueprint import ApiBlueprint
from edgepaas.app import Box, BoxState
from edgepaas.health.alerting import AlertWatch
from edgepaas.health.checks import HealthBoard
from edgepaas.health.state import STATES
from edgepaas.health.system import SystemMeter
from edgepaas.outbox.forwarding_state import DECLARATIONS
from edgepaas.sync import status as sync_status
from edgepaas.web.request_meter import RequestMeter

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from edgepaas.timing.periodic_task import PeriodicTask

_OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class MetricsPage:
    """Renders the page; safe to use from several threads."""

    def __init__(
        self, box: Box, board: HealthBoard, meter: SystemMeter, requests: RequestMeter
    ) -> None:
        self._box = box
        self._board = board
        self._meter = meter
        self._requests = requests
        self._alerts = AlertWatch(box.paths)
        self._registry: CollectorRegistry | None = None

    def view(self) -> Response:
        """Answer a scrape, in the format that the scraper asks for."""
        from prometheus_client import CollectorRegistry, ProcessCollector
        from prometheus_client.exposition import choose_encoder

        if self._registry is None:
            registry = CollectorRegistry(auto_describe=False)
            ProcessCollector(registry=registry)
            registry.register(self)
            self._registry = registry
        encode, content_type = choose_encoder(_known_format(request.headers.get("Accept", "")))
        return Response(encode(self._registry), content_type=content_type)

    def collect(self) -> Iterator["Metric"]:
        """Give every metric as of now (prometheus_client's Collector)."""
        results = self._board.results()  # first: the state follows from what they find
        state = self._box.state()
        yield from self._about_the_build()
        yield from _about_the_state(state)
        yield from self._about_the_database(state)
        passing = [({"check": result.name}, float(result.ok)) for result in results]
        if passing:
            yield _gauge("check_passing", "Whether the check passes.", passing)
        yield from _about_threads(self._box.tasks.tasks)
        yield from _about_forwarding(state)
        yield from self._about_the_ledger()
        yield from self._about_alerts()
        yield from self._about_commits()
        yield from self._about_the_machine()
        yield from self._about_requests()

    def _about_the_build(self) -> Iterator["Metric"]:
        from prometheus_client.core import InfoMetricFamily

        version, _, commit = self._box.build_version.partition("+")
        labels = {"version": version, "commit": commit.removeprefix("g")}
        yield InfoMetricFamily("edgepaas_build", "Which build this is.", labels)

    def _about_the_database(self, state: BoxState) -> Iterator["Metric"]:
        from prometheus_client.core import InfoMetricFamily

        contract = self._box.contract
        labels = {
            "database": self._box.database.dialect,
            "mode": state.mode,
            "final_mode": contract.final_db_mode,
            "cause": contract.cause,
        }
        yield InfoMetricFamily("edgepaas_database", "Which database serves, by decision.", labels)
        decided = _seconds(contract.decided_at)
        if decided is not None:
            yield _gauge("database_decided_timestamp_seconds", "When it was decided.", decided)
        yield _gauge(
            "database_fallback",
            "Whether SQLite serves though PostgreSQL was wanted.",
            contract.db_fallback,
        )

    def _about_the_ledger(self) -> Iterator["Metric"]:
        from prometheus_client.core import CounterMetricFamily

        status = sync_status.read(self._box.paths) if self._box.contract.hub_url else None
        if status is None:
            return
        family = CounterMetricFamily(
            "edgepaas_ledger_rows",
            "Rows that SQLite accepted for PostgreSQL, by outcome.",
            labels=("outcome",),
        )
        for name, count in sorted(status.ledger.items()):
            if name != "pending":  # no counter: see edgepaas_sync_rows_waiting
                family.add_metric((name,), count)
        yield family
        if status.clock_offset is not None:
            yield _gauge(
                "clock_offset_seconds",
                "PostgreSQL's clock minus the clock of the box, in seconds.",
                status.clock_offset,
            )

    def _about_alerts(self) -> Iterator["Metric"]:
        from prometheus_client.core import CounterMetricFamily

        found = self._alerts()
        delivered = CounterMetricFamily(
            "edgepaas_alert_notifications_delivered",
            "Notifications that a channel accepted since the box started.",
            labels=("channel", "severity"),
        )
        for channel, severities in sorted(found.delivered.items()):
            for severity, count in sorted(severities.items()):
                delivered.add_metric((channel, severity), count)
        yield delivered
        yield _gauge(
            "alerts_open",
            "Conditions that are raised, by severity.",
            [
                ({"severity": "critical"}, found.critical),
                ({"severity": "warning"}, found.open - found.critical),
            ],
        )
        yield _gauge("alerts_waiting", "Alerts that wait for delivery.", found.waiting)
        yield _gauge("alerts_dead", "Alerts that every channel refused.", found.dead)
        failing = [({"channel": name}, float(bool(why))) for name, why in found.channels.items()]
        if failing:
            yield _gauge(
                "alert_channel_failing",
                "1 while the channel fails.",
                failing,
            )

    def _about_commits(self) -> Iterator["Metric"]:
        from prometheus_client.core import HistogramMetricFamily

        from edgepaas.database.sqlite.database import EmbeddedDatabase

        if not isinstance(self._box.database, EmbeddedDatabase):
            return  # PostgreSQL commits each write by itself
        sizes = self._box.database.group_sizes
        bounds = (*map(str, sizes.BOUNDS), "+Inf")
        yield HistogramMetricFamily(
            "edgepaas_commit_group_writes",
            "Writes that one commit made durable.",
            buckets=list(zip(bounds, accumulate(sizes.counts), strict=True)),
            sum_value=sizes.jobs,
        )

    def _about_the_machine(self) -> Iterator["Metric"]:
        yield _gauge(
            "service_cores",
            "Cores that the service's process may use (1: CPU_PIN holds it to one).",
            len(os.sched_getaffinity(0)),
        )
        report = self._meter.report()
        for measure in report.measures:
            if measure.value is None:
                continue
            if measure.unit == "celsius":
                name, value = f"{measure.name}_celsius", measure.value
                threshold = measure.threshold
            else:
                name, value = f"{measure.name}_used_ratio", measure.value / 100
                threshold = measure.threshold / 100
            yield _gauge(name, f"The machine's {measure.name}.", value)
            yield _gauge(
                name.replace(measure.name, f"{measure.name}_threshold", 1),
                f"From which {measure.name} on /health/system is 503.",
                threshold,
            )
        if report.clock_trusted is not None:
            trusted = report.clock_trusted
            yield _gauge("clock_trusted", "Whether the clock is synchronised.", trusted)

    def _about_requests(self) -> Iterator["Metric"]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        names = ("method", "route", "status")
        counter = CounterMetricFamily("edgepaas_http_requests", "Requests answered.", labels=names)
        histogram = HistogramMetricFamily(
            "edgepaas_http_request_duration_seconds",
            "Seconds from a request to the head of its answer.",
            labels=names,
        )
        for labels, found in self._requests.durations():
            counter.add_metric(labels, found.requests)
            histogram.add_metric(labels, list(found.cumulated()), found.seconds)
        yield counter
        yield histogram


def _about_the_state(state: BoxState) -> Iterator["Metric"]:
    yield _gauge(
        "state",
        "1 for the state of the box: the highest of those that hold.",
        [({"state": word}, word == state.state) for word in STATES],
    )
    if state.since is not None:
        since = state.since.timestamp()
        yield _gauge("state_since_timestamp_seconds", "Since when the box is in that state.", since)


def _about_threads(tasks: "Iterable[PeriodicTask]") -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily

    working: dict[str, bool] = {}
    failures: dict[str, int] = {}
    for task in tasks:
        working[task.name] = working.get(task.name, True) and not task.problem()
        failures[task.name] = failures.get(task.name, 0) + task.failures
    if not working:
        return
    yield _gauge(
        "thread_working",
        "0 for a periodic thread that fails again and again, has ended or is late.",
        [({"thread": name}, works) for name, works in working.items()],
    )
    counted = CounterMetricFamily(
        "edgepaas_thread_failures", "Runs of a periodic thread that failed.", labels=["thread"]
    )
    for name, number in failures.items():
        counted.add_metric([name], number)
    yield counted


def _about_forwarding(state: BoxState) -> Iterator["Metric"]:
    known = state.forwarding
    if known is None:
        return
    for one in DECLARATIONS:
        value = known[one.name]
        if not one.metric:
            continue
        if one.words is not None:
            # One series a word: 1 for the one that holds.
            each = [({one.name: word}, float(word == value)) for word in one.words]
            yield _gauge(f"sync_{one.name}", f"1 for: {one.meaning}", each)
        elif isinstance(value, int):  # rows, or a flag
            yield _gauge(f"sync_{one.name}", one.meaning, value)
        elif (moment := _seconds(str(value or ""))) is not None:
            yield _gauge(f"sync_{one.name}_timestamp_seconds", one.meaning, moment)


def _gauge(
    name: str, help_text: str, value: float | list[tuple[dict[str, str], float]]
) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily

    if not isinstance(value, list):
        return GaugeMetricFamily(f"edgepaas_{name}", help_text, value=float(value))
    labels = list(value[0][0])
    family = GaugeMetricFamily(f"edgepaas_{name}", help_text, labels=labels)
    for pairs, number in value:
        family.add_metric([pairs[label] for label in labels], float(number))
    return family


def _seconds(moment: str) -> float | None:
    """Return RFC 3339 as seconds since the epoch; None for what is none."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return None


def _known_format(accept: str) -> str:
    """Return the format that *accept* asks for, in words that the library understands.

    It parses the versions in the header, and raises for those that are none.
    """
    medias = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return _OPENMETRICS if "application/openmetrics-text" in medias else ""


def metrics_blueprint(page: MetricsPage) -> ApiBlueprint:
    """Return the route of ``/metrics``."""
    api = ApiBlueprint("metrics", __name__, description="What the box knows of itself.")

    @api.route("/metrics")
    @api.response(200, {"type": "string"}, content_type="text/plain")
    def metrics() -> Response:
        """Metrics in the text format of Prometheus"""
        return page.view()

    return api
