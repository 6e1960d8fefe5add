# SPDX-License-Identifier: Apache-2.0
"""API fields for moments: date-times of RFC 3339, in a body and in a query string."""

import re
from datetime import datetime
from typing import Any

import marshmallow as ma

from edgepaas.app.api import NotPlain, PlainDumper, PlainLoader, printable, with_checks
from edgepaas.telemetry.times import EXAMPLE, as_utc, format_moment, parse_moment

#: In a query string + is a blank: a moment whose + was not written %2B.
_LOST_PLUS = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d\S*) (\d\d:\d\d)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


class Moment(ma.fields.DateTime):
    """A date-time of RFC 3339 in the years 1970 to 9999; without a zone it is UTC."""

    #: What the message for a wrong one ends with.
    advice = ""

    def __init__(self, **kwargs: Any) -> None:
        metadata = {"example": EXAMPLE, **kwargs.pop("metadata", {})}
        super().__init__(metadata=metadata, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        try:
            return as_utc(parse_moment(self.meant(value) if isinstance(value, str) else ""))
        except ValueError as error:
            shown = f"'{printable(value)}': " if isinstance(value, str) else ""
            said = str(error) if shown else f"{str(error)[:1].upper()}{str(error)[1:]}"
            raise ma.ValidationError(f"{shown}{said}{self.advice}.") from None

    def plain_loader(self) -> PlainLoader:
        """Return what takes such a moment."""
        meant = self.meant

        def load(value: Any) -> datetime:
            if type(value) is not str:
                raise NotPlain
            try:
                return as_utc(parse_moment(meant(value)))
            except ValueError:
                raise NotPlain from None

        return with_checks(load, self.validators)

    def plain_dumper(self) -> PlainDumper:
        """Return what writes a stored moment."""
        return _dump_moment

    def meant(self, text: str) -> str:
        """Return the date-time that *text* stands for."""
        return text

    def _serialize(
        self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any
    ) -> str | None:
        return None if value is None else format_moment(value)


def _dump_moment(value: Any) -> str:
    # SQLite has text: RFC 3339 in UTC with six digits of the second's fraction.
    if type(value) is str:
        return f'"{value[:19]}Z"' if value[19:] == ".000000Z" else f'"{value[:-1].rstrip("0")}Z"'
    return f'"{format_moment(value)}"'


class MomentInAddress(Moment):
    """As above, in a query string: a + may have become a blank; a date is its midnight (UTC)."""

    advice = " (in an address + is written %2B)"

    def meant(self, text: str) -> str:
        """Return the date-time that *text* stands for."""
        if _DATE.fullmatch(text):
            return f"{text}T00:00:00Z"
        found = _LOST_PLUS.fullmatch(text)
        return f"{found[1]}+{found[2]}" if found else text
