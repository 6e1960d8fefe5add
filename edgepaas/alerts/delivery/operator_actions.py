# SPDX-License-Identifier: Apache-2.0
"""What an operator does by hand: try again, forget, test."""

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from edgepaas.alerts import history
from edgepaas.alerts.channels.answers import Answer
from edgepaas.alerts.channels.channels import ask_channel
from edgepaas.alerts.channels.config import load_config
from edgepaas.alerts.channels.notice import Notice
from edgepaas.alerts.conditions.condition_store import Book
from edgepaas.alerts.conditions.intake import take_in
from edgepaas.alerts.delivery.dead_notices import bury, read_dead, revived
from edgepaas.alerts.delivery.deliver import Deliverer, note_notice
from edgepaas.alerts.delivery.run import deliver_once
from edgepaas.alerts.spool.accept import Spool
from edgepaas.errors import UsageError
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.timing.moment import current_moment

logger = logging.getLogger("edgepaas.alerts")


@dataclass(frozen=True)
class Retried:
    """What trying again came to; *said*: by channel, what it said last."""

    told: int
    waiting: int
    dead: int
    said: Mapping[str, str]


def retry(paths: Paths) -> Retried:
    """Try every notice that waits or is dead, whatever pause it is in; raises OSError, LockHeld."""
    told = 0
    with held(paths.alerts / "deliver.lock", timeout=60.0):
        deliverer = Deliverer(paths, load_config(paths))
        deliverer.channels.forget_pauses()
        book, store = deliverer.book, deliverer.spool.store
        with book.lock():
            for condition in book.load_all():
                if condition.sending is not None:
                    again = replace(condition.sending, not_before=0.0, refused={})
                    book.save(replace(condition, sending=again))
        for path, notice in read_dead(store) if deliverer.config.channels else ():
            outcome = deliverer.channels.send(revived(notice))
            if outcome.kind == "taken":
                note_notice(store, notice, outcome, current_moment())
                store.remove(path)
                told += 1
            else:
                bury(store, notice, {**notice.refused, **outcome.refused})
    report = deliver_once(paths)
    store = Spool(paths).store
    said = {name: state.words for name, state in deliverer.channels.states.items()
            if name in deliverer.config.channels}  # fmt: skip
    return Retried(told + report.told, report.waiting, len(read_dead(store)), said)


def discard(paths: Paths, names: Iterable[str], *, all_dead: bool = False) -> list[str]:
    """Forget conditions and dead notices by name or fingerprint; returns what was forgotten.

    Raises UsageError for a name that nothing has, before anything is forgotten; OSError.
    """
    book = Book(Spool(paths))
    store, now = book.spool.store, current_moment()
    take_in(book, current_moment, load_config(paths).files)
    dead = read_dead(store)
    with book.lock():
        graves = list(dead) if all_dead else []
        conditions = []
        for name in names:
            named = [item for item in dead if item[0].stem == name]
            found = book.find(name)
            if not (named or found):
                raise UsageError(f"there is no alert {name}; 'edgepaas alerts list' lists them")
            graves += named
            conditions += found
        for condition in conditions:
            book.delete(condition)
            identity = f"{condition.id}-{os.urandom(3).hex()}"
            history.note(store.root, "discarded", now, identity, **condition.described())
        for path, notice in graves:
            store.remove(path)
            history.note(store.root, "discarded", now, notice.key, message=notice.message)
    return [condition.name for condition in conditions] + [path.stem for path, _ in graves]


def try_channels(paths: Paths) -> dict[str, Answer]:
    """Send a test through every channel; returns what each answered, in their order."""
    config, now = load_config(paths), current_moment()
    notice = Notice(
        key=f"test-{os.urandom(8).hex()}",
        what="test",
        severity="info",
        fingerprint="",
        origin="edgepaas alerts test",
        message="this is a test: alerts of this box arrive here",
        since=now.wall,
        last=now.wall,
    )
    return {name: ask_channel(config, name, notice) for name in config.channels}
