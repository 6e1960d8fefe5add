# SPDX-License-Identifier: Apache-2.0
"""``state/postgres-hold``: the reason and the time for which PostgreSQL is not chosen.

A box may start in 1970 and leap to the present, so a hold keeps time on the clock that
runs since boot (it counts suspension, too) and falls back on the wall clock only across
a reboot. Whatever the clocks do, no hold lasts longer than it was written for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepaas.files import shapes
from edgepaas.files.atomic import remove_durably
from edgepaas.files.records import RecordType, same_fields
from edgepaas.timing.moment import Moment, current_moment, rfc3339

RECORD = RecordType(
    "postgres-hold",
    2,
    {
        "reason": shapes.text,
        "until": shapes.text,
        "seconds": shapes.number,
        "wall": shapes.number,
        "since_boot": shapes.number,
        "boot_id": shapes.text,
    },
    {1: same_fields},
)

#: Seconds from a failed start, or the end of a pause, to the decision that follows it, and more
#: than a slow box needs: a hold that were over by then would lead to the same failure.
UNTIL_DECIDED = 15.0


@dataclass(frozen=True)
class Hold:
    """A hold that is in force; ``remaining`` in seconds."""

    reason: str
    remaining: float


def write_hold(path: Path, reason: str, seconds: float, now: Moment | None = None) -> None:
    """Keep PostgreSQL from being chosen for *seconds* from *now*; raises OSError.

    A hold that is there already is replaced only by one that ends later.
    """
    now = now or current_moment()
    present = read_hold(path, now)
    if present is not None and present.remaining >= seconds:
        return
    until = rfc3339(now.wall + seconds)
    entry = {"reason": reason, "until": until, "seconds": seconds, **now.as_dict()}
    RECORD.write(path, entry)


def hold_after_failed_start(path: Path, reason: str, seconds: float) -> None:
    """Keep PostgreSQL from being chosen since a start on it failed; raises OSError.

    For *seconds*, but at least so long that SQLite is chosen next.
    """
    write_hold(path, reason, max(seconds, UNTIL_DECIDED))


def outlast_pause(path: Path, seconds: float, now: Moment | None = None) -> None:
    """Have a hold that is in force last beyond a pause of *seconds* from *now*; raises OSError.

    A box whose SQLite fails to start as well backs off; were the hold over by then, PostgreSQL
    would be tried, fail and be held again, and nothing would ever serve.
    """
    now = now or current_moment()
    present = read_hold(path, now)
    if present is not None:
        write_hold(path, present.reason, seconds + UNTIL_DECIDED, now)


def read_hold(path: Path, now: Moment | None = None) -> Hold | None:
    """Return the hold that is in force *now*; None without one.

    A file that is not understood holds nothing, for it would do so for ever: it is set aside.
    """
    now = now or current_moment()
    try:
        entry = RECORD.read_or_set_aside(path)
    except OSError:
        return None
    if entry is None:
        return None
    remaining = _remaining(entry, now)
    return Hold(" ".join(entry["reason"].split()), remaining) if remaining > 0 else None


def clear_hold(path: Path) -> None:
    """Remove the hold, so that PostgreSQL may be chosen; raises OSError."""
    remove_durably(path)


def _remaining(entry: dict[str, Any], now: Moment) -> float:
    length = entry["seconds"]
    same_boot = bool(now.boot_id) and entry["boot_id"] == now.boot_id
    passed = now.since_boot - entry["since_boot"] if same_boot else now.wall - entry["wall"]
    # Negative: the clock was set back since.
    return float(length - passed) if 0 <= passed < length else 0.0
