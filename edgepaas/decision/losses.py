# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL lost in service: the mark that the service writes, and the limit on flapping.

Falling back is never refused. Choosing PostgreSQL again after a loss is bounded, or a
server that comes and goes would interrupt every request for as long as it does so.
"""

import contextlib
from pathlib import Path

from edgepaas.files import shapes
from edgepaas.files.atomic import remove_durably
from edgepaas.files.paths import Paths
from edgepaas.files.records import NotThisRecord, RecordType
from edgepaas.timing.moment import Moment

#: How often PostgreSQL may be chosen again while a service runs, within RETURN_WINDOW seconds,
#: unless HANDBACK_PER_HOUR says otherwise.
MOST_RETURNS = 6
RETURN_WINDOW = 3600.0
#: No setting allows more.
_KEPT_RETURNS = 3600

#: ``run/db-lost``.
LOSS = RecordType("database-loss", 2, {"reason": shapes.text})
#: ``run/db-returns.json``: seconds since the boot of each return.
RETURNS = RecordType(
    "postgres-returns",
    2,
    {"times": shapes.list_of(shapes.number)},
    {1: lambda times: {"times": times}},
)


def loss_mark(paths: Paths) -> Path:
    """``run/db-lost``: the service lost its database and asks for a new decision."""
    return paths.runtime / "db-lost"


def mark_loss(paths: Paths, reason: str) -> None:
    """Write the mark, just before ending with exit status 75; raises OSError."""
    LOSS.write(loss_mark(paths), {"reason": " ".join(reason.split())})


def loss_reason(paths: Paths) -> str | None:
    """Return why the service lost its database, None when it did not."""
    try:
        found = LOSS.read(loss_mark(paths))
    except (OSError, NotThisRecord):
        return "lost in service"  # the mark is there, whatever is in it
    if found is None:
        return None
    return " ".join(found["reason"].split())[:300] or "lost in service"


def clear_loss(paths: Paths) -> None:
    """Remove the mark after the next decision; raises OSError."""
    remove_durably(loss_mark(paths))


def seconds_until_return(paths: Paths, now: Moment, most: int = MOST_RETURNS) -> float:
    """Return for how many seconds PostgreSQL must not be chosen again; 0.0: it may be.

    *most*: how often it may be within RETURN_WINDOW seconds.
    """
    returns = _returns(paths, now)
    if len(returns) < most:
        return 0.0
    return RETURN_WINDOW - (now.since_boot - returns[-most])


def record_return(paths: Paths, now: Moment) -> None:
    """Count that PostgreSQL was chosen again after a loss, or is handed back to."""
    # Uncounted is better than not started: the count only spares interruptions.
    with contextlib.suppress(OSError):
        RETURNS.write(_file(paths), {"times": [*_returns(paths, now), now.since_boot]})


def _file(paths: Paths) -> Path:
    # In run/, which a reboot empties: the monotonic clock that it uses starts anew then, too.
    return paths.runtime / "db-returns.json"


def _returns(paths: Paths, now: Moment) -> list[float]:
    found = RETURNS.read_or_none(_file(paths))
    times = [] if found is None else found["times"]
    return [time for time in times if 0 <= now.since_boot - time < RETURN_WINDOW][-_KEPT_RETURNS:]
