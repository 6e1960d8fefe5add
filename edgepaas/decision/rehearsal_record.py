# SPDX-License-Identifier: Apache-2.0
"""``run/rehearsal``: PostgreSQL was found good, over the path that will serve, a moment ago.

The drainer writes it just before it asks the service to end for a hand-back. Writes wait from
then on until PostgreSQL serves, so decision and schema stage do not ask again what was found
within the last seconds; the service's gate does. It counts on the clock that runs since boot,
for the same boot and address, and where the schema is at the revisions that are wanted.
"""

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgepaas.files import shapes
from edgepaas.files.records import RecordType
from edgepaas.timing.moment import Moment, current_moment, read_moment

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths

RECORD = RecordType(
    "rehearsal",
    1,
    {
        "fingerprint": shapes.text,
        "revisions": shapes.list_of(shapes.text),
        "wall": shapes.number,
        "since_boot": shapes.number,
        "boot_id": shapes.text,
    },
)

#: Seconds for which it counts: a service that does not end within them is not handed back to
#: (edgepaas.sync.handback.TAKEOVER_TIMEOUT).
VALID = 15.0


def note_rehearsal(
    paths: "Paths", url: str, revisions: Sequence[str], now: Moment | None = None
) -> None:
    """Record that the PostgreSQL at *url* is at *revisions* and takes writes; raises OSError."""
    now = now or current_moment()
    fields = {"fingerprint": _fingerprint(url), "revisions": sorted(revisions), **now.as_dict()}
    RECORD.write_unsynced(paths.rehearsal, fields)


def fresh_rehearsal(paths: "Paths", url: str, now: Moment | None = None) -> frozenset[str] | None:
    """Return the revisions that the PostgreSQL at *url* was found at within VALID seconds.

    None where it was not.
    """
    now = now or current_moment()
    found = RECORD.read_or_none(paths.rehearsal)
    if found is None or found["fingerprint"] != _fingerprint(url):
        return None
    try:
        noted = read_moment(found)
    except ValueError:
        return None
    passed = now.since_boot - noted.since_boot
    if not now.same_boot(noted) or not 0 <= passed < VALID:
        return None
    return frozenset(found["revisions"])


def _fingerprint(url: str) -> str:
    """Return what tells an address apart from one that was configured meanwhile."""
    # ``hashlib`` loads OpenSSL, which a start has no time for, and nobody is to be kept out.
    return f"{zlib.crc32(url.encode()):08x}-{len(url)}"
