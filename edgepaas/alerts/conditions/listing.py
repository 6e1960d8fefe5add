# SPDX-License-Identifier: Apache-2.0
"""Every condition as it is now, for people and the API; reading changes nothing."""

from typing import Any

from edgepaas.alerts.conditions.fold import Condition, fold, read_condition
from edgepaas.alerts.conditions.silences import read_silences, silence_of
from edgepaas.alerts.spool.alert import read_alert
from edgepaas.alerts.spool.checksummed_json import Damaged, read_checksummed
from edgepaas.alerts.spool.folders import SpoolFolders
from edgepaas.files.paths import Paths
from edgepaas.timing.moment import Moment, current_moment


def list_conditions(paths: Paths, *, everything: bool = False) -> list[dict[str, Any]]:
    """Return the conditions that hold or of which a notification waits, the worst first.

    *everything*: also those that are over and delivered, as long as they are remembered.
    Each is what its file holds, its ``not_told`` under the API's word ``undelivered`` and its
    ``told`` as ``delivered``, and ``silenced_for`` in seconds. What waits in ``new/`` is
    counted in. Damaged files are left out; the deliverer sets them aside.
    """
    folders, now = SpoolFolders(paths.alerts), current_moment()
    conditions = _conditions(folders)
    _fold_waiting(folders, conditions)
    silences = read_silences(folders, now)
    found = [
        {**_entry(condition), "silenced_for": round(silence_of(condition, silences, now), 3)}
        for condition in conditions.values()
        if everything or _matters(condition)
    ]
    order = {"critical": 0, "warning": 1, "info": 2}
    found.sort(key=lambda entry: (order[entry["severity"]], entry["since"]["wall"]))
    return found


def summary(folders: SpoolFolders, conditions: list[Condition], now: Moment) -> dict[str, int]:
    """Return the numbers that :mod:`edgepaas.alerts.status` shows."""
    silences = read_silences(folders, now)
    silent = {c.name for c in conditions if silence_of(c, silences, now)}
    holding = [c for c in conditions if c.state == "raised"]
    return {
        "open": len(holding),
        "critical": sum(c.severity == "critical" for c in holding),
        "waiting": sum(c.new > 0 or c.sending is not None for c in conditions),
        "silenced": len(silent),
    }


def _entry(condition: Condition) -> dict[str, Any]:
    entry = condition.as_dict()
    entry["undelivered"], entry["delivered"] = entry.pop("not_told"), entry.pop("told")
    return entry


def _matters(condition: Condition) -> bool:
    return condition.state == "raised" or condition.new > 0 or condition.sending is not None


def _conditions(folders: SpoolFolders) -> dict[str, Condition]:
    found = {}
    for path in folders.conditions.glob("*.json"):
        try:
            condition = read_condition(read_checksummed(path))
        except (Damaged, OSError):
            continue
        found[condition.name] = condition
    return found


def _fold_waiting(folders: SpoolFolders, conditions: dict[str, Condition]) -> None:
    for path in sorted(folders.new.glob("*.json")):
        try:
            alert = read_alert(read_checksummed(path))
        except (Damaged, OSError):
            continue
        present = conditions.get(alert.condition)
        if present is not None and alert.id in present.folded:
            continue
        taken = fold(present, alert)
        if taken is not None:
            conditions[alert.condition] = taken
