# SPDX-License-Identifier: Apache-2.0
"""``run/link.json``: how long a round trip to PostgreSQL takes, for the box's next process.

Decision, service and drainer measure it as they connect and ask; each begins with what the
last one found, so that its first limits fit the link. It lies in ``run/``: after a reboot the
box may stand elsewhere.
"""

import contextlib
from typing import TYPE_CHECKING

from edgepaas.files import shapes
from edgepaas.files.records import RecordType
from edgepaas.pgdriver.hosts import endpoint_of
from edgepaas.timing.link import Link

if TYPE_CHECKING:
    from pathlib import Path

    from edgepaas.files.paths import Paths
    from edgepaas.settings.urls import Address

RECORD = RecordType("link", 1, {"endpoint": shapes.text, "round_trip": shapes.number})

#: A change by less than this share, or by less than this many seconds, is not written.
_SHARE = 0.25
_LEAST_CHANGE = 0.005


def recorded_link(paths: "Paths", address: "Address", *, recording: bool = True) -> Link:
    """Return the link to *address*, beginning with what is recorded.

    Changes are recorded, unless *recording* is false.
    """
    endpoint = endpoint_of(address)
    known = _known(paths, endpoint)
    recorder = _Recorder(paths.link, endpoint, known)
    return Link(known, on_change=recorder.record if recording else None)


def record_link(paths: "Paths", address: "Address", link: Link) -> None:
    """Record what *link* to *address* has measured."""
    endpoint = endpoint_of(address)
    _Recorder(paths.link, endpoint, _known(paths, endpoint)).record(link.round_trip)


def _known(paths: "Paths", endpoint: str) -> float:
    found = RECORD.read_or_none(paths.link)
    return found["round_trip"] if found is not None and found["endpoint"] == endpoint else 0.0


class _Recorder:
    """Writes an estimate that has changed."""

    def __init__(self, path: "Path", endpoint: str, written: float) -> None:
        self._path = path
        self._endpoint = endpoint
        self._written = written

    def record(self, round_trip: float) -> None:
        """Write *round_trip*; one that cannot be written is measured again by the next process."""
        change = abs(round_trip - self._written)
        if change < max(_SHARE * self._written, _LEAST_CHANGE):
            return
        self._written = round_trip
        with contextlib.suppress(OSError):
            RECORD.write_unsynced(
                self._path, {"endpoint": self._endpoint, "round_trip": round(round_trip, 4)}
            )
