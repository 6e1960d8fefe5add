"""Raising an alert: the one function through which a failure reaches a human."""

import logging
from typing import Literal

Severity = Literal["info", "warning", "critical"]

logger = logging.getLogger("edgepaas.alerts")

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}


def raise_alert(
    message: str,
    *,
    severity: Severity = "warning",
    fingerprint: str = "",
    origin: str = "edgepaas",
) -> None:
    """Tell a human: *message* says what happened, since when, and what to do.

    In this release an alert reaches the journal and the log file; alerts of one
    cause share a *fingerprint*, *origin* names the unit or part that raises it.
    """
    logger.log(
        _LEVELS[severity],
        "ALERT %s: %s (fingerprint %s)",
        origin,
        message,
        fingerprint or "none",
    )
