# SPDX-License-Identifier: Apache-2.0
"""What a rule makes of one device's readings, one after the other: pure, no clock, no database.

Readings are judged in the order in which the box took them in; durations are measured by the
box's own clock, from one receipt to the next. A device's clock, which may stand in 1970 or in
2099, is not asked for one: ``recorded_at`` is for charts. Across a restart of the box no time
passes, since no clock of the box saw it.

``above`` and ``below`` hold for values beyond the threshold (not on it), ``rate`` where the
value changes by more than the threshold a second, up or down. A rate is a property of two
readings: it takes the time between them by the device's clock where that went forward, else
by the box's; without time between two readings there is no rate, and what held goes on. Such a
condition holds from the first reading that shows it, is raised by the first one by which it has
held for ``for_seconds``, and is over with the first one that does not show it. ``absent`` is
raised when no reading came for ``for_seconds`` while the box was ready for readings; it is over
with the next reading.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

#: Microseconds in a second: moments and durations are whole microseconds, so that nothing
#: is rounded on the way.
SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class ActiveRule:
    """An enabled rule; *threshold* is 0.0 where the condition looks at no value."""

    id: str
    name: str
    device: str | None
    metric: str
    condition: str
    threshold: float
    for_seconds: int
    severity: str

    def judges_as(self, other: "ActiveRule") -> bool:
        """Tell whether what was found by *other* still holds: both demand the same."""
        return _demand(self) == _demand(other)


def _demand(watch: ActiveRule) -> tuple[Any, ...]:
    return (watch.device, watch.metric, watch.condition, watch.threshold, watch.for_seconds)


class Received(NamedTuple):
    """When the box took a reading in, by its own clocks, in microseconds.

    *since_boot* of the start that *boot* names; *wall* is for people, and may have been wrong.
    """

    boot: str
    since_boot: int
    wall: int


#: What an earlier release stored before it noted when: no time passes before it.
UNKNOWN = Received("", 0, 0)


@dataclass(slots=True)
class Series:
    """What is known of one device's readings by one rule; moments in microseconds.

    *newest* and *last* are the device's, since 1970; *since* is the box's wall clock.
    """

    newest: int | None = None
    newest_value: float = 0.0
    last: int | None = None
    last_value: float = 0.0
    #: Since when the condition holds, and for how long by now.
    since: int | None = None
    held: int = 0
    raised: bool = False
    #: The box's count of ready seconds when the last reading came.
    ready_seconds: float = 0.0
    #: When the last reading came, by the clocks of the box.
    boot: str = ""
    received: int = 0
    received_wall: int | None = None


@dataclass(frozen=True, slots=True)
class ConditionChange:
    """A condition was raised, or is over: since when it held, and the reading that showed it.

    Times are those of the box's wall clock in microseconds. *since* is None where no reading
    ever came, *at* where none came at last. *lasted*: for how many microseconds it had held.
    """

    raised: bool
    since: int | None
    at: int | None
    value: float | None = None
    lasted: int = 0


def advance(
    watch: ActiveRule,
    series: Series,
    moment: int,
    value: float,
    received: Received,
    *,
    ready_seconds: float = 0.0,
) -> Iterable[ConditionChange]:
    """Judge the next reading and keep in *series* what the one after it needs.

    *moment* is its ``recorded_at``; *ready_seconds*: how long the box was ready for readings.
    """
    passed = _passed(series, received)
    changes: Iterable[ConditionChange]
    if watch.condition == "absent":
        changes = _heard_from(series, value, received, ready_seconds)
    elif (holds := _holds(watch, value, *_step(series, moment, passed))) is None:
        changes = ()
    elif holds:
        changes = _held(watch, series, value, passed, received)
    else:
        changes = _ended(series, value, passed, received)
    series.last, series.last_value = moment, value
    if series.newest is None or moment >= series.newest:
        series.newest, series.newest_value = moment, value
    series.boot, series.received = received.boot, received.since_boot
    series.received_wall = received.wall
    return changes


def fall_silent(
    watch: ActiveRule, series: Series, ready_seconds: float
) -> Iterable[ConditionChange]:
    """Judge that no reading came; *ready_seconds*: how long the box was ready for one so far."""
    if series.raised or ready_seconds - series.ready_seconds < watch.for_seconds:
        return ()
    series.raised, series.since = True, series.received_wall
    return (ConditionChange(True, series.since, None),)


def _passed(series: Series, received: Received) -> int:
    """Return the time since the reading before by the box's clock; 0 where it did not see it."""
    if not received.boot or received.boot != series.boot:
        return 0
    return max(0, received.since_boot - series.received)


def _step(series: Series, moment: int, passed: int) -> tuple[float, int]:
    """Return the value that a rate is taken from, and the time since that one."""
    if series.last is None or series.newest is None:
        return 0.0, 0
    if moment > series.newest:
        return series.newest_value, moment - series.newest
    return series.last_value, (moment - series.last if moment > series.last else passed)


def _holds(watch: ActiveRule, value: float, base: float, passed: int) -> bool | None:
    """Return whether the condition holds; None where this reading does not tell."""
    if watch.condition == "above":
        return value > watch.threshold
    if watch.condition == "below":
        return value < watch.threshold
    if not passed:
        return None
    return abs(value - base) * SECOND > abs(watch.threshold) * passed


def _held(
    watch: ActiveRule, series: Series, value: float, passed: int, received: Received
) -> Iterable[ConditionChange]:
    if series.since is None:
        series.since, series.held = received.wall, 0
    else:
        series.held += passed
    if series.raised or series.held < watch.for_seconds * SECOND:
        return ()
    series.raised = True
    return (ConditionChange(True, series.since, received.wall, value, series.held),)


def _ended(
    series: Series, value: float, passed: int, received: Received
) -> Iterable[ConditionChange]:
    since, held, was_raised = series.since, series.held + passed, series.raised
    series.since, series.held, series.raised = None, 0, False
    return (ConditionChange(False, since, received.wall, value, held),) if was_raised else ()


def _heard_from(
    series: Series, value: float, received: Received, ready_seconds: float
) -> Iterable[ConditionChange]:
    if not series.raised:
        return ()
    since, lasted = series.since, round((ready_seconds - series.ready_seconds) * SECOND)
    series.raised, series.since = False, None
    return (ConditionChange(False, since, received.wall, value, max(0, lasted)),)
