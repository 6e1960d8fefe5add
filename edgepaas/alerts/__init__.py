# SPDX-License-Identifier: Apache-2.0
"""Raising an alert, and resolving one whose cause is gone.

What is accepted lies in the spool, a folder of files (:mod:`edgepaas.alerts.spool.accept`),
until ``edgepaas alerts deliver`` has delivered it to an operator. Importing this costs next to
nothing, since every stage of the boot chain does.
"""

import logging
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from edgepaas.alerts.status import AlertCounts
    from edgepaas.files.paths import Paths

Severity = Literal["info", "warning", "critical"]

__all__ = ["Severity", "counts", "raise_alert", "resolve_alert"]

logger = logging.getLogger("edgepaas.alerts")

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}


def raise_alert(
    message: str,
    *,
    severity: Severity = "warning",
    fingerprint: str = "",
    origin: str = "edgepaas",
    event: bool = False,
) -> None:
    """Notify an operator: *message* says what happened, since when, and what to do.

    Alerts of one cause share a *fingerprint*; within ALERT_WINDOW they are one with a
    count. *origin* names the unit or part that raises it. A warning or a critical one with
    a fingerprint is a condition that holds until :func:`resolve_alert`. An *event*, as is
    any alert of severity info or without a fingerprint, is over once it was delivered.
    Never raises: an alert that cannot be kept is in the log, which says why.

    The platform's own alerts are raised through :mod:`edgepaas.alerts.catalogue`.
    """
    logger.log(
        _LEVELS.get(severity, logging.WARNING),
        "ALERT %s: %s (fingerprint %s)",
        origin,
        message,
        fingerprint or "none",
    )
    try:
        from edgepaas.alerts.spool.stand_in import accept_anywhere
        from edgepaas.files.paths import find_paths

        accept_anywhere(
            find_paths(),
            lambda spool: spool.accept(
                message, severity=severity, fingerprint=fingerprint, origin=origin, event=event
            ),
        )
    except Exception as error:  # noqa: BLE001 - what calls for help must not fail of it
        logger.error("the alert above could not be stored and is only in this log: %s", error)


def resolve_alert(message: str, *, fingerprint: str, origin: str = "edgepaas") -> None:
    """End what was raised under *fingerprint*; *message* says how things are now.

    Nothing happens where nothing is raised under it, which costs a look into two folders.
    Never raises.
    """
    try:
        from edgepaas.alerts.spool.accept import Spool
        from edgepaas.alerts.spool.stand_in import accept_anywhere, stand_in
        from edgepaas.files.paths import find_paths

        paths = find_paths()
        if not any(Spool(one).is_raised(fingerprint) for one in (paths, stand_in(paths))):
            return
        logger.info("RESOLVED %s: %s (fingerprint %s)", origin, message, fingerprint)
        accept_anywhere(
            paths,
            lambda spool: spool.accept(
                message, severity="info", fingerprint=fingerprint, origin=origin, resolved=True
            ),
        )
    except Exception as error:  # noqa: BLE001 - as above
        logger.error("that %s is resolved is in the log alone: %s", fingerprint, error)


def counts(paths: "Paths") -> "AlertCounts":
    """Return how many alerts are open, wait for delivery, or cannot be delivered."""
    from edgepaas.alerts.status import read_counts

    return read_counts(paths)
