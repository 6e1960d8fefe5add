# SPDX-License-Identifier: Apache-2.0
"""``run/state.json``: the service's word for its box, for the processes beside it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from edgepaas.files import shapes
from edgepaas.files.paths import Paths
from edgepaas.files.records import RecordType, same_fields
from edgepaas.timing.moment import current_moment

#: What a word of the vocabulary looks like; the vocabulary itself is edgepaas.health.state's.
_WORD = re.compile(r"[a-z][a-z-]{0,31}")

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
class StateWord:
    """What the service said last, and whether the process that said so still runs."""

    word: str
    living: bool


def leave_word(paths: Paths, word: str) -> None:
    """Leave *word* as that of this process; raises OSError.

    It is not synced: what is true of a process need not outlive a power cut.
    """
    pid = os.getpid()
    entry = {
        "state": word,
        "pid": pid,
        "started": _started(pid),
        "boot_id": current_moment().boot_id,
    }
    RECORD.write_unsynced(paths.state_word, entry)


def read_word(paths: Paths) -> StateWord | None:
    """Return what was left since this boot; None without anything that can be understood."""
    found = RECORD.read_or_none(paths.state_word)
    if found is None or found["boot_id"] != current_moment().boot_id:
        return None
    word, pid, started = found["state"], found["pid"], found["started"]
    if not _WORD.fullmatch(word):
        return None
    # A process id alone is given out again: in a container that starts anew at once.
    return StateWord(word, living=started > 0 and _started(pid) == started)


def _started(pid: int) -> int:
    """Return when the process was started, in clock ticks since boot (proc(5)); 0: not known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The second field is a name in brackets, of any characters; starttime is the 22nd.
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
