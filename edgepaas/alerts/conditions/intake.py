# SPDX-License-Identifier: Apache-2.0
"""Taking accepted alerts out of ``new/`` into their conditions; each is counted once."""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgepaas.alerts import history
from edgepaas.alerts.catalogue import ALERTS_WITHOUT_ROOM
from edgepaas.alerts.conditions.condition_store import ConditionStore
from edgepaas.alerts.conditions.fold import Condition, fold, fold_evicted
from edgepaas.alerts.spool.alert import Alert, read_alert, read_name
from edgepaas.alerts.spool.checksummed_json import Damaged, read_checksummed
from edgepaas.alerts.spool.quota import OVERFLOW, read_suppressed
from edgepaas.files.atomic import sync_folder
from edgepaas.timing.moment import Moment

logger = logging.getLogger("edgepaas.alerts")

#: Their ids stand in the conditions' files until the next batch.
_BATCH = 500


def fold_waiting(store: ConditionStore, now: Callable[[], Moment], most_conditions: int) -> int:
    """Fold what lies in ``new/`` now into its conditions; returns how many files could not be.

    Damaged and foreign files go to ``corrupt/``. A condition is written before its alerts
    are deleted, and names them; one that the disk does not take keeps its alerts.
    """
    stuck: set[str] = set()
    # What comes meanwhile is the next round's: somebody has to be told in a storm, too.
    waiting = _waiting(store)
    for start in range(0, len(waiting), _BATCH):
        with store.lock():
            stuck |= _take_batch(store, waiting[start : start + _BATCH], now(), most_conditions)
    with store.lock():
        _take_evicted(store, now())
    return len(stuck)


def _waiting(store: ConditionStore) -> list[Path]:
    try:
        return sorted(store.spool.folders.new.iterdir())
    except FileNotFoundError:
        return []


def _take_batch(store: ConditionStore, batch: list[Path], now: Moment, most: int) -> set[str]:
    """Take in one batch; returns the names of the files that have to stay."""
    by_condition: dict[str, list[tuple[Path, Alert]]] = defaultdict(list)
    stuck: set[str] = set()
    for path in batch:
        try:
            _read_into(by_condition, path)
        except FileNotFoundError:
            continue  # evicted meanwhile
        except (Damaged, OSError) as error:
            try:
                target = store.spool.folders.set_corrupt(path)
                logger.error("an alert cannot be read (%s): it is now %s", error, target)
            except OSError as failure:
                logger.error("%s is no alert and cannot be moved away: %s", path, failure)
                stuck.add(path.name)
    known = set(store.names())
    for name, alerts in by_condition.items():
        if name not in known and len(known) >= most:
            name = OVERFLOW  # noqa: PLW2901 - no room for another: counted together
        known.add(name)
        if not _take_condition(store, name, alerts, now):
            stuck |= {path.name for path, _ in alerts}
            continue
        for path, _ in alerts:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.error("%s was taken in and cannot be deleted: %s", path, error)
                stuck.add(path.name)
    # Before the next batch: a file that came back would be counted again.
    try:
        sync_folder(store.spool.folders.new)
    except OSError as error:
        logger.error("the spool's folder cannot be synced: %s", error)
        stuck |= {path.name for path in batch}
    return stuck


def _read_into(groups: dict[str, list[tuple[Path, Alert]]], path: Path) -> None:
    """Read the alert in *path* into its group; raises Damaged, OSError."""
    named = read_name(path.name)
    if named is None:
        raise Damaged("it was not named here")
    alert = read_alert(read_checksummed(path))
    if (alert.id, alert.condition) != (named.id, named.condition):
        raise Damaged("its name is another alert's")
    groups[alert.condition].append((path, alert))


def _take_condition(
    store: ConditionStore, name: str, alerts: list[tuple[Path, Alert]], now: Moment
) -> bool:
    """Fold *alerts* into one condition and write it; False when the disk does not take it."""
    condition = store.load(name)
    seen = condition.folded if condition is not None else frozenset()
    before = condition
    for _, alert in alerts:
        if alert.id in seen:
            continue  # a kill left it after it was counted
        if name != alert.condition:
            alert = replace(alert, condition=name, named=False)  # noqa: PLW2901
        taken = fold(condition, alert)
        if taken is not None:
            _note(store, condition, taken, alert, now)
        condition = taken
    if condition is None:
        return True  # nothing of it was raised, so nothing is over
    condition = replace(condition, folded=frozenset(alert.id for _, alert in alerts))
    if before == condition:
        return True
    return store.save(condition)


def _note(
    store: ConditionStore, before: Condition | None, after: Condition, alert: Alert, now: Moment
) -> None:
    """Put a change of state into the history; repeats are in the counts."""
    if before is not None and (before.state, before.since) == (after.state, after.since):
        return
    values: dict[str, object] = {
        "severity": after.severity,
        "message": alert.message,
        "origin": alert.origin,
        "fingerprint": after.fingerprint,
        "condition": after.name,
        "box": alert.box,
    }
    if after.state == "resolved":
        values["duration_seconds"] = round(alert.at.seconds_since(after.since) or 0.0, 3)
    what = "resolved" if after.state == "resolved" else "raised"
    history.record(store.spool.folders.root, what, alert.at, alert.id, **values)


def _take_evicted(store: ConditionStore, now: Moment) -> None:
    """Add what the quota evicted to its conditions' counts."""
    for item in read_suppressed(store.spool):
        condition = store.load(item.condition)
        if condition is None:
            condition = Condition(
                name=item.condition,
                id=item.epoch,
                fingerprint="",
                origin=ALERTS_WITHOUT_ROOM.origin,
                box="",
                state="event",
                severity=ALERTS_WITHOUT_ROOM.severity,
                message=ALERTS_WITHOUT_ROOM.message(ALERTS_WITHOUT_ROOM.what_happened),
                since=now,
                last=now,
                clock_trusted=None,
            )
        taken = fold_evicted(condition, item.count, item.epoch)
        if taken != condition:
            store.save(taken)
