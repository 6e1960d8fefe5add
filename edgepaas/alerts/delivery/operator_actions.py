# SPDX-License-Identifier: Apache-2.0
"""What an operator does by hand: retry, discard, test."""

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from edgepaas.alerts import history
from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.config import load_config
from edgepaas.alerts.channels.notification import Notification
from edgepaas.alerts.conditions.condition_store import ConditionStore
from edgepaas.alerts.conditions.intake import fold_waiting
from edgepaas.alerts.delivery.dead_notifications import for_retry, keep_dead, read_dead
from edgepaas.alerts.delivery.deliver import Deliverer, record_notification
from edgepaas.alerts.delivery.run import deliver_once
from edgepaas.alerts.spool.accept import Spool
from edgepaas.errors import UsageError
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.timing.moment import current_moment

logger = logging.getLogger("edgepaas.alerts")


@dataclass(frozen=True)
class Retried:
    """What a retry came to; *answers*: what each channel answered last."""

    delivered: int
    waiting: int
    dead: int
    answers: Mapping[str, str]


def retry(paths: Paths) -> Retried:
    """Retry every notification that waits or is dead, pauses aside; raises OSError, LockHeld."""
    delivered = 0
    with held(paths.alerts / "deliver.lock", timeout=60.0):
        deliverer = Deliverer(paths, load_config(paths))
        deliverer.channels.forget_pauses()
        store, folders = deliverer.store, deliverer.spool.folders
        with store.lock():
            for condition in store.load_all():
                if condition.sending is not None:
                    again = replace(condition.sending, not_before=0.0, refused={}, refusals={})
                    store.save(replace(condition, sending=again))
        for path, notification in read_dead(folders) if deliverer.config.channels else ():
            outcome = deliverer.channels.send(for_retry(notification))
            if outcome.kind == "taken":
                record_notification(folders, notification, outcome, current_moment())
                _note_heard(store, notification)
                folders.remove(path)
                delivered += 1
            else:
                keep_dead(folders, notification, {**notification.refused, **outcome.refused})
    report = deliver_once(paths)
    folders = Spool(paths).folders
    states = deliverer.channels.states
    answers = {channel.name: states[channel.name].words for channel in deliverer.config.channels}
    return Retried(delivered + report.delivered, report.waiting, len(read_dead(folders)), answers)


def _note_heard(store: ConditionStore, notification: Notification) -> None:
    """Have the conditions of a dead notification know that a channel took it after all."""
    names = [notification.condition, *(covered.condition for covered in notification.covers)]
    with store.lock():
        for name in filter(None, names):
            condition = store.load(name)
            if condition is None or not condition.notified.missed:
                continue
            same_episode = condition.notified.state == notification.after.state
            unheard = "" if same_episode else condition.notified.unheard
            missed = max(0, condition.notified.missed - notification.new)
            notified = replace(condition.notified, unheard=unheard, missed=missed)
            store.save(replace(condition, notified=notified))


def discard(paths: Paths, names: Iterable[str], *, all_dead: bool = False) -> list[str]:
    """Delete conditions and dead notifications by name or fingerprint; returns which.

    Raises UsageError for a name that nothing has, before anything is deleted; OSError.
    """
    store = ConditionStore(Spool(paths))
    folders, now = store.spool.folders, current_moment()
    fold_waiting(store, current_moment, load_config(paths).files)
    dead = read_dead(folders)
    with store.lock():
        buried = list(dead) if all_dead else []
        conditions = []
        for name in names:
            named = [item for item in dead if item[0].stem == name]
            found = store.find(name)
            if not (named or found):
                raise UsageError(f"there is no alert {name}; 'edgepaas alerts list' lists them")
            buried += named
            conditions += found
        for condition in conditions:
            store.delete(condition)
            identity = f"{condition.id}-{os.urandom(3).hex()}"
            history.record(folders.root, "discarded", now, identity, **condition.described())
        for path, notification in buried:
            folders.remove(path)
            history.record(
                folders.root, "discarded", now, notification.key, message=notification.message
            )
    return [condition.name for condition in conditions] + [path.stem for path, _ in buried]


def try_channels(paths: Paths) -> dict[str, Answer]:
    """Send a test through every channel; returns what each answered, in their order."""
    config, now = load_config(paths), current_moment()
    notification = Notification(
        key=f"test-{os.urandom(8).hex()}",
        what="test",
        severity="info",
        fingerprint="",
        origin="edgepaas alerts test",
        message="this is a test: alerts of this box arrive here",
        since=now.wall,
        last=now.wall,
    )
    return {channel.name: channel.send(notification, config.box) for channel in config.channels}
