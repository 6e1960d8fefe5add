# SPDX-License-Identifier: Apache-2.0
"""Connections to PostgreSQL that are begun before the service has imported what uses them.

A login takes four round trips, six with TLS: over a slow link longer than all imports. So it
begins first.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgepaas.database.postgresql.connector import Connector
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

#: The gate pings on one, and looks for the schema on the other, the first one of the pool.
COUNT = 2
#: Where writes wait for the service: one for its watch, one for a worker of the application, and
#: two for the first writes.
COUNT_OF_HAND_BACK = 4


def begin(contract: "DatabaseContract", settings: "Settings", paths: "Paths") -> "Connector | None":
    """Return what connects to the contract's PostgreSQL, with connections under way.

    None where SQLite serves.
    """
    from edgepaas.database import box_connector
    from edgepaas.decision.rehearsal_record import fresh_rehearsal

    if not contract.database_url or contract.sqlite_active:
        return None
    connector = box_connector(contract, settings, paths)
    # Whether it is handed back to a moment ago: writes wait.
    soon = fresh_rehearsal(paths, contract.database_url) is not None
    connector.begin_early(COUNT_OF_HAND_BACK if soon else COUNT, at_once=soon)
    return connector
