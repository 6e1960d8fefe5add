# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the machine for so long that a human should know; and when it is over.

One look proves nothing: a condition has to hold at every look for a while to be raised, and
to be gone, by a margin, for a while to be resolved. Between the two nothing changes.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from edgepaas.alerts import Severity, raise_alert, resolve_alert
from edgepaas.decision.contract import ROWS_WAIT
from edgepaas.health.checks import CheckResult
from edgepaas.health.gate import DATABASE_CHECK, SERVICE_PREFIX
from edgepaas.health.system import Measure, SystemReport
from edgepaas.timing.periodic_task import PeriodicTask, TaskAlert
from edgepaas.timing.task_registry import FINGERPRINT_PREFIX

if TYPE_CHECKING:
    from edgepaas.app.box import RaiseAlert, ResolveAlert
    from edgepaas.outbox.forwarding_state import Forwarding

#: Seconds between two looks.
LOOK_EVERY = 10.0
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

#: Said by others: who watches the database, by sync, by the schema stage that set it aside.
_TOLD_BY_OTHERS = frozenset({DATABASE_CHECK, "forwarding", "quarantine"})

_NAMES = {
    "cpu": "the processor is",
    "memory": "the memory is",
    "disk": "the disk of the state folder is",
    "temperature": "the hottest sensor is",
}
_UNITS = {"percent": " %", "celsius": " °C"}
_ADVICE = {
    "cpu": "'top' shows what works",
    "memory": "'top' (then M) shows who has it; a process that grows for ever needs a restart",
    "disk": "'du -xh / | sort -h | tail' shows what fills it; old logs and copies may go",
    "temperature": "look at the fan, the dust and the sun; it slows down, then switches off",
}

logger = logging.getLogger("edgepaas.service")

#: How a thing looks right now: ``between`` is neither, and ``unknown`` was not seen at all.
Sight = Literal["broken", "well", "between", "unknown"]
Change = Literal["", "raise", "resolve"]


@dataclass
class Condition:
    """One thing that may be broken: *raise_after* and *well_after* are in seconds.

    What was raised before this process began is not known: the first verdict is told,
    whatever it is.
    """

    raise_after: float
    well_after: float = WELL_FOR
    raised: bool | None = None
    _run: Sight = "unknown"
    _since: float = 0.0
    _looks: int = 0

    def see(self, sight: Sight, now: float) -> Change:
        """Take in one look at *now* (seconds of a monotonic clock); return what is to be told."""
        if sight == "unknown":
            return ""
        if sight != self._run:
            self._run, self._since, self._looks = sight, now, 0
        self._looks += 1
        if self._looks < LEAST_LOOKS:
            return ""
        lasted = now - self._since
        if sight == "broken" and self.raised is not True and lasted >= self.raise_after:
            self.raised = True
            return "raise"
        if sight == "well" and self.raised is not False and lasted >= self.well_after:
            self.raised = False
            return "resolve"
        return ""

    def lasted(self, now: float) -> float:
        """Return for how many seconds it has looked as it does."""
        return now - self._since


@dataclass(frozen=True)
class Finding:
    """How one thing looks, and what would be said of it."""

    fingerprint: str
    sight: Sight
    raise_after: float
    #: What is so, and what to do; its first ``{}`` is where the time goes that it has lasted.
    #: Empty: somebody else raises it, and only its end is found here.
    wrong: str
    well: str
    severity: Severity = "warning"


class _Meter(Protocol):
    def report(self) -> SystemReport: ...


