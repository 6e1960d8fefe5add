# SPDX-License-Identifier: Apache-2.0
"""Times without a zone to UTC, where summer time repeats an hour and leaves one out.

A time that a zone has twice is told by the rows around it, or named as one that cannot be
told: the export may have its newest row first, rows out of their order, or one of the hours.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Literal

from edgepaas.telemetry.times import as_utc

#: What becomes of a time that comes twice: told by its neighbours where these leave no
#: doubt; by the order of rows alone; always the first, or the second one.
Repeated = Literal["certain", "order", "first", "second"]
Order = Literal["oldest-first", "newest-first"]

_ZERO = timedelta()
#: Of all steps, so many times as many go one way as the other.
_MOST = 3
#: Different steps that are counted; a file of irregular times has no usual one.
_STEPS_COUNTED = 10_000
#: Two changes of a zone's offset lie further apart.
_APART = timedelta(hours=12)


@dataclass(slots=True)
class _Repeated:
    """A row whose time comes twice, and the rows beside it whose times do not."""

    line: int
    at: int
    naive: datetime
    length: timedelta
    before: datetime | None
    after: datetime | None = None


class LocalTimes:
    """Times local to *zone*: ``note`` each row in file order, then ``settle``, then ``utc``."""

    def __init__(
        self, zone: tzinfo, repeated: Repeated = "certain", order: Order | None = None
    ) -> None:
        self.zone = zone
        self._name = str(zone)
        self._repeated = repeated
        self._order = order
        self._noted = 0
        self._last: datetime | None = None
        self._last_single: datetime | None = None
        self._last_repeated = False
        self._open: list[_Repeated] = []
        self._rows: list[_Repeated] = []
        self._steps: Counter[timedelta] = Counter()
        self._directions = [0, 0, 0]  # forward, back, none: between times that come once
        self._folds: dict[int, int] = {}
        self._problems: dict[int, str] = {}

    def note(self, line: int, naive: datetime) -> None:
        """Look at the time of a row."""
        first, second = self._offsets(naive)
        repeated = first > second
        if self._last is not None:
            step = naive - self._last
            length = abs(step)
            if length and (length in self._steps or len(self._steps) < _STEPS_COUNTED):
                self._steps[length] += 1
            if not (repeated and self._last_repeated):
                self._directions[0 if step > _ZERO else 1 if step < _ZERO else 2] += 1
        if repeated:
            row = _Repeated(line, self._noted, naive, first - second, self._last_single)
            self._rows.append(row)
            self._open.append(row)
        else:
            for row in self._open:
                row.after = naive
            self._open.clear()
            self._last_single = naive
        self._last, self._last_repeated = naive, repeated
        self._noted += 1

    def settle(self) -> None:
        """Decide which pass of its hour each repeated time belongs to."""
        for night in _nights(self._rows):
            self._settle_night(sorted(night, key=lambda row: row.at))

    def utc(self, line: int, naive: datetime) -> datetime:
        """Return the moment of the row on *line*; raises ValueError where there is none, or two."""
        first, second = self._offsets(naive)
        if first == second:
            return as_utc(naive, self.zone)
        if first < second:
            raise ValueError(
                f"{self._name} does not have this time: its clocks are put forward over it by "
                f"{_length(second - first)}; is the file in another zone?"
            )
        if line in self._problems:
            raise ValueError(self._problems[line])
        fold = self._folds.get(line, 0)
        return as_utc(naive.replace(tzinfo=self.zone, fold=fold))

    @property
    def repeated(self) -> int:
        """How many rows have a time that comes twice."""
        return len(self._rows)

    def _offsets(self, naive: datetime) -> tuple[timedelta, timedelta]:
        local = naive.replace(tzinfo=self.zone)
        return local.utcoffset() or _ZERO, local.replace(fold=1).utcoffset() or _ZERO

    def _direction(self) -> int:
        """Return 1 for oldest first, -1 for newest first, 0 where the rows have no order."""
        if self._order is not None:
            return 1 if self._order == "oldest-first" else -1
        forward, back, _ = self._directions
        if forward + back == 0:
            naive = [row.naive for row in self._rows]
            steps = [two - one for one, two in pairwise(naive)]
            forward, back = (
                sum(step > _ZERO for step in steps),
                sum(step < _ZERO for step in steps),
            )
        if forward >= _MOST * back and forward:
            return 1
        return -1 if back >= _MOST * forward and back else 0

    def _settle_night(self, rows: list[_Repeated]) -> None:
        if self._repeated in ("first", "second"):
            self._folds.update((row.line, int(self._repeated == "second")) for row in rows)
            return
        direction = self._direction()
        whole = rows[-1].at - rows[0].at == len(rows) - 1
        if direction and (whole or self._repeated == "order"):
            told = self._tell(rows[::direction], direction)
            if told is not None:
                self._folds.update(told)
                return
        why = "its rows have no order" if not direction else "the rows around it do not tell which"
        problem = (
            f"{self._name} has this time twice (its clocks go back), and {why}: say "
            "--repeated-hour first, second or order"
        )
        self._problems.update((row.line, problem) for row in rows)

    def _tell(self, rows: Sequence[_Repeated], direction: int) -> dict[int, int] | None:
        """Return the pass of each of *rows*, which are oldest first; None: it cannot be told."""
        # Equal times are no second pass where the file has equal ones at other times too.
        strict = self._directions[2] == 0
        second = [
            at
            for at in range(1, len(rows))
            if rows[at].naive < rows[at - 1].naive
            or (strict and rows[at].naive == rows[at - 1].naive)
        ]
        if self._repeated == "order":
            begin = second[0] if second else len(rows)
            return {row.line: int(at >= begin) for at, row in enumerate(rows)}
        if len(second) == 1:
            at = second[0]
            step = rows[at].naive + rows[at].length - rows[at - 1].naive
            return (
                {row.line: int(place >= at) for place, row in enumerate(rows)}
                if self._usual(step)
                else None
            )
        if second:
            return None
        oldest, newest = rows[0], rows[-1]
        before, after = (
            (oldest.before, newest.after) if direction == 1 else (oldest.after, newest.before)
        )
        # One pass is there, of which both neighbours have to tell the same.
        ways = [self._steps_beside(before, oldest, newest, after, fold) for fold in (0, 1)]
        for fits in (self._usual, self._exact):
            found = [fold for fold, steps in enumerate(ways) if steps and all(map(fits, steps))]
            if len(found) == 1:
                return dict.fromkeys((row.line for row in rows), found[0])
        return None

    @staticmethod
    def _steps_beside(
        before: datetime | None,
        oldest: _Repeated,
        newest: _Repeated,
        after: datetime | None,
        fold: int,
    ) -> list[timedelta]:
        """Return the real steps from and to the rows beside a run, where it is pass *fold*."""
        late = oldest.length
        steps = [] if before is None else [oldest.naive - before + late * fold]
        return steps if after is None else [*steps, after - newest.naive + late * (1 - fold)]

    def _exact(self, step: timedelta) -> bool:
        """Tell whether *step* is the commonest one of this file."""
        return bool(self._steps) and step == self._steps.most_common(1)[0][0]

    def _usual(self, step: timedelta) -> bool:
        """Tell whether *step* is about the commonest one of this file, or less."""
        return bool(self._steps) and _ZERO < step < 1.5 * self._steps.most_common(1)[0][0]


def _nights(rows: list[_Repeated]) -> list[list[_Repeated]]:
    """Return *rows* by the change of offset that repeats their time."""
    nights: list[list[_Repeated]] = []
    for row in sorted(rows, key=lambda row: row.naive):
        if nights and row.naive - nights[-1][-1].naive < _APART:
            nights[-1].append(row)
        else:
            nights.append([row])
    return nights


def _length(length: timedelta) -> str:
    minutes = int(length.total_seconds()) // 60
    return f"{minutes // 60} h" if minutes % 60 == 0 else f"{minutes} min"
