# SPDX-License-Identifier: Apache-2.0
"""Capture on PostgreSQL while it serves: what the service's connections ask for, and keep."""

import logging
from typing import TYPE_CHECKING

from edgepaas.outbox.hub_capture.keeping import JournaledChanges
from edgepaas.outbox.hub_capture.rider import HubCapture
from edgepaas.outbox.hub_capture.upkeep import CaptureUpkeep
from edgepaas.outbox.layout import forwarded_layouts, read_document

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths
    from edgepaas.marks.keeper import MarkKeeper

logger = logging.getLogger("edgepaas.service")


def capture_on_hub(keeper: "MarkKeeper", paths: "Paths", *, may_mend: bool) -> None:
    """Have what the connections of *keeper* write captured, for as long as it has a journal.

    Before the first of them is attached. *may_mend*: RUN_MIGRATIONS. Where the schema stage has
    left no description of the tables, nothing is captured.
    """
    if keeper.companion is not None:
        return
    try:
        layouts = {one.table: one for one in forwarded_layouts(read_document(paths.tables))}
    except (OSError, ValueError) as error:
        logger.error("what PostgreSQL stores is not captured: %s", error)
        return
    if not layouts:
        return
    changes = JournaledChanges(lambda: keeper.journal)
    capture = HubCapture(layouts, changes, suspect=keeper.notice)
    keeper.companion = CaptureUpkeep(capture, may_mend=may_mend)
