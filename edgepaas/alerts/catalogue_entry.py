# SPDX-License-Identifier: Apache-2.0
"""One entry of the alert catalogue, and raising or resolving an alert through it."""

from typing import Literal, NamedTuple

from edgepaas.alerts import Severity, raise_alert, resolve_alert

Kind = Literal["event", "condition"]

#: Stands for the subject in a pattern, such as the name of a setting.
_SUBJECT = "*"


class CatalogueEntry(NamedTuple):
    """An alert that the platform can raise.

    *pattern* is its fingerprint; a ``*`` at its end stands for a subject, e.g. a setting's
    name. *check* names the check that finds out whether a condition still holds; an event has
    none: an operator is notified once, and nothing holds afterwards. *severity* is the usual
    one; *also* lists the others with which it may be raised. A ``*`` in *origin*, the part
    of the platform that raises it, stands for the subject, too.
    """

    pattern: str
    origin: str
    severity: Severity
    what_happened: str
    what_to_do: str
    check: str = ""
    also: tuple[Severity, ...] = ()

    @property
    def kind(self) -> Kind:
        """Whether it is over by itself, or holds until its check says otherwise."""
        return "condition" if self.check else "event"

    @property
    def prefix(self) -> str:
        """What each of its fingerprints begins with: all of it where there is no subject."""
        return self.pattern.removesuffix(_SUBJECT)

    def fingerprint(self, subject: str = "") -> str:
        """Return the fingerprint, of *subject* where the pattern has one.

        Raises ValueError for a subject without a place in the pattern, and the reverse.
        """
        if self.pattern.endswith(_SUBJECT) != bool(subject):
            raise ValueError(f"{self.pattern!r} and the subject {subject!r} do not fit together")
        return self.prefix + subject

    def covers(self, fingerprint: str) -> bool:
        """Whether *fingerprint* is this entry's."""
        if self.pattern.endswith(_SUBJECT):
            return fingerprint.startswith(self.prefix) and fingerprint != self.prefix
        return fingerprint == self.pattern

    def subject(self, fingerprint: str) -> str:
        """Return the subject in *fingerprint*, which the entry covers; empty without one."""
        return fingerprint.removeprefix(self.prefix)

    def message(self, happened: str, *, what_to_do: str = "") -> str:
        """Return the alert's text: what *happened*, then what to do (by default the entry's)."""
        ended = happened if happened.endswith((".", "!", "?")) else f"{happened}."
        return f"{ended} {what_to_do or self.what_to_do}"

    def raise_alert(
        self,
        happened: str,
        *,
        subject: str = "",
        severity: Severity | None = None,
        what_to_do: str = "",
    ) -> None:
        """Notify an operator of what *happened*; *what_to_do* replaces the entry's advice.

        Raises ValueError for a severity that the entry does not have, and for a subject as
        :meth:`fingerprint` does; nothing else.
        """
        if severity not in (None, self.severity, *self.also):
            raise ValueError(f"{self.pattern} is never {severity}")
        raise_alert(
            self.message(happened, what_to_do=what_to_do),
            severity=severity or self.severity,
            fingerprint=self.fingerprint(subject),
            origin=self.origin.replace(_SUBJECT, subject),
            event=self.kind == "event",
        )

    def resolve_alert(self, holds_now: str, *, subject: str = "") -> None:
        """End what was raised; *holds_now* says how things are. Nothing happens if nothing was."""
        resolve_alert(
            holds_now,
            fingerprint=self.fingerprint(subject),
            origin=self.origin.replace(_SUBJECT, subject),
        )
