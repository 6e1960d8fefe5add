# SPDX-License-Identifier: Apache-2.0
"""Capture in the SQLite file while it serves: put back where somebody removes it."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from edgepaas.alerts.catalogue import CAPTURE_RESTORED
from edgepaas.database.sqlite.capture_guard import Capture
from edgepaas.outbox import capture
from edgepaas.outbox.layout import read_document

if TYPE_CHECKING:
    from edgepaas.database import Database
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths

logger = logging.getLogger("edgepaas.service")


def guard_capture(database: "Database", contract: "DatabaseContract", paths: "Paths") -> None:
    """Let *database* write nothing that is not captured, where SQLite serves beside a hub.

    Where the schema stage has left no description of the tables, nothing is guarded.
    """
    from edgepaas.database.sqlite.database import EmbeddedDatabase

    if not contract.hub_url or not isinstance(database, EmbeddedDatabase):
        return
    try:
        document = read_document(paths.tables)
    except (OSError, ValueError) as error:
        logger.error("capture is not guarded: %s", error)
        return
    place = f"the file {contract.sqlite_path}"
    database.guard_capture(
        Capture(lambda connection: capture.restore(connection, document), partial(_notify, place))
    )


def _notify(place: str, missing: Sequence[str]) -> None:
    said = f"capture of {place} was put back: {'; '.join(missing)}"
    logger.error("%s", said)
    CAPTURE_RESTORED.raise_alert(said)
