# SPDX-License-Identifier: Apache-2.0
"""What a rule makes of one device's readings, one after the other: pure, no clock, no database.

Readings are judged in the order in which the box took them in; durations are measured by
their ``recorded_at``. Between two readings passes

* what lies between them, where the later one is at least as late;
* nothing, where the clock stepped back: time goes on from there;
* for one that is later than any before it, only what lies since that newest one: a
  reading that comes late and out of order adds no time.

``above`` and ``below`` hold for values beyond the threshold (not on it), ``rate`` where the
value changes by more than the threshold a second, up or down; without time between two
readings there is no rate, and what held goes on. Such a condition holds from the first
reading that shows it, is raised by the first one by which it has held for ``for_seconds``,
and is over with the first one that does not show it. ``absent`` is raised when more than
``for_seconds`` passed between two readings, and when none came for so long while the box
was ready for readings; it is over with the next reading.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

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


@dataclass(slots=True)
class Series:
    """What is known of one device's readings by one rule; moments in microseconds since 1970."""

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


@dataclass(frozen=True, slots=True)
class ConditionChange:
    """A condition was raised, or is over: since when it held, and the reading that showed it.

    *since* is None where no reading ever came, *at* where none came at last.
    """

    raised: bool
    since: int | None
    at: int | None
    value: float | None = None


def advance(
    watch: ActiveRule, series: Series, moment: int, value: float
) -> Iterable[ConditionChange]:
    """Judge the next reading and keep in *series* what the one after it needs."""
    passed, base = _passed(series, moment)
    flips: Iterable[ConditionChange]
    if watch.condition == "absent":
        flips = _heard_from(watch, series, moment, value, passed)
    elif (holds := _holds(watch, value, base, passed)) is None:
        flips = ()
    elif holds:
        flips = _held(watch, series, moment, value, passed)
    else:
        flips = _ended(series, moment, value)
    series.last, series.last_value = moment, value
    if series.newest is None or moment >= series.newest:
        series.newest, series.newest_value = moment, value
    return flips


def fall_silent(
    watch: ActiveRule, series: Series, ready_seconds: float
) -> Iterable[ConditionChange]:
    """Judge that no reading came; *ready_seconds*: how long the box was ready for one so far."""
    if series.raised or ready_seconds - series.ready_seconds < watch.for_seconds:
        return ()
    series.raised, series.since = True, series.last
    return (ConditionChange(True, series.last, None),)


def _passed(series: Series, moment: int) -> tuple[int | None, float]:
    """Return the time since the reading before, None without one, and that one's value."""
    if series.last is None or series.newest is None:
        return None, 0.0
    if moment > series.newest:
        return moment - series.newest, series.newest_value
    return max(0, moment - series.last), series.last_value


def _holds(watch: ActiveRule, value: float, base: float, passed: int | None) -> bool | None:
    """Return whether the condition holds; None where this reading does not tell."""
    if watch.condition == "above":
        return value > watch.threshold
    if watch.condition == "below":
        return value < watch.threshold
    if not passed:
        return None
    return abs(value - base) * SECOND > abs(watch.threshold) * passed


def _held(
    watch: ActiveRule, series: Series, moment: int, value: float, passed: int | None
) -> Iterable[ConditionChange]:
    if series.since is None:
        series.since, series.held = moment, 0
    else:
        series.held += passed or 0
    if series.raised or series.held < watch.for_seconds * SECOND:
        return ()
    series.raised = True
    return (ConditionChange(True, series.since, moment, value),)


def _ended(series: Series, moment: int, value: float) -> Iterable[ConditionChange]:
    since, was_raised = series.since, series.raised
    series.since, series.held, series.raised = None, 0, False
    return (ConditionChange(False, since, moment, value),) if was_raised else ()


def _heard_from(
    watch: ActiveRule, series: Series, moment: int, value: float, passed: int | None
) -> Iterable[ConditionChange]:
    over = ConditionChange(False, series.last, moment, value)
    if series.raised:
        series.raised, series.since = False, None
        return (over,)
    if passed is not None and passed > watch.for_seconds * SECOND:
        # Nobody noticed while it lasted, as when a file is imported: it was, all the same.
        return (ConditionChange(True, series.last, moment, value), over)
    return ()
