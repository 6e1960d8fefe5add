# SPDX-License-Identifier: Apache-2.0
"""Which occurrence of an equal reading in its file a reading is, in little memory.

A year of seconds has 31 million readings, whose times mostly come once and in order: only a
time that comes again after another one has to be remembered for the whole file.
"""

from datetime import datetime

_Reading = tuple[int, datetime, float]


class Occurrences:
    """``note`` each row's time in a first pass; ``number`` each reading in a second one.

    Beyond *most* times that may come again, in either direction, all readings are remembered.
    """

    def __init__(self, most: int = 200_000) -> None:
        self._most = most
        self._last: datetime | None = None
        self._latest: datetime | None = None
        self._earliest: datetime | None = None
        #: Times that come at or before the latest one so far, and at or after the earliest.
        self._behind: set[datetime] | None = set()
        self._ahead: set[datetime] | None = set()
        self._numbers: dict[_Reading, int] = {}
        self._current: datetime | None = None
        self._of_current: dict[_Reading, int] = {}

    def note(self, moment: datetime) -> None:
        """Look at the time of a row."""
        if moment == self._last:
            return  # told apart where they follow each other
        self._last = moment
        if self._latest is None or moment > self._latest:
            self._latest = moment
        else:
            self._behind = self._with(self._behind, moment)
        if self._earliest is None or moment < self._earliest:
            self._earliest = moment
        else:
            self._ahead = self._with(self._ahead, moment)

    def number(self, place: int, moment: datetime, value: float) -> int:
        """Return how many readings of this file before this one say the same."""
        reading = place, moment, value
        again = self._again
        if again is None or moment in again:
            numbers = self._numbers
        else:
            if moment != self._current:
                self._current = moment
                self._of_current.clear()
            numbers = self._of_current
        number = numbers.get(reading, 0)
        numbers[reading] = number + 1
        return number

    @property
    def held(self) -> int:
        """How many readings are remembered."""
        return len(self._numbers) + len(self._of_current)

    @property
    def _again(self) -> set[datetime] | None:
        """Times that may come again after others; None: any."""
        if self._behind is None or self._ahead is None:
            return self._ahead if self._behind is None else self._behind
        return min(self._behind, self._ahead, key=len)

    def _with(self, found: set[datetime] | None, moment: datetime) -> set[datetime] | None:
        if found is None or len(found) == self._most:
            return None
        found.add(moment)
        return found
