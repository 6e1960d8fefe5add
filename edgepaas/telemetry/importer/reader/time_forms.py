# SPDX-License-Identifier: Apache-2.0
"""The forms in which loggers write times: each parses strictly, and a file has one."""

import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

from edgepaas.telemetry.importer.failures import quoted_cell
from edgepaas.telemetry.times import EXAMPLE

ISO, DAY_FIRST, MONTH_FIRST = "iso", "day-first", "month-first"
#: Epoch forms with the decimal digits of a second that their unit stands for.
EPOCHS = {"epoch-s": 0, "epoch-ms": 3, "epoch-us": 6, "epoch-ns": 9}
NAMES = (ISO, DAY_FIRST, MONTH_FIRST, *EPOCHS)

#: From a cell to its moment, naive where it names no zone; raises ValueError with the problem.
TimeParser = Callable[[str], datetime]

_CLOCK = (
    r"(?P<hour>\d\d?):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?: ?(?P<half>[AaPp])[Mm])?(?: ?(?P<zone>[Zz]|UTC|GMT|[+-]\d\d(?::?[0-5]\d)?))?"
)
_YEAR_FIRST = re.compile(
    rf"(?P<year>\d{{4}})(?P<mark>[-/.])(?P<month>\d\d?)(?P=mark)(?P<day>\d\d?)(?:[Tt]| +){_CLOCK}",
    re.ASCII,
)
_YEAR_LAST = re.compile(
    rf"(?P<one>\d\d?)(?P<mark>[-/.])(?P<two>\d\d?)(?P=mark)(?P<year>\d{{4}})(?:,? +|[Tt]){_CLOCK}",
    re.ASCII,
)
_EPOCH = re.compile(r"(?P<whole>\d{1,20})(?:[.,](?P<fraction>\d{1,9}))?", re.ASCII)
#: Digits before the point of a moment between 1973 and 2286, by form.
_EPOCH_DIGITS = {9: "epoch-s", 10: "epoch-s"} | {
    digits + fine: name for name, fine in EPOCHS.items() if fine for digits in (9, 10)
}
#: A date and time without marks, of 10 to 14 digits, which may be a number of an epoch too.
_COMPACT = re.compile(
    r"(?:19|20)?\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d)?",
    re.ASCII,
)
_SHORT_YEAR = re.compile(r"\d\d?[-/.]\d\d?[-/.]\d\d?[Tt ,].*", re.ASCII)
_HALF = re.compile(r"\d ?[AaPp][Mm]\b", re.ASCII)
#: Among the forms that a text may have; not one that is taken without being said.
_UNMARKED = "a date without marks"
_PROBE = datetime(2026, 11, 23, 15, 4, 5, tzinfo=UTC)
_START = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)


def time_parser(name: str, *, leap_second: bool = False, said: bool = True) -> TimeParser:
    """Return the parser of the form *name*, or of a strptime pattern such as ``%d%m%y %H:%M``.

    *leap_second*: take second 60 as the second that follows it. *said*: by the operator; an
    epoch that was found out has no moments that may be of another one. Raises ValueError for
    a name that is no form.
    """
    if name == ISO:
        return lambda text: _calendar(_YEAR_FIRST.fullmatch(text), "month", "day", leap_second)
    if name in (DAY_FIRST, MONTH_FIRST):
        month, day = ("two", "one") if name == DAY_FIRST else ("one", "two")
        return lambda text: _calendar(_YEAR_LAST.fullmatch(text), month, day, leap_second)
    if name in EPOCHS:
        return lambda text: _epoch(text, name, said)
    if "%" in name:
        _check_pattern(name)
        return lambda text: _by_pattern(text, name)
    raise ValueError(f"one of {', '.join(NAMES)}, or a pattern such as '%d.%m.%y %H:%M'")


def forms_of(text: str) -> frozenset[str]:
    """Return the names of the forms that *text* may have."""
    if _YEAR_FIRST.fullmatch(text):
        return frozenset({ISO})
    found = _YEAR_LAST.fullmatch(text)
    if found:
        one, two = int(found["one"]), int(found["two"])
        # With points the day is first wherever people write it so (CLDR).
        day_first = two <= 12
        month_first = one <= 12 and not (day_first and found["mark"] == ".")
        return frozenset([DAY_FIRST] * day_first + [MONTH_FIRST] * month_first)
    epoch = _EPOCH.fullmatch(text)
    name = _EPOCH_DIGITS.get(len(epoch["whole"])) if epoch else None
    unmarked = _UNMARKED if _COMPACT.fullmatch(text) else None
    return frozenset(filter(None, (name, unmarked)))


