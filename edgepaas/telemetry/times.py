# SPDX-License-Identifier: Apache-2.0
"""Moments: RFC 3339 in, aware UTC inside, RFC 3339 with ``Z`` out."""

import re
from datetime import UTC, datetime, tzinfo

#: date-time of RFC 3339 section 5.6; a blank for the T, missing seconds and a missing
#: zone are taken as well, since that is how loggers write their files.
_DATE_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:[Zz]|[+-]\d\d:\d\d)?", re.ASCII
)

#: What both databases, every client and a clock without a battery agree on.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
EXAMPLE = "2024-05-01T12:30:00Z"


def parse_moment(text: str) -> datetime:
    """Return the date-time that *text* names, naive where it names no zone.

    Fractions finer than a microsecond are cut off. Raises ValueError, which says what
    is wrong, for anything but a date with a time of day.
    """
    # The pattern first: fromisoformat() also takes week dates and dates without a time.
    if not _DATE_TIME.fullmatch(text):
        raise ValueError(f"not a date and time like {EXAMPLE}")
    try:
        return datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise ValueError(f"no such date or time ({error})") from error


def as_utc(moment: datetime, zone: tzinfo = UTC) -> datetime:
    """Return *moment* in UTC; a naive one is taken to be local to *zone*.

    Raises ValueError for a moment before 1970 or after the year 9999 (UTC).
    """
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie in the years 1970 to 9999 (UTC)") from None
    if moment < EARLIEST:
        raise ValueError("must lie in the years 1970 to 9999 (UTC)")
    return moment


def format_moment(moment: datetime) -> str:
    """Return an aware *moment* as RFC 3339 in UTC, e.g. ``2024-05-01T12:30:00.25Z``."""
    text = moment.astimezone(UTC).replace(tzinfo=None).isoformat()
    return (text.rstrip("0") if "." in text else text) + "Z"
