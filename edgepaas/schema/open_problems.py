# SPDX-License-Identifier: Apache-2.0
"""What the schema stage could not do though the box serves, until a run of it could.

Imports nothing heavy: the service asks it at its start.
"""

import contextlib

from edgepaas.alerts import raise_alert
from edgepaas.files.atomic import remove_durably, write_atomic
from edgepaas.files.paths import Paths

#: In run/.
_NAME = "capture-trouble"


def note_trouble(paths: Paths, message: str, *, fingerprint: str) -> None:
    """Tell a human that the box serves and something is not as it should be."""
    raise_alert(message, severity="critical", fingerprint=fingerprint, origin="schema")
    with contextlib.suppress(OSError):  # the alert has been raised; the disk may be what fails
        write_atomic(paths.runtime / _NAME, f"{message}\n")


def forget_trouble(paths: Paths) -> None:
    """All is as it should be."""
    remove_durably(paths.runtime / _NAME)


def trouble(paths: Paths) -> str:
    """Return what the last run of the stage could not do; empty: nothing."""
    try:
        return " ".join((paths.runtime / _NAME).read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        return ""
