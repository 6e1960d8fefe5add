# SPDX-License-Identifier: Apache-2.0
"""Cursors of lists: where a page ended, in words that hold on either database."""

import base64
import binascii
import struct
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from edgepaas.telemetry.times import EARLIEST

#: Version of the form, microseconds since 1970, the id's bytes.
_FORM = struct.Struct(">Bq16s")
#: The version says whether the list was whole; the first releases did not know.
_UNTOLD, _PARTIAL, _WHOLE = 1, 2, 3
_MICROSECOND = timedelta(microseconds=1)


class BadCursor(ValueError):
    """The text is no cursor that this API gave out."""


@dataclass(frozen=True)
class Cursor:
    """The last row of a page: its moment and its id, by which every list is sorted.

    It names values, not a place in one database: a page that SQLite began goes on from
    the same row on PostgreSQL. Text on PostgreSQL sorts by locale and on SQLite by
    bytes, so no list is sorted by a name.
    """

    moment: datetime
    id: uuid.UUID
    #: Whether no row was missing when the list began: the client is to see all of it.
    whole: bool = True

    def encode(self) -> str:
        """Return the cursor as text for addresses, opaque to clients."""
        microseconds = (self.moment - EARLIEST) // _MICROSECOND
        version = _WHOLE if self.whole else _PARTIAL
        packed = _FORM.pack(version, microseconds, self.id.bytes)
        return base64.urlsafe_b64encode(packed).decode("ascii").rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """Return what :meth:`encode` made; raises BadCursor for anything else."""
        try:
            padded = text + "=" * (-len(text) % 4)
            packed = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
            version, microseconds, identity = _FORM.unpack(packed)
            if version not in (_UNTOLD, _PARTIAL, _WHOLE) or microseconds < 0:
                raise BadCursor(text)
            moment = EARLIEST + microseconds * _MICROSECOND
            return cls(moment, uuid.UUID(bytes=identity), version != _PARTIAL)
        except (UnicodeEncodeError, binascii.Error, struct.error, OverflowError) as error:
            raise BadCursor(text) from error
