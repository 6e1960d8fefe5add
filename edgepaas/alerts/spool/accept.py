# SPDX-License-Identifier: Apache-2.0
"""Accepting an alert: written whole, synced, renamed into ``new/``, folder synced.

Standard library only, and no more of it than it takes: every stage of the boot chain may
raise an alert, and so may a box that is nearly out of order.
"""

import contextlib
import os

from edgepaas.alerts.spool.alert import (
    RECORD,
    Alert,
    Severity,
    clean_text,
    clean_word,
    clock_trusted,
    condition_name,
)
from edgepaas.alerts.spool.checksummed_json import checksummed_record
from edgepaas.alerts.spool.spool_paths import SpoolPaths
from edgepaas.errors import EdgePaaSError
from edgepaas.timing.moment import Moment, current_moment

#: A writer looks at the quota once in so many alerts.
_QUOTA_EVERY = 16


class NotSpooled(EdgePaaSError):
    """The alert could not be kept; the message gives the reason."""


class Spool(SpoolPaths):
    """The alert spool of a box."""

    def accept(
        self,
        message: str,
        *,
        severity: Severity = "warning",
        fingerprint: str = "",
        origin: str = "edgepaas",
        resolved: bool = False,
        event: bool = False,
        alert_id: str = "",
        now: Moment | None = None,
    ) -> Alert:
        """Keep an alert durably and return it; raises NotSpooled.

        *resolved*: what was raised under *fingerprint* is over. *event*: it is over by itself.
        """
        now = now or current_moment()
        text = clean_text(_redacted(message)) or "(no message)"
        fingerprint, origin = clean_word(_redacted(fingerprint)), clean_word(origin) or "edgepaas"
        try:
            alert = Alert(
                id=alert_id or os.urandom(8).hex(),
                sequence=self._next_sequence(now.boot_id),
                condition=condition_name(fingerprint, origin, text),
                named=bool(fingerprint),
                resolved=resolved,
                event=event,
                severity=severity,
                fingerprint=fingerprint,
                message=text,
                origin=origin,
                box=os.uname().nodename,
                at=now,
                clock_trusted=clock_trusted(now),
            )
            self._put(alert)
        except OSError as error:
            raise NotSpooled(
                f"the alert cannot be kept in {self.folders.root} ({error.strerror or error}): "
                "look at its owner, its mount and the room on its disk; it is in the log alone"
            ) from error
        if alert.sequence % _QUOTA_EVERY == 0:
            self._keep_quota()
        return alert

    def is_raised(self, fingerprint: str) -> bool:
        """Whether anything is raised under *fingerprint*, or was accepted and not looked at."""
        # new/ is read first: what is taken out of it meanwhile is in the condition's file.
        waiting = self.waiting_names()
        if not waiting and self.folders.is_without_conditions():
            return False  # the usual case, in which nothing has to be hashed
        condition = condition_name(clean_word(_redacted(fingerprint)), "", "")
        if any(name.condition == condition for name in waiting):
            return True
        try:
            from edgepaas.alerts.spool.checksummed_json import (
                Damaged,
                read_checksummed,
            )

            found = read_checksummed(self.condition_file(condition))
            return str(found.get("state")) == "raised"
        except FileNotFoundError:
            return False
        except (Damaged, OSError):
            return True  # it cannot be known: raised once too often is better than never

    def _next_sequence(self, boot_id: str) -> int:
        """Return the next number. It orders; the random id is what makes a name unique."""
        with self.writers_lock() as descriptor:
            if descriptor is None:
                return self._highest_waiting() + 1
            text, _, boot = os.pread(descriptor, 80, 0).decode("ascii", "replace").partition(" ")
            number = int(text) if text.isdigit() and len(text) <= 20 else 0
            if boot.strip() != boot_id:
                # Never synced, so a power cut may have set it back behind what waits.
                number = max(number, self._highest_waiting())
            number = (number + 1) % 10**18
            with contextlib.suppress(OSError):  # an alert without its number is better than none
                os.pwrite(descriptor, f"{number:020d} {boot_id:<36}\n".encode(), 0)
            return number

    def _highest_waiting(self) -> int:
        names = self.waiting_names()
        return names[-1].sequence if names else 0

    def _put(self, alert: Alert) -> None:
        path, content = (
            self.folders.new / alert.name,
            checksummed_record(RECORD, alert.as_dict()),
        )
        try:
            self.folders.put(path, content)
        except OSError:
            # The file may be renamed already while the sync of its folder failed: remove it, or an
            # alert that its writer took for refused would be delivered.
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def _keep_quota(self) -> None:
        from edgepaas.alerts.spool.quota import keep_quota  # rarely needed

        keep_quota(self)


def _redacted(text: str) -> str:
    from edgepaas.logs.redact import redact

    return redact(text)