@dataclass
class ConditionWatch:
    """Looks at the machine and at what the checks found, every :data:`LOOK_EVERY` seconds.

    *checks* tells what the checks found last, without probing. *raised_fingerprints* says which
    fingerprints of a kind are raised, so that what is no longer looked at is ended.
    """

    meter: _Meter
    checks: Callable[[], Iterable[CheckResult]]
    forwarding: "Callable[[], Forwarding | None]" = lambda: None
    raised_fingerprints: Callable[[str], list[str]] = lambda prefix: []
    #: Fingerprints of the alerts that the process's periodic tasks raise and end themselves.
    tasks: Callable[[], Iterable[str]] = tuple
    clock: Callable[[], float] = time.monotonic
    alert: "RaiseAlert" = raise_alert
    resolve: "ResolveAlert" = resolve_alert
    _known: dict[str, Condition] = field(default_factory=dict)
    _began: bool = False

    def task(self) -> PeriodicTask:
        """Return the task that looks every :data:`LOOK_EVERY` seconds."""
        return PeriodicTask(
            "conditions",
            self.look,
            every=LOOK_EVERY,
            first_after=LOOK_EVERY,
            alert=TaskAlert("A full disk or memory may go unnoticed meanwhile"),
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
        if checks and not self._began:
            self._began = True
            self._forget_others({finding.fingerprint for finding in found}.union(self.tasks()))

    def _judge(self, finding: Finding, now: float) -> None:
        condition = self._known.setdefault(
            finding.fingerprint, Condition(raise_after=finding.raise_after)
        )
        change = condition.see(finding.sight, now)
        if change == "raise" and finding.wrong:
            self.alert(
                finding.wrong.replace("{}", f"for {condition.lasted(now):.0f} s", 1),
                severity=finding.severity,
                fingerprint=finding.fingerprint,
                origin="service",
            )
        elif change == "resolve":
            self.resolve(finding.well, fingerprint=finding.fingerprint, origin="service")

    def _forget_others(self, watched: set[str]) -> None:
        """End what was raised of things that this service does not look at any more."""
        for prefix in ("service:", "check:", FINGERPRINT_PREFIX):
            for fingerprint in self.raised_fingerprints(prefix):
                if fingerprint not in watched:
                    self.resolve(
                        f"{fingerprint.removeprefix(prefix)} is watched no longer",
                        fingerprint=fingerprint,
                        origin="service",
                    )


def _of_measure(measure: Measure) -> Finding:
    unit = _UNITS[measure.unit]
    value = "unknown" if measure.value is None else f"{measure.value:g}{unit}"
    threshold = f"{measure.name.upper()}_THRESHOLD={measure.threshold:g}"
    sight: Sight = "between"
    if measure.value is None:
        sight = "unknown"
    elif measure.broken:
        sight = "broken"
    elif measure.value < measure.threshold - MARGIN[measure.unit]:
        sight = "well"
    thing = _NAMES[measure.name]
    busy = "at" if measure.unit == "celsius" else "used to" if measure.name != "cpu" else "busy to"
    return Finding(
        fingerprint=f"system:{measure.name}",
        sight=sight,
        raise_after=MEASURE_FOR[measure.name],
        wrong=f"{thing} {busy} {value} and has been at {threshold} or above {{}}: "
        f"{_ADVICE[measure.name]}",
        well=f"{thing} {busy} {value}, below {threshold} again",
        severity="critical" if measure.name in ("disk", "temperature") else "warning",
    )


def _of_clock(report: SystemReport) -> Finding:
    sights: dict[bool | None, Sight] = {True: "well", False: "broken", None: "unknown"}
    return Finding(
        fingerprint="system:clock",
        sight=sights[report.clock_trusted],
        raise_after=CLOCK_FOR,
        wrong=f"the clock cannot be trusted {{}}: {report.clock_message}. Moments of readings and "
        "alerts may be wrong: 'timedatectl' shows why; a time server must be reachable, or the "
        "clock set by hand",
        well=f"the clock can be trusted again: {report.clock_message}",
    )


def _is_watched(result: CheckResult) -> bool:
    return result.required and result.name not in _TOLD_BY_OTHERS


def _of_check(result: CheckResult) -> Finding:
    if result.name.startswith(SERVICE_PREFIX):
        name = result.name.removeprefix(SERVICE_PREFIX)
        return Finding(
            fingerprint=f"service:{name}",
            sight="well" if result.ok else "broken",
            raise_after=CHECK_FOR,
            wrong=f"the required service {name} has been away {{}}: {result.message}; see to it, "
            "or do not list it as required",
            well=f"the required service {name} is back: {result.message}",
            severity="critical",
        )
    return Finding(
        fingerprint=f"check:{result.name}",
        sight="well" if result.ok else "broken",
        raise_after=CHECK_FOR,
        wrong=f"the check {result.name} has failed {{}}: {result.message}; 'edgepaas doctor' looks "
        "for causes",
        well=f"the check {result.name} passes again: {result.message}",
        severity="critical",
    )


def _of_rows(forwarding: "Forwarding | None") -> list[Finding]:
    """Return what ends the alerts of rows that a person had to see to, or sync to send.

    Sync and the decision raise them at once; that nothing is left of them is found in the
    counts, which PostgreSQL keeps for every process and person that settles some.
    """
    if forwarding is None or forwarding.hub != "ok":
        return []
    left = (
        ("sync-dead-letters", forwarding.dead_letters, "no dead letter waits any more"),
        ("sync-conflicts", forwarding.conflicts, "no conflict waits any more"),
        ("sync-hub-lost", forwarding.hub_lost, "the rows that PostgreSQL lost are acknowledged"),
        (ROWS_WAIT, forwarding.rows_waiting, "every row is in PostgreSQL"),
        ("rows-left-behind", forwarding.rows_waiting, "every row is in PostgreSQL"),
    )
    return [
        Finding(name, "broken" if number else "well", 0.0, wrong="", well=said)
        for name, number, said in left
    ]