class TimeSurvey:
    """Counts which forms a file's times may have, and says which it is."""

    def __init__(self) -> None:
        self._seen: Counter[frozenset[str]] = Counter()
        self._examples: dict[frozenset[str], str] = {}
        self._halves = 0

    def see(self, text: str) -> None:
        """Count *text*, a cell of the column of times."""
        forms = forms_of(text)
        if forms:
            self._seen[forms] += 1
            self._examples.setdefault(forms, text)
            self._halves += has_half_day(text)

    def form(self) -> str:
        """Return the form of most times; raises ValueError where they may be one or another."""
        totals: Counter[str] = Counter()
        for forms, number in self._seen.items():
            totals.update(dict.fromkeys(forms - {_UNMARKED}, number))
        if not totals:
            return ISO
        best = max(totals, key=lambda name: (totals[name], -NAMES.index(name)))
        if best in EPOCHS:
            self._check_epoch(best)
        if best not in (DAY_FIRST, MONTH_FIRST):
            return best
        day, month = frozenset({DAY_FIRST}), frozenset({MONTH_FIRST})
        if bool(self._seen[day]) != bool(self._seen[month]):
            return DAY_FIRST if self._seen[day] else MONTH_FIRST
        if self._seen[day]:
            shown, other = quoted_cell(self._examples[day]), quoted_cell(self._examples[month])
            what = f"{shown} has its day first and {other} its month, and the file has both"
        else:
            shown = quoted_cell(self._examples[day | month])
            what = (
                f"a time such as {shown} may have its day or its month first, and no time of the "
                "file tells which"
            )
        raise ValueError(f"{what}: give --time-format {DAY_FIRST} or --time-format {MONTH_FIRST}")

    def _check_epoch(self, name: str) -> None:
        example = self._examples.get(frozenset({name, _UNMARKED}))
        if example is not None and not self._seen[frozenset({name})]:
            pattern = "%Y%m%d%H%M" if example[:2] in ("19", "20") else "%y%m%d%H%M"
            pattern += "%S" * (len(example) == 12 and pattern[1] == "y")
            raise ValueError(
                f"a time such as {quoted_cell(example)} may be {name} or a date without marks, "
                f"and no time of the file tells which: give --time-format {name} or --time-format "
                f"'{pattern}'"
            )

    @property
    def half_days(self) -> bool:
        """Whether most times name the half of the day, AM or PM."""
        return 2 * self._halves > self._seen.total()

    @property
    def decided(self) -> bool:
        """Whether what was seen tells the form."""
        return any(len(forms) == 1 and _UNMARKED not in forms for forms in self._seen)


def has_half_day(text: str) -> bool:
    """Tell whether the time *text* names AM or PM."""
    return _HALF.search(text) is not None


def other_form(text: str, name: str) -> str:
    """Return which other form than *name* the time *text* has, as part of a message, or nothing."""
    forms = forms_of(text)
    if name in forms:
        return ""
    if known := sorted(forms - {_UNMARKED}):
        return f"{' or '.join(known)}, where the file is {name}"
    if forms:
        return "a date without marks: say its form, as in --time-format '%Y%m%d%H%M%S'"
    if _SHORT_YEAR.fullmatch(text):
        return "a year of two digits: say its form, as in --time-format '%d.%m.%y %H:%M'"
    return ""


def _calendar(found: re.Match[str] | None, month: str, day: str, leap_second: bool) -> datetime:
    if found is None:
        raise ValueError(f"not a date and time like {EXAMPLE}")
    part = found.groupdict()
    hour, second = int(part["hour"]), int(part["second"] or 0)
    if part["half"]:
        if not 1 <= hour <= 12:
            raise ValueError("no such date or time (hour must be in 1..12 with AM and PM)")
        hour = hour % 12 + (12 if part["half"] in "Pp" else 0)
    # Meters call the end of a day 24:00, as ISO 8601 does: the next one's beginning.
    midnight = hour == 24 and not any(
        int(part[name] or 0) for name in ("minute", "second", "fraction")
    )
    leap = second == 60
    if leap and not leap_second:
        raise ValueError("a leap second (:60), which no clock here has; --leap-second takes it")
    try:
        moment = datetime(
            int(part["year"]),
            int(part[month]),
            int(part[day]),
            0 if midnight else hour,
            int(part["minute"]),
            59 if leap else second,
            int((part["fraction"] or "0")[:6].ljust(6, "0")),
            _zone(part["zone"]),
        )
        return moment + timedelta(seconds=1) * leap + _DAY * midnight
    except (ValueError, OverflowError) as error:
        raise ValueError(f"no such date or time ({error})") from error


def _zone(text: str | None) -> timezone | None:
    if text is None:
        return None
    if text[0] not in "+-":
        return UTC
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[3:].lstrip(":") or 0))
    return timezone(-offset if text[0] == "-" else offset)


def _epoch(text: str, name: str, said: bool) -> datetime:
    found = _EPOCH.fullmatch(text)
    if found is None:
        raise ValueError("not a number of an epoch")
    if not said and _EPOCH_DIGITS.get(len(found["whole"])) != name:
        raise ValueError(f"as {name} not in the years 1973 to 2286; --time-format {name} takes it")
    fraction = (found["fraction"] or "").ljust(9, "0")
    nanoseconds = (int(found["whole"]) * 10**9 + int(fraction)) // 10 ** EPOCHS[name]
    try:
        return _START + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        raise ValueError("must lie in the years 1970 to 9999 (UTC)") from None


def _check_pattern(pattern: str) -> None:
    """Raise ValueError for a pattern of which a part of a moment would be passed over."""
    try:
        found = datetime.strptime(_PROBE.strftime(pattern), pattern)
    except (ValueError, re.error) as error:
        raise ValueError(f"not a pattern that can be read ({error})") from error
    if found.date() != _PROBE.date():
        raise ValueError("its year, month or day is missing (%M is the minute, %m the month)")
    if "%Z" in pattern:
        raise ValueError("%Z names no offset: write the text itself, and say --timezone")
    if ("%I" in pattern) != ("%p" in pattern):
        raise ValueError("an hour %I needs %p, and %p an hour %I")


def _by_pattern(text: str, pattern: str) -> datetime:
    try:
        return datetime.strptime(text, pattern)
    except ValueError as error:
        raise ValueError(f"not of the form {pattern} ({error})") from error
