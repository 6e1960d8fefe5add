# SPDX-License-Identifier: Apache-2.0
"""One reading of the clocks, and how long ago an earlier one was.

A box may start in 1970 and leap to the present, so whatever measures time across processes
keeps it on the clock that runs since boot (it counts suspension, too) and falls back on the
wall clock only across a reboot.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: The end of 9999, the last year that RFC 3339 can write.
_LAST_SECOND = 253402300799.0


@dataclass(frozen=True)
class Moment:
    """One reading of the clocks, in seconds; ``boot_id`` tells boots apart, if it is known."""

    wall: float
    since_boot: float
    boot_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as a file keeps it; :func:`read_moment` reads it back."""
        return {"wall": self.wall, "since_boot": self.since_boot, "boot_id": self.boot_id}

    def same_boot(self, other: "Moment") -> bool:
        """Whether both were read since the same start of the box."""
        return bool(self.boot_id) and self.boot_id == other.boot_id

    def seconds_since(self, earlier: "Moment") -> float | None:
        """Return the seconds from *earlier* to this moment; None where no clock can tell.

        That is so when the box was started in between and the wall clock was set back.
        """
        if self.same_boot(earlier):
            return max(0.0, self.since_boot - earlier.since_boot)
        passed = self.wall - earlier.wall
        return passed if passed >= 0 else None


def rfc3339(wall: float, *, milliseconds: bool = False) -> str:
    """Return seconds since 1970 in UTC, as ``2026-01-31T12:00:00Z``; nothing beyond year 9999."""
    whole, fraction = divmod(max(0.0, min(wall, _LAST_SECOND)), 1)
    base = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{base}.{int(fraction * 1000):03d}Z" if milliseconds else f"{base}Z"


def current_moment() -> Moment:
    """Read the clocks."""
    try:
        boot_id = _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        boot_id = ""  # no /proc: the wall clock decides alone
    return Moment(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), boot_id)


def read_moment(entry: Mapping[str, Any]) -> Moment:
    """Return the moment of :meth:`Moment.as_dict`; KeyError, TypeError or ValueError for none."""
    wall, since_boot = float(entry["wall"]), float(entry["since_boot"])
    if not abs(wall) < 1e13 or not abs(since_boot) < 1e13:  # NaN and infinity as well
        raise ValueError("a clock that cannot be")
    return Moment(wall, since_boot, str(entry["boot_id"]))
