# SPDX-License-Identifier: Apache-2.0
"""``state/postgres-hold``: why PostgreSQL is not to be chosen, and for how long.

A box may start in 1970 and leap to the present, so a hold keeps time on the clock that
runs since boot (it counts suspension, too) and falls back on the wall clock only across
a reboot. Whatever the clocks do, no hold lasts longer than it was written for.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepaas.files.atomic import remove_durably, write_atomic
from edgepaas.timing.moment import Moment, current_moment, rfc3339


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
    write_atomic(path, json.dumps(entry, indent=2) + "\n")


def read_hold(path: Path, now: Moment | None = None) -> Hold | None:
    """Return the hold that is in force *now*; None without one.

    A file that cannot be understood holds nothing: it would otherwise do so for ever.
    """
    now = now or current_moment()
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        remaining = _remaining(entry, now)
        reason = " ".join(str(entry["reason"]).split())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return Hold(reason, remaining) if remaining > 0 else None


def clear_hold(path: Path) -> None:
    """Let PostgreSQL be chosen again; raises OSError."""
    remove_durably(path)


def _remaining(entry: dict[str, Any], now: Moment) -> float:
    length = float(entry["seconds"])
    same_boot = bool(now.boot_id) and entry["boot_id"] == now.boot_id
    if same_boot:
        passed = now.since_boot - float(entry["since_boot"])
    else:
        passed = now.wall - float(entry["wall"])
    # Negative: the clock was set back since; NaN and infinity fail the comparison as well.
    return length - passed if 0 <= passed < length < float("inf") else 0.0
