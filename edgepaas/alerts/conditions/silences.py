# SPDX-License-Identifier: Apache-2.0
"""Silences: no notification of some conditions for a while, e.g. during maintenance."""

import contextlib
import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepaas.alerts.conditions.fold import Condition
from edgepaas.alerts.spool.alert import clean_text
from edgepaas.alerts.spool.checksummed_json import checksummed_record, read_checksummed
from edgepaas.alerts.spool.folders import SpoolFolders
from edgepaas.files import shapes
from edgepaas.files.records import RecordType, same_fields
from edgepaas.timing.moment import Moment, read_moment, rfc3339

#: A box that is silent for longer was forgotten, not silenced.
LONGEST = 7 * 86400.0

RECORD = RecordType(
    "alert-silences",
    2,
    {
        "silences": shapes.list_of(
            shapes.object_of(
                {
                    **dict.fromkeys(("id", "pattern", "until", "reason"), shapes.text),
                    "seconds": shapes.number,
                    "at": shapes.moment,
                }
            )
        )
    },
    {1: same_fields},
)


@dataclass(frozen=True)
class Silence:
    """*pattern* is a fingerprint or a condition's name, with ``*`` and ``?``; times in seconds."""

    id: str
    pattern: str
    seconds: float
    at: Moment
    reason: str

    def remaining(self, now: Moment) -> float:
        """Return for how long it holds; by a clock that runs since boot, where it can."""
        passed = now.seconds_since(self.at)
        # Unknown: the clock was set back over a reboot. A notification too many is better.
        return 0.0 if passed is None else max(0.0, self.seconds - passed)

    def covers(self, condition: Condition) -> bool:
        """Whether it is about *condition*."""
        return any(
            fnmatch.fnmatchcase(text, self.pattern)
            for text in (condition.fingerprint, condition.name)
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as a file keeps it."""
        return {
            "id": self.id,
            "pattern": self.pattern,
            "until": rfc3339(self.at.wall + self.seconds),
            "reason": self.reason,
            "seconds": self.seconds,
            "at": self.at.as_dict(),
        }


def read_silences(folders: SpoolFolders, now: Moment) -> list[Silence]:
    """Return the silences that hold; a file that is not understood is set aside."""
    try:
        entries = RECORD.fields_of(read_checksummed(_file(folders)))["silences"]
        found = [
            Silence(
                entry["id"],
                entry["pattern"],
                min(entry["seconds"], LONGEST),
                read_moment(entry["at"]),
                entry["reason"],
            )
            for entry in entries
        ]
    except OSError:
        return []
    except ValueError:  # Damaged, another version, or a moment that is none
        with contextlib.suppress(OSError):
            folders.set_corrupt(_file(folders))
        return []
    return [silence for silence in found if silence.remaining(now) > 0]


def add_silence(
    folders: SpoolFolders, pattern: str, seconds: float, reason: str, now: Moment
) -> Silence:
    """Silence what *pattern* matches for *seconds*; raises OSError."""
    silence = Silence(os.urandom(3).hex(), pattern, seconds, now, clean_text(reason, 200))
    _write(folders, [*read_silences(folders, now), silence])
    return silence


def end_silences(folders: SpoolFolders, text: str, now: Moment) -> int:
    """End the silences whose id or pattern is *text*, all for ``*``; returns how many."""
    present = read_silences(folders, now)
    kept = [s for s in present if text not in ("*", s.id, s.pattern)]
    if len(kept) != len(present):
        _write(folders, kept)
    return len(present) - len(kept)


def silence_of(condition: Condition, silences: list[Silence], now: Moment) -> float:
    """Return for how many seconds *condition* is silenced; 0.0: it is not."""
    return max((s.remaining(now) for s in silences if s.covers(condition)), default=0.0)


def _write(folders: SpoolFolders, silences: list[Silence]) -> None:
    if silences:
        fields = {"silences": [s.as_dict() for s in silences]}
        folders.put(_file(folders), checksummed_record(RECORD, fields))
    else:
        with contextlib.suppress(FileNotFoundError):
            folders.remove(_file(folders))


def _file(folders: SpoolFolders) -> Path:
    return folders.root / "silences.json"
