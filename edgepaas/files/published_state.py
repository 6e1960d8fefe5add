# SPDX-License-Identifier: Apache-2.0
"""``run/state.json``: the state that the service published, for the processes beside it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from edgepaas.files import shapes
from edgepaas.files.paths import Paths
from edgepaas.files.records import RecordType, same_fields
from edgepaas.timing.moment import current_moment

#: The form of a state; the states themselves are in edgepaas.health.state.
_STATE = re.compile(r"[a-z][a-z-]{0,31}")

RECORD = RecordType(
    "service-state",
    2,
    {
        "state": shapes.text,
        "pid": shapes.whole,
        "started": shapes.whole,
        "boot_id": shapes.text,
    },
    {1: same_fields},
)


@dataclass(frozen=True)
class PublishedState:
    """The state that a service published last, and whether its process still runs."""

    state: str
    running: bool


def publish_state(paths: Paths, state: str) -> None:
    """Write *state* as that of this process; raises OSError.

    It is not synced: what is true of a process need not outlive a power cut.
    """
    pid = os.getpid()
    entry = {
        "state": state,
        "pid": pid,
        "started": _started(pid),
        "boot_id": current_moment().boot_id,
    }
    RECORD.write_unsynced(paths.published_state, entry)


def read_published_state(paths: Paths) -> PublishedState | None:
    """Return what was published since this boot; None where nothing is understood."""
    found = RECORD.read_or_none(paths.published_state)
    if found is None or found["boot_id"] != current_moment().boot_id:
        return None
    state, pid, started = found["state"], found["pid"], found["started"]
    if not _STATE.fullmatch(state):
        return None
    # A process id alone is reused, in a container that starts anew at once.
    return PublishedState(state, running=started > 0 and _started(pid) == started)


def _started(pid: int) -> int:
    """Return when the process was started, in clock ticks since boot (proc(5)); 0: not known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The second field is a name in brackets, of any characters; starttime is the 22nd.
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
