# SPDX-License-Identifier: Apache-2.0
"""The spool's quota: evicted alerts are counted, and repeats go before single ones."""

import contextlib
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepaas.alerts.spool.alert import AlertName
from edgepaas.alerts.spool.checksummed_json import checksummed_record, read_checksummed
from edgepaas.alerts.spool.spool_paths import SpoolPaths
from edgepaas.errors import EdgePaaSError
from edgepaas.files import shapes
from edgepaas.files.locks import LockHeld, held
from edgepaas.files.records import RecordType, same_fields

#: What a file takes at most, so that bytes need to be added up only where they might matter.
_LARGEST = 8 * 1024
#: The condition that stands for all of which there was no room to keep anything.
OVERFLOW = "alerts-without-room"
_GOES_FIRST = {"info": 0, "warning": 1, "resolved": 2, "critical": 3}


@dataclass(frozen=True)
class Quota:
    """How many files may wait in ``new/``, and how many bytes they may have."""

    files: int
    size: int


@dataclass(frozen=True)
class Suppressed:
    """How many alerts of one condition were evicted, ever since its count began as *epoch*."""

    condition: str
    count: int
    epoch: str


#: ``suppressed.json``: how many alerts of each condition were evicted, and the files of those
#: whose deletion has begun.
RECORD = RecordType(
    "alerts-suppressed",
    2,
    {
        "conditions": shapes.map_of(
            shapes.object_of({"count": shapes.whole, "epoch": shapes.text})
        ),
        "evicting": shapes.list_of(shapes.text),
    },
    {1: same_fields},
)


def read_quota(spool: SpoolPaths) -> Quota:
    """Return ALERT_SPOOL_FILES and ALERT_SPOOL_SIZE, or their defaults without settings."""
    from edgepaas.files.contract import read_contract
    from edgepaas.settings.table import SETTINGS

    values: dict[str, str] = {}
    with contextlib.suppress(EdgePaaSError):
        values = read_contract(spool.paths.env_contract, written_by="env")

    def number(name: str) -> int:
        text = values.get(name, "")
        return int(text if text.isdigit() else SETTINGS[name].default)

    return Quota(number("ALERT_SPOOL_FILES"), number("ALERT_SPOOL_SIZE"))


def keep_quota(spool: SpoolPaths, quota: Quota | None = None) -> int:
    """Evict what ``new/`` holds beyond the quota, and count it; returns how many went.

    Called by writers, since it matters where no deliverer runs.
    """
    names = spool.waiting_names()
    if len(names) < 10:  # the least that ALERT_SPOOL_FILES can be
        return 0
    quota = quota or read_quota(spool)
    over = len(names) - quota.files
    if len(names) * _LARGEST > quota.size:
        size = sum(_size(spool.file_of(name)) for name in names)
        if size > quota.size:
            over = max(over, len(names) * (size - quota.size) // size + 1)
    if over <= 0:
        return 0
    # Some more at once: the next alert would else have to look through all again.
    victims = choose_victims(names, over + max(1, quota.files // 100))
    with spool.writers_lock() as descriptor, contextlib.suppress(LockHeld):
        if descriptor is not None:
            # What is being taken in is counted there; the deliverer makes room, too.
            with held(spool.conditions_lock, timeout=0.0):
                _evict(spool, victims)
                return len(victims)
    return 0


def choose_victims(names: list[AlertName], wanted: int) -> list[AlertName]:
    """Return *wanted* of *names*: repeats first, then the oldest of the least severe.

    Of each condition its first and its last are kept as long as there is anything else:
    they show since when it holds, and how it is now.
    """
    groups: dict[str, list[AlertName]] = defaultdict(list)
    for name in names:
        groups[name.condition].append(name)
    repeats = [name for group in groups.values() for name in group[1:-1]]
    victims = sorted(repeats, key=lambda name: name.sequence)[:wanted]
    if len(victims) < wanted:
        chosen = {name.id for name in victims}
        rest = [name for name in names if name.id not in chosen]
        rest.sort(key=lambda name: (_GOES_FIRST[name.kind], name.sequence))
        victims += rest[: wanted - len(victims)]
    return victims


def read_suppressed(spool: SpoolPaths) -> list[Suppressed]:
    """Return the counts; each only grows until it is forgotten, so it can be read twice."""
    return [
        Suppressed(condition, entry["count"], entry["epoch"])
        for condition, entry in _read(spool)["conditions"].items()
    ]


def forget_suppressed(spool: SpoolPaths, condition: str) -> None:
    """Begin the count of *condition* anew, before its file is deleted; raises OSError."""
    with spool.writers_lock():
        state = _read(spool)
        if state["conditions"].pop(condition, None) is not None:
            _write(spool, state)


def _evict(spool: SpoolPaths, victims: list[AlertName]) -> None:
    """Count, then delete: one that a kill left in between is deleted later, uncounted."""
    state = _read(spool)
    _finish(spool, state)
    there = [name for name in victims if spool.file_of(name).exists()]
    gone = {name.id for name in there}
    kept = {name.condition for name in spool.waiting_names() if name.id not in gone}
    for name in there:
        if name.kind == "resolved":
            continue
        known = name.condition in kept or spool.condition_file(name.condition).exists()
        # Nothing else is left of it: counted together.
        condition = name.condition if known else OVERFLOW
        entry = state["conditions"].setdefault(
            condition, {"count": 0, "epoch": os.urandom(8).hex()}
        )
        entry["count"] += 1
    state["evicting"] = [spool.file_of(name).name for name in there]
    _write(spool, state)
    _finish(spool, state)


def _finish(spool: SpoolPaths, state: dict[str, Any]) -> None:
    for name in state["evicting"]:
        with contextlib.suppress(FileNotFoundError):
            (spool.folders.new / name).unlink()
    state["evicting"] = []


def _read(spool: SpoolPaths) -> dict[str, Any]:
    try:
        return RECORD.fields_of(read_checksummed(_file(spool)))
    except FileNotFoundError:
        pass
    except (OSError, ValueError):  # Damaged, or another version
        with contextlib.suppress(OSError):
            spool.folders.set_corrupt(_file(spool))
    return {"conditions": {}, "evicting": []}


def _write(spool: SpoolPaths, state: dict[str, Any]) -> None:
    if state["conditions"] or state["evicting"]:
        spool.folders.put(_file(spool), checksummed_record(RECORD, state))
    else:
        spool.folders.remove(_file(spool))


def _file(spool: SpoolPaths) -> Path:
    return spool.folders.root / "suppressed.json"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
