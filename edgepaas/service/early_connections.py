# SPDX-License-Identifier: Apache-2.0
"""Connections to PostgreSQL that are begun before the service has imported what uses them.

A login takes four round trips, six with TLS: over a slow link longer than all imports. So it
begins first. Where a process is forked to be the next service while PostgreSQL is still
being handed back to, it begins even before the stages have run; what they decide tells whether
the connections are of use.
"""

import logging
from typing import TYPE_CHECKING

from edgepaas.errors import EdgePaaSError

if TYPE_CHECKING:
    from edgepaas.database.postgresql.connector import Connector
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.marks.keeper import MarkKeeper
    from edgepaas.settings import Settings

logger = logging.getLogger("edgepaas.service")

#: The gate pings on one, and looks for the schema on the other, the first one of the pool.
COUNT = 2
#: Where writes wait for the service: one for its watch, one for a worker of the application, and
#: two for the first writes.
COUNT_OF_HAND_BACK = 4

#: What was begun in this process for the URL and the settings (the contract's bytes) that were
#: found then: at most one, until the service takes it.
_begun: "dict[tuple[str, bytes], Connector]" = {}


def begin_for_hand_back(paths: "Paths") -> bool:
    """Begin them where a rehearsal has just passed; whether it has.

    For a process that waits to be the next service.
    """
    from edgepaas.database.postgresql.connector import service_connector
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.decision.link_record import recorded_link
    from edgepaas.decision.rehearsal_record import fresh_rehearsal
    from edgepaas.pgdriver.sessions import identify
    from edgepaas.settings import Settings
    from edgepaas.settings.urls import split_url

    try:
        url = DatabaseContract.read(paths.db_contract).hub_url
        if not url or fresh_rehearsal(paths, url) is None:
            return False
        found = paths.env_contract.read_bytes()
        settings = Settings.read(paths.env_contract)
        identify(paths, "serve")
        connector = service_connector(url, settings, recorded_link(paths, split_url(url)))
    except (OSError, EdgePaaSError) as error:  # the stages say what is wrong
        logger.debug("no connection is begun: %s", error)
        return False
    keeper = _keeper(paths, settings)
    connector.begin_early(COUNT_OF_HAND_BACK, at_once=True, keeper=keeper)
    _begun[url, found] = connector
    return True


def _keeper(paths: "Paths", settings: "Settings") -> "MarkKeeper | None":
    """Return what keeps the marks, by the tables that the schema stage found last."""
    from edgepaas.database.opening import new_keeper
    from edgepaas.outbox.layout import forwarded_layouts, read_document
    from edgepaas.service.hub_capture import capture_on_hub

    try:
        forwarded = [layout.table for layout in forwarded_layouts(read_document(paths.tables))]
    except (OSError, ValueError, EdgePaaSError) as error:
        logger.debug("no marks are compared early: %s", error)
        return None
    keeper = new_keeper(paths, forwarded)
    if keeper is not None and settings.flag("JOURNAL"):
        capture_on_hub(keeper, paths, may_mend=settings.flag("RUN_MIGRATIONS"))
    return keeper


def begin(contract: "DatabaseContract", settings: "Settings", paths: "Paths") -> "Connector | None":
    """Return what connects to the contract's PostgreSQL, with connections under way.

    None where SQLite serves.
    """
    from edgepaas.database import box_connector
    from edgepaas.decision.rehearsal_record import fresh_rehearsal

    connector = None
    if contract.database_url and not contract.sqlite_active:
        connector = _take(contract.database_url, paths)
        if connector is None:
            connector = box_connector(contract, settings, paths)
            # Whether it is handed back to a moment ago: writes wait.
            soon = fresh_rehearsal(paths, contract.database_url) is not None
            connector.begin_early(COUNT_OF_HAND_BACK if soon else COUNT, at_once=soon)
    while _begun:
        _begun.popitem()[1].close_early()
    return connector


def _take(url: str, paths: "Paths") -> "Connector | None":
    """Return what was begun for *url*, unless the settings have changed since."""
    if not _begun:
        return None
    try:
        found = paths.env_contract.read_bytes()
    except OSError:
        return None
    return _begun.pop((url, found), None)
