# SPDX-License-Identifier: Apache-2.0
"""The watch that raises and resolves conditions of the machine, and reviews all that is raised.

One measurement proves nothing: a condition has to hold at every look for a while to be raised,
and to be gone, by a margin, for a while to be resolved. Between the two nothing changes.

At the service's start, a minute later and each hour everything that is raised is reviewed by the
checks of the alert catalogue: what holds no longer is resolved.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from edgepaas.alerts import raise_alert, resolve_alert
from edgepaas.alerts.catalogue import (
    CERTIFICATE_ENDS,
    CLOCK_UNTRUSTED,
    CPU_BUSY,
    DISK_USED,
    HEALTH_CHECK,
    MEMORY_USED,
    REQUIRED_SERVICE,
    TEMPERATURE_HIGH,
    find_entry,
)
from edgepaas.alerts.catalogue_entry import CatalogueEntry
from edgepaas.alerts.conditions.review import Check, find_ended
from edgepaas.health.checks import CheckResult
from edgepaas.health.gate import CERTIFICATES_CHECK, SERVICE_PREFIX
from edgepaas.health.system import Measure, SystemReport
from edgepaas.service.watches.condition_checks import row_counts
from edgepaas.timing.periodic_task import PeriodicTask, TaskAlert

if TYPE_CHECKING:
    from edgepaas.app.box import RaiseAlert, ResolveAlert
    from edgepaas.outbox.forwarding_state import Forwarding

#: Seconds between two looks.
LOOK_EVERY = 10.0
#: Seconds between two reviews of everything that is raised, after a first one at the start and
#: a second one when the drainer, too, had time to start.
REVIEW_EVERY = 3600.0
SECOND_REVIEW = 60.0
#: So many looks at least have to agree, however much time passed between them.
LEAST_LOOKS = 3
#: Seconds for which it has to be well again.
WELL_FOR = 60.0

#: Seconds at a threshold that are no spike. A build or a backup may keep a processor busy.
MEASURE_FOR = {"cpu": 120.0, "memory": 60.0, "disk": 30.0, "temperature": 60.0}
#: What a value has to fall below its threshold to be well: percent points, degrees Celsius.
MARGIN = {"percent": 5.0, "celsius": 5.0}
#: A box that has just started needs this long to be given the time by a server.
CLOCK_FOR = 900.0
CHECK_FOR = 30.0

#: What a measure is called in a sentence, and its entry in the catalogue.
_MEASURES = {
    "cpu": ("the processor is", CPU_BUSY),
    "memory": ("the memory is", MEMORY_USED),
    "disk": ("the disk of the state folder is", DISK_USED),
    "temperature": ("the hottest sensor is", TEMPERATURE_HIGH),
}
_UNITS = {"percent": " %", "celsius": " °C"}

logger = logging.getLogger("edgepaas.service")

#: ``between`` is neither broken nor well by the margin; ``unknown`` could not be measured.
Status = Literal["broken", "well", "between", "unknown"]
Change = Literal["", "raise", "resolve"]


@dataclass
class Hysteresis:
    """When one thing is raised and resolved: *raise_after* and *well_after* are in seconds.

    What was raised before this process began is not known: the first verdict counts as a
    change, whatever it is.
    """

    raise_after: float
    well_after: float = WELL_FOR
    raised: bool | None = None
    _run: Status = "unknown"
    _since: float = 0.0
    _looks: int = 0

    def update(self, status: Status, now: float) -> Change:
        """Take in *status* at *now* (seconds of a monotonic clock); return what is to be done."""
        if status == "unknown":
            return ""
        if status != self._run:
            self._run, self._since, self._looks = status, now, 0
        self._looks += 1
        if self._looks < LEAST_LOOKS:
            return ""
        lasted = now - self._since
        if status == "broken" and self.raised is not True and lasted >= self.raise_after:
            self.raised = True
            return "raise"
        if status == "well" and self.raised is not False and lasted >= self.well_after:
            self.raised = False
            return "resolve"
        return ""

    @property
    def measured(self) -> bool:
        """Whether its status was ever known."""
        return self._run != "unknown"

    def lasted(self, now: float) -> float:
        """Return for how many seconds it has had its present status."""
        return now - self._since


@dataclass(frozen=True)
class MeasuredCondition:
    """The status of one thing, and what an alert of it would say."""

    entry: CatalogueEntry
    status: Status
    raise_after: float
    #: What is wrong; its first ``{}`` is where the time goes that it has lasted. Empty: it is
    #: raised elsewhere, and only its end is found here.
    wrong: str
    well: str
    subject: str = ""

    @property
    def fingerprint(self) -> str:
        """What it is raised under."""
        return self.entry.fingerprint(self.subject)


class _Meter(Protocol):
    def report(self) -> SystemReport: ...


@dataclass
class ConditionWatch:
    """Looks at the machine and at what the checks found, every :data:`LOOK_EVERY` seconds.

    *checks* returns what the checks found last, without probing. *raised_fingerprints* returns
    what is raised under a prefix; *condition_checks* find out, at the start and each hour, whether
    that still holds (:class:`edgepaas.service.watches.condition_checks.ServiceChecks`).
    """

    meter: _Meter
    checks: Callable[[], Iterable[CheckResult]]
    forwarding: "Callable[[], Forwarding | None]" = lambda: None
    raised_fingerprints: Callable[[str], list[str]] = lambda prefix: []
    condition_checks: Mapping[str, Check] = field(default_factory=dict)
    #: Fingerprints of the alerts that the process's periodic tasks raise and end themselves.
    tasks: Callable[[], Iterable[str]] = tuple
    clock: Callable[[], float] = time.monotonic
    alert: "RaiseAlert" = raise_alert
    resolve: "ResolveAlert" = resolve_alert
    _known: dict[str, Hysteresis] = field(default_factory=dict)
    _reviews: int = 0
    _next_review: float = float("-inf")

    def task(self) -> PeriodicTask:
        """Return the task that looks every :data:`LOOK_EVERY` seconds."""
        return PeriodicTask(
            "conditions",
            self.look,
            every=LOOK_EVERY,
            first_after=LOOK_EVERY,
            alert=TaskAlert("A full disk or memory may go unnoticed meanwhile."),
        )

    def look(self) -> None:
        """Look once; raise and resolve what follows."""
        report, now = self.meter.report(), self.clock()
        checks = list(self.checks())
        found = [*map(_of_measure, report.measures), _of_clock(report)]
        found += [_of_check(result) for result in checks if _is_watched(result)]
        found += _of_rows(self.forwarding())
        for finding in found:
            self._judge(finding, now)
        if checks and now >= self._next_review:
            self._reviews += 1
            self._next_review = now + (SECOND_REVIEW if self._reviews == 1 else REVIEW_EVERY)
            self._review({finding.fingerprint for finding in found}.union(self.tasks()))

    def _judge(self, finding: MeasuredCondition, now: float) -> None:
        hysteresis = self._known.setdefault(
            finding.fingerprint, Hysteresis(raise_after=finding.raise_after)
        )
        change = hysteresis.update(finding.status, now)
        if change == "raise" and finding.wrong:
            self.alert(
                finding.entry.message(
                    finding.wrong.replace("{}", f"for {hysteresis.lasted(now):.0f} s", 1)
                ),
                severity=finding.entry.severity,
                fingerprint=finding.fingerprint,
                origin=finding.entry.origin,
            )
        elif change == "resolve":
            self.resolve(finding.well, fingerprint=finding.fingerprint, origin=finding.entry.origin)

    def _review(self, watched: set[str]) -> None:
        """Resolve what holds no longer; *watched*: the fingerprints that this watch judges."""

        def watched_and_well(fingerprint: str) -> str | None:
            if fingerprint not in watched:
                return f"{_subject(fingerprint)} is not watched any more"
            hysteresis = self._known.get(fingerprint)
            if hysteresis is None or hysteresis.measured or self._reviews < 3:
                return None  # judged at every look
            return "it has not been measured for an hour: this box no longer measures it"

        checks = {**self.condition_checks, "watched-and-well": watched_and_well}
        for ended in find_ended(self.raised_fingerprints(""), checks):
            self.resolve(ended.holds_now, fingerprint=ended.fingerprint, origin="service")


def _subject(fingerprint: str) -> str:
    entry = find_entry(fingerprint)
    return (entry.subject(fingerprint) if entry else "") or fingerprint


def _of_measure(measure: Measure) -> MeasuredCondition:
    unit = _UNITS[measure.unit]
    value = "unknown" if measure.value is None else f"{measure.value:g}{unit}"
    threshold = f"{measure.name.upper()}_THRESHOLD={measure.threshold:g}"
    status: Status = "between"
    if measure.value is None:
        status = "unknown"
    elif measure.broken:
        status = "broken"
    elif measure.value < measure.threshold - MARGIN[measure.unit]:
        status = "well"
    thing, entry = _MEASURES[measure.name]
    busy = "at" if measure.unit == "celsius" else "used to" if measure.name != "cpu" else "busy to"
    return MeasuredCondition(
        entry=entry,
        status=status,
        raise_after=MEASURE_FOR[measure.name],
        wrong=f"{thing} {busy} {value} and has been at {threshold} or above {{}}",
        well=f"{thing} {busy} {value}, below {threshold} again",
    )


def _of_clock(report: SystemReport) -> MeasuredCondition:
    statuses: dict[bool | None, Status] = {True: "well", False: "broken", None: "unknown"}
    return MeasuredCondition(
        entry=CLOCK_UNTRUSTED,
        status=statuses[report.clock_trusted],
        raise_after=CLOCK_FOR,
        wrong=f"the clock cannot be trusted {{}}: {report.clock_message}",
        well=f"the clock can be trusted again: {report.clock_message}",
    )


def _is_watched(result: CheckResult) -> bool:
    return result.required and not result.raised_elsewhere


def _of_check(result: CheckResult) -> MeasuredCondition:
    if result.name.startswith(SERVICE_PREFIX):
        name = result.name.removeprefix(SERVICE_PREFIX)
        return MeasuredCondition(
            entry=REQUIRED_SERVICE,
            subject=name,
            status="well" if result.ok else "broken",
            raise_after=CHECK_FOR,
            wrong=f"the required service {name} has been away {{}}: {result.message}",
            well=f"the required service {name} is back: {result.message}",
        )
    if result.name == CERTIFICATES_CHECK:
        return MeasuredCondition(
            entry=CERTIFICATE_ENDS,
            subject="",
            status="well" if result.ok else "broken",
            raise_after=CHECK_FOR,
            wrong=f"{result.message} (seen for {{}})",
            well=f"no certificate ends soon: {result.message}",
        )
    return MeasuredCondition(
        entry=HEALTH_CHECK,
        subject=result.name,
        status="well" if result.ok else "broken",
        raise_after=CHECK_FOR,
        wrong=f"the check {result.name} has failed {{}}: {result.message}",
        well=f"the check {result.name} passes again: {result.message}",
    )


def _of_rows(forwarding: "Forwarding | None") -> list[MeasuredCondition]:
    """Return what ends the alerts of rows that an operator had to see to, or sync to send.

    The drainer and the decision raise them at once; that nothing is left is found here.
    """
    if forwarding is None:
        return []
    return [
        MeasuredCondition(
            count.entry, "broken" if count.left else "well", 0.0, wrong="", well=count.none_left
        )
        for count in row_counts(forwarding)
    ]
