# SPDX-License-Identifier: Apache-2.0
"""Whether the clock can be trusted: without a battery, a box boots in 1970 or its image's year."""

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: systemd-timesyncd makes this file once it has set the clock (systemd-timesyncd.service(8)).
SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
#: No box is older than this source: 2025-01-01T00:00:00Z.
EARLIEST = 1735689600
#: 2100-01-01T00:00:00Z.
LATEST = 4102444800
#: adjtimex(2): the clock is not synchronised.
_TIME_ERROR = 5


@dataclass(frozen=True)
class ClockFinding:
    """*trusted* is None when the box offers no way to know."""

    trusted: bool | None
    message: str


def judge_clock(
    *,
    now: Callable[[], float] = time.time,
    synchronised: Path = SYNCHRONISED,
    kernel_state: Callable[[], int | None] | None = None,
) -> ClockFinding:
    """Say whether the wall clock can be trusted: its year, then who set it."""
    seconds = now()
    if not EARLIEST <= seconds < LATEST:
        year = time.gmtime(max(0, min(seconds, 253402300799))).tm_year
        return ClockFinding(False, f"the clock says {year}: it was never set")
    if synchronised.exists():
        return ClockFinding(True, "set by systemd-timesyncd")
    state = (kernel_state or _kernel_state)()
    if state is None:
        return ClockFinding(None, "the year is plausible; who set the clock cannot be known here")
    if state == _TIME_ERROR:
        return ClockFinding(False, "no time source keeps the clock, according to the kernel")
    return ClockFinding(True, "kept by a time source, according to the kernel")


def _kernel_state() -> int | None:
    """Return what adjtimex(2) returns, None where it is not allowed (ProtectClock=)."""
    import ctypes  # half a megabyte, wanted only where the machine is asked about

    library = ctypes.CDLL(None, use_errno=True)
    # Only reading: modes, the first int, stays 0. The struct is 208 bytes on 64-bit
    # Linux and less on 32; more room than it needs does no harm.
    room = ctypes.create_string_buffer(512)
    try:
        state = int(library.adjtimex(room))
    except AttributeError:  # a libc without it
        return None
    if state == -1:
        return None if ctypes.get_errno() in (errno.EPERM, errno.ENOSYS, errno.EACCES) else 5
    return state
