# SPDX-License-Identifier: Apache-2.0
"""What the schema stage could not do though the box serves, until a run of it could.

Imports nothing heavy: the service asks it at its start.
"""

import contextlib

from edgepaas.alerts.catalogue_entry import CatalogueEntry
from edgepaas.files import shapes
from edgepaas.files.atomic import remove_durably
from edgepaas.files.paths import Paths
from edgepaas.files.records import NotThisRecord, RecordType

#: In run/.
_NAME = "capture-trouble"
RECORD = RecordType("schema-problem", 2, {"message": shapes.text})


def note_trouble(paths: Paths, message: str, entry: CatalogueEntry) -> None:
    """Raise *entry*'s alert: the box serves, and something is not as it should be."""
    entry.raise_alert(message)
    with contextlib.suppress(OSError):  # the alert has been raised; the disk may be what fails
        RECORD.write(paths.runtime / _NAME, {"message": entry.message(message)})


def forget_trouble(paths: Paths) -> None:
    """All is as it should be."""
    remove_durably(paths.runtime / _NAME)


def trouble(paths: Paths) -> str:
    """Return what the last run of the stage could not do; empty: nothing."""
    try:
        found = RECORD.read(paths.runtime / _NAME)
    except (OSError, NotThisRecord) as error:
        return f"what the schema stage could not do cannot be read: {error}"
    return "" if found is None else " ".join(found["message"].split())
