# SPDX-License-Identifier: Apache-2.0
"""The conditions on disk: one file each, written whole, readable with ``cat``."""

import contextlib
import logging
from contextlib import AbstractContextManager

from edgepaas.alerts.conditions.fold import RECORD, Condition, read_condition
from edgepaas.alerts.spool.accept import Spool
from edgepaas.alerts.spool.checksummed_json import Damaged, checksummed_record, read_checksummed
from edgepaas.files.locks import held

logger = logging.getLogger("edgepaas.alerts")

#: An operator's command holds it for a moment, a batch of alerts for a second at most.
_LOCK_PATIENCE = 60.0


class ConditionStore:
    """Reads and writes conditions; one that cannot be written is kept in memory for this run."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        #: Name → condition that the disk would not take.
        self.unwritten: dict[str, Condition] = {}

    def lock(self) -> AbstractContextManager[None]:
        """Keep the deliverer and operators' commands from changing conditions meanwhile."""
        return held(self.spool.conditions_lock, timeout=_LOCK_PATIENCE)

    def names(self) -> list[str]:
        """Return the names of all conditions."""
        found = {path.stem for path in self.spool.folders.conditions.glob("*.json")}
        return sorted(found | self.unwritten.keys())

    def load(self, name: str) -> Condition | None:
        """Return a condition, None when there is none; a damaged file is set aside."""
        if name in self.unwritten:
            return self.unwritten[name]
        path = self.spool.condition_file(name)
        try:
            condition = read_condition(read_checksummed(path))
            if condition.name != name:
                raise Damaged("it is another condition's file")
            return condition
        except FileNotFoundError:
            return None
        except Damaged as error:
            target = self.spool.folders.set_corrupt(path)
            logger.error(
                "the state of condition %s is lost: %s; the damaged file is now %s",
                name,
                error,
                target,
            )
            return None

    def load_all(self) -> list[Condition]:
        """Return every condition that can be read."""
        return [found for name in self.names() if (found := self.load(name)) is not None]

    def save(self, condition: Condition) -> bool:
        """Write a condition durably; False when the disk would not take it."""
        try:
            self.spool.folders.put(
                self.spool.condition_file(condition.name),
                checksummed_record(RECORD, condition.as_dict()),
            )
        except OSError as error:
            # Sent from memory: the disk that is full may be the very thing to notify of.
            if not self.unwritten:
                logger.error("the state of a condition cannot be written: %s", error)
            self.unwritten[condition.name] = condition
            return False
        self.unwritten.pop(condition.name, None)
        return True

    def save_notified(self, condition: Condition) -> None:
        """Write a condition of which an operator was notified, also where the disk is full.

        Its alerts are deleted then, which makes room; else its file is overwritten.
        """
        if self.save(condition):
            return
        for name in self.spool.waiting_names():
            if name.id in condition.folded:
                with contextlib.suppress(OSError):
                    self.spool.file_of(name).unlink()
        if self.save(condition):
            return
        path = self.spool.condition_file(condition.name)
        with contextlib.suppress(OSError):
            self.spool.folders.overwrite(path, checksummed_record(RECORD, condition.as_dict()))
            self.unwritten.pop(condition.name, None)

    def delete(self, condition: Condition) -> None:
        """Delete a condition; raises OSError."""
        from edgepaas.alerts.spool.quota import forget_suppressed

        if condition.evicted[0]:
            forget_suppressed(self.spool, condition.name)
        self.spool.folders.remove(self.spool.condition_file(condition.name))
        self.unwritten.pop(condition.name, None)

    def find(self, text: str) -> list[Condition]:
        """Return the conditions whose name or fingerprint is *text*, or whose name begins so."""
        every = self.load_all()
        exact = [c for c in every if text in (c.name, c.fingerprint)]
        return exact or [c for c in every if c.name.startswith(text)]
